// The backward pass for small windows: backward.cuh says what is computed, small.cuh how.
// With P = exp(logit - logsumexp), products of grad_output and value start from -delta, so that
// D = P (grad_output . value - delta) is a product of two results.
//
// The gradient of the bias: in patches with centered windows, each of a thread's numbers is always
// for the same entry, so their sums stay in registers from patch to patch. Other patches add theirs
// to a table of their warp. A block writes one table for its tile, and a last kernel adds up these
// tables, always in the same order.
//
// Shared memory of a block: keys and values (by queries) or queries and grad_output (by keys) of
// its region; bias pairs and rows of -infinity as in the forward; by queries the tables of the
// bias' gradient, one a warp; by keys logsumexp and delta of the region.
#define NATTEN_OPS_THREAD_INDEX_ANEW
#include "backward.cuh"
#include "small.cuh"

namespace natten_ops::cuda {

namespace small {

namespace {

// With 6 warps in each of two blocks a thread has 168 registers.
constexpr int kBackwardWarps = 6;

template <typename V>
constexpr int kTableNumbers = (2 * V::kSize - 1) * (2 * V::kSize - 1);

// By queries, the tables come before the region.
template <typename V>
constexpr int kTableBytes = (V::kWarps * kTableNumbers<V> * int(sizeof(float)) + 15) / 16 * 16;
template <typename V>
int64_t query_bytes(const Tiling& tiling) {
  return kSharedBytes<V> + kTableBytes<V> + region_bytes<V>(tiling);
}
template <typename V>
int64_t key_bytes(const Tiling& tiling) {
  return kSharedBytes<V> + region_bytes<V>(tiling);
}

// ---- By queries ----

// The entries of a warp's table of the bias that the gradients of a patch's logits belong to.
struct Entries {
  int first[2];    // of the thread's tokens: the entry at row 0, column 2 c of the products
  uint32_t rows;   // as in Start
  bool has[2][2];  // token e exists, and column 2 c + f is a partner's

  template <typename V>
  static NATTEN_OPS_DEVICE Entries at(const Own<V>& own, int begin_row, int begin_column,
                                      uint32_t rows, const Span (&of_columns)[2]) {
    constexpr int kSize = V::kSize;
    Entries entries;
    const int column = begin_column + thread_index() % 4 * 2;
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      entries.first[e] =
          (begin_row - own.row + kSize - 1) * (2 * kSize - 1) + column - own.columns[e] + kSize - 1;
      NATTEN_OPS_UNROLL
      for (int f = 0; f < 2; ++f) {
        entries.has[e][f] =
            own.exists[e] && column + f >= of_columns[e].first && column + f <= of_columns[e].last;
      }
    }
    entries.rows = rows;
    return entries;
  }
  // Adds the numbers of row i of the products. No two threads have the same entry for one of their
  // two tokens; they take turns with the tokens.
  template <int kSize>
  NATTEN_OPS_DEVICE void add(int i, const float (&numbers)[4], float* table) const {
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      NATTEN_OPS_UNROLL
      for (int f = 0; f < 2; ++f) {
        if (has[e][f] && rows >> i & 1) {
          table[first[e] + i * (2 * kSize - 1) + f] += numbers[2 * e + f];
        }
      }
      warp_barrier();
    }
  }
};

// Sums of the gradients of logits, in the order of products' results. Of the rows of products that
// are kSize apart, one is in the window of a thread's token. So kSize rows of numbers are enough.
template <int kSize>
using BiasSums = float[kSize][4];

// Adds a warp's sums over patches with centered windows to its table; `memory` has room for
// kSize * 128 numbers.
template <int kSize>
NATTEN_OPS_DEVICE void add_to_table(const BiasSums<kSize>& sums, float* memory, float* table) {
  const int lane = thread_index() % 32;
  NATTEN_OPS_UNROLL
  for (int i = 0; i < kSize; ++i) {
    Four four;
    NATTEN_OPS_UNROLL
    for (int j = 0; j < 4; ++j) four.numbers[j] = sums[i][j];
    *reinterpret_cast<Four*>(memory + 128 * i + 4 * lane) = four;
  }
  warp_barrier();
  for (int key = lane; key < kSize * kSize; key += 32) {
    const int down = key / kSize, across = key % kSize;
    float sum = 0;
    NATTEN_OPS_UNROLL
    for (int g = 0; g < 8; ++g) {
      NATTEN_OPS_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int c = (across + e) / 2, f = (across + e) % 2;
        sum += memory[128 * ((down + g) % kSize) + 4 * (4 * g + c) + 2 * e + f];
      }
    }
    table[(down + kSize / 2) * (2 * kSize - 1) + across + kSize / 2] += sum;
  }
}

