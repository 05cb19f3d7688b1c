// The softmax with bfloat16 products: operands are rounded to bfloat16 and multiplied in pairs, sums are float32.
//
// With AVX512-BF16, an instruction multiplies 32 pairs and adds them to 16 sums. Other processors have the same numbers
// up to rounding, from float32 products of the rounded values, without gaining time.
//
// Logits are logarithms to base 2, whose exponentials take fewer instructions. The exponentials of two neighbouring
// items of a row, and those of two neighbouring rows of an item, are stored as pairs: the former are multiplied with
// the items, the latter with the users.

#include <cstring>

#include "softmax.h"

namespace lazytower {
namespace {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
typedef int32_t ShortInts LAZYTOWER_VECTOR(LAZYTOWER_SHORT);
typedef int16_t Halves LAZYTOWER_VECTOR(LAZYTOWER_BYTES);

// A bfloat16 is the upper half of a float: a pair of them, or their bits, is an int32 whose lower half is the first.
int32_t Rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return 0x7fc0;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
float Widened(int32_t rounded) {
  float value;
  rounded <<= 16;
  std::memcpy(&value, &rounded, sizeof value);
  return value;
}
int32_t Pair(float first, float second) { return Rounded(second) << 16 | Rounded(first); }

#if defined(__AVX512BF16__)
constexpr bool kNativeBfloat16 = true;
inline Floats Dot(Floats sum, Ints x, Ints y) {
  return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
}
inline Short Dot(Short sum, ShortInts x, ShortInts y) {
  return (Short)_mm256_dpbf16_ps((__m256)sum, (__m256bh)x, (__m256bh)y);
}
// The values of two vectors as bfloat16, one after another.
inline Ints Narrow(Floats first, Floats second) {
  return (Ints)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}
#else
constexpr bool kNativeBfloat16 = false;
// sum + the first values' product + the second values' product.
template <typename Values, typename Pairs>
inline Values DotOf(Values sum, Pairs x, Pairs y) {
  const Pairs x_low = x << 16, y_low = y << 16, x_high = x & -65536, y_high = y & -65536;
  sum += (Values)x_low * (Values)y_low;
  return sum + (Values)x_high * (Values)y_high;
}
inline Floats Dot(Floats sum, Ints x, Ints y) { return DotOf(sum, x, y); }
#if LAZYTOWER_SHORT != LAZYTOWER_BYTES
inline Short Dot(Short sum, ShortInts x, ShortInts y) { return DotOf(sum, x, y); }
#endif
#if LAZYTOWER_BYTES == 64
#define LAZYTOWER_UPPER                                                                                         \
  1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, \
      59, 61, 63
#elif LAZYTOWER_BYTES == 32
#define LAZYTOWER_UPPER 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#else
#define LAZYTOWER_UPPER 1, 3, 5, 7, 9, 11, 13, 15
#endif
inline Ints Narrow(Floats first, Floats second) {
  const Ints one = (Ints)first + 0x8000;
  const Ints two = (Ints)second + 0x8000;
  const Halves upper = __builtin_shuffle((Halves)one, (Halves)two,
                                         Halves{LAZYTOWER_UPPER});
  return (Ints)upper;
}
#endif

// The bfloat16 of two rows' items, 2 kWide of each, as pairs: those of the first kWide items, and of the others.
inline void Interleave(Ints one, Ints two, Ints* first, Ints* second) {
  Halves order, later;
  for (int k = 0; k < 2 * kWide; ++k) {
    order[k] = k / 2 + k % 2 * 2 * kWide;
    later[k] = order[k] + kWide;
  }
  const Halves a = (Halves)one, b = (Halves)two;
  const Halves low = __builtin_shuffle(a, b, order), high = __builtin_shuffle(a, b, later);
  *first = (Ints)low, *second = (Ints)high;
}

#if defined(__AVX512DQ__)
// 2^x for x <= 0, to 3e-6 of its value: a minimax polynomial of degree 4 on 0 .. 1, exact at 0.
inline Floats Exp2(Floats x) {
  const Floats rest = (Floats)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF);
  Floats sum = rest * 1.34266838e-2f + 5.22424728e-2f;
  sum = sum * rest + 2.41280198e-1f;
  sum = sum * rest + 6.93044841e-1f;
  sum = sum * rest + 1.0f;
  return (Floats)_mm512_scalef_ps((__m512)sum, (__m512)x);
}
#else
// 2^x for x <= 0, to 3e-6 of its value, and at least 2^-126: a minimax polynomial of degree 4 on -0.5 .. 0.5.
inline Floats Exp2(Floats x) {
  const Floats low = Floats{} - 126.0f;
  x = Max(low, x);
  const Floats shifted = x + 12582912.0f;  // the integer is in the low bits
  const Floats rest = x - (shifted - 12582912.0f);
  Floats sum = rest * 9.5828500e-3f + 5.5906420e-2f;
  sum = sum * rest + 2.4024099e-1f;
  sum = sum * rest + 6.9312419e-1f;
  sum = sum * rest + 1.0f;
  const Ints bits = (Ints)sum + ((Ints)shifted << 23);
  return (Floats)bits;
}
#endif

// to[i, :] += sum over j of from[i, j] . rows[j, :], for kSums values of i and kSome vectors: from and rows are pairs.
// Strides as of Multiply in vectors.h.
template <typename Values, typename Pairs, int kSums, int kSome>
void MultiplyPairs(const int32_t* from, int64_t across, int64_t down, const int32_t* rows, int64_t number,
                   int64_t width, float* to) {
  constexpr int64_t kValues = sizeof(Values) / sizeof(float);
  Values sum[kSums][kSome];
  for (int i = 0; i < kSums; ++i) {
    for (int v = 0; v < kSome; ++v) std::memcpy(&sum[i][v], to + i * width + v * kValues, sizeof(Values));
  }
  for (int64_t j = 0; j < number; ++j, rows += width) {
    Pairs row[kSome];
    for (int v = 0; v < kSome; ++v) std::memcpy(&row[v], rows + v * kValues, sizeof(Pairs));
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) {
      const Pairs factor = Pairs{} + from[i * down + j * across];
      for (int v = 0; v < kSome; ++v) sum[i][v] = Dot(sum[i][v], factor, row[v]);
    }
  }
  for (int i = 0; i < kSums; ++i) {
    for (int v = 0; v < kSome; ++v) std::memcpy(to + i * width + v * kValues, &sum[i][v], sizeof(Values));
  }
}

