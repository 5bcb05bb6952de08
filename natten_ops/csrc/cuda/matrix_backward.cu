// The backward pass for windows of any size, two kernels; backward.cuh says what they compute and
// matrix.cuh how partners are visited. Products of grad_output and value start from -delta, so that
// the logits' gradients are products of two results.
//
// The gradient of the bias: a warp adds the logits' gradients up in the order of its fragments of
// the bias, in a table of its own. After each tile, the block adds up its warps' tables, entry by
// entry of the bias.
//
// Shared memory of a block: as in matrix.cuh; by queries, before the region, the warps' tables and
// the sums of the block.
#define NATTEN_OPS_THREAD_INDEX_ANEW
#include "backward.cuh"
#include "matrix.cuh"

namespace natten_ops::cuda {

namespace matrix {

namespace {

constexpr int kBackwardStep = 2;

// ---- By queries ----

// Of the gradient of the bias, if there is one: the warps' tables, and the block's sums.
template <typename V>
int64_t table_bytes(const Problem& problem, const Tiling& tiling, bool has_bias) {
  const int window = static_cast<int>(problem.kernel_size[0]);
  return has_bias ? round_up((busy_warps<V>(tiling) * fragment_numbers<V>(tiling, window) +
                              problem.bias_size()) *
                                 sizeof(float),
                             16)
                  : 0;
}
template <typename V>
NATTEN_OPS_DEVICE float* first_table(const Common& common) {
  return reinterpret_cast<float*>(shared_memory() + shared_bytes<V>(common));
}

template <typename V>
int64_t query_bytes(const Problem& problem, const Tiling& tiling, bool has_bias) {
  return shared_bytes<V>(tiling, static_cast<int>(problem.kernel_size[0])) +
         table_bytes<V>(problem, tiling, has_bias) + region_bytes<V>(tiling);
}

// The place in a warp's table of its token (g, e) of a patch and a key `down` rows (in one
// dimension: any number) and in a column.
template <typename V>
NATTEN_OPS_DEVICE int place_in_table(const Common& common, const PatchColumns& columns, int g,
                                     int e, int down, int column) {
  const int at = column - columns.begin, rows = fragment_rows<V>(common.windows[0]);
  return (at / 8 * rows + (V::kIsFlat ? g : down)) * 16 + at % 8 / 2 * 4 + 2 * e + at % 2;
}

// The sum of the warps' tables for an entry of the bias, of the patches of a tile.
template <typename V>
NATTEN_OPS_DEVICE float sum_of_entry(const Common& common, const Tile& tile, int down, int across) {
  constexpr int kTokens = V::kIsFlat ? 8 : 1;  // that have the same e
  const float* table = first_table<V>(common);
  float sum = 0;
  for (int warp = 0; warp < busy_warps<V>(common.tiling); ++warp) {
    const PatchColumns columns = PatchColumns::at<V, true>(common, tile, warp);
    if (columns.first >= tile.end[1]) break;
    for (int g = 0; g < kTokens; ++g) {
      for (int e = 0; e < 2; ++e) {
        const int own = columns.own<V>(g, e);
        const Span span = partners<true>(common.windows[1], own, columns.count);
        const int column = own + across - (common.windows[1] - 1);
        if (column < span.first || column > span.last) continue;
        sum += table[place_in_table<V>(common, columns, g, e, down, column)];
      }
    }
    table += fragment_numbers<V>(common);
  }
  return sum;
}

// Repeats the bands of a tile whose bits are set. Of float, all bands, to make the warp's table
// anew: infinity has no sign in its products (tf32.cuh), so D is NaN for some weights that are 0.
template <typename V>
NATTEN_OPS_DEVICE void repeat_tile(const by_queries::Parameters& parameters, const Tile& tile,
                                   uint32_t again) {
  if constexpr (!V::kIsFloat) {
    by_queries::repeat_carefully<V>(parameters, tile, again, [](auto...) {});
  } else {
    const Common& common = parameters.common;
    const bool has_bias = parameters.block_sums;
    const int warp = thread_index() / 32, lane = thread_index() % 32;
    const int numbers = fragment_numbers<V>(common);
    float* const table = first_table<V>(common) + warp * numbers;
    for (int i = lane; has_bias && i < numbers; i += 32) table[i] = 0;
    warp_barrier();
    const int bands = (tile.end[0] - tile.begin[0] + kPatchRows<V> - 1) / kPatchRows<V>;
    const PatchColumns columns = PatchColumns::at<V, true>(common, tile, warp);
    by_queries::repeat_carefully<V>(
        parameters, tile, (1u << bands) - 1,
        [&](const CarefulToken& token, int row, int column, float grad) {
          if (!has_bias || lane > 0) return;
          const int own = token.column - columns.first;
          const int down = row - token.row + common.windows[0] - 1;
          table[place_in_table<V>(common, columns, own % 8, V::kIsFlat ? own / 8 : own, down,
                                  column)] += grad;
        });
  }
}

// The gradients of a patch's queries. Adds those of the logits to `table` in the order of
// fragments, if it is not null: the thread's numbers of item 0.
template <typename V>
NATTEN_OPS_DEVICE void visit_keys(const Common& common, const Items& items, const Start<V>& start,
                                  const typename Products<V>::Partners& keys_and_values,
                                  const typename Products<V>::Patch& queries,
                                  const typename Products<V>::Patch& grad_outputs,
                                  const float (&logsumexp)[2], const float (&delta)[2],
                                  float* table, float (&grad_queries)[V::kDim / 8][4]) {
  const int stride = item_stride<V>(common);
  visit_steps<V>(common, items, [&](int item, int eight, int offset) {
    float grads[2][4];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 2; ++i) {
      float logits[4];
      start.load(item + i, eight, logits);
      keys_and_values.template multiply<0>(queries, offset + i * stride, logits);
      float grad_weights[4] = {-delta[0], -delta[0], -delta[1], -delta[1]};
      keys_and_values.template multiply<1>(grad_outputs, offset + i * stride, grad_weights);
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 4; ++j) {
        grads[i][j] = exp2_of(logits[j] * common.log2_scale - logsumexp[j / 2]) * grad_weights[j];
      }
      if (table) {
        // No two threads have the same numbers; but another one had them for the last item.
        if (start.has(item + i)) {
          Four& sums = *reinterpret_cast<Four*>(table + start.offset(item + i, eight));
          Four four = sums;
          NATTEN_OPS_UNROLL
          for (int j = 0; j < 4; ++j) four.numbers[j] += grads[i][j];
          sums = four;
        }
        warp_barrier();
      }
    }
    typename Products<V>::Weights weights;
    Products<V>::as_weights(grads[0], grads[1], weights);
    keys_and_values.template accumulate<0>(weights, offset, grad_queries);
  });
}

template <typename V>
NATTEN_OPS_KERNEL(V::kThreads, V::kBlocks)
matrix_query_kernel(const by_queries::Parameters parameters) {
  using namespace by_queries;
  using Element = typename V::Element;
  const Common& common = parameters.common;
  const int warp = thread_index() / 32;
  const int numbers = fragment_numbers<V>(common);
  const bool has_bias = parameters.block_sums;
  float* const tables = first_table<V>(common);
  float* const table = tables + warp * numbers;
  float* const block_sums = tables + busy_warps<V>(common.tiling) * numbers;
  const int entries = 2 * common.windows[1] - 1, bias_size = (2 * common.windows[0] - 1) * entries;
  // All bytes of tables are whole 16s but the last.
  const int table_numbers =
      has_bias ? (busy_warps<V>(common.tiling) * numbers + bias_size + 3) / 4 * 4 : 0;
  Element* const region = reinterpret_cast<Element*>(tables + table_numbers);
  uint32_t slot = block_index();
  const int head = split_head(common, slot);
  bool is_first = true;
  if (has_bias) {
    for (int i = thread_index(); i < bias_size; i += V::kThreads) block_sums[i] = 0;
  }

  for (int number = 0; number < common.tiling.tiles_per_block; ++number) {
    Tile tile;
    if (!find_tile(common, head, slot * common.tiling.tiles_per_block + number, tile)) continue;
    block_barrier();  // what the last tile left is no longer needed
    const Span rows = partners<V, true>(common, tile, 0),
               columns = partners<V, true>(common, tile, 1);
    find_planes(common, parameters.tensors, tile);
    block_barrier();
    copy_rows<V>(common, rows, columns, {parameters.tensors[kKey], kKey}, region);
    copy_rows<V>(common, rows, columns, {parameters.tensors[kValue], kValue},
                 region + row_elements<V>(common));
    copy_async_commit();
    if (is_first) make_centered_fragments<V, true>(common, bias_of_head(common, kTensors));
    is_first = false;
    const PatchColumns of_patch = PatchColumns::at<V, true>(common, tile, warp);
    const bool exists = of_patch.first < tile.end[1];
    if (has_bias && exists) {
      for (int i = thread_index() % 32; i < numbers; i += 32) table[i] = 0;
    }
    const float* fragments =
        exists ? choose_fragments<V, true>(common, bias_of_head(common, kTensors), of_patch)
               : centered_fragments();
    copy_async_wait<0>();
    block_barrier();

    for (int row = tile.begin[0]; exists && row < tile.end[0]; row += kPatchRows<V>) {
      const Own<V> own(tile, row, of_patch.first);
      const Items items = Items::at<V, true>(common, tile, row, of_patch);
      Start<V> start = Start<V>::template at<true>(common, fragments, tile, own, items);
      // A stand-in must not touch the table's numbers of the token that it stands in for.
      if (!own.exists[0]) start.count = 0;
      const typename Products<V>::Partners keys_and_values(
          common, region, items.begin_row - rows.first, of_patch.begin - columns.first,
          item_stride<V>(common));
      const auto read = [&](int tensor) {
        const Plane<V, const Element> plane = {parameters.tensors[tensor], tensor};
        return Cursor<V, const Element>(common, plane, own).read(common, plane.tensor, own);
      };
      typename Products<V>::Patch queries, grad_outputs;
      Products<V>::as_patch(common, read(kGradOutput), 0, grad_outputs);
      float logsumexp[2], delta[2];
      {
        const Channels<V> outputs = read(kOutput);
        const Plane<V, const float> logsumexps = {parameters.tensors[kLogsumexp], kLogsumexp};
        const Plane<V, Two> numbers = {parameters.tensors[kNumbers], kNumbers};
        NATTEN_OPS_UNROLL
        for (int e = 0; e < 2; ++e) {
          delta[e] = Products<V>::times_own(grad_outputs, outputs, e);
          // Tokens that do not exist have no weights.
          logsumexp[e] =
              own.exists[e] ? *logsumexps.at(own.row, own.columns[e]) * kLog2e : INFINITY;
          if (own.exists[e] && thread_index() % 4 == 0) {
            *numbers.at(own.row, own.columns[e]) = {{logsumexp[e], -delta[e]}};
          }
        }
      }
      Products<V>::as_patch(common, read(kQuery), common.signs, queries);
      float grad_queries[V::kDim / 8][4];
      clear(grad_queries);
      visit_keys<V>(common, items, start, keys_and_values, queries, grad_outputs, logsumexp, delta,
                    has_bias ? table + (start.fragments - fragments) : nullptr, grad_queries);
      const float factors[2] = {static_cast<float>(common.problem.scale),
                                static_cast<float>(common.problem.scale)};
      const Plane<V, Element> plane = {parameters.tensors[kGradQuery], kGradQuery};
      const bool finite = Products<V>::store_tokens(
          common, plane.tensor, Cursor<V, Element>(common, plane, own), own, grad_queries, factors);
      repeat_unless(finite, (row - tile.begin[0]) / kPatchRows<V>);
    }
    const uint32_t again = bands_to_repeat();
    if (again) repeat_tile<V>(parameters, find_tile_again(common, number), again);
    if (!has_bias) continue;
    block_barrier();
    for (int i = thread_index(); i < bias_size; i += V::kThreads) {
      block_sums[i] += sum_of_entry<V>(common, tile, i / entries, i % entries);
    }
  }

  if (!has_bias) return;
  float* sums = parameters.block_sums + int64_t(block_index()) * bias_size;
  for (int i = thread_index(); i < bias_size; i += V::kThreads) {
    sums[i / entries * common.bias_step[0] + i % entries * common.bias_step[1]] = block_sums[i];
  }
}

// ---- By keys ----

template <typename V>
int64_t key_bytes(const Problem& problem, const Tiling& tiling) {
  return shared_bytes<V>(tiling, static_cast<int>(problem.kernel_size[0])) +
         region_bytes<V>(tiling);
}

// A band's patch of keys, and the queries that it visits.
template <typename V>
struct KeyPatch {
  Items items;
  Start<V> start;
  typename Products<V>::Partners queries_and_grads;
  const Two* numbers;  // of the thread's first query
};

// Adds what queries contribute to the gradients of a patch's keys (kKeys), values (kValues) or
// both.
template <typename V, bool kKeys, bool kValues>
NATTEN_OPS_DEVICE void visit_queries(const Common& common, const KeyPatch<V>& patch,
                                     const typename Products<V>::Patch& keys,
                                     const typename Products<V>::Patch& values,
                                     float (&grad_keys)[V::kDim / 8][4],
                                     float (&grad_values)[V::kDim / 8][4]) {
  using Element = typename V::Element;
  const int stride = item_stride<V>(common);
  constexpr int kPerNumber = sizeof(Two) / sizeof(Element);
  const int number_stride = V::kIsFlat ? 8 : stride / kPerNumber;
  visit_steps<V>(common, patch.items, [&](int item, int eight, int offset) {
    float weights[2][4], grads[2][4];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < 2; ++i) {
      const Two* numbers = patch.numbers + (item + i) * number_stride + 8 * eight;
      const Two even = numbers[0], odd = numbers[1];
      float logits[4];
      patch.start.load(item + i, eight, logits);
      patch.queries_and_grads.template multiply<0>(keys, offset + i * stride, logits);
      float grad_weights[4] = {even.numbers[1], odd.numbers[1], even.numbers[1], odd.numbers[1]};
      if (kKeys) {
        patch.queries_and_grads.template multiply<1>(values, offset + i * stride, grad_weights);
      }
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 4; ++j) {
        weights[i][j] =
            exp2_of(logits[j] * common.log2_scale - (j % 2 ? odd.numbers[0] : even.numbers[0]));
        grads[i][j] = weights[i][j] * grad_weights[j];
      }
    }
    typename Products<V>::Weights sixteen;
    if (kValues) {
      Products<V>::as_weights(weights[0], weights[1], sixteen);
      patch.queries_and_grads.template accumulate<1>(sixteen, offset, grad_values);
    }
    if (kKeys) {
      Products<V>::as_weights(grads[0], grads[1], sixteen);
      patch.queries_and_grads.template accumulate<0>(sixteen, offset, grad_keys);
    }
  });
}

