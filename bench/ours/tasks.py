"""A checkpoint's statistics or head spectra through our own graph, all cores, and nothing kept on disk.

    python -m bench.ours.tasks stats|heads CHECKPOINT

From mapped bytes to results; the first pass compiles, reads the file into the page cache and is not timed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np

from shardscan.environment import processors
from shardscan.flow import prepare
from shardscan.plan import HEADS, SPECTRA, STATS, Task, plan
from shardscan.reduce import scan
from shardscan.reduce.result import TENSOR_STATISTICS, Result


def main(product: str, path: str) -> None:
    prepared = prepare(path)
    other = {"stats": HEADS, "heads": STATS}[product]
    done = {(task.name, other) for task in prepared.plan.tasks}
    tasks = plan(prepared.anatomy, SPECTRA["heads"], done).tasks
    kept: list[Result] = []

    def keep(_: Task, results: Sequence[Result]) -> Mapping[str, str]:
        kept.extend(results)
        return {}

    workers = processors()
    for _ in range(2):
        kept.clear()
        started = time.perf_counter()
        scan.run(tasks, keep, workers=workers)
        seconds = time.perf_counter() - started
    print(
        json.dumps({"seconds": seconds, "workers": workers, **(_check_stats if product == "stats" else _check)(kept)})
    )


def _check_stats(kept: list[Result]) -> dict[str, float]:
    """Numbers that a peer must have too: of the one tensor that there is."""
    (result,) = kept
    assert result.tensor is not None and result.channels_in is not None and result.channels_out is not None
    at = TENSOR_STATISTICS.index
    return {
        "p99": float(result.tensor[at("p99_abs")]),
        "p999": float(result.tensor[at("p999_abs")]),
        "std_out": float(result.channels_out[at("std")].sum()),
        "kurtosis_in": float(result.channels_in[at("kurtosis")].sum()),
    }


def _check(kept: list[Result]) -> dict[str, float]:
    spectra = [result.heads.sigma for result in kept if result.heads]
    return {"heads": sum(len(s) for s in spectra), "nuclear": float(sum(np.nansum(s) for s in spectra))}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
