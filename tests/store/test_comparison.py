"""A comparison in its store: what the tables say, and that it survives what a scan survives."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import dask
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import shardscan
from made import compared, tiny
from made.compared import flip, rows, small_tasks, survivors
from made.once import Once
from shardscan.catalog import build as catalog
from shardscan.errors import CheckpointError, OptionError
from shardscan.jobs.comparison import values as comparing
from shardscan.jobs.comparison.values import Alignment
from shardscan.jobs.scan.options import Resources
from shardscan.jobs.verification.job import verify
from shardscan.plan import comparison as pairs
from shardscan.reduce import change_ranks as changes
from shardscan.shards.address import Window
from shardscan.store import commits, gate
from shardscan.store.commits import Scan
from shardscan.store.comparison import write_figures
from shardscan.store.lock import writing_store
from shardscan.store.names import PARTIAL

TABLES = ("diffs", "tensor_diffs", "channel_diffs", "alignments")
UP, NORM = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
SOME = np.array([1, 5, 11])
ALIGNED = [
    Alignment(UP, UP, "out", np.array([3, -1, 0]), "fingerprint", "one is unknown"),
    Alignment(NORM, NORM, "in", np.arange(16), "order"),
]


def tables(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(folder, f"select * from {table} order by all") for table in TABLES}


def values(model: Path) -> dict[str, np.ndarray]:
    return {name: w.astype(np.float64) for name, w in load_file(model / "model.safetensors").items()}


def edited(model: Path, into: Path) -> Path:
    """A copy with one row of up_proj doubled, half of a norm zero, and everything else as it was."""
    tensors = dict(load_file(model / "model.safetensors"))
    tensors[UP] = tensors[UP].copy()
    tensors[UP][4] *= 2
    tensors[NORM] = tensors[NORM].copy()
    tensors[NORM][:8] = 0
    return tiny.write(into, tensors, tiny.CONFIG)


@pytest.fixture(scope="session")
def whole(once: Once) -> Path:
    """A store of two models, compared, in tasks of a few weights each."""

    def make(folder: Path) -> None:
        models = tiny.llama(folder / "a"), edited(folder / "a", folder / "b")
        for model in models:
            shardscan.ingest(model, folder / "scans")
        with pytest.MonkeyPatch.context() as patch:
            small_tasks(patch)
            compared.compare(*models, folder / "scans", rank=True, alignments=ALIGNED)

    return once("edited", make) / "scans"


@pytest.fixture(scope="session")
def models(whole: Path) -> tuple[Path, Path]:
    return compared.models_of(whole)


@pytest.fixture
def scans(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    small_tasks(monkeypatch)
    return shutil.copytree(whole, tmp_path / "scans")


@pytest.fixture
def fresh(models: tuple[Path, Path], scans: Path) -> Path:
    """Another, in which nothing is compared yet."""
    commits.forget(compared.only(scans))
    catalog.build(scans)
    return scans


def test_the_tables_say_what_changed(whole: Path, models: tuple[Path, Path]) -> None:
    assert rows(whole, "select model_a, model_b, weights, compared, failed, ranked, channels from diffs") == [
        ("a", "b", 16, 16, 0, 13, "all")
    ]
    a, b = map(values, models)
    found = rows(whole, "select weight_b, role, layer, part, status, changed, newly_zero, values from tensor_diffs")
    assert {name for name, *_ in found} == set(a)
    assert all(row[4] == "ok" for row in found)
    changed = {name: tuple(rest) for name, *rest in found if rest[4]}
    assert changed == {
        UP: ("up_proj", 1, "weight", "ok", 16, 0, a[UP].size), NORM: ("final_norm", None, "weight", "ok", 8, 8, 16),
    }  # fmt: skip
    ((norm_a, norm_b, change, relative, cosine, most),) = rows(
        whole,
        "select norm_a, norm_b, norm_change, relative_change, cosine, max_change from tensor_diffs "
        f"where weight_b = '{UP}'",
    )
    x, y = a[UP], b[UP]
    norms = (np.linalg.norm(w) for w in (x, y, x - y))
    for ours, right in zip((norm_a, norm_b, change), norms, strict=True):
        assert ours == pytest.approx(right, rel=1e-12)
    assert relative == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-12)
    assert cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12)
    assert most == np.abs(x - y).max()


def test_the_channels_say_which(whole: Path) -> None:
    assert rows(
        whole,
        "select weight_a, axis, channel_a, channel_b, changed, relative_change, cosine from channel_diffs "
        "where changed > 0 and axis = 'out'",
    ) == [(UP, "out", 4, 4, 16, 1.0, 1.0)]
    counts = "select count(*), sum(changed), sum(values) from channel_diffs where axis = 'in' and weight_b = "
    assert rows(whole, f"{counts}'{UP}'") == [(16, 16, 16 * tiny.INNER)]
    of_channels = rows(whole, "select matrix, axis, channel from channels where model = 'b' order by all")
    assert rows(whole, "select weight_b, axis, channel_b from channel_diffs order by all") == of_channels


def test_the_catalog_from_zarr_alone_is_equal_and_so_is_a_copied_one(scans: Path, tmp_path: Path) -> None:
    built = tables(scans)
    assert all(built.values())
    catalog.build(scans, rebuild=True)
    assert tables(scans) == built
    shardscan.ingest(tiny.llama(tmp_path / "third", seed=9), scans)
    assert tables(scans) == built


def test_a_comparison_that_is_not_new_is_copied_and_not_loaded(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tables(scans)

    def loading(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(catalog, "_insert_rows", loading)
    catalog.build(scans)
    assert tables(scans) == built


def test_what_is_committed_is_not_read_again(scans: Path, models: tuple[Path, Path]) -> None:
    before = survivors(scans)
    done = compared.compare(*models, scans, rank=True, alignments=ALIGNED, max_bytes=0)
    assert (done.bytes_read, done.tasks) == (0, 0)
    assert survivors(scans) == before
    assert done.failures == {}


def test_a_run_that_was_stopped_goes_on_to_the_bit(
    scans: Path, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, built = survivors(scans), tables(scans)
    commits.forget(compared.only(scans))
    write, left = write_figures, [0]

    def stopping(*given: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*given)

    total = len(compared.begun(*models, scans)[1])
    assert total > 4
    read = 0
    for number in range(3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            left[0] = number
            patch.setattr(gate, "write_figures", stopping)
            compared.compare(*models, scans, workers=2)
        catalog.build(scans)
        ((weights, so_far),) = rows(scans, "select weights, compared from diffs")
        assert so_far < weights
        assert len(rows(scans, "select * from tensor_diffs")) == so_far
    read = compared.compare(*models, scans, rank=True, alignments=ALIGNED).bytes_read
    assert read < 2 * sum(path.stat().st_size for model in models for path in model.glob("*.safetensors"))
    assert survivors(scans) == right
    assert tables(scans) == built


def test_verify_is_clean_and_finds_one_flipped_bit_in_every_file(scans: Path, models: tuple[Path, Path]) -> None:
    assert verify(scans).findings == ()
    right, built = survivors(scans), tables(scans)
    first = {name for name in right if name.endswith("begun")}
    arrays = {name for name in right if name.startswith("arrays")}
    for some in (first, arrays, right.keys() - first - arrays):  # records vouch for arrays
        for name in some:
            flip(scans / name)
        told = [finding for finding in verify(scans).findings if finding.severity == "problem"]
        assert {finding.file for finding in told} == some
        assert all("compare its two models again" in finding.detail for finding in told)
        compared.compare(*models, scans, rank=True, alignments=ALIGNED)
        assert survivors(scans) == right
        assert tables(scans) == built
        assert verify(scans).findings == ()


def test_a_lost_file_is_made_anew_alone(scans: Path, models: tuple[Path, Path]) -> None:
    right = survivors(scans)
    lost = sorted(compared.only(scans).arrays.glob("figures/c/0/*"))[1]
    lost.unlink()
    assert verify(scans).problems
    read = compared.compare(*models, scans, rank=True, alignments=ALIGNED).bytes_read
    assert 0 < read < sum(path.stat().st_size for path in models[0].glob("*.safetensors"))
    assert survivors(scans) == right


def test_all_arrays_lost_are_made_anew(scans: Path, models: tuple[Path, Path]) -> None:
    right = survivors(scans)
    shutil.rmtree(compared.only(scans).arrays)
    compared.compare(*models, scans, rank=True, alignments=ALIGNED)
    assert survivors(scans) == right


def test_comparisons_are_no_scans(scans: Path) -> None:
    assert len(commits.list_scans(scans)) == 2
    assert rows(scans, "select count(*) from models") == [(2,)]


def test_a_comparison_of_a_scan_that_was_replaced_is_stale_and_goes_with_the_next(
    scans: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    old = compared.only(scans)
    other = tiny.llama(tmp_path / "b", seed=5)
    shardscan.ingest(other, scans, replace=True)
    assert not any(tables(scans).values())
    assert [finding.severity for finding in verify(scans).findings] == ["note", "note"]
    compared.compare(models[0], other, scans)
    assert compared.only(scans) != old
    assert not old.arrays.exists()
    assert verify(scans).findings == ()
    assert rows(scans, "select count(*) from tensor_diffs where changed > 0") == [(16,)]


def test_a_half_made_comparison_is_swept(scans: Path) -> None:
    left = scans / "arrays.zarr" / f"diff-{'0' * 32}{PARTIAL}"
    left.mkdir()
    never_began = Scan(scans, f"diff-{'1' * 32}")
    never_began.commits.mkdir()
    shardscan.catalog.build.build(scans)
    with writing_store(scans):
        assert not left.exists()
        assert not never_began.commits.exists()
    assert compared.only(scans).arrays.exists()


def test_other_pairs_of_the_same_scans_begin_anew(scans: Path, models: tuple[Path, Path]) -> None:
    turned_round = {NORM: (None, np.arange(16)[::-1])}
    assert compared.compare(*models, scans, kept=turned_round).bytes_read > 0
    a, b = map(values, models)
    assert rows(scans, f"select changed from tensor_diffs where weight_b = '{NORM}'") == [
        (int((a[NORM][::-1] != b[NORM]).sum()),)
    ]


def test_both_directions_stand_side_by_side(scans: Path, models: tuple[Path, Path]) -> None:
    compared.compare(models[1], models[0], scans)
    assert rows(scans, "select model_a, model_b from diffs order by all") == [("a", "b"), ("b", "a")]
    assert rows(scans, f"select sum(newly_zero) from tensor_diffs where weight_b = '{NORM}'") == [(8,)]


def test_a_pruned_model_names_the_channels_of_the_original(
    fresh: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    tensors = dict(load_file(models[0] / "model.safetensors"))
    down = UP.replace("up_proj", "down_proj")
    tensors |= {UP: tensors[UP][SOME], down: np.ascontiguousarray(tensors[down][:, SOME])}
    pruned = tiny.write(tmp_path / "pruned", tensors, tiny.CONFIG)
    shardscan.ingest(pruned, fresh)
    compared.compare(models[0], pruned, fresh, kept={UP: (SOME, None), down: (None, SOME)})
    assert rows(fresh, "select sum(changed), sum(norm_change) from tensor_diffs") == [(0, 0.0)]
    for weight, axis in ((UP, "out"), (down, "in")):
        query = (
            f"select channel_a from channel_diffs where weight_b = '{weight}' and axis = '{axis}' order by channel_b"
        )
        assert [n for (n,) in rows(fresh, query)] == SOME.tolist()


def test_bits_do_not_depend_on_workers_nor_on_how_shards_are_read(scans: Path, models: tuple[Path, Path]) -> None:
    right = survivors(scans)
    for workers, io in ((1, "read"), (2, "mmap"), (4, "read")):
        commits.forget(compared.only(scans))
        compared.compare(*models, scans, rank=True, alignments=ALIGNED, workers=workers, io=io)
        assert survivors(scans) == right


@pytest.mark.parametrize("cut", [False, True])
def test_of_a_shard_that_changes_meanwhile_nothing_is_kept(
    cut: bool, fresh: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    b = shutil.copytree(models[1], tmp_path / "b")
    comparison, found, opened = compared.begun(models[0], b, fresh, io="read")
    shard = b / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[: -300 if cut else None])
    done = comparing.compare_weights(comparison, found, opened, Resources.within(), rank=True)
    assert len(done.failures) == 16
    catalog.build(fresh)
    assert rows(fresh, "select distinct status, changed, norm_a, change_rank from tensor_diffs") == [
        ("failed", None, None, None)
    ]
    assert rows(fresh, "select count(*) from channel_diffs") == [(0,)]
    assert compared.compare(*models, fresh).failures == {}


def test_one_tensor_that_cannot_be_read_costs_only_itself(
    fresh: Path, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Window.raw

    def failing(self: Window) -> np.ndarray:
        if self.shape == (16, 1):
            raise CheckpointError("it is unreadable.")
        return read(self)

    monkeypatch.setattr(Window, "raw", failing)
    done = compared.compare(*models, fresh)
    assert set(done.failures.values()) == {"it is unreadable."}
    norms = "weight_b like '%norm%'"
    assert rows(fresh, f"select count(*) from tensor_diffs where status = 'failed' and {norms}") == [(3,)]
    assert rows(fresh, f"select count(*) from tensor_diffs where status = 'ok' and not {norms}") == [(13,)]
    monkeypatch.undo()
    small_tasks(monkeypatch)
    assert compared.compare(*models, fresh).failures == {}


def test_too_little_memory_is_refused_before_anything_is_read(fresh: Path, models: tuple[Path, Path]) -> None:
    with pytest.raises(OptionError, match="--memory"):
        compared.compare(*models, fresh, room=50 << 20)
    assert commits.read_commits(compared.only(fresh)) == {}


def test_memory_that_does_for_no_comparison_is_told_before_there_is_one() -> None:
    with pytest.raises(OptionError, match=r"at least .* MB of memory .* --memory"):
        comparing.check_memory(Resources(1, 50 << 20, None))
    comparing.check_memory(Resources(1, 1 << 30, None))
    comparing.check_memory(Resources(1, None, None))


def test_more_than_may_be_read_is_refused_before_anything_is(fresh: Path, models: tuple[Path, Path]) -> None:
    with pytest.raises(OptionError, match=r"this comparison would read .* bytes and may read 1,000: .* --max-bytes"):
        compared.compare(*models, fresh, max_bytes=1000)
    assert commits.read_commits(compared.only(fresh)) == {}


@pytest.mark.parametrize("rank", [False, True])
def test_what_is_committed_is_hashed_once(
    rank: bool, scans: Path, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    intact = commits.read_intact_commits

    def counted(scan: Scan) -> commits.Commits:
        asked.append(scan)
        return intact(scan)

    monkeypatch.setattr(commits, "read_intact_commits", counted)
    compared.compare(*models, scans, rank=rank, alignments=ALIGNED)
    assert asked.count(compared.only(scans)) == 1


def test_memory_decides_how_many_workers_run(models: tuple[Path, Path], scans: Path) -> None:
    left = comparing.remaining(None, compared.begun(*models, scans)[1], rank=True)
    most = comparing.budget(left, Resources(16, None, None))
    assert most.workers == 16
    one = comparing.budget(left, Resources(1, None, None))
    assert one.peak < most.peak
    assert comparing.budget(left, Resources(16, (one.peak + most.peak) // 2, None)).workers in range(2, 16)
    assert comparing.budget(left, Resources(16, one.peak, None)).workers == 1


def test_processes_find_what_threads_do(
    fresh: Path, models: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # which processes would not know of
    compared.compare(*models, fresh, rank=True)
    by_threads = survivors(fresh)
    commits.forget(compared.only(fresh))
    with dask.config.set(scheduler="processes"):
        compared.compare(*models, fresh, rank=True)
    assert survivors(fresh) == by_threads


def test_progress_ends_at_all_bytes(fresh: Path, models: tuple[Path, Path]) -> None:
    told: list[tuple[int, int]] = []
    done = compared.compare(*models, fresh, progress=lambda read, total: told.append((read, total)))
    assert told[-1] == (done.bytes_read, done.bytes_read)
    assert [read for read, _ in told] == sorted(read for read, _ in told)


@pytest.mark.parametrize(("choice", "axes"), [("all", 26), ("none", 0)])
def test_the_catalog_has_the_channels_that_it_has_of_model_b(
    choice: str, axes: int, scans: Path, models: tuple[Path, Path]
) -> None:
    shardscan.ingest(models[1], scans, channels=choice)
    assert rows(scans, "select channels from diffs") == [(choice,)]
    assert rows(scans, "select count(distinct (weight_b, axis)) from channel_diffs") == [(axes,)]


def test_too_many_channels_are_left_out_unasked(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardscan.plan.scan.MOST_CHANNELS", 10)
    catalog.build(scans, rebuild=True)
    assert rows(scans, "select channels from diffs") == [("dense",)]


def lora(folder: Path, rank: int, dtype: Any, scale: float, shape: tuple[int, int]) -> tuple[pairs.Pair, np.ndarray]:
    """A weight before and after a LoRA was merged, and the change as it is stored."""
    rng = np.random.default_rng(rank)
    base = (rng.standard_normal(shape) * 0.02).astype(dtype)
    update = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1])) * scale
    merged = (base.astype(np.float64) + update).astype(dtype)
    sides = []
    for name, w in (("a", base), ("b", merged)):
        found = compared.sides(compared.placed(tiny.write(folder / name, {UP: w}, tiny.CONFIG))[1])
        sides.append(found[UP])
    return pairs.Pair(sides[0], sides[1]), base.astype(np.float64) - merged.astype(np.float64)


@pytest.mark.parametrize("shape", [(200, 300), (300, 200)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_a_merged_lora_is_found_with_its_rank(dtype: Any, shape: tuple[int, int], tmp_path: Path) -> None:
    pair, change = lora(tmp_path, 8, dtype, 1e-3, shape)
    found = changes.rank_change(pair)
    sigma = np.linalg.svd(change, compute_uv=False)
    assert found.failure is None
    assert found.rank == 8
    assert found.sigma_max == pytest.approx(sigma[0], rel=1e-9)
    assert found.stable_rank == pytest.approx((sigma**2).sum() / sigma[0] ** 2, rel=1e-9)
    assert sigma[8] <= found.edge < sigma[7]


def test_the_edge_of_rounding_is_its_formula(tmp_path: Path) -> None:
    pair, _ = lora(tmp_path, 2, np.float16, 1e-3, (40, 30))
    b = load_file(tmp_path / "b" / "model.safetensors")[UP]
    variance = np.spacing(np.abs(b)).astype(np.float64) ** 2 / 12
    edge = math.sqrt(variance.sum(axis=1).max()) + math.sqrt(variance.sum(axis=0).max())
    assert changes.rank_change(pair).edge == pytest.approx(edge, rel=1e-12)


def test_rounding_alone_has_no_rank(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((300, 200)) * 0.02
    sides = {
        name: compared.sides(compared.placed(tiny.write(tmp_path / name, {UP: x}, tiny.CONFIG))[1])[UP]
        for name, x in (("a", w.astype(ml_dtypes.bfloat16)), ("b", w.astype(np.float32)))
    }
    for a, b in (("a", "b"), ("b", "a")):
        assert changes.rank_change(pairs.Pair(sides[a], sides[b])).rank == 0


def test_a_change_that_is_not_finite_has_no_rank_but_a_reason(
    fresh: Path, models: tuple[Path, Path], tmp_path: Path
) -> None:
    tensors = dict(load_file(models[0] / "model.safetensors"))
    tensors[UP] = tensors[UP].copy()
    tensors[UP][0, 0] = np.inf
    odd = tiny.write(tmp_path / "odd", tensors, tiny.CONFIG)
    shardscan.ingest(odd, fresh)
    compared.compare(models[0], odd, fresh, rank=True)
    query = "select status, reason is not null, changed, change_rank is null from tensor_diffs where weight_b = "
    assert rows(fresh, f"{query}'{UP}'") == [("ok", True, 1, True)]
    assert rows(fresh, "select count(*) from tensor_diffs where change_rank = 0 and rounding_edge is null") == [(12,)]
