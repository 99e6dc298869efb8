"""Every bit pattern of every small dtype against ml_dtypes, and the wide ones against NumPy."""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from shardscan.errors import CheckpointError
from shardscan.shards.dtypes import DTYPES, codes, decode, pattern_values
from shardscan.shards.formats.safetensors import CODES

PEERS = {
    "F4": ml_dtypes.float4_e2m1fn,
    "F6_E2M3": ml_dtypes.float6_e2m3fn,
    "F6_E3M2": ml_dtypes.float6_e3m2fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "U16": np.uint16,
}
WIDE = {"I32": "i4", "U32": "u4", "F32": "f4", "C64": "c8", "F64": "f8", "I64": "i8", "U64": "u8"}
SUB_BYTE = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


def packed(patterns: np.ndarray, bits: int) -> np.ndarray:
    """An independent packer: one little-endian integer holds the whole stream of bits."""
    stream = sum(int(pattern) << (bits * i) for i, pattern in enumerate(patterns))
    return np.frombuffer(stream.to_bytes(len(patterns) * bits // 8, "little"), np.uint8)


def patterns_of(code: str) -> np.ndarray:
    return np.arange(1 << DTYPES[code].bits, dtype=np.uint16 if DTYPES[code].bits == 16 else np.uint8)


def bits_with_one_nan(values: np.ndarray) -> np.ndarray:
    """Equal bits mean equal signs of zero too; a NaN's payload says nothing."""
    return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32)


def test_all_22_codes_of_safetensors_are_known_and_one_that_only_torch_files_have() -> None:
    assert len(CODES) == 22
    assert set(DTYPES) == {*CODES, "C128"}
    assert {code for code in CODES if DTYPES[code].bits > 16} == set(WIDE)
    assert {code for code in DTYPES if DTYPES[code].bits <= 16} == {*PEERS, "BOOL"}


@pytest.mark.parametrize("code", PEERS)
def test_every_bit_pattern_has_the_value_of_an_independent_implementation(code: str) -> None:
    with np.errstate(invalid="ignore"):
        reference = patterns_of(code).view(PEERS[code]).astype(np.float32)
    values = pattern_values(code)
    assert values.dtype == np.float32
    assert values.shape == (1 << DTYPES[code].bits,)
    np.testing.assert_array_equal(bits_with_one_nan(values), bits_with_one_nan(reference))


@pytest.mark.parametrize("code", PEERS)
def test_decoding_every_pattern_gives_its_table_value_in_the_shape_asked_for(code: str) -> None:
    bits = DTYPES[code].bits
    raw = packed(patterns_of(code), bits) if code in SUB_BYTE else patterns_of(code).view(np.uint8)
    values = decode(raw, code, (2, (1 << bits) // 2))
    assert values.shape == (2, (1 << bits) // 2)
    with np.errstate(invalid="ignore"):
        flat = values.reshape(-1).astype(np.float32)
    np.testing.assert_array_equal(bits_with_one_nan(flat), bits_with_one_nan(pattern_values(code)))


@pytest.mark.parametrize(("code", "bits"), SUB_BYTE.items())
def test_sub_byte_values_unpack_from_a_little_endian_stream_of_bits(code: str, bits: int) -> None:
    patterns = np.random.default_rng(0).integers(0, 1 << bits, 400, dtype=np.uint8)
    np.testing.assert_array_equal(codes(packed(patterns, bits), code), patterns)


def test_an_f4_byte_holds_the_low_nibble_first() -> None:
    assert decode(np.array([0x72], np.uint8), "F4", (2,)).tolist() == [1.0, 6.0]


def test_a_16_bit_dtype_counts_its_patterns_without_a_copy() -> None:
    raw = np.arange(8, dtype=np.uint8)
    assert np.shares_memory(codes(raw, "BF16"), raw)
    assert codes(raw, "F16").tolist() == [0x0100, 0x0302, 0x0504, 0x0706]


@pytest.mark.parametrize(("code", "numpy"), WIDE.items())
def test_wide_dtypes_are_views_with_numpys_own_values(code: str, numpy: str) -> None:
    raw = np.random.default_rng(1).integers(0, 256, 6 * DTYPES[code].bits // 8, dtype=np.uint8)
    values = decode(raw, code, (2, 3))
    assert np.shares_memory(values, raw)
    assert values.tobytes() == raw.tobytes()
    assert values.dtype == np.dtype("<" + numpy)


@pytest.mark.parametrize("code", [code for code in DTYPES if code not in SUB_BYTE])
def test_misaligned_bytes_decode_to_the_same_aligned_values(code: str) -> None:
    width = DTYPES[code].bits // 8
    odd = np.arange(4 * width + 1, dtype=np.uint8)[1:]
    values = decode(odd, code, (4,))
    assert values.flags.aligned
    assert values.tobytes() == decode(odd.copy(), code, (4,)).tobytes()


def test_a_bool_byte_of_2_is_true_and_a_clean_numpy_bool() -> None:
    values = decode(np.array([0, 1, 2, 255], np.uint8), "BOOL", (4,))
    assert values.dtype == np.bool_
    assert values.view(np.uint8).tolist() == [0, 1, 1, 1]
    assert pattern_values("BOOL")[[0, 1, 2, 255]].tolist() == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("code", DTYPES)
def test_scalars_and_empty_tensors_decode(code: str) -> None:
    dtype = DTYPES[code]
    assert decode(np.empty(0, np.uint8), code, (2, 0, 3)).shape == (2, 0, 3)
    if dtype.bits % 8 == 0:
        assert decode(np.zeros(dtype.bits // 8, np.uint8), code, ()).shape == ()


def test_nbytes_is_exact_and_refuses_values_that_do_not_fill_bytes() -> None:
    assert [DTYPES[c].nbytes(4) for c in ("F4", "F6_E2M3", "F8_E4M3", "BF16", "F32", "C64")] == [2, 3, 4, 8, 16, 32]
    assert DTYPES["F64"].nbytes(2**62) == 2**65
    with pytest.raises(CheckpointError, match="1 values of F6_E3M2"):
        DTYPES["F6_E3M2"].nbytes(1)


def test_the_tables_are_cached_and_cannot_be_written() -> None:
    table = pattern_values("F8_E4M3")
    assert pattern_values("F8_E4M3") is table
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1


@pytest.mark.parametrize("function", [pattern_values, lambda code: codes(np.zeros(8, np.uint8), code)])
def test_wide_dtypes_have_no_patterns(function: Callable[[str], np.ndarray]) -> None:
    with pytest.raises(ValueError, match="at most 16 bits"):
        function("F32")


def test_more_dimensions_than_numpy_has_are_refused_in_a_sentence() -> None:
    with pytest.raises(CheckpointError, match="65 dimensions"):
        decode(np.zeros(1, np.uint8), "U8", (1,) * 65)
