// Included once per vector width, by baseline.cpp, avx2.cpp and avx512.cpp (see lanes.inl).
//
// The forward pass. For the rows of one run, in groups of up to kRows rows of queries:
//   - the rows of keys and values that the group's windows need, and the last group's did not, are
//     transposed into two rings of rows, (ring_rows, channels, pitch);
//   - for every tile of columns: logits of all window entries, softmax along them, output.
// Logits are in units of log(2): scale and bias are multiplied by log2(e).

template <typename T>
struct ForwardBuffers {
  int64_t pitch, ring_rows;
  T *keys, *values;      // (ring_rows, channels, pitch)
  T *queries, *outputs;  // of a tile, (rows, channels, kLanes)
  T* logits;             // of a tile, (rows, kernel_size[0], steps, kLanes)
  Integer<T>* masks;     // of a tile, (steps, kLanes)
  int32_t* bias_source;  // of a tile, (kLanes)
  Partner* partners;     // of a tile, at most ring_rows
  int64_t rows;          // rows of a group, at most kRows
};

// Places arrays one after another in a block of memory; without memory, only counts bytes.
struct ScratchAllocator {
  char* memory;
  int64_t bytes = 0;

  template <typename T>
  T* allocate(int64_t count) {
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    const int64_t padded = (size + kGapBytes + 63) / 64 * 64;
    T* array = memory ? reinterpret_cast<T*>(memory + bytes) : nullptr;
#if defined(__SANITIZE_ADDRESS__)
    if (memory) ASAN_POISON_MEMORY_REGION(memory + bytes + size, padded - size);
#endif
    bytes += padded;
    return array;
  }
};

template <typename T>
ForwardBuffers<T> forward_buffers(const Problem& problem, const Columns& columns,
                                  ScratchAllocator& allocator) {
  constexpr int64_t kLanes = kVectorBytes / sizeof(T);
  const int64_t channels = problem.head_dim;
  const int64_t pitch = columns.pitch();
  const int64_t window = problem.kernel_size[0] * columns.max_steps;
  ForwardBuffers<T> buffers;
  buffers.rows = window * kLanes > (1 << 17) ? 1 : kRows;  // large windows: fewer rows, less memory
  buffers.pitch = pitch;
  buffers.ring_rows = problem.kernel_size[0] + buffers.rows - 1;
  buffers.keys = allocator.allocate<T>(buffers.ring_rows * channels * pitch);
  buffers.values = allocator.allocate<T>(buffers.ring_rows * channels * pitch);
  buffers.queries = allocator.allocate<T>(buffers.rows * channels * kLanes);
  buffers.outputs = allocator.allocate<T>(buffers.rows * channels * kLanes);
  buffers.logits = allocator.allocate<T>(buffers.rows * window * kLanes);
  buffers.masks = allocator.allocate<Integer<T>>(columns.max_masks() * kLanes);
  buffers.bias_source = allocator.allocate<int32_t>(kLanes);
  buffers.partners = allocator.allocate<Partner>(buffers.ring_rows);
  return buffers;
}

// Consecutive rows of queries and the rows of keys in their windows.
struct RowGroup {
  int64_t position, rows;
  int64_t start[4];  // of each row's window

  int64_t first_key() const { return start[0]; }
  int64_t end_key(int64_t kernel_size) const { return start[rows - 1] + kernel_size; }
  // The rows of queries whose windows hold a row of keys are [first, last].
  int64_t first(int64_t key, int64_t kernel_size) const {
    int64_t row = 0;
    while (start[row] + kernel_size <= key) ++row;
    return row;
  }
  int64_t last(int64_t key) const {
    int64_t row = rows - 1;
    while (start[row] > key) --row;
    return row;
  }
};

// The group that starts at `position`, of rows that end at `end`. Groups have at most `most` rows
// and about the same size.
NATTEN_OPS_INLINE RowGroup make_group(const Problem& problem, const Run& run, int64_t position,
                                      int64_t end, int64_t most) {
  const int64_t groups = (end - position + most - 1) / most;
  const int64_t rows = (end - position + groups - 1) / groups;
  RowGroup group;
  group.position = position;
  group.rows = rows;
  for (int64_t row = 0; row < rows; ++row) {
    group.start[row] =
        window_start({run.residue, position + row, run.count}, problem.kernel_size[0]);
  }
  return group;
}

