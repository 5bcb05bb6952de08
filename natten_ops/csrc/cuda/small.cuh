// What the kernels for small windows share: 3, 5 or 7 keys on both axes, and head_dim up to 32.
//
// Patches are those of matrix.cuh: a warp has 16 tokens, 8 rows x 2 columns, and multiplies them
// with partners, 8 of a row at a time. Windows are so small that 8 columns and 8 + kSize - 1 rows
// hold all keys of a patch. So the rows are unrolled, and bias and mask are what the sums of
// products start from:
//
// - A bias pair has, for the two columns of a patch and each difference of rows between query and
//   key, bias / scale where the columns are partners, and -infinity elsewhere. It is in the order
//   of a product's result: a thread loads its four numbers at once.
// - For rows that are not partners, a thread loads from rows of -infinity instead.
//
// A product times the scale is then the whole logit. At borders, where windows are shifted, a warp
// makes a bias pair of its own. Elsewhere all patches of a block share one.
//
// A block's tile has one or more bands, rows of patches. A warp computes the same two columns of
// every band. The region of the tile's partners is in shared memory: a row has kPitch tokens of one
// tensor, then of the other, as shared_offset mixes them. kPitch is a multiple of 8, so a thread's
// addresses in different rows differ by constants. Tokens beyond the feature map are zero.
#pragma once

#include <type_traits>

#include "bias.cuh"
#include "matrix.cuh"

namespace natten_ops::cuda {

namespace small {

constexpr int kDim = 32;
constexpr int kPitch = 24;
constexpr int kRowElements = kPitch * kDim;  // of one tensor
constexpr int kMostBands = 3;
constexpr int kBlocks = kIsOldDevice ? 1 : 2;  // of a multiprocessor

// kMore: bytes of a region's row after the tensors'.
template <typename E, int kKernel, int kBlockWarps, int kMore>
struct Variant {
  using Element = E;
  static constexpr int kSize = kKernel;
  static constexpr int kWarps = kBlockWarps;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kRows = 8 + kSize - 1;  // of partners that are multiplied at once
  static constexpr int kStride = 2 * kRowElements + kMore / 2;  // from row to row, in elements
  static_assert(kSize % 2 == 1 && kSize <= 7, "two windows side by side take up to 8 columns");
  static_assert(kWarps <= 8);
};

// ---- Problems ----

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
  int step[2];  // between neighbors of a residue class

  Tensor() = default;
  Tensor(const Problem& problem, const TensorView& view, int64_t size)
      : data(static_cast<char*>(view.data)),
        batch_stride(view.batch_stride * size),
        head_stride(view.head_stride * size) {
    for (int axis = 0; axis < 2; ++axis) {
      axis_stride[axis] = view.axis_stride[axis] * size;
      step[axis] = static_cast<int>(axis_stride[axis] * problem.dilation[axis]);
    }
  }
};

// What the three kernels share.
struct Common {
  Problem problem;
  Tiling tiling;
  Divisor heads, tiles[2], residues[2];
  BiasView bias;
  int bias_step[2];
  float log2_scale, inverse_scale;  // log2(e) times the scale, and its inverse, without their sign
  uint32_t signs;                   // flips the signs of two numbers if the scale is negative
  uint32_t nothing;                 // 0
  int chunks;                       // 8 channels each
};

// Returns the head of a block; the number of the block becomes that of its slot.
NATTEN_OPS_DEVICE int split_head(const Common& common, uint32_t& number) {
  const uint32_t slot = common.heads.divide(number);
  const int head = static_cast<int>(number - slot * common.heads.divisor);
  number = slot;
  return head;
}

// As natten_ops::cuda::find_tile.
NATTEN_OPS_DEVICE bool find_tile(const Common& common, int head, uint32_t number, Tile& tile) {
  const Problem& problem = common.problem;
  NATTEN_OPS_UNROLL
  for (int axis = 1; axis >= 0; --axis) {
    uint32_t residue = number;
    number = common.residues[axis].split(residue);
    uint32_t at = number;
    number = common.tiles[axis].split(at);
    tile.residue[axis] = static_cast<int>(residue);
    tile.count[axis] = static_cast<int>(common.residues[axis].divide(
        static_cast<uint32_t>(problem.length[axis] + problem.dilation[axis] - 1) - residue));
    tile.begin[axis] = static_cast<int>(at) * common.tiling.tile[axis];
    tile.end[axis] = tile.begin[axis] + common.tiling.tile[axis];
    if (tile.end[axis] > tile.count[axis]) tile.end[axis] = tile.count[axis];
  }
  tile.batch = number;
  tile.head = head;
  return number < problem.batch && tile.begin[0] < tile.end[0] && tile.begin[1] < tile.end[1];
}

// The tokens of a tensor that are in the image (batch entry), head and residue class of a block's
// tile. Their first address is in shared memory, so that it takes no registers.
constexpr int kPlaneBytes = 96, kFlagBytes = 32;  // at the beginning of a block's shared memory

template <typename Element>
struct Plane {
  const Tensor& tensor;
  int number;

