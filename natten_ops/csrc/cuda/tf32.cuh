// Products of float32 on tensor cores, which multiply TF32: 11 significant bits, where float
// has 24. A number is the sum of two, "high" and "low", and a product the sum of three: low * high,
// high * low and high * high. What is left out is about 2^-20 of the product, where one product of
// TF32 alone leaves out 2^-10.
//
// This has the names and contracts of HalfProducts (matrix.cuh), with other fragments:
// - A product goes over 8 channels or partners. Thread 4 g + c has numbers c and c + 4 of them on
//   both sides, and of the result columns 2 c and 2 c + 1. So partners 2 c and 2 c + 1 are numbers
//   c and c + 4 of a product over partners: results are the left side of the next product as they
//   are.
// - A thread has channels 8 c to 8 c + 7 of a token on both sides, two a product.
// - Products over partners give channels 4 n + i, for i from 0 to 3, where n is the column of the
//   result. A thread loads channels 4 g to 4 g + 3 of a partner at once, for four products, and its
//   results are channels 8 c to 8 c + 7.
#pragma once

#include "patches.cuh"

namespace natten_ops::cuda {

// Of infinity, the low part is NaN, and so are all products: a warp then repeats the patch
// (careful.cuh).
struct Split {
  uint32_t high, low;

  // Rounds down on both sides of products, so that a logit is the same by queries and by keys.
  NATTEN_OPS_DEVICE explicit Split(uint32_t bits, uint32_t mask = kHighBits)
      : high(bits & mask), low(bits_of(float_of(bits) - float_of(high))) {}

  static constexpr uint32_t kHighBits = 0xffffe000;
};

// Fragments of the left side of products, one product in a row.
template <int kProducts>
struct SplitFragments {
  uint32_t high[kProducts][4], low[kProducts][4];

  NATTEN_OPS_DEVICE void set(int product, int i, uint32_t bits) {
    const Split split(bits);
    high[product][i] = split.high;
    low[product][i] = split.low;
  }
  NATTEN_OPS_DEVICE void multiply(int product, const Split& first, const Split& second,
                                  float (&sum)[4]) const {
    multiply_add_tf32(sum, low[product], first.high, second.high);
    multiply_add_tf32(sum, high[product], first.low, second.low);
    multiply_add_tf32(sum, high[product], first.high, second.high);
  }
};

template <typename V>
struct Tf32Products {
  static_assert(V::kDim == 32);
  using Patch = SplitFragments<4>;
  using Weights = SplitFragments<2>;  // of two eights

  struct Partners {
    const float* tokens;  // partner g's channels from 8 c on
    const float* even;    // partner 2 c's channels from 4 g on
    const float* odd;     // partner 2 c + 1's
    int half;             // from channel 8 c to channel 8 c + 4
    int next;             // from the first eight of `accumulate` to the second
    int other;            // from the first tensor to the second
    // Split::kHighBits. If the compiler knew them, it would multiply with the number itself, for
    // which it would have to move one of two that come from different places.
    uint32_t mask;

    NATTEN_OPS_DEVICE Partners(const Common& common, const float* region, int row, int column,
                               int next)
        : next(next), other(row_elements<V>(common)), mask(Split::kHighBits | common.nothing) {
      const int g = thread_index() % 32 / 4, c = thread_index() % 4;
      region += row * next;
      tokens = region + shared_offset<V>(column + g, 2 * c);
      half = shared_offset<V>(column + g, 2 * c + 1) - shared_offset<V>(column + g, 2 * c);
      even = region + shared_offset<V>(column + 2 * c, g);
      odd = region + shared_offset<V>(column + 2 * c + 1, g);
    }

