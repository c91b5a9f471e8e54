// cuBLAS and NCCL that compute and move nothing.
//
//   PHANTOM_NO_CUBLAS=1    cublasCreate finds no memory
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;

static int make(void **out) {
  *out = calloc(1, 4096);
  return 0;
}
static int product(void) { return 0; }
int cublasCreate_v2(void **h) { return getenv("PHANTOM_NO_CUBLAS") ? 3 : make(h); }
int cublasLtCreate(void **h) { return make(h); }
int cublasGetMathMode(void *h, int *mode) { return *mode = 0; }
int cublasGetPointerMode_v2(void *h, int *mode) { return *mode = 0; }
int cublasGetVersion_v2(void *h, int *version) {
  *version = 120804;
  return 0;
}
int cublasLtMatmulAlgoGetHeuristic(void *h, void *o, void *a, void *b, void *c, void *d, void *p,
                                   int wanted, char *results, int *count) {
  memset(results, 0, 128);
  *count = 1;
  return 0;
}
int cublasLtMatmulDescCreate(void **d, int compute, int scale) { return make(d); }
int cublasLtMatrixLayoutCreate(void **d, int type, u64 rows, u64 columns, long long leading) {
  return make(d);
}
int cublasLtMatmulPreferenceCreate(void **d) { return make(d); }
int cublasGemmEx(void) { return product(); }
int cublasLtMatmul(void) { return product(); }
int cublasGemmStridedBatchedEx(void) { return product(); }
int ncclGetVersion(int *version) {
  *version = 22705;
  return 0;
}
const char *ncclGetErrorString(int error) { return "an error of the stand-in's NCCL"; }
const char *ncclGetLastError(void *communicator) { return ""; }
int ncclCommInitAll(void **c, int count, const int *devices) {
  for (int i = 0; i < count; i++) make(&c[i]);
  return 0;
}
int ncclCommInitRank(void **c) { return make(c); }
int ncclCommInitRankConfig(void **c) { return make(c); }
int ncclCommGetAsyncError(void *c, int *error) { return *error = 0; }

#include "stubs.inc" // every other function that torch and bitsandbytes link to: it returns 0
