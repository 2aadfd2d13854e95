// Spreading and interpolation of a non-uniform Fourier transform on a GPU, in single precision.
//
// Macro, set by the caller: WIDTH, the number of grid points that a sample reaches along an axis.
// No header is included, because nvrtc finds none.
//
// All arrays are in C order. A grid has its origin at its first point; it is periodic, and each
// axis has at least WIDTH points. The window is exp(beta (sqrt(1 - t^2) - 1)) for |t| <= 1, with t
// in units of half its width.

typedef long long int64;

static __device__ __forceinline__ int64 thread_index()
{
    return (int64)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ float window(float distance, float beta)
{
    const float t = distance * (2.0f / WIDTH);
    return expf(beta * (sqrtf(fmaxf(0.0f, 1.0f - t * t)) - 1.0f));
}

// The grid points that a sample reaches along an axis.
struct Reach {
    int64 first;     // its index
    float distance;  // from the sample to the first point [grid points]
};

static __device__ __forceinline__ Reach reach_of(float position, int64 size)
{
    // The product with the size is exact inside a fused multiply-add.
    const float first = ceilf(fmaf(position, (float)size, -0.5f * WIDTH));
    Reach reach;
    reach.first = (int64)first;
    reach.distance = fmaf(-position, (float)size, first);
    if (reach.first < 0) reach.first += size;
    return reach;
}

static __device__ __forceinline__ int64 wrapped(int64 index, int64 size)
{
    return index < size ? index : index - size;
}

// Add samples to grids (b, nz, ny, nx), one thread for each sample and point along x.
//
// positions (3, samples): along z, y, x [cycles], from -0.5 to 0.5 or a little beyond.
// order (samples): places of these positions in samples (b, samples).
extern "C" __global__ void spread(
    const float* __restrict__ positions,
    const int64* __restrict__ order,
    const float2* __restrict__ samples,
    float2* __restrict__ grids,
    int64 n_samples, int64 n_grids,
    int64 nz, int64 ny, int64 nx,
    float beta)
{
    const int64 thread = thread_index();
    const int64 sample = thread / WIDTH;
    if (sample >= n_samples) return;
    const int across = (int)(thread - sample * WIDTH);
    const Reach z = reach_of(positions[sample], nz);
    const Reach y = reach_of(positions[n_samples + sample], ny);
    const Reach x = reach_of(positions[2 * n_samples + sample], nx);
    const float along_x = window(x.distance + across, beta);
    float along_y[WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) along_y[j] = along_x * window(y.distance + j, beta);
    const int64 place = order[sample];
    for (int64 b = 0; b < n_grids; ++b) {
        const float2 value = samples[b * n_samples + place];
        float2* const column = grids + b * nz * ny * nx + wrapped(x.first + across, nx);
        for (int i = 0; i < WIDTH; ++i) {
            const float along_z = window(z.distance + i, beta);
            float2* const plane = column + wrapped(z.first + i, nz) * ny * nx;
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                const float weight = along_z * along_y[j];
                float2* const point = plane + wrapped(y.first + j, ny) * nx;
                atomicAdd(&point->x, weight * value.x);
                atomicAdd(&point->y, weight * value.y);
            }
        }
    }
}

// Samples (b, samples) of grids (b, nz, ny, nx), one thread for each sample: see `spread`.
extern "C" __global__ void interpolate(
    const float* __restrict__ positions,
    const int64* __restrict__ order,
    const float2* __restrict__ grids,
    float2* __restrict__ samples,
    int64 n_samples, int64 n_grids,
    int64 nz, int64 ny, int64 nx,
    float beta)
{
    const int64 sample = thread_index();
    if (sample >= n_samples) return;
    const Reach z = reach_of(positions[sample], nz);
    const Reach y = reach_of(positions[n_samples + sample], ny);
    const Reach x = reach_of(positions[2 * n_samples + sample], nx);
    float along_x[WIDTH];
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) along_x[j] = window(x.distance + j, beta);
    const int64 place = order[sample];
    for (int64 b = 0; b < n_grids; ++b) {
        float2 sum = make_float2(0.0f, 0.0f);
        for (int i = 0; i < WIDTH; ++i) {
            const float along_z = window(z.distance + i, beta);
            const float2* const plane = grids + (b * nz + wrapped(z.first + i, nz)) * ny * nx;
            for (int j = 0; j < WIDTH; ++j) {
                const float weight = along_z * window(y.distance + j, beta);
                const float2* const row = plane + wrapped(y.first + j, ny) * nx;
                float2 part = make_float2(0.0f, 0.0f);
#pragma unroll
                for (int k = 0; k < WIDTH; ++k) {
                    const float2 value = row[wrapped(x.first + k, nx)];
                    part.x += along_x[k] * value.x;
                    part.y += along_x[k] * value.y;
                }
                sum.x += weight * part.x;
                sum.y += weight * part.y;
            }
        }
        samples[b * n_samples + place] = sum;
    }
}

// ---- Between images, with their origin at voxel n // 2, and spectra of the grids ----

// Place of a voxel in its grid.
struct Place {
    int64 index;
    float factor;
};

static __device__ __forceinline__ Place place_of(
    int64 voxel,
    int64 image_z, int64 image_y, int64 image_x,
    int64 nz, int64 ny, int64 nx,
    const float* factors_z, const float* factors_y, const float* factors_x)
{
    int64 row = voxel / image_x;
    const int64 x = voxel - row * image_x;
    int64 plane = row / image_y;
    const int64 y = row - plane * image_y;
    const int64 grid = plane / image_z;
    const int64 z = plane - grid * image_z;
    const int64 grid_z = z < image_z / 2 ? z - image_z / 2 + nz : z - image_z / 2;
    const int64 grid_y = y < image_y / 2 ? y - image_y / 2 + ny : y - image_y / 2;
    const int64 grid_x = x < image_x / 2 ? x - image_x / 2 + nx : x - image_x / 2;
    Place place;
    place.index = ((grid * nz + grid_z) * ny + grid_y) * nx + grid_x;
    place.factor = factors_z[z] * factors_y[y] * factors_x[x];
    return place;
}

// Images (b, image_z, image_y, image_x) from transformed grids (b, nz, ny, nx).
extern "C" __global__ void crop(
    const float2* __restrict__ grids,
    float2* __restrict__ images,
    const float* __restrict__ factors_z,
    const float* __restrict__ factors_y,
    const float* __restrict__ factors_x,
    int64 n_voxels,
    int64 image_z, int64 image_y, int64 image_x,
    int64 nz, int64 ny, int64 nx)
{
    const int64 voxel = thread_index();
    if (voxel >= n_voxels) return;
    const Place place = place_of(
        voxel, image_z, image_y, image_x, nz, ny, nx, factors_z, factors_y, factors_x);
    const float2 value = grids[place.index];
    images[voxel] = make_float2(place.factor * value.x, place.factor * value.y);
}

// Images in grids of zeros, the adjoint of `crop`.
extern "C" __global__ void pad(
    const float2* __restrict__ images,
    float2* __restrict__ grids,
    const float* __restrict__ factors_z,
    const float* __restrict__ factors_y,
    const float* __restrict__ factors_x,
    int64 n_voxels,
    int64 image_z, int64 image_y, int64 image_x,
    int64 nz, int64 ny, int64 nx)
{
    const int64 voxel = thread_index();
    if (voxel >= n_voxels) return;
    const Place place = place_of(
        voxel, image_z, image_y, image_x, nz, ny, nx, factors_z, factors_y, factors_x);
    const float2 value = images[voxel];
    grids[place.index] = make_float2(place.factor * value.x, place.factor * value.y);
}
