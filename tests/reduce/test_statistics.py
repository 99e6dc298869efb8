"""Statistics of whole tensors: block grids, threads and dtypes change nothing, and real weights agree too."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import dask.config
import dask.multiprocessing
import ml_dtypes
import numpy as np
import pytest
import zarr
from threadpoolctl import threadpool_info

import shardscan
from made import tiny
from oracles.exactness import (
    NUMPY,
    SUB_BYTE,
    Found,
    channel_errors,
    packed,
    result_of,
    results,
    shard,
    tensor_errors,
    tensors_of,
    units,
)
from shardscan.plan import scan_budget as budget
from shardscan.plan.tasks import in_flight
from shardscan.reduce.distribution import bin_edges, magnitude_quantile
from shardscan.reduce.kernels import cpu
from shardscan.reduce.scan import limit_blas
from shardscan.reduce.tensors import TENSOR_STATISTICS
from shardscan.shards.address import Window
from shardscan.shards.ahead import Ahead
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.shards.dtypes import DTYPES
from shardscan.store import commits

TINY_BLOCKS = [64, 1000, 1 << 12]
TABLES = [
    "models",
    "files",
    "tensors",
    "matrices",
    "channels",
    "spectra",
    "singular_values",
    "spectrum_fits",
    "distribution",
]


def as_float64(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(values.astype(np.complex128)) if values.dtype.kind == "c" else values, np.float64)


def random_values(code: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Any value of a dtype but of the widest, whose squares float64 does not hold."""
    rng = np.random.default_rng(seed)
    if code == "F64":
        return rng.standard_normal(shape)
    if code == "BOOL":
        return rng.random(shape) < 0.5
    if code in SUB_BYTE:
        bits = DTYPES[code].bits
        return np.asarray(rng.integers(0, 1 << bits, shape, dtype=np.uint8).view(SUB_BYTE[code]), np.float32)
    width = np.dtype(NUMPY[code]).itemsize
    return np.asarray(rng.integers(0, 256, (*shape, width), dtype=np.uint8).view(NUMPY[code])[..., 0])


@pytest.mark.parametrize("odd", [False, True], ids=["aligned", "misaligned"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3001,), (9, 31), (4, 3, 5), (3, 0), (0, 3)], ids=str)
@pytest.mark.parametrize("code", NUMPY)
def test_a_tensor_of_every_dtype_and_shape_agrees_with_the_reference(
    tmp_path: Path, code: str, shape: tuple[int, ...], odd: bool
) -> None:
    values = random_values(code, shape)
    shard(tmp_path, {"w.bias": (code, shape, packed(values, code))}, odd=odd)
    found = results(tmp_path)["w.bias"].tensor
    tensor_errors(found, as_float64(values), bin_width=0.008 if DTYPES[code].bits > 16 and values.size else 0.0)


@pytest.mark.parametrize("shape", [(8,), (4000,), (16, 3), (40, 4, 2)], ids=str)
@pytest.mark.parametrize("code", SUB_BYTE)
@pytest.mark.parametrize("block_bytes", [16, 16 << 20])
def test_a_packed_tensor_agrees_with_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, shape: tuple[int, ...], block_bytes: int
) -> None:
    monkeypatch.setattr("shardscan.plan.blocks.BLOCK_BYTES", block_bytes)
    values = random_values(code, shape)
    shard(tmp_path, {"w.bias": (code, shape, packed(values, code))})
    tensor_errors(results(tmp_path)["w.bias"].tensor, as_float64(values))