template <typename V>
NATTEN_OPS_KERNEL(V::kThreads, V::kBlocks)
matrix_key_kernel(const by_keys::Parameters parameters) {
  using namespace by_keys;
  using Element = typename V::Element;
  const Common& common = parameters.common;
  const Tensor(&tensors)[kTensors] = parameters.tensors;
  uint32_t slot = block_index();
  const int head = split_head(common, slot);
  Tile tile;
  if (!find_tile(common, head, slot, tile)) return;
  const Span rows = partners<V, false>(common, tile, 0),
             columns = partners<V, false>(common, tile, 1);
  Element* region = reinterpret_cast<Element*>(shared_memory() + shared_bytes<V>(common));
  find_planes(common, tensors, tile);
  block_barrier();
  copy_rows<V>(common, rows, columns, {tensors[kQuery], kQuery}, region);
  copy_rows<V>(common, rows, columns, {tensors[kGradOutput], kGradOutput},
               region + row_elements<V>(common));
  for (int row = V::kIsFlat ? 0 : thread_index() / 32; row < common.tiling.region[0];
       row += V::kIsFlat ? 1 : V::kWarps) {
    copy_numbers<V>(parameters, rows.first + row, columns.first,
                    row < rows.size() ? columns.size() : 0, numbers_of<V>(common, region, row));
  }
  copy_async_commit();
  make_centered_fragments<V, false>(common, bias_of_head(common, kTensors));
  const PatchColumns of_patch = PatchColumns::at<V, false>(common, tile, thread_index() / 32);
  const bool exists = of_patch.first < tile.end[1];
  const float* fragments =
      exists ? choose_fragments<V, false>(common, bias_of_head(common, kTensors), of_patch)
             : centered_fragments();
  copy_async_wait<0>();
  block_barrier();
  if (!exists) return;

  for (int row = tile.begin[0]; row < tile.end[0]; row += kPatchRows<V>) {
    const Own<V> own(tile, row, of_patch.first);
    const Items items = Items::at<V, false>(common, tile, row, of_patch);
    const int at[2] = {items.begin_row - rows.first, of_patch.begin - columns.first};
    const KeyPatch<V> patch = {
        items, Start<V>::template at<false>(common, fragments, tile, own, items),
        typename Products<V>::Partners(common, region, at[0], at[1], item_stride<V>(common)),
        numbers_of<V>(common, region, at[0]) + at[1] + 2 * (thread_index() % 4)};
    const auto read = [&](int tensor, uint32_t flips, typename Products<V>::Patch& fragments) {
      const Plane<V, const Element> plane = {tensors[tensor], tensor};
      Products<V>::as_patch(
          common, Cursor<V, const Element>(common, plane, own).read(common, plane.tensor, own),
          flips, fragments);
    };
    const auto store = [&](int tensor, const float (&sums)[V::kDim / 8][4], float factor) {
      const Plane<V, Element> plane = {tensors[tensor], tensor};
      const float factors[2] = {factor, factor};
      return Products<V>::store_tokens(common, plane.tensor, Cursor<V, Element>(common, plane, own),
                                       own, sums, factors);
    };
    typename Products<V>::Patch keys, values;
    float grad_keys[V::kDim / 8][4], grad_values[V::kDim / 8][4];
    read(kKey, common.signs, keys);
    const float scale = static_cast<float>(common.problem.scale);
    bool finite;
    if constexpr (V::kDim <= 64) {
      read(kValue, 0, values);
      clear(grad_keys);
      clear(grad_values);
      visit_queries<V, true, true>(common, patch, keys, values, grad_keys, grad_values);
      finite = store(kGradValue, grad_values, 1.0f);
      finite = store(kGradKey, grad_keys, scale) && finite;
    } else {
      // Registers hold the sums of one of them.
      clear(grad_values);
      visit_queries<V, false, true>(common, patch, keys, values, grad_keys, grad_values);
      finite = store(kGradValue, grad_values, 1.0f);
      read(kValue, 0, values);
      clear(grad_keys);
      visit_queries<V, true, false>(common, patch, keys, values, grad_keys, grad_values);
      finite = store(kGradKey, grad_keys, scale) && finite;
    }
    repeat_unless(finite, (row - tile.begin[0]) / kPatchRows<V>);
  }
  const uint32_t again = bands_to_repeat();
  if (again) repeat_carefully<V>(parameters, find_tile_again(common, 0), again);
}

