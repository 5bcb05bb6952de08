// What a kernel's time goes to: compiled in by benchmarks/cpu_phases.py only, which defines
// NATTEN_OPS_PHASES.
#pragma once

#include <cstdint>

namespace natten_ops::cpu {

enum class Phase {
  kLoad,         // tensors to buffers: transposition
  kLogits,       // products of queries and keys
  kSoftmax,      // forward
  kWeightedSum,  // forward: products of weights and values
  kGradWeights,  // backward: products of output gradients and values
  kWeigh,        // backward: weights and the logits' gradients, in the order of queries and of keys
  kGradBias,
  kGradQuery,
  kGradKeyValue,  // products of the keys' tiles
  kStore,         // buffers to tensors
  kCount,
};

#ifdef NATTEN_OPS_PHASES

// Ticks of the processor's clock, by phase, of tiles inside [0] and at borders [1].
extern uint64_t phase_ticks[static_cast<int>(Phase::kCount)][2];

// Adds the time until the end of its block to a phase.
class PhaseTimer {
 public:
  explicit PhaseTimer(Phase phase, bool is_border = false)
      : ticks_(phase_ticks[static_cast<int>(phase)][is_border]), start_(__builtin_ia32_rdtsc()) {}
  ~PhaseTimer() { ticks_ += __builtin_ia32_rdtsc() - start_; }

 private:
  uint64_t& ticks_;
  uint64_t start_;
};

#else

struct PhaseTimer {
  explicit PhaseTimer(Phase, bool = false) {}
};

#endif

}  // namespace natten_ops::cpu
