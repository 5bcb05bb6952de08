// The kernels as a library for Python's ctypes (see worker.py).
#include "device.h"
#include "kernels.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace natten_ops::cuda {

// All return null or a message; `scalar` takes the scalar kernels, whatever the problem.
EXPORT const char* simt_forward(const ForwardCall* call, bool scalar) {
  return (scalar ? scalar_forward : forward)(*call, simt::stream());
}

EXPORT const char* simt_backward(const BackwardCall* call, bool scalar) {
  return (scalar ? scalar_backward : backward)(*call, simt::stream());
}

EXPORT int64_t simt_backward_scratch(const BackwardCall* call, bool scalar) {
  return (scalar ? scalar_backward_scratch : backward_scratch)(*call);
}

EXPORT bool simt_matrix_covers_forward(const ForwardCall* call) { return matrix_covers(*call); }
EXPORT bool simt_matrix_covers_backward(const BackwardCall* call) { return matrix_covers(*call); }
EXPORT bool simt_staged_covers_forward(const ForwardCall* call) { return staged_covers(*call); }
EXPORT bool simt_staged_covers_backward(const BackwardCall* call) { return staged_covers(*call); }

}  // namespace natten_ops::cuda
