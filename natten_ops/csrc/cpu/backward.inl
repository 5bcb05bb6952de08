// Included once per vector width, by baseline.cpp, avx2.cpp and avx512.cpp (see lanes.inl).
//
// The backward pass. A run owns rows (of queries and of keys), a block owns columns. Their
// gradients are computed here, and for that also the weights of other queries that attend to their
// keys. For the rows of queries that attend to the run's keys, in groups of up to kRows:
//   - keys and values are transposed into rings of rows as in the forward, the group's queries and
//     output gradients into rows, (rows, channels, pitch);
//   - for every tile of columns, as queries: the logits again, weights P = exp(logit - logsumexp),
//     their gradients dP (inner products of output gradient and value), and the logits' gradients
//     D = P * (dP - sum of P dP), which give the gradients of queries and bias. P and D are also
//     written into planes, (rows, kernel_size[0], 2 kernel_size[1] - 1, pitch): one for every row
//     of queries, row of its window and column offset, at the column of the *key*;
//   - for every tile of the block's columns, as keys, once all queries that attend to it are done:
//     P and D, which are now in the order of the keys' lanes, times grad_output and query are added
//     to rings of grad_value and grad_key. Rows of keys that no later query attends to are then
//     complete.
// No two threads add to the same element, and each element gets its terms in the order of queries.

template <typename T>
struct BackwardBuffers {
  int64_t pitch, ring_rows;
  T *keys, *values, *grad_keys, *grad_values;  // (ring_rows, channels, pitch)
  T *queries, *grad_outputs;                   // (rows, channels, pitch)
  T *weights, *grad_logits;                    // planes of P and D
  T *tile_weights, *tile_grads;                // of a tile, (rows, kernel_size[0], steps, kLanes)
  T* grad_queries;                             // of a tile, (rows, channels, kLanes)
  T* grad_bias;                                // of a slab, (bias_size, kLanes)
  Integer<T>* masks;                           // of a tile, (steps, kLanes)
  int32_t* bias_source;                        // of a tile, (kLanes)
  Partner* partners;                           // of a tile, at most ring_rows
  int64_t rows;                                // rows of a group, at most kRows
};

template <typename T>
BackwardBuffers<T> backward_buffers(const Problem& problem, const Columns& columns,
                                    ScratchAllocator& allocator) {
  constexpr int64_t kLanes = kVectorBytes / sizeof(T);
  const auto [k0, k1] = problem.kernel_size;
  const int64_t channels = problem.head_dim;
  const int64_t window = k0 * columns.max_steps;
  const int64_t planes = k0 * (2 * k1 - 1);
  BackwardBuffers<T> buffers;
  buffers.pitch = columns.pitch();
  // Large windows: fewer rows, less memory.
  buffers.rows = planes * buffers.pitch > (1 << 19) ? 1 : kRows;
  buffers.ring_rows = k0 + buffers.rows - 1;
  const int64_t row_size = channels * buffers.pitch;
  buffers.keys = allocator.allocate<T>(buffers.ring_rows * row_size);
  buffers.values = allocator.allocate<T>(buffers.ring_rows * row_size);
  buffers.grad_keys = allocator.allocate<T>(buffers.ring_rows * row_size);
  buffers.grad_values = allocator.allocate<T>(buffers.ring_rows * row_size);
  buffers.queries = allocator.allocate<T>(buffers.rows * row_size);
  buffers.grad_outputs = allocator.allocate<T>(buffers.rows * row_size);
  buffers.weights = allocator.allocate<T>(buffers.rows * planes * buffers.pitch);
  buffers.grad_logits = allocator.allocate<T>(buffers.rows * planes * buffers.pitch);
  buffers.tile_weights = allocator.allocate<T>(buffers.rows * window * kLanes);
  buffers.tile_grads = allocator.allocate<T>(buffers.rows * window * kLanes);
  buffers.grad_queries = allocator.allocate<T>(buffers.rows * channels * kLanes);
  buffers.grad_bias = allocator.allocate<T>(problem.bias_size() * kLanes);
  buffers.masks = allocator.allocate<Integer<T>>(columns.max_masks() * kLanes);
  buffers.bias_source = allocator.allocate<int32_t>(kLanes);
  buffers.partners = allocator.allocate<Partner>(buffers.ring_rows);
  return buffers;
}

