// Dot products of all pairs of a row's vectors, and their gradient; trainer/models/interactions.py has the order.
//
// The products of one vector with all before it are computed side by side, from the vectors as columns. The gradient
// of a vector is the sum of the others, weighted. Rows are split among threads and do not depend on each other.

#include <cstring>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "vectors.h"
#include "work.h"

namespace lazytower {
namespace {

using namespace tensorflow;  // NOLINT

constexpr int64_t kProductRows = 128;  // rows that a thread takes at a time

inline int64_t Pairs(int64_t number) { return number * (number - 1) / 2; }

class ProductsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    const Tensor& vectors = context->input(0);
    OP_REQUIRES(context, vectors.dims() == 3, errors::InvalidArgument("vectors must be [rows, number, dim]"));
    const int64_t rows = vectors.dim_size(0), number = vectors.dim_size(1), dim = vectors.dim_size(2);
    Tensor* products;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({rows, Pairs(number)}), &products));
    const float* from = vectors.flat<float>().data();
    float* to = products->flat<float>().data();
    Parallel(context, rows, kProductRows, [=](int64_t begin, int64_t end) {
      const int64_t padded = Padded(number, kWide);
      std::vector<float> columns(dim * padded), sums(padded);
      for (int64_t r = begin; r < end; ++r) {
        Row(from + r * number * dim, number, dim, padded, columns.data(), sums.data(), to + r * Pairs(number));
      }
    });
  }

 private:
  static void Row(const float* row, int64_t number, int64_t dim, int64_t padded, float* columns, float* sums,
                  float* products) {
    for (int64_t i = 0; i < number; ++i) {
      for (int64_t d = 0; d < dim; ++d) columns[d * padded + i] = row[i * dim + d];
    }
    for (int64_t i = 1; i < number; products += i++) {
      for (int64_t j = 0; j < i; j += kWide) {
        Floats sum{};
        for (int64_t d = 0; d < dim; ++d) {
          sum += row[i * dim + d] * *reinterpret_cast<const Floats*>(columns + d * padded + j);
        }
        *reinterpret_cast<Floats*>(sums + j) = sum;
      }
      std::memcpy(products, sums, i * sizeof(float));
    }
  }
};

class ProductsGradientOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    const Tensor &vectors = context->input(0), &above = context->input(1);
    OP_REQUIRES(context, vectors.dims() == 3, errors::InvalidArgument("vectors must be [rows, number, dim]"));
    const int64_t rows = vectors.dim_size(0), number = vectors.dim_size(1), dim = vectors.dim_size(2);
    OP_REQUIRES(context, above.shape() == TensorShape({rows, Pairs(number)}),
                errors::InvalidArgument("gradients must be [rows, pairs]"));
    Tensor* gradient;
    OP_REQUIRES_OK(context, context->allocate_output(0, vectors.shape(), &gradient));
    const float *from = vectors.flat<float>().data(), *slopes = above.flat<float>().data();
    float* to = gradient->flat<float>().data();
    Parallel(context, rows, kProductRows, [=](int64_t begin, int64_t end) {
      std::vector<float> weights(number * number);  // symmetric; the diagonal stays 0
      for (int64_t r = begin; r < end; ++r) {
        const float* slope = slopes + r * Pairs(number);
        for (int64_t i = 1; i < number; slope += i++) {
          for (int64_t j = 0; j < i; ++j) weights[i * number + j] = weights[j * number + i] = slope[j];
        }
        Row(from + r * number * dim, number, dim, weights.data(), to + r * number * dim);
      }
    });
  }

 private:
  static void Row(const float* row, int64_t number, int64_t dim, const float* weights, float* gradient) {
    for (int64_t i = 0; i < number; ++i, weights += number, gradient += dim) {
      int64_t d = 0;
      for (; d + kWide <= dim; d += kWide) Sum<Floats>(row + d, number, dim, weights, gradient + d);
      for (; d + kNarrow <= dim; d += kNarrow) Sum<Short>(row + d, number, dim, weights, gradient + d);
      for (; d < dim; ++d) Sum<float>(row + d, number, dim, weights, gradient + d);
    }
  }

  template <typename Values>
  static void Sum(const float* row, int64_t number, int64_t dim, const float* weights, float* gradient) {
    Values sums[2]{};  // two, so that an addition need not wait for the one before
    int64_t j = 0;
    for (; j + 2 <= number; j += 2) {
      sums[0] += weights[j] * Load<Values>(row + j * dim);
      sums[1] += weights[j + 1] * Load<Values>(row + (j + 1) * dim);
    }
    if (j < number) sums[0] += weights[j] * Load<Values>(row + j * dim);
    sums[0] += sums[1];
    std::memcpy(gradient, sums, sizeof(Values));
  }

  // As a template argument, a vector's type loses its attributes: a pointer to it would have to be aligned.
  template <typename Values>
  static Values Load(const float* from) {
    Values values;
    std::memcpy(&values, from, sizeof values);
    return values;
  }
};

REGISTER_OP("LazytowerProducts")
    .Input("vectors: float")
    .Output("products: float")
    .SetShapeFn([](shape_inference::InferenceContext* c) {
      shape_inference::ShapeHandle vectors;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 3, &vectors));
      auto pairs = c->UnknownDim();
      if (c->ValueKnown(c->Dim(vectors, 1))) pairs = c->MakeDim(Pairs(c->Value(c->Dim(vectors, 1))));
      c->set_output(0, c->Matrix(c->Dim(vectors, 0), pairs));
      return OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("LazytowerProducts").Device(DEVICE_CPU), ProductsOp);

REGISTER_OP("LazytowerProductsGradient")
    .Input("vectors: float")
    .Input("above: float")
    .Output("gradient: float")
    .SetShapeFn([](shape_inference::InferenceContext* c) {
      c->set_output(0, c->input(0));
      return OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("LazytowerProductsGradient").Device(DEVICE_CPU), ProductsGradientOp);

}  // namespace
}  // namespace lazytower
