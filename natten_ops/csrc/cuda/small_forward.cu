// The forward pass for small windows; small.cuh says how. A warp multiplies its queries with all of
// their keys, takes the softmax, and multiplies the weights, still in registers, with the values; a
// column of ones gives the weights' sum.
//
// Shared memory of a block: keys and values of its region, one bias pair for all and one a warp,
// and rows of -infinity. A band is computed as soon as the rows that it needs are there.
#define NATTEN_OPS_THREAD_INDEX_ANEW
#include "small.cuh"

namespace natten_ops::cuda {

namespace small {

namespace {

constexpr int kForwardWarps = 8;

enum : int { kQuery, kKey, kValue, kOutput, kLogsumexp, kTensors };

struct ForwardParameters {
  Common common;
  Tensor tensors[kTensors];
};

template <typename V>
int64_t forward_bytes(const Tiling& tiling) {
  return kSharedBytes<V> + int64_t(tiling.region[0]) * V::kStride * sizeof(typename V::Element);
}

// Repeats the bands whose bits are set. It computes their places itself: anything shared with the
// rest of the kernel would take registers all the time.
template <typename V>
NATTEN_OPS_DEVICE void attend_carefully(const ForwardParameters& parameters, uint32_t again) {
  using Element = typename V::Element;
  const Common& common = parameters.common;
  uint32_t slot = block_index() ^ common.nothing;
  const int head = split_head(common, slot);
  Tile tile;
  find_tile(common, head, slot, tile);
  const int column = tile.begin[1] + thread_index() / 32 * 2;
  const int first_row = partners<V::kSize, true>(tile.begin[0], tile.count[0]).first;
  const int first_column = partners<V::kSize, true>(tile.begin[1], tile.count[1]).first;
  const Element* keys = reinterpret_cast<const Element*>(shared_memory() + kSharedBytes<V>);
  const Element* values = keys + kRowElements;
  const Plane<const Element> queries = {parameters.tensors[kQuery], kQuery};
  const Plane<Element> outputs = {parameters.tensors[kOutput], kOutput};
  const Plane<float> logsumexps = {parameters.tensors[kLogsumexp], kLogsumexp};
  for (int token = 0; token < 16 * kMostBands; ++token) {
    const int row = tile.begin[0] + token / 2, own_column = column + token % 2;
    const bool is_wanted = again >> token / 16 & 1;
    if (!is_wanted || row >= tile.end[0] || own_column >= tile.end[1]) continue;
    const Span down = partners<V::kSize, true>(row, tile.count[0]);
    const Span across = partners<V::kSize, true>(own_column, tile.count[1]);
    const float query = channel_of(common, queries, row, own_column);
    // Calls visit(row and column in the region, logit) for every key.
    const auto visit_keys = [&](auto visit) {
      for (int i = down.first; i <= down.last; ++i) {
        for (int j = across.first; j <= across.last; ++j) {
          const int at[2] = {i - first_row, j - first_column};
          const float product = sum_of_warp(query * channel_of<V>(keys, at[0], at[1]));
          visit(at, logit_of<V>(common, head, product, i - row, j - own_column));
        }
      }
    };
    float largest = -INFINITY, sum = 0, output = 0;
    visit_keys([&](const int (&)[2], float logit) { largest = larger(largest, logit); });
    visit_keys([&](const int (&at)[2], float logit) {
      const float weight = exp2_of(logit - largest);
      sum += weight;
      output += weight * channel_of<V>(values, at[0], at[1]);
    });
    store_channel(common, outputs, row, own_column, output / sum);
    if (thread_index() % 32 == 0) {
      *logsumexps.at(row, own_column) = (largest + log2_of(sum)) * kLn2;
    }
  }
}

template <typename V>
NATTEN_OPS_KERNEL(V::kThreads, kBlocks)
small_forward_kernel(const ForwardParameters parameters) {
  using Element = typename V::Element;
  constexpr int kSize = V::kSize, kRows = V::kRows;
  const Common& common = parameters.common;
  uint32_t slot = block_index();
  const int head = split_head(common, slot);
  Tile tile;
  if (!find_tile(common, head, slot, tile)) return;
  const Span rows = partners<kSize, true>(tile, 0, tile.begin[0], tile.end[0] - tile.begin[0]);
  const Span columns = partners<kSize, true>(tile, 1, tile.begin[1], tile.end[1] - tile.begin[1]);
  const int region_rows = common.tiling.region[0];
  Element* region = reinterpret_cast<Element*>(shared_memory() + kSharedBytes<V>);
  find_planes(parameters.tensors, tile);
  block_barrier();
  // What band 0 needs, and then the rest.
  for (int begin = 0, end = kRows; begin < region_rows; begin = end, end = region_rows) {
    copy_rows<V>(common, rows, columns, {parameters.tensors[kKey], kKey}, begin, end, region);
    copy_rows<V>(common, rows, columns, {parameters.tensors[kValue], kValue}, begin, end,
                 region + kRowElements);
    copy_async_commit();
  }

  const int column = tile.begin[1] + 2 * (thread_index() / 32);
  const bool exists = column < tile.end[1];
  const Tensor& query_tensor = parameters.tensors[kQuery];
  const Tensor& output_tensor = parameters.tensors[kOutput];
  const Tensor& logsumexp_tensor = parameters.tensors[kLogsumexp];
  const int g = thread_index() % 32 / 4, c = thread_index() % 4;
  const Own first_own(tile, tile.begin[0], column);
  Cursor<const Element> query_cursor(common, {query_tensor, kQuery}, first_own);
  Cursor<Element> output_cursor(common, {output_tensor, kOutput}, first_own);
  // Of the four threads of a row, thread e stores the number of token e.
  float* logsumexp = Plane<float>{logsumexp_tensor, kLogsumexp}.at(first_own.row, column + c % 2);
  Channels queries = {};
  if (exists) {
    queries = query_cursor.read(query_tensor, first_own);
    for (int row = tile.begin[0] + 8; row < tile.end[0]; row += 8) {
      const Own own(tile, row, column);
      Cursor<const Element>(common, {query_tensor, kQuery}, own).prefetch_tokens(query_tensor, own);
    }
  }
  make_centerd_pair<V, true>(common, head);
  const bool is_centerd = column >= kSize / 2 && column + 1 < tile.count[1] - kSize / 2;
  int region_column = 0;
  if (exists) {
    const int own_columns[2] = {column, column + 1 < tile.end[1] ? column + 1 : column};
    const Span of_columns[2] = {partners<kSize, true>(own_columns[0], tile.count[1]),
                                partners<kSize, true>(own_columns[1], tile.count[1])};
    region_column = of_columns[0].first - columns.first;
    if (!is_centerd) {
      make_pair<V, true>(common, head, own_columns, of_columns, of_columns[0].first,
                         thread_index() % 32, 32, own_pair<V>());
    }
  }
  const float* pair = is_centerd ? centerd_pair() : own_pair<V>();
  if (region_rows > kRows) {
    copy_async_wait<1>();
  } else {
    copy_async_wait<0>();
  }
  block_barrier();
  if (!exists) {
    if (tile.begin[0] + 8 < tile.end[0]) {
      copy_async_wait<0>();
      block_barrier();
    }
    return;
  }

  Own own = first_own;
  for (int row = tile.begin[0]; row < tile.end[0]; row += 8) {
    if (row == tile.begin[0] + 8) {
      copy_async_wait<0>();
      block_barrier();
    }
    own.go_to(tile, row);
    const int begin = partners<kSize, true>(row, tile.count[0]).first;
    const Start start =
        Start::at<V>(pair, own.row, begin, partners<kSize, true>(own.row, tile.count[0]));
    const Partners<V> keys_and_values(region, begin - rows.first, region_column);
    uint32_t patch[2][4];
    as_patch(common, queries, common.signs, patch);
    float logits[kRows][4];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kRows; ++i) {
      start.load(i, logits[i]);
      keys_and_values.template multiply<0>(patch, i, logits[i]);
    }
    // The next queries arrive while the results are stored.
    const bool next_exists = row + 8 + g < tile.end[0];
    if (row + 8 < tile.end[0]) {
      query_cursor.advance(query_tensor, next_exists);
      queries = query_cursor.read(query_tensor, own);
    }

    float largest[2], base[2];
    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      largest[e] = larger(logits[0][2 * e], logits[0][2 * e + 1]);
      NATTEN_OPS_UNROLL
      for (int i = 1; i < kRows; ++i) {
        largest[e] = larger(largest[e], larger(logits[i][2 * e], logits[i][2 * e + 1]));
      }
      largest[e] = larger(largest[e], shuffle_xor(largest[e], 1));
      largest[e] = larger(largest[e], shuffle_xor(largest[e], 2));
      base[e] = largest[e] * common.log2_scale;
    }
    float outputs[4][4], sums[4] = {};
    clear(outputs);
    const uint32_t ones = pack<Element>(1.0f, 1.0f);
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kRows; i += 2) {
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 8; ++j) {
        float& number = logits[i + j / 4][j % 4];
        number = exp2_of(number * common.log2_scale - base[j % 4 / 2]);
      }
      uint32_t weights[4];
      as_weights<Element>(logits[i], logits[i + 1], weights);
      keys_and_values.template accumulate<1>(weights, i, outputs);
      multiply_add<Element>(sums, weights, ones, ones);
    }

