// The forward pass in bfloat16 on processors with AMX: products of matrices, 16 queries with 32
// keys at a time, of which the windows are a band.
//
// Columns are in the order of their sub-sequences, so neighbors are neighbors whatever the
// dilation. For groups of up to kRows rows of queries, as in forward.inl:
//   - rows of keys that are new come into a ring, in blocks of kBlock keys, with two channels in a
//     word; those of values into another, with two tokens in a word; so AMX reads its right matrix;
//   - for every head and tile of up to kBlock queries, whose windows lie in two blocks of keys: the
//     products with these keys, (kernel_size[0], kBlock, 2 kBlock); a softmax of every query, on
//     its part of them; its weights, rounded to bfloat16, among zeros, of the same shape as the
//     products; and their product with the values.
// Zero times infinity is not a number: rows of values that are not finite are summed one by one.
#include "calls.h"
#ifdef NATTEN_OPS_AMX
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "../window.h"
#include "phases.h"

#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((                                                                                \
        target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,amx-tile,amx-bf16")
#endif

#define NATTEN_OPS_X86
#define NATTEN_OPS_AVX512
namespace natten_ops::cpu {
namespace {

constexpr int64_t kVectorBytes = 64;
constexpr int64_t kNarrowBytes = 32;
constexpr int kRows = 4;
constexpr int kBlock = 16;                        // rows of a matrix, and words of a row
constexpr int64_t kMatrix = kBlock * 2 * kBlock;  // products of a tile with a row of keys

// clang-format off: each file needs those before it
#include "lanes.inl"
#include "tokens.inl"
#include "transpose.inl"
#include "requests.inl"
#include "groups.inl"
// clang-format on

constexpr int64_t kWork = 64;  // of a product of matrices, as Requests counts it

using Floats = Lanes<float, kBlock>;

// Queries of a sub-sequence whose windows lie in two blocks of keys.
struct QueryTile {
  int64_t residue, position;  // of the first query
  int64_t count;
  int64_t place;  // of the first query in its row
  int64_t block;  // the first block of keys
  int64_t keys;   // from that block's first key to the last of the last window
};

struct MatrixBuffers {
  int64_t channels;      // of a token: head_dim and zeros, so that they fill matrices
  int64_t blocks;        // of a row of keys, and one that matrices may read beyond them
  int64_t query_tokens;  // of a row, and those that matrices may read beyond them
  int64_t ring_rows;
  uint32_t* keys;     // (ring_rows, heads, blocks, channels / 2, kBlock)
  uint32_t* values;   // (ring_rows, heads, blocks, kBlock / 2, channels)
  bool* finite;       // (ring_rows): whether all values are
  BFloat16* queries;  // (kRows, heads, query_tokens, channels)
  BFloat16* tokens;   // of a row of keys, (blocks, kBlock, channels)
  float* products;    // (2, parts, kBlock, 2 kBlock): of queries with keys
  float* logits;      // (kRows, kBlock, vectors, kBlock)
  BFloat16* weights;  // of two rows of queries, (2, vectors, parts, kBlock, 2 kBlock)
  float* outputs;     // (kBlock, channels)
  float* bias;        // of a head and group, (kRows, kernel_size[1], vectors, kBlock)
  QueryTile* tiles;
  int32_t* starts;  // of a tile's queries: the first key's place in the tile's blocks
  int32_t* biases;  // and the place of the bias of its window

