// What the kernels for small windows share: 3, 5 or 7 keys on both axes, and head_dim up to 32.
//
// Windows are so small that 8 columns and 8 + kSize - 1 rows hold all keys of a patch; 8 rows do if
// no residue class has more, as with the largest dilations. So the rows are unrolled, and a
// thread's addresses in them differ by constants.
//
// Products start from a bias pair: for the two columns of a patch and each difference of rows
// between query and key, bias / scale where the columns are partners, and -infinity elsewhere. It
// is in the order of a product's result: a thread loads its four numbers at once. For rows that are
// not partners, a thread loads from rows of -infinity instead. At borders, where windows are
// shifted, a warp makes a bias pair of its own. Elsewhere all patches of a block share one.
#pragma once

#include "patches.cuh"

namespace natten_ops::cuda {

namespace small {

constexpr int kPitch = 24;
constexpr int kBlocks = kIsOldDevice ? 1 : 2;  // of a multiprocessor

template <typename E, int kKernel, int kPartnerRows, int kBlockWarps, bool kNumbers>
struct Variant {
  using Element = E;
  static constexpr int kDim = 32;
  static constexpr int kSize = kKernel;
  static constexpr int kWarps = kBlockWarps;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = kPartnerRows;  // of partners that are multiplied at once
  static constexpr bool kIsFlat = false, kHasNumbers = kNumbers;
  static_assert(kSize % 2 == 1 && kSize <= 7, "two windows side by side take up to 8 columns");
  static_assert(kWarps <= 8);

  static NATTEN_OPS_HOST_DEVICE constexpr int window(const Common&, int) { return kSize; }
  static NATTEN_OPS_HOST_DEVICE constexpr int pitch(const Common&) { return kPitch; }
};

// The bands of a tile as bits: those whose patch at a column has only tokens that exist, with as
// many partners before as after them (centered), and the others.
struct Bands {
  uint32_t centered, others;

  template <int kSize, bool kOfQueries>
  static NATTEN_OPS_DEVICE Bands at(const Tile& tile, int column) {
    constexpr int kBorder = kOfQueries ? kSize / 2 : kSize;
    const auto are_centered = [&](int axis, int first, int size) {
      return first >= kBorder && first + size <= tile.count[axis] - kBorder &&
             first + size <= tile.end[axis];
    };
    Bands bands = {0, 0};
    if (column >= tile.end[1]) return bands;
    const bool has_columns = are_centered(1, column, 2);
    NATTEN_OPS_UNROLL
    for (int band = 0; band < kMostBands; ++band) {
      const int row = tile.begin[0] + 8 * band;
      const bool is_centered = has_columns && are_centered(0, row, 8);
      bands.centered |= static_cast<uint32_t>(is_centered) << band;
      bands.others |= static_cast<uint32_t>(!is_centered && row < tile.end[0]) << band;
    }
    return bands;
  }
};

// ---- Bias ----

template <int kSize>
constexpr int kPairNumbers = (2 * kSize - 1) * 16;

// Makes the bias pair of two columns, `own`, and their partners; `begin` is the first column of the
// products. `bias` begins at the head. `threads` threads do this together, and this is number
// `thread`. Row r of the pair is for a partner that is r - (kSize - 1) rows after the token.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE void make_pair(const Common& common, const BiasView& bias, const int (&own)[2],
                                 const Span (&partners)[2], int begin, int thread, int threads,
                                 float* pair) {
  constexpr int kSize = V::kSize, kOffsets = 2 * kSize - 1;
  for (int i = thread; i < kPairNumbers<kSize>; i += threads) {
    const int e = i % 4 / 2, column = begin + i % 16 / 4 * 2 + i % 2;
    const Span span = e ? partners[1] : partners[0];
    int down = i / 16, across = column - (e ? own[1] : own[0]) + kSize - 1;
    if (!kOfQueries) {
      down = kOffsets - 1 - down;
      across = kOffsets - 1 - across;
    }
    float number = 0;
    if (column < span.first || column > span.last) {
      number = -INFINITY;
    } else if (bias.data) {
      const int entry = down * common.bias_step[0] + across * common.bias_step[1];
      number = read_bias<typename V::Element>(bias, entry) * common.inverse_scale;
    }
    pair[i] = number;
  }
}

// A block's shared memory: planes, bias pairs, one for all and one a warp, rows of -infinity, what
// a kernel has of its own, and the region.
template <typename V>
constexpr int kSharedBytes =
    kPlaneBytes + kFlagBytes +
    ((1 + V::kWarps) * kPairNumbers<V::kSize> + 16 * V::kRows) * int(sizeof(float));

NATTEN_OPS_DEVICE float* centered_pair() {
  return reinterpret_cast<float*>(shared_memory() + kPlaneBytes + kFlagBytes);
}
template <typename V>
NATTEN_OPS_DEVICE float* own_pair() {
  return centered_pair() + (1 + thread_index() / 32) * kPairNumbers<V::kSize>;
}
template <typename V>
NATTEN_OPS_DEVICE float* rows_of_nothing() {
  return centered_pair() + (1 + V::kWarps) * kPairNumbers<V::kSize>;
}

// All threads of the block make the bias pair of columns with centered windows, and rows of
// -infinity.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE void make_centered_pair(const Common& common, const BiasView& bias) {
  constexpr int kSize = V::kSize;
  const int own[2] = {kSize / 2, kSize / 2 + 1};
  const Span partners[2] = {{0, kSize - 1}, {1, kSize}};
  make_pair<V, kOfQueries>(common, bias, own, partners, 0, thread_index(), V::kThreads,
                           centered_pair());
  for (int i = thread_index(); i < 16 * V::kRows; i += V::kThreads) {
    rows_of_nothing<V>()[i] = -INFINITY;
  }
}

