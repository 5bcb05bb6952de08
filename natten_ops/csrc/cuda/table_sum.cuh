// Adds up the tables that blocks wrote, in an order that does not depend on when the blocks ran.
#pragma once

#include "bias.cuh"
#include "device.h"

namespace natten_ops::cuda {

constexpr int kSumThreads = 256;
constexpr int kTablesOfBlock = 128;  // that one block adds up

// A block adds 32 entries of kTablesOfBlock tables, every `stride`th table. Each of its warps adds
// every eighth of these; the first warp then adds the warps' sums. The result goes to `to`, or if
// that has no data into the first of the block's tables.
template <typename T>
NATTEN_OPS_KERNEL(kSumThreads, 1)
table_sum_kernel(T* tables, int64_t count, int64_t entries, int64_t stride, BiasView to) {
  constexpr int kWarps = kSumThreads / 32;
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  const int64_t parts = (entries + 31) / 32;
  const int64_t entry = block_index() % parts * 32 + lane;
  const int64_t begin = block_index() / parts * kTablesOfBlock;
  const int64_t end = begin + kTablesOfBlock < count ? begin + kTablesOfBlock : count;
  double* sums = reinterpret_cast<double*>(shared_memory());
  double sum = 0;
  NATTEN_OPS_UNROLL
  for (int i = 0; i < kTablesOfBlock / kWarps; ++i) {
    const int64_t table = begin + i * kWarps + warp;
    if (entry < entries && table < end) sum += tables[table * stride * entries + entry];
  }
  sums[warp * 32 + lane] = sum;
  block_barrier();
  if (warp != 0 || entry >= entries) return;
  for (int other = 1; other < kWarps; ++other) sum += sums[other * 32 + lane];
  const T number = static_cast<T>(sum);
  if (to.data) {
    write_bias(to, entry, number);
  } else {
    tables[begin * stride * entries + entry] = number;
  }
}

// to (entries) = the sum of tables (count, entries); overwrites the tables.
template <typename T>
const char* sum_tables(T* tables, int64_t count, int64_t entries, const BiasView& to,
                       void* stream) {
  const int64_t parts = (entries + 31) / 32;
  for (int64_t stride = 1;; stride *= kTablesOfBlock) {
    const int64_t blocks = (count + kTablesOfBlock - 1) / kTablesOfBlock;
    const char* error = launch(table_sum_kernel<T>, blocks * parts, kSumThreads,
                               kSumThreads * sizeof(double), stream, tables, count, entries, stride,
                               blocks == 1 ? to : BiasView{nullptr, to.dtype});
    if (error || blocks == 1) return error;
    count = blocks;
  }
}

}  // namespace natten_ops::cuda
