// The items with the largest dot products for each user: products and selection in one pass, without a matrix of scores.
//
// Items come in panels of 32, transposed: [panels, dim, 32]. The products of a panel with a few users stay in registers
// and are compared with the user's bar, the k-th best score so far. The few that exceed it join the user's candidates,
// which are cut to the k best when there is no more room, and that raises the bar. Panels come in the order of their
// rows, so of equal scores the lower row is there first, and a score equal to the bar never displaces it. A product is a
// sum over dimensions in their order: it depends neither on the users beside it nor on the number of threads.

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "vectors.h"
#include "work.h"

namespace lazytower {
namespace {

using namespace tensorflow;  // NOLINT

constexpr int64_t kPanel = 32;  // items whose products are computed side by side
constexpr int kParts = kPanel / kWide;
#if defined(__AVX512F__)
constexpr int kTogether = 8;  // users whose products with a panel fill the registers
#elif defined(__AVX__)
constexpr int kTogether = 3;
#else
constexpr int kTogether = 1;
#endif
constexpr int64_t kTileBytes = 16 << 10;  // panels that stay in the core's first cache while users pass
constexpr int64_t kBlockUsers = 126;      // users of a thread for one pass over the items
constexpr float kNoScore = std::numeric_limits<float>::lowest();

// Bit i: whether values[i] > bar; never of a NaN.
inline uint32_t Above(const float* values, float bar) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(_mm512_loadu_ps(values), _mm512_set1_ps(bar), _CMP_GT_OQ);
#elif defined(__AVX__)
  return _mm256_movemask_ps(
      _mm256_cmp_ps(_mm256_loadu_ps(values), _mm256_set1_ps(bar), _CMP_GT_OQ));
#elif defined(__SSE2__)
  return _mm_movemask_ps(_mm_cmpgt_ps(_mm_loadu_ps(values), _mm_set1_ps(bar)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kWide; ++i) bits |= static_cast<uint32_t>(values[i] > bar) << i;
  return bits;
#endif
}

// A score and a place in one number: larger is better, by score, then by the lower place.
inline uint64_t Packed(float score, uint32_t place) {
  score += 0.0f;  // -0 equals 0
  uint32_t bits;
  std::memcpy(&bits, &score, sizeof bits);
  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - place);
}

inline float ScoreOf(uint64_t packed) {
  uint32_t bits = packed >> 32;
  bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
  float score;
  std::memcpy(&score, &bits, sizeof score);
  return score;
}

inline uint32_t PlaceOf(uint64_t packed) { return 0xffffffffu - static_cast<uint32_t>(packed); }

// The best items of one user so far.
struct Best {
  float bar = kNoScore;
  int64_t size = 0, next = 0;      // `next`: the first banned row that may still come
  uint64_t* found = nullptr;       // [room]
  std::vector<int32_t> banned;     // rising; ends with a row that no item has

  // Adds the products of a panel whose bits are set; `first` is the place of its first item.
  void Add(uint32_t bits, const float* products, int64_t first, const int32_t* rows, int64_t k, int64_t room) {
    for (; bits != 0; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      const int32_t row = rows[first + lane];
      while (banned[next] < row) ++next;
      if (banned[next] == row) continue;
      if (size == room) Cut(k);
      found[size++] = Packed(products[lane], first + lane);
    }
  }

  void Cut(int64_t k) {
    std::nth_element(found, found + k - 1, found + size, std::greater<uint64_t>());
    size = k;
    bar = ScoreOf(found[k - 1]);
  }
};

// What all threads read.
struct Search {
  const float *users, *panels;
  const int32_t* rows;
  int64_t dim, items, k, room;

  // Products of kTogether users with a panel.
  void Products(const float* const* user, const float* panel, float* to) const {
    Floats sum[kTogether][kParts];
#pragma GCC unroll 8
    for (int u = 0; u < kTogether; ++u) {
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) sum[u][p] = Floats{};
    }
    for (int64_t d = 0; d < dim; ++d, panel += kPanel) {
      Floats part[kParts];
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) part[p] = *reinterpret_cast<const Floats*>(panel + p * kWide);
#pragma GCC unroll 8
      for (int u = 0; u < kTogether; ++u) {
        const float factor = user[u][d];
#pragma GCC unroll 8
        for (int p = 0; p < kParts; ++p) sum[u][p] += factor * part[p];
      }
    }
#pragma GCC unroll 8
    for (int u = 0; u < kTogether; ++u) {
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) *reinterpret_cast<Floats*>(to + u * kPanel + p * kWide) = sum[u][p];
    }
  }

  // Adds the panels begin .. end to what is known of `number` users.
  void Tile(int64_t begin, int64_t end, int64_t first_user, int64_t number, Best* best) const {
    for (int64_t u = 0; u < number; u += kTogether) {
      const int together = std::min<int64_t>(kTogether, number - u);
      const float* user[kTogether];
      for (int i = 0; i < kTogether; ++i) user[i] = users + (first_user + u + std::min(i, together - 1)) * dim;
      for (int64_t panel = begin; panel < end; ++panel) {
        float products[kTogether * kPanel];
        Products(user, panels + panel * dim * kPanel, products);
        const int64_t first = panel * kPanel, there = items - first;
        const uint32_t real = there >= kPanel ? ~0u : (1u << there) - 1;
        for (int i = 0; i < together; ++i) {
          uint32_t bits = 0;
          const float* mine = products + i * kPanel;
          for (int p = 0; p < kParts; ++p) bits |= Above(mine + p * kWide, best[u + i].bar) << (p * kWide);
          if (bits &= real) best[u + i].Add(bits, mine, first, rows, k, room);
        }
      }
    }
  }
};

class TopKOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    const Tensor &users = context->input(0), &panels = context->input(1), &rows = context->input(2);
    const Tensor &owners = context->input(3), &banned = context->input(4);
    const int64_t k = context->input(5).scalar<int32_t>()(), number = users.dim_size(0);
    OP_REQUIRES(context, users.dims() == 2 && panels.dims() == 3 && panels.dim_size(2) == kPanel &&
                             panels.dim_size(1) == users.dim_size(1),
                errors::InvalidArgument("users must be [n, dim], panels [number, dim, 32]"));
    OP_REQUIRES(context, panels.dim_size(0) == (rows.NumElements() + kPanel - 1) / kPanel,
                errors::InvalidArgument("rows do not belong to the panels"));
    OP_REQUIRES(context, owners.NumElements() == banned.NumElements() && k >= 1,
                errors::InvalidArgument("banned rows need an owner each, and k must be at least 1"));
    Tensor *scores, *found;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({number, k}), &scores));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({number, k}), &found));
    std::vector<std::vector<int32_t>> without(number);
    for (int64_t i = 0; i < banned.NumElements(); ++i) {
      const int64_t owner = owners.flat<int64_t>()(i);
      OP_REQUIRES(context, owner >= 0 && owner < number, errors::InvalidArgument("a banned row has no owner"));
      without[owner].push_back(static_cast<int32_t>(banned.flat<int64_t>()(i)));
    }
    const Search search{users.flat<float>().data(), panels.flat<float>().data(), rows.flat<int32_t>().data(),
                        users.dim_size(1),          rows.NumElements(),          k,
                        2 * k + kPanel};
    float* to_scores = scores->flat<float>().data();
    int32_t* to_rows = found->flat<int32_t>().data();
    const int64_t threads = context->device()->tensorflow_cpu_worker_threads()->num_threads;
    const int64_t block = std::clamp<int64_t>(Padded((number + threads - 1) / threads, kTogether), 1, kBlockUsers);
    Parallel(context, number, block, [&](int64_t begin, int64_t end) {
      Block(search, begin, end - begin, without.data() + begin, to_scores + begin * k, to_rows + begin * k);
    });
  }

 private:
  static void Block(const Search& search, int64_t first, int64_t number, std::vector<int32_t>* without, float* scores,
                    int32_t* rows) {
    std::vector<Best> best(number);
    std::vector<uint64_t> found(number * search.room);
    for (int64_t u = 0; u < number; ++u) {
      best[u].found = found.data() + u * search.room;
      best[u].banned = std::move(without[u]);
      std::sort(best[u].banned.begin(), best[u].banned.end());
      best[u].banned.push_back(std::numeric_limits<int32_t>::max());
    }
    const int64_t panels = (search.items + kPanel - 1) / kPanel;
    const int64_t tile = std::max<int64_t>(1, kTileBytes / (4 * kPanel * std::max<int64_t>(1, search.dim)));
    for (int64_t panel = 0; panel < panels; panel += tile) {
      search.Tile(panel, std::min(panels, panel + tile), first, number, best.data());
    }
    for (int64_t u = 0; u < number; ++u, scores += search.k, rows += search.k) {
      Best& mine = best[u];
      if (mine.size > search.k) mine.Cut(search.k);
      std::sort(mine.found, mine.found + mine.size, std::greater<uint64_t>());
      for (int64_t i = 0; i < search.k; ++i) {
        const bool there = i < mine.size;
        scores[i] = there ? ScoreOf(mine.found[i]) : kNoScore;
        rows[i] = there ? search.rows[PlaceOf(mine.found[i])] : -1;
      }
    }
  }
};

REGISTER_OP("LazytowerTopK")
    .Input("users: float")
    .Input("panels: float")
    .Input("rows: int32")
    .Input("owners: int64")
    .Input("banned: int64")
    .Input("k: int32")
    .Output("scores: float")
    .Output("found: int32")
    .SetShapeFn([](shape_inference::InferenceContext* c) {
      const auto shape = c->Matrix(c->Dim(c->input(0), 0), c->UnknownDim());
      c->set_output(0, shape);
      c->set_output(1, shape);
      return OkStatus();
    });
REGISTER_KERNEL_BUILDER(Name("LazytowerTopK").Device(DEVICE_CPU), TopKOp);

}  // namespace
}  // namespace lazytower
