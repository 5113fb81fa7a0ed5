// What the parts of the null GPU share: counters, errors to order, and whether a graph is being captured.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>

#include <cuda_runtime_api.h>

#define API extern "C" __attribute__((visibility("default")))

// The order is that of COUNTERS in inside.py.
enum Counter {
  LAUNCH, BLAS, DNN, NCCL, GRAPH, MEMSET, H2D, PAGEABLE, D2H, D2D, SYNC, MALLOC, BYTES_H2D, BYTES_D2H, COUNTERS
};
extern std::atomic<uint64_t> counters[COUNTERS];

// What reports that it is out of memory; the order is that of FAULTS in inside.py.
enum Fault { NO_FAULT, FAULT_LAUNCH, FAULT_BLAS, FAULT_DNN, FAULT_NCCL, FAULT_PINNED };
extern std::atomic<int> fault;

extern thread_local int current;  // the device of this thread

// A handle that nothing looks into.
template <class T> void make(T* handle) { *handle = (T)calloc(1, 256); }
