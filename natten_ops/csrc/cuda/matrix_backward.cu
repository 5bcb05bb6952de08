// The backward pass on tensor cores, two kernels without atomics. matrix.cuh says how tokens are
// spread.
//   - By queries: for the keys around a patch, 16 at a time, the logits again, weights
//     P = exp(logit - logsumexp), dP = grad_output . value, and the logits' gradients
//     D = P (dP - delta), where delta = grad_output . output is also stored for the other kernel.
//     grad_query = scale * sum of D key. D is added to the gradient of the bias: each warp has a
//     table of its own in shared memory, a block adds up its warps' tables for all of its tiles of
//     one head, and a last kernel adds up the blocks' tables. The order is always the same.
//   - By keys: for the queries that attend to a patch's keys, the same products the other way
//     round; grad_value = sum of P grad_output, grad_key = scale * sum of D query.
//
// Shared memory of a block: keys and values (by queries) or queries and grad_output (by keys) of
// its region, (rows, columns, kDim); the head's table of the bias; by queries the tables of the
// bias' gradient, one a warp; by keys logsumexp (times log2(e)) and delta of the region.
#include "matrix.cuh"
#include "table_sum.cuh"

namespace natten_ops::cuda {

namespace {

template <typename E, int kHeadDim, int kRows>
struct BackwardVariant {
  using Element = E;
  static constexpr int kDim = kHeadDim;
  static constexpr int kPatchRows = kRows;
};

template <bool kValue>
struct Constant {
  static constexpr bool value = kValue;
};

struct BackwardParameters {
  BackwardCall call;
  Tiling tiling;
  float* delta;       // (batch, axis 0, axis 1, heads)
  float* block_sums;  // (slots, heads, bias_size), or null
};

template <typename Variant>
int64_t region_bytes(const Tiling& tiling) {
  return int64_t(2) * tiling.region_tokens() * Variant::kDim * sizeof(typename Variant::Element);
}

template <typename Variant>
int64_t query_shared_bytes(const BackwardCall& call, const Tiling& tiling) {
  const int64_t tables = call.grad_bias.data ? kMatrixWarps * call.problem.bias_size() : 0;
  return region_bytes<Variant>(tiling) + (BiasTable::size(call.problem) + tables) * sizeof(float);
}

template <typename Variant>
int64_t key_shared_bytes(const BackwardCall& call, const Tiling& tiling) {
  return region_bytes<Variant>(tiling) +
         (BiasTable::size(call.problem) + 2 * tiling.region_tokens()) * sizeof(float);
}

// Adds the gradients of 8 keys' logits to a warp's table. In two dimensions no two threads have the
// same entry; in one, those of a row's four threads take turns.
template <typename Variant, typename Region>
NATTEN_OPS_DEVICE void add_to_table(const Region& region, const Walk& walk, const int (&entry)[2],
                                    int table_columns, const bool (&owns)[2],
                                    const float (&grads)[4], float* table) {
  constexpr int kTurns = Variant::kPatchRows == 1 ? 4 : 1;
  const int c = thread_index() % 4;
  NATTEN_OPS_UNROLL
  for (int turn = 0; turn < kTurns; ++turn) {
    NATTEN_OPS_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int e = j / 2, column = 8 * walk.column + 2 * c + j % 2;
      const bool is_turn = kTurns == 1 || c == turn;
      if (is_turn && owns[e] && region.has(e, walk.row, column)) {
        table[entry[e] + walk.row * table_columns + column] += grads[j];
      }
      warp_barrier();
    }
  }
}

// The gradients of a patch's queries. Adds those of the logits to the warp's table, if there is
// one.
template <typename Variant, bool kCareful, typename Region>
NATTEN_OPS_DEVICE void visit_keys(const Problem& problem, const Region& region,
                                  const uint32_t (&queries)[Variant::kDim / 16][4],
                                  const uint32_t (&grad_outputs)[Variant::kDim / 16][4],
                                  const typename Variant::Element* keys,
                                  const typename Variant::Element* values, const float* bias,
                                  const int (&entry)[2], const float (&logsumexp)[2],
                                  const float (&delta)[2], const bool (&owns)[2], float* table,
                                  float (&grad_queries)[Variant::kDim / 8][4]) {
  using Element = typename Variant::Element;
  constexpr int kDim = Variant::kDim;
  const int table_columns = 2 * static_cast<int>(problem.kernel_size[1]) - 1;
  const float scale = static_cast<float>(problem.scale) * kLog2e;
  const int column_eights = (region.columns.size() + 7) / 8;
  const int eights = region.rows.size() * column_eights;
  clear(grad_queries);
  Walk walk(column_eights);
  for (int done = 0; done < eights; done += 2) {
    float grads[2][4];
    Sixteen partners;
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 2; ++i, walk.next()) {
      partners.eights[i] = walk;
      partners.tokens[i] = region.token(walk);
      float logits[4] = {}, grad_weights[4] = {};
      multiply_partners<Element, kDim>(queries, keys, partners.tokens[i], logits);
      multiply_partners<Element, kDim>(grad_outputs, values, partners.tokens[i], grad_weights);
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int e = j / 2, column = 8 * walk.column + thread_index() % 4 * 2 + j % 2;
        const bool has = region.has(e, walk.row, column);
        const float entry_bias = bias[has ? entry[e] + walk.row * table_columns + column : 0];
        const float weight = exp2_of(logits[j] * scale + entry_bias - logsumexp[e]);
        grads[i][j] = has ? weight * (grad_weights[j] - delta[e]) : 0.0f;
      }
      if (table) {
        add_to_table<Variant>(region, walk, entry, table_columns, owns, grads[i], table);
      }
    }
    accumulate<Element, kDim, kCareful>(grads[0], grads[1], region, partners, keys, grad_queries);
  }
}

