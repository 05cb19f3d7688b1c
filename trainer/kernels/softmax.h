// What the in-batch softmax is, whatever the precision of its products: groups of rows, their candidates, and blocks
// of rows that visit them. trainer/models/losses.py has the formula.
//
// A block visits the candidates tile by tile, so that the operands stay in a core's cache however many there are.
// Exponentials are relative to the largest logit so far; when a larger one is found, earlier sums are rescaled (Milakov
// & Gimelshein 2018, Online normalizer calculation for softmax, algorithm 3). The items' gradient needs the final sums,
// so the exponentials of the block are kept until then.

#ifndef LAZYTOWER_SOFTMAX_H_
#define LAZYTOWER_SOFTMAX_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "vectors.h"

namespace lazytower {

constexpr float kMasked = -1e30f;         // its exponential is 0, or too small to matter
constexpr int64_t kRows = 64;             // in a block
constexpr int64_t kColumns = 1024;        // in a tile
constexpr int64_t kPair = 2 * kWide;      // columns that are multiplied together
// Distance between a tile's rows. With a power of 2, the rows would compete for the same cache sets.
constexpr int64_t kStride = kColumns + kWide;

// Items, one after another.
struct Items {
  const float* vectors;  // [number, dim]
  const int64_t* ids;
  const float* log_q;
  int64_t number;
};

// Rows and their candidates: the items of the group, and more.
struct Group {
  const float *user, *part;  // [rows, dim], [rows]
  int64_t rows, dim, first;  // the positive of row i is item first + i
  Items own, more;
  float scale;
  bool mask_hits;

  int64_t items() const { return own.number + more.number; }
  const Items& source(int64_t j) const { return j < own.number ? own : more; }
  int64_t place(int64_t j) const { return j < own.number ? j : j - own.number; }
  const float* item(int64_t j) const { return source(j).vectors + place(j) * dim; }
  int64_t id(int64_t j) const { return source(j).ids[place(j)]; }
  float log_q(int64_t j) const { return source(j).log_q[place(j)]; }
};

// The columns that hold the same id as a column, rising, for masking accidental hits.
class Columns {
 public:
  explicit Columns(const Group& group) {
    if (!group.mask_hits) return;
    const int64_t number = group.items();
    std::vector<std::pair<int64_t, int64_t>> sorted(number);
    for (int64_t j = 0; j < number; ++j) sorted[j] = {group.id(j), j};
    std::sort(sorted.begin(), sorted.end());
    columns_.resize(number), begin_.resize(number), end_.resize(number);
    for (int64_t from = 0, to = 0; from < number; from = to) {
      while (to < number && sorted[to].first == sorted[from].first) ++to;
      for (int64_t k = from; k < to; ++k) {
        const int64_t j = sorted[k].second;
        columns_[k] = j, begin_[j] = from, end_[j] = to;
      }
    }
  }
  const int64_t* begin(int64_t j) const { return columns_.data() + begin_[j]; }
  const int64_t* end(int64_t j) const { return columns_.data() + end_[j]; }

 private:
  std::vector<int64_t> columns_, begin_, end_;
};

// Columns begin .. end, in multiples of kPair.
struct Tile {
  int64_t begin, end;
};

class Block;

// A group's candidates in the order in which blocks read them.
class Candidates {
 public:
  explicit Candidates(const Group& group)
      : group(group), padded(Padded(group.items(), kPair)), width(Padded(group.dim, kNarrow)) {}
  virtual ~Candidates() = default;
  virtual std::unique_ptr<Block> NewBlock() const = 0;

  const Group group;
  const int64_t padded, width;  // columns, and values of a vector, with padding
  std::unique_ptr<const Columns> columns;  // set before blocks run: another thread sorts while one packs
};

std::unique_ptr<Candidates> PackFloat32(const Group& group);
std::unique_ptr<Candidates> PackBfloat16(const Group& group);

// A block of rows, and the buffers of the thread that works on it.
class Block {
 public:
  explicit Block(const Candidates& candidates)
      : candidates_(candidates), group_(candidates.group), width_(candidates.width),
        tiles_((candidates.padded + kColumns - 1) / kColumns), user_(kRows * width_), tops_(tiles_ * kRows) {}
  virtual ~Block() = default;