// Like MultiplyPairs, for kGroup values of i and any width.
void MultiplyAllPairs(const int32_t* from, int64_t across, int64_t down, const int32_t* rows, int64_t number,
                      int64_t width, float* to) {
  int64_t v = 0;
  for (; v + 2 * kWide <= width; v += 2 * kWide) {
    MultiplyPairs<Floats, Ints, kGroup, 2>(from, across, down, rows + v, number, width, to + v);
  }
  for (; v + kWide <= width; v += kWide) {
    MultiplyPairs<Floats, Ints, kGroup, 1>(from, across, down, rows + v, number, width, to + v);
  }
  for (; v < width; v += kNarrow) {
    MultiplyPairs<Short, ShortInts, kGroup, 1>(from, across, down, rows + v, number, width, to + v);
  }
}

class Bfloat16Candidates : public Candidates {
 public:
  explicit Bfloat16Candidates(const Group& group)
      : Candidates(group), pairs((group.dim + 1) / 2), across(pairs * padded), along(padded / 2 * width),
        shift(padded, kMasked) {
    const int64_t dim = group.dim;
    for (int64_t j = 0; j < group.items(); ++j) {
      const float* item = group.item(j);
      int32_t* column = &across[j / kPair * pairs * kPair + j % kPair];
      for (int64_t d = 0; d < dim; d += 2) {
        column[d / 2 * kPair] = Pair(item[d], d + 1 < dim ? item[d + 1] : 0.0f);
      }
      int32_t* row = &along[j / 2 * width];
      for (int64_t d = 0; d < dim; ++d) row[d] |= Rounded(item[d]) << (j % 2 * 16);
      shift[j] = -group.log_q(j) * kLog2E;
    }
  }
  std::unique_ptr<Block> NewBlock() const override;

