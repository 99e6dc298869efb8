"""Head spectra of one layer with np.linalg.svd, all heads of a matrix in one batched call, float32, all cores.

    python bench/peers/head_svd.py values|vectors CHECKPOINT HEAD_DIM

`vectors` is the call as scripts write it, np.linalg.svd(heads, full_matrices=False), whose vectors nobody reads. The
slices are decoded beforehand. Prints JSON.
"""

import json
import sys
import time
from pathlib import Path

import ml_dtypes  # noqa: F401  # gives NumPy the dtype
import numpy as np
from safetensors import safe_open


def main(which: str, folder: Path, dim: int) -> None:
    heads = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), "numpy") as file:
            for name in file.keys():  # noqa: SIM118  # it is no dict
                weight = file.get_tensor(name).astype(np.float32)
                weight = weight.T if ".o_proj." in name else weight
                heads.append(np.ascontiguousarray(weight).reshape(-1, dim, weight.shape[1]))
    np.linalg.svd(heads[0][:1], compute_uv=False)
    started = time.perf_counter()
    if which == "values":
        spectra = [np.linalg.svd(h, compute_uv=False) for h in heads]
    else:
        spectra = [np.linalg.svd(h, full_matrices=False)[1] for h in heads]
    seconds = time.perf_counter() - started
    nuclear = float(sum(s.sum(dtype=np.float64) for s in spectra))
    print(json.dumps({"seconds": seconds, "heads": sum(len(s) for s in spectra), "nuclear": nuclear}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
