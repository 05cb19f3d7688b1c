// The floor of an embedding step: what memory itself costs. The same rows, in the same records on huge pages, are
// fetched and updated by lazy Adam with exact averages in a plain loop; nothing else is done. Repeated ids are found
// beforehand, outside the clock, and their gradients are not summed.
//
//   record: [weight | m | v | average | last step]

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kAhead = 8;           // rows between the one that is worked on and the one that is fetched
constexpr int64_t kRowsOfThread = 2048;  // fewer are not worth a thread, which takes some 20 us to start

template <typename Work>
void Parallel(int64_t rows, int threads, Work work) {
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, rows / kRowsOfThread));
  std::vector<std::thread> others;
  for (int64_t i = 1; i < parts; ++i) {
    others.emplace_back([=] { work(rows * i / parts, rows * (i + 1) / parts); });
  }
  work(int64_t{0}, rows / parts);
  for (auto& other : others) other.join();
}

template <int kWrite>
void Fetch(const float* row, int64_t values) {
  for (int64_t j = 0; j < values; j += 16) __builtin_prefetch(row + j, kWrite);
}

}  // namespace

extern "C" {

// Records of zeros, in memory already; nullptr: there is not so much.
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

// Copies the weights of ids to `output` [number, dim], then updates the records of `distinct` ids, row i of them by
// gradient i. `rate` has the bias correction in it.
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
    for (int64_t i = begin; i < end; ++i) {
      if (i + kAhead < end) Fetch<1>(records + distinct[i + kAhead] * width, width);
      float* __restrict__ weight = records + distinct[i] * width;
      const float* __restrict__ gradient = gradients + i * dim;
      float *m = weight + dim, *v = m + dim, *average = v + dim;
      const float kept = std::pow(decay, step - 1.0f - average[dim]);
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
