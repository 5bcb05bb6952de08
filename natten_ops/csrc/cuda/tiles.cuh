// How kernels spread a problem over blocks: tensors, tiles, and which tokens meet. The scalar
// kernels do it in their own way.
//
// A family of kernels on tensor cores describes itself with a variant V:
//   V::Element, kDim (32, 64 or 128 channels), kWarps, kThreads;
//   kIsFlat: one dimension, patches are 16 tokens of a row, not 8 x 2;
//   kHasNumbers: after a region's row come two numbers of each of its tokens;
//   window(common, axis), pitch(common); kHasWholePitch: the pitch is a multiple of 8;
//   kIsStacked: no residue class has more than 8 rows, and a tile has several of them, one below
//   the other: row r is row r % 8 of class r / 8.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "device.h"
// device.h comes first.
#include "../window.h"
#include "bias.cuh"
#include "kernels.h"

namespace natten_ops::cuda {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// ---- Numbers ----

struct alignas(16) Four {
  float numbers[4];
};
struct alignas(8) Two {
  float numbers[2];
};

template <int kRows, int kColumns>
NATTEN_OPS_DEVICE void clear(float (&sums)[kRows][kColumns]) {
  NATTEN_OPS_UNROLL
  for (int i = 0; i < kRows; ++i) {
    NATTEN_OPS_UNROLL
    for (int j = 0; j < kColumns; ++j) sums[i][j] = 0;
  }
}

// Bytes of a number.
NATTEN_OPS_HOST_DEVICE int bytes_of(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}

// ---- Tiles ----

// How tiles cover the problem. Positions are places within a residue class.
struct Tiling {
  int tile[2];          // positions of a tile on each axis
  int tiles[2];         // of the longest residue class
  int region[2];        // most rows and columns of any tile's region that are in shared memory
  int tiles_per_block;  // by one block, one after the other
  // Of the matrix kernels only: tokens of a region's row, and eights of a patch's partners in a
  // row.
  int pitch = 0, eights = 0;
  // Of the small kernels only: blocks of a head, how many whole strips each has, and the bands of
  // all strips that are left; tiles_per_block is how many of these a block has.
  int slots = 0, whole_strips = 0, bands_left = 0;
};

// Of a tile: a band is a bit of a word.
constexpr int kMostBands = 32;

struct Tile {
  int64_t batch;
  int head;
  int residue[2];
  int count[2];  // tokens of the residue class on each axis; if stacked, the most rows of a class
  int full;      // if stacked, classes with as many rows; others have one less
  int begin[2], end[2];
};

// Consecutive positions on an axis.
struct Span {
  int first, last;

  NATTEN_OPS_HOST_DEVICE int size() const { return last - first + 1; }
};

// The partners of a token at a position of a residue class of `count` tokens: the keys of a query
// (kOfQueries), or the queries of a key. As window.h, in 32 bits.
template <bool kOfQueries>
NATTEN_OPS_HOST_DEVICE Span partners(int window, int position, int count) {
  const int half = window / 2;
  if constexpr (kOfQueries) {
    const int last = count - window;
    int first = position - half < last ? position - half : last;
    if (first < 0) first = 0;
    return {first, first + window - 1};
  } else {
    return {position < window ? 0 : position - window + 1 + half,
            position >= count - window ? count - 1 : position + half};
  }
}

// The partners of the tokens from `first` to `last`.
template <bool kOfQueries>
NATTEN_OPS_HOST_DEVICE Span partners(int window, int first, int last, int count) {
  return {partners<kOfQueries>(window, first, count).first,
          partners<kOfQueries>(window, last, count).last};
}

// Quotients of numbers below 2^31, without a division.
struct Divisor {
  uint32_t divisor, multiplier;
  int shift;

