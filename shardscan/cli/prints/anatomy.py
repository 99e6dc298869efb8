"""What `anatomy` prints: the place of every tensor, the matrices that it holds, and how that came about."""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from typing import TYPE_CHECKING

from shardscan.errors import CheckpointError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from shardscan.anatomy.axes import Run
    from shardscan.anatomy.matrices import Matrix
    from shardscan.anatomy.places import Placed
    from shardscan.jobs.scan.prepare import Prepared

SHOWN = 8  # matrices of one tensor that an explanation lists


def tabulate_places(prepared: Prepared) -> pa.Table:
    """One row a tensor, those without a role first: name, place, matrices, rule, reason."""
    import pyarrow as pa

    from shardscan.anatomy.places import OTHER

    placed = sorted(prepared.anatomy.placed, key=lambda p: p.place.role != OTHER)
    return pa.table({
        "tensor": pa.array([p.tensor.name for p in placed], pa.string()),
        "component": pa.array([p.place.component for p in placed], pa.string()),
        "layer": pa.array([p.place.layer for p in placed], pa.int32()),
        "role": pa.array([p.place.role for p in placed], pa.string()),
        "expert": pa.array([p.place.expert for p in placed], pa.int32()),
        "part": pa.array([p.place.part for p in placed], pa.string()),
        "shape": pa.array([list(p.tensor.shape) for p in placed], pa.list_(pa.uint64())),
        "matrices": pa.array([_describe_matrices(p) for p in placed], pa.string()),
        "rule": pa.array([p.rule.source if p.rule else None for p in placed], pa.string()),
        "reason": pa.array([p.codes or p.reason for p in placed], pa.string()),
    })  # fmt: skip


def explain_tensor(prepared: Prepared, name: str) -> pa.Table:
    """What is known of one tensor, fact by fact. CheckpointError where the checkpoint has none of this name."""
    import pyarrow as pa

    by_name = {p.tensor.name: p for p in prepared.anatomy.placed}
    if name not in by_name:
        near = get_close_matches(name, by_name, 1)
        hint = f"did you mean {shown(near[0])}?" if near else "`shardscan ls` lists them."
        raise CheckpointError(f"The checkpoint has no tensor {shown(name)}: {hint}")
    facts = list(_list_facts(prepared, by_name[name]))
    return pa.table({"fact": [fact for fact, _ in facts], "value": [value for _, value in facts]})


def _list_facts(prepared: Prepared, p: Placed) -> Sequence[tuple[str, str]]:
    where, rule = p.place, p.rule
    place = [where.component, *([f"layer {where.layer}"] if where.layer is not None else []), where.role]
    place += [f"expert {where.expert}"] if where.expert is not None else []
    facts = [
        ("tensor", p.tensor.name),
        ("stored", f"{p.tensor.dtype} {list(p.tensor.shape)}{' inputs × outputs' if rule and rule.transposed else ''}"),
        ("family", p.family or f"none; the checkpoint's is {prepared.anatomy.family or 'unknown'}"),
        ("rule", rule.source if rule else _describe_nearest_rule(prepared, p)),
        ("place", f"{', '.join(place)}: {where.part}"),
    ]
    if rule and rule.axes:
        facts.append(("axes", rule.axes.text))
        if rule.parts:
            facts.append(("parts", ", ".join(f"{role} {words}".strip() for role, words in rule.parts)))
    if p.family and p.family == (prepared.anatomy.family or "").partition("+")[0]:
        known = (f"{word} {size}" for word, size in prepared.anatomy.sizes.items() if size is not None)
        facts.append(("config", ", ".join(known) or "says nothing of sizes"))
    facts += [("matrix", _describe_matrix(matrix)) for matrix in p.matrices[:SHOWN]]
    if len(p.matrices) > SHOWN:
        facts.append(("matrix", f"and {len(p.matrices) - SHOWN:,} more"))
    facts += [("reason", reason) for reason in (p.codes, p.reason) if reason]
    return facts


def _describe_nearest_rule(prepared: Prepared, p: Placed) -> str:
    """The rule whose name is nearest, which is often what a new family lacks."""
    from shardscan.anatomy.families.family import NUMBER

    rules = {rule.split(": ", 1)[-1] for q in prepared.anatomy.placed if q.rule for rule in [q.rule.source]}
    near = get_close_matches(NUMBER.sub("{layer}", p.canonical_name, count=1), rules, 1, 0.4)
    return "none" + (f"; the nearest that matched another tensor is {near[0]}" if near else "")


def _describe_matrix(matrix: Matrix) -> str:
    """A matrix with its shape, its heads, and where in the tensor it lies."""
    heads = matrix.heads
    words = [matrix.id, f"{matrix.rows} × {matrix.cols}"]
    if heads:
        side = "rows" if heads.axis == "out" else "columns"
        served = f" for {heads.queries} query heads each" if heads.queries and heads.queries > 1 else ""
        words.append(f"{heads.count} heads of {heads.dim} {side}{served}")
    words.append(f"stored rows {_describe_run(matrix.stored_rows)}, columns {_describe_run(matrix.stored_cols)}")
    return "; ".join(words)


def _describe_run(run: Run) -> str:
    first = f"{run.start} to {run.start + run.length - 1}" if run.length > 1 else str(run.start)
    return first + (f" and so on every {run.stride}, {run.groups} times" if run.groups > 1 else "")


def _describe_matrices(p: Placed) -> str | None:
    """The matrices of a tensor in one line: "q_proj 48×48 (6×8), k_proj 16×48 (2×8)", "4 × up_proj 96×48"."""
    alike = Counter((m.role, m.rows, m.cols, m.heads) for m in p.matrices)
    descriptions = [
        f"{f'{number} × ' if number > 1 else ''}{role} {rows}×{cols}" + (f" ({h.count}×{h.dim})" if h else "")
        for (role, rows, cols, h), number in alike.items()
    ]
    return ", ".join(descriptions) or None
