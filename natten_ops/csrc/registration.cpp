// The only file that knows torch, and it does so through the stable ABI (torch 2.10 and newer):
// declares the operators, checks their arguments, allocates results and runs the CPU kernels on
// torch's threads. Autograd and shape rules are attached in Python (natten_ops/operator.py).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/neighborhood_attention.h"
#include "problem.h"

namespace {

using natten_ops::Problem;
using natten_ops::Strided;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 1;  // one unit, a row of windows, is work enough for a thread

void check_like_query(const Tensor& tensor, const Tensor& query, const char* name) {
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

// Sizes of one- or two-dimensional attention; the missing axis of the former has length 1.
Problem make_problem(const Tensor& query, const std::vector<int64_t>& kernel_size,
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

void check_rpb(const Tensor& rpb, const Tensor& query, const Problem& problem) {
  STD_TORCH_CHECK(rpb.scalar_type() == query.scalar_type() && rpb.device() == query.device(),
                  "natten_ops: rpb must have the dtype and device of query");
  const int64_t rank = query.dim() - 3;
  bool fits = rpb.dim() == 1 + rank && rpb.size(0) == problem.heads && rpb.is_contiguous();
  for (int64_t axis = 0; fits && axis < rank; ++axis) {
    fits = rpb.size(1 + axis) == 2 * problem.kernel_size[2 - rank + axis] - 1;
  }
  STD_TORCH_CHECK(fits, "natten_ops: rpb must be contiguous (heads, 2 * kernel_size - 1, ...)");
}

template <typename T>
Strided<T> strided(const Tensor& tensor) {
  const int64_t rank = tensor.dim() - 3;
  return {static_cast<T*>(tensor.data_ptr()),
          tensor.stride(0),
          {rank == 2 ? tensor.stride(1) : 0, tensor.stride(rank)},
          tensor.stride(rank + 1),
          tensor.stride(rank + 2)};
}

Tensor empty_like(const Tensor& like, std::vector<int64_t> sizes,
                  std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_empty(like, sizes, dtype);
}

std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes.push_back(tensor.size(i));
  return sizes;
}

// Calls f<float>() or f<double>().
template <typename F>
void dispatch(const Tensor& query, F f) {
  switch (query.scalar_type()) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    default:
      STD_TORCH_CHECK(false, "natten_ops: the CPU operator computes in float32 and float64 only");
  }
}

std::tuple<Tensor, Tensor> forward_cpu(const Tensor& query, const Tensor& key, const Tensor& value,
                                       const std::optional<Tensor>& rpb,
                                       std::vector<int64_t> kernel_size,
                                       std::vector<int64_t> dilation, double scale) {
  const Problem problem = make_problem(query, kernel_size, dilation, scale);
  check_like_query(key, query, "key");
  check_like_query(value, query, "value");
  if (rpb) check_rpb(*rpb, query, problem);

  std::vector<int64_t> sizes = sizes_of(query);
  Tensor output = empty_like(query, sizes);
  sizes.pop_back();
  Tensor logsumexp = empty_like(query, sizes);
  dispatch(query, [&](auto zero) {
    using T = decltype(zero);
    const natten_ops::cpu::ForwardTensors<T> tensors{
        strided<const T>(query), strided<const T>(key),
        strided<const T>(value), rpb ? static_cast<const T*>(rpb->data_ptr()) : nullptr,
        strided<T>(output),      static_cast<T*>(logsumexp.data_ptr())};
    torch::stable::parallel_for(0, natten_ops::cpu::forward_units(problem), kGrain,
                                [&](int64_t begin, int64_t end) {
                                  natten_ops::cpu::forward<T>(problem, tensors, begin, end);
                                });
  });
  return {output, logsumexp};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cpu(
    const Tensor& grad_output, const Tensor& query, const Tensor& key, const Tensor& value,
    const std::optional<Tensor>& rpb, const Tensor& output, const Tensor& logsumexp,
    std::vector<int64_t> kernel_size, std::vector<int64_t> dilation, double scale) {
  const Problem problem = make_problem(query, kernel_size, dilation, scale);
  check_like_query(key, query, "key");
  check_like_query(value, query, "value");
  check_like_query(output, query, "output");
  check_like_query(grad_output, query, "grad_output");
  if (rpb) check_rpb(*rpb, query, problem);
  std::vector<int64_t> row_sizes = sizes_of(query);
  row_sizes.pop_back();
  STD_TORCH_CHECK(sizes_of(logsumexp) == row_sizes && logsumexp.is_contiguous() &&
                      logsumexp.scalar_type() == query.scalar_type(),
                  "natten_ops: logsumexp must be the one returned by the forward");

  Tensor grad_query = empty_like(query, sizes_of(query));
  Tensor grad_key = empty_like(query, sizes_of(query));
  Tensor grad_value = empty_like(query, sizes_of(query));
  Tensor delta = empty_like(query, row_sizes);
  Tensor grad_rpb = empty_like(query, rpb ? sizes_of(*rpb) : std::vector<int64_t>{0});
  const int64_t slabs = natten_ops::cpu::slabs(problem);
  std::vector<double> grad_rpb_partial(rpb ? problem.heads * slabs * problem.bias_size() : 0);
  dispatch(query, [&](auto zero) {
    using T = decltype(zero);
    const natten_ops::cpu::BackwardTensors<T> tensors{
        strided<const T>(grad_output),
        strided<const T>(query),
        strided<const T>(key),
        strided<const T>(value),
        strided<const T>(output),
        rpb ? static_cast<const T*>(rpb->data_ptr()) : nullptr,
        static_cast<const T*>(logsumexp.data_ptr()),
        static_cast<T*>(delta.data_ptr()),
        strided<T>(grad_query),
        strided<T>(grad_key),
        strided<T>(grad_value),
        rpb ? grad_rpb_partial.data() : nullptr};
    torch::stable::parallel_for(0, natten_ops::cpu::backward_query_units(problem), kGrain,
                                [&](int64_t begin, int64_t end) {
                                  natten_ops::cpu::backward_query<T>(problem, tensors, begin, end);
                                });
    torch::stable::parallel_for(0, natten_ops::cpu::backward_key_units(problem), kGrain,
                                [&](int64_t begin, int64_t end) {
                                  natten_ops::cpu::backward_key<T>(problem, tensors, begin, end);
                                });
    if (rpb) {
      T* out = static_cast<T*>(grad_rpb.data_ptr());
      for (int64_t head = 0; head < problem.heads; ++head) {
        for (int64_t entry = 0; entry < problem.bias_size(); ++entry) {
          double sum = 0;
          for (int64_t slab = 0; slab < slabs; ++slab) {
            sum += grad_rpb_partial[(head * slabs + slab) * problem.bias_size() + entry];
          }
          out[head * problem.bias_size() + entry] = static_cast<T>(sum);
        }
      }
    }
  });
  return {grad_query, grad_key, grad_value, grad_rpb};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(natten_ops, m) {
  m.def(
      "na_forward(Tensor query, Tensor key, Tensor value, Tensor? rpb, int[] kernel_size, "
      "int[] dilation, float scale) -> (Tensor output, Tensor logsumexp)");
  // grad_rpb is empty where rpb is None.
  m.def(
      "na_backward(Tensor grad_output, Tensor query, Tensor key, Tensor value, Tensor? rpb, "
      "Tensor output, Tensor logsumexp, int[] kernel_size, int[] dilation, float scale) -> "
      "(Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_rpb)");
}

STABLE_TORCH_LIBRARY_IMPL(natten_ops, CPU, m) {
  m.impl("na_forward", TORCH_BOX(&forward_cpu));
  m.impl("na_backward", TORCH_BOX(&backward_cpu));
}
