// The arguments of the CPU kernels, and the sets of kernels: one for each instruction set.
//
// Several threads compute disjoint ranges of work units. No two units write the same memory, and
// the order of additions into a result does not depend on how the units are spread over threads:
// results are the same for any thread count.
#pragma once

#include <cstdint>

#include "../problem.h"
#include "plan.h"

namespace natten_ops::cpu {

struct Kernels;

// Computed in double for float64, else in float: "compute type" below.
struct ForwardCall {
  Problem problem;
  Plan plan;
  const Kernels* kernels;
  Dtype dtype;
  TensorView query, key, value, output;
  const void* bias;  // compute type, contiguous (heads, bias_size), times log2(e); or null
  void* logsumexp;   // compute type, contiguous (batch, axis 0, axis 1, heads)
};

struct BackwardCall {
  Problem problem;
  Plan plan;
  Dtype dtype;
  TensorView grad_output, query, key, value;
  const void* bias;       // as in the forward
  const void* logsumexp;  // as in the forward
  TensorView grad_query, grad_key, grad_value;
  void* grad_bias;  // compute type, contiguous (slabs, bias_size): each slab's sum, or null
};

// A kernel computes one run at a time. Runs of the same columns share scratch memory, which starts
// as zeros. `next` is the run that follows, or null.
struct Kernels {
  const char* name;            // as torch names the capability
  int64_t wide, narrow;        // bytes of the vectors
  int64_t number_bytes;        // of float32 and half precision, in buffers
  bool shuffle, shuffle_fast;  // as in VectorSizes, for floats
  int64_t (*forward_scratch)(const ForwardCall& call, const Columns& columns);  // bytes
  void (*forward)(const ForwardCall& call, const Run& run, const Run* next, const Columns& columns,
                  void* scratch);
  int64_t (*backward_scratch)(const BackwardCall& call, const Columns& columns);
  void (*backward)(const BackwardCall& call, const Run& run, const Run* next,
                   const Columns& columns, void* scratch);
};

extern const Kernels kDefaultKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif
#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#define NATTEN_OPS_AMX
extern const Kernels kAmxKernels;  // without a backward; see amx.cpp
#endif

// The best set that this processor runs. The environment variable ATEN_CPU_CAPABILITY (default,
// avx2, avx512), read once, limits it as it limits torch's own kernels.
const Kernels& kernels();

// The best set for a forward: AMX for the problems that it serves, if the variable is not set.
const Kernels& forward_kernels(const Problem& problem, Dtype dtype);

// The work units [begin, end) of the call's plan.
void forward(const ForwardCall& call, int64_t begin, int64_t end);
void backward(const BackwardCall& call, int64_t begin, int64_t end);

// After all units: the sum of call.grad_bias over slabs and batch, (heads, bias_size).
template <typename T>
void sum_grad_bias(const BackwardCall& call, T* grad_bias);

}  // namespace natten_ops::cpu
