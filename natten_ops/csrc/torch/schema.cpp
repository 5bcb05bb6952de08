// The schemas of the operators. The back ends implement them: cpu.cpp in this library, cuda.cpp in
// the CUDA library. Autograd and shape rules are attached in Python (natten_ops/dispatch.py).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(natten_ops, m) {
  // logsumexp is for the backward. allow_tf32: whether float32 may be multiplied as sums of numbers
  // of TF32, where that is faster (csrc/cuda/tf32.cuh); the CPU does not.
  m.def(
      "na_forward(Tensor query, Tensor key, Tensor value, Tensor? rpb, int[] kernel_size, "
      "int[] dilation, float scale, bool allow_tf32=False) -> (Tensor output, Tensor logsumexp)");
  // grad_rpb is empty if rpb is None. The CPU kernels do not read output.
  m.def(
      "na_backward(Tensor grad_output, Tensor query, Tensor key, Tensor value, Tensor? rpb, "
      "Tensor output, Tensor logsumexp, int[] kernel_size, int[] dilation, float scale, "
      "bool allow_tf32=False) -> "
      "(Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_rpb)");
  // The same for a fused projection: query, key and value are slices of one tensor qkv
  // (B, ..., 3, heads, head_dim). Their gradients are written into one tensor without a copy.
  m.def(
      "na_packed_forward(Tensor qkv, Tensor? rpb, int[] kernel_size, int[] dilation, float scale, "
      "bool allow_tf32=False) -> (Tensor output, Tensor logsumexp)");
  m.def(
      "na_packed_backward(Tensor grad_output, Tensor qkv, Tensor? rpb, Tensor output, "
      "Tensor logsumexp, int[] kernel_size, int[] dilation, float scale, bool allow_tf32=False) -> "
      "(Tensor grad_qkv, Tensor grad_rpb)");
  // The instruction set in use, with the name that torch.backends.cpu.get_cpu_capability gives it.
  m.def("cpu_capability() -> str");
}
