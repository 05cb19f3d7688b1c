// The floor of an embedding step: what memory access alone costs. A plain loop fetches the same rows, in the same
// records on huge pages, and updates them by lazy Adam with exact averages. Nothing else is done: repeated ids are
// found beforehand, outside the timed part, and their gradients are not summed.
//
//   record: [weight | m | v | average | last step]

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace {

constexpr int64_t kAhead = 8;        // how many rows ahead of the current one to prefetch
constexpr int64_t kBlockRows = 512;  // rows that a thread takes at a time

// The caller and waiting threads take blocks of rows one by one, so a thread that the system does not schedule delays
// no other.
struct Job {
  std::function<void(int64_t, int64_t)> work;
  int64_t rows, blocks;
  std::atomic<int64_t> next{0}, done{0};

  void Run() {
    for (int64_t block; (block = next.fetch_add(1)) < blocks; done.fetch_add(1)) {
      work(block * kBlockRows, std::min(rows, (block + 1) * kBlockRows));
    }
  }
};

class Pool {
 public:
  void Run(int64_t rows, int threads, std::function<void(int64_t, int64_t)> work) {
    auto job = std::make_shared<Job>();
    job->work = std::move(work);
    job->rows = rows;
    job->blocks = (rows + kBlockRows - 1) / kBlockRows;
    if (job->blocks > 1) {
      std::lock_guard<std::mutex> lock(mutex_);
      while (started_ + 1 < threads) {
        std::thread(&Pool::Wait, this).detach();
        ++started_;
      }
      job_ = job;
      ++number_;
      changed_.notify_all();
    }
    job->Run();
    while (job->done.load() < job->blocks) std::this_thread::yield();
  }

 private:
  void Wait() {
    for (int64_t seen = 0;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [&] { return number_ != seen; });
        seen = number_;
        job = job_;
      }
      job->Run();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<Job> job_;
  int64_t number_ = 0;
  int started_ = 0;
};

template <typename Work>
void Parallel(int64_t rows, int threads, Work work) {
  static Pool* pool = new Pool;  // never deleted: its threads run until the process ends
  pool->Run(rows, threads, work);
}

template <int kWrite>
void Fetch(const float* row, int64_t values) {
  for (int64_t j = 0; j < values; j += 16) __builtin_prefetch(row + j, kWrite);
}

}  // namespace

extern "C" {

// Records of zeros, already paged in; nullptr: there is not enough memory.
float* floor_open(int64_t rows, int64_t width, int threads) {
  const size_t bytes = static_cast<size_t>(rows) * width * sizeof(float);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  madvise(data, bytes, MADV_HUGEPAGE);
  float* records = static_cast<float*>(data);
  Parallel(rows, threads, [=](int64_t begin, int64_t end) {
    std::memset(records + begin * width, 0, (end - begin) * width * sizeof(float));
  });
  return records;
}

void floor_close(float* records, int64_t rows, int64_t width) {
  munmap(records, static_cast<size_t>(rows) * width * sizeof(float));
}

// Copies the weights of ids to `output` [number, dim], then updates the records of the `distinct` ids, the i-th by
// gradient i. `rate` includes the bias correction.
void floor_step(float* records, int64_t dim, const int64_t* ids, int64_t number, const int64_t* distinct,
                int64_t distinct_number, const float* gradients, float* output, float step, float rate, float decay,
                int threads) {
  const int64_t width = 4 * dim + 1;
  Parallel(number, threads, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + kAhead < end) Fetch<0>(records + ids[i + kAhead] * width, dim);
      std::memcpy(output + i * dim, records + ids[i] * width, dim * sizeof(float));
    }
  });
  Parallel(distinct_number, threads, [=](int64_t begin, int64_t end) {
    float known_since = 0.0f, kept = 1.0f;  // of the previous row: the next one has often waited as long
    for (int64_t i = begin; i < end; ++i) {
      if (i + kAhead < end) Fetch<1>(records + distinct[i + kAhead] * width, width);
      float* __restrict__ weight = records + distinct[i] * width;
      const float* __restrict__ gradient = gradients + i * dim;
      float *m = weight + dim, *v = m + dim, *average = v + dim;
      const float since = step - 1.0f - average[dim];
      if (since != known_since) {
        known_since = since;
        kept = std::pow(decay, since);
      }
#pragma GCC ivdep
      for (int64_t j = 0; j < dim; ++j) {
        const float g = gradient[j], before = weight[j];
        m[j] = 0.9f * m[j] + 0.1f * g;
        v[j] = 0.999f * v[j] + 0.001f * g * g;
        weight[j] = before - rate * m[j] / (std::sqrt(v[j]) + 1e-7f);
        const float caught_up = before + kept * (average[j] - before);
        average[j] = decay * caught_up + (1.0f - decay) * weight[j];
      }
      average[dim] = step;
    }
  });
}

}  // extern "C"