template <typename Variant>
NATTEN_OPS_KERNEL(kMatrixThreads, Variant::kDim == 32 ? 3 : 2)
matrix_query_kernel(const BackwardParameters parameters) {
  using Element = typename Variant::Element;
  using TilePatch = Patch<Variant::kPatchRows>;
  constexpr int kDim = Variant::kDim;
  const BackwardCall& call = parameters.call;
  const Problem& problem = call.problem;
  const Tiling& tiling = parameters.tiling;
  const int heads = static_cast<int>(problem.heads);
  const int head = block_index() % heads, slot = block_index() / heads;
  const int pitch = tiling.region[1];
  const int bias_size = static_cast<int>(problem.bias_size());

  Element* keys = reinterpret_cast<Element*>(shared_memory());
  Element* values = keys + tiling.region_tokens() * kDim;
  float* bias_memory = reinterpret_cast<float*>(values + tiling.region_tokens() * kDim);
  float* tables = bias_memory + BiasTable::size(problem);
  float* table = tables + thread_index() / 32 * bias_size;
  const float* bias =
      BiasTable::load<typename Variant::Element>(problem, call.bias, head, bias_memory);
  if (parameters.block_sums) {
    for (int i = thread_index(); i < kMatrixWarps * bias_size; i += kMatrixThreads) tables[i] = 0;
  }

  for (int64_t number = int64_t(slot) * tiling.tiles_per_block;
       number < int64_t(slot + 1) * tiling.tiles_per_block; ++number) {
    Tile tile;
    if (!find_tile(problem, tiling, head, number, tile)) continue;
    const Span rows = region_of<true>(problem, tile, 0),
               columns = region_of<true>(problem, tile, 1);
    block_barrier();  // the last tile's region is no longer needed
    copy_region<Element, kDim>(problem, tile, rows, columns, pitch, call.key, keys);
    copy_region<Element, kDim>(problem, tile, rows, columns, pitch, call.value, values);
    copy_async_commit();
    copy_async_wait<0>();
    block_barrier();

    for (int at = thread_index() / 32; at < TilePatch::count(tiling); at += kMatrixWarps) {
      const TilePatch patch(tiling, tile, at);
      if (!patch.exists) continue;
      const PatchRegion<true, Variant::kPatchRows> region(problem, tile, patch, rows, columns,
                                                          pitch);
      uint32_t queries[kDim / 16][4], grad_outputs[kDim / 16][4];
      load_patch<Element, kDim>(problem, tile, patch, call.grad_output, grad_outputs);
      float delta[2] = {}, logsumexp[2];
      {
        uint32_t outputs[kDim / 16][4];
        load_patch<Element, kDim>(problem, tile, patch, call.output, outputs);
        NATTEN_OPS_UNROLL
        for (int i = 0; i < kDim / 4; ++i) {
          float left[2], right[2];
          unpack<Element>(grad_outputs[i / 4][i % 4], left[0], left[1]);
          unpack<Element>(outputs[i / 4][i % 4], right[0], right[1]);
          delta[i % 2] += left[0] * right[0] + left[1] * right[1];
        }
      }
      load_patch<Element, kDim>(problem, tile, patch, call.query, queries);
      int entry[2];
      NATTEN_OPS_UNROLL
      for (int e = 0; e < 2; ++e) {
        delta[e] = sum_of_row(delta[e]);
        const int64_t own = tile.row_of(problem, patch.row_of(tile, e), patch.column_of(tile, e));
        logsumexp[e] = static_cast<const float*>(call.logsumexp)[own] * kLog2e;
        if (patch.owns[e] && thread_index() % 4 == 0) parameters.delta[own] = delta[e];
        // The table's entry for the key at row 0 and column 0 of the patch's region.
        entry[e] = bias_entry(problem, region.rows.first - patch.own_row[e],
                              region.columns.first - patch.own_column[e]);
      }

      float grad_queries[kDim / 8][4];
      const auto visit = [&](auto careful, float* own_table) {
        visit_keys<Variant, decltype(careful)::value>(problem, region, queries, grad_outputs, keys,
                                                      values, bias, entry, logsumexp, delta,
                                                      patch.owns, own_table, grad_queries);
      };
      visit(Constant<false>(), parameters.block_sums ? table : nullptr);
      if (warp_any(!is_finite(grad_queries))) visit(Constant<true>(), nullptr);
      const float factors[2] = {static_cast<float>(problem.scale),
                                static_cast<float>(problem.scale)};
      store_patch<Element, kDim>(problem, tile, patch, call.grad_query, grad_queries, factors);
    }
  }

  if (!parameters.block_sums) return;
  block_barrier();
  float* sums = parameters.block_sums + int64_t(block_index()) * bias_size;
  for (int i = thread_index(); i < bias_size; i += kMatrixThreads) {
    float sum = 0;
    for (int warp = 0; warp < kMatrixWarps; ++warp) sum += tables[warp * bias_size + i];
    sums[i] = sum;
  }
}

