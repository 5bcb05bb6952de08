// Small kernels that test the emulator: `selftest CASE [ORDER]` prints the results of a launch, or
// its error. test_simt.py knows what is right.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "device.h"

extern "C" void simt_set_order(int order);

namespace natten_ops::cuda {

namespace {

constexpr int kThreads = 64;

NATTEN_OPS_DEVICE float* shared_floats() { return reinterpret_cast<float*>(shared_memory()); }

// What works --------------------------------------------------------------------------------------

NATTEN_OPS_KERNEL(kThreads, 1) indices(float* out) {
  out[block_index() * kThreads + thread_index()] = 1000 * block_index() + thread_index();
}

NATTEN_OPS_KERNEL(kThreads, 1) shuffles(float* out) {
  const int thread = thread_index();
  out[thread] = shuffle_xor(float(thread), 5);
  out[kThreads + thread] = static_cast<float>(shuffle(double(thread), (thread + 1) % 32));
  out[2 * kThreads + thread] = warp_any(thread == 40) ? 1 : 0;
}

// The sum of the block's numbers, for each of its threads.
NATTEN_OPS_DEVICE float block_sum(float number) {
  for (int mask = 16; mask > 0; mask /= 2) number += shuffle_xor(number, mask);
  float* sums = shared_floats();
  block_barrier();
  if (thread_index() % 32 == 0) sums[thread_index() / 32] = number;
  block_barrier();
  float sum = 0;
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += sums[warp];
  return sum;
}

NATTEN_OPS_KERNEL(kThreads, 1) block_sums(float* out) {
  for (int round = 0; round < 3; ++round) {
    const float sum = block_sum(static_cast<float>(thread_index() + round));
    out[round * kThreads + thread_index()] = sum;
  }
}

// a (16, 16), b (16, 8) in; a b, out.
template <typename Element>
NATTEN_OPS_KERNEL(32, 1)
matrix_products(const float* a, const float* b, float* out) {
  Element* shared_a = reinterpret_cast<Element*>(shared_memory());
  Element* shared_b = shared_a + 16 * 16;
  const int lane = thread_index(), g = lane / 4, c = 2 * (lane % 4);
  for (int i = lane; i < 16 * 16; i += 32) narrow(a[i], shared_a[i]);
  for (int i = lane; i < 16 * 8; i += 32) narrow(b[i], shared_b[i]);
  warp_barrier();
  uint32_t words_a[4], words_b[4];
  for (int i = 0; i < 4; ++i) {
    const Element* pair = shared_a + (g + i % 2 * 8) * 16 + c + i / 2 * 8;
    words_a[i] = *reinterpret_cast<const uint32_t*>(pair);
  }
  // Only the first two matrices count.
  load_matrices_transposed(words_b, shared_b + (lane % 8 + lane / 8 % 2 * 8) * 8);
  float sum[4] = {1, 2, 3, 4};
  multiply_add<Element>(sum, words_a, words_b[0], words_b[1]);
  for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + c + i % 2] = sum[i] - (i + 1);
}

// a (16, 8), b (8, 8) in; a b, out. Bits that TF32 lacks are set here and there.
NATTEN_OPS_KERNEL(32, 1) tf32_products(const float* a, const float* b, float* out) {
  const int lane = thread_index(), g = lane / 4, c = lane % 4;
  uint32_t words_a[4];
  for (int i = 0; i < 4; ++i) {
    words_a[i] = bits_of(a[(g + i % 2 * 8) * 8 + c + i / 2 * 4]) | 0x1fff >> (lane + i) % 16;
  }
  const uint32_t b0 = bits_of(b[c * 8 + g]), b1 = bits_of(b[(c + 4) * 8 + g]);
  float sum[4] = {1, 2, 3, 4};
  multiply_add_tf32(sum, words_a, b0 | 0x1fff, b1);
  for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + c * 2 + i % 2] = sum[i] - (i + 1);
}

// Two batches, and a copy that is in none yet: what the destinations hold after each wait.
NATTEN_OPS_KERNEL(kThreads, 1) copies(const float* in, float* out) {
  if (thread_index() > 0) return;
  float* shared = shared_floats();
  copy_async<16>(shared, in, true);
  copy_async_commit();
  copy_async<16>(shared + 4, nullptr, false);
  copy_async_commit();
  copy_async<16>(shared + 8, in + 4, true);
  const auto show = [&](int row) {
    for (int i = 0; i < 12; ++i) out[12 * row + i] = shared[i];
  };
  show(0);
  copy_async_wait<2>();
  show(1);
  copy_async_wait<1>();
  show(2);
  copy_async_wait<0>();
  show(3);
  copy_async_commit();
  copy_async_wait<0>();
  show(4);
}

// What does not -----------------------------------------------------------------------------------

