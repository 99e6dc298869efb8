"""REDUCE on the CPU, its comparisons: one pass over the values of two weights for the sums of both axes.

Tiles of both sides are decoded to float64 scratch that stays in the cache, so that the loops are compiled once and not
for every pair of dtypes. As in the channels' pass, the fast path runs only where all values are finite, which is why it
may let LLVM reorder; where one is not, a scalar path leaves its position out of the sums, not of the counts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shardscan.reduce.kernels.cpu.compiler import kernel
from shardscan.reduce.kernels.cpu.values import is_finite, to_float64

STRIP, PIECE = 4, 256  # rows and columns that are summed together
TILE_ROWS, TILE_COLS = 32, 1024  # that are decoded together

# rows of the sums arrays: counts of positions where both are finite, where a ≠ b (−0 is 0, NaN is NaN), and where
# b = 0 ≠ a; over the finite ones Σa², Σb², Σab, Σ(a−b)² and max|a−b|
FINITE, CHANGED, NEWLY_ZERO, AA, BB, AB, DD, MOST = range(8)
SUMS = 8

_FINITE_ONLY = {"reassoc", "nnan", "nsz", "contract"}
_LEAST_BITS = np.uint64(52)


@kernel()
def _copied(x, piece):
    """A piece of a row to float64 scratch; True if all of it is finite."""
    bad = 0
    for j in range(x.size):
        v = np.float64(x[j])
        piece[j] = v
        bad += 0 if is_finite(v) else 1
    return bad == 0


@kernel(fastmath=_FINITE_ONLY)
def _add_row(x, y, sums):
    aa, bb, ab, dd, changed, zero = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(x.size):
        a, b = x[j], y[j]
        d = a - b
        aa += a * a
        bb += b * b
        ab += a * b
        dd += d * d
        changed += np.float64(a != b)
        zero += np.float64((b == 0.0) & (a != 0.0))
    most = np.int64(0)
    for j in range(x.size):
        # of what is not negative the bits have the order of the values, and LLVM vectorises integer maxima only
        most = max(most, np.float64(abs(x[j] - y[j])).view(np.int64))
    sums[FINITE] += x.size
    sums[CHANGED] += changed
    sums[NEWLY_ZERO] += zero
    sums[AA] += aa
    sums[BB] += bb
    sums[AB] += ab
    sums[DD] += dd
    sums[MOST] = max(sums[MOST], np.int64(most).view(np.float64))


@kernel(fastmath=_FINITE_ONLY)
def _add_columns(x, y, width, sums):
    """Four rows at a time: the accumulators are loaded and stored once for four values."""
    for j in range(width):
        a, b, c, d = x[0, j], x[1, j], x[2, j], x[3, j]
        e, f, g, h = y[0, j], y[1, j], y[2, j], y[3, j]
        sums[AA, j] += (a * a + b * b) + (c * c + d * d)
        sums[BB, j] += (e * e + f * f) + (g * g + h * h)
        sums[AB, j] += (a * e + b * f) + (c * g + d * h)
    for j in range(width):
        a, b, c, d = x[0, j] - y[0, j], x[1, j] - y[1, j], x[2, j] - y[2, j], x[3, j] - y[3, j]
        sums[DD, j] += (a * a + b * b) + (c * c + d * d)
        sums[MOST, j] = max(sums[MOST, j], max(max(abs(a), abs(b)), max(abs(c), abs(d))))
    for j in range(width):
        a, b, c, d = x[0, j], x[1, j], x[2, j], x[3, j]
        e, f, g, h = y[0, j], y[1, j], y[2, j], y[3, j]
        sums[CHANGED, j] += np.float64((a != e) + (b != f) + (c != g) + (d != h))
        p, q = (a != 0.0) & (e == 0.0), (b != 0.0) & (f == 0.0)
        sums[NEWLY_ZERO, j] += np.float64(p + q + ((c != 0.0) & (g == 0.0)) + ((d != 0.0) & (h == 0.0)))
        sums[FINITE, j] += 4.0


@kernel()
def _add_value(a, b, scale, sums):
    """The slow path: one position into the sums of one channel; what is squared is scaled."""
    sums[CHANGED] += np.float64(a != b and not (a != a and b != b))
    sums[NEWLY_ZERO] += np.float64(b == 0.0 and a != 0.0)
    if not (is_finite(a) and is_finite(b)):
        return
    sums[FINITE] += 1.0
    sums[MOST] = max(sums[MOST], abs(a - b))
    a, b = a * scale, b * scale
    d = a - b
    sums[AA] += a * a
    sums[BB] += b * b
    sums[AB] += a * b
    sums[DD] += d * d


@kernel()
def _add_tile(x, y, scale, rows, columns, with_columns):
    """One tile into the sums of its rows (n, SUMS) and of its columns (pieces, SUMS, PIECE)."""
    p, q = np.empty((STRIP, PIECE)), np.empty((STRIP, PIECE))
    for left in range(0, x.shape[1], PIECE):
        width = min(PIECE, x.shape[1] - left)
        sums = columns[left // PIECE]
        for top in range(0, x.shape[0], STRIP):
            height = min(STRIP, x.shape[0] - top)
            all_finite = True
            for i in range(height):
                row, a, b = top + i, p[i, :width], q[i, :width]
                finite = _copied(x[row, left : left + width], a)
                if _copied(y[row, left : left + width], b) and finite and scale == 1.0:
                    _add_row(a, b, rows[row])
                    continue
                all_finite = False
                for j in range(width):
                    _add_value(a[j], b[j], scale, rows[row])
            if with_columns and all_finite and height == STRIP:
                _add_columns(p, q, width, sums)
            elif with_columns:
                for i in range(height):
                    for j in range(width):
                        _add_value(p[i, j], q[i, j], scale, sums[:, j])


def compiled() -> bool:
    """Whether these kernels come out of numba's cache: see `statistics.compiled`."""
    return any(Path(str(_add_tile.stats.cache_path)).glob("differences._add_tile-*.nbi"))


