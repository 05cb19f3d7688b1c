// The softmax with float32 products.

#include <cstring>

#include "softmax.h"

namespace lazytower {
namespace {

class Float32Candidates : public Candidates {
 public:
  explicit Float32Candidates(const Group& group)
      : Candidates(group), across(group.dim * padded), along(padded * width), shift(padded, kMasked) {
    const int64_t dim = group.dim;
    for (int64_t j = 0; j < group.items(); ++j) {
      const float* item = group.item(j);
      std::memcpy(&along[j * width], item, dim * sizeof(float));
      float* column = &across[j / kPair * dim * kPair + j % kPair];
      for (int64_t d = 0; d < dim; ++d) column[d * kPair] = item[d];
      shift[j] = -group.log_q(j);
    }
  }
  std::unique_ptr<Block> NewBlock() const override;

  std::vector<float> across;  // items as columns, [padded / kPair, dim, kPair]
  std::vector<float> along;   // items as rows, [padded, width]
  std::vector<float> shift;   // -log_q; padded columns are masked
};

// Computes the logits [kGroup, kStride] of a group of rows, given as columns [dim, kGroup], with a tile of items, and
// each row's largest logit.
void Logits(const Float32Candidates& candidates, Tile tile, const float* rows, float* logits, float* top) {
  const int64_t dim = candidates.group.dim;
  Floats most[kGroup];
  for (Floats& m : most) m = Floats{} + kMasked;
  for (int64_t j = tile.begin; j < tile.end; j += kPair, logits += kPair) {
    Floats sum[kGroup][2];
    for (auto& s : sum) {
      s[0] = *reinterpret_cast<const Floats*>(&candidates.shift[j]);
      s[1] = *reinterpret_cast<const Floats*>(&candidates.shift[j + kWide]);
    }
    const float* across = &candidates.across[j * dim];
    for (int64_t d = 0; d < dim; ++d, across += kPair) {
      const Floats one = *reinterpret_cast<const Floats*>(across);
      const Floats two = *reinterpret_cast<const Floats*>(across + kWide);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kGroup; ++i) {
        sum[i][0] += rows[d * kGroup + i] * one;
        sum[i][1] += rows[d * kGroup + i] * two;
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

class Float32Block : public Block {
 public:
  explicit Float32Block(const Float32Candidates& candidates)
      : Block(candidates), packed_(candidates), rows_(kRows * group_.dim), weighted_(kRows * width_),
        logits_(tiles_ * kRows * kStride) {}

 private:
  void Load() override {
    std::fill(rows_.begin(), rows_.end(), 0.0f);
    for (int64_t i = 0; i < number_; ++i) {
      float* column = &rows_[i / kGroup * kGroup * group_.dim + i % kGroup];
      for (int64_t d = 0; d < group_.dim; ++d) column[d * kGroup] = user(i)[d] * group_.scale;
    }
  }

  void Forward(int64_t t) override {
    const Tile items = tile(t);
    float *logits = &logits_[t * kRows * kStride], *tops = &tops_[t * kRows];
    for (int64_t i = 0; i < filled_; i += kGroup) {
      Logits(packed_, items, &rows_[i * group_.dim], logits + i * kStride, tops + i);
    }
    for (int64_t i = 0; i < number_; ++i) Own(i, items, logits + i * kStride, tops + i);
    for (int64_t i = 0; i < filled_; ++i) {
      if (tops[i] > top_[i]) Raise(i, tops[i], std::exp(top_[i] - tops[i]));
      tops[i] = top_[i];
      Floats sum{};
      for (float *p = logits + i * kStride, *stop = p + items.end - items.begin; p < stop; p += kWide) {
        const Floats value = Exp(*reinterpret_cast<Floats*>(p) - top_[i]);
        *reinterpret_cast<Floats*>(p) = value;
        sum += value;
      }
      for (int64_t k = 0; k < kWide; ++k) total_[i] += sum[k];
    }
    for (int64_t i = 0; i < filled_; i += kGroup) {
      MultiplyAll(logits + i * kStride, 1, kStride, &packed_.along[items.begin * width_], items.end - items.begin,
                  width_, &user_[i * width_]);
    }
  }

  float Loss(int64_t i) const override { return std::log(total_[i]) + top_[i] - positive_[i]; }

  void ToItems(int64_t t, float* gradient, float* shifts) override {
    const Tile items = tile(t);
    const float* logits = &logits_[t * kRows * kStride];
    float factors[kRows];
    std::fill(weighted_.begin(), weighted_.end(), 0.0f);
    for (int64_t i = 0; i < number_; ++i) {
      const float less = std::exp(tops_[t * kRows + i] - top_[i]), factor = inverse_[i] * less;
      for (int64_t d = 0; d < group_.dim; ++d) weighted_[i * width_ + d] = user(i)[d] * factor;
      factors[i] = share_[i] * less;
    }
    for (int64_t j = items.begin; j < items.end; j += kPair, logits += kPair) {
      for (int64_t k = 0; k < kPair; k += kGroup) {
        MultiplyAll(logits + k, kStride, 1, weighted_.data(), filled_, width_, gradient + (j + k) * width_);
      }
      if (shifts != nullptr) AddColumns(logits, factors, shifts + j);
    }
  }

  // Adds the sums of kPair columns, with a factor for each row, while they are in the core's first cache.
  void AddColumns(const float* from, const float* factors, float* to) const {
    Floats *first = reinterpret_cast<Floats*>(to), *second = first + 1;
    Floats one = *first, two = *second;
    for (int64_t i = 0; i < number_; ++i, from += kStride) {
      one += *reinterpret_cast<const Floats*>(from) * factors[i];
      two += *reinterpret_cast<const Floats*>(from + kWide) * factors[i];
    }
    *first = one, *second = two;
  }

  const Float32Candidates& packed_;
  std::vector<float> rows_, weighted_;  // rows_: scaled, each group stored as columns
  std::vector<float> logits_;           // [tiles, kRows, kStride]
};

std::unique_ptr<Block> Float32Candidates::NewBlock() const { return std::make_unique<Float32Block>(*this); }

}  // namespace

std::unique_ptr<Candidates> PackFloat32(const Group& group) { return std::make_unique<Float32Candidates>(group); }

}  // namespace lazytower
