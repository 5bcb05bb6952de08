// Included once per vector width, by baseline.cpp, avx2.cpp and avx512.cpp (see lanes.inl).
//
// The forward pass. For the rows of one run, in groups of up to kRows rows of queries:
//   - the rows of keys that the group's windows need, and the last group's did not, are transposed
//     into a ring of rows, (ring_rows, heads, channels, pitch), those of values copied into
//     another, (ring_rows, heads, columns, channels); and the queries are transposed into rows,
//     (rows, heads, channels, query_pitch);
//   - for every head of the bundle and tile of columns: logits of all window entries, softmax along
//     them, output.
// Logits are in units of log(2): scale and bias are multiplied by log2(e).

template <typename T>
struct ForwardBuffers {
  int64_t pitch, query_pitch;
  int64_t ring_rows, ring_row;  // rows of a ring, size of a row
  int64_t rows, query_row;      // rows of a group, at most kRows; size of a row of queries
  T* keys;                      // (ring_rows, heads, channels, pitch)
  T* queries;                   // (rows, heads, channels, query_pitch)
  T* values;                    // (ring_rows, heads, columns, channels)
  T* outputs;  // (rows, heads, columns, channels), unless they are written where they belong
  T* weights;  // of a tile, (rows, kernel_size, kWide)
  int32_t* bias_source;  // of a tile, (kLanes)
  Partner<T>* partners;  // of a group, at most ring_rows
};

template <typename Element, typename T>
ForwardBuffers<T> forward_buffers(const ForwardCall& call, const Columns& columns,
                                  ScratchAllocator& allocator) {
  const Problem& problem = call.problem;
  const int64_t channels = call.plan.bundle_heads * problem.head_dim;
  const int64_t window = problem.kernel_size[0] * problem.kernel_size[1];
  ForwardBuffers<T> buffers;
  buffers.rows =
      window * kWide<T> > (1 << 17) ? 1 : kRows;  // large windows: fewer rows, less memory
  buffers.pitch = columns.key_pitch();
  buffers.query_pitch = columns.query_pitch();
  buffers.ring_rows = problem.kernel_size[0] + buffers.rows - 1;
  buffers.ring_row = channels * buffers.pitch;
  buffers.query_row = channels * buffers.query_pitch;
  buffers.keys = allocator.allocate<T>(buffers.ring_rows * buffers.ring_row);
  buffers.queries = allocator.allocate<T>(buffers.rows * buffers.query_row);
  const int64_t heads = call.plan.bundle_heads;
  buffers.values = allocator.allocate<T>(
      buffers.ring_rows * row_size(problem, heads, columns.key_end - columns.key_begin));
  buffers.outputs = allocator.allocate<T>(
      has_rows<Element, T>(call.output)
          ? 0
          : buffers.rows * row_size(problem, heads, columns.query_end - columns.query_begin));
  buffers.weights = allocator.allocate<T>(buffers.rows * window * kWide<T>);
  buffers.bias_source = allocator.allocate<int32_t>(kWide<T>);
  buffers.partners = allocator.allocate<Partner<T>>(buffers.ring_rows);
  return buffers;
}

// The rows of keys that a group of queries attends to, as partners of any of its tiles and heads.
// weight_step is that from entry to entry of a window's row.
template <typename T, typename Buffers>
int64_t key_partners(const Problem& problem, const RowGroup& group, const Buffers& buffers,
                     int64_t weight_step) {
  const auto [k0, k1] = problem.kernel_size;
  int64_t count = 0;
  for (int64_t key = group.first_key(); key < group.end_key(k0); ++key) {
    Partner<T>& partner = buffers.partners[count++];
    partner.position = key;
    partner.place = key % buffers.ring_rows * buffers.ring_row;
    partner.first = group.first(key, k0);
    partner.rows = group.last(key) - partner.first + 1;
    for (int64_t i = 0; i < partner.rows; ++i) {
      const int64_t row = partner.first + i;
      partner.weights[i] = (row * k0 + key - group.start[row]) * k1 * weight_step;
      partner.bias[i] = bias_offset(problem, 0, key - (group.position + row), 0);
    }
  }
  return count;
}

// Points partners to the tokens of a head.
template <typename T>
void point_to(const TokenRows<T>& rows, int64_t head, Partner<T>* partners, int64_t count) {
  for (int64_t i = 0; i < count; ++i) partners[i].tokens = rows.at(partners[i].position, head);
}

