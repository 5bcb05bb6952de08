// What the kernels for windows of any size share: head_dim up to 128, one axis or two; half
// precision, and float32 as numbers of TF32.
//
// A patch's partners are visited in eights: in two dimensions kStep rows at once, and then the next
// eight of the same rows; in one dimension (V::kIsFlat) kStep eights of the row at once. "Items"
// are these rows or eights.
//
// Products start from fragments: for the columns of a patch and each difference of rows between
// query and key, bias / scale where the columns are partners, and -infinity elsewhere. They are in
// the order of a product's result, (eights, rows, 16): a thread loads its four numbers at once. In
// one dimension the rows are those of the result, thread / 4. For items that are not partners, a
// thread loads -infinity from elsewhere. At borders, where windows are shifted, a warp makes
// fragments of its own. Elsewhere all patches of a block share some.
//
// What is visited may begin before a patch's first partner, so that it ends within the region.
#pragma once

#include "patches.cuh"
#include "tf32.cuh"

namespace natten_ops::cuda {

namespace matrix {

// kSteps: see above; an even number.
template <typename E, int kChannels, bool kFlat, bool kNumbers, int kSteps>
struct Variant {
  using Element = E;
  static constexpr int kDim = kChannels;
  static constexpr bool kIsFloat = sizeof(E) == 4;
  // Two blocks a multiprocessor if their shared memory and registers (128 or 168 of a thread) fit.
  static constexpr bool kIsLarge = kDim == 128 || (kDim == 64 && kNumbers);
  static constexpr int kWarps = kIsFloat || (kDim == 64 && !kIsLarge) ? 6 : 8;
  static constexpr int kBlocks = kIsLarge || kIsOldDevice ? 1 : 2;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kStep = kSteps;
  static constexpr bool kIsFlat = kFlat, kHasNumbers = kNumbers, kHasWholePitch = true;
  static constexpr bool kIsStacked = false;

  static NATTEN_OPS_HOST_DEVICE int window(const Common& common, int axis) {
    return common.windows[axis];
  }
  static NATTEN_OPS_HOST_DEVICE int pitch(const Common& common) { return common.tiling.pitch; }
};

// A block's tile, found once more for repeat_carefully: anything shared with the rest of a kernel
// would take registers all the time.
NATTEN_OPS_DEVICE Tile find_tile_again(const Common& common, int tile_of_block) {
  uint32_t slot = block_index() ^ common.nothing;
  const int head = split_head(common, slot);
  Tile tile;
  find_tile(common, head, slot * common.tiling.tiles_per_block + tile_of_block, tile);
  return tile;
}

// Begins to copy a tensor's rows of a tile into its region.
template <typename V>
NATTEN_OPS_DEVICE void copy_rows(const Common& common, const Span& rows, const Span& columns,
                                 const Plane<V, const typename V::Element>& plane,
                                 typename V::Element* region) {
  const int stride = row_stride<V>(common);
  for (int row = V::kIsFlat ? 0 : thread_index() / 32; row < common.tiling.region[0];
       row += V::kIsFlat ? 1 : V::kWarps) {
    copy_row<V>(common, plane, rows.first + row, columns.first,
                row < rows.size() ? columns.size() : 0, region + row * stride);
  }
}

// ---- Products ----

// What depends on the elements' type; Tf32Products has the same for float.
template <typename V>
struct HalfProducts {
  using Element = typename V::Element;
  using Partners = cuda::Partners<V>;
  using Patch = uint32_t[V::kDim / 16][4];  // a patch's tokens as the left side of products
  using Weights = uint32_t[4];              // results over two eights as the left side

  static NATTEN_OPS_DEVICE void as_patch(const Common& common, const Channels<V>& channels,
                                         uint32_t flips, Patch& patch) {
    cuda::as_patch<V>(common, channels, flips, patch);
  }
  static NATTEN_OPS_DEVICE void as_weights(const float (&first)[4], const float (&second)[4],
                                           Weights& weights) {
    cuda::as_weights<Element>(first, second, weights);
  }

