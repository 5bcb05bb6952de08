// The CPU kernels behind a C interface, for benchmarks/cpu_phases.py: one thread, float32 or
// bfloat16, contiguous tensors (1, rows, columns, heads, head_dim).
#include "../../natten_ops/csrc/cpu/calls.h"
#include "../../natten_ops/csrc/cpu/phases.h"

namespace natten_ops::cpu {

uint64_t phase_ticks[static_cast<int>(Phase::kCount)][2];

namespace {

TensorView view(const Problem& problem, void* data) {
  const int64_t token = problem.heads * problem.head_dim;
  return {data,
          problem.length[0] * problem.length[1] * token,
          {problem.length[1] * token, token},
          problem.head_dim,
          1};
}

}  // namespace
}  // namespace natten_ops::cpu

using natten_ops::Dtype;
using natten_ops::Problem;
namespace cpu = natten_ops::cpu;

// tensors: query, key, value, output, then for the backward grad_output and the three gradients.
// grad_bias has room for every slab. Returns the number of slabs' sums.
extern "C" int64_t run_kernels(const Problem* problem, int is_backward, int is_bfloat16,
                               void* const* tensors, const float* bias, float* logsumexp,
                               float* grad_bias) {
  const Dtype dtype = is_bfloat16 ? Dtype::kBFloat16 : Dtype::kFloat32;
  const auto at = [&](int index) { return cpu::view(*problem, tensors[index]); };
  if (!is_backward) {
    const cpu::Kernels& kernels = cpu::forward_kernels(*problem, dtype);
    const cpu::ForwardCall call{
        *problem, cpu::make_forward_plan(*problem, dtype, kernels.number_bytes, 1),
        &kernels, dtype,
        at(0),    at(1),
        at(2),    at(3),
        bias,     logsumexp};
    cpu::forward(call, 0, call.plan.units(*problem));
    return 0;
  }
  const cpu::Plan plan = cpu::make_backward_plan(*problem, dtype, 1);
  const int64_t slabs = problem->batch * problem->heads * plan.head_slabs(*problem);
  if (!tensors) return slabs;
  const cpu::BackwardCall call{*problem, plan,      dtype, at(4), at(0), at(1),    at(2),
                               bias,     logsumexp, at(5), at(6), at(7), grad_bias};
  cpu::backward(call, 0, plan.units(*problem));
  return slabs;
}

extern "C" uint64_t* ticks() { return &cpu::phase_ticks[0][0]; }
extern "C" int phases() { return static_cast<int>(cpu::Phase::kCount); }
extern "C" const char* capability() { return cpu::kernels().name; }
