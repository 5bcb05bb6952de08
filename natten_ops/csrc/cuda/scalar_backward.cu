// The backward pass on ordinary cores, without atomics: every sum has a fixed order. With weights
// P = exp(logit - logsumexp), their gradients dP = <grad_output, value>, and those of the logits
// D = P (dP - delta), where delta = <grad_output, output>, the sum of P dP over a window:
//   - a group of threads (scalar.cuh) that owns queries visits their keys: grad_query is the sum of
//     D key. It also writes logsumexp and delta side by side (Numbers) for what follows;
//   - one that owns keys visits the queries that attend to them: grad_key is the sum of D query,
//     grad_value that of P grad_output;
//   - grad_bias: every group that owns queries has a table of its head's entries in shared memory,
//     where it adds D up. Threads that own different queries meet a row of keys at different
//     entries, so they need a barrier only between rows. A block writes the sum of its groups'
//     tables, and the blocks' sums are added last. If tables are too large for shared memory, each
//     entry has a block of its own, which computes D again for all queries.
#include "scalar.cuh"
#include "table_sum.cuh"

namespace natten_ops::cuda {

using namespace scalar;

namespace {

constexpr int kQueryRows = 4;
constexpr int kKeyRows = 2;
constexpr int kSteps = 2;

// Of a query and head; logsumexp in units of log2.
template <typename T>
struct alignas(2 * sizeof(T)) Numbers {
  T logsumexp, delta;
};

struct Parameters {
  Problem problem;
  Units query_units, key_units;
  Strided grad_output, query, key, value, output, grad_query, grad_key, grad_value;
  BiasView bias;
  const void* logsumexp;
  void* numbers;            // contiguous (batch, axis 0, axis 1, heads) of Numbers
  int64_t number_steps[2];  // as Strided has them
  void* block_sums;         // contiguous (slots, heads, bias_size); null: no tables
  int slots;                // blocks of a head
  BiasView grad_bias;
};

// P and D of a query and key with that logit, in units of log2, and dP.
template <typename T>
struct Weight {
  T weight, grad_logit;

  NATTEN_OPS_DEVICE Weight(const Numbers<T>& numbers, T logit, T grad_weight)
      : weight(exp2_of(logit - numbers.logsumexp)),
        grad_logit(weight * (grad_weight - numbers.delta)) {}
};

// ---- Gradients of queries ----

template <typename Variant>
struct QueryGradients {
  using T = typename Variant::T;
  static constexpr int kGroup = Variant::kGroup;

  Walk<typename Variant::Tokens, kGroup, kQueryRows, true> walk;
  const BiasView& bias;
  T queries[kQueryRows][kChannels], grad_outputs[kQueryRows][kChannels],
      sums[kQueryRows][kChannels];
  Numbers<T> numbers;   // of query `own`
  bool has_table;       // the same for all threads, as the compiler can see
  T* table;             // of the group
  int64_t first_entry;  // of the bias, that the table has
  bool adds;            // whether this thread is the one that adds for query `own`

  NATTEN_OPS_DEVICE explicit QueryGradients(const Parameters& parameters)
      : walk(parameters.problem, parameters.key, parameters.value), bias(parameters.bias) {}

  NATTEN_OPS_DEVICE void start(const Place<kGroup, kQueryRows>& place) {
    walk.start(place);
    clear(sums);
  }

  NATTEN_OPS_DEVICE void end_row() {
    if (has_table) warp_barrier();
  }

