// What a CUDA source needs to be compiled by a C++ compiler and run on the CPU, thread by thread.
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict

struct float2 {
    float x, y;
};
struct Index {
    unsigned int x;
};

static Index blockIdx, blockDim, threadIdx;

static inline float2 make_float2(float x, float y) { return {x, y}; }

static inline float __uint_as_float(unsigned int bits)
{
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

static inline void sincospif(float x, float* sine, float* cosine)
{
    *sine = std::sin(M_PI * x);
    *cosine = std::cos(M_PI * x);
}

static inline void atomicAdd(float* address, float value) { *address += value; }

extern "C" {
long long first_block = 0;  // those before it are left out
}

// Run a kernel, given the addresses of its arguments, as cudaLaunchKernel does.
template <typename... Parameters, std::size_t... Numbers>
void run(
    void (*kernel)(Parameters...), std::index_sequence<Numbers...>, long long blocks, int threads,
    void** arguments)
{
    blockDim.x = threads;
    for (long long block = first_block; block < blocks; ++block)
        for (int thread = 0; thread < threads; ++thread) {
            blockIdx.x = block;
            threadIdx.x = thread;
            kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[Numbers])...);
        }
}

template <typename... Parameters>
void run(void (*kernel)(Parameters...), long long blocks, int threads, void** arguments)
{
    run(kernel, std::index_sequence_for<Parameters...>{}, blocks, threads, arguments);
}
