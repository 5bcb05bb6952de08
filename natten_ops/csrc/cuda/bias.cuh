// How kernels read a bias, and write its gradient: see BiasView.
#pragma once

#include "device.h"
// device.h comes first.
#include "calls.h"

namespace natten_ops::cuda {

// Entry i in the compute type. Element is the tensors' type.
template <typename Element>
NATTEN_OPS_DEVICE auto read_bias(const BiasView& bias, int64_t i) {
  using Compute = decltype(widen(Element()));
  if constexpr (sizeof(Element) < sizeof(Compute)) {
    if (bias.dtype != Dtype::kFloat32) return widen(static_cast<const Element*>(bias.data)[i]);
  }
  return static_cast<const Compute*>(bias.data)[i];
}

// Rounds a number of the compute type to entry i.
NATTEN_OPS_DEVICE void write_bias(const BiasView& bias, int64_t i, float number) {
  switch (bias.dtype) {
    case Dtype::kFloat16:
      return narrow(number, static_cast<Float16*>(bias.data)[i]);
    case Dtype::kBFloat16:
      return narrow(number, static_cast<BFloat16*>(bias.data)[i]);
    default:
      static_cast<float*>(bias.data)[i] = number;
  }
}
NATTEN_OPS_DEVICE void write_bias(const BiasView& bias, int64_t i, double number) {
  static_cast<double*>(bias.data)[i] = number;
}

}  // namespace natten_ops::cuda