// The first column of a plane.
template <typename T>
int64_t plane_offset(const Problem& problem, const BackwardBuffers<T>& buffers, int64_t row,
                     int64_t entry, int64_t offset) {
  const auto [k0, k1] = problem.kernel_size;
  return ((row * k0 + entry) * (2 * k1 - 1) + offset + k1 - 1) * buffers.pitch;
}

// Writes the lanes of a tile's vector at step t into planes: the plane of a lane's offset, at the
// column of its key.
template <typename V, typename T>
NATTEN_OPS_INLINE void store_in_planes(const ColumnTile& tile, const Integer<T>* masks, int64_t t,
                                       V lanes, T* planes, int64_t plane_step) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  using M = Lanes<Integer<T>, kLanes>;
  if (!is_permuted(tile.access)) {
    store(planes + (tile.lowest + t) * plane_step, lanes);
    return;
  }
  for (int64_t low = tile.lowest; low <= tile.highest; ++low) {
    const M mask = load<M>(masks + (low - tile.lowest) * kLanes);
    T* to = planes + (low + t) * plane_step;
    store(to, mask ? lanes : load<V>(to));
  }
}

// Turns the products of one row of queries, (window, kLanes), with keys and with values into the
// gradients of their logits, and writes weights and gradients into the planes. `own` is the tile's
// column in the planes.
template <typename V, typename T>
__attribute__((noinline)) void weigh_row(const BackwardBuffers<T>& buffers, const Problem& problem,
                                         const Partners<T>& partners, const ColumnTile& tile,
                                         int64_t row, int64_t own, V logsumexp) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  using M = Lanes<Integer<T>, kLanes>;
  const int64_t k0 = problem.kernel_size[0];
  const int64_t steps = tile.steps;
  const bool masked = tile.access == Access::kMasked;
  T* weights = buffers.tile_weights + row * k0 * steps * kLanes;
  T* grads = buffers.tile_grads + row * k0 * steps * kLanes;
  // From the plane of an offset to that of the next offset, and there to the next key's column.
  const int64_t plane_step = buffers.pitch + problem.dilation[1];
  V delta{};
  for (int64_t entry = 0; entry < k0; ++entry) {
    T* planes = buffers.weights + plane_offset(problem, buffers, row, entry, 0) + own;
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t at = (entry * steps + t) * kLanes;
      V weight = exp2_of<kLanes>(load<V>(weights + at) - logsumexp);
      V grad = load<V>(grads + at);
      if (masked) {
        const M mask = load<M>(partners.masks + t * kLanes);
        weight = keep(weight, mask);
        grad = keep(grad, mask);
        store(grads + at, grad);
      }
      delta += weight * grad;
      store(weights + at, weight);
      store_in_planes(tile, partners.masks, t, weight, planes, plane_step);
    }
  }
  for (int64_t entry = 0; entry < k0; ++entry) {
    T* planes = buffers.grad_logits + plane_offset(problem, buffers, row, entry, 0) + own;
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t at = (entry * steps + t) * kLanes;
      V grad = load<V>(weights + at) * (load<V>(grads + at) - delta);
      if (masked) grad = keep(grad, load<M>(partners.masks + t * kLanes));
      store(grads + at, grad);
      store_in_planes(tile, partners.masks, t, grad, planes, plane_step);
    }
  }
}

