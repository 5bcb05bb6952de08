// Included once per vector width, by baseline.cpp, avx2.cpp and avx512.cpp (see lanes.inl).
//
// Inner products of queries with keys, and of output gradients with values. A lane is a query. Each
// vector of keys is used for several rows of queries, because loading it would otherwise limit the
// speed: keys of a step begin anywhere in a cache line. If the keys of all steps lie in two
// vectors, and shuffling these is fast, this is done instead.
//
// A row of keys is (channels, pitch); the keys of step t are t * dilation columns after those of
// step 0. Each instruction set chooses kRows and kSteps so that kRows * kSteps + kRows + 1 vectors
// fit its registers.

// The keys of a tile of queries.
template <typename T>
struct Keys {
  const Partner<T>* partners;  // their rows
  int64_t count;
  int64_t pitch, dilation, channels, steps;
  int64_t weight_step;  // from step to step, of the products
  Access access;
  const int32_t* source;       // the place of a lane's first key
  const int32_t* bias_source;  // the place of a lane's bias; null if it is the same in all lanes
  Requests* requests;
};

// One number from `source` behind `from` for each lane.
template <typename V, typename S, typename T>
NATTEN_OPS_INLINE V gathered(const T* from, S source) {
  V lanes;
  NATTEN_OPS_UNROLL
  for (int lane = 0; lane < int(sizeof(V) / sizeof(T)); ++lane) lanes[lane] = from[source[lane]];
  return lanes;
}

// The same if `source` is less than the number of lanes; reads so many numbers.
template <typename V, typename S, typename T>
NATTEN_OPS_INLINE V biases(const T* from, S source) {
  if constexpr (kShuffles && __is_same(T, float)) {
    return shuffled(load<V>(from), load<V>(from), source);
  } else {
    return gathered<V>(from, source);
  }
}

// Calls f with a vector of that many lanes.
template <typename T, typename F>
NATTEN_OPS_INLINE void with_vector(int64_t lanes, F f) {
  if (lanes == kWide<T>) {
    f(Lanes<T, kWide<T>>{});
  } else {
    f(Lanes<T, kNarrowBytes / sizeof(T)>{});
  }
}

// Calls f with the access as a constant, for the accesses that the instruction set has.
template <typename T, typename F>
NATTEN_OPS_INLINE void with_access(Access access, F f) {
  if constexpr (kShuffles && __is_same(T, float)) {
    if (access == Access::kShuffled) return f(std::integral_constant<Access, Access::kShuffled>{});
    if (access == Access::kShuffledStep) {
      return f(std::integral_constant<Access, Access::kShuffledStep>{});
    }
  }
  if (access == Access::kPlain) return f(std::integral_constant<Access, Access::kPlain>{});
  return f(std::integral_constant<Access, Access::kGathered>{});
}

