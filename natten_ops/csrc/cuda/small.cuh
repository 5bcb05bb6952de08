// What the kernels for small windows share: 3, 5 or 7 keys on both axes, and head_dim up to 32.
//
// Windows are so small that 8 columns and 8 + kSize - 1 rows hold all keys of a patch; 8 rows do if
// no residue class has more, as with the largest dilations. Then classes are stacked: each is a
// band of a strip. So the rows are unrolled, and a thread's addresses in them differ by constants.
//
// A block's tiles are strips: as many columns as its warps have, and many bands. The block goes
// down a strip, with the partners of one band after the other in shared memory: a ring of chunks of
// 8 rows. Bands begin 8 rows apart, so that the products of each begin with a chunk and end in the
// next. While the warps compute a band, the chunk arrives that the next one needs.
//
// There are as many blocks as run at once, or a few times as many. Each has as many whole strips as
// the others, next to theirs, and an equal part of the bands of the strips that are left.
//
// Products start from a bias pair: for the two columns of a patch and each difference of rows
// between query and key, bias / scale where the columns are partners, and -infinity elsewhere. It
// is in the order of a product's result: a thread loads its four numbers at once. For rows that are
// not partners, a thread loads from rows of -infinity instead. At borders, where windows are
// shifted, a warp makes bias pairs of its own. Elsewhere all patches of a block share one.
#pragma once

#include "patches.cuh"

namespace natten_ops::cuda {

namespace small {

template <typename E, int kKernel, int kPartnerRows, int kBlockWarps, bool kNumbers,
          int kBlocksAtOnce = 2>
struct Variant {
  using Element = E;
  static constexpr int kDim = 32;
  static constexpr int kSize = kKernel;
  static constexpr int kWarps = kBlockWarps;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlocks = kIsOldDevice ? 1 : kBlocksAtOnce;  // of a multiprocessor
  static constexpr int kRows = kPartnerRows;  // of partners that are multiplied at once
  // Tokens of a region's row: those of the tile, kSize - 1 more, and one that products pass.
  static constexpr int kPitch = kWarps == 8 ? 24 : 20;
  static constexpr bool kIsFlat = false, kHasNumbers = kNumbers, kIsStacked = kRows == 8;
  static constexpr bool kHasWholePitch = kPitch % 8 == 0;
  static_assert(kSize % 2 == 1 && kSize <= 7, "two windows side by side take up to 8 columns");
  static_assert(kWarps <= 8 && 2 * kWarps + kSize <= kPitch);
  static_assert(kRows == 8 || kRows == 8 + kSize - 1);

  static NATTEN_OPS_HOST_DEVICE constexpr int window(const Common&, int) { return kSize; }
  static NATTEN_OPS_HOST_DEVICE constexpr int pitch(const Common&) { return kPitch; }
};

// ---- Strips ----

// The row of the first partner that the products of a band begin with: half a window before it. The
// windows of the last few rows may begin earlier; then it is 8 rows before that.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE int first_partner_row(const Tile& tile, int row) {
  if (V::kIsStacked) return row;
  const int usual = row - V::kSize / 2;
  const bool is_early =
      kOfQueries && partners<kOfQueries>(V::kSize, row, tile.count[0]).first < usual;
  return is_early && row > 0 ? usual - 8 : usual;
}

// Whether a band's tokens all exist, with as many partner rows before as after them.
template <typename V>
NATTEN_OPS_DEVICE bool has_centered_rows(const Tile& tile, int row) {
  return !V::kIsStacked && row >= V::kSize / 2 && row + 8 <= tile.count[0] - V::kSize / 2;
}

// A strip or a part of one. It is in shared memory, as registers are short.
struct Strip {
  Tile tile;
  Span columns;  // of partners
  int last_row;  // of partners
  int first;     // row of the first chunk
  int chunks;
  bool is_first;  // of the block
  uint32_t done;  // bands of the block until the end of this strip

