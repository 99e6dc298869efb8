"""The command line, its options: each decorator brings some, and hands the command one value that is made of them.

What imports libraries is imported when a command runs, so that `--help` costs nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.core import ParameterSource

from shardscan.errors import QueryError, shown
from shardscan.output.writer import ENDINGS, FORMATS

if TYPE_CHECKING:
    import pyarrow as pa

    from shardscan.jobs.scan.options import Reading

Command = Callable[..., Any]


class Size(click.ParamType[int]):
    """Bytes with a unit: 512MB, 4GB, 1.5GiB, or a plain number."""

    name = "size"
    UNITS: ClassVar = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
                       "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        size = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT]?I?B?)\s*", str(value).upper())
        if not size or size[2] not in self.UNITS:
            self.fail(f"{shown(str(value))} is no size: write 512MB, 4GB or 2GiB.", param, ctx)
        return int(float(size[1]) * self.UNITS[size[2]])


@dataclass(frozen=True, slots=True)
class Printing:
    """Where a command's rows go: to stdout or the file `output`, in a `format` of output.writer or by default."""

    format: str | None
    output: str | None

    @property
    def is_for_a_person(self) -> bool:
        """Whether nobody asked for a form of rows, and a terminal shows them."""
        return self.format is None and self.output is None and sys.stdout.isatty()

    def write(self, rows: pa.Table) -> None:
        """Write the rows of a command."""
        from shardscan.output.writer import write_rows

        format_, source = self.format, click.get_current_context().get_parameter_source("format_")
        if self.output and source is ParameterSource.ENVIRONMENT and Path(self.output).suffix.lower() in ENDINGS:
            format_ = None  # what somebody typed today goes before what their profile says
        write_rows(rows, format=format_, output=self.output)
        if not rows.num_rows and not self.output and not sys.stdout.isatty():
            click.echo("0 rows.", err=True)  # a pipe would say nothing at all


def _with_options(command: Command, *options: Callable[[Command], Command]) -> Command:
    """The command with these options, in this order in its help."""
    for option in reversed(options):
        command = option(command)
    return command


def prints_rows(command: Command) -> Command:
    """The options of every command that prints rows, which it is given as its `printing`."""

    @wraps(command)
    def with_printing(*, format_: str | None, output: str | None, **values: Any) -> Any:
        return command(printing=Printing(format_, output), **values)

    return _with_options(
        with_printing,
        click.option(
            "--format", "format_", type=click.Choice(FORMATS), envvar="SHARDSCAN_FORMAT", show_envvar=True,
            help="Default: table on a terminal, jsonl in a pipe.",
        ),
        click.option(
            "-o", "--output", type=click.Path(),
            help=f"Write to this file instead; its ending decides: {', '.join(ENDINGS)}.",
        ),
    )  # fmt: skip


def _folder_of_store(_: click.Context, __: click.Parameter, folder: str) -> str:
    # --store "$UNSET" would be the current folder
    if not folder:
        raise click.BadParameter("give the folder of the store.")
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{shown(folder)} is not UTF-8 text: give a folder whose name is.") from None
    return folder


def has_store(command: Command) -> Command:
    """The option of every command that needs a store."""
    return click.option(
        "--store", type=click.Path(), default="scans", show_default=True, envvar="SHARDSCAN_STORE", show_envvar=True,
        help="Folder of the store.", callback=_folder_of_store,
    )(command)  # fmt: skip


def _with_reading(command: Command, *fields: str) -> Command:
    """Have options of a command be fields of its `reading`, beside those that other decorators bring."""

    @wraps(command)
    def with_reading(*, reading: Reading | None = None, **values: Any) -> Any:
        from shardscan.jobs.scan.options import Reading

        options = {field: values.pop(field) for field in fields}
        return command(reading=replace(reading or Reading(), **options), **values)

    return with_reading


def has_families(command: Command) -> Command:
    """The option of every command that places tensors, a part of its `reading`."""
    return click.option(
        "--family", "family_files", type=click.Path(), multiple=True, metavar="FILE", envvar="SHARDSCAN_FAMILIES",
        show_envvar=True, help="A naming family in TOML, or a folder of them, that goes before ours; repeatable.",
    )(_with_reading(command, "family_files"))  # fmt: skip


def reads_checkpoint(command: Command) -> Command:
    """The options of every command that opens a checkpoint, a part of its `reading`."""
    return _with_options(
        _with_reading(command, "pickled_module", "index", "state"),
        click.option(
            "--pickled-module", is_flag=True,
            help="Also read the weights of a whole module that PyTorch pickled, as inert data: nothing is imported or "
            "run.",
        ),
        click.option(
            "--index", metavar="auto|follow|ignore", default="auto", show_default=True,
            help="What a folder's index is for. auto: whole shards are read, and it is noted where the index says "
            "otherwise; follow: that is refused; ignore: the shards are read without it.",
        ),
        click.option(
            "--state", metavar="KEY",
            help="Of a PyTorch file with several dicts of tensors the one to read, such as ema or weights.net; "
            "'.' for those under no key.",
        ),
    )  # fmt: skip


