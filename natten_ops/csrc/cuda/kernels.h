// The four families of kernels that run.cu chooses from. Each launches what it needs on the stream
// and returns null, or an error message.
#pragma once

#include "calls.h"

namespace natten_ops::cuda {

// On ordinary cores, exact to the compute type: every dtype, any head_dim up to
// kScalarMaxHeadDim, any strides.
constexpr int64_t kScalarMaxHeadDim = 256;
const char* scalar_forward(const ForwardCall& call, void* stream);
const char* scalar_backward(const BackwardCall& call, void* stream);
int64_t scalar_backward_scratch(const BackwardCall& call);

// The same, faster: float32 on two axes, windows of at least 3 rows, head_dim a multiple of 4 up to
// kStagedMaxHeadDim, channels side by side and tokens 16-byte aligned; devices from 8.0 on.
constexpr int64_t kStagedMaxHeadDim = 64;
bool staged_covers(const ForwardCall& call);
bool staged_covers(const BackwardCall& call);
const char* staged_forward(const ForwardCall& call, void* stream);
const char* staged_backward(const BackwardCall& call, void* stream);
int64_t staged_backward_scratch(const BackwardCall& call);

// On tensor cores: float16 and bfloat16, head_dim a multiple of 8 up to kMatrixMaxHeadDim, channels
// side by side and tokens 16-byte aligned, a scale that is not nearly zero; devices from 7.5 on,
// bfloat16 from 8.0 on. With a call's allow_tf32 also float32, from 8.0 on, with head_dim up to
// kTf32MaxHeadDim: each number is the sum of two of TF32 (tf32.cuh), to about 2^-20.
constexpr int64_t kMatrixMaxHeadDim = 128, kTf32MaxHeadDim = 32;
bool matrix_covers(const ForwardCall& call);
bool matrix_covers(const BackwardCall& call);
const char* matrix_forward(const ForwardCall& call, void* stream);
const char* matrix_backward(const BackwardCall& call, void* stream);
int64_t matrix_backward_scratch(const BackwardCall& call);

// On tensor cores, faster: what the matrix kernels cover of half precision, with windows of 3, 5 or
// 7 keys on both axes and head_dim up to 32.
bool small_covers(const ForwardCall& call);
bool small_covers(const BackwardCall& call);
const char* small_forward(const ForwardCall& call, void* stream);
const char* small_backward(const BackwardCall& call, void* stream);
int64_t small_backward_scratch(const BackwardCall& call);

}  // namespace natten_ops::cuda
