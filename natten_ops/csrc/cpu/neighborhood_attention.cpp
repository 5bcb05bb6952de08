// Kernels of neighborhood_attention.h. Tensors are (batch, axis 0, axis 1, heads, head_dim).
//
// Notation: i is a query token, j a key token, t an offset within the window, indices 0 and 1 the
// axes. The attention matrix is never stored: the forward keeps the log-sum-exp of every query's
// logits, the backward recomputes a window's probabilities from it. The gradient of the keys is
// gathered through the inverted window (window.h) instead of scattered, so it needs no atomics.
//
// This is the plain version: one query at a time, vectors along head_dim.
#include "neighborhood_attention.h"

#include <cmath>
#include <vector>

#include "../window.h"

// The compiler makes a copy of each entry point per instruction set; glibc's loader picks one.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__)
#define NATTEN_OPS_CLONES \
  __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define NATTEN_OPS_CLONES
#endif
// Inlined by force, for only code inside the entry points is compiled for their instruction sets.
#if defined(__GNUC__)
#define NATTEN_OPS_INLINE inline __attribute__((always_inline))
#else
#define NATTEN_OPS_INLINE inline
#endif

namespace natten_ops::cpu {
namespace {

// How a head's channels lie: `fixed` channels known to the compiler (0: any number), and whether
// they are adjacent in memory in all tensors that are read.
template <int64_t fixed, bool adjacent>
struct Channels {
  int64_t head_dim;
  NATTEN_OPS_INLINE int64_t count() const { return fixed > 0 ? fixed : head_dim; }
  static NATTEN_OPS_INLINE int64_t step(int64_t stride) { return adjacent ? 1 : stride; }
};

template <typename T, typename C>
NATTEN_OPS_INLINE T dot(const C& channels, const T* a, int64_t a_stride, const T* b,
                        int64_t b_stride) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < channels.count(); ++c) {
    sum += a[c * C::step(a_stride)] * b[c * C::step(b_stride)];
  }
  return sum;
}

// sum += factor * a, sum adjacent
template <typename T, typename C>
NATTEN_OPS_INLINE void add_scaled(const C& channels, T factor, const T* a, int64_t a_stride,
                                  T* sum) {
#pragma omp simd
  for (int64_t c = 0; c < channels.count(); ++c) sum[c] += factor * a[c * C::step(a_stride)];
}

template <typename T>
NATTEN_OPS_INLINE void write(int64_t count, T factor, const T* sum, T* out, int64_t stride) {
  for (int64_t c = 0; c < count; ++c) out[c * stride] = factor * sum[c];
}

// First bias entry of one row of the window of the query at (position0, position1): entry
// (start0 + t0 - position0 + kernel_size0 - 1, start1 - position1 + kernel_size1 - 1) of the head's
// table. The entry of the row's offset t1 lies t1 further.
NATTEN_OPS_INLINE int64_t bias_offset(const Problem& problem, int64_t key0_position,
                                      int64_t key1_position, int64_t query0_position,
                                      int64_t query1_position) {
  const int64_t relative0 = key0_position - query0_position + problem.kernel_size[0] - 1;
  const int64_t relative1 = key1_position - query1_position + problem.kernel_size[1] - 1;
  return relative0 * (2 * problem.kernel_size[1] - 1) + relative1;
}

template <typename T, typename C>
NATTEN_OPS_INLINE void forward_body(const Problem& problem, const ForwardTensors<T>& tensors,
                                    int64_t begin, int64_t end, const C& channels) {
  const auto [k0, k1] = problem.kernel_size;
  const auto [d0, d1] = problem.dilation;
  const T scale = static_cast<T>(problem.scale);
  std::vector<T> weights(problem.window_size());
  std::vector<T> sum(channels.count());
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t head = unit % problem.heads;
    const int64_t i0 = unit / problem.heads % problem.length[0];
    const int64_t batch = unit / problem.heads / problem.length[0];
    const T* bias = tensors.rpb ? tensors.rpb + head * problem.bias_size() : nullptr;
    const AxisToken token0 = axis_token(i0, problem.length[0], d0);
    const int64_t start0 = window_start(token0, k0);
    for (int64_t i1 = 0; i1 < problem.length[1]; ++i1) {
      const AxisToken token1 = axis_token(i1, problem.length[1], d1);
      const int64_t start1 = window_start(token1, k1);
      const int64_t j1 = start1 * d1 + token1.residue;
      const T* query = tensors.query.at(batch, i0, i1, head);

      T largest = -INFINITY;
      for (int64_t t0 = 0; t0 < k0; ++t0) {
        const int64_t j0 = (start0 + t0) * d0 + token0.residue;
        const T* key = tensors.key.at(batch, j0, j1, head);
        const T* bias_row = bias ? bias + bias_offset(problem, start0 + t0, start1, token0.position,
                                                      token1.position)
                                 : nullptr;
        for (int64_t t1 = 0; t1 < k1; ++t1) {
          T logit =
              scale * dot(channels, query, tensors.query.channel_stride,
                          key + t1 * d1 * tensors.key.axis_stride[1], tensors.key.channel_stride);
          if (bias_row) logit += bias_row[t1];
          weights[t0 * k1 + t1] = logit;
          // Not std::max: a NaN logit must make the output NaN.
          if (!(logit <= largest)) largest = logit;
        }
      }

      T total = 0;
      for (T& weight : weights) total += weight = std::exp(weight - largest);
      std::fill(sum.begin(), sum.end(), T(0));
      for (int64_t t0 = 0; t0 < k0; ++t0) {
        const int64_t j0 = (start0 + t0) * d0 + token0.residue;
        const T* value = tensors.value.at(batch, j0, j1, head);
        for (int64_t t1 = 0; t1 < k1; ++t1) {
          add_scaled(channels, weights[t0 * k1 + t1],
                     value + t1 * d1 * tensors.value.axis_stride[1], tensors.value.channel_stride,
                     sum.data());
        }
      }
      write(channels.count(), 1 / total, sum.data(), tensors.output.at(batch, i0, i1, head),
            tensors.output.channel_stride);
      tensors.logsumexp[row_offset(problem, batch, i0, i1, head)] = largest + std::log(total);
    }
  }
}

