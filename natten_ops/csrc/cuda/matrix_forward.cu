// The forward pass for windows of any size; matrix.cuh says how keys are visited. A warp multiplies
// its queries with the keys of a step, takes the softmax, and multiplies the weights, still in
// registers, with the values; a column of ones gives the weights' sum. A larger logit in a later
// step rescales the sums so far.
//
// Shared memory of a block: as in matrix.cuh; the region has keys and values.
#define NATTEN_OPS_THREAD_INDEX_ANEW
#include "forward.cuh"
#include "matrix.cuh"

namespace natten_ops::cuda {

namespace matrix {

namespace {

using namespace forward_pass;

constexpr int kForwardStep = 4;

// The softmax of a patch's queries so far.
template <typename V>
struct Attended {
  float outputs[V::kDim / 8][4];
  float sums[4];     // of the weights of the thread's tokens: sums[0] and sums[2]
  float largest[2];  // logits, before they are multiplied with the scale

  NATTEN_OPS_DEVICE Attended() {
    clear(outputs);
    NATTEN_OPS_UNROLL
    for (int j = 0; j < 4; ++j) sums[j] = 0;
    largest[0] = largest[1] = -INFINITY;
  }

  // What is subtracted from logits, in units of log(2). Any number does if all are -infinity.
  NATTEN_OPS_DEVICE float base(const Common& common, int e) const {
    return largest[e] == -INFINITY ? 0.0f : largest[e] * common.log2_scale;
  }

  // Takes a step's logits into account before they become weights.
  NATTEN_OPS_DEVICE void rescale(const Common& common, const float (&logits)[V::kStep][4]) {
    float most[2];
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) most[e] = largest_of(logits, e);
    if (!warp_any(most[0] > largest[0] || most[1] > largest[1])) return;
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      const float before = largest[e] * common.log2_scale;
      largest[e] = larger(largest[e], most[e]);
      const float factor = exp2_of(before - base(common, e));
      NATTEN_OPS_UNROLL
      for (int i = 0; i < V::kDim / 8; ++i) {
        outputs[i][2 * e] *= factor;
        outputs[i][2 * e + 1] *= factor;
      }
      sums[2 * e] *= factor;
    }
  }
};

template <typename V>
NATTEN_OPS_DEVICE void attend(const Common& common, const Items& items, const Start<V>& start,
                              const typename Products<V>::Partners& keys_and_values,
                              const typename Products<V>::Patch& queries, Attended<V>& attended) {
  const int stride = item_stride<V>(common);
  visit_steps<V>(common, items, [&](int item, int eight, int offset) {
    float logits[V::kStep][4];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < V::kStep; ++i) {
      start.load(item + i, eight, logits[i]);
      keys_and_values.template multiply<0>(queries, offset + i * stride, logits[i]);
    }
    attended.rescale(common, logits);
    const float bases[2] = {attended.base(common, 0), attended.base(common, 1)};
    NATTEN_OPS_UNROLL
    for (int i = 0; i < V::kStep; i += 2) {
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 8; ++j) {
        float& number = logits[i + j / 4][j % 4];
        number = exp2_of(number * common.log2_scale - bases[j % 4 / 2]);
      }
      typename Products<V>::Weights weights;
      Products<V>::as_weights(logits[i], logits[i + 1], weights);
      keys_and_values.template accumulate<1>(weights, offset + i * stride, attended.outputs);
      Products<V>::add_weights(logits[i], logits[i + 1], weights, attended.sums);
    }
  });
  Products<V>::add_threads(attended.sums);
}

