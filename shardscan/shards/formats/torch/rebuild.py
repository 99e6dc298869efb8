"""OPEN, tensors of a PyTorch pickle: the functions that it names, as what they would give and not as what they do.

Promises: a tensor that comes back lies within its storage; its sizes, strides and offset are whole numbers from 0 on;
its values are those that are stored (a lazy conjugate or negation is refused, since it would change them).

Source: torch/_utils.py and torch/_tensor.py of PyTorch 2.13, functions of the same names.
"""

from __future__ import annotations

import math
from typing import Any

from shardscan.errors import shown
from shardscan.shards.dtypes import DTYPES, MAX_DIMENSIONS
from shardscan.shards.formats.torch.globals import (
    DTYPES_BY_NAME,
    FROM_TYPE,
    PARAMETER,
    PARAMETER_WITH_STATE,
    REBUILT,
    STORAGE_CLASSES,
    TENSORS,
)
from shardscan.shards.formats.torch.values import Global, Storage, Strided, kind

TENSOR, _, TENSOR_V3 = REBUILT
FUNCTIONS = frozenset({*REBUILT, PARAMETER, PARAMETER_WITH_STATE, FROM_TYPE})
WIDEST = 2**63
LAZY = 2  # flags that a tensor has: conj and neg


def storage(pid: Any) -> Storage:
    """The storage of a persistent id: ('storage', its class, key, location, count of values), and views, long gone."""
    if type(pid) is not tuple or not pid or pid[0] != "storage" or type(pid[0]) is not str:
        raise ValueError("has a persistent id in its pickle that is no storage's, which no state dict has")
    if len(pid) not in (5, 6):
        raise ValueError(f"has a storage of {len(pid)} facts in its pickle, where PyTorch gives 5")
    _, cls, key, location, count, *view = pid
    if type(cls) is not Global or (cls.module, cls.name) not in STORAGE_CLASSES:
        raise ValueError(f"has {kind(cls)} in its pickle where the class of a storage should be")
    if type(key) is not str or type(location) is not str:
        raise ValueError("has a storage in its pickle whose key or location is no text")
    if view not in ([], [None]):
        raise ValueError(
            "has a storage that is a view of another, as PyTorch wrote before 0.4: save it again with torch.save"
        )
    if not _is_count(count):
        raise ValueError(f"has the storage {shown(key)}, whose length is {_shown(count)} and no count of values")
    dtype, is_typed = STORAGE_CLASSES[cls.module, cls.name]
    return Storage(key, dtype, is_typed, count)


def rebuilt(function: tuple[str, str], args: Any) -> Strided:
    """What one of `FUNCTIONS` makes of its arguments."""
    if type(args) is not tuple:
        raise ValueError(f"calls {'.'.join(function)} in its pickle with {kind(args)} for arguments")
    if function in (PARAMETER, PARAMETER_WITH_STATE):
        _check_arity(function, args, {3 if function == PARAMETER else 4})
        return _tensor_of(args[0], function)
    if function == FROM_TYPE:
        return _from_type(args)
    _check_arity(function, args, {4} if function == TENSOR else {7, 8} if function == TENSOR_V3 else {6, 7})
    if function != TENSOR:
        _check_metadata(args[8 - 1 if function == TENSOR_V3 else 6 :])
    return _strided(args, _dtype(args[6]) if function == TENSOR_V3 else None)


def _from_type(args: tuple[Any, ...]) -> Strided:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a tensor with attributes, which nobody asks for."""
    _check_arity(FROM_TYPE, args, {4})
    function, cls, inner, _ = args
    names = [(value.module, value.name) for value in (function, cls) if type(value) is Global]
    if len(names) != 2 or names[0] not in FUNCTIONS - {FROM_TYPE} or names[1] not in TENSORS:
        raise ValueError(
            f"has a tensor of another class in its pickle ({kind(cls)} by {kind(function)}): save plain tensors"
        )
    return rebuilt(names[0], inner)


def _strided(args: tuple[Any, ...], dtype: str | None) -> Strided:
    of, offset, shape, strides = args[:4]
    if type(of) is not Storage:
        raise ValueError(f"makes a tensor of {kind(of)} in its pickle, and not of a storage")
    if of.is_typed == (dtype is not None):
        raise ValueError(f"makes a tensor of the storage {shown(of.key)}, whose class does not fit its dtype")
    where = f"has a tensor of the storage {shown(of.key)} whose"
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise ValueError(f"{where} shape and strides are not two tuples of one length")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{where} shape has {len(shape):,} dimensions, more than an array can have")
    if not all(map(_is_count, (*shape, *strides, offset))):
        odd = next(value for value in (*shape, *strides, offset) if not _is_count(value))
        raise ValueError(f"{where} shape, strides or offset have {_shown(odd)}, which is no count of values")
    if math.prod(n or 1 for n in shape) >= WIDEST:
        raise ValueError(f"{where} shape has more values than an array can have")
    dtype = dtype or of.dtype
    width = DTYPES[dtype].bits // 8
    if 0 in shape:
        return Strided(of, dtype, shape, None, 0, is_outside=offset * width > of.nbytes)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if (last + 1) * width > of.nbytes:
        raise ValueError(
            f"{where} last value would be number {last:,}, where its storage has {of.nbytes // width:,}: its shape, "
            "strides and offset are wrong"
        )
    return Strided(of, dtype, shape, _out_of_order(shape, strides), offset * width)


def _out_of_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides, 0 where a dimension has no second value; None if they are those of values stored row-major."""
    kept = tuple(stride if n > 1 else 0 for n, stride in zip(shape, strides, strict=True))
    expected = 1
    for n, stride in zip(reversed(shape), reversed(kept), strict=True):
        if n > 1 and stride != expected:
            return kept
        expected *= n
    return None


def _tensor_of(value: Any, function: tuple[str, str]) -> Strided:
    if type(value) is not Strided:
        raise ValueError(f"makes a parameter of {kind(value)} in its pickle, by {'.'.join(function)}")
    return value


def _dtype(value: Any) -> str:
    if type(value) is not Global or (value.module, value.name) not in DTYPES_BY_NAME:
        raise ValueError(f"has {kind(value)} in its pickle where a dtype should be")
    return DTYPES_BY_NAME[value.module, value.name]


def _check_metadata(metadata: tuple[Any, ...]) -> None:
    for flags in metadata:
        if flags is None or (type(flags) is dict and len(flags) <= LAZY and not any(map(_is_on, flags.values()))):
            continue
        raise ValueError(
            "has a tensor that is the lazy conjugate or negative of what is stored: save it again after "
            "resolve_conj() and resolve_neg()"
        )


def _is_on(flag: Any) -> bool:
    return flag is not False


def _check_arity(function: tuple[str, str], args: tuple[Any, ...], allowed: set[int]) -> None:
    if len(args) not in allowed:
        raise ValueError(f"calls {'.'.join(function)} in its pickle with {len(args)} arguments")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < WIDEST  # not isinstance: True is an int


def _shown(value: Any) -> str:
    return str(value) if type(value) in (int, float, bool) else kind(value)
