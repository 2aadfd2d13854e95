// Shows whether kernels are compiled and started at all.
extern "C" __global__ void nothing(long long) {}
