// What the backward kernels on tensor cores share: parameters, launches, and how a patch is
// repeated with care. There are two kernels and a sum:
//
// By queries: for the keys around a patch, the logits again, weights P = exp(logit - logsumexp),
// dP = grad_output . value, and the logits' gradients D = P (dP - delta). Here delta is
// grad_output . output. The other kernel needs it and logsumexp, too: both are stored for it.
// grad_query = scale * sum of D key. D is added to the gradient of the bias: a block writes the
// sums of its tiles, and a last kernel adds up the blocks' sums, always in the same order.
//
// By keys: for the queries that attend to a patch's keys, the same products the other way round.
// grad_value = sum of P grad_output, grad_key = scale * sum of D query.
#pragma once

#include "careful.cuh"
#include "table_sum.cuh"

namespace natten_ops::cuda {

namespace by_queries {

enum : int {
  kQuery,
  kKey,
  kValue,
  kOutput,
  kGradOutput,
  kGradQuery,
  kLogsumexp,
  kNumbers,
  kTensors,
};

struct Parameters {
  Common common;
  Tensor tensors[kTensors];
  float* block_sums;  // (slots, heads, bias_size), or null
};

inline Parameters make_parameters(const BackwardCall& call, const Orientation& orientation,
                                  const Tiling& tiling) {
  Parameters parameters;
  parameters.common = orientation.common(tiling, call.bias);
  parameters.tensors[kQuery] = orientation.tensor(call.query);
  parameters.tensors[kKey] = orientation.tensor(call.key);
  parameters.tensors[kValue] = orientation.tensor(call.value);
  parameters.tensors[kOutput] = orientation.tensor(call.output);
  parameters.tensors[kGradOutput] = orientation.tensor(call.grad_output);
  parameters.tensors[kGradQuery] = orientation.tensor(call.grad_query);
  parameters.tensors[kLogsumexp] = orientation.numbers(call.logsumexp, sizeof(float));
  parameters.tensors[kNumbers] = orientation.numbers(call.scratch, sizeof(Two));
  char* const sums = static_cast<char*>(call.scratch) + numbers_bytes(call.problem);
  parameters.block_sums = call.grad_bias.data ? reinterpret_cast<float*>(sums) : nullptr;
  return parameters;
}

// Repeats the bands of a tile whose bits are set. Calls visit_grad(token, key's row and column,
// gradient of the logit) with each, in all threads of the warp.
template <typename V, typename VisitGrad>
NATTEN_OPS_DEVICE void repeat_carefully(const Parameters& parameters, const Tile& tile,
                                        uint32_t again, VisitGrad visit_grad) {
  using Element = typename V::Element;
  const Common& common = parameters.common;
  const auto channels_of = [&](int tensor, int row, int column) {
    const Plane<V, const Element> plane = {parameters.tensors[tensor], tensor};
    return OwnChannels<V>::of(common, plane, row, column);
  };
  const Plane<V, const float> logsumexps = {parameters.tensors[kLogsumexp], kLogsumexp};
  const Plane<V, Two> numbers = {parameters.tensors[kNumbers], kNumbers};
  const Plane<V, Element> grad_queries = {parameters.tensors[kGradQuery], kGradQuery};
  visit_carefully<V, true>(common, tile, again, [&](const CarefulToken& token) {
    const auto query = channels_of(kQuery, token.row, token.column);
    const auto grad_output = channels_of(kGradOutput, token.row, token.column);
    const float delta = grad_output.times(channels_of(kOutput, token.row, token.column));
    const float logsumexp = *logsumexps.at(token.row, token.column) * kLog2e;
    if (thread_index() % 32 == 0) *numbers.at(token.row, token.column) = {{logsumexp, -delta}};
    OwnChannels<V> grad_query = {};
    visit_partners(token, [&](int row, int column, int down, int across) {
      const auto key = channels_of(kKey, row, column);
      const float product = query.times(key);
      const float weight =
          exp2_of(logit_of<V>(common, token.head, product, down, across) - logsumexp);
      const float grad_weight = grad_output.times(channels_of(kValue, row, column)) - delta;
      grad_query.add(weight * grad_weight, key);
      visit_grad(token, row, column, weight * grad_weight);
    });
    grad_query.store(common, grad_queries, token.row, token.column,
                     static_cast<float>(common.problem.scale));
  });
}

}  // namespace by_queries

namespace by_keys {

enum : int {
  kQuery,
  kKey,
  kValue,
  kGradOutput,
  kGradKey,
  kGradValue,
  kNumbers,
  kTensors,
};

struct Parameters {
  Common common;
  Tensor tensors[kTensors];
};

inline Parameters make_parameters(const BackwardCall& call, const Orientation& orientation,
                                  const Tiling& tiling) {
  Parameters parameters;
  parameters.common = orientation.common(tiling, call.bias);
  parameters.tensors[kQuery] = orientation.tensor(call.query);
  parameters.tensors[kKey] = orientation.tensor(call.key);
  parameters.tensors[kValue] = orientation.tensor(call.value);
  parameters.tensors[kGradOutput] = orientation.tensor(call.grad_output);
  parameters.tensors[kGradKey] = orientation.tensor(call.grad_key);
  parameters.tensors[kGradValue] = orientation.tensor(call.grad_value);
  parameters.tensors[kNumbers] = orientation.numbers(call.scratch, sizeof(Two));
  return parameters;
}

// The numbers of the tokens of a region's row.
template <typename V>
NATTEN_OPS_DEVICE Two* numbers_of(const Common& common, typename V::Element* region, int row) {
  static_assert(V::kHasNumbers);
  return reinterpret_cast<Two*>(region + row * row_stride<V>(common) + 2 * row_elements<V>(common));
}

// Begins to copy the numbers of a row, as copy_row does with channels.
template <typename V>
NATTEN_OPS_DEVICE void copy_numbers(const Parameters& parameters, int row, int first_column,
                                    int columns, Two* to) {
  const Plane<V, const Two> plane = {parameters.tensors[kNumbers], kNumbers};
  constexpr int kLanes = V::kIsFlat ? V::kThreads : 32;  // that share a row
  for (int at = thread_index() % kLanes; at < V::pitch(parameters.common); at += kLanes) {
    copy_async<sizeof(Two)>(to + at, plane.at(row, first_column + at), at < columns);
  }
}

// Repeats the bands of a tile whose bits are set.
template <typename V>
NATTEN_OPS_DEVICE void repeat_carefully(const Parameters& parameters, const Tile& tile,
                                        uint32_t again) {
  using Element = typename V::Element;
  const Common& common = parameters.common;
  const auto channels_of = [&](int tensor, int row, int column) {
    const Plane<V, const Element> plane = {parameters.tensors[tensor], tensor};
    return OwnChannels<V>::of(common, plane, row, column);
  };
  const Plane<V, const Two> numbers = {parameters.tensors[kNumbers], kNumbers};
  const Plane<V, Element> grad_keys = {parameters.tensors[kGradKey], kGradKey};
  const Plane<V, Element> grad_values = {parameters.tensors[kGradValue], kGradValue};
  visit_carefully<V, false>(common, tile, again, [&](const CarefulToken& token) {
    const auto key = channels_of(kKey, token.row, token.column);
    const auto value = channels_of(kValue, token.row, token.column);
    OwnChannels<V> grad_key = {}, grad_value = {};
    visit_partners(token, [&](int row, int column, int down, int across) {
      const auto query = channels_of(kQuery, row, column);
      const auto grad_output = channels_of(kGradOutput, row, column);
      const Two two = *numbers.at(row, column);
      const float logit = logit_of<V>(common, token.head, query.times(key), -down, -across);
      const float weight = exp2_of(logit - two.numbers[0]);
      grad_value.add(weight, grad_output);
      grad_key.add(weight * (grad_output.times(value) + two.numbers[1]), query);
    });
    grad_value.store(common, grad_values, token.row, token.column, 1.0f);
    grad_key.store(common, grad_keys, token.row, token.column,
                   static_cast<float>(common.problem.scale));
  });
}

}  // namespace by_keys

inline bool are_for_tensor_cores(const BackwardCall& call) {
  return are_for_tensor_cores(call.problem, call.dtype, call.allow_tf32,
                              {&call.query, &call.key, &call.value, &call.output, &call.grad_output,
                               &call.grad_query, &call.grad_key, &call.grad_value});
}

// Of the three kernels: numbers of queries, and the blocks' sums of the bias' gradient.
inline int64_t scratch_bytes(const BackwardCall& call, const Tiling& by_queries) {
  const int64_t tables = slots_of(call.problem, by_queries) * call.problem.heads;
  return numbers_bytes(call.problem) +
         (call.grad_bias.data ? tables * call.problem.bias_size() * int64_t(sizeof(float)) : 0);
}

// Launches the three kernels. `queries(parameters, blocks)` and `keys(parameters, blocks)` launch
// the first two.
template <typename Queries, typename Keys>
const char* launch_backward(const BackwardCall& call, const Orientation& orientation,
                            const Tiling& query_tiling, const Tiling& key_tiling, Queries queries,
                            Keys keys, void* stream) {
  const Problem& problem = orientation.problem;
  const auto query_parameters = by_queries::make_parameters(call, orientation, query_tiling);
  const int64_t slots = slots_of(problem, query_tiling);
  const char* error = queries(query_parameters, slots * problem.heads);
  if (error) return error;
  const auto key_parameters = by_keys::make_parameters(call, orientation, key_tiling);
  error = keys(key_parameters, slots_of(problem, key_tiling) * problem.heads);
  if (error || !call.grad_bias.data) return error;
  return sum_tables<float>(query_parameters.block_sums, slots, problem.heads * problem.bias_size(),
                           call.grad_bias, stream);
}

}  // namespace natten_ops::cuda
