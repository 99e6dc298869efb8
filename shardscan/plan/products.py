"""PLAN, its products: what can be computed of a checkpoint, by name; the seam at which another one is added.

A product is a name under which three rooms have what is theirs, so that imports only go down: here it says which units
it wants and what they cost, `steps` names what reduces them to arrays (REDUCE), and `rows` what makes tables of those
arrays (CATALOG). Budget, store, resume, verification and catalog know no product: they ask this registry.

    name        what commits are named after, with the version of its numbers: other numbers need another version
    steps       "module:NAME" of a `reduce.products.BlockSteps`, `MatrixSteps` or `CompositeSteps`
    rows        "module:function" that yields the rows of one scan
    asked_by    the words of --spectra that bring it
    schema      SQL of its tables, where that is no file of sql/schema

Modules are named by text, so that a plan loads neither kernels nor DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shardscan.anatomy.composites import CIRCUIT, DELTA, Composite
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.plan import product_costs as costs
from shardscan.plan.tasks import Block, Unit
from shardscan.shards.dtypes import DTYPES

STATS, HEADS, FULL, CIRCUITS, DELTAS = "stats/1", "heads/1", "full/1", "circuits/1", "deltas/1"
SPECTRA = ("none", "heads", "full", "circuits")  # the words of --spectra
ALWAYS = frozenset(SPECTRA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What every product says of itself: see the module."""

    name: str
    steps: str
    rows: str
    asked_by: frozenset[str] = ALWAYS
    schema: str = ""


def _nothing(_: object) -> int:
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockProduct(Product):
    """A product of the one pass that reads every block once.

    `wants` says it of a matrix, or of a tensor as a whole where that is None. Commits of one that `vouches` hold the
    digest of each tensor's bytes, and say what became of the tensor itself. Costs are in bytes: `stored` on disk of a
    tensor; in memory `reducing` of a block beside its values, `partial` of a block that is reduced, `finishing` of a
    unit while its last block becomes arrays, `result` of those arrays.
    """

    wants: Callable[[Placed, Matrix | None], bool]
    vouches: bool = False
    stored: Callable[[Placed], int] = _nothing
    reducing: Callable[[Block], int] = _nothing
    partial: Callable[[Block], int] = _nothing
    finishing: Callable[[Unit], int] = _nothing
    result: Callable[[Unit], int] = _nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixProduct(Product):
    """A product of whole matrices, each read and solved by itself in a pass of its own.

    Costs are in bytes: `stored` on disk of a tensor, `solving` in memory of one matrix, exact or not.
    """

    wants: Callable[[Placed, Matrix], bool]
    stored: Callable[[Placed], int] = _nothing
    solving: Callable[[Placed, Matrix, bool], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositeProduct(Product):
    """A product of composites of one kind, each read and reduced by itself; costs in bytes, on disk and in memory."""

    kind: str
    stored: Callable[[Composite], int] = _nothing
    reducing: Callable[[Composite], int]


def has_spectrum(p: Placed, matrix: Matrix) -> bool:
    """Whether a whole matrix has singular values."""
    return matrix.has_columns and DTYPES[p.tensor.dtype].kind == "float"


def _has_heads(p: Placed, matrix: Matrix | None) -> bool:
    return matrix is not None and matrix.heads is not None and not p.is_stack


_REGISTERED: dict[str, Product] = {}


def register(product: Product) -> None:
    """Add a product; ValueError where there is one of its name."""
    if product.name in _REGISTERED:
        raise ValueError(f"there is a product {product.name} already")
    _REGISTERED[product.name] = product


@contextmanager
def registered(product: Product) -> Iterator[None]:
    """A product for as long as the context lasts."""
    register(product)
    try:
        yield
    finally:
        del _REGISTERED[product.name]


def every() -> tuple[Product, ...]:
    """All products, in the order of their registration."""
    return tuple(_REGISTERED.values())


def named(name: str) -> Product | None:
    """The product of this name; None of one that this version does not know, as a store may hold."""
    return _REGISTERED.get(name)


def of_blocks(names: frozenset[str] | None = None) -> tuple[BlockProduct, ...]:
    """The products of the pass over blocks, all or those among some names."""
    return tuple(p for p in every() if isinstance(p, BlockProduct) and (names is None or p.name in names))


def of_matrices(names: frozenset[str] | None = None) -> tuple[MatrixProduct, ...]:
    """Likewise those of whole matrices."""
    return tuple(p for p in every() if isinstance(p, MatrixProduct) and (names is None or p.name in names))


def of_composites(kind: str) -> tuple[CompositeProduct, ...]:
    """The products of composites of one kind."""
    return tuple(p for p in every() if isinstance(p, CompositeProduct) and p.kind == kind)


def asked_by(word: str) -> frozenset[str]:
    """The names of the products that a word of SPECTRA brings."""
    return frozenset(product.name for product in every() if word in product.asked_by)


for _product in (
    BlockProduct(
        name=STATS,
        steps="shardscan.reduce.statistics:STEPS",
        rows="shardscan.catalog.rows.statistics:statistics_rows",
        wants=lambda p, matrix: True,
        vouches=True,
        stored=costs.stored_statistics,
        reducing=costs.reducing_statistics,
        partial=costs.partial_statistics,
        result=costs.result_statistics,
    ),
    BlockProduct(
        name=HEADS,
        steps="shardscan.reduce.heads:STEPS",
        rows="shardscan.catalog.rows.spectra:head_rows",
        asked_by=frozenset({"heads"}),
        wants=_has_heads,
        stored=costs.stored_heads,
        reducing=costs.reducing_heads,
        partial=costs.partial_heads,
        finishing=costs.finishing_heads,
    ),
    MatrixProduct(
        name=FULL,
        steps="shardscan.reduce.whole_matrices:STEPS",
        rows="shardscan.catalog.rows.spectra:full_rows",
        asked_by=frozenset({"full"}),
        wants=has_spectrum,
        stored=lambda p: costs.stored_spectra(matrix for matrix in p.matrices if has_spectrum(p, matrix)),
        solving=costs.solving_matrix,
    ),
    *(
        CompositeProduct(
            name=name,
            steps="shardscan.reduce.composites:STEPS",
            rows=f"shardscan.catalog.rows.composites:{kind}_rows",
            asked_by=words,
            kind=kind,
            stored=costs.stored_composite,
            reducing=costs.reducing_composite,
        )
        for name, kind, words in (
            (CIRCUITS, CIRCUIT, frozenset({"circuits"})),
            (DELTAS, DELTA, frozenset({"heads", "full"})),
        )
    ),
):
    register(_product)