  // Of `bands` bands from a band of a head's strip on. False if there are none.
  template <typename V, bool kOfQueries>
  static NATTEN_OPS_DEVICE bool find(const Common& common, int head, uint32_t number, int band,
                                     int bands, Strip& strip) {
    Tile& tile = strip.tile;
    const Problem& problem = common.problem;
    uint32_t residues[2], rest = number;
    residues[1] = rest;
    rest = common.residues[1].split(residues[1]);
    uint32_t column = rest;
    rest = common.tiles[1].split(column);
    residues[0] = V::kIsStacked ? 0 : rest;
    tile.batch = V::kIsStacked ? rest : common.residues[0].split(residues[0]);
    tile.head = head;
    NATTEN_OPS_UNROLL
    for (int axis = 0; axis < 2; ++axis) {
      tile.residue[axis] = static_cast<int>(residues[axis]);
      tile.count[axis] = static_cast<int>(common.residues[axis].divide(
          static_cast<uint32_t>(problem.length[axis] + problem.dilation[axis] - 1) -
          residues[axis]));
      tile.begin[axis] = axis ? static_cast<int>(column) * common.tiling.tile[1] : 8 * band;
      tile.end[axis] = tile.begin[axis] + (axis ? common.tiling.tile[1] : 8 * bands);
      if ((axis || !V::kIsStacked) && tile.end[axis] > tile.count[axis]) {
        tile.end[axis] = tile.count[axis];
      }
    }
    if (V::kIsStacked) {
      const int64_t others = int64_t(tile.count[0] - 1) * problem.dilation[0];
      tile.full = static_cast<int>(problem.length[0] - others);
    }
    if (tile.begin[0] >= tile.end[0] || tile.begin[1] >= tile.end[1]) return false;
    strip.columns = partners<V, kOfQueries>(common, tile, 1);
    strip.last_row =
        V::kIsStacked ? tile.end[0] - 1 : partners<V, kOfQueries>(common, tile, 0).last;
    strip.first = first_partner_row<V, kOfQueries>(tile, tile.begin[0]);
    const int last_band = tile.begin[0] + (tile.end[0] - tile.begin[0] - 1) / 8 * 8;
    const int last_begin = first_partner_row<V, kOfQueries>(tile, last_band);
    // Bands end in the chunk after the one that they begin in. The last keys may have queries
    // beyond.
    strip.chunks = (last_begin - strip.first) / 8 +
                   (V::kIsStacked ? 1 : 2 + (strip.last_row >= last_begin + V::kRows));
    return true;
  }
};

constexpr int kStripBytes = 96;
NATTEN_OPS_DEVICE Strip& strip_of_block() {
  static_assert(sizeof(Strip) <= kStripBytes && (kPlaneBytes + kFlagBytes) % alignof(Strip) == 0);
  return *reinterpret_cast<Strip*>(shared_memory() + kPlaneBytes + kFlagBytes);
}

// The first column of the patches of the thread's warp.
NATTEN_OPS_DEVICE int column_of_warp(const Tile& tile) {
  return tile.begin[1] + 2 * (thread_index() / 32);
}
// Whether windows of two columns are centered: all patches of a block share their bias pair.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE bool has_centered_columns(const Tile& tile, int column) {
  constexpr int kBorder = kOfQueries ? V::kSize / 2 : V::kSize;
  return column >= kBorder && column + 2 <= tile.count[1] - kBorder;
}

// Goes to the block's next strip and finds its planes; `done` is 0, or what the last strip says.
// False if there is none.
template <typename V, bool kOfQueries, int kCount>
NATTEN_OPS_DEVICE bool next_strip(const Common& common, const Tensor (&tensors)[kCount],
                                  uint32_t done) {
  const Tiling& tiling = common.tiling;
  const uint32_t of_strip = tiling.tiles[0], of_whole = tiling.whole_strips * of_strip;
  const uint32_t of_block = tiling.tiles_per_block, left = tiling.bands_left;
  uint32_t slot = block_index() ^ common.nothing;
  const int head = split_head(common, slot);
  Strip found;
  found.is_first = done == 0;
  for (;;) {
    uint32_t strip, bands;
    uint32_t band = done;
    if (done < of_whole) {
      strip = slot + common.tiles[0].split(band) * tiling.slots;
      bands = of_strip - band;
    } else {
      const uint32_t before = done - of_whole;
      band = slot * of_block + before;
      if (before >= of_block || band >= left) return false;
      bands = of_block - before < left - band ? of_block - before : left - band;
      strip = tiling.whole_strips * tiling.slots + common.tiles[0].split(band);
      if (bands > of_strip - band) bands = of_strip - band;
    }
    if (bands > kMostBands) bands = kMostBands;
    found.done = done += bands;
    if (Strip::find<V, kOfQueries>(common, head, strip, band, bands, found)) {
      block_barrier();  // the last strip is no longer needed
      if (thread_index() == 0) strip_of_block() = found;
      find_planes(common, tensors, found.tile);
      block_barrier();
      return true;
    }
  }
}

