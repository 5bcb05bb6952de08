// Chooses the kernels of a call.
#include "device.h"
#include "kernels.h"

namespace natten_ops::cuda {

namespace {

bool is_empty(const Problem& problem) {
  return problem.batch * problem.length[0] * problem.length[1] == 0;
}

// A patch of products has the keys of all its queries, which is too many of a small window: for
// float32 with TF32, the exact kernels then take fewer instructions.
constexpr int64_t kFewKeys = 25;

template <typename Call>
Family choose(const Call& call) {
  if (small_covers(call)) return Family::kSmall;
  const auto [k0, k1] = call.problem.kernel_size;
  const bool is_exact_better =
      call.dtype == Dtype::kFloat32 && k0 * k1 <= kFewKeys && staged_covers(call);
  if (!is_exact_better && matrix_covers(call)) return Family::kMatrix;
  return staged_covers(call) ? Family::kStaged : Family::kScalar;
}

}  // namespace

const char* use_device(int device) { return set_device(device); }

Family family_of(const ForwardCall& call) { return choose(call); }
Family family_of(const BackwardCall& call) { return choose(call); }

bool contiguous_gradient_helps(const BackwardCall& call) {
  const Problem& problem = call.problem;
  BackwardCall copied = call;
  const int64_t token = problem.heads * problem.head_dim, row = problem.length[1] * token;
  copied.grad_output = {nullptr, problem.length[0] * row, {row, token}, problem.head_dim, 1};
  return family_of(copied) != Family::kScalar;
}

int64_t backward_scratch(const BackwardCall& call, Family family) {
  switch (family) {
    case Family::kSmall:
      return small_backward_scratch(call);
    case Family::kMatrix:
      return matrix_backward_scratch(call);
    case Family::kStaged:
      return staged_backward_scratch(call);
    default:
      return scalar_backward_scratch(call);
  }
}

const char* forward(const ForwardCall& call, void* stream) {
  if (is_empty(call.problem)) return nullptr;
  switch (family_of(call)) {
    case Family::kSmall:
      return small_forward(call, stream);
    case Family::kMatrix:
      return matrix_forward(call, stream);
    case Family::kStaged:
      return staged_forward(call, stream);
    default:
      return scalar_forward(call, stream);
  }
}

const char* backward(const BackwardCall& call, Family family, void* stream) {
  if (is_empty(call.problem)) return nullptr;
  switch (family) {
    case Family::kSmall:
      return small_backward(call, stream);
    case Family::kMatrix:
      return matrix_backward(call, stream);
    case Family::kStaged:
      return staged_backward(call, stream);
    default:
      return scalar_backward(call, stream);
  }
}

}  // namespace natten_ops::cuda