// Transposes the run's row at `position` of a tensor into a buffer, the columns [begin, end).
template <typename Element, typename T>
void load_row(const TensorView& tensor, const Problem& problem, const Run& run, int64_t position,
              int64_t begin, int64_t end, T factor, T* to, int64_t pitch) {
  constexpr int kLanes = kVectorBytes / sizeof(T);
  const int64_t index = position * problem.dilation[0] + run.residue;
  load_tokens<kLanes>(tensor.at<const Element>(run.batch, index, begin, run.head),
                      tensor.axis_stride[1], tensor.channel_stride, end - begin, problem.head_dim,
                      factor, to, pitch);
}

// Rows that come after those being computed.
struct NextRows {
  Run run;
  int64_t query_begin, query_end;
  int64_t key_begin, key_end;
};

// The rows of the group after `group`, whose keys are loaded up to `loaded`: the next group of the
// run, up to the query at `end`, else the first group of the next run (null if there is none),
// which starts at `next_query`.
NATTEN_OPS_INLINE NextRows next_rows(const Problem& problem, const Run& run, const RowGroup& group,
                                     int64_t loaded, int64_t end, const Run* next,
                                     int64_t next_query, int64_t rows) {
  const int64_t position = group.position + group.rows;
  if (position < end) return {run, position, position + rows, loaded, loaded + rows};
  if (!next || next->column_block != run.column_block) return {run, 0, 0, 0, 0};
  const int64_t k0 = problem.kernel_size[0];
  const int64_t first_key = window_start({next->residue, next_query, next->count}, k0);
  return {*next, next_query, next_query + rows, first_key, first_key + k0 + rows - 1};
}

// A piece has as many channels as a tile has lanes. So one piece for each of head_dim channels
// makes all of a tile's tokens.
template <typename Element>
NATTEN_OPS_INLINE Prefetcher make_prefetcher(const Problem& problem, const ColumnTile& tile) {
  return {tile.lanes * int64_t(sizeof(Element)), (problem.head_dim + tile.lanes - 1) / tile.lanes};
}

// Requests the tokens of a tile's columns in the run's rows [begin, end) of a tensor.
template <typename Element>
NATTEN_OPS_INLINE void prefetch_rows(const TensorView& tensor, const Problem& problem,
                                     const Run& run, const ColumnTile& tile, int64_t begin,
                                     int64_t end, Prefetcher& prefetcher) {
  if (end > run.count) end = run.count;
  for (int64_t position = begin; position < end; ++position) {
    const int64_t index = position * problem.dilation[0] + run.residue;
    prefetcher.add(tensor.at<const Element>(run.batch, index, tile.begin, run.head),
                   tensor.axis_stride[1] * int64_t(sizeof(Element)));
  }
}

// The rows of keys that a tile of queries attends to, as their partners.
template <typename T, int kLanes, typename Buffers>
NATTEN_OPS_INLINE Partners<T> key_partners(const Problem& problem, const Run& run,
                                           const RowGroup& group, const Columns& columns,
                                           const ColumnTile& tile, const Buffers& buffers,
                                           Prefetcher& prefetcher) {
  const int64_t k0 = problem.kernel_size[0];
  const int64_t column = Columns::kPadding + tile.partner - columns.key_begin;
  int64_t count = 0;
  for (int64_t key = group.first_key(); key < group.end_key(k0); ++key) {
    Partner& partner = buffers.partners[count++];
    partner.lanes = key % buffers.ring_rows * problem.head_dim * buffers.pitch + column;
    partner.first = group.first(key, k0);
    partner.rows = group.last(key) - partner.first + 1;
    for (int64_t i = 0; i < partner.rows; ++i) {
      const int64_t row = partner.first + i;
      partner.weights[i] = (row * k0 + key - group.start[row]) * tile.steps * kLanes;
      partner.bias[i] = bias_offset(problem, run.head, key - (group.position + row), tile.lowest);
    }
  }
  if (tile.access == Access::kMasked) make_masks<kLanes, T>(tile, buffers.masks);
  if (is_permuted(tile.access)) {
    for (int lane = 0; lane < kLanes; ++lane) {
      buffers.bias_source[lane] =
          lane < tile.count ? static_cast<int32_t>(tile.low[lane] - tile.lowest) : 0;
    }
  }
  return {buffers.partners, count,       buffers.pitch, problem.dilation[1], problem.head_dim,
          tile.steps,       tile.access, buffers.masks, tile.source,         buffers.bias_source,
          &prefetcher};
}

