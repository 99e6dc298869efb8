"""REDUCE, its heads: the spectrum of every attention head, from the Gram matrix of its slice.

heads          of a matrix: σ (heads, rank)
heads_facts    SPECTRUM_FACTS of each
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.plan.tasks import Piece, Unit
from shardscan.reduce.devices import CPU, Device, DeviceBlock
from shardscan.reduce.kernels import cpu
from shardscan.reduce.products import BlockSteps, Reduced, Stack, StackedArrays, StoredArray, Weights
from shardscan.reduce.result import Outcome
from shardscan.reduce.selfcheck import check_norms, compare_with_norms
from shardscan.reduce.spectra import (
    GRAM_FLOOR,
    METHODS,
    SPECTRUM_FACTS,
    Spectra,
    fit_spectra,
    stacked_spectra,
)
from shardscan.reduce.values import head_slices


@dataclass(frozen=True, slots=True)
class Grams:
    """Gram matrices (heads, d, d) of a run of stored rows: whole heads where heads are rows, else a share of each.

    `device` made all of them, and is to solve them; the CPU where several did.
    """

    axis: str
    matrices: np.ndarray
    device: Device

    def merge(self, other: Grams) -> Grams:
        """Join two runs of rows: `other` comes after."""
        both = (self.matrices, other.matrices)
        joined = np.concatenate(both) if self.axis == "out" else both[0] + both[1]
        return Grams(self.axis, joined, self.device if self.device == other.device else CPU)


def _on_device(block: DeviceBlock, piece: Piece) -> np.ndarray:
    assert piece.matrix and piece.matrix.divided
    return block.grams(*piece.matrix.divided)


def _reduce(grams: np.ndarray, piece: Piece, values: np.ndarray, table: np.ndarray | None, device: Device) -> Reduced:
    assert piece.matrix and piece.matrix.divided
    return Reduced(None, Grams(piece.matrix.divided[0], grams, device))


def _finish(unit: Unit, _: None, grams: Mapping[int, Grams]) -> Outcome:
    return Outcome(
        of_matrices=tuple(
            _spectra(unit, matrix, grams[number]).arrays("heads") if number in grams else {}
            for number, matrix in zip(unit.numbers, unit.matrices, strict=True)
        )
    )


def _spectra(unit: Unit, matrix: Matrix, grams: Grams) -> Spectra:
    """By the Gram matrices; what lies below their floor by QR and SVD of the slice, which is read once more."""
    heads = matrix.heads
    assert heads
    rank = heads.rank(matrix.rows, matrix.cols)
    sigma, holds, by = grams.device.gram_spectra(grams.matrices, rank, GRAM_FLOOR)
    methods = np.where(holds, METHODS.index(by.gram), METHODS.index("none")).astype(np.uint8)
    unsure = np.flatnonzero(~holds).tolist()
    for head, w in zip(unsure, head_slices(unit.placed, matrix, unsure), strict=True):
        exact = cpu.exact_spectrum(w)
        sigma[head] = np.nan if exact is None else exact
        methods[head] = METHODS.index("none" if exact is None else "qr_svd")
    rows, cols = heads.slice_shape(matrix.rows, matrix.cols)
    return fit_spectra(sigma, methods, rows, cols)


def _check(unit: Unit, outcome: Outcome, stored: StoredArray) -> Outcome:
    def checked(i: int, matrix: Matrix) -> dict[str, np.ndarray]:
        arrays = outcome.of_matrices[i]
        if not arrays or matrix.heads is None:
            return dict(arrays)
        spectra = compare_with_norms(
            Spectra.of(arrays, "heads"), matrix, matrix.heads.axis, lambda name: stored(i, name)
        )
        check_norms(spectra, of_heads=True)
        return spectra.arrays("heads")

    if not outcome.of_matrices:
        return outcome
    return Outcome(of_matrices=tuple(checked(i, matrix) for i, matrix in enumerate(unit.matrices)))


def _compile(values: np.ndarray, table: np.ndarray | None) -> None:
    cpu.to_float64(values, table, 0, 0, np.empty((1, 8)))
    cpu.spectrum_fits(np.ones((1, 8)), np.zeros(1), 8, 8)


def _matrix_arrays(stack: Stack, weights: Weights) -> StackedArrays:
    return stacked_spectra(
        "heads", stack, [(m.heads.count, m.heads.rank(m.rows, m.cols)) for _, m in weights if m.heads]
    )


STEPS = BlockSteps(
    words={"spectrum_fact": SPECTRUM_FACTS},
    matrix_arrays=_matrix_arrays,
    check=_check,
    on_device=_on_device,
    reduce=_reduce,
    finish=_finish,
    compile=_compile,
)
