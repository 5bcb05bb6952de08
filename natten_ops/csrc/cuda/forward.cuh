// What the forward kernels on tensor cores share: parameters, and how a patch is repeated with
// care.
#pragma once

#include "careful.cuh"

namespace natten_ops::cuda {

namespace forward_pass {

enum : int { kQuery, kKey, kValue, kOutput, kLogsumexp, kTensors };

struct Parameters {
  Common common;
  Tensor tensors[kTensors];
};

inline Parameters make_parameters(const ForwardCall& call, const Orientation& orientation,
                                  const Tiling& tiling) {
  Parameters parameters;
  parameters.common = orientation.common(tiling, call.bias);
  parameters.tensors[kQuery] = orientation.tensor(call.query);
  parameters.tensors[kKey] = orientation.tensor(call.key);
  parameters.tensors[kValue] = orientation.tensor(call.value);
  parameters.tensors[kOutput] = orientation.tensor(call.output);
  parameters.tensors[kLogsumexp] = orientation.numbers(call.logsumexp, sizeof(float));
  return parameters;
}

inline bool are_for_tensor_cores(const ForwardCall& call) {
  return cuda::are_for_tensor_cores(call.problem, call.dtype, call.allow_tf32,
                                    {&call.query, &call.key, &call.value, &call.output});
}

// The largest logit of a thread's token e, from the results of kRows products. The four threads of
// a token have the same.
template <int kRows>
NATTEN_OPS_DEVICE float largest_of(const float (&logits)[kRows][4], int e) {
  float largest = larger(logits[0][2 * e], logits[0][2 * e + 1]);
  NATTEN_OPS_UNROLL
  for (int i = 1; i < kRows; ++i) {
    largest = larger(largest, larger(logits[i][2 * e], logits[i][2 * e + 1]));
  }
  largest = larger(largest, shuffle_xor(largest, 1));
  return larger(largest, shuffle_xor(largest, 2));
}

// Repeats the bands of a tile whose bits are set.
template <typename V>
NATTEN_OPS_DEVICE void repeat_carefully(const Parameters& parameters, const Tile& tile,
                                        uint32_t again) {
  using Element = typename V::Element;
  const Common& common = parameters.common;
  const Plane<V, const Element> queries = {parameters.tensors[kQuery], kQuery};
  const Plane<V, const Element> keys = {parameters.tensors[kKey], kKey};
  const Plane<V, const Element> values = {parameters.tensors[kValue], kValue};
  const Plane<V, Element> outputs = {parameters.tensors[kOutput], kOutput};
  const Plane<V, float> logsumexps = {parameters.tensors[kLogsumexp], kLogsumexp};
  visit_carefully<V, true>(common, tile, again, [&](const CarefulToken& token) {
    const auto query = OwnChannels<V>::of(common, queries, token.row, token.column);
    // Calls visit(row, column, logit) for every key.
    const auto visit_keys = [&](auto visit) {
      visit_partners(token, [&](int row, int column, int down, int across) {
        const float product = query.times(OwnChannels<V>::of(common, keys, row, column));
        visit(row, column, logit_of<V>(common, token.head, product, down, across));
      });
    };
    float largest = -INFINITY, sum = 0;
    OwnChannels<V> output = {};
    visit_keys([&](int, int, float logit) { largest = larger(largest, logit); });
    visit_keys([&](int row, int column, float logit) {
      const float weight = exp2_of(logit - largest);
      sum += weight;
      output.add(weight, OwnChannels<V>::of(common, values, row, column));
    });
    output.store(common, outputs, token.row, token.column, 1 / sum);
    if (thread_index() % 32 == 0) {
      *logsumexps.at(token.row, token.column) = (largest + log2_of(sum)) * kLn2;
    }
  });
}

}  // namespace forward_pass

}  // namespace natten_ops::cuda