  NATTEN_OPS_DEVICE Element* at(int row, int column) const {
    char* const data = reinterpret_cast<char**>(shared_memory())[number];
    return reinterpret_cast<Element*>(data + int64_t(row) * tensor.step[0] +
                                      int64_t(column) * tensor.step[1]);
  }
};

// The bands that the thread's warp has to repeat with care, as bits; 0 at first. They are in shared
// memory, because they are rarely needed and registers are short.
NATTEN_OPS_DEVICE uint32_t& bands_to_repeat() {
  return reinterpret_cast<uint32_t*>(shared_memory() + kPlaneBytes)[thread_index() / 32];
}
NATTEN_OPS_DEVICE void repeat_unless(bool finite, int band) {
  if (warp_any(!finite)) {
    if (thread_index() % 32 == 0) bands_to_repeat() |= 1u << band;
    warp_barrier();
  }
}

// Finds the planes of tensors, each with a thread of its own. A barrier must follow.
template <int kCount>
NATTEN_OPS_DEVICE void find_planes(const Tensor (&tensors)[kCount], const Tile& tile) {
  static_assert(kCount * sizeof(char*) <= kPlaneBytes);
  const int number = thread_index();
  if (number % 32 == 0) bands_to_repeat() = 0;
  if (number < kCount) {
    const Tensor& tensor = tensors[number];
    reinterpret_cast<char**>(shared_memory())[number] =
        tensor.data + tile.batch * tensor.batch_stride + tile.head * tensor.head_stride +
        tile.residue[0] * tensor.axis_stride[0] + tile.residue[1] * tensor.axis_stride[1];
  }
}

// ---- Partners ----

// Keys of a query (kOfQueries) or queries of a key; partners_of is the same in 64 bits.
template <int kSize, bool kOfQueries>
NATTEN_OPS_DEVICE Span partners(int position, int count) {
  constexpr int kHalf = kSize / 2;
  if constexpr (kOfQueries) {
    const int last = count - kSize;
    int first = position - kHalf < last ? position - kHalf : last;
    if (first < 0) first = 0;
    return {first, first + kSize - 1};
  } else {
    return {position < kSize ? 0 : position - kHalf,
            position >= count - kSize ? count - 1 : position + kHalf};
  }
}

// Partners of the tokens of the tile from `first` on, `size` of them.
template <int kSize, bool kOfQueries>
NATTEN_OPS_DEVICE Span partners(const Tile& tile, int axis, int first, int size) {
  const int last = first + size < tile.end[axis] ? first + size - 1 : tile.end[axis] - 1;
  return {partners<kSize, kOfQueries>(first, tile.count[axis]).first,
          partners<kSize, kOfQueries>(last, tile.count[axis]).last};
}

// The bands of a tile as bits: those whose patch at a column has only tokens that exist, with as
// many partners before as after them (centerd), and the others.
struct Bands {
  uint32_t centerd, others;

