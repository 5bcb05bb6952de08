// Included once per vector width, by baseline.cpp, avx2.cpp and avx512.cpp (see lanes.inl).
//
// The two loops with all the multiply-adds. They load vectors of partners: keys or values for
// queries, queries or output gradients for keys. Each vector is used for several rows, because its
// address is unaligned, and loading it would otherwise limit the speed.
//
// A row of partners is (channels, pitch); the vectors of a tile's partners at step t are t * step
// columns after those at step 0. Each instruction set chooses kRows, kSteps and kChannels so that
// kRows * kSteps + kRows + 1 and kRows * kChannels + kRows + 1 vectors fit its registers, and two
// more if vectors are permuted.

// One row of partners, and the rows of a tile, at most kRows, that it belongs to: `rows` from
// `first` on. Places are relative to the arrays passed with it.
struct Partner {
  int64_t lanes;  // channel 0 of the first vector of partners
  int64_t first, rows;
  int64_t weights[kRows];  // of each such row: its weights for (or products with) the partners
  int64_t bias[kRows];     // of each such row: its bias for them
};

// Prefetches tokens that will be needed soon. They are too far apart for the processor to predict,
// and if all were requested at once, it would drop most requests. So a product requests one piece
// with every channel; over head_dim channels these are the tokens of a tile in one row of a tensor.
class Prefetcher {
 public:
  Prefetcher(int64_t piece_bytes, int64_t pieces) : piece_bytes(piece_bytes), pieces(pieces) {}

  // A token is `pieces` pieces of so many bytes.
  const int64_t piece_bytes, pieces;

  struct Row {
    const char* token;  // the first
    int64_t jump;       // bytes from the end of a token to the next one
  };

  void add(const void* token, int64_t token_bytes) {
    if (count_ < kMost) {
      rows_[count_++] = {static_cast<const char*>(token), token_bytes - pieces * piece_bytes};
    }
  }

  // The next row to request; if there is none, the same token again and again.
  Row take(const void* token) {
    if (next_ < count_) return rows_[next_++];
    return {static_cast<const char*>(token), -pieces * piece_bytes};
  }

  // Requests the rows that no product has taken.
  void finish(int64_t tokens) {
    for (; next_ < count_; ++next_) {
      const char* piece = rows_[next_].token;
      for (int64_t token = 0; token < tokens; ++token, piece += rows_[next_].jump) {
        for (int64_t i = 0; i < pieces; ++i, piece += piece_bytes) __builtin_prefetch(piece, 0, 2);
      }
    }
  }

 private:
  static constexpr int64_t kMost = 64;  // more rows than most tiles have; the rest is not requested
  Row rows_[kMost];
  int64_t next_ = 0, count_ = 0;
};

template <typename T>
struct Partners {
  const Partner* partner;
  int64_t count;
  int64_t pitch, step, channels, steps;
  Access access;
  const Integer<T>* masks;     // of make_masks
  const int32_t* source;       // permuted: the place of a lane's partner in the vectors
  const int32_t* bias_source;  // permuted: the place of a lane's bias in the vector of biases
  Prefetcher* prefetcher;      // of dot only
};

// The vector of a tile's partners that starts at `from`. Masked lanes are read like others.
template <typename V, Access kAccess, typename S, typename T>
NATTEN_OPS_INLINE V load_partners(const T* from, S source) {
  if constexpr (kAccess == Access::kPermuted && kPermutes) {
    return permuted(load<V>(from), source);
  } else if constexpr (kAccess == Access::kPermuted2 && kPermutes) {
    return permuted(load<V>(from), load<V>(from + sizeof(V) / sizeof(T)), source);
  } else {
    return load<V>(from);
  }
}

// Calls f with a vector of that many lanes.
template <typename T, typename F>
NATTEN_OPS_INLINE void with_vector(int64_t lanes, F f) {
  if (lanes == kVectorBytes / int64_t(sizeof(T))) {
    f(Lanes<T, kVectorBytes / sizeof(T)>{});
  } else {
    f(Lanes<T, kNarrowBytes / sizeof(T)>{});
  }
}

