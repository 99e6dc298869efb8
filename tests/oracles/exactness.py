"""What the numbers' tests share: shards of any bytes, their results block by block, and the promised tolerances.

Tolerances stand here once: counts, extremes and the quantiles of 16-bit tensors are exact; a mean is within 1e-9 of the
mean magnitude; std, rms and mean_abs within 1e-9 of themselves; kurtosis within 1e-9, or 1e-6 of a channel whose std is
under a thousandth of its mean.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from oracles.reference import channel_statistics, tensor_statistics
from shardscan.anatomy import placement as anatomy
from shardscan.plan import scan as plan
from shardscan.plan import tasks
from shardscan.plan.products import FULL, asked_by
from shardscan.reduce.blocks import Partial, finish_tensor, merge_products, reduce_block
from shardscan.reduce.devices import Solver
from shardscan.reduce.moments import CHANNEL_STATISTICS
from shardscan.reduce.result import Result
from shardscan.reduce.scan import join_matrices, solve_matrix
from shardscan.reduce.spectra import Spectra
from shardscan.reduce.tensors import TENSOR_STATISTICS, statistics_of_runs
from shardscan.shards.checkpoint import open as open_checkpoint

EXACT = {"count", "zeros", "min", "max", "absmax", "absmin", "near_zeros", "nans", "infs", "p99_abs", "p999_abs"}
NUMPY = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16, "F16": np.float16,
    "BF16": ml_dtypes.bfloat16, "I32": np.int32, "U32": np.uint32, "F32": np.float32, "C64": np.complex64,
    "F64": np.float64, "I64": np.int64, "U64": np.uint64, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E8M0": ml_dtypes.float8_e8m0fnu, "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip
SUB_BYTE = {"F4": ml_dtypes.float4_e2m1fn, "F6_E2M3": ml_dtypes.float6_e2m3fn, "F6_E3M2": ml_dtypes.float6_e3m2fn}
SUB_BYTE_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


def packed(values: np.ndarray, code: str) -> bytes:
    """`values` in the bytes of a dtype; those of sub-byte dtypes as one little-endian stream of bits."""
    if code in NUMPY:
        return np.ascontiguousarray(values, NUMPY[code]).tobytes()
    patterns = np.ascontiguousarray(values, SUB_BYTE[code]).view(np.uint8).ravel()
    bits = SUB_BYTE_BITS[code]
    bytes_ = np.unpackbits(patterns[:, None], axis=1, count=bits, bitorder="little").ravel()
    return np.packbits(bytes_, bitorder="little").tobytes()


def shard(
    folder: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], config: Any = None, odd: bool = False
) -> Path:
    """Write code, shape and bytes of each tensor as one shard in `folder`; `odd` puts the first off any alignment."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (code, shape, data) in tensors.items():
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * ((-len(text)) % 8 + odd)
    folder.mkdir(parents=True, exist_ok=True)
    body = b"".join(data for _, _, data in tensors.values())
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def tensors_of(folder: Path, tensors: Mapping[str, np.ndarray], code: str = "F32", config: Any = None) -> Path:
    """Write arrays of one dtype."""
    return shard(folder, {name: (code, x.shape, packed(x, code)) for name, x in tensors.items()}, config)


def units(folder: Path, spectra: str = "heads") -> dict[str, tasks.Unit]:
    """Every tensor of a checkpoint with its blocks."""
    planned = plan.plan_scan(anatomy.place_tensors(open_checkpoint(folder)), asked_by(spectra))
    found = planned.matrices or planned.large_matrices or planned.tasks
    return {unit.placed.tensor.name: unit for task in found for unit in task.units}


@dataclass(frozen=True)
class Found:
    """The results of a tensor that is one matrix, or none; `tensor` has its TENSOR_STATISTICS."""

    tensor: np.ndarray | None
    counts: np.ndarray | None
    digest: str | None
    failure: str | None
    channels_out: np.ndarray | None = None
    channels_in: np.ndarray | None = None
    fingerprints_out: np.ndarray | None = None
    fingerprints_in: np.ndarray | None = None
    violations: np.ndarray | None = None
    heads: Spectra | None = None
    full: Spectra | None = None