  template <int kSize, bool kOfQueries>
  static NATTEN_OPS_DEVICE Bands at(const Tile& tile, int column) {
    constexpr int kBorder = kOfQueries ? kSize / 2 : kSize;
    const auto are_centerd = [&](int axis, int first, int size) {
      return first >= kBorder && first + size <= tile.count[axis] - kBorder &&
             first + size <= tile.end[axis];
    };
    Bands bands = {0, 0};
    if (column >= tile.end[1]) return bands;
    const bool has_columns = are_centerd(1, column, 2);
    NATTEN_OPS_UNROLL
    for (int band = 0; band < kMostBands; ++band) {
      const int row = tile.begin[0] + 8 * band;
      const bool is_centerd = has_columns && are_centerd(0, row, 8);
      bands.centerd |= static_cast<uint32_t>(is_centerd) << band;
      bands.others |= static_cast<uint32_t>(!is_centerd && row < tile.end[0]) << band;
    }
    return bands;
  }
};

// ---- Bias ----

struct alignas(16) Four {
  float numbers[4];
};
struct alignas(8) Two {
  float numbers[2];
};

template <int kSize>
constexpr int kPairNumbers = (2 * kSize - 1) * 16;

// Makes the bias pair of two columns, `own`, and their partners; `begin` is the first column of the
// products. `threads` threads do this together, and this is number `thread`. Row r of the pair is
// for a partner that is r - (kSize - 1) rows after the token.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE void make_pair(const Common& common, int head, const int (&own)[2],
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
    } else if (common.bias.data) {
      const int entry =
          head * kOffsets * kOffsets + down * common.bias_step[0] + across * common.bias_step[1];
      number = read_bias<typename V::Element>(common.bias, entry) * common.inverse_scale;
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

NATTEN_OPS_DEVICE float* centerd_pair() {
  return reinterpret_cast<float*>(shared_memory() + kPlaneBytes + kFlagBytes);
}
template <typename V>
NATTEN_OPS_DEVICE float* own_pair() {
  return centerd_pair() + (1 + thread_index() / 32) * kPairNumbers<V::kSize>;
}
template <typename V>
NATTEN_OPS_DEVICE float* rows_of_nothing() {
  return centerd_pair() + (1 + V::kWarps) * kPairNumbers<V::kSize>;
}

// All threads of the block make the bias pair of columns with centerd windows, and rows of
// -infinity.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE void make_centerd_pair(const Common& common, int head) {
  constexpr int kSize = V::kSize;
  const int own[2] = {kSize / 2, kSize / 2 + 1};
  const Span partners[2] = {{0, kSize - 1}, {1, kSize}};
  make_pair<V, kOfQueries>(common, head, own, partners, 0, thread_index(), V::kThreads,
                           centerd_pair());
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

// ---- Shared memory ----

// Begins to copy rows begin to end - 1 of a tensor into the region; tokens that do not exist become
// zero.
template <typename V>
NATTEN_OPS_DEVICE void copy_rows(const Common& common, const Span& rows, const Span& columns,
                                 const Plane<const typename V::Element>& plane, int begin, int end,
                                 typename V::Element* region) {
  using Element = typename V::Element;
  constexpr int kWarps = V::kWarps;
  constexpr int kCopies = kPitch / 8;
  const int lane = thread_index() % 32, column = lane / 4, chunk = lane % 4;
  bool exists[kCopies];
  NATTEN_OPS_UNROLL
  for (int i = 0; i < kCopies; ++i) {
    exists[i] = chunk < common.chunks && column + 8 * i < columns.size();
  }
  int row = begin + thread_index() / 32;
  const char* from =
      reinterpret_cast<const char*>(plane.at(rows.first + row, columns.first + column) + 8 * chunk);
  const int64_t row_step = int64_t(kWarps) * plane.tensor.step[0];
  const int64_t column_step = int64_t(8) * plane.tensor.step[1];
  Element* to = region + row * V::kStride + shared_offset<kDim>(column, chunk);
  for (; row < end && row < rows.size(); row += kWarps) {
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      copy_async_16(to + 8 * i * kDim, from + i * column_step, exists[i]);
    }
    from += row_step;
    to += kWarps * V::kStride;
  }
  for (; row < end; row += kWarps, to += kWarps * V::kStride) {
    for (int i = 0; i < kCopies; ++i) *reinterpret_cast<Words*>(to + 8 * i * kDim) = Words{};
  }
}