// Adds the gradients of the tile's logits to that of the bias.
template <typename V, typename T>
void add_grad_bias(const BackwardBuffers<T>& buffers, const Problem& problem, const Run& run,
                   const Partners<T>& partners, const ColumnTile& tile) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  constexpr int64_t kWide = kVectorBytes / sizeof(T);
  using M = Lanes<Integer<T>, kLanes>;
  for (int64_t i = 0; i < partners.count; ++i) {
    const Partner& partner = partners.partner[i];
    for (int64_t row = 0; row < partner.rows; ++row) {
      const T* grad = buffers.tile_grads + partner.weights[row];
      T* sum = buffers.grad_bias + (partner.bias[row] - run.head * problem.bias_size()) * kWide;
      // A plain or masked tile's offsets are the same in all lanes.
      const int64_t lows = is_permuted(tile.access) ? tile.highest - tile.lowest + 1 : 1;
      for (int64_t low = 0; low < lows; ++low, sum += kWide) {
        for (int64_t t = 0; t < tile.steps; ++t) {
          V lanes = load<V>(grad + t * kLanes);
          if (is_permuted(tile.access)) {
            lanes = keep(lanes, load<M>(partners.masks + low * kLanes));
          }
          store(sum + t * kWide, load<V>(sum + t * kWide) + lanes);
        }
      }
    }
  }
}

// The queries of a tile: weights and gradients of their logits, grad_query, grad_bias.
template <typename V, typename Element, typename T>
void backward_query_tile(const BackwardCall& call, const BackwardBuffers<T>& buffers,
                         const Run& run, const RowGroup& group, const Columns& columns,
                         const ColumnTile& tile, Prefetcher& prefetcher) {
  constexpr int kLanes = sizeof(V) / sizeof(T);
  const Problem& problem = call.problem;
  const int64_t pitch = buffers.pitch;
  const int64_t own = Columns::kPadding + tile.begin - columns.key_begin;
  const Partners<T> partners =
      key_partners<T, kLanes>(problem, run, group, columns, tile, buffers, prefetcher);
  if (is_permuted(tile.access)) make_masks<kLanes, T>(tile, buffers.masks);
  const bool is_border = tile.access != Access::kPlain;
  {
    const PhaseTimer timer(Phase::kLogits, is_border);
    dot<V, T>(partners, buffers.queries + own, problem.head_dim * pitch, pitch, buffers.keys,
              static_cast<const T*>(call.bias), buffers.tile_weights);
  }
  {
    const PhaseTimer timer(Phase::kGradWeights, is_border);
    dot<V, T>(partners, buffers.grad_outputs + own, problem.head_dim * pitch, pitch, buffers.values,
              nullptr, buffers.tile_grads);
    prefetcher.finish(tile.count);
  }

  for (int64_t row = 0; row < group.rows; ++row) {
    const PhaseTimer timer(Phase::kWeigh, is_border);
    const int64_t index = (group.position + row) * problem.dilation[0] + run.residue;
    const T* from = static_cast<const T*>(call.logsumexp) +
                    row_offset(problem, run.batch, index, tile.begin, run.head);
    V logsumexp{};
    for (int64_t lane = 0; lane < tile.count; ++lane) logsumexp[lane] = from[lane * problem.heads];
    logsumexp *= static_cast<T>(1.4426950408889634);
    weigh_row<V>(buffers, problem, partners, tile, row, own, logsumexp);
  }
  if (!tile.owned || group.position < run.begin_position || group.position >= run.end_position) {
    return;  // another unit computes these queries' gradients
  }

  if (call.grad_bias) {
    const PhaseTimer timer(Phase::kGradBias, is_border);
    add_grad_bias<V>(buffers, problem, run, partners, tile);
  }

  const int64_t row_size = problem.head_dim * kLanes;
  T* grad_queries[kRows];
  for (int64_t row = 0; row < group.rows; ++row) {
    grad_queries[row] = buffers.grad_queries + row * row_size;
  }
  {
    const PhaseTimer timer(Phase::kGradQuery, is_border);
    __builtin_memset(buffers.grad_queries, 0, group.rows * row_size * sizeof(T));
    add<V>(partners, group.rows, buffers.tile_grads, kLanes, buffers.keys, grad_queries, kLanes);
  }
  const PhaseTimer timer(Phase::kStore, is_border);
  for (int64_t row = 0; row < group.rows; ++row) {
    const int64_t index = (group.position + row) * problem.dilation[0] + run.residue;
    store_tokens<kLanes>(grad_queries[row], kLanes, V{} + static_cast<T>(problem.scale), tile.count,
                         problem.head_dim,
                         call.grad_query.at<Element>(run.batch, index, tile.begin, run.head),
                         call.grad_query.axis_stride[1], call.grad_query.channel_stride);
  }
}

