"""The command line, what reads checkpoints and writes stores: demo, ls, anatomy, ingest, catalog."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from shardscan.cli.frame import INCOMPLETE, say_if_compiling, tell, tell_notes, tell_some
from shardscan.cli.options import has_families, has_store, prints_rows, reads_checkpoint, reads_weights, write_rows
from shardscan.errors import shown


@click.command()
@click.argument("folder", type=click.Path(), default="shardscan-demo")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Where the facts are planted.")
@prints_rows
def demo(folder: str, seed: int, format_: str | None, output: str | None) -> None:
    """Plant facts in a small checkpoint, and find them.

    Makes the checkpoint (51 MB) and a store in FOLDER, scans it, and shows each planted fact with the SQL that finds
    it. Exit code 8 where one is not found.

    \b
    shardscan demo
    shardscan demo /tmp/other --seed 1 --format json
    """
    from shardscan.jobs import demo as planting
    from shardscan.output.progress import shown as progress_shown

    say_if_compiling()
    with progress_shown("demo") as advance:
        facts, store = planting.run(Path(folder), seed, progress=advance)
    if format_ is None and output is None and sys.stdout.isatty():
        _tell(facts)
    else:
        write_rows(planting.table(facts), format_, output)
    click.echo(f"The store is {store}. Your turn:\n  shardscan ask outliers --store {store}", err=True)
    if not all(fact.found for fact in facts):
        sys.exit(INCOMPLETE)


@click.command()
@click.argument("path", type=click.Path())
@click.option("-l", "--long", is_flag=True, help="Also component, parameters, file, and why a tensor is odd.")
@reads_checkpoint
@has_families
@prints_rows
def ls(
    path: str, long: bool, pickled_module: bool, family_files: tuple[str, ...], format_: str | None, output: str | None
) -> None:
    """List the tensors of a checkpoint; reads headers only.

    PATH is a .safetensors or PyTorch file, a model's folder, or a model's folder in a Hugging Face cache.

    \b
    shardscan ls ./SmolLM2-135M
    shardscan ls ./SmolLM2-135M --long -o tensors.csv
    """
    from shardscan.cli.prints import listing
    from shardscan.jobs.scan.options import Reading
    from shardscan.jobs.scan.prepare import prepare

    prepared = prepare(path, reading=Reading(pickled_module=pickled_module, family_files=family_files))
    write_rows(listing.tensors(prepared, long=long), format_, output)
    tell(listing.headline(prepared))
    tell_notes(prepared.checkpoint.notes)


@click.command()
@click.argument("path", type=click.Path())
@click.option("--explain", metavar="NAME", help="Say of this tensor which rule named it and what follows.")
@reads_checkpoint
@has_families
@prints_rows
def anatomy(
    path: str, explain: str | None, pickled_module: bool, family_files: tuple[str, ...], format_: str | None,
    output: str | None,
) -> None:  # fmt: skip
    """Show where every tensor belongs, those without a place first.

    PATH is as for `ls`; only headers are read. A naming family is a TOML file;
    shardscan/anatomy/families/llama.toml explains the form by example.

    \b
    shardscan anatomy ./Phi-3-mini
    shardscan anatomy ./Phi-3-mini --explain model.layers.0.self_attn.qkv_proj.weight
    shardscan anatomy ./ours --family ours.toml
    """
    from shardscan.cli.prints import anatomy as explaining
    from shardscan.cli.prints import listing
    from shardscan.jobs.scan.options import Reading
    from shardscan.jobs.scan.prepare import prepare

    prepared = prepare(path, reading=Reading(pickled_module=pickled_module, family_files=family_files))
    if explain is not None:
        write_rows(explaining.tensor(prepared, explain), format_, output)
        return
    write_rows(explaining.every(prepared), format_, output)
    tell(listing.headline(prepared))
    tell(explaining.share(prepared))
    tell_notes(prepared.checkpoint.notes)


@click.command()
@click.argument("path", type=click.Path())
@has_store
@click.option(
    "--name", help="Name of the model in the store; default: org/model of a hub cache, else the folder's name."
)
@has_families
@click.option(
    "--spectra",
    metavar="none|heads,full,circuits",
    default="heads",
    show_default=True,
    help="Singular values to compute, with commas: of attention heads, of whole matrices, of the OV and QK circuits of "
    "every query head.",
)
@click.option(
    "--exact", is_flag=True, help="Redo whole matrices whose smallest values a Gram matrix loses, by QR and SVD."
)
@click.option(
    "--device",
    metavar="auto|cpu|cuda[:N]",
    default="cpu",
    show_default=True,
    envvar="SHARDSCAN_DEVICE",
    show_envvar=True,
    help="What computes; auto: the first CUDA GPU if there is one, with CuPy, else the CPU. No GPU has run this yet.",
)
@click.option(
    "--blas-threads",
    type=click.IntRange(1),
    help="Threads that solve a matrix of more than 2048 rows and columns; default: one for each processor. Changes the "
    "last bits.",
)
@click.option(
    "--channels",
    metavar="all|dense|none",
    help="Which channels become rows of the catalog, dense being those of no expert; Zarr keeps all. Default: as an "
    "earlier run said, else all up to 20 million, else dense.",
)
@reads_checkpoint
@reads_weights
@click.option(
    "--replace", is_flag=True, help="Take the place of another checkpoint of this name, once the scan is complete."
)
@click.option("--dry-run", is_flag=True, help="Print what the scan would read, need and leave, and do nothing.")
@prints_rows
def ingest(
    path: str, store: str, name: str | None, family_files: tuple[str, ...], spectra: str, exact: bool,
    workers: int | None, memory: int | None, device: str, blas_threads: int | None, channels: str | None, io: str,
    pickled_module: bool, max_bytes: int | None, replace: bool, dry_run: bool, format_: str | None, output: str | None,
) -> None:  # fmt: skip
    """Scan a checkpoint into a store, or continue to.

    PATH is a .safetensors or PyTorch file, a model's folder, or a model's folder in a Hugging Face cache.
    What an earlier run committed is not done again.

    \b
    shardscan ingest ./SmolLM2-135M --store scans
    shardscan ingest ./SmolLM2-135M --spectra heads,full --memory 1GB
    shardscan ingest ./SmolLM2-135M --spectra heads,circuits
    shardscan ingest ./SmolLM2-135M --dry-run
    """
    from shardscan.cli.prints import listing
    from shardscan.jobs.scan.job import execute
    from shardscan.jobs.scan.options import Reading, Resources, ScanOptions
    from shardscan.jobs.scan.prepare import choose_channels, prepare, remaining
    from shardscan.output.progress import shown as progress_shown

    options = ScanOptions(spectra, exact, device, blas_threads, channels)
    reading, resources = Reading(io, pickled_module, family_files), Resources.within(workers, memory, max_bytes)
    prepared = prepare(path, options, reading, resources, name=name)
    tell(listing.headline(prepared))
    kept = choose_channels(prepared, Path(store))
    notes = listing.without_circuits(prepared) + listing.without_channels(prepared, kept)
    tell_notes(prepared.checkpoint.notes + notes)
    if dry_run:
        write_rows(listing.costs(prepared, remaining(prepared, Path(store)), kept), format_, output)
        return
    if prepared.device.name == "cpu":
        say_if_compiling()
    with progress_shown(prepared.checkpoint.name) as advance:
        summary = execute(prepared, Path(store), replace=replace, progress=advance)
    tell(listing.read(summary))
    write_rows(listing.summary(summary), format_, output)
    failures = [f"{shown(tensor)}: {reason}" for tensor, reason in summary.failures.items()]
    tell_some("Failed", failures, "`tensors.reason` and `spectra.reason` say why")
    if summary.failures:
        sys.exit(INCOMPLETE)


@click.command()
@has_store
@click.option("--rebuild", is_flag=True, help="Read every scan again from Zarr, whatever the old catalog holds.")
@prints_rows
def catalog(store: str, rebuild: bool, format_: str | None, output: str | None) -> None:
    """Build the catalog of a store again; list its models.

    The checkpoints are not needed. Without --rebuild, models that did not change are taken from the old catalog.

    \b
    shardscan catalog --rebuild --store scans
    """
    from shardscan.answers import connection as asking
    from shardscan.jobs.scan.job import rebuild as rebuild_catalog

    file = rebuild_catalog(Path(store), everything=rebuild)
    write_rows(asking.run(store, "select model, architecture, parameters, bytes, source from models"), format_, output)
    tell(f"The catalog is {file}.")


def _tell(facts: list[Any]) -> None:
    """Each planted fact with its SQL and the rows that it gave, as a person reads them."""
    from shardscan.output.writer import write

    for fact in facts:
        verdict = click.style("found", fg="green") if fact.found else click.style("NOT FOUND", fg="red")
        click.echo(f"{click.style('Planted', bold=True)}: {fact.planted}: {verdict} by", err=True)
        click.echo("".join(f"    {line}\n" for line in fact.sql.splitlines()), err=True)
        write(fact.rows, format="table")
        click.echo(err=True)
