"""A checkpoint's statistics or head spectra through our own graph, all cores, and nothing kept on disk.

    python -m bench.ours.tasks stats|heads CHECKPOINT

From mapped bytes to results; the first pass compiles, reads the file into the page cache and is not timed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import numpy as np

from shardscan.jobs.scan.prepare import prepare
from shardscan.machine import processors
from shardscan.plan.products import HEADS, STATS, asked_by
from shardscan.plan.scan import plan_scan
from shardscan.plan.tasks import Task
from shardscan.reduce import scan
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.result import Result
from shardscan.reduce.tensors import TENSOR_STATISTICS, statistics_of_runs


def main(product: str, path: str) -> None:
    prepared = prepare(path)
    other = {"stats": HEADS, "heads": STATS}[product]
    done = {(task.name, other) for task in prepared.plan.tasks}
    tasks = plan_scan(prepared.anatomy, asked_by("heads"), done).tasks
    kept: list[Result] = []
    dtype = next(iter(prepared.checkpoint.values())).dtype

    def keep(_: Task, results: Sequence[Result]) -> None:
        kept.extend(results)

    workers = processors()
    for _ in range(2):
        kept.clear()
        started = time.perf_counter()
        scan.run_blocks(tasks, keep, workers=workers)
        seconds = time.perf_counter() - started
    checks = _check_stats(kept, dtype) if product == "stats" else _check(kept)
    print(json.dumps({"seconds": seconds, "workers": workers, **checks}))


def _check_stats(kept: list[Result], dtype: str) -> dict[str, float]:
    """Numbers that a peer must have too: of the one tensor that there is."""
    (result,) = kept
    outcome = result.outcomes[STATS]
    (matrix,) = outcome.of_matrices
    tensor = statistics_of_runs([outcome.of_tensor["moments"]], dtype, outcome.of_tensor["distribution"])
    return {
        "p99": float(tensor[TENSOR_STATISTICS.index("p99_abs")]),
        "p999": float(tensor[TENSOR_STATISTICS.index("p999_abs")]),
        "std_out": float(matrix["channels_out"][CHANNEL_STATISTICS.index("std")].sum()),
        "kurtosis_in": float(matrix["channels_in"][CHANNEL_STATISTICS.index("kurtosis")].sum()),
    }


def _check(kept: list[Result]) -> dict[str, float]:
    arrays = (matrix for result in kept for matrix in result.outcomes[HEADS].of_matrices)
    spectra = [matrix["heads"] for matrix in arrays if matrix]
    return {"heads": sum(len(s) for s in spectra), "nuclear": float(sum(np.nansum(s) for s in spectra))}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
