#include "plan.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "../window.h"

namespace natten_ops::cpu {

namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// Of a token, so many bytes are read together.
constexpr int64_t kBundleBytes = 256;

int64_t element_bytes(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}

// Bytes of a thread's buffers for one column.
struct ColumnBytes {
  int64_t head;    // for each head of a bundle
  int64_t shared;  // by them

  int64_t of(int64_t heads) const { return heads * head + shared; }
};

// A block of columns is so narrow that a thread's row buffers stay in its cache, but so wide that
// the columns beyond its borders, which neighboring blocks read too, are few. A chunk has about
// chunk_rows rows, so that the rows beyond its borders are few, but there are enough chunks for all
// threads if there are several. A bundle has fewer heads if windows are wide.
Plan make_plan(const Problem& problem, Dtype dtype, bool is_backward, int64_t cache_bytes,
               ColumnBytes bytes, int64_t slab_rows, int64_t chunk_rows, int64_t threads) {
  Plan plan{};
  const int64_t columns = problem.length[1];
  const int64_t border = (problem.kernel_size[1] - 1) * problem.dilation[1];
  const int64_t token_bytes = std::max<int64_t>(problem.head_dim * element_bytes(dtype), 1);
  int64_t heads = std::max<int64_t>(kBundleBytes / token_bytes, 1);
  const auto needed_bytes = [&] { return bytes.of(heads) * std::min(columns, 3 * border); };
  while (heads > 1 && needed_bytes() > 2 * cache_bytes) heads = divide_up(heads, 2);
  plan.bundles = std::max<int64_t>(divide_up(problem.heads, heads), 1);
  plan.bundle_heads = divide_up(problem.heads, plan.bundles);

  const int64_t fitting = cache_bytes / std::max<int64_t>(bytes.of(plan.bundle_heads), 1) - border;
  const int64_t most = std::max<int64_t>({fitting, 2 * border, 32});
  // Of these widths down to half of it, the one for which the fewest lanes are computed. If there
  // are several, blocks should be of one size, so that threads have the same work.
  const int64_t halo = is_backward ? border : 0;
  const auto lanes = [&](int64_t width) { return round_up(width + halo, kMaxLanes / 2); };
  const int64_t widest = std::max<int64_t>(std::min(most, columns), 1);
  int64_t fewest = INT64_MAX, blocks = 0;
  for (int64_t width = widest; width >= divide_up(widest, 2); --width) {
    const int64_t others = (columns - 1) / width;
    const int64_t all = others * lanes(width) + lanes(columns - others * width);
    if (all < fewest || (all == fewest && others + 1 == blocks)) {
      fewest = all;
      blocks = others + 1;
      plan.block_columns = width;
    }
  }
  plan.column_blocks = divide_up(columns, plan.block_columns);

  const int64_t rows = divide_up(problem.length[0], problem.dilation[0]);
  plan.slab_rows = slab_rows;
  plan.slabs = divide_up(rows, slab_rows);
  const int64_t others =
      std::max<int64_t>(problem.batch * problem.dilation[0] * plan.column_blocks * plan.bundles, 1);
  // Enough units for threads of unequal speed, but no small chunks: the backward computes the rows
  // beyond their borders, too.
  int64_t needed = threads > 1 ? divide_up(4 * threads, others) : 1;
  if (is_backward) {
    const int64_t large = rows / (4 * problem.kernel_size[0]);
    needed = std::min(needed, std::max(divide_up(threads, others), large));
  }
  plan.chunks = std::min(plan.slabs, std::max(divide_up(rows, chunk_rows), needed));
  return plan;
}

// Low and high offset of the keys in the window of the query in `column`.
void key_offsets(const Problem& problem, int64_t column, int64_t& low, int64_t& high) {
  const AxisToken token = axis_token(column, problem.length[1], problem.dilation[1]);
  low = window_start(token, problem.kernel_size[1]) - token.position;
  high = low + problem.kernel_size[1] - 1;
}

// Low and high offset of the queries that attend to the key in `column`.
void query_offsets(const Problem& problem, int64_t column, int64_t& low, int64_t& high) {
  const AxisToken token = axis_token(column, problem.length[1], problem.dilation[1]);
  const QueryRange range = attending_queries(token, problem.kernel_size[1]);
  low = range.first - token.position;
  high = range.last - token.position;
}

// `aligned` is a column of keys that is aligned in row buffers, before all others.
ColumnTile make_tile(const Problem& problem, int64_t begin, int64_t end, int64_t lanes,
                     const VectorSizes& vectors, int64_t aligned) {
  ColumnTile tile{};
  tile.begin = begin;
  tile.count = std::min(lanes, end - begin);
  tile.lanes = lanes;
  int64_t keys[kMaxLanes];  // the lanes' first
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t column = begin + (lane < tile.count ? lane : 0);
    int64_t high;
    key_offsets(problem, column, tile.low[lane], high);
    keys[lane] = column + tile.low[lane] * problem.dilation[1];
  }
  const auto [low, high] = std::minmax_element(tile.low, tile.low + lanes);
  tile.lowest = *low;
  tile.highest = *high;
  const auto [first, last] = std::minmax_element(keys, keys + lanes);
  const int64_t before = *first - (*first - aligned) % lanes;
  const bool is_near =
      *last + (problem.kernel_size[1] - 1) * problem.dilation[1] - before < 2 * lanes;
  if (is_near && (tile.is_border() ? vectors.shuffle : vectors.shuffle_fast)) {
    tile.access = Access::kShuffled;
    tile.key = before;
  } else {
    const bool is_shuffled = vectors.shuffle && *last - *first < 2 * lanes;
    tile.access = !tile.is_border() ? Access::kPlain
                  : is_shuffled     ? Access::kShuffledStep
                                    : Access::kGathered;
    tile.key = *first;
  }
  for (int64_t lane = 0; lane < lanes; ++lane) {
    tile.source[lane] = static_cast<int32_t>(keys[lane] - tile.key);
  }
  return tile;
}

