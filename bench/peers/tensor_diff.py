"""What two checkpoints differ by, tensor by tensor, as scripts do it: both loaded by torch, in float32, with all cores.

    python bench/peers/tensor_diff.py A B

Relative change, cosine, largest change and share of values that changed; no rows or columns, nothing stored. Of
checkpoints of equal shapes only. Prints JSON.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open


def tensors(folder: Path) -> dict[str, Path]:
    """The shard of every tensor."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as shard:
            found |= dict.fromkeys(shard.keys(), path)
    return found


def difference(a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
    x, y = a.float(), b.float()
    d = x - y
    norm_a, norm_b = torch.linalg.vector_norm(x), torch.linalg.vector_norm(y)
    return {
        "relative_change": float(torch.linalg.vector_norm(d) / norm_a),
        "cosine": float((x.flatten() @ y.flatten()) / (norm_a * norm_b)),
        "max_change": float(d.abs().max()),
        "changed": float((a != b).float().mean()),
    }


def main() -> None:
    one, other = (tensors(Path(path)) for path in sys.argv[1:3])
    found = {}
    for name, path in one.items():
        with safe_open(path, "pt") as a, safe_open(other[name], "pt") as b:
            found[name] = difference(a.get_tensor(name), b.get_tensor(name))
    changed = [name for name, facts in found.items() if facts["changed"] > 0]
    print(json.dumps({"tensors": len(found), "changed": len(changed)}))


if __name__ == "__main__":
    main()