// ---- Launches ----

struct Tilings {
  Tiling by_queries, by_keys;
};

template <typename F>
auto with_backward_variants(const BackwardCall& call, F f) {
  return with_variant<false, kBackwardStep>(call.problem, call.dtype, [&](auto variant) {
    using V = decltype(variant);
    return f(variant, Variant<typename V::Element, V::kDim, V::kIsFlat, true, kBackwardStep>());
  });
}

// A block computes several tiles by queries, so that the sums of the bias' gradient take at most
// about a hundredth of the inputs' memory.
template <typename QueryVariant, typename KeyVariant>
bool find_tilings(const BackwardCall& call, const Problem& problem, Tilings& tilings) {
  const bool has_bias = call.grad_bias.data;
  if (!find_tiling<QueryVariant, true>(
          problem,
          [&](const Tiling& tiling) {
            return query_bytes<QueryVariant>(problem, tiling, has_bias);
          },
          tilings.by_queries) ||
      !find_tiling<KeyVariant, false>(
          problem, [&](const Tiling& tiling) { return key_bytes<KeyVariant>(problem, tiling); },
          tilings.by_keys)) {
    return false;
  }
  if (has_bias) {
    const Tiling& tiling = tilings.by_queries;
    const int64_t tile_bytes =
        int64_t(3) * tiling.tile[0] * tiling.tile[1] * problem.head_dim * bytes_of(call.dtype);
    tilings.by_queries.tiles_per_block =
        static_cast<int>((100 * problem.bias_size() * 4 + tile_bytes - 1) / tile_bytes);
  }
  return true;
}

}  // namespace

}  // namespace matrix

