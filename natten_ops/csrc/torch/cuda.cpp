// The operators on CUDA, in a library of their own: the kernels of csrc/cuda on the current stream
// of the tensors' device. Nothing here waits for the kernels.
//
// Scratch tensors may be freed when the functions return: torch's allocator reuses their memory
// only for later work of the same stream.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <optional>

#include "../cuda/calls.h"
#include "../cuda/errors.h"
#include "../cuda/kernels.h"
#include "operators.h"
#include "tensors.h"

// Every torch with CUDA has it, but the headers of a CPU build, which may compile this file too, do
// not declare it.
extern "C" AOTI_TORCH_EXPORT AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                               void** stream);

namespace natten_ops {
namespace {

void check_cuda(const char* error) {
  STD_TORCH_CHECK(error == nullptr, "natten_ops: ", cuda::explain(error));
}

// Makes the device of a tensor the current one, in torch and in the kernels' runtime. torch's guard
// gives torch its own back; the kernels' runtime has no other use.
class CurrentDevice {
 public:
  explicit CurrentDevice(const TensorInfo& query)
      : index_(query.device_index), guard_(query.device_index) {
    check_cuda(cuda::use_device(index_));
  }

  void* stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return stream;
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};

void check_covered(const Problem& problem) {
  STD_TORCH_CHECK(problem.head_dim <= cuda::kScalarMaxHeadDim,
                  "natten_ops: head_dim must be at most ", cuda::kScalarMaxHeadDim,
                  " on CUDA, got ", problem.head_dim,
                  "; na1d, na2d and na3d compute more with their reference");
}

// The bias as the kernels read it: in the compute type. None without a bias.
std::optional<Tensor> kernel_bias(const std::optional<Tensor>& tensor, const TensorInfo& query) {
  if (!tensor || tensor->scalar_type() == compute_type(query)) return tensor;
  const TensorInfo rpb(*tensor);
  Tensor bias = allocate(rpb, rpb.dim, rpb.sizes, compute_type(query));
  torch::stable::copy_(bias, *tensor);
  return bias;
}

struct CudaBackEnd {
  static void forward(const Problem& problem, const QueryKeyValue& inputs,
                      const std::optional<Tensor>& rpb, const TensorInfo& output,
                      const TensorInfo& logsumexp) {
    const TensorInfo& query = inputs.query;
    check_covered(problem);
    const CurrentDevice device(query);
    const std::optional<Tensor> bias = kernel_bias(rpb, query);
    const cuda::ForwardCall call{problem,
                                 dtype_of(query),
                                 view_of(query),
                                 view_of(inputs.key),
                                 view_of(inputs.value),
                                 view_of(output),
                                 bias ? bias->data_ptr() : nullptr,
                                 logsumexp.data};
    check_cuda(cuda::forward(call, device.stream()));
  }

  static Tensor backward(const Problem& problem, const Tensor& grad_output,
                         const QueryKeyValue& inputs, const std::optional<Tensor>& rpb,
                         const TensorInfo& output, const TensorInfo& logsumexp,
                         const QueryKeyValue& grads) {
    const TensorInfo& query = inputs.query;
    check_covered(problem);
    const CurrentDevice device(query);
    const std::optional<Tensor> bias = kernel_bias(rpb, query);
    Tensor grad_bias =
        rpb ? allocate(query, rpb->dim(), TensorInfo(*rpb).sizes, compute_type(query))
            : allocate(query, 0, compute_type(query));
    if (query.numel() == 0) {
      torch::stable::zero_(grad_bias);
      return grad_bias;
    }
    const TensorInfo gradient(grad_output);
    cuda::BackwardCall call{problem,
                            dtype_of(query),
                            view_of(gradient),
                            view_of(query),
                            view_of(inputs.key),
                            view_of(inputs.value),
                            view_of(output),
                            bias ? bias->data_ptr() : nullptr,
                            logsumexp.data,
                            view_of(grads.query),
                            view_of(grads.key),
                            view_of(grads.value),
                            rpb ? grad_bias.data_ptr() : nullptr,
                            nullptr};
    cuda::Family family = cuda::family_of(call);
    std::optional<Tensor> copy;
    if (family == cuda::Family::kScalar && cuda::contiguous_gradient_helps(call)) {
      // output.sum().backward() gives one number, expanded, which tensor cores cannot read.
      copy = allocate_like(gradient);
      torch::stable::copy_(*copy, grad_output);
      call.grad_output = view_of(TensorInfo(*copy));
      family = cuda::family_of(call);
    }
    const Tensor scratch = allocate(query, cuda::backward_scratch(call, family), ScalarType::Byte);
    call.scratch = scratch.data_ptr();
    check_cuda(cuda::backward(call, family, device.stream()));
    return grad_bias;
  }
};

}  // namespace
}  // namespace natten_ops

STABLE_TORCH_LIBRARY_IMPL(natten_ops, CUDA, m) {
  natten_ops::register_operators<natten_ops::CudaBackEnd>(m);
}

// Of this library only: the operator exists if the library is loaded. It returns the compute
// capabilities that the library was compiled for, in the notation of TORCH_CUDA_ARCH_LIST.
STABLE_TORCH_LIBRARY_FRAGMENT(natten_ops, m) { m.def("cuda_architectures() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(natten_ops, CompositeExplicitAutograd, m) {
  m.impl("cuda_architectures", TORCH_BOX(&natten_ops::cuda::architectures));
}
