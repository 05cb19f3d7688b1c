// Rows of a table from records of the run that it starts from; the rule is that of trainer/warm_start/records.py.

#include <cstdint>
#include <cstring>

// Writes a record [weight | slots | average | 0] into the memory of a table for each record of another table that goes
// there. Called by Python itself, without TensorFlow: its tensors would hold copies of the records.
//
//   number, dim, slots: of records, and how many values of each are weights and slots
//   from, width: records [number, width] that begin with weight and slots
//   average: of the first record, among `from`; null: the weight is taken as it is
//   factor: [number], of the difference between average and weight
//   onto_average: whether the difference is added to the average instead of to the weight
//   clocks: [num_clocks], slots that hold a step, from which `step` is subtracted
//   rows: [number], where each record goes; -1: nowhere
//   to, to_width: the table
// Products and sums are rounded one by one, as TensorFlow's ops do: the averages must be those of evaluation to the
// last bit. By default the compiler would join them into one instruction that rounds once. Only here: all kernels are
// compiled as one file.
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
extern "C" void lazytower_start_rows(int64_t number, int64_t dim, int64_t slots, const float* from, int64_t width,
                                     const float* average, const float* factor, int32_t onto_average,
                                     const int64_t* clocks, int64_t num_clocks, float step, const int64_t* rows,
                                     float* to, int64_t to_width) {
#pragma clang fp contract(off)
  const bool averaged = to_width > dim + slots + 1;
  for (int64_t i = 0; i < number; ++i) {
    if (rows[i] < 0) continue;
    const float* record = from + i * width;
    float* __restrict__ made = to + rows[i] * to_width;
    if (average == nullptr) {
      std::memcpy(made, record, dim * sizeof(float));
    } else {
      const float* other = average + i * width;
      const float* __restrict__ base = onto_average ? other : record;
      const float* __restrict__ end = onto_average ? record : other;
      const float share = factor[i];
      for (int64_t j = 0; j < dim; ++j) made[j] = base[j] + share * (end[j] - base[j]);
    }
    std::memcpy(made + dim, record + dim, slots * sizeof(float));
    for (int64_t j = 0; j < num_clocks; ++j) made[dim + clocks[j]] -= step;
    if (averaged) std::memcpy(made + dim + slots, made, dim * sizeof(float));
    made[to_width - 1] = 0.0f;
  }
}
#pragma GCC pop_options
