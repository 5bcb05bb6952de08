// The emulator's engine; device.h says how it works.
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "device.h"

namespace natten_ops::cuda {

namespace simt {

Here here;

namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr int kPoison = 0xff;

// Fibers ------------------------------------------------------------------------------------------

// A stack, and where its execution stopped. ucontext begins an execution; from then on GCC's
// __builtin_setjmp and __builtin_longjmp switch, as swapcontext would take system calls and make
// AddressSanitizer forget what it knows of the stack.
struct Fiber {
  char* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* registers[5];
  bool begun = false;
};

Fiber host;  // the stack of `launch`

void thread_main();  // what a fiber runs

__attribute__((noipa, no_sanitize("address"))) void jump(Fiber& to) {
  __builtin_longjmp(to.registers, 1);
}

__attribute__((noipa, no_sanitize("address"))) void switch_fiber(Fiber& from, Fiber& to) {
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
  if (__builtin_setjmp(from.registers) == 0) {
    if (to.begun) jump(to);
    to.begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = to.stack;
    context.uc_stack.ss_size = to.stack_bytes;
    makecontext(&context, thread_main, 0);
    setcontext(&context);
  }
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
}

// Threads -----------------------------------------------------------------------------------------

struct Copy {
  char* to;
  char bytes[16];
  int size;  // of these
  int batch;
};

struct Thread {
  Fiber fiber;
  const Collective* waits = nullptr;  // null: it has exited
  std::vector<Copy> copies;           // that have not landed
  int batches = 0;                    // closed

