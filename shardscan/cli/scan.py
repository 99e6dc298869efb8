"""The command line, what reads checkpoints and writes stores: demo, ls, anatomy, ingest, catalog."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardscan.cli.frame import INCOMPLETE, say_if_compiling, tell, tell_first, tell_notes
from shardscan.cli.options import (
    Printing,
    chooses_products,
    has_families,
    has_store,
    prints_rows,
    reads_checkpoint,
    reads_weights,
)
from shardscan.errors import shown

if TYPE_CHECKING:
    from shardscan.jobs.scan.options import Reading, Resources, ScanOptions


@click.command("demo")
@click.argument("folder", type=click.Path(), default="shardscan-demo")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Where the facts are planted.")
@prints_rows
def show_demo(folder: str, seed: int, printing: Printing) -> None:
    """Plant facts in a small checkpoint, and find them.

    Makes the checkpoint (51 MB) and a store in FOLDER, scans it, and shows each planted fact with the SQL that finds
    it. Exit code 8 where one is not found.

    \b
    shardscan demo
    shardscan demo /tmp/other --seed 1 --format json
    """
    from shardscan.cli.prints.demo import print_facts, tabulate_facts
    from shardscan.jobs.demo import run_demo
    from shardscan.output.progress import showing_progress

    say_if_compiling()
    with showing_progress("demo") as advance:
        facts, store = run_demo(Path(folder), seed, progress=advance)
    if printing.is_for_a_person:
        print_facts(facts)
    else:
        printing.write(tabulate_facts(facts))
    click.echo(f"The store is {store}. Your turn:\n  shardscan ask outliers --store {store}", err=True)
    if not all(fact.found for fact in facts):
        sys.exit(INCOMPLETE)


@click.command("ls")
@click.argument("path", type=click.Path())
@click.option("-l", "--long", is_flag=True, help="Also component, parameters, file, and why a tensor is odd.")
@reads_checkpoint
@has_families
@prints_rows
def list_tensors(path: str, long: bool, reading: Reading, printing: Printing) -> None:
    """List the tensors of a checkpoint; reads headers only.

    PATH is a .safetensors or PyTorch file, a model's folder, or a model's folder in a Hugging Face cache.

    \b
    shardscan ls ./SmolLM2-135M
    shardscan ls ./SmolLM2-135M --long -o tensors.csv
    """
    from shardscan.cli.prints.checkpoint import describe_checkpoint, tabulate_tensors
    from shardscan.jobs.scan.prepare import prepare

    prepared = prepare(path, reading=reading)
    printing.write(tabulate_tensors(prepared, long=long))
    tell(describe_checkpoint(prepared))
    tell_notes(prepared.checkpoint.notes)


@click.command("anatomy")
@click.argument("path", type=click.Path())
@click.option("--explain", metavar="NAME", help="Say of this tensor which rule named it and what follows.")
@reads_checkpoint
@has_families
@prints_rows
def show_anatomy(path: str, explain: str | None, reading: Reading, printing: Printing) -> None:
    """Show where every tensor belongs, those without a place first.

    PATH is as for `ls`; only headers are read. A naming family is a TOML file;
    shardscan/anatomy/families/llama.toml explains the form by example.

    \b
    shardscan anatomy ./Phi-3-mini
    shardscan anatomy ./Phi-3-mini --explain model.layers.0.self_attn.qkv_proj.weight
    shardscan anatomy ./ours --family ours.toml
    """
    from shardscan.cli.prints.anatomy import explain_tensor, tabulate_places
    from shardscan.cli.prints.checkpoint import describe_checkpoint
    from shardscan.jobs.scan.prepare import prepare

    prepared = prepare(path, reading=reading)
    if explain is not None:
        printing.write(explain_tensor(prepared, explain))
        return
    printing.write(tabulate_places(prepared))
    tell(describe_checkpoint(prepared))
    tell_notes(prepared.checkpoint.notes)


@click.command("ingest")
@click.argument("path", type=click.Path())
@has_store
@click.option(
    "--name", help="Name of the model in the store; default: org/model of a hub cache, else the folder's name."
)
@has_families
@chooses_products
@reads_checkpoint
@reads_weights
@click.option(
    "--replace", is_flag=True, help="Take the place of another checkpoint of this name, once the scan is complete."
)
@click.option("--dry-run", is_flag=True, help="Print what the scan would read, need and leave, and do nothing.")
@prints_rows
def ingest_checkpoint(
    path: str, store: str, name: str | None, options: ScanOptions, reading: Reading, resources: Resources,
    replace: bool, dry_run: bool, printing: Printing,
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
    from shardscan.cli.prints.checkpoint import describe_checkpoint
    from shardscan.cli.prints.scan import (
        describe_reading,
        note_missing_channels,
        note_missing_circuits,
        tabulate_costs,
        tabulate_summary,
    )
    from shardscan.jobs.scan.job import execute
    from shardscan.jobs.scan.prepare import choose_channels, prepare, remaining
    from shardscan.output.progress import showing_progress

    prepared, folder = prepare(path, options, reading, resources, name=name), Path(store)
    tell(describe_checkpoint(prepared))
    channels = choose_channels(prepared, folder)
    tell_notes(prepared.checkpoint.notes + note_missing_circuits(prepared) + note_missing_channels(prepared, channels))
    if dry_run:
        printing.write(tabulate_costs(prepared, remaining(prepared, folder), channels))
        return
    if prepared.device.name == "cpu":
        say_if_compiling()
    with showing_progress(prepared.checkpoint.name) as advance:
        summary = execute(prepared, folder, replace=replace, progress=advance)
    tell(describe_reading(summary))
    printing.write(tabulate_summary(summary))
    failures = [f"{shown(tensor)}: {reason}" for tensor, reason in summary.failures.items()]
    tell_first("Failed", failures, "`tensors.reason` and `spectra.reason` say why")
    if summary.failures:
        sys.exit(INCOMPLETE)


@click.command("catalog")
@has_store
@click.option("--rebuild", is_flag=True, help="Read every scan again from Zarr, whatever the old catalog holds.")
@prints_rows
def build_catalog(store: str, rebuild: bool, printing: Printing) -> None:
    """Build the catalog of a store again; list its models.

    The checkpoints are not needed. Without --rebuild, models that did not change are taken from the old catalog.

    \b
    shardscan catalog --rebuild --store scans
    """
    from shardscan.answers.connection import run_sql
    from shardscan.catalog.sqlfiles import job_sql
    from shardscan.jobs.scan.job import rebuild_catalog

    file = rebuild_catalog(Path(store), everything=rebuild)
    printing.write(run_sql(store, job_sql("scan", "models")))
    tell(f"The catalog is {file}.")
