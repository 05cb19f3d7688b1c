// In-batch softmax: loss and both gradients in one pass over blocks of rows; trainer/models/losses.py has the formula.
//
// A block of rows visits the items tile by tile, so that the operands stay in a core's cache however many items there
// are. Exponentials are relative to the largest logit so far; when a larger one is found, earlier sums are rescaled
// (Milakov & Gimelshein 2018, Online normalizer calculation for softmax, algorithm 3). The items'
// gradient needs the final sums, so the exponentials of the block are kept until then.
//
// Rows are split into parts, whose number depends only on shapes. Each part sums its own gradient of the items, and
// the parts are added in order: results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "vectors.h"
#include "work.h"

namespace lazytower {
namespace {

using namespace tensorflow;  // NOLINT

constexpr float kMasked = -1e30f;         // its exponential is exactly 0
constexpr int64_t kRows = 64;             // in a block
constexpr int64_t kColumns = 1024;        // in a tile
constexpr int64_t kPair = 2 * kWide;      // columns that are multiplied together
// Distance between a tile's rows. With a power of 2, the rows would compete for the same cache sets.
constexpr int64_t kStride = kColumns + kWide;
constexpr int64_t kMostParts = 16;
constexpr int64_t kItems = 512;           // items whose parts' gradients a thread adds at a time
constexpr int64_t kPartValues = 1 << 26;  // limit for the gradients of all parts together

// The columns that hold each id, for masking accidental hits.
class Columns {
 public:
  explicit Columns(const Tensor& ids) {
    const auto values = ids.flat<int64_t>();
    for (int64_t j = 0; j < values.size(); ++j) columns_[values(j)].push_back(j);
  }
  const std::vector<int64_t>& of(int64_t id) const { return columns_.at(id); }

 private:
  std::unordered_map<int64_t, std::vector<int64_t>> columns_;
};

// Items begin .. end, in multiples of kPair.
struct Tile {
  int64_t begin, end;
};

struct Batch {
  const float *user, *item;  // [rows, dim], [items, dim]
  const int64_t* ids;
  const float *log_q, *part;
  int64_t first, items, dim;
  float scale;
  const Columns* columns;  // null: hits are not masked
  int64_t columns_padded, dim_padded;
  std::vector<float> across;  // items as columns, [columns_padded / kPair, dim, kPair]
  std::vector<float> along;   // items as rows, [columns_padded, dim_padded]
  std::vector<float> shift;   // -log_q; padded columns are masked

  void Pack() {
    columns_padded = Padded(items, kPair);
    dim_padded = Padded(dim, kNarrow);
    across.assign(dim * columns_padded, 0.0f);
    along.assign(columns_padded * dim_padded, 0.0f);
    shift.assign(columns_padded, kMasked);
    for (int64_t j = 0; j < items; ++j) {
      std::memcpy(&along[j * dim_padded], item + j * dim, dim * sizeof(float));
      float* column = &across[j / kPair * dim * kPair + j % kPair];
      for (int64_t d = 0; d < dim; ++d) column[d * kPair] = item[j * dim + d];
      shift[j] = -log_q[j];
    }
  }
};

// Computes the logits [kGroup, kStride] of a group of rows, given as columns [dim, kGroup], with a tile of items, and
// each row's largest logit.
void Logits(const Batch& batch, Tile tile, const float* rows, float* logits, float* top) {
  const int64_t dim = batch.dim;
  Floats most[kGroup];
  for (Floats& m : most) m = Floats{} + kMasked;
  for (int64_t j = tile.begin; j < tile.end; j += kPair, logits += kPair) {
    Floats sum[kGroup][2];
    for (auto& s : sum) {
      s[0] = *reinterpret_cast<const Floats*>(&batch.shift[j]);
      s[1] = *reinterpret_cast<const Floats*>(&batch.shift[j + kWide]);
    }
    const float* across = &batch.across[j * dim];
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
      const Floats more = sum[i][0] > sum[i][1] ? sum[i][0] : sum[i][1];
      most[i] = more > most[i] ? more : most[i];
    }
  }
  for (int64_t i = 0; i < kGroup; ++i) {
    top[i] = most[i][0];
    for (int64_t k = 1; k < kWide; ++k) top[i] = std::max(top[i], most[i][k]);
  }
}

// A block of rows that visits all items, and the buffers of the thread that works on it.
class Block {
 public:
  explicit Block(const Batch& batch)
      : batch_(batch), rows_(kRows * batch.dim), user_(kRows * batch.dim_padded), weighted_(kRows * batch.dim_padded),
        tiles_((batch.columns_padded + kColumns - 1) / kColumns), logits_(tiles_ * kRows * kStride),
        tops_(tiles_ * kRows) {}

