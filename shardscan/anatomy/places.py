"""NAME, its values: where a tensor sits in its model, and what is known of it there. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from shardscan.anatomy.families.family import Rule
from shardscan.anatomy.matrices import Matrix
from shardscan.shards.address import Tensor

OTHER, WEIGHT = "other", "weight"
KV_ROLES = frozenset({"k_proj", "v_proj"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor sits in its model; `layer` and `expert` are None only where there is none."""

    component: str
    layer: int | None
    role: str
    expert: int | None
    part: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor with its place and its matrices.

    `parameters` are the model's own: the values, or of codes the weights that they are when unpacked, 0 of what only
    describes codes; None where how many cannot be told. `codes` is why its values are codes and not weights, `reason`
    what is odd about it, `rule` which one of `family` named it. `shared_with` is a tensor before it that has its very
    bytes: tied weights, which the model has once.
    """

    tensor: Tensor
    canonical_name: str
    place: Place
    matrices: tuple[Matrix, ...]
    parameters: int | None
    codes: str | None = None
    reason: str | None = None
    rule: Rule | None = None
    family: str | None = None
    shared_with: str | None = None

    @property
    def counted(self) -> int:
        """The parameters of the model that it holds; its values where how many cannot be told."""
        return self.tensor.parameters if self.parameters is None else self.parameters

    @property
    def stored_shape(self) -> tuple[int, int]:
        """Rows and columns as it is stored: (1, n) of a vector, experts one below the other, first axis × the rest."""
        shape = self.tensor.shape
        if len(shape) < 2:
            return 1, self.tensor.parameters
        if len(shape) == 3 and self.is_stack:
            return shape[0] * shape[1], shape[2]
        return shape[0], math.prod(shape[1:])

    @property
    def is_stack(self) -> bool:
        """Whether its matrices are experts that have no tensors of their own."""
        return bool(self.matrices) and self.place.expert is None and self.matrices[0].expert is not None


@dataclass(frozen=True)
class Anatomy:
    """Every tensor of a checkpoint, placed; `sizes` are the config's, by the words of family.CONFIG_WORDS.

    `of_component` has those of each component, where they may be others; `layers` is 0 of one that has none. `family`
    is the name of the family that named most, and of those whose towers stand beside it, joined by +.
    """

    family: str | None
    sizes: Mapping[str, int | None]
    placed: tuple[Placed, ...]
    of_component: Mapping[str, Mapping[str, int | None]]

    @property
    def parameters(self) -> int:
        """The parameters of the model."""
        return sum(p.counted for p in self.placed if p.shared_with is None)

    @property
    def placed_parameters(self) -> int:
        """Those of them that are in tensors that have a role."""
        return sum(p.counted for p in self.placed if p.shared_with is None and p.place.role != OTHER)