  template <int kKeys, bool kCareful>
  NATTEN_OPS_DEVICE void visit() {
    T keys[kKeys][kChannels], logits[kKeys], grad_weights[kKeys];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      T value[kChannels], products[kQueryRows];
      walk.take_left(i, keys[i]);
      multiply(queries, keys[i], products);
      logits[i] = sum_over_group<kGroup>(products) + walk.bias_log2(bias, i);
      walk.take_right(i, value);
      multiply(grad_outputs, value, products);
      grad_weights[i] = sum_over_group<kGroup>(products);
    }
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kKeys; ++i) {
      const bool has = walk.has(i);
      T grad_logit = Weight<T>(numbers, logits[i], grad_weights[i]).grad_logit;
      if (!has) grad_logit = 0;
      if (!kCareful && has_table && has && adds) {
        table[walk.entry_at(i) - first_entry] += grad_logit;
      }
      accumulate<kCareful>(grad_logit, has, keys[i], sums);
    }
    walk.step(kKeys);
  }
};

template <typename Variant>
NATTEN_OPS_KERNEL(kThreads, sizeof(typename Variant::T) == 8 ? 2 : 3)
scalar_query_kernel(const Parameters parameters) {
  using T = typename Variant::T;
  using Tokens = typename Variant::Tokens;
  constexpr int kGroup = Variant::kGroup;
  constexpr int kGroups = kThreads / kGroup;
  const Problem& problem = parameters.problem;
  const int heads = static_cast<int>(problem.heads);
  const int head = block_index() % heads, slot = block_index() / heads;

  QueryGradients<Variant> gradients(parameters);
  const bool has_table = parameters.block_sums;
  const int entries = has_table ? static_cast<int>(problem.bias_size()) : 0;
  T* tables = reinterpret_cast<T*>(shared_memory());
  for (int i = thread_index(); i < kGroups * entries; i += kThreads) tables[i] = 0;
  block_barrier();
  gradients.has_table = has_table;
  gradients.table = tables + thread_index() / kGroup * entries;
  gradients.first_entry = int64_t(head) * entries;

  const int chunks = (parameters.query_units.count + kGroups - 1) / kGroups;
  for (int chunk = slot; chunk < chunks; chunk += parameters.slots) {
    const Place<kGroup, kQueryRows> place(problem, parameters.query_units, head, chunk);
    const Tokens queries(problem, parameters.query), outputs(problem, parameters.output);
    const Tokens grad_outputs(problem, parameters.grad_output);
    queries.load(place, static_cast<T>(problem.scale * kLog2e), gradients.queries);
    grad_outputs.load(place, T(1), gradients.grad_outputs);
    outputs.load(place, T(1), gradients.sums);
    T deltas[kQueryRows];
    NATTEN_OPS_UNROLL
    for (int r = 0; r < kQueryRows; ++r) {
      deltas[r] = 0;
      NATTEN_OPS_UNROLL
      for (int c = 0; c < kChannels; ++c) {
        deltas[r] += gradients.grad_outputs[r][c] * gradients.sums[r][c];
      }
    }
    const int64_t number = place.number_at(problem);
    gradients.numbers = {
        static_cast<const T*>(parameters.logsumexp)[number] * T(kLog2e),
        sum_over_group<kGroup>(deltas),
    };
    gradients.adds = place.writes();
    if (place.writes()) static_cast<Numbers<T>*>(parameters.numbers)[number] = gradients.numbers;

    gradients.start(place);
    visit_partners<Variant::kPlain ? kSteps : 1, false>(gradients.walk, gradients);
    if (warp_any(!is_finite(gradients.sums))) {
      gradients.start(place);
      visit_partners<1, true>(gradients.walk, gradients);
    }
    const Tokens grad_queries(problem, parameters.grad_query);
    grad_queries.store(place, static_cast<T>(problem.scale), gradients.sums);
  }

  if (!has_table) return;
  block_barrier();
  T* sums = static_cast<T*>(parameters.block_sums) + (int64_t(slot) * heads + head) * entries;
  for (int i = thread_index(); i < entries; i += kThreads) {
    T sum = 0;
    for (int group = 0; group < kGroups; ++group) sum += tables[group * entries + i];
    sums[i] = sum;
  }
}

// ---- Gradients of keys and values ----

template <typename Variant>
struct KeyGradients {
  using T = typename Variant::T;
  static constexpr int kGroup = Variant::kGroup;