constexpr bool is_permuted(Access access) {
  return access == Access::kPermuted || access == Access::kPermuted2;
}

// Calls f with the access as a constant, for the accesses that the instruction set has.
template <typename T, typename F>
NATTEN_OPS_INLINE void with_access(Access access, F f) {
  if constexpr (kPermutes && __is_same(T, float)) {
    if (access == Access::kPermuted) {
      return f(std::integral_constant<Access, Access::kPermuted>{});
    }
    if (access == Access::kPermuted2) {
      return f(std::integral_constant<Access, Access::kPermuted2>{});
    }
  }
  if (access == Access::kMasked) return f(std::integral_constant<Access, Access::kMasked>{});
  return f(std::integral_constant<Access, Access::kPlain>{});
}

// out[row][t] = bias[row][t] + sum over channels of own[row][channel] * partner[channel][t]
template <typename V, Access kAccess, int kRowCount, int kStepCount, typename T>
NATTEN_OPS_INLINE void dot_block(const Partner& partner, const Partners<T>& partners, int64_t first,
                                 const T* own, int64_t own_row, int64_t own_pitch, const T* other,
                                 const T* bias, T* out) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  using S = Lanes<int32_t, kLanes>;
  S source = {}, bias_source = {};
  if constexpr (is_permuted(kAccess)) {
    source = load<S>(partners.source);
    bias_source = load<S>(partners.bias_source);
  }
  V sum[kRowCount][kStepCount];
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRowCount; ++row) {
    NATTEN_OPS_UNROLL
    for (int t = 0; t < kStepCount; ++t) {
      if (!bias) {
        sum[row][t] = V{};
      } else if constexpr (is_permuted(kAccess)) {
        sum[row][t] =
            load_partners<V, Access::kPermuted>(bias + partner.bias[row] + first + t, bias_source);
      } else {
        sum[row][t] = V{} + bias[partner.bias[row] + first + t];
      }
    }
  }
  other += partner.lanes + first * partners.step;
  own += partner.first * own_row;
  const Prefetcher::Row prefetched = partners.prefetcher->take(own);
  const char* piece = prefetched.token;
  const int64_t piece_bytes = partners.prefetcher->piece_bytes,
                pieces = partners.prefetcher->pieces;
  int64_t left = pieces;  // of the token
  for (int64_t channel = 0; channel < partners.channels; ++channel) {
    __builtin_prefetch(piece, 0, 2);
    piece += piece_bytes;
    if (--left == 0) {
      piece += prefetched.jump;
      left = pieces;
    }
    V own_lanes[kRowCount];
    NATTEN_OPS_UNROLL
    for (int row = 0; row < kRowCount; ++row) own_lanes[row] = pinned(load<V>(own + row * own_row));
    NATTEN_OPS_UNROLL
    for (int t = 0; t < kStepCount; ++t) {
      const V other_lanes = pinned(load_partners<V, kAccess>(other + t * partners.step, source));
      NATTEN_OPS_UNROLL
      for (int row = 0; row < kRowCount; ++row) sum[row][t] += own_lanes[row] * other_lanes;
    }
    own += own_pitch;
    other += partners.pitch;
  }
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRowCount; ++row) {
    NATTEN_OPS_UNROLL
    for (int t = 0; t < kStepCount; ++t) {
      store(out + partner.weights[row] + (first + t) * kLanes, sum[row][t]);
    }
  }
}

