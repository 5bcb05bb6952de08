// The forward pass on tensor cores; matrix.cuh says how queries are spread. For every patch a warp
// multiplies its queries with the keys around them, 8 at a time, adds the bias and masks keys
// outside of a query's window, takes the softmax, and multiplies the weights, still in registers,
// with the values. If a patch has more keys than the registers hold, this is done in steps; a
// larger logit then rescales the sums so far. Logits are in units of log(2).
//
// Shared memory of a block: keys and values of its region, (rows, columns, kDim), and the head's
// table of the bias.
#include "matrix.cuh"

namespace natten_ops::cuda {

namespace {

// The most eights of keys in a step: an even number, so that steps are whole.
constexpr int step_of(int eights, int most) {
  int step = most;
  while (eights % step != 0 || step % 2 != 0) --step;
  return step;
}

// kKernel: the kernel size on both axes, or 0 for any.
template <typename E, int kHeadDim, int kRows, int kKernel>
struct ForwardVariant {
  using Element = E;
  using P = Patch<kRows>;
  static constexpr int kDim = kHeadDim;
  static constexpr int kPatchRows = kRows;
  static constexpr bool kIsFixed = kKernel > 0;
  // Eights of keys in a row, and rows, of a patch's region away from borders.
  static constexpr int kColumns = (kKernel + P::kPatchColumns - 1 + 7) / 8;
  static constexpr int kEights = (kKernel + P::kPatchRows - 1) * kColumns;
  static constexpr int kStep = kIsFixed ? step_of(kEights, kColumns == 1 ? 14 : 10) : 8;
  static constexpr bool kIsOneStep = kIsFixed && kStep == kEights;
};

// Repeating a patch with care need not be fast, but must not take many registers.
template <typename Variant>
struct CarefulVariant
    : ForwardVariant<typename Variant::Element, Variant::kDim, Variant::kPatchRows, 0> {
  static constexpr int kStep = 2;
};

struct ForwardParameters {
  ForwardCall call;
  Tiling tiling;
};

template <typename Variant>
int64_t forward_shared_bytes(const Problem& problem, const Tiling& tiling) {
  return int64_t(2) * tiling.region_tokens() * Variant::kDim * sizeof(typename Variant::Element) +
         BiasTable::size(problem) * sizeof(float);
}

// The softmax of a patch's queries so far.
template <int kDim>
struct Attended {
  float outputs[kDim / 8][4];
  float largest[2], sum[2];
};

// kCareful: see is_finite. If `waits`, all threads of the block wait for the values.
template <typename Variant, bool kCareful, typename Region>
NATTEN_OPS_DEVICE void attend(const Problem& problem, const Region& region,
                              const uint32_t (&queries)[Variant::kDim / 16][4],
                              const typename Variant::Element* keys,
                              const typename Variant::Element* values, const float* bias,
                              const int (&entry)[2], bool waits,
                              Attended<Variant::kDim>& attended) {
  using Element = typename Variant::Element;
  constexpr int kDim = Variant::kDim;
  constexpr int kStep = Variant::kStep;
  const int table_columns = 2 * static_cast<int>(problem.kernel_size[1]) - 1;
  const float scale = static_cast<float>(problem.scale) * kLog2e;
  const int column_eights = Variant::kIsFixed ? Variant::kColumns : (region.columns.size() + 7) / 8;
  const int eights = Variant::kIsFixed ? Variant::kEights : region.rows.size() * column_eights;
  clear(attended.outputs);
  NATTEN_OPS_UNROLL
  for (int e = 0; e < 2; ++e) {
    attended.largest[e] = -INFINITY;
    attended.sum[e] = 0;
  }

  Walk walk(column_eights);
  for (int done = 0; done < (Variant::kIsOneStep ? 1 : eights); done += kStep) {
    float logits[kStep][4];
    Walk to_values = walk;
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kStep; ++i, walk.next()) {
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 4; ++j) logits[i][j] = 0;
      multiply_partners<Element, kDim>(queries, keys, region.token(walk), logits[i]);
      NATTEN_OPS_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int e = j / 2, column = 8 * walk.column + thread_index() % 4 * 2 + j % 2;
        const bool has = region.has(e, walk.row, column);
        // Whole steps may go beyond the table's margin.
        const bool is_near = Variant::kIsFixed || has;
        const float entry_bias = bias[is_near ? entry[e] + walk.row * table_columns + column : 0];
        logits[i][j] = has ? logits[i][j] * scale + entry_bias : -INFINITY;
      }
    }