  Thread() {
    const size_t guard = 4096;  // below the stack: faults when the stack overflows
    void* memory = mmap(nullptr, guard + kStackBytes, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    fiber.stack = static_cast<char*>(memory) + guard;
    fiber.stack_bytes = kStackBytes;
    if (memory == MAP_FAILED || mprotect(fiber.stack, kStackBytes, PROT_READ | PROT_WRITE)) {
      std::abort();
    }
  }
};

std::vector<std::unique_ptr<Thread>> threads;  // of the block; kept for the next
const std::function<void()>* kernel;
int64_t shared_bytes;
std::string error;
int order = 0;  // see simt_set_order
std::mt19937 source;

Thread& current() { return *threads[here.thread]; }

std::vector<int> turns;  // the threads that run before `launch` goes on
size_t turn;

// The thread that runs stops. The next one goes on or, after the last one and an error, `launch`.
void stop() {
  Fiber& from = current().fiber;
  const bool last = !error.empty() || ++turn == turns.size();
  if (!last) here.thread = turns[turn];
  switch_fiber(from, last ? host : current().fiber);
}

// The thread of one block after the other.
void thread_main() {
  const void* stack;
  size_t stack_bytes;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &stack_bytes);
  if (!host.stack) {  // it began the first fiber
    host.stack = static_cast<char*>(const_cast<void*>(stack));
    host.stack_bytes = stack_bytes;
  }
  for (;;) {
    (*kernel)();
    current().waits = nullptr;
    stop();
  }
}

// Forgets the executions that stopped within a kernel.
void abandon_threads() {
  for (auto& thread : threads) {
    __asan_unpoison_memory_region(thread->fiber.stack, kStackBytes);
    thread->fiber.begun = false;
    thread->copies.clear();
    thread->batches = 0;
  }
}

std::string describe(const Call& call) {
  const std::string file = call.file;
  return std::string(call.function) + " (" + file.substr(file.rfind('/') + 1) + ":" +
         std::to_string(call.line) + ")";
}

std::string describe(const Collective* waits) {
  return waits ? "wait in " + describe(waits->call) : "have exited";
}

bool same_call(const Collective* a, const Collective* b) {
  if (!a || !b) return a == b;
  return a->call.line == b->call.line &&
         (a->call.function == b->call.function || !std::strcmp(a->call.function, b->call.function));
}

// first, first + 1, ..., first + count - 1 in the order that is chosen.
std::vector<int> ordered(int64_t count, int first = 0) {
  std::vector<int> indices(count);
  std::iota(indices.begin(), indices.end(), first);
  if (order == 1) std::reverse(indices.begin(), indices.end());
  if (order > 1) std::shuffle(indices.begin(), indices.end(), source);
  return indices;
}

enum class Stop { kReady, kBlockBarrier, kExit };

// Runs each thread of a warp to its next collective, and carries that out if it is the warp's.
Stop run_warp(int warp, int lanes) {
  turns = ordered(lanes, warp * kWarp);
  turn = 0;
  here.thread = turns[0];
  switch_fiber(host, current().fiber);
  if (!error.empty()) return Stop::kExit;
  const Collective* first = threads[warp * kWarp]->waits;
  void* parts[kWarp];
  for (int lane = 0; lane < lanes; ++lane) {
    const Collective* other = threads[warp * kWarp + lane]->waits;
    if (!same_call(first, other)) {
      error = "block " + std::to_string(here.block) + ", warp " + std::to_string(warp) +
              ": some threads " + describe(first) + ", others " + describe(other);
      return Stop::kExit;
    }
    parts[lane] = first ? other->part : nullptr;
  }
  if (!first) return Stop::kExit;
  if (first->of_block) return Stop::kBlockBarrier;
  if (lanes < kWarp) {
    error = "block " + std::to_string(here.block) + ": warp " + std::to_string(warp) +
            " is not whole, but its threads " + describe(first);
    return Stop::kExit;
  }
  if (first->join) first->join(parts);
  return Stop::kReady;
}

void run_block(int block, int count) {
  here.block = block;
  std::fill_n(here.shared, shared_bytes, static_cast<char>(kPoison));
  const int warps = (count + kWarp - 1) / kWarp;
  std::vector<Stop> stops(warps, Stop::kReady);
  const auto number = [&](Stop stop) { return std::count(stops.begin(), stops.end(), stop); };
  while (number(Stop::kExit) < warps) {
    if (number(Stop::kReady) == 0) {
      if (number(Stop::kExit) > 0) {
        const auto waiting = std::find(stops.begin(), stops.end(), Stop::kBlockBarrier);
        error = "block " + std::to_string(block) + ": some warps have exited, others " +
                describe(threads[kWarp * (waiting - stops.begin())]->waits);
        return;
      }
      std::fill(stops.begin(), stops.end(), Stop::kReady);
    }
    for (int warp : ordered(warps)) {
      // In a random order, warps interrupt each other; else one goes on as long as it can.
      while (stops[warp] == Stop::kReady) {
        stops[warp] = run_warp(warp, std::min(kWarp, count - warp * kWarp));
        if (!error.empty()) return;
        if (order > 1 && source() % 4 == 0) break;
      }
    }
  }
  for (auto& thread : threads) {
    thread->copies.clear();
    thread->batches = 0;
  }
}

// Matrices ----------------------------------------------------------------------------------------

struct MatrixLoad {
  uint16_t row[8];  // that the thread brings
  uint32_t (&words)[4];

  static void join(MatrixLoad* (&parts)[kWarp]) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int matrix = 0; matrix < 4; ++matrix) {
        const auto at = [&](int row, int column) { return parts[8 * matrix + row]->row[column]; };
        const int row = 2 * (lane % 4), column = lane / 4;
        parts[lane]->words[matrix] = at(row, column) | uint32_t(at(row + 1, column)) << 16;
      }
    }
  }
};

// Adds a thread's part of a product to its sums.
template <int kInner>
void add_products(int lane, const float (&a)[16][kInner], const float (&b)[kInner][8],
                  float (&sums)[4]) {
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
    for (int inner = 0; inner < kInner; ++inner) sums[i] += a[row][inner] * b[inner][column];
  }
}

