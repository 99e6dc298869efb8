"""`python -m bench`: choose rows, run them, print one table, and record them in one JSON.

A row that was measured before stays in the file until it is measured again; each says when, and on which processor.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from bench.measure import ROOT, Failed
from bench.row import Context, Missing, Row
from bench.rows import ROWS
from shardscan.machine import processors, versions
from shardscan.output.writer import write_rows

PEERS = ("torch", "transformers", "weightlens", "weightwatcher")
SHOWN = ("row", "against", "unit", "ours", "theirs", "ratio", "ours_mb", "theirs_mb", "at_least", "aim", "met", "note")


@click.command()
@click.option("--quick", is_flag=True, help="Tiny inputs, one run: that every row works, not how fast.")
@click.option("--rows", multiple=True, help="Rows to run, also with commas; default: all.", metavar="NAME…")
@click.argument("more", nargs=-1, metavar="")  # the names after the first, which an option cannot take
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Runs of each row; medians count.")
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SHARDSCAN_BENCH",
    show_envvar=True,
    help="Where checkpoints (31 GB for all rows) and stores lie; default: shardscan-bench among temporary files.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The JSON; default: bench/results.json; quick: in SCRATCH."
)
def main(
    quick: bool, rows: tuple[str, ...], more: tuple[str, ...], runs: int, scratch: Path | None, output: Path | None
) -> None:
    """Time shardscan beside what people do today, each in turn, and print the ratios.

    \b
    python -m bench --quick
    python -m bench --rows ingest-8b disk-8b queries-8b --runs 3
    """
    names = [name for word in (*rows, *more) for name in word.split(",") if name] or list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        raise click.BadParameter(f"{', '.join(unknown)}; there are {', '.join(ROWS)}.", param_hint="--rows")
    scratch = (scratch or Path(tempfile.gettempdir(), "shardscan-bench")).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    context = Context(scratch, 1 if quick else runs, quick)
    output = output or (scratch / "quick.json" if quick else ROOT / "bench" / "results.json")
    records: list[dict[str, Any]] = []
    for name in names:
        click.echo(f"{name} …", err=True)
        measured = [_stamped(name, row, context) for row in _run(name, context)]
        records += measured
        _merge(output, measured)
    write_rows(pa.Table.from_pylist([_shown(r) for r in records], _schema()), format="table")
    click.echo(f"Recorded in {output}.", err=True)
    if any(_failed(record) for record in records):
        raise SystemExit(1)


def _run(name: str, context: Context) -> Sequence[Row]:
    """The rows of this name; one that says why, where there are none."""
    try:
        return ROWS[name](context)
    except Missing as error:
        return [Row(name, "-", note=f"missing: {error}")]
    except Failed as error:
        return [Row(name, "-", note=f"failed: {error}")]


def _stamped(group: str, row: Row, context: Context) -> dict[str, Any]:
    return row.record(judged=not context.quick) | {
        "group": group,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": processors(),
        "runs": context.runs,
        "quick": context.quick,
    }


def _merged(before: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """New rows over those of their names; a number stays where something was missing, not where a row failed."""
    numbers = {row["row"] for row in measured if row["ours"] is not None or _failed(row)}
    groups = {row["group"] for row in measured}
    failed = {row["group"] for row in measured if _failed(row)}
    kept = {
        row["row"]: row
        for row in before
        if row["group"] not in groups
        or (row["ours"] is not None and row["row"] not in numbers and row["group"] not in failed)
    }
    held = kept.keys() | {row["group"] for row in kept.values()}
    new = {row["row"]: row for row in measured if row["row"] in numbers or row["row"] not in held}
    order = list(ROWS)
    return sorted((kept | new).values(), key=lambda row: order.index(row["group"]) if row["group"] in order else -1)


def _failed(row: Mapping[str, Any]) -> bool:
    return str(row["note"]).startswith("failed")


def _merge(output: Path, measured: Sequence[Mapping[str, Any]]) -> None:
    """Record these rows beside those that are in the file; it is complete or as it was."""
    before = json.loads(output.read_text("utf-8"))["rows"] if output.exists() else []
    record = {
        "machine": {"platform": platform.platform(), "processor": _processor(), "cores": processors()} | _memory(),
        "versions": versions() | _peers(),
        "rows": _merged(before, measured),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_suffix(".new")
    beside.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    beside.replace(output)


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as the table has it: three digits, and what is met in one word."""
    met = [word for word, key in (("aim", "aim_met"), ("at least", "at_least_met")) if record[key]]
    asked = record["at_least_met"] is not None and record["ours"] is not None
    said = met[0] if met else "missed" if asked else "-"
    row = {key: float(f"{v:.3g}") if isinstance(v := record.get(key), float) else v for key in SHOWN}
    return row | {"met": said}


def _schema() -> pa.Schema:
    words = {"row", "against", "unit", "met", "note"}
    return pa.schema([(key, pa.string() if key in words else pa.float64()) for key in SHOWN])


def _peers() -> dict[str, str]:
    found = {}
    for package in PEERS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _memory() -> dict[str, float]:
    return {"memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
