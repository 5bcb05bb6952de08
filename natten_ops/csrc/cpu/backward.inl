// Included once per vector width, by baseline.cpp, avx2.cpp and avx512.cpp (see lanes.inl).
//
// The backward pass. A run owns rows (of queries and of keys), a block owns columns. Their
// gradients are computed here, and for that also the weights of other queries that attend to their
// keys. For the rows of queries that attend to the run's keys, in groups of up to kRows:
//   - keys and values are transposed into rings of rows as in the forward, the group's queries and
//     output gradients into rows, (rows, heads, channels, query_pitch);
//   - for every head of the bundle and tile of columns, as queries: the logits again, weights
//     P = exp(logit - logsumexp), their gradients dP (inner products of output gradient and value),
//     and the logits' gradients D = P * (dP - sum of P dP), which give the gradients of queries and
//     bias. P and D are planes, (rows, kernel_size, query_pitch): one for every row of queries and
//     entry of its window;
//   - for every column of the block's keys, once all queries that attend to it are done: P and D
//     times grad_output and query are added to rings of grad_value and grad_key. Rows of keys that
//     no later query attends to are then complete.
// No two threads add to the same element, and each element gets its terms in the order of queries.

// Up to kRows rows of keys, and the rows of a group's queries that attend to them.
struct KeyRows {
  int64_t position, rows;
  int64_t partners;  // how many, in query_partners
};

template <typename T>
struct BackwardBuffers {
  int64_t pitch, query_pitch;
  int64_t ring_rows, ring_row;  // rows of a ring, size of a row
  int64_t rows, query_row;      // rows of a group, at most kRows; size of a row of queries
  T *keys, *values;             // (ring_rows, heads, channels, pitch)
  T *queries, *grad_outputs;    // (rows, heads, channels, query_pitch)
  T *key_tokens, *grad_keys, *grad_values;  // (ring_rows, heads, columns, channels)
  T *query_tokens, *grad_output_tokens;     // (rows, heads, columns, channels)
  T* grad_queries;                          // the same, unless they are written where they belong
  T *weights, *grad_logits;                 // planes of P and D
  T* grad_bias;                             // of a slab, (heads, bias_size, kWide)
  int32_t* bias_source;                     // of a tile, (kLanes)
  Partner<T>* partners;                     // of a group, at most ring_rows
  KeyRows* key_rows;                        // of a group
  Partner<T>* query_partners;               // of each of these, at most kRows
};

template <typename Element, typename T>
BackwardBuffers<T> backward_buffers(const BackwardCall& call, const Columns& columns,
                                    ScratchAllocator& allocator) {
  const Problem& problem = call.problem;
  const int64_t window = problem.kernel_size[0] * problem.kernel_size[1];
  const int64_t heads = call.plan.bundle_heads;
  const int64_t channels = heads * problem.head_dim;
  const int64_t all_keys = columns.key_end - columns.key_begin;
  const int64_t all_queries = columns.query_end - columns.query_begin;
  const int64_t own = columns.end - columns.begin;
  BackwardBuffers<T> buffers;
  buffers.pitch = columns.key_pitch();
  buffers.query_pitch = columns.query_pitch();
  // Large windows: fewer rows, less memory.
  buffers.rows = window * buffers.query_pitch > (1 << 18) ? 1 : kRows;
  buffers.ring_rows = problem.kernel_size[0] + buffers.rows - 1;
  buffers.ring_row = channels * buffers.pitch;
  buffers.query_row = channels * buffers.query_pitch;
  buffers.keys = allocator.allocate<T>(buffers.ring_rows * buffers.ring_row);
  buffers.values = allocator.allocate<T>(buffers.ring_rows * buffers.ring_row);
  buffers.queries = allocator.allocate<T>(buffers.rows * buffers.query_row);
  buffers.grad_outputs = allocator.allocate<T>(buffers.rows * buffers.query_row);
  const auto token_rows = [&](int64_t rows, int64_t count) {
    return allocator.allocate<T>(rows * row_size(problem, heads, count));
  };
  buffers.grad_keys = token_rows(buffers.ring_rows, own);
  buffers.grad_values = token_rows(buffers.ring_rows, own);
  buffers.key_tokens = token_rows(buffers.ring_rows, all_keys);
  buffers.query_tokens = token_rows(buffers.rows, all_queries);
  buffers.grad_output_tokens = token_rows(buffers.rows, all_queries);
  buffers.grad_queries = token_rows(has_rows<Element, T>(call.grad_query) ? 0 : buffers.rows, own);
  buffers.weights = allocator.allocate<T>(buffers.rows * window * buffers.query_pitch);
  buffers.grad_logits = allocator.allocate<T>(buffers.rows * window * buffers.query_pitch);
  buffers.grad_bias = allocator.allocate<T>(heads * problem.bias_size() * kWide<T>);
  buffers.bias_source = allocator.allocate<int32_t>(kWide<T>);
  buffers.partners = allocator.allocate<Partner<T>>(buffers.ring_rows);
  const int64_t key_rows = (buffers.ring_rows + kRows - 1) / kRows;
  buffers.key_rows = allocator.allocate<KeyRows>(key_rows);
  buffers.query_partners = allocator.allocate<Partner<T>>(key_rows * kRows);
  return buffers;
}