// What rows of partners a thread loads. In products, thread 4 g + c has 8 channels of a token, from
// 8 c on, on both sides. It loads them at once, because the order of channels does not matter
// there. kTensor: 0 for the region's first tensor, 1 for the second.
template <typename V>
struct Partners {
  using Element = typename V::Element;

  const Element* tokens;         // partner g's channels from 8 c on
  const Element* transposed[2];  // for load_matrices_transposed, 16 channels each

  // `row` and `column` are those of the first partner in the region.
  NATTEN_OPS_DEVICE Partners(const Element* region, int row, int column) {
    const int lane = thread_index() % 32;
    tokens = region + row * V::kStride + shared_offset<kDim>(column + lane / 4, lane % 4);
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 2; ++i) {
      transposed[i] = region + (row + lane / 8 % 2) * V::kStride +
                      shared_offset<kDim>(column + lane % 8, 2 * i + lane / 16);
    }
  }

  // sums += the products of a patch's tokens with the partners of a row.
  template <int kTensor>
  NATTEN_OPS_DEVICE void multiply(const uint32_t (&patch)[2][4], int row, float (&sums)[4]) const {
    const Words words =
        *reinterpret_cast<const Words*>(tokens + kTensor * kRowElements + row * V::kStride);
    multiply_add<Element>(sums, patch[0], words.words[0], words.words[1]);
    multiply_add<Element>(sums, patch[1], words.words[2], words.words[3]);
  }

  // sums += weights of the partners of a row and the next, times their channels.
  template <int kTensor>
  NATTEN_OPS_DEVICE void accumulate(const uint32_t (&weights)[4], int row,
                                    float (&sums)[4][4]) const {
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 2; ++i) {
      uint32_t words[4];
      load_matrices_transposed(words, transposed[i] + kTensor * kRowElements + row * V::kStride);
      multiply_add<Element>(sums[2 * i], weights, words[0], words[1]);
      multiply_add<Element>(sums[2 * i + 1], weights, words[2], words[3]);
    }
  }
};

// ---- Patches ----

// A thread's two tokens of a patch: row lane / 4 of it, and both columns. Another token stands in
// for one that does not exist.
struct Own {
  int row, columns[2];
  bool exists[2];

  NATTEN_OPS_DEVICE Own(const Tile& tile, int first_row, int column) {
    row = first_row + thread_index() % 32 / 4;
    exists[0] = row < tile.end[0];
    exists[1] = exists[0] && column + 1 < tile.end[1];
    if (!exists[0]) row = tile.end[0] - 1;
    columns[0] = column;
    columns[1] = column + 1 < tile.end[1] ? column + 1 : column;
  }
  // In the same columns.
  NATTEN_OPS_DEVICE void go_to(const Tile& tile, int first_row) {
    row = first_row + thread_index() % 32 / 4;
    exists[0] = row < tile.end[0];
    exists[1] = exists[0] && columns[0] != columns[1];
    if (!exists[0]) row = tile.end[0] - 1;
  }
  // Of a patch whose tokens all exist.
  NATTEN_OPS_DEVICE Own(int first_row, int column)
      : row(first_row + thread_index() % 32 / 4), columns{column, column + 1}, exists{true, true} {}
};