// The gradients of a patch's keys and values, or of one of them.
template <typename Variant, bool kCareful, bool kWithKeys, bool kWithValues, typename Region>
NATTEN_OPS_DEVICE void visit_queries(
    const Problem& problem, const Region& region, const uint32_t (&keys)[Variant::kDim / 16][4],
    const uint32_t (&values)[Variant::kDim / 16][4], const typename Variant::Element* queries,
    const typename Variant::Element* grad_outputs, const float* bias, const int (&entry)[2],
    const float* logsumexps, const float* deltas, float (&grad_keys)[Variant::kDim / 8][4],
    float (&grad_values)[Variant::kDim / 8][4]) {
  using Element = typename Variant::Element;
  constexpr int kDim = Variant::kDim;
  const int table_columns = 2 * static_cast<int>(problem.kernel_size[1]) - 1;
  const float scale = static_cast<float>(problem.scale) * kLog2e;
  const int column_eights = (region.columns.size() + 7) / 8;
  const int eights = region.rows.size() * column_eights;
  if (kWithKeys) clear(grad_keys);
  if (kWithValues) clear(grad_values);
  Walk walk(column_eights);
  for (int done = 0; done < eights; done += 2) {
    float weights[2][4], grads[2][4];
    Sixteen partners;
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 2; ++i, walk.next()) {
      partners.eights[i] = walk;
      partners.tokens[i] = region.token(walk);
      float logits[4] = {}, grad_weights[4] = {};
      multiply_partners<Element, kDim>(keys, queries, partners.tokens[i], logits);
      if (kWithKeys) {
        multiply_partners<Element, kDim>(values, grad_outputs, partners.tokens[i], grad_weights);
      }
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int e = j / 2, column = 8 * walk.column + thread_index() % 4 * 2 + j % 2;
        const bool has = region.has(e, walk.row, column);
        const int query = region.token(walk.row, column);
        const float entry_bias = bias[has ? entry[e] - walk.row * table_columns - column : 0];
        const float weight = exp2_of(logits[j] * scale + entry_bias - logsumexps[query]);
        weights[i][j] = has ? weight : 0.0f;
        grads[i][j] = has ? weight * (grad_weights[j] - deltas[query]) : 0.0f;
      }
    }
    if (kWithValues) {
      accumulate<Element, kDim, kCareful>(weights[0], weights[1], region, partners, grad_outputs,
                                          grad_values);
    }
    if (kWithKeys) {
      accumulate<Element, kDim, kCareful>(grads[0], grads[1], region, partners, queries, grad_keys);
    }
  }
}

