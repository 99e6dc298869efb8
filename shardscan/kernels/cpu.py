"""REDUCE on the CPU: one numba pass over a block for both axes' sums, one for its histogram, LAPACK for its spectra.

Arrays in, arrays out; nothing here knows files, tensors or tasks. The only module that imports numba.

How the pass stays exact and fast: a block is walked in strips of 4 rows × 256 columns, decoded once into float64
scratch that stays in the L1 cache. Sums are taken about a *shift* per row and per column, the mean of a strided sample.
A sample of outliers only, one value in 256, costs the fourth moment a factor 256 of float64's precision, where raw
power sums lose all of it; where under half of the sample is finite the mean of all values is taken. The fast path runs
only on strips that hold no NaN or infinity, which is why it may let LLVM reorder; strips that do take a scalar path
that leaves them out.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import overload

STRIP, TILE, PANEL = 4, 256, 32
RUN = 64 * PANEL  # rows that one accumulator of a column takes: in a sum of millions, rounding adds up
SAMPLE_STRIDE, SAMPLE_LEAST = 256, 16

GRAM_PANEL = 256
LEAST_SIGMA = 1e-140

# rows of the sums arrays
S1, S2, S3, S4, SABS, MIN, MAX, COUNT, ZEROS = range(9)
SUMS = 9

_EXPONENT = np.uint64(0x7FF0000000000000)
_LOW_63 = np.int64(0x7FFFFFFFFFFFFFFF)
_NAN_BITS = np.uint32(0x7FC00000)
_M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_FINITE_ONLY = {"reassoc", "nnan", "nsz", "contract"}


def _load(values, table, j):
    """Element j as float64; typed below by what `values` and `table` are."""
    raise NotImplementedError


@overload(_load)
def _load_typed(values, table, j):
    if isinstance(values.dtype, types.Float):
        return lambda values, table, j: np.float64(values[j])
    if isinstance(table, types.Array):
        return lambda values, table, j: np.float64(table[values[j]])
    # uint16 without a table is bfloat16: the upper half of a float32
    return lambda values, table, j: np.float64(np.uint32(np.uint32(values[j]) << 16).view(np.float32))


@njit(cache=True, nogil=True)
def _is_finite(x):
    return (np.float64(x).view(np.uint64) & _EXPONENT) != _EXPONENT


@njit(cache=True, nogil=True)
def _bits(x):
    """Bits of float32(x) with −0 as 0 and one NaN: what fingerprints are made of."""
    if x != x:
        return _NAN_BITS
    # 0 is added after rounding, since a float64 just below 0 rounds to −0
    return np.float32(np.float32(x) + np.float32(0.0)).view(np.uint32)


@njit(cache=True, nogil=True)
def _mix(product, key):
    z = product ^ key
    z = (z ^ (z >> np.uint64(32))) * _M2
    return z ^ (z >> np.uint64(29))


@njit(cache=True, nogil=True)
def keys(start, stop):
    """A 64-bit key per index (splitmix64), so that a value's place counts in a fingerprint."""
    out = np.empty(stop - start, np.uint64)
    for i in range(start, stop):
        z = np.uint64(i + 1) * _M1
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i - start] = z ^ (z >> np.uint64(31))
    return out


