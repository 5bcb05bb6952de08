// Explains why a kernel did not run, and tells the architectures that the library is for.
#pragma once

#include <string>

namespace natten_ops::cuda {

// The compute capabilities compiled for, written as in TORCH_CUDA_ARCH_LIST.
std::string architectures();

// Explains an error that `forward` or `backward` returned. Adds cause and remedy if this library
// was not built for the current device or driver.
std::string explain(const char* error);

}  // namespace natten_ops::cuda