bool matrix_covers(const BackwardCall& call) {
  if (!are_for_tensor_cores(call)) return false;
  return matrix::with_backward_variants(call, [&](auto query_variant, auto key_variant) {
    matrix::Tilings tilings;
    return matrix::find_tilings<decltype(query_variant), decltype(key_variant)>(
        call, Orientation(call).problem, tilings);
  });
}

int64_t matrix_backward_scratch(const BackwardCall& call) {
  return matrix::with_backward_variants(call, [&](auto query_variant, auto key_variant) {
    matrix::Tilings tilings;
    matrix::find_tilings<decltype(query_variant), decltype(key_variant)>(
        call, Orientation(call).problem, tilings);
    return scratch_bytes(call, tilings.by_queries);
  });
}

const char* matrix_backward(const BackwardCall& call, void* stream) {
  return matrix::with_backward_variants(call, [&](auto query_variant, auto key_variant) {
    using QueryVariant = decltype(query_variant);
    using KeyVariant = decltype(key_variant);
    const Orientation orientation(call);
    const Problem& problem = orientation.problem;
    matrix::Tilings tilings;
    matrix::find_tilings<QueryVariant, KeyVariant>(call, problem, tilings);
    return launch_backward(
        call, orientation, tilings.by_queries, tilings.by_keys,
        [&](const by_queries::Parameters& parameters, int64_t blocks) {
          const int64_t bytes =
              matrix::query_bytes<QueryVariant>(problem, tilings.by_queries, call.grad_bias.data);
          return launch(matrix::matrix_query_kernel<QueryVariant>, blocks, QueryVariant::kThreads,
                        bytes, stream, parameters);
        },
        [&](const by_keys::Parameters& parameters, int64_t blocks) {
          return launch(matrix::matrix_key_kernel<KeyVariant>, blocks, KeyVariant::kThreads,
                        matrix::key_bytes<KeyVariant>(problem, tilings.by_keys), stream,
                        parameters);
        },
        stream);
  });
}

}  // namespace natten_ops::cuda
