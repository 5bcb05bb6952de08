// Between torch's tensors and what kernels are given: data types, views, allocation.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../problem.h"

namespace natten_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& query) {
  switch (query.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Double:
      return Dtype::kFloat64;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    case ScalarType::Half:
      return Dtype::kFloat16;
    default:
      STD_TORCH_CHECK(false, "natten_ops: query must be float32, float64, bfloat16 or float16");
  }
}

// Half precision is computed in float32.
inline ScalarType compute_type(const Tensor& query) {
  return query.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes.push_back(tensor.size(i));
  return sizes;
}

// A one-dimensional feature map gets an axis 0 of length 1.
inline TensorView view_of(const Tensor& tensor) {
  const int64_t rank = tensor.dim() - 3;
  return {tensor.data_ptr(),
          tensor.stride(0),
          {rank == 2 ? tensor.stride(1) : 0, tensor.stride(rank)},
          tensor.stride(rank + 1),
          tensor.stride(rank + 2)};
}

// A new tensor on the device of `like`, not initialized. Rethrows allocation failures: torch's
// exception cannot cross the stable ABI.
inline Tensor allocate(const Tensor& like, std::vector<int64_t> sizes,
                       std::optional<ScalarType> dtype = std::nullopt) {
  try {
    return torch::stable::new_empty(like, sizes, dtype);
  } catch (const std::runtime_error&) {
    int64_t numel = 1;
    for (const int64_t size : sizes) numel *= size;
    STD_TORCH_CHECK(false, "natten_ops: out of memory: torch could not allocate a tensor of ",
                    numel, " numbers on the device of query; use a smaller batch or feature map");
  }
}

// query, key and value, or their gradients: three tensors, or slices of one.
struct QueryKeyValue {
  Tensor query, key, value;

  QueryKeyValue(Tensor query, Tensor key, Tensor value)
      : query(std::move(query)), key(std::move(key)), value(std::move(value)) {}

  // packed: (B, ..., 3, heads, head_dim)
  explicit QueryKeyValue(const Tensor& packed)
      : query(slice(packed, 0)), key(slice(packed, 1)), value(slice(packed, 2)) {}

  static Tensor slice(const Tensor& packed, int64_t index) {
    STD_TORCH_CHECK(packed.dim() >= 5 && packed.size(packed.dim() - 3) == 3,
                    "natten_ops: qkv must be (B, ..., 3, heads, head_dim)");
    return torch::stable::select(packed, packed.dim() - 3, index);
  }
};

}  // namespace natten_ops
