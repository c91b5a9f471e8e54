// A CUDA runtime that computes nothing. Loaded with LD_PRELOAD, it takes the place of cudart:
// kernels return at once, and device memory is address space that is only filled
// by copies. torch's dispatcher, caching allocator and errors above it are real.
//
//   PHANTOM_GPUS=1         cards                PHANTOM_GB=80        memory of each card, GiB
//   PHANTOM_SM=90          compute capability   PHANTOM_LOST=N       the card is lost at launch N
//   PHANTOM_WORDS=text     what CUDA says then (default: unspecified launch failure)
//   PHANTOM_FULL=N         a kernel of bitsandbytes at launch N or later finds no memory
#define _GNU_SOURCE
#include <dlfcn.h>
#include <driver_types.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE (2UL << 20)      // cudaMalloc hands out pages of 2 MiB
#define CONTEXT (500UL << 20) // what CUDA itself takes of a card
#define COPIED (1UL << 20)    // larger copies to the device are not made: they would fill the host
#define MAX_CARDS 16

typedef unsigned long long u64;
struct block {
  void *start;
  size_t size;
  int card;
  struct block *next;
};

static __thread int current = 0;
static __thread cudaError_t last = cudaSuccess;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t used[MAX_CARDS];
static struct block *blocks;
long phantom_launches;

static double number(const char *name, double otherwise) {
  const char *text = getenv(name);
  return text ? atof(text) : otherwise;
}
static int cards(void) { // CUDA_VISIBLE_DEVICES can hide some
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  int all = (int)number("PHANTOM_GPUS", 1), named = visible && *visible && *visible != '-';
  if (!visible) return all;
  for (const char *c = visible; *c; c++) named += *c == ',';
  return named < all ? named : all;
}
static size_t capacity(void) { return (size_t)(number("PHANTOM_GB", 80) * (1UL << 30)); }
static int capability(void) { return (int)number("PHANTOM_SM", 90); }
static cudaError_t fail(cudaError_t error) { return last = error; }
static long lost_at(void) {
  static long at = -1;
  if (at < 0) at = (long)number("PHANTOM_LOST", 0);
  return at;
}
static cudaError_t state(void) {
  int lost = lost_at() && phantom_launches >= lost_at();
  return lost ? fail(cudaErrorLaunchFailure) : cudaSuccess;
}

// --- devices ------------------------------------------------------------------------------------
cudaError_t cudaGetDeviceCount(int *count) {
  *count = cards();
  return *count ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDevice(int *card) {
  *card = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int card) {
  if (card < 0 || card >= cards()) return fail(cudaErrorInvalidDevice);
  if (CONTEXT > capacity()) return fail(cudaErrorMemoryAllocation);
  current = card;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
  *version = 12080;
  return cudaSuccess;
}
cudaError_t cudaGetLastError(void) {
  cudaError_t error = last;
  last = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError(void) { return last; }
const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorLaunchFailure: {
      const char *words = getenv("PHANTOM_WORDS");
      return words ? words : "unspecified launch failure";
    }
    default: return "an error of the stand-in";
  }
}
const char *cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorLaunchFailure";
}
cudaError_t cudaGetDeviceProperties_v2(struct cudaDeviceProp *p, int card) {
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "stand-in sm_%d", capability());
  p->totalGlobalMem = capacity();
  p->major = capability() / 10, p->minor = capability() % 10;
  p->multiProcessorCount = 132, p->warpSize = 32, p->l2CacheSize = 50 << 20;
  p->sharedMemPerBlock = 49152, p->sharedMemPerMultiprocessor = 233472;
  p->sharedMemPerBlockOptin = 232448, p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxBlocksPerMultiProcessor = 32, p->memPitch = 2147483647, p->totalConstMem = 65536;
  p->clockRate = 1980000, p->textureAlignment = 512, p->pciBusID = card + 1;
  p->managedMemory = p->concurrentManagedAccess = p->unifiedAddressing = p->concurrentKernels = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int card) {
  struct cudaDeviceProp p;
  cudaGetDeviceProperties_v2(&p, card);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
    case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[2]; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = p.regsPerBlock; break;
    default: *value = 1;
  }
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024, a->numRegs = 32, a->maxDynamicSharedSizeBytes = 49152;
  a->ptxVersion = a->binaryVersion = capability();
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *k, int b, size_t s) {
  *n = 2;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *k, int b,
                                                                   size_t s, unsigned f) {
  *n = 2;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) {
  *can = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int card) {
  snprintf(text, size, "0000:%02x:00.0", card + 1);
  return cudaSuccess;
}

