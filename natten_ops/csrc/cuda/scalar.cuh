// What the kernels on ordinary cores share: which tokens a thread works on, the channels it holds
// of them, which other tokens they meet, and sums over threads.
//
// kGroup neighboring threads of a warp, a group, own a column of up to kRows tokens of one head:
// consecutive positions of one residue on axis 0, at one place on axis 1. The windows of such
// tokens overlap, so a partner (the key of a query, or the query of a key) is loaded once for all
// of them. Every thread holds kChannels channels of each of the tokens; register r holds token
// own ^ r, where own = thread % kRows. So the sums of products over the group's threads, one per
// token, come out with token `own` in every thread without a choice between registers
// (sum_over_group), and a number per token goes back to all threads in the same way (spread).
//
// Partners are visited row by row, and the groups of a warp take the same number of steps, because
// they exchange numbers. So a token also meets tokens that are not its partners (they are in the
// tensor all the same): their weights are set to zero. Zero times infinity would still touch the
// token. So if a result is not finite, the warp computes everything again with care: it adds only a
// token's own partners.
#pragma once

#include "device.h"
// device.h comes first.
#include "../window.h"
#include "bias.cuh"
#include "kernels.h"

namespace natten_ops::cuda::scalar {

constexpr int kThreads = 128;
constexpr int kChannels = 8;
constexpr double kLog2e = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;

constexpr const char* kTooManyTokens = "too many tokens for one call of the kernels";

template <typename Element>
struct ComputeType {
  using Type = float;
};
template <>
struct ComputeType<double> {
  using Type = double;
};
template <typename Element>
using Compute = typename ComputeType<Element>::Type;

inline int64_t divide_up(int64_t number, int64_t by) { return (number + by - 1) / by; }

// ---- Tokens ----

// The columns of up to kRows tokens of one head, in the order batch, residue on axis 0, position on
// axis 0, residue on axis 1, position on axis 1. Neighboring units share most of their partners,
// whatever the dilation; a block works on neighboring units of one head.
struct Units {
  // How the tokens of an axis spread over residues: the first `longer` have `tokens` + 1 each, the
  // others `tokens`.
  struct Residues {
    int longer, tokens;
  };
  Residues residues[2];
  int row_groups;  // of one batch entry
  int columns;
  int count;
};

// Groups of kRows tokens among `tokens` tokens.
template <int kRows>
NATTEN_OPS_HOST_DEVICE int row_groups(int tokens) {
  return (tokens + kRows - 1) / kRows;
}

template <int kRows>
const char* make_units(const Problem& problem, Units& units) {
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t dilation = problem.dilation[axis];
    units.residues[axis] = {static_cast<int>(problem.length[axis] % dilation),
                            static_cast<int>(problem.length[axis] / dilation)};
  }
  const auto [longer, tokens] = units.residues[0];
  const int64_t groups = int64_t(longer) * row_groups<kRows>(tokens + 1) +
                         (problem.dilation[0] - longer) * row_groups<kRows>(tokens);
  const int64_t count = problem.batch * groups * problem.length[1];
  units.row_groups = static_cast<int>(groups);
  units.columns = static_cast<int>(problem.length[1]);
  units.count = static_cast<int>(count);
  return count < INT32_MAX - kThreads ? nullptr : kTooManyTokens;
}

// Consecutive positions of one residue of an axis.
struct Positions {
  int residue, first, count;  // count: of the residue

  // The index-th group of kRows positions of an axis.
  template <int kRows>
  static NATTEN_OPS_DEVICE Positions find(const Units::Residues& residues, int index) {
    const int in_longer = row_groups<kRows>(residues.tokens + 1);
    const bool is_longer = index < residues.longer * in_longer;
    const int each = is_longer ? in_longer : row_groups<kRows>(residues.tokens);
    if (!is_longer) index -= residues.longer * in_longer;
    return {index / each + (is_longer ? 0 : residues.longer), index % each * kRows,
            residues.tokens + is_longer};
  }

  // The t-th of them, or the last of the residue.
  NATTEN_OPS_DEVICE int clamped(int t) const { return first + t < count ? first + t : count - 1; }
  NATTEN_OPS_DEVICE AxisToken token(int t) const { return {residue, clamped(t), count}; }
};

