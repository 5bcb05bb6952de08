// All that kernels know of the device: threads, memory, copies, tensor cores, launches. Every PTX
// instruction is here. Tests compile the same kernels for the host: they replace this file by
// tests/emulator/simt/device.h. Both files define the same names with the same contract.
//
// Blocks and grids are one-dimensional; a warp is 32 consecutive threads.
#ifndef NATTEN_OPS_DEVICE_H
#define NATTEN_OPS_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#define NATTEN_OPS_DEVICE __device__ __forceinline__
#define NATTEN_OPS_HOST_DEVICE __host__ __device__ __forceinline__
// A kernel of blocks of kThreads threads, of which kBlocks fit a multiprocessor at once.
#define NATTEN_OPS_KERNEL(kThreads, kBlocks) __global__ void __launch_bounds__(kThreads, kBlocks)
#define NATTEN_OPS_UNROLL _Pragma("unroll")
#define NATTEN_OPS_NO_UNROLL _Pragma("unroll 1")

namespace natten_ops::cuda {

// Compiled for a device before compute capability 8.0, with a quarter of the shared memory of
// others.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kIsOldDevice = true;
#else
constexpr bool kIsOldDevice = false;
#endif

// Numbers in memory of 16 bits.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

NATTEN_OPS_DEVICE float widen(float number) { return number; }
NATTEN_OPS_DEVICE double widen(double number) { return number; }
NATTEN_OPS_DEVICE float widen(Float16 number) {
  return __half2float(__ushort_as_half(number.bits));
}
NATTEN_OPS_DEVICE float widen(BFloat16 number) {
  return __uint_as_float(uint32_t(number.bits) << 16);
}

NATTEN_OPS_DEVICE void narrow(float number, float& to) { to = number; }
NATTEN_OPS_DEVICE void narrow(double number, double& to) { to = number; }
NATTEN_OPS_DEVICE void narrow(float number, Float16& to) {
  to.bits = __half_as_ushort(__float2half_rn(number));
}
NATTEN_OPS_DEVICE void narrow(float number, BFloat16& to) {
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(number));
}

NATTEN_OPS_DEVICE uint32_t bits_of(float number) { return __float_as_uint(number); }
NATTEN_OPS_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }

// Two numbers of 16 bits in a word, the first in its lower half.
template <typename Element>
NATTEN_OPS_DEVICE uint32_t pack(float low, float high) {
  if constexpr (sizeof(Element) == 2 && __is_same(Element, Float16)) {
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
  } else {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&both);
  }
}

template <typename Element>
NATTEN_OPS_DEVICE void unpack(uint32_t word, float& low, float& high) {
  low = widen(Element{static_cast<uint16_t>(word & 0xffff)});
  high = widen(Element{static_cast<uint16_t>(word >> 16)});
}

// sum + 0 * two numbers of 16 bits: zeros as long as all of them are finite. BFloat16 needs compute
// capability 8.0.
template <typename Element>
NATTEN_OPS_DEVICE uint32_t add_zero_times(uint32_t word, uint32_t sum) {
  uint32_t result = sum;
  if constexpr (__is_same(Element, Float16)) {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(word), "r"(0), "r"(sum));
  } else {
#if __CUDA_ARCH__ >= 800
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(word), "r"(0), "r"(sum));
#endif
  }
  return result;
}

// If a file defines NATTEN_OPS_THREAD_INDEX_ANEW, the compiler recomputes what follows from the
// index at each use, instead of keeping it in registers.
NATTEN_OPS_DEVICE int thread_index() {
#ifdef NATTEN_OPS_THREAD_INDEX_ANEW
  unsigned index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
#else
  const unsigned index = threadIdx.x;
#endif
  __builtin_assume(index < 1024);  // so that quotients need not care for negative numbers
  return static_cast<int>(index);
}
NATTEN_OPS_DEVICE int block_index() { return blockIdx.x; }

// The block's shared memory, as much as it was launched with, 16-byte aligned.
NATTEN_OPS_DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

// Wait for all threads of the block, or of the warp. Each thread then sees what the others wrote.
NATTEN_OPS_DEVICE void block_barrier() { __syncthreads(); }
NATTEN_OPS_DEVICE void warp_barrier() { __syncwarp(); }