  const Parameters& parameters;
  Walk<typename Variant::Tokens, kGroup, kKeyRows, false> walk;
  const BiasView& bias;
  T keys[kKeyRows][kChannels], values[kKeyRows][kChannels];
  T key_sums[kKeyRows][kChannels], value_sums[kKeyRows][kChannels];
  const Numbers<T>* numbers;  // of the query that the walk is at

  NATTEN_OPS_DEVICE explicit KeyGradients(const Parameters& parameters)
      : parameters(parameters),
        walk(parameters.problem, parameters.query, parameters.grad_output),
        bias(parameters.bias) {}

  NATTEN_OPS_DEVICE void start(const Place<kGroup, kKeyRows>& place) {
    walk.start(place);
    numbers = static_cast<const Numbers<T>*>(parameters.numbers) +
              place.number_at(parameters.problem, walk.first_row, walk.first_column);
    clear(key_sums);
    clear(value_sums);
  }

  NATTEN_OPS_DEVICE void end_row() { numbers += walk.to_next_row(parameters.number_steps); }

  template <int kQueries, bool kCareful>
  NATTEN_OPS_DEVICE void visit() {
    T queries[kQueries][kChannels], grad_outputs[kQueries][kChannels];
    T logits[kQueries], grad_weights[kQueries];
    Numbers<T> numbers_of[kQueries];
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      T products[kKeyRows];
      walk.take_left(i, queries[i]);
      multiply(keys, queries[i], products);
      logits[i] = sum_over_group<kGroup>(products) + walk.bias_log2(bias, i);
      walk.take_right(i, grad_outputs[i]);
      multiply(values, grad_outputs[i], products);
      grad_weights[i] = sum_over_group<kGroup>(products);
      numbers_of[i] = *numbers;
      if (walk.has_column(i + 1)) numbers += parameters.number_steps[1];
    }
    NATTEN_OPS_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const bool has = walk.has(i);
      auto [weight, grad_logit] = Weight<T>(numbers_of[i], logits[i], grad_weights[i]);
      if (!has) weight = grad_logit = 0;
      accumulate<kCareful>(weight, has, grad_outputs[i], value_sums);
      accumulate<kCareful>(grad_logit, has, queries[i], key_sums);
    }
    walk.step(kQueries);
  }
};

template <typename Variant>
NATTEN_OPS_KERNEL(kThreads, sizeof(typename Variant::T) == 8 ? 2 : 4)
scalar_key_kernel(const Parameters parameters) {
  using T = typename Variant::T;
  using Tokens = typename Variant::Tokens;
  const Problem& problem = parameters.problem;
  const int heads = static_cast<int>(problem.heads);
  const Place<Variant::kGroup, kKeyRows> place(problem, parameters.key_units, block_index() % heads,
                                               block_index() / heads);
  KeyGradients<Variant> gradients(parameters);
  const Tokens keys(problem, parameters.key), values(problem, parameters.value);
  keys.load(place, static_cast<T>(problem.scale * kLog2e), gradients.keys);
  values.load(place, T(1), gradients.values);

  gradients.start(place);
  visit_partners<Variant::kPlain ? kSteps : 1, false>(gradients.walk, gradients);
  if (warp_any(!is_finite(gradients.key_sums) || !is_finite(gradients.value_sums))) {
    gradients.start(place);
    visit_partners<1, true>(gradients.walk, gradients);
  }
  const Tokens grad_keys(problem, parameters.grad_key), grad_values(problem, parameters.grad_value);
  grad_keys.store(place, static_cast<T>(problem.scale), gradients.key_sums);
  grad_values.store(place, T(1), gradients.value_sums);
}

// ---- Gradient of the bias, without tables ----