// With p = softmax(logits): grad_logit = p * (<grad_output, value> - delta).
template <typename T, typename C>
NATTEN_OPS_INLINE void backward_query_body(const Problem& problem,
                                           const BackwardTensors<T>& tensors, int64_t begin,
                                           int64_t end, const C& channels) {
  const auto [k0, k1] = problem.kernel_size;
  const auto [d0, d1] = problem.dilation;
  const T scale = static_cast<T>(problem.scale);
  const int64_t rows = problem.batch * problem.length[0];
  const int64_t slab_count = slabs(problem);
  std::vector<T> sum(channels.count());
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t head = unit / slab_count;
    const int64_t slab = unit % slab_count;
    const T* bias = tensors.rpb ? tensors.rpb + head * problem.bias_size() : nullptr;
    double* grad_bias =
        tensors.grad_rpb_partial ? tensors.grad_rpb_partial + unit * problem.bias_size() : nullptr;
    for (int64_t row = slab * rows / slab_count; row < (slab + 1) * rows / slab_count; ++row) {
      const int64_t batch = row / problem.length[0];
      const int64_t i0 = row % problem.length[0];
      const AxisToken token0 = axis_token(i0, problem.length[0], d0);
      const int64_t start0 = window_start(token0, k0);
      for (int64_t i1 = 0; i1 < problem.length[1]; ++i1) {
        const AxisToken token1 = axis_token(i1, problem.length[1], d1);
        const int64_t start1 = window_start(token1, k1);
        const int64_t j1 = start1 * d1 + token1.residue;
        const T* query = tensors.query.at(batch, i0, i1, head);
        const T* grad = tensors.grad_output.at(batch, i0, i1, head);
        const int64_t offset = row_offset(problem, batch, i0, i1, head);
        const T logsumexp = tensors.logsumexp[offset];
        const T delta = dot(channels, grad, tensors.grad_output.channel_stride,
                            tensors.output.at(batch, i0, i1, head), tensors.output.channel_stride);
        tensors.delta[offset] = delta;
        std::fill(sum.begin(), sum.end(), T(0));
        for (int64_t t0 = 0; t0 < k0; ++t0) {
          const int64_t j0 = (start0 + t0) * d0 + token0.residue;
          const T* key = tensors.key.at(batch, j0, j1, head);
          const T* value = tensors.value.at(batch, j0, j1, head);
          const int64_t bias_row =
              bias_offset(problem, start0 + t0, start1, token0.position, token1.position);
          for (int64_t t1 = 0; t1 < k1; ++t1) {
            const T* key_t = key + t1 * d1 * tensors.key.axis_stride[1];
            const T* value_t = value + t1 * d1 * tensors.value.axis_stride[1];
            T logit = scale * dot(channels, query, tensors.query.channel_stride, key_t,
                                  tensors.key.channel_stride);
            if (bias) logit += bias[bias_row + t1];
            const T grad_logit = std::exp(logit - logsumexp) *
                                 (dot(channels, grad, tensors.grad_output.channel_stride, value_t,
                                      tensors.value.channel_stride) -
                                  delta);
            if (grad_bias) grad_bias[bias_row + t1] += grad_logit;
            add_scaled(channels, grad_logit, key_t, tensors.key.channel_stride, sum.data());
          }
        }
        write(channels.count(), scale, sum.data(), tensors.grad_query.at(batch, i0, i1, head),
              tensors.grad_query.channel_stride);
      }
    }
  }
}

