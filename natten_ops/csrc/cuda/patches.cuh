// What the kernels on tensor cores share: tiles, patches and regions, and the transfers between
// memory and the fragments of matrix products.
//
// A warp computes patches of 16 tokens (queries in the forward and for grad_query; keys for
// grad_key and grad_value), which are the 16 rows of its products: in one residue class, 8 rows x 2
// columns of neighbors or, if V::kIsFlat, 16 of one row. With them the warp multiplies partners
// (the keys or queries that they meet), 8 neighbors of a row at a time: the columns of a product.
//
// A block computes a tile of patches. A tile has one or more bands, rows of patches; a warp
// computes the same columns of every band. The region of all partners of the tile is in shared
// memory (in small.cuh, a part of it): a row has pitch() tokens of one tensor, then of another, in
// an order that lets eight neighbors be read at once (shared_offset). A thread's addresses in
// different rows differ by the same numbers. Tokens beyond the feature map are zero.
//
// Bias and mask are what the sums of products start from, see matrix.cuh and
// small.cuh: bias / scale if a token is a partner, -infinity if not. A product times the scale is
// then the whole logit.
//
// Fragments (multiply_add in device.h): of a product's result, thread 4 g + c of the warp has rows
// g and g + 8 and columns 2 c and 2 c + 1. "e" counts its rows, "f" its columns.
#pragma once

#include "tiles.cuh"

namespace natten_ops::cuda {

// ---- Patches ----

// Rows and columns of a patch.
template <typename V>
constexpr int kPatchRows = V::kIsFlat ? 1 : 8;
template <typename V>
constexpr int kPatchColumns = V::kIsFlat ? 16 : 2;

// The rows of the residue class that a row is in.
struct ClassRows {
  int first, count;

  template <typename V>
  static NATTEN_OPS_DEVICE ClassRows at(const Tile& tile, int row) {
    if constexpr (!V::kIsStacked) return {0, tile.count[0]};
    return {row / 8 * 8, tile.count[0] - (row / 8 >= tile.full)};
  }
};

// The partners of a token's row.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE Span row_partners(const Common& common, const Tile& tile, int row) {
  const ClassRows rows = ClassRows::at<V>(tile, row);
  const Span span = partners<kOfQueries>(V::window(common, 0), row - rows.first, rows.count);
  return {span.first + rows.first, span.last + rows.first};
}

// A thread's two tokens of a patch. Another token stands in for one that does not exist.
template <typename V>
struct Own {
  int row, columns[2];
  bool exists[2];

  NATTEN_OPS_DEVICE Own(const Tile& tile, int first_row, int column) {
    const int g = thread_index() % 32 / 4;
    if constexpr (V::kIsFlat) {
      row = first_row;
      NATTEN_OPS_UNROLL
      for (int e = 0; e < 2; ++e) {
        columns[e] = column + g + 8 * e;
        exists[e] = columns[e] < tile.end[1];
        if (!exists[e]) columns[e] = tile.end[1] - 1;
      }
    } else {
      const ClassRows rows = ClassRows::at<V>(tile, first_row);
      const int end = V::kIsStacked ? rows.first + rows.count : tile.end[0];
      row = first_row + g;
      columns[0] = column;
      columns[1] = column + 1 < tile.end[1] ? column + 1 : column;
      exists[0] = row < end;
      exists[1] = exists[0] && columns[0] != columns[1];
      if (!exists[0]) row = end - 1;
    }
  }
};

// ---- Memory ----

// The tokens of a tensor that are in the image (batch entry), head and residue class of a block's
// tile. Their first address is in shared memory, so that it takes no registers.
constexpr int kPlaneBytes = 96, kFlagBytes = 32;  // at the beginning of a block's shared memory

template <typename V, typename Element>
struct Plane {
  const Tensor& tensor;
  int number;

