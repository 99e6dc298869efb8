"""The command line, what checks: verify."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from shardscan.cli.frame import UNCLEAN, tell
from shardscan.cli.options import Printing, prints_rows, reads_checkpoint

if TYPE_CHECKING:
    from shardscan.jobs.scan.options import Reading


@click.command("verify")
@click.argument("path", type=click.Path())
@reads_checkpoint
@prints_rows
def verify_path(path: str, reading: Reading, printing: Printing) -> None:
    """Check that a checkpoint or a store is whole; reads all of it.

    Of a checkpoint (PATH as for `ls`): headers against file sizes and the index, NaN, infinities, zeros, copies,
    unexpected files. Of a store: every file that a commit vouches for, every commit, the catalog. One row a finding;
    exit code 10 where one of them is a problem.

    \b
    shardscan verify ./SmolLM2-135M
    shardscan verify ./SmolLM2-135M --format json -o findings.json
    shardscan verify scans
    """
    from shardscan.cli.prints.verification import describe_verdict, tabulate_findings
    from shardscan.jobs.verification.job import verify
    from shardscan.output.progress import showing_progress

    with showing_progress("verify", "comparing") as advance:
        verdict = verify(path, advance, reading)
    printing.write(tabulate_findings(verdict))
    tell(describe_verdict(verdict))
    if verdict.problems:
        sys.exit(UNCLEAN)