@njit(cache=True, nogil=True)
def _stride(n):
    return max(1, min(SAMPLE_STRIDE, n // SAMPLE_LEAST))


@njit(cache=True, nogil=True)
def _finite_mean(values, table, stride):
    """The mean of the finite ones of every `stride`-th value, 0 where there are none, and their number."""
    total, n = 0.0, 0
    for j in range(0, values.size, stride):
        x = _load(values, table, j)
        if _is_finite(x):
            total += x
            n += 1
    return total / max(n, 1), n


@njit(cache=True, nogil=True)
def _too_few(sampled, stride, n):
    """Whether under half of a sample is finite: what is left may be a lone outlier, and the sums would cancel."""
    return 2 * sampled * stride < n


@njit(cache=True, nogil=True)
def _row_shift(values, table):
    stride = _stride(values.size)
    mean, sampled = _finite_mean(values, table, stride)
    if _too_few(sampled, stride, values.size):
        mean, _ = _finite_mean(values, table, 1)
    return mean


@njit(cache=True, nogil=True)
def _column_shifts(values, table, shifts):
    rows, cols = values.shape
    stride = _stride(rows)
    counts = np.zeros(cols, np.int64)
    shifts[:] = 0.0
    for i in range(0, rows, stride):
        for j in range(cols):
            x = _load(values[i], table, j)
            if _is_finite(x):
                shifts[j] += x
                counts[j] += 1
    for j in range(cols):
        shifts[j] /= max(counts[j], 1)
        if _too_few(counts[j], stride, rows):
            shifts[j], _ = _finite_mean(values[:, j], table, 1)


@njit(cache=True, nogil=True)
def _decode(values, table, x, product):
    """A piece of a row to scratch: its values and the first product of their fingerprints; True if all are finite."""
    bad = 0
    for j in range(values.size):
        v = _load(values, table, j)
        x[j] = v
        product[j] = np.uint64(_bits(v)) * _M1
        bad += 0 if _is_finite(v) else 1
    return bad == 0


@njit(cache=True, nogil=True)
def _ordered(v):
    """A float64 as an int64 of the same order, since LLVM vectorises integer minima only; `_unordered` undoes it."""
    k = np.float64(v).view(np.int64)
    return k ^ ((k >> 63) & _LOW_63)


@njit(cache=True, nogil=True)
def _unordered(k):
    return np.int64(k ^ ((k >> 63) & _LOW_63)).view(np.float64)


@njit(cache=True, nogil=True, fastmath=_FINITE_ONLY)
def _sum_row(x, shift, sums):
    s1, s2, s3, s4, sabs, zeros = 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for j in range(x.size):
        v = x[j]
        d = v - shift
        d2 = d * d
        s1 += d
        s2 += d2
        s3 += d2 * d
        s4 += d2 * d2
        sabs += abs(v)
        zeros += 1 if v == 0.0 else 0
    least = most = _ordered(x[0])
    for j in range(x.size):
        k = _ordered(x[j])
        least = min(least, k)
        most = max(most, k)
    sums[S1] += s1
    sums[S2] += s2
    sums[S3] += s3
    sums[S4] += s4
    sums[SABS] += sabs
    sums[MIN] = min(sums[MIN], _unordered(least))
    sums[MAX] = max(sums[MAX], _unordered(most))
    sums[COUNT] += x.size
    sums[ZEROS] += zeros


@njit(cache=True, nogil=True, fastmath=_FINITE_ONLY)
def _sum_columns(x, shifts, sums):
    """Four rows at a time: the accumulators are loaded and stored once for four values."""
    for j in range(shifts.size):
        a, b, c, d = x[0, j], x[1, j], x[2, j], x[3, j]
        sums[SABS, j] += (abs(a) + abs(b)) + (abs(c) + abs(d))
        sums[MIN, j] = min(sums[MIN, j], min(min(a, b), min(c, d)))
        sums[MAX, j] = max(sums[MAX, j], max(max(a, b), max(c, d)))
        sums[ZEROS, j] += np.float64((a == 0.0) + (b == 0.0) + (c == 0.0) + (d == 0.0))
    for j in range(shifts.size):
        s = shifts[j]
        a, b, c, d = x[0, j] - s, x[1, j] - s, x[2, j] - s, x[3, j] - s
        a2, b2, c2, d2 = a * a, b * b, c * c, d * d
        sums[S1, j] += (a + b) + (c + d)
        sums[S2, j] += (a2 + b2) + (c2 + d2)
        sums[S3, j] += (a2 * a + b2 * b) + (c2 * c + d2 * d)
        sums[S4, j] += (a2 * a2 + b2 * b2) + (c2 * c2 + d2 * d2)
        sums[COUNT, j] += 4.0


@njit(cache=True, nogil=True)
def _sum_value(v, shift, sums):
    """The slow path: one value into the sums of one channel, unless it is not finite."""
    if not _is_finite(v):
        return
    d = v - shift
    sums[S1] += d
    sums[S2] += d * d
    sums[S3] += d * d * d
    sums[S4] += d * d * d * d
    sums[SABS] += abs(v)
    sums[MIN] = min(sums[MIN], v)
    sums[MAX] = max(sums[MAX], v)
    sums[COUNT] += 1.0
    sums[ZEROS] += np.float64(v == 0.0)


@njit(cache=True, nogil=True)
def _row_fingerprint(product, column_keys):
    total = np.uint64(0)
    for j in range(product.size):
        total += _mix(product[j], column_keys[j])
    return total


@njit(cache=True, nogil=True)
def _add_column_fingerprints(product, row_key, prints):
    for j in range(product.size):
        prints[j] += _mix(product[j], row_key)


@njit(cache=True, nogil=True)
def _empty_sums(channels):
    sums = np.zeros((SUMS, channels))
    sums[MIN] = np.inf
    sums[MAX] = -np.inf
    return sums


@njit(cache=True, nogil=True)
def _empty_tiles(channels):
    """Sums (tiles, SUMS, TILE): a tile's accumulators lie together, whatever the width of the block."""
    tiles = np.empty(((channels + TILE - 1) // TILE, SUMS, TILE))
    _clear_tiles(tiles)
    return tiles


@njit(cache=True, nogil=True)
def _clear_tiles(tiles):
    tiles[:] = 0.0
    tiles[:, MIN] = np.inf
    tiles[:, MAX] = -np.inf


@njit(cache=True, nogil=True)
def _move_tiles(tiles, sums):
    """Add what the tiles hold to `sums` (SUMS, channels) and empty them."""
    for tile in range(tiles.shape[0]):
        for k in range(SUMS):
            for j in range(min(TILE, sums.shape[1] - tile * TILE)):
                held, value = sums[k, tile * TILE + j], tiles[tile, k, j]
                if k == MIN:
                    sums[k, tile * TILE + j] = min(held, value)
                elif k == MAX:
                    sums[k, tile * TILE + j] = max(held, value)
                else:
                    sums[k, tile * TILE + j] = held + value
    _clear_tiles(tiles)


@njit(cache=True, nogil=True)
def _strip_columns(x, strip, finite, shifts, sums):
    """A strip into the sums of its columns: four whole rows at once if they are finite, else value by value."""
    if finite and strip == STRIP:
        _sum_columns(x, shifts, sums)
        return
    for r in range(strip):
        for j in range(shifts.size):
            _sum_value(x[r, j], shifts[j], sums[:, j])


@njit(cache=True, nogil=True)
def channel_sums(values, table, row_keys, column_keys, columns):
    """Sums and fingerprints of every row and, if `columns`, every column of one block.

    `values` (rows, cols) float32, float64, or uint8 or uint16 with the `table` that decodes it; uint16 without a table
    is bfloat16.
    Returns shifts (rows,), sums (SUMS, rows), fingerprints (rows,) and the same three for the columns.
    """
    rows, cols = values.shape
    n_columns = cols if columns else 0
    row_shifts, column_shifts = np.empty(rows), np.empty(n_columns)
    row_sums, column_sums = np.ascontiguousarray(_empty_sums(rows).T), _empty_sums(n_columns)
    tiles = _empty_tiles(n_columns)
    row_prints, column_prints = np.zeros(rows, np.uint64), np.zeros(n_columns, np.uint64)
    for i in range(rows):
        row_shifts[i] = _row_shift(values[i], table)
    if columns:
        _column_shifts(values, table, column_shifts)
    x, product = np.empty((STRIP, TILE)), np.empty(TILE, np.uint64)
    for p0 in range(0, rows, PANEL):
        for j0 in range(0, cols, TILE):
            j1 = min(j0 + TILE, cols)
            for i0 in range(p0, min(p0 + PANEL, rows), STRIP):
                strip = min(STRIP, rows - i0)
                finite = True
                for r in range(strip):
                    row, piece, hashes = i0 + r, x[r, : j1 - j0], product[: j1 - j0]
                    if _decode(values[row, j0:j1], table, piece, hashes):
                        _sum_row(piece, row_shifts[row], row_sums[row])
                    else:
                        finite = False
                        for j in range(piece.size):
                            _sum_value(piece[j], row_shifts[row], row_sums[row])
                    row_prints[row] += _row_fingerprint(hashes, column_keys[j0:j1])
                    if columns:
                        _add_column_fingerprints(hashes, row_keys[row], column_prints[j0:j1])
                if columns:
                    _strip_columns(x, strip, finite, column_shifts[j0:j1], tiles[j0 // TILE])
        if (p0 + PANEL) % RUN == 0 or p0 + PANEL >= rows:
            _move_tiles(tiles, column_sums)
    return row_shifts, row_sums.T, row_prints, column_shifts, column_sums, column_prints


@njit(cache=True, nogil=True)
def count_patterns(codes, counts):
    """Add the bit patterns `codes` (n,) uint8 or uint16 to `counts`, in place."""
    for i in range(codes.size):
        counts[codes[i]] += np.uint64(1)


@njit(cache=True, nogil=True)
def _truncated_pattern(x):
    """The bfloat16 pattern of x truncated towards zero: what float32 rounds away from zero is stepped back."""
    f = np.float32(x)
    bits = f.view(np.uint32)
    if abs(np.float64(f)) > abs(np.float64(x)):
        bits -= np.uint32(1)
    return bits >> np.uint32(16)


@njit(cache=True, nogil=True)
def count_truncated(values, counts):
    """Add the truncated bfloat16 patterns of the finite `values` (n,) float32 or float64 to `counts`, in place.

    Returns what such bins cannot tell: zeros, near zeros (|x| <= 1e-8), NaNs, infinities and the least |x| not 0.
    """
    zeros = near = nans = infs = 0
    least = np.inf
    for i in range(values.size):
        x = values[i]
        if not _is_finite(x):
            nans += 1 if x != x else 0
            infs += 1 if x == x else 0
            continue
        magnitude = abs(np.float64(x))
        zeros += 1 if magnitude == 0.0 else 0
        near += 1 if magnitude <= 1e-8 else 0
        if 0.0 < magnitude < least:
            least = magnitude
        counts[_truncated_pattern(x)] += np.uint64(1)
    return zeros, near, nans, infs, least


def to_float64(values: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    """A copy of `values` as float64, decoded as `channel_sums` decodes them."""
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        if values.dtype.kind == "f":
            return values.astype(np.float64)
        if table is not None:
            return np.asarray(table[values], np.float64)
        return (values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def row_grams(values: np.ndarray, table: np.ndarray | None, dim: int) -> np.ndarray:
    """W_h W_hᵀ in float64 of every head of `dim` rows: (rows, cols) → (rows / dim, dim, dim)."""
    grams = np.empty((values.shape[0] // dim, dim, dim))
    for head, gram in enumerate(grams):
        w = to_float64(values[head * dim : (head + 1) * dim], table)
        with np.errstate(invalid="ignore", over="ignore"):  # such a Gram matrix is not finite, which the spectra see
            np.matmul(w, w.T, out=gram)
    return grams


def column_grams(values: np.ndarray, table: np.ndarray | None, dim: int) -> np.ndarray:
    """W_hᵀ W_h in float64 of every head of `dim` columns: (rows, cols) → (cols / dim, dim, dim), by panels of rows."""
    rows, cols = values.shape
    grams = np.zeros((cols // dim, dim, dim))
    for start in range(0, rows, GRAM_PANEL):
        w = to_float64(values[start : start + GRAM_PANEL], table)
        heads = w.reshape(len(w), cols // dim, dim).transpose(1, 2, 0)
        with np.errstate(invalid="ignore", over="ignore"):
            grams += heads @ heads.transpose(0, 2, 1)
    return grams


def gram_spectra(grams: np.ndarray, rank: int, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Singular values from Gram matrices (n, d, d): σ (n, rank), largest first, and which of the n rows hold.

    A row holds if no σ lies below floor·σ₁ and σ₁ is so large that no square of it vanished, as all squares of a zero
    matrix have. Rows that do not hold are for `exact_spectrum`; those of a Gram matrix that is not finite are NaN.
    """
    sigma = np.full((len(grams), rank), np.nan)
    finite = np.isfinite(grams).all(axis=(1, 2))
    if finite.any():
        eigenvalues = np.linalg.eigvalsh(grams[finite])[:, ::-1][:, :rank]
        sigma[finite] = np.sqrt(np.maximum(eigenvalues, 0.0))
    holds = finite & (sigma[:, -1] >= floor * sigma[:, 0]) & (sigma[:, 0] > LEAST_SIGMA) if rank else finite
    return sigma, holds


def exact_spectrum(w: np.ndarray) -> np.ndarray | None:
    """σ of a float64 matrix by QR and SVD, largest first; None where it holds a value that is not finite.

    The check comes first because LAPACK may hang on an infinity; the scaling because Σx² may overflow.
    """
    if not np.isfinite(w).all():
        return None
    scale = np.abs(w).max(initial=0.0)
    if scale == 0.0:
        return np.zeros(min(w.shape))
    w = (w if w.shape[0] >= w.shape[1] else w.T) / scale
    sigma: np.ndarray = np.linalg.svd(np.linalg.qr(w, mode="r"), compute_uv=False) * scale
    return sigma