  // Adds the weights of the thread's tokens to sums[0] and sums[2], from which add_threads makes
  // the sums over all partners.
  static NATTEN_OPS_DEVICE void add_weights(const float (&)[4], const float (&)[4],
                                            const Weights& weights, float (&sums)[4]) {
    const uint32_t ones = pack<Element>(1.0f, 1.0f);
    multiply_add<Element>(sums, weights, ones, ones);
  }
  static NATTEN_OPS_DEVICE void add_threads(float (&)[4]) {}

  // The product of the thread's token e of a patch with the same token of another tensor.
  static NATTEN_OPS_DEVICE float times_own(const Patch& patch, const Channels<V>& channels, int e) {
    // The diagonal of a product holds the product of each token with itself.
    const int g = thread_index() % 32 / 4;
    float products[4] = {};
    NATTEN_OPS_UNROLL
    for (int quad = 0; quad < V::kDim / 32; ++quad) {
      const uint32_t (&words)[4] = channels.tokens[e][quad].words;
      multiply_add<Element>(products, patch[2 * quad], words[0], words[1]);
      multiply_add<Element>(products, patch[2 * quad + 1], words[2], words[3]);
    }
    return shuffle(g % 2 ? products[2 * e + 1] : products[2 * e], 4 * g + g / 2);
  }

  static NATTEN_OPS_DEVICE bool store_tokens(const Common& common, const Tensor& tensor,
                                             const Cursor<V, Element>& cursor, const Own<V>& own,
                                             const float (&sums)[V::kDim / 8][4],
                                             const float (&factors)[2]) {
    return cuda::store_tokens<V>(common, tensor, cursor, own, sums, factors);
  }
};

template <typename V>
using Products = std::conditional_t<V::kIsFloat, Tf32Products<V>, HalfProducts<V>>;

// ---- Fragments of bias and mask ----

// Rows of fragments.
template <typename V>
NATTEN_OPS_HOST_DEVICE int fragment_rows(int window) {
  return V::kIsFlat ? 8 : 2 * window - 1;
}
// Numbers of a patch's fragments.
template <typename V>
NATTEN_OPS_HOST_DEVICE int fragment_numbers(const Tiling& tiling, int window) {
  return tiling.eights * fragment_rows<V>(window) * 16;
}
template <typename V>
NATTEN_OPS_DEVICE int fragment_numbers(const Common& common) {
  return fragment_numbers<V>(common.tiling, common.windows[0]);
}

// Warps that have a patch.
template <typename V>
NATTEN_OPS_HOST_DEVICE int busy_warps(const Tiling& tiling) {
  return tiling.tile[1] / kPatchColumns<V>;
}

// A block's shared memory: planes; fragments, one for all and one a busy warp; -infinity; what a
// kernel has of its own; and the region.
template <typename V>
NATTEN_OPS_HOST_DEVICE int shared_bytes(const Tiling& tiling, int window) {
  return kPlaneBytes + kFlagBytes +
         ((1 + busy_warps<V>(tiling)) * fragment_numbers<V>(tiling, window) + 16) *
             int(sizeof(float));
}
template <typename V>
NATTEN_OPS_DEVICE int shared_bytes(const Common& common) {
  return shared_bytes<V>(common.tiling, common.windows[0]);
}

NATTEN_OPS_DEVICE float* centered_fragments() {
  return reinterpret_cast<float*>(shared_memory() + kPlaneBytes + kFlagBytes);
}
template <typename V>
NATTEN_OPS_DEVICE float* own_fragments(const Common& common) {
  return centered_fragments() + (1 + thread_index() / 32) * fragment_numbers<V>(common);
}
template <typename V>
NATTEN_OPS_DEVICE float* nothing(const Common& common) {
  return centered_fragments() + (1 + busy_warps<V>(common.tiling)) * fragment_numbers<V>(common);
}

// The columns of a patch, and what it visits.
struct PatchColumns {
  int first;          // the patch's first column
  int begin, eights;  // what is visited of a row
  int count;          // tokens of the residue class
  bool is_centered;   // has the fragments that all share

