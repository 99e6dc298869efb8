"""What survives in pairs that are made here: by what they were made of, or by their values and nothing else.

`shallow` has one layer, `whole` three; what was made of either says in its name how.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import shardscan
from made import golden, pruning
from made.pruning import Array, Cut, Kept, Weights, load, scan_all

LAYERS, TOUCHED = 3, (1, 2)
PREFIXES = ("module._orig_mod.", "base_model.model.")
ATTENTION = "model.layers.0.self_attn."
UP, DOWN = (f"model.layers.0.mlp.{role}.weight" for role in ("up_proj", "down_proj"))
C_FC, C_PROJ = (f"transformer.h.0.mlp.{name}.weight" for name in ("c_fc", "c_proj"))
CHANGED = 30  # the row of `touched` that is not what it was

Row = dict[str, Any]
Channel = tuple[int | None, int | None, str]  # of a, of b, status
Axis = tuple[str, str]  # weight of a, 'out' or 'in'


# ---- the reference


def matched(a: Array, b: Array) -> list[Channel]:
    """What became of the rows of a, by value: the k-th copy of a row in b is the k-th copy of it in a."""
    places: dict[bytes, deque[int]] = defaultdict(deque)
    for i, row in enumerate(_bytes_of(a)):
        places[row].append(i)
    kept = {places[row].popleft(): j for j, row in enumerate(_bytes_of(b)) if places[row]}
    found: list[Channel] = [(i, kept.get(i), "kept" if i in kept else "dropped") for i in range(len(a))]
    return found + [(None, j, "added") for j in range(len(b)) if j not in kept.values()]


def _bytes_of(rows: Array) -> list[bytes]:
    """Bytes that are equal where values are: −0 is 0, and any NaN is another."""
    single = rows.astype(np.float32) + np.float32(0)
    single[np.isnan(single)] = np.nan
    return [row.tobytes() for row in single]


def kept_of(length: int, kept: Array | None) -> list[Channel]:
    """What became of so many channels of which these are kept; None for all of them."""
    places = {int(i): j for j, i in enumerate(np.arange(length) if kept is None else kept)}
    return [(i, places.get(i), "kept" if i in places else "dropped") for i in range(length)]


def by_axis(rows: Iterable[Row]) -> dict[Axis, list[Row]]:
    """Rows by matrix and axis, channels of a in their order, then those of b that are none of a's."""
    found: dict[Axis, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["weight_a"] or row["weight_b"], row["axis"]].append(row)
    last = 1 << 31
    for of_axis in found.values():
        of_axis.sort(key=lambda row: tuple(last if row[c] is None else row[c] for c in ("channel_a", "channel_b")))
    return dict(found)


def channels(rows: Iterable[Row]) -> dict[Axis, list[Channel]]:
    return {
        axis: [(row["channel_a"], row["channel_b"], row["status"]) for row in found]
        for axis, found in by_axis(rows).items()
    }


# ---- the pairs


@dataclass(frozen=True)
class Made:
    """One store with every pair; `cuts` are by the pruned model's name, and so are the experts that stay in a layer."""

    store: Path
    folder: Path
    cuts: dict[str, Cut]
    experts: dict[str, dict[int, list[int]]]

    def weights(self, model: str) -> Weights:
        """Every tensor of a model."""
        return load(self.folder / model)

    def ask(self, macro: str, a: str, b: str) -> list[Row]:
        """The rows of a table macro of two models."""
        with shardscan.connect(self.store) as db:
            found: list[Row] = db.sql(f"FROM {macro}('{a}', '{b}') ORDER BY ALL").to_arrow_table().to_pylist()
        assert all((row["model_a"], row["model_b"]) == (a, b) for row in found)
        return found

    def channels(self, a: str, b: str) -> dict[Axis, list[Channel]]:
        """What became of every channel, as it is answered."""
        return channels(self.ask("surviving_channels", a, b))

    def expected(self, a: str, b: str) -> dict[Axis, list[Channel]]:
        """What became of every channel of every matrix, as b was made."""
        found = {}
        for name, w in self.weights(a).items():
            if w.ndim == 2:
                own = self.cuts[b].get(name, Kept())
                found[name, "out"], found[name, "in"] = kept_of(len(w), own.rows), kept_of(w.shape[1], own.cols)
        return found


def make(folder: Path) -> Made:
    """Every pair, and the store in which they are scanned."""
    cuts, experts = _deep(folder) | _narrow(folder) | _turned(folder), _experts(folder)
    _values(folder)
    return Made(scan_all(sorted(folder.iterdir()), folder / "scans"), folder, cuts, experts)


