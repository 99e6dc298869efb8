"""The command line: parse, call, print. Rows go to stdout, all else to stderr; heavy imports stay in the commands."""

from __future__ import annotations

import click

from shardscan.cli.ask import ask_question, list_questions, run_sql, show_machine
from shardscan.cli.compare import show_difference
from shardscan.cli.frame import EXIT_CODES, Commands
from shardscan.cli.scan import build_catalog, ingest_checkpoint, list_tensors, show_anatomy, show_demo
from shardscan.cli.verify import verify_path
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
    *(show_demo, list_tensors, show_anatomy, ingest_checkpoint, show_difference),
    *(run_sql, ask_question, list_questions),
    *(build_catalog, verify_path, show_machine),
):
    main.add_command(command)