// The channels of a thread's tokens, 8 each from 8 (lane % 4) on, as they are in memory; of
// channels that do not exist, those of another thread.
struct Channels {
  Words tokens[2];
};

template <typename T>
NATTEN_OPS_DEVICE T* ahead(T* pointer, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(pointer) + bytes);
}

// The thread's first token, from channel 8 (lane % 4) on, while a warp goes from band to band; the
// second one is one column further.
template <typename Element>
struct Cursor {
  Element* at;

  NATTEN_OPS_DEVICE Cursor(const Common& common, const Plane<Element>& plane, const Own& own)
      : at(plane.at(own.row, own.columns[0]) +
           (thread_index() % 4 < common.chunks ? thread_index() % 4 * 8 : 0)) {}

  // To the next band, if the token there exists.
  NATTEN_OPS_DEVICE void advance(const Tensor& tensor, bool exists) {
    if (exists) at = ahead(at, int64_t(8) * tensor.step[0]);
  }
  NATTEN_OPS_DEVICE Channels read(const Tensor& tensor, const Own& own) const {
    const Element* second = ahead(at, (own.columns[1] - own.columns[0]) * int64_t(tensor.step[1]));
    return {*reinterpret_cast<const Words*>(at), *reinterpret_cast<const Words*>(second)};
  }
  // Begins to fetch what read() will read.
  NATTEN_OPS_DEVICE void prefetch_tokens(const Tensor& tensor, const Own& own) const {
    prefetch(at);
    prefetch(ahead(at, (own.columns[1] - own.columns[0]) * int64_t(tensor.step[1])));
  }
};

// The tokens as the left side of products, with the bits in `flips` inverted; zeros for channels
// that do not exist. The order of channels is that of Partners.
NATTEN_OPS_DEVICE void as_patch(const Common& common, const Channels& channels, uint32_t flips,
                                uint32_t (&fragments)[2][4]) {
  const uint32_t kept = thread_index() % 4 < common.chunks ? 0xffffffff : 0;
  NATTEN_OPS_UNROLL
  for (int e = 0; e < 2; ++e) {
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 4; ++i) {
      fragments[i / 2][i % 2 * 2 + e] = (channels.tokens[e].words[i] ^ flips) & kept;
    }
  }
}

// Multiplies each token's sums by its factor, rounds and stores them. Returns whether all are
// finite.
template <typename Element>
NATTEN_OPS_DEVICE bool store_tokens(const Common& common, const Tensor& tensor,
                                    const Cursor<Element>& cursor, const Own& own,
                                    const float (&sums)[4][4], const float (&factors)[2]) {
  const bool has_channels = thread_index() % 4 < common.chunks;
  uint32_t zeros = 0;
  NATTEN_OPS_UNROLL
  for (int e = 0; e < 2; ++e) {
    uint32_t words[4];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 4; ++i) {
      words[i] = pack<Element>(sums[i][2 * e] * factors[e], sums[i][2 * e + 1] * factors[e]);
      zeros = add_zero_times<Element>(words[i], zeros);
    }
    const Words whole = transpose_words(words);
    if (own.exists[e] && has_channels) {
      *reinterpret_cast<Words*>(ahead(cursor.at, e * int64_t(tensor.step[1]))) = whole;
    }
  }
  return (zeros & 0x7fff7fff) == 0;
}

// ---- With care ----

// If a sum is not finite, the warp computes the patch again, token by token, with nothing but the
// token's partners. A thread has one channel, and the warp adds up the products.

NATTEN_OPS_DEVICE float sum_of_warp(float number) {
  for (int mask = 16; mask > 0; mask /= 2) number += shuffle_xor(number, mask);
  return number;
}

// The thread's channel of a region's token.
template <typename V>
NATTEN_OPS_DEVICE float channel_of(const typename V::Element* region, int row, int column) {
  const int channel = thread_index() % 32;
  return widen(region[row * V::kStride + shared_offset<kDim>(column, channel / 8) + channel % 8]);
}