    NATTEN_OPS_UNROLL
    for (int e = 0; e < 2; ++e) {
      float most = attended.largest[e];
      NATTEN_OPS_UNROLL
      for (int i = 0; i < kStep; ++i) {
        most = logits[i][2 * e] > most ? logits[i][2 * e] : most;
        most = logits[i][2 * e + 1] > most ? logits[i][2 * e + 1] : most;
      }
      most = largest_of_row(most);
      if constexpr (!Variant::kIsOneStep) {
        // Equal also if both are infinite.
        const float shrink =
            attended.largest[e] == most ? 1.0f : exp2_of(attended.largest[e] - most);
        attended.sum[e] *= shrink;
        NATTEN_OPS_UNROLL
        for (int i = 0; i < kDim / 8; ++i) {
          attended.outputs[i][2 * e] *= shrink;
          attended.outputs[i][2 * e + 1] *= shrink;
        }
      }
      attended.largest[e] = most;
      // If a step has no key for the query, any base will do.
      const float base = !Variant::kIsOneStep && most == -INFINITY ? 0.0f : most;
      NATTEN_OPS_UNROLL
      for (int i = 0; i < kStep; ++i) {
        NATTEN_OPS_UNROLL
        for (int f = 0; f < 2; ++f) {
          const float weight = exp2_of(logits[i][2 * e + f] - base);
          logits[i][2 * e + f] = weight;
          attended.sum[e] += weight;
        }
      }
    }

    if (waits && done == 0) {
      copy_async_wait<0>();
      block_barrier();
    }
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kStep; i += 2) {
      const Walk even = to_values;
      to_values.next();
      const Sixteen partners{{even, to_values}, {region.token(even), region.token(to_values)}};
      to_values.next();
      accumulate<Element, kDim, kCareful>(logits[i], logits[i + 1], region, partners, values,
                                          attended.outputs);
    }
  }
}

// The tile of a block.
template <typename Element>
struct Loaded {
  Tile tile;
  Span rows, columns;  // of the region
  const Element *keys, *values;
  const float* bias;
};

// Attention of one patch. Returns whether it has to be repeated with care.
template <typename Variant, bool kCareful>
NATTEN_OPS_DEVICE bool attend_patch(const ForwardParameters& parameters,
                                    const Loaded<typename Variant::Element>& loaded, int number,
                                    bool waits) {
  using Element = typename Variant::Element;
  constexpr int kDim = Variant::kDim;
  const ForwardCall& call = parameters.call;
  const Problem& problem = call.problem;
  const Tile& tile = loaded.tile;
  const Patch<Variant::kPatchRows> patch(parameters.tiling, tile, number);
  if (!patch.exists) {
    if (waits) {
      copy_async_wait<0>();
      block_barrier();
    }
    return false;
  }
  const PatchRegion<true, Variant::kPatchRows> region(problem, tile, patch, loaded.rows,
                                                      loaded.columns, parameters.tiling.region[1]);
  uint32_t queries[kDim / 16][4];
  load_patch<Element, kDim>(problem, tile, patch, call.query, queries);
  // The table's entry for the key at row 0 and column 0 of the patch's region.
  int entry[2];
  NATTEN_OPS_UNROLL
  for (int e = 0; e < 2; ++e) {
    entry[e] = bias_entry(problem, region.rows.first - patch.own_row[e],
                          region.columns.first - patch.own_column[e]);
  }
  Attended<kDim> attended;
  attend<Variant, kCareful>(problem, region, queries, loaded.keys, loaded.values, loaded.bias,
                            entry, waits, attended);

  float factors[2];
  NATTEN_OPS_UNROLL
  for (int e = 0; e < 2; ++e) {
    const float total = sum_of_row(attended.sum[e]);
    factors[e] = 1.0f / total;
    if (patch.owns[e] && thread_index() % 4 == 0) {
      static_cast<float*>(
          call.logsumexp)[tile.row_of(problem, patch.own_row[e], patch.own_column[e])] =
          (attended.largest[e] + log2_of(total)) * kLn2;
    }
  }
  store_patch<Element, kDim>(problem, tile, patch, call.output, attended.outputs, factors);
  return !kCareful && warp_any(!is_finite(attended.outputs));
}

