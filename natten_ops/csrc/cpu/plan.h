// Divides a problem into work units, and a unit's columns into tiles. README.md has a glossary.
//
// A row is one index of axis 0; with dilation, rows with equal index mod dilation[0] (one residue)
// form a sub-sequence. A unit is a chunk of consecutive rows of a sub-sequence, of one batch entry,
// one block of columns and one bundle of heads. A bundle is consecutive heads: they are side by
// side in memory, and a processor reads neighboring lines much faster than others. All of this is
// compiled for every processor; kernels see declarations only.
#pragma once

#include <cstdint>
#include <vector>

#include "../problem.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace natten_ops::cpu {

// A chunk consists of slabs. Chunks depend on the number of threads, slabs do not: each slab has
// its own sum of the bias' gradient.
struct Plan {
  int64_t block_columns;
  int64_t column_blocks;
  int64_t slab_rows;
  int64_t slabs;   // of a sub-sequence
  int64_t chunks;  // of a sub-sequence
  int64_t bundles;
  int64_t bundle_heads;  // of the largest bundle

  int64_t units(const Problem& problem) const {
    return problem.batch * problem.dilation[0] * chunks * column_blocks * bundles;
  }
  // Slabs of one head of one batch entry.
  int64_t head_slabs(const Problem& problem) const {
    return column_blocks * problem.dilation[0] * slabs;
  }
};

// number_bytes: of a number in the kernels' buffers.
Plan make_forward_plan(const Problem& problem, Dtype dtype, int64_t number_bytes, int64_t threads);
Plan make_backward_plan(const Problem& problem, Dtype dtype, int64_t threads);

// What a work unit computes.
struct Run {
  int64_t batch, column_block;
  int64_t first_head, heads;             // of the bundle
  int64_t residue;                       // of axis 0
  int64_t count;                         // rows of the sub-sequence
  int64_t begin_position, end_position;  // rows of the run; none if the sub-sequence is short
  int64_t first_slab, end_slab;          // of the first head, numbered over the whole problem
};

Run make_run(const Problem& problem, const Plan& plan, int64_t unit);

constexpr int kMaxLanes = 16;

// How the vector of the keys of a tile's queries, one in each lane, is loaded from a row of them.
enum class Access {
  kPlain,         // the keys are neighbors, like the queries
  kShuffled,      // the keys of all steps lie in two neighboring vectors; the first is aligned
  kShuffledStep,  // those of each step do
  kGathered,      // anywhere
};

// Neighboring columns of queries that are computed together, one in each lane. Step t is the t-th
// column of each query's window.
struct ColumnTile {
  int64_t begin;  // first column
  int64_t count;  // columns, at most lanes
  int64_t lanes;  // width of the vectors
  Access access;
  int64_t key;                // the first column of the vectors at step 0
  int32_t source[kMaxLanes];  // the place of a lane's first key behind `key`
  int64_t low[kMaxLanes];     // and its offset from the query, in positions
  int64_t lowest, highest;    // of these; unused lanes repeat the first

  // Whether windows are shifted, or lanes unused.
  bool is_border() const { return count < lanes || lowest < highest; }
};

// Consecutive partners of a column in one row, and their weights: the weight of a query and a key
// is at the query's column, in the entry of its window that is the key's.
struct Segment {
  int64_t partner, count;          // the first's column; others follow, dilation apart
  int64_t query, entry;            // of the first
  int64_t query_step, entry_step;  // to the next
};

// The keys of a column of queries (one segment), or the queries that attend to a column of keys.
struct ColumnPartners {
  Segment segments[3];
  int64_t count;
  int64_t last;  // column of the last partner
};

// Lanes of vectors, and what they can do.
struct VectorSizes {
  int64_t wide, narrow;
  // Shuffle two vectors; so fast that it is better than loading vectors that are not aligned.
  bool shuffle, shuffle_fast;
};

struct TileList {
  const ColumnTile* tiles;
  int64_t count;

  const ColumnTile* begin() const { return tiles; }
  const ColumnTile* end() const { return tiles + count; }
};

// The columns that a block of columns [begin, end) reads and writes.
class Columns {
 public:
  int64_t begin, end;
  int64_t query_begin, query_end;  // backward: the queries that attend to the block's keys
  int64_t key_begin, key_end;      // the keys of those queries

  Columns(const Problem& problem, const Plan& plan, int64_t column_block, bool backward,
          const VectorSizes& vectors);

  TileList tiles() const;
  const ColumnPartners& keys_of(int64_t query) const { return keys_[query - query_begin]; }
  // Backward: of the block's own columns.
  const ColumnPartners& queries_of(int64_t key) const { return queries_[key - begin]; }

  // Where a column of keys, or of queries, is in a row buffer. The first query is aligned, and so
  // is the first key of its window if that is not shifted.
  int64_t of_key(int64_t column) const { return column - key_origin_; }
  int64_t of_query(int64_t column) const { return column - query_origin_; }
  int64_t key_pitch() const;  // columns of a row buffer
  int64_t query_pitch() const;

 private:
  int64_t key_origin_, query_origin_;
  std::vector<ColumnTile> tiles_;
  std::vector<ColumnPartners> keys_, queries_;
};

// Memory of the calling thread, 64-byte aligned. It is kept for the next call until released.
void* thread_scratch(int64_t bytes);
// Frees the thread's memory if it is more than 8 MB.
void release_large_thread_scratch();

// Unused bytes behind every array in scratch memory, which AddressSanitizer watches.
#if defined(__SANITIZE_ADDRESS__)
constexpr int64_t kGapBytes = 256;
#else
constexpr int64_t kGapBytes = 0;
#endif

}  // namespace natten_ops::cpu
