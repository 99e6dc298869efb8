// REDUCE on the GPU, its raw kernels: a block is decoded on the device and reduced to sums, fingerprints and counts.
//
// One module is compiled for each of the five kinds of values below, the one that the option -DVALUES=... names;
// -DTHREADS=... is the largest number of threads in a block, and a block always has a power of two of them.
// Every sum is taken in one fixed order, so that a device repeats its own bits; only integers are added atomically.
// Contract: the same numbers as kernels/cpu, whose formulas these are. ASCII only: CuPy may write this file in any
// locale's encoding.

typedef unsigned long long u64;
typedef long long i64;

// ---- values: how a stored element becomes a number ----

struct Bfloat16 {
    typedef unsigned short Element;
    static const bool wide = false;
    static __device__ double decoded(Element element, const float *) {
        return __uint_as_float(static_cast<unsigned>(element) << 16);
    }
};

struct Table8 {
    typedef unsigned char Element;
    static const bool wide = false;
    static __device__ double decoded(Element element, const float *table) { return table[element]; }
};

struct Table16 {
    typedef unsigned short Element;
    static const bool wide = false;
    static __device__ double decoded(Element element, const float *table) { return table[element]; }
};

struct Float32 {
    typedef float Element;
    static const bool wide = true;
    static __device__ double decoded(Element element, const float *) { return element; }
};

struct Float64 {
    typedef double Element;
    static const bool wide = true;
    static __device__ double decoded(Element element, const float *) { return element; }
};

typedef VALUES::Element Element;

static __device__ double infinity() { return __longlong_as_double(0x7FF0000000000000LL); }

static __device__ bool is_finite(double x) {
    return (__double_as_longlong(x) & 0x7FF0000000000000LL) != 0x7FF0000000000000LL;
}

// ---- fingerprints ----

static const u64 M1 = 0x9E3779B97F4A7C15ULL, M2 = 0xD6E8FEB86659FD93ULL;

// A 64-bit key per index (splitmix64), so that a value's place counts.
static __device__ u64 key(i64 index) {
    u64 z = static_cast<u64>(index + 1) * M1;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

static __device__ u64 mixed(double x, u64 key) {
    // bits of float32(x) with -0 as 0 and one NaN; 0 is added after rounding, since a float64 just below 0 rounds to -0
    const unsigned bits = x != x ? 0x7FC00000u : __float_as_uint(static_cast<float>(x) + 0.0f);
    u64 z = (bits * M1) ^ key;
    z = (z ^ (z >> 32)) * M2;
    return z ^ (z >> 29);
}

// ---- what is summed ----

// The mean of finite values. They are scaled down by 2^32, so that a sum of the largest float64 values stays finite.
struct Mean {
    double sum, count;

    __device__ void clear() { sum = count = 0.0; }

    __device__ void add(double x) {
        if (is_finite(x)) {
            sum += x * 0x1p-32;
            count += 1.0;
        }
    }

    __device__ void merge(const Mean &other) {
        sum += other.sum;
        count += other.count;
    }

    __device__ double value() const { return count > 0.0 ? sum / count * 0x1p32 : 0.0; }
};

enum { S1, S2, S3, S4, SABS, MIN, MAX, COUNT, ZEROS, SUMS };

// The sums of one channel about a shift, over its finite values, and its fingerprint, over all.
struct Channel {
    double sums[SUMS];
    u64 print;

    __device__ void clear() {
        for (int k = 0; k < SUMS; k++) sums[k] = 0.0;
        sums[MIN] = infinity();
        sums[MAX] = -infinity();
        print = 0;
    }

    __device__ void add(double x, double shift, u64 key) {
        print += mixed(x, key);
        if (!is_finite(x)) return;
        const double d = x - shift, d2 = d * d;
        sums[S1] += d;
        sums[S2] += d2;
        sums[S3] += d2 * d;
        sums[S4] += d2 * d2;
        sums[SABS] += x < 0.0 ? -x : x;
        sums[MIN] = x < sums[MIN] ? x : sums[MIN];
        sums[MAX] = x > sums[MAX] ? x : sums[MAX];
        sums[COUNT] += 1.0;
        sums[ZEROS] += x == 0.0 ? 1.0 : 0.0;
    }

    __device__ void merge(const Channel &other) {
        for (int k = 0; k < SUMS; k++)
            if (k != MIN && k != MAX) sums[k] += other.sums[k];
        sums[MIN] = other.sums[MIN] < sums[MIN] ? other.sums[MIN] : sums[MIN];
        sums[MAX] = other.sums[MAX] > sums[MAX] ? other.sums[MAX] : sums[MAX];
        print += other.print;
    }
};

// What bins of truncated patterns cannot tell; `least` is the bits of a positive float64, which order as integers do.
struct Tails {
    u64 zeros, near_zeros, nans, infs, least;

    __device__ void clear() {
        zeros = near_zeros = nans = infs = 0;
        least = static_cast<u64>(__double_as_longlong(infinity()));
    }

    // Whether x is finite, which means that it has a bin.
    __device__ bool add(double x) {
        if (!is_finite(x)) {
            nans += x != x;
            infs += x == x;
            return false;
        }
        const double magnitude = x < 0.0 ? -x : x;
        zeros += magnitude == 0.0;
        near_zeros += magnitude <= 1e-8;
        if (magnitude > 0.0) least_of(static_cast<u64>(__double_as_longlong(magnitude)));
        return true;
    }

    __device__ void merge(const Tails &other) {
        zeros += other.zeros;
        near_zeros += other.near_zeros;
        nans += other.nans;
        infs += other.infs;
        least_of(other.least);
    }

    __device__ void least_of(u64 bits) { least = bits < least ? bits : least; }
};

// What all threads of the block hold, merged by halves; every thread gets it. At most one call per T in a kernel.
template <class T> static __device__ T of_block(T mine) {
    __shared__ T held[THREADS];
    held[threadIdx.x] = mine;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) held[threadIdx.x].merge(held[threadIdx.x + half]);
        __syncthreads();
    }
    return held[0];
}

