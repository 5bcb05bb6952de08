// How the kernels on tensor cores repeat a patch with care. A product with a masked weight is a
// product with zero, but zero times infinity or NaN is NaN. So if a sum is not finite, the warp
// computes the patch again, token by token, with nothing but the token's partners. A thread has
// every 32nd channel, and the warp adds up the products.
#pragma once

#include "patches.cuh"

namespace natten_ops::cuda {

// A thread's channels of a token.
template <typename V>
struct OwnChannels {
  static constexpr int kCount = V::kDim / 32;
  float numbers[kCount];

  // Of a tensor's token.
  static NATTEN_OPS_DEVICE OwnChannels of(const Common& common,
                                          const Plane<V, const typename V::Element>& plane, int row,
                                          int column) {
    OwnChannels own;
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int channel = thread_index() % 32 + 32 * i;
      own.numbers[i] = channel < 8 * common.chunks ? widen(plane.at(row, column)[channel]) : 0.0f;
    }
    return own;
  }

  NATTEN_OPS_DEVICE void add(float weight, const OwnChannels& other) {
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kCount; ++i) numbers[i] += weight * other.numbers[i];
  }
  // The product with another token.
  NATTEN_OPS_DEVICE float times(const OwnChannels& other) const {
    float sum = 0;
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kCount; ++i) sum += numbers[i] * other.numbers[i];
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    return sum;
  }
  NATTEN_OPS_DEVICE void store(const Common& common, const Plane<V, typename V::Element>& plane,
                               int row, int column, float factor) const {
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kCount; ++i) {
      const int channel = thread_index() % 32 + 32 * i;
      if (channel < 8 * common.chunks) {
        narrow(numbers[i] * factor, plane.at(row, column)[channel]);
      }
    }
  }
};

// The logit, in units of log(2), of a product and a key so many rows and columns after the query.
template <typename V>
NATTEN_OPS_DEVICE float logit_of(const Common& common, int head, float product, int down,
                                 int across) {
  const int rows = V::window(common, 0), columns = V::window(common, 1);
  float bias = 0;
  if (common.bias.data) {
    const int64_t entry = int64_t(head) * (2 * rows - 1) * (2 * columns - 1) +
                          (down + rows - 1) * common.bias_step[0] +
                          (across + columns - 1) * common.bias_step[1];
    bias = read_bias<typename V::Element>(common.bias, entry);
  }
  return (product * static_cast<float>(common.problem.scale) + bias) * kLog2e;
}

// A token to compute with care, and its partners.
struct CarefulToken {
  int head;
  int row, column;
  Span down, across;
};

// Calls visit(token) for the tokens of the bands of a tile whose bits are set in `again`.
template <typename V, bool kOfQueries, typename Visit>
NATTEN_OPS_DEVICE void visit_carefully(const Common& common, const Tile& tile, uint32_t again,
                                       Visit visit) {
  CarefulToken token;
  token.head = tile.head;
  const int column = tile.begin[1] + thread_index() / 32 * kPatchColumns<V>;
  for (int row = tile.begin[0]; again; row += kPatchRows<V>, again >>= 1) {
    if ((again & 1) == 0) continue;
    for (int i = 0; i < 16; ++i) {
      token.row = row + (V::kIsFlat ? 0 : i / 2);
      token.column = column + (V::kIsFlat ? i : i % 2);
      const ClassRows rows = ClassRows::at<V>(tile, row);
      const int end = V::kIsStacked ? rows.first + rows.count : tile.end[0];
      if (token.row >= end || token.column >= tile.end[1]) continue;
      token.down = row_partners<V, kOfQueries>(common, tile, token.row);
      token.across = partners<kOfQueries>(V::window(common, 1), token.column, tile.count[1]);
      visit(token);
    }
  }
}

// Calls visit(row, column, row and column after the token) for every partner.
template <typename Visit>
NATTEN_OPS_DEVICE void visit_partners(const CarefulToken& token, Visit visit) {
  for (int i = token.down.first; i <= token.down.last; ++i) {
    for (int j = token.across.first; j <= token.across.last; ++j) {
      visit(i, j, i - token.row, j - token.column);
    }
  }
}

}  // namespace natten_ops::cuda
