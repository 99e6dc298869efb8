"""The 8B-shaped checkpoint: ingest beside a plain read, under memory limits, on disk, asked, and growing."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from bench import llama8b
from bench.measure import Failed, Run, in_turn, make_cold, middle, run
from bench.row import MB, Context, Goal, Row, needs_option, scan_small, versus
from shardscan.answers import connection as ask
from shardscan.store.names import CATALOG

READER = str(Path(__file__).parents[1] / "peers" / "cold_read.py")


def ingest(context: Context) -> list[Row]:
    """Cold cache, whole processes: an ingest with heads beside a reader that does nothing with what it reads."""
    path = context.checkpoint()
    how = ""

    def ours() -> Run:
        nonlocal how
        store = context.store("ingest-8b")
        how = _cold(context, path)
        return context.ingest(path, store)

    def theirs() -> Run:
        make_cold(path, everything=not context.quick)
        return run([READER, str(path)])

    us, them = in_turn(context.runs, ours, theirs)
    store = context.scratch / "stores" / "ingest-8b"
    facts = find_planted(store, context.size)
    context.keep_scan(store)
    nbytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    rates = {"ours_gb_s": nbytes / middle(us).seconds / 1e9, "theirs_gb_s": nbytes / middle(them).seconds / 1e9}
    against = f"sequential read, cold ({how})"
    return [versus("ingest-8b", against, us, them, Goal(0.4, 0.8), bytes=nbytes, **rates, planted=facts, cold=how)]


def _cold(context: Context, path: Path) -> str:
    """Drop the checkpoint from the cache, and bring back Python's libraries, which went with it; how."""
    how = make_cold(path, everything=not context.quick)
    scan_small(context.scratch)
    return how


def find_planted(store: Path, size: llama8b.Size) -> dict[str, Any]:
    """What SQL says of each planted fact, each as planted. Raises Failed."""
    facts = llama8b.planted(size)
    rows = "SELECT channel FROM channels WHERE matrix = $name AND axis = 'out' AND "
    wanted: dict[str, tuple[str, str, list[Any]]] = {
        "loud row": (rows + "rms > 0.1", facts.loud_row[0], [facts.loud_row[1]]),
        "dead row": (rows + "absmax = 0", facts.dead_row[0], [facts.dead_row[1]]),
        "low-rank head": (
            f"SELECT head FROM ranks WHERE starts_with(spectrum, $name || '@') "
            f"AND numerical_rank = {facts.low_rank_head[2]}",
            facts.low_rank_head[0],
            [facts.low_rank_head[1]],
        ),
        "NaN": ("SELECT nans FROM tensors WHERE tensor = $name AND nans > 0", facts.nan[0], [1]),
        "no other NaN": ("SELECT tensor FROM tensors WHERE nans > 0 AND tensor <> $name", facts.nan[0], []),
    }
    found = {}
    for what, (sql, name, expected) in wanted.items():
        answer = ask.run_sql(store, sql, {"name": name})
        found[what] = answer.column(0).to_pylist()
        if found[what] != expected:
            raise Failed(f"planted and not found: {what} of {name} is {expected}, the scan says {found[what]}")
    return found


def memory(context: Context, text: str, limit: int) -> list[Row]:
    """One ingest with `--memory`, in a cgroup of the same size: it finishes, and its peak stays under the limit."""
    needs_option("--memory")
    path, store = context.checkpoint(), context.store(f"memory-{text}")
    cold = _cold(context, path)
    found = context.ingest(path, store, "--memory", text, limit=limit)
    find_planted(store, context.size)
    how = found.enforced_by or "sampled only"
    return [
        Row(
            f"memory-{text}",
            f"--memory {text} ({how})",
            found.seconds,
            ours_mb=found.peak / MB,
            goal=Goal(limit / MB, of="ours_mb", at_most=True),
            details={"enforced_by": how, "cold": cold, "runs": 1},
        )
    ]