// The tokens of a group, and the thread's place in it. A group without a unit has none, but knows
// the places of those of the last unit.
template <int kGroup, int kRows>
struct Place {
  static constexpr int kGroups = kThreads / kGroup;  // of a block

  int lane, own;
  int batch, head;
  Positions positions0, positions1;
  int rows;  // tokens

  // The thread's group is one of the `chunk`-th kGroups units.
  NATTEN_OPS_DEVICE Place(const Problem& problem, const Units& units, int head, int chunk)
      : lane(thread_index() % kGroup), own(lane % kRows), head(head) {
    int unit = chunk * kGroups + thread_index() / kGroup;
    const bool exists = unit < units.count;
    if (!exists) unit = units.count - 1;
    const int group = unit / units.columns;
    batch = group / units.row_groups;
    positions0 = Positions::find<kRows>(units.residues[0], group % units.row_groups);
    positions1 = Positions::find<1>(units.residues[1], unit % units.columns);
    const int left = positions0.count - positions0.first;
    rows = !exists ? 0 : left < kRows ? left : kRows;
  }

  NATTEN_OPS_DEVICE bool has(int r) const { return (own ^ r) < rows; }
  // Offset of a token of these residues in a tensor of one number per token and head.
  NATTEN_OPS_DEVICE int64_t number_at(const Problem& problem, int row, int column) const {
    return row_offset(problem, batch, row * problem.dilation[0] + positions0.residue,
                      column * problem.dilation[1] + positions1.residue, head);
  }
  NATTEN_OPS_DEVICE int64_t number_at(const Problem& problem) const {
    return number_at(problem, positions0.clamped(own), positions1.first);
  }
  // Several threads own the same token; whether this is the one that writes the token's numbers.
  NATTEN_OPS_DEVICE bool writes() const { return lane < kRows && own < rows; }
};

// ---- Numbers per token ----

// This thread's part of the inner products of every token with a partner.
template <int kRows, typename T>
NATTEN_OPS_DEVICE void multiply(const T (&tokens)[kRows][kChannels], const T (&partner)[kChannels],
                                T (&products)[kRows]) {
  NATTEN_OPS_UNROLL
  for (int r = 0; r < kRows; ++r) products[r] = tokens[r][0] * partner[0];
  NATTEN_OPS_UNROLL
  for (int c = 1; c < kChannels; ++c) {
    NATTEN_OPS_UNROLL
    for (int r = 0; r < kRows; ++r) products[r] += tokens[r][c] * partner[c];
  }
}

// Sums every token's number over the threads of the group; returns that of token `own`.
template <int kGroup, int kRows, typename T>
NATTEN_OPS_DEVICE T sum_over_group(T (&numbers)[kRows]) {
  static_assert((kRows & (kRows - 1)) == 0 && kGroup % kRows == 0 && 32 % kGroup == 0);
  // Register r + half holds the token that thread ^ half has in register r.
  NATTEN_OPS_UNROLL
  for (int half = kRows / 2; half > 0; half /= 2) {
    NATTEN_OPS_UNROLL
    for (int r = 0; r < half; ++r) numbers[r] += shuffle_xor(numbers[r + half], half);
  }
  NATTEN_OPS_UNROLL
  for (int mask = kRows; mask < kGroup; mask *= 2) numbers[0] += shuffle_xor(numbers[0], mask);
  return numbers[0];
}

// From token `own` to the registers of all tokens.
template <int kRows, typename T>
NATTEN_OPS_DEVICE void spread(T own, T (&numbers)[kRows]) {
  numbers[0] = own;
  NATTEN_OPS_UNROLL
  for (int r = 1; r < kRows; ++r) numbers[r] = shuffle_xor(own, r);
}

// Adds weight * partner to all tokens; the weight, and whether this is one of its partners, are
// given for token `own`.
template <bool kCareful, int kRows, typename T>
NATTEN_OPS_DEVICE void accumulate(T weight, bool is_partner, const T (&partner)[kChannels],
                                  T (&sums)[kRows][kChannels]) {
  T weights[kRows];
  spread(weight, weights);
  int is_partner_of[kRows];
  if (kCareful) spread(static_cast<int>(is_partner), is_partner_of);
  NATTEN_OPS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    if (kCareful && !is_partner_of[r]) continue;
    NATTEN_OPS_UNROLL
    for (int c = 0; c < kChannels; ++c) sums[r][c] += weights[r] * partner[c];
  }
}

