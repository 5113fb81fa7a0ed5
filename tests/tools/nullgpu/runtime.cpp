// The CUDA runtime of a GPU that does nothing. Kernels return at once; what is copied to the host is made up.
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include <dlfcn.h>
#include <sys/mman.h>

#include "null.h"

std::atomic<uint64_t> counters[COUNTERS];
std::atomic<int> fault{NO_FAULT};
thread_local int current = 0;

static thread_local cudaError_t last = cudaSuccess;
static std::atomic<int> capturing{cudaStreamCaptureStatusNone};
static std::atomic<unsigned long long> captures{0};  // begun so far
static std::atomic<int> whole{0};  // whether 4 bytes copied to the host are the integer 2, else the number 1.0
static size_t whole_memory() { return (getenv("NULLGPU_MIB") ? atoll(getenv("NULLGPU_MIB")) : 140ull << 10) << 20; }
static std::atomic<size_t> used{0}, memory{whole_memory()};  // bytes of all devices together
static std::mutex guard;
static std::map<uintptr_t, size_t> blocks, pinned;  // memory of the device and page-locked memory: address, bytes
static void (*watcher)(int kind) = nullptr;

static cudaError_t bad(cudaError_t error) { return last = error; }

// No graph can hold what was just asked for: the capture goes on to its end, which fails.
static cudaError_t unsupported() {
  capturing = cudaStreamCaptureStatusInvalidated;
  return bad(cudaErrorStreamCaptureUnsupported);
}

// The host waits for the device here. No graph can hold that.
static cudaError_t synchronised(int kind) {
  counters[SYNC]++;
  if (watcher) watcher(kind);
  return capturing ? unsupported() : cudaSuccess;
}

// ------------------------------------------------------------------------------------------------- for inside.py

API void nullgpu_counters(uint64_t* out) {
  for (int i = 0; i < COUNTERS; i++) out[i] = counters[i];
}
API void nullgpu_watch(void (*f)(int)) { watcher = f; }
API void nullgpu_fail(int what) { fault = what; }
API void nullgpu_whole(int on) { whole = on; }
API void nullgpu_memory(uint64_t bytes) { memory = bytes; }

// ------------------------------------------------------------------------------------------------------- devices

static int devices() {
  static int n = [] {
    const char* seen = getenv("CUDA_VISIBLE_DEVICES");
    if (!seen || !*seen || *seen == '-') return 0;
    int commas = 0;
    for (; *seen; seen++) commas += *seen == ',';
    return commas + 1;
  }();
  return n;
}
static int oldest() { return getenv("NULLGPU_OLD") ? atoi(getenv("NULLGPU_OLD")) : 1 << 30; }
static int capability(int device) { return device < oldest() ? 90 : 75; }  // a Hopper's, or a Turing's

API cudaError_t cudaGetDeviceCount(int* n) { *n = devices(); return cudaSuccess; }
API cudaError_t cudaGetDevice(int* device) { *device = current; return cudaSuccess; }
API cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= devices()) return bad(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {  // an H200's
  memset(p, 0, sizeof *p);
  strcpy(p->name, "null GPU");
  p->totalGlobalMem = memory;
  p->major = capability(device) / 10, p->minor = capability(device) % 10;
  p->multiProcessorCount = 132, p->maxBlocksPerMultiProcessor = 32;
  p->warpSize = 32, p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = p->memPitch = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->sharedMemPerBlock = 49152, p->sharedMemPerBlockOptin = 232448, p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536, p->l2CacheSize = 52428800, p->textureAlignment = 512;
  p->unifiedAddressing = p->managedMemory = p->canMapHostMemory = p->concurrentKernels = 1, p->asyncEngineCount = 3;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int device) {
  switch (name) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrComputeCapabilityMajor: *value = capability(device) / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = capability(device) % 10; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* most) { *least = 0, *most = -5; return cudaSuccess; }
API cudaError_t cudaDeviceGetPCIBusId(char* out, int n, int) { snprintf(out, n, "0000:00:00.0"); return cudaSuccess; }
API cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { *can = 1; return cudaSuccess; }
API cudaError_t cudaDeviceSynchronize() { return synchronised(1); }
API cudaError_t cudaDriverGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
API cudaError_t cudaGetLastError() { auto error = last; last = cudaSuccess; return error; }
API cudaError_t cudaPeekAtLastError() { return last; }
API const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    default: return "an error of the null GPU";
  }
}
API const char* cudaGetErrorName(cudaError_t) { return "cudaErrorNull"; }

