// The backward pass for small windows: backward.cuh says what is computed, small.cuh how.
// With P = exp(logit - logsumexp), products of grad_output and value start from -delta, so that
// D = P (grad_output . value - delta) is a product of two results.
//
// The gradient of the bias: in bands with centered rows, each of a thread's numbers is always for
// the same entry, so their sums stay in registers from band to band. They are added to a table of
// their warp after the last of these bands, and after each other band. A block writes one table for
// all of its strips, and a last kernel adds up these tables, always in the same order.
//
// Shared memory of a block: bias pairs and rows of -infinity as in the forward; by queries the
// tables of the bias' gradient, one a warp; the ring of keys and values (by queries) or of queries,
// grad_output, logsumexp and delta (by keys).
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

template <typename V>
NATTEN_OPS_DEVICE float* table_of_warp(int warp) {
  return reinterpret_cast<float*>(shared_memory() + kSharedBytes<V>) + warp * kTableNumbers<V>;
}

// Adds the sums of the patches that end with that of a band to the table of the warp.
template <typename V>
NATTEN_OPS_DEVICE void add_to_table(const Common& common, const Tile& tile, int row,
                                    const BiasSums<V::kSize>& bias_sums) {
  // All is found once more, which takes no registers before.
  const Own<V> own(tile, row, column_of_warp(tile));
  const Span of_columns[2] = {partners<true>(V::kSize, own.columns[0], tile.count[1]),
                              partners<true>(V::kSize, own.columns[1], tile.count[1])};
  const int begin = first_partner_row<V, true>(tile, row);
  const uint32_t rows = rows_of(row_partners<V, true>(common, tile, own.row), begin);
  const Entries entries = Entries::at<V>(own, begin, of_columns[0].first, rows, of_columns);
  NATTEN_OPS_UNROLL
  for (int i = 0; i < V::kRows; ++i) {
    entries.add<V::kSize>(i, bias_sums[i % V::kSize], table_of_warp<V>(thread_index() / 32));
  }
}

// A patch's own tokens, as they are in memory.
template <typename V>
struct OwnOfQueries {
  Channels<V> queries, grad_outputs, outputs;
  float logsumexp[2];

  static NATTEN_OPS_DEVICE OwnOfQueries read(const by_queries::Parameters& parameters,
                                             const Own<V>& own) {
    using namespace by_queries;
    const auto read = [&](int tensor) {
      return read_own<V>(parameters.common, parameters.tensors, tensor, own);
    };
    const Plane<V, const float> logsumexps = {parameters.tensors[kLogsumexp], kLogsumexp};
    return {read(kQuery),
            read(kGradOutput),
            read(kOutput),
            {*logsumexps.at(own.row, own.columns[0]) * kLog2e,
             *logsumexps.at(own.row, own.columns[1]) * kLog2e}};
  }
};