  // Works on rows begin .. end of the batch, at most kRows: writes their users' gradients, adds to the items' gradient
  // [columns_padded, dim_padded], and returns the rows' part of the loss.
  double Run(int64_t begin, int64_t end, float* user_gradient, float* item_gradient) {
    Start(begin, end);
    for (int64_t t = 0; t < tiles_; ++t) Forward(t);
    const double loss = ToUsers(user_gradient);
    for (int64_t t = 0; t < tiles_; ++t) ToItems(t, item_gradient);
    for (int64_t i = 0; i < number_; ++i) {
      const float scaled = batch_.part[begin + i] * batch_.scale;
      float* own = item_gradient + (batch_.first + begin + i) * batch_.dim_padded;
      for (int64_t d = 0; d < batch_.dim; ++d) own[d] -= batch_.user[(begin + i) * batch_.dim + d] * scaled;
    }
    return loss;
  }

 private:
  Tile tile(int64_t t) const { return {t * kColumns, std::min((t + 1) * kColumns, batch_.columns_padded)}; }

  void Start(int64_t begin, int64_t end) {
    const int64_t dim = batch_.dim;
    begin_ = begin, number_ = end - begin, filled_ = Padded(number_, kGroup);
    std::fill(rows_.begin(), rows_.end(), 0.0f);
    for (int64_t i = 0; i < number_; ++i) {
      float* column = &rows_[i / kGroup * kGroup * dim + i % kGroup];
      for (int64_t d = 0; d < dim; ++d) column[d * kGroup] = batch_.user[(begin + i) * dim + d] * batch_.scale;
    }
    std::fill(user_.begin(), user_.end(), 0.0f);
    std::fill_n(top_, kRows, kMasked);
    std::fill_n(total_, kRows, 0.0f);
  }

  // Computes a tile's exponentials relative to the largest logit so far, and adds them to sums and users' gradients.
  void Forward(int64_t t) {
    const Tile items = tile(t);
    const int64_t width = batch_.dim_padded;
    float *logits = &logits_[t * kRows * kStride], *tops = &tops_[t * kRows];
    for (int64_t i = 0; i < filled_; i += kGroup) {
      Logits(batch_, items, &rows_[i * batch_.dim], logits + i * kStride, tops + i);
    }
    for (int64_t i = 0; i < number_; ++i) Own(i, items, logits + i * kStride, tops + i);
    for (int64_t i = 0; i < filled_; ++i) {
      if (tops[i] > top_[i]) {
        const float less = std::exp(top_[i] - tops[i]);
        total_[i] *= less;
        for (int64_t d = 0; d < width; ++d) user_[i * width + d] *= less;
        top_[i] = tops[i];
      }
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
      MultiplyAll(logits + i * kStride, 1, kStride, &batch_.along[items.begin * width], items.end - items.begin, width,
                  &user_[i * width]);
    }
  }

  // Remembers the logit of a row's own item, and masks the row's accidental hits.
  void Own(int64_t i, Tile items, float* logits, float* top) {
    const int64_t own = batch_.first + begin_ + i;
    const bool here = items.begin <= own && own < items.end;
    if (here) positive_[i] = logits[own - items.begin];
    if (batch_.columns == nullptr) return;
    const auto& hits = batch_.columns->of(batch_.ids[own]);
    if (hits.size() == 1) return;
    for (auto j = std::lower_bound(hits.begin(), hits.end(), items.begin); j != hits.end() && *j < items.end; ++j) {
      logits[*j - items.begin] = kMasked;
    }
    if (here) logits[own - items.begin] = positive_[i];
    *top = *std::max_element(logits, logits + items.end - items.begin);
  }

  double ToUsers(float* gradient) {
    const int64_t dim = batch_.dim, width = batch_.dim_padded;
    double loss = 0;
    for (int64_t i = 0; i < number_; ++i) {
      const int64_t row = begin_ + i;
      const float part = batch_.part[row], scaled = part * batch_.scale;
      const float* own = batch_.item + (batch_.first + row) * dim;
      inverse_[i] = scaled / total_[i];
      loss += static_cast<double>(part) * (std::log(total_[i]) + top_[i] - positive_[i]);
      for (int64_t d = 0; d < dim; ++d) {
        gradient[row * dim + d] = user_[i * width + d] * inverse_[i] - own[d] * scaled;
      }
    }
    return loss;
  }

  void ToItems(int64_t t, float* gradient) {
    const Tile items = tile(t);
    const int64_t dim = batch_.dim, width = batch_.dim_padded;
    const float* logits = &logits_[t * kRows * kStride];
    std::fill(weighted_.begin(), weighted_.end(), 0.0f);
    for (int64_t i = 0; i < number_; ++i) {
      const float factor = inverse_[i] * std::exp(tops_[t * kRows + i] - top_[i]);
      const float* user = batch_.user + (begin_ + i) * dim;
      for (int64_t d = 0; d < dim; ++d) weighted_[i * width + d] = user[d] * factor;
    }
    for (int64_t j = items.begin; j < items.end; j += kGroup) {
      MultiplyAll(logits + j - items.begin, kStride, 1, weighted_.data(), filled_, width, gradient + j * width);
    }
  }