    template <int kTensor>
    NATTEN_OPS_DEVICE void multiply(const Patch& patch, int offset, float (&sums)[4]) const {
      const float* const from = tokens + kTensor * other + offset;
      NATTEN_OPS_UNROLL
      for (int i = 0; i < 2; ++i) {
        const Words words = *reinterpret_cast<const Words*>(from + i * half);
        patch.multiply(2 * i, Split(words.words[0]), Split(words.words[1]), sums);
        patch.multiply(2 * i + 1, Split(words.words[2]), Split(words.words[3]), sums);
      }
    }

    template <int kTensor>
    NATTEN_OPS_DEVICE void accumulate(const Weights& weights, int offset,
                                      float (&sums)[4][4]) const {
      NATTEN_OPS_UNROLL
      for (int eight = 0; eight < 2; ++eight) {
        const int at = kTensor * other + offset + eight * next;
        const Words first = *reinterpret_cast<const Words*>(even + at);
        const Words second = *reinterpret_cast<const Words*>(odd + at);
        NATTEN_OPS_UNROLL
        for (int i = 0; i < 4; ++i) {
          weights.multiply(eight, Split(first.words[i], mask), Split(second.words[i], mask),
                           sums[i]);
        }
      }
    }
  };

  static NATTEN_OPS_DEVICE void as_patch(const Common& common, const Channels<V>& channels,
                                         uint32_t flips, Patch& patch) {
    const uint32_t flip = flips & 0x80000000;
    const uint32_t kept = thread_index() % 4 < common.chunks ? 0xffffffff : 0;
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      NATTEN_OPS_UNROLL
      for (int i = 0; i < 8; ++i) {
        patch.set(i / 2, i % 2 * 2 + e, (channels.tokens[e][0].words[i] ^ flip) & kept);
      }
    }
  }

  static NATTEN_OPS_DEVICE void as_weights(const float (&first)[4], const float (&second)[4],
                                           Weights& weights) {
    NATTEN_OPS_UNROLL
    for (int j = 0; j < 4; ++j) {
      weights.set(0, j % 2 * 2 + j / 2, bits_of(first[j]));
      weights.set(1, j % 2 * 2 + j / 2, bits_of(second[j]));
    }
  }

  // Of the thread's own partners; add_threads then adds those of all.
  static NATTEN_OPS_DEVICE void add_weights(const float (&first)[4], const float (&second)[4],
                                            const Weights&, float (&sums)[4]) {
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      sums[2 * e] += (first[2 * e] + first[2 * e + 1]) + (second[2 * e] + second[2 * e + 1]);
    }
  }
  static NATTEN_OPS_DEVICE void add_threads(float (&sums)[4]) {
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) sums[2 * e] = sum_of_four(sums[2 * e]);
  }

  static NATTEN_OPS_DEVICE float times_own(const Patch& patch, const Channels<V>& channels, int e) {
    float product = 0;
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int at = i % 2 * 2 + e;
      product += (float_of(patch.high[i / 2][at]) + float_of(patch.low[i / 2][at])) *
                 float_of(channels.tokens[e][0].words[i]);
    }
    return sum_of_four(product);
  }

  static NATTEN_OPS_DEVICE bool store_tokens(const Common& common, const Tensor& tensor,
                                             const Cursor<V, float>& cursor, const Own<V>& own,
                                             const float (&sums)[4][4], const float (&factors)[2]) {
    float zeros = 0;
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      Eight<float> eight;
      NATTEN_OPS_UNROLL
      for (int i = 0; i < 8; ++i) {
        const float number = sums[i % 4][2 * e + i / 4] * factors[e];
        zeros += number * 0;
        eight.words[i] = bits_of(number);
      }
      if (own.exists[e] && thread_index() % 4 < common.chunks) {
        *reinterpret_cast<Eight<float>*>(token_at(cursor, tensor, e)) = eight;
      }
    }
    return zeros == 0;
  }

 private:
  // The sum over the four threads of a token.
  static NATTEN_OPS_DEVICE float sum_of_four(float number) {
    number += shuffle_xor(number, 1);
    return number + shuffle_xor(number, 2);
  }
};

}  // namespace natten_ops::cuda