  Divisor() = default;
  explicit Divisor(int64_t by) : divisor(static_cast<uint32_t>(by)), shift(0) {
    while (uint64_t(1) << shift < divisor) ++shift;
    multiplier = static_cast<uint32_t>(
        (uint64_t(1) << 32) * ((uint64_t(1) << shift) - divisor) / divisor + 1);
  }

  NATTEN_OPS_DEVICE uint32_t divide(uint32_t number) const {
    return (static_cast<uint32_t>(uint64_t(number) * multiplier >> 32) + number) >> shift;
  }
  // The quotient; `number` becomes the remainder.
  NATTEN_OPS_DEVICE uint32_t split(uint32_t& number) const {
    const uint32_t quotient = divide(number);
    number -= quotient * divisor;
    return quotient;
  }
};

// A tensor (batch, axis 0, axis 1, heads, head_dim); strides and steps are in bytes.
struct Tensor {
  char* data;
  int64_t batch_stride, head_stride, axis_stride[2];
  int64_t class_step;  // of stacked rows: from where row 8 would be to where it is
  int step[2];         // between neighbors of a residue class

  Tensor() = default;
  Tensor(const Problem& problem, const TensorView& view, int64_t size)
      : data(static_cast<char*>(view.data)),
        batch_stride(view.batch_stride * size),
        head_stride(view.head_stride * size) {
    for (int axis = 0; axis < 2; ++axis) {
      axis_stride[axis] = view.axis_stride[axis] * size;
      step[axis] = static_cast<int>(axis_stride[axis] * problem.dilation[axis]);
    }
    class_step = axis_stride[0] - 8 * int64_t(step[0]);
  }
};

// How the blocks of a launch are spread over a problem.
struct Spread {
  Problem problem;
  Tiling tiling;
  Divisor heads, tiles[2], residues[2];

  void set(const Problem& of, const Tiling& by) {
    problem = of;
    tiling = by;
    heads = Divisor(problem.heads);
    for (int axis = 0; axis < 2; ++axis) {
      residues[axis] = Divisor(problem.dilation[axis]);
      tiles[axis] = Divisor(tiling.tiles[axis]);
    }
  }
};

// What all kernels on tensor cores are told.
struct Common : Spread {
  int windows[2];
  BiasView bias;
  int bias_step[2];
  float log2_scale, inverse_scale;  // log2(e) times the scale, and its inverse, without their sign
  uint32_t signs;                   // flips the signs of two halves if the scale is negative
  uint32_t nothing;                 // 0
  int chunks;                       // 8 channels each
};

// Returns the head of a block; the number of the block becomes that of its slot.
NATTEN_OPS_DEVICE int split_head(const Spread& spread, uint32_t& number) {
  const uint32_t slot = spread.heads.divide(number);
  const int head = static_cast<int>(number - slot * spread.heads.divisor);
  number = slot;
  return head;
}

// The number-th tile of a head: neighbors in memory follow one another. False if the residue class
// is too short to have it, or the problem has no more.
NATTEN_OPS_DEVICE bool find_tile(const Spread& spread, int head, uint32_t number, Tile& tile) {
  const Problem& problem = spread.problem;
  NATTEN_OPS_UNROLL
  for (int axis = 1; axis >= 0; --axis) {
    uint32_t residue = number;
    number = spread.residues[axis].split(residue);
    uint32_t at = number;
    number = spread.tiles[axis].split(at);
    tile.residue[axis] = static_cast<int>(residue);
    tile.count[axis] = static_cast<int>(spread.residues[axis].divide(
        static_cast<uint32_t>(problem.length[axis] + problem.dilation[axis] - 1) - residue));
    tile.begin[axis] = static_cast<int>(at) * spread.tiling.tile[axis];
    tile.end[axis] = tile.begin[axis] + spread.tiling.tile[axis];
    if (tile.end[axis] > tile.count[axis]) tile.end[axis] = tile.count[axis];
  }
  tile.batch = number;
  tile.head = head;
  return number < problem.batch && tile.begin[0] < tile.end[0] && tile.begin[1] < tile.end[1];
}

// Partners of the tokens of the tile from `first` on, `size` of them.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE Span partners(const Common& common, const Tile& tile, int axis, int first,
                                int size) {
  const int last = first + size < tile.end[axis] ? first + size - 1 : tile.end[axis] - 1;
  return partners<kOfQueries>(V::window(common, axis), first, last, tile.count[axis]);
}
// The region on an axis.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE Span partners(const Common& common, const Tile& tile, int axis) {
  return partners<kOfQueries>(V::window(common, axis), tile.begin[axis], tile.end[axis] - 1,
                              tile.count[axis]);
}