def differences(
    a: np.ndarray,
    table_a: np.ndarray | None,
    b: np.ndarray,
    table_b: np.ndarray | None,
    scale: float,
    columns: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums (SUMS, rows) and (SUMS, cols) of a block of both sides; what is squared is times `scale`, a power of two.

    `a` and `b` (rows, cols) and their tables are as `channel_sums` takes them; without `columns` theirs are empty.
    """
    n, m = a.shape
    rows, of_columns = np.zeros((n, SUMS)), np.zeros((SUMS, m if columns else 0))
    # 32 bits hold every value of all dtypes but the widest, at half the traffic
    kind = np.float64 if np.float64 in (a.dtype, b.dtype) else np.float32
    x, y = np.empty(TILE_ROWS * TILE_COLS, kind), np.empty(TILE_ROWS * TILE_COLS, kind)
    for left in range(0, m, TILE_COLS):
        width = min(TILE_COLS, m - left)
        pieces = np.zeros((-(-width // PIECE), SUMS, PIECE))
        for top in range(0, n, TILE_ROWS):
            height = min(TILE_ROWS, n - top)
            p, q = (scratch[: height * width].reshape(height, width) for scratch in (x, y))
            to_float64(a, table_a, top, left, p)
            to_float64(b, table_b, top, left, q)
            _add_tile(p, q, scale, rows[top : top + height], pieces, columns)
        if columns:
            of_columns[:, left : left + width] = np.swapaxes(pieces, 0, 1).reshape(SUMS, -1)[:, :width]
    return np.ascontiguousarray(rows.T), of_columns


@kernel()
def add_rounding(values, mantissa, least, down, across):
    """Add the variances ulp²/12 of the rounding of `values` (rows, cols) float64 to sums by row and by column.

    The unit in the last place of x is 2^(max(⌊log₂|x|⌋, least) − mantissa): see `dtypes.PRECISIONS`.
    """
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            bits = np.float64(values[i, j]).view(np.uint64)
            exponent = max(np.int64((bits >> _LEAST_BITS) & np.uint64(0x7FF)) - 1023, least) - mantissa
            # 4^exponent from its bits; what float64 has no normal number for is too small to count
            square = np.int64(max(2 * exponent + 1023, 0)) << 52
            variance = np.int64(square).view(np.float64) / 12.0
            down[i] += variance
            across[j] += variance
