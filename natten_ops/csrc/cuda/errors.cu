// Needs NATTEN_OPS_ARCHITECTURES, the compute capabilities compiled for.
#include <cuda_runtime.h>

#include "device.h"
#include "errors.h"

namespace natten_ops::cuda {

namespace {

constexpr int kOldestCapability = 75;

// 75 as 7.5, 120 as 12.0.
std::string written(int version) {
  return std::to_string(version / 10) + "." + std::to_string(version % 10);
}

bool is(const std::string& error, cudaError_t code) { return error == cudaGetErrorString(code); }

}  // namespace

std::string architectures() { return NATTEN_OPS_ARCHITECTURES; }

std::string explain(const char* error) {
  const std::string text = error;
  if (is(text, cudaErrorInsufficientDriver)) {
    const int version = CUDART_VERSION / 1000 * 10 + CUDART_VERSION % 1000 / 10;
    return "the CUDA driver is too old for the CUDA " + written(version) +
           " that the library was built with; update the driver, or rebuild mmnat with an"
           " older nvcc";
  }
  const bool lacks_architecture = is(text, cudaErrorNoKernelImageForDevice) ||
                                  is(text, cudaErrorInvalidDeviceFunction) ||
                                  is(text, cudaErrorUnsupportedPtxVersion);
  const int capability = compute_capability();
  if (!lacks_architecture || capability == 0) return text;
  if (capability < kOldestCapability) {
    return "the CUDA kernels need compute capability " + written(kOldestCapability) +
           " or newer, the device has " + written(capability) +
           "; use another device or natten_ops.reference";
  }
  return "the library was compiled for compute capability " + architectures() +
         ", the device has " + written(capability) +
         "; rebuild mmnat with TORCH_CUDA_ARCH_LIST=" + written(capability);
}

}  // namespace natten_ops::cuda