template <typename Variant>
NATTEN_OPS_KERNEL(kMatrixThreads, Variant::kDim == 32 ? 3 : 2)
matrix_key_kernel(const BackwardParameters parameters) {
  using Element = typename Variant::Element;
  using TilePatch = Patch<Variant::kPatchRows>;
  constexpr int kDim = Variant::kDim;
  const BackwardCall& call = parameters.call;
  const Problem& problem = call.problem;
  const Tiling& tiling = parameters.tiling;
  const int heads = static_cast<int>(problem.heads);
  Tile tile;
  if (!find_tile(problem, tiling, block_index() % heads, block_index() / heads, tile)) return;
  const int pitch = tiling.region[1];

  Element* queries = reinterpret_cast<Element*>(shared_memory());
  Element* grad_outputs = queries + tiling.region_tokens() * kDim;
  float* logsumexps = reinterpret_cast<float*>(grad_outputs + tiling.region_tokens() * kDim);
  float* deltas = logsumexps + tiling.region_tokens();
  const Span rows = region_of<false>(problem, tile, 0);
  const Span columns = region_of<false>(problem, tile, 1);
  copy_region<Element, kDim>(problem, tile, rows, columns, pitch, call.query, queries);
  copy_region<Element, kDim>(problem, tile, rows, columns, pitch, call.grad_output, grad_outputs);
  copy_async_commit();
  for (int row = thread_index() / 32; row < rows.size(); row += kMatrixWarps) {
    for (int column = thread_index() % 32; column < columns.size(); column += 32) {
      const int64_t from = tile.row_of(problem, rows.first + row, columns.first + column);
      logsumexps[row * pitch + column] = static_cast<const float*>(call.logsumexp)[from] * kLog2e;
      deltas[row * pitch + column] = parameters.delta[from];
    }
  }
  const float* bias = BiasTable::load<typename Variant::Element>(problem, call.bias, tile.head,
                                                                 deltas + tiling.region_tokens());
  copy_async_wait<0>();
  block_barrier();

  for (int at = thread_index() / 32; at < TilePatch::count(tiling); at += kMatrixWarps) {
    const TilePatch patch(tiling, tile, at);
    if (!patch.exists) continue;
    const PatchRegion<false, Variant::kPatchRows> region(problem, tile, patch, rows, columns,
                                                         pitch);
    uint32_t keys[kDim / 16][4], values[kDim / 16][4];
    load_patch<Element, kDim>(problem, tile, patch, call.key, keys);
    load_patch<Element, kDim>(problem, tile, patch, call.value, values);
    // The table's entry for the query at row 0 and column 0 of the patch's region.
    int entry[2];
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      entry[e] = bias_entry(problem, patch.own_row[e] - region.rows.first,
                            patch.own_column[e] - region.columns.first);
    }

    const float ones[2] = {1.0f, 1.0f};
    const float factors[2] = {static_cast<float>(problem.scale), static_cast<float>(problem.scale)};
    float grad_keys[kDim / 8][4], grad_values[kDim / 8][4];
    const auto visit = [&](auto careful, auto with_keys, auto with_values) {
      visit_queries<Variant, decltype(careful)::value, decltype(with_keys)::value,
                    decltype(with_values)::value>(problem, region, keys, values, queries,
                                                  grad_outputs, bias, entry, logsumexps, deltas,
                                                  grad_keys, grad_values);
    };
    const auto visit_until_finite = [&](auto with_keys, auto with_values) {
      visit(Constant<false>(), with_keys, with_values);
      const bool keys_are_finite = !decltype(with_keys)::value || is_finite(grad_keys);
      const bool values_are_finite = !decltype(with_values)::value || is_finite(grad_values);
      if (warp_any(!keys_are_finite || !values_are_finite)) {
        visit(Constant<true>(), with_keys, with_values);
      }
    };
    if constexpr (kDim <= 64) {
      visit_until_finite(Constant<true>(), Constant<true>());
      store_patch<Element, kDim>(problem, tile, patch, call.grad_value, grad_values, ones);
      store_patch<Element, kDim>(problem, tile, patch, call.grad_key, grad_keys, factors);
    } else {
      // Registers hold one of them.
      visit_until_finite(Constant<false>(), Constant<true>());
      store_patch<Element, kDim>(problem, tile, patch, call.grad_value, grad_values, ones);
      visit_until_finite(Constant<true>(), Constant<false>());
      store_patch<Element, kDim>(problem, tile, patch, call.grad_key, grad_keys, factors);
    }
  }
}