// A pointer to global memory, which the compiler may not know from the address.
template <typename T>
NATTEN_OPS_DEVICE T* global_pointer(uint64_t address) {
  T* const pointer = reinterpret_cast<T*>(address);
  __builtin_assume(__isGlobal(pointer));
  return pointer;
}

// All threads of a warp must call these together.
template <typename T>
NATTEN_OPS_DEVICE T shuffle_xor(T number, int mask) {
  return __shfl_xor_sync(0xffffffffu, number, mask);
}
template <typename T>
NATTEN_OPS_DEVICE T shuffle(T number, int lane) {
  return __shfl_sync(0xffffffffu, number, lane);
}
// The number of thread `place` of each kWidth neighbors.
template <int kWidth, typename T>
NATTEN_OPS_DEVICE T shuffle_within(T number, int place) {
  return __shfl_sync(0xffffffffu, number, place, kWidth);
}
NATTEN_OPS_DEVICE bool warp_any(bool is) { return __any_sync(0xffffffffu, is); }

// 2^x and log2(x). Fast in float: about 2 ulp, 2^-inf = 0, 2^(very small) may be 0.
NATTEN_OPS_DEVICE float exp2_of(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
NATTEN_OPS_DEVICE double exp2_of(double x) { return exp2(x); }
NATTEN_OPS_DEVICE float log2_of(float x) { return log2f(x); }
NATTEN_OPS_DEVICE double log2_of(double x) { return log2(x); }

// log2(x) and 1 / x, fast, for x of at least 1: to 2^-22 and to 1 ulp.
NATTEN_OPS_DEVICE float fast_log2(float x) {
  float logarithm;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(logarithm) : "f"(x));
  return logarithm;
}
NATTEN_OPS_DEVICE float fast_reciprocal(float x) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  return reciprocal;
}
// The larger number; if one is NaN, the other one.
NATTEN_OPS_DEVICE float larger(float x, float y) { return fmaxf(x, y); }

// Copies 16 or 8 bytes from global to shared memory, both aligned to as much. If `valid` is false,
// writes zeros and does not read `global`. The bytes are there after copy_async_wait and then a
// barrier.
template <int kBytes>
NATTEN_OPS_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  static_assert(kBytes == 16 || kBytes == 8);
#if __CUDA_ARCH__ >= 800
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (kBytes == 16) {
    asm volatile(
        "{.reg .pred skip; setp.eq.u32 skip, %2, 0; cp.async.cg.shared.global [%0], [%1], 16, "
        "skip;}" ::"r"(to),
        "l"(global), "r"(uint32_t(valid))
        : "memory");
  } else {
    asm volatile(
        "{.reg .pred skip; setp.eq.u32 skip, %2, 0; cp.async.ca.shared.global [%0], [%1], 8, "
        "skip;}" ::"r"(to),
        "l"(global), "r"(uint32_t(valid))
        : "memory");
  }
#else
  struct alignas(kBytes) Bytes {
    char bytes[kBytes];
  };
  *static_cast<Bytes*>(shared) = valid ? *static_cast<const Bytes*>(global) : Bytes{};
#endif
}
// Closes a batch of copies; copy_async_wait<n> waits for all but the last n batches of the thread.
NATTEN_OPS_DEVICE void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kBatches>
NATTEN_OPS_DEVICE void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kBatches) : "memory");
#endif
}

// Four 8 x 8 matrices of 16-bit numbers. Thread 8 i + r gives the address (16-byte aligned, shared)
// of row r of matrix i; words[i] of thread t holds rows 2 (t % 4) and the next of column t / 4 of
// matrix i.
NATTEN_OPS_DEVICE void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(from)
               : "memory");
}

// sum += a * b for a (16, 16), b (16, 8), sum (16, 8) in float, spread over the warp as
// mma.m16n8k16 has it. With g = thread / 4, c = 2 (thread % 4):
//   a[0], a[1], a[2], a[3]: a[g][c, c+1], a[g+8][c, c+1], a[g][c+8, c+9], a[g+8][c+8, c+9]
//   b[0], b[1]:             b[c, c+1][g], b[c+8, c+9][g]
//   sum[0..3]:              sum[g][c], sum[g][c+1], sum[g+8][c], sum[g+8][c+1]
// BFloat16 needs compute capability 8.0; before, this traps.
template <typename Element>
NATTEN_OPS_DEVICE void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  if constexpr (__is_same(Element, Float16)) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#else
  if constexpr (__is_same(Element, Float16)) {
    NATTEN_OPS_UNROLL
    for (int half = 0; half < 2; ++half) {
      asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
          "{%0, %1, %2, %3};"
          : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
          : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(half ? b1 : b0));
    }
  } else {
    __trap();
  }
