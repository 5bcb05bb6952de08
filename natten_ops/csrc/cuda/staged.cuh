// What the kernels for float32 on two axes share: exact, on ordinary cores, with the partners (the
// keys of queries, or the queries of keys) staged in shared memory.
//
// A group of kGroup neighboring threads owns a column of kRows tokens: consecutive positions of one
// residue class on axis 0, at one place on axis 1. A thread holds kChannels channels of each, and
// what it loads of a partner serves all of them. A warp's groups own neighboring columns, its
// patch. So all of them meet the same rows of partners, and every column of partners is one of the
// group's own: nothing is masked, and no token is touched that is not a partner.
//
// But not every row is for all of a group's tokens. For queries, a row that is for the first of
// them goes together with one that is for the others (Split); for keys, some rows are for one key
// only (Some). Code for each case is chosen row by row.
//
// Thread `own` = thread % kRows of a group takes care of the numbers of token `own`. Sums of
// products over the group's threads go to it (sum_over_group), and weights come from it.
//
// A block's tile has one patch for each of its warps. The region of all partners is in shared
// memory: for each token the channels of one tensor, then those of the other.
#pragma once

#include "tiles.cuh"

namespace natten_ops::cuda {

namespace staged {

constexpr int kLeastRows = 3;  // of a window

template <int kThreadsOfGroup, int kThreadChannels, int kGroupRows>
struct Variant {
  static constexpr int kGroup = kThreadsOfGroup;
  static constexpr int kChannels = kThreadChannels;
  static constexpr int kRows = kGroupRows;
  static constexpr int kColumns = 32 / kGroup;     // of a patch
  static constexpr int kDim = kGroup * kChannels;  // head_dim is at most this
  static constexpr int kStride = 2 * kDim;         // from token to token of a region
  static constexpr int kPieces = kChannels / 4;    // that a thread loads of a token
  static_assert((kRows == 2 || kRows == 4) && kRows <= kGroup && kRows <= kLeastRows + 1);

  using Channels = float[kChannels];
  using Tokens = Channels[kRows];
};

// ---- Problems ----

// A tensor (batch, axis 0, axis 1, heads, head_dim); strides and steps in elements.
struct Tensor {
  float* data;
  int64_t batch_stride, axis_stride[2], head_stride;
  int step[2];  // between neighbors of a residue class

  Tensor() = default;
  Tensor(const Problem& problem, const TensorView& view)
      : data(static_cast<float*>(view.data)),
        batch_stride(view.batch_stride),
        axis_stride{view.axis_stride[0], view.axis_stride[1]},
        head_stride(view.head_stride),
        step{static_cast<int>(axis_stride[0] * problem.dilation[0]),
             static_cast<int>(axis_stride[1] * problem.dilation[1])} {}
  // Contiguous, with so many numbers per query and head.
  Tensor(const Problem& problem, const void* data, int64_t size)
      : Tensor(problem, {const_cast<void*>(data),
                         problem.length[0] * problem.length[1] * problem.heads * size,
                         {problem.length[1] * problem.heads * size, problem.heads * size},
                         size,
                         1}) {}
};

// What the three kernels share.
struct Common : Spread {
  int head_dim, kernel_size[2];
  Divisor patches;              // side by side in a tile
  int pitch, region_tokens;     // of a region: tokens from row to row, and of all rows
  int warps;                    // of a block
  int far_tokens, far_entries;  // of a region and the bias: between rows a window's height apart
  float scale, log2_scale;
  const float* bias;  // (heads, bias_size), or null

  NATTEN_OPS_HOST_DEVICE int entries() const { return 2 * kernel_size[1] - 1; }  // in a row
  NATTEN_OPS_HOST_DEVICE int bias_size() const {
    return (2 * kernel_size[0] - 1) * (2 * kernel_size[1] - 1);
  }
};

// The tile of a block.
NATTEN_OPS_DEVICE bool find_tile(const Common& common, Tile& tile) {
  uint32_t number = block_index();
  const int head = split_head(common, number);
  return cuda::find_tile(common, head, number, tile);
}

// The tokens of a tensor in the image, head and residue class of a tile.
struct Plane {
  float* data;
  const int (&step)[2];

