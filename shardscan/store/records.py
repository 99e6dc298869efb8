"""STORE, its records: what is written of a scan beside its arrays, as values that are checked when they are read.

Each is written and read here and nowhere else; the order of its fields is that of its JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar

import msgspec

from shardscan.anatomy.axes import Heads
from shardscan.anatomy.places import Place
from shardscan.errors import StoreError
from shardscan.plan.tasks import Slot

OK, CODES, DEGENERATE, FAILED = "ok", "codes", "degenerate", "failed"  # what a commit says of a tensor
SCANNED = (OK, DEGENERATE)  # there are arrays of it

Stamp = tuple[int, str]  # size and hash of a file


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one product's commit says of a tensor; of one that vouches for contents the digest of its bytes too."""

    status: str
    reason: str | None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class WeightVerdict:
    """What a comparison says of a weight of b: its place in model a, and, unless it failed or is codes, its figures.

    `channels` are where its channels are stored and how many rows and columns have some. `shape` and `values` are of
    what was compared; `added` values of b came after it.
    """

    weight_a: str
    component: str
    layer: int | None
    role: str
    expert: int | None
    part: str
    shape: tuple[int, ...]
    values: int
    channels: tuple[int, int, int]
    of_expert: bool
    status: str
    reason: str | None
    changed: float | None = None
    newly_zero: float | None = None
    norm_a: float | None = None
    norm_b: float | None = None
    norm_change: float | None = None
    relative_change: float | None = None
    cosine: float | None = None
    max_change: float | None = None
    added: int = 0


@dataclass(frozen=True, slots=True)
class RankVerdict:
    """What a comparison says of the rank of a weight's change, unless it failed."""

    status: str
    reason: str | None
    change_rank: int | None = None
    change_stable_rank: float | None = None
    change_sigma_max: float | None = None
    rounding_edge: float | None = None


AnyVerdict = Verdict | WeightVerdict | RankVerdict
VALUES, RANKS = "values/1", "ranks/1"  # the products of a comparison
VERDICTS: Mapping[str, type[AnyVerdict]] = {
    VALUES: WeightVerdict,
    RANKS: RankVerdict,
}  # every other product's are plain ones


@dataclass(frozen=True, slots=True)
class Commit:
    """One product of one task is done: what became of its tensors, and the files that hold them."""

    task: str
    product: str
    version: str
    options: Mapping[str, Any]
    tensors: Mapping[str, Any]
    files: Mapping[str, Stamp]


@dataclass(frozen=True, slots=True)
class BegunOfTwo:
    """What is of two scans exists: by their ids and their models' names, and the files that it began with."""

    a: str
    b: str
    models: tuple[str, str]
    layout: int
    files: Mapping[str, Stamp]


@dataclass(frozen=True, slots=True)
class BegunComparison(BegunOfTwo):
    """A comparison exists: of how many weights and channels, and a hash of its pairs."""

    weights: int
    channels: int
    pairs: str


@dataclass(frozen=True, slots=True)
class BegunAlignments(BegunOfTwo):
    """Alignments exist: the array that holds their channels, and of each what it is of and which part it has.

    Weights of a and of b, axis, method, reason, first channel, and how many.
    """

    array: str
    alignments: tuple[tuple[str, str, str, str, str | None, int, int], ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """A scan exists: which scans it is to replace, and the files that it began with."""

    replaces: tuple[str, ...]
    files: Mapping[str, Stamp]


@dataclass(frozen=True, slots=True)
class Run:
    """What only one run of a scan knows."""

    started: str
    seconds: float
    tasks: int
    bytes_read: int
    peak_memory: int | None
    options: Mapping[str, Any]
    host: Mapping[str, Any]
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StoredShard:
    """One file of a checkpoint: see `shards.address.ShardFile`."""

    name: str
    nbytes: int
    header_nbytes: int
    data_nbytes: int
    used_nbytes: int
    header_digest: str
    tensors: int


@dataclass(frozen=True, slots=True)
class StoredScan:
    """What a scan knows of its checkpoint; `groups` are the folders of its arrays, in the order of the headers."""

    layout: int
    model: str
    format: str
    probe: str
    source: str
    config: Mapping[str, Any] | None
    notes: tuple[str, ...]
    family: str | None
    sizes: Mapping[str, int | None]
    files: tuple[StoredShard, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredHeader:
    """A tensor as its header has it; `shared_with` is one before it that has the very same bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    nbytes: int
    shared_with: str | None


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix, and where it is stacked."""

    id: str
    kind: str
    role: str
    expert: int | None
    rows: int
    cols: int
    heads: Heads | None
    slot: Slot


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor, its place, the slots at which its tasks take it up, and its matrices.

    `parameters` are those of Placed where they are not as many as its values.
    """

    tensor: StoredHeader
    canonical_name: str
    place: Place
    reason: str | None
    slots: tuple[Slot, ...]
    matrices: tuple[StoredMatrix, ...]
    parameters: int | None = None

    @property
    def counted(self) -> int:
        """The parameters of the model that it holds; its values where how many cannot be told."""
        return math.prod(self.tensor.shape) if self.parameters is None else self.parameters

    @property
    def name(self) -> str:
        return self.tensor.name


@dataclass(frozen=True, slots=True)
class StoredComposite:
    """A composite, and the ids of the matrices that it is of."""

    id: str
    kind: str
    layer: int | None
    role: str
    expert: int | None
    heads: int
    rows: int
    cols: int
    rank: int
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """What lies in one folder of a scan."""

    component: str
    role: str
    tensors: tuple[StoredTensor, ...]
    composites: tuple[StoredComposite, ...]


Record = TypeVar("Record")


def record_of_commit(commit: Commit) -> dict[str, Any]:
    """A commit as JSON has it: a verdict without figures names none."""
    record = record_of(commit)
    if commit.product in VERDICTS:
        named = ("status", "reason", *(f.name for f in fields(VERDICTS[commit.product]) if f.default is MISSING))
        for name, verdict in record["tensors"].items():
            if verdict["status"] in (FAILED, CODES):
                record["tensors"][name] = {key: value for key, value in verdict.items() if key in named}
    return record


def read_commit(data: object) -> Commit:
    """A commit from its JSON, its verdicts as those of its product; StoreError as for other records."""
    commit = read_record(Commit, data)
    kind: type[AnyVerdict] = VERDICTS.get(commit.product, Verdict)
    return replace(commit, tensors={name: read_record(kind, v) for name, v in commit.tensors.items()})


def record_of(value: object) -> dict[str, Any]:
    """A record as JSON has it."""
    record: dict[str, Any] = msgspec.to_builtins(value)
    return record


def read_record(kind: type[Record], data: object) -> Record:
    """A record from its JSON; StoreError where a field is missing or of another type."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise StoreError(f"a record is no {kind.__name__} of this version ({error})") from error
