"""OPEN, its dtypes: what dtype codes mean, and how their bytes become numbers.

The codes are the 22 of safetensors, and C128, which only PyTorch files have.

Promises: files are little-endian, and big-endian machines are not supported; what NumPy knows is viewed and not
copied, unless the bytes are misaligned; what it does not know is decoded to float32, exactly. Every dtype of at most 16
bits has a table with the value of each bit pattern, so a histogram of patterns is an exact distribution.

Sources: IEEE 754 (F16, F32, F64), OCP 8-bit Floating Point 1.0 (F8_E4M3, F8_E5M2), OCP Microscaling Formats 1.0 (F4,
F6, F8_E8M0), arXiv 2206.02915 (the FNUZ pair).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np

from shardscan.errors import CheckpointError

MAX_DIMENSIONS = 64  # NumPy's own limit


@dataclass(frozen=True, slots=True)
class DType:
    """One dtype: its code, the bits of one value, and NumPy's name for it where NumPy has it."""

    code: str
    bits: int
    kind: Literal["float", "int", "bool", "complex"]
    numpy: str | None = None

    def nbytes(self, count: int) -> int:
        """Exact bytes of `count` packed values; CheckpointError where they do not fill whole bytes."""
        nbytes, over = divmod(count * self.bits, 8)
        if over:
            raise CheckpointError(f"{count:,} values of {self.code} ({self.bits} bits each) do not fill whole bytes.")
        return nbytes


DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        dtype.code: dtype
        for dtype in (
            DType("BOOL", 8, "bool", "?"),
            DType("F4", 4, "float"),
            DType("F6_E2M3", 6, "float"),
            DType("F6_E3M2", 6, "float"),
            DType("U8", 8, "int", "|u1"),
            DType("I8", 8, "int", "|i1"),
            DType("F8_E5M2", 8, "float"),
            DType("F8_E4M3", 8, "float"),
            DType("F8_E8M0", 8, "float"),
            DType("F8_E4M3FNUZ", 8, "float"),
            DType("F8_E5M2FNUZ", 8, "float"),
            DType("I16", 16, "int", "<i2"),
            DType("U16", 16, "int", "<u2"),
            DType("F16", 16, "float", "<f2"),
            DType("BF16", 16, "float"),
            DType("I32", 32, "int", "<i4"),
            DType("U32", 32, "int", "<u4"),
            DType("F32", 32, "float", "<f4"),
            DType("C64", 64, "complex", "<c8"),
            DType("F64", 64, "float", "<f8"),
            DType("I64", 64, "int", "<i8"),
            DType("U64", 64, "int", "<u8"),
            DType("C128", 128, "complex", "<c16"),
        )
    }
)


# of every float: bits of the mantissa, and the exponent below which the unit in the last place does not fall any more
PRECISIONS: Mapping[str, tuple[int, int]] = MappingProxyType({
    "F4": (1, 0), "F6_E2M3": (3, 0), "F6_E3M2": (2, -2), "F8_E5M2": (2, -14), "F8_E4M3": (3, -6), "F8_E8M0": (0, -127),
    "F8_E4M3FNUZ": (3, -7), "F8_E5M2FNUZ": (2, -15), "F16": (10, -14), "BF16": (7, -126), "F32": (23, -126),
    "F64": (52, -1022),
})  # fmt: skip