  NATTEN_OPS_DEVICE float* at(int row, int column) const {
    return data + int64_t(row) * step[0] + int64_t(column) * step[1];
  }
};

// The planes of a tile. A warp finds them together, thread i that of tensor i.
template <int kTensors>
struct Planes {
  const Tensor (&tensors)[kTensors];
  uint64_t data;  // an address

  NATTEN_OPS_DEVICE Planes(const Tensor (&tensors)[kTensors], const Tile& tile) : tensors(tensors) {
    const int number = thread_index() % 32;
    const Tensor& tensor = tensors[number < kTensors ? number : kTensors - 1];
    data = reinterpret_cast<uint64_t>(
        tensor.data + tile.batch * tensor.batch_stride + tile.residue[0] * tensor.axis_stride[0] +
        tile.residue[1] * tensor.axis_stride[1] + tile.head * tensor.head_stride);
  }
  // All threads of the warp must call this together.
  NATTEN_OPS_DEVICE Plane operator[](int tensor) const {
    return {global_pointer<float>(shuffle(data, tensor)), tensors[tensor].step};
  }
};

// Partners of a token.
template <bool kOfQueries>
NATTEN_OPS_DEVICE Span partners(const Common& common, const Tile& tile, int axis, int position) {
  return cuda::partners<kOfQueries>(common.kernel_size[axis], position, tile.count[axis]);
}

// Partners of a tile.
template <bool kOfQueries>
NATTEN_OPS_DEVICE Span partners(const Common& common, const Tile& tile, int axis) {
  return cuda::partners<kOfQueries>(common.kernel_size[axis], tile.begin[axis], tile.end[axis] - 1,
                                    tile.count[axis]);
}

// ---- Threads ----

// A thread's place in its group, and the group's in its warp. A thread has pieces of four channels.
// Small groups have them in different orders, so that eight threads that load 16 bytes each from
// several tokens touch all banks of shared memory.
template <typename V>
struct Lane {
  int group, lane, own;
  bool is_odd, is_upper;  // bits of `own`

  NATTEN_OPS_DEVICE Lane()
      : group(thread_index() % 32 / V::kGroup),
        lane(thread_index() % V::kGroup),
        own(thread_index() % V::kRows),
        is_odd(own % 2 != 0),
        is_upper(own / 2 != 0) {}
  // The first channel of a piece.
  NATTEN_OPS_DEVICE int channel(int piece) const {
    constexpr int kGroups = V::kGroup < 8 ? 8 / V::kGroup : 1;
    return 4 * (lane + V::kGroup * (piece ^ group % kGroups));
  }
};

// The same in all threads of a warp, as the compiler can see.
NATTEN_OPS_DEVICE int warp_index() { return shuffle(thread_index() / 32, 0); }

// A warp's tokens. Others stand in for those that do not exist.
template <typename V>
struct Patch {
  int row, column;  // the first row, and the group's column
  int last_row;     // of the tile
  bool exists, has_column;

