"""Two 8B-shaped checkpoints, compared value by value in a memory cgroup of 512 MB, beside a script of torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench import llama8b
from bench.measure import Failed, Run, in_turn, run
from bench.row import MB, Context, Goal, Row, needs, versus
from shardscan.answers import connection as ask

PEER = str(Path(__file__).parents[1] / "peers" / "tensor_diff.py")
LIMIT = 512_000_000


def values(context: Context) -> list[Row]:
    """`diff --values` of models that are scanned already: both are read once more."""
    needs("torch")
    a = context.checkpoint()
    b = llama8b.tuned(a, context.scratch / f"{a.name}-tuned")
    store = context.store("diff-8b")
    for path in (a, b):
        context.ingest(path, store, "--spectra", "none")

    def ours() -> Run:
        for folder in ("commits", "arrays.zarr"):  # what an earlier round compared
            for left in (store / folder).glob("diff-*"):
                shutil.rmtree(left)
        command = ["-m", "shardscan", "diff", str(a), str(b), "--store", str(store), "--values", "--memory", "512MB"]
        return run(command, limit=LIMIT)

    us, them = in_turn(context.runs, ours, lambda: run([PEER, str(a), str(b)]))
    wanted = them[0].found["changed"]
    query = "SELECT count(*) FILTER (changed > 0) AS n, count(*) AS of FROM tensor_diffs"
    found = ask.run_sql(store, query).to_pylist()[0]
    if found != {"n": wanted, "of": them[0].found["tensors"]}:
        raise Failed(f"{found['n']} of {found['of']} tensors are said to have changed, and {wanted} did")
    nbytes = sum(file.stat().st_size for path in (a, b) for file in path.glob("*.safetensors"))
    most, how = max(one.peak for one in us) / MB, us[0].enforced_by or "sampled only"
    return [
        versus("diff-8b", "torch, tensor by tensor", us, them, bytes=nbytes),
        Row("diff-8b-memory", f"--memory 512MB ({how})", most, unit="MB", goal=Goal(512, of="ours", at_most=True)),
    ]