// The chunks of a strip's partners in shared memory.
struct Ring {
  int rows;    // 24, or 16 if shared memory is short
  int loaded;  // chunks

  NATTEN_OPS_DEVICE int chunk_of(int row) const { return (row - strip_of_block().first) / 8; }
  // The row of shared memory that a chunk begins at.
  NATTEN_OPS_DEVICE int place_of(int chunk) const {
    return 8 * (rows == 24 ? chunk % 3 : chunk % 2);
  }
  // From rows that follow one another in shared memory to where those of the next chunk really are.
  NATTEN_OPS_DEVICE int wrap_of(int chunk) const { return place_of(chunk) + 8 < rows ? 0 : -rows; }

  // Loads the next chunk: load(row, columns that exist, row of shared memory) begins to copy a row.
  template <typename V, typename Load>
  NATTEN_OPS_DEVICE void load_next(Load load) {
    const Strip& strip = strip_of_block();
    const int place = place_of(loaded);
    NATTEN_OPS_NO_UNROLL
    for (int i = thread_index() / 32; i < 8; i += V::kWarps) {
      const int row = strip.first + 8 * loaded + i;
      bool exists = row >= 0 && row <= strip.last_row;
      if constexpr (V::kIsStacked) exists = i < ClassRows::at<V>(strip.tile, row).count;
      load(row, exists ? strip.columns.size() : 0, place + i);
    }
    ++loaded;
    copy_async_commit();
  }
  template <typename V, typename Load>
  NATTEN_OPS_DEVICE void load_first(Load load) {
    NATTEN_OPS_NO_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (!V::kIsStacked || loaded < strip_of_block().chunks) load_next<V>(load);
    }
  }
  // Waits for the chunks of products that begin with a chunk; none before it are needed any more.
  // Then loads one in advance, if there is room.
  template <typename V, typename Load>
  NATTEN_OPS_DEVICE void go_to(int chunk, Load load) {
    const int end = chunk + (V::kIsStacked ? 1 : 2);
    const bool is_late = loaded < end;  // there was no room
    if (V::kIsStacked && loaded > end) {
      copy_async_wait<1>();
    } else if (!is_late) {
      copy_async_wait<0>();
    }
    block_barrier();
    const bool has_room = loaded < strip_of_block().chunks && 8 * (loaded + 1 - chunk) <= rows;
    if (is_late || has_room) load_next<V>(load);
    if (is_late) {
      copy_async_wait<0>();
      block_barrier();
    }
  }
};

// Begins to copy a row of partners: of two tensors, side by side.
template <typename V, int kCount>
NATTEN_OPS_DEVICE void copy_two(const Common& common, const Tensor (&tensors)[kCount], int first,
                                int second, int row, int columns, typename V::Element* to) {
  const int first_column = strip_of_block().columns.first;
  copy_row<V>(common, {tensors[first], first}, row, first_column, columns, to);
  copy_row<V>(common, {tensors[second], second}, row, first_column, columns,
              to + row_elements<V>(common));
}

// A patch's own tokens of a tensor.
template <typename V, int kCount>
NATTEN_OPS_DEVICE Channels<V> read_own(const Common& common, const Tensor (&tensors)[kCount],
                                       int tensor, const Own<V>& own) {
  const Plane<V, const typename V::Element> plane = {tensors[tensor], tensor};
  return Cursor<V, const typename V::Element>(common, plane, own).read(common, plane.tensor, own);
}

// From a row of products to the i-th after it, in a region whose rows from 8 on are `wrap` further.
template <typename V>
NATTEN_OPS_DEVICE int row_offset(const Common& common, int i, int wrap) {
  return (i + (i < 8 ? 0 : wrap)) * row_stride<V>(common);
}

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

// Which columns a warp's own bias pairs are for.
struct PairsOf {
  int column, count;
};
constexpr int kPairsOfBytes = 8 * sizeof(PairsOf);

