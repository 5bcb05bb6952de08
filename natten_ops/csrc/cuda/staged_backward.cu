// The backward pass in float32; staged.cuh says how. With weights P = exp(logit - logsumexp), their
// gradients dP = <grad_output, value>, and those of the logits D = P (dP - delta), where delta =
// <grad_output, output>:
//   - by queries: grad_query is the sum of D key. This kernel also writes logsumexp and delta side
//     by side (Two) for the other;
//   - by keys: over the queries that attend to a key, grad_key is the sum of D query, grad_value
//     that of P grad_output.
//
// The gradient of the bias: a warp writes its D of a row of keys to shared memory, adds them up
// over its columns and adds the sums to its table. A block writes one table for its tile, and a
// last kernel adds up these tables, always in the same order.
//
// Shared memory of a block: the table of the bias, and the region: of keys and values, then each
// warp's row and table (by queries); or of queries and grad_output, then their Two (by keys).
#include "staged.cuh"
#include "table_sum.cuh"

namespace natten_ops::cuda {

namespace staged {

namespace {

// Of a multiprocessor, so that a thread has 168 registers by queries and 255 by keys.
constexpr int kQueryWarps = 12;
constexpr int kKeyWarps = 8;

namespace by_queries {
enum : int {
  kQuery,
  kKey,
  kValue,
  kOutput,
  kGradOutput,
  kGradQuery,
  kLogsumexp,
  kNumbers,
  kTensors,
};
}  // namespace by_queries

struct QueryParameters {
  Common common;
  Tensor tensors[by_queries::kTensors];
  float* block_sums;  // (slots, heads, bias_size), or null
};

namespace by_keys {
enum : int { kQuery, kKey, kValue, kGradOutput, kGradKey, kGradValue, kNumbers, kTensors };
}  // namespace by_keys

struct KeyParameters {
  Common common;
  Tensor tensors[by_keys::kTensors];
};

// Of a query: logsumexp in units of log2, and delta.
struct alignas(8) Two {
  float logsumexp, delta;
};

// P of a logit in units of log2.
NATTEN_OPS_DEVICE float weight_of(const Two& numbers, float logit) {
  return exp2_of(logit - numbers.logsumexp);
}

// ---- By queries ----

// A warp's sums of the bias' gradient.
template <typename V>
struct BiasGradient {
  static constexpr int kNumbers = V::kRows * V::kColumns;  // of D for a column of keys

  const Common& common;
  float* row;                     // (kernel_size[1], kRows, kColumns): the D of a row of keys
  float* table;                   // (bias_size)
  int first_entry, column_entry;  // of a row of keys and the query `own`: the row's and its first
  bool is_even;                   // all columns exist and have the same column_entry
  bool has_row;                   // the row of query `own` exists

  // `problem` is a Problem or Common.
  template <typename T>
  static NATTEN_OPS_HOST_DEVICE int numbers(const T& problem) {
    const int entries = static_cast<int>(problem.bias_size());
    return static_cast<int>(problem.kernel_size[1]) * kNumbers + (entries + 3) / 4 * 4;
  }

  // The warp's memory; the table becomes zeros.
  NATTEN_OPS_DEVICE BiasGradient(const Common& common, float* memory)
      : common(common),
        row(memory + thread_index() / 32 * numbers(common)),
        table(row + common.kernel_size[1] * kNumbers) {
    NATTEN_OPS_NO_UNROLL
    for (int i = thread_index() % 32; i < common.bias_size(); i += 32) table[i] = 0;
  }

