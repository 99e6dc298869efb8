"""The command line, what compares: diff."""

from __future__ import annotations

import sys

import click

from shardscan.cli.frame import INCOMPLETE, say_if_compiling, tell, tell_notes, tell_some
from shardscan.cli.options import has_families, has_store, prints_rows, reads_checkpoint, reads_weights, write_rows
from shardscan.errors import shown


@click.command()
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
def diff(
    a: str, b: str, store: str, names: tuple[str, str] | None, values: bool, rank: bool, family_files: tuple[str, ...],
    workers: int | None, memory: int | None, io: str, max_bytes: int | None, pickled_module: bool,
    format_: str | None, output: str | None,
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
    from shardscan.cli.prints import listing
    from shardscan.jobs.comparison.job import diff as compared
    from shardscan.output.progress import shown as progress_shown

    say_if_compiling()
    found = compared(
        a,
        b,
        store,
        names=names or (None, None),
        family_files=family_files,
        workers=workers,
        memory_limit=memory,
        io=io,
        max_bytes=max_bytes,
        pickled_module=pickled_module,
        values=values,
        rank=rank,
        phase=progress_shown,
    )
    write_rows(found.modules, format_, output)
    for sentence in listing.difference(found):
        tell(sentence)
    tell_notes(found.notes)
    kinds = (
        ("Not compared", found.left, "`shardscan.diff(…).left` in Python has all"),
        ("Failed", found.failures, "`tensors.reason` and `tensor_diffs.reason` say why"),
    )
    for word, reasons, others in kinds:
        tell_some(word, [f"{shown(name)}: {reason}" for name, reason in reasons.items()], others)
    tell_some("Impossible", found.faults, "`from shape_faults(a, b)` has all")
    if found.failures:
        sys.exit(INCOMPLETE)