  const Batch& batch_;
  int64_t begin_, number_, filled_;            // filled_: number_ rounded up to whole groups
  std::vector<float> rows_, user_, weighted_;  // rows_: scaled, each group stored as columns
  const int64_t tiles_;
  std::vector<float> logits_;  // [tiles, kRows, kStride]
  std::vector<float> tops_;    // [tiles, kRows], the logit that a tile's exponentials are relative to
  float top_[kRows], positive_[kRows], total_[kRows], inverse_[kRows];
};

class SoftmaxOp : public OpKernel {
 public:
  explicit SoftmaxOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("mask_hits", &mask_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &user = context->input(0), &item = context->input(1), &ids = context->input(2);
    const int64_t rows = user.dim_size(0), items = item.dim_size(0), dim = item.dim_size(1);
    const int64_t first = context->input(5).scalar<int32_t>()();
    OP_REQUIRES(context, rows > 0 && dim > 0, errors::InvalidArgument("no rows, or rows of no values"));
    OP_REQUIRES(context, first >= 0 && first + rows <= items && user.dim_size(1) == dim,
                errors::InvalidArgument(rows, " rows from ", first, " on do not fit ", items, " items"));
    OP_REQUIRES(context,
                ids.NumElements() == items && context->input(3).NumElements() == items &&
                    context->input(4).NumElements() == rows,
                errors::InvalidArgument("ids, log_q or part is not as long as the ", items, " items, ", rows, " rows"));
    Tensor *loss, *user_gradient, *item_gradient;
    Tensor sums;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({}), &loss));
    OP_REQUIRES_OK(context, context->allocate_output(1, user.shape(), &user_gradient));
    OP_REQUIRES_OK(context, context->allocate_output(2, item.shape(), &item_gradient));
    const Columns columns(mask_ ? ids : Tensor(DT_INT64, TensorShape({0})));
    Batch batch{user.flat<float>().data(),
                item.flat<float>().data(),
                ids.flat<int64_t>().data(),
                context->input(3).flat<float>().data(),
                context->input(4).flat<float>().data(),
                first,
                items,
                dim,
                context->input(6).scalar<float>()(),
                mask_ ? &columns : nullptr};
    batch.Pack();
    const int64_t size = batch.columns_padded * batch.dim_padded, width = batch.dim_padded;
    const int64_t parts = std::clamp<int64_t>(kPartValues / size, 1, std::min(kMostParts, (rows + kRows - 1) / kRows));
    OP_REQUIRES_OK(context, context->allocate_temp(DT_FLOAT, TensorShape({parts, size}), &sums));
    std::vector<double> losses(parts, 0.0);
    float* sum = sums.flat<float>().data();
    float* to_user = user_gradient->flat<float>().data();
    const int64_t share = Padded((rows + parts - 1) / parts, kRows);
    Parallel(context, parts, 1, [&](int64_t begin, int64_t end) {
      Block block(batch);
      for (int64_t p = begin; p < end; ++p) {
        std::fill_n(sum + p * size, size, 0.0f);
        const int64_t last = std::min(rows, (p + 1) * share);
        for (int64_t i = p * share; i < last; i += kRows) {
          losses[p] += block.Run(i, std::min(i + kRows, last), to_user, sum + p * size);
        }
      }
    });
    float* to_item = item_gradient->flat<float>().data();
    Parallel(context, items, kItems, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        for (int64_t d = 0; d < dim; ++d) {
          float total = 0;
          for (int64_t p = 0; p < parts; ++p) total += sum[p * size + j * width + d];
          to_item[j * dim + d] = total;
        }
      }
    });
    double whole = 0;
    for (double part : losses) whole += part;
    loss->scalar<float>()() = static_cast<float>(whole);
  }

 private:
  bool mask_;
};

REGISTER_OP("LazytowerSoftmax")
    .Input("user: float")
    .Input("item: float")
    .Input("item_ids: int64")
    .Input("log_q: float")
    .Input("part: float")
    .Input("first: int32")
    .Input("scale: float")
    .Output("loss: float")
    .Output("user_gradient: float")
    .Output("item_gradient: float")
    .Attr("mask_hits: bool")
    .SetShapeFn([](shape_inference::InferenceContext* c) {
      c->set_output(0, c->Scalar());
      c->set_output(1, c->input(0));
      c->set_output(2, c->input(1));
      return OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("LazytowerSoftmax").Device(DEVICE_CPU), SoftmaxOp);

}  // namespace
}  // namespace lazytower
