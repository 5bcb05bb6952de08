// The only file that knows torch, and it does so through the stable ABI (torch 2.10 and newer):
// declares the operators, checks their arguments, allocates results and runs the kernels. Autograd
// and shape rules are attached in Python (natten_ops/dispatch.py).
//
// Compiled twice: for the library that declares the operators and computes on the CPU, and, with
// NATTEN_OPS_CUDA defined, for the one that adds CUDA.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "problem.h"

#ifdef NATTEN_OPS_CUDA
#include <torch/csrc/stable/accelerator.h>

#include "cuda/calls.h"
#include "cuda/errors.h"
#include "cuda/kernels.h"

// In torch's library, but declared only where torch itself was built with CUDA.
extern "C" AOTI_TORCH_EXPORT AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                               void** stream);
#else
#include "cpu/calls.h"
#endif

namespace {

using natten_ops::Dtype;
using natten_ops::Problem;
using natten_ops::TensorView;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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

Dtype dtype_of(const Tensor& query) {
  switch (query.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Double:
      return Dtype::kFloat64;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    case ScalarType::Half:
      return Dtype::kFloat16;
    default:
      STD_TORCH_CHECK(false, "natten_ops: query must be float32, float64, bfloat16 or float16");
  }
}

// Half precision is computed in float32.
ScalarType compute_type(const Tensor& query) {
  return query.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_rpb(const Tensor& rpb, const Tensor& query, const Problem& problem) {
  STD_TORCH_CHECK(
      (rpb.scalar_type() == query.scalar_type() || rpb.scalar_type() == compute_type(query)) &&
          rpb.device() == query.device(),
      "natten_ops: rpb must have the dtype of query, or float32 where that is half"
      " precision, and its device");
  const int64_t rank = query.dim() - 3;
  bool fits = rpb.dim() == 1 + rank && rpb.size(0) == problem.heads && rpb.is_contiguous();
  for (int64_t axis = 0; fits && axis < rank; ++axis) {
    fits = rpb.size(1 + axis) == 2 * problem.kernel_size[2 - rank + axis] - 1;
  }
  STD_TORCH_CHECK(fits, "natten_ops: rpb must be contiguous (heads, 2 * kernel_size - 1, ...)");
}

TensorView view_of(const Tensor& tensor) {
  const int64_t rank = tensor.dim() - 3;
  return {tensor.data_ptr(),
          tensor.stride(0),
          {rank == 2 ? tensor.stride(1) : 0, tensor.stride(rank)},
          tensor.stride(rank + 1),
          tensor.stride(rank + 2)};
}

// Raises where torch fails, whose own exception, mostly for lack of memory, cannot pass its stable
// ABI.
Tensor empty_like(const Tensor& like, std::vector<int64_t> sizes,
                  std::optional<ScalarType> dtype = std::nullopt) {
  try {
    return torch::stable::new_empty(like, sizes, dtype);
  } catch (const std::runtime_error&) {
    int64_t numel = 1;
    for (const int64_t size : sizes) numel *= size;
    STD_TORCH_CHECK(false, "natten_ops: out of memory: torch could not allocate a tensor of ",
                    numel, " numbers on the device of query; use a smaller batch or feature map");
  }
}

std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes.push_back(tensor.size(i));
  return sizes;
}

// query, key and value as the kernels see them: three tensors, or slices of one.
struct Inputs {
  Tensor query, key, value;

  Inputs(Tensor query, Tensor key, Tensor value)
      : query(std::move(query)), key(std::move(key)), value(std::move(value)) {}

  // packed: (B, ..., 3, heads, head_dim)
  explicit Inputs(const Tensor& packed)
      : query(slice(packed, 0)), key(slice(packed, 1)), value(slice(packed, 2)) {}

  static Tensor slice(const Tensor& packed, int64_t index) {
    STD_TORCH_CHECK(packed.dim() >= 5 && packed.size(packed.dim() - 3) == 3,
                    "natten_ops: qkv must be (B, ..., 3, heads, head_dim)");
    return torch::stable::select(packed, packed.dim() - 3, index);
  }
};

// One of two back ends: how `attend` fills output and logsumexp, and how `differentiate` fills
// grads and returns the bias' gradient in the compute type, empty without a bias. Arguments are
// checked.

#ifdef NATTEN_OPS_CUDA

// On the current stream of the tensors' device, without waiting for the kernels. What is allocated
// here may go when the functions return: torch's allocator gives it only to later work of the same
// stream.
#define NATTEN_OPS_DISPATCH_KEY CUDA

void* current_stream(const Tensor& query) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(query.get_device_index(), &stream));
  return stream;
}