// The same of a tensor's token.
template <typename Element>
NATTEN_OPS_DEVICE float channel_of(const Common& common, const Plane<const Element>& plane, int row,
                                   int column) {
  const int channel = thread_index() % 32;
  return channel < 8 * common.chunks ? widen(plane.at(row, column)[channel]) : 0.0f;
}
template <typename Element>
NATTEN_OPS_DEVICE void store_channel(const Common& common, const Plane<Element>& plane, int row,
                                     int column, float number) {
  const int channel = thread_index() % 32;
  if (channel < 8 * common.chunks) narrow(number, plane.at(row, column)[channel]);
}

// The logit, in units of log(2), of a product and a key so many rows and columns after the query.
template <typename V>
NATTEN_OPS_DEVICE float logit_of(const Common& common, int head, float product, int down,
                                 int across) {
  constexpr int kSize = V::kSize, kOffsets = 2 * kSize - 1;
  float bias = 0;
  if (common.bias.data) {
    const int entry = head * kOffsets * kOffsets + (down + kSize - 1) * common.bias_step[0] +
                      (across + kSize - 1) * common.bias_step[1];
    bias = read_bias<typename V::Element>(common.bias, entry);
  }
  return (product * static_cast<float>(common.problem.scale) + bias) * kLog2e;
}

// ---- Tilings ----

inline double magnitude(double number) { return number < 0 ? -number : number; }

// Whether the kernels can compute a call. Very small scales are left to the matrix kernels, because
// bias / scale has to be a finite number.
inline bool covers(const Problem& problem, std::initializer_list<const TensorView*> views) {
  const int64_t size = problem.kernel_size[0];
  if (problem.head_dim > kDim || problem.kernel_size[1] != size ||
      (size != 3 && size != 5 && size != 7) || !(magnitude(problem.scale) > 1e-6) ||
      !(magnitude(problem.scale) < 1e6)) {
    return false;
  }
  const auto is_int = [](int64_t number) { return number == static_cast<int>(number); };
  if (!is_int(problem.batch * problem.heads * problem.length[0]) ||
      !is_int(problem.length[1] * problem.heads * problem.dilation[0] * 4)) {
    return false;
  }
  for (const TensorView* view : views) {
    for (int axis = 0; axis < 2; ++axis) {
      if (!is_int(view->axis_stride[axis] * problem.dilation[axis] * 2)) return false;
    }
  }
  return true;
}

inline void transpose(int64_t (&pair)[2]) {
  const int64_t first = pair[0];
  pair[0] = pair[1];
  pair[1] = first;
}

inline int64_t positions(const Problem& problem, int axis) {
  return (problem.length[axis] + problem.dilation[axis] - 1) / problem.dilation[axis];
}

// Whether fewer patches cover the problem with its axes exchanged.
inline bool is_better_transposed(const Problem& problem) {
  const auto patches = [&](int down, int across) {
    return (positions(problem, down) + 7) / 8 * ((positions(problem, across) + 1) / 2);
  };
  return patches(1, 0) < patches(0, 1);
}

// Most rows or columns of the region of a tile.
template <bool kOfQueries>
int most_of_region(const Problem& problem, int axis, int tile) {
  int most = 0;
  const int64_t count = positions(problem, axis);
  // Residue classes have this many tokens or one less.
  for (int64_t tokens = count; tokens >= count - 1 && tokens >= problem.kernel_size[axis];
       --tokens) {
    for (int64_t begin = 0; begin < tokens; begin += tile) {
      const int64_t end = begin + tile < tokens ? begin + tile : tokens;
      const int size = partners_of<kOfQueries>({0, begin, tokens}, {0, end - 1, tokens},
                                               problem.kernel_size[axis])
                           .size();
      if (size > most) most = size;
    }
  }
  return most;
}

