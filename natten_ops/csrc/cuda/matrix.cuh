// What the kernels on tensor cores share: tiles, patches and regions, and the transfers between
// memory and the fragments of matrix products.
//
// A warp computes a patch of 16 tokens (queries in the forward and for grad_query; keys for
// grad_key and grad_value), which are the 16 rows of its products: kPatchRows x kPatchColumns
// neighbors in one residue class, 8 x 2 in two dimensions and 1 x 16 in one. With them the warp
// multiplies partners (the keys or queries that they meet) 8 at a time, the columns of a product:
// neighbors in a row. For a window of 7 x 7 these are 14 x 8 partners, of which a token has 49.
//
// A block computes a tile of patches. The region of all their partners lies in its shared memory,
// (rows, columns, kDim), in an order that lets eight neighbors be read at once (shared_offset).
// Reads beyond a region's border get its last row or column. What they get belongs to a partner
// outside of the window, and is masked.
//
// Fragments (multiply_add in device.h): of a product's result, thread 4 g + c of the warp has rows
// g and g + 8 and columns 2 c and 2 c + 1. "e" counts its rows, "f" its columns.
#pragma once

#include <initializer_list>

#include "device.h"
// device.h comes first.
#include "../window.h"
#include "bias.cuh"
#include "kernels.h"

namespace natten_ops::cuda {

constexpr int kMatrixThreads = 128;
constexpr int kMatrixWarps = kMatrixThreads / 32;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// ---- Tiles ----

// How tiles cover the problem. Positions are places within a residue class.
struct Tiling {
  int tile[2];    // positions of a tile on each axis
  int tiles[2];   // of the longest residue class
  int region[2];  // most rows and columns of any tile's region
  int tiles_per_block;
  int slots;  // blocks of one head

  NATTEN_OPS_HOST_DEVICE int region_tokens() const { return region[0] * region[1]; }
};

struct Tile {
  int64_t batch;
  int head;
  int residue[2];
  int count[2];  // tokens of the residue class on each axis
  int begin[2], end[2];

  // Index of the token at such a position on an axis.
  NATTEN_OPS_DEVICE int64_t index(const Problem& problem, int axis, int position) const {
    return position * problem.dilation[axis] + residue[axis];
  }
  NATTEN_OPS_DEVICE AxisToken token(int axis, int position) const {
    return {residue[axis], position, count[axis]};
  }
  template <typename Element>
  NATTEN_OPS_DEVICE Element* at(const Problem& problem, const TensorView& view, int row,
                                int column) const {
    return view.at<Element>(batch, index(problem, 0, row), index(problem, 1, column), head);
  }
  NATTEN_OPS_DEVICE int64_t row_of(const Problem& problem, int row, int column) const {
    return row_offset(problem, batch, index(problem, 0, row), index(problem, 1, column), head);
  }
};

// The number-th tile of a head: neighbors in memory follow one another. False if the residue class
// is too short to have it, or the problem has no more.
NATTEN_OPS_DEVICE bool find_tile(const Problem& problem, const Tiling& tiling, int head,
                                 int64_t number, Tile& tile) {
  int at[2];
  for (int axis = 1; axis >= 0; --axis) {
    const int dilation = static_cast<int>(problem.dilation[axis]);
    tile.residue[axis] = static_cast<int>(number % dilation);
    number /= dilation;
    at[axis] = static_cast<int>(number % tiling.tiles[axis]);
    number /= tiling.tiles[axis];
    tile.count[axis] =
        static_cast<int>((problem.length[axis] - tile.residue[axis] + dilation - 1) / dilation);
    tile.begin[axis] = at[axis] * tiling.tile[axis];
    tile.end[axis] = tile.begin[axis] + tiling.tile[axis];
    if (tile.end[axis] > tile.count[axis]) tile.end[axis] = tile.count[axis];
  }
  tile.batch = number;
  tile.head = head;
  return number < problem.batch && tile.begin[0] < tile.end[0] && tile.begin[1] < tile.end[1];
}

// Consecutive positions on an axis.
struct Span {
  int first, last;

