"""SmolLM2-135M, a trained model: the first run that compiles, the scripts that people write, and its heads alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from bench.measure import Run, in_turn, run
from bench.row import MB, Context, Goal, Row, agree, needs, versus
from shardscan.jobs.scan.prepare import prepare

PEERS = Path(__file__).parents[1] / "peers"
HEADS_MEASURED = 8
TABLE = "SELECT * FROM ranks WHERE head IS NOT NULL"


def per_head_table(context: Context) -> list[Row]:
    """Every head's spectrum and fits, without imports on both sides; a whole ingest; then the scan, asked."""
    needs("torch", "transformers")
    path = context.smollm2()

    def theirs() -> Run:
        found = run([str(PEERS / "per_head_table.py"), str(path), str(HEADS_MEASURED)])
        return replace(found, seconds=found.found["seconds"] * found.found["heads"])

    us, ingests, them = in_turn(
        context.runs,
        lambda: run(["-m", "bench.ours.tasks", "heads", str(path)]).inner(),
        lambda: context.ingest(path, context.store("per-head")),
        theirs,
    )
    heads = int(them[0].found["heads"])
    agree("heads", us[0].found["heads"], heads, 0)
    against = f"a script that loads, rebuilds, svd: {HEADS_MEASURED} heads, extrapolated to {heads}"
    store = context.scratch / "stores" / "per-head"
    asked = [run(["-m", "shardscan", "sql", TABLE, "--store", str(store), "--format", "csv"]) for _ in us]
    name = "smollm2-per-head-table"
    return [
        versus(name, against, us, them, Goal(100), heads=heads, measured=HEADS_MEASURED),
        versus(f"{name}-ingest", f"{against}; ours is a whole ingest", ingests, them, heads=heads),
        versus(f"{name}-again", f"{against}; ours asks the scan", asked, them, heads=heads),
    ]


def first_run(context: Context) -> list[Row]:
    """What a new user waits for: numba compiles the kernels, which it then caches."""
    path, cache = context.smollm2(), context.scratch / "kernels"
    shutil.rmtree(cache, ignore_errors=True)
    found = context.ingest(path, context.store("first"), environment={"NUMBA_CACHE_DIR": str(cache)})
    return [Row("first-run", "- (compiles)", found.seconds, ours_mb=found.peak / MB, details={"runs": 1})]


def torch_script(context: Context) -> list[Row]:
    """An ingest with heads beside the script of torch and NumPy with the same statistics, whole processes."""
    needs("torch")
    path = context.smollm2()
    sizes = prepare(path).anatomy.sizes
    script = [
        str(PEERS / "torch_statistics.py"),
        str(path),
        *(str(sizes[k]) for k in ("heads", "kv_heads", "head_dim")),
    ]
    ours, theirs = in_turn(
        context.runs, lambda: context.ingest(path, context.store("torch-script")), lambda: run(script)
    )
    return [versus("torch-script-smollm2", "a script of torch and NumPy", ours, theirs)]


def heads(context: Context) -> list[Row]:
    """Head spectra alone, in one process with one BLAS thread."""
    found = run(["-m", "bench.ours.heads", str(context.smollm2()), str(context.runs)]).found
    ours, count = found["ours"], {"heads": found["heads"]}
    return [
        Row(name, against, ours, found[key], ratio=found[key] / ours, details=count)
        for name, against, key in (
            ("heads-smollm2", "np.linalg.svd(head)", "svd"),
            ("heads-smollm2-values", "np.linalg.svd(head, compute_uv=False)", "svd_values"),
        )
    ]