// The keys of a tile: adds the contribution of the group's queries to grad_key and grad_value.
template <typename V, typename T>
void backward_key_tile(const BackwardCall& call, const BackwardBuffers<T>& buffers, const Run& run,
                       const RowGroup& group, const Columns& columns, const ColumnTile& tile) {
  const PhaseTimer timer(Phase::kGradKeyValue, tile.access != Access::kPlain);
  constexpr int kLanes = sizeof(V) / sizeof(T);
  const Problem& problem = call.problem;
  const int64_t k0 = problem.kernel_size[0];
  const int64_t ring_row = problem.head_dim * buffers.pitch;
  const int64_t own = Columns::kPadding + tile.begin - columns.key_begin;
  const int64_t partner_column = Columns::kPadding + tile.partner - columns.key_begin;
  if (tile.access == Access::kMasked) make_masks<kLanes, T>(tile, buffers.masks);

  int64_t begin = group.first_key(), end = group.end_key(k0);
  if (begin < run.begin_position) begin = run.begin_position;
  if (end > run.end_position) end = run.end_position;
  for (int64_t key = begin; key < end; key += kRows) {
    const int64_t rows = end - key < kRows ? end - key : kRows;
    T *grad_keys[kRows], *grad_values[kRows];
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t slot = (key + i) % buffers.ring_rows * ring_row + own;
      grad_keys[i] = buffers.grad_keys + slot;
      grad_values[i] = buffers.grad_values + slot;
    }
    int64_t count = 0;
    for (int64_t row = 0; row < group.rows; ++row) {
      // Of these keys, those in the row's window.
      const int64_t first = group.start[row] > key ? group.start[row] : key;
      const int64_t last = group.start[row] + k0 < key + rows ? group.start[row] + k0 : key + rows;
      if (first >= last) continue;
      Partner& partner = buffers.partners[count++];
      partner.lanes = row * ring_row + partner_column;
      partner.first = first - key;
      partner.rows = last - first;
      for (int64_t i = 0; i < partner.rows; ++i) {
        // If a query is tile.lowest after a key, the key is at the query's offset -tile.lowest.
        partner.weights[i] =
            plane_offset(problem, buffers, row, first + i - group.start[row], -tile.lowest) + own;
      }
    }
    const Partners<T> partners{buffers.partners, count,      buffers.pitch, problem.dilation[1],
                               problem.head_dim, tile.steps, tile.access,   buffers.masks,
                               nullptr,          nullptr,    nullptr};
    add<V>(partners, rows, buffers.weights, -buffers.pitch, buffers.grad_outputs, grad_values,
           buffers.pitch);
    add<V>(partners, rows, buffers.grad_logits, -buffers.pitch, buffers.queries, grad_keys,
           buffers.pitch);
  }
}

// Stores a complete row of grad_key or grad_value, and clears it for another row.
template <typename Element, typename T>
void store_key_row(const TensorView& tensor, const Problem& problem, const Run& run,
                   const Columns& columns, int64_t position, T factor, T* row, int64_t pitch) {
  constexpr int kLanes = kVectorBytes / sizeof(T);
  const bool owned = run.begin_position <= position && position < run.end_position;
  const int64_t index = position * problem.dilation[0] + run.residue;
  for (int64_t column = columns.begin; owned && column < columns.end; column += kLanes) {
    const int64_t left = columns.end - column;
    store_tokens<kLanes>(row + Columns::kPadding + column - columns.key_begin, pitch,
                         Lanes<T, kLanes>{} + factor, left < kLanes ? left : kLanes,
                         problem.head_dim, tensor.at<Element>(run.batch, index, column, run.head),
                         tensor.axis_stride[1], tensor.channel_stride);
  }
  __builtin_memset(row, 0, problem.head_dim * pitch * sizeof(T));
}