// The queries of two keys can take 14 columns, the keys of two queries 8.
template <typename V>
constexpr int kOwnPairs = V::kHasNumbers ? 2 : 1;
template <typename V>
constexpr int kPairs = 1 + V::kWarps * kOwnPairs<V>;

// A block's shared memory: planes, the strip, bias pairs, one for all and then those of each warp,
// rows of -infinity, what a kernel has of its own, and the ring.
template <typename V>
constexpr int kSharedBytes =
    kPlaneBytes + kFlagBytes + kStripBytes + kPairsOfBytes +
    (kPairs<V> * kPairNumbers<V::kSize> + 16 * V::kRows) * int(sizeof(float));

NATTEN_OPS_DEVICE PairsOf& pairs_of_warp() {
  return reinterpret_cast<PairsOf*>(shared_memory() + kPlaneBytes + kFlagBytes +
                                    kStripBytes)[thread_index() / 32];
}
NATTEN_OPS_DEVICE float* centered_pair() {
  return reinterpret_cast<float*>(shared_memory() + kPlaneBytes + kFlagBytes + kStripBytes +
                                  kPairsOfBytes);
}
// For the warp's number-th eight of columns.
template <typename V>
NATTEN_OPS_DEVICE float* own_pair(int number) {
  return centered_pair() +
         (1 + thread_index() / 32 * kOwnPairs<V> + number) * kPairNumbers<V::kSize>;
}
template <typename V>
NATTEN_OPS_DEVICE float* rows_of_nothing() {
  return centered_pair() + kPairs<V> * kPairNumbers<V::kSize>;
}

// The column that the products with the eight from a column on begin with: at the end of the
// region, an earlier one.
template <typename V>
NATTEN_OPS_DEVICE int begin_of_eight(const Strip& strip, int column) {
  const int last = strip.columns.first + V::kPitch - 8;
  return column < last ? column : last;
}

// Makes the bias pairs of the warp's columns, if it needs pairs of its own and does not have them
// from the last strip.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE void make_own_pairs(const Common& common, const BiasView& bias,
                                      const Strip& strip) {
  constexpr int kSize = V::kSize;
  const Tile& tile = strip.tile;
  const int column = column_of_warp(tile), lane = thread_index() % 32;
  PairsOf& known = pairs_of_warp();
  const bool is_known = !strip.is_first && known.column == column && known.count == tile.count[1];
  warp_barrier();
  if (lane == 0) known = {column, tile.count[1]};
  if (is_known || column >= tile.end[1] || has_centered_columns<V, kOfQueries>(tile, column)) {
    return;
  }
  const Own<V> own(tile, tile.begin[0], column);
  const Span all[2] = {partners<kOfQueries>(kSize, own.columns[0], tile.count[1]),
                       partners<kOfQueries>(kSize, own.columns[1], tile.count[1])};
  for (int i = 0; i < kOwnPairs<V>; ++i) {
    // Partners of the eights before are counted already.
    const int begin = all[0].first + 8 * i;
    Span left[2] = {all[0], all[1]};
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      if (left[e].first < begin) left[e].first = begin;
    }
    make_pair<V, kOfQueries>(common, bias, own.columns, left, begin_of_eight<V>(strip, begin), lane,
                             32, own_pair<V>(i));
  }
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

// Bit i: row i of a thread's products, which begin with row `begin`, has partners of its tokens.
NATTEN_OPS_DEVICE uint32_t rows_of(const Span& partners, int begin) {
  return partners.first <= partners.last
             ? (2u << (partners.last - begin)) - (1u << (partners.first - begin))
             : 0;
}

// What the products of a patch with kRows rows of partners start from.
struct Start {
  const float* partners;  // the thread's numbers in the bias pair, for the first row
  const float* nothing;   // in the rows of -infinity
  uint32_t rows;          // see rows_of

  // For tokens of a row `own`.
  template <typename V>
  static NATTEN_OPS_DEVICE Start at(const float* pair, int own, int begin, const Span& partners) {
    const int numbers = thread_index() % 4 * 4;
    return {pair + (begin - own + V::kSize - 1) * 16 + numbers, rows_of_nothing<V>() + numbers,
            rows_of(partners, begin)};
  }
  NATTEN_OPS_DEVICE void load(int row, float (&sums)[4]) const {
    const Four four =
        *reinterpret_cast<const Four*>((rows >> row & 1 ? partners : nothing) + 16 * row);
    NATTEN_OPS_UNROLL
    for (int j = 0; j < 4; ++j) sums[j] = four.numbers[j];
  }
};

