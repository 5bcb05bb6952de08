// Included once per vector width, by baseline.cpp, avx2.cpp, avx512.cpp and amx.cpp (see
// lanes.inl).
//
// What both passes do alike: memory for buffers, and groups of rows of queries with the rows of
// keys that they need, now and next.

// Places arrays one after another in a block of memory; without memory, only counts bytes.
struct ScratchAllocator {
  char* memory;
  int64_t bytes = 0;

  template <typename T>
  T* allocate(int64_t count) {
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    const int64_t padded = (size + kGapBytes + 63) / 64 * 64;
    T* array = memory ? reinterpret_cast<T*>(memory + bytes) : nullptr;
#if defined(__SANITIZE_ADDRESS__)
    if (memory) ASAN_POISON_MEMORY_REGION(memory + bytes + size, padded - size);
#endif
    bytes += padded;
    return array;
  }
};

// Consecutive rows of queries and the rows of keys in their windows.
struct RowGroup {
  int64_t position, rows;
  int64_t start[4];  // of each row's window

  int64_t first_key() const { return start[0]; }
  int64_t end_key(int64_t kernel_size) const { return start[rows - 1] + kernel_size; }
  // The rows of queries whose windows hold a row of keys are [first, last].
  int64_t first(int64_t key, int64_t kernel_size) const {
    int64_t row = 0;
    while (start[row] + kernel_size <= key) ++row;
    return row;
  }
  int64_t last(int64_t key) const {
    int64_t row = rows - 1;
    while (start[row] > key) --row;
    return row;
  }
};

// The group that starts at `position`, of rows that end at `end`. Groups have at most `most` rows
// and about the same size.
NATTEN_OPS_INLINE RowGroup make_group(const Problem& problem, const Run& run, int64_t position,
                                      int64_t end, int64_t most) {
  const int64_t groups = (end - position + most - 1) / most;
  const int64_t rows = (end - position + groups - 1) / groups;
  RowGroup group;
  group.position = position;
  group.rows = rows;
  for (int64_t row = 0; row < rows; ++row) {
    group.start[row] =
        window_start({run.residue, position + row, run.count}, problem.kernel_size[0]);
  }
  return group;
}

// Rows that come after those being computed.
struct NextRows {
  Run run;
  int64_t query_begin, query_end;
  int64_t key_begin, key_end;
};

// The rows of the group after `group`, whose keys are loaded up to `loaded`: the next group of the
// run, up to the query at `end`, else the first group of the next run (null if there is none),
// which starts at `next_query`.
inline NextRows next_rows(const Problem& problem, const Run& run, const RowGroup& group,
                          int64_t loaded, int64_t end, const Run* next, int64_t next_query,
                          int64_t rows) {
  const int64_t position = group.position + group.rows;
  if (position < end) return {run, position, position + rows, loaded, loaded + rows};
  if (!next || next->column_block != run.column_block) return {run, 0, 0, 0, 0};
  const int64_t k0 = problem.kernel_size[0];
  const int64_t first_key = window_start({next->residue, next_query, next->count}, k0);
  return {*next, next_query, next_query + rows, first_key, first_key + k0 + rows - 1};
}

// Requests the columns [begin, end) of the run's rows [first, last) of a tensor.
template <typename Element>
void request_rows(const TensorView& tensor, const Problem& problem, const Run& run, int64_t begin,
                  int64_t end, int64_t first, int64_t last, Requests& requests) {
  if (last > run.count) last = run.count;
  const int64_t heads = heads_at_once(tensor, problem, run);
  const int64_t bytes =
      tensor.channel_stride == 1 ? heads * problem.head_dim * int64_t(sizeof(Element)) : 0;
  for (int64_t position = first; position < last; ++position) {
    const int64_t index = position * problem.dilation[0] + run.residue;
    for (int64_t head = 0; head < run.heads; head += heads) {
      requests.add(tensor.at<const Element>(run.batch, index, begin, run.first_head + head),
                   end - begin, bytes, tensor.axis_stride[1] * int64_t(sizeof(Element)));
    }
  }
}

// Requests what the forward's next group reads and writes.
template <typename Element>
void request_next(const ForwardCall& call, const Run& run, const RowGroup& group, int64_t loaded,
                  const Run* next, int64_t rows, const Columns& columns, Requests& requests) {
  const Problem& problem = call.problem;
  const NextRows after = next_rows(problem, run, group, loaded, run.end_position, next,
                                   next ? next->begin_position : 0, rows);
  requests.clear();
  for (const TensorView* tensor : {&call.query, &call.output}) {
    request_rows<Element>(*tensor, problem, after.run, columns.query_begin, columns.query_end,
                          after.query_begin, after.query_end, requests);
  }
  for (const TensorView* tensor : {&call.key, &call.value}) {
    request_rows<Element>(*tensor, problem, after.run, columns.key_begin, columns.key_end,
                          after.key_begin, after.key_end, requests);
  }
}