  uint32_t* keys_of(int64_t row, int64_t heads, int64_t head) const {
    return keys + (row % ring_rows * heads + head) * blocks * kBlock * channels / 2;
  }
  uint32_t* values_of(int64_t row, int64_t heads, int64_t head) const {
    return values + (row % ring_rows * heads + head) * blocks * kBlock * channels / 2;
  }
  BFloat16* queries_of(int64_t row, int64_t heads, int64_t head) const {
    return queries + (row * heads + head) * query_tokens * channels;
  }
};

// The tokens of one residue among the columns [begin, end): positions `first` and the following.
struct Sequence {
  int64_t first, count;
};

inline Sequence sequence_of(int64_t begin, int64_t end, int64_t dilation, int64_t residue) {
  const int64_t first = (begin - residue + dilation - 1) / dilation;
  const int64_t last = (end - residue + dilation - 1) / dilation;
  return {first, last - first};
}

inline int64_t blocks_of(int64_t keys) { return (keys + kBlock - 1) / kBlock; }

// Windows of up to 8 keys: two of their rows fill a vector.
inline int64_t parts_of(const Problem& problem) { return problem.kernel_size[1] <= 8 ? 2 : 1; }
inline int64_t vectors_of(const Problem& problem) {
  const int64_t parts = parts_of(problem);
  return (problem.kernel_size[0] + parts - 1) / parts;
}

MatrixBuffers make_buffers(const ForwardCall& call, const Columns& columns,
                           ScratchAllocator& allocator) {
  const Problem& problem = call.problem;
  const auto [k0, k1] = problem.kernel_size;
  const int64_t heads = call.plan.bundle_heads;
  const int64_t queries = columns.query_end - columns.query_begin;
  MatrixBuffers buffers;
  buffers.channels = blocks_of(problem.head_dim + kBlock) / 2 * 2 * kBlock;
  buffers.blocks = 1;
  for (int64_t residue = 0; residue < problem.dilation[1]; ++residue) {
    buffers.blocks += blocks_of(
        sequence_of(columns.key_begin, columns.key_end, problem.dilation[1], residue).count);
  }
  buffers.query_tokens = queries + kBlock;
  buffers.ring_rows = k0 + kRows - 1;
  const int64_t row = buffers.blocks * kBlock * buffers.channels;
  buffers.keys = allocator.allocate<uint32_t>(buffers.ring_rows * heads * row / 2);
  buffers.values = allocator.allocate<uint32_t>(buffers.ring_rows * heads * row / 2);
  buffers.finite = allocator.allocate<bool>(buffers.ring_rows);
  buffers.queries =
      allocator.allocate<BFloat16>(kRows * heads * buffers.query_tokens * buffers.channels);
  buffers.tokens = allocator.allocate<BFloat16>(row);
  buffers.products = allocator.allocate<float>(2 * parts_of(problem) * kMatrix);
  buffers.logits = allocator.allocate<float>(kRows * kBlock * vectors_of(problem) * kBlock);
  buffers.weights =
      allocator.allocate<BFloat16>(2 * vectors_of(problem) * parts_of(problem) * kMatrix);
  buffers.outputs = allocator.allocate<float>(kBlock * buffers.channels);
  buffers.bias = allocator.allocate<float>(kRows * k1 * vectors_of(problem) * kBlock);
  buffers.tiles = allocator.allocate<QueryTile>(queries);
  buffers.starts = allocator.allocate<int32_t>(queries);
  buffers.biases = allocator.allocate<int32_t>(queries);
  return buffers;
}

// Divides a row of queries into tiles; returns their number.
int64_t make_tiles(const Problem& problem, const Columns& columns, const MatrixBuffers& buffers) {
  const int64_t dilation = problem.dilation[1], kernel_size = problem.kernel_size[1];
  int64_t count = 0, place = 0, block = 0;
  for (int64_t residue = 0; residue < dilation; ++residue) {
    const Sequence queries = sequence_of(columns.query_begin, columns.query_end, dilation, residue);
    const Sequence keys = sequence_of(columns.key_begin, columns.key_end, dilation, residue);
    QueryTile* tile = nullptr;
    for (int64_t i = 0; i < queries.count; ++i, ++place) {
      const AxisToken token =
          axis_token((queries.first + i) * dilation + residue, problem.length[1], dilation);
      const int64_t window = window_start(token, kernel_size);
      const int64_t start = window - keys.first;
      const auto keys_from = [&](int64_t first) { return start + kernel_size - first * kBlock; };
      if (!tile || tile->count == kBlock || keys_from(tile->block - block) > 2 * kBlock) {
        tile = buffers.tiles + count++;
        *tile = {residue, token.position, 0, place, block + start / kBlock, 0};
      }
      ++tile->count;
      tile->keys = keys_from(tile->block - block);
      buffers.starts[place] = static_cast<int32_t>(tile->keys - kernel_size);
      buffers.biases[place] = static_cast<int32_t>((window - token.position + kernel_size - 1) *
                                                   vectors_of(problem) * kBlock);
    }
    block += blocks_of(keys.count);
  }
  return count;
}

// Tokens of one head and row, one sub-sequence after another.
struct Tokens {
  const BFloat16* data;  // of a sub-sequence
  int64_t stride;        // from token to token
  int64_t count;
};

// Copies tokens, whose channels beyond head_dim stay zero.
NATTEN_OPS_INLINE void copy_tokens(const Tokens& tokens, int64_t channel_stride, int64_t head_dim,
                                   BFloat16* to, int64_t channels) {
  using V = Lanes<uint16_t, 2 * kBlock>;
  const BFloat16* from = tokens.data;
  for (int64_t i = 0; i < tokens.count; ++i, from += tokens.stride, to += channels) {
    int64_t channel = 0;
    for (; channel_stride == 1 && channel + 2 * kBlock <= head_dim; channel += 2 * kBlock) {
      store(to + channel, load<V>(from + channel));
    }
    for (; channel < head_dim; ++channel) to[channel] = from[channel * channel_stride];
  }
}

// Calls f with the tokens of each sub-sequence of the columns [begin, end), of one head of the
// run's row at `position`.
template <typename F>
NATTEN_OPS_INLINE void for_sequences(const TensorView& tensor, const Problem& problem,
                                     const Run& run, int64_t position, int64_t head, int64_t begin,
                                     int64_t end, F f) {
  const int64_t dilation = problem.dilation[1];
  const int64_t index = position * problem.dilation[0] + run.residue;
  for (int64_t residue = 0; residue < dilation; ++residue) {
    const Sequence sequence = sequence_of(begin, end, dilation, residue);
    const int64_t column = sequence.first * dilation + residue;
    f(Tokens{tensor.at<const BFloat16>(run.batch, index, column, run.first_head + head),
             dilation * tensor.axis_stride[1], sequence.count});
  }
}

// A block of keys, of which there are `count`, with neighboring channels in a word.
void pair_channels(const BFloat16* from, int64_t stride, int64_t count, int64_t channels,
                   uint32_t* to) {
  for (int64_t channel = 0; channel < channels; channel += 8) {
    Words<kBlock> words[4] = {};
    load_words<kBlock>(from + channel, stride, count, words);
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 4; ++i) store(to + (channel / 2 + i) * kBlock, words[i]);
  }
}

// A block of values, of which there are `count`, with neighboring tokens in a word. `largest` is
// that of the numbers' bits, without signs.
void pair_tokens(const BFloat16* from, int64_t stride, int64_t count, int64_t channels,
                 uint32_t* to, Lanes<uint16_t, 2 * kBlock>& largest) {
  using Half = Lanes<uint16_t, kBlock>;
  using Halves = Lanes<uint16_t, 2 * kBlock>;
  const auto words = [](const BFloat16* token) {
    return __builtin_convertvector(load<Half>(token), Words<kBlock>);
  };
  for (int64_t token = 0; token < kBlock; token += 2, from += 2 * stride, to += channels) {
    for (int64_t channel = 0; channel < channels; channel += kBlock) {
      Words<kBlock> both{};
      if (token < count) both = words(from + channel);
      if (token + 1 < count) both |= words(from + stride + channel) << 16;
      largest = maximum((Halves)both & uint16_t{0x7fff}, largest);
      store(to + channel, both);
    }
  }
}

// Bias of the logits as the softmax reads them, for every place of a window's first column; -inf
// where there is no key. `bias` is a head's, or null.
void load_bias(const Problem& problem, const RowGroup& group, const float* bias,
               const MatrixBuffers& buffers) {
  const auto [k0, k1] = problem.kernel_size;
  const int64_t parts = parts_of(problem), lanes = kBlock / parts;
  const auto is_key = static_cast<__mmask16>((1 << k1) - 1);
  float* to = buffers.bias;
  for (int64_t row = 0; row < group.rows; ++row) {
    const int64_t offset = group.start[row] - (group.position + row);
    for (int64_t low = 1 - k1; low <= 0; ++low) {
      for (int64_t key = 0; key < vectors_of(problem) * parts; ++key, to += lanes) {
        __m512 numbers = _mm512_set1_ps(-INFINITY);
        if (key < k0 && !bias) {
          numbers = _mm512_mask_mov_ps(numbers, is_key, _mm512_setzero_ps());
        } else if (key < k0) {
          numbers = _mm512_mask_loadu_ps(numbers, is_key,
                                         bias + bias_offset(problem, 0, offset + key, low));
        }
        _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1 << lanes) - 1), numbers);
      }
    }
  }
}

