"""What `diff` tells beside its rows: what became of a model, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shardscan.cli.prints.sizes import format_count, format_size
from shardscan.output.cells import visible

if TYPE_CHECKING:
    from shardscan.jobs.comparison.job import Difference

AXES_TOLD = 3
BECOME = ("equal", "changed", "pruned", "grown", "reshaped", "added", "removed", "unread")


def describe_difference(difference: Difference) -> Iterator[str]:
    """What became of a model, in sentences."""
    summary = difference.summary
    yield from _describe_sizes(summary)
    yield from _describe_layers(summary)
    for axis in difference.altered_axes[:AXES_TOLD]:
        yield _describe_axis(axis, visible(summary["model_a"]))
    if more := difference.altered_axes[AXES_TOLD:]:
        yield f"So it is with {format_count(len(more), 'other sort')} of weights: `from surviving_axes(a, b)`."
    if by_content := summary["by_content"]:
        told = format_count(by_content, "weight")
        yield f"{told} without a place in one of them paired by content, the rest by their names."
    zeros_a, zeros_b = summary["sparsity_a"], summary["sparsity_b"]
    if zeros_a is not None and zeros_b is not None and zeros_b - zeros_a > 0.001:
        yield f"{100 * zeros_b:.2f} % of the values are zero where {100 * zeros_a:.2f} % were."
    for method, axes in difference.aligned.items():
        yield f"Which channels are left of {format_count(axes, 'axis')} was found by {method}."
    if difference.unknown:
        yield f"Of {format_count(difference.unknown, 'axis')} nobody can tell: `ask survivors` says why."
    if difference.compared is not None:
        weights = format_count(difference.compared, "weight")
        yield f"{weights} compared by value: `shardscan ask changes` tells more."


def _describe_sizes(summary: Mapping[str, Any]) -> Iterator[str]:
    """How many parameters, bytes and weights there are of what there were; `summary` is pruning_summary's row."""
    a, b = visible(summary["model_a"]), visible(summary["model_b"])
    n, m = summary["parameters_a"], summary["parameters_b"]
    share = f" ({100 * summary['retention']:.2f} %)" if n and n != m else ""
    file_a, file_b = format_size(summary["file_bytes_a"]), format_size(summary["file_bytes_b"])
    yield f"{b} has {m:,} of the {n:,} parameters of {a}{share}, in {file_b} of files where they were {file_a}."
    yield f"Weights: {', '.join(f'{summary[word]:,} {word}' for word in BECOME if summary[word])}."


def _describe_layers(summary: Mapping[str, Any]) -> Iterator[str]:
    """Which layers were altered, removed and added."""
    a, b = visible(summary["model_a"]), visible(summary["model_b"])
    if touched := summary["touched_layers"]:
        others = f"; {_name_layers(summary['untouched'])}" if summary["untouched"] else ""
        yield f"{touched} of {format_count(summary['layers'], 'layer')} have other shapes{others}."
        if summary["consistent"]:
            yield "Each module has one retention in all of these."
        else:
            yield f"Not consistent: the retention of {', '.join(summary['inconsistent'])} differs by layer."
    removed, added = summary["removed_layers"], summary["added_layers"]
    if removed or added:
        yield f"{format_count(removed, 'layer')} of {a} are not in {b}, {added:,} of {b} not in {a}."
    if copied := summary["copied_layers"]:
        copies = "is a copy" if copied == 1 else "are copies"
        yield f"{format_count(copied, 'layer')} of {b} {copies} of what {a} has once: `ask pruning-layers` says which."


def _describe_axis(axis: Mapping[str, Any], a: str) -> str:
    """What became of an axis that has grown, or has the same channels in another order."""
    weights = axis["role"] if axis["weights"] == 1 else f"{axis['role']} ({axis['weights']:,} weights)"
    what, new = "row" if axis["axis"] == "out" else "column", axis["n_b"] - axis["n_a"]
    if not new:
        return f"{weights}: the {what}s of {a} in another order."
    as_they_were = "" if axis["found"] is None else f", of which {axis['found']:,} are as they were"
    return f"{weights}: {format_count(new, f'new {what}')} beside the {axis['n_a']:,} of {a}{as_they_were}."


def _name_layers(untouched: Sequence[int]) -> str:
    """Those that were left as they were: `layer 3 does not`, `layers 0-2, 5 do not`."""
    layers = f"layers {_format_runs(untouched)} do" if len(untouched) > 1 else f"layer {untouched[0]} does"
    return f"{layers} not"


def _format_runs(numbers: Sequence[int]) -> str:
    """`0-2, 30, 31`: runs of three and more from end to end."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)
