"""What people write today: load the model with torch, loop over its tensors, keep the numbers.

    python bench/peers/torch_statistics.py CHECKPOINT HEADS KV_HEADS HEAD_DIM

The same statistics as an ingest with heads: tensors, both axes' channels, quantiles, head spectra; in float32, as such
scripts are, and without the histogram and the fingerprints.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file


def moments(x: torch.Tensor, axis: int | None) -> dict[str, torch.Tensor]:
    axes = tuple(range(x.ndim)) if axis is None else (axis,)
    mean = x.mean(axes, keepdim=True)
    d = x - mean
    std = d.square().mean(axes, keepdim=True).sqrt()
    return {
        "mean": mean.squeeze(),
        "std": std.squeeze(),
        "min": x.amin(axes),
        "max": x.amax(axes),
        "mean_abs": x.abs().mean(axes),
        "absmax": x.abs().amax(axes),
        "rms": x.square().mean(axes).sqrt(),
        "kurtosis": ((d / std) ** 4).mean(axes),
        "zeros": (x == 0).sum(axes),
    }


def tensor_statistics(x: torch.Tensor) -> dict[str, float]:
    found = {name: float(value) for name, value in moments(x, None).items()}
    magnitude = x.abs()
    found["absmin"] = float(magnitude[magnitude > 0].min()) if bool((magnitude > 0).any()) else float("nan")
    found["near_zeros"] = int((magnitude <= 1e-8).sum())
    found["nans"], found["infs"] = int(x.isnan().sum()), int(x.isinf().sum())
    p99, p999 = np.quantile(magnitude.numpy(), [0.99, 0.999], method="inverted_cdf")
    return {**found, "p99_abs": float(p99), "p999_abs": float(p999)}


def main(folder: Path, heads: int, kv_heads: int, dim: int) -> None:
    weights = {name: w for shard in sorted(folder.glob("*.safetensors")) for name, w in load_file(shard).items()}
    counts = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads, "o_proj": heads}
    tensors, channels, spectra = {}, {}, {}
    for name, weight in weights.items():
        x = weight.float()
        tensors[name] = tensor_statistics(x)
        if x.ndim == 2:
            channels[name] = {axis: moments(x, axis) for axis in (0, 1)}
        role = name.split(".")[-2]
        if role in counts:
            slices = x.T if role == "o_proj" else x
            spectra[name] = torch.linalg.svdvals(slices.reshape(counts[role], dim, -1))
    print(len(tensors), len(channels), sum(len(s) for s in spectra.values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(n) for n in sys.argv[2:5]))
