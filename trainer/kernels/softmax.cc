// In-batch softmax: loss and both gradients in one pass over blocks of rows; trainer/models/losses.py has the formula.
//
// Rows are split into parts, whose number depends only on shapes. Each part sums its own gradient of the items, and
// the parts are added in order: results do not depend on the number of threads. Groups of few rows are worked on
// several at a time, so that all threads have parts.

#include <algorithm>
#include <memory>
#include <vector>

#include "softmax.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "work.h"

namespace lazytower {

bool HasBfloat16();

namespace {

using namespace tensorflow;  // NOLINT

constexpr int64_t kMostParts = 16;
constexpr int64_t kItems = 512;           // items whose parts' gradients a thread adds at a time
constexpr int64_t kPartValues = 1 << 26;  // limit for the gradients of all parts together

// Gradients of items [number, dim], and of what is added to their logits [number], or null.
struct Gradient {
  float *items, *shifts;
  int64_t dim;

  // Without the first `number` items.
  Gradient From(int64_t number) const {
    return {items + number * dim, shifts == nullptr ? nullptr : shifts + number, dim};
  }
  void Clear(int64_t from, int64_t number) const {
    std::fill_n(items + from * dim, number * dim, 0.0f);
    if (shifts != nullptr) std::fill_n(shifts + from, number, 0.0f);
  }
};

class SoftmaxOp : public OpKernel {
 public:
  explicit SoftmaxOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("mask_hits", &mask_));
    OP_REQUIRES_OK(context, context->GetAttr("group", &group_));
    OP_REQUIRES_OK(context, context->GetAttr("rounded", &bfloat16_));
    OP_REQUIRES_OK(context, context->GetAttr("shifts", &shifts_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &user = context->input(0), &item = context->input(1);
    const int64_t rows = user.dim_size(0), items = item.dim_size(0), dim = item.dim_size(1);
    const int64_t first = context->input(5).scalar<int32_t>()();
    OP_REQUIRES(context, rows > 0 && dim > 0, errors::InvalidArgument("no rows, or rows of no values"));
    OP_REQUIRES(context, first >= 0 && first + rows <= items && user.dim_size(1) == dim,
                errors::InvalidArgument(rows, " rows from ", first, " on do not fit ", items, " items"));
    OP_REQUIRES(context, group_ == 0 || (first == 0 && rows % group_ == 0),
                errors::InvalidArgument(rows, " rows from ", first, " on are not whole groups of ", group_));
    OP_REQUIRES(context,
                context->input(2).NumElements() == items && context->input(3).NumElements() == items &&
                    context->input(4).NumElements() == rows,
                errors::InvalidArgument("ids, log_q or part is not as long as the ", items, " items, ", rows, " rows"));
    Tensor *loss, *user_gradient, *item_gradient, *shift_gradient;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({}), &loss));
    OP_REQUIRES_OK(context, context->allocate_output(1, user.shape(), &user_gradient));
    OP_REQUIRES_OK(context, context->allocate_output(2, item.shape(), &item_gradient));
    OP_REQUIRES_OK(context, context->allocate_output(3, TensorShape({shifts_ ? items : 0}), &shift_gradient));
    const int64_t each = group_ == 0 ? rows : group_, own = group_ == 0 ? items : group_;
    const int64_t more = group_ == 0 ? 0 : items - rows, number = rows / each;
    const int64_t size = Padded(own + more, kPair) * (Padded(dim, kNarrow) + shifts_);
    const int64_t parts = std::clamp<int64_t>(kPartValues / size, 1, std::min(kMostParts, (each + kRows - 1) / kRows));
    const int64_t together =
        std::min(number, std::clamp<int64_t>(kPartValues / (size * parts), 1, kMostParts / parts));
    Tensor sums;
    OP_REQUIRES_OK(context, context->allocate_temp(DT_FLOAT, TensorShape({together * parts, size}), &sums));
    float* sum = sums.flat<float>().data();
    const Gradient to_items{item_gradient->flat<float>().data(),
                            shifts_ ? shift_gradient->flat<float>().data() : nullptr, dim};
    to_items.Clear(number * own, more);
    double whole = 0;
    for (int64_t begin = 0; begin < number; begin += together) {
      std::vector<std::unique_ptr<Candidates>> groups(std::min(together, number - begin));
      const int64_t count = groups.size();
      std::vector<std::unique_ptr<const Columns>> columns(count);
      Parallel(context, 2 * count, 1, [&](int64_t from, int64_t to) {
        for (int64_t task = from; task < to; ++task) {
          const Group group = At(context, begin + task / 2, each, own, more, first);
          if (task % 2 == 0) {
            groups[task / 2] = bfloat16_ ? PackBfloat16(group) : PackFloat32(group);
          } else {
            columns[task / 2] = std::make_unique<Columns>(group);
          }
        }
      });
      for (int64_t g = 0; g < count; ++g) groups[g]->columns = std::move(columns[g]);
      std::vector<double> losses(count * parts, 0.0);
      float* to_user = user_gradient->flat<float>().data() + begin * each * dim;
      Parallel(context, count * parts, 1, [&](int64_t from, int64_t to) {
        for (int64_t p = from; p < to; ++p) {
          float* to_users = to_user + p / parts * each * dim;
          losses[p] = Part(*groups[p / parts], p % parts, parts, to_users, sum + p * size, size);
        }
      });
      for (double part : losses) whole += part;
      for (int64_t g = 0; g < count; ++g) {
        AddParts(context, *groups[g], parts, sum + g * parts * size, size, to_items.From((begin + g) * own),
                 to_items.From(number * own));
      }
    }
    loss->scalar<float>()() = static_cast<float>(whole);
  }

