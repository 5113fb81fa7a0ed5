/* libcuda.so.1 of the null GPU, for what asks the driver directly. */
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetAttribute(int* value, int name, int device) { *value = 1; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) { *flags = 0; *active = 1; return 0; }
int cuCtxGetCurrent(void** context) { *context = (void*)1; return 0; }
int cuGetErrorString(int error, const char** text) { *text = "an error of the null driver"; return 0; }

#define SUCCESS(NAME) int NAME() { return 0; }
SUCCESS(cuCtxSetCurrent) SUCCESS(cuDevicePrimaryCtxRetain)
SUCCESS(cuFuncGetAttribute) SUCCESS(cuFuncSetAttribute) SUCCESS(cuFuncSetCacheConfig)
SUCCESS(cuLaunchCooperativeKernel) SUCCESS(cuLaunchKernel)
SUCCESS(cuLinkAddData_v2) SUCCESS(cuLinkComplete) SUCCESS(cuLinkCreate_v2)
SUCCESS(cuModuleGetFunction) SUCCESS(cuModuleLoad) SUCCESS(cuModuleLoadData) SUCCESS(cuModuleLoadDataEx)
SUCCESS(cuModuleUnload)
SUCCESS(cuOccupancyMaxActiveBlocksPerMultiprocessor) SUCCESS(cuPointerGetAttribute) SUCCESS(cuTensorMapEncodeTiled)