// The gradients of a patch's queries; adds those of the logits to `bias_sums`. Returns whether all
// are finite.
template <typename V>
NATTEN_OPS_DEVICE bool visit_keys(const by_queries::Parameters& parameters, const Own<V>& own,
                                  const Start& start, const Partners<V>& keys_and_values,
                                  BiasSums<V::kSize>& bias_sums) {
  using namespace by_queries;
  using Element = typename V::Element;
  const Common& common = parameters.common;
  const int stride = row_stride<V>(common);
  const int g = thread_index() % 32 / 4, c = thread_index() % 4;
  const auto read = [&](int tensor) {
    const Plane<const Element> plane = {parameters.tensors[tensor], tensor};
    return Cursor<V, const Element>(common, plane, own).read(common, plane.tensor, own);
  };
  const Channels outputs = read(kOutput);
  uint32_t queries[2][4], grad_outputs[2][4];
  as_patch<V>(common, read(kQuery), common.signs, queries);
  as_patch<V>(common, read(kGradOutput), 0, grad_outputs);
  const Plane<const float> logsumexps = {parameters.tensors[kLogsumexp], kLogsumexp};
  float logsumexp[2], delta[2];
  NATTEN_OPS_UNROLL
  for (int e = 0; e < 2; ++e) {
    logsumexp[e] = *logsumexps.at(own.row, own.columns[e]) * kLog2e;
    // The diagonal of a product holds the product of each token with itself.
    float products[4] = {};
    const uint32_t (&words)[4] = outputs.tokens[e][0].words;
    multiply_add<Element>(products, grad_outputs[0], words[0], words[1]);
    multiply_add<Element>(products, grad_outputs[1], words[2], words[3]);
    delta[e] = shuffle(g % 2 ? products[2 * e + 1] : products[2 * e], 4 * g + g / 2);
  }
  if (c == 0 ? own.exists[0] : c == 1 && own.exists[1]) {
    *Plane<float>{parameters.tensors[kDelta], kDelta}.at(
        own.row, c ? own.columns[1] : own.columns[0]) = c ? delta[1] : delta[0];
  }

  float grad_queries[4][4];
  clear(grad_queries);
  NATTEN_OPS_UNROLL
  for (int i = 0; i < V::kRows; i += 2) {
    float grads[2][4];
    NATTEN_OPS_UNROLL
    for (int h = 0; h < 2; ++h) {
      float logits[4];
      start.load(i + h, logits);
      keys_and_values.template multiply<0>(queries, (i + h) * stride, logits);
      float grad_weights[4] = {-delta[0], -delta[0], -delta[1], -delta[1]};
      keys_and_values.template multiply<1>(grad_outputs, (i + h) * stride, grad_weights);
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 4; ++j) {
        grads[h][j] = exp2_of(logits[j] * common.log2_scale - logsumexp[j / 2]) * grad_weights[j];
      }
      if (start.rows >> (i + h) & 1) {
        NATTEN_OPS_UNROLL
        for (int j = 0; j < 4; ++j) bias_sums[(i + h) % V::kSize][j] += grads[h][j];
      }
    }
    uint32_t weights[4];
    as_weights<Element>(grads[0], grads[1], weights);
    keys_and_values.template accumulate<0>(weights, i * stride, grad_queries);
  }
  const float factors[2] = {static_cast<float>(common.problem.scale),
                            static_cast<float>(common.problem.scale)};
  const Plane<Element> plane = {parameters.tensors[kGradQuery], kGradQuery};
  return store_tokens<V>(common, plane.tensor, Cursor<V, Element>(common, plane, own), own,
                         grad_queries, factors);
}