// Turns the products of one row of a tile's queries with keys and with values, planes from the
// tile's column on, into weights and the gradients of their logits.
template <typename V, typename T>
__attribute__((noinline)) void weigh_row(int64_t window, int64_t pitch, V logsumexp, T* weights,
                                         T* grads) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  V delta{};
  for (int64_t i = 0; i < window; ++i) {
    const V weight = exp2_of<kLanes>(load<V>(weights + i * pitch) - logsumexp);
    delta += weight * load<V>(grads + i * pitch);
    store(weights + i * pitch, weight);
  }
  for (int64_t i = 0; i < window; ++i) {
    store(grads + i * pitch, load<V>(weights + i * pitch) * (load<V>(grads + i * pitch) - delta));
  }
}

// Adds the gradients of the tile's logits to that of a head's bias, (bias_size, kWide).
template <typename V, typename T>
void add_grad_bias(const Keys<T>& keys, const ColumnTile& tile, const Columns& columns,
                   const T* grads, T* grad_bias) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  using M = Lanes<Integer<T>, kLanes>;
  const int64_t end = tile.begin + tile.count;
  const bool all = !tile.is_border() && columns.begin <= tile.begin && end <= columns.end;
  for (int64_t low = tile.lowest; low <= tile.highest; ++low) {
    M mask{};  // the block's own lanes whose windows start there
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t column = tile.begin + lane;
      const bool is_own = columns.begin <= column && column < end && column < columns.end;
      mask[lane] = is_own && tile.low[lane] == low ? -1 : 0;
    }
    for (int64_t i = 0; i < keys.count; ++i) {
      const Partner<T>& partner = keys.partners[i];
      for (int64_t row = 0; row < partner.rows; ++row) {
        const T* grad = grads + partner.weights[row];
        T* sum = grad_bias + (partner.bias[row] + low) * kWide<T>;
        for (int64_t t = 0; t < keys.steps; ++t) {
          V lanes = load<V>(grad + t * keys.weight_step);
          if (!all) lanes = keep(lanes, mask);
          store(sum + t * kWide<T>, load<V>(sum + t * kWide<T>) + lanes);
        }
      }
    }
  }
}