template <int kRows, typename T>
NATTEN_OPS_DEVICE void clear(T (&sums)[kRows][kChannels]) {
  NATTEN_OPS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    NATTEN_OPS_UNROLL
    for (int c = 0; c < kChannels; ++c) sums[r][c] = 0;
  }
}

template <int kRows, typename T>
NATTEN_OPS_DEVICE bool is_finite(const T (&sums)[kRows][kChannels]) {
  T zero = 0;
  NATTEN_OPS_UNROLL
  for (int r = 0; r < kRows; ++r) {
    NATTEN_OPS_UNROLL
    for (int c = 0; c < kChannels; ++c) zero += sums[r][c] * T(0);
  }
  return zero == 0;
}

// ---- Channels ----

// A tensor, and how far away tokens are at the next position on an axis.
struct Strided {
  TensorView view;
  int64_t step[2];
  bool vectors;  // all tokens have their channels side by side, in whole 16-byte words
};

inline int64_t element_size(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}

inline Strided make_strided(const Problem& problem, Dtype dtype, const TensorView& view) {
  const int64_t vector = 16 / element_size(dtype);
  const auto fits = [&](int64_t size, int64_t stride) { return size == 1 || stride % vector == 0; };
  const bool vectors =
      reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.channel_stride == 1 &&
      problem.head_dim % vector == 0 && fits(problem.batch, view.batch_stride) &&
      fits(problem.length[0], view.axis_stride[0]) &&
      fits(problem.length[1], view.axis_stride[1]) && fits(problem.heads, view.head_stride);
  return {view,
          {view.axis_stride[0] * problem.dilation[0], view.axis_stride[1] * problem.dilation[1]},
          vectors};
}

struct alignas(16) Words {
  uint32_t words[4];
};
struct alignas(16) Floats {
  float numbers[4];
};
struct alignas(16) Doubles {
  double numbers[2];
};

NATTEN_OPS_DEVICE void load_vector(const float* from, float* to) {
  const Floats vector = *reinterpret_cast<const Floats*>(from);
  NATTEN_OPS_UNROLL
  for (int i = 0; i < 4; ++i) to[i] = vector.numbers[i];
}
NATTEN_OPS_DEVICE void load_vector(const double* from, double* to) {
  const Doubles vector = *reinterpret_cast<const Doubles*>(from);
  to[0] = vector.numbers[0];
  to[1] = vector.numbers[1];
}
template <typename Element>
NATTEN_OPS_DEVICE void load_vector(const Element* from, float* to) {
  const Words vector = *reinterpret_cast<const Words*>(from);
  NATTEN_OPS_UNROLL
  for (int i = 0; i < 4; ++i) unpack<Element>(vector.words[i], to[2 * i], to[2 * i + 1]);
}

NATTEN_OPS_DEVICE void store_vector(const float* from, float* to) {
  *reinterpret_cast<Floats*>(to) = {{from[0], from[1], from[2], from[3]}};
}
NATTEN_OPS_DEVICE void store_vector(const double* from, double* to) {
  *reinterpret_cast<Doubles*>(to) = {{from[0], from[1]}};
}
template <typename Element>
NATTEN_OPS_DEVICE void store_vector(const float* from, Element* to) {
  Words vector;
  NATTEN_OPS_UNROLL
  for (int i = 0; i < 4; ++i) vector.words[i] = pack<Element>(from[2 * i], from[2 * i + 1]);
  *reinterpret_cast<Words*>(to) = vector;
}

// This thread's channels of the tokens of a tensor: the threads of a group take 16-byte words in
// turn. kPlain: the tensor has vectors, and head_dim is exactly what a group holds.
template <typename E, int kGroup, bool kPlain>
struct Slices {
  using Element = E;
  using T = Compute<Element>;
  static constexpr int kVector = 16 / sizeof(Element);
  static constexpr int kVectors = kChannels / kVector;

