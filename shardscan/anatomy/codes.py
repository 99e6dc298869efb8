"""NAME, its codes: which tensors hold codes, not weights, which describe those, and how many weights they are. Pure.

Statistics of codes would be statistics of something else than the weights, so they are never taken for weights. What
tells is, in this order: what a format of `quantised` has beside codes, whatever is shaped like their scales, a name
that only codes have, a config, an integer dtype. A float of 8 bits without any of these is a weight that was cast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from shardscan.anatomy.quantised import (
    ALWAYS,
    BESIDE_ANY_DTYPE,
    BLOCK_SCALES,
    BLOCKS,
    BUFFER,
    CACHE,
    CONFIGS,
    ENDINGS,
    JOINED,
    LAST_LETTERS,
    LAST_WORDS,
    SCALE,
    WEIGHT,
    ZERO,
    Format,
)
from shardscan.errors import shown
from shardscan.shards.address import Tensor
from shardscan.shards.dtypes import DTYPES

MOST_WORDS = 3  # of an ending
SECTIONS = 4  # levels of a config that are looked at
BITS = ("bits", "w_bit", "num_bits", "weight_bits", "wbits", "nbits")
OF_GROUPS = ("config_groups", "weights", "weight_config", "quantization_config")  # where a config has them further down


class Part(NamedTuple):
    """What the name of a tensor of a quantised module says: the module, and which part of it this is."""

    module: str
    part: str


class Codes(NamedTuple):
    """Why values are codes, and how many weights they are, None where that cannot be told."""

    why: str
    weights: int | None


class Quantisation:
    """What a checkpoint, and its config, say of quantised weights; asked for one tensor after the other."""

    def __init__(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> None:
        self._tensors, self._config = tensors, config

    # ---- parts

    def find_part(self, tensor: Tensor) -> Part | None:
        """The module of a tensor, and the part of it, that a format names; None of a tensor that none does."""
        name = tensor.name
        if name[name.rfind(".") + 1 :] not in LAST_WORDS and not name.endswith(LAST_LETTERS):
            return None
        for base, ending in _list_endings(name):
            if ending == WEIGHT:
                continue
            part = next((part for of, part in ENDINGS.get(ending, ()) if self._is_of(of, base, ending)), None)
            if part is None and ending in CACHE and tensor.parameters <= 1:
                part = BUFFER
            if part := part or ALWAYS.get(ending):
                return Part(base[:-1] or ending, part)
        for ending, part in JOINED.items():
            codes = name.removesuffix(ending)
            if name.endswith(ending) and (self._holds_codes(codes) or codes + BLOCKS in self._tensors):
                return Part(codes, part)
        return Part(name.removesuffix(BLOCKS), WEIGHT) if self._is_blocks(name) else None

    def _is_of(self, of: Format, base: str, ending: str) -> bool:
        """Whether the other tensors of a module are those of a format of which one ends so."""
        if ending in of.codes:
            return any(base + other in self._tensors for other in of.tells)
        return any(self._holds_codes(base + codes, of) for codes in of.codes)

    def _holds_codes(self, name: str, of: Format | None = None) -> bool:
        tensor = self._tensors.get(name)
        return tensor is not None and (
            _is_small(tensor) or (of is not None and (of.any_dtype or not name.endswith(WEIGHT)))
        )

    def _is_blocks(self, name: str) -> bool:
        return name.endswith(BLOCKS) and name.removesuffix(BLOCKS) + BLOCK_SCALES in self._tensors

    # ---- codes

    def find_codes(self, tensor: Tensor, part: str) -> Codes | None:
        """Whether a tensor's values are codes and no weights; None where they are what they look like."""
        if part in (SCALE, ZERO):
            is_packed = DTYPES[tensor.dtype].kind == "int"
            return Codes(f"{tensor.dtype} codes of a {part}", 0) if is_packed else None
        if part != WEIGHT or self._is_plain(tensor):
            return None
        if self._is_blocks(tensor.name):
            return Codes("MXFP4 blocks with scales beside them", 2 * tensor.nbytes)
        of, base, side = next(self._list_formats(tensor), (None, "", None))
        if of is None and _is_small(tensor):
            side = self._find_joined_scale(tensor.name) or self._find_shaped_scale(tensor)
        if side:
            return self._codes(tensor, f"{tensor.dtype} codes with {side} beside them", of, base)
        if not _is_small(tensor):
            return None
        ending = tensor.name.rpartition(".")[2]
        if ALWAYS.get(ending) == WEIGHT:
            return self._codes(tensor, f"codes ({ending}) until they can be dequantised")
        if self._stated is not None:
            why = f"{tensor.dtype} codes: the config says that weights are quantised, method {self._method}"
            return self._codes(tensor, why)
        if DTYPES[tensor.dtype].kind == "int":
            return Codes(f"{tensor.dtype} integers in the place of a weight", None)
        return None

    def _is_plain(self, tensor: Tensor) -> bool:
        """Whether a tensor is called weight, of no dtype of codes, and nothing beside it makes codes of any dtype."""
        base, _, last = tensor.name.rpartition(".")
        return (
            last == WEIGHT
            and not _is_small(tensor)
            and not any(f"{base}.{tell}" in self._tensors for tell in BESIDE_ANY_DTYPE)
        )

    def _list_formats(self, tensor: Tensor) -> Iterator[tuple[Format, str, str]]:
        """The formats that a tensor is the codes of, what the names of its module begin with, and what says so."""
        for base, ending in _list_endings(tensor.name):
            for of, _ in ENDINGS.get(ending, ()):
                if ending in of.codes and self._holds_codes(tensor.name, of):
                    yield from ((of, base, side) for side in of.tells if base + side in self._tensors)

    def _find_joined_scale(self, name: str) -> str | None:
        scales = (ending for ending, part in JOINED.items() if part == SCALE and name + ending in self._tensors)
        return next((ending.lstrip("_.") for ending in scales), None)

    def _find_shaped_scale(self, tensor: Tensor) -> str | None:
        """What lies beside a weight, is no bias, and is shaped as scales are: one, one a row, or one a block."""
        module, _, last = tensor.name.rpartition(".")
        if last != WEIGHT:
            return None
        for other in self._of_module.get(module, ()):
            name = other.name[len(module) + 1 :]
            if name not in (WEIGHT, "bias") and _is_scale_like(other, tensor.shape):
                return name
        return None

    @cached_property
    def _of_module(self) -> Mapping[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for tensor in self._tensors.values():
            found.setdefault(tensor.name.rpartition(".")[0], []).append(tensor)
        return found

    # ---- how many weights they are

    def _codes(self, tensor: Tensor, why: str, of: Format | None = None, base: str = "") -> Codes:
        return Codes(why, self._count(tensor, of, base))

    def _count(self, tensor: Tensor, of: Format | None, base: str) -> int | None:
        if DTYPES[tensor.dtype].kind == "float" and not (of and of.any_dtype):
            return tensor.parameters
        if of and of.per_byte is not None:
            return of.per_byte * tensor.nbytes or None
        if base + "weight_scale_2" in self._tensors or base + "weight_global_scale" in self._tensors:
            return 2 * tensor.nbytes  # NVFP4, two in a byte
        if tensor.name.endswith("qweight") and (count := self._count_by_shapes(tensor, base)):
            return count
        if tensor.dtype == "I8" and tensor.name.endswith(WEIGHT):
            return tensor.parameters
        bits = self._find_bits(base)
        return 8 * tensor.nbytes // bits if bits else None

    def _count_by_shapes(self, qweight: Tensor, base: str) -> int | None:
        """GPTQ packs the inputs, its zeros the outputs; AWQ packs the outputs of both: scales have them unpacked."""
        scales, zeros = (self._tensors.get(base + name) for name in ("scales", "qzeros"))
        if scales is None or any(t is not None and len(t.shape) != 2 for t in (qweight, scales, zeros)):
            return None
        outputs = scales.shape[1]
        if qweight.shape[1] != outputs:
            return qweight.shape[0] * outputs
        if zeros is None or not zeros.shape[1] or not outputs:
            return None
        word = DTYPES[qweight.dtype].bits
        return qweight.shape[0] * outputs * outputs // zeros.shape[1] if word == DTYPES[zeros.dtype].bits else None

    # ---- the config

    @cached_property
    def _stated(self) -> Mapping[str, Any] | None:
        """What the config, or a section of it, says of quantisation."""
        return _find_stated(self._config, SECTIONS)

    @cached_property
    def _method(self) -> str:
        stated = self._stated or {}
        words = (stated.get(key) for key in ("quant_method", "quant_algo", "mode"))
        return shown(next((str(word) for word in words if word is not None), "unsaid"))

    def _find_bits(self, base: str) -> int | None:
        """How many bits the config gives a weight of a module; None where it says nothing, or several things."""
        stated = self._stated
        if stated is None:
            return None
        own = stated.get(base[:-1])  # MLX has modules of their own there
        found = set(_list_bits(own if isinstance(own, dict) else stated, SECTIONS))
        return found.pop() if len(found) == 1 else None


def _list_endings(name: str) -> Iterator[tuple[str, str]]:
    """A name as what its last words are left of, and those words, the longest first."""
    at, cuts = len(name), []
    for _ in range(MOST_WORDS):
        at = name.rfind(".", 0, max(at, 0))
        cuts.append(at + 1)
        if at < 0:
            break
    return ((name[:cut], name[cut:]) for cut in reversed(cuts))


def _is_small(tensor: Tensor) -> bool:
    """Whether a dtype may be that of codes: a float of 8 bits, an integer, which may hold several."""
    dtype = DTYPES[tensor.dtype]
    return dtype.kind == "int" or (dtype.kind == "float" and dtype.bits <= 8)


def _is_scale_like(other: Tensor, shape: Sequence[int]) -> bool:
    dtype = DTYPES[other.dtype]
    if dtype.kind != "float" or (dtype.bits <= 8 and other.dtype != "F8_E8M0"):
        return False
    if other.parameters == 1:
        return True
    if len(other.shape) == 1:
        return len(shape) > 1 and other.shape[0] == shape[0] > 0
    if len(other.shape) != len(shape):
        return False
    # a grid: as many blocks as lie in each axis, the last of which may be cut short
    return 0 < other.parameters < math.prod(shape) and all(
        -(-n // -(-n // blocks)) == blocks for n, blocks in zip(shape, other.shape, strict=True)
    )


def _find_stated(config: Any, levels: int) -> Mapping[str, Any] | None:
    if not isinstance(config, dict) or levels == 0:
        return None
    own = next((found for key in CONFIGS if isinstance(found := config.get(key), dict)), None)
    return own or next(filter(None, (_find_stated(section, levels - 1) for section in config.values())), None)


def _list_bits(stated: Mapping[str, Any], levels: int) -> Iterator[int]:
    for key in BITS:
        if type(bits := stated.get(key)) is int and 0 < bits <= 8:
            yield bits
    if stated.get("load_in_4bit") is True:
        yield 4
    if levels:
        for key in OF_GROUPS:
            if isinstance(below := stated.get(key), dict):
                yield from _list_bits(below, levels - 1)
                if key == "config_groups":
                    for group in below.values():
                        if isinstance(group, dict):
                            yield from _list_bits(group, levels - 1)