template <typename V>
NATTEN_OPS_KERNEL(V::kThreads, kBlocks)
small_query_kernel(const by_queries::Parameters parameters) {
  using namespace by_queries;
  using Element = typename V::Element;
  constexpr int kSize = V::kSize;
  const Common& common = parameters.common;
  const int stride = row_stride<V>(common);
  const int warp = thread_index() / 32, region_rows = common.tiling.region[0];
  float* tables = reinterpret_cast<float*>(shared_memory() + kSharedBytes<V>);
  float* table = tables + warp * kTableNumbers<V>;
  Element* region = reinterpret_cast<Element*>(shared_memory() + kSharedBytes<V> + kTableBytes<V>);
  for (int i = thread_index() % 32; i < kTableNumbers<V>; i += 32) table[i] = 0;
  Bands bands = {0, 0};
  {
    uint32_t slot = block_index();
    const int head = split_head(common, slot);
    Tile tile;
    // If there is no tile, the block writes zeros for the gradient of the bias.
    if (find_tile(common, head, slot, tile)) {
      const Span rows = partners<V, true>(common, tile, 0);
      const Span columns = partners<V, true>(common, tile, 1);
      find_planes(common, parameters.tensors, tile);
      block_barrier();
      copy_rows<V>(common, rows, columns, {parameters.tensors[kKey], kKey}, 0, region_rows, region);
      copy_rows<V>(common, rows, columns, {parameters.tensors[kValue], kValue}, 0, region_rows,
                   region + row_elements<V>(common));
      copy_async_commit();
      const int column = tile.begin[1] + 2 * warp;
      bands = Bands::at<kSize, true>(tile, column);
      for (int band = 0; (bands.centered | bands.others) >> band; ++band) {
        const Own<V> own(tile, tile.begin[0] + 8 * band, column);
        for (const int tensor : {kQuery, kGradOutput, kOutput}) {
          const Plane<const Element> plane = {parameters.tensors[tensor], tensor};
          Cursor<V, const Element>(common, plane, own).prefetch_tokens(plane.tensor, own);
        }
      }
      make_centered_pair<V, true>(common, bias_of_head(common, kTensors));
      if (bands.others) {
        const int own_columns[2] = {column, column + 1 < tile.end[1] ? column + 1 : column};
        const Span of_columns[2] = {partners<true>(kSize, own_columns[0], tile.count[1]),
                                    partners<true>(kSize, own_columns[1], tile.count[1])};
        make_pair<V, true>(common, bias_of_head(common, kTensors), own_columns, of_columns,
                           of_columns[0].first, thread_index() % 32, 32, own_pair<V>());
      }
      copy_async_wait<0>();
      block_barrier();
    }
  }

  // First the patches at borders. The parts share nothing that would stay in registers.
  if (bands.others) {
    uint32_t slot = block_index() ^ common.nothing;
    const int head = split_head(common, slot);
    Tile tile;
    find_tile(common, head, slot, tile);
    const int first_row = partners<V, true>(common, tile, 0).first;
    const int first_column = partners<V, true>(common, tile, 1).first;
    const int column = tile.begin[1] + 2 * warp;
    for (int band = 0; bands.others >> band; ++band) {
      if ((bands.others >> band & 1) == 0) continue;
      const int row = tile.begin[0] + 8 * band;
      const Own<V> own(tile, row, column);
      const Span of_columns[2] = {partners<true>(kSize, own.columns[0], tile.count[1]),
                                  partners<true>(kSize, own.columns[1], tile.count[1])};
      const int begin = partners<true>(kSize, row, tile.count[0]).first;
      const Start start = Start::at<V>(own_pair<V>(), own.row, begin,
                                       partners<true>(kSize, own.row, tile.count[0]));
      const Partners<V> keys_and_values(common, region, begin - first_row,
                                        of_columns[0].first - first_column, stride);
      BiasSums<kSize> bias_sums;
      clear(bias_sums);
      const bool finite = visit_keys<V>(parameters, own, start, keys_and_values, bias_sums);
      const Entries entries =
          Entries::at<V>(own, begin, of_columns[0].first, start.rows, of_columns);
      NATTEN_OPS_UNROLL
      for (int i = 0; i < V::kRows; ++i) {
        entries.add<kSize>(i, bias_sums[i % kSize], table);
      }
      repeat_unless(finite, band);
    }
  }

  // Then those with centered windows.
  BiasSums<kSize> bias_sums;
  clear(bias_sums);
  if (bands.centered) {
    uint32_t slot = block_index() ^ common.nothing;
    const int head = split_head(common, slot);
    Tile tile;
    find_tile(common, head, slot, tile);
    const int column = tile.begin[1] + 2 * warp, first_row = tile.begin[0];
    const int region_row =
        first_row - kSize / 2 - partners<true>(kSize, first_row, tile.count[0]).first;
    const int region_column =
        column - kSize / 2 - partners<true>(kSize, tile.begin[1], tile.count[1]).first;
    for (int band = 0; bands.centered >> band; ++band) {
      if ((bands.centered >> band & 1) == 0) continue;
      const Own<V> own(first_row + 8 * band, column);
      const int begin = first_row + 8 * band - kSize / 2;
      const Start start =
          Start::at<V>(centered_pair(), own.row, begin, {own.row - kSize / 2, own.row + kSize / 2});
      const Partners<V> keys_and_values(common, region, region_row + 8 * band, region_column,
                                        stride);
      const bool finite = visit_keys<V>(parameters, own, start, keys_and_values, bias_sums);
      repeat_unless(finite, band);
    }
  }
  const uint32_t again = bands.centered | bands.others ? bands_to_repeat() : 0;
  if (again) {
    repeat_carefully<V>(
        parameters, again, 0,
        reinterpret_cast<const Element*>(shared_memory() + kSharedBytes<V> + kTableBytes<V>));
  }

  if (!parameters.block_sums) return;
  block_barrier();  // the region is no longer needed
  add_to_table<kSize>(bias_sums, reinterpret_cast<float*>(region) + warp * kSize * 128, table);
  block_barrier();
  float* sums = parameters.block_sums + int64_t(block_index()) * kTableNumbers<V>;
  for (int i = thread_index(); i < kTableNumbers<V>; i += V::kThreads) {
    float sum = 0;
    for (int other = 0; other < V::kWarps; ++other) sum += tables[other * kTableNumbers<V> + i];
    const int down = i / (2 * kSize - 1), across = i % (2 * kSize - 1);
    sums[down * common.bias_step[0] + across * common.bias_step[1]] = sum;
  }
}