  const Strided& tensor;
  int channels;  // from the thread's first one on

  NATTEN_OPS_DEVICE Slices(const Problem& problem, const Strided& tensor)
      : tensor(tensor),
        channels(static_cast<int>(problem.head_dim) - thread_index() % kGroup * kVector) {}

  // The token of a group's residues at that position on each axis: this thread's first channel.
  template <int kRows>
  NATTEN_OPS_DEVICE Element* at(const Place<kGroup, kRows>& place, int64_t row,
                                int64_t column) const {
    const TensorView& view = tensor.view;
    return view.at<Element>(place.batch, place.positions0.residue, place.positions1.residue,
                            place.head) +
           row * tensor.step[0] + column * tensor.step[1] +
           place.lane * kVector * (kPlain ? 1 : view.channel_stride);
  }

  NATTEN_OPS_DEVICE void load(const Element* token, T (&to)[kChannels]) const {
    NATTEN_OPS_UNROLL
    for (int n = 0; n < kVectors; ++n) {
      const int first = n * kGroup * kVector;
      if constexpr (kPlain) {
        load_vector(token + first, to + n * kVector);
      } else if (tensor.vectors && first < channels) {
        load_vector(token + first, to + n * kVector);
      } else {
        NATTEN_OPS_UNROLL
        for (int i = 0; i < kVector; ++i) {
          to[n * kVector + i] =
              first + i < channels ? widen(token[(first + i) * tensor.view.channel_stride]) : T(0);
        }
      }
    }
  }

  NATTEN_OPS_DEVICE void store(const T (&from)[kChannels], Element* token) const {
    NATTEN_OPS_UNROLL
    for (int n = 0; n < kVectors; ++n) {
      const int first = n * kGroup * kVector;
      if constexpr (kPlain) {
        store_vector(from + n * kVector, token + first);
      } else if (tensor.vectors && first < channels) {
        store_vector(from + n * kVector, token + first);
      } else {
        NATTEN_OPS_UNROLL
        for (int i = 0; i < kVector; ++i) {
          if (first + i < channels) {
            narrow(from[n * kVector + i], token[(first + i) * tensor.view.channel_stride]);
          }
        }
      }
    }
  }

  // The tokens of a group, times a factor.
  template <int kRows>
  NATTEN_OPS_DEVICE void load(const Place<kGroup, kRows>& place, T factor,
                              T (&to)[kRows][kChannels]) const {
    NATTEN_OPS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      load(at(place, place.positions0.clamped(place.own ^ r), place.positions1.first), to[r]);
      NATTEN_OPS_UNROLL
      for (int c = 0; c < kChannels; ++c) to[r][c] *= factor;
    }
  }

  // The sums times a factor, which is given for token `own`.
  template <int kRows>
  NATTEN_OPS_DEVICE void store(const Place<kGroup, kRows>& place, T factor,
                               const T (&from)[kRows][kChannels]) const {
    T factors[kRows];
    spread(factor, factors);
    NATTEN_OPS_UNROLL
    for (int r = 0; r < kRows; ++r) {
      T scaled[kChannels];
      NATTEN_OPS_UNROLL
      for (int c = 0; c < kChannels; ++c) scaled[c] = from[r][c] * factors[r];
      if (place.has(r)) {
        store(scaled, at(place, place.positions0.first + (place.own ^ r), place.positions1.first));
      }
    }
  }
};

// ---- Partners ----

// A walk over the partners of a group's tokens, in two tensors at once. kOfQueries: the tokens are
// queries and the partners keys; else the other way round.
template <typename Tokens, int kGroup, int kRows, bool kOfQueries>
struct Walk {
  using Element = typename Tokens::Element;
  using T = typename Tokens::T;

  const Problem& problem;
  const Tokens left, right;

  // The rectangle of positions that holds the partners of all tokens; those of token `own` are in
  // its rows low to low + extent - 1, and in all its columns.
  int first_row, rows, first_column, columns;
  int low, extent;

  int row, column;  // of the rectangle; may be beyond it
  // The tokens at that place, or at the nearest row and column of the rectangle.
  const Element *left_token, *right_token;
  int64_t entry;  // of the bias, for token `own`
  bool has_row;   // the row is one of token `own`'s

