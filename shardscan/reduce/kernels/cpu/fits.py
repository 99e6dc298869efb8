"""REDUCE on the CPU, its fits: what is read off a spectrum and SQL would compute badly.

From the singular values σ₁ ≥ … ≥ σ_r of one matrix or head, with λ = σ² (no 1/N), N = max(rows, cols) and
M = min(rows, cols). Values below the method's floor are noise and left out of everything, zeros too.

Power law (Clauset, Shalizi & Newman 2009, as WeightWatcher 0.7.7 fits it): for each xmin among the λ but the largest,
n = #{λ ≥ xmin}, α = 1 + n/Σ ln(λ/xmin) and D = max_j |1 − (λ_j/xmin)^(1−α) − j/n| over the tail in ascending order,
j from 0; the α of the least D is kept, of equal ones that of the smallest xmin. So far WeightWatcher agrees. On purpose
we differ where
- it fits λ > 1e-5 only, whatever the scale of the weights, and sums its norms over all; we fit and sum all above the
  floor, so alpha does not depend on the scale;
- it takes every copy of equal λ as an xmin of its own, with a tail that leaves the earlier copies out; we keep n as it
  is defined;
- it has another estimator for under 20 values (n − 1 for n, tails of 8 at least); ours stays the same, and
  `tail_values` says what an alpha rests on;
- it reports −1 where a fit failed; we report NaN.

Marchenko–Pastur (Martin & Mahoney, arXiv 1810.01075): λ₊ = s²(1 + 1/√Q)², Q = N/M, with s² the mean λ of the bulk
λ ≤ λ₊ and the bulk found by dropping what is above until nothing is. WeightWatcher fits s to a kernel density instead
and counts spikes beyond a Tracy–Widom margin.

SNR (QuixiAI/spectrum): ε = IQR(σ)/1.349·(1 + √(M/N)) and (Σσ[σ>ε] / Σσ[σ≤ε]) / σ₁, the denominator 1 where no σ ≤ ε.
Spectrum counts the values below the floor among those of its quartiles.
"""

from __future__ import annotations

import math

import numpy as np

from shardscan.reduce.kernels import FITS
from shardscan.reduce.kernels.cpu.compiler import kernel

(ALPHA, XMIN, DISTANCE, TAIL, ALPHA_WEIGHTED, LOG_ALPHA_NORM, LOG_NORM, LOG_SPECTRAL_NORM) = range(8)
(MP_EDGE, MP_SPIKES, MP_SOFT_RANK, SNR, SNR_THRESHOLD) = range(8, len(FITS))