// The largest tiles of which two fit a multiprocessor, or else the largest of which one does.
// bytes(tiling) is the shared memory that they take.
template <typename V, bool kOfQueries, typename Bytes>
bool find_tiling(const Problem& problem, Bytes bytes, Tiling& tiling) {
  const auto choose = [&](int axis, int64_t most, int unit) {
    const int64_t count = positions(problem, axis);
    tiling.tiles[axis] = static_cast<int>((count + most - 1) / most);
    const int64_t even = (count + tiling.tiles[axis] - 1) / tiling.tiles[axis];
    tiling.tile[axis] = static_cast<int>((even + unit - 1) / unit * unit);
    tiling.tiles[axis] = static_cast<int>((count + tiling.tile[axis] - 1) / tiling.tile[axis]);
    tiling.region[axis] = most_of_region<kOfQueries>(problem, axis, tiling.tile[axis]);
  };
  tiling.tiles_per_block = 1;
  for (int most = 2 * V::kWarps; most == 2 * V::kWarps || tiling.region[1] > kPitch; most -= 2) {
    choose(1, most, 2);
  }
  const int64_t limit = shared_memory_limit();
  const int64_t share = shared_memory_of_multiprocessor() / 2 - kReservedShared;
  for (const int64_t most : {share < limit ? share : limit, limit}) {
    for (int bands = kMostBands; bands > 0; --bands) {
      choose(0, 8 * bands, 8);
      const int rows = tiling.tile[0] - 8 + V::kRows;
      if (tiling.region[0] < rows) tiling.region[0] = rows;
      if (bytes(tiling) <= most) return true;
    }
  }
  return false;
}

// Calls f with a kernel for the problem and dtype.
template <int kWarps, int kMore, typename F>
auto with_variant(const Problem& problem, Dtype dtype, F f) {
  const auto with_element = [&](auto element) {
    using Element = decltype(element);
    switch (problem.kernel_size[0]) {
      case 3:
        return f(Variant<Element, 3, kWarps, kMore>());
      case 5:
        // With 8 warps, and 128 registers, the compiler spills.
        return f(Variant<Element, 5, kWarps == 8 ? 6 : kWarps, kMore>());
      default:
        return f(Variant<Element, 7, kWarps, kMore>());
    }
  };
  return dtype == Dtype::kFloat16 ? with_element(Float16()) : with_element(BFloat16());
}

// The call's views, with axes exchanged if that is better.
struct Orientation {
  Problem problem;
  bool is_transposed;

  explicit Orientation(const Problem& of) : problem(of), is_transposed(is_better_transposed(of)) {
    if (is_transposed) {
      transpose(problem.length);
      transpose(problem.dilation);
    }
  }
  Tensor tensor(TensorView view, int64_t size = 2) const {
    if (is_transposed) transpose(view.axis_stride);
    return Tensor(problem, view, size);
  }
  // A contiguous tensor of one number per query and head.
  Tensor numbers(const void* data) const {
    const int64_t columns = problem.length[is_transposed ? 0 : 1];
    return tensor({const_cast<void*>(data),
                   problem.length[0] * problem.length[1] * problem.heads,
                   {columns * problem.heads, problem.heads},
                   1,
                   0},
                  sizeof(float));
  }
  // Fills in all but the tiling.
  Common common(const BiasView& bias) const {
    Common common;
    common.problem = problem;
    common.heads = Divisor(problem.heads);
    const int entries = static_cast<int>(2 * problem.kernel_size[1] - 1);
    for (int axis = 0; axis < 2; ++axis) {
      common.residues[axis] = Divisor(problem.dilation[axis]);
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

inline void set_tiling(const Tiling& tiling, Common& common) {
  common.tiling = tiling;
  for (int axis = 0; axis < 2; ++axis) common.tiles[axis] = Divisor(tiling.tiles[axis]);
}

}  // namespace small

}  // namespace natten_ops::cuda
