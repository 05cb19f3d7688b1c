// In-batch softmax: loss and both gradients in one pass over blocks of rows; trainer/losses.py has the formula.
//
// Rows are dealt to a number of parts that depends on shapes alone. A part sums its own gradient of the items, and
// the parts are added in their order: results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "work.h"

namespace lazytower {
namespace {

using namespace tensorflow;  // NOLINT

// Vectors as wide as the processor's registers: the compiler does not split wider ones well.
#if defined(__AVX512F__)
#define LAZYTOWER_BYTES 64
constexpr int64_t kGroup = 8;  // rows that are multiplied together; their sums fill the registers
constexpr int kVectors = 4;
#elif defined(__AVX__)
#define LAZYTOWER_BYTES 32
constexpr int64_t kGroup = 4;
constexpr int kVectors = 2;
#else
#define LAZYTOWER_BYTES 16
constexpr int64_t kGroup = 4;
constexpr int kVectors = 2;
#endif
#define LAZYTOWER_VECTOR(bytes) __attribute__((vector_size(bytes), aligned(4), may_alias))
typedef float Floats LAZYTOWER_VECTOR(LAZYTOWER_BYTES);
typedef int32_t Ints LAZYTOWER_VECTOR(LAZYTOWER_BYTES);
constexpr int64_t kWide = LAZYTOWER_BYTES / 4;
// Of rows of few values: padding to more would be multiplied too.
#define LAZYTOWER_SHORT (LAZYTOWER_BYTES < 32 ? LAZYTOWER_BYTES : 32)
typedef float Short LAZYTOWER_VECTOR(LAZYTOWER_SHORT);
constexpr int64_t kNarrow = LAZYTOWER_SHORT / 4;

constexpr float kMasked = -1e30f;         // its exponential is exactly 0
constexpr int64_t kLogits = 1 << 17;      // values of a block of logits: they stay in a core's cache
constexpr int64_t kTile = 2 * kWide;      // columns that are multiplied together
constexpr int64_t kMostParts = 16;
constexpr int64_t kItems = 512;           // what a thread adds the parts' gradients of at a time
constexpr int64_t kPartValues = 1 << 26;  // of all parts' gradients together

inline int64_t Padded(int64_t number, int64_t to) { return (number + to - 1) / to * to; }

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

// The columns that hold each id, for the accidental hits.
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

struct Batch {
  const float *user, *item;  // [rows, dim], [items, dim]
  const int64_t* ids;
  const float *log_q, *part;
  int64_t first, items, dim;
  float scale;
  const Columns* columns;  // null: hits are not masked
  int64_t columns_padded, dim_padded;
  int64_t stride;             // of rows of logits: not a power of 2, whose rows would share their place in caches
  std::vector<float> across;  // items as columns, [columns_padded / kTile, dim, kTile]
  std::vector<float> along;   // items as rows, [columns_padded, dim_padded]
  std::vector<float> shift;   // -log_q; what no item has is masked

