// Included once per vector width, by baseline.cpp, avx2.cpp and avx512.cpp (see lanes.inl).
//
// Between heads-last tensors, where the channels of a token are adjacent, and the kernels' buffers,
// where a channel's columns are adjacent; converts to and from the compute type on the way.
//
// A buffer is (channels, pitch): element (channel, column) at channel * pitch + column.

// The bits of a half precision number.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

NATTEN_OPS_INLINE float bits_to_float(uint32_t bits) {
  float number;
  __builtin_memcpy(&number, &bits, sizeof number);
  return number;
}
NATTEN_OPS_INLINE uint32_t float_to_bits(float number) {
  uint32_t bits;
  __builtin_memcpy(&bits, &number, sizeof bits);
  return bits;
}

// One number to the compute type.
NATTEN_OPS_INLINE float widen(float number) { return number; }
NATTEN_OPS_INLINE double widen(double number) { return number; }
NATTEN_OPS_INLINE float widen(BFloat16 number) {
  return bits_to_float(static_cast<uint32_t>(number.bits) << 16);
}
NATTEN_OPS_INLINE float widen(Float16 number) {
  const uint32_t sign = static_cast<uint32_t>(number.bits & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(number.bits & 0x7fff) << 13;
  // Read as a float, the exponent is 112 too small; a multiplication corrects it, also for
  // subnormals.
  float value = bits_to_float(magnitude) * 0x1p112f;
  if (magnitude >= 0x7c00u << 13) value = bits_to_float(magnitude | 0x7f800000);
  return bits_to_float(float_to_bits(value) | sign);
}

// One number from the compute type, rounded to nearest, ties to even.
NATTEN_OPS_INLINE void narrow(float number, float& to) { to = number; }
NATTEN_OPS_INLINE void narrow(double number, double& to) { to = number; }
NATTEN_OPS_INLINE void narrow(float number, BFloat16& to) {
  const uint32_t bits = float_to_bits(number);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  to.bits = is_nan ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
NATTEN_OPS_INLINE void narrow(float number, Float16& to) {
  const uint32_t bits = float_to_bits(number);
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // 65520 and more round to infinity
    half = 0x7c00;
  } else if (magnitude >= 0x38800000) {
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  } else {  // subnormal: adding 1/2 aligns its last bit with that of a float in [1/2, 1)
    half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000;
  }
  to.bits = static_cast<uint16_t>(half | (bits >> 16 & 0x8000));
}

// Words of 32 bits are transposed: a float, or two neighboring channels in half precision.
template <int kLanes>
using Words = Lanes<uint32_t, kLanes>;

// In every group of four lanes: a0 b0 a1 b1, or a2 b2 a3 b3 of the group.
template <int kFirst, int... kIndex>
NATTEN_OPS_INLINE Words<sizeof...(kIndex)> interleave(Words<sizeof...(kIndex)> a,
                                                      Words<sizeof...(kIndex)> b,
                                                      std::integer_sequence<int, kIndex...>) {
  constexpr int kLanes = sizeof...(kIndex);
  return __builtin_shufflevector(
      a, b, (kIndex / 4 * 4 + kFirst + kIndex % 4 / 2 + (kIndex % 2) * kLanes)...);
}

// Transposes the 4 x 4 words in each group of four lanes of four vectors.
template <int kLanes>
NATTEN_OPS_INLINE void transpose_groups(Words<kLanes> (&x)[4]) {
  const std::make_integer_sequence<int, kLanes> all;
  const Words<kLanes> low02 = interleave<0>(x[0], x[2], all);
  const Words<kLanes> low13 = interleave<0>(x[1], x[3], all);
  const Words<kLanes> high02 = interleave<2>(x[0], x[2], all);
  const Words<kLanes> high13 = interleave<2>(x[1], x[3], all);
  x[0] = interleave<0>(low02, low13, all);
  x[1] = interleave<2>(low02, low13, all);
  x[2] = interleave<0>(high02, high13, all);
  x[3] = interleave<2>(high02, high13, all);
}

// Write a token's four words into a group of four lanes, or read them from it.
template <int kGroup, int kLanes>
NATTEN_OPS_INLINE Words<kLanes> put_group(Words<kLanes> x, Words<4> words) {
#ifdef NATTEN_OPS_AVX512
  if constexpr (kLanes == 16) {
    return (Words<16>)_mm512_inserti32x4((__m512i)x, (__m128i)words, kGroup);
  }
#endif
#ifdef NATTEN_OPS_X86
  if constexpr (kLanes == 8) {
    return (Words<8>)_mm256_inserti128_si256((__m256i)x, (__m128i)words, kGroup);
  }
#endif
  if constexpr (kLanes == 4) return words;
}

template <int kGroup, int kLanes>
NATTEN_OPS_INLINE Words<4> get_group(Words<kLanes> x) {
#ifdef NATTEN_OPS_AVX512
  if constexpr (kLanes == 16) return (Words<4>)_mm512_extracti32x4_epi32((__m512i)x, kGroup);
#endif
  return __builtin_shufflevector(x, x, 4 * kGroup, 4 * kGroup + 1, 4 * kGroup + 2, 4 * kGroup + 3);
}

// Keeps the compiler from computing all tokens' addresses in advance: there are too few registers.
template <typename Pointer>
NATTEN_OPS_INLINE Pointer opaque(Pointer pointer) {
  __asm__("" : "+r"(pointer));
  return pointer;
}

template <int kGroup, int kLanes, typename Element>
NATTEN_OPS_INLINE void load_group(const Element* from, int64_t token_stride,
                                  Words<kLanes> (&x)[4]) {
  if constexpr (4 * kGroup < kLanes) {
    NATTEN_OPS_UNROLL
    for (int row = 0; row < 4; ++row) {
      x[row] = put_group<kGroup, kLanes>(x[row], load<Words<4>>(from + row * token_stride));
    }
    load_group<kGroup + 1, kLanes>(opaque(from + 4 * token_stride), token_stride, x);
  }
}

template <int kGroup, int kLanes, typename Element>
NATTEN_OPS_INLINE void store_group(const Words<kLanes> (&x)[4], Element* to, int64_t token_stride,
                                   int64_t tokens) {
  if constexpr (4 * kGroup < kLanes) {
    if (4 * kGroup + 4 <= tokens) {
      NATTEN_OPS_UNROLL
      for (int row = 0; row < 4; ++row) {
        store(to + row * token_stride, get_group<kGroup, kLanes>(x[row]));
      }
      store_group<kGroup + 1, kLanes>(x, opaque(to + 4 * token_stride), token_stride, tokens);
    } else {
      NATTEN_OPS_UNROLL
      for (int row = 0; row < 4; ++row) {
        if (4 * kGroup + row < tokens) {
          store(to + row * token_stride, get_group<kGroup, kLanes>(x[row]));
        }
      }
    }
  }
}

// Four words of each of kLanes tokens; word w of all of them goes to x[w].
template <int kLanes, typename Element>
NATTEN_OPS_INLINE void load_words(const Element* from, int64_t token_stride,
                                  Words<kLanes> (&x)[4]) {
  load_group<0, kLanes>(from, token_stride, x);
  transpose_groups<kLanes>(x);
}

// The inverse of load_words, for `tokens` of the kLanes tokens.
template <int kLanes, typename Element>
NATTEN_OPS_INLINE void store_words(Words<kLanes> (&x)[4], Element* to, int64_t token_stride,
                                   int64_t tokens) {
  transpose_groups<kLanes>(x);
  store_group<0, kLanes>(x, to, token_stride, tokens);
}

// The channels in a vector of words, as floats: one channel for float32, two for half precision, in
// the lower and the upper half.
template <int kLanes, typename Element>
NATTEN_OPS_INLINE void unpack(Words<kLanes> words, Lanes<float, kLanes> (&channels)[2]) {
  using V = Lanes<float, kLanes>;
  if constexpr (__is_same(Element, float)) {
    channels[0] = (V)words;
  } else if constexpr (__is_same(Element, BFloat16)) {
    channels[0] = (V)(words << 16);
    channels[1] = (V)(words & 0xffff0000u);
  } else {
    for (int half = 0; half < 2; ++half) {
      const auto bits =
          __builtin_convertvector(half ? words >> 16 : words & 0xffffu, Lanes<uint16_t, kLanes>);
#ifdef NATTEN_OPS_X86
      if constexpr (kLanes >= 8) {
        for (int part = 0; part < kLanes / 8; ++part) {
          const __m256 eight =
              _mm256_cvtph_ps(load<__m128i>(reinterpret_cast<const uint16_t*>(&bits) + 8 * part));
          __builtin_memcpy(reinterpret_cast<float*>(&channels[half]) + 8 * part, &eight,
                           sizeof eight);
        }
        continue;
      }
#endif
      V numbers = {};
      for (int lane = 0; lane < kLanes; ++lane) numbers[lane] = widen(Float16{bits[lane]});
      channels[half] = numbers;
    }
  }
}

// The inverse of unpack, rounding.
template <int kLanes, typename Element>
NATTEN_OPS_INLINE Words<kLanes> pack(const Lanes<float, kLanes> (&channels)[2]) {
  using W = Words<kLanes>;
  if constexpr (__is_same(Element, float)) {
    return (W)channels[0];
  } else if constexpr (__is_same(Element, BFloat16)) {
    W rounded[2];
    for (int half = 0; half < 2; ++half) {
      const W bits = (W)channels[half];
      const W up = bits + 0x7fffu + ((bits >> 16) & 1u);
      rounded[half] = channels[half] == channels[half] ? up : W{} + 0x7fc00000u;
    }
    return (rounded[0] >> 16) | (rounded[1] & 0xffff0000u);
  } else {
    W words = W{};
    for (int lane = 0; lane < kLanes; ++lane) {
      Float16 low, high;
      narrow(channels[0][lane], low);
      narrow(channels[1][lane], high);
      words[lane] = low.bits | static_cast<uint32_t>(high.bits) << 16;
    }
    return words;
  }
}

// Channels in a word.
template <typename Element>
constexpr int kPacked = 4 / sizeof(Element);

// Loads kLanes tokens, as many channels as fill whole groups of four words; returns their number.
template <int kLanes, typename Element>
NATTEN_OPS_INLINE int64_t load_groups(const Element* from, int64_t token_stride, int64_t channels,
                                      float factor, float* to, int64_t pitch) {
  constexpr int kGroup = 4 * kPacked<Element>;
  int64_t channel = 0;
  for (; channel + kGroup <= channels; channel += kGroup) {
    Words<kLanes> words[4] = {};
    load_words<kLanes>(from + channel, token_stride, words);
    for (int word = 0; word < 4; ++word) {
      Lanes<float, kLanes> numbers[2] = {};
      unpack<kLanes, Element>(words[word], numbers);
      for (int i = 0; i < kPacked<Element>; ++i) {
        store(to + (channel + word * kPacked<Element> + i) * pitch, numbers[i] * factor);
      }
    }
  }
  return channel;
}

// Loads `tokens` tokens of `channels` channels, times factor, into a buffer.
template <int kLanes, typename Element, typename T>
__attribute__((noinline)) void load_tokens(const Element* from, int64_t token_stride,
                                           int64_t channel_stride, int64_t tokens, int64_t channels,
                                           T factor, T* to, int64_t pitch) {
  const auto one_by_one = [&](int64_t first_token, int64_t end_token, int64_t first_channel) {
    for (int64_t channel = first_channel; channel < channels; ++channel) {
      for (int64_t token = first_token; token < end_token; ++token) {
        to[channel * pitch + token] =
            static_cast<T>(widen(from[token * token_stride + channel * channel_stride])) * factor;
      }
    }
  };
  int64_t token = 0;
  if constexpr (sizeof(Element) <= 4) {
    if (channel_stride == 1) {
      for (; token + kLanes <= tokens; token += kLanes) {
        const int64_t done = load_groups<kLanes>(from + token * token_stride, token_stride,
                                                 channels, factor, to + token, pitch);
        one_by_one(token, token + kLanes, done);
      }
      for (; token + 4 <= tokens; token += 4) {
        const int64_t done = load_groups<4>(from + token * token_stride, token_stride, channels,
                                            factor, to + token, pitch);
        one_by_one(token, token + 4, done);
      }
    }
  }
  one_by_one(token, tokens, 0);
}

// Stores `tokens` (at most kLanes) tokens of `channels` channels, times `factors`, one per token.
template <int kLanes, typename Element, typename T>
__attribute__((noinline)) void store_tokens(const T* from, int64_t pitch, Lanes<T, kLanes> factors,
                                            int64_t tokens, int64_t channels, Element* to,
                                            int64_t token_stride, int64_t channel_stride) {
  int64_t channel = 0;
  if constexpr (sizeof(Element) <= 4) {
    constexpr int kGroup = 4 * kPacked<Element>;
    for (; channel_stride == 1 && channel + kGroup <= channels; channel += kGroup) {
      Words<kLanes> words[4];
      for (int word = 0; word < 4; ++word) {
        Lanes<float, kLanes> numbers[2] = {};
        for (int i = 0; i < kPacked<Element>; ++i) {
          numbers[i] = factors * load<Lanes<float, kLanes>>(
                                     from + (channel + word * kPacked<Element> + i) * pitch);
        }
        words[word] = pack<kLanes, Element>(numbers);
      }
      store_words<kLanes>(words, to + channel, token_stride, tokens);
    }
  }
  for (; channel < channels; ++channel) {
    for (int64_t token = 0; token < tokens; ++token) {
      narrow(from[channel * pitch + token] * factors[token],
             to[token * token_stride + channel * channel_stride]);
    }
  }
}