// ---- Calls ----

template <typename Call>
bool covers(const Call& call) {
  const Problem& problem = call.problem;
  const int64_t size = problem.kernel_size[0];
  return call.dtype != Dtype::kFloat32 && problem.head_dim <= 32 &&
         problem.kernel_size[1] == size && (size == 3 || size == 5 || size == 7);
}

template <typename V>
int64_t region_bytes(const Tiling& tiling) {
  return int64_t(tiling.region[0]) * row_stride<V>({}) * sizeof(typename V::Element);
}

// Chooses strips and spreads them over blocks. All multiprocessors should be done at about the same
// time. bytes(tiling) is the shared memory of a block.
template <typename V, bool kOfQueries, typename Bytes>
bool find_tiling(const Problem& problem, Bytes bytes, Tiling& tiling) {
  constexpr double kBandsToWait = 0.5;  // what the beginning of a strip costs
  const int64_t limit = shared_memory_limit();
  for (int most = 2 * V::kWarps; most == 2 * V::kWarps || tiling.region[1] >= V::kPitch;
       most -= 2) {
    choose_tiles<kOfQueries>(problem, 1, most, 2, tiling);
  }
  const int bands =
      V::kIsStacked ? static_cast<int>(problem.dilation[0]) : (positions(problem, 0) + 7) / 8;
  tiling.tiles[0] = bands;
  tiling.region[0] = 24;
  if (bytes(tiling) > limit) tiling.region[0] = 16;
  const int64_t needed = bytes(tiling);
  const int64_t strips = problem.batch * (V::kIsStacked ? 1 : problem.dilation[0]) *
                         problem.dilation[1] * tiling.tiles[1];
  const int64_t all = strips * bands;  // of a head
  if (needed > limit || all < 1 || all > INT32_MAX) return false;
  int64_t blocks = shared_memory_of_multiprocessor() / (needed + kReservedShared);
  blocks = blocks < 1 ? 1 : blocks > V::kBlocks ? V::kBlocks : blocks;
  const int64_t at_once = multiprocessors() * blocks;
  double least = INFINITY;
  for (int rounds = 1; rounds <= 8; ++rounds) {
    int64_t slots = rounds * at_once / problem.heads;
    slots = slots < 1 ? 1 : slots > all ? all : slots;
    const double of_block = (all + slots - 1) / slots;
    const double costs = (slots * problem.heads + at_once - 1) / at_once *
                         (of_block + kBandsToWait * (1 + of_block / bands));
    if (costs < least) {
      least = costs;
      tiling.slots = static_cast<int>(slots);
    }
  }
  tiling.whole_strips = static_cast<int>(bands > kMostBands ? 0 : strips / tiling.slots);
  tiling.bands_left = static_cast<int>(all - int64_t(tiling.whole_strips) * tiling.slots * bands);
  tiling.tiles_per_block =
      static_cast<int>((int64_t(tiling.bands_left) + tiling.slots - 1) / tiling.slots);
  return true;
}

// Calls f with a variant for the problem and dtype.
template <int kWarps, bool kNumbers, typename F>
auto with_variant(const Problem& problem, Dtype dtype, F f) {
  return with_half(dtype, [&](auto element) {
    using Element = decltype(element);
    switch (problem.kernel_size[0]) {
      case 3:
        return f(Variant<Element, 3, 10, kWarps, kNumbers>());
      case 5:
        // With 8 warps, and 128 registers, the compiler spills.
        return f(Variant<Element, 5, 12, kWarps == 8 ? 6 : kWarps, kNumbers>());
      default:
        if (positions(problem, 0) > 8) return f(Variant<Element, 7, 14, kWarps, kNumbers>());
        // Such a map seldom has columns for 8 warps.
        return f(Variant<Element, 7, 8, 6, kNumbers, kWarps == 8 ? 3 : 2>());
    }
  });
}

}  // namespace small

}  // namespace natten_ops::cuda
