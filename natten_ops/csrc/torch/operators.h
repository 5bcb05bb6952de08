// The operators of schema.cpp for any back end: check arguments, allocate results, compute.
//
// A back end is a struct with two static functions, which get checked arguments:
//
//   void forward(const Problem&, const QueryKeyValue& inputs, const std::optional<Tensor>& rpb,
//                const Tensor& output, const Tensor& logsumexp);
//     fills output and logsumexp;
//
//   Tensor backward(const Problem&, const Tensor& grad_output, const QueryKeyValue& inputs,
//                   const std::optional<Tensor>& rpb, const Tensor& output,
//                   const Tensor& logsumexp, const QueryKeyValue& grads);
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

template <typename BackEnd>
std::tuple<Tensor, Tensor> run_forward(const QueryKeyValue& inputs,
                                       const std::optional<Tensor>& rpb,
                                       const std::vector<int64_t>& kernel_size,
                                       const std::vector<int64_t>& dilation, double scale) {
  const Tensor& query = inputs.query;
  const Problem problem = check_inputs(inputs, rpb, kernel_size, dilation, scale);
  std::vector<int64_t> sizes = sizes_of(query);
  Tensor output = allocate(query, sizes);
  sizes.pop_back();
  Tensor logsumexp = allocate(query, sizes, compute_type(query));
  BackEnd::forward(problem, inputs, rpb, output, logsumexp);
  return {output, logsumexp};
}

// Fills the gradients of the inputs and returns that of the bias; empty without a bias.
template <typename BackEnd>
Tensor run_backward(const Tensor& grad_output, const QueryKeyValue& inputs,
                    const std::optional<Tensor>& rpb, const Tensor& output, const Tensor& logsumexp,
                    const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& dilation,
                    double scale, const QueryKeyValue& grads) {
  const Tensor& query = inputs.query;
  const Problem problem = check_inputs(inputs, rpb, kernel_size, dilation, scale);
  check_like_query(output, query, "output");
  check_like_query(grad_output, query, "grad_output");
  check_logsumexp(logsumexp, query);

  Tensor grad_bias = BackEnd::backward(problem, grad_output, inputs, rpb, output, logsumexp, grads);
  const ScalarType wanted = rpb ? rpb->scalar_type() : query.scalar_type();
  if (grad_bias.scalar_type() == wanted) return grad_bias;
  Tensor grad_rpb = allocate(query, sizes_of(grad_bias), wanted);
  torch::stable::copy_(grad_rpb, grad_bias);
  return grad_rpb;
}

template <typename BackEnd>
std::tuple<Tensor, Tensor> na_forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                      const std::optional<Tensor>& rpb,
                                      std::vector<int64_t> kernel_size,
                                      std::vector<int64_t> dilation, double scale) {
  return run_forward<BackEnd>({query, key, value}, rpb, kernel_size, dilation, scale);
}

template <typename BackEnd>
std::tuple<Tensor, Tensor, Tensor, Tensor> na_backward(
    const Tensor& grad_output, const Tensor& query, const Tensor& key, const Tensor& value,
    const std::optional<Tensor>& rpb, const Tensor& output, const Tensor& logsumexp,
    std::vector<int64_t> kernel_size, std::vector<int64_t> dilation, double scale) {
  const std::vector<int64_t> sizes = sizes_of(query);
  const QueryKeyValue grads{allocate(query, sizes), allocate(query, sizes), allocate(query, sizes)};
  Tensor grad_rpb = run_backward<BackEnd>(grad_output, {query, key, value}, rpb, output, logsumexp,
                                          kernel_size, dilation, scale, grads);
  return {grads.query, grads.key, grads.value, grad_rpb};
}

template <typename BackEnd>
std::tuple<Tensor, Tensor> na_packed_forward(const Tensor& qkv, const std::optional<Tensor>& rpb,
                                             std::vector<int64_t> kernel_size,
                                             std::vector<int64_t> dilation, double scale) {
  return run_forward<BackEnd>(QueryKeyValue(qkv), rpb, kernel_size, dilation, scale);
}

template <typename BackEnd>
std::tuple<Tensor, Tensor> na_packed_backward(const Tensor& grad_output, const Tensor& qkv,
                                              const std::optional<Tensor>& rpb,
                                              const Tensor& output, const Tensor& logsumexp,
                                              std::vector<int64_t> kernel_size,
                                              std::vector<int64_t> dilation, double scale) {
  Tensor grad_qkv = allocate(qkv, sizes_of(qkv));
  Tensor grad_rpb = run_backward<BackEnd>(grad_output, QueryKeyValue(qkv), rpb, output, logsumexp,
                                          kernel_size, dilation, scale, QueryKeyValue(grad_qkv));
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