  NATTEN_OPS_DEVICE Element* at(int row, int column) const {
    char* data = reinterpret_cast<char**>(shared_memory())[number];
    if constexpr (V::kIsStacked) data += row / 8 * tensor.class_step;
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

// Finds the planes of tensors, each with a thread of its own, and after them where the head's bias
// begins. A barrier must follow.
template <int kCount>
NATTEN_OPS_DEVICE void find_planes(const Common& common, const Tensor (&tensors)[kCount],
                                   const Tile& tile) {
  static_assert((kCount + 1) * sizeof(char*) <= kPlaneBytes);
  const int number = thread_index();
  char** const planes = reinterpret_cast<char**>(shared_memory());
  if (number % 32 == 0) bands_to_repeat() = 0;
  if (number < kCount) {
    const Tensor& tensor = tensors[number];
    planes[number] = tensor.data + tile.batch * tensor.batch_stride +
                     tile.head * tensor.head_stride + tile.residue[0] * tensor.axis_stride[0] +
                     tile.residue[1] * tensor.axis_stride[1];
  } else if (number == kCount) {
    const int64_t entries = (2 * common.windows[0] - 1) * (2 * common.windows[1] - 1);
    char* const bias = static_cast<char*>(common.bias.data);
    planes[kCount] = bias ? bias + tile.head * entries * bytes_of(common.bias.dtype) : nullptr;
  }
}
// The head's bias, which is after so many planes.
NATTEN_OPS_DEVICE BiasView bias_of_head(const Common& common, int planes) {
  return {reinterpret_cast<char**>(shared_memory())[planes], common.bias.dtype};
}

// A piece of a token: 16 bytes.
struct alignas(16) Words {
  uint32_t words[4];
};
template <typename Element>
constexpr int kPieceChannels = 16 / sizeof(Element);

// Eight channels of a token.
template <typename Element>
struct alignas(16) Eight {
  uint32_t words[2 * sizeof(Element)];
};

// Offset of a piece of a token of a region's row. Threads that load at once find theirs in
// different banks: one piece of eight neighbors, or four of two neighbors (half precision: four in
// a row; float: every other one).
template <typename V>
NATTEN_OPS_DEVICE int shared_offset(int token, int piece) {
  using Element = typename V::Element;
  constexpr int kDim = V::kDim;
  static_assert(kDim == 32 || (sizeof(Element) == 2 && (kDim == 64 || kDim == 128)));
  const int mix = sizeof(Element) == 4 ? token & 7
                  : kDim == 32         ? token >> 1 & 3
                                       : (token & 1) << 2 | (token >> 1 & 3);
  return token * kDim + (piece ^ mix) * kPieceChannels<Element>;
}

// Elements of one tensor in a row of a region, and from row to row.
template <typename V>
NATTEN_OPS_HOST_DEVICE int row_elements(const Common& common) {
  return V::pitch(common) * V::kDim;
}
template <typename V>
NATTEN_OPS_HOST_DEVICE int row_stride(const Common& common) {
  constexpr int kNumbers = V::kHasNumbers ? int(sizeof(Two) / sizeof(typename V::Element)) : 0;
  return V::pitch(common) * (2 * V::kDim + kNumbers);
}

// Begins to copy a row of a tensor from the region's first column on; tokens that do not exist
// become zero. `columns` exist, none if the row does not. In one dimension all warps do this
// together.
template <typename V>
NATTEN_OPS_DEVICE void copy_row(const Common& common,
                                const Plane<V, const typename V::Element>& plane, int row,
                                int first_column, int columns, typename V::Element* to) {
  using Element = typename V::Element;
  constexpr int kDim = V::kDim, kChannels = kPieceChannels<Element>, kQuads = kDim / kChannels / 4;
  const int lane = thread_index() % 32, column = lane / 4, piece = lane % 4;
  const int pitch = V::pitch(common);
  const char* from =
      reinterpret_cast<const char*>(plane.at(row, first_column + column) + kChannels * piece);
  const int64_t column_step = int64_t(8) * plane.tensor.step[1];
  to += shared_offset<V>(column, piece);
  // The other pieces of a token are at these distances.
  const int far = kQuads == 1 ? 0 : shared_offset<V>(column, 4) - shared_offset<V>(column, 0);
  constexpr int kGroupStep = V::kIsFlat ? V::kWarps : 1;
  NATTEN_OPS_UNROLL
  for (int group = V::kIsFlat ? thread_index() / 32 : 0; 8 * group < pitch; group += kGroupStep) {
    if (V::kHasWholePitch || column + 8 * group < pitch) {
      const bool exists = column + 8 * group < columns;
      NATTEN_OPS_UNROLL
      for (int quad = 0; quad < kQuads; ++quad) {
        Element* const at = to + 8 * group * kDim + quad % 2 * far + quad / 2 * (8 * kChannels);
        copy_async<16>(at, from + group * column_step + 64 * quad,
                       exists && (piece + 4 * quad) * kChannels / 8 < common.chunks);
      }
    }
  }
}

template <typename T>
NATTEN_OPS_DEVICE T* ahead(T* pointer, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(pointer) + bytes);
}

// ---- Fragments ----

// The partners of a patch in a region. In products, thread 4 g + c has 8 channels of a token, from
// 8 c on (and from 32 + 8 c on, ...), on both sides. It loads them at once, because the order of
// channels does not matter there. Partners come in eights, that of an offset of 0 first. kTensor: 0
// for the region's first tensor, 1 for the second.
template <typename V>
struct Partners {
  using Element = typename V::Element;
  static constexpr int kDim = V::kDim;
  static constexpr int kTransposed = kDim == 32 ? 2 : 4;