void check_cuda(const char* error) {
  STD_TORCH_CHECK(error == nullptr, "natten_ops: ", natten_ops::cuda::explain(error));
}

void check_covered(const Problem& problem) {
  STD_TORCH_CHECK(problem.head_dim <= natten_ops::cuda::kScalarMaxHeadDim,
                  "natten_ops: head_dim must be at most ", natten_ops::cuda::kScalarMaxHeadDim,
                  " on CUDA, got ", problem.head_dim,
                  "; na1d, na2d and na3d compute more with their reference");
}

// The bias as the kernels take it: in the compute type. None without a bias.
std::optional<Tensor> kernel_bias(const std::optional<Tensor>& rpb, const Tensor& query) {
  if (!rpb || rpb->scalar_type() == compute_type(query)) return rpb;
  Tensor bias = empty_like(*rpb, sizes_of(*rpb), compute_type(query));
  torch::stable::copy_(bias, *rpb);
  return bias;
}

void attend(const Problem& problem, const Inputs& inputs, const std::optional<Tensor>& rpb,
            const Tensor& output, const Tensor& logsumexp) {
  const Tensor& query = inputs.query;
  check_covered(problem);
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const std::optional<Tensor> bias = kernel_bias(rpb, query);
  const natten_ops::cuda::ForwardCall call{problem,
                                           dtype_of(query),
                                           view_of(query),
                                           view_of(inputs.key),
                                           view_of(inputs.value),
                                           view_of(output),
                                           bias ? bias->data_ptr() : nullptr,
                                           logsumexp.data_ptr()};
  check_cuda(natten_ops::cuda::forward(call, current_stream(query)));
}

Tensor differentiate(const Problem& problem, const Tensor& grad_output, const Inputs& inputs,
                     const std::optional<Tensor>& rpb, const Tensor& output,
                     const Tensor& logsumexp, const Inputs& grads) {
  const Tensor& query = inputs.query;
  check_covered(problem);
  const torch::stable::accelerator::DeviceGuard guard(query.get_device_index());
  const std::optional<Tensor> bias = kernel_bias(rpb, query);
  Tensor grad_bias =
      empty_like(query, rpb ? sizes_of(*rpb) : std::vector<int64_t>{0}, compute_type(query));
  if (query.numel() == 0) {
    torch::stable::zero_(grad_bias);
    return grad_bias;
  }
  natten_ops::cuda::BackwardCall call{problem,
                                      dtype_of(query),
                                      view_of(grad_output),
                                      view_of(query),
                                      view_of(inputs.key),
                                      view_of(inputs.value),
                                      view_of(output),
                                      bias ? bias->data_ptr() : nullptr,
                                      logsumexp.data_ptr(),
                                      view_of(grads.query),
                                      view_of(grads.key),
                                      view_of(grads.value),
                                      rpb ? grad_bias.data_ptr() : nullptr,
                                      nullptr};
  const Tensor scratch =
      empty_like(query, {natten_ops::cuda::backward_scratch(call)}, ScalarType::Byte);
  call.scratch = scratch.data_ptr();
  check_cuda(natten_ops::cuda::backward(call, current_stream(query)));
  return grad_bias;
}

#else

// On torch's threads.
#define NATTEN_OPS_DISPATCH_KEY CPU

constexpr int64_t kGrain = 1;  // one unit, some rows of windows, is work enough for a thread
constexpr double kLog2e = 1.4426950408889634;

// The bias as the kernels take it: in the compute type, times log2(e), with a vector's length more
// behind it. None without a bias.
std::optional<Tensor> kernel_bias(const std::optional<Tensor>& rpb, const Tensor& query) {
  if (!rpb) return std::nullopt;
  Tensor padded =
      empty_like(*rpb, {rpb->numel() + natten_ops::cpu::kMaxLanes}, compute_type(query));
  torch::stable::zero_(padded);
  Tensor bias = torch::stable::narrow(padded, 0, 0, rpb->numel());
  torch::stable::copy_(bias, torch::stable::view(*rpb, {rpb->numel()}));
  const auto scale = [&](auto* numbers) {
    for (int64_t i = 0; i < bias.numel(); ++i) numbers[i] *= kLog2e;
  };
  if (compute_type(query) == ScalarType::Double) {
    scale(static_cast<double*>(bias.data_ptr()));
  } else {
    scale(static_cast<float*>(bias.data_ptr()));
  }
  return bias;
}

