// The forward pass on ordinary cores. A group of threads (scalar.cuh) owns up to kRows queries and
// visits the keys of their windows row by row, up to kSteps of a row at a time:
//   - inner products with all queries, summed over the group: thread `own` has the logits of its
//     query, in units of log2;
//   - weights 2^(logit - base). The base is a logit, and none so far is more than kSlack above it:
//     when one is, the base moves there and what was summed shrinks;
//   - values times weights are added to all queries' sums.
// Outputs are the sums divided by that of the weights. Every sum has a fixed order.
#include "scalar.cuh"

namespace natten_ops::cuda {

using namespace scalar;

namespace {

constexpr int kRows = 4;
constexpr int kSteps = 4;
constexpr int kSlack = 8;

struct Parameters {
  Problem problem;
  Units units;
  Strided query, key, value, output;
  BiasView bias;
  void* logsumexp;
};

template <typename Variant>
struct Attention {
  using T = typename Variant::T;
  using Tokens = typename Variant::Tokens;
  static constexpr int kGroup = Variant::kGroup;

  Walk<Tokens, kGroup, kRows, true> walk;
  const BiasView& bias;
  T queries[kRows][kChannels], sums[kRows][kChannels];
  // Of query `own`. Logits above `limit`, -inf before the first, move the base.
  T base, limit, total;

  NATTEN_OPS_DEVICE explicit Attention(const Parameters& parameters)
      : walk(parameters.problem, parameters.key, parameters.value), bias(parameters.bias) {}

  NATTEN_OPS_DEVICE void start(const Place<kGroup, kRows>& place) {
    walk.start(place);
    clear(sums);
    base = 0;
    limit = -INFINITY;
    total = 0;
  }

  NATTEN_OPS_DEVICE void end_row() {}

  template <int kKeys, bool kCareful>
  NATTEN_OPS_DEVICE void visit() {
    T logits[kKeys];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      T key[kChannels], products[kRows];
      walk.take_left(i, key);
      multiply(queries, key, products);
      logits[i] = sum_over_group<kGroup>(products);
    }
    T largest = -INFINITY;
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      logits[i] += walk.bias_log2(bias, i);
      if (!walk.has(i)) logits[i] = -INFINITY;
      largest = logits[i] > largest ? logits[i] : largest;
    }
    if (warp_any(largest > limit)) move_base(largest);
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      T value[kChannels];
      walk.take_right(i, value);
      const T weight = exp2_of(logits[i] - base);
      total += weight;
      accumulate<kCareful>(weight, walk.has(i), value, sums);
    }
    walk.step(kKeys);
  }

  NATTEN_OPS_DEVICE void move_base(T largest) {
    T factor = 1;
    if (largest > limit) {
      factor = limit > -INFINITY ? exp2_of(base - largest) : 0;
      base = largest;
      limit = largest + kSlack;
      total *= factor;
    }
    T factors[kRows];
    spread(factor, factors);
    NATTEN_OPS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      NATTEN_OPS_UNROLL
      for (int c = 0; c < kChannels; ++c) sums[r][c] *= factors[r];
    }
  }
};

template <typename Variant>
NATTEN_OPS_KERNEL(kThreads, sizeof(typename Variant::T) == 8 ? 2 : 4)
scalar_forward_kernel(const Parameters parameters) {
  using T = typename Variant::T;
  const Problem& problem = parameters.problem;
  const int heads = static_cast<int>(problem.heads);
  const Place<Variant::kGroup, kRows> place(problem, parameters.units, block_index() % heads,
                                            block_index() / heads);
  Attention<Variant> attention(parameters);
  const typename Variant::Tokens queries(problem, parameters.query);
  queries.load(place, static_cast<T>(problem.scale * kLog2e), attention.queries);

  attention.start(place);
  visit_partners<Variant::kPlain ? kSteps : 1, false>(attention.walk, attention);
  if (warp_any(!is_finite(attention.sums))) {
    attention.start(place);
    visit_partners<1, true>(attention.walk, attention);
  }

  const typename Variant::Tokens outputs(problem, parameters.output);
  outputs.store(place, T(1) / attention.total, attention.sums);
  if (place.writes()) {
    static_cast<T*>(parameters.logsumexp)[place.number_at(problem)] =
        (attention.base + log2_of(attention.total)) * T(kLn2);
  }
}

}  // namespace

const char* scalar_forward(const ForwardCall& original, void* stream) {
  ForwardCall call = original;
  stand_up(call.problem, call.query, call.key, call.value, call.output);
  bool vectors = true;
  const auto strided = [&](const TensorView& view) {
    const Strided tensor = make_strided(call.problem, call.dtype, view);
    vectors = vectors && tensor.vectors;
    return tensor;
  };
  Parameters parameters;
  parameters.problem = call.problem;
  parameters.query = strided(call.query);
  parameters.key = strided(call.key);
  parameters.value = strided(call.value);
  parameters.output = strided(call.output);
  parameters.bias = call.bias;
  parameters.logsumexp = call.logsumexp;
  if (const char* error = make_units<kRows>(call.problem, parameters.units)) return error;
  return with_variant(call.problem, call.dtype, vectors, [&](auto variant) -> const char* {
    using V = decltype(variant);
    int64_t chunks;
    if (const char* error = count_chunks<V>(parameters.units, call.problem, chunks)) return error;
    return launch(scalar_forward_kernel<V>, chunks * call.problem.heads, kThreads, 0, stream,
                  parameters);
  });
}

}  // namespace natten_ops::cuda
