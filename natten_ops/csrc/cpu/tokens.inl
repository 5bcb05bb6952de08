// Included once per vector width, by baseline.cpp, avx2.cpp, avx512.cpp and amx.cpp (see
// lanes.inl).
//
// Numbers of tensors as numbers of the compute type, and back; rows of tokens for weighted sums.

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

// Neighboring numbers.
template <typename V, typename Element>
NATTEN_OPS_INLINE V widen_lanes(const Element* from) {
  constexpr int kLanes = sizeof(V) / sizeof(widen(Element{}));
  if constexpr (__is_same(Element, BFloat16)) {
    return (V)(__builtin_convertvector(load<Lanes<uint16_t, kLanes>>(from), Lanes<uint32_t, kLanes>)
               << 16);
  } else if constexpr (__is_same(Element, Float16)) {
#ifdef NATTEN_OPS_X86
    if constexpr (kLanes % 8 == 0) {
      V lanes;
      for (int i = 0; i < kLanes; i += 8) {
        const __m256 eight = _mm256_cvtph_ps(load<__m128i>(from + i));
        __builtin_memcpy(reinterpret_cast<float*>(&lanes) + i, &eight, sizeof eight);
      }
      return lanes;
    }
#endif
    V lanes;
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = widen(from[lane]);
    return lanes;
  } else {
    return load<V>(from);
  }
}

// The inverse, rounding.
template <typename V, typename Element>
NATTEN_OPS_INLINE void narrow_lanes(V lanes, Element* to) {
  constexpr int kLanes = sizeof(V) / sizeof(widen(Element{}));
  if constexpr (__is_same(Element, BFloat16)) {
    using W = Lanes<uint32_t, kLanes>;
    const W bits = (W)lanes;
    const W rounded = lanes == lanes ? bits + 0x7fffu + ((bits >> 16) & 1u) : W{} + 0x7fc00000u;
    store(to, __builtin_convertvector(rounded >> 16, Lanes<uint16_t, kLanes>));
  } else if constexpr (__is_same(Element, Float16)) {
#ifdef NATTEN_OPS_X86
    if constexpr (kLanes % 8 == 0) {
      for (int i = 0; i < kLanes; i += 8) {
        const __m256 eight = load<__m256>(reinterpret_cast<const float*>(&lanes) + i);
        store(to + i, _mm256_cvtps_ph(eight, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
      }
      return;
    }
#endif
    for (int lane = 0; lane < kLanes; ++lane) narrow(static_cast<float>(lanes[lane]), to[lane]);
  } else {
    store(to, lanes);
  }
}

// Rows of tokens of a bundle's heads, the channels of a token side by side: in scratch memory,
// (rows, heads, columns, channels), or those of a tensor.
template <typename T>
struct TokenRows {
  T* data;       // column 0 of row 0
  int64_t rows;  // in scratch memory: row r is at r mod rows; of a tensor 0
  int64_t row_stride, token_stride, head_stride;

  T* at(int64_t position, int64_t head) const {
    return data + (rows ? position % rows : position) * row_stride + head * head_stride;
  }
};

// Numbers of a row in scratch memory. An odd number of cache lines, so that a column's rows spread
// over all of the cache's sets.
inline int64_t row_size(const Problem& problem, int64_t heads, int64_t columns) {
  constexpr int64_t kLine = 16;
  return ((heads * columns * problem.head_dim + kLine - 1) / kLine | 1) * kLine;
}

// Rows in scratch memory of the columns from `begin` to `end`.
template <typename T>
TokenRows<T> rows_in(T* memory, const Problem& problem, int64_t heads, int64_t rows, int64_t begin,
                     int64_t end) {
  return {memory - begin * problem.head_dim, rows, row_size(problem, heads, end - begin),
          problem.head_dim, (end - begin) * problem.head_dim};
}

// Whether results can be written to a tensor itself.
template <typename Element, typename T>
bool has_rows(const TensorView& tensor) {
  return __is_same(Element, T) && tensor.channel_stride == 1;
}

// A tensor's own rows, or else those given.
template <typename Element, typename T>
TokenRows<T> rows_of(const TensorView& tensor, const Problem& problem, const Run& run,
                     const TokenRows<T>& others) {
  if (!has_rows<Element, T>(tensor)) return others;
  return {tensor.at<T>(run.batch, run.residue, 0, run.first_head), 0,
          tensor.axis_stride[0] * problem.dilation[0], tensor.axis_stride[1], tensor.head_stride};
}

// Copies the columns [begin, end) of the run's row at `position` of a tensor.
template <typename Element, typename T>
void copy_row(const TensorView& tensor, const Problem& problem, const Run& run, int64_t position,
              int64_t begin, int64_t end, const TokenRows<T>& rows) {
  using V = Lanes<T, kWide<T>>;
  const PhaseTimer timer(Phase::kLoad);
  const int64_t index = position * problem.dilation[0] + run.residue;
  T* row = rows.at(position, 0);
  for (int64_t column = begin; column < end; ++column) {
    for (int64_t head = 0; head < run.heads; ++head) {
      const Element* from =
          tensor.at<const Element>(run.batch, index, column, run.first_head + head);
      T* to = row + column * rows.token_stride + head * rows.head_stride;
      int64_t channel = 0;
      if (tensor.channel_stride == 1) {
        for (; channel + kWide<T> <= problem.head_dim; channel += kWide<T>) {
          store(to + channel, widen_lanes<V>(from + channel));
        }
      }
      for (; channel < problem.head_dim; ++channel) {
        to[channel] = static_cast<T>(widen(from[channel * tensor.channel_stride]));
      }
    }
  }
}

// Stores a row to the columns [begin, end) of a tensor, times `factor`.
template <typename Element, typename T>
void store_row(const TensorView& tensor, const Problem& problem, const Run& run, int64_t position,
               int64_t begin, int64_t end, T factor, const TokenRows<T>& rows) {
  using V = Lanes<T, kWide<T>>;
  const PhaseTimer timer(Phase::kStore);
  const int64_t index = position * problem.dilation[0] + run.residue;
  const T* row = rows.at(position, 0);
  for (int64_t column = begin; column < end; ++column) {
    for (int64_t head = 0; head < run.heads; ++head) {
      const T* from = row + column * rows.token_stride + head * rows.head_stride;
      Element* to = tensor.at<Element>(run.batch, index, column, run.first_head + head);
      int64_t channel = 0;
      if (tensor.channel_stride == 1) {
        for (; channel + kWide<T> <= problem.head_dim; channel += kWide<T>) {
          narrow_lanes(load<V>(from + channel) * factor, to + channel);
        }
      }
      for (; channel < problem.head_dim; ++channel) {
        narrow(from[channel] * factor, to[channel * tensor.channel_stride]);
      }
    }
  }
}
