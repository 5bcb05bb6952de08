// Runs the kernels on the CPU: an emulator of what natten_ops/csrc/cuda/device.h offers, with the
// same names and contracts, for tests. Sources are compiled with `-include` and this file; the
// include guard, which both headers have, keeps the other one out.
//
// How it works: `launch` runs the blocks one after another. The threads of a block are fibers, each
// with a stack of its own, on one thread of the operating system. A warp is chosen, each of its 32
// threads runs to its next collective (barrier, shuffle, matrix operation) or exits, the collective
// is carried out, and so on. Warps that wait in block_barrier go on when all of them do. The order
// in which blocks, warps and threads are taken is chosen with simt_set_order.
//
// What it detects:
// - missing barriers, and blocks that write what others write or read: results change with the
//   order. Between collectives the threads of a warp run one after another, and warps are as far
//   apart as barriers let them;
// - missing copy_async_wait: a copy lands as late as it may, and its destination holds NaN before;
// - shared memory that is read before it is written: it begins as bytes 0xff, NaN in all formats;
// - accesses outside of shared memory, global memory and arrays of a thread, misaligned words and
//   overflow of integers: AddressSanitizer and UndefinedBehaviorSanitizer end the program;
// - collectives to which not all threads of a warp (block_barrier: of the block) come, at the same
//   line; misaligned addresses, and others than of shared memory, of copies and matrices; products
//   of bfloat16 and TF32 before 8.0; too much shared memory; another stream than the caller's:
//   `launch` returns a message.
// What it does not: races between two threads of a warp with a collective between them that is no
// barrier (shuffles order memory here, not on the device), or that both add to a number (here one
// after the other); time, bank conflicts and registers;
// roundings of tensor cores and of fast functions; launch bounds; code that only nvcc refuses.
#ifndef NATTEN_OPS_DEVICE_H
#define NATTEN_OPS_DEVICE_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define NATTEN_OPS_DEVICE inline
#define NATTEN_OPS_HOST_DEVICE inline
#define NATTEN_OPS_KERNEL(kThreads, kBlocks) void
#define NATTEN_OPS_UNROLL
#define NATTEN_OPS_NO_UNROLL

namespace natten_ops::cuda {

constexpr bool kIsOldDevice = false;

namespace simt {

constexpr int kWarp = 32;

// The stream that every kernel has to be launched on.
inline void* stream() { return reinterpret_cast<void*>(0x57); }

// Where the thread that runs is.
struct Here {
  int thread, block, capability;
  char* shared;
};
extern Here here;

// A call in a kernel, of which messages tell. As a default argument it is the caller's place.
struct Call {
  const char* function;
  const char* file;
  int line;
};
#define NATTEN_OPS_SIMT_CALL(name) simt::Call call = {name, __builtin_FILE(), __builtin_LINE()}

// A thread brings a part to a collective; `join` changes the parts of the warp's threads.
struct Collective {
  Call call;
  bool of_block;
  void* part;
  void (*join)(void* const (&parts)[kWarp]);
};
// Returns when all threads have come.
void wait(const Collective& collective);

template <typename Part>
void collect(const Call& call, Part& part) {
  wait({call, false, &part, [](void* const(&parts)[kWarp]) {
          Part* typed[kWarp];
          for (int lane = 0; lane < kWarp; ++lane) typed[lane] = static_cast<Part*>(parts[lane]);
          Part::join(typed);
        }});
}

// Ends the launch, which returns the message.
[[noreturn]] void fail(const Call& call, const char* message);

template <typename T>
struct Shuffle {
  T number;
  int from;

  static void join(Shuffle* (&parts)[kWarp]) {
    T numbers[kWarp];
    for (int lane = 0; lane < kWarp; ++lane) numbers[lane] = parts[lane]->number;
    for (Shuffle* part : parts) part->number = numbers[part->from];
  }
};

void load_matrices_transposed(uint32_t (&words)[4], const void* row, const Call& call);
void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  float (*widen)(uint16_t), const Call& call);
void multiply_add_tf32(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                       const Call& call);
void copy_async(void* shared, const void* global, bool valid, int bytes, const Call& call);
void copy_async_commit();
void copy_async_wait(int batches);

const char* launch(const std::function<void()>& kernel, int64_t blocks, int threads,
                   int64_t shared_bytes, void* stream);

float widen_float16(uint16_t bits);
float widen_bfloat16(uint16_t bits);
uint16_t narrow_float16(float number);
uint16_t narrow_bfloat16(float number);

}  // namespace simt

struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float widen(float number) { return number; }
inline double widen(double number) { return number; }
inline float widen(Float16 number) { return simt::widen_float16(number.bits); }
inline float widen(BFloat16 number) { return simt::widen_bfloat16(number.bits); }

inline void narrow(float number, float& to) { to = number; }
inline void narrow(double number, double& to) { to = number; }
inline void narrow(float number, Float16& to) { to.bits = simt::narrow_float16(number); }
inline void narrow(float number, BFloat16& to) { to.bits = simt::narrow_bfloat16(number); }

inline uint32_t bits_of(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return bits;
}
inline float float_of(uint32_t bits) {
  float number;
  std::memcpy(&number, &bits, sizeof(number));
  return number;
}