  NATTEN_OPS_HOST_DEVICE int size() const { return last - first + 1; }
};

// The partners of a token: the keys of a query (kOfQueries), or the queries of a key.
template <bool kOfQueries>
NATTEN_OPS_HOST_DEVICE Span partners_of(const AxisToken& token, int64_t kernel_size) {
  if constexpr (kOfQueries) {
    const int first = static_cast<int>(window_start(token, kernel_size));
    return {first, first + static_cast<int>(kernel_size) - 1};
  } else {
    const QueryRange range = attending_queries(token, kernel_size);
    return {static_cast<int>(range.first), static_cast<int>(range.last)};
  }
}

// The partners of the tokens from `first` to `last`.
template <bool kOfQueries>
NATTEN_OPS_HOST_DEVICE Span partners_of(const AxisToken& first, const AxisToken& last,
                                        int64_t kernel_size) {
  return {partners_of<kOfQueries>(first, kernel_size).first,
          partners_of<kOfQueries>(last, kernel_size).last};
}

template <bool kOfQueries>
NATTEN_OPS_DEVICE Span region_of(const Problem& problem, const Tile& tile, int axis) {
  return partners_of<kOfQueries>(tile.token(axis, tile.begin[axis]),
                                 tile.token(axis, tile.end[axis] - 1), problem.kernel_size[axis]);
}

// ---- Shared memory ----

// Offset of 8 channels of a token of a region. Those of eight neighbors are in different banks.
template <int kDim>
NATTEN_OPS_DEVICE int shared_offset(int token, int chunk) {
  static_assert(kDim == 32 || kDim == 64 || kDim == 128);
  const int mixed = chunk ^ (kDim == 32 ? token >> 1 & 3 : token & 7);
  return token * kDim + mixed * 8;
}

// Begins to copy a region of a tensor; channels from head_dim on become zero.
template <typename Element, int kDim>
NATTEN_OPS_DEVICE void copy_region(const Problem& problem, const Tile& tile, const Span& rows,
                                   const Span& columns, int pitch, const TensorView& view,
                                   Element* shared) {
  constexpr int kChunks = kDim / 8;
  const int64_t step = view.axis_stride[1] * problem.dilation[1];
  const int pieces = columns.size() * kChunks;
  for (int row = thread_index() / 32; row < rows.size(); row += kMatrixWarps) {
    const Element* from = tile.at<const Element>(problem, view, rows.first + row, columns.first);
    for (int piece = thread_index() % 32; piece < pieces; piece += 32) {
      const int column = piece / kChunks, chunk = piece % kChunks;
      const bool exists = chunk * 8 < problem.head_dim;
      copy_async_16(shared + shared_offset<kDim>(row * pitch + column, chunk),
                    from + column * step + (exists ? chunk * 8 : 0), exists);
    }
  }
}

// A head's table of the bias, times log2(e), with zeros around it, which masked products may read.
// Without a bias, all zeros.
struct BiasTable {
  static NATTEN_OPS_HOST_DEVICE int margin(const Problem& problem) {
    return 8 * (2 * static_cast<int>(problem.kernel_size[1]) - 1) + 32;
  }
  static NATTEN_OPS_HOST_DEVICE int size(const Problem& problem) {
    return static_cast<int>(problem.bias_size()) + 2 * margin(problem);
  }
  // Returns the address of the entry of offset -(kernel_size - 1).
  template <typename Element>
  static NATTEN_OPS_DEVICE const float* load(const Problem& problem, const BiasView& bias, int head,
                                             float* shared) {
    const int entries = static_cast<int>(problem.bias_size());
    for (int i = thread_index(); i < size(problem); i += kMatrixThreads) {
      const int entry = i - margin(problem);
      const bool has = bias.data && entry >= 0 && entry < entries;
      shared[i] = has ? read_bias<Element>(bias, int64_t(head) * entries + entry) * kLog2e : 0.0f;
    }
    return shared + margin(problem);
  }
};

// The entry of a head's table for a key so many positions after the query.
NATTEN_OPS_DEVICE int bias_entry(const Problem& problem, int offset0, int offset1) {
  const int k0 = static_cast<int>(problem.kernel_size[0]);
  const int k1 = static_cast<int>(problem.kernel_size[1]);
  return (offset0 + k0 - 1) * (2 * k1 - 1) + offset1 + k1 - 1;
}

// ---- Patches ----

template <int kRows>
struct Patch {
  static_assert(kRows == 1 || kRows == 8);
  static constexpr int kPatchRows = kRows;
  static constexpr int kPatchColumns = 16 / kRows;

  int row, column;  // position of the first token
  bool exists;
  // Of the thread's tokens e.
  int own_row[2], own_column[2];
  bool owns[2];  // the token exists

