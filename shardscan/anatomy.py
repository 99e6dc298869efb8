"""NAME: every tensor gets a Place (component, layer, role, expert, part) and, if it is a weight, a Matrix.

Pure: header facts and config in, frozen values out. What no family names keeps the layer number found in its name and
the role `other`; nothing is dropped. Statistics of quantised codes would be statistics of something else than the
weights, so codes are recognised here and marked.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardscan.dtypes import DTYPES
from shardscan.errors import shown
from shardscan.families import CONFIG_WORDS, NUMBER, Family, Rule, families
from shardscan.shards.address import Checkpoint, Tensor

OTHER = "other"
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")
# input_scale scales activations: as a second scale of one module it would be a rival of weight_scale
PARTS = {
    "weight": "weight", "bias": "bias", "qweight": "weight", "weight_packed": "weight",
    "weight_scale": "scale", "weight_scale_inv": "scale", "scales": "scale", "SCB": "scale",
    "qzeros": "zero", "weight_zero_point": "zero", "biases": "zero", "g_idx": "index", "weight_g_idx": "index",
    "inv_freq": "buffer", "position_ids": "buffer", "masked_bias": "buffer", "input_scale": "buffer",
    "weight_shape": "buffer",
}  # fmt: skip
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(\.[^.]+)?\.weight")
CODE_ENDINGS = ("qweight", "qzeros", "weight_packed", "weight_zero_point")
BLOCKS, BLOCK_SCALES = "_blocks", "_scales"
SCALES_OF_WEIGHT = ("weight_scale", "weight_scale_inv", "SCB", "scales")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor sits in its model; `layer` and `expert` are None only where there is none."""

    component: str
    layer: int | None
    role: str
    expert: int | None
    part: str


@dataclass(frozen=True, slots=True)
class Heads:
    """How heads divide a matrix: `count` heads of `dim` along rows ('out') or columns ('in').

    `queries` is how many query heads each of them serves; None where neither the layer's q_proj nor the config tells.
    """

    axis: str
    count: int
    dim: int
    queries: int | None

    def slice_shape(self, rows: int, cols: int) -> tuple[int, int]:
        """Rows and columns of one head's slice of a (rows, cols) matrix."""
        return (self.dim, cols) if self.axis == "out" else (rows, self.dim)

    def rank(self, rows: int, cols: int) -> int:
        """Singular values of one head's slice of a (rows, cols) matrix."""
        return min(self.slice_shape(rows, cols))


@dataclass(frozen=True, slots=True)
class Matrix:
    """A logical 2-D weight; `folded` where an n-D tensor is seen as first axis × the rest."""

    id: str
    kind: str
    rows: int
    cols: int
    heads: Heads | None


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor with its place; `codes` is why its values are codes and not weights, `reason` what is odd about it."""

    tensor: Tensor
    canonical_name: str
    place: Place
    matrix: Matrix | None
    codes: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Anatomy:
    """Every tensor of a checkpoint, placed; `sizes` are the config's, by the words of families.CONFIG_WORDS."""

    family: str | None
    sizes: Mapping[str, int | None]
    placed: tuple[Placed, ...]


def place(checkpoint: Checkpoint) -> Anatomy:
    """Place every tensor; what is odd about one, such as a shape that heads do not divide, is its `reason`."""
    config = checkpoint.config or {}
    family = _choose(checkpoint, config)
    sizes = _sizes(family, config)
    placed = [_place(tensor, checkpoint, family, config) for tensor in checkpoint.tensors.values()]
    placed = _without_rivals(placed)
    return Anatomy(family.name if family else None, sizes, tuple(_with_matrices(placed, family, sizes)))


def canonical(name: str) -> str:
    """The name without the prefixes that wrappers (DataParallel, torch.compile, PEFT) put before it."""
    while wrapper := next((w for w in WRAPPERS if name.startswith(w)), None):
        name = name.removeprefix(wrapper)
    return name


