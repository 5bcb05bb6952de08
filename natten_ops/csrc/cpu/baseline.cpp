// The CPU kernels for every processor: vectors of 16 bytes, which SSE2 and NEON have.
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "../window.h"
#include "calls.h"
#include "phases.h"

namespace natten_ops::cpu {
namespace {

constexpr int64_t kVectorBytes = 16;
constexpr int64_t kNarrowBytes = 16;
// 16 registers: 3 * 4 + 3 + 1 and 3 * 2 * 2 + 2 + 1 are in use.
constexpr int kRows = 3;
constexpr int kSteps = 4;
constexpr int kVectors = 2;
constexpr int kColumns = 2;

// clang-format off: each file needs those before it
#include "lanes.inl"
#include "tokens.inl"
#include "transpose.inl"
#include "requests.inl"
#include "groups.inl"
#include "sums.inl"
#include "products.inl"
#include "forward.inl"
#include "backward.inl"
// clang-format on

}  // namespace

const Kernels kDefaultKernels = {
    "DEFAULT",       kVectorBytes, kNarrowBytes,     4,       false, false,
    forward_scratch, forward,      backward_scratch, backward};

}  // namespace natten_ops::cpu