void attend(const Problem& problem, const Inputs& inputs, const std::optional<Tensor>& rpb,
            const Tensor& output, const Tensor& logsumexp) {
  const Tensor& query = inputs.query;
  const std::optional<Tensor> bias = kernel_bias(rpb, query);
  const natten_ops::cpu::ForwardCall call{
      problem,
      natten_ops::cpu::make_forward_plan(problem, torch::stable::get_num_threads()),
      dtype_of(query),
      view_of(query),
      view_of(inputs.key),
      view_of(inputs.value),
      view_of(output),
      bias ? bias->data_ptr() : nullptr,
      logsumexp.data_ptr()};
  torch::stable::parallel_for(0, call.plan.units(problem), kGrain, [&](int64_t begin, int64_t end) {
    natten_ops::cpu::forward(call, begin, end);
  });
}

Tensor differentiate(const Problem& problem, const Tensor& grad_output, const Inputs& inputs,
                     const std::optional<Tensor>& rpb, const Tensor& /*output*/,
                     const Tensor& logsumexp, const Inputs& grads) {
  const Tensor& query = inputs.query;
  const auto plan = natten_ops::cpu::make_backward_plan(problem, torch::stable::get_num_threads());
  // Every slab's own sum of the bias' gradient; added in the order of the slabs.
  const int64_t partial_size =
      problem.batch * problem.heads * plan.head_slabs(problem) * problem.bias_size();
  Tensor partial = empty_like(query, {rpb ? partial_size : 0}, compute_type(query));
  const std::optional<Tensor> bias = kernel_bias(rpb, query);
  const natten_ops::cpu::BackwardCall call{problem,
                                           plan,
                                           dtype_of(query),
                                           view_of(grad_output),
                                           view_of(query),
                                           view_of(inputs.key),
                                           view_of(inputs.value),
                                           bias ? bias->data_ptr() : nullptr,
                                           logsumexp.data_ptr(),
                                           view_of(grads.query),
                                           view_of(grads.key),
                                           view_of(grads.value),
                                           rpb ? partial.data_ptr() : nullptr};
  torch::stable::parallel_for(0, plan.units(problem), kGrain, [&](int64_t begin, int64_t end) {
    natten_ops::cpu::backward(call, begin, end);
  });
  if (!rpb) return empty_like(query, {0}, compute_type(query));

  Tensor grad_bias = empty_like(query, sizes_of(*rpb), compute_type(query));
  if (compute_type(query) == ScalarType::Double) {
    natten_ops::cpu::sum_grad_bias<double>(call, static_cast<double*>(grad_bias.data_ptr()));
  } else {
    natten_ops::cpu::sum_grad_bias<float>(call, static_cast<float*>(grad_bias.data_ptr()));
  }
  return grad_bias;
}

// The instruction set in use, named as torch.backends.cpu.get_cpu_capability names it.
std::string cpu_capability() { return natten_ops::cpu::kernels().name; }

#endif

Problem check_inputs(const Inputs& inputs, const std::optional<Tensor>& rpb,
                     const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& dilation,
                     double scale) {
  const Problem problem = make_problem(inputs.query, kernel_size, dilation, scale);
  check_like_query(inputs.key, inputs.query, "key");
  check_like_query(inputs.value, inputs.query, "value");
  if (rpb) check_rpb(*rpb, inputs.query, problem);
  return problem;
}

std::tuple<Tensor, Tensor> run_forward(const Inputs& inputs, const std::optional<Tensor>& rpb,
                                       const std::vector<int64_t>& kernel_size,
                                       const std::vector<int64_t>& dilation, double scale) {
  const Tensor& query = inputs.query;
  const Problem problem = check_inputs(inputs, rpb, kernel_size, dilation, scale);
  std::vector<int64_t> sizes = sizes_of(query);
  Tensor output = empty_like(query, sizes);
  sizes.pop_back();
  Tensor logsumexp = empty_like(query, sizes, compute_type(query));
  attend(problem, inputs, rpb, output, logsumexp);
  return {output, logsumexp};
}

// Fills the gradients of the inputs and returns that of the bias, which is empty without one.
Tensor run_backward(const Tensor& grad_output, const Inputs& inputs,
                    const std::optional<Tensor>& rpb, const Tensor& output, const Tensor& logsumexp,
                    const std::vector<int64_t>& kernel_size, const std::vector<int64_t>& dilation,
                    double scale, const Inputs& grads) {
  const Tensor& query = inputs.query;
  const Problem problem = check_inputs(inputs, rpb, kernel_size, dilation, scale);
  check_like_query(output, query, "output");
  check_like_query(grad_output, query, "grad_output");
  std::vector<int64_t> row_sizes = sizes_of(query);
  row_sizes.pop_back();
  STD_TORCH_CHECK(sizes_of(logsumexp) == row_sizes && logsumexp.is_contiguous() &&
                      logsumexp.scalar_type() == compute_type(query) &&
                      logsumexp.device() == query.device(),
                  "natten_ops: logsumexp must be the one returned by the forward");

  Tensor grad_bias = differentiate(problem, grad_output, inputs, rpb, output, logsumexp, grads);
  const ScalarType wanted = rpb ? rpb->scalar_type() : query.scalar_type();
  if (grad_bias.scalar_type() == wanted) return grad_bias;
  Tensor grad_rpb = empty_like(query, sizes_of(grad_bias), wanted);
  torch::stable::copy_(grad_rpb, grad_bias);
  return grad_rpb;
}