  NATTEN_OPS_DEVICE Patch(const Tiling& tiling, const Tile& tile, int number) {
    const int across = tiling.tile[1] / kPatchColumns;
    row = tile.begin[0] + number / across * kPatchRows;
    column = tile.begin[1] + number % across * kPatchColumns;
    exists = row < tile.end[0] && column < tile.end[1];
    for (int e = 0; e < 2; ++e) {
      const int g = thread_index() % 32 / 4;
      own_row[e] = row + (kRows == 1 ? 0 : g);
      own_column[e] = column + (kRows == 1 ? g + 8 * e : e);
      owns[e] = exists && own_row[e] < tile.end[0] && own_column[e] < tile.end[1];
    }
  }

  static NATTEN_OPS_HOST_DEVICE int count(const Tiling& tiling) {
    return tiling.tile[0] / kPatchRows * (tiling.tile[1] / kPatchColumns);
  }

  // The token e, or the nearest that exists.
  NATTEN_OPS_DEVICE int row_of(const Tile& tile, int e) const {
    return own_row[e] < tile.end[0] ? own_row[e] : tile.end[0] - 1;
  }
  NATTEN_OPS_DEVICE int column_of(const Tile& tile, int e) const {
    return own_column[e] < tile.end[1] ? own_column[e] : tile.end[1] - 1;
  }
};

// Walks a patch's partners 8 at a time, row by row.
struct Walk {
  int columns = 0;          // eights of a row
  int row = 0, column = 0;  // of the patch's own region, the column in eights

  Walk() = default;
  NATTEN_OPS_DEVICE explicit Walk(int columns) : columns(columns) {}
  NATTEN_OPS_DEVICE void next() {
    if (++column == columns) {
      column = 0;
      ++row;
    }
  }
};

// A patch's partners in the region: those of its own tokens, and their first row and column.
template <bool kOfQueries, int kRows>
struct PatchRegion {
  Span rows, columns;           // positions
  int first_row, first_column;  // in the block's region
  int region_rows, region_columns, pitch;
  // Of the thread's tokens e, relative to the patch's region: partners of the token are at
  // low <= row < low + rows of it, likewise columns.
  int low_row[2], row_count[2], low_column[2], column_count[2];

  NATTEN_OPS_DEVICE PatchRegion(const Problem& problem, const Tile& tile, const Patch<kRows>& patch,
                                const Span& region_row, const Span& region_column, int pitch)
      : pitch(pitch) {
    const auto last = [&](int axis, int first, int size) {
      const int end = first + size < tile.end[axis] ? first + size : tile.end[axis];
      return tile.token(axis, end - 1);
    };
    rows = partners_of<kOfQueries>(tile.token(0, patch.row),
                                   last(0, patch.row, Patch<kRows>::kPatchRows),
                                   problem.kernel_size[0]);
    columns = partners_of<kOfQueries>(tile.token(1, patch.column),
                                      last(1, patch.column, Patch<kRows>::kPatchColumns),
                                      problem.kernel_size[1]);
    first_row = rows.first - region_row.first;
    first_column = columns.first - region_column.first;
    region_rows = region_row.size();
    region_columns = region_column.size();
    for (int e = 0; e < 2; ++e) {
      const Span of_row =
          partners_of<kOfQueries>(tile.token(0, patch.row_of(tile, e)), problem.kernel_size[0]);
      const Span of_column =
          partners_of<kOfQueries>(tile.token(1, patch.column_of(tile, e)), problem.kernel_size[1]);
      low_row[e] = of_row.first - rows.first;
      row_count[e] = kOfQueries ? static_cast<int>(problem.kernel_size[0]) : of_row.size();
      low_column[e] = of_column.first - columns.first;
      column_count[e] = kOfQueries ? static_cast<int>(problem.kernel_size[1]) : of_column.size();
    }
  }

  // Whether the partner at a row and column of the patch's region is one of token e.
  NATTEN_OPS_DEVICE bool has(int e, int row, int column) const {
    return static_cast<unsigned>(row - low_row[e]) < static_cast<unsigned>(row_count[e]) &&
           static_cast<unsigned>(column - low_column[e]) < static_cast<unsigned>(column_count[e]);
  }

