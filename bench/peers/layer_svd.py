"""torch.linalg.svdvals of all matrices of a checkpoint on the first CUDA device, float32.

    python bench/peers/layer_svd.py CHECKPOINT

From mapped bytes to values on the host; the first matrix goes once before, so that kernels and libraries are there.
Prints JSON.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open


def main(folder: Path) -> None:
    if not torch.cuda.is_available():
        print(json.dumps({"missing": "torch has no CUDA device"}))
        return
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    names = [(folder / file, name) for name, file in index["weight_map"].items()]
    values(*names[0])
    torch.cuda.synchronize()
    started = time.perf_counter()
    spectra = [values(*name) for name in names]
    seconds = time.perf_counter() - started
    largest, nuclear = max(float(s[0]) for s in spectra), float(sum(s.double().sum() for s in spectra))
    print(json.dumps({"seconds": seconds, "largest": largest, "nuclear": nuclear}))


def values(path: Path, name: str) -> torch.Tensor:
    with safe_open(str(path), "pt", device="cuda") as file:
        sigma: torch.Tensor = torch.linalg.svdvals(file.get_tensor(name).float()).cpu()
    return sigma


if __name__ == "__main__":
    main(Path(sys.argv[1]))