  NATTEN_OPS_DEVICE Walk(const Problem& problem, const Strided& left, const Strided& right)
      : problem(problem), left(problem, left), right(problem, right) {}

  NATTEN_OPS_DEVICE static QueryRange partners_of(const AxisToken& token, int64_t kernel_size) {
    if constexpr (!kOfQueries) return attending_queries(token, kernel_size);
    const int64_t start = window_start(token, kernel_size);
    return {start, start + kernel_size - 1};
  }

  NATTEN_OPS_DEVICE void start(const Place<kGroup, kRows>& place) {
    const auto [k0, k1] = problem.kernel_size;
    const AxisToken own0 = place.positions0.token(place.own), own1 = place.positions1.token(0);
    const QueryRange own_rows = partners_of(own0, k0), own_columns = partners_of(own1, k1);
    first_row = static_cast<int>(partners_of(place.positions0.token(0), k0).first);
    rows =
        static_cast<int>(partners_of(place.positions0.token(kRows - 1), k0).last) - first_row + 1;
    first_column = static_cast<int>(own_columns.first);
    columns = static_cast<int>(own_columns.last) - first_column + 1;
    low = place.has(0) ? static_cast<int>(own_rows.first) - first_row : INT32_MAX;
    extent = static_cast<int>(own_rows.last - own_rows.first) + 1;

    row = 0;
    left_token = left.at(place, first_row, first_column);
    right_token = right.at(place, first_row, first_column);
    const int64_t offset0 = first_row - own0.position;
    const int64_t offset1 = first_column - own1.position;
    entry = kOfQueries ? bias_offset(problem, place.head, offset0, offset1)
                       : bias_offset(problem, place.head, -offset0, -offset1);
  }

  NATTEN_OPS_DEVICE void start_row() {
    column = 0;
    // All windows have as many rows.
    const int64_t rows_of_own = kOfQueries ? problem.kernel_size[0] : extent;
    has_row = static_cast<unsigned>(row - low) < static_cast<unsigned>(rows_of_own);
  }

  // From the end of a row to the next one's start, for something with these steps.
  NATTEN_OPS_DEVICE int64_t to_next_row(const int64_t (&step)[2]) const {
    const int64_t taken = kOfQueries ? problem.kernel_size[1] : columns - 1;
    return (row + 1 < rows ? step[0] : 0) - taken * step[1];
  }

  NATTEN_OPS_DEVICE void next_row() {
    const int64_t entries = 2 * problem.kernel_size[1] - 1;
    entry += kOfQueries ? entries - column : column - entries;
    left_token += to_next_row(left.tensor.step);
    right_token += to_next_row(right.tensor.step);
    ++row;
  }

  // The partner `further` columns on. Call these in order, and then step().
  NATTEN_OPS_DEVICE void take_left(int further, T (&to)[kChannels]) {
    left.load(left_token, to);
    if (has_column(further + 1)) left_token += left.tensor.step[1];
  }
  NATTEN_OPS_DEVICE void take_right(int further, T (&to)[kChannels]) {
    right.load(right_token, to);
    if (has_column(further + 1)) right_token += right.tensor.step[1];
  }
  NATTEN_OPS_DEVICE void step(int columns) {
    column += columns;
    entry += kOfQueries ? columns : -columns;
  }

  // Whether the partner is one of token `own`'s; the place of its entry of the bias in that case,
  // and what the entry adds to a logit in units of log2.
  NATTEN_OPS_DEVICE bool has(int further) const { return has_row && has_column(further); }
  NATTEN_OPS_DEVICE int64_t entry_at(int further) const {
    return kOfQueries ? entry + further : entry - further;
  }
  NATTEN_OPS_DEVICE T bias_log2(const BiasView& bias, int further) const {
    T number = 0;
    if (bias.data && has(further)) number = read_bias<Element>(bias, entry_at(further));
    return number * T(kLog2e);
  }

  // All windows have as many columns, so that no thread walks further than its own.
  NATTEN_OPS_DEVICE bool has_column(int further) const {
    return kOfQueries || column + further < columns;
  }