// Shape of all eight matrices: 16 rows of 64 bytes.
struct alignas(64) MatrixShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr MatrixShapes kMatrixShapes;

// GCC does not know that matrices are loaded from memory: what was stored before has to be there.
NATTEN_OPS_INLINE void finish_stores() { __asm__ volatile("" ::: "memory"); }

// The logits of a tile and a row of queries, in units of log(2): (kBlock, vectors, kBlock). `bias`
// is that of the row of queries.
template <int kParts>
void compute_logits(const Problem& problem, const MatrixBuffers& buffers, const QueryTile& tile,
                    const BFloat16* queries, const float* bias, int64_t start, int64_t heads,
                    int64_t head, float* logits) {
  const int64_t channels = buffers.channels;
  const int64_t vectors = vectors_of(problem);
  const int64_t block_words = kBlock * channels / 2;
  const auto factor = static_cast<float>(problem.scale * 1.4426950408889634);
  const auto is_key = static_cast<__mmask16>((1 << problem.kernel_size[1]) - 1);
  queries += tile.place * channels;
  finish_stores();
  // Two buffers in turns, so that nothing waits for products.
  const auto multiply = [&](int64_t i, int64_t part) {
    if (i * kParts + part >= problem.kernel_size[0]) return;
    float* products = buffers.products + (i % 2 * kParts + part) * kMatrix;
    const uint32_t* keys =
        buffers.keys_of(start + i * kParts + part, heads, head) + tile.block * block_words;
    _tile_zero(3);
    _tile_zero(4);
    for (int64_t channel = 0; channel < channels; channel += 2 * kBlock) {
      _tile_loadd(0, queries + channel, channels * sizeof(BFloat16));
      _tile_loadd(1, keys, kBlock * sizeof(uint32_t));
      _tile_dpbf16ps(3, 0, 1);
      _tile_loadd(2, keys + block_words, kBlock * sizeof(uint32_t));
      _tile_dpbf16ps(4, 0, 2);
      keys += kBlock * kBlock;
    }
    _tile_stored(3, products, 2 * kBlock * sizeof(float));
    _tile_stored(4, products + kBlock, 2 * kBlock * sizeof(float));
  };
  for (int64_t part = 0; part < kParts; ++part) multiply(0, part);
  for (int64_t i = 0; i < vectors; ++i, logits += kBlock, bias += kBlock) {
    const float* products = buffers.products + i % 2 * kParts * kMatrix;
    for (int64_t part = 0; part < kParts; ++part) {
      multiply(i + 1, part);
      constexpr int64_t kQueries = kBlock / kParts;
      const int64_t end = (part + 1) * kQueries < tile.count ? (part + 1) * kQueries : tile.count;
      for (int64_t query = part * kQueries; query < end; ++query) {
        const float* from = products + query * 2 * kBlock + buffers.starts[tile.place + query];
        Floats own;
        if constexpr (kParts == 2) {
          const auto few = static_cast<__mmask8>(is_key);
          const __m256 first = _mm256_maskz_loadu_ps(few, from);
          const __m256 second = _mm256_maskz_loadu_ps(few, from + kMatrix);
          own = (Floats)_mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1);
        } else {
          own = (Floats)_mm512_maskz_loadu_ps(is_key, from);
        }
        store(logits + query * vectors * kBlock,
              own * factor + load<Floats>(bias + buffers.biases[tile.place + query]));
      }
    }
  }
}