  NATTEN_OPS_DEVICE Patch(const Common& common, const Tile& tile, const Lane<V>& lane) {
    uint32_t across = warp_index();
    const uint32_t down = common.patches.split(across);
    row = tile.begin[0] + static_cast<int>(down) * V::kRows;
    const int first = tile.begin[1] + static_cast<int>(across) * V::kColumns;
    last_row = tile.end[0] - 1;
    exists = row <= last_row && first < tile.end[1];
    column = first + lane.group;
    has_column = column < tile.end[1];
    if (!has_column) column = tile.end[1] - 1;
  }
  NATTEN_OPS_DEVICE int row_of(int token) const {
    return row + token < last_row ? row + token : last_row;
  }
  NATTEN_OPS_DEVICE bool has(int token) const { return has_column && row + token <= last_row; }
};

// ---- Rows of partners ----

// The tokens kFirst to kFirst + kCount - 1 of a group.
template <int kFirstToken, int kTokens>
struct Some {
  static constexpr int kFirst = kFirstToken, kCount = kTokens;
  static constexpr NATTEN_OPS_HOST_DEVICE bool has(int token) {
    return token >= kFirst && token < kFirst + kCount;
  }
};
template <typename V>
using All = Some<0, V::kRows>;

// What a group's queries meet at one time: the first kNearQueries a row of keys, the others the row
// that is a window's height further on. As the queries' windows begin not more than kRows - 1 rows
// apart, so many are the rows of which one is for some and the other for the rest.
template <typename V, int kNearQueries>
struct Split {
  static constexpr bool kHasFar = kNearQueries < V::kRows;
  using Near = Some<0, kNearQueries>;
  using Far = Some<kNearQueries, V::kRows - kNearQueries>;
};

// The rows of a patch's partners.
template <typename V>
struct Rows {
  Span of[V::kRows];  // of each token

  template <bool kOfQueries>
  static NATTEN_OPS_DEVICE Rows find(const Common& common, const Tile& tile,
                                     const Patch<V>& patch) {
    Rows rows;
    NATTEN_OPS_UNROLL
    for (int q = 0; q < V::kRows; ++q) {
      rows.of[q] = partners<kOfQueries>(common, tile, 0, patch.row_of(q));
    }
    return rows;
  }

  // Calls visit(Some) for each row, with the tokens that have partners there.
  template <typename Visit>
  NATTEN_OPS_DEVICE void visit(Visit visit) const {
    static_assert(V::kRows == 2);
    for (int row = of[0].first; row <= of[1].last; ++row) {
      if (row < of[1].first) {
        visit(Some<0, 1>());
      } else if (row > of[0].last) {
        visit(Some<1, 1>());
      } else {
        visit(All<V>());
      }
    }
  }

  // For queries: calls visit(Split) for each of the `size` rows of a window.
  template <typename Visit>
  NATTEN_OPS_DEVICE void visit_windows(int size, Visit visit) const {
    for (int row = of[0].first; row < of[0].first + size; ++row) {
      if (row < of[V::kRows - 1].first) {
        visit_split<1>(row, visit);
      } else {
        visit(Split<V, V::kRows>());
      }
    }
  }

