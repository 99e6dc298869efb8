"""The command line, what compares: diff."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardscan.cli.frame import INCOMPLETE, say_if_compiling, tell, tell_first, tell_notes
from shardscan.cli.options import Printing, has_families, has_store, prints_rows, reads_checkpoint, reads_weights
from shardscan.errors import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardscan.jobs.scan.options import Reading, Resources


@click.command("diff")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@has_store
@click.option(
    "--names", nargs=2, metavar="A B", help="Names of both models in the store; default: as `ingest` names them."
)
@click.option(
    "--values",
    is_flag=True,
    help="Read both once more and compare all values, of pruned weights on what is left: tensor_diffs, channel_diffs.",
)
@click.option("--rank", is_flag=True, help="Also find the rank of every change: is it a LoRA? Takes --values with it.")
@has_families
@reads_weights
@reads_checkpoint
@prints_rows
def show_difference(
    a: str, b: str, store: str, names: tuple[str, str] | None, values: bool, rank: bool, reading: Reading,
    resources: Resources, printing: Printing,
) -> None:  # fmt: skip
    """Say what became of model A in model B.

    Each is a checkpoint, which is scanned without spectra unless the store has it already, or the name of a model in
    the store. A is the original, B what pruning, tuning or merging made of it. One row for each module; the questions
    pruning-layers, pruning-table, survivors and changes tell more.

    \b
    shardscan diff ./Llama-3-8B ./pruned/pytorch_model.bin --store scans
    shardscan diff Llama-3-8B pruned --store scans --values
    shardscan diff ./base ./tuned --rank --names base tuned
    shardscan sql "from surviving_channels('Llama-3-8B', 'pruned') where layer = 3" --store scans
    """
    from shardscan.cli.prints.comparison import describe_difference
    from shardscan.jobs.comparison.job import compare_models
    from shardscan.output.progress import showing_progress

    say_if_compiling()
    difference = compare_models(
        a, b, Path(store), reading, resources,
        names=names or (None, None), values=values, rank=rank, phase=showing_progress,
    )  # fmt: skip
    printing.write(difference.modules)
    for sentence in describe_difference(difference):
        tell(sentence)
    tell_notes(difference.notes)
    _tell_reasons("Not compared", difference.left, "`shardscan.diff(…).left` in Python has all")
    _tell_reasons("Failed", difference.failures, "`tensors.reason` and `tensor_diffs.reason` say why")
    tell_first("Impossible", difference.faults, "`from shape_faults(a, b)` has all")
    if difference.failures:
        sys.exit(INCOMPLETE)


def _tell_reasons(word: str, reasons: Mapping[str, str], others: str) -> None:
    """Say of the first weights why, and where the others are."""
    tell_first(word, [f"{shown(name)}: {reason}" for name, reason in reasons.items()], others)