// outputs[query][channel] of a tile and a row of queries: the sums of values times weights, step by
// step, so that they can be computed beside others.
class ValueSums {
 public:
  ValueSums() = default;
  ValueSums(const Problem& problem, const MatrixBuffers& buffers, const QueryTile& tile,
            const BFloat16* weights, int64_t start, int64_t heads, int64_t head)
      : weights_(weights),
        values_(buffers.values_of(0, heads, head) + tile.block * kBlock / 2 * buffers.channels),
        row_(heads * buffers.blocks * kBlock / 2 * buffers.channels),
        outputs_(buffers.outputs),
        channels_(buffers.channels),
        first_(start % buffers.ring_rows),
        ring_rows_(buffers.ring_rows),
        rows_(problem.kernel_size[0]) {}

  // Computes `part` of `parts` parts.
  NATTEN_OPS_INLINE void compute(int64_t part, int64_t parts) {
    const int64_t steps = rows_ * channels_ / (2 * kBlock);
    for (const int64_t end = steps * (part + 1) / parts; done_ < end; ++done_) step();
  }

 private:
  void step() {
    const int64_t i = done_ % rows_;
    const int64_t channel = done_ / rows_ * 2 * kBlock;
    if (i == 0) {
      _tile_zero(3);
      _tile_zero(4);
    }
    const int64_t row = first_ + i < ring_rows_ ? first_ + i : first_ + i - ring_rows_;
    const uint32_t* values = values_ + row * row_ + channel;
    _tile_loadd(0, weights_ + i * kMatrix, 2 * kBlock * sizeof(BFloat16));
    _tile_loadd(1, values, channels_ * sizeof(uint32_t));
    _tile_dpbf16ps(3, 0, 1);
    _tile_loadd(2, values + kBlock, channels_ * sizeof(uint32_t));
    _tile_dpbf16ps(4, 0, 2);
    if (i + 1 == rows_) {
      _tile_stored(3, outputs_ + channel, channels_ * sizeof(float));
      _tile_stored(4, outputs_ + channel + kBlock, channels_ * sizeof(float));
    }
  }