// ---- By keys ----

// The gradients of a patch's keys and values.
struct KeyGradients {
  float keys[4][4], values[4][4];
};

// Adds the contribution of the queries of V::kRows rows; `numbers` are those of the thread's first
// query in the first row.
template <typename V>
NATTEN_OPS_DEVICE void visit_queries(const Common& common, const Start& start,
                                     const Partners<V>& queries_and_grads, const Two* numbers,
                                     const uint32_t (&keys)[2][4], const uint32_t (&values)[2][4],
                                     KeyGradients& gradients) {
  using Element = typename V::Element;
  const int next = row_stride<V>(common) * int(sizeof(Element)) / int(sizeof(Two));
  const int stride = row_stride<V>(common);
  NATTEN_OPS_UNROLL
  for (int i = 0; i < V::kRows; i += 2) {
    float weights[2][4], grads[2][4];
    NATTEN_OPS_UNROLL
    for (int h = 0; h < 2; ++h) {
      const Two even = numbers[(i + h) * next], odd = numbers[(i + h) * next + 1];
      float logits[4];
      start.load(i + h, logits);
      queries_and_grads.template multiply<0>(keys, (i + h) * stride, logits);
      float grad_weights[4] = {even.numbers[1], odd.numbers[1], even.numbers[1], odd.numbers[1]};
      queries_and_grads.template multiply<1>(values, (i + h) * stride, grad_weights);
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 4; ++j) {
        weights[h][j] =
            exp2_of(logits[j] * common.log2_scale - (j % 2 ? odd.numbers[0] : even.numbers[0]));
        grads[h][j] = weights[h][j] * grad_weights[j];
      }
    }
    uint32_t sixteen[4];
    as_weights<Element>(weights[0], weights[1], sixteen);
    queries_and_grads.template accumulate<1>(sixteen, i * stride, gradients.values);
    as_weights<Element>(grads[0], grads[1], sixteen);
    queries_and_grads.template accumulate<0>(sixteen, i * stride, gradients.keys);
  }
}

