// The operators on the CPU: the kernels of csrc/cpu on torch's threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../cpu/calls.h"
#include "operators.h"
#include "tensors.h"

namespace natten_ops {
namespace {

constexpr int64_t kGrain = 1;  // work units that are worth a thread
constexpr double kLog2e = 1.4426950408889634;

// The bias as the kernels read it: in the compute type, times log2(e), followed by zeros for as
// many lanes as a vector may have. None without a bias.
std::optional<Tensor> kernel_bias(const std::optional<Tensor>& rpb, const Tensor& query) {
  if (!rpb) return std::nullopt;
  Tensor padded = allocate(*rpb, {rpb->numel() + cpu::kMaxLanes}, compute_type(query));
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

struct CpuBackEnd {
  static void forward(const Problem& problem, const QueryKeyValue& inputs,
                      const std::optional<Tensor>& rpb, const Tensor& output,
                      const Tensor& logsumexp) {
    const Tensor& query = inputs.query;
    const std::optional<Tensor> bias = kernel_bias(rpb, query);
    const cpu::ForwardCall call{problem,
                                cpu::make_forward_plan(problem, torch::stable::get_num_threads()),
                                dtype_of(query),
                                view_of(query),
                                view_of(inputs.key),
                                view_of(inputs.value),
                                view_of(output),
                                bias ? bias->data_ptr() : nullptr,
                                logsumexp.data_ptr()};
    torch::stable::parallel_for(
        0, call.plan.units(problem), kGrain,
        [&](int64_t begin, int64_t end) { cpu::forward(call, begin, end); });
  }

  static Tensor backward(const Problem& problem, const Tensor& grad_output,
                         const QueryKeyValue& inputs, const std::optional<Tensor>& rpb,
                         const Tensor& /*output*/, const Tensor& logsumexp,
                         const QueryKeyValue& grads) {
    const Tensor& query = inputs.query;
    const auto plan = cpu::make_backward_plan(problem, torch::stable::get_num_threads());
    // Each slab's own sum of the bias' gradient. sum_grad_bias adds them in the order of the slabs.
    const int64_t partial_size =
        problem.batch * problem.heads * plan.head_slabs(problem) * problem.bias_size();
    Tensor partial = allocate(query, {rpb ? partial_size : 0}, compute_type(query));
    const std::optional<Tensor> bias = kernel_bias(rpb, query);
    const cpu::BackwardCall call{problem,
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
      cpu::backward(call, begin, end);
    });
    if (!rpb) return allocate(query, {0}, compute_type(query));

    Tensor grad_bias = allocate(query, sizes_of(*rpb), compute_type(query));
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