  const Element* tokens;                   // partner g's channels from 8 c on
  const Element* transposed[kTransposed];  // for load_matrices_transposed, 16 channels each
  int far;                                 // from channel 8 c to channel 32 + 8 c
  int other;                               // from the first tensor to the second

  // `row` and `column` are those of the first partner in the region. The second eight of
  // `accumulate` comes `next` elements after the first.
  NATTEN_OPS_DEVICE Partners(const Common& common, const Element* region, int row, int column,
                             int next)
      : other(row_elements<V>(common)) {
    const int lane = thread_index() % 32;
    const int at = column + lane / 4;
    tokens = region + row * next + shared_offset<V>(at, lane % 4);
    far = kDim == 32 ? 0 : shared_offset<V>(at, 4) - shared_offset<V>(at, 0);
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kTransposed; ++i) {
      transposed[i] = region + (row + lane / 8 % 2) * next +
                      shared_offset<V>(column + lane % 8, 2 * i + lane / 16);
    }
  }

  // sums += the products of a patch's tokens with the eight at an offset.
  template <int kTensor>
  NATTEN_OPS_DEVICE void multiply(const uint32_t (&patch)[kDim / 16][4], int offset,
                                  float (&sums)[4]) const {
    NATTEN_OPS_UNROLL
    for (int quad = 0; quad < kDim / 32; ++quad) {
      const Words words = *reinterpret_cast<const Words*>(tokens + kTensor * other + offset +
                                                          quad % 2 * far + quad / 2 * 64);
      multiply_add<Element>(sums, patch[2 * quad], words.words[0], words.words[1]);
      multiply_add<Element>(sums, patch[2 * quad + 1], words.words[2], words.words[3]);
    }
  }

  // sums += weights of the partners of the eight at an offset and of the next, times their
  // channels.
  template <int kTensor>
  NATTEN_OPS_DEVICE void accumulate(const uint32_t (&weights)[4], int offset,
                                    float (&sums)[kDim / 8][4]) const {
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kDim / 16; ++i) {
      uint32_t words[4];
      load_matrices_transposed(
          words, transposed[i % kTransposed] + kTensor * other + offset + i / kTransposed * 64);
      multiply_add<Element>(sums[2 * i], weights, words[0], words[1]);
      multiply_add<Element>(sums[2 * i + 1], weights, words[2], words[3]);
    }
  }
};

// Of two results over 8 partners each, the left side of a product over 16 partners.
template <typename Element>
NATTEN_OPS_DEVICE void as_weights(const float (&first)[4], const float (&second)[4],
                                  uint32_t (&weights)[4]) {
  weights[0] = pack<Element>(first[0], first[1]);
  weights[1] = pack<Element>(first[2], first[3]);
  weights[2] = pack<Element>(second[0], second[1]);
  weights[3] = pack<Element>(second[2], second[3]);
}