  // Whether any thread of the warp has the column or row. The compiler has to see that all threads
  // get the same answer; it does for votes and for the kernel's parameters.
  NATTEN_OPS_DEVICE bool warp_has_column(int further) const {
    return kOfQueries ? column + further < static_cast<int>(problem.kernel_size[1])
                      : warp_any(column + further < columns);
  }
  NATTEN_OPS_DEVICE bool warp_has_row() const { return warp_any(row < rows); }
};

// Calls visitor.visit<kSteps, kCareful>(), which takes the walk kSteps columns further, to the end
// of the row; near the end with half as many steps, and so on.
template <int kSteps, bool kCareful, typename Walk, typename Visitor>
NATTEN_OPS_DEVICE void visit_rest(const Walk& walk, Visitor& visitor) {
  if constexpr (kSteps > 0) {
    if (walk.warp_has_column(kSteps - 1)) visitor.template visit<kSteps, kCareful>();
    visit_rest<kSteps / 2, kCareful>(walk, visitor);
  }
}

// The same for the whole rectangle; calls visitor.end_row() at the end of each row. All threads of
// a warp must call this together.
template <int kSteps, bool kCareful, typename Walk, typename Visitor>
NATTEN_OPS_DEVICE void visit_partners(Walk& walk, Visitor& visitor) {
  while (walk.warp_has_row()) {
    walk.start_row();
    while (walk.warp_has_column(kSteps - 1)) visitor.template visit<kSteps, kCareful>();
    visit_rest<kSteps / 2, kCareful>(walk, visitor);
    visitor.end_row();
    walk.next_row();
  }
}

// ---- Launches ----

template <typename T>
void swap_pair(T (&pair)[2]) {
  const T first = pair[0];
  pair[0] = pair[1];
  pair[1] = first;
}

// One-dimensional problems have their tokens on axis 1, but columns of tokens need them on axis 0.
// Nothing moves in memory.
template <typename... Views>
void stand_up(Problem& problem, Views&... views) {
  if (problem.length[0] != 1) return;
  swap_pair(problem.length);
  swap_pair(problem.kernel_size);
  swap_pair(problem.dilation);
  (swap_pair(views.axis_stride), ...);
}

template <typename E, int kThreadsOfGroup, bool kIsPlain>
struct Variant {
  using Element = E;
  using T = Compute<Element>;
  static constexpr int kGroup = kThreadsOfGroup;
  static constexpr bool kPlain = kIsPlain;
  using Tokens = Slices<Element, kGroup, kPlain>;
};

// Calls function(Variant) with the variant for these tensors. Few variants are compiled: these
// kernels have to be fast for float32 only.
template <typename Function>
const char* with_variant(const Problem& problem, Dtype dtype, bool vectors, Function&& function) {
  const int64_t channels = problem.head_dim;
  if (dtype == Dtype::kFloat32 && vectors) {
    if (channels == 4 * kChannels) return function(Variant<float, 4, true>{});
    if (channels == 8 * kChannels) return function(Variant<float, 8, true>{});
    if (channels == 16 * kChannels) return function(Variant<float, 16, true>{});
    if (channels == 32 * kChannels) return function(Variant<float, 32, true>{});
  }
  const auto with_group = [&](auto element) {
    using Element = decltype(element);
    return channels <= 8 * kChannels ? function(Variant<Element, 8, false>{})
                                     : function(Variant<Element, 32, false>{});
  };
  static_assert(32 * kChannels == kScalarMaxHeadDim);
  if (channels > kScalarMaxHeadDim) return "head_dim is too large for the kernels";
  switch (dtype) {
    case Dtype::kFloat32:
      return with_group(float{});
    case Dtype::kFloat64:
      return with_group(double{});
    case Dtype::kBFloat16:
      return with_group(BFloat16{});
    case Dtype::kFloat16:
      return with_group(Float16{});
  }
  return "unknown dtype";
}

// Blocks of a head. Neighboring blocks work on the same units of different heads.
template <typename Variant>
const char* count_chunks(const Units& units, const Problem& problem, int64_t& chunks) {
  chunks = divide_up(units.count, kThreads / Variant::kGroup);
  return chunks * problem.heads <= INT32_MAX ? nullptr : kTooManyTokens;
}

}  // namespace natten_ops::cuda::scalar