// Computes a patch: visit(keys, values, gradients) adds the contribution of its queries. Returns
// whether all gradients are finite.
template <typename V, typename Visit>
NATTEN_OPS_DEVICE bool with_patch(const by_keys::Parameters& parameters, const Own<V>& own,
                                  Visit visit) {
  using namespace by_keys;
  using Element = typename V::Element;
  const Common& common = parameters.common;
  const auto read = [&](int tensor) {
    const Plane<const Element> plane = {parameters.tensors[tensor], tensor};
    return Cursor<V, const Element>(common, plane, own).read(common, plane.tensor, own);
  };
  uint32_t keys[2][4], values[2][4];
  as_patch<V>(common, read(kKey), common.signs, keys);
  as_patch<V>(common, read(kValue), 0, values);
  KeyGradients gradients;
  clear(gradients.keys);
  clear(gradients.values);
  visit(keys, values, gradients);
  const auto store = [&](int tensor, const float (&sums)[4][4], float factor) {
    const Plane<Element> plane = {parameters.tensors[tensor], tensor};
    const float factors[2] = {factor, factor};
    return store_tokens<V>(common, plane.tensor, Cursor<V, Element>(common, plane, own), own, sums,
                           factors);
  };
  const bool values_are_finite = store(kGradValue, gradients.values, 1.0f);
  return store(kGradKey, gradients.keys, static_cast<float>(common.problem.scale)) &&
         values_are_finite;
}