    const float factors[2] = {fast_reciprocal(sums[0]), fast_reciprocal(sums[2])};
    const bool finite = store_tokens(common, output_tensor, output_cursor, own, outputs, factors);
    if (c == 0 ? own.exists[0] : c == 1 && own.exists[1]) {
      *logsumexp = ((c ? base[1] : base[0]) + fast_log2(c ? sums[2] : sums[0])) * kLn2;
    }
    output_cursor.advance(output_tensor, true);
    logsumexp = ahead(logsumexp, int64_t(8) * logsumexp_tensor.step[0]);
    repeat_unless(finite, (row - tile.begin[0]) / 8);
  }
  const uint32_t again = bands_to_repeat();
  if (again) attend_carefully<V>(parameters, again);
}

template <typename V>
bool make_forward(const ForwardCall& call, ForwardParameters& parameters) {
  const Orientation orientation(call.problem);
  parameters.common = orientation.common(call.bias);
  parameters.tensors[kQuery] = orientation.tensor(call.query);
  parameters.tensors[kKey] = orientation.tensor(call.key);
  parameters.tensors[kValue] = orientation.tensor(call.value);
  parameters.tensors[kOutput] = orientation.tensor(call.output);
  parameters.tensors[kLogsumexp] = orientation.numbers(call.logsumexp);
  Tiling tiling;
  if (!find_tiling<V, true>(orientation.problem, forward_bytes<V>, tiling)) {
    return false;
  }
  set_tiling(tiling, parameters.common);
  return true;
}

}  // namespace

}  // namespace small

bool small_covers(const ForwardCall& call) {
  if (!small::covers(call.problem, {&call.query, &call.key, &call.value, &call.output})) {
    return false;
  }
  return small::with_variant<small::kForwardWarps, 0>(call.problem, call.dtype, [&](auto variant) {
    small::ForwardParameters parameters;
    return small::make_forward<decltype(variant)>(call, parameters);
  });
}

const char* small_forward(const ForwardCall& call, void* stream) {
  return small::with_variant<small::kForwardWarps, 0>(call.problem, call.dtype, [&](auto variant) {
    using V = decltype(variant);
    small::ForwardParameters parameters;
    small::make_forward<V>(call, parameters);
    const Tiling& tiling = parameters.common.tiling;
    const int64_t blocks = slots_of(parameters.common.problem, tiling) * call.problem.heads;
    return launch(small::small_forward_kernel<V>, blocks, V::kThreads,
                  small::forward_bytes<V>(tiling), stream, parameters);
  });
}

}  // namespace natten_ops::cuda