  // The region's token of partner thread % 8 of an eight.
  NATTEN_OPS_DEVICE int token(const Walk& walk) const {
    return token(walk.row, 8 * walk.column + thread_index() % 8);
  }
  // The token of the block's region at that place, or the nearest one.
  NATTEN_OPS_DEVICE int token(int row, int column) const {
    const int in_row = first_row + row, in_column = first_column + column;
    return (in_row < region_rows ? in_row : region_rows - 1) * pitch +
           (in_column < region_columns ? in_column : region_columns - 1);
  }
};

// ---- Fragments ----

// The patch's tokens as the left side of products.
template <typename Element, int kDim, int kRows>
NATTEN_OPS_DEVICE void load_patch(const Problem& problem, const Tile& tile,
                                  const Patch<kRows>& patch, const TensorView& view,
                                  uint32_t (&fragments)[kDim / 16][4]) {
  const int channel = thread_index() % 4 * 2;
  NATTEN_OPS_UNROLL
  for (int e = 0; e < 2; ++e) {
    const Element* token =
        tile.at<const Element>(problem, view, patch.row_of(tile, e), patch.column_of(tile, e));
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kDim / 8; ++i) {
      fragments[i / 2][i % 2 * 2 + e] =
          8 * i < problem.head_dim ? *reinterpret_cast<const uint32_t*>(token + 8 * i + channel)
                                   : 0;
    }
  }
}

struct alignas(16) Words {
  uint32_t words[4];
};

// Thread c of each four, 4 g + c, gets word c of all four.
NATTEN_OPS_DEVICE Words transpose_words(const uint32_t (&own)[4]) {
  const int c = thread_index() % 4;
  uint32_t pairs[4];
  NATTEN_OPS_UNROLL
  for (int i = 0; i < 4; i += 2) {
    const uint32_t received = shuffle_xor(c % 2 ? own[i] : own[i + 1], 1);
    pairs[i] = c % 2 ? received : own[i];
    pairs[i + 1] = c % 2 ? own[i + 1] : received;
  }
  Words whole;
  NATTEN_OPS_UNROLL
  for (int i = 0; i < 2; ++i) {
    const uint32_t received = shuffle_xor(c / 2 ? pairs[i] : pairs[i + 2], 2);
    whole.words[i] = c / 2 ? received : pairs[i];
    whole.words[i + 2] = c / 2 ? pairs[i + 2] : received;
  }
  return whole;
}

// Multiplies each token's sums by its factor, rounds and stores them. The threads of one token
// exchange channels so that each stores 16 bytes at once.
template <typename Element, int kDim, int kRows>
NATTEN_OPS_DEVICE void store_patch(const Problem& problem, const Tile& tile,
                                   const Patch<kRows>& patch, const TensorView& view,
                                   const float (&sums)[kDim / 8][4], const float (&factors)[2]) {
  const int c = thread_index() % 4;
  NATTEN_OPS_UNROLL
  for (int e = 0; e < 2; ++e) {
    NATTEN_OPS_UNROLL
    for (int first = 0; first < kDim / 8; first += 4) {
      uint32_t own[4];
      NATTEN_OPS_UNROLL
      for (int i = 0; i < 4; ++i) {
        own[i] = pack<Element>(sums[first + i][2 * e] * factors[e],
                               sums[first + i][2 * e + 1] * factors[e]);
      }
      const Words whole = transpose_words(own);
      const int chunk = first + c;
      if (patch.owns[e] && 8 * chunk < problem.head_dim) {
        *reinterpret_cast<Words*>(
            tile.at<Element>(problem, view, patch.own_row[e], patch.own_column[e]) + 8 * chunk) =
            whole;
      }
    }
  }
}

// sums += the products of a patch's tokens with 8 partners; `token` is partner thread % 8 in the
// region.
template <typename Element, int kDim>
NATTEN_OPS_DEVICE void multiply_partners(const uint32_t (&patch)[kDim / 16][4],
                                         const Element* shared, int token, float (&sums)[4]) {
  NATTEN_OPS_UNROLL
  for (int first = 0; first < kDim / 8; first += 4) {
    uint32_t words[4];
    load_matrices(words, shared + shared_offset<kDim>(token, first + thread_index() % 32 / 8));
    multiply_add<Element>(sums, patch[first / 2], words[0], words[1]);
    multiply_add<Element>(sums, patch[first / 2 + 1], words[2], words[3]);
  }
}

// sums += weights of 16 partners times their channels; `token` is in the region partner thread % 8,
// of the first eight if thread / 8 is even, else of the second.
template <typename Element, int kDim>
NATTEN_OPS_DEVICE void accumulate_partners(const uint32_t (&weights)[4], const Element* shared,
                                           int token, float (&sums)[kDim / 8][4]) {
  NATTEN_OPS_UNROLL
  for (int first = 0; first < kDim / 8; first += 2) {
    uint32_t words[4];
    load_matrices_transposed(words,
                             shared + shared_offset<kDim>(token, first + thread_index() % 32 / 16));
    multiply_add<Element>(sums[first], weights, words[0], words[1]);
    multiply_add<Element>(sums[first + 1], weights, words[2], words[3]);
  }
}

