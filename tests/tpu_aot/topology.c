/* Answers, for libtpu, the one question about chips that lowering a SparseCore's ops asks: how many SparseCores a
 * chip has. TensorFlow loads this library in libtpu's place (TPU_LIBRARY_PATH) and looks functions up in it first,
 * then in libtpu, which it is linked to. */
#include <stdint.h>
#include <stdlib.h>

/* An absl::StatusOr<int>, returned through a pointer: a status word, 1 for OK, then the value. */
void *TpuTopology_MaybeAvailableSparseCoresPerLogicalDevice(void *result, int core_type) {
  const char *cores = getenv("LAZYTOWER_SPARSE_CORES");
  (void)core_type;
  ((uintptr_t *)result)[0] = 1;
  ((int64_t *)result)[1] = cores ? atoi(cores) : 0;
  return result;
}