// The queries of one head of a tile: weights and gradients of their logits, grad_query, grad_bias.
// `head` is its number in the bundle. Without grad_queries, other units compute the gradients.
template <typename V, typename T>
void backward_query_tile(const BackwardCall& call, const BackwardBuffers<T>& buffers,
                         const Run& run, const RowGroup& group, const Columns& columns,
                         const ColumnTile& tile, int64_t head, const Keys<T>& keys,
                         const SumLayout& layout, const Results<T>* grad_queries) {
  const Problem& problem = call.problem;
  const int64_t window = problem.kernel_size[0] * problem.kernel_size[1];
  const int64_t channel = head * problem.head_dim;
  const int64_t column = columns.of_query(tile.begin);
  const int64_t query = channel * buffers.query_pitch + column;
  const int64_t key = channel * buffers.pitch + columns.of_key(tile.key);
  const bool is_border = tile.is_border();
  {
    const PhaseTimer timer(Phase::kLogits, is_border);
    dot<V, T>(keys, buffers.queries + query, buffers.query_row, buffers.query_pitch,
              buffers.keys + key, bias_of<T>(call.bias, problem, run.first_head + head, tile),
              buffers.weights + column);
  }
  {
    const PhaseTimer timer(Phase::kGradWeights, is_border);
    dot<V, T>(keys, buffers.grad_outputs + query, buffers.query_row, buffers.query_pitch,
              buffers.values + key, nullptr, buffers.grad_logits + column);
  }

  for (int64_t row = 0; row < group.rows; ++row) {
    const PhaseTimer timer(Phase::kWeigh, is_border);
    const int64_t index = (group.position + row) * problem.dilation[0] + run.residue;
    const T* from = static_cast<const T*>(call.logsumexp) +
                    row_offset(problem, run.batch, index, tile.begin, run.first_head + head);
    // The weights of unused lanes are zero.
    V logsumexp = V{} + static_cast<T>(INFINITY);
    for (int64_t lane = 0; lane < tile.count; ++lane) logsumexp[lane] = from[lane * problem.heads];
    logsumexp *= static_cast<T>(1.4426950408889634);
    const int64_t plane = row * window * buffers.query_pitch + column;
    weigh_row<V>(window, buffers.query_pitch, logsumexp, buffers.weights + plane,
                 buffers.grad_logits + plane);
  }
  // Of the block's own columns only.
  const int64_t begin = tile.begin < columns.begin ? columns.begin : tile.begin;
  const int64_t last = tile.begin + tile.count;
  const int64_t end = last < columns.end ? last : columns.end;
  if (!grad_queries || begin >= end) return;

  if (call.grad_bias) {
    const PhaseTimer timer(Phase::kGradBias, is_border);
    add_grad_bias<V>(keys, tile, columns, buffers.grad_logits + column,
                     buffers.grad_bias + head * problem.bias_size() * kWide<T>);
  }
  const PhaseTimer timer(Phase::kGradQuery, is_border);
  sum_all(keys.partners, keys.count, layout, buffers.grad_logits + columns.of_query(0),
          *grad_queries, begin, end,
          [&](int64_t query) -> const ColumnPartners& { return columns.keys_of(query); });
}

// The run's rows of keys in the group's windows; returns the number of KeyRows.
template <typename T>
int64_t query_partners(const Problem& problem, const Run& run, const RowGroup& group,
                       const BackwardBuffers<T>& buffers) {
  const auto [k0, k1] = problem.kernel_size;
  int64_t begin = group.first_key(), end = group.end_key(k0);
  if (begin < run.begin_position) begin = run.begin_position;
  if (end > run.end_position) end = run.end_position;
  int64_t count = 0;
  for (int64_t key = begin; key < end; key += kRows, ++count) {
    KeyRows& keys = buffers.key_rows[count];
    keys = {key, end - key < kRows ? end - key : kRows, 0};
    for (int64_t row = 0; row < group.rows; ++row) {
      // Of these keys, those in the row's window.
      const int64_t start = group.start[row];
      const int64_t first = start > key ? start : key;
      const int64_t last = start + k0 < key + keys.rows ? start + k0 : key + keys.rows;
      if (first >= last) continue;
      Partner<T>& partner = buffers.query_partners[count * kRows + keys.partners++];
      partner.position = group.position + row;
      partner.first = first - key;
      partner.rows = last - first;
      for (int64_t i = 0; i < partner.rows; ++i) {
        partner.weights[i] = (row * k0 + first + i - start) * k1 * buffers.query_pitch;
      }
    }
  }
  return count;
}

