// Divides a problem into work units, and a unit's columns into tiles. README.md has a glossary.
//
// A row is one index of axis 0; with dilation, rows with equal index mod dilation[0] (one residue)
// form a sub-sequence. A unit is a chunk of consecutive rows of a sub-sequence, of one batch entry,
// one head and one block of columns. The head varies fastest in the order of units, because the
// heads of a token are side by side in memory. All of this is compiled for every processor; kernels
// see declarations only.
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

  int64_t units(const Problem& problem) const {
    return problem.batch * problem.dilation[0] * chunks * column_blocks * problem.heads;
  }
  // Slabs of one head of one batch entry.
  int64_t head_slabs(const Problem& problem) const {
    return column_blocks * problem.dilation[0] * slabs;
  }
};

Plan make_forward_plan(const Problem& problem, int64_t threads);
Plan make_backward_plan(const Problem& problem, int64_t threads);

// What a work unit computes.
struct Run {
  int64_t batch, head, column_block;
  int64_t residue;                       // of axis 0
  int64_t count;                         // rows of the sub-sequence
  int64_t begin_position, end_position;  // rows of the run; none if the sub-sequence is short
  int64_t first_slab, end_slab;          // numbered over the whole problem
};

Run make_run(const Problem& problem, const Plan& plan, int64_t unit);

constexpr int kMaxLanes = 16;

// How a vector of a tile's partners is loaded from a row of them.
enum class Access {
  kPlain,      // the lanes' partners are neighbors, like the lanes themselves
  kMasked,     // the same, but some lanes have no partner at some of the tile's offsets
  kPermuted,   // the partners lie within one vector, in another order
  kPermuted2,  // the same, within two neighboring vectors
};

// Neighboring columns that are computed together, one in each lane. A lane's partners (the keys of
// a query, or the queries of a key) are dilation * offset columns away, for the offsets from the
// lane's low to its high.
//
// A tile takes `steps` steps. In plain and masked tiles, step t is offset lowest + t of all lanes.
// Masked tiles take the steps of every lane's offsets and mask those outside of a lane's range. In
// permuted tiles, step t is the t-th offset of each lane; these are tiles of queries, because only
// there all lanes have kernel_size offsets. Unused lanes of a masked tile have an empty range;
// those of a permuted tile repeat a used lane.
struct ColumnTile {
  int64_t begin;  // first column
  int64_t count;  // columns, at most lanes
  int64_t lanes;  // width of the vectors
  Access access;
  int64_t partner;          // first column of the vector of partners at step 0
  int64_t lowest, highest;  // least and greatest low of any used lane
  int64_t steps;
  bool owned;  // the columns belong to the block; others are computed for its sake
  int64_t low[kMaxLanes], high[kMaxLanes];
  int32_t source[kMaxLanes];  // permuted: the place of a lane's partner in the vectors
};

// Lanes of vectors, and whether these can be permuted. Tiles are narrow if that wastes less.
struct VectorSizes {
  int64_t wide, narrow;
  bool permutes;
};

struct TileList {
  const ColumnTile* tiles;
  int64_t count;
};

// The columns that a block of columns [begin, end) reads and writes.
class Columns {
 public:
  int64_t begin, end;
  int64_t query_begin, query_end;  // backward: the queries that attend to the block's keys
  int64_t key_begin, key_end;      // the keys of those queries
  int64_t max_steps;               // of all tiles

  Columns(const Problem& problem, const Plan& plan, int64_t column_block, bool backward,
          const VectorSizes& vectors);

  TileList query_tiles() const;
  TileList key_tiles() const;  // backward: of the block's own columns

  // Row buffers begin at column key_begin - kPadding: vectors may reach beyond the keys.
  static constexpr int64_t kPadding = 16;
  int64_t pitch() const;  // columns of a row buffer
  int64_t max_masks() const { return max_steps < kMaxLanes ? kMaxLanes : max_steps; }

 private:
  std::vector<ColumnTile> query_tiles_, key_tiles_;
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
