// cuBLAS, cuDNN and NCCL over the null GPU: what has to write something, or to fail on demand. stubs.py does the rest.
#include <cstdio>
#include <cstring>

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cudnn.h>
#include <nccl.h>

#include "null.h"

// What computes. The stubs call these.
API int nullgpu_blas() {
  counters[BLAS]++;
  return fault == FAULT_BLAS ? CUBLAS_STATUS_ALLOC_FAILED : CUBLAS_STATUS_SUCCESS;
}
API int nullgpu_dnn() {
  counters[DNN]++;
  return fault == FAULT_DNN ? CUDNN_STATUS_ALLOC_FAILED : CUDNN_STATUS_SUCCESS;
}
API int nullgpu_nccl() {
  counters[NCCL]++;
  return fault == FAULT_NCCL ? ncclUnhandledCudaError : ncclSuccess;
}

// -------------------------------------------------------------------------------------------------------- cuBLAS

#define BLAS_API API cublasStatus_t
#define DONE { return CUBLAS_STATUS_SUCCESS; }
#define MADE(p) { make(p); return CUBLAS_STATUS_SUCCESS; }

BLAS_API cublasCreate_v2(cublasHandle_t* h) {
  if (fault == FAULT_BLAS) return CUBLAS_STATUS_ALLOC_FAILED;
  MADE(h)
}
BLAS_API cublasGetMathMode(cublasHandle_t, cublasMath_t* m) { *m = CUBLAS_DEFAULT_MATH; DONE }
BLAS_API cublasGetPointerMode_v2(cublasHandle_t, cublasPointerMode_t* m) { *m = CUBLAS_POINTER_MODE_HOST; DONE }
API size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
BLAS_API cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t, cudaDataType_t) MADE(d)
BLAS_API cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* d) MADE(d)
BLAS_API cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* d, cudaDataType, uint64_t, uint64_t, int64_t) MADE(d)
BLAS_API cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                        cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                        cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t* r, int* n) {
  memset(r, 0, sizeof *r);
  *n = 1;
  DONE
}

// takes no memory of its own, so it does not fail
BLAS_API cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*, cublasLtMatrixLayout_t,
                        const void*, cublasLtMatrixLayout_t, const void*, const void*, cublasLtMatrixLayout_t, void*,
                        cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t) {
  counters[BLAS]++;
  DONE
}

// --------------------------------------------------------------------------------------------------------- cuDNN

#define DNN_API API cudnnStatus_t
#undef DONE
#define DONE { return CUDNN_STATUS_SUCCESS; }
#undef MADE
#define MADE(p) { make(p); return CUDNN_STATUS_SUCCESS; }

DNN_API cudnnCreate(cudnnHandle_t* h) {
  if (fault == FAULT_DNN) return CUDNN_STATUS_ALLOC_FAILED;
  MADE(h)
}
API size_t cudnnGetVersion() { return CUDNN_VERSION; }
API size_t cudnnGetCudartVersion() { return CUDART_VERSION; }
API const char* cudnnGetErrorString(cudnnStatus_t e) {
  return e == CUDNN_STATUS_ALLOC_FAILED ? "CUDNN_STATUS_ALLOC_FAILED" : "an error of the null cuDNN";
}
API void cudnnGetLastErrorString(char* out, size_t n) { snprintf(out, n, "nothing"); }

#define DESCRIPTOR(K)                                                             \
  DNN_API cudnnCreate##K##Descriptor(cudnn##K##Descriptor_t* d) MADE(d)           \
  DNN_API cudnnDestroy##K##Descriptor(cudnn##K##Descriptor_t d) { free(d); DONE }
DESCRIPTOR(Activation) DESCRIPTOR(Convolution) DESCRIPTOR(Dropout) DESCRIPTOR(Filter) DESCRIPTOR(Pooling)
DESCRIPTOR(Tensor)

typedef cudnnTensorDescriptor_t T;
typedef cudnnFilterDescriptor_t F;
typedef cudnnConvolutionDescriptor_t C;
#define ALGORITHM(NAME, A, B, D, PERF, ALGO)                                                      \
  DNN_API NAME(cudnnHandle_t, const A, const B, const C, const D, const int, int* n, PERF* p) {   \
    memset(p, 0, sizeof *p);                                                                      \
    p->algo = ALGO, p->determinism = CUDNN_DETERMINISTIC, p->mathType = CUDNN_FMA_MATH, *n = 1;   \
    DONE                                                                                          \
  }
ALGORITHM(cudnnGetConvolutionForwardAlgorithm_v7, T, F, T, cudnnConvolutionFwdAlgoPerf_t,
          CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM)