  // Adds up the row, which has `kernel_size[1]` keys for each query.
  template <typename Queries>
  NATTEN_OPS_DEVICE void add_row(const Lane<V>& lane, bool has_column) {
    const int count = common.kernel_size[1] * V::kRows;
    const int own_entry = first_entry + (Queries::Near::has(lane.own) ? 0 : common.far_entries);
    warp_barrier();
    if (is_even) {
      NATTEN_OPS_NO_UNROLL
      for (int i = thread_index() % 32; i < count; i += 32) {
        const Four* numbers = reinterpret_cast<const Four*>(row + i * V::kColumns);
        float sum = 0;
        NATTEN_OPS_UNROLL
        for (int n = 0; n < V::kColumns; ++n) sum += numbers[n / 4].numbers[n % 4];
        // Number i is one of query `own`. A query that stands in for another must not add.
        if (has_row) table[own_entry + column_entry + i / V::kRows] += sum;
      }
    } else {
      NATTEN_OPS_NO_UNROLL
      for (int column = 0; column < V::kColumns; ++column) {
        const int entry = own_entry + shuffle(column_entry, column * V::kGroup);
        const bool exists = shuffle(static_cast<int>(has_column), column * V::kGroup);
        NATTEN_OPS_NO_UNROLL
        for (int i = thread_index() % 32; i < count; i += 32) {
          if (exists && has_row) table[entry + i / V::kRows] += row[i * V::kColumns + column];
        }
        warp_barrier();
      }
    }
    first_entry += common.entries();
    warp_barrier();
  }
};

template <typename V>
struct QueryGradients {
  const Lane<V>& lane;
  Cursor<V> keys;     // the first tensor; values are the second
  const float* bias;  // the table's entry of the query `own` and the key at the cursor
  float* row;         // where the thread's D of that key goes
  typename V::Tokens queries, grad_outputs, sums;
  Two numbers;  // of query `own`
  bool exists;  // query `own`

  // The next kKeys keys of a row, and of the row that is `far` tokens further on. `entries`: from
  // the first row's bias to that of the query `own`.
  template <typename Queries, int kKeys>
  NATTEN_OPS_DEVICE void visit(int far, int entries) {
    typename V::Channels key[kKeys];
    float grads[kKeys];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      float products[V::kRows];
      keys.template load<0>(i, key[i]);
      multiply<typename Queries::Near>(queries, key[i], products);
      multiply_far<Queries, 0>(keys, far + i, queries, products);
      const float logit = sum_over_group(lane, products) + bias[entries + i];
      typename V::Channels value;
      keys.template load<1>(i, value);
      multiply<typename Queries::Near>(grad_outputs, value, products);
      multiply_far<Queries, 1>(keys, far + i, grad_outputs, products);
      grads[i] = weight_of(numbers, logit) * (sum_over_group(lane, products) - numbers.delta);
    }
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      accumulate<typename Queries::Near>(grads[i], key[i], sums);
      accumulate_far<Queries, 0>(keys, far + i, grads[i], sums);
      row[i * BiasGradient<V>::kNumbers] = exists ? grads[i] : 0;
    }
    row += kKeys * BiasGradient<V>::kNumbers;
    keys.advance(kKeys);
    bias += kKeys;
  }

