// Chooses the kernels of a call.
#include "device.h"
#include "kernels.h"

namespace natten_ops::cuda {

namespace {

bool is_empty(const Problem& problem) {
  return problem.batch * problem.length[0] * problem.length[1] == 0;
}

}  // namespace

int64_t backward_scratch(const BackwardCall& call) {
  if (staged_covers(call)) return staged_backward_scratch(call);
  const int64_t scalar = scalar_backward_scratch(call);
  const int64_t matrix = matrix_covers(call) ? matrix_backward_scratch(call) : 0;
  const int64_t small = small_covers(call) ? small_backward_scratch(call) : 0;
  const int64_t most = matrix > small ? matrix : small;
  return scalar > most ? scalar : most;
}

const char* forward(const ForwardCall& call, void* stream) {
  if (is_empty(call.problem)) return nullptr;
  if (small_covers(call)) return small_forward(call, stream);
  if (staged_covers(call)) return staged_forward(call, stream);
  return matrix_covers(call) ? matrix_forward(call, stream) : scalar_forward(call, stream);
}

const char* backward(const BackwardCall& call, void* stream) {
  if (is_empty(call.problem)) return nullptr;
  if (small_covers(call)) return small_backward(call, stream);
  if (staged_covers(call)) return staged_backward(call, stream);
  return matrix_covers(call) ? matrix_backward(call, stream) : scalar_backward(call, stream);
}

}  // namespace natten_ops::cuda