ColumnPartners keys_of(const Problem& problem, int64_t query) {
  int64_t low, high;
  key_offsets(problem, query, low, high);
  const int64_t dilation = problem.dilation[1];
  const Segment keys{query + low * dilation, problem.kernel_size[1], query, 0, 0, 1};
  return {{keys}, 1, query + high * dilation};
}

ColumnPartners queries_of(const Problem& problem, int64_t key) {
  const int64_t dilation = problem.dilation[1];
  const AxisToken token = axis_token(key, problem.length[1], dilation);
  const QueryRange range = attending_queries(token, problem.kernel_size[1]);
  ColumnPartners queries{};
  queries.last = range.last * dilation + token.residue;
  for (int64_t position = range.first; position <= range.last; ++position) {
    const int64_t column = position * dilation + token.residue;
    const int64_t entry = token.position - window_start({token.residue, position, token.count},
                                                        problem.kernel_size[1]);
    // Windows stand still at borders and move elsewhere.
    Segment* segment = queries.count ? &queries.segments[queries.count - 1] : nullptr;
    if (segment && segment->count == 1) segment->entry_step = entry - segment->entry;
    if (segment && segment->entry + segment->count * segment->entry_step == entry) {
      ++segment->count;
    } else {
      queries.segments[queries.count++] = {column, 1, column, entry, dilation, 0};
    }
  }
  return queries;
}

constexpr int64_t kLine = 16;  // floats of a cache line

// Vectors may reach two vectors beyond the columns, and one may begin before them. An odd number of
// cache lines, so that a column's channels spread over all of the cache's sets.
int64_t pitch_of(int64_t columns) { return (divide_up(columns + 2 * kLine, kLine) | 1) * kLine; }

// The last column before `first` that is aligned with `column`, which is so.
int64_t aligned_before(int64_t first, int64_t column) {
  return column - round_up(std::max<int64_t>(column - first, 0), kLine) - kLine;
}

}  // namespace

Columns::Columns(const Problem& problem, const Plan& plan, int64_t column_block, bool backward,
                 const VectorSizes& vectors) {
  begin = column_block * plan.block_columns;
  end = std::min(begin + plan.block_columns, problem.length[1]);
  query_begin = begin;
  query_end = end;
  const int64_t dilation = problem.dilation[1];
  int64_t low, high;
  for (int64_t column = begin; backward && column < end; ++column) {
    query_offsets(problem, column, low, high);
    query_begin = std::min(query_begin, column + low * dilation);
    query_end = std::max(query_end, column + high * dilation + 1);
  }
  key_begin = query_begin;
  key_end = query_end;
  for (int64_t column = query_begin; column < query_end; ++column) {
    key_offsets(problem, column, low, high);
    key_begin = std::min(key_begin, column + low * dilation);
    key_end = std::max(key_end, column + high * dilation + 1);
  }
  key_origin_ = aligned_before(key_begin, query_begin - problem.kernel_size[1] / 2 * dilation);
  query_origin_ = query_begin - kLine;
  // Wide tiles, and a narrow one for few columns.
  for (int64_t first = query_begin; first < query_end; first += tiles_.back().count) {
    const int64_t lanes = query_end - first <= vectors.narrow ? vectors.narrow : vectors.wide;
    tiles_.push_back(make_tile(problem, first, query_end, lanes, vectors, key_origin_));
  }
  keys_.reserve(query_end - query_begin);
  queries_.reserve(backward ? end - begin : 0);
  for (int64_t query = query_begin; query < query_end; ++query) {
    keys_.push_back(natten_ops::cpu::keys_of(problem, query));
  }
  for (int64_t key = begin; backward && key < end; ++key) {
    queries_.push_back(natten_ops::cpu::queries_of(problem, key));
  }
}