  const int64_t pairs;          // of a vector's values
  std::vector<int32_t> across;  // items as columns, neighbouring values as pairs, [padded / kPair, pairs, kPair]
  std::vector<int32_t> along;   // items as rows, neighbouring items as pairs, [padded / 2, width]
  std::vector<float> shift;     // -log2 q; padded columns are masked
};

// Computes the logits [kGroup, kStride] of a group of rows, given as columns [pairs, kGroup], with a tile of items, and
// each row's largest logit.
void LogitsOfPairs(const Bfloat16Candidates& candidates, Tile tile, const int32_t* rows, float* logits, float* top) {
  const int64_t pairs = candidates.pairs;
  Floats most[kGroup];
  for (Floats& m : most) m = Floats{} + kMasked;
  for (int64_t j = tile.begin; j < tile.end; j += kPair, logits += kPair) {
    Floats sum[kGroup][2];
    for (auto& s : sum) {
      s[0] = *reinterpret_cast<const Floats*>(&candidates.shift[j]);
      s[1] = *reinterpret_cast<const Floats*>(&candidates.shift[j + kWide]);
    }
    const int32_t* across = &candidates.across[j * pairs];
    for (int64_t d = 0; d < pairs; ++d, across += kPair) {
      const Ints one = *reinterpret_cast<const Ints*>(across);
      const Ints two = *reinterpret_cast<const Ints*>(across + kWide);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kGroup; ++i) {
        const Ints row = Ints{} + rows[d * kGroup + i];
        sum[i][0] = Dot(sum[i][0], row, one);
        sum[i][1] = Dot(sum[i][1], row, two);
      }
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < kGroup; ++i) {
      *reinterpret_cast<Floats*>(logits + i * kStride) = sum[i][0];
      *reinterpret_cast<Floats*>(logits + i * kStride + kWide) = sum[i][1];
      most[i] = Max(Max(sum[i][0], sum[i][1]), most[i]);
    }
  }
  for (int64_t i = 0; i < kGroup; ++i) top[i] = Largest(most[i]);
}

class Bfloat16Block : public Block {
 public:
  explicit Bfloat16Block(const Bfloat16Candidates& candidates)
      : Block(candidates), packed_(candidates), rows_(kRows * packed_.pairs), weighted_(kRows / 2 * width_),
        operands_(group_.dim), logits_(kGroup * kStride), to_users_(kGroup * kStride / 2), to_items_(tiles_ * kRows / 2 * kStride) {}

 private:
  void Load() override {
    const int64_t dim = group_.dim;
    std::fill(rows_.begin(), rows_.end(), 0);
    for (int64_t i = 0; i < number_; ++i) {
      int32_t* column = &rows_[i / kGroup * kGroup * packed_.pairs + i % kGroup];
      const float scale = group_.scale * kLog2E;
      for (int64_t d = 0; d < dim; d += 2) {
        column[d / 2 * kGroup] = Pair(user(i)[d] * scale, d + 1 < dim ? user(i)[d + 1] * scale : 0.0f);
      }
    }
  }

  void Forward(int64_t t) override {
    const Tile items = tile(t);
    const int64_t number = items.end - items.begin;
    float* tops = &tops_[t * kRows];
    for (int64_t i = 0; i < filled_; i += kGroup) {
      LogitsOfPairs(packed_, items, &rows_[i * packed_.pairs], logits_.data(), tops + i);
      for (int64_t k = i; k < std::min(i + kGroup, number_); ++k) {
        Own(k, items, &logits_[(k - i) * kStride], tops + k);
      }
      for (int64_t k = i; k < i + kGroup; ++k) {
        if (tops[k] > top_[k]) Raise(k, tops[k], std::exp2(top_[k] - tops[k]));
        tops[k] = top_[k];
      }
      for (int64_t k = 0; k < kGroup; k += 2) {
        Exponentials(i + k, number, &logits_[k * kStride], &to_users_[k * kStride / 2],
                     &to_items_[(t * kRows + i + k) / 2 * kStride]);
      }
      MultiplyAllPairs(to_users_.data(), 1, kStride / 2, &packed_.along[items.begin / 2 * width_], number / 2, width_,
                       &user_[i * width_]);
    }
  }

