"""The command line: parse, call, print. Rows go to stdout, all else to stderr; heavy imports stay in the commands."""

from __future__ import annotations

import click

from shardscan.cli import ask as asking
from shardscan.cli import compare as comparing
from shardscan.cli import scan as scanning
from shardscan.cli import verify as checking
from shardscan.cli.frame import EXIT_CODES, Commands
from shardscan.version import __version__


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
    shardscan diff ./Llama-3-8B ./pruned --store scans
    shardscan sql "select role, max(absmax) from tensors group by role" --store scans

    Rows go to stdout, progress and notes to stderr.
    """


# in the order of a first session
for command in (
    *(scanning.demo, scanning.ls, scanning.anatomy, scanning.ingest, comparing.diff),
    *(asking.sql, asking.ask, asking.questions),
    *(scanning.catalog, checking.verify, asking.info),
):
    main.add_command(command)
