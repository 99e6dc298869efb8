"""What `demo` tells: each planted fact with the SQL that looks for it, and what that gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from shardscan.jobs.demo import Fact


def print_facts(facts: Sequence[Fact]) -> None:
    """Each fact with its SQL and its rows, as a person reads them."""
    from shardscan.output.writer import write_rows

    for fact in facts:
        verdict = click.style("found", fg="green") if fact.found else click.style("NOT FOUND", fg="red")
        click.echo(f"{click.style('Planted', bold=True)}: {fact.planted}: {verdict} by", err=True)
        click.echo("".join(f"    {line}\n" for line in fact.sql.splitlines()), err=True)
        write_rows(fact.rows, format="table")
        click.echo(err=True)


def tabulate_facts(facts: Sequence[Fact]) -> pa.Table:
    """One row a fact."""
    import pyarrow as pa

    return pa.table({
        "planted": [fact.planted for fact in facts],
        "sql": [" ".join(fact.sql.split()) for fact in facts],
        "found": [", ".join(" ".join(map(str, row)) for row in fact.values) for fact in facts],
        "as_planted": [fact.found for fact in facts],
    })  # fmt: skip
