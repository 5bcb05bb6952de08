// What a kernel gets: sizes, strides and pointers, without torch.
//
// Tensors are heads-last, (batch, axis 0, axis 1, heads, head_dim), with any strides.
// One-dimensional attention is the case length[0] == kernel_size[0] == dilation[0] == 1.
#pragma once

#include <cstdint>

// Before inline functions that CUDA kernels also call; cuda/device.h, included first, defines it.
#ifndef NATTEN_OPS_HOST_DEVICE
#define NATTEN_OPS_HOST_DEVICE inline
#endif

namespace natten_ops {

struct Problem {
  int64_t batch;
  int64_t length[2];
  int64_t heads;
  int64_t head_dim;
  int64_t kernel_size[2];
  int64_t dilation[2];
  double scale;

  // Entries of one head's relative position bias, (2 kernel_size[0] - 1, 2 kernel_size[1] - 1).
  NATTEN_OPS_HOST_DEVICE int64_t bias_size() const {
    return (2 * kernel_size[0] - 1) * (2 * kernel_size[1] - 1);
  }
};

// The entry of a contiguous bias (heads, 2 kernel_size[0] - 1, 2 kernel_size[1] - 1) for a key that
// is (offset0, offset1) positions after the query.
NATTEN_OPS_HOST_DEVICE int64_t bias_offset(const Problem& problem, int64_t head, int64_t offset0,
                                           int64_t offset1) {
  const auto [k0, k1] = problem.kernel_size;
  return head * problem.bias_size() + (offset0 + k0 - 1) * (2 * k1 - 1) + offset1 + k1 - 1;
}

enum class Dtype { kFloat32, kFloat64, kBFloat16, kFloat16 };

// A tensor (batch, axis 0, axis 1, heads, head_dim); strides in elements.
struct TensorView {
  void* data;
  int64_t batch_stride;
  int64_t axis_stride[2];
  int64_t head_stride;
  int64_t channel_stride;

  template <typename Element>
  NATTEN_OPS_HOST_DEVICE Element* at(int64_t batch, int64_t index0, int64_t index1,
                                     int64_t head) const {
    return static_cast<Element*>(data) + batch * batch_stride + index0 * axis_stride[0] +
           index1 * axis_stride[1] + head * head_stride;
  }
};

// A contiguous tensor (batch, axis 0, axis 1, heads): one number per query and head.
NATTEN_OPS_HOST_DEVICE int64_t row_offset(const Problem& problem, int64_t batch, int64_t index0,
                                          int64_t index1, int64_t head) {
  return ((batch * problem.length[0] + index0) * problem.length[1] + index1) * problem.heads + head;
}

}  // namespace natten_ops
