"""REDUCE on the CPU, its alignment: which rows of a long sequence a shorter one was cut out of, both in one order."""

from __future__ import annotations

import numpy as np

from shardscan.reduce.kernels.cpu.compiler import kernel


@kernel()
def monotone_alignment(a, b):
    """For each row of b (m, k) one of a (n, k), n ≥ m, in strictly ascending order, of least squared distance in all.

    Row j of b can only be one of a's rows j to j + n − m, so that (n − m + 1)·m distances decide, by dynamic
    programming (as Needleman & Wunsch 1970, with gaps in b only, which cost nothing). Returns indices (m,) int64 and
    the squared distance of each.
    """
    n, m = a.shape[0], b.shape[0]
    shifts = n - m + 1
    least = np.zeros(shifts)  # of rows up to this one, with a shift of at most so much
    is_least = np.zeros((m, (shifts + 7) // 8), np.uint8)  # a bit for each
    for j in range(m):
        running = np.inf
        for shift in range(shifts):
            distance = 0.0
            for i in range(b.shape[1]):
                d = a[j + shift, i] - b[j, i]
                distance += d * d
            total = least[shift] + distance
            if total < running:
                running = total
                is_least[j, shift >> 3] |= np.uint8(1 << (shift & 7))
            least[shift] = running
    found, distances = np.empty(m, np.int64), np.empty(m)
    shift = shifts - 1
    for j in range(m - 1, -1, -1):
        while shift > 0 and not (is_least[j, shift >> 3] >> (shift & 7)) & 1:
            shift -= 1
        found[j] = j + shift
        distances[j] = np.sum((a[j + shift] - b[j]) ** 2)
    return found, distances