TileList Columns::tiles() const { return {tiles_.data(), static_cast<int64_t>(tiles_.size())}; }

int64_t Columns::key_pitch() const { return pitch_of(key_end - key_origin_); }
int64_t Columns::query_pitch() const { return pitch_of(query_end - query_origin_); }

Plan make_forward_plan(const Problem& problem, Dtype dtype, int64_t number_bytes, int64_t threads) {
  // Rows of keys and values, queries and outputs.
  const int64_t rows = std::min<int64_t>(problem.length[0], 4);
  const int64_t all_rows = 2 * (problem.kernel_size[0] + rows - 1) + 2 * rows;
  const ColumnBytes bytes{number_bytes * all_rows * problem.head_dim, 0};
  return make_plan(problem, dtype, false, 1 << 19, bytes, 4, 64, threads);
}

Plan make_backward_plan(const Problem& problem, Dtype dtype, int64_t threads) {
  const auto [k0, k1] = problem.kernel_size;
  const int64_t rows = std::min<int64_t>(problem.length[0], 4);
  const int64_t all_rows = 5 * (k0 + rows - 1) + 5 * rows;
  const ColumnBytes bytes{4 * all_rows * problem.head_dim, 4 * 2 * rows * k0 * k1};
  // The sums of the bias' gradient should be small beside the data of a slab.
  const int64_t row_size = 3 * problem.length[1] * problem.head_dim;
  const int64_t slab_rows = std::max<int64_t>(divide_up(40 * problem.bias_size(), row_size), 8);
  return make_plan(problem, dtype, true, 3 << 18, bytes, round_up(slab_rows, 4), 128, threads);
}

Run make_run(const Problem& problem, const Plan& plan, int64_t unit) {
  Run run;
  const int64_t bundle = unit % plan.bundles;
  run.first_head = bundle * problem.heads / plan.bundles;
  run.heads = (bundle + 1) * problem.heads / plan.bundles - run.first_head;
  unit /= plan.bundles;
  const int64_t chunk = unit % plan.chunks;
  unit /= plan.chunks;
  run.column_block = unit % plan.column_blocks;
  unit /= plan.column_blocks;
  run.residue = unit % problem.dilation[0];
  run.batch = unit / problem.dilation[0];
  run.count = axis_token(run.residue, problem.length[0], problem.dilation[0]).count;
  const int64_t first_slab = chunk * plan.slabs / plan.chunks;
  const int64_t end_slab = (chunk + 1) * plan.slabs / plan.chunks;
  run.begin_position = std::min(first_slab * plan.slab_rows, run.count);
  run.end_position = std::min(end_slab * plan.slab_rows, run.count);
  const int64_t sequence =
      ((run.batch * problem.heads + run.first_head) * plan.column_blocks + run.column_block) *
          problem.dilation[0] +
      run.residue;
  run.first_slab = sequence * plan.slabs + first_slab;
  run.end_slab = sequence * plan.slabs + end_slab;
  return run;
}

namespace {

struct Scratch {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory;
  int64_t size = 0;

  void release() {
    memory.reset();
    size = 0;
  }
};

thread_local Scratch scratch;

#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kKeptBytes = 0;  // AddressSanitizer then sees accesses beyond what was asked for
#else
constexpr int64_t kKeptBytes = 8 << 20;
#endif

}  // namespace

void* thread_scratch(int64_t bytes) {
  if (scratch.size < bytes || scratch.size > std::max(bytes, kKeptBytes)) {
    scratch.release();
    scratch.memory.reset(std::aligned_alloc(64, round_up(bytes, 64)));
    if (!scratch.memory) throw std::bad_alloc();
    scratch.size = bytes;
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(scratch.memory.get(), scratch.size);  // the last call's gaps
#endif
  return scratch.memory.get();
}

void release_large_thread_scratch() {
#if defined(__SANITIZE_ADDRESS__)
  if (scratch.memory) ASAN_UNPOISON_MEMORY_REGION(scratch.memory.get(), scratch.size);
#endif
  if (scratch.size > kKeptBytes) scratch.release();
}

}  // namespace natten_ops::cpu