// Replaces the logits of one row of queries, (window, kLanes), by the exponentials of their
// differences to the largest. Returns 1 / their sum, and the log2 of the sum of the logits'
// exponentials.
template <typename V, typename T>
__attribute__((noinline)) void softmax_row(const Partners<T>& partners, int64_t window, T* logits,
                                           V& inverse, V& logsumexp) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  using M = Lanes<Integer<T>, kLanes>;
  if (partners.access == Access::kMasked) {
    for (int64_t first = 0; first < window; first += partners.steps) {
      for (int64_t t = 0; t < partners.steps; ++t) {
        T* lanes = logits + (first + t) * kLanes;
        const M mask = load<M>(partners.masks + t * kLanes);
        store(lanes, mask ? load<V>(lanes) : V{} - static_cast<T>(INFINITY));
      }
    }
  }
  // Four of each, so that operations need not wait for each other.
  V largest[4], sum[4];
  NATTEN_OPS_UNROLL
  for (int n = 0; n < 4; ++n) {
    largest[n] = load<V>(logits);
    sum[n] = V{};
  }
  int64_t i = 0;
  for (; i + 4 <= window; i += 4) {
    NATTEN_OPS_UNROLL
    for (int n = 0; n < 4; ++n) {
      largest[n] = maximum(load<V>(logits + (i + n) * kLanes), largest[n]);
    }
  }
  for (; i < window; ++i) largest[0] = maximum(load<V>(logits + i * kLanes), largest[0]);
  const V most = maximum(maximum(largest[0], largest[1]), maximum(largest[2], largest[3]));
  for (i = 0; i + 4 <= window; i += 4) {
    NATTEN_OPS_UNROLL
    for (int n = 0; n < 4; ++n) {
      const V weight = exp2_of<kLanes>(load<V>(logits + (i + n) * kLanes) - most);
      sum[n] += weight;
      store(logits + (i + n) * kLanes, weight);
    }
  }
  for (; i < window; ++i) {
    const V weight = exp2_of<kLanes>(load<V>(logits + i * kLanes) - most);
    sum[0] += weight;
    store(logits + i * kLanes, weight);
  }
  const V total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  inverse = static_cast<T>(1) / total;
  logsumexp = most + log2_of<kLanes>(total);
}

template <typename V, typename Element, typename T>
void forward_tile(const ForwardCall& call, const ForwardBuffers<T>& buffers, const Run& run,
                  const RowGroup& group, const Columns& columns, const ColumnTile& tile,
                  Prefetcher& prefetcher) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  const Problem& problem = call.problem;
  const int64_t row_size = problem.head_dim * kLanes;
  const int64_t window = problem.kernel_size[0] * tile.steps;
  const Partners<T> partners =
      key_partners<T, kLanes>(problem, run, group, columns, tile, buffers, prefetcher);

  const T factor = static_cast<T>(problem.scale * 1.4426950408889634);
  T* outputs[kRows];
  const bool is_border = tile.access != Access::kPlain;
  {
    const PhaseTimer timer(Phase::kLoad, is_border);
    for (int64_t row = 0; row < group.rows; ++row) {
      load_row<Element>(call.query, problem, run, group.position + row, tile.begin,
                        tile.begin + tile.count, factor, buffers.queries + row * row_size, kLanes);
      outputs[row] = buffers.outputs + row * row_size;
    }
  }
  {
    const PhaseTimer timer(Phase::kLogits, is_border);
    dot<V>(partners, buffers.queries, row_size, kLanes, buffers.keys,
           static_cast<const T*>(call.bias), buffers.logits);
    prefetcher.finish(tile.count);
  }

  V inverse[kRows];
  for (int64_t row = 0; row < group.rows; ++row) {
    const PhaseTimer timer(Phase::kSoftmax, is_border);
    V logsumexp;
    softmax_row<V>(partners, window, buffers.logits + row * window * kLanes, inverse[row],
                   logsumexp);
    logsumexp *= static_cast<T>(0.6931471805599453);
    const int64_t index = (group.position + row) * problem.dilation[0] + run.residue;
    T* to = static_cast<T*>(call.logsumexp) +
            row_offset(problem, run.batch, index, tile.begin, run.head);
    for (int64_t lane = 0; lane < tile.count; ++lane) to[lane * problem.heads] = logsumexp[lane];
  }

  {
    const PhaseTimer timer(Phase::kWeightedSum, is_border);
    __builtin_memset(buffers.outputs, 0, group.rows * row_size * sizeof(T));
    add<V>(partners, group.rows, buffers.logits, kLanes, buffers.values, outputs, kLanes);
  }
  const PhaseTimer timer(Phase::kStore, is_border);
  for (int64_t row = 0; row < group.rows; ++row) {
    const int64_t index = (group.position + row) * problem.dilation[0] + run.residue;
    store_tokens<kLanes>(outputs[row], kLanes, inverse[row], tile.count, problem.head_dim,
                         call.output.at<Element>(run.batch, index, tile.begin, run.head),
                         call.output.axis_stride[1], call.output.channel_stride);
  }
}

