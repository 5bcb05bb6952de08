// The kernels as a library for Python's ctypes (see worker.py).
#include "device.h"
#include "kernels.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace natten_ops::cuda {

// All return null or a message; `scalar` takes the scalar kernels, whatever the problem.
EXPORT const char* simt_forward(const ForwardCall* call, bool scalar) {
  if (const char* error = use_device(0)) return error;
  return (scalar ? scalar_forward : forward)(*call, simt::stream());
}

EXPORT const char* simt_backward(const BackwardCall* call, bool scalar) {
  if (const char* error = use_device(0)) return error;
  return scalar ? scalar_backward(*call, simt::stream())
                : backward(*call, family_of(*call), simt::stream());
}

EXPORT int64_t simt_backward_scratch(const BackwardCall* call, bool scalar) {
  return scalar ? scalar_backward_scratch(*call) : backward_scratch(*call, family_of(*call));
}

// The number of the family that serves a call.
EXPORT int simt_family_forward(const ForwardCall* call) {
  return static_cast<int>(family_of(*call));
}
EXPORT int simt_family_backward(const BackwardCall* call) {
  return static_cast<int>(family_of(*call));
}
EXPORT bool simt_contiguous_gradient_helps(const BackwardCall* call) {
  return contiguous_gradient_helps(*call);
}

}  // namespace natten_ops::cuda
