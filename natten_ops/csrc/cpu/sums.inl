// Included once per vector width, by baseline.cpp, avx2.cpp and avx512.cpp (see lanes.inl).
//
// Sums of weighted partners: values for queries, keys for queries' gradients, queries and output
// gradients for the gradients of keys and values. A lane is a channel. So tokens and results lie as
// in tensors, and a weight is one number, read into all lanes, wherever it is. Every vector of a
// partner is used for several rows, and kColumns columns are computed together, so that additions
// need not wait for each other.

// One row of partners of a group of rows, and the rows, at most kRows, that it belongs to: `rows`
// from `first` on.
template <typename T>
struct Partner {
  int64_t position;  // of the row
  const T* tokens;   // the token of column 0
  int64_t place;     // of its channel 0 in an array of transposed rows
  int64_t first, rows;
  int64_t weights[kRows];  // of each such row: the place of its weights for the partners
  int64_t bias[kRows];     // of each such row: the place of its bias for column offset 0
};

// Partners in one row, of one or several neighboring columns: `count`, token_step and weight_step
// apart. From column to column, tokens are token_shift and weights one number apart.
template <typename T>
struct Weighted {
  int64_t token, token_step, token_shift;
  const T* weights;
  int64_t weight_step;
  int64_t count;
};

// All partners of one or several neighboring columns: in each of `rows` rows, those of `segments`.
template <typename T>
struct ColumnSums {
  const Partner<T>* partners;
  int64_t rows;
  Weighted<T> segments[3];
  int64_t count;
  Requests* requests;
};

// sum[row][column] += weight * partner, for kRowCount rows from kFirst on.
template <typename V, int kVectors, int kColumns, int kFirst, int kRowCount, typename T>
NATTEN_OPS_INLINE void sum_partner(const Partner<T>& partner, const Weighted<T>& weighted,
                                   int64_t channel, V (&sum)[kRows][kColumns][kVectors]) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  const T* token = partner.tokens + weighted.token + channel;
  const T* weight[kRowCount];
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRowCount; ++row) weight[row] = weighted.weights + partner.weights[row];
  int64_t at = 0;
  for (int64_t left = weighted.count; left > 0; --left) {
    NATTEN_OPS_UNROLL
    for (int column = 0; column < kColumns; ++column) {
      V lanes[kVectors];
      NATTEN_OPS_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        lanes[i] = pinned(load<V>(token + column * weighted.token_shift + i * kLanes));
      }
      NATTEN_OPS_UNROLL
      for (int row = 0; row < kRowCount; ++row) {
        const V own = pinned(weight[row][at + column] - V{});
        NATTEN_OPS_UNROLL
        for (int i = 0; i < kVectors; ++i) sum[kFirst + row][column][i] += own * lanes[i];
      }
    }
    token += weighted.token_step;
    at += weighted.weight_step;
  }
}

// Results of kColumns columns: `rows` rows, to[row], columns to_stride apart. With `factors`,
// (rows, factor_row), they become the sums times these; else the sums are added to them.
template <typename T>
struct Results {
  T* to[kRows];
  int64_t rows, to_stride;
  const T* factors;
  int64_t factor_row;
};