// -------------------------------------------------------------------------------------------------------- memory

API cudaError_t cudaMalloc(void** out, size_t n) {  // addresses, of which the system gives none until it is written to
  if (used + n > memory) return bad(cudaErrorMemoryAllocation);
  void* p = mmap(nullptr, n ? n : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return bad(cudaErrorMemoryAllocation);
  counters[MALLOC]++;
  used += n;
  std::lock_guard<std::mutex> held(guard);
  blocks[(uintptr_t)p] = n;
  *out = p;
  return cudaSuccess;
}
API cudaError_t cudaFree(void* p) {
  std::lock_guard<std::mutex> held(guard);
  auto found = blocks.find((uintptr_t)p);
  if (found == blocks.end()) return cudaSuccess;
  munmap(p, found->second ? found->second : 1);
  used -= found->second;
  blocks.erase(found);
  return cudaSuccess;
}
API cudaError_t cudaMallocAsync(void** out, size_t n, cudaStream_t) { return cudaMalloc(out, n); }
API cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }
API cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = memory, *free = memory > used ? memory - used : 0;
  return cudaSuccess;
}

API cudaError_t cudaHostAlloc(void** out, size_t n, unsigned) {
  if (fault == FAULT_PINNED) return bad(cudaErrorMemoryAllocation);
  *out = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
  std::lock_guard<std::mutex> held(guard);
  pinned[(uintptr_t)*out] = n;
  return cudaSuccess;
}
API cudaError_t cudaHostRegister(void* p, size_t n, unsigned) {
  std::lock_guard<std::mutex> held(guard);
  pinned[(uintptr_t)p] = n;
  return cudaSuccess;
}
API cudaError_t cudaHostUnregister(void* p) {
  std::lock_guard<std::mutex> held(guard);
  pinned.erase((uintptr_t)p);
  return cudaSuccess;
}
API cudaError_t cudaFreeHost(void* p) {
  cudaHostUnregister(p);
  free(p);
  return cudaSuccess;
}

static bool within(const std::map<uintptr_t, size_t>& known, const void* p) {
  auto next = known.upper_bound((uintptr_t)p);
  if (next == known.begin()) return false;
  --next;
  return (uintptr_t)p < next->first + next->second;
}
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  memset(a, 0, sizeof *a);
  std::lock_guard<std::mutex> held(guard);
  a->type = within(blocks, p)   ? cudaMemoryTypeDevice
            : within(pinned, p) ? cudaMemoryTypeHost
                                : cudaMemoryTypeUnregistered;
  a->devicePointer = a->hostPointer = (void*)p;
  return cudaSuccess;
}

// What comes back from the device: true, 1 or 1.0, or, if `whole`, 2 in 4 bytes.
static void answer(void* to, size_t n) {
  if (n == 8) *(int64_t*)to = 1;
  else if (n == 4 && whole) *(int32_t*)to = 2;
  else if (n % 4 == 0) for (size_t i = 0; i < n / 4; i++) ((float*)to)[i] = 1.0f;
  else memset(to, 1, n);
}
static cudaError_t copied(void* to, const void* from, size_t n) {
  bool down, up, locked;
  {
    std::lock_guard<std::mutex> held(guard);
    down = within(blocks, from), up = within(blocks, to), locked = within(pinned, down ? to : from);
  }
  if (!down && !up) { memcpy(to, from, n); return cudaSuccess; }
  if (down && up) { counters[D2D]++; return cudaSuccess; }
  counters[up ? H2D : D2H]++, counters[up ? BYTES_H2D : BYTES_D2H] += n;
  if (!locked) counters[PAGEABLE]++;
  if (down) answer(to, n);
  // a graph would read such memory when it is replayed, and by then it is someone else's
  return capturing && !locked ? unsupported() : cudaSuccess;
}
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t) {
  return copied(to, from, n);
}
API cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  copied(to, from, n);
  return synchronised(2);
}
API cudaError_t cudaMemcpyPeerAsync(void*, int, const void*, int, size_t, cudaStream_t) {
  counters[D2D]++;
  return cudaSuccess;
}
API cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }
API cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { counters[MEMSET]++; return cudaSuccess; }
API cudaError_t cudaMemset(void*, int, size_t) { counters[MEMSET]++; return cudaSuccess; }
API cudaError_t cudaGetSymbolAddress(void** out, const void*) {
  static char somewhere[4096];
  *out = somewhere;
  return cudaSuccess;
}