// ---- Calls ----

inline double magnitude(double number) { return number < 0 ? -number : number; }

// Whether the kernels on tensor cores can compute a call. The scale must not be nearly zero,
// because bias / scale has to be a finite number.
inline bool are_for_tensor_cores(const Problem& problem, Dtype dtype, bool allow_tf32,
                                 std::initializer_list<const TensorView*> views) {
  constexpr int64_t kMostKeys = 4096;  // on an axis; more do not fit shared memory in any case
  const int capability = compute_capability();
  const bool is_float = dtype == Dtype::kFloat32;
  const bool has_type = (dtype == Dtype::kFloat16 && capability >= 75) ||
                        (dtype == Dtype::kBFloat16 && capability >= 80) ||
                        (is_float && allow_tf32 && capability >= 80);
  const int64_t most_channels = is_float ? kTf32MaxHeadDim : kMatrixMaxHeadDim;
  if (!has_type || problem.head_dim % 8 != 0 || problem.head_dim > most_channels ||
      problem.kernel_size[0] > kMostKeys || problem.kernel_size[1] > kMostKeys ||
      !(magnitude(problem.scale) > 1e-6) || !(magnitude(problem.scale) < 1e6)) {
    return false;
  }
  const auto is_int = [](int64_t number) { return number == static_cast<int>(number); };
  if (!is_int(problem.batch * problem.heads * problem.length[0]) ||
      !is_int(problem.length[1] * problem.heads * problem.dilation[0] * int64_t(sizeof(Two)))) {
    return false;
  }
  const int bytes = bytes_of(dtype);
  for (const TensorView* view : views) {
    const auto fits = [&](int64_t size, int64_t stride) {
      return size == 1 || stride * bytes % 16 == 0;
    };
    if (reinterpret_cast<uintptr_t>(view->data) % 16 != 0 || view->channel_stride != 1 ||
        !fits(problem.batch, view->batch_stride) || !fits(problem.heads, view->head_stride)) {
      return false;
    }
    for (int axis = 0; axis < 2; ++axis) {
      if (!fits(problem.length[axis], view->axis_stride[axis]) ||
          !is_int(view->axis_stride[axis] * problem.dilation[axis] * bytes)) {
        return false;
      }
    }
  }
  return true;
}

// Calls f with a number of the call's dtype, one of half precision.
template <typename F>
auto with_half(Dtype dtype, F f) {
  return dtype == Dtype::kFloat16 ? f(Float16()) : f(BFloat16());
}

template <typename T>
void exchange(T (&pair)[2]) {
  const T first = pair[0];
  pair[0] = pair[1];
  pair[1] = first;
}

inline int positions(const Problem& problem, int axis) {
  return static_cast<int>((problem.length[axis] + problem.dilation[axis] - 1) /
                          problem.dilation[axis]);
}

// Whether fewer patches of 8 x 2 cover the problem with its axes exchanged.
inline bool is_better_transposed(const Problem& problem) {
  const auto patches = [&](int down, int across) {
    return int64_t(positions(problem, down) + 7) / 8 * ((positions(problem, across) + 1) / 2);
  };
  return problem.length[0] > 1 && patches(1, 0) < patches(0, 1);
}