  // Of the logits of rows i and i + 1: as pairs of neighbouring items of each, [2, kStride / 2], and as pairs of both
  // rows, [kStride].
  void Exponentials(int64_t i, int64_t number, const float* logits, int32_t* along, int32_t* across) {
    const float one = top_[i], two = top_[i + 1];
    Floats sums[2]{};
    for (int64_t j = 0; j < number; j += kPair) {
      const Floats* own = reinterpret_cast<const Floats*>(logits + j);
      const Floats* next = reinterpret_cast<const Floats*>(logits + kStride + j);
      const Floats a = Exp2(own[0] - one), b = Exp2(own[1] - one);
      const Floats c = Exp2(next[0] - two), d = Exp2(next[1] - two);
      sums[0] += a + b;
      sums[1] += c + d;
      const Ints first = Narrow(a, b), second = Narrow(c, d);
      *reinterpret_cast<Ints*>(along + j / 2) = first;
      *reinterpret_cast<Ints*>(along + kStride / 2 + j / 2) = second;
      Ints* both = reinterpret_cast<Ints*>(across + j);
      Interleave(first, second, both, both + 1);
    }
    total_[i] += Sum(sums[0]);
    total_[i + 1] += Sum(sums[1]);
  }

  float Loss(int64_t i) const override { return std::log(total_[i]) + (top_[i] - positive_[i]) * kLn2; }

  const float* Operands(const float* item) override {
    for (int64_t d = 0; d < group_.dim; ++d) operands_[d] = Widened(Rounded(item[d]));
    return operands_.data();
  }

  void Subtract(const float* values, int64_t dim, float factor, float* from) override {
    for (int64_t d = 0; d < dim; ++d) from[d] -= Widened(Rounded(values[d] * factor));
  }

  void ToItems(int64_t t, float* gradient, float* shifts) override {
    const Tile items = tile(t);
    int32_t factors[kRows / 2] = {};  // of pairs of rows
    std::fill(weighted_.begin(), weighted_.end(), 0);
    for (int64_t i = 0; i < number_; ++i) {
      const float less = std::exp2(tops_[t * kRows + i] - top_[i]), factor = inverse_[i] * less;
      int32_t* row = &weighted_[i / 2 * width_];
      for (int64_t d = 0; d < group_.dim; ++d) row[d] |= Rounded(user(i)[d] * factor) << (i % 2 * 16);
      factors[i / 2] |= Rounded(share_[i] * less) << (i % 2 * 16);
    }
    const int32_t* from = &to_items_[t * kRows / 2 * kStride];
    for (int64_t j = items.begin; j < items.end; j += kPair, from += kPair) {
      for (int64_t k = 0; k < kPair; k += kGroup) {
        MultiplyAllPairs(from + k, kStride, 1, weighted_.data(), filled_ / 2, width_, gradient + (j + k) * width_);
      }
      if (shifts != nullptr) AddColumns(from, factors, shifts + j);
    }
  }

  // Adds the sums of kPair columns, with a factor for each row, while they are in the core's first cache.
  void AddColumns(const int32_t* from, const int32_t* factors, float* to) const {
    Floats *first = reinterpret_cast<Floats*>(to), *second = first + 1;
    Floats one = *first, two = *second;
    for (int64_t i = 0; i < filled_ / 2; ++i, from += kStride) {
      const Ints factor = Ints{} + factors[i];
      one = Dot(one, *reinterpret_cast<const Ints*>(from), factor);
      two = Dot(two, *reinterpret_cast<const Ints*>(from + kWide), factor);
    }
    *first = one, *second = two;
  }

  const Bfloat16Candidates& packed_;
  std::vector<int32_t> rows_, weighted_;  // rows_: scaled, each group stored as columns; weighted_: as pairs of rows
  std::vector<float> operands_;           // [dim]
  std::vector<float> logits_;             // [kGroup, kStride]
  std::vector<int32_t> to_users_;         // [kGroup, kStride / 2]
  std::vector<int32_t> to_items_;         // [tiles, kRows / 2, kStride]
};

std::unique_ptr<Block> Bfloat16Candidates::NewBlock() const { return std::make_unique<Bfloat16Block>(*this); }

}  // namespace

std::unique_ptr<Candidates> PackBfloat16(const Group& group) { return std::make_unique<Bfloat16Candidates>(group); }

bool HasBfloat16() { return kNativeBfloat16; }

}  // namespace lazytower