 private:
  template <int kNear, typename Visit>
  NATTEN_OPS_DEVICE void visit_split(int row, Visit& visit) const {
    if constexpr (kNear < V::kRows) {
      if (kNear == V::kRows - 1 || row < of[kNear].first) {
        visit(Split<V, kNear>());
      } else {
        visit_split<kNear + 1>(row, visit);
      }
    }
  }
};

// ---- Numbers per token ----

template <typename Tokens, int kRows, int kChannels>
NATTEN_OPS_DEVICE void multiply(const float (&tokens)[kRows][kChannels],
                                const float (&partner)[kChannels], float (&products)[kRows]) {
  NATTEN_OPS_UNROLL
  for (int c = 0; c < kChannels; ++c) {
    NATTEN_OPS_UNROLL
    for (int q = Tokens::kFirst; q < Tokens::kFirst + Tokens::kCount; ++q) {
      products[q] = c == 0 ? tokens[q][c] * partner[c] : products[q] + tokens[q][c] * partner[c];
    }
  }
}

// Adds up numbers of a thread and thread ^ mask: `high` for a thread that takes it, else `low`. If
// only one of the numbers is there, both threads get that one's sum.
template <bool kHasLow, bool kHasHigh>
NATTEN_OPS_DEVICE float combine(float low, float high, bool takes_high, int mask) {
  const float kept = !kHasHigh || (kHasLow && !takes_high) ? low : high;
  const float sent = !kHasHigh || (kHasLow && takes_high) ? low : high;
  return kept + shuffle_xor(sent, mask);
}

// The sum of token `own`'s products over the group; without meaning if that is not one of Tokens.
template <typename Tokens, typename V, int kRows>
NATTEN_OPS_DEVICE float sum_over_group(const Lane<V>& lane, const float (&products)[kRows]) {
  float sum = combine<Tokens::has(0), Tokens::has(1)>(products[0], products[1], lane.is_odd, 1);
  if constexpr (kRows == 4) {
    static_assert(Tokens::kCount == kRows);
    const float upper = combine<true, true>(products[2], products[3], lane.is_odd, 1);
    sum = combine<true, true>(sum, upper, lane.is_upper, 2);
  }
  NATTEN_OPS_UNROLL
  for (int mask = kRows; mask < V::kGroup; mask *= 2) sum += shuffle_xor(sum, mask);
  return sum;
}

template <typename V, int kRows>
NATTEN_OPS_DEVICE float sum_over_group(const Lane<V>& lane, const float (&products)[kRows]) {
  return sum_over_group<All<V>>(lane, products);
}

// sums += the weights that the tokens' own threads have, times a partner.
template <typename Tokens, int kRows, int kChannels>
NATTEN_OPS_DEVICE void accumulate(float weight, const float (&partner)[kChannels],
                                  float (&sums)[kRows][kChannels]) {
  NATTEN_OPS_UNROLL
  for (int q = Tokens::kFirst; q < Tokens::kFirst + Tokens::kCount; ++q) {
    const float weight_of = shuffle_within<kRows>(weight, q);
    NATTEN_OPS_UNROLL
    for (int c = 0; c < kChannels; ++c) sums[q][c] += weight_of * partner[c];
  }
}

// ---- Global memory ----

// Where a thread's pieces of its group's tokens are.
template <typename V>
struct Places {
  float* pieces[V::kPieces];  // of token 0
  int step;                   // from token to token
  int last;                   // token that exists

