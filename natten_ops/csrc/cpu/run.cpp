// Chooses the kernels for the processor, and runs them on a range of units.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "calls.h"
#ifdef NATTEN_OPS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace natten_ops::cpu {

namespace {

const Kernels& choose() {
#if defined(__x86_64__)
  const char* capability = std::getenv("ATEN_CPU_CAPABILITY");
  const auto is = [&](const char* name) { return capability && !std::strcmp(capability, name); };
  if (is("default")) return kDefaultKernels;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && !is("avx2")) return kAvx512Kernels;
  if (avx2) return kAvx2Kernels;
#endif
  return kDefaultKernels;
}

#ifdef NATTEN_OPS_AMX
// Whether the processor has AMX for bfloat16, and the operating system lets this process use it.
bool may_use_amx() {
  if (std::getenv("ATEN_CPU_CAPABILITY")) return false;
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kBFloat16 = 1u << 5;  // of AVX-512
  if (!(eax & kBFloat16) || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kMatrices = 1u << 24 | 1u << 22;  // the registers, and their bfloat16
  if ((edx & kMatrices) != kMatrices) return false;
  // Linux wants to be asked, because a thread's registers take 8 KB more.
  constexpr int kRequestPermission = 0x1023, kMatrixRegisters = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kMatrixRegisters) == 0;
}
#endif

template <typename Call, typename ScratchSize, typename Compute>
void run_units(const Kernels& kernels, const Call& call, bool is_backward, ScratchSize scratch_size,
               Compute compute, int64_t begin, int64_t end) {
  const bool is_double = call.dtype == Dtype::kFloat64;
  const int64_t number = is_double ? sizeof(double) : sizeof(float);
  const VectorSizes vectors{kernels.wide / number, kernels.narrow / number,
                            kernels.shuffle && !is_double, kernels.shuffle_fast && !is_double};
  // Releases large scratch memory at the end, also if something throws.
  struct Release {
    ~Release() { release_large_thread_scratch(); }
  } release;
  std::optional<Columns> columns;
  int64_t column_block = -1;
  void* scratch = nullptr;
  Run run = make_run(call.problem, call.plan, begin);
  for (int64_t unit = begin; unit < end; ++unit) {
    if (run.column_block != column_block) {
      column_block = run.column_block;
      columns.emplace(call.problem, call.plan, column_block, is_backward, vectors);
      const int64_t bytes = scratch_size(call, *columns);
      scratch = thread_scratch(bytes);
      std::memset(scratch, 0, bytes);
    }
    const bool is_last = unit + 1 == end;
    const Run next = make_run(call.problem, call.plan, is_last ? unit : unit + 1);
    compute(call, run, is_last ? nullptr : &next, *columns, scratch);
    run = next;
  }
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const Kernels& forward_kernels([[maybe_unused]] const Problem& problem,
                               [[maybe_unused]] Dtype dtype) {
#ifdef NATTEN_OPS_AMX
  static const bool has_amx = &kernels() == &kAvx512Kernels && may_use_amx();
  const auto [k0, k1] = problem.kernel_size;
  // Matrices hold 32 channels: a quarter of them may be zeros.
  const bool is_full = (problem.head_dim + 31) / 32 * 32 * 3 <= problem.head_dim * 4;
  if (has_amx && dtype == Dtype::kBFloat16 && is_full && k0 <= 16 && k1 <= 16) return kAmxKernels;
#endif
  return kernels();
}

void forward(const ForwardCall& call, int64_t begin, int64_t end) {
  run_units(*call.kernels, call, false, call.kernels->forward_scratch, call.kernels->forward, begin,
            end);
}

void backward(const BackwardCall& call, int64_t begin, int64_t end) {
  run_units(kernels(), call, true, kernels().backward_scratch, kernels().backward, begin, end);
}

template <typename T>
void sum_grad_bias(const BackwardCall& call, T* grad_bias) {
  const Problem& problem = call.problem;
  const T* partial = static_cast<const T*>(call.grad_bias);
  const int64_t size = problem.bias_size();
  const int64_t head_slabs = call.plan.head_slabs(problem);
  for (int64_t head = 0; head < problem.heads; ++head) {
    for (int64_t entry = 0; entry < size; ++entry) {
      double sum = 0;
      for (int64_t batch = 0; batch < problem.batch; ++batch) {
        const int64_t first = (batch * problem.heads + head) * head_slabs;
        for (int64_t slab = 0; slab < head_slabs; ++slab) {
          sum += partial[(first + slab) * size + entry];
        }
      }
      grad_bias[head * size + entry] = static_cast<T>(sum);
    }
  }
}

template void sum_grad_bias<float>(const BackwardCall&, float*);
template void sum_grad_bias<double>(const BackwardCall&, double*);

}  // namespace natten_ops::cpu
