"""Golden places: what each architecture's tensors are called, how large they are, and where they belong.

One file of tests/made/golden for each architecture:

    Phi3ForCausalLM                              the class of transformers; `saved` after it: names as files have them;
                                                 `published`: of code that is not in transformers, written down by hand
    {"hidden_size": 64, …}                       what its config is made with
    {"architectures": ["Phi3ForCausalLM"], …}    the config.json that it saves
    model.layers.0.self_attn.qkv_proj.weight [128, 64] text 0 qkv_proj - weight q_proj=4x16 k_proj=2x16/2 v_proj=2x16/2
    …                                            name, shape, component, layer, role, expert, part, matrices

A matrix is its role, with [expert] in a stack, and `heads x length / queries of each` where heads divide it, with a ^
where they divide the columns and a T before it where it is stored inputs × outputs.

    python tests/made/golden.py phi3 …           make the files again, from transformers and from our own placement,
                                                 after which a person reads what changed
    python tests/made/golden.py table            the table of shardscan/anatomy/families/README.md
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.placement import place_tensors
from shardscan.anatomy.places import OTHER, Anatomy, Placed
from shardscan.shards import checkpoint as shards
from shardscan.shards.address import Checkpoint, Tensor
from shardscan.shards.dtypes import DTYPES

FOLDER = Path(__file__).with_name("golden")
NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Golden:
    """One file."""

    cls: str
    how: str  # "" as in memory, saved, or published
    settings: dict[str, Any]
    config: dict[str, Any]
    lines: tuple[str, ...]

    @property
    def shapes(self) -> Shapes:
        """The shape of every tensor, by its name."""
        found = (line.partition(" [") for line in self.lines)
        return {name: tuple(json.loads("[" + rest.partition("]")[0] + "]")) for name, _, rest in found}


def read(name: str) -> Golden:
    """The file of an architecture."""
    cls, settings, config, *lines = (FOLDER / f"{name}.txt").read_text("utf-8").splitlines()
    name, _, how = cls.partition(" ")
    return Golden(name, how, json.loads(settings), json.loads(config), tuple(lines))


def checkpoint(shapes: Shapes, config: dict[str, Any] | None) -> Checkpoint:
    """A checkpoint that has headers only."""
    tensors = {}
    for name, shape in shapes.items():
        nbytes = DTYPES["BF16"].nbytes(math.prod(shape))
        tensors[name] = Tensor(name, "BF16", shape, "model.safetensors", "/nowhere/model.safetensors", 0, nbytes)
    return Checkpoint("/nowhere", "model", "safetensors", (), tensors, config)


def lines(anatomy: Anatomy) -> Iterator[str]:
    """The places of an anatomy, as the files have them."""
    for p in anatomy.placed:
        where = p.place
        words = [where.component, where.layer, where.role, where.expert, where.part, *map(_matrix, _shown(p))]
        told = ["-" if word is None else str(word) for word in words]
        yield f"{p.tensor.name} {list(p.tensor.shape)} {' '.join(told)}"


def _shown(p: Placed) -> tuple[Matrix, ...]:
    # a stack's experts are alike: the first and the last stand for them
    if not p.is_stack:
        return p.matrices
    ends = {p.matrices[0].expert, p.matrices[-1].expert}
    return tuple(matrix for matrix in p.matrices if matrix.expert in ends)


def _matrix(matrix: Matrix) -> str:
    stacked = f"[{matrix.expert}]" if matrix.kind == "expert" else ""
    heads = matrix.heads
    division = f"={'^' * (heads.axis == 'in')}{heads.count}x{heads.dim}/{heads.queries}" if heads else ""
    return f"{'T' * matrix.turned}{matrix.role}{stacked}:{matrix.rows}x{matrix.cols}{division}"


def share(anatomy: Anatomy) -> float:
    """The share of parameters that have a role."""
    total = sum(p.tensor.parameters for p in anatomy.placed)
    return sum(p.tensor.parameters for p in anatomy.placed if p.place.role != OTHER) / total


def made(golden: Golden) -> tuple[Shapes, dict[str, Any]]:
    """Names and shapes that transformers gives the class, on the meta device unless saved, and the config it saves."""
    import torch
    import transformers

    cls = getattr(transformers, golden.cls)
    config = cls.config_class(**golden.settings)
    config.architectures = [golden.cls]
    with torch.device("cpu" if golden.how == "saved" else "meta"):
        model = cls(config)
    facts = json.loads(config.to_json_string(use_diff=True))
    del facts["transformers_version"]
    if golden.how == "saved":
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            return {tensor.name: tensor.shape for tensor in shards.open(folder).values()}, facts
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())  # saved once
    return {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied}, facts


def table() -> str:
    """By family, the architectures that have a file, and the least share of parameters that have a role."""
    found: dict[str, dict[str, float]] = {}
    for name in NAMES:
        file = read(name)
        anatomy = place_tensors(checkpoint(file.shapes, file.config))
        of_family = found.setdefault((anatomy.family or "").partition("+")[0], {})
        cls = file.cls.removesuffix("ForCausalLM")
        of_family[cls] = min(share(anatomy), of_family.get(cls, 1.0))
    rows = [f"| `{family}` | {', '.join(a)} | {100 * min(a.values()):g} % |" for family, a in sorted(found.items())]
    return "\n".join(["| family | architectures (…ForCausalLM unless named whole) | placed |", "|---|---|---|", *rows])


def main(names: list[str]) -> None:
    """Write the files of these architectures again, or print the table."""
    if names == ["table"]:
        print(table())
        return
    for name in names:
        golden = read(name)
        shapes, config = (golden.shapes, golden.config) if golden.how == "published" else made(golden)
        anatomy = place_tensors(checkpoint(shapes, config))
        head = [f"{golden.cls} {golden.how}".rstrip(), json.dumps(golden.settings), json.dumps(config)]
        (FOLDER / f"{name}.txt").write_text("\n".join([*head, *lines(anatomy)]) + "\n", "utf-8")
        print(f"{name}: {anatomy.family}, {share(anatomy):.2%} of the parameters have a role")


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