def spectrum_fits(sigma: np.ndarray, floors: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """The FITS of n spectra of (rows, cols) matrices: σ (n, rank), largest first, and floors (n,) → (n, len(FITS)).

    NaN is what does not exist: everything of a spectrum of zeros or one that begins with NaN; all but the last two
    norms where one value is above the floor; the power law where all values are equal; squares out of float64's range.
    A NaN among the values ends a spectrum.
    """
    found = np.full((len(sigma), len(FITS)), np.nan)
    spread = 1.0 + math.sqrt(min(rows, cols) / max(rows, cols, 1))
    _fit_all(np.ascontiguousarray(sigma, np.float64), np.ascontiguousarray(floors, np.float64), spread, found)
    found[~np.isfinite(found)] = np.nan
    return found


@kernel()
def _fit_all(sigma, floors, spread, found):
    """`spread` is 1 + 1/√Q = 1 + √β, which the bulk's edge and the SNR's threshold share."""
    n, rank = sigma.shape
    x, log = np.empty(rank), np.empty(rank)
    for i in range(n):
        kept = _scale(sigma[i], floors[i], x)
        if kept > 0:
            _fit(sigma[i, :kept], x[:kept], log[:kept], spread, found[i])


@kernel()
def _scale(sigma, floor, x):
    """σ/σ₁ of the values above the floor into x; their number. Everything is summed in these: no square overflows."""
    if sigma.size == 0 or not 0.0 < sigma[0] < np.inf:
        return 0
    kept = 0
    while kept < sigma.size and sigma[kept] >= floor:
        x[kept] = sigma[kept] / sigma[0]
        if x[kept] * x[kept] == 0.0:
            break
        kept += 1
    return kept


@kernel()
def _fit(sigma, x, log, spread, out):
    """All that one spectrum has: σ and x = σ/σ₁ (kept,), scratch `log` (kept,), out (len(FITS),)."""
    top = 2.0 * math.log10(sigma[0])
    out[LOG_SPECTRAL_NORM] = top
    out[LOG_NORM] = top + math.log10(np.sum(x * x))
    if x.size == 1:
        return
    slope, last, distance = _power_law(sigma, log)
    if last > 0:
        alpha = 1.0 + slope
        out[ALPHA], out[DISTANCE], out[TAIL] = alpha, distance, last + 1
        out[XMIN] = _lambda(x[last] * x[last], sigma[0])
        out[ALPHA_WEIGHTED] = alpha * top
        out[LOG_ALPHA_NORM] = alpha * top + math.log10(np.sum(np.exp(alpha * log)))
    edge, spikes = _bulk_edge(x, spread * spread)
    out[MP_EDGE], out[MP_SPIKES], out[MP_SOFT_RANK] = _lambda(edge, sigma[0]), spikes, edge
    threshold = (_quantile(x, 0.75) - _quantile(x, 0.25)) / 1.349 * spread
    out[SNR_THRESHOLD] = threshold * sigma[0]
    out[SNR] = _signal_to_noise(x, threshold, sigma[0])


@kernel()
def _lambda(relative, first):
    """A multiple of λ₁ as λ; NaN where it leaves float64's range."""
    value = relative * first * first
    return value if value > 0.0 else np.nan


@kernel()
def _power_law(sigma, log):
    """α − 1, the index of xmin and D; the index is 0 where all values are equal. Fills `log` with ln(λ/λ₁).

    Σ ln(λ/xmin) grows from one xmin to the next by the gap between them times the values above it: terms of one sign,
    which do not cancel, and ties stay exact ties.
    """
    slope, last, least = np.nan, 0, np.inf
    total, worst = 0.0, 0
    log[0] = 0.0
    for k in range(1, sigma.size):
        gap = 2.0 * math.log1p((sigma[k - 1] - sigma[k]) / sigma[k])
        log[k] = log[k - 1] - gap
        total += k * gap
        within_tie = k + 1 < sigma.size and sigma[k + 1] == sigma[k]
        if within_tie or total == 0.0:
            continue
        distance, worst = _ks_distance(log, k, (k + 1) / total, least, worst)
        if distance <= least:
            slope, last, least = (k + 1) / total, k, distance
    return slope, last, least


@kernel()
def _ks_distance(log, k, slope, bound, likely):
    """D of the tail 0 … k and where it is reached; or the first deviation above `bound`, which rules the tail out.

    The distance is looked for first at `likely`, where the last tail was worst: neighbours deviate alike, so most tails
    are ruled out by one exponential.
    """
    distance, worst = _deviation(log, k, slope, likely), likely
    for j in range(k + 1):
        if distance > bound:
            break
        deviation = _deviation(log, k, slope, j)
        if deviation > distance:
            distance, worst = deviation, j
    return distance, worst


@kernel()
def _deviation(log, k, slope, j):
    """Between the fitted and the empirical distribution function, at the value with j above it."""
    return abs(1.0 - math.exp(slope * (log[k] - log[j])) - (k - j) / (k + 1))


@kernel()
def _bulk_edge(x, factor):
    """λ₊/λ₁ and the number of λ above it.

    Dropping what is above the edge lowers the edge, so the iteration ends at the fewest spikes k for which
    λ_{k+1} ≤ factor·mean(λ_{k+1}, …): found from below in one pass, without its rounds.
    """
    edge, spikes, total = np.nan, 0, 0.0
    for k in range(x.size - 1, -1, -1):
        total += x[k] * x[k]
        here = factor * total / (x.size - k)
        if x[k] * x[k] <= here:
            edge, spikes = here, k
    return edge, spikes


@kernel()
def _quantile(x, q):
    """By linear interpolation, as numpy's and torch's default; x in descending order."""
    at = q * (x.size - 1)
    i = int(at)
    low = x[x.size - 1 - i]
    high = x[max(x.size - 2 - i, 0)]
    return low + (high - low) * (at - i)


@kernel()
def _signal_to_noise(x, threshold, first):
    """Of σ = first·x; over a noise of 1, not `first`, where there is none."""
    signal = noise = 0.0
    for value in x:
        if value > threshold:
            signal += value
        else:
            noise += value
    return signal / noise / first if noise > 0.0 else signal
