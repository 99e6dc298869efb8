"""Every singular value of all matrices of a checkpoint through our own graph, on one device, nothing kept on disk.

    python -m bench.ours.layer cpu|cuda CHECKPOINT

From mapped bytes to results in float64; the first matrix goes once before, so that kernels and libraries are there.
Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from shardscan.jobs.scan.options import ScanOptions
from shardscan.jobs.scan.prepare import prepare
from shardscan.machine import processors
from shardscan.plan.tasks import Task
from shardscan.reduce import scan
from shardscan.reduce.result import Result
from shardscan.reduce.spectra import METHODS


def main(device: str, path: str) -> None:
    prepared = prepare(path, ScanOptions(spectra="full", device=device))
    tasks = prepared.plan.matrices + prepared.plan.large_matrices
    kept: list[Result] = []

    def keep(_: Task, results: Sequence[Result]) -> None:
        kept.extend(results)

    scan.run_matrices(tasks[:1], prepared.solver, keep, workers=1, blas_threads=processors())
    kept.clear()
    started = time.perf_counter()
    scan.run_matrices(tasks, prepared.solver, keep, workers=1, blas_threads=processors())
    seconds = time.perf_counter() - started
    spectra = [matrix.full for result in kept for matrix in result.matrices if matrix.full]
    found = {
        "seconds": seconds,
        "methods": sorted({METHODS[int(s.methods[0])] for s in spectra}),
        "largest": max(float(s.sigma[0, 0]) for s in spectra),
        "nuclear": float(sum(s.sigma.sum() for s in spectra)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
