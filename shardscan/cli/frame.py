"""The command line, its frame: how every command ends, in one sentence and an exit code."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any

import click

from shardscan.cli import signals
from shardscan.errors import ShardscanError
from shardscan.output.cells import visible

INCOMPLETE, UNCLEAN = 8, 10
MOST_SENTENCES = 20  # of one kind

EXIT_CODES = """\b
Exit codes:
    0  done
    1  a bug in shardscan: the only one with a traceback
    2  the command line is wrong
    3  the checkpoint cannot be read
    4  a family file is wrong
    5  the store or its catalog cannot be used
    6  the query, question or parameter is wrong, or the query was stopped
    7  the output cannot be written
    8  done, but at least one tensor failed
    9  the store cannot be written; the same command continues
   10  `verify` found at least one problem
  130  interrupted (Ctrl-C); the same command continues
  143  terminated (SIGTERM); likewise
"""


class Refusal(click.ClickException):
    """An error of ours as Click shows it: one sentence, and the exit code of its class; values in it stay text."""

    def __init__(self, error: ShardscanError) -> None:
        lines = str(error).expandtabs(4).split("\n")
        super().__init__("\n".join(map(visible, lines)))
        self.exit_code = error.exit_code  # type: ignore[misc]  # Click's own subclasses do the same


class Commands(click.Group):
    """A group whose commands end in one sentence and an exit code, never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; our errors become Click's."""

        def farewell() -> str:
            if ctx.invoked_subcommand in ("ingest", "diff", "demo"):
                return "Interrupted. What was committed stays: the same command continues."
            return "Interrupted."

        with signals.heard(farewell) as ears:
            try:
                return super().invoke(ctx)
            except (Exception, KeyboardInterrupt) as error:
                # after a signal, whatever comes comes of it: DuckDB raises errors of its own
                if ears.number is None and not isinstance(error, KeyboardInterrupt):
                    if isinstance(error, ShardscanError):
                        raise Refusal(error) from error
                    raise
                ears.say_farewell()
                ctx.exit(ears.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a first session, not of the alphabet."""
        return list(self.commands)


def say_if_compiling() -> None:
    """Numba's first run on a machine is silent for long enough that people would think it hangs."""
    from shardscan.reduce.kernels.cpu import compiled
    from shardscan.reduce.kernels.cpu.compiler import describe_compiling

    if not compiled():
        click.echo(describe_compiling(), err=True)


def tell_notes(notes: Iterable[str]) -> None:
    """Say what is legal and odd."""
    for note in notes:
        tell(f"Note: {_with_full_stop(note)}")


def tell_first(word: str, items: Collection[str], others: str) -> None:
    """Say the first sentences, each after the word, and where the others are."""
    for item in islice(items, MOST_SENTENCES):
        tell(f"{word}: {_with_full_stop(item)}")
    if (more := len(items) - MOST_SENTENCES) > 0:
        tell(f"And {more:,} more: {others}.")


def _with_full_stop(text: str) -> str:
    """The text with a full stop, unless it ends in one."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def tell(text: str) -> None:
    """Say a line on stderr; what strangers' names have in them stays text."""
    click.echo(visible(text), err=True)