// The keys of a tile, in the `count` partners of its group.
template <typename T, typename Buffers>
Keys<T> keys_of(const Problem& problem, const ColumnTile& tile, const Buffers& buffers,
                int64_t count, int64_t weight_step, Requests& requests) {
  for (int64_t lane = 0; lane < tile.lanes; ++lane) {
    buffers.bias_source[lane] = static_cast<int32_t>(tile.low[lane] - tile.lowest);
  }
  return {buffers.partners, count,
          buffers.pitch,    problem.dilation[1],
          problem.head_dim, problem.kernel_size[1],
          weight_step,      tile.access,
          tile.source,      tile.lowest < tile.highest ? buffers.bias_source : nullptr,
          &requests};
}

// The multiply-adds of vectors that one product of a group takes.
inline int64_t work_of(const Problem& problem, const Run& run, const RowGroup& group,
                       const Columns& columns) {
  return run.heads * columns.tiles().count * group.rows * problem.kernel_size[0] *
         problem.kernel_size[1] * problem.head_dim;
}

// A head's bias for the column offsets of a tile from its lowest on; null if there is none.
template <typename T>
const T* bias_of(const void* bias, const Problem& problem, int64_t head, const ColumnTile& tile) {
  return bias ? static_cast<const T*>(bias) + head * problem.bias_size() + tile.lowest : nullptr;
}

// Replaces the logits of one row of queries, (window, kWide), by the exponentials of their
// differences to the largest. Returns 1 / their sum, and the log2 of the sum of the logits'
// exponentials.
template <typename V, typename T>
__attribute__((noinline)) void softmax_row(int64_t window, T* logits, V& inverse, V& logsumexp) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
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
      largest[n] = maximum(load<V>(logits + (i + n) * kWide<T>), largest[n]);
    }
  }
  for (; i < window; ++i) largest[0] = maximum(load<V>(logits + i * kWide<T>), largest[0]);
  const V most = maximum(maximum(largest[0], largest[1]), maximum(largest[2], largest[3]));
  for (i = 0; i + 4 <= window; i += 4) {
    NATTEN_OPS_UNROLL
    for (int n = 0; n < 4; ++n) {
      const V weight = exp2_of<kLanes>(load<V>(logits + (i + n) * kWide<T>) - most);
      sum[n] += weight;
      store(logits + (i + n) * kWide<T>, weight);
    }
  }
  for (; i < window; ++i) {
    const V weight = exp2_of<kLanes>(load<V>(logits + i * kWide<T>) - most);
    sum[0] += weight;
    store(logits + i * kWide<T>, weight);
  }
  const V total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  inverse = static_cast<T>(1) / total;
  logsumexp = most + log2_of<kLanes>(total);
}

// One head of a tile; `head` is its number in the bundle.
template <typename V, typename T>
void forward_tile(const ForwardCall& call, const ForwardBuffers<T>& buffers, const Run& run,
                  const RowGroup& group, const Columns& columns, const ColumnTile& tile,
                  int64_t head, const Keys<T>& keys, const SumLayout& layout, Results<T> outputs) {
  const Problem& problem = call.problem;
  const int64_t window = problem.kernel_size[0] * problem.kernel_size[1];
  const int64_t channel = head * problem.head_dim;
  const bool is_border = tile.is_border();
  {
    const PhaseTimer timer(Phase::kLogits, is_border);
    dot<V>(keys, buffers.queries + channel * buffers.query_pitch + columns.of_query(tile.begin),
           buffers.query_row, buffers.query_pitch,
           buffers.keys + channel * buffers.pitch + columns.of_key(tile.key),
           bias_of<T>(call.bias, problem, run.first_head + head, tile), buffers.weights);
  }

  T inverses[kRows * kWide<T>];
  for (int64_t row = 0; row < group.rows; ++row) {
    const PhaseTimer timer(Phase::kSoftmax, is_border);
    V inverse, logsumexp;
    softmax_row<V>(window, buffers.weights + row * window * kWide<T>, inverse, logsumexp);
    store(inverses + row * kWide<T>, inverse);
    logsumexp *= static_cast<T>(0.6931471805599453);
    const int64_t index = (group.position + row) * problem.dilation[0] + run.residue;
    T* to = static_cast<T*>(call.logsumexp) +
            row_offset(problem, run.batch, index, tile.begin, run.first_head + head);
    for (int64_t lane = 0; lane < tile.count; ++lane) to[lane * problem.heads] = logsumexp[lane];
  }

  const PhaseTimer timer(Phase::kWeightedSum, is_border);
  outputs.factors = inverses;
  sum_all(buffers.partners, keys.count, layout, buffers.weights - tile.begin, outputs, tile.begin,
          tile.begin + tile.count,
          [&](int64_t column) -> const ColumnPartners& { return columns.keys_of(column); });
}

