// Adds up the tables that blocks have left, in an order that does not depend on when they ran.
#pragma once

#include "device.h"

namespace natten_ops::cuda {

constexpr int kSumThreads = 256;

// 32 entries a block; each of its warps adds every eighth table, the first warp then what they
// have.
template <typename T>
NATTEN_OPS_KERNEL(kSumThreads, 1)
table_sum_kernel(const T* tables, int64_t count, int64_t entries, T* to) {
  constexpr int kWarps = kSumThreads / 32;
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  const int64_t entry = int64_t(block_index()) * 32 + lane;
  double* sums = reinterpret_cast<double*>(shared_memory());
  double sum = 0;
  for (int64_t table = warp; entry < entries && table < count; table += kWarps) {
    sum += tables[table * entries + entry];
  }
  sums[warp * 32 + lane] = sum;
  block_barrier();
  if (warp != 0 || entry >= entries) return;
  for (int other = 1; other < kWarps; ++other) sum += sums[other * 32 + lane];
  to[entry] = static_cast<T>(sum);
}

// to (entries) = the sum of tables (count, entries).
template <typename T>
const char* sum_tables(const T* tables, int64_t count, int64_t entries, T* to, void* stream) {
  return launch(table_sum_kernel<T>, (entries + 31) / 32, kSumThreads, kSumThreads * sizeof(double),
                stream, tables, count, entries, to);
}

}  // namespace natten_ops::cuda