// --- memory -------------------------------------------------------------------------------------
cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
  size_t taken = used[current] + CONTEXT;
  *total = capacity();
  *unused = *total > taken ? *total - taken : 0;
  return state();
}
cudaError_t cudaMalloc(void **out, size_t size) {
  size_t whole = (size + PAGE - 1) & ~(PAGE - 1);
  cudaError_t error = cudaSuccess;
  *out = NULL;
  pthread_mutex_lock(&lock);
  if (used[current] + whole + CONTEXT > capacity()) error = cudaErrorMemoryAllocation;
  void *start = error ? MAP_FAILED
                      : mmap(NULL, whole, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) {
    error = cudaErrorMemoryAllocation;
  } else {
    struct block *b = malloc(sizeof *b);
    *b = (struct block){start, whole, current, blocks};
    blocks = b, used[current] += whole, *out = start;
  }
  pthread_mutex_unlock(&lock);
  return error ? fail(error) : cudaSuccess;
}
cudaError_t cudaMallocManaged(void **out, size_t size, unsigned flags) {
  return cudaMalloc(out, size);
}
cudaError_t cudaMallocAsync(void **out, size_t size, cudaStream_t s) { return cudaMalloc(out, size); }
cudaError_t cudaFree(void *start) {
  pthread_mutex_lock(&lock);
  for (struct block **at = &blocks; *at; at = &(*at)->next) {
    if ((*at)->start != start) continue;
    struct block *b = *at;
    *at = b->next, used[b->card] -= b->size;
    munmap(b->start, b->size);
    free(b);
    break;
  }
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void *start, cudaStream_t s) { return cudaFree(start); }
cudaError_t cudaHostAlloc(void **out, size_t size, unsigned flags) {
  *out = aligned_alloc(4096, (size + 4095) & ~4095UL);
  return *out ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}
cudaError_t cudaMallocHost(void **out, size_t size) { return cudaHostAlloc(out, size, 0); }
cudaError_t cudaFreeHost(void *start) {
  free(start);
  return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *address) {
  const char *at = address;
  memset(a, 0, sizeof *a);
  a->device = current;
  pthread_mutex_lock(&lock);
  for (struct block *b = blocks; b; b = b->next) {
    char *start = b->start;
    if (at < start || at >= start + b->size) continue;
    a->type = cudaMemoryTypeDevice, a->device = b->card, a->devicePointer = (void *)address;
    break;
  }
  pthread_mutex_unlock(&lock);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
  // What was never written reads as zeros and takes no memory, so reading back is always real.
  if (size <= COPIED || kind == cudaMemcpyDeviceToHost) memcpy(to, from, size);
  return state();
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t s) {
  return cudaMemcpy(to, from, size, kind);
}
cudaError_t cudaMemset(void *start, int value, size_t size) {
  if (size <= COPIED) memset(start, value, size);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *start, int value, size_t size, cudaStream_t s) {
  return cudaMemset(start, value, size);
}

// --- streams, events, kernels -------------------------------------------------------------------
static void *handle(void) { return calloc(1, 4096); }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int p) {
  *s = handle();
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) {
  *s = handle();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t s, enum cudaStreamCaptureStatus *status,
                                        u64 *id, cudaGraph_t *g, const cudaGraphNode_t **d,
                                        size_t *n) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *priority) {
  *priority = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) { return state(); }
cudaError_t cudaDeviceSynchronize(void) { return state(); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) {
  *e = handle();
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) {
  *e = handle();
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t a, cudaEvent_t b) {
  *milliseconds = 1;
  return cudaSuccess;
}
void **__cudaRegisterFatBinary(void *binary) {
  static void *registered[1];
  return registered;
}
static int of_bitsandbytes(void *caller) {
  Dl_info library;
  return dladdr(caller, &library) && strstr(library.dli_fname, "bitsandbytes") != NULL;
}
int cudaLaunchKernel(void) {
  long full = (long)number("PHANTOM_FULL", 0);
  __sync_fetch_and_add(&phantom_launches, 1);
  if (full && phantom_launches >= full && of_bitsandbytes(__builtin_return_address(0)))
    return fail(cudaErrorMemoryAllocation);
  return state();
}
int cudaLaunchKernelExC(void) { return cudaLaunchKernel(); }

// --- the driver's functions, which torch asks for by name ---------------------------------------
static int nothing(void) { return 0; }
static int primary_state(int card, unsigned *flags, int *active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return 0;
}
static int driver_error(int error, const char **text) {
  *text = "an error of the stand-in's driver";
  return 0;
}
static void *driver_function(const char *name) {
  if (!strcmp(name, "cuDevicePrimaryCtxGetState")) return primary_state;
  return !strcmp(name, "cuGetErrorString") ? (void *)driver_error : (void *)nothing;
}
cudaError_t cudaGetDriverEntryPoint(const char *name, void **function, u64 flags,
                                    enum cudaDriverEntryPointQueryResult *answer) {
  *function = driver_function(name);
  if (answer) *answer = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                             u64 flags,
                                             enum cudaDriverEntryPointQueryResult *answer) {
  return cudaGetDriverEntryPoint(name, function, flags, answer);
}
