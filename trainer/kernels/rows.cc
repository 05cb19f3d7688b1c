// Rows of embedding tables as records, [weight | slots | average | last step]: lookup and update in place.
//
// The formulas are those of trainer/optimizers and trainer/averages.py, which cite their sources. Rows are split among
// threads; no sum depends on which thread computes it, so results do not depend on the number of threads.

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "work.h"

namespace lazytower {
namespace {

using namespace tensorflow;  // NOLINT
using shape_inference::InferenceContext;

constexpr int64_t kLookupAhead = 8;        // how many rows ahead of the current one to prefetch
constexpr int64_t kSlotsAhead = 8;         // how many ids ahead of the current one to prefetch
constexpr int64_t kRowsAtATime = 512;      // rows that a thread takes at a time

// Memory of a table, on huge pages if the system has them: they avoid most of the misses in the page tables.
class HugeBuffer : public TensorBuffer {
 public:
  static HugeBuffer* Make(size_t bytes) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) return nullptr;
    madvise(data, bytes, MADV_HUGEPAGE);  // only a hint: without huge pages, the table is slower but still correct
    return new HugeBuffer(data, bytes);
  }
  ~HugeBuffer() override { munmap(data(), bytes_); }
  size_t size() const override { return bytes_; }
  TensorBuffer* root_buffer() override { return this; }
  void FillAllocationDescription(AllocationDescription*) const override {}

 private:
  HugeBuffer(void* data, size_t bytes) : TensorBuffer(data), bytes_(bytes) {}
  const size_t bytes_;
};

class AllocateOp : public OpKernel {
 public:
  explicit AllocateOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("rows", &rows_));
    OP_REQUIRES_OK(context, context->GetAttr("width", &width_));
  }
  void Compute(OpKernelContext* context) override {
    core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &variable));
    HugeBuffer* buffer = HugeBuffer::Make(std::max<int64_t>(rows_ * width_, 1) * sizeof(float));
    OP_REQUIRES(context, buffer != nullptr, errors::ResourceExhausted("no memory for ", rows_, " x ", width_));
    mutex_lock lock(*variable->mu());
    *variable->tensor() = Tensor(DT_FLOAT, TensorShape({rows_, width_}), buffer);
    variable->is_initialized = true;
    buffer->Unref();  // the tensor holds it
  }

 private:
  int64_t rows_, width_;
};

// Tables that a driver of a cluster keeps in this process, to be freed when another driver takes over: TensorFlow would
// keep those of a driver that has died. Weak, because they may be gone by then.
class Tracked {
 public:
  static Tracked* Get() {
    static Tracked* const tracked = new Tracked;
    return tracked;
  }
  void Add(Var* variable) {
    mutex_lock lock(mu_);
    variables_.emplace_back(variable);
  }
  int64_t Release() {
    mutex_lock lock(mu_);
    int64_t bytes = 0;
    for (const core::WeakPtr<Var>& weak : variables_) {
      const core::RefCountPtr<Var> variable = weak.GetNewRef();
      if (variable == nullptr) continue;
      mutex_lock own(*variable->mu());
      bytes += variable->tensor()->TotalBytes();
      *variable->tensor() = Tensor(DT_FLOAT, TensorShape({0, 0}));
    }
    variables_.clear();
    return bytes;
  }

 private:
  mutex mu_;
  std::vector<core::WeakPtr<Var>> variables_;
};

class TrackOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &variable));
    Tracked::Get()->Add(variable.get());
  }
};

Status CheckIds(const Tensor& ids, int64_t rows) {
  const auto values = ids.flat<int64_t>();
  const int64_t wrong = FirstOutside(values.data(), values.size(), rows);
  if (wrong < 0) return OkStatus();
  return errors::InvalidArgument("id ", values(wrong), " is not in [0, ", rows, ")");
}

inline void Fetch(const float* begin, int64_t values, bool write) {
  for (int64_t j = 0; j < values; j += 16) {
    if (write) {
      __builtin_prefetch(begin + j, 1);
    } else {
      __builtin_prefetch(begin + j, 0);
    }
  }
}

// The address of the records, for a benchmark that works on the same memory; a read by TensorFlow would copy them.
class AddressOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &variable));
    tf_shared_lock lock(*variable->mu());
    Tensor* address;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({}), &address));
    address->scalar<int64_t>()() = reinterpret_cast<int64_t>(variable->tensor()->flat<float>().data());
  }
};

// The first `dim` values of some rows.
class LookupOp : public OpKernel {
 public:
  explicit LookupOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("dim", &dim_));
  }
  void Compute(OpKernelContext* context) override {
    core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, 0), &variable));
    tf_shared_lock lock(*variable->mu());
    const Tensor& records = *variable->tensor();
    const Tensor& ids = context->input(1);
    OP_REQUIRES_OK(context, CheckIds(ids, records.dim_size(0)));
    const int64_t number = ids.NumElements(), width = records.dim_size(1), dim = dim_;
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({number, dim}), &output));
    const float* from = records.flat<float>().data();
    float* to = output->flat<float>().data();
    const int64_t* id = ids.flat<int64_t>().data();
    Parallel(context, number, kRowsAtATime, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (i + kLookupAhead < end) Fetch(from + id[i + kLookupAhead] * width, dim, false);
        std::memcpy(to + i * dim, from + id[i] * width, dim * sizeof(float));
      }
    });
  }

 private:
  int64_t dim_;
};