  template <typename Queries>
  NATTEN_OPS_DEVICE void visit_row(int size, int far, int entries) {
    int left = size;
    // Two rows at once take more registers.
    if constexpr (!Queries::kHasFar) {
      for (; left >= 2; left -= 2) visit<Queries, 2>(far, entries);
    }
    for (; left > 0; --left) visit<Queries, 1>(far, entries);
  }
};

template <typename V>
NATTEN_OPS_KERNEL(32 * kQueryWarps, 1)
staged_query_kernel(const QueryParameters parameters) {
  const Common& common = parameters.common;
  using namespace by_queries;
  const int size = common.kernel_size[1];
  float* const block_sums = parameters.block_sums;
  float* table = reinterpret_cast<float*>(shared_memory());
  float* region = table + bias_numbers(common);
  float* memory = region + common.region_tokens * V::kStride;
  BiasGradient<V> bias_gradient(common, memory);
  Tile tile;
  // If there is no tile, the block writes zeros for the gradient of the bias.
  if (find_tile(common, tile)) {
    const Span rows = partners<true>(common, tile, 0), columns = partners<true>(common, tile, 1);
    const Planes<kTensors> planes(parameters.tensors, tile);
    copy_region<V>(common, planes[kKey], planes[kValue], rows, columns, region);
    copy_async_commit();
    make_bias_table(common, tile, table);

    const Lane<V> lane;
    const Patch<V> patch(common, tile, lane);
    const Rows<V> key_rows = Rows<V>::template find<true>(common, tile, patch);
    const int first_row = key_rows.of[0].first;
    const int first_column = partners<true>(common, tile, 1, patch.column).first;
    const int own_row = patch.row_of(lane.own);
    bias_gradient.first_entry =
        (first_row - own_row + common.kernel_size[0] - 1) * common.entries();
    bias_gradient.column_entry = first_column - patch.column + size - 1;
    bias_gradient.has_row = patch.row + lane.own <= patch.last_row;
    const int column_entry = shuffle(bias_gradient.column_entry, 0);
    bias_gradient.is_even =
        !warp_any(!patch.has_column || bias_gradient.column_entry != column_entry);
    QueryGradients<V> gradients = {
        lane, Cursor<V>(common, lane, region, first_row - rows.first, first_column - columns.first),
        table + table_entry(common, first_row - own_row, first_column - patch.column), nullptr};
    float* const row = bias_gradient.row + lane.own * V::kColumns + lane.group;
    if (patch.exists) {
      load_tokens(common, planes[kQuery], patch, lane, common.log2_scale, gradients.queries);
      load_tokens(common, planes[kGradOutput], patch, lane, 1, gradients.grad_outputs);
      load_tokens(common, planes[kOutput], patch, lane, 1, gradients.sums);
      float products[V::kRows];
      NATTEN_OPS_UNROLL
      for (int q = 0; q < V::kRows; ++q) {
        products[q] = 0;
        NATTEN_OPS_UNROLL
        for (int c = 0; c < V::kChannels; ++c) {
          products[q] += gradients.grad_outputs[q][c] * gradients.sums[q][c];
        }
      }
      gradients.numbers = {*planes[kLogsumexp].at(own_row, patch.column) * kLog2e,
                           sum_over_group<All<V>>(lane, products)};
      gradients.exists = patch.has(lane.own);
      const Plane numbers = planes[kNumbers];
      if (lane.lane == lane.own && gradients.exists) {
        *reinterpret_cast<Two*>(numbers.at(own_row, patch.column)) = gradients.numbers;
      }
      clear(gradients.sums);
    }
    copy_async_wait<0>();
    block_barrier();

    if (patch.exists) {
      key_rows.visit_windows(common.kernel_size[0], [&](auto queries) {
        using Queries = decltype(queries);
        const int entries = Queries::Near::has(lane.own) ? 0 : common.far_entries;
        gradients.row = row;
        gradients.template visit_row<Queries>(size, common.far_tokens, entries);
        gradients.keys.advance(common.pitch - size);
        gradients.bias += common.entries() - size;
        if (block_sums) bias_gradient.template add_row<Queries>(lane, patch.has_column);
      });
      store_tokens(common, planes[kGradQuery], patch, lane, common.scale, gradients.sums);
    }
  }

  if (!block_sums) return;
  block_barrier();
  const int entries = common.bias_size(), next = BiasGradient<V>::numbers(common);
  const float* tables = memory + size * BiasGradient<V>::kNumbers;
  float* sums = block_sums + int64_t(block_index()) * entries;
  for (int i = thread_index(); i < entries; i += 32 * common.warps) {
    float sum = 0;
    for (int warp = 0; warp < common.warps; ++warp) sum += tables[warp * next + i];
    sums[i] = sum;
  }
}

// ---- By keys ----

template <typename V>
struct KeyGradients {
  const Lane<V>& lane;
  Cursor<V> queries;   // the first tensor; grad_output is the second
  const Two* numbers;  // of the query at the cursor
  const float* bias;   // the table's entry of that query and the key `own`
  int columns;         // of queries that attend to the group's keys
  typename V::Tokens keys, values, key_sums, value_sums;