ALGORITHM(cudnnGetConvolutionBackwardDataAlgorithm_v7, F, T, T, cudnnConvolutionBwdDataAlgoPerf_t,
          CUDNN_CONVOLUTION_BWD_DATA_ALGO_1)
ALGORITHM(cudnnGetConvolutionBackwardFilterAlgorithm_v7, T, T, F, cudnnConvolutionBwdFilterAlgoPerf_t,
          CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1)

#define WORKSPACE(NAME, A, B, D, ALGO) \
  DNN_API NAME(cudnnHandle_t, const A, const B, const C, const D, ALGO, size_t* n) { *n = 0; DONE }
WORKSPACE(cudnnGetConvolutionForwardWorkspaceSize, T, F, T, cudnnConvolutionFwdAlgo_t)
WORKSPACE(cudnnGetConvolutionBackwardDataWorkspaceSize, F, T, T, cudnnConvolutionBwdDataAlgo_t)
WORKSPACE(cudnnGetConvolutionBackwardFilterWorkspaceSize, T, T, F, cudnnConvolutionBwdFilterAlgo_t)

typedef cudnnActivationDescriptor_t R;
DNN_API cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(cudnnHandle_t, cudnnBatchNormMode_t,
                                                                 cudnnBatchNormOps_t, const T, const T, const T,
                                                                 const T, const R, size_t* n) { *n = 1024; DONE }
DNN_API cudnnGetBatchNormalizationBackwardExWorkspaceSize(cudnnHandle_t, cudnnBatchNormMode_t, cudnnBatchNormOps_t,
                                                          const T, const T, const T, const T, const T, const T,
                                                          const R, size_t* n) { *n = 1024; DONE }
DNN_API cudnnGetBatchNormalizationTrainingExReserveSpaceSize(cudnnHandle_t, cudnnBatchNormMode_t, cudnnBatchNormOps_t,
                                                             const R, const T, size_t* n) { *n = 1024; DONE }

// the graph API of version 8 and later
DNN_API cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t* d) MADE(d)
DNN_API cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) { free(d); DONE }
DNN_API cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t) {
  return (cudnnStatus_t)nullgpu_dnn();
}
DNN_API cudnnBackendGetAttribute(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t name,
                                 cudnnBackendAttributeType_t type, int64_t wanted, int64_t* count, void* out) {
  int64_t n = 1;
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) n = name != CUDNN_ATTR_ENGINECFG_KNOB_CHOICES;
  if (type == CUDNN_TYPE_NUMERICAL_NOTE || type == CUDNN_TYPE_BEHAVIOR_NOTE || type == CUDNN_TYPE_KNOB_TYPE) n = 0;
  if (type == CUDNN_TYPE_INT64 && out && wanted > 0)
    *(int64_t*)out = name == CUDNN_ATTR_OPERATIONGRAPH_ENGINE_GLOBAL_COUNT;
  if (type == CUDNN_TYPE_CHAR && out && wanted > 0) *(char*)out = 0;
  if (count) *count = n;
  DONE
}

// ---------------------------------------------------------------------------------------------------------- NCCL

#define NCCL_API API ncclResult_t
struct Group { int rank, size; };

static ncclResult_t join(ncclComm_t* c, int size, int rank) {
  *c = (ncclComm_t) new Group{rank, size};
  return (ncclResult_t)nullgpu_nccl();
}
NCCL_API ncclGetVersion(int* v) { *v = NCCL_VERSION_CODE; return ncclSuccess; }
NCCL_API ncclGetUniqueId(ncclUniqueId* i) { memset(i, 7, sizeof *i); return ncclSuccess; }
NCCL_API ncclCommInitRank(ncclComm_t* c, int n, ncclUniqueId, int r) { return join(c, n, r); }
NCCL_API ncclCommInitRankConfig(ncclComm_t* c, int n, ncclUniqueId, int r, ncclConfig_t*) { return join(c, n, r); }
NCCL_API ncclCommInitRankScalable(ncclComm_t* c, int n, int r, int, ncclUniqueId*, ncclConfig_t*) {
  return join(c, n, r);
}
NCCL_API ncclCommCount(const ncclComm_t c, int* n) { *n = ((Group*)c)->size; return ncclSuccess; }
NCCL_API ncclCommUserRank(const ncclComm_t c, int* n) { *n = ((Group*)c)->rank; return ncclSuccess; }
NCCL_API ncclCommGetAsyncError(ncclComm_t, ncclResult_t* e) { *e = ncclSuccess; return ncclSuccess; }
API const char* ncclGetErrorString(ncclResult_t) { return "unhandled cuda error"; }
API const char* ncclGetLastError(ncclComm_t) { return "Cuda failure 2 'out of memory'"; }