  template <typename V, bool kOfQueries>
  static NATTEN_OPS_DEVICE PatchColumns at(const Common& common, const Tile& tile, int warp) {
    const int window = common.windows[1], half = window / 2;
    PatchColumns columns;
    columns.first = tile.begin[1] + warp * kPatchColumns<V>;
    columns.count = tile.count[1];
    const Span span = partners<V, kOfQueries>(common, tile, 1, columns.first, kPatchColumns<V>);
    columns.eights = (span.size() + 7) / 8;
    if (V::kIsFlat) columns.eights = (columns.eights + V::kStep - 1) / V::kStep * V::kStep;
    const int most =
        partners<V, kOfQueries>(common, tile, 1).first + common.tiling.pitch - 8 * columns.eights;
    columns.begin = span.first < most ? span.first : most;
    const int last = columns.first + kPatchColumns<V> - 1;
    columns.is_centered =
        columns.begin == span.first &&
        (kOfQueries ? columns.first >= half && last - half <= columns.count - window
                    : columns.first >= window && last < columns.count - window);
    return columns;
  }
  // Of patches away from borders.
  template <bool kOfQueries>
  static NATTEN_OPS_DEVICE PatchColumns centered(int window) {
    constexpr int kMany = 1 << 20;
    return {window, partners<kOfQueries>(window, window, kMany).first, 0, kMany, true};
  }

  // Of a token of the result: row g and e; another one stands in for one that does not exist.
  template <typename V>
  NATTEN_OPS_DEVICE int own(int g, int e) const {
    const int column = first + (V::kIsFlat ? g + 8 * e : e);
    return column < count ? column : count - 1;
  }
};

// Makes fragments. `bias` begins at the head. `threads` threads do this together, and this is
// number `thread`.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE void make_fragments(const Common& common, const BiasView& bias,
                                      const PatchColumns& columns, int thread, int threads,
                                      float* fragments) {
  const int windows[2] = {common.windows[0], common.windows[1]};
  const int rows = fragment_rows<V>(windows[0]), entries = 2 * windows[1] - 1;
  const int number = thread % 16, e = number % 4 / 2;
  int row = thread / 16, column = columns.begin + number / 4 * 2 + number % 2;
  for (int line = row; line < common.tiling.eights * rows; line += threads / 16) {
    for (; row >= rows; row -= rows) column += 8;
    const int own = columns.own<V>(row, e);
    const Span span = partners<kOfQueries>(windows[1], own, columns.count);
    float start = 0;
    if (column < span.first || column > span.last) {
      start = -INFINITY;
    } else if (bias.data) {
      int down = V::kIsFlat ? windows[0] - 1 : row, across = column - own + windows[1] - 1;
      if (!kOfQueries) {
        down = 2 * windows[0] - 2 - down;
        across = entries - 1 - across;
      }
      const int64_t entry = down * common.bias_step[0] + across * common.bias_step[1];
      start = read_bias<typename V::Element>(bias, entry) * common.inverse_scale;
    }
    fragments[line * 16 + number] = start;
    row += threads / 16;
  }
}

// All threads of the block make the fragments of patches away from borders, and -infinity.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE void make_centered_fragments(const Common& common, const BiasView& bias) {
  make_fragments<V, kOfQueries>(common, bias, PatchColumns::centered<kOfQueries>(common.windows[1]),
                                thread_index(), V::kThreads, centered_fragments());
  if (thread_index() < 16) nothing<V>(common)[thread_index()] = -INFINITY;
}

