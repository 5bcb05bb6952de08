// The operators on the CPU: the kernels of csrc/cpu on torch's threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "../cpu/calls.h"
#include "operators.h"
#include "tensors.h"

namespace natten_ops {
namespace {

constexpr int64_t kGrain = 1;  // work units that are worth a thread
constexpr double kLog2e = 1.4426950408889634;

template <typename From, typename To>
void scale_bias(const TensorInfo& rpb, const Tensor& bias) {
  const From* from = static_cast<const From*>(rpb.data);
  To* to = static_cast<To*>(bias.data_ptr());
  const int64_t numel = rpb.numel();
  for (int64_t i = 0; i < numel; ++i) to[i] = static_cast<To>(static_cast<To>(from[i]) * kLog2e);
  std::fill_n(to + numel, cpu::kMaxLanes, To(0));
}

// The bias as the kernels read it: in the compute type, times log2(e), followed by zeros for as
// many lanes as a vector may have. None without a bias.
std::optional<Tensor> kernel_bias(const std::optional<TensorInfo>& rpb, const TensorInfo& query) {
  if (!rpb) return std::nullopt;
  Tensor bias = allocate(query, rpb->numel() + cpu::kMaxLanes, compute_type(query));
  switch (dtype_of(*rpb)) {
    case Dtype::kFloat32:
      scale_bias<float, float>(*rpb, bias);
      break;
    case Dtype::kFloat64:
      scale_bias<double, double>(*rpb, bias);
      break;
    case Dtype::kBFloat16:
      scale_bias<torch::headeronly::BFloat16, float>(*rpb, bias);
      break;
    case Dtype::kFloat16:
      scale_bias<torch::headeronly::Half, float>(*rpb, bias);
      break;
  }
  return bias;
}

struct CpuBackEnd {
  static void forward(const Problem& problem, const QueryKeyValue& inputs,
                      const std::optional<TensorInfo>& rpb, const TensorInfo& output,
                      const TensorInfo& logsumexp, bool /*allow_tf32*/) {
    const TensorInfo& query = inputs.query;
    const std::optional<Tensor> bias = kernel_bias(rpb, query);
    const Dtype dtype = dtype_of(query);
    const cpu::Kernels& kernels = cpu::forward_kernels(problem, dtype);
    const cpu::ForwardCall call{problem,
                                cpu::make_forward_plan(problem, dtype, kernels.number_bytes,
                                                       torch::stable::get_num_threads()),
                                &kernels,
                                dtype,
                                view_of(query),
                                view_of(inputs.key),
                                view_of(inputs.value),
                                view_of(output),
                                bias ? bias->data_ptr() : nullptr,
                                logsumexp.data};
    torch::stable::parallel_for(
        0, call.plan.units(problem), kGrain,
        [&](int64_t begin, int64_t end) { cpu::forward(call, begin, end); });
  }

  static Tensor backward(const Problem& problem, const Tensor& grad_output,
                         const QueryKeyValue& inputs, const std::optional<TensorInfo>& rpb,
                         const TensorInfo& /*output*/, const TensorInfo& logsumexp,
                         const QueryKeyValue& grads, bool /*allow_tf32*/) {
    const TensorInfo& query = inputs.query;
    const auto plan =
        cpu::make_backward_plan(problem, dtype_of(query), torch::stable::get_num_threads());
    // Each slab's own sum of the bias' gradient. sum_grad_bias adds them in the order of the slabs.
    std::optional<Tensor> partial;
    if (rpb) {
      const int64_t slabs = problem.batch * problem.heads * plan.head_slabs(problem);
      partial = allocate(query, slabs * problem.bias_size(), compute_type(query));
    }
    const std::optional<Tensor> bias = kernel_bias(rpb, query);
    const cpu::BackwardCall call{problem,
                                 plan,
                                 dtype_of(query),
                                 view_of(TensorInfo(grad_output)),
                                 view_of(query),
                                 view_of(inputs.key),
                                 view_of(inputs.value),
                                 bias ? bias->data_ptr() : nullptr,
                                 logsumexp.data,
                                 view_of(grads.query),
                                 view_of(grads.key),
                                 view_of(grads.value),
                                 partial ? partial->data_ptr() : nullptr};
    torch::stable::parallel_for(0, plan.units(problem), kGrain, [&](int64_t begin, int64_t end) {
      cpu::backward(call, begin, end);
    });
    if (!rpb) return allocate(query, 0, query.dtype);

    Tensor grad_bias = allocate(query, rpb->dim, rpb->sizes, compute_type(query));
    if (compute_type(query) == ScalarType::Double) {
      cpu::sum_grad_bias<double>(call, static_cast<double*>(grad_bias.data_ptr()));
    } else {
      cpu::sum_grad_bias<float>(call, static_cast<float*>(grad_bias.data_ptr()));
    }
    return grad_bias;
  }
};

std::string cpu_capability() { return cpu::kernels().name; }

}  // namespace
}  // namespace natten_ops

STABLE_TORCH_LIBRARY_IMPL(natten_ops, CPU, m) {
  natten_ops::register_operators<natten_ops::CpuBackEnd>(m);
}

STABLE_TORCH_LIBRARY_IMPL(natten_ops, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&natten_ops::cpu_capability));
}
