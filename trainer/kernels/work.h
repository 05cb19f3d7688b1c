// What the kernels share: distributing rows to threads, and summing the parts of a row's gradient.

#ifndef LAZYTOWER_WORK_H_
#define LAZYTOWER_WORK_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"

namespace lazytower {

// Free threads take blocks of rows one by one, so that nothing waits for a thread that the system has not woken yet or
// has put to sleep.
struct Job {
  std::function<void(int64_t, int64_t)> work;
  int64_t rows, block, blocks;
  std::atomic<int64_t> next{0}, done{0};

  void Run() {
    for (int64_t number; (number = next.fetch_add(1)) < blocks; done.fetch_add(1)) {
      work(number * block, std::min(rows, (number + 1) * block));
    }
  }
};

// Calls work(begin, end) on blocks that cover 0 .. rows, on the calling thread and the device's threads; returns when
// all blocks are done.
template <typename Work>
void Parallel(tensorflow::OpKernelContext* context, int64_t rows, int64_t block, const Work& work) {
  const auto* threads = context->device()->tensorflow_cpu_worker_threads();
  auto job = std::make_shared<Job>();  // a thread may wake long after the caller has returned
  job->work = work;
  job->rows = rows;
  job->block = block;
  job->blocks = (rows + block - 1) / block;
  const int64_t helpers = std::min<int64_t>(threads->num_threads, job->blocks) - 1;
  for (int64_t i = 0; i < helpers; ++i) threads->workers->Schedule([job] { job->Run(); });
  job->Run();
  while (job->done.load() < job->blocks) std::this_thread::yield();
}

// Position of the first of `number` indices that is not in [0, limit); -1: there is none.
template <typename Index>
int64_t FirstOutside(const Index* indices, int64_t number, int64_t limit) {
  using Unsigned = std::make_unsigned_t<Index>;
  Unsigned largest = 0;  // of all, without a branch, so that the compiler takes several at a time
  for (int64_t i = 0; i < number; ++i) largest = std::max(largest, static_cast<Unsigned>(indices[i]));
  if (number == 0 || (limit > 0 && largest <= static_cast<uint64_t>(limit - 1))) return -1;
  return std::find_if(indices, indices + number, [=](Index i) { return i < 0 || i >= limit; }) - indices;
}

// A vector for each row: either a single one, or the sum, in order, of one part per occurrence of the row in a batch.
class Parts {
 public:
  Parts(const float* values, int64_t dim) : values_(values), dim_(dim) {}

  // `where`: which of `rows` rows each of `number` parts belongs to. `source`: which of the values each part is; null:
  // part i is value i.
  Parts(const float* values, int64_t dim, const int32_t* where, int64_t number, int64_t rows,
        const int32_t* source = nullptr)
      : values_(values), dim_(dim), source_(source), first_(rows, -1), next_(number) {
    for (int64_t i = number - 1; i >= 0; --i) {
      next_[i] = first_[where[i]];
      first_[where[i]] = i;
    }
  }

  // Fetches the first part of a row, which `Of` is soon asked for.
  void Fetch(int64_t row) const {
    if (!first_.empty()) FetchPart(first_[row]);
  }

  // The vector of a row: a pointer into the values if nothing must be summed, else `room`, [dim], with the sum.
  const float* Of(int64_t row, float* room) const {
    if (first_.empty()) return values_ + row * dim_;
    int32_t part = first_[row];
    if (part >= 0 && next_[part] < 0) return Part(part);
    std::fill(room, room + dim_, 0.0f);
    int32_t ahead = part;
    for (int skipped = 0; skipped < kPartsAhead && ahead >= 0; ++skipped) FetchPart(ahead = next_[ahead]);
    for (; part >= 0; part = next_[part]) {
      if (ahead >= 0) FetchPart(ahead = next_[ahead]);
      const float* __restrict__ values = Part(part);
      for (int64_t j = 0; j < dim_; ++j) room[j] += values[j];
    }
    return room;
  }

 private:
  static constexpr int kPartsAhead = 3;  // how many parts ahead of the current one to prefetch

  void FetchPart(int32_t part) const {
    if (part < 0) return;
    for (int64_t j = 0; j < dim_; j += 16) __builtin_prefetch(Part(part) + j, 0);
  }
  const float* Part(int32_t part) const { return values_ + (source_ == nullptr ? part : source_[part]) * dim_; }

  const float* values_;
  const int64_t dim_;
  const int32_t* source_ = nullptr;
  std::vector<int32_t> first_, next_;  // first part of a row, next part after a part; -1: none
};

}  // namespace lazytower

#endif  // LAZYTOWER_WORK_H_