#endif
}

// sum += a * b for a (16, 8), b (8, 8) in TF32, sum (16, 8) in float, as mma.m16n8k8 has it. TF32
// is float without its last 13 bits, which do not count. With g = thread / 4, c = thread % 4:
//   a[0], a[1], a[2], a[3]: a[g][c], a[g+8][c], a[g][c+4], a[g+8][c+4]
//   b0, b1:                 b[c][g], b[c+4][g]
//   sum:                    as in multiply_add
// Needs compute capability 8.0; before, this traps.
NATTEN_OPS_DEVICE void multiply_add_tf32(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

// Null, or the error in words. The runtime forgets it, or else the next launch would report it.
inline const char* words_of(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();
  return cudaGetErrorString(error);
}

// Makes a device the current one of the calling thread. The runtime that this library is linked
// with is not torch's, so that torch's choice need not hold here. Returns null, or the error in
// words.
inline const char* set_device(int device) {
  int current = 0;
  const char* error = words_of(cudaGetDevice(&current));
  return error || current == device ? error : words_of(cudaSetDevice(device));
}

struct DeviceProperties {
  int capability = 0, multiprocessors = 1;
  int64_t shared_memory = 48 << 10, shared_memory_of_multiprocessor = 64 << 10;
};

// Those of the current device, which are asked for once; these defaults without one.
inline DeviceProperties device_properties() {
  static std::mutex mutex;
  static std::map<int, DeviceProperties> known;
  int device = 0, major = 0, minor = 0, count = 0, block = 0, multiprocessor = 0;
  if (words_of(cudaGetDevice(&device))) return {};
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  const auto ask = [&](int& number, cudaDeviceAttr attribute) {
    return !words_of(cudaDeviceGetAttribute(&number, attribute, device));
  };
  if (!ask(major, cudaDevAttrComputeCapabilityMajor) ||
      !ask(minor, cudaDevAttrComputeCapabilityMinor) ||
      !ask(count, cudaDevAttrMultiProcessorCount) ||
      !ask(block, cudaDevAttrMaxSharedMemoryPerBlockOptin) ||
      !ask(multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor)) {
    return {};
  }
  return known[device] = {10 * major + minor, count, block, multiprocessor};
}

// 10 times the major, plus the minor compute capability of the current device; 0 without one.
inline int compute_capability() { return device_properties().capability; }

inline int multiprocessors() { return device_properties().multiprocessors; }

// Most bytes of shared memory that a block of the current device can have.
inline int64_t shared_memory_limit() { return device_properties().shared_memory; }

// Bytes that the blocks of one multiprocessor share, each of which takes kReservedShared more than
// it was launched with.
constexpr int64_t kReservedShared = 1024;
inline int64_t shared_memory_of_multiprocessor() {
  return device_properties().shared_memory_of_multiprocessor;
}

// Lets a kernel take all shared memory of the current device, which is set once. It is always the
// same number: threads may launch the kernel with different sizes at one time.
inline const char* allow_shared_memory(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  int device = 0;
  if (const char* error = words_of(cudaGetDevice(&device))) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({kernel, device})) return nullptr;
  const char* error =
      words_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_memory_limit())));
  if (!error) allowed.insert({kernel, device});
  return error;
}

// Puts kernel(arguments...) on the stream: `blocks` blocks (1 to 2^31 - 1) of `threads` threads
// with `shared_bytes` of shared memory each. Returns null, or the error in words.
template <typename... Parameters, typename... Arguments>
const char* launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
                   void* stream, const Arguments&... arguments) {
  if (shared_bytes > (48 << 10)) {
    const char* error = allow_shared_memory(reinterpret_cast<const void*>(kernel));
    if (error) return error;
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes,
           static_cast<cudaStream_t>(stream)>>>(arguments...);
  return words_of(cudaGetLastError());
}

}  // namespace natten_ops::cuda

#endif  // NATTEN_OPS_DEVICE_H