// The call's views, with axes exchanged if that is better.
struct Orientation {
  Problem problem;
  Dtype dtype;
  bool is_transposed;

  template <typename Call>
  explicit Orientation(const Call& call)
      : problem(call.problem),
        dtype(call.dtype),
        is_transposed(is_better_transposed(call.problem)) {
    if (is_transposed) {
      exchange(problem.length);
      exchange(problem.kernel_size);
      exchange(problem.dilation);
    }
  }
  // `size` are the bytes of an element.
  Tensor tensor(TensorView view, int64_t size) const {
    if (is_transposed) exchange(view.axis_stride);
    return Tensor(problem, view, size);
  }
  Tensor tensor(const TensorView& view) const { return tensor(view, bytes_of(dtype)); }
  // A contiguous tensor of `size` bytes per query and head.
  Tensor numbers(const void* data, int64_t size) const {
    const int64_t columns = problem.length[is_transposed ? 0 : 1];
    return tensor({const_cast<void*>(data),
                   problem.length[0] * problem.length[1] * problem.heads,
                   {columns * problem.heads, problem.heads},
                   1,
                   0},
                  size);
  }
  Common common(const Tiling& tiling, const BiasView& bias) const {
    Common common;
    common.set(problem, tiling);
    const int entries = static_cast<int>(2 * problem.kernel_size[is_transposed ? 0 : 1] - 1);
    for (int axis = 0; axis < 2; ++axis) {
      common.windows[axis] = static_cast<int>(problem.kernel_size[axis]);
      common.bias_step[axis] = is_transposed == (axis == 0) ? 1 : entries;
    }
    common.bias = bias;
    common.log2_scale = static_cast<float>(magnitude(problem.scale) * kLog2e);
    common.inverse_scale = static_cast<float>(1 / magnitude(problem.scale));
    common.signs = problem.scale < 0 ? 0x80008000 : 0;
    common.nothing = 0;
    common.chunks = static_cast<int>(problem.head_dim / 8);
    return common;
  }
};

// Chooses tiles of at most `most` positions of an axis, of about one size, whole patches of `unit`.
// Finds the largest region.
template <bool kOfQueries>
void choose_tiles(const Problem& problem, int axis, int most, int unit, Tiling& tiling) {
  const int count = positions(problem, axis);
  const int window = static_cast<int>(problem.kernel_size[axis]);
  const int tiles = (count + most - 1) / most, even = (count + tiles - 1) / tiles;
  tiling.tile[axis] = (even + unit - 1) / unit * unit;
  tiling.tiles[axis] = (count + tiling.tile[axis] - 1) / tiling.tile[axis];
  tiling.region[axis] = 0;
  // Residue classes have this many tokens or one less.
  for (int tokens = count; tokens >= count - 1 && tokens >= window; --tokens) {
    for (int begin = 0; begin < tokens; begin += tiling.tile[axis]) {
      const int end = begin + tiling.tile[axis] < tokens ? begin + tiling.tile[axis] : tokens;
      const int size = partners<kOfQueries>(window, begin, end - 1, tokens).size();
      if (size > tiling.region[axis]) tiling.region[axis] = size;
    }
  }
}

// Blocks of one head.
inline int64_t slots_of(const Problem& problem, const Tiling& tiling) {
  if (tiling.slots > 0) return tiling.slots;
  const int64_t tiles =
      problem.batch * problem.dilation[0] * problem.dilation[1] * tiling.tiles[0] * tiling.tiles[1];
  return (tiles + tiling.tiles_per_block - 1) / tiling.tiles_per_block;
}

// What the backward stores at the beginning of its scratch memory, of every query and head:
// logsumexp, in units of log(2), and -delta.
inline int64_t numbers_bytes(const Problem& problem) {
  const int64_t bytes =
      problem.batch * problem.length[0] * problem.length[1] * problem.heads * sizeof(Two);
  return (bytes + 15) / 16 * 16;
}

}  // namespace natten_ops::cuda
