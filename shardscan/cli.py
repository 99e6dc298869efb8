"""The command line: parse, call, print. Rows go to stdout, all else to stderr; heavy imports stay in the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from shardscan import __version__
from shardscan.errors import QueryError, ShardscanError, StoreError, shown
from shardscan.output import ENDINGS, FORMATS

if TYPE_CHECKING:
    import pyarrow as pa

INTERRUPTED, INCOMPLETE = 130, 8

EXIT_CODES = """\b
Exit codes:
    0  done
    1  a bug in shardscan: the only one with a traceback
    2  the command line is wrong
    3  the checkpoint cannot be read
    4  its tensors do not fit its family
    5  the store or its catalog cannot be used
    6  the query, question or parameter is wrong
    7  the output cannot be written
    8  done, but at least one tensor failed
  130  interrupted; `ingest` again continues
"""


class Refusal(click.ClickException):
    """An error of ours as Click shows it: one sentence, and the exit code of its class."""

    def __init__(self, error: ShardscanError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # Click's own subclasses do the same


class Commands(click.Group):
    """A group whose commands end in one sentence and an exit code, never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; our errors become Click's."""
        try:
            return super().invoke(ctx)
        except ShardscanError as error:
            raise Refusal(error) from error
        except KeyboardInterrupt:
            kept = " What was committed stays: the same command continues."
            click.echo("Interrupted." + kept * (ctx.invoked_subcommand in ("ingest", "demo")), err=True)
            ctx.exit(INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a first session, not of the alphabet."""
        return list(self.commands)


@click.group(
    cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="shardscan")
def main() -> None:
    """Open a model checkpoint once and turn it into tables.

    \b
    shardscan demo
    shardscan ingest ./SmolLM2-135M --store scans
    shardscan ask outliers --store scans
    shardscan sql "select role, max(absmax) from tensors group by role" --store scans

    Rows go to stdout, progress and notes to stderr.
    """


def prints_rows(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that prints rows."""
    options = (
        click.option(
            "--format", "format_", type=click.Choice(FORMATS), envvar="SHARDSCAN_FORMAT", show_envvar=True,
            help="Default: table on a terminal, jsonl in a pipe.",
        ),
        click.option(
            "-o", "--output", type=click.Path(),
            help=f"Write to this file instead; its ending decides: {', '.join(ENDINGS)}.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _not_empty(_: click.Context, __: click.Parameter, folder: str) -> str:
    # --store "$UNSET" would be the current folder
    if not folder:
        raise click.BadParameter("give the folder of the store.")
    return folder


def has_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option of every command that needs a store."""
    return click.option(
        "--store", type=click.Path(), default="scans", show_default=True, envvar="SHARDSCAN_STORE", show_envvar=True,
        help="Folder of the store.", callback=_not_empty,
    )(command)  # fmt: skip


def has_parameters(command: Callable[..., Any]) -> Callable[..., Any]:
    """-p name=value."""
    return click.option(
        "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the query; repeatable."
    )(command)


@main.command()
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
    from shardscan import demo as planting
    from shardscan.progress import shown as progress_shown

    _say_if_compiling()
    with _writing(folder), progress_shown("demo") as advance:
        facts, store = planting.run(Path(folder), seed, progress=advance)
    if format_ is None and output is None and sys.stdout.isatty():
        _tell(facts)
    else:
        _write(planting.table(facts), format_, output)
    click.echo(f"The store is {store}. Your turn:\n  shardscan ask outliers --store {store}", err=True)
    if not all(fact.found for fact in facts):
        sys.exit(INCOMPLETE)


@main.command()
@click.argument("path", type=click.Path())
@click.option("-l", "--long", is_flag=True, help="Also component, parameters, file, and why a tensor is odd.")
@prints_rows
def ls(path: str, long: bool, format_: str | None, output: str | None) -> None:
    """List the tensors of a checkpoint; reads headers only.

    PATH is a .safetensors file, a model's folder, or a model's folder in a Hugging Face cache.

    \b
    shardscan ls ./SmolLM2-135M
    shardscan ls ./SmolLM2-135M --long -o tensors.csv
    """
    from shardscan import listing
    from shardscan.flow import prepare

    prepared = prepare(path)
    _write(listing.tensors(prepared, long=long), format_, output)
    click.echo(listing.headline(prepared), err=True)
    _note(prepared.checkpoint.notes)


@main.command()
@click.argument("path", type=click.Path())
@has_store
@click.option(
    "--name", help="Name of the model in the store; default: org/model of a hub cache, else the folder's name."
)
@click.option(
    "--spectra",
    type=click.Choice(("none", "heads")),
    default="heads",
    show_default=True,
    help="Singular values to compute.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    envvar="SHARDSCAN_WORKERS",
    show_envvar=True,
    help="Threads; default: one for each processor.",
)
@click.option(
    "--replace", is_flag=True, help="Take the place of another checkpoint of this name, once the scan is complete."
)
@click.option("--dry-run", is_flag=True, help="Print what the scan would read, need and leave, and do nothing.")
@prints_rows
def ingest(
    path: str, store: str, name: str | None, spectra: str, workers: int | None, replace: bool, dry_run: bool,
    format_: str | None, output: str | None,
) -> None:  # fmt: skip
    """Scan a checkpoint into a store, or continue to.

    PATH is a .safetensors file, a model's folder, or a model's folder in a Hugging Face cache. What an earlier run
    committed is not done again.

    \b
    shardscan ingest ./SmolLM2-135M --store scans
    shardscan ingest ./SmolLM2-135M --dry-run
    """
    from shardscan import flow, listing
    from shardscan.progress import shown as progress_shown

    prepared = flow.prepare(path, name=name, spectra=spectra, workers=workers)
    click.echo(listing.headline(prepared), err=True)
    _note(prepared.checkpoint.notes)
    if dry_run:
        _write(listing.costs(prepared), format_, output)
        return
    _say_if_compiling()
    with _writing(store), progress_shown(prepared.checkpoint.name) as advance:
        summary = flow.execute(prepared, Path(store), replace=replace, progress=advance)
    click.echo(listing.read(summary), err=True)
    _write(listing.summary(summary), format_, output)
    for tensor, reason in summary.failures.items():
        click.echo(f"Failed: {shown(tensor)}: {_sentence(reason)}", err=True)
    if summary.failures:
        sys.exit(INCOMPLETE)


@main.command()
@click.argument("query")
@has_store
@has_parameters
@prints_rows
def sql(query: str, store: str, parameters: tuple[str, ...], format_: str | None, output: str | None) -> None:
    """Ask the catalog in SQL.

    QUERY is one SELECT of DuckDB's SQL, @FILE that holds one, or - for stdin; $name in it is a parameter.

    \b
    shardscan sql "select role, max(absmax) from tensors group by role"
    shardscan sql @query.sql -p layer=3 --format json
    shardscan sql - < query.sql
    shardscan sql "show tables"
    """
    from shardscan import ask as asking

    _write(asking.run(store, _text(query), _parsed(parameters)), format_, output)


@main.command()
@click.argument("question")
@has_store
@has_parameters
@prints_rows
def ask(question: str, store: str, parameters: tuple[str, ...], format_: str | None, output: str | None) -> None:
    """Ask a question that ships with shardscan.

    `shardscan questions` lists them with their parameters.

    \b
    shardscan ask outliers --store scans
    shardscan ask outliers -p sigma=3 -o outliers.parquet
    """
    from shardscan import ask as asking

    _write(asking.ask(store, question, _parsed(parameters)), format_, output)


@main.command()
@prints_rows
def questions(format_: str | None, output: str | None) -> None:
    """List the questions that ship with shardscan.

    \b
    shardscan questions
    """
    import pyarrow as pa

    from shardscan import ask as asking

    known = asking.questions().values()
    rows = {
        "question": [q.name for q in known],
        "title": [q.title for q in known],
        "parameters": [", ".join(f"{p.name}={p.default}" for p in q.parameters) for q in known],
    }
    _write(pa.table(rows), format_, output)


@main.command()
@has_store
@click.option("--rebuild", is_flag=True, help="Read every scan again from Zarr, whatever the old catalog holds.")
@prints_rows
def catalog(store: str, rebuild: bool, format_: str | None, output: str | None) -> None:
    """Build the catalog of a store again; list its models.

    The checkpoints are not needed. Without --rebuild, models that did not change are taken from the old catalog.

    \b
    shardscan catalog --rebuild --store scans
    """
    from shardscan import ask as asking
    from shardscan.catalog import build

    with _writing(store):
        file = build(Path(store), rebuild=rebuild)
    _write(asking.run(store, "select model, architecture, parameters, bytes, source from models"), format_, output)
    click.echo(f"The catalog is {file}.", err=True)


@main.command()
@prints_rows
def info(format_: str | None, output: str | None) -> None:
    """Print versions and machine, for bug reports.

    \b
    shardscan info --format markdown
    """
    from shardscan import environment

    _write(environment.facts(), format_, output)


def _write(rows: pa.Table, format_: str | None, output: str | None) -> None:
    from shardscan.output import write

    source = click.get_current_context().get_parameter_source("format_")
    if output and source is ParameterSource.ENVIRONMENT and Path(output).suffix.lower() in ENDINGS:
        format_ = None  # what somebody typed today goes before what their profile says
    write(rows, format=format_, output=output)


def _say_if_compiling() -> None:
    """Numba's first run on a machine is silent for long enough that people would think it hangs."""
    from shardscan.kernels.cpu import channel_sums

    if not any(Path(str(channel_sums.stats.cache_path)).glob("cpu.channel_sums-*.nbi")):
        click.echo("Compiling the kernels, which happens once and takes up to a minute.", err=True)


def _tell(facts: list[Any]) -> None:
    """Each planted fact with its SQL and the rows that it gave, as a person reads them."""
    from shardscan.output import write

    for fact in facts:
        verdict = click.style("found", fg="green") if fact.found else click.style("NOT FOUND", fg="red")
        click.echo(f"{click.style('Planted', bold=True)}: {fact.planted}: {verdict} by", err=True)
        click.echo("".join(f"    {line}\n" for line in fact.sql.splitlines()), err=True)
        write(fact.rows, format="table")
        click.echo(err=True)


@contextmanager
def _writing(folder: str) -> Iterator[None]:
    """Say of a folder that the disk refuses what a person can do about it."""
    try:
        yield
    except ShardscanError:
        raise
    except OSError as error:
        raise StoreError(
            f"{shown(folder, 400)} cannot be written ({error.strerror or error}): choose another folder, or see to "
            "what stands in the way; what was committed stays."
        ) from error


def _parsed(parameters: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for parameter in parameters:
        name, sign, value = parameter.partition("=")
        if not sign or not name:
            raise QueryError(f"-p takes NAME=VALUE, such as -p layer=3, not {parameter!r}.")
        values[name] = value
    return values


def _text(query: str) -> str:
    """The SQL that an argument means."""
    if query != "-" and not query.startswith("@"):
        return query
    name = "stdin" if query == "-" else query[1:] or "@"
    try:
        raw: bytes = sys.stdin.buffer.read() if query == "-" else Path(name).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise QueryError(f"{shown(name, 400)} cannot be read ({error.strerror}): give @FILE with a query.") from error
    except ValueError as error:
        raise QueryError(f"{shown(name, 400)} is not UTF-8 text ({error}): give a query in SQL.") from error


def _note(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(f"Note: {_sentence(note)}", err=True)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
