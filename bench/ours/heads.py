"""Head spectra alone: ours beside one np.linalg.svd for each head, interleaved in one process. Prints JSON.

python -m bench.ours.heads CHECKPOINT RUNS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from shardscan.anatomy.axes import Heads
from shardscan.anatomy.places import Placed
from shardscan.jobs.scan.prepare import prepare
from shardscan.plan.products import asked_by
from shardscan.plan.scan import plan_scan
from shardscan.plan.tasks import Block
from shardscan.reduce.blocks import finish_tensor, merge_products, reduce_block


def main(path: str, runs: int) -> None:
    """Time every head of q, k, v and o, from mapped bytes to singular values."""
    prepared = prepare(path)
    done = {(task.name, "stats/1") for task in prepared.plan.tasks}
    tasks = plan_scan(prepared.anatomy, asked_by("heads"), done).tasks
    units = [unit for task in tasks for unit in task.units if unit.blocks]
    slices = [_slices(unit.placed) for unit in units]
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: [finish_tensor(unit, _fold(unit.blocks)) for unit in units],
        "svd": lambda: [np.linalg.svd(w) for s in slices for w in s],
        "svd_values": lambda: [np.linalg.svd(w, compute_uv=False) for s in slices for w in s],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    with threadpool_limits(limits=1, user_api="blas"):
        for _ in range(runs + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - started)
    heads = sum(len(s) for s in slices)
    print(json.dumps({"heads": heads, **{name: median(t[1:]) for name, t in times.items()}}))  # the first warms up


def _fold(blocks: tuple[Block, ...]):  # type: ignore[no-untyped-def]
    partial = reduce_block(blocks[0])
    for block in blocks[1:]:
        partial = merge_products(partial, reduce_block(block))
    return partial


def _slices(placed: Placed) -> list[np.ndarray]:
    """Each head's slice as the usual script cuts it, decoded beforehand."""
    (matrix,) = placed.matrices
    heads = matrix.heads
    assert isinstance(heads, Heads)
    weight = placed.tensor.window().read()
    return np.split(weight, heads.count, axis=0 if heads.axis == "out" else 1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