// The channels of a thread's tokens, 8 each from 32 i + 8 (lane % 4) on, as they are in memory; of
// channels that do not exist, those of another place.
template <typename V>
struct Channels {
  Eight<typename V::Element> tokens[2][V::kDim / 32];
};

// The thread's first token, from channel 8 (lane % 4) on.
template <typename V, typename Element>
struct Cursor {
  Element* at;

  NATTEN_OPS_DEVICE Cursor(const Common& common, const Plane<V, Element>& plane, const Own<V>& own)
      : at(plane.at(own.row, own.columns[0]) +
           (thread_index() % 4 < common.chunks ? thread_index() % 4 * 8 : 0)) {}

  NATTEN_OPS_DEVICE Element* second(const Tensor& tensor, const Own<V>& own) const {
    return ahead(at, (own.columns[1] - own.columns[0]) * int64_t(tensor.step[1]));
  }
  NATTEN_OPS_DEVICE Channels<V> read(const Common& common, const Tensor& tensor,
                                     const Own<V>& own) const {
    using Source = const Eight<typename V::Element>;
    Element* const next = second(tensor, own);
    Channels<V> channels;
    NATTEN_OPS_UNROLL
    for (int quad = 0; quad < V::kDim / 32; ++quad) {
      const bool exists = quad == 0 || thread_index() % 4 + 4 * quad < common.chunks;
      const int from = exists ? 32 * quad : 0;
      channels.tokens[0][quad] = *reinterpret_cast<Source*>(at + from);
      channels.tokens[1][quad] = *reinterpret_cast<Source*>(next + from);
    }
    return channels;
  }
};

// The tokens as the left side of products, with the bits in `flips` inverted; zeros for channels
// that do not exist. The order of channels is that of Partners.
template <typename V>
NATTEN_OPS_DEVICE void as_patch(const Common& common, const Channels<V>& channels, uint32_t flips,
                                uint32_t (&fragments)[V::kDim / 16][4]) {
  NATTEN_OPS_UNROLL
  for (int quad = 0; quad < V::kDim / 32; ++quad) {
    const uint32_t kept = thread_index() % 4 + 4 * quad < common.chunks ? 0xffffffff : 0;
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      NATTEN_OPS_UNROLL
      for (int i = 0; i < 4; ++i) {
        fragments[2 * quad + i / 2][i % 2 * 2 + e] =
            (channels.tokens[e][quad].words[i] ^ flips) & kept;
      }
    }
  }
}

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

// The thread's token e, from where the cursor is in the first. Between two tokens that exist; the
// second one's address is not used if it does not.
template <typename V, typename Element>
NATTEN_OPS_DEVICE Element* token_at(const Cursor<V, Element>& cursor, const Tensor& tensor, int e) {
  return ahead(cursor.at, e * (V::kIsFlat ? 8 : 1) * int64_t(tensor.step[1]));
}

// Multiplies each token's sums by its factor, rounds and stores them. Returns whether all are
// finite.
template <typename V>
NATTEN_OPS_DEVICE bool store_tokens(const Common& common, const Tensor& tensor,
                                    const Cursor<V, typename V::Element>& cursor, const Own<V>& own,
                                    const float (&sums)[V::kDim / 8][4],
                                    const float (&factors)[2]) {
  using Element = typename V::Element;
  uint32_t zeros = 0;
  NATTEN_OPS_UNROLL
  for (int e = 0; e < 2; ++e) {
    Element* const token = token_at(cursor, tensor, e);
    NATTEN_OPS_UNROLL
    for (int quad = 0; quad < V::kDim / 32; ++quad) {
      uint32_t words[4];
      NATTEN_OPS_UNROLL
      for (int i = 0; i < 4; ++i) {
        const float (&two)[4] = sums[4 * quad + i];
        words[i] = pack<Element>(two[2 * e] * factors[e], two[2 * e + 1] * factors[e]);
        zeros = add_zero_times<Element>(words[i], zeros);
      }
      const Words whole = transpose_words(words);
      if (own.exists[e] && thread_index() % 4 + 4 * quad < common.chunks) {
        *reinterpret_cast<Words*>(token + 32 * quad) = whole;
      }
    }
  }
  return (zeros & 0x7fff7fff) == 0;
}

}  // namespace natten_ops::cuda