template <typename V>
NATTEN_OPS_KERNEL(V::kThreads, kBlocks)
small_key_kernel(const by_keys::Parameters parameters) {
  using namespace by_keys;
  using Element = typename V::Element;
  constexpr int kSize = V::kSize, kRows = V::kRows;
  const Common& common = parameters.common;
  const int stride = row_stride<V>(common);
  const int region_rows = common.tiling.region[0];
  const int warp = thread_index() / 32, c = thread_index() % 4;
  Element* region = reinterpret_cast<Element*>(shared_memory() + kSharedBytes<V>);
  Bands bands = {0, 0};
  {
    uint32_t slot = block_index();
    const int head = split_head(common, slot);
    Tile tile;
    if (!find_tile(common, head, slot, tile)) return;
    const Span rows = partners<V, false>(common, tile, 0);
    const Span columns = partners<V, false>(common, tile, 1);
    const Tensor(&tensors)[kTensors] = parameters.tensors;
    find_planes(common, tensors, tile);
    block_barrier();
    copy_rows<V>(common, rows, columns, {tensors[kQuery], kQuery}, 0, region_rows, region);
    copy_rows<V>(common, rows, columns, {tensors[kGradOutput], kGradOutput}, 0, region_rows,
                 region + row_elements<V>(common));
    copy_async_commit();
    const int column = tile.begin[1] + 2 * warp;
    for (int row = tile.begin[0]; column < tile.end[1] && row < tile.end[0]; row += 8) {
      const Own<V> own(tile, row, column);
      for (const int tensor : {kKey, kValue}) {
        const Plane<const Element> plane = {tensors[tensor], tensor};
        Cursor<V, const Element>(common, plane, own).prefetch_tokens(plane.tensor, own);
      }
    }
    copy_numbers<V>(parameters, rows, columns, region_rows, region);
    make_centered_pair<V, false>(common, bias_of_head(common, kTensors));
    copy_async_wait<0>();
    block_barrier();
    if (column >= tile.end[1]) return;

    // First the patches with as many queries before as after their keys.
    bands = Bands::at<kSize, false>(tile, column);
    const int first_row = tile.begin[0], region_row = first_row - kSize / 2 - rows.first;
    const int region_column = column - kSize / 2 - columns.first;
    for (int band = 0; bands.centered >> band; ++band) {
      if ((bands.centered >> band & 1) == 0) continue;
      const Own<V> own(first_row + 8 * band, column);
      const int begin = first_row + 8 * band - kSize / 2;
      const Start start =
          Start::at<V>(centered_pair(), own.row, begin, {own.row - kSize / 2, own.row + kSize / 2});
      const Partners<V> queries_and_grads(common, region, region_row + 8 * band, region_column,
                                          stride);
      const Two* numbers =
          numbers_of<V>(common, region, region_row + 8 * band) + region_column + 2 * c;
      const bool finite = with_patch<V>(
          parameters, own, [&](const auto& keys, const auto& values, KeyGradients& gradients) {
            visit_queries<V>(common, start, queries_and_grads, numbers, keys, values, gradients);
          });
      repeat_unless(finite, band);
    }
  }

  // Then the others, which share nothing with them that would stay in registers.
  if (bands.others) {
    uint32_t slot = block_index() ^ common.nothing;
    const int head = split_head(common, slot);
    Tile tile;
    find_tile(common, head, slot, tile);
    const Span rows = partners<V, false>(common, tile, 0);
    const Span columns = partners<V, false>(common, tile, 1);
    const int column = tile.begin[1] + 2 * warp;
    int made = -1;  // the first column of the warp's bias pair
    for (int band = 0; bands.others >> band; ++band) {
      if ((bands.others >> band & 1) == 0) continue;
      const int row = tile.begin[0] + 8 * band;
      const Own<V> own(tile, row, column);
      const Span of_columns[2] = {partners<false>(kSize, own.columns[0], tile.count[1]),
                                  partners<false>(kSize, own.columns[1], tile.count[1])};
      const Span of_band = partners<V, false>(common, tile, 0, row, 8);
      const Span of_row = partners<false>(kSize, own.row, tile.count[0]);
      const auto visit = [&](const auto& keys, const auto& values, KeyGradients& gradients) {
        // Mostly once, but at borders more queries may have a key in their windows. At the end of
        // the region, products begin before `done`; queries that were counted already are left out.
        for (int done = of_columns[0].first; done <= of_columns[1].last; done += 8) {
          const int last_begin = columns.first + kPitch - 8;
          const int begin = done < last_begin ? done : last_begin;
          if (made != done) {
            Span left[2] = {of_columns[0], of_columns[1]};
            NATTEN_OPS_UNROLL
            for (int e = 0; e < 2; ++e) {
              if (left[e].first < done) left[e].first = done;
            }
            warp_barrier();
            make_pair<V, false>(common, bias_of_head(common, kTensors), own.columns, left, begin,
                                thread_index() % 32, 32, own_pair<V>());
            warp_barrier();
            made = done;
          }
          for (int done_rows = of_band.first; done_rows <= of_band.last; done_rows += kRows) {
            const int last_begin_row = rows.first + region_rows - kRows;
            const int begin_row = done_rows < last_begin_row ? done_rows : last_begin_row;
            const Span left = {
                of_row.first > done_rows ? of_row.first : done_rows,
                of_row.last < begin_row + kRows ? of_row.last : begin_row + kRows - 1};
            const Start start = Start::at<V>(own_pair<V>(), own.row, begin_row, left);
            const Partners<V> queries_and_grads(common, region, begin_row - rows.first,
                                                begin - columns.first, stride);
            const Two* numbers = numbers_of<V>(common, region, begin_row - rows.first) + begin -
                                 columns.first + 2 * c;
            visit_queries<V>(common, start, queries_and_grads, numbers, keys, values, gradients);
          }
        }
      };
      const bool finite = with_patch<V>(parameters, own, visit);
      repeat_unless(finite, band);
    }
  }
  const uint32_t again = bands_to_repeat();
  if (again) repeat_carefully<V>(parameters, again, region);
}