// One entry a block; kGroup threads share the channels of a query and key.
template <typename Element>
NATTEN_OPS_KERNEL(kThreads, 1)
scalar_entry_kernel(const Parameters parameters) {
  using T = Compute<Element>;
  constexpr int kGroup = 8;
  constexpr int kGroups = kThreads / kGroup;
  const Problem& problem = parameters.problem;
  const auto [length0, length1] = problem.length;
  const auto [k0, k1] = problem.kernel_size;
  const auto [d0, d1] = problem.dilation;
  const int entry_of_head = block_index() % static_cast<int>(problem.bias_size());
  const int head = block_index() / static_cast<int>(problem.bias_size());
  const int64_t offset0 = entry_of_head / (2 * k1 - 1) - (k0 - 1);
  const int64_t offset1 = entry_of_head % (2 * k1 - 1) - (k1 - 1);
  const int lane = thread_index() % kGroup, group = thread_index() / kGroup;

  double sum = 0;
  const int64_t count = problem.batch * length0 * length1;
  for (int64_t first = 0; first < count; first += kGroups) {
    const int64_t query = first + group < count ? first + group : count - 1;
    const int64_t i1 = query % length1, row = query / length1;
    const int64_t i0 = row % length0, batch = row / length0;
    const AxisToken token0 = axis_token(i0, length0, d0), token1 = axis_token(i1, length1, d1);
    const int64_t in_window0 = token0.position + offset0 - window_start(token0, k0);
    const int64_t in_window1 = token1.position + offset1 - window_start(token1, k1);
    const bool attends = first + group < count && in_window0 >= 0 && in_window0 < k0 &&
                         in_window1 >= 0 && in_window1 < k1;
    if (!warp_any(attends)) continue;
    T logit[1] = {0}, grad_weight[1] = {0};
    if (attends) {
      const int64_t key0 = i0 + offset0 * d0, key1 = i1 + offset1 * d1;
      const auto channel = [&](const Strided& tensor, int64_t index0, int64_t index1, int64_t c) {
        const TensorView& view = tensor.view;
        return widen(view.at<Element>(batch, index0, index1, head)[c * view.channel_stride]);
      };
      for (int64_t c = lane; c < problem.head_dim; c += kGroup) {
        logit[0] += channel(parameters.query, i0, i1, c) * channel(parameters.key, key0, key1, c);
        grad_weight[0] +=
            channel(parameters.grad_output, i0, i1, c) * channel(parameters.value, key0, key1, c);
      }
    }
    T bias = parameters.bias.data ? read_bias<Element>(parameters.bias, block_index()) : T(0);
    bias *= T(kLog2e);
    const T scaled = sum_over_group<kGroup>(logit) * static_cast<T>(problem.scale * kLog2e) + bias;
    const T grad = sum_over_group<kGroup>(grad_weight);
    const Numbers<T> numbers = static_cast<const Numbers<T>*>(
        parameters.numbers)[row_offset(problem, batch, i0, i1, head)];
    if (attends) sum += Weight<T>(numbers, scaled, grad).grad_logit;
  }

  double* sums = reinterpret_cast<double*>(shared_memory());
  if (lane == 0) sums[group] = sum;
  block_barrier();
  if (thread_index() != 0) return;
  for (int other = 1; other < kGroups; ++other) sum += sums[other];
  write_bias(parameters.grad_bias, block_index(), static_cast<T>(sum));
}

// ---- Memory ----

int64_t compute_size(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : 4; }

int64_t numbers_bytes(const BackwardCall& call) {
  const Problem& problem = call.problem;
  const int64_t rows = problem.batch * problem.length[0] * problem.length[1] * problem.heads;
  return divide_up(rows * 2 * compute_size(call.dtype), 16) * 16;
}

// Bytes of one block's sums of each head.
int64_t slot_bytes(const BackwardCall& call) {
  return call.problem.heads * call.problem.bias_size() * compute_size(call.dtype);
}