template <typename V, Access kAccess, int kRowCount, typename T>
NATTEN_OPS_INLINE void dot_rows(const Partner& partner, const Partners<T>& partners, const T* own,
                                int64_t own_row, int64_t own_pitch, const T* other, const T* bias,
                                T* out) {
  int64_t blocks = (partners.steps + kSteps - 1) / kSteps;
  for (int64_t first = 0; first < partners.steps; --blocks) {
    const int64_t count = (partners.steps - first + blocks - 1) / blocks;  // of about one size
#define NATTEN_OPS_CASE(N)                                                                   \
  case N:                                                                                    \
    if constexpr (N <= kSteps) {                                                             \
      dot_block<V, kAccess, kRowCount, N>(partner, partners, first, own, own_row, own_pitch, \
                                          other, bias, out);                                 \
    }                                                                                        \
    break;
    switch (count) {
      NATTEN_OPS_CASE(1)
      NATTEN_OPS_CASE(2)
      NATTEN_OPS_CASE(3)
      NATTEN_OPS_CASE(4)
      NATTEN_OPS_CASE(5)
    }
#undef NATTEN_OPS_CASE
    first += count;
  }
}

// The products of a tile's rows, `own` (rows, channels, ...), with all of their partners. bias may
// be null.
template <typename V, Access kAccess, typename T>
__attribute__((noinline)) void dot_all(const Partners<T>& partners, const T* own, int64_t own_row,
                                       int64_t own_pitch, const T* other, const T* bias, T* out) {
  for (int64_t i = 0; i < partners.count; ++i) {
    const Partner& partner = partners.partner[i];
#define NATTEN_OPS_CASE(N)                                                                   \
  case N:                                                                                    \
    if constexpr (N <= kRows) {                                                              \
      dot_rows<V, kAccess, N>(partner, partners, own, own_row, own_pitch, other, bias, out); \
    }                                                                                        \
    break;
    switch (partner.rows) {
      NATTEN_OPS_CASE(1)
      NATTEN_OPS_CASE(2)
      NATTEN_OPS_CASE(3)
      NATTEN_OPS_CASE(4)
    }
#undef NATTEN_OPS_CASE
  }
}

template <typename V, typename T>
NATTEN_OPS_INLINE void dot(const Partners<T>& partners, const T* own, int64_t own_row,
                           int64_t own_pitch, const T* other, const T* bias, T* out) {
  with_access<T>(partners.access, [&](auto access) {
    // Products of masked lanes are discarded by the caller.
    constexpr Access kAccess = access == Access::kMasked ? Access::kPlain : access;
    dot_all<V, kAccess>(partners, own, own_row, own_pitch, other, bias, out);
  });
}

// sum[row][channel] += sum over t of weight[row][t] * partner[channel][t], for kRowCount rows from
// kFirst on. Masked lanes take partners as zero: 0 * NaN would be NaN.
template <typename V, Access kAccess, int kFirst, int kRowCount, int kChannelCount, typename T>
NATTEN_OPS_INLINE void add_partner(const Partner& partner, const Partners<T>& partners,
                                   const T* weights, int64_t weight_step, const T* other,
                                   V (&sum)[kRows][kChannelCount]) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  using M = Lanes<Integer<T>, kLanes>;
  using S = Lanes<int32_t, kLanes>;
  S source = {};
  if constexpr (is_permuted(kAccess)) source = load<S>(partners.source);
  const T* weight[kRowCount];
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRowCount; ++row) weight[row] = weights + partner.weights[row];
  for (int64_t t = 0; t < partners.steps; ++t) {
    V weight_lanes[kRowCount];
    NATTEN_OPS_UNROLL
    for (int row = 0; row < kRowCount; ++row) {
      weight_lanes[row] = pinned(load<V>(weight[row] + t * weight_step));
    }
    NATTEN_OPS_UNROLL
    for (int c = 0; c < kChannelCount; ++c) {
      V other_lanes = load_partners<V, kAccess>(other + c * partners.pitch, source);
      if constexpr (kAccess == Access::kMasked) {
        other_lanes = keep(other_lanes, load<M>(partners.masks + t * kLanes));
      }
      other_lanes = pinned(other_lanes);
      NATTEN_OPS_UNROLL
      for (int row = 0; row < kRowCount; ++row) {
        sum[kFirst + row][c] += weight_lanes[row] * other_lanes;
      }
    }
    other += partners.step;
  }
}

