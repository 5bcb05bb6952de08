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

// A block of columns is so narrow that a thread's row buffers stay in its cache, but so wide that
// the columns beyond its borders, which neighboring blocks read too, are few. A chunk has about
// chunk_rows rows, so that the rows beyond its borders are few, but there are enough chunks for all
// threads if there are several.
Plan make_plan(const Problem& problem, int64_t cache_bytes, int64_t bytes_per_column,
               int64_t slab_rows, int64_t chunk_rows, int64_t threads) {
  Plan plan;
  const int64_t border = (problem.kernel_size[1] - 1) * problem.dilation[1];
  const int64_t fitting = cache_bytes / bytes_per_column - border;
  const int64_t most = std::max<int64_t>({fitting, 8 * border, 64});
  const int64_t columns = problem.length[1];
  plan.column_blocks = divide_up(columns, most);
  plan.block_columns = round_up(divide_up(columns, plan.column_blocks), 16);
  plan.column_blocks = divide_up(columns, plan.block_columns);

  const int64_t rows = divide_up(problem.length[0], problem.dilation[0]);
  plan.slab_rows = slab_rows;
  plan.slabs = divide_up(rows, slab_rows);
  const int64_t others = std::max<int64_t>(
      problem.batch * problem.dilation[0] * plan.column_blocks * problem.heads, 1);
  const int64_t needed = threads > 1 ? divide_up(4 * threads, others) : 1;
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

using Offsets = void (*)(const Problem&, int64_t, int64_t&, int64_t&);

ColumnTile make_tile(const Problem& problem, Offsets offsets, int64_t begin, int64_t end,
                     int64_t lanes, bool owned) {
  ColumnTile tile{};
  tile.begin = begin;
  tile.count = std::min(lanes, end - begin);
  tile.lanes = lanes;
  tile.owned = owned;
  bool uniform = tile.count == lanes;
  int64_t highest = 0;  // offset
  for (int64_t lane = 0; lane < kMaxLanes; ++lane) {
    if (lane >= tile.count) {
      tile.low[lane] = 0;
      tile.high[lane] = -1;
      continue;
    }
    offsets(problem, begin + lane, tile.low[lane], tile.high[lane]);
    uniform = uniform && tile.low[lane] == tile.low[0] && tile.high[lane] == tile.high[0];
    tile.lowest = lane == 0 ? tile.low[0] : std::min(tile.lowest, tile.low[lane]);
    tile.highest = lane == 0 ? tile.low[0] : std::max(tile.highest, tile.low[lane]);
    highest = lane == 0 ? tile.high[0] : std::max(highest, tile.high[lane]);
  }
  tile.access = uniform ? Access::kPlain : Access::kMasked;
  tile.partner = begin + tile.lowest * problem.dilation[1];
  tile.steps = highest - tile.lowest + 1;
  return tile;
}

// Turns a masked tile of queries into a permuted one; false if its partners are too far apart.
bool permute(const Problem& problem, ColumnTile& tile) {
  int64_t columns[kMaxLanes];
  for (int64_t lane = 0; lane < tile.count; ++lane) {
    columns[lane] = tile.begin + lane + tile.low[lane] * problem.dilation[1];
  }
  const int64_t first = *std::min_element(columns, columns + tile.count);
  const int64_t last = *std::max_element(columns, columns + tile.count);
  if (last - first >= 2 * tile.lanes) return false;
  tile.access = last - first < tile.lanes ? Access::kPermuted : Access::kPermuted2;
  tile.partner = first;
  tile.steps = problem.kernel_size[1];
  for (int64_t lane = 0; lane < tile.count; ++lane) {
    tile.source[lane] = static_cast<int32_t>(columns[lane] - first);
  }
  return true;
}

// Multiply-adds of a tile, as if every lane had all steps.
int64_t cost(const ColumnTile& tile) { return tile.lanes * tile.steps; }

// Divides the columns [begin, end) into tiles, with make(first column, lanes): wide tiles, and
// narrow ones if that costs less.
template <typename Make>
void add_tiles(int64_t begin, int64_t end, const VectorSizes& vectors, Make make,
               std::vector<ColumnTile>& tiles) {
  while (begin < end) {
    ColumnTile tile = make(begin, vectors.wide);
    if (vectors.narrow < vectors.wide && tile.access != Access::kPlain) {
      const ColumnTile first = make(begin, vectors.narrow);
      int64_t narrow_cost = cost(first);
      if (begin + vectors.narrow < end) {
        narrow_cost += cost(make(begin + vectors.narrow, vectors.narrow));
      }
      if (narrow_cost < cost(tile)) tile = first;
    }
    tiles.push_back(tile);
    begin += tile.count;
  }
}

void add_query_tiles(const Problem& problem, int64_t begin, int64_t end, const VectorSizes& vectors,
                     bool owned, std::vector<ColumnTile>& tiles) {
  const auto make = [&](int64_t first, int64_t lanes) {
    ColumnTile tile = make_tile(problem, key_offsets, first, end, lanes, owned);
    if (vectors.permutes && tile.access == Access::kMasked) permute(problem, tile);
    return tile;
  };
  add_tiles(begin, end, vectors, make, tiles);
}

void add_key_tiles(const Problem& problem, int64_t begin, int64_t end, const VectorSizes& vectors,
                   std::vector<ColumnTile>& tiles) {
  const auto make = [&](int64_t first, int64_t lanes) {
    return make_tile(problem, query_offsets, first, end, lanes, true);
  };
  add_tiles(begin, end, vectors, make, tiles);
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
  add_query_tiles(problem, query_begin, begin, vectors, false, query_tiles_);
  add_query_tiles(problem, begin, end, vectors, true, query_tiles_);
  add_query_tiles(problem, end, query_end, vectors, false, query_tiles_);
  if (backward) add_key_tiles(problem, begin, end, vectors, key_tiles_);
  max_steps = 1;
  for (const auto* tiles : {&query_tiles_, &key_tiles_}) {
    for (const ColumnTile& tile : *tiles) max_steps = std::max(max_steps, tile.steps);
  }
}

TileList Columns::query_tiles() const {
  return {query_tiles_.data(), static_cast<int64_t>(query_tiles_.size())};
}

TileList Columns::key_tiles() const {
  return {key_tiles_.data(), static_cast<int64_t>(key_tiles_.size())};
}

int64_t Columns::pitch() const {
  // An odd number of cache lines, so that a column's channels spread over all of the cache's sets.
  constexpr int64_t kLine = 16;
  return (divide_up(key_end - key_begin + 2 * kPadding, kLine) | 1) * kLine;
}

Plan make_forward_plan(const Problem& problem, int64_t threads) {
  const int64_t rows = problem.kernel_size[0] + 3;
  return make_plan(problem, 1 << 18, 4 * 2 * rows * problem.head_dim, 4, 64, threads);
}

Plan make_backward_plan(const Problem& problem, int64_t threads) {
  const auto [k0, k1] = problem.kernel_size;
  const int64_t rows = 4 * (k0 + 3) + 2 * 4;
  const int64_t bytes_per_column = 4 * (rows * problem.head_dim + 2 * 4 * k0 * (2 * k1 - 1));
  // The sums of the bias' gradient should be small beside the data of a slab.
  const int64_t row_size = 3 * problem.length[1] * problem.head_dim;
  const int64_t slab_rows = std::max<int64_t>(divide_up(40 * problem.bias_size(), row_size), 8);
  return make_plan(problem, 3 << 19, bytes_per_column, round_up(slab_rows, 4), 128, threads);
}

Run make_run(const Problem& problem, const Plan& plan, int64_t unit) {
  Run run;
  run.head = unit % problem.heads;
  unit /= problem.heads;
  run.column_block = unit % plan.column_blocks;
  unit /= plan.column_blocks;
  const int64_t chunk = unit % plan.chunks;
  unit /= plan.chunks;
  run.residue = unit % problem.dilation[0];
  run.batch = unit / problem.dilation[0];
  run.count = axis_token(run.residue, problem.length[0], problem.dilation[0]).count;
  const int64_t first_slab = chunk * plan.slabs / plan.chunks;
  const int64_t end_slab = (chunk + 1) * plan.slabs / plan.chunks;
  run.begin_position = std::min(first_slab * plan.slab_rows, run.count);
  run.end_position = std::min(end_slab * plan.slab_rows, run.count);
  const int64_t sequence =
      ((run.batch * problem.heads + run.head) * plan.column_blocks + run.column_block) *
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