// Distinct values in the order of their first occurrence, like tf.unique, by open addressing.
class DistinctOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    const auto ids = context->input(0).flat<int64_t>();
    const int64_t number = ids.size();
    Tensor *distinct, *where;
    Tensor found;
    OP_REQUIRES_OK(context, context->allocate_temp(DT_INT64, TensorShape({number}), &found));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({number}), &where));
    auto first = found.flat<int64_t>();
    auto place = where->flat<int32_t>();
    int64_t slots = 16;
    while (slots < 4 * number) slots *= 2;  // mostly free, because a branch on a collision is hard to predict
    std::vector<int32_t> table(slots, -1);
    const auto slot_of = [](int64_t id) { return (static_cast<uint64_t>(id) * 0x9E3779B97F4A7C15ull) >> 32; };
    int32_t count = 0;
    for (int64_t i = 0; i < number; ++i) {
      if (i + kSlotsAhead < number) __builtin_prefetch(&table[slot_of(ids(i + kSlotsAhead)) & (slots - 1)], 1);
      for (uint64_t slot = slot_of(ids(i));; ++slot) {
        int32_t& seen = table[slot & (slots - 1)];
        if (seen < 0) {
          seen = count;
          first(count++) = ids(i);
        }
        if (first(seen) == ids(i)) {
          place(i) = seen;
          break;
        }
      }
    }
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({count}), &distinct));
    std::copy_n(first.data(), count, distinct->flat<int64_t>().data());
  }
};

// Sum of the values of each segment.
class SumRowsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    const Tensor &values = context->input(0), &where = context->input(1), &from = context->input(3);
    const int64_t number = where.NumElements(), dim = values.dim_size(1), sources = from.NumElements();
    OP_REQUIRES(context, sources == number || (sources == 0 && values.dim_size(0) == number),
                errors::InvalidArgument(number, " places of other values"));
    const int64_t segments = context->input(2).scalar<int32_t>()();
    const int32_t* place = where.flat<int32_t>().data();
    const int64_t lost = FirstOutside(place, number, segments);
    OP_REQUIRES(context, lost < 0, errors::InvalidArgument("no segment ", place[lost]));
    const int32_t* source = sources > 0 ? from.flat<int32_t>().data() : nullptr;
    const int64_t missing = FirstOutside(source, sources, values.dim_size(0));
    OP_REQUIRES(context, missing < 0, errors::InvalidArgument("no value ", source[missing]));
    Tensor* output;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({segments, dim}), &output));
    float* to = output->flat<float>().data();
    const Parts parts(values.flat<float>().data(), dim, place, number, segments, source);
    Parallel(context, segments, kRowsAtATime, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* sum = parts.Of(i, to + i * dim);
        if (sum != to + i * dim) std::memcpy(to + i * dim, sum, dim * sizeof(float));
      }
    });
  }
};

REGISTER_OP("LazytowerAllocate").Input("records: resource").Attr("rows: int").Attr("width: int").SetIsStateful();
REGISTER_OP("LazytowerTrack").Input("records: resource").SetIsStateful();
REGISTER_OP("LazytowerAddress").Input("records: resource").Output("address: int64").SetIsStateful();
REGISTER_OP("LazytowerLookup")
    .Input("records: resource")
    .Input("ids: int64")
    .Output("weight: float")
    .Attr("dim: int")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      int64_t dim;
      TF_RETURN_IF_ERROR(c->GetAttr("dim", &dim));
      c->set_output(0, c->Matrix(c->NumElements(c->input(1)), dim));
      return OkStatus();
    });
REGISTER_OP("LazytowerDistinct")
    .Input("ids: int64")
    .Output("distinct: int64")
    .Output("where: int32")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Vector(c->UnknownDim()));
      c->set_output(1, c->input(0));
      return OkStatus();
    });
REGISTER_OP("LazytowerSumRows")
    .Input("values: float")
    .Input("where: int32")
    .Input("segments: int32")
    .Input("source: int32")
    .Output("sums: float")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Matrix(c->UnknownDim(), c->Dim(c->input(0), 1)));
      return OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("LazytowerAllocate").Device(DEVICE_CPU), AllocateOp);
REGISTER_KERNEL_BUILDER(Name("LazytowerTrack").Device(DEVICE_CPU), TrackOp);
REGISTER_KERNEL_BUILDER(Name("LazytowerAddress").Device(DEVICE_CPU), AddressOp);
REGISTER_KERNEL_BUILDER(Name("LazytowerLookup").Device(DEVICE_CPU), LookupOp);
REGISTER_KERNEL_BUILDER(Name("LazytowerDistinct").Device(DEVICE_CPU), DistinctOp);
REGISTER_KERNEL_BUILDER(Name("LazytowerSumRows").Device(DEVICE_CPU), SumRowsOp);

}  // namespace
}  // namespace lazytower

// Frees all tracked tables; returns their bytes. Called by Python itself, without TensorFlow.
extern "C" int64_t lazytower_release() { return lazytower::Tracked::Get()->Release(); }
