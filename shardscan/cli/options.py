"""The command line, its options: those that several commands share, and what they mean."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.core import ParameterSource

from shardscan.errors import QueryError, shown
from shardscan.output.writer import ENDINGS, FORMATS

if TYPE_CHECKING:
    import pyarrow as pa


class Size(click.ParamType[int]):
    """Bytes with a unit: 512MB, 4GB, 1.5GiB, or a plain number."""

    name = "size"
    UNITS: ClassVar = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
                       "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT]?I?B?)\s*", str(value).upper())
        if not found or found[2] not in self.UNITS:
            self.fail(f"{shown(str(value))} is no size: write 512MB, 4GB or 2GiB.", param, ctx)
        return int(float(found[1]) * self.UNITS[found[2]])


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


def _folder_of_store(_: click.Context, __: click.Parameter, folder: str) -> str:
    # --store "$UNSET" would be the current folder
    if not folder:
        raise click.BadParameter("give the folder of the store.")
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{shown(folder)} is not UTF-8 text: give a folder whose name is.") from None
    return folder


def has_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option of every command that needs a store."""
    return click.option(
        "--store", type=click.Path(), default="scans", show_default=True, envvar="SHARDSCAN_STORE", show_envvar=True,
        help="Folder of the store.", callback=_folder_of_store,
    )(command)  # fmt: skip


def has_families(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option of every command that places tensors."""
    return click.option(
        "--family", "family_files", type=click.Path(), multiple=True, metavar="FILE", envvar="SHARDSCAN_FAMILIES",
        show_envvar=True, help="A naming family in TOML, or a folder of them, that goes before ours; repeatable.",
    )(command)  # fmt: skip


def reads_checkpoint(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option of every command that opens a checkpoint."""
    return click.option(
        "--pickled-module", is_flag=True,
        help="Also read the weights of a whole module that PyTorch pickled, as inert data: nothing is imported or run.",
    )(command)  # fmt: skip


def reads_weights(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that reads all of a checkpoint into a store."""
    options = (
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
    for option in reversed(options):
        command = option(command)
    return command


def has_parameters(command: Callable[..., Any]) -> Callable[..., Any]:
    """-p name=value."""
    return click.option(
        "-p", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the query; repeatable."
    )(command)


def has_bounds(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a query may take."""
    options = (
        click.option(
            "--timeout", type=click.IntRange(1, 10**6), default=60, show_default=True, metavar="SECONDS",
            envvar="SHARDSCAN_TIMEOUT", show_envvar=True, help="Stop a query that takes longer.",
        ),
        click.option(
            "--memory", type=Size(), envvar="SHARDSCAN_QUERY_MEMORY", show_envvar=True,
            help="Memory that a query and its result may take; default: half of what is free, at most 4 GB.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def write_rows(rows: pa.Table, format_: str | None, output: str | None) -> None:
    """Write rows where `prints_rows` was told to."""
    from shardscan.output.writer import write

    source = click.get_current_context().get_parameter_source("format_")
    if output and source is ParameterSource.ENVIRONMENT and Path(output).suffix.lower() in ENDINGS:
        format_ = None  # what somebody typed today goes before what their profile says
    write(rows, format=format_, output=output)
    if not rows.num_rows and not output and not sys.stdout.isatty():
        click.echo("0 rows.", err=True)  # a pipe would say nothing at all


def parsed(parameters: tuple[str, ...]) -> dict[str, str]:
    """Names and values of `has_parameters`."""
    values = {}
    for parameter in parameters:
        name, sign, value = parameter.partition("=")
        if not sign or not name:
            raise QueryError(f"-p takes NAME=VALUE, such as -p layer=3, not {parameter!r}.")
        values[name] = value
    return values