def the_only(result: Result, unit: tasks.Unit) -> Found:
    """The results of a unit with at most one matrix, side by side."""
    assert len(unit.matrices) < 2
    return of_matrix(result, unit, 0)


def of_matrix(result: Result, unit: tasks.Unit, number: int) -> Found:
    """The results of a tensor, and of one of its matrices if it has any."""
    arrays: dict[str, np.ndarray] = {}
    for outcome in result.outcomes.values():
        arrays |= outcome.of_tensor
        arrays |= dict(*outcome.of_matrices[number : number + 1])
    counts, moments = arrays.get("distribution"), arrays.get("moments")
    tensor = None
    if moments is not None and counts is not None:
        tensor = statistics_of_runs([moments], unit.placed.tensor.dtype, counts)
    out, first = arrays.get("channels_out"), len(CHANNEL_STATISTICS)
    spectra = {name: Spectra.of(arrays, name) for name in ("heads", "full") if name in arrays}
    if full := spectra.get("full"):
        spectra["full"] = Spectra(full.sigma[None], full.facts[None])
    return Found(
        tensor,
        counts,
        result.digest,
        result.failure,
        None if out is None else out[:first],
        arrays.get("channels_in"),
        arrays.get("fingerprints_out"),
        arrays.get("fingerprints_in"),
        None if out is None or len(out) == first else out[first:],
        spectra.get("heads"),
        spectra.get("full"),
    )


def solved(unit: tasks.Unit, solver: Solver) -> Result:
    """The whole spectrum of the first matrix of a unit."""
    return join_matrices(unit, [solve_matrix(unit, 0, FULL, solver)])


def result_of(unit: tasks.Unit) -> Found:
    """A tensor's results: its blocks reduced one after the other and folded from the left, as a run does it."""
    partial = reduce(merge_products, [reduce_block(block) for block in unit.blocks] or [Partial()])
    return the_only(finish_tensor(unit, partial), unit)


def results(folder: Path, spectra: str = "heads") -> dict[str, Found]:
    """The results of every tensor of a checkpoint."""
    return {name: result_of(unit) for name, unit in units(folder, spectra).items()}


def channel_errors(found: np.ndarray | None, x: np.ndarray, axis: str) -> dict[str, float]:
    """The worst error of each channel statistic in the promise's own units; asserts the promise. `x` (2-D) float64."""
    assert found is not None
    return _errors(dict(zip(CHANNEL_STATISTICS, found, strict=True)), channel_statistics(x, axis))


def tensor_errors(found: np.ndarray | None, x: np.ndarray, bin_width: float = 0.0) -> dict[str, float]:
    """Likewise of a tensor's statistics; its quantiles may lie `bin_width` (relative) low where bins are not exact."""
    assert found is not None
    expected = {name: np.array([value]) for name, value in tensor_statistics(x).items()}
    named = {name: np.array([value]) for name, value in zip(TENSOR_STATISTICS, found, strict=True)}
    if bin_width:
        for name in ("p99_abs", "p999_abs"):
            low, exact = named.pop(name), expected[name]
            assert np.all((low <= exact) & (low >= exact * (1 - bin_width))), (name, low, exact)
    return _errors(named, expected)


def _errors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    worst = {}
    for name, values in found.items():
        if name in EXACT:
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
            continue
        np.testing.assert_array_equal(np.isnan(values), np.isnan(expected[name]), err_msg=name)
        scale = expected["mean_abs"] if name == "mean" else np.abs(expected[name])
        errors = np.nan_to_num(np.abs(values - expected[name]) / np.where(scale > 0, scale, 1.0))
        tolerance = np.full(errors.shape, 1e-9)
        if name == "kurtosis":
            tolerance[expected["std"] < 1e-3 * np.abs(expected["mean"])] = 1e-6
        wrong = np.flatnonzero(errors > tolerance)
        assert not wrong.size, f"{name} of channel {wrong[:5]}: {values[wrong[:5]]}, not {expected[name][wrong[:5]]}"
        worst[name] = float(errors.max(initial=0.0))
    return worst
