"""What `ls`, `ingest --dry-run` and `ingest` print, as Arrow tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shardscan.output.cells import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from shardscan.anatomy.places import Placed
    from shardscan.jobs.comparison.job import Difference
    from shardscan.jobs.scan.job import Summary
    from shardscan.jobs.scan.prepare import Prepared
    from shardscan.jobs.verification.job import Verdict
    from shardscan.plan.scan import Plan
    from shardscan.plan.tasks import Group


SHORT = ("tensor", "layer", "role", "part", "heads", "dtype", "shape", "bytes")


def tensors(prepared: Prepared, *, long: bool = False) -> pa.Table:
    """One row a tensor: name, place, heads, dtype, shape, bytes; `long` adds component, parameters, file and reason."""
    import pyarrow as pa

    placed = prepared.anatomy.placed
    rows = pa.table({
        "tensor": pa.array([p.tensor.name for p in placed], pa.string()),
        "component": pa.array([p.place.component for p in placed], pa.string()),
        "layer": pa.array([p.place.layer for p in placed], pa.int32()),
        "role": pa.array([p.place.role for p in placed], pa.string()),
        "part": pa.array([p.place.part for p in placed], pa.string()),
        "dtype": pa.array([p.tensor.dtype for p in placed], pa.string()),
        "shape": pa.array([list(p.tensor.shape) for p in placed], pa.list_(pa.uint64())),
        "parameters": pa.array([p.tensor.parameters for p in placed], pa.int64()),
        "bytes": pa.array([p.tensor.nbytes for p in placed], pa.int64()),
        "heads": pa.array([_heads(p) for p in placed], pa.int32()),
        "file": pa.array([p.tensor.file for p in placed], pa.string()),
        "reason": pa.array([p.codes or p.reason for p in placed], pa.string()),
    })  # fmt: skip
    return rows if long else rows.select(SHORT)


def _heads(p: Placed) -> int | None:
    """How many heads a tensor's matrix has, of a fused one its first."""
    return next((matrix.heads.count for matrix in p.matrices if matrix.heads), None)


def headline(prepared: Prepared) -> str:
    """The checkpoint in one line, and the device unless it is the CPU."""
    c, a = prepared.checkpoint, prepared.anatomy
    from shardscan.anatomy.places import OTHER

    unplaced = sum(p.place.role == OTHER for p in a.placed)
    codes = sum(p.codes is not None for p in a.placed)
    odd = [f"{unplaced:,} without a role"] * bool(unplaced) + [f"{codes:,} quantised"] * bool(codes)
    what = (
        f"{_count(len(c), 'tensor')}, {c.parameters:,} parameters, {size(c.nbytes)} in {_count(len(c.files), 'file')}"
    )
    family = f"family {a.family}" if a.family else "no family fits"
    where = [f"on {prepared.device.name}"] * (prepared.device.name != "cpu")
    return f"{visible(c.name)}: {what}; {'; '.join([family, *odd, *where])}."


def without_channels(prepared: Prepared, channels: str) -> tuple[str, ...]:
    """A sentence where the catalog has not all channels."""
    from shardscan.plan.scan import catalog_rows

    if channels == "all":
        return ()
    rows, total = catalog_rows(prepared.plan, channels), prepared.plan.channels
    return (f"the catalog has {rows:,} of {total:,} rows of channels ({channels}): --channels all brings the others.",)


def without_circuits(prepared: Prepared) -> tuple[str, ...]:
    """A sentence where circuits were asked for and no layer has any."""
    from shardscan.plan.tasks import CIRCUITS

    if CIRCUITS not in prepared.products or any(_has_circuits(group) for group in prepared.plan.groups):
        return ()
    return ("no circuits: no layer has q_proj and k_proj, or v_proj and o_proj, with heads that fit each other.",)


def _has_circuits(group: Group) -> bool:
    from shardscan.anatomy.composites import CIRCUIT

    return any(composite.kind == CIRCUIT for composite in group.composites)


def size(nbytes: int) -> str:
    """Bytes in the unit that shows them best, as disks count: powers of 1000."""
    if nbytes < 1000:
        return f"{nbytes} bytes"
    power = next((i for i in (1, 2, 3) if nbytes < 1000 ** (i + 1)), 4)
    return f"{nbytes / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def read(done: Summary) -> str:
    """What an ingest read and how fast, in a sentence."""
    if not done.tasks:
        return f"Everything of {visible(done.model)} was committed already: nothing was scanned."
    return f"Read {size(done.bytes_read)} and built the catalog in {done.seconds:.1f} s."


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun if n == 1 else {'axis': 'axes'}.get(noun, noun + 's')}"