// Sums the lanes of a slab's gradient of the bias, stores the sums and clears the lanes.
template <typename T>
void store_grad_bias(const BackwardCall& call, const BackwardBuffers<T>& buffers, int64_t slab) {
  constexpr int kLanes = kVectorBytes / sizeof(T);
  const int64_t size = call.problem.bias_size();
  T* to = static_cast<T*>(call.grad_bias) + slab * size;
  for (int64_t i = 0; i < size; ++i) {
    T sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += buffers.grad_bias[i * kLanes + lane];
    to[i] = sum;
  }
  __builtin_memset(buffers.grad_bias, 0, size * kLanes * sizeof(T));
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
  const int64_t pitch = buffers.pitch;
  const int64_t ring_row = problem.head_dim * pitch;
  const T query_factor = static_cast<T>(problem.scale * 1.4426950408889634);
  int64_t slab = run.first_slab;
  if (run.begin_position < run.end_position) {
    const int64_t first_query = first_query_of(run, k0);
    const int64_t last_query =
        attending_queries({run.residue, run.end_position - 1, run.count}, k0).last;
    int64_t loaded = window_start({run.residue, first_query, run.count}, k0);
    int64_t stored = loaded;
    int64_t slab_end = run.begin_position;  // where the next slab begins
    for (int64_t position = first_query; position <= last_query;) {
      // A group lies within one slab, or outside of the run.
      int64_t end = last_query + 1;
      if (position < run.end_position) {
        if (position == slab_end) slab_end += call.plan.slab_rows;
        if (slab_end > run.end_position) slab_end = run.end_position;
        end = slab_end;
      }
      const RowGroup group = make_group(problem, run, position, end, buffers.rows);
      for (; loaded < group.end_key(k0); ++loaded) {
        const PhaseTimer timer(Phase::kLoad);
        const int64_t to = loaded % buffers.ring_rows * ring_row + Columns::kPadding;
        load_row<Element>(call.key, problem, run, loaded, columns.key_begin, columns.key_end, T(1),
                          buffers.keys + to, pitch);
        load_row<Element>(call.value, problem, run, loaded, columns.key_begin, columns.key_end,
                          T(1), buffers.values + to, pitch);
      }
      for (int64_t row = 0; row < group.rows; ++row) {
        const PhaseTimer timer(Phase::kLoad);
        const int64_t to =
            row * ring_row + Columns::kPadding + columns.query_begin - columns.key_begin;
        load_row<Element>(call.query, problem, run, position + row, columns.query_begin,
                          columns.query_end, query_factor, buffers.queries + to, pitch);
        load_row<Element>(call.grad_output, problem, run, position + row, columns.query_begin,
                          columns.query_end, T(1), buffers.grad_outputs + to, pitch);
      }
      const NextRows after = next_rows(problem, run, group, loaded, last_query + 1, next,
                                       next ? first_query_of(*next, k0) : 0, buffers.rows);
      // A tile of keys follows as soon as all queries that attend to it are done, while their
      // weights are still in the cache.
      const TileList tiles = columns.query_tiles(), key_tiles = columns.key_tiles();
      int64_t key_tile = 0;
      for (int64_t i = 0; i < tiles.count; ++i) {
        const ColumnTile& tile = tiles.tiles[i];
        Prefetcher prefetcher = make_prefetcher<Element>(problem, tile);
        prefetch_rows<Element>(call.query, problem, after.run, tile, after.query_begin,
                               after.query_end, prefetcher);
        prefetch_rows<Element>(call.grad_output, problem, after.run, tile, after.query_begin,
                               after.query_end, prefetcher);
        prefetch_rows<Element>(call.key, problem, after.run, tile, after.key_begin, after.key_end,
                               prefetcher);
        prefetch_rows<Element>(call.value, problem, after.run, tile, after.key_begin, after.key_end,
                               prefetcher);
        prefetch_rows<Element>(call.grad_query, problem, run, tile, position, position + group.rows,
                               prefetcher);
        prefetch_rows<Element>(call.grad_key, problem, run, tile, stored, stored + group.rows,
                               prefetcher);
        prefetch_rows<Element>(call.grad_value, problem, run, tile, stored, stored + group.rows,
                               prefetcher);
        with_vector<T>(tile.lanes, [&](auto vector) {
          backward_query_tile<decltype(vector), Element>(call, buffers, run, group, columns, tile,
                                                         prefetcher);
        });
        const bool is_last = i + 1 == tiles.count;
        for (; key_tile < key_tiles.count; ++key_tile) {
          const ColumnTile& keys = key_tiles.tiles[key_tile];
          const int64_t end_partner =
              keys.partner + (keys.steps - 1) * problem.dilation[1] + keys.count;
          if (!is_last && end_partner > tile.begin + tile.count) break;
          with_vector<T>(keys.lanes, [&](auto vector) {
            backward_key_tile<decltype(vector)>(call, buffers, run, group, columns, keys);
          });
        }
      }
      position += group.rows;
      // Windows never move back: rows of keys before the next query's window are complete.
      const int64_t complete =
          position <= last_query ? window_start({run.residue, position, run.count}, k0) : loaded;
      for (; stored < complete; ++stored) {
        const PhaseTimer timer(Phase::kStore);
        T* grad_key = buffers.grad_keys + stored % buffers.ring_rows * ring_row;
        T* grad_value = buffers.grad_values + stored % buffers.ring_rows * ring_row;
        // The queries were multiplied by scale * log2(e).
        store_key_row<Element>(call.grad_key, problem, run, columns, stored,
                               static_cast<T>(0.6931471805599453), grad_key, pitch);
        store_key_row<Element>(call.grad_value, problem, run, columns, stored, T(1), grad_value,
                               pitch);
      }
      if (call.grad_bias && position == slab_end && position > run.begin_position) {
        store_grad_bias(call, buffers, slab++);
      }
    }
  }
  // Slabs beyond the end of a short sub-sequence have no rows.
  for (; call.grad_bias && slab < run.end_slab; ++slab) store_grad_bias(call, buffers, slab);
}

