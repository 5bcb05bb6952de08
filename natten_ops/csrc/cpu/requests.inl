// Included once per vector width, by baseline.cpp, avx2.cpp, avx512.cpp and amx.cpp (see
// lanes.inl).
//
// Requests tokens from memory that will be needed soon, while products keep the processor busy. It
// holds few requests at a time, and what a product loads from the second-level cache has to wait
// for them; so they keep pace with the products. They go from line to line: the processor then
// reads ahead by itself, and most requests find their line in the second-level cache.

class Requests {
 public:
  void clear() { count_ = next_ = lines_ = 0; }

  // Tokens of `bytes` bytes, `stride` bytes apart.
  void add(const void* first, int64_t tokens, int64_t bytes, int64_t stride) {
    if (count_ == kMost || tokens <= 0 || bytes <= 0) return;
    if (bytes == stride) {
      bytes *= tokens;
      tokens = 1;
    }
    // Tokens begin anywhere in a line.
    const int64_t skipped = reinterpret_cast<uintptr_t>(first) % kLine;
    const int64_t lines = (skipped + bytes + kLine - 1) / kLine;
    rows_[count_++] = {static_cast<const char*>(first) - skipped, tokens, lines, stride};
    lines_ += tokens * lines;
    if (count_ == 1) start();
  }

  // All requests are issued by the time that so much work is done.
  void spread_over(int64_t work) {
    done_ = 0;
    work_per_line_ = lines_ ? work / lines_ : 0;
    if (work_per_line_ < 1) work_per_line_ = 1;
  }

  // Issues what is due after more work.
  NATTEN_OPS_INLINE void keep_pace(int64_t work) {
    for (done_ += work; done_ >= work_per_line_ && next_ < count_; done_ -= work_per_line_) {
      __builtin_prefetch(line_, 0, 2);
      line_ += kLine;
      if (--left_ == 0) advance();
    }
  }

 private:
  static constexpr int64_t kLine = 64;
  static constexpr int64_t kMost = 64;  // rows; few groups need more, which are not requested

  struct Row {
    const char* token;
    int64_t tokens, lines, stride;
  };

  void start() {
    line_ = rows_[next_].token;
    left_ = rows_[next_].lines;
  }

  void advance() {
    Row& row = rows_[next_];
    row.token += row.stride;
    if (--row.tokens == 0) ++next_;
    if (next_ < count_) start();
  }

  Row rows_[kMost];
  int64_t count_ = 0, next_ = 0, lines_ = 0;
  const char* line_ = nullptr;
  int64_t left_ = 0;  // lines of the token
  int64_t done_ = 0, work_per_line_ = 1;
};