// What the products of a patch with kRows rows of partners start from.
struct Start {
  const float* partners;  // the thread's numbers in the bias pair, for the first row
  const float* nothing;   // in the rows of -infinity
  uint32_t rows;          // bit i: row i has partners

  // For a token at row `own` whose partners begin and end at such rows; `begin` is the first row.
  template <typename V>
  static NATTEN_OPS_DEVICE Start at(const float* pair, int own, int begin, const Span& partners) {
    const int numbers = thread_index() % 4 * 4;
    const uint32_t rows = partners.first <= partners.last
                              ? (2u << (partners.last - begin)) - (1u << (partners.first - begin))
                              : 0;
    return {pair + (begin - own + V::kSize - 1) * 16 + numbers, rows_of_nothing<V>() + numbers,
            rows};
  }
  NATTEN_OPS_DEVICE void load(int row, float (&sums)[4]) const {
    const Four four =
        *reinterpret_cast<const Four*>((rows >> row & 1 ? partners : nothing) + 16 * row);
    NATTEN_OPS_UNROLL
    for (int j = 0; j < 4; ++j) sums[j] = four.numbers[j];
  }
};

// ---- Calls ----

inline bool covers(const Problem& problem) {
  const int64_t size = problem.kernel_size[0];
  return problem.head_dim <= 32 && problem.kernel_size[1] == size &&
         (size == 3 || size == 5 || size == 7);
}

template <typename V>
int64_t region_bytes(const Tiling& tiling) {
  return int64_t(tiling.region[0]) * row_stride<V>({}) * sizeof(typename V::Element);
}

// The largest tiles of which two fit a multiprocessor, or else the largest of which one does.
// bytes(tiling) is the shared memory that they take.
template <typename V, bool kOfQueries, typename Bytes>
bool find_tiling(const Problem& problem, Bytes bytes, Tiling& tiling) {
  tiling.tiles_per_block = 1;
  for (int most = 2 * V::kWarps; most == 2 * V::kWarps || tiling.region[1] > kPitch; most -= 2) {
    choose_tiles<kOfQueries>(problem, 1, most, 2, tiling);
  }
  const int64_t limit = shared_memory_limit();
  const int64_t share = shared_memory_of_multiprocessor() / 2 - kReservedShared;
  for (const int64_t most : {share < limit ? share : limit, limit}) {
    for (int bands = kMostBands; bands > 0; --bands) {
      choose_tiles<kOfQueries>(problem, 0, 8 * bands, 8, tiling);
      const int rows = tiling.tile[0] - 8 + V::kRows;
      if (tiling.region[0] < rows) tiling.region[0] = rows;
      if (bytes(tiling) <= most) return true;
    }
  }
  return false;
}

// Calls f with a variant for the problem and dtype.
template <int kWarps, bool kNumbers, typename F>
auto with_variant(const Problem& problem, Dtype dtype, F f) {
  return with_element(dtype, [&](auto element) {
    using Element = decltype(element);
    switch (problem.kernel_size[0]) {
      case 3:
        return f(Variant<Element, 3, 10, kWarps, kNumbers>());
      case 5:
        // With 8 warps, and 128 registers, the compiler spills.
        return f(Variant<Element, 5, 12, kWarps == 8 ? 6 : kWarps, kNumbers>());
      default:
        return positions(problem, 0) <= 8 ? f(Variant<Element, 7, 8, kWarps, kNumbers>())
                                          : f(Variant<Element, 7, 14, kWarps, kNumbers>());
    }
  });
}

}  // namespace small

}  // namespace natten_ops::cuda