// Makes the fragments of the warp's patches if they need their own; returns those to use.
template <typename V, bool kOfQueries>
NATTEN_OPS_DEVICE const float* choose_fragments(const Common& common, const BiasView& bias,
                                                const PatchColumns& columns) {
  if (columns.is_centered) return centered_fragments();
  make_fragments<V, kOfQueries>(common, bias, columns, thread_index() % 32, 32,
                                own_fragments<V>(common));
  return own_fragments<V>(common);
}

// ---- Visits ----

// What a patch of a band visits: items from `begin_row` on, in whole steps, of so many eights each.
struct Items {
  int begin_row;
  int count, eights;

  template <typename V, bool kOfQueries>
  static NATTEN_OPS_DEVICE Items at(const Common& common, const Tile& tile, int row,
                                    const PatchColumns& columns) {
    if constexpr (V::kIsFlat) {
      return {0, columns.eights, 1};
    } else {
      const Span span = partners<V, kOfQueries>(common, tile, 0, row, kPatchRows<V>);
      Items items;
      items.eights = columns.eights;
      items.count = (span.size() + V::kStep - 1) / V::kStep * V::kStep;
      const int most =
          partners<V, kOfQueries>(common, tile, 0).first + common.tiling.region[0] - items.count;
      items.begin_row = span.first < most ? span.first : most;
      return items;
    }
  }
};

// From item to item, in a region.
template <typename V>
NATTEN_OPS_DEVICE int item_stride(const Common& common) {
  return V::kIsFlat ? 8 * V::kDim : row_stride<V>(common);
}

// What the products of a patch start from.
template <typename V>
struct Start {
  const float* fragments;  // the thread's numbers of item 0
  const float* nothing;    // -infinity
  int first, count;        // the items with partners of the thread's tokens
  int eight_stride;        // from eight to eight

  template <bool kOfQueries>
  static NATTEN_OPS_DEVICE Start at(const Common& common, const float* fragments, const Tile& tile,
                                    const Own<V>& own, const Items& items) {
    const int numbers = thread_index() % 4 * 4;
    Start start;
    start.nothing = matrix::nothing<V>(common) + numbers;
    start.eight_stride = fragment_rows<V>(common.windows[0]) * 16;
    if constexpr (V::kIsFlat) {
      start.fragments = fragments + thread_index() % 32 / 4 * 16 + numbers;
      start.first = 0;
      start.count = items.count;
    } else {
      const Span span = partners<kOfQueries>(common.windows[0], own.row, tile.count[0]);
      start.first = span.first - items.begin_row;
      start.count = span.size();
      start.fragments =
          fragments + (items.begin_row - own.row + common.windows[0] - 1) * 16 + numbers;
    }
    return start;
  }

  NATTEN_OPS_DEVICE bool has(int item) const {
    return V::kIsFlat || static_cast<unsigned>(item - first) < static_cast<unsigned>(count);
  }
  NATTEN_OPS_DEVICE int offset(int item, int eight) const {
    return V::kIsFlat ? item * eight_stride : eight * eight_stride + item * 16;
  }
  NATTEN_OPS_DEVICE void load(int item, int eight, float (&sums)[4]) const {
    const Four four =
        *reinterpret_cast<const Four*>(has(item) ? fragments + offset(item, eight) : nothing);
    NATTEN_OPS_UNROLL
    for (int j = 0; j < 4; ++j) sums[j] = four.numbers[j];
  }
};

// Calls visit(item, eight, offset in the region) for every step of a patch; the item is its first.
template <typename V, typename Visit>
NATTEN_OPS_DEVICE void visit_steps(const Common& common, const Items& items, Visit visit) {
  const int stride = item_stride<V>(common);
  for (int eight = 0; eight < items.eights; ++eight) {
    for (int item = 0; item < items.count; item += V::kStep) {
      visit(item, eight, item * stride + eight * 8 * V::kDim);
    }
  }
}

// ---- Tilings ----