// Of two results over 8 partners each, the left side of a product over 16 partners.
template <typename Element>
NATTEN_OPS_DEVICE void as_weights(const float (&first)[4], const float (&second)[4],
                                  uint32_t (&weights)[4]) {
  weights[0] = pack<Element>(first[0], first[1]);
  weights[1] = pack<Element>(first[2], first[3]);
  weights[2] = pack<Element>(second[0], second[1]);
  weights[3] = pack<Element>(second[2], second[3]);
}

// Two eights of partners.
struct Sixteen {
  Walk eights[2];
  int tokens[2];  // in the region: partner thread % 8 of each eight
};

// Like accumulate_partners, but reads only a token's own partners: zero times infinity or NaN would
// be NaN.
template <typename Element, int kDim, typename Region>
NATTEN_OPS_DEVICE void accumulate_carefully(const float (&first)[4], const float (&second)[4],
                                            const Region& region, const Sixteen& partners,
                                            const Element* shared, float (&sums)[kDim / 8][4]) {
  const int c = thread_index() % 4;
  NATTEN_OPS_UNROLL
  for (int i = 0; i < 2; ++i) {
    for (int partner = 0; partner < 8; ++partner) {
      const int owner = thread_index() % 32 / 4 * 4 + partner / 2;
      const int token = shuffle(partners.tokens[i], partner);
      NATTEN_OPS_UNROLL
      for (int e = 0; e < 2; ++e) {
        const float even = shuffle((i ? second : first)[2 * e], owner);
        const float odd = shuffle((i ? second : first)[2 * e + 1], owner);
        const Walk& eight = partners.eights[i];
        if (!region.has(e, eight.row, 8 * eight.column + partner)) continue;
        NATTEN_OPS_UNROLL
        for (int chunk = 0; chunk < kDim / 8; ++chunk) {
          float channels[2];
          unpack<Element>(*reinterpret_cast<const uint32_t*>(
                              shared + shared_offset<kDim>(token, chunk) + 2 * c),
                          channels[0], channels[1]);
          NATTEN_OPS_UNROLL
          for (int f = 0; f < 2; ++f) {
            sums[chunk][2 * e + f] += (partner % 2 ? odd : even) * channels[f];
          }
        }
      }
    }
  }
}

// sums += weights, two results over 8 partners each, times the partners' channels. Weights outside
// of a token's partners must be zero. See is_finite for kCareful.
template <typename Element, int kDim, bool kCareful, typename Region>
NATTEN_OPS_DEVICE void accumulate(const float (&first)[4], const float (&second)[4],
                                  const Region& region, const Sixteen& partners,
                                  const Element* shared, float (&sums)[kDim / 8][4]) {
  if constexpr (kCareful) {
    accumulate_carefully<Element, kDim>(first, second, region, partners, shared, sums);
  } else {
    uint32_t weights[4];
    as_weights<Element>(first, second, weights);
    accumulate_partners<Element, kDim>(
        weights, shared, thread_index() / 8 % 2 == 0 ? partners.tokens[0] : partners.tokens[1],
        sums);
  }
}

// If sums over partners are not finite, the cause may be a partner that is not the token's own and
// has weight zero. Then all sums are computed again with care.
template <int kCount>
NATTEN_OPS_DEVICE bool is_finite(const float (&sums)[kCount][4]) {
  float zero = 0;
  NATTEN_OPS_UNROLL
  for (int i = 0; i < kCount; ++i) {
    NATTEN_OPS_UNROLL
    for (int j = 0; j < 4; ++j) zero += sums[i][j] * 0.0f;
  }
  return zero == 0;
}

template <int kCount>
NATTEN_OPS_DEVICE void clear(float (&sums)[kCount][4]) {
  NATTEN_OPS_UNROLL
  for (int i = 0; i < kCount; ++i) {
    NATTEN_OPS_UNROLL
    for (int j = 0; j < 4; ++j) sums[i][j] = 0;
  }
}