 private:
  Group At(OpKernelContext* context, int64_t g, int64_t each, int64_t own, int64_t more, int64_t first) const {
    const float *user = context->input(0).flat<float>().data(), *item = context->input(1).flat<float>().data();
    const int64_t* ids = context->input(2).flat<int64_t>().data();
    const float *log_q = context->input(3).flat<float>().data(), *part = context->input(4).flat<float>().data();
    const int64_t dim = context->input(1).dim_size(1), last = context->input(1).dim_size(0) - more;
    const Items here{item + g * own * dim, ids + g * own, log_q + g * own, own};
    const Items others{item + last * dim, ids + last, log_q + last, more};
    const float scale = context->input(6).scalar<float>()();
    return {user + g * each * dim, part + g * each, each, dim, first, here, others, scale, mask_};
  }

  // Works on a part of a group's rows: writes their users' gradients and its items' gradient, and returns its loss.
  static double Part(const Candidates& candidates, int64_t number, int64_t parts, float* to_user, float* sum,
                     int64_t size) {
    const auto block = candidates.NewBlock();
    const int64_t rows = candidates.group.rows, share = Padded((rows + parts - 1) / parts, kRows);
    const int64_t vectors = candidates.padded * candidates.width;
    float* shifts = size > vectors ? sum + vectors : nullptr;
    std::fill_n(sum, size, 0.0f);
    double loss = 0;
    const int64_t last = std::min(rows, (number + 1) * share);
    for (int64_t i = number * share; i < last; i += kRows) {
      loss += block->Run(i, std::min(i + kRows, last), to_user, sum, shifts);
    }
    return loss;
  }

  // Adds the parts' gradients of a group's items: to its own items, and to those of all groups.
  static void AddParts(OpKernelContext* context, const Candidates& candidates, int64_t parts, const float* sum,
                       int64_t size, Gradient to_own, Gradient to_more) {
    const Group& group = candidates.group;
    const int64_t width = candidates.width, vectors = candidates.padded * width;
    Parallel(context, group.items(), kItems, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        const bool own = j < group.own.number;
        const Gradient to = own ? to_own.From(j) : to_more.From(j - group.own.number);
        if (own) to.Clear(0, 1);
        for (int64_t p = 0; p < parts; ++p) {
          const float* part = sum + p * size;
#pragma GCC ivdep
          for (int64_t d = 0; d < group.dim; ++d) to.items[d] += part[j * width + d];
          if (to.shifts != nullptr) *to.shifts += part[vectors + j];
        }
      }
    });
  }

  bool mask_, bfloat16_, shifts_;
  int64_t group_;
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
    .Output("shift_gradient: float")
    .Attr("mask_hits: bool")
    .Attr("group: int = 0")  // rows whose items are each other's candidates, with all items after the rows'; 0: all
    .Attr("rounded: bool = false")  // to bfloat16, before products
    .Attr("shifts: bool = false")   // whether to compute shift_gradient, of -log_q; without it is empty
    .SetShapeFn([](shape_inference::InferenceContext* c) {
      c->set_output(0, c->Scalar());
      c->set_output(1, c->input(0));
      c->set_output(2, c->input(1));
      c->set_output(3, c->UnknownShapeOfRank(1));
      return OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("LazytowerSoftmax").Device(DEVICE_CPU), SoftmaxOp);

}  // namespace

// For trainer/kernels/build.py: whether bfloat16 products have instructions of their own.
extern "C" int32_t lazytower_has_bfloat16() { return HasBfloat16(); }

}  // namespace lazytower
