// The operators of schema.cpp for any back end: check arguments, allocate results, compute.
//
// A back end is a struct with two static functions, which get checked arguments:
//
//   void forward(const Problem&, const QueryKeyValue& inputs, const std::optional<TensorInfo>& rpb,
//                const TensorInfo& output, const TensorInfo& logsumexp, bool allow_tf32);
//     fills output and logsumexp;
//
//   Tensor backward(const Problem&, const Tensor& grad_output, const QueryKeyValue& inputs,
//                   const std::optional<TensorInfo>& rpb, const TensorInfo& output,
//                   const TensorInfo& logsumexp, const QueryKeyValue& grads, bool allow_tf32);
//     fills grads, and returns the gradient of the bias, in the bias' dtype or in the compute type;
//     empty without a bias.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "checks.h"
#include "tensors.h"

namespace natten_ops {

inline std::optional<TensorInfo> info_of(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<TensorInfo>(*tensor) : std::nullopt;
}

template <typename BackEnd>
std::tuple<Tensor, Tensor> run_forward(const QueryKeyValue& inputs,
                                       const std::optional<Tensor>& rpb_tensor,
                                       const std::vector<int64_t>& kernel_size,
                                       const std::vector<int64_t>& dilation, double scale,
                                       bool allow_tf32) {
  const TensorInfo& query = inputs.query;
  const std::optional<TensorInfo> rpb = info_of(rpb_tensor);
  const Problem problem = check_inputs(inputs, rpb, kernel_size, dilation, scale);
  Tensor output = allocate_like(query);
  Tensor logsumexp = allocate(query, query.dim - 1, query.sizes, compute_type(query));
  BackEnd::forward(problem, inputs, rpb, TensorInfo(output), TensorInfo(logsumexp), allow_tf32);
  return {output, logsumexp};
}

// Fills the gradients of the inputs and returns that of the bias; empty without a bias.
template <typename BackEnd>
Tensor run_backward(const Tensor& grad_output, const QueryKeyValue& inputs,
                    const std::optional<Tensor>& rpb_tensor, const Tensor& output,
                    const Tensor& logsumexp, const std::vector<int64_t>& kernel_size,
                    const std::vector<int64_t>& dilation, double scale, const QueryKeyValue& grads,
                    bool allow_tf32) {
  const TensorInfo& query = inputs.query;
  const TensorInfo output_info(output), logsumexp_info(logsumexp);
  const std::optional<TensorInfo> rpb = info_of(rpb_tensor);
  const Problem problem = check_inputs(inputs, rpb, kernel_size, dilation, scale);
  check_like_query(output_info, query, "output");
  check_like_query(TensorInfo(grad_output), query, "grad_output");
  check_logsumexp(logsumexp_info, query);

  Tensor grad_bias = BackEnd::backward(problem, grad_output, inputs, rpb, output_info,
                                       logsumexp_info, grads, allow_tf32);
  const TensorInfo grad_info(grad_bias);
  const ScalarType wanted = rpb ? rpb->dtype : query.dtype;
  if (grad_info.dtype == wanted) return grad_bias;
  Tensor grad_rpb = allocate(grad_info, grad_info.dim, grad_info.sizes, wanted);
  torch::stable::copy_(grad_rpb, grad_bias);
  return grad_rpb;
}

template <typename BackEnd>
std::tuple<Tensor, Tensor> na_forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                      const std::optional<Tensor>& rpb,
                                      std::vector<int64_t> kernel_size,
                                      std::vector<int64_t> dilation, double scale,
                                      bool allow_tf32) {
  return run_forward<BackEnd>({query, key, value}, rpb, kernel_size, dilation, scale, allow_tf32);
}

template <typename BackEnd>
std::tuple<Tensor, Tensor, Tensor, Tensor> na_backward(
    const Tensor& grad_output, const Tensor& query, const Tensor& key, const Tensor& value,
    const std::optional<Tensor>& rpb, const Tensor& output, const Tensor& logsumexp,
    std::vector<int64_t> kernel_size, std::vector<int64_t> dilation, double scale,
    bool allow_tf32) {
  const QueryKeyValue inputs(query, key, value);
  Tensor grad_query = allocate_like(inputs.query);
  Tensor grad_key = allocate_like(inputs.query);
  Tensor grad_value = allocate_like(inputs.query);
  Tensor grad_rpb =
      run_backward<BackEnd>(grad_output, inputs, rpb, output, logsumexp, kernel_size, dilation,
                            scale, {grad_query, grad_key, grad_value}, allow_tf32);
  return {grad_query, grad_key, grad_value, grad_rpb};
}

template <typename BackEnd>
std::tuple<Tensor, Tensor> na_packed_forward(const Tensor& qkv, const std::optional<Tensor>& rpb,
                                             std::vector<int64_t> kernel_size,
                                             std::vector<int64_t> dilation, double scale,
                                             bool allow_tf32) {
  return run_forward<BackEnd>(QueryKeyValue(TensorInfo(qkv)), rpb, kernel_size, dilation, scale,
                              allow_tf32);
}

template <typename BackEnd>
std::tuple<Tensor, Tensor> na_packed_backward(const Tensor& grad_output, const Tensor& qkv,
                                              const std::optional<Tensor>& rpb,
                                              const Tensor& output, const Tensor& logsumexp,
                                              std::vector<int64_t> kernel_size,
                                              std::vector<int64_t> dilation, double scale,
                                              bool allow_tf32) {
  const TensorInfo packed(qkv);
  const QueryKeyValue inputs(packed);
  Tensor grad_qkv = allocate_like(packed);
  Tensor grad_rpb =
      run_backward<BackEnd>(grad_output, inputs, rpb, output, logsumexp, kernel_size, dilation,
                            scale, QueryKeyValue(TensorInfo(grad_qkv)), allow_tf32);
  return {grad_qkv, grad_rpb};
}

// For the block of STABLE_TORCH_LIBRARY_IMPL with the back end's dispatch key.
template <typename BackEnd, typename Library>
void register_operators(Library& library) {
  library.impl("na_forward", TORCH_BOX(&na_forward<BackEnd>));
  library.impl("na_backward", TORCH_BOX(&na_backward<BackEnd>));
  library.impl("na_packed_forward", TORCH_BOX(&na_packed_forward<BackEnd>));
  library.impl("na_packed_backward", TORCH_BOX(&na_packed_backward<BackEnd>));
}

}  // namespace natten_ops
