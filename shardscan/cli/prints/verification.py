"""What `verify` tells: its findings, and the verdict in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardscan.cli.prints.sizes import format_count, format_size
from shardscan.output.cells import visible

if TYPE_CHECKING:
    import pyarrow as pa

    from shardscan.jobs.verification.job import Verdict


def tabulate_findings(verdict: Verdict) -> pa.Table:
    """One row a finding, problems first."""
    import pyarrow as pa

    columns = ("severity", "check", "file", "tensor", "position", "detail")
    findings = sorted(verdict.findings, key=lambda finding: finding.severity == "note")
    texts = ([_as_unicode(getattr(finding, column)) for finding in findings] for column in columns)
    return pa.table({column: pa.array(text, pa.string()) for column, text in zip(columns, texts, strict=True)})


def describe_verdict(verdict: Verdict) -> str:
    """How many problems and notes there are, and how much was looked at, in a sentence."""
    problems, notes = verdict.problems, len(verdict.findings) - verdict.problems
    looked_at = f"{format_count(verdict.count, verdict.of)}, {format_size(verdict.nbytes)} read"
    name = visible(_as_unicode(verdict.name) or "")
    if problems and notes:
        return f"{format_count(problems, 'problem')} and {format_count(notes, 'note')} in {name}: {looked_at}."
    if problems:
        return f"{format_count(problems, 'problem')} in {name}: {looked_at}."
    return f"Clean, {format_count(notes, 'note')}: {looked_at}." if notes else f"Clean: {looked_at}."


def _as_unicode(name: str | None) -> str | None:
    # names of files that are not UTF-8 have lone surrogates, which no table holds
    return None if name is None else name.encode("utf-8", "backslashreplace").decode()