def reads_weights(command: Command) -> Command:
    """The options of every command that reads all of a checkpoint into a store: its `resources`, and how it reads."""

    @wraps(command)
    def with_resources(*, workers: int | None, memory: int | None, max_bytes: int | None, **values: Any) -> Any:
        from shardscan.jobs.scan.options import Resources

        return command(resources=Resources.within(workers, memory, max_bytes), **values)

    return _with_options(
        _with_reading(with_resources, "io"),
        click.option(
            "--workers", type=click.IntRange(1), envvar="SHARDSCAN_WORKERS", show_envvar=True,
            help="Threads; default: one for each processor.",
        ),
        click.option(
            "--memory", type=Size(), envvar="SHARDSCAN_MEMORY", show_envvar=True,
            help="Anonymous memory that this may take, such as 512MB; default: half of what is free.",
        ),
        click.option(
            "--io", metavar="auto|mmap|read", default="auto", show_default=True,
            help="How shards are read. read: nothing is mapped, so that a shard that is cut short meanwhile costs its "
            "tensors and not the run; auto: read on network disks, mmap on others.",
        ),
        click.option(
            "--max-bytes", type=Size(), help="Refuse to start where a scan would read more than this, such as 100GB.",
        ),
    )  # fmt: skip


def chooses_products(command: Command) -> Command:
    """The options of a scan that say what it computes and how, which the command is given as its `options`."""

    @wraps(command)
    def with_scan_options(
        *, spectra: str, exact: bool, device: str, blas_threads: int | None, channels: str | None, **values: Any
    ) -> Any:
        from shardscan.jobs.scan.options import ScanOptions

        return command(options=ScanOptions(spectra, exact, device, blas_threads, channels), **values)

    return _with_options(
        with_scan_options,
        click.option(
            "--spectra", metavar="none|heads,full,circuits", default="heads", show_default=True,
            help="Singular values to compute, with commas: of attention heads, of whole matrices, of the OV and QK "
            "circuits of every query head.",
        ),
        click.option(
            "--exact", is_flag=True,
            help="Redo whole matrices whose smallest values a Gram matrix loses, by QR and SVD.",
        ),
        click.option(
            "--device", metavar="auto|cpu|cuda[:N]", default="cpu", show_default=True, envvar="SHARDSCAN_DEVICE",
            show_envvar=True,
            help="What computes; auto: the first CUDA GPU if there is one, with CuPy, else the CPU. No GPU has run "
            "this yet.",
        ),
        click.option(
            "--blas-threads", type=click.IntRange(1),
            help="Threads that solve a matrix of more than 2048 rows and columns; default: one for each processor. "
            "Changes the last bits.",
        ),
        click.option(
            "--channels", metavar="all|dense|none",
            help="Which channels become rows of the catalog, dense being those of no expert; Zarr keeps all. Default: "
            "as an earlier run said, else all up to 20 million, else dense.",
        ),
    )  # fmt: skip


def _parsed(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    """Values by name, of words such as layer=3."""
    parameters = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise QueryError(f"-p takes NAME=VALUE, such as -p layer=3, not {word!r}.")
        parameters[name] = value
    return parameters


def has_parameters(command: Command) -> Command:
    """The option of every command whose query has parameters, which it is given as texts by name."""
    return click.option(
        "-p", "parameters", multiple=True, metavar="NAME=VALUE", callback=_parsed,
        help="A parameter of the query; repeatable.",
    )(command)  # fmt: skip


def has_bounds(command: Command) -> Command:
    """The options of every command that runs a query: what that may take, given as its `bounds`."""

    @wraps(command)
    def with_bounds(*, timeout: int, memory: int | None, **values: Any) -> Any:
        from shardscan.answers.bounded import Bounds, free_memory

        return command(bounds=Bounds(timeout, free_memory() if memory is None else memory), **values)

    return _with_options(
        with_bounds,
        click.option(
            "--timeout", type=click.IntRange(1, 10**6), default=60, show_default=True, metavar="SECONDS",
            envvar="SHARDSCAN_TIMEOUT", show_envvar=True, help="Stop a query that takes longer.",
        ),
        click.option(
            "--memory", type=Size(), envvar="SHARDSCAN_QUERY_MEMORY", show_envvar=True,
            help="Memory that a query and its result may take; default: half of what is free, at most 4 GB.",
        ),
    )  # fmt: skip
