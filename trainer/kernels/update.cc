// One optimizer step on the touched rows and their Polyak averages, in place; see rows.cc.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "snapshot.h"
#include "work.h"

namespace lazytower {
namespace {

using namespace tensorflow;  // NOLINT

constexpr int64_t kUpdateAhead = 6;        // how many rows ahead of the current one to prefetch
constexpr int64_t kUpdateValues = 16;      // values of a row that are updated together
constexpr int64_t kUpdateRows = 512;       // rows that a thread takes at a time

// The parameters of a step, the same for all rows.
struct Step {
  const float* hyper;  // the optimizer's hyperparameters, in the order of trainer/kernels/ops.py
  int64_t dim;
  float step, rate;
  float clip;   // of the gradient's values; infinite: none
  float decay;  // weight decay times the rate
  const float* columns;  // state that all rows share, [dim], as of before the step; null for most rules
  float* touched;        // the thread's new maximum of that state over its rows, [dim]
};

float OneMinusPower(float beta, float step) {
  return static_cast<float>(-std::expm1(static_cast<double>(step) * std::log(std::max<double>(beta, 1e-30))));
}

float Correction(float beta_1, float beta_2, float step) {
  return std::sqrt(OneMinusPower(beta_2, step)) / OneMinusPower(beta_1, step);
}

constexpr float kByStep = 1, kByOwnCount = 2;  // what LazyAdam corrects its bias by; 0: nothing

// A rule is constructed once per block of rows; Begin receives a row's slots and gradient, Value updates one value, End
// finishes the row.
struct Rule {
  void End() {}
};

// kAmsgrad: the second moment is the largest so far. kOwnCount: the row's own count of updates corrects the bias.
// Templates, because calls of the mathematical library in the loop over rows cost a tenth of a step even if never made.
template <bool kAmsgrad, bool kOwnCount>
struct LazyAdam : Rule {
  const float beta_1, beta_2, epsilon;
  const int64_t dim;
  float rate;
  float *m, *v, *largest;  // `largest` only with amsgrad; the row's count of updates, if any, is the last slot
  const Step& told;
  explicit LazyAdam(const Step& s)
      : beta_1(s.hyper[0]), beta_2(s.hyper[1]), epsilon(s.hyper[2]), dim(s.dim), rate(s.rate), told(s) {
    if (s.hyper[3] == kByStep) rate *= Correction(beta_1, beta_2, s.step);
  }
  void Begin(float* slots, const float*) {
    m = slots;
    v = slots + dim;
    largest = v + dim;
    if constexpr (kOwnCount) {
      float& updates = kAmsgrad ? largest[dim] : largest[0];
      updates += 1.0f;
      rate = told.rate * Correction(beta_1, beta_2, updates);
    }
  }
  float Value(int64_t j, float weight, float gradient) {
    m[j] = beta_1 * m[j] + (1.0f - beta_1) * gradient;
    v[j] = beta_2 * v[j] + (1.0f - beta_2) * gradient * gradient;
    float second = v[j];
    if constexpr (kAmsgrad) second = largest[j] = std::max(largest[j], second);
    return weight - rate * m[j] / (std::sqrt(second) + epsilon);
  }
};

struct Adagrad : Rule {
  const float epsilon, rate;
  float* accumulator;
  explicit Adagrad(const Step& s) : epsilon(s.hyper[0]), rate(s.rate) {}
  void Begin(float* slots, const float*) { accumulator = slots; }
  float Value(int64_t j, float weight, float gradient) {
    accumulator[j] += gradient * gradient;
    return weight - rate * gradient / std::sqrt(accumulator[j] + epsilon);
  }
};

struct RowwiseAdagrad : Rule {
  const float epsilon, rate, clip;
  const int64_t dim;
  float row_rate;
  explicit RowwiseAdagrad(const Step& s) : epsilon(s.hyper[0]), rate(s.rate), clip(s.clip), dim(s.dim) {}
  void Begin(float* slots, const float* gradient) {
    float sum = 0.0f;
    for (int64_t j = 0; j < dim; ++j) {
      const float g = std::min(std::max(gradient[j], -clip), clip);
      sum += g * g;
    }
    slots[0] += sum / static_cast<float>(dim);
    row_rate = rate / (std::sqrt(slots[0]) + epsilon);
  }
  float Value(int64_t, float weight, float gradient) { return weight - row_rate * gradient; }
};

struct Sgd : Rule {
  const float rate;
  explicit Sgd(const Step& s) : rate(s.rate) {}
  void Begin(float*, const float*) {}
  float Value(int64_t, float weight, float gradient) { return weight - rate * gradient; }
};

struct Momentum : Rule {
  const float momentum, nesterov, rate;
  float* velocity;
  explicit Momentum(const Step& s) : momentum(s.hyper[0]), nesterov(s.hyper[1]), rate(s.rate) {}
  void Begin(float* slots, const float*) { velocity = slots; }
  float Value(int64_t j, float weight, float gradient) {
    const float push = rate * gradient;
    velocity[j] = momentum * velocity[j] - push;
    return weight + (nesterov != 0 ? momentum * velocity[j] - push : velocity[j]);
  }
};

struct Ftrl : Rule {
  const float power, l1, l2, beta, shrinkage, rate;
  const int64_t dim;
  float *accumulator, *linear;
  explicit Ftrl(const Step& s)
      : power(-s.hyper[0]), l1(s.hyper[1]), l2(s.hyper[2]), beta(s.hyper[3]), shrinkage(s.hyper[4]),
        rate(s.rate), dim(s.dim) {}
  void Begin(float* slots, const float*) {
    accumulator = slots;
    linear = slots + dim;
  }
  float Raised(float value) const { return power == 0.5f ? std::sqrt(value) : std::pow(value, power); }
  float Value(int64_t j, float weight, float gradient) {
    const float before = Raised(accumulator[j]);
    accumulator[j] += gradient * gradient;
    const float after = Raised(accumulator[j]);
    linear[j] += gradient + 2.0f * shrinkage * weight - (after - before) / rate * weight;
    return (std::clamp(linear[j], -l1, l1) - linear[j]) / ((after + beta) / rate + 2.0f * l2);
  }
};

// trainer/optimizers/sm3_maths.py; slots: accumulator, its step (with beta), momentum (with momentum).
struct Sm3 : Rule {
  const float momentum, beta, step, rate;
  const int64_t dim;
  const float* columns;
  float* touched;
  float *slots, *trace;
  float row, largest;
  explicit Sm3(const Step& s)
      : momentum(s.hyper[0]), beta(s.hyper[1]), step(s.step), rate(s.rate), dim(s.dim), columns(s.columns),
        touched(s.touched) {}
  void Begin(float* of_row, const float*) {
    slots = of_row;
    trace = slots + (beta > 0 ? 2 : 1);
    row = slots[0];
    largest = 0.0f;
    if (beta > 0) {
      row *= static_cast<float>(std::exp((step - 1.0 - slots[1]) * std::log(static_cast<double>(beta))));
      slots[1] = step;
    }
  }
  float Value(int64_t j, float weight, float gradient) {
    const float bound = std::min(row, columns[j]), square = gradient * gradient;
    const float nu = beta > 0 ? beta * bound + (1.0f - beta) * square : bound + square;
    largest = std::max(largest, nu);
    touched[j] = std::max(touched[j], nu);
    float update = nu > 0 ? gradient / std::sqrt(nu) : 0.0f;
    if (momentum > 0) update = trace[j] = momentum * trace[j] + (1.0f - momentum) * update;
    return weight - rate * update;
  }
  void End() { slots[0] = largest; }
};

// What an exponential average takes of the weight of a row that has waited for a number of steps: 1 - decay ^ steps.
class Waits {
 public:
  explicit Waits(float decay) : log_decay_(std::log(std::max<double>(decay, 1e-30))), known_(kKnown) {
    for (int64_t steps = 0; steps < kKnown; ++steps) known_[steps] = Computed(steps);
  }
  float Share(float steps) const {
    const int64_t whole = static_cast<int64_t>(steps);
    return whole < kKnown && whole == steps ? known_[whole] : Computed(steps);
  }

