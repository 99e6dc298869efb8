"""REDUCE on the CPU, its LAPACK: the routines of spectra that NumPy has but does not show.

NumPy's wheels carry an OpenBLAS with a symmetric rank-k update that adds to what is there (NumPy's product would need
a second matrix) and a two-stage reduction to tridiagonal form (LAPACK 3.7's `dsyevd_2stage`), which does most of its
work in the cache: eigenvalues of 4096² in 2.3 s where `dsyevd`, NumPy's, takes 3.1. Its `dgeqrf` is NumPy's own, which
NumPy 2 calls with the interpreter's lock held, so that no other worker could run. Where the loaded BLAS does not have
them, NumPy's own functions do the work. All here release the lock, and have as many threads as threadpoolctl allows.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

ROW_MAJOR, TRANSPOSED, AS_IS, LOWER = 101, 112, 111, 122
NAMES = (("scipy_", "64_", c_int64), ("", "64_", c_int64), ("scipy_", "", c_int32), ("", "", c_int32))
LEAST_ORDER = 512  # below it one stage is faster


def add_gram(panel: np.ndarray, gram: np.ndarray) -> None:
    """Add PᵀP to the lower triangle of `gram` (n, n); `panel` (k, n) float64, in rows or, as a transpose, in columns.

    What is above the diagonal is anything afterwards.
    """
    k, n = panel.shape
    found = _routine("cblas_dsyrk", "")
    if not found:
        for left in range(0, n, LEAST_ORDER):  # not all at once, which would be a second matrix
            gram[:, left : left + LEAST_ORDER] += panel.T @ panel[:, left : left + LEAST_ORDER]
        return
    dsyrk, integer = found
    in_rows = panel.flags.c_contiguous
    order = (c_int(ROW_MAJOR), c_int(LOWER), c_int(TRANSPOSED if in_rows else AS_IS))
    sizes = (integer(n), integer(k), c_double(1.0), _data(panel), integer(n if in_rows else k))
    assert in_rows or panel.T.flags.c_contiguous
    dsyrk(*order, *sizes, c_double(1.0), _data(gram), integer(n))


def eigenvalues(gram: np.ndarray) -> np.ndarray:
    """All eigenvalues (n,), smallest first, of the symmetric matrix whose lower triangle is in `gram`, and destroy it.

    Raises LinAlgError where the iteration does not converge.
    """
    n = len(gram)
    found = _routine("dsyevd_2stage", "_") if n >= LEAST_ORDER else None
    if not found:
        values: np.ndarray = np.linalg.eigvalsh(gram, UPLO="L")
        return values
    solve, integer = found
    values, info, order = np.empty(n), integer(0), integer(n)
    sizes, integers, asked = np.empty(1), np.empty(1, np.int64), integer(-1)

    def call(work: np.ndarray, work_size: Any, more: np.ndarray, more_size: Any) -> None:
        # LAPACK counts in columns, where our lower triangle is the upper
        matrix = (c_char_p(b"N"), c_char_p(b"U"), byref(order), _data(gram), byref(order), _data(values))
        solve(*matrix, _data(work), byref(work_size), _data(more), byref(more_size), byref(info))

    call(sizes, asked, integers, asked)
    lengths = int(sizes[0]), max(1, int(integers.view(integer)[0]))
    call(np.empty(lengths[0]), integer(lengths[0]), np.empty(lengths[1], np.int64), integer(lengths[1]))
    if info.value:
        raise np.linalg.LinAlgError(f"eigenvalues did not converge (LAPACK's info {info.value})")
    return values


def triangle(w: np.ndarray) -> np.ndarray:
    """R (min(rows, cols), cols) of a QR of float64 `w` (rows, cols), which it may destroy."""
    rows, cols = w.shape
    found = _routine("dgeqrf", "_")
    if not found or not w.size:
        return np.asarray(np.linalg.qr(w, mode="r"))
    factorise, integer = found
    w = np.asfortranarray(w)
    reflectors, size, info, asked = np.empty(min(rows, cols)), np.empty(1), integer(0), integer(-1)

    def call(work: np.ndarray, work_size: Any) -> None:
        matrix = (byref(integer(rows)), byref(integer(cols)), _data(w), byref(integer(rows)), _data(reflectors))
        factorise(*matrix, _data(work), byref(work_size), byref(info))

    call(size, asked)
    call(np.empty(int(size[0])), integer(int(size[0])))
    return np.triu(w[: min(rows, cols)])


def _data(array: np.ndarray) -> c_void_p:
    return c_void_p(array.ctypes.data)


@cache
def _routine(name: str, ending: str) -> tuple[Callable[..., None], Any] | None:
    """A routine of the BLAS that NumPy loaded, and its integer; None where it is not there under a known name."""
    for library in threadpool_info():
        if library["user_api"] != "blas" or library["internal_api"] != "openblas":
            continue
        loaded = ctypes.CDLL(library["filepath"])
        for prefix, suffix, integer in NAMES:
            routine = getattr(loaded, f"{prefix}{name}{ending}{suffix}", None)
            if routine:
                routine.restype = None
                return routine, integer
    return None
