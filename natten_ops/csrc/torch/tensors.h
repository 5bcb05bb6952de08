// Between torch's tensors and what kernels are given: sizes, data types, views, allocation.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "../problem.h"

namespace natten_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMaxDim = 6;  // of qkv of two-dimensional attention

// What checks and kernels need of a tensor. torch is asked once: each question is a call through
// the stable ABI.
struct TensorInfo {
  void* data;
  ScalarType dtype;
  int32_t device_type, device_index;
  int64_t dim;
  int64_t sizes[kMaxDim], strides[kMaxDim];

  explicit TensorInfo(const Tensor& tensor) {
    const auto own_sizes = tensor.sizes(), own_strides = tensor.strides();
    data = tensor.data_ptr();
    dtype = tensor.scalar_type();
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &device_type));
    device_index = tensor.get_device_index();
    dim = static_cast<int64_t>(own_sizes.size());
    STD_TORCH_CHECK(dim <= kMaxDim, "natten_ops: tensors must have at most ", kMaxDim,
                    " dimensions, got ", dim);
    std::copy(own_sizes.begin(), own_sizes.end(), sizes);
    std::copy(own_strides.begin(), own_strides.end(), strides);
  }

  // Without dimension `axis`, at `index` of it.
  TensorInfo select(int64_t axis, int64_t index) const {
    TensorInfo selected = *this;
    selected.data =
        static_cast<char*>(data) +
        index * strides[axis] *
            static_cast<int64_t>(aoti_torch_dtype_element_size(static_cast<int32_t>(dtype)));
    --selected.dim;
    for (int64_t i = axis; i < selected.dim; ++i) {
      selected.sizes[i] = sizes[i + 1];
      selected.strides[i] = strides[i + 1];
    }
    return selected;
  }

  int64_t numel() const {
    int64_t product = 1;
    for (int64_t i = 0; i < dim; ++i) product *= sizes[i];
    return product;
  }

  bool is_contiguous() const {
    int64_t stride = 1;
    bool contiguous = true;
    for (int64_t i = dim - 1; i >= 0; --i) {
      contiguous = contiguous && (sizes[i] == 1 || strides[i] == stride);
      stride *= sizes[i];
    }
    return contiguous || stride == 0;
  }

  bool has_device_of(const TensorInfo& other) const {
    return device_type == other.device_type && device_index == other.device_index;
  }
};

inline Dtype dtype_of(const TensorInfo& query) {
  switch (query.dtype) {
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
inline ScalarType compute_type(const TensorInfo& query) {
  return query.dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// A one-dimensional feature map gets an axis 0 of length 1.
inline TensorView view_of(const TensorInfo& tensor) {
  const int64_t rank = tensor.dim - 3;
  return {tensor.data,
          tensor.strides[0],
          {rank == 2 ? tensor.strides[1] : 0, tensor.strides[rank]},
          tensor.strides[rank + 1],
          tensor.strides[rank + 2]};
}

// A new contiguous tensor on the device of `like`, of its first `dim` sizes, not initialized.
// Rethrows allocation failures: torch's exception cannot cross the stable ABI.
inline Tensor allocate(const TensorInfo& like, int64_t dim, const int64_t* sizes,
                       ScalarType dtype) {
  int64_t strides[kMaxDim];
  int64_t numel = 1;
  for (int64_t i = dim - 1; i >= 0; --i) {
    strides[i] = numel;
    numel *= sizes[i] > 1 ? sizes[i] : 1;
  }
  AtenTensorHandle handle = nullptr;
  // torch::stable::new_empty looks the operator up by its name, which takes longer than this.
  STD_TORCH_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, static_cast<int32_t>(dtype), like.device_type,
                               like.device_index, &handle) == AOTI_TORCH_SUCCESS,
      "natten_ops: out of memory: torch could not allocate a tensor of ", numel,
      " numbers on the device of query; use a smaller batch or feature map");
  return Tensor(handle);
}

inline Tensor allocate(const TensorInfo& like, int64_t numel, ScalarType dtype) {
  return allocate(like, 1, &numel, dtype);
}

// A new tensor like another one, but contiguous and not initialized.
inline Tensor allocate_like(const TensorInfo& like) {
  return allocate(like, like.dim, like.sizes, like.dtype);
}

// query, key and value, or their gradients: three tensors, or slices of one.
struct QueryKeyValue {
  TensorInfo query, key, value;

  QueryKeyValue(const Tensor& query, const Tensor& key, const Tensor& value)
      : query(query), key(key), value(value) {}

  // packed: (B, ..., 3, heads, head_dim)
  explicit QueryKeyValue(const TensorInfo& packed)
      : query(slice(packed, 0)), key(slice(packed, 1)), value(slice(packed, 2)) {}

  static TensorInfo slice(const TensorInfo& packed, int64_t index) {
    STD_TORCH_CHECK(packed.dim >= 5 && packed.sizes[packed.dim - 3] == 3,
                    "natten_ops: qkv must be (B, ..., 3, heads, head_dim)");
    return packed.select(packed.dim - 3, index);
  }
};

}  // namespace natten_ops