  // kQueries queries of a row, which attend to Keys. The first is `further` after the cursor. If
  // the group has no such query (has is false), its weights are zero.
  template <typename Keys, int kQueries>
  NATTEN_OPS_DEVICE void visit(int further, bool has) {
    typename V::Channels query[kQueries], grad_output[kQueries];
    float weights[kQueries], grads[kQueries];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      float products[V::kRows];
      queries.template load<0>(further + i, query[i]);
      multiply<Keys>(keys, query[i], products);
      const float logit = sum_over_group<Keys>(lane, products) + bias[-further - i];
      queries.template load<1>(further + i, grad_output[i]);
      multiply<Keys>(values, grad_output[i], products);
      const float grad_weight = sum_over_group<Keys>(lane, products);
      const Two two = numbers[further + i];
      weights[i] = weight_of(two, logit);
      if (!has) weights[i] = 0;
      grads[i] = weights[i] * (grad_weight - two.delta);
      if (!has) grads[i] = 0;
    }
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      accumulate<Keys>(weights[i], grad_output[i], value_sums);
      accumulate<Keys>(grads[i], query[i], key_sums);
    }
  }

  NATTEN_OPS_DEVICE void advance(int tokens, int entries) {
    queries.advance(tokens);
    numbers += tokens;
    bias -= entries;
  }

  // A row of queries; the next row begins `pitch` tokens and `entries` of the bias further on.
  template <typename Keys>
  NATTEN_OPS_DEVICE void visit_row(int pitch, int entries) {
    int column = 0;
    for (; !warp_any(column + 2 > columns); column += 2) {
      visit<Keys, 2>(0, true);
      advance(2, 2);
    }
    // Groups that have fewer queries than others visit their last one again, with weight zero
    // (which makes NaN of an infinite gradient).
    for (int further = 0; warp_any(column + further < columns); ++further) {
      const bool has = column + further < columns;
      visit<Keys, 1>(has ? further : columns - 1 - column, has);
    }
    advance(pitch - column, entries - column);
  }
};

template <typename V>
NATTEN_OPS_KERNEL(32 * kKeyWarps, 1)
staged_key_kernel(const KeyParameters parameters) {
  static_assert(V::kRows - 1 <= kMarginRows);
  const Common& common = parameters.common;
  using namespace by_keys;
  Tile tile;
  if (!find_tile(common, tile)) return;
  const Span rows = partners<false>(common, tile, 0), columns = partners<false>(common, tile, 1);
  const Planes<kTensors> planes(parameters.tensors, tile);
  float* table = reinterpret_cast<float*>(shared_memory());
  float* region = table + bias_numbers(common);
  Two* numbers = reinterpret_cast<Two*>(region + common.region_tokens * V::kStride);
  copy_region<V>(common, planes[kQuery], planes[kGradOutput], rows, columns, region);
  copy_async_commit();
  make_bias_table(common, tile, table);
  const Plane number_plane = planes[kNumbers];
  for (int row = thread_index() / 32; row < rows.size(); row += common.warps) {
    NATTEN_OPS_NO_UNROLL
    for (int column = thread_index() % 32; column < columns.size(); column += 32) {
      numbers[row * common.pitch + column] =
          *reinterpret_cast<const Two*>(number_plane.at(rows.first + row, columns.first + column));
    }
  }

  const Lane<V> lane;
  const Patch<V> patch(common, tile, lane);
  const Rows<V> query_rows = Rows<V>::template find<false>(common, tile, patch);
  const Span own_columns = partners<false>(common, tile, 1, patch.column);
  const int first_row = query_rows.of[0].first, own_row = patch.row_of(lane.own);
  const int region_row = first_row - rows.first;
  const int region_column = own_columns.first - columns.first;
  KeyGradients<V> gradients = {
      lane, Cursor<V>(common, lane, region, region_row, region_column),
      numbers + region_row * common.pitch + region_column,
      table + table_entry(common, own_row - first_row, patch.column - own_columns.first),
      own_columns.size()};
  if (patch.exists) {
    load_tokens(common, planes[kKey], patch, lane, common.log2_scale, gradients.keys);
    load_tokens(common, planes[kValue], patch, lane, 1, gradients.values);
  }
  clear(gradients.key_sums);
  clear(gradients.value_sums);
  copy_async_wait<0>();
  block_barrier();
  if (!patch.exists) return;

  query_rows.visit([&](auto keys) {
    gradients.template visit_row<decltype(keys)>(common.pitch, common.entries());
  });
  store_tokens(common, planes[kGradKey], patch, lane, common.scale, gradients.key_sums);
  store_tokens(common, planes[kGradValue], patch, lane, 1, gradients.value_sums);
}

// ---- Launches ----

template <typename V>
int64_t query_bytes(const Problem& problem, const Shape& shape) {
  const int64_t numbers = bias_numbers(problem) + int64_t(shape.region_tokens()) * V::kStride +
                          shape.warps() * BiasGradient<V>::numbers(problem);
  return numbers * int64_t(sizeof(float));
}

