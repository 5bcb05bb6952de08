// Division by a number that is known before a launch.
#pragma once

#include <cstdint>

#include "device.h"

namespace natten_ops::cuda {

// Quotients of numbers below 2^31, without a division.
struct Divisor {
  uint32_t divisor, multiplier;
  int shift;

  Divisor() = default;
  explicit Divisor(int64_t by) : divisor(static_cast<uint32_t>(by)), shift(0) {
    while (uint64_t(1) << shift < divisor) ++shift;
    multiplier = static_cast<uint32_t>(
        (uint64_t(1) << 32) * ((uint64_t(1) << shift) - divisor) / divisor + 1);
  }

  NATTEN_OPS_DEVICE uint32_t divide(uint32_t number) const {
    return (static_cast<uint32_t>(uint64_t(number) * multiplier >> 32) + number) >> shift;
  }
  // The quotient; `number` becomes the remainder.
  NATTEN_OPS_DEVICE uint32_t split(uint32_t& number) const {
    const uint32_t quotient = divide(number);
    number -= quotient * divisor;
    return quotient;
  }
};

}  // namespace natten_ops::cuda
