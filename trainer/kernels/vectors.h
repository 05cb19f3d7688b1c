// Small matrix products, exponentials and reductions in the processor's registers.

#ifndef LAZYTOWER_VECTORS_H_
#define LAZYTOWER_VECTORS_H_

#include <cstdint>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace lazytower {
namespace {

// Vectors as wide as the processor's registers: the compiler does not split wider ones well.
#if defined(__AVX512F__)
#define LAZYTOWER_BYTES 64
constexpr int64_t kGroup = 8;  // rows that are multiplied together; their sums fill the registers
constexpr int kVectors = 5;
#elif defined(__AVX__)
#define LAZYTOWER_BYTES 32
constexpr int64_t kGroup = 4;
constexpr int kVectors = 3;
#else
#define LAZYTOWER_BYTES 16
constexpr int64_t kGroup = 4;
constexpr int kVectors = 2;
#endif
#define LAZYTOWER_VECTOR(bytes) __attribute__((vector_size(bytes), aligned(4), may_alias))
typedef float Floats LAZYTOWER_VECTOR(LAZYTOWER_BYTES);
typedef int32_t Ints LAZYTOWER_VECTOR(LAZYTOWER_BYTES);
constexpr int64_t kWide = LAZYTOWER_BYTES / 4;
// For rows of few values: wider vectors would multiply more padding.
#define LAZYTOWER_SHORT (LAZYTOWER_BYTES < 32 ? LAZYTOWER_BYTES : 32)
typedef float Short LAZYTOWER_VECTOR(LAZYTOWER_SHORT);
constexpr int64_t kNarrow = LAZYTOWER_SHORT / 4;

inline int64_t Padded(int64_t number, int64_t to) { return (number + to - 1) / to * to; }

// x > y ? x : y, also of values that are not numbers. GCC makes two instructions of that.
inline Floats Max(Floats x, Floats y) {
#if defined(__AVX512F__)
  return (Floats)_mm512_max_ps((__m512)x, (__m512)y);
#elif defined(__AVX__)
  return (Floats)_mm256_max_ps((__m256)x, (__m256)y);
#else
  return x > y ? x : y;
#endif
}

// Combines all values of a vector, its halves first.
template <typename Combine>
inline float Folded(Floats x, Combine combine) {
  float values[kWide];
  std::memcpy(values, &x, sizeof x);
#pragma GCC unroll 4
  for (int64_t n = kWide / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int64_t k = 0; k < n; ++k) values[k] = combine(values[k], values[k + n]);
  }
  return values[0];
}

inline float Largest(Floats x) {
  return Folded(x, [](float a, float b) { return a > b ? a : b; });
}

inline float Sum(Floats x) {
  return Folded(x, [](float a, float b) { return a + b; });
}

// e^x, to 2 units in the last place; 0 below -87.
inline Floats Exp(Floats x) {
  const Floats low = x - x - 87.0f;
  const Ints small = x < low;
  x = small ? low : x;
  const Floats shifted = x * 1.44269504f + 12582912.0f;  // the integer is in the low bits
  const Floats whole = shifted - 12582912.0f;
  const Floats rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Floats sum = rest * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  const Ints power = reinterpret_cast<const Ints&>(shifted) << 23;
  const Ints bits = reinterpret_cast<const Ints&>(sum) + power;
  const Floats result = reinterpret_cast<const Floats&>(bits);
  return small ? x - x : result;
}

// to[i, :] += sum over j of from[i, j] * rows[j, :], for 4 values of i and kSome vectors. `across` and `down` are the
// strides of from; rows are `width` apart.
template <int kSome>
void Multiply(const float* from, int64_t across, int64_t down, const float* rows, int64_t number, int64_t width,
              float* to) {
  Short sum[4][kSome];
  for (int i = 0; i < 4; ++i) {
    for (int v = 0; v < kSome; ++v) sum[i][v] = *reinterpret_cast<const Short*>(to + i * width + v * kNarrow);
  }
  for (int64_t j = 0; j < number; ++j, rows += width) {
    Short row[kSome];
    for (int v = 0; v < kSome; ++v) row[v] = *reinterpret_cast<const Short*>(rows + v * kNarrow);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const float factor = from[i * down + j * across];
      for (int v = 0; v < kSome; ++v) sum[i][v] += factor * row[v];
    }
  }
  for (int i = 0; i < 4; ++i) {
    for (int v = 0; v < kSome; ++v) *reinterpret_cast<Short*>(to + i * width + v * kNarrow) = sum[i][v];
  }
}

// Like Multiply, for `some` vectors, at most kMost.
template <int kMost>
void MultiplySome(int64_t some, const float* from, int64_t across, int64_t down, const float* rows, int64_t number,
                  int64_t width, float* to) {
  if constexpr (kMost > 1) {
    if (some < kMost) return MultiplySome<kMost - 1>(some, from, across, down, rows, number, width, to);
  }
  Multiply<kMost>(from, across, down, rows, number, width, to);
}

// Like Multiply, for kGroup values of i and any width, in parts of vectors that are as equal as possible: one vector
// alone would take half as long as four.
inline void MultiplyAll(const float* from, int64_t across, int64_t down, const float* rows, int64_t number,
                        int64_t width, float* to) {
  const int64_t vectors = width / kNarrow, parts = (vectors + kVectors - 1) / kVectors;
  for (int64_t i = 0; i < kGroup; i += 4, from += 4 * down, to += 4 * width) {
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = vectors * part / parts, end = vectors * (part + 1) / parts, v = begin * kNarrow;
      MultiplySome<kVectors>(end - begin, from, across, down, rows + v, number, width, to + v);
    }
  }
}

}  // namespace
}  // namespace lazytower

#endif  // LAZYTOWER_VECTORS_H_
