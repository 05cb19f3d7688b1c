// What the kernels share: rows dealt to threads, and the parts of which gradients of rows are sums.

#ifndef LAZYTOWER_WORK_H_
#define LAZYTOWER_WORK_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"

namespace lazytower {

// Free threads take blocks of rows one after the other, so that no thread waits for one that the system has not woken
// yet, or has put to sleep.
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

// Calls work(begin, end) for all of 0 .. rows, on the caller and the device's threads; returns when all is done.
template <typename Work>
void Parallel(tensorflow::OpKernelContext* context, int64_t rows, int64_t block, const Work& work) {
  const auto* threads = context->device()->tensorflow_cpu_worker_threads();
  auto job = std::make_shared<Job>();  // a thread may wake when the caller has long gone
  job->work = work;
  job->rows = rows;
  job->block = block;
  job->blocks = (rows + block - 1) / block;
  const int64_t helpers = std::min<int64_t>(threads->num_threads, job->blocks) - 1;
  for (int64_t i = 0; i < helpers; ++i) threads->workers->Schedule([job] { job->Run(); });
  job->Run();
  while (job->done.load() < job->blocks) std::this_thread::yield();
}

// Vectors by row: one each, or as many parts as the row occurs in a batch, which are summed in their order.
class Parts {
 public:
  Parts(const float* values, int64_t dim) : values_(values), dim_(dim) {}

  // `where`: to which of `rows` rows each of `number` parts belongs; `source`: which of the values it is, null: its own.
  Parts(const float* values, int64_t dim, const int32_t* where, int64_t number, int64_t rows,
        const int32_t* source = nullptr)
      : values_(values), dim_(dim), source_(source), first_(rows, -1), next_(number) {
    for (int64_t i = number - 1; i >= 0; --i) {
      next_[i] = first_[where[i]];
      first_[where[i]] = i;
    }
  }

  // The vector of a row: `room`, [dim], unless it is among the values as it is.
  const float* Of(int64_t row, float* room) const {
    if (first_.empty()) return values_ + row * dim_;
    int32_t part = first_[row];
    if (part >= 0 && next_[part] < 0) return Part(part);
    std::fill(room, room + dim_, 0.0f);
    for (; part >= 0; part = next_[part]) {
      const float* __restrict__ values = Part(part);
      for (int64_t j = 0; j < dim_; ++j) room[j] += values[j];
    }
    return room;
  }

 private:
  const float* Part(int32_t part) const { return values_ + (source_ == nullptr ? part : source_[part]) * dim_; }

  const float* values_;
  const int64_t dim_;
  const int32_t* source_ = nullptr;
  std::vector<int32_t> first_, next_;  // of a row and after a part; -1: none
};

}  // namespace lazytower

#endif  // LAZYTOWER_WORK_H_
