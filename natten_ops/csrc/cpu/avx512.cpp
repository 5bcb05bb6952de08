#if defined(__x86_64__)
// The CPU kernels for AVX-512.
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "../window.h"
#include "calls.h"
#include "phases.h"

#if defined(__clang__)
#pragma clang attribute push(                                                    \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#define NATTEN_OPS_X86
#define NATTEN_OPS_AVX512
namespace natten_ops::cpu {
namespace {

constexpr int64_t kVectorBytes = 64;
constexpr int64_t kNarrowBytes = 32;
// 32 registers: 4 * 5 + 4 + 1 and 4 * 2 * 2 + 2 + 1 are in use.
constexpr int kRows = 4;
constexpr int kSteps = 5;
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

const Kernels kAvx512Kernels = {
    "AVX512",        kVectorBytes, kNarrowBytes,     4,       true, true,
    forward_scratch, forward,      backward_scratch, backward};

}  // namespace natten_ops::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