  NATTEN_OPS_DEVICE Places(const Plane& plane, const Patch<V>& patch, const Lane<V>& lane)
      : step(plane.step[0]), last(patch.last_row - patch.row) {
    float* const token = plane.at(patch.row, patch.column);
    NATTEN_OPS_UNROLL
    for (int piece = 0; piece < V::kPieces; ++piece) pieces[piece] = token + lane.channel(piece);
  }
  NATTEN_OPS_DEVICE Four* at(int token, int piece) const {
    const int existing = token < last ? token : last;
    return reinterpret_cast<Four*>(pieces[piece] + existing * step);
  }
};

// This thread's channels of a group's tokens, times a factor; zeros beyond head_dim.
template <typename V>
NATTEN_OPS_DEVICE void load_tokens(const Common& common, const Plane& plane, const Patch<V>& patch,
                                   const Lane<V>& lane, float factor, typename V::Tokens& to) {
  const Places<V> places(plane, patch, lane);
  const auto load = [&](int q, int piece) {
    const Four four = *places.at(q, piece);
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 4; ++i) to[q][4 * piece + i] = four.numbers[i] * factor;
  };
  const auto load_all = [&](auto exists) {
    NATTEN_OPS_UNROLL
    for (int q = 0; q < V::kRows; ++q) {
      NATTEN_OPS_UNROLL
      for (int piece = 0; piece < V::kPieces; ++piece) {
        if (exists(piece)) load(q, piece);
      }
    }
  };
  if (common.head_dim == V::kDim) {
    load_all([](int) { return true; });
  } else {
    clear(to);
    load_all([&](int piece) { return lane.channel(piece) < common.head_dim; });
  }
}

// The tokens' sums times factors, of which the tokens' own threads have theirs.
template <typename V>
NATTEN_OPS_DEVICE void store_tokens(const Common& common, const Plane& plane, const Patch<V>& patch,
                                    const Lane<V>& lane, float factor,
                                    const typename V::Tokens& sums) {
  const Places<V> places(plane, patch, lane);
  NATTEN_OPS_UNROLL
  for (int q = 0; q < V::kRows; ++q) {
    const float factor_of = shuffle_within<V::kRows>(factor, q);
    NATTEN_OPS_UNROLL
    for (int piece = 0; piece < V::kPieces; ++piece) {
      Four four;
      NATTEN_OPS_UNROLL
      for (int i = 0; i < 4; ++i) four.numbers[i] = sums[q][4 * piece + i] * factor_of;
      if (patch.has(q) && lane.channel(piece) < common.head_dim) *places.at(q, piece) = four;
    }
  }
}

// ---- Shared memory ----

// A head's table of the bias, times log2(e); zeros without one. Rows are added on both sides, which
// threads may read whose own key is not one of those that a row of queries is for.
constexpr int kMarginRows = 1;

// `problem` is a Problem or Common.
template <typename T>
NATTEN_OPS_HOST_DEVICE int bias_numbers(const T& problem) {
  const int rows = 2 * static_cast<int>(problem.kernel_size[0]) - 1 + 2 * kMarginRows;
  const int columns = 2 * static_cast<int>(problem.kernel_size[1]) - 1;
  return (rows * columns + 3) / 4 * 4;
}

NATTEN_OPS_DEVICE void make_bias_table(const Common& common, const Tile& tile, float* table) {
  const int size = common.bias_size();
  const float* from = common.bias + (common.bias ? int64_t(tile.head) * size : 0);
  const int margin = kMarginRows * common.entries();
  for (int i = thread_index(); i < bias_numbers(common); i += 32 * common.warps) {
    const int entry = i - margin;
    table[i] = common.bias && entry >= 0 && entry < size ? from[entry] * kLog2e : 0.0f;
  }
}

// Where a table of a head's entries, of which the first row is number -kMarginRows, has that of a
// key so many positions after the query.
NATTEN_OPS_DEVICE int table_entry(const Common& common, int offset0, int offset1) {
  return (offset0 + common.kernel_size[0] - 1 + kMarginRows) * common.entries() + offset1 +
         common.kernel_size[1] - 1;
}

// Begins to copy two tensors into a region. A thread copies the same piece of several rows.
template <typename V>
NATTEN_OPS_DEVICE void copy_region(const Common& common, const Plane& first, const Plane& second,
                                   const Span& rows, const Span& columns, float* region) {
  constexpr int kPieces = V::kDim / 4;  // of a token
  const int threads = 32 * common.warps, pieces = columns.size() * kPieces;
  // As many rows at once as there are threads for.
  int row = 0, begin = thread_index(), step = 1;
  for (int left = threads - pieces; left >= pieces; left -= pieces) ++step;
  while (begin >= pieces && row < step) {
    begin -= pieces;
    ++row;
  }
  if (row == step) return;
  for (int piece = begin; piece < pieces; piece += threads) {
    const int column = piece / kPieces, channel = piece % kPieces * 4;
    const bool exists = channel < common.head_dim;
    const auto find = [&](const Plane& plane) {
      return plane.at(rows.first + row, columns.first + column) + (exists ? channel : 0);
    };
    const float *from_first = find(first), *from_second = find(second);
    const int64_t steps[2] = {int64_t(step) * first.step[0], int64_t(step) * second.step[0]};
    float* to = region + (row * common.pitch + column) * V::kStride + channel;
    NATTEN_OPS_NO_UNROLL
    for (int left = rows.size() - row; left > 0; left -= step) {
      copy_async<16>(to, from_first, exists);
      copy_async<16>(to + V::kDim, from_second, exists);
      from_first += steps[0];
      from_second += steps[1];
      to += step * common.pitch * V::kStride;
    }
  }
}

// Where a thread is in a region: its channels of a token.
template <typename V>
struct Cursor {
  const float* pieces[V::kPieces];