template <typename T>
int64_t backward_scratch_of(const BackwardCall& call, const Columns& columns) {
  ScratchAllocator allocator{nullptr};
  backward_buffers<T>(call.problem, columns, allocator);
  return allocator.bytes;
}

int64_t backward_scratch(const BackwardCall& call, const Columns& columns) {
  return call.dtype == Dtype::kFloat64 ? backward_scratch_of<double>(call, columns)
                                       : backward_scratch_of<float>(call, columns);
}

template <typename Element, typename T>
void backward_in(const BackwardCall& call, const Run& run, const Run* next, const Columns& columns,
                 void* scratch) {
  ScratchAllocator allocator{static_cast<char*>(scratch)};
  backward_run<Element>(call, backward_buffers<T>(call.problem, columns, allocator), run, next,
                        columns);
}

void backward(const BackwardCall& call, const Run& run, const Run* next, const Columns& columns,
              void* scratch) {
  switch (call.dtype) {
    case Dtype::kFloat32:
      return backward_in<float, float>(call, run, next, columns, scratch);
    case Dtype::kFloat64:
      return backward_in<double, double>(call, run, next, columns, scratch);
    case Dtype::kBFloat16:
      return backward_in<BFloat16, float>(call, run, next, columns, scratch);
    case Dtype::kFloat16:
      return backward_in<Float16, float>(call, run, next, columns, scratch);
  }
}