// ---- Launches ----

// The two kernels' tilings. Sums of the bias' gradient, a table for each tile, take about a
// hundredth of the inputs' memory.
struct Tilings {
  Tiling by_queries, by_keys;
};

template <typename F>
auto with_backward_variants(const Problem& problem, Dtype dtype, F f) {
  return with_variant<kBackwardWarps, false>(problem, dtype, [&](auto variant) {
    using V = decltype(variant);
    return f(variant, Variant<typename V::Element, V::kSize, V::kRows, kBackwardWarps, true>());
  });
}

template <typename QueryVariant, typename KeyVariant>
bool find_tilings(const Problem& problem, Tilings& tilings) {
  return find_tiling<QueryVariant, true>(problem, query_bytes<QueryVariant>, tilings.by_queries) &&
         find_tiling<KeyVariant, false>(problem, key_bytes<KeyVariant>, tilings.by_keys);
}

}  // namespace

}  // namespace small

bool small_covers(const BackwardCall& call) {
  if (!are_for_tensor_cores(call) || !small::covers(call.problem)) return false;
  const Problem problem = Orientation(call.problem).problem;
  return small::with_backward_variants(
      problem, call.dtype, [&](auto query_variant, auto key_variant) {
        small::Tilings tilings;
        return small::find_tilings<decltype(query_variant), decltype(key_variant)>(problem,
                                                                                   tilings);
      });
}

int64_t small_backward_scratch(const BackwardCall& call) {
  const Problem problem = Orientation(call.problem).problem;
  return small::with_backward_variants(
      problem, call.dtype, [&](auto query_variant, auto key_variant) {
        small::Tilings tilings;
        small::find_tilings<decltype(query_variant), decltype(key_variant)>(problem, tilings);
        return scratch_bytes(call, tilings.by_queries);
      });
}

const char* small_backward(const BackwardCall& call, void* stream) {
  const Orientation orientation(call.problem);
  const Problem& problem = orientation.problem;
  return small::with_backward_variants(
      problem, call.dtype, [&](auto query_variant, auto key_variant) {
        using QueryVariant = decltype(query_variant);
        using KeyVariant = decltype(key_variant);
        small::Tilings tilings;
        small::find_tilings<QueryVariant, KeyVariant>(problem, tilings);
        return launch_backward(
            call, orientation, tilings.by_queries, tilings.by_keys,
            [&](const by_queries::Parameters& parameters, int64_t blocks) {
              return launch(small::small_query_kernel<QueryVariant>, blocks, QueryVariant::kThreads,
                            small::query_bytes<QueryVariant>(tilings.by_queries), stream,
                            parameters);
            },
            [&](const by_keys::Parameters& parameters, int64_t blocks) {
              return launch(small::small_key_kernel<KeyVariant>, blocks, KeyVariant::kThreads,
                            small::key_bytes<KeyVariant>(tilings.by_keys), stream, parameters);
            },
            stream);
      });
}

}  // namespace natten_ops::cuda