template <typename V>
int64_t key_bytes(const Problem& problem, const Shape& shape) {
  return bias_numbers(problem) * int64_t(sizeof(float)) +
         shape.region_tokens() * int64_t(V::kStride * sizeof(float) + sizeof(Two));
}

template <typename V>
bool find_shapes(const Problem& problem, Shape& by_queries, Shape& by_keys) {
  const auto bytes = [&](const Shape& shape) { return query_bytes<V>(problem, shape); };
  const auto bytes_of_keys = [&](const Shape& shape) { return key_bytes<V>(problem, shape); };
  return find_shape<V, true>(problem, kQueryWarps, bytes, by_queries) &&
         find_shape<V, false>(problem, kKeyWarps, bytes_of_keys, by_keys);
}

template <typename F>
auto with_backward_variant(const Problem& problem, F f) {
  return with_variant<Variant<2, 16, 2>, Variant<4, 16, 2>>(problem, f);
}

int64_t numbers_bytes(const Problem& problem) {
  const int64_t bytes =
      problem.batch * problem.length[0] * problem.length[1] * problem.heads * sizeof(Two);
  return divide_up(bytes, 16) * 16;
}

}  // namespace

}  // namespace staged

bool staged_covers(const BackwardCall& call) {
  return staged::covers(call.problem, call.dtype,
                        {&call.query, &call.key, &call.value, &call.output, &call.grad_output,
                         &call.grad_query, &call.grad_key, &call.grad_value}) &&
         staged::with_backward_variant(call.problem, [&](auto variant) {
           staged::Shape by_queries, by_keys;
           return staged::find_shapes<decltype(variant)>(call.problem, by_queries, by_keys);
         });
}

int64_t staged_backward_scratch(const BackwardCall& call) {
  const Problem& problem = call.problem;
  const int64_t bytes = staged::numbers_bytes(problem);
  if (!call.grad_bias.data) return bytes;
  return bytes + staged::with_backward_variant(problem, [&](auto variant) {
           staged::Shape by_queries, by_keys;
           staged::find_shapes<decltype(variant)>(problem, by_queries, by_keys);
           return slots_of(problem, by_queries.tiling) * problem.heads * problem.bias_size() *
                  int64_t(sizeof(float));
         });
}

const char* staged_backward(const BackwardCall& call, void* stream) {
  return staged::with_backward_variant(call.problem, [&](auto variant) -> const char* {
    using V = decltype(variant);
    const Problem& problem = call.problem;
    staged::Shape by_queries, by_keys;
    staged::find_shapes<V>(problem, by_queries, by_keys);
    const auto tensor = [&](const TensorView& view) { return staged::Tensor(problem, view); };
    const staged::Tensor numbers(problem, call.scratch, 2);
    float* const block_sums = call.grad_bias.data
                                  ? reinterpret_cast<float*>(static_cast<char*>(call.scratch) +
                                                             staged::numbers_bytes(problem))
                                  : nullptr;
    const staged::QueryParameters query_parameters = {
        staged::make_common(problem, call.bias, by_queries),
        {tensor(call.query), tensor(call.key), tensor(call.value), tensor(call.output),
         tensor(call.grad_output), tensor(call.grad_query),
         staged::Tensor(problem, call.logsumexp, 1), numbers},
        block_sums};
    const int64_t slots = slots_of(problem, by_queries.tiling);
    const char* error =
        launch(staged::staged_query_kernel<V>, slots * problem.heads, 32 * by_queries.warps(),
               staged::query_bytes<V>(problem, by_queries), stream, query_parameters);
    if (error) return error;
    const staged::KeyParameters key_parameters = {
        staged::make_common(problem, call.bias, by_keys),
        {tensor(call.query), tensor(call.key), tensor(call.value), tensor(call.grad_output),
         tensor(call.grad_key), tensor(call.grad_value), numbers}};
    error = launch(staged::staged_key_kernel<V>, slots_of(problem, by_keys.tiling) * problem.heads,
                   32 * by_keys.warps(), staged::key_bytes<V>(problem, by_keys), stream,
                   key_parameters);
    if (error || !call.grad_bias.data) return error;
    return sum_tables<float>(block_sums, slots, problem.heads * problem.bias_size(), call.grad_bias,
                             stream);
  });
}

}  // namespace natten_ops::cuda
