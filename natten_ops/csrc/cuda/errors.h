// What is wrong where a kernel does not run, and with which architectures one would.
#pragma once

#include <string>

namespace natten_ops::cuda {

// The compute capabilities compiled for, written as in TORCH_CUDA_ARCH_LIST.
std::string architectures();

// An error that `forward` or `backward` returned; with its cause and remedy where those lie in how
// this library was built for the current device.
std::string explain(const char* error);

}  // namespace natten_ops::cuda