struct MatrixProduct {
  const uint32_t (&a)[4];
  uint32_t b[2];
  float (&sum)[4];
  float (*widen)(uint16_t);

  static void join(MatrixProduct* (&parts)[kWarp]) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < kWarp; ++lane) {
      const MatrixProduct& part = *parts[lane];
      const int g = lane / 4, c = 2 * (lane % 4);
      for (int half = 0; half < 2; ++half) {  // of the word
        const auto number = [&](uint32_t word) { return part.widen(word >> 16 * half & 0xffff); };
        a[g][c + half] = number(part.a[0]);
        a[g + 8][c + half] = number(part.a[1]);
        a[g][c + half + 8] = number(part.a[2]);
        a[g + 8][c + half + 8] = number(part.a[3]);
        b[c + half][g] = number(part.b[0]);
        b[c + half + 8][g] = number(part.b[1]);
      }
    }
    for (int lane = 0; lane < kWarp; ++lane) add_products(lane, a, b, parts[lane]->sum);
  }
};

struct Tf32Product {
  const uint32_t (&a)[4];
  uint32_t b[2];
  float (&sum)[4];

  static void join(Tf32Product* (&parts)[kWarp]) {
    const auto number = [](uint32_t bits) { return float_of(bits & 0xffffe000); };
    float a[16][8], b[8][8];
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane / 4, c = lane % 4;
      for (int half = 0; half < 2; ++half) {  // of the channels
        a[g][c + 4 * half] = number(parts[lane]->a[2 * half]);
        a[g + 8][c + 4 * half] = number(parts[lane]->a[2 * half + 1]);
        b[c + 4 * half][g] = number(parts[lane]->b[half]);
      }
    }
    for (int lane = 0; lane < kWarp; ++lane) add_products(lane, a, b, parts[lane]->sum);
  }
};

bool is_aligned(const void* address, int bytes) {
  return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

void check_shared(const void* address, int bytes, const Call& call) {
  const char* from = static_cast<const char*>(address);
  if (!is_aligned(address, bytes)) fail(call, "shared address is not aligned to its bytes");
  if (from < here.shared || from + bytes > here.shared + shared_bytes) {
    fail(call, "address is not in shared memory");
  }
}

// A number's 16 bits to float, for all of them: this is called often.
std::vector<float> make_table() {
  std::vector<float> table(1 << 16);
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float number =
        exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    if (exponent == 31) number = fraction ? NAN : INFINITY;
    table[bits] = bits >> 15 ? -number : number;
  }
  return table;
}

}  // namespace

void wait(const Collective& collective) {
  current().waits = &collective;
  stop();
}

void fail(const Call& call, const char* message) {
  error = "block " + std::to_string(here.block) + ", thread " + std::to_string(here.thread) + ": " +
          describe(call) + ": " + message;
  stop();
  std::abort();  // never taken up again
}

void load_matrices_transposed(uint32_t (&words)[4], const void* row, const Call& call) {
  check_shared(row, 16, call);
  MatrixLoad part{{}, words};
  std::memcpy(part.row, row, 16);  // before the others come: what they write needs a barrier
  collect(call, part);
}

void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  float (*widen)(uint16_t), const Call& call) {
  MatrixProduct part{a, {b0, b1}, sum, widen};
  collect(call, part);
}

void multiply_add_tf32(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                       const Call& call) {
  Tf32Product part{a, {b0, b1}, sum};
  collect(call, part);
}

void copy_async(void* shared, const void* global, bool valid, int bytes, const Call& call) {
  check_shared(shared, bytes, call);
  if (!is_aligned(global, bytes)) fail(call, "global address is not aligned");
  Copy copy{static_cast<char*>(shared), {}, bytes, current().batches};
  for (const Copy& other : current().copies) {
    if (other.to < copy.to + bytes && copy.to < other.to + other.size) {
      fail(call, "bytes that a copy is under way to");
    }
  }
  if (valid) std::memcpy(copy.bytes, global, bytes);
  std::memset(shared, kPoison, bytes);
  current().copies.push_back(copy);
}

