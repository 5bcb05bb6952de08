// The forward pass in float32; staged.cuh says how. For a few keys of a row at a time:
//   - inner products with the queries, summed over the group: thread `own` has the logits of its
//     query, in units of log2;
//   - weights 2^(logit - base). The base is a logit, and none so far is more than kSlack above it:
//     when one is, the base moves there and what was summed shrinks;
//   - values times weights are added to the queries' sums.
// Outputs are the sums divided by that of the weights. Every sum has a fixed order.
//
// Shared memory of a block: the table of the bias, and the region of keys and values.
#include "staged.cuh"

namespace natten_ops::cuda {

namespace staged {

namespace {

constexpr int kWarps = 12;  // of a multiprocessor, so that a thread has 168 registers
constexpr int kSlack = 8;

enum : int { kQuery, kKey, kValue, kOutput, kLogsumexp, kTensors };

struct ForwardParameters {
  Common common;
  Tensor tensors[kTensors];
};

template <typename V>
struct Attention {
  const Lane<V>& lane;
  Cursor<V> keys;     // the first tensor; values are the second
  const float* bias;  // the table's entry of the query `own` and the key at the cursor
  typename V::Tokens queries, sums;
  // Of query `own`. Logits above `limit`, -inf before the first, move the base.
  float base = 0, limit = -INFINITY, total = 0;

  // The next kKeys keys of a row, and of the row that is `far` tokens further on. `entries`: from
  // the first row's bias to that of the query `own`.
  template <typename Queries, int kKeys>
  NATTEN_OPS_DEVICE void visit(int far, int entries) {
    float logits[kKeys];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      typename V::Channels key;
      float products[V::kRows];
      keys.template load<0>(i, key);
      multiply<typename Queries::Near>(queries, key, products);
      multiply_far<Queries, 0>(keys, far + i, queries, products);
      logits[i] = sum_over_group(lane, products) + bias[entries + i];
    }
    float largest = logits[0];
    NATTEN_OPS_UNROLL
    for (int i = 1; i < kKeys; ++i) largest = larger(largest, logits[i]);
    if (warp_any(largest > limit)) move_base(largest);
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      const float weight = exp2_of(logits[i] - base);
      total += weight;
      typename V::Channels value;
      keys.template load<1>(i, value);
      accumulate<typename Queries::Near>(weight, value, sums);
      accumulate_far<Queries, 1>(keys, far + i, weight, sums);
    }
    keys.advance(kKeys);
    bias += kKeys;
  }

  NATTEN_OPS_DEVICE void move_base(float largest) {
    float factor = 1;
    if (largest > limit) {
      factor = limit > -INFINITY ? exp2_of(base - largest) : 0;
      base = largest;
      limit = largest + kSlack;
      total *= factor;
    }
    NATTEN_OPS_UNROLL
    for (int q = 0; q < V::kRows; ++q) {
      const float factor_of = shuffle_within<V::kRows>(factor, q);
      NATTEN_OPS_UNROLL
      for (int c = 0; c < V::kChannels; ++c) sums[q][c] *= factor_of;
    }
  }

  // A row of `size` keys.
  template <typename Queries>
  NATTEN_OPS_DEVICE void visit_row(int size, int far, int entries) {
    int left = size;
    for (; left >= 4; left -= 4) visit<Queries, 4>(far, entries);
    if (left & 2) visit<Queries, 2>(far, entries);
    if (left & 1) visit<Queries, 1>(far, entries);
  }
};

template <typename V>
NATTEN_OPS_KERNEL(32 * kWarps, 1)
staged_forward_kernel(const ForwardParameters parameters) {
  const Common& common = parameters.common;
  Tile tile;
  if (!find_tile(common, tile)) return;
  const Span rows = partners<true>(common, tile, 0), columns = partners<true>(common, tile, 1);
  const Planes<kTensors> planes(parameters.tensors, tile);
  float* table = reinterpret_cast<float*>(shared_memory());
  float* region = table + bias_numbers(common);
  copy_region<V>(common, planes[kKey], planes[kValue], rows, columns, region);
  copy_async_commit();
  make_bias_table(common, tile, table);

  const Lane<V> lane;
  const Patch<V> patch(common, tile, lane);
  const Rows<V> key_rows = Rows<V>::template find<true>(common, tile, patch);
  const int first_row = key_rows.of[0].first;
  const int first_column = partners<true>(common, tile, 1, patch.column).first;
  const int own_row = patch.row_of(lane.own);
  Attention<V> attention = {
      lane, Cursor<V>(common, lane, region, first_row - rows.first, first_column - columns.first),
      table + table_entry(common, first_row - own_row, first_column - patch.column)};
  clear(attention.sums);
  if (patch.exists) {
    load_tokens(common, planes[kQuery], patch, lane, common.log2_scale, attention.queries);
  }
  copy_async_wait<0>();
  block_barrier();
  if (!patch.exists) return;

  const int size = common.kernel_size[1];
  key_rows.visit_windows(common.kernel_size[0], [&](auto queries) {
    using Queries = decltype(queries);
    const int entries = Queries::Near::has(lane.own) ? 0 : common.far_entries;
    attention.template visit_row<Queries>(size, common.far_tokens, entries);
    attention.keys.advance(common.pitch - size);
    attention.bias += common.entries() - size;
  });
  store_tokens(common, planes[kOutput], patch, lane, 1 / attention.total, attention.sums);
  const Plane logsumexps = planes[kLogsumexp];
  if (lane.lane == lane.own && patch.has(lane.own)) {
    *logsumexps.at(own_row, patch.column) = (attention.base + log2_of(attention.total)) * kLn2;
  }
}

template <typename F>
auto with_forward_variant(const Problem& problem, F f) {
  return with_variant<Variant<4, 8, 4>, Variant<8, 8, 4>>(problem, f);
}

template <typename V>
int64_t forward_bytes(const Problem& problem, const Shape& shape) {
  return (bias_numbers(problem) + int64_t(shape.region_tokens()) * V::kStride) *
         int64_t(sizeof(float));
}

template <typename V>
bool find_forward_shape(const Problem& problem, Shape& shape) {
  return find_shape<V, true>(
      problem, kWarps, [&](const Shape& shape) { return forward_bytes<V>(problem, shape); }, shape);
}

}  // namespace

}  // namespace staged

bool staged_covers(const ForwardCall& call) {
  return staged::covers(call.problem, call.dtype,
                        {&call.query, &call.key, &call.value, &call.output}) &&
         staged::with_forward_variant(call.problem, [&](auto variant) {
           staged::Shape shape;
           return staged::find_forward_shape<decltype(variant)>(call.problem, shape);
         });
}

const char* staged_forward(const ForwardCall& call, void* stream) {
  return staged::with_forward_variant(call.problem, [&](auto variant) {
    using V = decltype(variant);
    const Problem& problem = call.problem;
    staged::Shape shape;
    staged::find_forward_shape<V>(problem, shape);
    const auto tensor = [&](const TensorView& view) { return staged::Tensor(problem, view); };
    const staged::ForwardParameters parameters = {staged::make_common(problem, call.bias, shape),
                                                  tensor(call.query),
                                                  tensor(call.key),
                                                  tensor(call.value),
                                                  tensor(call.output),
                                                  staged::Tensor(problem, call.logsumexp, 1)};
    return launch(staged::staged_forward_kernel<V>, slots_of(problem, shape.tiling) * problem.heads,
                  32 * shape.warps(), staged::forward_bytes<V>(problem, shape), stream, parameters);
  });
}

}  // namespace natten_ops::cuda