// One head of the keys in the columns [begin, end): adds the queries' tokens times their weights,
// which are planes, to `grads`.
template <typename T>
void add_to_keys(const Problem& problem, const BackwardBuffers<T>& buffers, int64_t key_rows,
                 const Columns& columns, int64_t head, int64_t begin, int64_t end, const T* weights,
                 const TokenRows<T>& queries, const TokenRows<T>& grads, Requests& requests) {
  const SumLayout layout{problem.head_dim, problem.dilation[1], queries.token_stride,
                         buffers.query_pitch, &requests};
  for (int64_t i = 0; i < key_rows; ++i) {
    const KeyRows& keys = buffers.key_rows[i];
    Partner<T>* partners = buffers.query_partners + i * kRows;
    point_to(queries, head, partners, keys.partners);
    Results<T> to{{}, keys.rows, grads.token_stride, nullptr, 0};
    for (int64_t row = 0; row < keys.rows; ++row) to.to[row] = grads.at(keys.position + row, head);
    sum_all(partners, keys.partners, layout, weights + columns.of_query(0), to, begin, end,
            [&](int64_t key) -> const ColumnPartners& { return columns.queries_of(key); });
  }
}

// Sums the lanes of a slab's gradient of the bias, stores the sums and clears the lanes. `slab` is
// that of the bundle's first head.
template <typename T>
void store_grad_bias(const BackwardCall& call, const BackwardBuffers<T>& buffers, const Run& run,
                     int64_t slab) {
  const int64_t size = call.problem.bias_size();
  const int64_t head_slabs = call.plan.head_slabs(call.problem);
  T* lanes = buffers.grad_bias;
  for (int64_t head = 0; head < run.heads; ++head) {
    T* to = static_cast<T*>(call.grad_bias) + (slab + head * head_slabs) * size;
    for (int64_t i = 0; i < size; ++i, lanes += kWide<T>) {
      T sum = 0;
      for (int lane = 0; lane < kWide<T>; ++lane) sum += lanes[lane];
      to[i] = sum;
    }
  }
  __builtin_memset(buffers.grad_bias, 0, run.heads * size * kWide<T> * sizeof(T));
}

// The first query that attends to a key of the run.
NATTEN_OPS_INLINE int64_t first_query_of(const Run& run, int64_t kernel_size) {
  return attending_queries({run.residue, run.begin_position, run.count}, kernel_size).first;
}