  void Pack() {
    columns_padded = Padded(items, kTile);
    stride = columns_padded + kWide;
    dim_padded = Padded(dim, kNarrow);
    across.assign(dim * columns_padded, 0.0f);
    along.assign(columns_padded * dim_padded, 0.0f);
    shift.assign(columns_padded, kMasked);
    for (int64_t j = 0; j < items; ++j) {
      std::memcpy(&along[j * dim_padded], item + j * dim, dim * sizeof(float));
      float* column = &across[j / kTile * dim * kTile + j % kTile];
      for (int64_t d = 0; d < dim; ++d) column[d * kTile] = item[j * dim + d];
      shift[j] = -log_q[j];
    }
  }
};

// Logits [kGroup, columns] of a group of rows, given as columns [dim, kGroup], and the largest of each row.
void Logits(const Batch& batch, const float* rows, float* logits, float* top) {
  const int64_t columns = batch.columns_padded, dim = batch.dim, stride = batch.stride;
  Floats most[kGroup];
  for (Floats& m : most) m = Floats{} + kMasked;
  for (int64_t j = 0; j < columns; j += kTile) {
    Floats sum[kGroup][2];
    for (auto& s : sum) {
      s[0] = *reinterpret_cast<const Floats*>(&batch.shift[j]);
      s[1] = *reinterpret_cast<const Floats*>(&batch.shift[j + kWide]);
    }
    const float* across = &batch.across[j * dim];
    for (int64_t d = 0; d < dim; ++d, across += kTile) {
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
      *reinterpret_cast<Floats*>(logits + i * stride + j) = sum[i][0];
      *reinterpret_cast<Floats*>(logits + i * stride + j + kWide) = sum[i][1];
      const Floats more = sum[i][0] > sum[i][1] ? sum[i][0] : sum[i][1];
      most[i] = more > most[i] ? more : most[i];
    }
  }
  for (int64_t i = 0; i < kGroup; ++i) {
    top[i] = most[i][0];
    for (int64_t k = 1; k < kWide; ++k) top[i] = std::max(top[i], most[i][k]);
  }
}

// to[i, :] += sum_j of from[i, j] * rows[j, :], for 4 i and kSome vectors; from has strides, rows are `width` apart.
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

// As Multiply, for kGroup i and any width.
void MultiplyAll(const float* from, int64_t across, int64_t down, const float* rows, int64_t number, int64_t width,
                 float* to) {
  for (int64_t i = 0; i < kGroup; i += 4, from += 4 * down, to += 4 * width) {
    int64_t v = 0;
    for (; v + kVectors * kNarrow <= width; v += kVectors * kNarrow) {
      Multiply<kVectors>(from, across, down, rows + v, number, width, to + v);
    }
    for (; v < width; v += kNarrow) Multiply<1>(from, across, down, rows + v, number, width, to + v);
  }
}

// Room of one thread.
struct Scratch {
  std::vector<float> rows, logits, user, weighted;
  Scratch(const Batch& batch, int64_t block)
      : rows(block * batch.dim), logits(block * batch.stride), user(block * batch.dim_padded),
        weighted(block * batch.dim_padded) {}
};

// Rows begin .. end of the batch, at most `block`, a multiple of kGroup: adds to the items' gradient [columns_padded,
// dim_padded], returns their part of the loss.
double Block(const Batch& batch, int64_t begin, int64_t end, Scratch* scratch, float* user_gradient,
             float* item_gradient) {
  const int64_t rows = end - begin, filled = Padded(rows, kGroup), dim = batch.dim, width = batch.dim_padded;
  const int64_t columns = batch.columns_padded, stride = batch.stride;
  std::fill(scratch->rows.begin(), scratch->rows.end(), 0.0f);
  for (int64_t i = 0; i < rows; ++i) {
    float* column = &scratch->rows[i / kGroup * kGroup * dim + i % kGroup];
    for (int64_t d = 0; d < dim; ++d) column[d * kGroup] = batch.user[(begin + i) * dim + d] * batch.scale;
  }
  std::fill(scratch->user.begin(), scratch->user.end(), 0.0f);
  std::vector<float> top(filled), positive(filled), total(filled, 0.0f);
  for (int64_t i = 0; i < filled; i += kGroup) {
    Logits(batch, &scratch->rows[i * dim], &scratch->logits[i * stride], &top[i]);
  }
  for (int64_t i = 0; i < rows; ++i) {
    float* row = &scratch->logits[i * stride];
    const int64_t own = batch.first + begin + i;
    positive[i] = row[own];
    if (batch.columns == nullptr) continue;
    const auto& hits = batch.columns->of(batch.ids[own]);
    if (hits.size() == 1) continue;
    for (int64_t j : hits) row[j] = kMasked;
    row[own] = positive[i];
    top[i] = *std::max_element(row, row + batch.items);
  }
  for (int64_t i = 0; i < filled; ++i) {
    Floats sum{};
    for (float *p = &scratch->logits[i * stride], *stop = p + columns; p < stop; p += kWide) {
      const Floats value = Exp(*reinterpret_cast<Floats*>(p) - top[i]);
      *reinterpret_cast<Floats*>(p) = value;
      sum += value;
    }
    for (int64_t k = 0; k < kWide; ++k) total[i] += sum[k];
  }
  for (int64_t i = 0; i < filled; i += kGroup) {
    MultiplyAll(&scratch->logits[i * stride], 1, stride, batch.along.data(), columns, width,
                &scratch->user[i * width]);
  }
  double loss = 0;
  std::fill(scratch->weighted.begin(), scratch->weighted.end(), 0.0f);
  for (int64_t i = 0; i < rows; ++i) {
    const float part = batch.part[begin + i], scaled = part * batch.scale, inverse = scaled / total[i];
    loss += static_cast<double>(part) * (std::log(total[i]) + top[i] - positive[i]);
    const float *own = batch.item + (batch.first + begin + i) * dim, *user = batch.user + (begin + i) * dim;
    for (int64_t d = 0; d < dim; ++d) {
      user_gradient[(begin + i) * dim + d] = scratch->user[i * width + d] * inverse - own[d] * scaled;
      scratch->weighted[i * width + d] = user[d] * inverse;
    }
  }
  for (int64_t j = 0; j < columns; j += kGroup) {
    MultiplyAll(&scratch->logits[j], stride, 1, scratch->weighted.data(), filled, width, item_gradient + j * width);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const float scaled = batch.part[begin + i] * batch.scale;
    float* own = item_gradient + (batch.first + begin + i) * width;
    for (int64_t d = 0; d < dim; ++d) own[d] -= batch.user[(begin + i) * dim + d] * scaled;
  }
  return loss;
}

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
    const int64_t block = std::clamp<int64_t>(kLogits / batch.columns_padded / kGroup * kGroup, kGroup, 64);
    const int64_t size = batch.columns_padded * batch.dim_padded, width = batch.dim_padded;
    const int64_t parts = std::clamp<int64_t>(kPartValues / size, 1, std::min(kMostParts, (rows + block - 1) / block));
    OP_REQUIRES_OK(context, context->allocate_temp(DT_FLOAT, TensorShape({parts, size}), &sums));
    std::vector<double> losses(parts, 0.0);
    float* sum = sums.flat<float>().data();
    float* to_user = user_gradient->flat<float>().data();
    const int64_t share = Padded((rows + parts - 1) / parts, block);
    Parallel(context, parts, 1, [&](int64_t begin, int64_t end) {
      Scratch scratch(batch, block);
      for (int64_t p = begin; p < end; ++p) {
        std::fill_n(sum + p * size, size, 0.0f);
        const int64_t last = std::min(rows, (p + 1) * share);
        for (int64_t i = p * share; i < last; i += block) {
          losses[p] += Block(batch, i, std::min(i + block, last), &scratch, to_user, sum + p * size);
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
