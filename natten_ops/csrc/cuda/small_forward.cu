// The forward pass for small windows; small.cuh says how. A warp multiplies its queries with all of
// their keys, takes the softmax, and multiplies the weights, still in registers, with the values; a
// column of ones gives the weights' sum.
//
// Shared memory of a block: one bias pair for all and one a warp, rows of -infinity, and the ring
// of keys and values.
#define NATTEN_OPS_THREAD_INDEX_ANEW
#include "forward.cuh"
#include "small.cuh"

namespace natten_ops::cuda {

namespace small {

namespace {

using namespace forward_pass;

constexpr int kForwardWarps = 8;

template <typename V>
int64_t forward_bytes(const Tiling& tiling) {
  return kSharedBytes<V> + region_bytes<V>(tiling);
}

template <typename V>
NATTEN_OPS_KERNEL(V::kThreads, V::kBlocks)
small_forward_kernel(const Parameters parameters) {
  using Element = typename V::Element;
  constexpr int kSize = V::kSize, kRows = V::kRows;
  const Common& common = parameters.common;
  const int stride = row_stride<V>(common);
  const Strip& strip = strip_of_block();
  const Tile& tile = strip.tile;
  Element* region = reinterpret_cast<Element*>(shared_memory() + kSharedBytes<V>);
  const auto load = [&](int row, int columns, int place) {
    copy_two<V>(common, parameters.tensors, kKey, kValue, row, columns, region + place * stride);
  };
  for (uint32_t done = 0; next_strip<V, true>(common, parameters.tensors, done);
       done = strip.done) {
    Ring ring = {common.tiling.region[0], 0};
    ring.load_first<V>(load);

    Channels<V> queries;
    if (const int column = column_of_warp(tile); column < tile.end[1]) {
      queries =
          read_own<V>(common, parameters.tensors, kQuery, Own<V>(tile, tile.begin[0], column));
    }
    if (strip.is_first) make_centered_pair<V, true>(common, bias_of_head(common, kTensors));
    make_own_pairs<V, true>(common, bias_of_head(common, kTensors), strip);

    // In the loop, nearly all is found once more for each band, as registers are short.
    for (int row = tile.begin[0]; row < tile.end[0]; row += 8) {
      const int begin = first_partner_row<V, true>(tile, row), chunk = ring.chunk_of(begin);
      ring.go_to<V>(chunk, load);
      const int column = column_of_warp(tile);
      if (column >= tile.end[1]) continue;
      const Own<V> own(tile, row, column);
      const float* pair =
          has_centered_columns<V, true>(tile, column) ? centered_pair() : own_pair<V>(0);
      const Start start =
          Start::at<V>(pair, own.row, begin, row_partners<V, true>(common, tile, own.row));
      const int region_column =
          partners<true>(kSize, column, tile.count[1]).first - strip.columns.first;
      const Partners<V> keys_and_values(common, region, ring.place_of(chunk), region_column,
                                        stride);
      const int wrap = ring.wrap_of(chunk);
      const auto offset_of = [&](int i) { return row_offset<V>(common, i, wrap); };
      uint32_t patch[2][4];
      as_patch<V>(common, queries, common.signs, patch);
      float logits[kRows][4];
      NATTEN_OPS_UNROLL
      for (int i = 0; i < kRows; ++i) {
        start.load(i, logits[i]);
        keys_and_values.template multiply<0>(patch, offset_of(i), logits[i]);
      }
      // The next queries arrive while the softmax is taken and results are stored.
      if (row + 8 < tile.end[0]) {
        queries = read_own<V>(common, parameters.tensors, kQuery, Own<V>(tile, row + 8, column));
      }

      float base[2];
      NATTEN_OPS_UNROLL
      for (int e = 0; e < 2; ++e) base[e] = largest_of(logits, e) * common.log2_scale;
      float outputs[4][4], sums[4] = {};
      clear(outputs);
      const uint32_t ones = pack<Element>(1.0f, 1.0f);
      NATTEN_OPS_UNROLL
      for (int i = 0; i < kRows; i += 2) {
        NATTEN_OPS_UNROLL
        for (int j = 0; j < 8; ++j) {
          float& number = logits[i + j / 4][j % 4];
          number = exp2_of(number * common.log2_scale - base[j % 4 / 2]);
        }
        uint32_t weights[4];
        as_weights<Element>(logits[i], logits[i + 1], weights);
        keys_and_values.template accumulate<1>(weights, offset_of(i), outputs);
        multiply_add<Element>(sums, weights, ones, ones);
      }

      const float factors[2] = {fast_reciprocal(sums[0]), fast_reciprocal(sums[2])};
      const Own<V> own_again(tile, row, column_of_warp(tile));
      const Plane<V, Element> plane = {parameters.tensors[kOutput], kOutput};
      const bool finite =
          store_tokens<V>(common, plane.tensor, Cursor<V, Element>(common, plane, own_again),
                          own_again, outputs, factors);
      // Of the four threads of a row, thread e stores the number of token e.
      const int c = thread_index() % 4;
      if (c == 0 ? own_again.exists[0] : c == 1 && own_again.exists[1]) {
        const Plane<V, float> logsumexps = {parameters.tensors[kLogsumexp], kLogsumexp};
        *logsumexps.at(own_again.row, own_again.columns[0] + c) =
            ((c ? base[1] : base[0]) + fast_log2(c ? sums[2] : sums[0])) * kLn2;
      }
      repeat_unless(finite, (row - tile.begin[0]) / 8);
    }
    const uint32_t again = bands_to_repeat();
    if (again) repeat_carefully<V>(parameters, tile, again);
  }
}

template <typename V>
bool find_forward_tiling(const Problem& problem, Tiling& tiling) {
  return find_tiling<V, true>(problem, forward_bytes<V>, tiling);
}

}  // namespace

}  // namespace small

bool small_covers(const ForwardCall& call) {
  if (!small::covers(call) || !forward_pass::are_for_tensor_cores(call)) return false;
  const Problem problem = Orientation(call).problem;
  return small::with_variant<small::kForwardWarps, false>(problem, call.dtype, [&](auto variant) {
    Tiling tiling;
    return small::find_forward_tiling<decltype(variant)>(problem, tiling);
  });
}

const char* small_forward(const ForwardCall& call, void* stream) {
  const Orientation orientation(call);
  const Problem& problem = orientation.problem;
  return small::with_variant<small::kForwardWarps, false>(problem, call.dtype, [&](auto variant) {
    using V = decltype(variant);
    Tiling tiling;
    small::find_forward_tiling<V>(problem, tiling);
    const auto parameters = forward_pass::make_parameters(call, orientation, tiling);
    return launch(small::small_forward_kernel<V>, tiling.slots * problem.heads, V::kThreads,
                  small::forward_bytes<V>(tiling), stream, parameters);
  });
}

}  // namespace natten_ops::cuda
