// Neighborhood attention on the CPU: forward, and the two passes of the backward.
//
// Every function computes the work units [begin, end) and is called from several threads on
// disjoint ranges; no two units write the same memory and each unit's order of additions is fixed,
// so results do not depend on the number of threads.
#pragma once

#include "../problem.h"

namespace natten_ops::cpu {

template <typename T>
struct ForwardTensors {
  Strided<const T> query, key, value;
  const T* rpb;  // contiguous (heads, 2 kernel_size[0] - 1, 2 kernel_size[1] - 1), or null
  Strided<T> output;
  T* logsumexp;  // contiguous (batch, axis 0, axis 1, heads)
};

// One unit is one row of queries of one head: (batch, axis 0, head).
inline int64_t forward_units(const Problem& problem) {
  return problem.batch * problem.length[0] * problem.heads;
}

template <typename T>
void forward(const Problem& problem, const ForwardTensors<T>& tensors, int64_t begin, int64_t end);

template <typename T>
struct BackwardTensors {
  Strided<const T> grad_output, query, key, value, output;
  const T* rpb;        // as in the forward
  const T* logsumexp;  // as in the forward
  T* delta;            // scratch, contiguous (batch, axis 0, axis 1, heads): <grad_output, output>
  Strided<T> grad_query, grad_key, grad_value;
  double* grad_rpb_partial;  // scratch, contiguous (heads, slabs, bias_size), zeroed; or null
};

// Rows of queries are cut into this many slabs; each sums its own gradient of the bias.
inline int64_t slabs(const Problem& problem) {
  const int64_t rows = problem.batch * problem.length[0];
  return rows < 32 ? rows : 32;
}

// First pass, one unit per (head, slab): grad_query, delta and the partial gradients of the bias.
inline int64_t backward_query_units(const Problem& problem) {
  return problem.heads * slabs(problem);
}

template <typename T>
void backward_query(const Problem& problem, const BackwardTensors<T>& tensors, int64_t begin,
                    int64_t end);

// Second pass, reads delta; one unit per row of keys of one head: grad_key and grad_value.
inline int64_t backward_key_units(const Problem& problem) { return forward_units(problem); }

template <typename T>
void backward_key(const Problem& problem, const BackwardTensors<T>& tensors, int64_t begin,
                  int64_t end);

}  // namespace natten_ops::cpu