template <typename V, Access kAccess, int kChannelCount, typename T>
NATTEN_OPS_INLINE void add_block(const Partners<T>& partners, int64_t rows, const T* weights,
                                 int64_t weight_step, const T* other, T* const* to,
                                 int64_t first_to, int64_t to_pitch) {
  V sum[kRows][kChannelCount];
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRows; ++row) {
    NATTEN_OPS_UNROLL
    for (int c = 0; c < kChannelCount; ++c) {
      sum[row][c] = row < rows ? load<V>(to[row] + first_to + c * to_pitch) : V{};
    }
  }
  for (int64_t i = 0; i < partners.count; ++i) {
    const Partner& partner = partners.partner[i];
#define NATTEN_OPS_CASE(F, N)                                                               \
  case F * 8 + N:                                                                           \
    if constexpr (F + N <= kRows) {                                                         \
      add_partner<V, kAccess, F, N, kChannelCount>(partner, partners, weights, weight_step, \
                                                   other + partner.lanes, sum);             \
    }                                                                                       \
    break;
    switch (partner.first * 8 + partner.rows) {
      NATTEN_OPS_CASE(0, 1)
      NATTEN_OPS_CASE(0, 2)
      NATTEN_OPS_CASE(0, 3)
      NATTEN_OPS_CASE(0, 4)
      NATTEN_OPS_CASE(1, 1)
      NATTEN_OPS_CASE(1, 2)
      NATTEN_OPS_CASE(1, 3)
      NATTEN_OPS_CASE(2, 1)
      NATTEN_OPS_CASE(2, 2)
      NATTEN_OPS_CASE(3, 1)
    }
#undef NATTEN_OPS_CASE
  }
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRows; ++row) {
    if (row < rows) {
      NATTEN_OPS_UNROLL
      for (int c = 0; c < kChannelCount; ++c) store(to[row] + first_to + c * to_pitch, sum[row][c]);
    }
  }
}

// Adds to `rows` rows of sums, to[row] (channels, to_pitch), their partners times their weights;
// the weights of successive offsets are weight_step apart.
template <typename V, Access kAccess, typename T>
__attribute__((noinline)) void add_all(const Partners<T>& partners, int64_t rows, const T* weights,
                                       int64_t weight_step, const T* other, T* const* to,
                                       int64_t to_pitch) {
  int64_t channel = 0;
  for (; channel + kChannels <= partners.channels; channel += kChannels) {
    add_block<V, kAccess, kChannels>(partners, rows, weights, weight_step,
                                     other + channel * partners.pitch, to, channel * to_pitch,
                                     to_pitch);
  }
  for (; channel < partners.channels; ++channel) {
    add_block<V, kAccess, 1>(partners, rows, weights, weight_step, other + channel * partners.pitch,
                             to, channel * to_pitch, to_pitch);
  }
}

template <typename V, typename T>
NATTEN_OPS_INLINE void add(const Partners<T>& partners, int64_t rows, const T* weights,
                           int64_t weight_step, const T* other, T* const* to, int64_t to_pitch) {
  with_access<T>(partners.access, [&](auto access) {
    add_all<V, access>(partners, rows, weights, weight_step, other, to, to_pitch);
  });
}

// The masks of a masked tile, (steps, kLanes): all bits are set if a lane's range holds the step's
// offset. Of a permuted tile, (highest - lowest + 1, kLanes): if the lane's low is lowest + index.
template <int kLanes, typename T>
void make_masks(const ColumnTile& tile, Integer<T>* masks) {
  const bool permuted = is_permuted(tile.access);
  const int64_t count = permuted ? tile.highest - tile.lowest + 1 : tile.steps;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t offset = tile.lowest + i;
    for (int lane = 0; lane < kLanes; ++lane) {
      const bool inside = permuted ? lane < tile.count && tile.low[lane] == offset
                                   : tile.low[lane] <= offset && offset <= tile.high[lane];
      masks[i * kLanes + lane] = inside ? Integer<T>(-1) : Integer<T>(0);
    }
  }
}