template <typename Variant>
NATTEN_OPS_KERNEL(kMatrixThreads, Variant::kDim == 32 ? 3 : 2)
matrix_forward_kernel(const ForwardParameters parameters) {
  using Element = typename Variant::Element;
  constexpr int kDim = Variant::kDim;
  const ForwardCall& call = parameters.call;
  const Problem& problem = call.problem;
  const Tiling& tiling = parameters.tiling;
  const int heads = static_cast<int>(problem.heads);
  Loaded<Element> loaded;
  Tile& tile = loaded.tile;
  if (!find_tile(problem, tiling, block_index() % heads, block_index() / heads, tile)) return;
  loaded.rows = region_of<true>(problem, tile, 0);
  loaded.columns = region_of<true>(problem, tile, 1);
  const int pitch = tiling.region[1];
  Element* keys = reinterpret_cast<Element*>(shared_memory());
  Element* values = keys + tiling.region_tokens() * kDim;
  copy_region<Element, kDim>(problem, tile, loaded.rows, loaded.columns, pitch, call.key, keys);
  copy_async_commit();
  copy_region<Element, kDim>(problem, tile, loaded.rows, loaded.columns, pitch, call.value, values);
  copy_async_commit();
  loaded.keys = keys;
  loaded.values = values;
  loaded.bias = BiasTable::load<typename Variant::Element>(
      problem, call.bias, tile.head,
      reinterpret_cast<float*>(values + tiling.region_tokens() * kDim));
  copy_async_wait<1>();
  block_barrier();

  const int patches = Patch<Variant::kPatchRows>::count(tiling);
  const int warp = thread_index() / 32;
  unsigned again = 0;
  for (int round = 0; round * kMatrixWarps < patches; ++round) {
    const bool repeats =
        attend_patch<Variant, false>(parameters, loaded, round * kMatrixWarps + warp, round == 0);
    again |= static_cast<unsigned>(repeats) << round;
  }
  for (int round = 0; again >> round; ++round) {
    if (again >> round & 1) {
      attend_patch<CarefulVariant<Variant>, true>(parameters, loaded, round * kMatrixWarps + warp,
                                                  false);
    }
  }
}

template <typename Variant>
bool make_forward(const ForwardCall& call, ForwardParameters& parameters) {
  parameters.call = call;
  return find_tiling<true>(
      call.problem, shared_memory_limit(),
      [&](const Tiling& tiling) { return forward_shared_bytes<Variant>(call.problem, tiling); },
      parameters.tiling);
}

// Calls f with the variant for the call.
template <typename Element, typename F>
auto with_kernel_size(const Problem& problem, F f) {
  if (problem.length[0] == 1) {
    return with_dim(problem, [&](auto dim) { return f(ForwardVariant<Element, dim(), 1, 0>()); });
  }
  if (problem.head_dim > 32) {
    return with_dim(problem, [&](auto dim) { return f(ForwardVariant<Element, dim(), 8, 0>()); });
  }
  const bool is_square = problem.kernel_size[0] == problem.kernel_size[1];
  switch (is_square ? problem.kernel_size[1] : 0) {
    case 3:
      return f(ForwardVariant<Element, 32, 8, 3>());
    case 5:
      return f(ForwardVariant<Element, 32, 8, 5>());
    case 7:
      return f(ForwardVariant<Element, 32, 8, 7>());
    case 9:
      return f(ForwardVariant<Element, 32, 8, 9>());
    case 11:
      return f(ForwardVariant<Element, 32, 8, 11>());
    case 13:
      return f(ForwardVariant<Element, 32, 8, 13>());
    default:
      return f(ForwardVariant<Element, 32, 8, 0>());
  }
}

template <typename F>
auto with_forward_variant(const ForwardCall& call, F f) {
  return call.dtype == Dtype::kFloat16 ? with_kernel_size<Float16>(call.problem, f)
                                       : with_kernel_size<BFloat16>(call.problem, f);
}

}  // namespace

bool matrix_covers(const ForwardCall& call) {
  if (!matrix_covers(call.problem, call.dtype,
                     {&call.query, &call.key, &call.value, &call.output})) {
    return false;
  }
  return with_forward_variant(call, [&](auto variant) {
    ForwardParameters parameters;
    return make_forward<decltype(variant)>(call, parameters);
  });
}

const char* matrix_forward(const ForwardCall& call, void* stream) {
  return with_forward_variant(call, [&](auto variant) {
    using Variant = decltype(variant);
    ForwardParameters parameters;
    make_forward<Variant>(call, parameters);
    const int64_t blocks = slots_of(call.problem, parameters.tiling) * call.problem.heads;
    return launch(matrix_forward_kernel<Variant>, blocks, kMatrixThreads,
                  forward_shared_bytes<Variant>(call.problem, parameters.tiling), stream,
                  parameters);
  });
}

}  // namespace natten_ops::cuda