NATTEN_OPS_KERNEL(kThreads, 1) missing_block_barrier(float* out) {
  float* shared = shared_floats();
  shared[thread_index()] = static_cast<float>(thread_index());
  warp_barrier();
  out[thread_index()] = shared[(thread_index() + 32) % kThreads];
}

NATTEN_OPS_KERNEL(kThreads, 1) missing_warp_barrier(float* out) {
  float* shared = shared_floats();
  shared[thread_index()] = static_cast<float>(thread_index());
  out[thread_index()] = shared[thread_index() ^ 1];
}

NATTEN_OPS_KERNEL(kThreads, 1) same_output_of_two_blocks(float* out) {
  out[thread_index()] = static_cast<float>(block_index());
}

NATTEN_OPS_KERNEL(kThreads, 1) missing_copy_wait(const float* in, float* out) {
  copy_async<16>(shared_floats() + 4 * thread_index(), in, true);
  copy_async_commit();
  block_barrier();
  out[thread_index()] = shared_floats()[thread_index()];
}

NATTEN_OPS_KERNEL(kThreads, 1) beyond_shared_memory(float* out, int floats) {
  shared_floats()[floats + 1] = 0;
  out[thread_index()] = 0;
}

NATTEN_OPS_KERNEL(kThreads, 1) beyond_global_memory(float* out, int floats) {
  warp_barrier();
  out[floats] = 0;
}

NATTEN_OPS_KERNEL(kThreads, 1) beyond_an_array(float* out, int floats) {
  float own[4] = {};
  float* volatile begin = own;  // hides from UndefinedBehaviorSanitizer where it points
  warp_barrier();
  begin[floats % kThreads + 4] = 1;
  warp_barrier();
  out[thread_index()] = own[3];
}

NATTEN_OPS_KERNEL(kThreads, 1) misaligned_word(float* out) {
  out[thread_index()] = *reinterpret_cast<float*>(shared_memory() + 2);
}

NATTEN_OPS_KERNEL(kThreads, 1) different_collectives(float* out) {
  if (thread_index() < 40) {
    out[thread_index()] = shuffle_xor(1.0f, 1);
  } else {
    block_barrier();
  }
}

NATTEN_OPS_KERNEL(kThreads, 1) different_lines() {
  if (thread_index() < 40) {
    warp_barrier();
  } else {
    warp_barrier();
  }
}

NATTEN_OPS_KERNEL(kThreads, 1) exited_thread() {
  if (thread_index() == 63) return;
  warp_barrier();
}

NATTEN_OPS_KERNEL(kThreads, 1) exited_warp() {
  if (thread_index() < 32) return;
  block_barrier();
}

NATTEN_OPS_KERNEL(kThreads, 1) part_of_a_warp() { warp_any(true); }

NATTEN_OPS_KERNEL(kThreads, 1) load_misaligned() {
  uint32_t words[4];
  load_matrices_transposed(words, shared_memory() + 8);
}

NATTEN_OPS_KERNEL(kThreads, 1) load_from_global(const float* in) {
  uint32_t words[4];
  load_matrices_transposed(words, in);
}

NATTEN_OPS_KERNEL(kThreads, 1) copy_beyond(const float* in, int floats) {
  copy_async<16>(shared_floats() + floats, in, true);
}

NATTEN_OPS_KERNEL(kThreads, 1) copy_from_misaligned(const float* in) {
  copy_async<16>(shared_memory(), in + 1, true);
}

NATTEN_OPS_KERNEL(kThreads, 1) copy_twice(const float* in) {
  copy_async<8>(shared_memory() + 8, in, true);
  copy_async_commit();
  copy_async<16>(shared_memory(), in, true);
}

NATTEN_OPS_KERNEL(kThreads, 1) bfloat16_product() {
  float sum[4] = {};
  const uint32_t words[4] = {};
  multiply_add<BFloat16>(sum, words, 0, 0);
}

NATTEN_OPS_KERNEL(kThreads, 1) tf32_product() {
  float sum[4] = {};
  const uint32_t words[4] = {};
  multiply_add_tf32(sum, words, 0, 0);
}

// Programs ----------------------------------------------------------------------------------------

constexpr int kIn = 16 * 16 + 16 * 8, kOut = 4 * kThreads;  // floats of each case
constexpr int kSharedBytes = 32 * 12 * 4;

template <typename... Parameters, typename... Arguments>
const char* start(int blocks, void (*kernel)(Parameters...), Arguments... arguments) {
  return launch(kernel, blocks, kThreads, kSharedBytes, simt::stream(), arguments...);
}

template <typename Element>
const char* start_matrix_products(const float* in, float* out) {
  return launch(matrix_products<Element>, 1, 32, 1024, simt::stream(), in, in + 16 * 16, out);
}