// ---- rows: one block of threads for each ----

// shifts (rows,), sums (SUMS, rows), prints (rows,)
extern "C" __global__ void row_channels(
    const Element *__restrict__ values, const float *__restrict__ table, i64 rows, i64 cols, double *shifts,
    double *sums, u64 *prints) {
    const i64 row = blockIdx.x;
    const Element *const first = values + row * cols;

    Mean mean;
    mean.clear();
    for (i64 j = threadIdx.x; j < cols; j += blockDim.x) mean.add(VALUES::decoded(first[j], table));
    const double shift = of_block(mean).value();

    Channel channel;
    channel.clear();
    for (i64 j = threadIdx.x; j < cols; j += blockDim.x) channel.add(VALUES::decoded(first[j], table), shift, key(j));
    channel = of_block(channel);

    if (threadIdx.x == 0) {
        shifts[row] = shift;
        for (int k = 0; k < SUMS; k++) sums[k * rows + row] = channel.sums[k];
        prints[row] = channel.print;
    }
}

// ---- columns: one thread for each in every slice of `step` rows, then one thread for each over the slices ----

// means (2, slices, cols): sum and count
extern "C" __global__ void column_means(
    const Element *__restrict__ values, const float *__restrict__ table, i64 rows, i64 cols, i64 step, double *means) {
    const i64 col = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x, slice = blockIdx.y;
    if (col >= cols) return;
    const i64 stop = (slice + 1) * step < rows ? (slice + 1) * step : rows;
    Mean mean;
    mean.clear();
    for (i64 i = slice * step; i < stop; i++) mean.add(VALUES::decoded(values[i * cols + col], table));
    means[slice * cols + col] = mean.sum;
    means[(gridDim.y + slice) * cols + col] = mean.count;
}

// shifts (cols,)
extern "C" __global__ void column_shifts(const double *means, i64 slices, i64 cols, double *shifts) {
    const i64 col = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    Mean mean;
    mean.clear();
    for (i64 slice = 0; slice < slices; slice++) {
        const Mean part = {means[slice * cols + col], means[(slices + slice) * cols + col]};
        mean.merge(part);
    }
    shifts[col] = mean.value();
}