void copy_async_commit() { ++current().batches; }

void copy_async_wait(int batches) {
  Thread& thread = current();
  const auto lands = [&](const Copy& copy) { return copy.batch < thread.batches - batches; };
  for (const Copy& copy : thread.copies) {
    if (lands(copy)) std::memcpy(copy.to, copy.bytes, copy.size);
  }
  auto& copies = thread.copies;
  copies.erase(std::remove_if(copies.begin(), copies.end(), lands), copies.end());
}

const char* launch(const std::function<void()>& function, int64_t blocks, int count, int64_t bytes,
                   void* on) {
  error.clear();
  if (blocks < 1 || blocks > INT32_MAX) return "launch: number of blocks";
  if (count < 1 || count > 1024) return "launch: number of threads";
  if (bytes < 0 || bytes > shared_memory_limit()) return "launch: too much shared memory";
  if (on != stream()) return "launch: not on the caller's stream";
  kernel = &function;
  host.begun = true;
  here.capability = compute_capability();
  while (threads.size() < static_cast<size_t>(count)) threads.push_back(std::make_unique<Thread>());
  shared_bytes = bytes;
  void* memory;  // of exactly this size, so that AddressSanitizer sees what lies beyond
  if (posix_memalign(&memory, 16, bytes)) return "launch: no memory";
  here.shared = static_cast<char*>(memory);
  source.seed(order);
  for (int block : ordered(blocks)) {
    run_block(block, count);
    if (!error.empty()) {
      abandon_threads();
      break;
    }
  }
  free(memory);
  return error.empty() ? nullptr : error.c_str();
}

float widen_float16(uint16_t bits) {
  static const std::vector<float> table = make_table();
  return table[bits];
}

float widen_bfloat16(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float number;
  std::memcpy(&number, &word, 4);
  return number;
}

// To the nearest, of two to the even one; NaN is the device's.
uint16_t narrow_float16(float number) {
  if (std::isnan(number)) return 0x7fff;
  const uint16_t sign = std::signbit(number) ? 0x8000 : 0;
  const float magnitude = std::fabs(number);
  if (magnitude >= 65520) return sign | 0x7c00;
  // Numbers of this size lie 2^step apart.
  const int step = magnitude < 0x1p-14f ? -24 : std::ilogb(magnitude) - 10;
  return sign | ((step + 24) * 1024 + std::lrint(std::ldexp(magnitude, -step)));
}

uint16_t narrow_bfloat16(float number) {
  if (std::isnan(number)) return 0x7fff;
  uint32_t word;
  std::memcpy(&word, &number, 4);
  return (word + 0x7fff + (word >> 16 & 1)) >> 16;
}

}  // namespace simt

float exp2_of(float x) {
  const float power = std::exp2(x);
  return power < FLT_MIN ? 0.0f : power;
}
double exp2_of(double x) { return std::exp2(x); }
float log2_of(float x) { return std::log2(x); }
double log2_of(double x) { return std::log2(x); }

int compute_capability() {
  const char* value = std::getenv("NATTEN_OPS_SIMT_CAPABILITY");
  return value ? std::atoi(value) : 90;
}

int multiprocessors() {
  const char* value = std::getenv("NATTEN_OPS_SIMT_MULTIPROCESSORS");
  return value ? std::atoi(value) : 2;
}

int64_t shared_memory_limit() { return (compute_capability() < 80 ? 64 : 227) << 10; }
int64_t shared_memory_of_multiprocessor() { return shared_memory_limit() + kReservedShared; }

}  // namespace natten_ops::cuda

// Order in which blocks, warps and threads run: 0 ascending, 1 descending, more: random, the seed.
extern "C" __attribute__((visibility("default"))) void simt_set_order(int order) {
  natten_ops::cuda::simt::order = order;
}