 private:
  static constexpr int64_t kKnown = 1 << 14;  // an exponential for each row would take longer than its update

  __attribute__((noinline)) float Computed(float steps) const {
    return static_cast<float>(-std::expm1(steps * log_decay_));
  }

  const double log_decay_;
  std::vector<float> known_;
};

// Polyak averages, as in trainer/averages.py.
struct Average {
  int kind;  // 0: none, 1: exponential, 2: uniform
  float start, step;
  const Waits& waits;
  float share;   // of the new weight in the average
  float behind;  // of the old weight when this row's average is caught up
  Average(int kind, float decay, float start, float step, const Waits& waits)
      : kind(kind), start(start), step(step), waits(waits) {
    share = kind == 1 ? (step > start ? 1.0f - decay : 1.0f) : 1.0f / std::max(step - start, 1.0f);
  }
  void Begin(float last) {
    const float since = std::max(step - 1.0f - std::max(last, start), 0.0f);
    if (kind == 1) {
      behind = waits.Share(since);
    } else {
      const float seen = std::max(last - start, 0.0f);
      behind = since > 0 ? since / (seen + since) : 0.0f;
    }
  }
  float Value(float average, float before, float after) const {
    average += behind * (before - average);
    return average + share * (after - average);
  }
};

// kDim: the width of a row's weight, if the compiler is to know it; 0: any.
template <class Kind, bool kAveraged, int64_t kDim>
void UpdateRows(const Step& given, Average average, float* records, int64_t width, const int64_t* ids,
                const Parts& gradients, int64_t begin, int64_t end) {
  Step told = given;
  if (kDim > 0) told.dim = kDim;
  Kind rule(told);
  const int64_t dim = told.dim;
  std::vector<float> sum(dim);
  const float clip = told.clip, decay = told.decay;
  for (int64_t i = begin; i < end; ++i) {
    if (i + kUpdateAhead < end) {
      const float* next = records + ids[i + kUpdateAhead] * width;
      for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(next + j, 1);
      gradients.Fetch(i + kUpdateAhead);
    }
    float* __restrict__ weight = records + ids[i] * width;
    const float* __restrict__ gradient = gradients.Of(i, sum.data());
    float* __restrict__ mean = weight + width - 1 - dim;
    rule.Begin(weight + dim, gradient);
    if (kAveraged) average.Begin(weight[width - 1]);
    const auto one = [&](int64_t j) __attribute__((always_inline)) {
      const float g = std::min(std::max(gradient[j], -clip), clip);
      const float before = weight[j];
      const float after = rule.Value(j, before, g) - decay * before;
      if (kAveraged) mean[j] = average.Value(mean[j], before, after);
      weight[j] = after;
    };
    int64_t whole = 0;
    for (; whole + kUpdateValues <= dim; whole += kUpdateValues) {
#pragma GCC ivdep
      for (int64_t j = 0; j < kUpdateValues; ++j) one(whole + j);
    }
    for (int64_t j = whole; j < dim; ++j) one(j);
    rule.End();
    weight[width - 1] = told.step;
  }
}

using Update = void (*)(const Step&, Average, float*, int64_t, const int64_t*, const Parts&, int64_t, int64_t);

template <class Kind, int64_t kDim = 0>
Update Chosen(bool averaged) {
  return averaged ? &UpdateRows<Kind, true, kDim> : &UpdateRows<Kind, false, kDim>;
}

template <class Kind>
Update OfDim(int64_t dim, bool averaged) {
  if (dim == 16) return Chosen<Kind, 16>(averaged);
  if (dim == 32) return Chosen<Kind, 32>(averaged);
  if (dim == 64) return Chosen<Kind, 64>(averaged);
  if (dim == 128) return Chosen<Kind, 128>(averaged);
  return Chosen<Kind>(averaged);
}

Update Find(const std::string& kind, const std::vector<float>& hyper, bool averaged, int64_t dim) {
  if (kind == "lazy_adam") {
    const bool own = hyper[3] == kByOwnCount, amsgrad = hyper[4] != 0;
    if (own) return amsgrad ? Chosen<LazyAdam<true, true>>(averaged) : Chosen<LazyAdam<false, true>>(averaged);
    return amsgrad ? Chosen<LazyAdam<true, false>>(averaged) : OfDim<LazyAdam<false, false>>(dim, averaged);
  }
  if (kind == "adagrad") return Chosen<Adagrad>(averaged);
  if (kind == "rowwise_adagrad") return Chosen<RowwiseAdagrad>(averaged);
  if (kind == "sgd") return Chosen<Sgd>(averaged);
  if (kind == "momentum") return Chosen<Momentum>(averaged);
  if (kind == "ftrl") return Chosen<Ftrl>(averaged);
  if (kind == "sm3") return Chosen<Sm3>(averaged);
  return nullptr;
}

class UpdateOp : public OpKernel {
 public:
  explicit UpdateOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("kind", &kind_));
    OP_REQUIRES_OK(context, context->GetAttr("hyper", &hyper_));
    OP_REQUIRES_OK(context, context->GetAttr("clip", &clip_));
    OP_REQUIRES_OK(context, context->GetAttr("weight_decay", &weight_decay_));
    OP_REQUIRES_OK(context, context->GetAttr("average", &average_));
    OP_REQUIRES_OK(context, context->GetAttr("average_decay", &average_decay_));
    OP_REQUIRES_OK(context, context->GetAttr("average_start", &average_start_));
    waits_ = std::make_unique<Waits>(average_decay_);
    if (clip_ <= 0) clip_ = std::numeric_limits<float>::infinity();
    OP_REQUIRES(context, Find(kind_, hyper_, average_ != 0, 0) != nullptr, errors::InvalidArgument("no rule ", kind_));
  }