// kVectors vectors of channels, from `channel` on; `to` is the place of the column in the results.
template <typename V, int kVectors, int kColumns, typename T>
__attribute__((noinline)) void sum_block(const ColumnSums<T>& sums, const Results<T>& results,
                                         int64_t to, int64_t channel) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  to += channel;
  V sum[kRows][kColumns][kVectors];
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRows; ++row) {
    NATTEN_OPS_UNROLL
    for (int column = 0; column < kColumns; ++column) {
      NATTEN_OPS_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        sum[row][column][i] =
            row < results.rows && !results.factors
                ? load<V>(results.to[row] + to + column * results.to_stride + i * kLanes)
                : V{};
      }
    }
  }
  for (const Partner<T>* partner = sums.partners; partner != sums.partners + sums.rows; ++partner) {
    for (int64_t i = 0; i < sums.count; ++i) {
      const Weighted<T>& weighted = sums.segments[i];
      sums.requests->keep_pace(kVectors * kColumns * partner->rows * weighted.count);
#define NATTEN_OPS_CASE(F, N)                                                     \
  case F * 8 + N:                                                                 \
    if constexpr (F + N <= kRows) {                                               \
      sum_partner<V, kVectors, kColumns, F, N>(*partner, weighted, channel, sum); \
    }                                                                             \
    break;
      switch (partner->first * 8 + partner->rows) {
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
  }
  NATTEN_OPS_UNROLL
  for (int row = 0; row < kRows; ++row) {
    if (row < results.rows) {
      NATTEN_OPS_UNROLL
      for (int column = 0; column < kColumns; ++column) {
        NATTEN_OPS_UNROLL
        for (int i = 0; i < kVectors; ++i) {
          const V lanes = sum[row][column][i];
          store(
              results.to[row] + to + column * results.to_stride + i * kLanes,
              results.factors ? lanes * results.factors[row * results.factor_row + column] : lanes);
        }
      }
    }
  }
}

template <typename V, int kColumns, typename T>
NATTEN_OPS_INLINE void sum_rest(const ColumnSums<T>& sums, const Results<T>& results, int64_t to,
                                int64_t channel, int64_t channels) {
  constexpr int64_t kLanes = sizeof(V) / sizeof(T);
  for (; channel + kLanes <= channels; channel += kLanes) {
    sum_block<V, 1, kColumns>(sums, results, to, channel);
  }
  if constexpr (kLanes > 1) {
    if (channel < channels) {
      sum_rest<Lanes<T, kLanes / 2>, kColumns>(sums, results, to, channel, channels);
    }
  }
}

// The sums of kColumns columns.
template <int kColumns, typename T>
NATTEN_OPS_INLINE void sum_columns(const ColumnSums<T>& sums, const Results<T>& results, int64_t to,
                                   int64_t channels) {
  using V = Lanes<T, kWide<T>>;
  constexpr int64_t kBlock = kVectors * kWide<T>;
  int64_t channel = 0;
  for (; channel + kBlock <= channels; channel += kBlock) {
    sum_block<V, kVectors, kColumns>(sums, results, to, channel);
  }
  if (channel < channels) sum_rest<V, kColumns>(sums, results, to, channel, channels);
}

// How partners' tokens and weights lie.
struct SumLayout {
  int64_t channels, dilation;
  int64_t token_stride;  // from column to column
  int64_t weight_step;   // from entry to entry
  Requests* requests;
};

// Whether all weights of column b are one number behind those of column a.
inline bool are_neighbors(const ColumnPartners& a, const ColumnPartners& b, int64_t weight_step) {
  if (a.count != b.count) return false;
  for (int64_t i = 0; i < a.count; ++i) {
    const Segment &x = a.segments[i], &y = b.segments[i];
    if (x.count != y.count || x.entry_step != y.entry_step || x.query_step != y.query_step ||
        (y.entry - x.entry) * weight_step + y.query - x.query != 1) {
      return false;
    }
  }
  return true;
}

// The sums of the columns [begin, end), whose partners in each of `rows` rows are those of
// partners_of(column). Results' factors are those of column `begin` on.
template <typename T, typename PartnersOf>
void sum_all(const Partner<T>* partners, int64_t rows, const SumLayout& layout, const T* weights,
             Results<T> results, int64_t begin, int64_t end, PartnersOf partners_of) {
  ColumnSums<T> sums{partners, rows, {}, 0, layout.requests};
  const T* factors = results.factors;
  for (int64_t column = begin; column < end;) {
    const ColumnPartners& own = partners_of(column);
    // Two columns, if there are two such.
    static_assert(kColumns == 2);
    const ColumnPartners& next = column + 1 < end ? partners_of(column + 1) : own;
    const bool is_pair = are_neighbors(own, next, layout.weight_step);
    sums.count = own.count;
    for (int64_t i = 0; i < own.count; ++i) {
      const Segment& segment = own.segments[i];
      sums.segments[i] = {
          segment.partner * layout.token_stride,
          layout.dilation * layout.token_stride,
          (next.segments[i].partner - segment.partner) * layout.token_stride,
          weights + segment.entry * layout.weight_step + segment.query,
          segment.entry_step * layout.weight_step + segment.query_step,
          segment.count,
      };
    }
    if (factors) results.factors = factors + (column - begin);
    const int64_t to = column * results.to_stride;
    if (is_pair) {
      sum_columns<kColumns>(sums, results, to, layout.channels);
    } else {
      sum_columns<1>(sums, results, to, layout.channels);
    }
    column += is_pair ? kColumns : 1;
  }
}