// sums (slices, SUMS, cols), prints (slices, cols)
extern "C" __global__ void column_channels(
    const Element *__restrict__ values, const float *__restrict__ table, i64 rows, i64 cols, i64 step, i64 first_row,
    const double *shifts, double *sums, u64 *prints) {
    const i64 col = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x, slice = blockIdx.y;
    if (col >= cols) return;
    const i64 stop = (slice + 1) * step < rows ? (slice + 1) * step : rows;
    const double shift = shifts[col];
    Channel channel;
    channel.clear();
    for (i64 i = slice * step; i < stop; i++)
        channel.add(VALUES::decoded(values[i * cols + col], table), shift, key(first_row + i));
    for (int k = 0; k < SUMS; k++) sums[(slice * SUMS + k) * cols + col] = channel.sums[k];
    prints[slice * cols + col] = channel.print;
}

// parts and part_prints as column_channels leaves them; sums (SUMS, cols), prints (cols,)
extern "C" __global__ void column_totals(
    const double *parts, const u64 *part_prints, i64 slices, i64 cols, double *sums, u64 *prints) {
    const i64 col = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (col >= cols) return;
    Channel total;
    total.clear();
    for (i64 slice = 0; slice < slices; slice++) {
        Channel part;
        for (int k = 0; k < SUMS; k++) part.sums[k] = parts[(slice * SUMS + k) * cols + col];
        part.print = part_prints[slice * cols + col];
        total.merge(part);
    }
    for (int k = 0; k < SUMS; k++) sums[k * cols + col] = total.sums[k];
    prints[col] = total.print;
}

// ---- patterns ----

// A narrow value's own bits; of a wide one the bfloat16 pattern of x truncated towards zero: what float32 rounds away
// from zero is stepped back.
static __device__ unsigned pattern(Element element) {
    if constexpr (!VALUES::wide) return static_cast<unsigned>(element);
    const double x = element;
    const float f = static_cast<float>(x);
    const double rounded = f;
    const bool away = (rounded < 0.0 ? -rounded : rounded) > (x < 0.0 ? -x : x);
    return (__float_as_uint(f) - (away ? 1u : 0u)) >> 16;
}

// counts (65536,) += patterns, of finite values only where values are wide; tails (5,) += what Tails holds.
// The lanes of a warp that hold the same pattern add once: half of a pruned tensor is one pattern.
extern "C" __global__ void count(const Element *__restrict__ values, i64 n, u64 *counts, u64 *tails) {
    const unsigned lane = threadIdx.x % 32;
    Tails mine;
    mine.clear();
    // the bound is the same for all lanes of a warp, because all of them vote
    for (i64 start = static_cast<i64>(blockIdx.x) * blockDim.x + (threadIdx.x - lane); start < n;
         start += static_cast<i64>(gridDim.x) * blockDim.x) {
        const bool inside = start + lane < n;
        const Element element = inside ? values[start + lane] : Element(0);
        bool counted = inside;
        if constexpr (VALUES::wide) counted = inside && mine.add(element);
        const unsigned voters = __ballot_sync(0xFFFFFFFFu, counted);
        if (counted) {
            const unsigned bin = pattern(element), peers = __match_any_sync(voters, bin);
            if (static_cast<int>(lane) == __ffs(peers) - 1) atomicAdd(&counts[bin], static_cast<u64>(__popc(peers)));
        }
    }
    if constexpr (VALUES::wide) {
        mine = of_block(mine);
        if (threadIdx.x == 0) {
            atomicAdd(&tails[0], mine.zeros);
            atomicAdd(&tails[1], mine.near_zeros);
            atomicAdd(&tails[2], mine.nans);
            atomicAdd(&tails[3], mine.infs);
            atomicMin(&tails[4], mine.least);
        }
    }
}

// ---- matrices ----

// out (n,) float64
extern "C" __global__ void decode(
    const Element *__restrict__ values, const float *__restrict__ table, i64 n, double *out) {
    for (i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
         i += static_cast<i64>(gridDim.x) * blockDim.x)
        out[i] = VALUES::decoded(values[i], table);
}