// The two kernels' tilings. A block computes several tiles, so that the sums of the bias' gradient
// take at most about a hundredth of the inputs' memory.
template <typename Variant>
bool make_tilings(const BackwardCall& call, Tiling& by_queries, Tiling& by_keys) {
  const Problem& problem = call.problem;
  const int64_t limit = shared_memory_limit();
  if (!find_tiling<true>(
          problem, limit,
          [&](const Tiling& tiling) { return query_shared_bytes<Variant>(call, tiling); },
          by_queries) ||
      !find_tiling<false>(
          problem, limit,
          [&](const Tiling& tiling) { return key_shared_bytes<Variant>(call, tiling); }, by_keys)) {
    return false;
  }
  if (call.grad_bias.data) {
    const int64_t tile_bytes =
        int64_t(3) * by_queries.tile[0] * by_queries.tile[1] * problem.head_dim * 2;
    by_queries.tiles_per_block =
        static_cast<int>((100 * problem.bias_size() * 4 + tile_bytes - 1) / tile_bytes);
  }
  return true;
}

template <typename F>
auto with_backward_variant(const BackwardCall& call, F f) {
  const auto with_element = [&](auto element) {
    using Element = decltype(element);
    return with_dim(call.problem, [&](auto dim) {
      return call.problem.length[0] == 1 ? f(BackwardVariant<Element, dim(), 1>())
                                         : f(BackwardVariant<Element, dim(), 8>());
    });
  };
  return call.dtype == Dtype::kFloat16 ? with_element(Float16()) : with_element(BFloat16());
}

int64_t delta_bytes(const Problem& problem) {
  const int64_t bytes =
      problem.batch * problem.length[0] * problem.length[1] * problem.heads * sizeof(float);
  return (bytes + 15) / 16 * 16;
}

}  // namespace

bool matrix_covers(const BackwardCall& call) {
  if (!matrix_covers(call.problem, call.dtype,
                     {&call.grad_output, &call.query, &call.key, &call.value, &call.output,
                      &call.grad_query, &call.grad_key, &call.grad_value})) {
    return false;
  }
  return with_backward_variant(call, [&](auto variant) {
    Tiling by_queries, by_keys;
    return make_tilings<decltype(variant)>(call, by_queries, by_keys);
  });
}

int64_t matrix_backward_scratch(const BackwardCall& call) {
  int64_t bytes = delta_bytes(call.problem);
  if (!call.grad_bias.data) return bytes;
  return with_backward_variant(call, [&](auto variant) {
    Tiling by_queries, by_keys;
    if (make_tilings<decltype(variant)>(call, by_queries, by_keys)) {
      bytes += slots_of(call.problem, by_queries) * call.problem.heads * call.problem.bias_size() *
               sizeof(float);
    }
    return bytes;
  });
}

const char* matrix_backward(const BackwardCall& call, void* stream) {
  return with_backward_variant(call, [&](auto variant) -> const char* {
    using Variant = decltype(variant);
    const Problem& problem = call.problem;
    Tiling by_queries, by_keys;
    make_tilings<Variant>(call, by_queries, by_keys);
    BackwardParameters parameters{call, by_queries, static_cast<float*>(call.scratch), nullptr};
    if (call.grad_bias.data) {
      parameters.block_sums =
          reinterpret_cast<float*>(static_cast<char*>(call.scratch) + delta_bytes(problem));
    }
    const int64_t slots = slots_of(problem, by_queries);
    const char* error = launch(matrix_query_kernel<Variant>, slots * problem.heads, kMatrixThreads,
                               query_shared_bytes<Variant>(call, by_queries), stream, parameters);
    if (error) return error;
    parameters.tiling = by_keys;
    error = launch(matrix_key_kernel<Variant>, slots_of(problem, by_keys) * problem.heads,
                   kMatrixThreads, key_shared_bytes<Variant>(call, by_keys), stream, parameters);
    if (error || !call.grad_bias.data) return error;
    return sum_tables<float>(parameters.block_sums, slots, problem.heads * problem.bias_size(),
                             call.grad_bias, stream);
  });
}

}  // namespace natten_ops::cuda