  void Compute(OpKernelContext* context) override {
    core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &variable));
    mutex_lock lock(*variable->mu());
    Tensor* records = variable->tensor();
    OP_REQUIRES(context, records->RefCountIsOne(), errors::Internal("the records are being read as a whole"));
    const Tensor &ids = context->input(1), &gradient = context->input(2);
    const int64_t number = ids.NumElements(), rows = records->dim_size(0), width = records->dim_size(1);
    const int64_t* id = ids.flat<int64_t>().data();
    const int64_t wrong = FirstOutside(id, number, rows);
    OP_REQUIRES(context, wrong < 0, errors::InvalidArgument("id ", id[wrong], " is not in [0, ", rows, ")"));
    const auto where = context->input(3).flat<int32_t>();
    const int64_t lost = FirstOutside(where.data(), where.size(), number);
    OP_REQUIRES(context, lost < 0, errors::InvalidArgument("no row ", where(lost)));
    const float step = context->input(4).scalar<float>()(), rate = context->input(5).scalar<float>()();
    const int64_t parts = where.size() > 0 ? where.size() : number;
    OP_REQUIRES(context, gradient.dims() == 2 && gradient.dim_size(0) == parts && gradient.dim_size(1) < width,
                errors::InvalidArgument("gradients ", gradient.shape().DebugString(), " of ", number, " records of ",
                                        width, " values, ", where.size(), " parts"));
    const int64_t dim = gradient.dim_size(1);
    core::RefCountPtr<Var> shared;
    float* columns = nullptr;
    if (context->num_inputs() > 6) {
      OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 6), &shared));
      mutex_lock shared_lock(*shared->mu());
      // Always use a new buffer: a variable that was assigned another's value may share its buffer.
      Tensor own;
      OP_REQUIRES_OK(context, context->allocate_temp(DT_FLOAT, shared->tensor()->shape(), &own));
      std::copy_n(shared->tensor()->flat<float>().data(), dim, own.flat<float>().data());
      *shared->tensor() = own;
      columns = own.flat<float>().data();
    }
    const std::vector<float> before(columns, columns == nullptr ? columns : columns + dim);
    // Untouched rows still contribute to the columns' maximum: keep the old value, decayed like those rows.
    const float beta = columns != nullptr && hyper_[1] > 0 ? hyper_[1] : 1.0f;
    for (int64_t j = 0; columns != nullptr && j < dim; ++j) columns[j] *= beta;
    const Average average(average_, average_decay_, average_start_, step, *waits_);
    float* values = records->flat<float>().data();
    Snapshots::Keep(values, id, number);
    const float* given = gradient.flat<float>().data();
    const Parts gradients =
        where.size() > 0 ? Parts(given, dim, where.data(), parts, number) : Parts(given, dim);
    const Update update = Find(kind_, hyper_, average_ != 0, dim);
    mutex merging;
    Parallel(context, number, kUpdateRows, [&](int64_t begin, int64_t end) {
      std::vector<float> touched(before.size(), 0.0f);
      const Step told{hyper_.data(), dim,           step, rate, clip_, rate * weight_decay_,
                      before.data(), touched.data()};
      update(told, average, values, width, id, gradients, begin, end);
      if (columns == nullptr) return;
      mutex_lock merge(merging);  // a maximum is the same in any order
      for (int64_t j = 0; j < dim; ++j) columns[j] = std::max(columns[j], touched[j]);
    });
  }

 private:
  std::string kind_;
  std::vector<float> hyper_;
  float clip_, weight_decay_, average_decay_, average_start_;
  int average_;
  std::unique_ptr<const Waits> waits_;
};

REGISTER_OP("LazytowerUpdate")
    .Input("records: resource")
    .Input("ids: int64")
    .Input("gradient: float")
    .Input("where: int32")
    .Input("step: float")
    .Input("rate: float")
    .Input("shared: count * resource")
    .Attr("count: int >= 0")
    .Attr("kind: string")
    .Attr("hyper: list(float)")
    .Attr("clip: float")
    .Attr("weight_decay: float")
    .Attr("average: int")
    .Attr("average_decay: float")
    .Attr("average_start: float")
    .SetIsStateful();
REGISTER_KERNEL_BUILDER(Name("LazytowerUpdate").Device(DEVICE_CPU), UpdateOp);

}  // namespace
}  // namespace lazytower