template <typename Element>
uint32_t pack(float low, float high) {
  Element lower, upper;
  narrow(low, lower);
  narrow(high, upper);
  return lower.bits | uint32_t(upper.bits) << 16;
}

template <typename Element>
void unpack(uint32_t word, float& low, float& high) {
  low = widen(Element{static_cast<uint16_t>(word & 0xffff)});
  high = widen(Element{static_cast<uint16_t>(word >> 16)});
}

template <typename Element>
uint32_t add_zero_times(uint32_t word, uint32_t sum) {
  float numbers[2], sums[2];
  unpack<Element>(word, numbers[0], numbers[1]);
  unpack<Element>(sum, sums[0], sums[1]);
  return pack<Element>(sums[0] + numbers[0] * 0, sums[1] + numbers[1] * 0);
}

inline int thread_index() { return simt::here.thread; }
inline int block_index() { return simt::here.block; }
inline char* shared_memory() { return simt::here.shared; }

inline void block_barrier(NATTEN_OPS_SIMT_CALL("block_barrier")) {
  simt::wait({call, true, nullptr, nullptr});
}
inline void warp_barrier(NATTEN_OPS_SIMT_CALL("warp_barrier")) {
  simt::wait({call, false, nullptr, nullptr});
}

template <typename T>
T* global_pointer(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

template <typename T>
T shuffle(T number, int lane, NATTEN_OPS_SIMT_CALL("shuffle")) {
  if (lane < 0 || lane >= simt::kWarp) simt::fail(call, "there is no such lane");
  simt::Shuffle<T> part{number, lane};
  simt::collect(call, part);
  return part.number;
}
template <typename T>
T shuffle_xor(T number, int mask, NATTEN_OPS_SIMT_CALL("shuffle_xor")) {
  return shuffle(number, (thread_index() % simt::kWarp) ^ mask, call);
}
template <int kWidth, typename T>
T shuffle_within(T number, int place, NATTEN_OPS_SIMT_CALL("shuffle_within")) {
  return shuffle(number, thread_index() % simt::kWarp / kWidth * kWidth + place, call);
}
inline bool warp_any(bool is, NATTEN_OPS_SIMT_CALL("warp_any")) {
  struct Any {
    bool is;
    static void join(Any* (&parts)[simt::kWarp]) {
      bool any = false;
      for (const Any* part : parts) any |= part->is;
      for (Any* part : parts) part->is = any;
    }
  } part{is};
  simt::collect(call, part);
  return part.is;
}

// The float flushes what is not normal to zero, as the device does.
float exp2_of(float x);
double exp2_of(double x);
float log2_of(float x);
double log2_of(double x);
inline float fast_log2(float x) { return log2_of(x); }
inline float fast_reciprocal(float x) { return 1 / x; }
inline float larger(float x, float y) { return std::fmax(x, y); }

template <int kBytes>
void copy_async(void* shared, const void* global, bool valid, NATTEN_OPS_SIMT_CALL("copy_async")) {
  static_assert(kBytes == 16 || kBytes == 8);
  simt::copy_async(shared, global, valid, kBytes, call);
}
inline void copy_async_commit() { simt::copy_async_commit(); }
template <int kBatches>
void copy_async_wait() {
  static_assert(kBatches >= 0);
  simt::copy_async_wait(kBatches);
}

inline void load_matrices_transposed(uint32_t (&words)[4], const void* row,
                                     NATTEN_OPS_SIMT_CALL("load_matrices_transposed")) {
  simt::load_matrices_transposed(words, row, call);
}

// There is one.
inline const char* set_device(int device) {
  return device == 0 ? nullptr : "set_device: there is no such device";
}

// NATTEN_OPS_SIMT_CAPABILITY of the environment, or 90.
int compute_capability();
// NATTEN_OPS_SIMT_MULTIPROCESSORS of the environment, or 2.
int multiprocessors();
int64_t shared_memory_limit();
constexpr int64_t kReservedShared = 1024;
int64_t shared_memory_of_multiprocessor();

template <typename Element>
void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  NATTEN_OPS_SIMT_CALL("multiply_add")) {
  constexpr bool kFloat16 = std::is_same_v<Element, Float16>;
  static_assert(kFloat16 || std::is_same_v<Element, BFloat16>);
  if (!kFloat16 && simt::here.capability < 80) {
    simt::fail(call, "bfloat16 needs compute capability 8.0");
  }
  simt::multiply_add(sum, a, b0, b1, kFloat16 ? simt::widen_float16 : simt::widen_bfloat16, call);
}

inline void multiply_add_tf32(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              NATTEN_OPS_SIMT_CALL("multiply_add_tf32")) {
  if (simt::here.capability < 80) simt::fail(call, "TF32 needs compute capability 8.0");
  simt::multiply_add_tf32(sum, a, b0, b1, call);
}

template <typename... Parameters, typename... Arguments>
const char* launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
                   void* stream, const Arguments&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...));
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "the device's limit for parameters");
  return simt::launch([&] { kernel(arguments...); }, blocks, threads, shared_bytes, stream);
}

}  // namespace natten_ops::cuda

#endif  // NATTEN_OPS_DEVICE_H