  NATTEN_OPS_DEVICE Cursor(const Common& common, const Lane<V>& lane, const float* region, int row,
                           int column) {
    NATTEN_OPS_UNROLL
    for (int piece = 0; piece < V::kPieces; ++piece) {
      pieces[piece] = region + (row * common.pitch + column) * V::kStride + lane.channel(piece);
    }
  }
  NATTEN_OPS_DEVICE void advance(int tokens) {
    NATTEN_OPS_UNROLL
    for (int piece = 0; piece < V::kPieces; ++piece) pieces[piece] += tokens * V::kStride;
  }
  // The token so much further on; kTensor: 0 for the region's first tensor, 1 for the second.
  template <int kTensor>
  NATTEN_OPS_DEVICE void load(int further, typename V::Channels& to) const {
    NATTEN_OPS_UNROLL
    for (int piece = 0; piece < V::kPieces; ++piece) {
      const Four four =
          *reinterpret_cast<const Four*>(pieces[piece] + further * V::kStride + kTensor * V::kDim);
      NATTEN_OPS_UNROLL
      for (int i = 0; i < 4; ++i) to[4 * piece + i] = four.numbers[i];
    }
  }
};

// multiply() and accumulate() for the queries that a row further on is for, if there are any.
template <typename Queries, int kTensor, typename V, int kRows, int kChannels>
NATTEN_OPS_DEVICE void multiply_far(const Cursor<V>& cursor, int further,
                                    const float (&queries)[kRows][kChannels],
                                    float (&products)[kRows]) {
  if constexpr (Queries::kHasFar) {
    typename V::Channels partner;
    cursor.template load<kTensor>(further, partner);
    multiply<typename Queries::Far>(queries, partner, products);
  }
}
template <typename Queries, int kTensor, typename V, int kRows, int kChannels>
NATTEN_OPS_DEVICE void accumulate_far(const Cursor<V>& cursor, int further, float weight,
                                      float (&sums)[kRows][kChannels]) {
  if constexpr (Queries::kHasFar) {
    typename V::Channels partner;
    cursor.template load<kTensor>(further, partner);
    accumulate<typename Queries::Far>(weight, partner, sums);
  }
}

// ---- Launches ----

inline int64_t divide_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

// Most rows or columns of the region of a tile.
template <bool kOfQueries>
int most_of_region(const Problem& problem, int axis, int tile) {
  int most = 0;
  const int count = positions(problem, axis), size = static_cast<int>(problem.kernel_size[axis]);
  // Residue classes have this many tokens or one less.
  for (int tokens = count; tokens >= count - 1 && tokens >= size; --tokens) {
    for (int begin = 0; begin < tokens; begin += tile) {
      const int end = begin + tile < tokens ? begin + tile : tokens;
      const int region = cuda::partners<kOfQueries>(size, begin, end - 1, tokens).size();
      if (region > most) most = region;
      // In the middle, regions are as large as this one.
      const int last = (tokens - size - tile) / tile * tile;
      if (begin >= size && begin < last) begin = last;
    }
  }
  return most;
}

// A kernel's tiles: `patches` of them down and across, a warp each.
struct Shape {
  int patches[2] = {0, 0};
  Tiling tiling;
  int region_tokens() const { return tiling.region[0] * tiling.region[1]; }
  int warps() const { return patches[0] * patches[1]; }
};

// Finds the tiles that take the least time, as estimated: the instructions of all patches and of
// copies, and more if few warps share a multiprocessor. bytes(shape) is the shared memory that they
// take; registers are enough for `most_warps` in all. False if not even kLeastWarps fit.
constexpr int kLeastWarps = 4;

template <typename V, bool kOfQueries, typename Bytes>
bool find_shape(const Problem& problem, int most_warps, Bytes bytes, Shape& best) {
  const int units[2] = {V::kRows, V::kColumns};
  const int64_t limit = shared_memory_limit(), shared = shared_memory_of_multiprocessor();
  double least = INFINITY;
  int regions[2][9];
  for (int axis = 0; axis < 2; ++axis) {
    for (int n = 1; n <= 8; ++n) {
      regions[axis][n] = most_of_region<kOfQueries>(problem, axis, n * units[axis]);
    }
  }
  const double work = 0.1 * V::kDim * V::kRows * problem.kernel_size[0] * problem.kernel_size[1];
  for (int down = 1; down <= 8; ++down) {
    for (int across = 1; across <= 8 && down * across <= most_warps; ++across) {
      Shape shape;
      shape.patches[0] = down;
      shape.patches[1] = across;
      shape.tiling.tiles_per_block = 1;
      double tiles = 1;
      for (int axis = 0; axis < 2; ++axis) {
        shape.tiling.tile[axis] = shape.patches[axis] * units[axis];
        shape.tiling.tiles[axis] =
            static_cast<int>(divide_up(positions(problem, axis), shape.tiling.tile[axis]));
        shape.tiling.region[axis] = regions[axis][shape.patches[axis]];
        tiles *= shape.tiling.tiles[axis];
      }
      const int64_t taken = bytes(shape);
      if (taken > limit) continue;
      const int64_t fit = shared / (taken + kReservedShared), most = most_warps / shape.warps();
      const double warps = static_cast<double>((fit < most ? fit : most) * shape.warps());
      if (warps < kLeastWarps) continue;
      // A block's copies take time if no other block computes meanwhile.
      const double copies = (fit > 1 ? 0.06 : 0.12) * V::kDim * shape.region_tokens();
      const double time = tiles * (shape.warps() * work + copies) * (1 + 4 / warps);
      if (time < least) {
        least = time;
        best = shape;
      }
    }
  }
  return best.warps() > 0;
}

inline Common make_common(const Problem& problem, const BiasView& bias, const Shape& shape) {
  Common common;
  common.set(problem, shape.tiling);
  common.head_dim = static_cast<int>(problem.head_dim);
  for (int axis = 0; axis < 2; ++axis) {
    common.kernel_size[axis] = static_cast<int>(problem.kernel_size[axis]);
  }
  common.pitch = shape.tiling.region[1];
  common.region_tokens = shape.region_tokens();
  common.far_tokens = common.kernel_size[0] * common.pitch;
  common.far_entries = common.kernel_size[0] * common.entries();
  common.patches = Divisor(shape.patches[1]);
  common.warps = shape.warps();
  common.scale = static_cast<float>(problem.scale);
  common.log2_scale = static_cast<float>(problem.scale * kLog2e);
  common.bias = static_cast<const float*>(bias.data);
  return common;
}

// Whether the kernels can compute a call, if their tiles fit.
inline bool covers(const Problem& problem, Dtype dtype,
                   std::initializer_list<const TensorView*> views) {
  if (dtype != Dtype::kFloat32 || problem.head_dim % 4 != 0 ||
      problem.head_dim > kStagedMaxHeadDim || problem.kernel_size[0] < kLeastRows ||
      compute_capability() < 80) {
    return false;
  }
  const auto is_small = [](double number) { return number < (1 << 30) && -number < (1 << 30); };
  if (!is_small(double(problem.batch) * problem.length[0] * problem.length[1] * problem.heads)) {
    return false;
  }
  for (const TensorView* view : views) {
    const auto fits = [](int64_t size, int64_t stride) { return size == 1 || stride % 4 == 0; };
    if (reinterpret_cast<uintptr_t>(view->data) % 16 != 0 || view->channel_stride != 1 ||
        !fits(problem.batch, view->batch_stride) ||
        !fits(problem.length[0], view->axis_stride[0]) ||
        !fits(problem.length[1], view->axis_stride[1]) || !fits(problem.heads, view->head_stride)) {
      return false;
    }
    for (int axis = 0; axis < 2; ++axis) {
      // Steps from token to token of a group are counted in 32 bits.
      if (!is_small(2 * double(view->axis_stride[axis]) * problem.dilation[axis])) return false;
    }
  }
  return true;
}

// Calls f with the variant for head_dim.
template <typename Small, typename Large, typename F>
auto with_variant(const Problem& problem, F f) {
  static_assert(Large::kDim == kStagedMaxHeadDim);
  return problem.head_dim <= Small::kDim ? f(Small()) : f(Large());
}

}  // namespace staged

}  // namespace natten_ops::cuda
