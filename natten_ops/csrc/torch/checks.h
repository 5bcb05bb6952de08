// Checks of the operators' arguments. natten_ops/arguments.py checks what users pass to na1d, na2d
// and na3d; these checks are for callers of torch.ops.natten_ops.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "../problem.h"
#include "tensors.h"

namespace natten_ops {

inline void check_like_query(const Tensor& tensor, const Tensor& query, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == query.scalar_type(), "natten_ops: ", name,
                  " must have the dtype of query");
  STD_TORCH_CHECK(tensor.device() == query.device(), "natten_ops: ", name,
                  " must be on the device of query");
  STD_TORCH_CHECK(tensor.dim() == query.dim(), "natten_ops: ", name, " must have ", query.dim(),
                  " dimensions like query, got ", tensor.dim());
  for (int64_t i = 0; i < query.dim(); ++i) {
    STD_TORCH_CHECK(tensor.size(i) == query.size(i), "natten_ops: ", name,
                    " must have the shape of query, but dimension ", i, " is ", tensor.size(i),
                    " instead of ", query.size(i));
  }
}

// The problem of one- or two-dimensional attention; the former gets an axis 0 of length 1.
inline Problem make_problem(const Tensor& query, const std::vector<int64_t>& kernel_size,
                            const std::vector<int64_t>& dilation, double scale) {
  const int64_t rank = query.dim() - 3;
  STD_TORCH_CHECK(rank == 1 || rank == 2,
                  "natten_ops: query must be (B, L, heads, head_dim) or (B, H, W, heads, head_dim),"
                  " got ",
                  query.dim(), " dimensions");
  STD_TORCH_CHECK(static_cast<int64_t>(kernel_size.size()) == rank,
                  "natten_ops: kernel_size needs ", rank, " entries, got ", kernel_size.size());
  STD_TORCH_CHECK(static_cast<int64_t>(dilation.size()) == rank, "natten_ops: dilation needs ",
                  rank, " entries, got ", dilation.size());
  STD_TORCH_CHECK(query.size(rank + 1) >= 1 && query.size(rank + 2) >= 1,
                  "natten_ops: query needs at least one head and channel");
  Problem problem{query.size(0), {1, 1}, query.size(rank + 1), query.size(rank + 2), {1, 1},
                  {1, 1},        scale};
  for (int64_t axis = 0; axis < rank; ++axis) {
    const int64_t length = query.size(1 + axis);
    const int64_t k = kernel_size[axis];
    const int64_t d = dilation[axis];
    STD_TORCH_CHECK(k >= 1 && d >= 1 && k <= length / d, "natten_ops: kernel_size ", k,
                    " times dilation ", d, " must be positive and at most the length ", length,
                    " of axis ", axis);
    problem.length[2 - rank + axis] = length;
    problem.kernel_size[2 - rank + axis] = k;
    problem.dilation[2 - rank + axis] = d;
  }
  return problem;
}

inline void check_rpb(const Tensor& rpb, const Tensor& query, const Problem& problem) {
  STD_TORCH_CHECK(
      (rpb.scalar_type() == query.scalar_type() || rpb.scalar_type() == compute_type(query)) &&
          rpb.device() == query.device(),
      "natten_ops: rpb must have the device of query, and its dtype (or float32 if query is in half"
      " precision)");
  const int64_t rank = query.dim() - 3;
  bool fits = rpb.dim() == 1 + rank && rpb.size(0) == problem.heads && rpb.is_contiguous();
  for (int64_t axis = 0; fits && axis < rank; ++axis) {
    fits = rpb.size(1 + axis) == 2 * problem.kernel_size[2 - rank + axis] - 1;
  }
  STD_TORCH_CHECK(fits, "natten_ops: rpb must be contiguous (heads, 2 * kernel_size - 1, ...)");
}

inline void check_logsumexp(const Tensor& logsumexp, const Tensor& query) {
  std::vector<int64_t> sizes = sizes_of(query);
  sizes.pop_back();
  STD_TORCH_CHECK(sizes_of(logsumexp) == sizes && logsumexp.is_contiguous() &&
                      logsumexp.scalar_type() == compute_type(query) &&
                      logsumexp.device() == query.device(),
                  "natten_ops: logsumexp must be the one returned by the forward");
}

// Checks what forward and backward have in common.
inline Problem check_inputs(const QueryKeyValue& inputs, const std::optional<Tensor>& rpb,
                            const std::vector<int64_t>& kernel_size,
                            const std::vector<int64_t>& dilation, double scale) {
  const Problem problem = make_problem(inputs.query, kernel_size, dilation, scale);
  check_like_query(inputs.key, inputs.query, "key");
  check_like_query(inputs.value, inputs.query, "value");
  if (rpb) check_rpb(*rpb, inputs.query, problem);
  return problem;
}

}  // namespace natten_ops