template <typename V>
NATTEN_OPS_KERNEL(V::kThreads, V::kBlocks)
matrix_forward_kernel(const Parameters parameters) {
  using Element = typename V::Element;
  const Common& common = parameters.common;
  const Tensor& query_tensor = parameters.tensors[kQuery];
  const Tensor& output_tensor = parameters.tensors[kOutput];
  uint32_t slot = block_index();
  const int head = split_head(common, slot);
  Tile tile;
  if (!find_tile(common, head, slot, tile)) return;
  const Span rows = partners<V, true>(common, tile, 0),
             columns = partners<V, true>(common, tile, 1);
  Element* region = reinterpret_cast<Element*>(shared_memory() + shared_bytes<V>(common));
  find_planes(common, parameters.tensors, tile);
  block_barrier();
  copy_rows<V>(common, rows, columns, {parameters.tensors[kKey], kKey}, region);
  copy_rows<V>(common, rows, columns, {parameters.tensors[kValue], kValue},
               region + row_elements<V>(common));
  copy_async_commit();
  make_centered_fragments<V, true>(common, bias_of_head(common, kTensors));
  const PatchColumns of_patch = PatchColumns::at<V, true>(common, tile, thread_index() / 32);
  const bool exists = of_patch.first < tile.end[1];
  const float* fragments =
      exists ? choose_fragments<V, true>(common, bias_of_head(common, kTensors), of_patch)
             : centered_fragments();
  copy_async_wait<0>();
  block_barrier();
  if (!exists) return;

  const int c = thread_index() % 4;
  for (int row = tile.begin[0]; row < tile.end[0]; row += kPatchRows<V>) {
    const Own<V> own(tile, row, of_patch.first);
    const Items items = Items::at<V, true>(common, tile, row, of_patch);
    const Start<V> start = Start<V>::template at<true>(common, fragments, tile, own, items);
    const typename Products<V>::Partners keys_and_values(
        common, region, items.begin_row - rows.first, of_patch.begin - columns.first,
        item_stride<V>(common));
    typename Products<V>::Patch queries;
    Products<V>::as_patch(common,
                          Cursor<V, const Element>(common, {query_tensor, kQuery}, own)
                              .read(common, query_tensor, own),
                          common.signs, queries);
    Attended<V> attended;
    attend<V>(common, items, start, keys_and_values, queries, attended);

    const float factors[2] = {fast_reciprocal(attended.sums[0]), fast_reciprocal(attended.sums[2])};
    const bool finite = Products<V>::store_tokens(
        common, output_tensor, Cursor<V, Element>(common, {output_tensor, kOutput}, own), own,
        attended.outputs, factors);
    // Of the four threads of a row, thread e stores the number of token e.
    if (c == 0 ? own.exists[0] : c == 1 && own.exists[1]) {
      const Plane<V, float> logsumexps = {parameters.tensors[kLogsumexp], kLogsumexp};
      *logsumexps.at(own.row, c ? own.columns[1] : own.columns[0]) =
          ((c ? attended.base(common, 1) : attended.base(common, 0)) +
           fast_log2(c ? attended.sums[2] : attended.sums[0])) *
          kLn2;
    }
    repeat_unless(finite, (row - tile.begin[0]) / kPatchRows<V>);
  }
  const uint32_t again = bands_to_repeat();
  if (again) repeat_carefully<V>(parameters, find_tile_again(common, 0), again);
}

template <typename V>
int64_t forward_bytes(const Tiling& tiling, int window) {
  return shared_bytes<V>(tiling, window) + region_bytes<V>(tiling);
}

template <typename V>
bool find_forward_tiling(const Problem& problem, Tiling& tiling) {
  const int window = static_cast<int>(problem.kernel_size[0]);
  return find_tiling<V, true>(
      problem, [&](const Tiling& tiling) { return forward_bytes<V>(tiling, window); }, tiling);
}

}  // namespace

}  // namespace matrix

bool matrix_covers(const ForwardCall& call) {
  if (!forward_pass::are_for_tensor_cores(call)) return false;
  return matrix::with_variant<false, matrix::kForwardStep>(
      call.problem, call.dtype, [&](auto variant) {
        Tiling tiling;
        return matrix::find_forward_tiling<decltype(variant)>(Orientation(call).problem, tiling);
      });
}

const char* matrix_forward(const ForwardCall& call, void* stream) {
  return matrix::with_variant<false, matrix::kForwardStep>(
      call.problem, call.dtype, [&](auto variant) {
        using V = decltype(variant);
        const Orientation orientation(call);
        Tiling tiling;
        matrix::find_forward_tiling<V>(orientation.problem, tiling);
        const auto parameters = forward_pass::make_parameters(call, orientation, tiling);
        const int64_t blocks = slots_of(orientation.problem, tiling) * call.problem.heads;
        return launch(matrix::matrix_forward_kernel<V>, blocks, V::kThreads,
                      matrix::forward_bytes<V>(tiling, parameters.common.windows[0]), stream,
                      parameters);
      });
}

}  // namespace natten_ops::cuda
