// What the CUDA kernels are called with. Neither torch nor CUDA is needed to include this.
#pragma once

#include <cstdint>

#include "../problem.h"

namespace natten_ops::cuda {

// A bias or its gradient: contiguous (heads, bias_size), in the compute type (below) or in the
// tensors' dtype. `data` is null if there is no bias.
struct BiasView {
  void* data;
  Dtype dtype;
};

// Computed in double for float64, else in float: "compute type" below. All pointers are to the
// device's memory.
struct ForwardCall {
  Problem problem;
  Dtype dtype;
  bool allow_tf32;  // of float32: see kernels.h
  TensorView query, key, value, output;
  BiasView bias;
  void* logsumexp;  // compute type, contiguous (batch, axis 0, axis 1, heads)
};

struct BackwardCall {
  Problem problem;
  Dtype dtype;
  bool allow_tf32;
  TensorView grad_output, query, key, value, output;
  BiasView bias;
  const void* logsumexp;  // as in the forward
  TensorView grad_query, grad_key, grad_value;
  BiasView grad_bias;
  void* scratch;  // backward_scratch bytes, 16-byte aligned, not initialized
};

// Makes a device the current one, which all functions here are for. torch's choice of a device does
// not reach the CUDA runtime that this library is linked with. Returns null, or an error message.
const char* use_device(int device);

// The families of kernels, see kernels.h.
enum class Family { kSmall, kMatrix, kStaged, kScalar };

// The family that computes a call. Scratch memory need not be there yet.
Family family_of(const ForwardCall& call);
Family family_of(const BackwardCall& call);

// Whether faster kernels than the scalar ones would compute a call if grad_output were contiguous.
bool contiguous_gradient_helps(const BackwardCall& call);

// Bytes of scratch memory that the backward needs.
int64_t backward_scratch(const BackwardCall& call, Family family);

// Launch the kernels on a stream (a cudaStream_t) of the current device, without waiting for them.
// Return null, or an error message.
const char* forward(const ForwardCall& call, void* stream);
const char* backward(const BackwardCall& call, Family family, void* stream);

}  // namespace natten_ops::cuda