using Case = const char* (*)(const float* in, float* out);
const std::map<std::string, Case> kCases = {
    {"indices", [](const float*, float* out) { return start(4, indices, out); }},
    {"shuffles", [](const float*, float* out) { return start(1, shuffles, out); }},
    {"block_sums", [](const float*, float* out) { return start(1, block_sums, out); }},
    {"matrix_products_float16", start_matrix_products<Float16>},
    {"matrix_products_bfloat16", start_matrix_products<BFloat16>},
    {"tf32_products",
     [](const float* in, float* out) {
       return launch(tf32_products, 1, 32, 1024, simt::stream(), in, in + 16 * 8, out);
     }},
    {"copies", [](const float* in, float* out) { return start(1, copies, in, out); }},
    {"missing_block_barrier",
     [](const float*, float* out) { return start(1, missing_block_barrier, out); }},
    {"missing_warp_barrier",
     [](const float*, float* out) { return start(1, missing_warp_barrier, out); }},
    {"same_output_of_two_blocks",
     [](const float*, float* out) { return start(3, same_output_of_two_blocks, out); }},
    {"missing_copy_wait",
     [](const float* in, float* out) { return start(1, missing_copy_wait, in, out); }},
    {"beyond_shared_memory",
     [](const float*, float* out) {
       return start(1, beyond_shared_memory, out, kSharedBytes / 4);
     }},
    {"beyond_global_memory",
     [](const float*, float* out) { return start(1, beyond_global_memory, out, kOut); }},
    {"beyond_an_array",
     [](const float*, float* out) { return start(1, beyond_an_array, out, kThreads); }},
    {"misaligned_word", [](const float*, float* out) { return start(1, misaligned_word, out); }},
    {"different_collectives",
     [](const float*, float* out) { return start(1, different_collectives, out); }},
    {"different_lines", [](const float*, float*) { return start(1, different_lines); }},
    {"exited_thread", [](const float*, float*) { return start(1, exited_thread); }},
    {"exited_warp", [](const float*, float*) { return start(1, exited_warp); }},
    {"part_of_a_warp",
     [](const float*, float*) { return launch(part_of_a_warp, 1, 48, 0, simt::stream()); }},
    {"load_misaligned", [](const float*, float*) { return start(1, load_misaligned); }},
    {"load_from_global", [](const float* in, float*) { return start(1, load_from_global, in); }},
    {"copy_beyond",
     [](const float* in, float*) { return start(1, copy_beyond, in, kSharedBytes / 4); }},
    {"copy_from_misaligned",
     [](const float* in, float*) { return start(1, copy_from_misaligned, in); }},
    {"copy_twice", [](const float* in, float*) { return start(1, copy_twice, in); }},
    {"bfloat16_product", [](const float*, float*) { return start(1, bfloat16_product); }},
    {"tf32_product", [](const float*, float*) { return start(1, tf32_product); }},
    {"no_blocks", [](const float*, float* out) { return start(0, indices, out); }},
    {"too_much_shared_memory",
     [](const float*, float* out) {
       return launch(indices, 1, kThreads, shared_memory_limit() + 1, simt::stream(), out);
     }},
    {"another_stream",
     [](const float*, float* out) { return launch(indices, 1, kThreads, 0, nullptr, out); }},
};

// Floats in; their 16 bits, and what these are in float, out.
template <typename Element>
void convert() {
  float number;
  while (std::fread(&number, 4, 1, stdin) == 1) {
    Element narrowed;
    narrow(number, narrowed);
    const uint32_t word = pack<Element>(0, number);
    float zero, widened;
    unpack<Element>(word, zero, widened);
    if (word != uint32_t(narrowed.bits) << 16 || zero != 0) std::abort();
    std::fwrite(&narrowed, 2, 1, stdout);
    std::fwrite(&widened, 4, 1, stdout);
  }
}

}  // namespace

}  // namespace natten_ops::cuda

int main(int count, char** arguments) {
  using namespace natten_ops::cuda;
  const std::string name = arguments[1];
  if (name == "convert_float16") return convert<Float16>(), 0;
  if (name == "convert_bfloat16") return convert<BFloat16>(), 0;
  if (count > 2) simt_set_order(std::atoi(arguments[2]));
  void *in, *out;  // of malloc, which AddressSanitizer watches
  if (posix_memalign(&in, 16, 4 * kIn) || posix_memalign(&out, 16, 4 * kOut)) return 1;
  for (int i = 0; i < kIn; ++i) static_cast<float*>(in)[i] = (i * i % 31 - 15) / 4.0f;
  std::memset(out, 0, 4 * kOut);
  const Case run = kCases.at(name);
  for (int round = 0; round < 2; ++round) {  // the second one after what the first left
    const char* error = run(static_cast<const float*>(in), static_cast<float*>(out));
    if (error) std::printf("error: %s\n", error);
    if (error && round) return 0;
  }
  for (int i = 0; i < kOut; ++i) std::printf("%.9g\n", static_cast<float*>(out)[i]);
}