def checkpoint(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    weight = rng.normal(3.0, 0.5, (203, 130)).astype(np.float32)
    weight[::3, 5] = np.nan
    weight[:, 7] = np.inf
    weight[100:, 9] *= 1e4
    weight[40] = 0.25
    shapes = {"long": (5003,), "scalar": (), "folded": (50, 4, 9), "stack": (3, 2, 2, 30)}
    tensors = {name: rng.standard_normal(shape) for name, shape in shapes.items()} | {"matrix": weight}
    return tensors_of(folder, {f"{name}.weight": np.asarray(x, np.float32) for name, x in tensors.items()})


@pytest.mark.parametrize("block_bytes", TINY_BLOCKS)
def test_any_grid_of_blocks_gives_what_one_block_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    whole = results(checkpoint(tmp_path))
    monkeypatch.setattr("shardscan.plan.blocks.BLOCK_BYTES", block_bytes)
    cut = units(tmp_path)
    assert len(cut["matrix.weight"].blocks) > 3
    assert len(cut["long.weight"].blocks) > 1
    lazy = shardscan.open(tmp_path)
    for name, unit in cut.items():
        a, b = whole[name], result_of(unit)
        x = lazy[name].compute().astype(np.float64)
        tensor_errors(b.tensor, x, bin_width=0.008)
        same(a, b)
        if x.ndim < 2:
            assert b.channels_out is None
            continue
        channel_errors(b.channels_out, x.reshape(len(x), -1), "out")
        if x.ndim == 2:
            channel_errors(b.channels_in, x, "in")
        else:
            assert b.channels_in is None


def same(a: Found, b: Found) -> None:
    """What does not depend on any order of addition is equal to the bit."""
    for field in ("counts", "fingerprints_out", "fingerprints_in"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert a.tensor is not None
    assert b.tensor is not None
    exact = [TENSOR_STATISTICS.index(n) for n in ("min", "max", "absmax", "zeros", "absmin", "near_zeros", "nans")]
    np.testing.assert_array_equal(a.tensor[exact], b.tensor[exact])


def test_the_grid_and_so_every_bit_is_the_same_whatever_products_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardscan.plan.blocks.BLOCK_BYTES", 8 * 30 * 4)
    name, w = "model.layers.0.self_attn.q_proj.weight", np.random.default_rng(3).standard_normal((96, 30))
    config = {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 8, "head_dim": 12}
    folder = tensors_of(tmp_path, {name: w}, config=config)
    assert len(units(folder)[name].blocks) == 4
    with_heads, without = results(folder)[name], results(folder, "none")[name]
    assert with_heads.heads is not None
    assert without.heads is None
    assert with_heads.digest == without.digest
    np.testing.assert_array_equal(with_heads.tensor, without.tensor)
    np.testing.assert_array_equal(with_heads.channels_in, without.channels_in)


def test_blocks_of_heads_that_are_rows_hold_whole_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardscan.plan.blocks.BLOCK_BYTES", 1)
    for unit in units(tiny.llama(tmp_path)).values():
        rows = [block.first_row for block in unit.blocks]
        assert all(row % 8 == 0 for row in rows)
        for matrix in unit.matrices:
            if matrix.heads and matrix.heads.axis == "out":
                assert all(row % matrix.heads.dim == 0 for row in rows)
        assert sum(block.window.nbytes for block in unit.blocks) == unit.placed.tensor.nbytes


def test_a_digest_tells_values_dtypes_and_shapes_apart(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32)
    other = x.copy()
    other[7] = np.nextafter(other[7], np.float32(9))
    folder = shard(
        tmp_path,
        {
            "a.weight": ("F32", (3, 4), x.tobytes()),
            "b.weight": ("F32", (3, 4), x.tobytes()),
            "turned.weight": ("F32", (4, 3), x.tobytes()),
            "integers.bias": ("I32", (3, 4), x.tobytes()),
            "changed.weight": ("F32", (3, 4), other.tobytes()),
        },
    )
    digests = {name: result.digest for name, result in results(folder).items()}
    assert digests["a.weight"] == digests["b.weight"]
    assert len(set(digests.values())) == 4


def test_a_bfloat16_tensor_and_its_float32_copy_have_the_same_channels(tmp_path: Path) -> None:
    x = np.random.default_rng(2).standard_normal((40, 30)).astype(ml_dtypes.bfloat16)
    folder = shard(
        tmp_path, {code: (code, x.shape, packed(x.astype(NUMPY[code]), code)) for code in ("BF16", "F32", "F64")}
    )
    found = results(folder)
    for code in ("F32", "F64"):
        np.testing.assert_array_equal(found[code].fingerprints_out, found["BF16"].fingerprints_out)
        np.testing.assert_array_equal(found[code].fingerprints_in, found["BF16"].fingerprints_in)
        np.testing.assert_array_equal(found[code].channels_out, found["BF16"].channels_out)
        np.testing.assert_array_equal(found[code].counts, found["BF16"].counts)


@pytest.mark.parametrize("n", [1, 2, 99, 100, 101, 999, 1000, 1001, 1999, 2001])
def test_quantiles_are_values_of_an_exact_rank(n: int) -> None:
    values = np.random.default_rng(n).permutation(np.arange(1, n + 1)).astype(np.int16)
    values[::2] *= -1
    counts = np.bincount(values.view(np.uint16), minlength=65_536).astype(np.uint64)
    assert magnitude_quantile("I16", counts, 990) == -(-n * 99 // 100)
    assert magnitude_quantile("I16", counts, 999) == -(-n * 999 // 1000)


def test_every_bin_has_its_edges_without_a_warning() -> None:
    bins = np.arange(65_536)
    for code in ("BF16", "F16", "F32"):
        lo, hi = bin_edges(code, bins)
        finite = np.isfinite(lo)
        np.testing.assert_array_equal(finite, np.isfinite(hi))
        assert (lo[finite] <= hi[finite]).all()
    lo, hi = bin_edges("F32", bins)
    upper = np.arange(0x80, 0x7F7F)
    assert (np.nextafter(hi[upper], np.inf) == lo[upper + 1]).all()
    assert ((hi[upper] - lo[upper]) / lo[upper] < 0.008).all()


# threads


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One checkpoint of many blocks, scanned by one worker in the least memory, by two, by four, and by two that map.

    Two more read it through the page cache, the others past it, as they read a checkpoint that is not in it.
    """
    folder = tmp_path_factory.mktemp("threads")
    tiny.llama(folder / "tiny", inner=(96, 96, 96, 200))
    shardscan.ingest(
        folder / "tiny", folder / "first", spectra="heads,full"
    )  # compiles, for which the least is too little
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shardscan.plan.blocks.BLOCK_BYTES", 512)
        for name, workers in (("1", 1), ("2", 2), ("4", 4), ("mapped", 2), ("read", 2)):
            cached = name in ("mapped", "read")
            patch.setattr("shardscan.shards.sources.local.is_cached", lambda *_, cached=cached: cached)
            room = budget.LEAST if workers == 1 else None
            io = "read" if name == "read" else "auto"
            options: dict[str, Any] = {"spectra": "heads,full", "workers": workers, "blas_threads": 2, "io": io}
            shardscan.ingest(folder / "tiny", folder / f"by-{name}", memory_limit=room, **options)
    return sorted(folder.glob("by-*"))


def test_any_workers_in_any_memory_write_the_same_bits(stores: list[Path]) -> None:
    scans = [commits.list_scans(store)[0] for store in stores]
    one, *others = (dict(zarr.open_group(scan.arrays, mode="r").members(max_depth=None)) for scan in scans)
    paths = [path for path, array in one.items() if isinstance(array, zarr.Array) and array.dtype.kind in "iuf"]
    assert len(paths) > 50
    assert len(others) == 4
    for other in others:
        assert one.keys() == other.keys()
        for path in paths:
            assert one[path][...].tobytes() == other[path][...].tobytes(), path  # type: ignore[union-attr,index]


@pytest.mark.parametrize("table", TABLES)
def test_any_workers_fill_the_same_tables(stores: list[Path], table: str) -> None:
    found = []
    for store in stores:
        with shardscan.connect(store) as connection:
            found.append(connection.sql(f"select * from {table} order by all").fetchall())
    assert found[0]
    assert all(rows == found[0] for rows in found)


def test_blocks_are_asked_for_almost_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    raw = Ahead.raw

    def noted(self: Ahead, window: Window) -> Any:
        asked.append(self._numbers[window][0])
        if asked[-1] % 3 == 0:
            time.sleep(0.005)  # one in as many as are in flight falls behind
        return raw(self, window)

    monkeypatch.setattr(Ahead, "raw", noted)
    shard(tmp_path / "m", {f"w{i}.bias": ("F32", (4,), bytes(16)) for i in range(90)})
    shardscan.ingest(tmp_path / "m", tmp_path / "scans", workers=2)
    assert sorted(asked) == list(range(90))
    assert max(abs(place - number) for place, number in enumerate(asked)) <= in_flight(2)


def test_two_threads_are_in_the_kernels_at_once_and_blas_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, met, blas = threading.Barrier(2), set[int](), list[set[int]]()
    kernel = cpu.statistics

    def waiting(*args: Any) -> Any:
        if threading.current_thread() is threading.main_thread():  # which compiles before the others begin
            return kernel(*args)
        blas.append({info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"})
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            both.wait(timeout=300)
        return kernel(*args)

    monkeypatch.setattr(cpu, "statistics", waiting)
    shardscan.ingest(tiny.llama(tmp_path / "tiny"), tmp_path / "scans", workers=2)
    assert len(met) == 2
    assert blas == [{1}] * len(blas)


def test_processes_write_what_threads_write(stores: list[Path], tmp_path: Path) -> None:
    checkpoint = stores[1].parent / "tiny"
    with dask.config.set(scheduler="processes"):
        summary = shardscan.ingest(checkpoint, tmp_path / "by-processes", workers=2)
    shardscan.ingest(checkpoint, tmp_path / "by-threads", workers=2)
    assert summary.failures == {}
    assert summary.bytes_read == open_checkpoint(checkpoint).nbytes
    for table in TABLES:
        found = []
        for store in ("by-processes", "by-threads"):
            with shardscan.connect(tmp_path / store) as connection:
                found.append(connection.sql(f"select * from {table} order by all").fetchall())
        assert found[0] == found[1]


def test_worker_processes_have_one_blas_thread() -> None:
    libraries = dask.multiprocessing.get(
        {"x": (threadpool_info,)}, "x", num_workers=1, initializer=partial(limit_blas, 1)
    )
    assert {library["num_threads"] for library in libraries if library["user_api"] == "blas"} == {1}


# real weights


@pytest.mark.real
def test_smollm2_agrees_with_the_reference(smollm2: Path) -> None:
    known = units(smollm2)
    assert len(known) == 272
    checkpoint = open_checkpoint(smollm2)
    for name in (
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.11.self_attn.o_proj.weight",
        "model.layers.29.self_attn.q_proj.weight",
        "model.layers.3.mlp.down_proj.weight",
        "model.norm.weight",
    ):
        x = checkpoint[name].window().read().astype(np.float64)
        result = result_of(known[name])
        tensor_errors(result.tensor, x)
        if x.ndim == 2:
            channel_errors(result.channels_out, x, "out")
            channel_errors(result.channels_in, x, "in")


@pytest.mark.real
def test_minilm_agrees_with_the_reference_and_its_quantiles_are_within_a_bin(minilm: Path) -> None:
    known = units(minilm)
    checkpoint = open_checkpoint(minilm)
    for name in (
        "embeddings.position_embeddings.weight",
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.5.attention.output.dense.weight",
        "encoder.layer.3.intermediate.dense.bias",
        "encoder.layer.2.output.LayerNorm.weight",
    ):
        x = checkpoint[name].window().read().astype(np.float64)
        result = result_of(known[name])
        tensor_errors(result.tensor, x, bin_width=0.008)
        if x.ndim == 2:
            channel_errors(result.channels_out, x, "out")
            channel_errors(result.channels_in, x, "in")