def decode(raw: np.ndarray, code: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read `raw`, uint8 `(nbytes,)`, in `shape`: NumPy's own dtype as a view, every other as a float32 copy.

    BOOL is a copy too: any byte but 0 is true, and a NumPy bool must not hold a 2. Raises CheckpointError for more
    dimensions than NumPy has, and ValueError where the bytes do not fit the shape.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(
            f"A tensor of {len(shape):,} dimensions cannot be an array: NumPy stops at {MAX_DIMENSIONS}."
        )
    dtype = DTYPES[code]
    if code == "BOOL":
        return np.asarray(raw != 0).reshape(shape)
    if dtype.numpy is not None:
        return _aligned(raw, dtype.numpy).reshape(shape)
    if code == "BF16":
        return _widened(_aligned(raw, "<u2")).reshape(shape)
    return np.take(pattern_values(code), codes(raw, code)).reshape(shape)


def codes(raw: np.ndarray, code: str) -> np.ndarray:
    """One bit pattern per value of a dtype of at most 16 bits: uint8 `(count,)`, or uint16 for 16-bit dtypes.

    F4 holds two values in a byte, the low nibble first. F6 is a little-endian stream of bits: four values in three
    bytes, the first value in the low six bits of the first byte.
    """
    bits = DTYPES[code].bits
    if bits == 16:
        return _aligned(raw, "<u2")
    if bits == 8:
        return raw
    if bits == 4:
        return np.stack((raw & 15, raw >> 4), axis=-1).reshape(-1)
    if bits == 6:
        a, b, c = raw.reshape(-1, 3).T
        return np.stack((a & 63, a >> 6 | b << 2 & 63, b >> 4 | c << 4 & 63, c >> 2), axis=-1).reshape(-1)
    raise ValueError(f"{code} has {bits} bits: only dtypes of at most 16 bits are counted by their patterns")


@cache
def pattern_values(code: str) -> np.ndarray:
    """Tabulate the value of every bit pattern of a dtype of at most 16 bits: float32 `(2**bits,)`, read-only."""
    bits = DTYPES[code].bits
    if bits > 16:
        raise ValueError(f"{code} has {bits} bits: only dtypes of at most 16 bits have a table of their values")
    values = _table(code)
    values.flags.writeable = False
    return values


def _table(code: str) -> np.ndarray:
    dtype = DTYPES[code]
    patterns = np.arange(1 << dtype.bits, dtype=np.uint16 if dtype.bits == 16 else np.uint8)
    if code == "BOOL":
        return np.asarray(patterns != 0, np.float32)
    if code == "BF16":
        return _widened(patterns)
    if dtype.numpy is not None:
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            return patterns.view(dtype.numpy).astype(np.float32)
    if code == "F8_E8M0":
        values = np.ldexp(1.0, patterns.astype(np.int32) - 127)
        values[255] = np.nan
        return np.asarray(values, np.float32)
    return _SMALL_FLOATS[code]()


def _minifloat(exponent: int, mantissa: int, bias: int) -> np.ndarray:
    """Every value of a sign, exponent and mantissa format with subnormals and without special values."""
    patterns = np.arange(1 << (1 + exponent + mantissa), dtype=np.int32)
    e = patterns >> mantissa & (1 << exponent) - 1
    m = patterns & (1 << mantissa) - 1
    significand = np.where(e == 0, m, m + (1 << mantissa))
    magnitude = np.ldexp(significand.astype(np.float32), np.maximum(e, 1) - bias - mantissa)
    return np.asarray(np.where(patterns >> (exponent + mantissa), -magnitude, magnitude))


def _e4m3() -> np.ndarray:
    values = _minifloat(4, 3, bias=7)
    values[[0x7F, 0xFF]] = np.nan
    return values


def _e5m2() -> np.ndarray:
    values = _minifloat(5, 2, bias=15)
    values[[0x7C, 0xFC]] = np.inf, -np.inf
    values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return values


def _fnuz(exponent: int, mantissa: int, bias: int) -> np.ndarray:
    """Finite, no negative zero: its pattern is the only NaN."""
    values = _minifloat(exponent, mantissa, bias)
    values[0x80] = np.nan
    return values


_SMALL_FLOATS: dict[str, Callable[[], np.ndarray]] = {
    "F4": lambda: _minifloat(2, 1, bias=1),
    "F6_E2M3": lambda: _minifloat(2, 3, bias=1),
    "F6_E3M2": lambda: _minifloat(3, 2, bias=3),
    "F8_E4M3": _e4m3,
    "F8_E5M2": _e5m2,
    "F8_E4M3FNUZ": lambda: _fnuz(4, 3, bias=8),
    "F8_E5M2FNUZ": lambda: _fnuz(5, 2, bias=16),
}


def _widened(patterns: np.ndarray) -> np.ndarray:
    """Bfloat16 patterns as float32: they are its upper halves."""
    wide = patterns.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _aligned(raw: np.ndarray, dtype: str) -> np.ndarray:
    """View the bytes, or copy them where a header of an odd length put the bytes off the dtype's alignment."""
    return np.require(raw.view(dtype), requirements="A")
