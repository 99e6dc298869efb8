"""REDUCE, what comes out: named arrays of one tensor and its matrices, product by product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Arrays = Mapping[str, np.ndarray]


class Inconsistent(ArithmeticError):
    """Numbers that must agree and do not; the text says which, by how much."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one product leaves of one unit: arrays of the tensor, and of each of its matrices in their order.

    `degenerate` is why the arrays say nothing, such as a tensor without a finite value.
    """

    of_tensor: Arrays = field(default_factory=dict)
    of_matrices: tuple[Arrays, ...] = ()
    degenerate: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Of one unit, or of one composite: the outcome of each product by its name, and the digest of the bytes read.

    `failure` says why there is nothing at all.
    """

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    digest: str | None = None
    failure: str | None = None
