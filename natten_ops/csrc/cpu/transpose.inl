// Included once per vector width, by baseline.cpp, avx2.cpp, avx512.cpp and amx.cpp (see
// lanes.inl).
//
// From heads-last tensors, where the channels of a token are adjacent, to buffers for inner
// products, where a channel's columns are adjacent; converts to the compute type on the way.
//
// A buffer is (channels, pitch): element (channel, column) at channel * pitch + column.

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

// Writes a token's four words into a group of four lanes.
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

// The same for fewer tokens than kLanes; the last one stands for those that are missing.
template <int kGroup, int kLanes, typename Element>
NATTEN_OPS_INLINE void load_group(const Element* from, int64_t token_stride, int64_t tokens,
                                  Words<kLanes> (&x)[4]) {
  if constexpr (4 * kGroup < kLanes) {
    NATTEN_OPS_UNROLL
    for (int row = 0; row < 4; ++row) {
      const int64_t token = 4 * kGroup + row < tokens ? 4 * kGroup + row : tokens - 1;
      x[row] = put_group<kGroup, kLanes>(x[row], load<Words<4>>(from + token * token_stride));
    }
    load_group<kGroup + 1, kLanes>(from, token_stride, tokens, x);
  }
}

// Four words of each of kLanes tokens, of which there are `tokens`; word w of all goes to x[w].
template <int kLanes, typename Element>
NATTEN_OPS_INLINE void load_words(const Element* from, int64_t token_stride, int64_t tokens,
                                  Words<kLanes> (&x)[4]) {
  if (tokens >= kLanes) {
    load_group<0, kLanes>(from, token_stride, x);
  } else {
    load_group<0, kLanes>(from, token_stride, tokens, x);
  }
  transpose_groups<kLanes>(x);
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
      channels[half] = widen_lanes<V>(reinterpret_cast<const Float16*>(&bits));
    }
  }
}

// Channels in a word.
template <typename Element>
constexpr int kPacked = 4 / sizeof(Element);

// Loads kLanes tokens, of which there are `tokens`, as many channels as fill whole groups of four
// words; returns their number.
template <int kLanes, typename Element>
NATTEN_OPS_INLINE int64_t load_groups(const Element* from, int64_t token_stride, int64_t tokens,
                                      int64_t channels, float factor, float* to, int64_t pitch) {
  constexpr int kGroup = 4 * kPacked<Element>;
  int64_t channel = 0;
  for (; channel + kGroup <= channels; channel += kGroup) {
    Words<kLanes> words[4] = {};
    load_words<kLanes>(from + channel, token_stride, tokens, words);
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

// Loads `tokens` tokens of `channels` channels, times factor, into a buffer. What follows them
// there, up to a whole vector, is overwritten.
template <int kLanes, typename Element, typename T>
__attribute__((noinline)) void load_tokens(const Element* from, int64_t token_stride,
                                           int64_t channel_stride, int64_t tokens, int64_t channels,
                                           T factor, T* to, int64_t pitch) {
  int64_t done = 0;  // channels
  if constexpr (sizeof(Element) <= 4) {
    for (int64_t token = 0; channel_stride == 1 && token < tokens; token += kLanes) {
      done = load_groups<kLanes>(from + token * token_stride, token_stride, tokens - token,
                                 channels, factor, to + token, pitch);
    }
  }
  for (int64_t channel = done; channel < channels; ++channel) {
    for (int64_t token = 0; token < tokens; ++token) {
      to[channel * pitch + token] =
          static_cast<T>(widen(from[token * token_stride + channel * channel_stride])) * factor;
    }
  }
}

// The heads of a bundle that can be transposed at once: all, if their channels are neighbors.
inline int64_t heads_at_once(const TensorView& tensor, const Problem& problem, const Run& run) {
  return tensor.head_stride == problem.head_dim * tensor.channel_stride ? run.heads : 1;
}

// Transposes the columns [begin, end) of the run's row at `position` of a tensor into a buffer,
// (heads, channels, pitch).
template <typename Element, typename T>
void load_row(const TensorView& tensor, const Problem& problem, const Run& run, int64_t position,
              int64_t begin, int64_t end, T factor, T* to, int64_t pitch) {
  constexpr int kLanes = kVectorBytes / sizeof(T);
  const PhaseTimer timer(Phase::kLoad);
  const int64_t index = position * problem.dilation[0] + run.residue;
  const int64_t heads = heads_at_once(tensor, problem, run);
  for (int64_t head = 0; head < run.heads; head += heads) {
    load_tokens<kLanes>(tensor.at<const Element>(run.batch, index, begin, run.first_head + head),
                        tensor.axis_stride[1], tensor.channel_stride, end - begin,
                        heads * problem.head_dim, factor, to + head * problem.head_dim * pitch,
                        pitch);
  }
}