// Over the four threads that hold a token's row of a result.
NATTEN_OPS_DEVICE float sum_of_row(float number) {
  number += shuffle_xor(number, 1);
  return number + shuffle_xor(number, 2);
}
NATTEN_OPS_DEVICE float largest_of_row(float number) {
  float other = shuffle_xor(number, 1);
  number = number > other ? number : other;
  other = shuffle_xor(number, 2);
  return number > other ? number : other;
}

// ---- Tilings ----

// The largest tiles whose shared memory fits; bytes(tiling) is what they take. False if none fits.
template <bool kOfQueries, typename Bytes>
bool find_tiling(const Problem& problem, int64_t limit, Bytes bytes, Tiling& tiling) {
  const bool is_flat = problem.length[0] == 1;
  const int patch[2] = {is_flat ? 1 : 8, is_flat ? 16 : 2};
  // Two blocks should fit a multiprocessor.
  if (limit > 112 << 10) limit = 112 << 10;
  const int most[][2] = {{16, 16}, {8, 16}, {8, 8}, {8, 4}, {8, 2}};
  const int most_flat[][2] = {{1, 256}, {1, 128}, {1, 64}, {1, 32}, {1, 16}};
  for (int choice = 0; choice < 5; ++choice) {
    for (int axis = 0; axis < 2; ++axis) {
      const int64_t count =
          (problem.length[axis] + problem.dilation[axis] - 1) / problem.dilation[axis];
      const int64_t cap = is_flat ? most_flat[choice][axis] : most[choice][axis];
      const int64_t tiles = (count + cap - 1) / cap;
      const int64_t even = (count + tiles - 1) / tiles;
      tiling.tiles[axis] = static_cast<int>(tiles);
      tiling.tile[axis] = static_cast<int>((even + patch[axis] - 1) / patch[axis] * patch[axis]);
      tiling.region[axis] = 0;
      // Residue classes have this many tokens or one less.
      for (int64_t tokens = count; tokens >= count - 1 && tokens >= problem.kernel_size[axis];
           --tokens) {
        for (int64_t begin = 0; begin < tokens; begin += tiling.tile[axis]) {
          const int64_t end =
              begin + tiling.tile[axis] < tokens ? begin + tiling.tile[axis] : tokens;
          const int size = partners_of<kOfQueries>({0, begin, tokens}, {0, end - 1, tokens},
                                                   problem.kernel_size[axis])
                               .size();
          if (size > tiling.region[axis]) tiling.region[axis] = size;
        }
      }
    }
    tiling.tiles_per_block = 1;
    if (bytes(tiling) <= limit) return true;
  }
  return false;
}

// Blocks of one head, when every block computes tiles_per_block tiles.
inline int64_t slots_of(const Problem& problem, const Tiling& tiling) {
  const int64_t tiles =
      problem.batch * problem.dilation[0] * problem.dilation[1] * tiling.tiles[0] * tiling.tiles[1];
  return (tiles + tiling.tiles_per_block - 1) / tiling.tiles_per_block;
}

// A number of channels that kernels are compiled for.
template <int kDim>
struct Dim {
  constexpr int operator()() const { return kDim; }
};

// Calls f with the smallest one that holds head_dim.
template <typename F>
auto with_dim(const Problem& problem, F f) {
  if (problem.head_dim <= 32) return f(Dim<32>());
  if (problem.head_dim <= 64) return f(Dim<64>());
  return f(Dim<128>());
}

// Whether the matrix kernels can compute a call.
inline bool matrix_covers(const Problem& problem, Dtype dtype,
                          std::initializer_list<const TensorView*> views) {
  const int capability = compute_capability();
  const bool has_type = (dtype == Dtype::kFloat16 && capability >= 75) ||
                        (dtype == Dtype::kBFloat16 && capability >= 80);
  if (!has_type || problem.head_dim % 8 != 0 || problem.head_dim > kMatrixMaxHeadDim) return false;
  for (int axis = 0; axis < 2; ++axis) {
    if (problem.length[axis] > INT32_MAX / 2) return false;
  }
  for (const TensorView* view : views) {
    const auto fits = [](int64_t size, int64_t stride) { return size == 1 || stride % 8 == 0; };
    if (reinterpret_cast<uintptr_t>(view->data) % 16 != 0 || view->channel_stride != 1 ||
        !fits(problem.batch, view->batch_stride) ||
        !fits(problem.length[0], view->axis_stride[0]) ||
        !fits(problem.length[1], view->axis_stride[1]) || !fits(problem.heads, view->head_stride)) {
      return false;
    }
  }
  return true;
}

}  // namespace natten_ops::cuda
