"""`python -m bench`: every row once, one table on stdout, one JSON with the machine and the versions.

Rows are interleaved, ours and theirs in turn, and medians are kept; see README.md for the traps.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import click
import pyarrow as pa

from bench.measure import Run, middle, run
from shardscan.environment import processors, versions
from shardscan.flow import prepare
from shardscan.output import write

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: seconds and peak anonymous MB of both, and how many times as fast we are."""

    row: str
    against: str
    ours_s: float
    theirs_s: float | None = None
    ratio: float | None = None
    ours_gb_s: float | None = None
    ours_mb: float | None = None
    theirs_mb: float | None = None


@click.command()
@click.option("--checkpoint", type=click.Path(exists=True), help="A checkpoint to use instead of SmolLM2-135M.")
@click.option("--quick", is_flag=True, help="One run of each row: that it works, not how fast.")
@click.option("--runs", default=5, show_default=True, help="Runs of each row; medians are kept.")
@click.option("-o", "--output", type=click.Path(), help="The JSON; default: bench/results.json.")
def main(checkpoint: str | None, quick: bool, runs: int, output: str | None) -> None:
    """Time shardscan beside what people do today."""
    path = checkpoint or _smollm2()
    runs = 1 if quick else runs
    rows = [*_ingest(path, runs), *_heads(path, runs)]
    write(pa.Table.from_pylist([asdict(row) for row in rows]), format="table")
    record = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "processor": _processor(), "cores": processors()},
        "versions": versions() | ({"torch": version("torch")} if find_spec("torch") else {}),
        "checkpoint": Path(path).name,
        "runs": runs,
        "rows": [asdict(row) for row in rows],
    }
    Path(output or ROOT / "bench" / "results.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def _ingest(path: str, runs: int) -> list[Row]:
    """Whole processes: a first ingest that compiles, then warm ones in turn with the torch script."""
    prepared = prepare(path)
    sizes, gigabytes = prepared.anatomy.sizes, prepared.checkpoint.nbytes / 1e9
    script = [
        str(ROOT / "bench/peers/torch_statistics.py"),
        path,
        *(str(sizes[k]) for k in ("heads", "kv_heads", "head_dim")),
    ]
    with tempfile.TemporaryDirectory() as folder:
        environment = {"NUMBA_CACHE_DIR": f"{folder}/kernels"}
        cold = _ours(path, f"{folder}/cold", environment)
        ours, theirs = [], []
        for i in range(runs):
            ours.append(_ours(path, f"{folder}/{i}", environment))
            theirs += [run(script)] if find_spec("torch") else []
    first = Row(
        "ingest, first run ever (compiles)",
        "-",
        cold.seconds,
        ours_gb_s=gigabytes / cold.seconds,
        ours_mb=cold.peak / 1e6,
    )
    us, them = middle(ours), middle(theirs) if theirs else None
    warm = Row(
        row="ingest with head spectra, whole process",
        against="torch + NumPy script" if them else "torch is not installed",
        ours_s=us.seconds,
        theirs_s=them.seconds if them else None,
        ratio=median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True)) if theirs else None,
        ours_gb_s=gigabytes / us.seconds,
        ours_mb=us.peak / 1e6,
        theirs_mb=them.peak / 1e6 if them else None,
    )
    return [first, warm]


def _ours(path: str, store: str, environment: dict[str, str]) -> Run:
    return run(["-m", "shardscan", "ingest", path, "--store", store], environment)


def _heads(path: str, runs: int) -> list[Row]:
    found = json.loads(run(["-m", "bench.heads", path, str(runs)]).printed)
    ours = found["ours"]
    return [
        Row(f"{found['heads']} head spectra", against, ours, found[key], found[key] / ours)
        for against, key in (("np.linalg.svd(head)", "svd"), ("np.linalg.svd(head, compute_uv=False)", "svd_values"))
    ]


def _smollm2() -> str:
    sys.path.insert(0, str(ROOT / "tests"))
    from checkpoints import Unavailable, cached

    try:
        return str(cached("smollm2"))
    except Unavailable as error:
        sys.exit(f"SmolLM2 cannot be had: {error}; or name a checkpoint with --checkpoint.")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