template <typename Element, typename T>
void forward_run(const ForwardCall& call, const ForwardBuffers<T>& buffers, const Run& run,
                 const Run* next, const Columns& columns) {
  const Problem& problem = call.problem;
  const T query_factor = static_cast<T>(problem.scale * 1.4426950408889634);
  const int64_t first_key = columns.of_key(columns.key_begin);
  const int64_t first_query = columns.of_query(columns.query_begin);
  const TokenRows<T> values = rows_in(buffers.values, problem, run.heads, buffers.ring_rows,
                                      columns.key_begin, columns.key_end);
  const TokenRows<T> outputs =
      rows_of<Element>(call.output, problem, run,
                       rows_in(buffers.outputs, problem, run.heads, buffers.rows,
                               columns.query_begin, columns.query_end));
  Requests requests;
  const SumLayout layout{problem.head_dim, problem.dilation[1], values.token_stride, kWide<T>,
                         &requests};
  int64_t loaded = 0;  // rows of keys before this are in the rings, or no longer needed
  for (int64_t position = run.begin_position; position < run.end_position;) {
    const RowGroup group = make_group(problem, run, position, run.end_position, buffers.rows);
    if (loaded < group.first_key()) loaded = group.first_key();
    for (; loaded < group.end_key(problem.kernel_size[0]); ++loaded) {
      load_row<Element>(call.key, problem, run, loaded, columns.key_begin, columns.key_end, T(1),
                        buffers.keys + loaded % buffers.ring_rows * buffers.ring_row + first_key,
                        buffers.pitch);
      copy_row<Element>(call.value, problem, run, loaded, columns.key_begin, columns.key_end,
                        values);
    }
    for (int64_t row = 0; row < group.rows; ++row) {
      load_row<Element>(call.query, problem, run, position + row, columns.query_begin,
                        columns.query_end, query_factor,
                        buffers.queries + row * buffers.query_row + first_query,
                        buffers.query_pitch);
    }
    const int64_t count = key_partners<T>(problem, group, buffers, kWide<T>);

    request_next<Element>(call, run, group, loaded, next, buffers.rows, columns, requests);
    requests.spread_over(2 * work_of(problem, run, group, columns));

    for (int64_t head = 0; head < run.heads; ++head) {
      point_to(values, head, buffers.partners, count);
      Results<T> to{{}, group.rows, outputs.token_stride, nullptr, kWide<T>};
      for (int64_t row = 0; row < group.rows; ++row) to.to[row] = outputs.at(position + row, head);
      for (const ColumnTile& tile : columns.tiles()) {
        const Keys<T> keys = keys_of<T>(problem, tile, buffers, count, kWide<T>, requests);
        with_vector<T>(tile.lanes, [&](auto vector) {
          forward_tile<decltype(vector)>(call, buffers, run, group, columns, tile, head, keys,
                                         layout, to);
        });
      }
    }
    for (int64_t row = 0; outputs.rows && row < group.rows; ++row) {
      store_row<Element>(call.output, problem, run, position + row, columns.query_begin,
                         columns.query_end, T(1), outputs);
    }
    position += group.rows;
  }
}

template <typename Element, typename T>
int64_t forward_scratch_of(const ForwardCall& call, const Columns& columns) {
  ScratchAllocator allocator{nullptr};
  forward_buffers<Element, T>(call, columns, allocator);
  return allocator.bytes;
}

template <typename Element, typename T>
void forward_in(const ForwardCall& call, const Run& run, const Run* next, const Columns& columns,
                void* scratch) {
  ScratchAllocator allocator{static_cast<char*>(scratch)};
  forward_run<Element>(call, forward_buffers<Element, T>(call, columns, allocator), run, next,
                       columns);
}

// Calls f with a number of the tensors' type and one of the compute type.
template <typename F>
auto with_types(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::kFloat64:
      return f(double{}, double{});
    case Dtype::kBFloat16:
      return f(BFloat16{}, float{});
    case Dtype::kFloat16:
      return f(Float16{}, float{});
    default:
      return f(float{}, float{});
  }
}

int64_t forward_scratch(const ForwardCall& call, const Columns& columns) {
  return with_types(call.dtype, [&](auto element, auto number) {
    return forward_scratch_of<decltype(element), decltype(number)>(call, columns);
  });
}

void forward(const ForwardCall& call, const Run& run, const Run* next, const Columns& columns,
             void* scratch) {
  with_types(call.dtype, [&](auto element, auto number) {
    forward_in<decltype(element), decltype(number)>(call, run, next, columns, scratch);
  });
}