def _choose(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Family | None:
    """By the architecture in the config; else the family whose rules name most tensors, if they name half of them."""
    architectures = config.get("architectures")
    wanted = {a for a in architectures if isinstance(a, str)} if isinstance(architectures, list) else set()
    for family in families().values():
        if wanted & set(family.architectures):
            return family
    named = {
        family.name: sum(family.match(_split(tensor)[0]) is not None for tensor in checkpoint.tensors.values())
        for family in families().values()
    }
    best = max(named, key=lambda name: named[name])
    return families()[best] if named[best] * 2 >= max(1, len(checkpoint)) else None


def _sizes(family: Family | None, config: Mapping[str, Any]) -> dict[str, int | None]:
    """The config's numbers; a missing head_dim is hidden_size / heads, as the models' own code has it."""
    nested = config.get("text_config")
    places = [config, nested if isinstance(nested, dict) else {}]
    sizes: dict[str, int | None] = dict.fromkeys(CONFIG_WORDS)
    for word, keys in (family.config if family else {}).items():
        found = (where[key] for key in keys for where in places if type(where.get(key)) is int)
        sizes[word] = next((n for n in found if 0 < n < 2**31), None)
    hidden, heads = sizes["hidden_size"], sizes["heads"]
    if sizes["head_dim"] is None and hidden and heads and hidden % heads == 0:
        sizes["head_dim"] = hidden // heads
    return sizes


def _split(tensor: Tensor) -> tuple[str, str]:
    """Module name and part: the last word of the name if it is a part's, else what the values look like."""
    name = canonical(tensor.name)
    if lora := LORA.fullmatch(name):
        return lora["module"], f"lora_{lora['factor'].lower()}"
    module, _, last = name.rpartition(".")
    if module and last in PARTS:
        return module.removesuffix(".base_layer"), PARTS[last]
    for ending, part in ((BLOCKS, "weight"), (BLOCK_SCALES, "scale")):
        if name.endswith(ending):
            return name.removesuffix(ending), part
    return name, "weight" if DTYPES[tensor.dtype].kind in ("float", "complex") else "buffer"


def _place(tensor: Tensor, checkpoint: Checkpoint, family: Family | None, config: Mapping[str, Any]) -> Placed:
    module, part = _split(tensor)
    name = canonical(tensor.name)
    found = family and (family.match(module) or family.match(name))
    if found:
        rule, layer = found
        where = Place(rule.component, layer, rule.role, None, part)
    else:
        number = NUMBER.search(name)
        where = Place(OTHER, int(number[0]) if number else None, OTHER, None, part)
    reason = "statistics are of the moduli" if DTYPES[tensor.dtype].kind == "complex" else None
    return Placed(tensor, name, where, None, _codes(tensor, checkpoint, part, config), reason)


def _codes(tensor: Tensor, checkpoint: Checkpoint, part: str, config: Mapping[str, Any]) -> str | None:
    """Why the values are quantised codes, or None; by the names beside it, by the config, by an integer dtype."""
    module, _, last = tensor.name.rpartition(".")
    dtype = DTYPES[tensor.dtype]
    if last in CODE_ENDINGS:
        return f"codes ({last}) until they can be dequantised"
    if tensor.name.endswith(BLOCKS) and tensor.name.removesuffix(BLOCKS) + BLOCK_SCALES in checkpoint:
        return "MXFP4 blocks with scales beside them"
    # a float of 16 bits or more is a weight; an integer of any width may be several codes in one
    if part != "weight" or dtype.kind == "bool" or (dtype.kind != "int" and dtype.bits > 8):
        return None
    scale = next((s for s in SCALES_OF_WEIGHT if f"{module}.{s}" in checkpoint), None)
    if scale:
        return f"{tensor.dtype} codes with {scale} beside them"
    quantisation = config.get("quantization_config")
    if isinstance(quantisation, dict):
        method = shown(str(quantisation.get("quant_method")))
        return f"{tensor.dtype} codes: config.json has a quantization_config, method {method}"
    return f"{tensor.dtype} integers in the place of a weight" if dtype.kind == "int" else None


def _without_rivals(placed: list[Placed]) -> list[Placed]:
    """Tensors that claim one place are all `other`: which of them the model uses cannot be told from names."""
    claims = Counter(p.place for p in placed if p.place.role != OTHER)
    return [_demoted(p, claims[p.place]) if claims[p.place] > 1 else p for p in placed]


def _demoted(p: Placed, rivals: int) -> Placed:
    layer = "" if p.place.layer is None else f" of layer {p.place.layer}"
    reason = f"{rivals} tensors claim to be the {p.place.part} of {p.place.role}{layer}"
    return dataclasses.replace(p, place=dataclasses.replace(p.place, role=OTHER), reason=reason)


def _with_matrices(placed: list[Placed], family: Family | None, sizes: Mapping[str, int | None]) -> list[Placed]:
    queries = {
        (p.place.component, p.place.layer): p.tensor.shape[0]
        for p in placed
        if p.place.role == "q_proj" and p.place.part == "weight" and len(p.tensor.shape) == 2 and not p.codes
    }
    return [
        _with_matrix(p, family, sizes, queries.get((p.place.component, p.place.layer))) if _is_matrix(p) else p
        for p in placed
    ]


def _is_matrix(p: Placed) -> bool:
    # a header may claim billions of channels for a weight that has no values
    return p.place.part == "weight" and len(p.tensor.shape) >= 2 and p.tensor.parameters > 0 and not p.codes


def _with_matrix(p: Placed, family: Family | None, sizes: Mapping[str, int | None], query_rows: int | None) -> Placed:
    rows, cols = p.tensor.shape[0], math.prod(p.tensor.shape[1:])
    folded = len(p.tensor.shape) > 2
    rule = None if folded or family is None or p.place.role == OTHER else _rule(family, p)
    heads, reason = None, None
    if rule and rule.axis and family:
        heads, reason = _heads(p, rule, family, sizes, query_rows)
    matrix = Matrix(p.tensor.name, "folded" if folded else "whole", rows, cols, heads)
    return dataclasses.replace(p, matrix=matrix, reason=reason or p.reason)


def _rule(family: Family, p: Placed) -> Rule | None:
    found = family.match(_split(p.tensor)[0])
    return found[0] if found else None


def _heads(
    p: Placed, rule: Rule, family: Family, sizes: Mapping[str, int | None], query_rows: int | None
) -> tuple[Heads | None, str | None]:
    """The heads of an attention weight: as many as its shape holds; a pruned layer has fewer than the config says."""
    dim, stated = sizes["head_dim"], sizes[rule.count or "heads"]
    if dim is None:
        return None, "heads unknown: no config.json says how large they are"
    length = p.tensor.shape[0] if rule.axis == "out" else p.tensor.shape[1]
    if length % dim:
        side = "rows" if rule.axis == "out" else "columns"
        return None, f"{length} {side}, which family {family.name} cannot split into heads of {dim}"
    count = length // dim
    reason = None
    if stated and stated != count:
        reason = f"{count} {'head' if count == 1 else 'heads'} where config.json says {stated}"
    queries = _queries(sizes, count, dim, query_rows) if rule.count == "kv_heads" else 1
    return Heads(rule.axis or "out", count, dim, queries), reason


def _queries(sizes: Mapping[str, int | None], count: int, dim: int, query_rows: int | None) -> int | None:
    """Query heads for each of `count` KV heads: by the layer's q_proj, and by the config where it is not there."""
    if query_rows is not None:
        return query_rows // (dim * count) if query_rows % (dim * count) == 0 else None
    heads, kv_heads = sizes["heads"], sizes["kv_heads"]
    return heads // kv_heads if heads and kv_heads and heads % kv_heads == 0 else None
