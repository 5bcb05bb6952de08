// Which keys a query attends to, and which queries attend to a key, on one axis.
//
// On an axis of `length` tokens the tokens with equal index mod dilation form a sub-sequence. A
// token is then known by its residue (which sub-sequence) and its position in it; the window of a
// query is `kernel_size` consecutive positions, centered on the query and shifted inwards at the
// borders. Contract: kernel_size * dilation <= length, so every sub-sequence holds at least one
// whole window.
#pragma once

#include <cstdint>

#include "problem.h"

namespace natten_ops {

// Place of one token on one axis.
struct AxisToken {
  int64_t residue;   // index mod dilation
  int64_t position;  // index div dilation
  int64_t count;     // tokens in this residue's sub-sequence
};

NATTEN_OPS_HOST_DEVICE AxisToken axis_token(int64_t index, int64_t length, int64_t dilation) {
  const int64_t residue = index % dilation;
  return {residue, index / dilation, (length - residue + dilation - 1) / dilation};
}

// First position of the window of the query at `token`.
NATTEN_OPS_HOST_DEVICE int64_t window_start(const AxisToken& token, int64_t kernel_size) {
  const int64_t centered = token.position - kernel_size / 2;
  const int64_t last = token.count - kernel_size;
  return centered < 0 ? 0 : centered > last ? last : centered;
}

// The window inverted: the queries whose windows hold the key at `token` are consecutive positions
// [first, last], because the window's start never decreases with the query's position.
struct QueryRange {
  int64_t first;
  int64_t last;
};

NATTEN_OPS_HOST_DEVICE QueryRange attending_queries(const AxisToken& token, int64_t kernel_size) {
  const int64_t half = kernel_size / 2;
  const bool in_first_window = token.position < kernel_size;
  const bool in_last_window = token.position >= token.count - kernel_size;
  return {in_first_window ? 0 : token.position - kernel_size + 1 + half,
          in_last_window ? token.count - 1 : token.position + half};
}

}  // namespace natten_ops
