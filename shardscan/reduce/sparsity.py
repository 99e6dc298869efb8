"""REDUCE, its N:M sparsity: in how many groups of an output channel more values are not zero than sparse cores take.

2:4 is what NVIDIA's sparse tensor cores multiply: of every 4 neighbours along the input axis, counted from the first,
at most 2 are not zero (Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv 2104.08378); 4:8 is the same
of 8. NaN and infinities are not zero, −0 is. Counts are of the matrix, whose rows are outputs, however it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardscan.anatomy.matrices import Matrix
from shardscan.reduce.contributors import Contributor
from shardscan.reduce.kernels import cpu
from shardscan.reduce.moments import Moments

VIOLATIONS = ("violations_2_4", "violations_4_8")
GROUPS = (4, 8)  # in their order


@dataclass(frozen=True, slots=True)
class Violations:
    """Of a run of a matrix's stored rows: violating groups of 4 and of 8, int64 (2, outputs).

    Of a `turned` matrix every output is in every run, so counts add up. Blocks and experts begin at a multiple of 8 of
    stored rows wherever 8 divides a column of them, and of 4 likewise (`grid`), so no group is in two runs.
    """

    turned: bool
    counts: np.ndarray

    def merge(self, other: Violations) -> Violations:
        """Join two runs of rows: `other` comes after."""
        both = (self.counts, other.counts)
        return Violations(self.turned, both[0] + both[1] if self.turned else np.concatenate(both, axis=1))


def has_groups(matrix: Matrix | None) -> bool:
    """Whether the columns are input channels that 4 divides."""
    return matrix is not None and matrix.has_columns and matrix.cols % GROUPS[0] == 0


def _reduce(matrix: Matrix | None, values: np.ndarray, table: np.ndarray | None, rows: Moments) -> Violations | None:
    """Of whole stored rows of a matrix, whose moments say the zeros in each; None where there are no groups.

    Counted on the CPU, which has the values, also beside a GPU: most rows need no more than their zeros.
    """
    if matrix is None or not has_groups(matrix):
        return None
    zeros = np.ascontiguousarray(rows.zeros)
    return Violations(matrix.turned, cpu.group_violations(values, table, zeros, matrix.turned))


def _finish(matrix: Matrix, violations: Violations) -> np.ndarray:
    """Of all output channels of a matrix: float64 (2, rows), NaN where 8 does not divide the columns."""
    divides = np.array([[matrix.cols % length == 0] for length in GROUPS])
    return np.where(divides, violations.counts, np.nan)


def _compile(values: np.ndarray, table: np.ndarray | None) -> None:
    cpu.group_violations(values, table, np.zeros(1), True)


SPARSITY = Contributor(VIOLATIONS, _reduce, _finish, _compile)