  // Works on rows begin .. end of the group, at most kRows: writes their users' gradients, adds to the gradient of items
  // [padded, width], and of what is added to their logits [padded] unless it is null, and returns the rows' part of the
  // loss.
  double Run(int64_t begin, int64_t end, float* user_gradient, float* item_gradient, float* shift_gradient) {
    begin_ = begin, number_ = end - begin, filled_ = Padded(number_, kGroup);
    std::fill(user_.begin(), user_.end(), 0.0f);
    std::fill_n(top_, kRows, kMasked);
    std::fill_n(total_, kRows, 0.0f);
    Load();
    for (int64_t t = 0; t < tiles_; ++t) Forward(t);
    const double loss = ToUsers(user_gradient);
    for (int64_t t = 0; t < tiles_; ++t) ToItems(t, item_gradient, shift_gradient);
    for (int64_t i = 0; i < number_; ++i) {
      const int64_t own = group_.first + begin + i;
      const float part = group_.part[begin + i];
      Subtract(user(i), group_.dim, part * group_.scale, item_gradient + own * width_);
      const float one = 1.0f;
      if (shift_gradient != nullptr) Subtract(&one, 1, part, shift_gradient + own);
    }
    return loss;
  }

 protected:
  // Copies the block's rows.
  virtual void Load() = 0;
  // Computes a tile's exponentials relative to the largest logit so far, and adds them to sums and users' gradients.
  virtual void Forward(int64_t t) = 0;
  // Adds the products of a tile's exponentials with the users to the items' gradient, and the exponentials themselves,
  // as parts of their rows' sums, to that of shifts unless it is null.
  virtual void ToItems(int64_t t, float* gradient, float* shifts) = 0;
  // A row's loss.
  virtual float Loss(int64_t i) const = 0;
  // An item's values as products take them, so that what its row's positive adds and what is subtracted cancel out.
  virtual const float* Operands(const float* item) { return item; }
  // Subtracts `dim` values times a factor, as products take them.
  virtual void Subtract(const float* values, int64_t dim, float factor, float* from) {
    for (int64_t d = 0; d < dim; ++d) from[d] -= values[d] * factor;
  }

  Tile tile(int64_t t) const { return {t * kColumns, std::min((t + 1) * kColumns, candidates_.padded)}; }
  const float* user(int64_t i) const { return group_.user + (begin_ + i) * group_.dim; }

  // Remembers the logit of a row's own item, and masks the row's accidental hits.
  void Own(int64_t i, Tile items, float* logits, float* top) {
    const int64_t own = group_.first + begin_ + i;
    const bool here = items.begin <= own && own < items.end;
    if (here) positive_[i] = logits[own - items.begin];
    if (!group_.mask_hits) return;
    const int64_t *hits = candidates_.columns->begin(own), *end = candidates_.columns->end(own);
    if (end - hits == 1) return;
    bool was_largest = false;
    for (auto j = std::lower_bound(hits, end, items.begin); j != end && *j < items.end; ++j) {
      if (*j == own) continue;
      float* hit = &logits[*j - items.begin];
      was_largest |= *hit >= *top;
      *hit = kMasked;
    }
    if (!was_largest) return;
    Floats most = Floats{} + kMasked;
    for (const float *p = logits, *stop = p + items.end - items.begin; p < stop; p += kWide) {
      most = Max(*reinterpret_cast<const Floats*>(p), most);
    }
    *top = Largest(most);
  }

  // Multiplies a row's sums: its largest logit has become `top`.
  void Raise(int64_t i, float top, float less) {
    total_[i] *= less;
    for (int64_t d = 0; d < width_; ++d) user_[i * width_ + d] *= less;
    top_[i] = top;
  }

  double ToUsers(float* gradient) {
    const int64_t dim = group_.dim;
    double loss = 0;
    for (int64_t i = 0; i < number_; ++i) {
      const int64_t row = begin_ + i;
      const float part = group_.part[row], scaled = part * group_.scale;
      const float* own = Operands(group_.item(group_.first + row));
      inverse_[i] = scaled / total_[i];
      share_[i] = part / total_[i];
      loss += static_cast<double>(part) * Loss(i);
      for (int64_t d = 0; d < dim; ++d) {
        gradient[row * dim + d] = user_[i * width_ + d] * inverse_[i] - own[d] * scaled;
      }
    }
    return loss;
  }

  const Candidates& candidates_;
  const Group& group_;
  const int64_t width_, tiles_;
  int64_t begin_, number_, filled_;  // filled_: number_ rounded up to whole kGroup
  std::vector<float> user_;          // [kRows, width], sums of the users' gradients
  std::vector<float> tops_;          // [tiles, kRows], the logit that a tile's exponentials are relative to
  float top_[kRows], positive_[kRows], total_[kRows];
  float inverse_[kRows], share_[kRows];  // what exponentials are multiplied by in gradients of vectors, and of shifts
};

}  // namespace lazytower

#endif  // LAZYTOWER_SOFTMAX_H_
