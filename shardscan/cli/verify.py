"""The command line, what checks: verify."""

from __future__ import annotations

import sys

import click

from shardscan.cli.frame import UNCLEAN, tell
from shardscan.cli.options import prints_rows, reads_checkpoint, write_rows


@click.command()
@click.argument("path", type=click.Path())
@reads_checkpoint
@prints_rows
def verify(path: str, pickled_module: bool, format_: str | None, output: str | None) -> None:
    """Check that a checkpoint or a store is whole; reads all of it.

    Of a checkpoint (PATH as for `ls`): headers against file sizes and the index, NaN, infinities, zeros, copies,
    unexpected files. Of a store: every file that a commit vouches for, every commit, the catalog. One row a finding;
    exit code 10 where one of them is a problem.

    \b
    shardscan verify ./SmolLM2-135M
    shardscan verify ./SmolLM2-135M --format json -o findings.json
    shardscan verify scans
    """
    from shardscan.cli.prints import listing
    from shardscan.jobs.verification.job import verify as verified
    from shardscan.output.progress import shown as progress_shown

    with progress_shown("verify", "comparing") as advance:
        verdict = verified(path, advance, pickled_module=pickled_module)
    write_rows(listing.findings(verdict), format_, output)
    tell(listing.verdict(verdict))
    if verdict.problems:
        sys.exit(UNCLEAN)
