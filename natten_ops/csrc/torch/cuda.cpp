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

constexpr cuda::BiasView kNoBias = {nullptr, Dtype::kFloat32};
cuda::BiasView bias_view_of(const TensorInfo& bias) { return {bias.data, dtype_of(bias)}; }

struct CudaBackEnd {
  static void forward(const Problem& problem, const QueryKeyValue& inputs,
                      const std::optional<TensorInfo>& rpb, const TensorInfo& output,
                      const TensorInfo& logsumexp, bool allow_tf32) {
    const TensorInfo& query = inputs.query;
    check_covered(problem);
    const CurrentDevice device(query);
    const cuda::ForwardCall call{problem,
                                 dtype_of(query),
                                 allow_tf32,
                                 view_of(query),
                                 view_of(inputs.key),
                                 view_of(inputs.value),
                                 view_of(output),
                                 rpb ? bias_view_of(*rpb) : kNoBias,
                                 logsumexp.data};
    check_cuda(cuda::forward(call, device.stream()));
  }

  static Tensor backward(const Problem& problem, const Tensor& grad_output,
                         const QueryKeyValue& inputs, const std::optional<TensorInfo>& rpb,
                         const TensorInfo& output, const TensorInfo& logsumexp,
                         const QueryKeyValue& grads, bool allow_tf32) {
    const TensorInfo& query = inputs.query;
    check_covered(problem);
    const CurrentDevice device(query);
    Tensor grad_bias = rpb ? allocate_like(*rpb) : allocate(query, 0, query.dtype);
    if (query.numel() == 0) {
      torch::stable::zero_(grad_bias);
      return grad_bias;
    }
    const TensorInfo gradient(grad_output);
    cuda::BackwardCall call{problem,
                            dtype_of(query),
                            allow_tf32,
                            view_of(gradient),
                            view_of(query),
                            view_of(inputs.key),
                            view_of(inputs.value),
                            view_of(output),
                            rpb ? bias_view_of(*rpb) : kNoBias,
                            logsumexp.data,
                            view_of(grads.query),
                            view_of(grads.key),
                            view_of(grads.value),
                            rpb ? bias_view_of(TensorInfo(grad_bias)) : kNoBias,
                            nullptr};
    cuda::Family family = cuda::family_of(call);
    std::optional<Tensor> copy;
    if (family == cuda::Family::kScalar && cuda::contiguous_gradient_helps(call)) {
      // output.sum().backward() gives one number, expanded, which only the scalar kernels read.
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