def disk(context: Context) -> list[Row]:
    """The scan's arrays, commits and catalog, beside the checkpoint's bytes."""
    store, path = context.scan(), context.checkpoint()
    files = [file for file in store.rglob("*") if file.is_file()]
    catalog = (store / CATALOG).stat().st_size
    nbytes = sum(file.stat().st_size for file in files)
    allocated = sum(file.stat().st_blocks * 512 for file in files)
    of = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    details = {"catalog_mb": catalog / MB, "arrays_and_commits_mb": (nbytes - catalog) / MB, "files": len(files)}
    return [
        Row(
            "disk-8b",
            "the checkpoint",
            nbytes / MB,
            of / MB,
            "MB",
            of / nbytes,
            goal=Goal(450, 300, of="ours", at_most=True),
            details={**details, "allocated_mb": allocated / MB},
        )
    ]


def queries(context: Context) -> list[Row]:
    """Every question that ships, to an Arrow table, in one open connection; one of them also as a command."""
    store = context.scan()
    asked = run(["-m", "bench.ours.queries", str(store), "1" if context.quick else "5"])
    times: dict[str, float] = asked.found["questions"]
    slowest = max(times, key=lambda name: times[name])
    commands = [run(["-m", "shardscan", "ask", "outliers", "--store", str(store)]) for _ in range(context.runs)]
    command = middle(commands).seconds
    details = {
        "questions": times,
        "command_s": command,
        "median_s": median(times.values()),
        "slowest": slowest,
        "rows": asked.found["rows"],
    }
    return [
        Row(
            "queries-8b",
            f"- (slowest of {len(times)}: {slowest})",
            times[slowest],
            ours_mb=asked.peak / MB,
            goal=Goal(0.5, 0.1, of="ours", at_most=True),
            details={**details, "over_aim": [name for name, t in times.items() if t > 0.1]},
        ),
        Row("queries-8b-median", f"- (median of {len(times)})", details["median_s"]),
        Row("queries-8b-command", "- (CLI: ask outliers)", command),
    ]


def scaling(context: Context) -> list[Row]:
    """Rates of 8, 16 and 32 layers, cold; one worker and two on 8 layers, warm; and a picture of both."""
    points = []
    for layers in (8, 16, 32):
        path = context.checkpoint(layers)
        runs = []
        for _ in range(context.runs):
            _cold(context, path)
            runs.append(context.ingest(path, context.store("scaling")))
        nbytes = sum(file.stat().st_size for file in path.glob("*.safetensors"))
        points.append({"layers": layers, "gb": nbytes / 1e9, "seconds": middle(runs).seconds})
    rates = [point["gb"] / point["seconds"] for point in points]
    path = context.checkpoint(8)
    run([READER, str(path)])

    def with_workers(n: int) -> Run:
        return context.ingest(path, context.store("scaling"), "--workers", str(n))

    two, one = in_turn(context.runs, lambda: with_workers(2), lambda: with_workers(1))
    _plot(points, {1: middle(one).seconds, 2: middle(two).seconds}, context)
    largest, smallest = points[-1], points[0]
    return [
        Row(
            "scaling-size",
            f"{largest['gb']:.1f} GB against {smallest['gb']:.1f} GB",
            rates[-1],
            rates[0],
            "GB/s",
            rates[-1] / rates[0],
            details={"points": points},
            note="linear is 1; more where a fixed cost is spread",
        ),
        versus("scaling-workers", "1 worker, warm", two, one, Goal(1.7), checkpoint=path.name),
    ]


def _plot(points: list[dict[str, Any]], workers: dict[int, float], context: Context) -> None:
    """bench/scaling.png; of tiny inputs only into the scratch folder; nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), width_ratios=[2, 1], layout="constrained")
    gigabytes, seconds = [p["gb"] for p in points], [p["seconds"] for p in points]
    left.plot(gigabytes, seconds, "o-", label="ingest, cold, whole process")
    left.plot([0, gigabytes[-1]], [0, seconds[-1]], ":", color="grey", label="linear")
    left.set(xlabel="checkpoint (GB)", ylabel="seconds", xlim=(0, None), ylim=(0, None))
    left.legend(frameon=False)
    right.bar([str(n) for n in workers], list(workers.values()), width=0.6)
    right.set(xlabel=f"workers ({gigabytes[0]:.1f} GB, warm)", ylabel="seconds")
    folder = context.scratch if context.quick else Path(__file__).parents[1]
    figure.savefig(folder / "scaling.png", dpi=150)
    pyplot.close(figure)
