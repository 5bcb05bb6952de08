// Included once per vector width, by baseline.cpp, avx2.cpp, avx512.cpp and amx.cpp.
//
// They include all .inl files, in one order, inside their namespace and target pragma. So nothing
// there may have external linkage: the linker could give a processor the instructions of another.
//
// Here: vectors, one query or key in each lane, in the vector extension that GCC and Clang share.
// NATTEN_OPS_X86 means that intrinsics of AVX2 with F16C may be used, NATTEN_OPS_AVX512 those of
// AVX-512: for the few things that compilers do not generate themselves.

#define NATTEN_OPS_INLINE inline __attribute__((always_inline))
// Before a loop over an array of vectors: they stay in registers only if the loop is unrolled.
#define NATTEN_OPS_UNROLL _Pragma("GCC unroll 16")

template <typename T, int kLanes>
struct LanesOf {
  typedef T Type __attribute__((vector_size(kLanes * sizeof(T))));
};
template <typename T, int kLanes>
using Lanes = typename LanesOf<T, kLanes>::Type;

// Lanes of the widest vectors.
template <typename T>
constexpr int64_t kWide = kVectorBytes / sizeof(T);

// Integers as wide as T.
template <typename T>
struct IntegerOf;
template <>
struct IntegerOf<float> {
  using Type = int32_t;
};
template <>
struct IntegerOf<double> {
  using Type = int64_t;
};
template <typename T>
using Integer = typename IntegerOf<T>::Type;

template <typename V>
NATTEN_OPS_INLINE V load(const void* from) {
  V lanes;
  __builtin_memcpy(&lanes, from, sizeof(V));
  return lanes;
}

template <typename V>
NATTEN_OPS_INLINE void store(void* to, V lanes) {
  __builtin_memcpy(to, &lanes, sizeof(V));
}

// Keeps a vector in a register: compilers tend to read memory again for every use.
template <typename V>
NATTEN_OPS_INLINE V pinned(V lanes) {
  if constexpr (sizeof(V) >= 16) {
#if defined(NATTEN_OPS_AVX512)
    __asm__("" : "+v"(lanes));
#elif defined(__x86_64__)
    __asm__("" : "+x"(lanes));
#elif defined(__aarch64__)
    __asm__("" : "+w"(lanes));
#endif
  }
  return lanes;
}

// Keeps a lane if its mask has all bits set; else the lane becomes zero, even if it was NaN.
template <typename V, typename M>
NATTEN_OPS_INLINE V keep(V lanes, M mask) {
  return (V)((M)lanes & mask);
}

// b if one of them is NaN.
template <typename V>
NATTEN_OPS_INLINE V maximum(V a, V b) {
  return a > b ? a : b;
}
#ifdef NATTEN_OPS_AVX512
NATTEN_OPS_INLINE Lanes<float, 16> maximum(Lanes<float, 16> a, Lanes<float, 16> b) {
  return _mm512_max_ps(a, b);
}
#endif
#ifdef NATTEN_OPS_X86
NATTEN_OPS_INLINE Lanes<float, 8> maximum(Lanes<float, 8> a, Lanes<float, 8> b) {
  return _mm256_max_ps(a, b);
}
#endif

// 2^x for x <= 0 with relative error below 2e-7 (double: libm's); 0 far below 2^-126; NaN stays
// NaN.
template <int kLanes>
NATTEN_OPS_INLINE Lanes<float, kLanes> exp2_of(Lanes<float, kLanes> x) {
  using V = Lanes<float, kLanes>;
  using I = Lanes<int32_t, kLanes>;
  x = maximum(V{} - 127.0f, x);
  // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
  const V shifted = x + 12582912.0f;
  const V fraction = x - (shifted - 12582912.0f);
  // Minimax polynomial of 2^f on [-1/2, 1/2].
  V power = V{} + 0.0013276472454890609f;
  power = power * fraction + 0.009675540961325169f;
  power = power * fraction + 0.05550713092088699f;
  power = power * fraction + 0.24022120237350464f;
  power = power * fraction + 0.6931469440460205f;
  power = power * fraction + 1.0f;
  // For -127 the exponent's bits are all zero, which is the number 0.
  return power * (V)(((I)shifted << 23) + 0x3f800000);
}

template <int kLanes>
NATTEN_OPS_INLINE Lanes<double, kLanes> exp2_of(Lanes<double, kLanes> x) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = __builtin_exp2(x[lane]);
  return x;
}

// log2(x) for x >= 1, to float's (double: libm's) precision; NaN and infinity stay.
template <int kLanes>
NATTEN_OPS_INLINE Lanes<float, kLanes> log2_of(Lanes<float, kLanes> x) {
  using V = Lanes<float, kLanes>;
  using I = Lanes<int32_t, kLanes>;
  const I bits = (I)x;
  // x = 2^exponent * mantissa, mantissa in [1, 2); a first guess, then Newton's method.
  const V exponent = __builtin_convertvector((bits >> 23) - 127, V);
  const V mantissa = (V)((bits & 0x007fffff) | 0x3f800000);
  V guess = mantissa - 1.0f;
  for (int step = 0; step < 3; ++step) {
    guess += (mantissa * exp2_of<kLanes>(-guess) - 1.0f) * 1.44269504f;
  }
  const I finite = (bits & 0x7fffffff) < 0x7f800000;
  return finite ? exponent + guess : x;
}

template <int kLanes>
NATTEN_OPS_INLINE Lanes<double, kLanes> log2_of(Lanes<double, kLanes> x) {
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = __builtin_log2(x[lane]);
  return x;
}

// Lane l of the result is lane source[l] of `first` and `second` behind one another.
#ifdef NATTEN_OPS_AVX512
NATTEN_OPS_INLINE Lanes<float, 16> shuffled(Lanes<float, 16> first, Lanes<float, 16> second,
                                            Lanes<int32_t, 16> source) {
  return _mm512_permutex2var_ps(first, (__m512i)source, second);
}
NATTEN_OPS_INLINE Lanes<float, 8> shuffled(Lanes<float, 8> first, Lanes<float, 8> second,
                                           Lanes<int32_t, 8> source) {
  return _mm256_permutex2var_ps(first, (__m256i)source, second);
}
#elif defined(NATTEN_OPS_X86)
NATTEN_OPS_INLINE Lanes<float, 8> shuffled(Lanes<float, 8> first, Lanes<float, 8> second,
                                           Lanes<int32_t, 8> source) {
  return source > 7 ? _mm256_permutevar8x32_ps(second, (__m256i)source)
                    : _mm256_permutevar8x32_ps(first, (__m256i)source);
}
#endif
#ifdef NATTEN_OPS_X86
constexpr bool kShuffles = true;
#else
constexpr bool kShuffles = false;
#endif