// ------------------------------------------------------------------------------------------------------- kernels

struct Call { dim3 grid, block; size_t shared; void* stream; };
static thread_local std::vector<Call> calls;

API void** __cudaRegisterFatBinary(void*) { static void* handle[1]; return handle; }
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
API void __cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*, dim3*, int*) {}
API unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  calls.push_back({grid, block, shared, stream});
  return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  Call call = calls.back();
  calls.pop_back();
  *grid = call.grid, *block = call.block, *shared = call.shared, *(void**)stream = call.stream;
  return cudaSuccess;
}
API cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}
static cudaError_t launched() {
  if (fault == FAULT_LAUNCH) return bad(cudaErrorMemoryAllocation);
  counters[LAUNCH]++;
  return cudaSuccess;
}
static cudaError_t launched(dim3 grid, dim3 block) {
  bool fits = grid.x && grid.y && grid.z && grid.y <= 65535 && grid.z <= 65535;
  if (!fits || !block.x || (size_t)block.x * block.y * block.z > 1024) return bad(cudaErrorInvalidConfiguration);
  return launched();
}
API cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3 grid, dim3 block, void**, size_t, cudaStream_t) {
  return launched(grid, block);
}
API cudaError_t cudaLaunchKernel(const void*, dim3 grid, dim3 block, void**, size_t, cudaStream_t) {
  return launched(grid, block);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) { return launched(); }
API cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t, void*) { return cudaSuccess; }
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024, a->numRegs = 32, a->maxDynamicSharedSizeBytes = 49152;
  a->binaryVersion = a->ptxVersion = capability(current);
  return cudaSuccess;
}
API cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) {
  *n = 2;
  return cudaSuccess;
}

// --------------------------------------------------------------------------------------- streams, events and graphs

API cudaError_t cudaStreamCreate(cudaStream_t* s) { make(s); return cudaSuccess; }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { make(s); return cudaSuccess; }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) { make(s); return cudaSuccess; }
API cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
API cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) { *priority = 0; return cudaSuccess; }
API cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
API cudaError_t cudaStreamSynchronize(cudaStream_t) { return synchronised(3); }

API cudaError_t cudaEventCreate(cudaEvent_t* e) { make(e); return cudaSuccess; }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { make(e); return cudaSuccess; }
API cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); return cudaSuccess; }
API cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { *ms = 0.01f; return cudaSuccess; }
API cudaError_t cudaEventSynchronize(cudaEvent_t) { return synchronised(4); }

// While one stream is captured, all are: no work of this process is then on another.
static cudaStreamCaptureStatus status() {
  return (cudaStreamCaptureStatus)capturing.load();
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* s) { *s = status(); return cudaSuccess; }
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* s, unsigned long long* id,
                                         cudaGraph_t* graph, const cudaGraphNode_t** nodes,
                                         const cudaGraphEdgeData** edges, size_t* n) {
  *s = status();
  if (id) *id = captures;  // torch finds a capture by it, and forgets it where the graph of that number is freed
  if (graph) *graph = (cudaGraph_t)1;
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (n) *n = 0;
  return cudaSuccess;
}
API cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  captures++;
  capturing = cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
API cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  if (capturing.exchange(cudaStreamCaptureStatusNone) == cudaStreamCaptureStatusInvalidated) {
    *graph = nullptr;
    return bad(cudaErrorStreamCaptureInvalidated);
  }
  make(graph);
  return cudaSuccess;
}
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* e, cudaGraph_t, unsigned long long) {
  make(e);
  return cudaSuccess;
}
API cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, size_t* n) { *n = 1; return cudaSuccess; }
API cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { counters[GRAPH]++; return cudaSuccess; }
API cudaError_t cudaUserObjectCreate(cudaUserObject_t* o, void*, cudaHostFn_t, unsigned, unsigned) {
  make(o);
  return cudaSuccess;
}

// --------------------------------------------------------------------------------------------- the driver, by name

API int nullgpu_success() { return 0; }
API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** f, unsigned, unsigned long long,
                                                 cudaDriverEntryPointQueryResult* found) {
  *f = dlsym(RTLD_DEFAULT, name);
  if (!*f) *f = (void*)nullgpu_success;
  if (found) *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
