"""Small checkpoint pairs whose answers are known: an original, and what one way of pruning or training makes of it.

Every maker writes a folder with one safetensors shard and, where there is one, a config.json. Those that cut say what
they kept: by the name that a tensor has in both checkpoints, its rows and columns in the original.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import shardscan
from made import tiny
from shardscan.catalog import build as catalog
from shardscan.jobs.scan.job import rebuild_catalog

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]
LAYER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")
EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Kept:
    """Which rows and columns of an original's tensor a pruned one has, ascending; None where the axis is not cut."""

    rows: Array | None = None
    cols: Array | None = None


Cut = dict[str, Kept]
FUSED = (("q_proj", ("k_proj", "v_proj"), "qkv_proj"), ("gate_proj", ("up_proj",), "gate_up_proj"))  # by Phi-3


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers that the shapes of a Llama follow from."""

    hidden: int = 64
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 8
    intermediate: int = 96
    vocab: int = 160

    @property
    def queries(self) -> int:
        """Query heads of each KV head."""
        return self.heads // self.kv_heads

    @classmethod
    def of(cls, folder: Path) -> Sizes:
        """Those of a checkpoint of ours, by its config.json."""
        config = config_of(folder)
        words = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
        return cls(*(config[word] for word in (*words, "vocab_size")))

    def config(self, layers: int, **more: object) -> dict[str, object]:
        """What config.json says."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "num_hidden_layers": layers,
            "tie_word_embeddings": False,
            **more,
        }

    def attention(self, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of the tensors of a layer that an MLP or experts complete."""
        at, q, kv = f"model.layers.{layer}.", self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield f"{at}input_layernorm.weight", (self.hidden,)
        yield f"{at}self_attn.q_proj.weight", (q, self.hidden)
        yield f"{at}self_attn.k_proj.weight", (kv, self.hidden)
        yield f"{at}self_attn.v_proj.weight", (kv, self.hidden)
        yield f"{at}self_attn.o_proj.weight", (self.hidden, q)
        yield f"{at}post_attention_layernorm.weight", (self.hidden,)

    def mlp(self, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of its MLP."""
        at = f"model.layers.{layer}.mlp."
        yield f"{at}gate_proj.weight", (self.intermediate, self.hidden)
        yield f"{at}up_proj.weight", (self.intermediate, self.hidden)
        yield f"{at}down_proj.weight", (self.hidden, self.intermediate)

    def outside(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of what is in no layer."""
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocab, self.hidden)


# ---- originals


def llama(
    folder: Path,
    *,
    layers: int = 32,
    seed: int = 0,
    dtype: Any = ml_dtypes.bfloat16,
    tied: bool = False,
    **sizes: int,
) -> Path:
    """A Llama of random values, whose `sizes` are those of `Sizes`; one that is `tied` has no lm_head."""
    of = Sizes(**sizes)
    shapes = [*of.outside(), *(tensor for i in range(layers) for tensor in (*of.attention(i), *of.mlp(i)))]
    weights = _random([(name, shape) for name, shape in shapes if not (tied and name == "lm_head.weight")], seed, dtype)
    return save(folder, weights, of.config(layers, tie_word_embeddings=tied))


def mixtral(folder: Path, *, layers: int = 2, experts: int = 8, stacked: bool = False, seed: int = 0) -> Path:
    """A mixture of experts, each with tensors of its own as files have them, or all in one stack."""
    of = Sizes(hidden=32, heads=4, kv_heads=2, intermediate=24, vocab=40)
    shapes = list(of.outside())
    for i in range(layers):
        at = f"model.layers.{i}.{'mlp' if stacked else 'block_sparse_moe'}."
        shapes += [*of.attention(i), (f"{at}gate.weight", (experts, of.hidden))]
        if stacked:
            shapes += [(f"{at}experts.gate_up_proj", (experts, 2 * of.intermediate, of.hidden))]
            shapes += [(f"{at}experts.down_proj", (experts, of.hidden, of.intermediate))]
        for e in range(0 if stacked else experts):
            shapes += [(f"{at}experts.{e}.{w}.weight", (of.intermediate, of.hidden)) for w in ("w1", "w3")]
            shapes += [(f"{at}experts.{e}.w2.weight", (of.hidden, of.intermediate))]
    config = of.config(layers, architectures=["MixtralForCausalLM"], model_type="mixtral", num_local_experts=experts)
    return save(folder, _random(shapes, seed, ml_dtypes.bfloat16), config)


def _random(shapes: Iterable[tuple[str, tuple[int, ...]]], seed: int, dtype: Any) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(1, 0.1, shape) if len(shape) == 1 else rng.normal(0, 0.02, shape)).astype(dtype)
        for name, shape in shapes
    }


# ---- structured pruning


def llm_pruner(
    src: Path,
    dst: Path,
    *,
    layers: Iterable[int] = range(3, 30),
    kv_groups: int = 3,
    channels: int = 72,
    config: bool = True,
    seed: int = 1,
) -> Cut:
    """As LLM-Pruner leaves a Llama: whole KV groups and MLP channels are gone from `layers`, others in each of them.

    `kv_groups` and `channels` are how many stay. config.json is the original's, as LLM-Pruner copies it, or not there.
    """
    of, rng = Sizes.of(src), np.random.default_rng(seed)
    kept: Cut = {}
    for layer in layers:
        kept |= heads_cut(of, layer, some(rng, of.kv_heads, kv_groups))
        kept |= channels_cut(layer, some(rng, of.intermediate, channels))
    write_cut(src, dst, kept, config_of(src) if config else None)
    return kept


def some(rng: np.random.Generator, count: int, kept: int) -> Array:
    """`kept` of `count` numbers, ascending."""
    return np.sort(rng.choice(count, kept, replace=False))


def heads_cut(of: Sizes, layer: int, groups: Array) -> Cut:
    """The KV heads `groups` of a layer stay, with their query heads."""
    at = f"model.layers.{layer}.self_attn."
    queries = (groups[:, None] * of.queries + np.arange(of.queries)).ravel()
    q, kv = (((h[:, None] * of.head_dim) + np.arange(of.head_dim)).ravel() for h in (queries, groups))
    return {
        f"{at}q_proj.weight": Kept(rows=q),
        f"{at}k_proj.weight": Kept(rows=kv),
        f"{at}v_proj.weight": Kept(rows=kv),
        f"{at}o_proj.weight": Kept(cols=q),
    }


def channels_cut(layer: int, channels: Array) -> Cut:
    """The MLP channels of a layer that stay."""
    at = f"model.layers.{layer}.mlp."
    outputs = {f"{at}{role}.weight": Kept(rows=channels) for role in ("gate_proj", "up_proj")}
    return {**outputs, f"{at}down_proj.weight": Kept(cols=channels)}


def hidden_pruned(src: Path, dst: Path, *, hidden: int = 48, channels: int | None = None, seed: int = 2) -> Cut:
    """The residual stream is narrower in every tensor, and with `channels` so is every MLP; the config says so."""
    of, rng = Sizes.of(src), np.random.default_rng(seed)
    stream, config = some(rng, of.hidden, hidden), config_of(src) | {"hidden_size": hidden}
    inner: Cut = {}
    if channels is not None:
        config["intermediate_size"] = channels
        for layer in range(config["num_hidden_layers"]):
            inner |= channels_cut(layer, some(rng, of.intermediate, channels))
    kept = {}
    for name in load(src):
        own = inner.get(name, Kept())
        writes = name.endswith(("norm.weight", "o_proj.weight", "down_proj.weight"))
        kept[name] = Kept(stream if writes else own.rows, own.cols if writes else stream)
    write_cut(src, dst, kept, config)
    return kept


def experts_pruned(src: Path, dst: Path, *, kept: int = 5, seed: int = 3) -> dict[int, list[int]]:
    """Whole experts are gone, others in each layer, and those that stay are renumbered; by layer, which they are."""
    rng, config, found = np.random.default_rng(seed), config_of(src), {}
    for layer in range(config["num_hidden_layers"]):
        found[layer] = some(rng, config["num_local_experts"], kept).tolist()
    weights = {}
    for name, w in load(src).items():
        layer_of, expert = LAYER.search(name), EXPERT.search(name)
        stay = found[int(layer_of[0])] if layer_of else []
        if name.endswith((".gate.weight", ".experts.gate_up_proj", ".experts.down_proj")):
            weights[name] = w[stay]
        elif expert is None:
            weights[name] = w
        elif int(expert[0]) in stay:
            weights[EXPERT.sub(str(stay.index(int(expert[0]))), name)] = w
    save(dst, weights, config | {"num_local_experts": kept})
    return found


def layers_dropped(src: Path, dst: Path, dropped: Sequence[int]) -> list[int]:
    """Whole layers are gone, and those that stay are renumbered; which they are."""
    config = config_of(src)
    kept = [layer for layer in range(config["num_hidden_layers"]) if layer not in dropped]
    weights = {}
    for name, w in load(src).items():
        layer = LAYER.search(name)
        if layer is None or int(layer[0]) in kept:
            weights[LAYER.sub(lambda found: str(kept.index(int(found[0]))), name)] = w
    save(dst, weights, config | {"num_hidden_layers": len(kept)})
    return kept


IMPOSSIBLE = ("head_dim", "kv_groups", "o_proj", "v_proj", "gate", "down", "residual")


def impossible(src: Path, dst: Path, what: str, layer: int = 1) -> Path:
    """Shapes that no model can run with, in one layer: a width that is no multiple of head_dim, as a reported 3432; 7
    query heads of 4 KV heads; o_proj, v_proj, gate, down or the residual stream that do not match what they meet."""
    of, at = Sizes.of(src), f"model.layers.{layer}."
    q, kv = of.heads * of.head_dim, of.kv_heads * of.head_dim
    attention, mlp = f"{at}self_attn.", f"{at}mlp."

    def queries(width: int) -> Cut:
        first = np.arange(width)
        return {f"{attention}q_proj.weight": Kept(rows=first), f"{attention}o_proj.weight": Kept(cols=first)}

    kept: Cut = {
        "head_dim": queries(q - 3),
        "kv_groups": queries(q - of.head_dim),
        "o_proj": {f"{attention}o_proj.weight": Kept(cols=np.arange(q - 2 * of.head_dim))},
        "v_proj": {f"{attention}v_proj.weight": Kept(rows=np.arange(kv - of.head_dim))},
        "gate": {f"{mlp}gate_proj.weight": Kept(rows=np.arange(of.intermediate - 8))},
        "down": {f"{mlp}down_proj.weight": Kept(cols=np.arange(of.intermediate - 8))},
        "residual": {f"{attention}q_proj.weight": Kept(cols=np.arange(of.hidden - 8))},
    }[what]
    return write_cut(src, dst, kept, config_of(src))


# ---- what keeps shapes


def fine_tuned(src: Path, dst: Path, seed: int = 4) -> Path:
    """Every value that is not zero has moved by 3 %, up or down: no row and no column is what it was."""
    rng = np.random.default_rng(seed)

    def moved(w: Array) -> Array:
        found: Array = w.astype(np.float32) * (1 + 0.03 * rng.choice([-1, 1], w.shape))
        return found.astype(w.dtype)

    return rewritten(src, dst, lambda _, w: moved(w))


def masked(src: Path, dst: Path, names: Callable[[str], bool], *, share: float | None = None) -> dict[str, int]:
    """Unstructured pruning of the matrices that `names` takes; how many values of each are zero then.

    Of each row the `share` of smallest magnitude; by default two of each aligned group of four (2:4).
    """
    found: dict[str, int] = {}

    def mask(name: str, w: Array) -> Array:
        if w.ndim != 2 or not names(name):
            return w
        groups = np.abs(w.astype(np.float32)).reshape(w.shape[0], -1, w.shape[1] if share else 4)
        below = round(groups.shape[2] * (share or 0.5))
        order = np.argsort(groups, axis=2, kind="stable")
        keep = np.ones(groups.shape, bool)
        np.put_along_axis(keep, order[:, :, :below], False, axis=2)
        zeroed = np.where(keep.reshape(w.shape), w, np.zeros((), w.dtype))
        found[name] = int((zeroed == 0).sum())
        return zeroed

    rewritten(src, dst, mask)
    return found


def renamed(src: Path, dst: Path, prefix: str) -> Path:
    """Every name begins with what a wrapper puts before it, such as module."""
    return save(dst, {f"{prefix}{name}": w for name, w in load(src).items()}, config_of(src))


def fused(src: Path, dst: Path) -> Path:
    """The same Llama as Phi-3 stores it: q, k and v in one tensor, gate and up in another."""
    weights = load(src)
    for first, others, whole in FUSED:
        for name in [name for name in weights if first in name]:
            parts = [weights.pop(name.replace(first, role)) for role in (first, *others)]
            weights[name.replace(first, whole)] = np.concatenate(parts)
    return save(dst, weights, config_of(src) | {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"})


def recast(src: Path, dst: Path, dtype: Any) -> Path:
    """The same values in another dtype."""
    return rewritten(src, dst, lambda _, w: w.astype(dtype))


STEPS = (1000, 2000, 16000, 143000)


def series(folder: Path, *, layers: int = 2, steps: Sequence[int] = STEPS) -> dict[int, Path]:
    """One training run at several steps, as Pythia's are named: at step s every value is start + s / 143000 · drift.

    `start` and `drift` are the values of seeds 0 and 1, in float32.
    """
    start, drift = (_ends(folder / end, layers, seed) for seed, end in enumerate((".start", ".drift")))
    found = {}
    for step in steps:
        weights = {name: start[name] + np.float32(step / STEPS[-1]) * drift[name] for name in start}
        found[step] = save(folder / f"tiny-step{step}", weights, config_of(folder / ".start"))
    return found


def _ends(folder: Path, layers: int, seed: int) -> Weights:
    return load(llama(folder, layers=layers, seed=seed, dtype=np.float32))


# ---- folders


def load(folder: Path) -> Weights:
    """Every tensor of a checkpoint of ours, by its name."""
    found: Weights = load_file(folder / "model.safetensors")
    return found


def save(folder: Path, weights: Mapping[str, Array], config: Mapping[str, Any] | None) -> Path:
    """One shard of these tensors; copied first, because what is cut out of an array lies in memory as it pleases."""
    whole = {name: np.ascontiguousarray(w) for name, w in weights.items()}
    return tiny.write(folder, whole, None if config is None else dict(config))


def config_of(folder: Path) -> dict[str, Any]:
    """What its config.json says."""
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def scan_all(folders: Iterable[Path], store: Path) -> Path:
    """A store with the scans of these checkpoints, whose catalog is built once, when they are all there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "build", lambda folder: folder)
        for folder in folders:
            shardscan.ingest(folder, store, spectra="none")
    rebuild_catalog(store)
    return store


def write_cut(src: Path, dst: Path, kept: Mapping[str, Kept], config: Mapping[str, Any] | None) -> Path:
    """The rows and columns of `src` that are kept, as a checkpoint of its own."""

    def of(name: str, w: Array) -> Array:
        own = kept.get(name, Kept())
        w = w if own.rows is None else w[own.rows]
        return w if own.cols is None else w[:, own.cols]

    return save(dst, {name: of(name, w) for name, w in load(src).items()}, config)


def rewritten(src: Path, dst: Path, change: Callable[[str, Array], Array]) -> Path:
    """The same checkpoint with other values, which `change` makes of each name and tensor."""
    return save(dst, {name: change(name, w) for name, w in load(src).items()}, config_of(src))
