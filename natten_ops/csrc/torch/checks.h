// Checks of the operators' arguments. natten_ops/arguments.py checks what users pass to na1d, na2d
// and na3d; these checks are for callers of torch.ops.natten_ops.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "../problem.h"
#include "tensors.h"

namespace natten_ops {

inline void check_like_query(const TensorInfo& tensor, const TensorInfo& query, const char* name) {
  STD_TORCH_CHECK(tensor.dtype == query.dtype, "natten_ops: ", name,
                  " must have the dtype of query");
  STD_TORCH_CHECK(tensor.has_device_of(query), "natten_ops: ", name,
                  " must be on the device of query");
  STD_TORCH_CHECK(tensor.dim == query.dim, "natten_ops: ", name, " must have ", query.dim,
                  " dimensions like query, got ", tensor.dim);
  for (int64_t i = 0; i < query.dim; ++i) {
    STD_TORCH_CHECK(tensor.sizes[i] == query.sizes[i], "natten_ops: ", name,
                    " must have the shape of query, but dimension ", i, " is ", tensor.sizes[i],
                    " instead of ", query.sizes[i]);
  }
}

// The problem of one- or two-dimensional attention; the former gets an axis 0 of length 1.
inline Problem make_problem(const TensorInfo& query, const std::vector<int64_t>& kernel_size,
                            const std::vector<int64_t>& dilation, double scale) {
  const int64_t rank = query.dim - 3;
  STD_TORCH_CHECK(rank == 1 || rank == 2,
                  "natten_ops: query must be (B, L, heads, head_dim) or (B, H, W, heads, head_dim),"
                  " got ",
                  query.dim, " dimensions");
  STD_TORCH_CHECK(static_cast<int64_t>(kernel_size.size()) == rank,
                  "natten_ops: kernel_size needs ", rank, " entries, got ", kernel_size.size());
  STD_TORCH_CHECK(static_cast<int64_t>(dilation.size()) == rank, "natten_ops: dilation needs ",
                  rank, " entries, got ", dilation.size());
  const int64_t heads = query.sizes[rank + 1], head_dim = query.sizes[rank + 2];
  STD_TORCH_CHECK(heads >= 1 && head_dim >= 1,
                  "natten_ops: query needs at least one head and channel");
  Problem problem{query.sizes[0], {1, 1}, heads, head_dim, {1, 1}, {1, 1}, scale};
  for (int64_t axis = 0; axis < rank; ++axis) {
    const int64_t length = query.sizes[1 + axis];
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

inline void check_rpb(const TensorInfo& rpb, const TensorInfo& query, const Problem& problem) {
  STD_TORCH_CHECK(
      (rpb.dtype == query.dtype || rpb.dtype == compute_type(query)) && rpb.has_device_of(query),
      "natten_ops: rpb must have the device of query, and its dtype (or float32 if query is in half"
      " precision)");
  const int64_t rank = query.dim - 3;
  bool fits = rpb.dim == 1 + rank && rpb.sizes[0] == problem.heads && rpb.is_contiguous();
  for (int64_t axis = 0; fits && axis < rank; ++axis) {
    fits = rpb.sizes[1 + axis] == 2 * problem.kernel_size[2 - rank + axis] - 1;
  }
  STD_TORCH_CHECK(fits, "natten_ops: rpb must be contiguous (heads, 2 * kernel_size - 1, ...)");
}

inline void check_logsumexp(const TensorInfo& logsumexp, const TensorInfo& query) {
  STD_TORCH_CHECK(logsumexp.dim == query.dim - 1 &&
                      std::equal(logsumexp.sizes, logsumexp.sizes + logsumexp.dim, query.sizes) &&
                      logsumexp.is_contiguous() && logsumexp.dtype == compute_type(query) &&
                      logsumexp.has_device_of(query),
                  "natten_ops: logsumexp must be the one returned by the forward");
}

// Checks what forward and backward have in common.
inline Problem check_inputs(const QueryKeyValue& inputs, const std::optional<TensorInfo>& rpb,
                            const std::vector<int64_t>& kernel_size,
                            const std::vector<int64_t>& dilation, double scale) {
  const Problem problem = make_problem(inputs.query, kernel_size, dilation, scale);
  check_like_query(inputs.key, inputs.query, "key");
  check_like_query(inputs.value, inputs.query, "value");
  if (rpb) check_rpb(*rpb, inputs.query, problem);
  return problem;
}

}  // namespace natten_ops