template <typename Element, typename T>
void backward_run(const BackwardCall& call, const BackwardBuffers<T>& buffers, const Run& run,
                  const Run* next, const Columns& columns) {
  const Problem& problem = call.problem;
  const int64_t k0 = problem.kernel_size[0];
  const int64_t pitch = buffers.pitch, query_pitch = buffers.query_pitch;
  const int64_t begin = columns.begin, end = columns.end;
  const int64_t query_begin = columns.query_begin, query_end = columns.query_end;
  const int64_t key_begin = columns.key_begin, key_end = columns.key_end;
  const T query_factor = static_cast<T>(problem.scale * 1.4426950408889634);
  const T scale = static_cast<T>(problem.scale);
  const auto ring = [&](T* memory, int64_t first, int64_t last) {
    return rows_in(memory, problem, run.heads, buffers.ring_rows, first, last);
  };
  const auto rows = [&](T* memory, int64_t first, int64_t last) {
    return rows_in(memory, problem, run.heads, buffers.rows, first, last);
  };
  const TokenRows<T> keys = ring(buffers.key_tokens, key_begin, key_end);
  const TokenRows<T> queries = rows(buffers.query_tokens, query_begin, query_end);
  const TokenRows<T> grad_outputs = rows(buffers.grad_output_tokens, query_begin, query_end);
  const TokenRows<T> grad_queries =
      rows_of<Element>(call.grad_query, problem, run, rows(buffers.grad_queries, begin, end));
  const TokenRows<T> grad_keys = ring(buffers.grad_keys, begin, end);
  const TokenRows<T> grad_values = ring(buffers.grad_values, begin, end);
  Requests requests;
  const SumLayout layout{problem.head_dim, problem.dilation[1], keys.token_stride, query_pitch,
                         &requests};
  T factors[kRows * kWide<T>];
  for (T& factor : factors) factor = scale;
  int64_t slab = run.first_slab;
  if (run.begin_position < run.end_position) {
    const int64_t first_row = first_query_of(run, k0);
    const int64_t last_row =
        attending_queries({run.residue, run.end_position - 1, run.count}, k0).last;
    int64_t loaded = window_start({run.residue, first_row, run.count}, k0);
    int64_t stored = loaded;
    int64_t slab_end = run.begin_position;  // where the next slab begins
    for (int64_t position = first_row; position <= last_row;) {
      // A group lies within one slab, or outside of the run.
      int64_t end_row = last_row + 1;
      const bool is_owned = run.begin_position <= position && position < run.end_position;
      if (position < run.end_position) {
        if (position == slab_end) slab_end += call.plan.slab_rows;
        if (slab_end > run.end_position) slab_end = run.end_position;
        end_row = slab_end;
      }
      const RowGroup group = make_group(problem, run, position, end_row, buffers.rows);
      for (; loaded < group.end_key(k0); ++loaded) {
        const int64_t to =
            loaded % buffers.ring_rows * buffers.ring_row + columns.of_key(key_begin);
        load_row<Element>(call.key, problem, run, loaded, key_begin, key_end, T(1),
                          buffers.keys + to, pitch);
        load_row<Element>(call.value, problem, run, loaded, key_begin, key_end, T(1),
                          buffers.values + to, pitch);
        copy_row<Element>(call.key, problem, run, loaded, key_begin, key_end, keys);
      }
      for (int64_t row = 0; row < group.rows; ++row) {
        const int64_t to = row * buffers.query_row + columns.of_query(query_begin);
        load_row<Element>(call.query, problem, run, position + row, query_begin, query_end,
                          query_factor, buffers.queries + to, query_pitch);
        load_row<Element>(call.grad_output, problem, run, position + row, query_begin, query_end,
                          T(1), buffers.grad_outputs + to, query_pitch);
        copy_row<Element>(call.query, problem, run, position + row, query_begin, query_end,
                          queries);
        copy_row<Element>(call.grad_output, problem, run, position + row, query_begin, query_end,
                          grad_outputs);
      }
      const int64_t count = key_partners<T>(problem, group, buffers, query_pitch);
      const int64_t key_rows = query_partners(problem, run, group, buffers);

      // Windows never move back: rows of keys before the next query's window will be complete.
      const int64_t next_position = position + group.rows;
      const int64_t complete = next_position <= last_row
                                   ? window_start({run.residue, next_position, run.count}, k0)
                                   : loaded;

      const NextRows after = next_rows(problem, run, group, loaded, last_row + 1, next,
                                       next ? first_query_of(*next, k0) : 0, buffers.rows);
      requests.clear();
      request_rows<Element>(call.grad_query, problem, run, begin, end, position,
                            position + (is_owned ? group.rows : 0), requests);
      for (const TensorView* tensor : {&call.grad_key, &call.grad_value}) {
        request_rows<Element>(*tensor, problem, run, begin, end, stored, complete, requests);
      }
      for (const TensorView* tensor : {&call.query, &call.grad_output}) {
        request_rows<Element>(*tensor, problem, after.run, query_begin, query_end,
                              after.query_begin, after.query_end, requests);
      }
      for (const TensorView* tensor : {&call.key, &call.value}) {
        request_rows<Element>(*tensor, problem, after.run, key_begin, key_end, after.key_begin,
                              after.key_end, requests);
      }
      requests.spread_over(4 * work_of(problem, run, group, columns));

      for (int64_t head = 0; head < run.heads; ++head) {
        point_to(keys, head, buffers.partners, count);
        Results<T> to{{}, group.rows, grad_queries.token_stride, factors, kWide<T>};
        for (int64_t row = 0; row < group.rows; ++row) {
          to.to[row] = grad_queries.at(position + row, head);
        }
        int64_t key = begin;  // whose gradients come next
        for (const ColumnTile& tile : columns.tiles()) {
          const Keys<T> tile_keys =
              keys_of<T>(problem, tile, buffers, count, query_pitch, requests);
          with_vector<T>(tile.lanes, [&](auto vector) {
            backward_query_tile<decltype(vector)>(call, buffers, run, group, columns, tile, head,
                                                  tile_keys, layout, is_owned ? &to : nullptr);
          });
          // Keys follow as soon as all queries that attend to them are done, while their weights
          // are still in the cache.
          int64_t end_key = key;
          const int64_t done = tile.begin + tile.count;
          while (end_key < end && columns.queries_of(end_key).last < done) ++end_key;
          const PhaseTimer timer(Phase::kGradKeyValue);
          add_to_keys(problem, buffers, key_rows, columns, head, key, end_key, buffers.weights,
                      grad_outputs, grad_values, requests);
          add_to_keys(problem, buffers, key_rows, columns, head, key, end_key, buffers.grad_logits,
                      queries, grad_keys, requests);
          key = end_key;
        }
      }
      for (int64_t row = 0; grad_queries.rows && is_owned && row < group.rows; ++row) {
        store_row<Element>(call.grad_query, problem, run, position + row, begin, end, T(1),
                           grad_queries);
      }
      position = next_position;
      for (; stored < complete; ++stored) {
        if (stored < run.begin_position || stored >= run.end_position) continue;
        store_row<Element>(call.grad_key, problem, run, stored, begin, end, scale, grad_keys);
        store_row<Element>(call.grad_value, problem, run, stored, begin, end, T(1), grad_values);
        for (const TokenRows<T>* grads : {&grad_keys, &grad_values}) {  // for another row
          __builtin_memset(grads->at(stored, 0) + begin * grads->token_stride, 0,
                           run.heads * grads->head_stride * sizeof(T));
        }
      }
      if (call.grad_bias && position == slab_end && position > run.begin_position) {
        store_grad_bias(call, buffers, run, slab++);
      }
    }
  }
  // Slabs beyond the end of a short sub-sequence have no rows.
  for (; call.grad_bias && slab < run.end_slab; ++slab) store_grad_bias(call, buffers, run, slab);
}

template <typename Element, typename T>
int64_t backward_scratch_of(const BackwardCall& call, const Columns& columns) {
  ScratchAllocator allocator{nullptr};
  backward_buffers<Element, T>(call, columns, allocator);
  return allocator.bytes;
}

int64_t backward_scratch(const BackwardCall& call, const Columns& columns) {
  return with_types(call.dtype, [&](auto element, auto number) {
    return backward_scratch_of<decltype(element), decltype(number)>(call, columns);
  });
}

template <typename Element, typename T>
void backward_in(const BackwardCall& call, const Run& run, const Run* next, const Columns& columns,
                 void* scratch) {
  ScratchAllocator allocator{static_cast<char*>(scratch)};
  backward_run<Element>(call, backward_buffers<Element, T>(call, columns, allocator), run, next,
                        columns);
}

void backward(const BackwardCall& call, const Run& run, const Run* next, const Columns& columns,
              void* scratch) {
  with_types(call.dtype, [&](auto element, auto number) {
    backward_in<decltype(element), decltype(number)>(call, run, next, columns, scratch);
  });
}