inline int64_t round_up(int64_t number, int64_t by) { return (number + by - 1) / by * by; }

// The most partners of a patch, which has `size` tokens of an axis.
template <bool kOfQueries>
int most_partners(const Problem& problem, int axis, int size) {
  const int window = static_cast<int>(problem.kernel_size[axis]), count = positions(problem, axis);
  int most = 0;
  // Residue classes have this many tokens or one less.
  for (int tokens = count; tokens >= count - 1 && tokens >= window; --tokens) {
    for (int first = 0; first < tokens; first += size) {
      const int last = first + size < tokens ? first + size - 1 : tokens - 1;
      const int partners_of_patch = partners<kOfQueries>(window, first, last, tokens).size();
      if (partners_of_patch > most) most = partners_of_patch;
    }
  }
  return most;
}

template <typename V>
int64_t region_bytes(const Tiling& tiling) {
  Common common;
  common.tiling = tiling;
  return int64_t(tiling.region[0]) * row_stride<V>(common) * sizeof(typename V::Element);
}

// Large tiles of which two fit a multiprocessor, if they give half of the warps something to do; or
// else the largest of which one does. bytes(tiling) is the shared memory that they take.
template <typename V, bool kOfQueries, typename Bytes>
bool find_tiling(const Problem& problem, Bytes bytes, Tiling& tiling) {
  const int eights = (most_partners<kOfQueries>(problem, 1, kPatchColumns<V>) + 7) / 8;
  tiling.eights = V::kIsFlat ? static_cast<int>(round_up(eights, V::kStep)) : eights;
  const int rows = V::kIsFlat
                       ? 1
                       : static_cast<int>(round_up(
                             most_partners<kOfQueries>(problem, 0, kPatchRows<V>), V::kStep));
  tiling.tiles_per_block = 1;
  const int64_t limit = shared_memory_limit();
  const int64_t share = shared_memory_of_multiprocessor() / 2 - kReservedShared;
  for (const int64_t most : {share < limit ? share : limit, limit}) {
    for (int warps = V::kWarps; warps > (most < limit ? V::kWarps / 2 - 1 : 0); --warps) {
      choose_tiles<kOfQueries>(problem, 1, warps * kPatchColumns<V>, kPatchColumns<V>, tiling);
      const int64_t pitch = round_up(tiling.region[1], 8);
      tiling.pitch = static_cast<int>(pitch > 8 * tiling.eights ? pitch : 8 * tiling.eights);
      for (int bands = V::kIsFlat ? 1 : 3; bands > 0; --bands) {
        choose_tiles<kOfQueries>(problem, 0, bands * kPatchRows<V>, kPatchRows<V>, tiling);
        if (tiling.region[0] < rows) tiling.region[0] = rows;
        if (bytes(tiling) <= most) return true;
      }
    }
  }
  return false;
}

// ---- Variants ----

// Calls f with a variant for a call.
template <bool kNumbers, int kSteps, typename F>
auto with_variant(const Problem& problem, Dtype dtype, F f) {
  const auto with_dim = [&](auto element, auto is_flat) {
    using Element = decltype(element);
    constexpr bool kFlat = decltype(is_flat)::value;
    if constexpr (!std::is_same_v<Element, float>) {
      if (problem.head_dim > 64) return f(Variant<Element, 128, kFlat, kNumbers, kSteps>());
      if (problem.head_dim > 32) return f(Variant<Element, 64, kFlat, kNumbers, kSteps>());
    }
    return f(Variant<Element, 32, kFlat, kNumbers, kSteps>());
  };
  const auto with_element = [&](auto element) {
    return problem.length[0] == 1 ? with_dim(element, std::true_type())
                                  : with_dim(element, std::false_type());
  };
  return dtype == Dtype::kFloat32 ? with_element(float()) : with_half(dtype, with_element);
}

}  // namespace matrix

}  // namespace natten_ops::cuda