// out[row][t] = bias[row][t] + sum over channels of query[row][channel] * key[channel][t]
template <typename V, Access kAccess, int kRowCount, int kStepCount, typename T>
NATTEN_OPS_INLINE void dot_block(const Partner<T>& partner, const Keys<T>& keys, int64_t first,
                                 const T* query, int64_t query_row, int64_t query_pitch,
                                 const T* key, const T* bias, T* out) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  using S = Lanes<int32_t, kLanes>;
  keys.requests->keep_pace(kRowCount * kStepCount * keys.channels);
  V sum[kRowCount][kStepCount];
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRowCount; ++row) {
    const T* from = bias ? bias + partner.bias[row] + first : nullptr;
    NATTEN_OPS_UNROLL
    for (int t = 0; t < kStepCount; ++t) {
      if (!bias) {
        sum[row][t] = V{};
      } else if (kAccess == Access::kPlain || !keys.bias_source) {
        sum[row][t] = from[t] - V{};
      } else {
        sum[row][t] = biases<V>(from + t, load<S>(keys.bias_source));
      }
    }
  }
  S source[kStepCount] = {};  // of each step
  if constexpr (kAccess != Access::kPlain) {
    NATTEN_OPS_UNROLL
    for (int t = 0; t < kStepCount; ++t) {
      const int64_t step = kAccess == Access::kShuffledStep ? 0 : (first + t) * keys.dilation;
      source[t] = pinned(load<S>(keys.source) + static_cast<int32_t>(step));
    }
  }
  key += partner.place;
  query += partner.first * query_row;
  for (int64_t channel = 0; channel < keys.channels; ++channel) {
    V own[kRowCount];
    NATTEN_OPS_UNROLL
    for (int row = 0; row < kRowCount; ++row) own[row] = pinned(load<V>(query + row * query_row));
    V aligned[2] = {};
    if constexpr (kAccess == Access::kShuffled) {
      aligned[0] = pinned(load<V>(key));
      aligned[1] = pinned(load<V>(key + kLanes));
    }
    NATTEN_OPS_UNROLL
    for (int t = 0; t < kStepCount; ++t) {
      V other;
      if constexpr (kAccess == Access::kPlain) {
        other = load<V>(key + (first + t) * keys.dilation);
      } else if constexpr (kAccess == Access::kShuffled) {
        other = shuffled(aligned[0], aligned[1], source[t]);
      } else if constexpr (kAccess == Access::kShuffledStep) {
        const T* from = key + (first + t) * keys.dilation;
        other = shuffled(load<V>(from), load<V>(from + kLanes), source[0]);
      } else {
        other = gathered<V>(key, source[t]);
      }
      other = pinned(other);
      NATTEN_OPS_UNROLL
      for (int row = 0; row < kRowCount; ++row) sum[row][t] += own[row] * other;
    }
    query += query_pitch;
    key += keys.pitch;
  }
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRowCount; ++row) {
    T* to = out + partner.weights[row] + first * keys.weight_step;
    NATTEN_OPS_UNROLL
    for (int t = 0; t < kStepCount; ++t) store(to + t * keys.weight_step, sum[row][t]);
  }
}

template <typename V, Access kAccess, int kRowCount, typename T>
NATTEN_OPS_INLINE void dot_rows(const Partner<T>& partner, const Keys<T>& keys, const T* query,
                                int64_t query_row, int64_t query_pitch, const T* key, const T* bias,
                                T* out) {
  int64_t blocks = (keys.steps + kSteps - 1) / kSteps;
  for (int64_t first = 0; first < keys.steps; --blocks) {
    const int64_t count = (keys.steps - first + blocks - 1) / blocks;  // of about one size
#define NATTEN_OPS_CASE(N)                                                                     \
  case N:                                                                                      \
    if constexpr (N <= kSteps) {                                                               \
      dot_block<V, kAccess, kRowCount, N>(partner, keys, first, query, query_row, query_pitch, \
                                          key, bias, out);                                     \
    }                                                                                          \
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

// The products of a tile's queries, (rows, channels, query_pitch), with all of their keys. bias may
// be null.
template <typename V, Access kAccess, typename T>
__attribute__((noinline)) void dot_all(const Keys<T>& keys, const T* query, int64_t query_row,
                                       int64_t query_pitch, const T* key, const T* bias, T* out) {
  for (int64_t i = 0; i < keys.count; ++i) {
    const Partner<T>& partner = keys.partners[i];
#define NATTEN_OPS_CASE(N)                                                                   \
  case N:                                                                                    \
    if constexpr (N <= kRows) {                                                              \
      dot_rows<V, kAccess, N>(partner, keys, query, query_row, query_pitch, key, bias, out); \
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
NATTEN_OPS_INLINE void dot(const Keys<T>& keys, const T* query, int64_t query_row,
                           int64_t query_pitch, const T* key, const T* bias, T* out) {
  with_access<T>(keys.access, [&](auto access) {
    dot_all<V, access>(keys, query, query_row, query_pitch, key, bias, out);
  });
}