template <typename Element, typename T>
void forward_run(const ForwardCall& call, const ForwardBuffers<T>& buffers, const Run& run,
                 const Run* next, const Columns& columns) {
  const Problem& problem = call.problem;
  const int64_t ring_row = problem.head_dim * buffers.pitch;
  int64_t loaded = 0;  // rows of keys before this are in the rings, or no longer needed
  for (int64_t position = run.begin_position; position < run.end_position;) {
    const RowGroup group = make_group(problem, run, position, run.end_position, buffers.rows);
    if (loaded < group.first_key()) loaded = group.first_key();
    for (; loaded < group.end_key(problem.kernel_size[0]); ++loaded) {
      const PhaseTimer timer(Phase::kLoad);
      const int64_t to = loaded % buffers.ring_rows * ring_row + Columns::kPadding;
      load_row<Element>(call.key, problem, run, loaded, columns.key_begin, columns.key_end, T(1),
                        buffers.keys + to, buffers.pitch);
      load_row<Element>(call.value, problem, run, loaded, columns.key_begin, columns.key_end, T(1),
                        buffers.values + to, buffers.pitch);
    }
    const NextRows after = next_rows(problem, run, group, loaded, run.end_position, next,
                                     next ? next->begin_position : 0, buffers.rows);
    const TileList tiles = columns.query_tiles();
    for (int64_t i = 0; i < tiles.count; ++i) {
      const ColumnTile& tile = tiles.tiles[i];
      Prefetcher prefetcher = make_prefetcher<Element>(problem, tile);
      prefetch_rows<Element>(call.query, problem, after.run, tile, after.query_begin,
                             after.query_end, prefetcher);
      prefetch_rows<Element>(call.key, problem, after.run, tile, after.key_begin, after.key_end,
                             prefetcher);
      prefetch_rows<Element>(call.value, problem, after.run, tile, after.key_begin, after.key_end,
                             prefetcher);
      prefetch_rows<Element>(call.output, problem, run, tile, position, position + group.rows,
                             prefetcher);
      with_vector<T>(tile.lanes, [&](auto vector) {
        forward_tile<decltype(vector), Element>(call, buffers, run, group, columns, tile,
                                                prefetcher);
      });
    }
    position += group.rows;
  }
}

template <typename T>
int64_t forward_scratch_of(const ForwardCall& call, const Columns& columns) {
  ScratchAllocator allocator{nullptr};
  forward_buffers<T>(call.problem, columns, allocator);
  return allocator.bytes;
}

int64_t forward_scratch(const ForwardCall& call, const Columns& columns) {
  return call.dtype == Dtype::kFloat64 ? forward_scratch_of<double>(call, columns)
                                       : forward_scratch_of<float>(call, columns);
}

template <typename Element, typename T>
void forward_in(const ForwardCall& call, const Run& run, const Run* next, const Columns& columns,
                void* scratch) {
  ScratchAllocator allocator{static_cast<char*>(scratch)};
  forward_run<Element>(call, forward_buffers<T>(call.problem, columns, allocator), run, next,
                       columns);
}

void forward(const ForwardCall& call, const Run& run, const Run* next, const Columns& columns,
             void* scratch) {
  switch (call.dtype) {
    case Dtype::kFloat32:
      return forward_in<float, float>(call, run, next, columns, scratch);
    case Dtype::kFloat64:
      return forward_in<double, double>(call, run, next, columns, scratch);
    case Dtype::kBFloat16:
      return forward_in<BFloat16, float>(call, run, next, columns, scratch);
    case Dtype::kFloat16:
      return forward_in<Float16, float>(call, run, next, columns, scratch);
  }
}
