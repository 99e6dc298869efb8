"""REDUCE on the CPU, its channels: one pass over a block for the sums and fingerprints of both axes.

How the pass stays exact and fast: a block is walked in strips of 4 rows × 256 columns, decoded once into float64
scratch that stays in the L1 cache. Sums are taken about a *shift* per row and per column, the mean of a strided sample.
A sample of outliers only, one value in 256, costs the fourth moment a factor 256 of float64's precision, where raw
power sums lose all of it; where under half of the sample is finite the mean of all values is taken. The fast path runs
only on strips that hold no NaN or infinity, which is why it may let LLVM reorder; strips that do take a scalar path
that leaves them out.
"""

from __future__ import annotations

import numpy as np

from shardscan.reduce.kernels.cpu.compiler import kernel
from shardscan.reduce.kernels.cpu.values import is_finite, load

STRIP, TILE, PANEL = 4, 256, 32
RUN = 64 * PANEL  # rows that one accumulator of a column takes: in a sum of millions, rounding adds up
SAMPLE_STRIDE, SAMPLE_LEAST = 256, 16

# rows of the sums arrays
S1, S2, S3, S4, SABS, MIN, MAX, COUNT, ZEROS = range(9)
SUMS = 9

_LOW_63 = np.int64(0x7FFFFFFFFFFFFFFF)
_NAN_BITS = np.uint32(0x7FC00000)
_M1, _M2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_FINITE_ONLY = {"reassoc", "nnan", "nsz", "contract"}


@kernel()
def _bits(x):
    """Bits of float32(x) with −0 as 0 and one NaN: what fingerprints are made of."""
    if x != x:
        return _NAN_BITS
    # 0 is added after rounding, since a float64 just below 0 rounds to −0
    return np.float32(np.float32(x) + np.float32(0.0)).view(np.uint32)


@kernel()
def _mix(product, key):
    z = product ^ key
    z = (z ^ (z >> np.uint64(32))) * _M2
    return z ^ (z >> np.uint64(29))


@kernel()
def keys(start, stop):
    """A 64-bit key per index (splitmix64), so that a value's place counts in a fingerprint."""
    out = np.empty(stop - start, np.uint64)
    for i in range(start, stop):
        z = np.uint64(i + 1) * _M1
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i - start] = z ^ (z >> np.uint64(31))
    return out


@kernel()
def _stride(n):
    return max(1, min(SAMPLE_STRIDE, n // SAMPLE_LEAST))


@kernel()
def _finite_mean(values, table, stride):
    """The mean of the finite ones of every `stride`-th value, 0 where there are none, and their number."""
    total, n = 0.0, 0
    for j in range(0, values.size, stride):
        x = load(values, table, j)
        if is_finite(x):
            total += x
            n += 1
    return total / max(n, 1), n


@kernel()
def _too_few(sampled, stride, n):
    """Whether under half of a sample is finite: what is left may be a lone outlier, and the sums would cancel."""
    return 2 * sampled * stride < n


@kernel()
def _row_shift(values, table):
    stride = _stride(values.size)
    mean, sampled = _finite_mean(values, table, stride)
    if _too_few(sampled, stride, values.size):
        mean, _ = _finite_mean(values, table, 1)
    return mean


@kernel()
def _column_shifts(values, table, shifts):
    rows, cols = values.shape
    stride = _stride(rows)
    counts = np.zeros(cols, np.int64)
    shifts[:] = 0.0
    for i in range(0, rows, stride):
        for j in range(cols):
            x = load(values[i], table, j)
            if is_finite(x):
                shifts[j] += x
                counts[j] += 1
    for j in range(cols):
        shifts[j] /= max(counts[j], 1)
        if _too_few(counts[j], stride, rows):
            shifts[j], _ = _finite_mean(values[:, j], table, 1)


@kernel()
def _decode(values, table, x, product):
    """A piece of a row to scratch: its values and the first product of their fingerprints; True if all are finite."""
    bad = 0
    for j in range(values.size):
        v = load(values, table, j)
        x[j] = v
        product[j] = np.uint64(_bits(v)) * _M1
        bad += 0 if is_finite(v) else 1
    return bad == 0


@kernel()
def _ordered(v):
    """A float64 as an int64 of the same order, since LLVM vectorises integer minima only; `_unordered` undoes it."""
    k = np.float64(v).view(np.int64)
    return k ^ ((k >> 63) & _LOW_63)


@kernel()
def _unordered(k):
    return np.int64(k ^ ((k >> 63) & _LOW_63)).view(np.float64)


@kernel(fastmath=_FINITE_ONLY)
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


@kernel(fastmath=_FINITE_ONLY)
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


@kernel()
def _sum_value(v, shift, sums):
    """The slow path: one value into the sums of one channel, unless it is not finite."""
    if not is_finite(v):
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


@kernel()
def _row_fingerprint(product, column_keys):
    total = np.uint64(0)
    for j in range(product.size):
        total += _mix(product[j], column_keys[j])
    return total


@kernel()
def _add_column_fingerprints(product, row_key, prints):
    for j in range(product.size):
        prints[j] += _mix(product[j], row_key)


@kernel()
def _empty_sums(channels):
    sums = np.zeros((SUMS, channels))
    sums[MIN] = np.inf
    sums[MAX] = -np.inf
    return sums


@kernel()
def _empty_tiles(channels):
    """Sums (tiles, SUMS, TILE): a tile's accumulators lie together, whatever the width of the block."""
    tiles = np.empty(((channels + TILE - 1) // TILE, SUMS, TILE))
    _clear_tiles(tiles)
    return tiles


@kernel()
def _clear_tiles(tiles):
    tiles[:] = 0.0
    tiles[:, MIN] = np.inf
    tiles[:, MAX] = -np.inf


@kernel()
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


@kernel()
def _strip_columns(x, strip, finite, shifts, sums):
    """A strip into the sums of its columns: four whole rows at once if they are finite, else value by value."""
    if finite and strip == STRIP:
        _sum_columns(x, shifts, sums)
        return
    for r in range(strip):
        for j in range(shifts.size):
            _sum_value(x[r, j], shifts[j], sums[:, j])


@kernel()
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