def _deep(folder: Path) -> dict[str, Cut]:
    """What LLM-Pruner leaves, with and without a config, and what wrappers, Phi-3 and training make of that."""
    whole = pruning.llama(folder / "whole", layers=LAYERS, hidden=48)
    cuts = {"pruned": pruning.llm_pruner(whole, folder / "pruned", layers=TOUCHED)}
    pruning.fused(folder / "pruned", folder / "fused")
    shallow = pruning.llama(folder / "shallow", layers=1, hidden=48)
    cuts["shallow-pruned"] = pruning.llm_pruner(shallow, folder / "shallow-pruned", layers=[0])
    cuts["bare"] = pruning.llm_pruner(shallow, folder / "bare", layers=[0], config=False)
    single = pruning.recast(folder / "shallow-pruned", folder.with_name("single"), np.float32)
    for prefix in PREFIXES:
        pruning.renamed(single, folder / f"{prefix}pruned", prefix)
    pruning.fine_tuned(folder / "shallow-pruned", folder / "shallow-pruned-tuned")
    return {**cuts, "fused": cuts["pruned"]}


def _narrow(folder: Path) -> dict[str, Cut]:
    """Narrower residual streams, one with narrower MLPs too and no lm_head; and that one, trained since."""
    cuts = {"narrow": pruning.hidden_pruned(folder / "shallow", folder / "narrow", hidden=32)}
    tied = pruning.llama(folder / "tied", layers=1, hidden=48, tied=True)
    cuts["narrower"] = pruning.hidden_pruned(tied, folder / "narrower", hidden=32, channels=60)
    pruning.fine_tuned(folder / "narrower", folder / "narrower-tuned")
    return cuts


def _turned(folder: Path) -> dict[str, Cut]:
    """GPT-2, whose weights are stored inputs × outputs, and its MLP with half of its channels."""
    file, rng = golden.read("gpt2"), np.random.default_rng(5)
    shapes = {name: shape for name, shape in file.shapes.items() if ".h.1." not in name}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    gpt2 = pruning.save(folder / "gpt2", weights, file.config)
    kept = pruning.some(rng, weights[C_FC].shape[1], weights[C_FC].shape[1] // 2)
    cut = {C_FC.replace("weight", "bias"): Kept(rows=kept), C_FC: Kept(cols=kept), C_PROJ: Kept(rows=kept)}
    pruning.write_cut(gpt2, folder / "gpt2-pruned", cut, file.config)
    return {"gpt2-pruned": cut}


def _experts(folder: Path) -> dict[str, dict[int, list[int]]]:
    """Mixtures that lost experts, each with tensors of its own and in one stack; and one that was trained since."""
    kept = {}
    for name, stacked in (("moe", False), ("stack", True)):
        moe = pruning.mixtral(folder / name, stacked=stacked)
        kept[f"{name}-pruned"] = pruning.experts_pruned(moe, folder / f"{name}-pruned")
    pruning.fine_tuned(folder / "moe-pruned", folder / "moe-tuned")
    return kept


def _values(folder: Path) -> None:
    """Channels that are equal, new, changed, in another order, or gone without regard to heads."""
    config = pruning.config_of(folder / "shallow")
    repeated, odd, rng = load(folder / "shallow"), load(folder / "shallow"), np.random.default_rng(9)
    up, head = repeated[UP], odd["lm_head.weight"]
    up[[3, 10, 50, 51]], up[20], up[70, 4] = 0, up[5], np.nan
    pruning.save(folder / "repeated", repeated, config)
    fewer = np.delete(up, [2, 20, 50, 90], axis=0)
    pruning.save(folder / "repeated-pruned", repeated | {UP: np.where(fewer == 0, -fewer, fewer)}, config)
    new, gone = rng.normal(0, 0.02, (2, 48)).astype(head.dtype), [9, 10, 11, *range(40, 48)]
    odd["lm_head.weight"] = np.insert(head, 100, new, axis=0)
    for role, axis in (("q_proj", 0), ("o_proj", 1)):
        odd[f"{ATTENTION}{role}.weight"] = np.delete(odd[f"{ATTENTION}{role}.weight"], gone, axis)
    odd[DOWN] = odd[DOWN][:, ::-1]
    pruning.save(folder / "odd", odd, config)
    touched = load(folder / "shallow-pruned")
    touched[UP][CHANGED] *= 2
    pruning.save(folder / "touched", touched, config)