template <typename V>
NATTEN_OPS_KERNEL(V::kThreads, V::kBlocks)
small_query_kernel(const by_queries::Parameters parameters) {
  using namespace by_queries;
  using Element = typename V::Element;
  constexpr int kSize = V::kSize, kRows = V::kRows;
  const Common& common = parameters.common;
  const int stride = row_stride<V>(common);
  Element* region = reinterpret_cast<Element*>(shared_memory() + kSharedBytes<V> + kTableBytes<V>);
  for (int i = thread_index() % 32; i < kTableNumbers<V>; i += 32) {
    table_of_warp<V>(thread_index() / 32)[i] = 0;
  }
  const Strip& strip = strip_of_block();
  const Tile& tile = strip.tile;
  const auto load = [&](int row, int columns, int place) {
    copy_two<V>(common, parameters.tensors, kKey, kValue, row, columns, region + place * stride);
  };
  for (uint32_t done = 0; next_strip<V, true>(common, parameters.tensors, done);
       done = strip.done) {
    Ring ring = {common.tiling.region[0], 0};
    ring.load_first<V>(load);
    if (strip.is_first) make_centered_pair<V, true>(common, bias_of_head(common, kTensors));
    make_own_pairs<V, true>(common, bias_of_head(common, kTensors), strip);
    OwnOfQueries<V> tokens;
    if (const int column = column_of_warp(tile); column < tile.end[1]) {
      tokens = OwnOfQueries<V>::read(parameters, Own<V>(tile, tile.begin[0], column));
    }
    BiasSums<kSize> bias_sums;
    clear(bias_sums);

    // In the loop, nearly all is found once more for each band, as registers are short.
    for (int row = tile.begin[0]; row < tile.end[0]; row += 8) {
      const int begin = first_partner_row<V, true>(tile, row), chunk = ring.chunk_of(begin);
      ring.go_to<V>(chunk, load);
      const int column = column_of_warp(tile);
      if (column >= tile.end[1]) continue;
      const Own<V> own(tile, row, column);
      const float* pair =
          has_centered_columns<V, true>(tile, column) ? centered_pair() : own_pair<V>(0);
      Start start =
          Start::at<V>(pair, own.row, begin, row_partners<V, true>(common, tile, own.row));
      if (!own.exists[0]) start.rows = 0;
      const int region_column =
          partners<true>(kSize, column, tile.count[1]).first - strip.columns.first;
      const Partners<V> keys_and_values(common, region, ring.place_of(chunk), region_column,
                                        stride);
      const int wrap = ring.wrap_of(chunk);
      const auto offset_of = [&](int i) { return row_offset<V>(common, i, wrap); };
      uint32_t queries[2][4], grad_outputs[2][4];
      as_patch<V>(common, tokens.queries, common.signs, queries);
      as_patch<V>(common, tokens.grad_outputs, 0, grad_outputs);
      const int g = thread_index() % 32 / 4, c = thread_index() % 4;
      float logsumexp[2], delta[2];
      NATTEN_OPS_UNROLL
      for (int e = 0; e < 2; ++e) {
        logsumexp[e] = tokens.logsumexp[e];
        // The diagonal of a product holds the product of each token with itself.
        float products[4] = {};
        const uint32_t (&words)[4] = tokens.outputs.tokens[e][0].words;
        multiply_add<Element>(products, grad_outputs[0], words[0], words[1]);
        multiply_add<Element>(products, grad_outputs[1], words[2], words[3]);
        delta[e] = shuffle(g % 2 ? products[2 * e + 1] : products[2 * e], 4 * g + g / 2);
      }
      if (c == 0 ? own.exists[0] : c == 1 && own.exists[1]) {
        *Plane<V, Two>{parameters.tensors[kNumbers], kNumbers}.at(
            own.row, c ? own.columns[1] : own.columns[0]) = {
            {c ? logsumexp[1] : logsumexp[0], c ? -delta[1] : -delta[0]}};
      }

      float grad_queries[4][4];
      clear(grad_queries);
      NATTEN_OPS_UNROLL
      for (int i = 0; i < kRows; i += 2) {
        float grads[2][4];
        NATTEN_OPS_UNROLL
        for (int h = 0; h < 2; ++h) {
          float logits[4];
          start.load(i + h, logits);
          keys_and_values.template multiply<0>(queries, offset_of(i + h), logits);
          float grad_weights[4] = {-delta[0], -delta[0], -delta[1], -delta[1]};
          keys_and_values.template multiply<1>(grad_outputs, offset_of(i + h), grad_weights);
          NATTEN_OPS_UNROLL
          for (int j = 0; j < 4; ++j) {
            grads[h][j] =
                exp2_of(logits[j] * common.log2_scale - logsumexp[j / 2]) * grad_weights[j];
          }
          if (start.rows >> (i + h) & 1) {
            NATTEN_OPS_UNROLL
            for (int j = 0; j < 4; ++j) bias_sums[(i + h) % kSize][j] += grads[h][j];
          }
        }
        uint32_t weights[4];
        as_weights<Element>(grads[0], grads[1], weights);
        keys_and_values.template accumulate<0>(weights, offset_of(i), grad_queries);
      }
      const Own<V> own_again(tile, row, column_of_warp(tile));
      // The next tokens arrive while the results are stored.
      const bool is_last = row + 8 >= tile.end[0];
      if (!is_last) {
        tokens = OwnOfQueries<V>::read(parameters, Own<V>(tile, row + 8, column_of_warp(tile)));
      }
      const float factors[2] = {static_cast<float>(common.problem.scale),
                                static_cast<float>(common.problem.scale)};
      const Plane<V, Element> plane = {parameters.tensors[kGradQuery], kGradQuery};
      const bool finite =
          store_tokens<V>(common, plane.tensor, Cursor<V, Element>(common, plane, own_again),
                          own_again, grad_queries, factors);
      repeat_unless(finite, (row - tile.begin[0]) / 8);
      if (is_last || !has_centered_rows<V>(tile, row) || !has_centered_rows<V>(tile, row + 8)) {
        add_to_table<V>(common, tile, row, bias_sums);
        clear(bias_sums);
      }
    }
    const uint32_t again = bands_to_repeat();
    // The gradient of the bias has no products with masked weights.
    if (again) repeat_carefully<V>(parameters, tile, again, [](auto...) {});
  }

  if (!parameters.block_sums) return;
  block_barrier();
  float* sums = parameters.block_sums + int64_t(block_index()) * kTableNumbers<V>;
  for (int i = thread_index(); i < kTableNumbers<V>; i += V::kThreads) {
    float sum = 0;
    for (int warp = 0; warp < V::kWarps; ++warp) sum += table_of_warp<V>(warp)[i];
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
// query in the first row, and rows from 8 on are `wrap` rows further in shared memory.
template <typename V>
NATTEN_OPS_DEVICE void visit_queries(const Common& common, const Start& start,
                                     const Partners<V>& queries_and_grads, const Two* numbers,
                                     int wrap, const uint32_t (&keys)[2][4],
                                     const uint32_t (&values)[2][4], KeyGradients& gradients) {
  using Element = typename V::Element;
  constexpr int kElements = sizeof(Two) / sizeof(Element);
  const auto offset_of = [&](int i) { return row_offset<V>(common, i, wrap); };
  NATTEN_OPS_UNROLL
  for (int i = 0; i < V::kRows; i += 2) {
    float weights[2][4], grads[2][4];
    NATTEN_OPS_UNROLL
    for (int h = 0; h < 2; ++h) {
      const Two* const at = numbers + offset_of(i + h) / kElements;
      const Two even = at[0], odd = at[1];
      float logits[4];
      start.load(i + h, logits);
      queries_and_grads.template multiply<0>(keys, offset_of(i + h), logits);
      float grad_weights[4] = {even.numbers[1], odd.numbers[1], even.numbers[1], odd.numbers[1]};
      queries_and_grads.template multiply<1>(values, offset_of(i + h), grad_weights);
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 4; ++j) {
        weights[h][j] =
            exp2_of(logits[j] * common.log2_scale - (j % 2 ? odd.numbers[0] : even.numbers[0]));
        grads[h][j] = weights[h][j] * grad_weights[j];
      }
    }
    uint32_t sixteen[4];
    as_weights<Element>(weights[0], weights[1], sixteen);
    queries_and_grads.template accumulate<1>(sixteen, offset_of(i), gradients.values);
    as_weights<Element>(grads[0], grads[1], sixteen);
    queries_and_grads.template accumulate<0>(sixteen, offset_of(i), gradients.keys);
  }
}

// A patch's own tokens, as they are in memory.
template <typename V>
struct OwnOfKeys {
  Channels<V> keys, values;

  static NATTEN_OPS_DEVICE OwnOfKeys read(const by_keys::Parameters& parameters,
                                          const Own<V>& own) {
    using namespace by_keys;
    const auto read = [&](int tensor) {
      return read_own<V>(parameters.common, parameters.tensors, tensor, own);
    };
    return {read(kKey), read(kValue)};
  }
};

template <typename V>
NATTEN_OPS_KERNEL(V::kThreads, V::kBlocks)
small_key_kernel(const by_keys::Parameters parameters) {
  using namespace by_keys;
  using Element = typename V::Element;
  constexpr int kSize = V::kSize, kRows = V::kRows;
  const Common& common = parameters.common;
  const Tensor(&tensors)[kTensors] = parameters.tensors;
  const int stride = row_stride<V>(common);
  Element* region = reinterpret_cast<Element*>(shared_memory() + kSharedBytes<V>);
  const Strip& strip = strip_of_block();
  const Tile& tile = strip.tile;
  const auto load = [&](int row, int columns, int place) {
    copy_two<V>(common, tensors, kQuery, kGradOutput, row, columns, region + place * stride);
    copy_numbers<V>(parameters, row, strip.columns.first, columns,
                    numbers_of<V>(common, region, place));
  };
  for (uint32_t done = 0; next_strip<V, false>(common, tensors, done); done = strip.done) {
    Ring ring = {common.tiling.region[0], 0};
    ring.load_first<V>(load);
    if (strip.is_first) make_centered_pair<V, false>(common, bias_of_head(common, kTensors));
    OwnOfKeys<V> tokens;
    if (const int column = column_of_warp(tile); column < tile.end[1]) {
      tokens = OwnOfKeys<V>::read(parameters, Own<V>(tile, tile.begin[0], column));
    }
    make_own_pairs<V, false>(common, bias_of_head(common, kTensors), strip);

    // In the loop, nearly all is found once more for each band, as registers are short.
    for (int row = tile.begin[0]; row < tile.end[0]; row += 8) {
      uint32_t keys[2][4], values[2][4];
      as_patch<V>(common, tokens.keys, common.signs, keys);
      as_patch<V>(common, tokens.values, 0, values);
      KeyGradients gradients;
      clear(gradients.keys);
      clear(gradients.values);
      const int first = first_partner_row<V, false>(tile, row);
      const int end = V::kIsStacked ? first : partners<V, false>(common, tile, 0, row, 8).last + 1;
      // Mostly once, but the last keys have queries in the next chunk, too.
      for (int begin = first; begin == first || end > begin + kRows - 8; begin += 8) {
        const int chunk = ring.chunk_of(begin);
        ring.go_to<V>(chunk, load);
        const int column = column_of_warp(tile);
        if (column >= tile.end[1]) continue;
        const Own<V> own(tile, row, column);
        Span of_row = row_partners<V, false>(common, tile, own.row);
        const int done_rows = begin == first ? first : first + kRows;
        if (of_row.first < done_rows) of_row.first = done_rows;
        if (of_row.last > begin + kRows - 1) of_row.last = begin + kRows - 1;
        const bool is_centered = has_centered_columns<V, false>(tile, column);
        const int first_column = partners<false>(kSize, column, tile.count[1]).first;
        const int last_column = partners<false>(kSize, own.columns[1], tile.count[1]).last;
        // Mostly once, but at borders more queries may have a key in their windows.
        for (int eight = 0; first_column + 8 * eight <= last_column; ++eight) {
          const float* pair = is_centered ? centered_pair() : own_pair<V>(eight);
          Start start = Start::at<V>(pair, own.row, begin, of_row);
          if (!own.exists[0]) start.rows = 0;
          const int place = ring.place_of(chunk);
          const int region_column =
              begin_of_eight<V>(strip, first_column + 8 * eight) - strip.columns.first;
          const Partners<V> queries_and_grads(common, region, place, region_column, stride);
          const Two* numbers =
              numbers_of<V>(common, region, place) + region_column + thread_index() % 4 * 2;
          visit_queries<V>(common, start, queries_and_grads, numbers, ring.wrap_of(chunk), keys,
                           values, gradients);
        }
      }
      if (column_of_warp(tile) >= tile.end[1]) continue;
      const Own<V> own(tile, row, column_of_warp(tile));
      // The next tokens arrive while the results are stored.
      if (row + 8 < tile.end[0]) {
        tokens = OwnOfKeys<V>::read(parameters, Own<V>(tile, row + 8, column_of_warp(tile)));
      }
      const auto store = [&](int tensor, const float (&sums)[4][4], float factor) {
        const Plane<V, Element> plane = {tensors[tensor], tensor};
        const float factors[2] = {factor, factor};
        return store_tokens<V>(common, plane.tensor, Cursor<V, Element>(common, plane, own), own,
                               sums, factors);
      };
      const bool values_are_finite = store(kGradValue, gradients.values, 1.0f);
      const bool keys_are_finite =
          store(kGradKey, gradients.keys, static_cast<float>(common.problem.scale));
      repeat_unless(values_are_finite && keys_are_finite, (row - tile.begin[0]) / 8);
    }
    const uint32_t again = bands_to_repeat();
    if (again) repeat_carefully<V>(parameters, tile, again);
  }
}

// ---- Launches ----

// The two kernels' tilings.
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
  if (!small::covers(call) || !are_for_tensor_cores(call)) return false;
  const Problem problem = Orientation(call).problem;
  return small::with_backward_variants(
      problem, call.dtype, [&](auto query_variant, auto key_variant) {
        small::Tilings tilings;
        return small::find_tilings<decltype(query_variant), decltype(key_variant)>(problem,
                                                                                   tilings);
      });
}

int64_t small_backward_scratch(const BackwardCall& call) {
  const Problem problem = Orientation(call).problem;
  return small::with_backward_variants(
      problem, call.dtype, [&](auto query_variant, auto key_variant) {
        small::Tilings tilings;
        small::find_tilings<decltype(query_variant), decltype(key_variant)>(problem, tilings);
        return scratch_bytes(call, tilings.by_queries);
      });
}

const char* small_backward(const BackwardCall& call, void* stream) {
  const Orientation orientation(call);
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