std::tuple<Tensor, Tensor> na_forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                      const std::optional<Tensor>& rpb,
                                      std::vector<int64_t> kernel_size,
                                      std::vector<int64_t> dilation, double scale) {
  return run_forward({query, key, value}, rpb, kernel_size, dilation, scale);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> na_backward(
    const Tensor& grad_output, const Tensor& query, const Tensor& key, const Tensor& value,
    const std::optional<Tensor>& rpb, const Tensor& output, const Tensor& logsumexp,
    std::vector<int64_t> kernel_size, std::vector<int64_t> dilation, double scale) {
  const std::vector<int64_t> sizes = sizes_of(query);
  const Inputs grads{empty_like(query, sizes), empty_like(query, sizes), empty_like(query, sizes)};
  Tensor grad_rpb = run_backward(grad_output, {query, key, value}, rpb, output, logsumexp,
                                 kernel_size, dilation, scale, grads);
  return {grads.query, grads.key, grads.value, grad_rpb};
}

std::tuple<Tensor, Tensor> na_packed_forward(const Tensor& qkv, const std::optional<Tensor>& rpb,
                                             std::vector<int64_t> kernel_size,
                                             std::vector<int64_t> dilation, double scale) {
  return run_forward(Inputs(qkv), rpb, kernel_size, dilation, scale);
}

std::tuple<Tensor, Tensor> na_packed_backward(const Tensor& grad_output, const Tensor& qkv,
                                              const std::optional<Tensor>& rpb,
                                              const Tensor& output, const Tensor& logsumexp,
                                              std::vector<int64_t> kernel_size,
                                              std::vector<int64_t> dilation, double scale) {
  Tensor grad_qkv = empty_like(qkv, sizes_of(qkv));
  Tensor grad_rpb = run_backward(grad_output, Inputs(qkv), rpb, output, logsumexp, kernel_size,
                                 dilation, scale, Inputs(grad_qkv));
  return {grad_qkv, grad_rpb};
}

}  // namespace

#ifdef NATTEN_OPS_CUDA

// The compute capabilities that this library was compiled for, written as in TORCH_CUDA_ARCH_LIST.
STABLE_TORCH_LIBRARY_FRAGMENT(natten_ops, m) { m.def("cuda_architectures() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(natten_ops, CompositeExplicitAutograd, m) {
  m.impl("cuda_architectures", TORCH_BOX(&natten_ops::cuda::architectures));
}

#else

STABLE_TORCH_LIBRARY_FRAGMENT(natten_ops, m) {
  m.def(
      "na_forward(Tensor query, Tensor key, Tensor value, Tensor? rpb, int[] kernel_size, "
      "int[] dilation, float scale) -> (Tensor output, Tensor logsumexp)");
  // grad_rpb is empty where rpb is None. output is for kernels that want it; those of the CPU do
  // not.
  m.def(
      "na_backward(Tensor grad_output, Tensor query, Tensor key, Tensor value, Tensor? rpb, "
      "Tensor output, Tensor logsumexp, int[] kernel_size, int[] dilation, float scale) -> "
      "(Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_rpb)");
  // The same with query, key and value as slices of one tensor, qkv (B, ..., 3, heads, head_dim),
  // as a fused projection makes them: their gradients then need no copy into the gradient of that
  // tensor.
  m.def(
      "na_packed_forward(Tensor qkv, Tensor? rpb, int[] kernel_size, int[] dilation, float scale) "
      "-> (Tensor output, Tensor logsumexp)");
  m.def(
      "na_packed_backward(Tensor grad_output, Tensor qkv, Tensor? rpb, Tensor output, "
      "Tensor logsumexp, int[] kernel_size, int[] dilation, float scale) -> "
      "(Tensor grad_qkv, Tensor grad_rpb)");
  m.def("cpu_capability() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(natten_ops, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability));
}

#endif

STABLE_TORCH_LIBRARY_IMPL(natten_ops, NATTEN_OPS_DISPATCH_KEY, m) {
  m.impl("na_forward", TORCH_BOX(&na_forward));
  m.impl("na_backward", TORCH_BOX(&na_backward));
  m.impl("na_packed_forward", TORCH_BOX(&na_packed_forward));
  m.impl("na_packed_backward", TORCH_BOX(&na_packed_backward));
}