  const BFloat16* weights_ = nullptr;
  const uint32_t* values_ = nullptr;
  int64_t row_ = 0;  // from one row of values to the next
  float* outputs_ = nullptr;
  int64_t channels_ = 0, first_ = 0, ring_rows_ = 0, rows_ = 0;
  int64_t done_ = 0;
};

// f of all lanes, in every lane.
template <typename F>
NATTEN_OPS_INLINE Floats reduced(Floats x, F f) {
  x = f(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  x = f(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  x = f(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  return f(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
}

// From logits the weights of a tile's queries, not normalized, and of every query 1 / their sum and
// the log2 of the sum of the logits' exponentials. Meanwhile, other sums are computed. kCount is
// the number of vectors of a window, or 0: any.
template <int kParts, int kCount>
__attribute__((noinline)) void weigh(const Problem& problem, const MatrixBuffers& buffers,
                                     const QueryTile& tile, const float* logits, BFloat16* weights,
                                     Floats& inverse, Floats& logsumexp, Requests& requests,
                                     ValueSums& sums) {
  const auto row_mask = (uint32_t{1} << problem.kernel_size[1]) - 1;
  Lanes<uint16_t, 2 * kBlock> odds;
  for (int i = 0; i < 2 * kBlock; ++i) odds[i] = static_cast<uint16_t>(2 * i + 1);
  const auto odd = (__m512i)odds;
  const int64_t vectors = kCount ? kCount : vectors_of(problem);
  alignas(64) float most[kBlock] = {}, total[kBlock];
  for (float& sum : total) sum = 1;
  // Two queries at a time, so that operations need not wait for each other.
  for (int64_t pair = 0; pair < tile.count; pair += 2) {
    requests.keep_pace(2 * kWork);
    sums.compute(pair / 2, kBlock / 2);
    const int64_t queries[2] = {pair, pair + 1 < tile.count ? pair + 1 : pair};
    const float* from[2];
    BFloat16* to[2];
    Floats largest[2], sum[2];
    __m512i source[2];
    __mmask32 is_key[2];
    NATTEN_OPS_UNROLL
    for (int n = 0; n < 2; ++n) {
      from[n] = logits + queries[n] * vectors * kBlock;
      to[n] = weights + queries[n] * 2 * kBlock;
      largest[n] = Floats{} - INFINITY;
      sum[n] = Floats{};
      // A weight is the upper half of its word; in a row of the matrix it is at its key's place.
      const int32_t start = buffers.starts[tile.place + queries[n]];
      is_key[n] = row_mask << start;
      source[n] = _mm512_sub_epi16(odd, _mm512_set1_epi16(static_cast<int16_t>(2 * start)));
    }
    NATTEN_OPS_UNROLL
    for (int64_t i = 0; i < vectors; ++i) {
      NATTEN_OPS_UNROLL
      for (int n = 0; n < 2; ++n) {
        largest[n] = maximum(load<Floats>(from[n] + i * kBlock), largest[n]);
      }
    }
    NATTEN_OPS_UNROLL
    for (int n = 0; n < 2; ++n) {
      largest[n] = reduced(largest[n], [](Floats a, Floats b) { return maximum(a, b); });
      most[queries[n]] = largest[n][0];
    }
    NATTEN_OPS_UNROLL
    for (int64_t i = 0; i < vectors; ++i) {
      NATTEN_OPS_UNROLL
      for (int n = 0; n < 2; ++n) {
        const Floats own = exp2_of<kBlock>(load<Floats>(from[n] + i * kBlock) - largest[n]);
        sum[n] += own;
        const auto rounded = (__m512i)((Words<kBlock>)own + 0x8000u);
        BFloat16* row = to[n] + i * kParts * kMatrix;
        _mm512_storeu_si512(row, _mm512_maskz_permutexvar_epi16(is_key[n], source[n], rounded));
        if constexpr (kParts == 2) {
          const __m512i second = _mm512_add_epi16(source[n], _mm512_set1_epi16(kBlock));
          _mm512_storeu_si512(row + kMatrix,
                              _mm512_maskz_permutexvar_epi16(is_key[n], second, rounded));
        }
      }
    }
    NATTEN_OPS_UNROLL
    for (int n = 0; n < 2; ++n) {
      total[queries[n]] = reduced(sum[n], [](Floats a, Floats b) { return a + b; })[0];
    }
  }
  const auto all = load<Floats>(total);
  inverse = 1.0f / all;
  logsumexp = load<Floats>(most) + log2_of<kBlock>(all);
}

// weigh with what the problem needs, as constants.
NATTEN_OPS_INLINE void weigh_tile(const Problem& problem, const MatrixBuffers& buffers,
                                  const QueryTile& tile, const float* logits, BFloat16* weights,
                                  Floats& inverse, Floats& logsumexp, Requests& requests,
                                  ValueSums& sums) {
  const auto with = [&](auto parts, auto count) {
    weigh<parts, count>(problem, buffers, tile, logits, weights, inverse, logsumexp, requests,
                        sums);
  };
  using std::integral_constant;
  constexpr integral_constant<int, 1> kOne;
  constexpr integral_constant<int, 2> kTwo;
  if (parts_of(problem) == 1) return with(kOne, integral_constant<int, 0>{});
  switch (vectors_of(problem)) {
    case 2:
      return with(kTwo, integral_constant<int, 2>{});
    case 3:
      return with(kTwo, integral_constant<int, 3>{});
    case 4:
      return with(kTwo, integral_constant<int, 4>{});
    default:
      return with(kTwo, integral_constant<int, 0>{});
  }
}

// What ValueSums computes, without values that have no weight.
void sum_values(const Problem& problem, const MatrixBuffers& buffers, const QueryTile& tile,
                const BFloat16* all_weights, int64_t start, int64_t heads, int64_t head) {
  const int64_t channels = buffers.channels;
  for (int64_t i = 0; i < tile.count * channels; ++i) buffers.outputs[i] = 0;
  for (int64_t query = 0; query < tile.count; ++query) {
    float* to = buffers.outputs + query * channels;
    for (int64_t i = 0; i < problem.kernel_size[0]; ++i) {
      const uint32_t* values = buffers.values_of(start + i, heads, head);
      for (int64_t t = 0; t < problem.kernel_size[1]; ++t) {
        const int64_t place = buffers.starts[tile.place + query] + t;
        const int64_t key = tile.block * kBlock + place;
        const BFloat16* weights = all_weights + i * kMatrix + query * 2 * kBlock;
        const float weight = widen(weights[place]);
        for (int64_t channel = 0; channel < channels; ++channel) {
          const uint32_t both = values[key / 2 * channels + channel];
          to[channel] += weight * bits_to_float(key % 2 ? both & 0xffff0000u : both << 16);
        }
      }
    }
  }
}

// Stores a tile's outputs, times `inverse`, and logsumexp, to the row at `index`.
void store_tile(const ForwardCall& call, const MatrixBuffers& buffers, const Run& run,
                const QueryTile& tile, int64_t index, int64_t head, Floats inverse,
                Floats logsumexp) {
  const Problem& problem = call.problem;
  const int64_t dilation = problem.dilation[1];
  const int64_t column = tile.position * dilation + tile.residue;
  const TensorView& output = call.output;
  auto* to = output.at<BFloat16>(run.batch, index, column, run.first_head + head);
  float* lse = static_cast<float*>(call.logsumexp) +
               row_offset(problem, run.batch, index, column, run.first_head + head);
  logsumexp *= 0.6931471805599453f;
  const float* from = buffers.outputs;
  for (int64_t query = 0; query < tile.count; ++query) {
    lse[query * dilation * problem.heads] = logsumexp[query];
    int64_t channel = 0;
    for (; output.channel_stride == 1 && channel + kBlock <= problem.head_dim; channel += kBlock) {
      store(to + channel,
            _mm512_cvtneps_pbh((__m512)(load<Floats>(from + channel) * inverse[query])));
    }
    for (; channel < problem.head_dim; ++channel) {
      narrow(from[channel] * inverse[query], to[channel * output.channel_stride]);
    }
    from += buffers.channels;
    to += dilation * output.axis_stride[1];
  }
}

// Loads the run's row of keys and values at `position` into the rings.
void load_keys(const ForwardCall& call, const MatrixBuffers& buffers, const Run& run,
               const Columns& columns, int64_t position) {
  const PhaseTimer timer(Phase::kLoad);
  const Problem& problem = call.problem;
  const int64_t heads = call.plan.bundle_heads, channels = buffers.channels;
  Lanes<uint16_t, 2 * kBlock> largest{};
  for (int64_t head = 0; head < run.heads; ++head) {
    for (const TensorView* tensor : {&call.key, &call.value}) {
      const bool is_key = tensor == &call.key;
      uint32_t* to = is_key ? buffers.keys_of(position, heads, head)
                            : buffers.values_of(position, heads, head);
      for_sequences(*tensor, problem, run, position, head, columns.key_begin, columns.key_end,
                    [&](Tokens tokens) {
                      if (tensor->channel_stride != 1 || channels > problem.head_dim) {
                        copy_tokens(tokens, tensor->channel_stride, problem.head_dim,
                                    buffers.tokens, channels);
                        tokens = {buffers.tokens, channels, tokens.count};
                      }
                      for (int64_t i = 0; i < tokens.count; i += kBlock) {
                        const BFloat16* from = tokens.data + i * tokens.stride;
                        const int64_t count = tokens.count - i;
                        if (is_key) {
                          pair_channels(from, tokens.stride, count, channels, to);
                        } else {
                          pair_tokens(from, tokens.stride, count, channels, to, largest);
                        }
                        to += kBlock / 2 * channels;
                      }
                    });
    }
  }
  bool is_finite = true;
  for (int lane = 0; lane < 2 * kBlock; ++lane) is_finite &= largest[lane] < 0x7f80;
  buffers.finite[position % buffers.ring_rows] = is_finite;
}

// Loads rows of queries.
void load_queries(const ForwardCall& call, const MatrixBuffers& buffers, const Run& run,
                  const RowGroup& group, const Columns& columns) {
  const PhaseTimer timer(Phase::kLoad);
  for (int64_t row = 0; row < group.rows; ++row) {
    for (int64_t head = 0; head < run.heads; ++head) {
      BFloat16* to = buffers.queries_of(row, call.plan.bundle_heads, head);
      for_sequences(call.query, call.problem, run, group.position + row, head, columns.query_begin,
                    columns.query_end, [&](const Tokens& tokens) {
                      copy_tokens(tokens, call.query.channel_stride, call.problem.head_dim, to,
                                  buffers.channels);
                      to += tokens.count * buffers.channels;
                    });
    }
  }
}

void forward_run(const ForwardCall& call, const MatrixBuffers& buffers, const Run& run,
                 const Run* next, const Columns& columns) {
  const Problem& problem = call.problem;
  const auto [k0, k1] = problem.kernel_size;
  const int64_t heads = call.plan.bundle_heads;
  const int64_t bias_row = k1 * vectors_of(problem) * kBlock;
  const int64_t logits_row = kBlock * vectors_of(problem) * kBlock;
  const int64_t parts = parts_of(problem);
  const int64_t weights_row = vectors_of(problem) * parts * kMatrix;
  const int64_t tiles = make_tiles(problem, columns, buffers);
  Requests requests;
  int64_t loaded = 0;
  for (int64_t position = run.begin_position; position < run.end_position;) {
    const RowGroup group = make_group(problem, run, position, run.end_position, kRows);
    if (loaded < group.first_key()) loaded = group.first_key();
    for (; loaded < group.end_key(k0); ++loaded) load_keys(call, buffers, run, columns, loaded);
    load_queries(call, buffers, run, group, columns);
    request_next<BFloat16>(call, run, group, loaded, next, kRows, columns, requests);
    requests.spread_over(run.heads * tiles * group.rows * kBlock * kWork);

    for (int64_t head = 0; head < run.heads; ++head) {
      const float* bias = static_cast<const float*>(call.bias);
      if (bias) bias += (run.first_head + head) * problem.bias_size();
      load_bias(problem, group, bias, buffers);
      for (const QueryTile* tile = buffers.tiles; tile != buffers.tiles + tiles; ++tile) {
        // First with all rows of keys, then with all of values: each stays in the first-level
        // cache.
        for (int64_t row = 0; row < group.rows; ++row) {
          const PhaseTimer timer(Phase::kLogits);
          const auto compute = parts == 2 ? compute_logits<2> : compute_logits<1>;
          compute(problem, buffers, *tile, buffers.queries_of(row, heads, head),
                  buffers.bias + row * bias_row, group.start[row], heads, head,
                  buffers.logits + row * logits_row);
        }
        // Each row's sums beside the weights of the next.
        Floats inverse[2], logsumexp[2];
        ValueSums sums;
        bool is_finite = true;
        for (int64_t row = 0; row <= group.rows; ++row) {
          BFloat16* weights[2];  // of this row and of the one before
          for (int n = 0; n < 2; ++n) weights[n] = buffers.weights + (row + n) % 2 * weights_row;
          if (row < group.rows) {
            const PhaseTimer timer(Phase::kSoftmax);
            weigh_tile(problem, buffers, *tile, buffers.logits + row * logits_row, weights[0],
                       inverse[row % 2], logsumexp[row % 2], requests, sums);
          }
          if (row > 0) {
            const PhaseTimer timer(Phase::kWeightedSum);
            sums.compute(0, 1);
            if (!is_finite) {
              sum_values(problem, buffers, *tile, weights[1], group.start[row - 1], heads, head);
            }
            store_tile(call, buffers, run, *tile,
                       (position + row - 1) * problem.dilation[0] + run.residue, head,
                       inverse[(row + 1) % 2], logsumexp[(row + 1) % 2]);
          }
          if (row == group.rows) break;
          is_finite = true;
          for (int64_t i = 0; i < k0; ++i) {
            is_finite &= buffers.finite[(group.start[row] + i) % buffers.ring_rows];
          }
          sums = is_finite
                     ? ValueSums(problem, buffers, *tile, weights[0], group.start[row], heads, head)
                     : ValueSums();
        }
      }
    }
    position += group.rows;
  }
}

int64_t forward_scratch(const ForwardCall& call, const Columns& columns) {
  ScratchAllocator allocator{nullptr};
  make_buffers(call, columns, allocator);
  return allocator.bytes;
}

void forward(const ForwardCall& call, const Run& run, const Run* next, const Columns& columns,
             void* scratch) {
  ScratchAllocator allocator{static_cast<char*>(scratch)};
  _tile_loadconfig(&kMatrixShapes);
  forward_run(call, make_buffers(call, columns, allocator), run, next, columns);
  _tile_release();
}

}  // namespace

const Kernels kAmxKernels = {"AMX", kVectorBytes,    kNarrowBytes, 2,       true,
                             true,  forward_scratch, forward,      nullptr, nullptr};

}  // namespace natten_ops::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