def costs(prepared: Prepared, left: Plan, channels: str) -> pa.Table:
    """One row: what a scan would read and need for what is left to do, and what it leaves behind in all."""
    import pyarrow as pa

    from shardscan.plan.scan import CHANNEL_ROW, catalog_rows

    budget, rows = prepared.budget(left), catalog_rows(left, channels)
    return pa.table({
        "model": [prepared.checkpoint.name],
        "tensors": [len(prepared.checkpoint)],
        "tasks": [len(left.tasks) + len(left.composites) + len(left.matrices) + len(left.large_matrices)],
        "bytes_to_read": [left.bytes_to_read],
        "workers": [budget.workers],
        "peak_memory": [budget.peak],
        "channels": [channels],
        "channel_rows": [rows],
        "store_bytes": [left.store_bytes + CHANNEL_ROW * rows],
    })  # fmt: skip


def summary(done: Summary) -> pa.Table:
    """One row: what an ingest did."""
    import pyarrow as pa

    return pa.table({
        "model": [done.model],
        "store": [done.store],
        "tensors": [done.tensors],
        "tasks": [done.tasks],
        "failed": [len(done.failures)],
        "bytes_read": [done.bytes_read],
        "seconds": [round(done.seconds, 2)],
        "peak_memory": pa.array([done.peak_memory], pa.int64()),
        "catalog": [done.catalog],
    })  # fmt: skip


def difference(found: Difference) -> list[str]:
    """What became of a model, in sentences."""
    s = found.summary
    a, b = visible(s["model_a"]), visible(s["model_b"])
    n, m, file_a, file_b = s["parameters_a"], s["parameters_b"], size(s["file_bytes_a"]), size(s["file_bytes_b"])
    share = f" ({100 * s['retention']:.2f} %)" if n and n != m else ""
    sentences = [f"{b} has {m:,} of the {n:,} parameters of {a}{share}, in {file_b} of files where they were {file_a}."]
    words = ("equal", "changed", "pruned", "grown", "reshaped", "added", "removed", "unread")
    sentences.append(f"Weights: {', '.join(f'{s[word]:,} {word}' for word in words if s[word])}.")
    if s["touched_layers"]:
        rest = f"; {_numbers(s['untouched'])} do not" if s["untouched"] else ""
        sentences.append(f"{s['touched_layers']} of {_count(s['layers'], 'layer')} have other shapes{rest}.")
        alike = "Each module has one retention in all of these." if s["consistent"] else ""
        sentences.append(alike or f"Not consistent: the retention of {', '.join(s['inconsistent'])} differs by layer.")
    gone, new = s["removed_layers"], s["added_layers"]
    if gone or new:
        sentences.append(f"{_count(gone, 'layer')} of {a} are not in {b}, {new:,} of {b} not in {a}.")
    if s["sparsity_b"] is not None and s["sparsity_a"] is not None and s["sparsity_b"] - s["sparsity_a"] > 0.001:
        sentences.append(
            f"{100 * s['sparsity_b']:.2f} % of the values are zero where {100 * s['sparsity_a']:.2f} % were."
        )
    for method, axes in found.aligned.items():
        sentences.append(f"Which channels are left of {_count(axes, 'axis')} was found by {method}.")
    if found.unknown:
        sentences.append(f"Of {_count(found.unknown, 'axis')} nobody can tell: `ask survivors` says why.")
    if found.compared is not None:
        sentences.append(f"{_count(found.compared, 'weight')} compared by value: `shardscan ask changes` tells more.")
    return sentences


def _numbers(numbers: Sequence[int]) -> str:
    """`0-2, 30, 31`: runs of three and more from end to end."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def findings(verdict: Verdict) -> pa.Table:
    """One row a finding, problems first."""
    import pyarrow as pa

    columns = ("severity", "check", "file", "tensor", "position", "detail")
    found = sorted(verdict.findings, key=lambda finding: finding.severity == "note")
    texts = ([_text(getattr(finding, column)) for finding in found] for column in columns)
    return pa.table({column: pa.array(text, pa.string()) for column, text in zip(columns, texts, strict=True)})


def _text(name: str | None) -> str | None:
    # names of files that are not UTF-8 have lone surrogates, which no table holds
    return None if name is None else name.encode("utf-8", "backslashreplace").decode()


def verdict(found: Verdict) -> str:
    """What `verify` found, in a sentence."""
    notes = len(found.findings) - found.problems
    counted = " and ".join(_count(n, noun) for n, noun in ((found.problems, "problem"), (notes, "note")) if n)
    what = f"{counted} in {visible(_text(found.name) or '')}" if found.problems else f"Clean, {counted}".rstrip(", ")
    return f"{what}: {_count(found.count, found.of)}, {size(found.nbytes)} read."
