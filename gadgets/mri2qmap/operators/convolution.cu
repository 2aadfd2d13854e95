// Convolution of subspace images on a GPU: what lies between the Fourier transforms.
//
// Macros, set by the caller: N_COEFFICIENTS, the number s of coefficients; COMPLEX_KERNELS, 1 for
// complex kernels and 0 for real ones; HALF_KERNELS, 1 for kernels in half precision and 0 for
// single precision. No header is included, because nvrtc finds none.
//
// All arrays are in C order; volumes have z, y, x as their last axes. Each kernel has one thread
// for each voxel or frequency, neighbours in x in neighbouring threads.

typedef long long int64;

#define N_PAIRS (N_COEFFICIENTS * (N_COEFFICIENTS + 1) / 2)

static __device__ __forceinline__ int64 thread_index()
{
    return (int64)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ float2 times(float2 a, float2 b)
{
    return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

static __device__ __forceinline__ float2 conjugate(float2 a) { return make_float2(a.x, -a.y); }

static __device__ __forceinline__ void add_product(float2& sum, float2 a, float2 b)
{
    sum.x += a.x * b.x - a.y * b.y;
    sum.y += a.x * b.y + a.y * b.x;
}

// ---- Kernels as they are stored ----

#if HALF_KERNELS
typedef unsigned short stored;

// The bits of a number in half precision, moved to their places in single precision. The exponents
// then differ by 112; this holds for subnormal numbers too, but not for infinity.
static __device__ __forceinline__ float loaded(stored bits)
{
    const unsigned int sign = (unsigned int)(bits & 0x8000u) << 16;
    const unsigned int rest = (unsigned int)(bits & 0x7fffu) << 13;
    return __uint_as_float(sign | rest) * 5.192296858534828e33f;  // 2^112
}
#else
typedef float stored;

static __device__ __forceinline__ float loaded(stored value) { return value; }
#endif

#if COMPLEX_KERNELS
typedef float2 element;

static __device__ __forceinline__ element kernel_at(const stored* kernels, int64 index, float scale)
{
    return make_float2(scale * loaded(kernels[2 * index]), scale * loaded(kernels[2 * index + 1]));
}

static __device__ __forceinline__ element transposed(element a) { return conjugate(a); }
#else
typedef float element;

static __device__ __forceinline__ element kernel_at(const stored* kernels, int64 index, float scale)
{
    return scale * loaded(kernels[index]);
}

static __device__ __forceinline__ element transposed(element a) { return a; }

static __device__ __forceinline__ void add_product(float2& sum, float a, float2 b)
{
    sum.x += a * b.x;
    sum.y += a * b.y;
}
#endif

// Multiply the spectra of all coils by the Hermitian matrix of each frequency, in place.
//
// kernels (pairs, z, y, x): upper triangle, row by row; complex numbers as two of them.
// scales (pairs): factors of the kernels.
// spectra (c, s, z, y, x).
extern "C" __global__ void apply_kernels(
    const stored* __restrict__ kernels,
    const float* __restrict__ scales,
    float2* __restrict__ spectra,
    int64 n_voxels,
    int64 n_coils)
{
    const int64 voxel = thread_index();
    if (voxel >= n_voxels) return;
    element matrix[N_PAIRS];
#pragma unroll
    for (int pair = 0; pair < N_PAIRS; ++pair)
        matrix[pair] = kernel_at(kernels, pair * n_voxels + voxel, scales[pair]);
    for (int64 coil = 0; coil < n_coils; ++coil) {
        float2* const values = spectra + coil * N_COEFFICIENTS * n_voxels + voxel;
        float2 vector[N_COEFFICIENTS];
#pragma unroll
        for (int k = 0; k < N_COEFFICIENTS; ++k) vector[k] = values[k * n_voxels];
#pragma unroll
        for (int row = 0; row < N_COEFFICIENTS; ++row) {
            float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll
            for (int column = 0; column < N_COEFFICIENTS; ++column) {
                const int first = row < column ? row : column;
                const int second = row < column ? column : row;
                const int pair = first * N_COEFFICIENTS - first * (first - 1) / 2 + second - first;
                const element a = matrix[pair];
                add_product(sum, row <= column ? a : transposed(a), vector[column]);
            }
            values[row * n_voxels] = sum;
        }
    }
}

// ---- Parity grids ----

// Phase ramp exp(-i pi (odd_z z / nz + odd_y y / ny + odd_x x / nx)) at a voxel.
static __device__ __forceinline__ float2 ramp_at(
    int64 voxel, int64 nz, int64 ny, int64 nx, int64 odd_z, int64 odd_y, int64 odd_x)
{
    const int64 row = voxel / nx;
    const int64 z = row / ny;
    const int64 y = row - z * ny;
    const int64 x = voxel - row * nx;
    float half_turns = 0.0f;
    if (odd_z) half_turns += (float)z / (float)nz;
    if (odd_y) half_turns += (float)y / (float)ny;
    if (odd_x) half_turns += (float)x / (float)nx;
    float sine, cosine;
    sincospif(half_turns, &sine, &cosine);
    return make_float2(cosine, -sine);
}

// Coil images with the phase ramp of a parity grid.
//
// images (s, z, y, x); maps (c, z, y, x), or null for one uniform coil; work (c, s, z, y, x).
extern "C" __global__ void modulate(
    const float2* __restrict__ images,
    const float2* __restrict__ maps,
    float2* __restrict__ work,
    int64 nz, int64 ny, int64 nx,
    int64 n_coils,
    int64 odd_z, int64 odd_y, int64 odd_x)
{
    const int64 n_voxels = nz * ny * nx;
    const int64 voxel = thread_index();
    if (voxel >= n_voxels) return;
    const float2 ramp = ramp_at(voxel, nz, ny, nx, odd_z, odd_y, odd_x);
    float2 image[N_COEFFICIENTS];
#pragma unroll
    for (int k = 0; k < N_COEFFICIENTS; ++k) image[k] = images[k * n_voxels + voxel];
    for (int64 coil = 0; coil < n_coils; ++coil) {
        const float2 factor = maps ? times(maps[coil * n_voxels + voxel], ramp) : ramp;
        float2* const values = work + coil * N_COEFFICIENTS * n_voxels + voxel;
#pragma unroll
        for (int k = 0; k < N_COEFFICIENTS; ++k) values[k * n_voxels] = times(factor, image[k]);
    }
}

// Add the convolved coil images to the result (s, z, y, x): the adjoint of `modulate`.
extern "C" __global__ void accumulate(
    const float2* __restrict__ work,
    const float2* __restrict__ maps,
    float2* __restrict__ result,
    int64 nz, int64 ny, int64 nx,
    int64 n_coils,
    int64 odd_z, int64 odd_y, int64 odd_x)
{
    const int64 n_voxels = nz * ny * nx;
    const int64 voxel = thread_index();
    if (voxel >= n_voxels) return;
    const float2 ramp = ramp_at(voxel, nz, ny, nx, odd_z, odd_y, odd_x);
    float2 sum[N_COEFFICIENTS];
#pragma unroll
    for (int k = 0; k < N_COEFFICIENTS; ++k) sum[k] = result[k * n_voxels + voxel];
    for (int64 coil = 0; coil < n_coils; ++coil) {
        const float2 factor = maps ? times(maps[coil * n_voxels + voxel], ramp) : ramp;
        const float2* const values = work + coil * N_COEFFICIENTS * n_voxels + voxel;
#pragma unroll
        for (int k = 0; k < N_COEFFICIENTS; ++k)
            add_product(sum[k], conjugate(factor), values[k * n_voxels]);
    }
#pragma unroll
    for (int k = 0; k < N_COEFFICIENTS; ++k) result[k * n_voxels + voxel] = sum[k];
}