template <typename T, typename C>
NATTEN_OPS_INLINE void backward_key_body(const Problem& problem, const BackwardTensors<T>& tensors,
                                         int64_t begin, int64_t end, const C& channels) {
  const auto [k0, k1] = problem.kernel_size;
  const auto [d0, d1] = problem.dilation;
  const T scale = static_cast<T>(problem.scale);
  std::vector<T> key_sum(channels.count());
  std::vector<T> value_sum(channels.count());
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t head = unit % problem.heads;
    const int64_t j0 = unit / problem.heads % problem.length[0];
    const int64_t batch = unit / problem.heads / problem.length[0];
    const T* bias = tensors.rpb ? tensors.rpb + head * problem.bias_size() : nullptr;
    const AxisToken token0 = axis_token(j0, problem.length[0], d0);
    const QueryRange range0 = attending_queries(token0, k0);
    for (int64_t j1 = 0; j1 < problem.length[1]; ++j1) {
      const AxisToken token1 = axis_token(j1, problem.length[1], d1);
      const QueryRange range1 = attending_queries(token1, k1);
      const T* key = tensors.key.at(batch, j0, j1, head);
      const T* value = tensors.value.at(batch, j0, j1, head);
      std::fill(key_sum.begin(), key_sum.end(), T(0));
      std::fill(value_sum.begin(), value_sum.end(), T(0));
      for (int64_t position0 = range0.first; position0 <= range0.last; ++position0) {
        const int64_t i0 = position0 * d0 + token0.residue;
        for (int64_t position1 = range1.first; position1 <= range1.last; ++position1) {
          const int64_t i1 = position1 * d1 + token1.residue;
          const T* query = tensors.query.at(batch, i0, i1, head);
          const T* grad = tensors.grad_output.at(batch, i0, i1, head);
          const int64_t offset = row_offset(problem, batch, i0, i1, head);
          T logit = scale * dot(channels, query, tensors.query.channel_stride, key,
                                tensors.key.channel_stride);
          if (bias) {
            logit +=
                bias[bias_offset(problem, token0.position, token1.position, position0, position1)];
          }
          const T probability = std::exp(logit - tensors.logsumexp[offset]);
          const T grad_logit =
              probability * (dot(channels, grad, tensors.grad_output.channel_stride, value,
                                 tensors.value.channel_stride) -
                             tensors.delta[offset]);
          add_scaled(channels, grad_logit, query, tensors.query.channel_stride, key_sum.data());
          add_scaled(channels, probability, grad, tensors.grad_output.channel_stride,
                     value_sum.data());
        }
      }
      write(channels.count(), scale, key_sum.data(), tensors.grad_key.at(batch, j0, j1, head),
            tensors.grad_key.channel_stride);
      write(channels.count(), T(1), value_sum.data(), tensors.grad_value.at(batch, j0, j1, head),
            tensors.grad_value.channel_stride);
    }
  }
}

template <typename T>
NATTEN_OPS_INLINE bool adjacent(const ForwardTensors<T>& tensors) {
  return tensors.query.channel_stride == 1 && tensors.key.channel_stride == 1 &&
         tensors.value.channel_stride == 1;
}

template <typename T>
NATTEN_OPS_INLINE bool adjacent(const BackwardTensors<T>& tensors) {
  return tensors.query.channel_stride == 1 && tensors.key.channel_stride == 1 &&
         tensors.value.channel_stride == 1 && tensors.output.channel_stride == 1 &&
         tensors.grad_output.channel_stride == 1;
}

}  // namespace

// The entry points: BODY with the channels' layout made known to the compiler where it pays. A
// macro, because target_clones takes no template.
#define NATTEN_OPS_ENTRY(NAME, TENSORS, T)                                                         \
  template <>                                                                                      \
  NATTEN_OPS_CLONES void NAME<T>(const Problem& problem, const TENSORS<T>& tensors, int64_t begin, \
                                 int64_t end) {                                                    \
    const int64_t head_dim = problem.head_dim;                                                     \
    if (!adjacent(tensors)) {                                                                      \
      NAME##_body(problem, tensors, begin, end, Channels<0, false>{head_dim});                     \
    } else if (head_dim == 32) {                                                                   \
      NAME##_body(problem, tensors, begin, end, Channels<32, true>{head_dim});                     \
    } else {                                                                                       \
      NAME##_body(problem, tensors, begin, end, Channels<0, true>{head_dim});                      \
    }                                                                                              \
  }

NATTEN_OPS_ENTRY(forward, ForwardTensors, float)
NATTEN_OPS_ENTRY(forward, ForwardTensors, double)
NATTEN_OPS_ENTRY(backward_query, BackwardTensors, float)
NATTEN_OPS_ENTRY(backward_query, BackwardTensors, double)
NATTEN_OPS_ENTRY(backward_key, BackwardTensors, float)
NATTEN_OPS_ENTRY(backward_key, BackwardTensors, double)

}  // namespace natten_ops::cpu