// The most blocks of a head whose sums are still small beside query, key and value. Whatever the
// variant, there are no more blocks than chunks.
int64_t most_slots(const BackwardCall& call) {
  const Problem& problem = call.problem;
  const int64_t tokens = problem.batch * problem.length[0] * problem.length[1];
  const int64_t inputs = 3 * tokens * problem.heads * problem.head_dim * element_size(call.dtype);
  const int64_t bytes = inputs / 64 > (1 << 20) ? inputs / 64 : 1 << 20;
  const int64_t slots = bytes / slot_bytes(call), most = divide_up(tokens, kThreads / 32);
  return slots < 1 ? 1 : slots > most ? most : slots;
}

bool has_grad_bias(const BackwardCall& call) { return call.bias.data || call.grad_bias.data; }

}  // namespace

int64_t scalar_backward_scratch(const BackwardCall& call) {
  return numbers_bytes(call) + (has_grad_bias(call) ? most_slots(call) * slot_bytes(call) : 0);
}

const char* scalar_backward(const BackwardCall& original, void* stream) {
  BackwardCall call = original;
  Problem& problem = call.problem;
  stand_up(problem, call.grad_output, call.query, call.key, call.value, call.output,
           call.grad_query, call.grad_key, call.grad_value);
  bool vectors = true;
  const auto strided = [&](const TensorView& view) {
    const Strided tensor = make_strided(problem, call.dtype, view);
    vectors = vectors && tensor.vectors;
    return tensor;
  };
  Parameters parameters{};
  parameters.problem = problem;
  parameters.grad_output = strided(call.grad_output);
  parameters.query = strided(call.query);
  parameters.key = strided(call.key);
  parameters.value = strided(call.value);
  parameters.output = strided(call.output);
  parameters.grad_query = strided(call.grad_query);
  parameters.grad_key = strided(call.grad_key);
  parameters.grad_value = strided(call.grad_value);
  parameters.bias = call.bias;
  parameters.logsumexp = call.logsumexp;
  parameters.numbers = call.scratch;
  parameters.number_steps[0] = problem.dilation[0] * problem.length[1] * problem.heads;
  parameters.number_steps[1] = problem.dilation[1] * problem.heads;
  parameters.grad_bias = call.grad_bias;
  if (const char* error = make_units<kQueryRows>(problem, parameters.query_units)) return error;
  if (const char* error = make_units<kKeyRows>(problem, parameters.key_units)) return error;
  const int64_t entries = problem.heads * problem.bias_size();
  if (entries > INT32_MAX) return "the bias is too large for the kernels";
  return with_variant(problem, call.dtype, vectors, [&](auto variant) -> const char* {
    using V = decltype(variant);
    using T = typename V::T;
    int64_t chunks, key_chunks;
    const char* error = count_chunks<V>(parameters.query_units, problem, chunks);
    if (!error) error = count_chunks<V>(parameters.key_units, problem, key_chunks);
    if (error) return error;
    int64_t slots = chunks;
    int64_t table_bytes = kThreads / V::kGroup * problem.bias_size() * int64_t(sizeof(T));
    const bool has_tables = call.grad_bias.data && table_bytes <= shared_memory_limit();
    if (has_tables) {
      // As many chunks for every block, but for the last.
      slots = divide_up(chunks, divide_up(chunks, most_slots(call)));
      parameters.block_sums = static_cast<char*>(call.scratch) + numbers_bytes(call);
    } else {
      table_bytes = 0;
    }
    parameters.slots = static_cast<int>(slots);
    error = launch(scalar_query_kernel<V>, slots * problem.heads, kThreads, table_bytes, stream,
                   parameters);
    if (error) return error;
    error =
        launch(scalar_key_kernel<V>, key_chunks * problem.heads, kThreads, 0, stream, parameters);
    if (error || !call.grad_bias.data) return error;
    if (has_tables) {
      return sum_tables(static_cast<T*>(parameters.block_sums), slots, entries, call.grad_bias,
                        stream);
    }
    return launch(scalar_entry_kernel<typename V::Element>, entries, kThreads,
                  kThreads * sizeof(double), stream, parameters);
  });
}

}  // namespace natten_ops::cuda
