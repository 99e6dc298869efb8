"""OV and QK circuits against the SVD of the full product, which the code never forms."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import shardscan
from made import tiny
from made.commands import ingest as in_a_process
from made.once import Once
from oracles.exactness import tensors_of
from oracles.keys import repeated
from shardscan.anatomy import composites
from shardscan.anatomy import placement as anatomy
from shardscan.anatomy.families import loading as families
from shardscan.catalog import build as catalog
from shardscan.cli import main
from shardscan.jobs.scan.options import Resources, ScanOptions
from shardscan.jobs.scan.prepare import prepare, remaining
from shardscan.plan import product_costs
from shardscan.plan import scan as plan
from shardscan.plan import scan_budget as budget
from shardscan.plan.products import CIRCUITS, asked_by
from shardscan.plan.tasks import CompositeTask
from shardscan.reduce.kernels import cpu
from shardscan.reduce.result import Result
from shardscan.reduce.scan import reduce_composite
from shardscan.reduce.spectra import METHODS, Spectra
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.store import gate as keep

Weights = dict[str, np.ndarray]
BERT = {"q": "self.query", "k": "self.key", "v": "self.value", "o": "output.dense"}
CIRCUIT_BYTES = 2 * 2 * tiny.HIDDEN * tiny.HEAD_DIM * (2 * tiny.HEADS + 2 * tiny.KV_HEADS)
TABLES = ("matrices", "spectra", "singular_values", "spectrum_fits", "channels")


def query(store: Path, sql: str) -> list[tuple[Any, ...]]:
    with shardscan.connect(store) as connection:
        return connection.sql(sql).fetchall()


def product(w: Mapping[str, np.ndarray], kind: str, head: int, heads: int, kv_heads: int) -> np.ndarray:
    """The (hidden, hidden) circuit of one query head of q, k, v and o, by its definition."""
    dim = len(w["q"]) // heads
    own, shared = (slice(h * dim, (h + 1) * dim) for h in (head, head // (heads // kv_heads)))
    left, right = (w["o"][:, own], w["v"][shared]) if kind == "ov" else (w["q"][own].T, w["k"][shared])
    return np.asarray(left @ right)


def weights(heads: int, kv_heads: int, dim: int, hidden: int, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    shapes = {"q": (heads * dim, hidden), "k": (kv_heads * dim, hidden), "v": (kv_heads * dim, hidden)}
    return {role: rng.standard_normal(shape) for role, shape in (shapes | {"o": (hidden, heads * dim)}).items()}


def llama(folder: Path, w: Mapping[str, np.ndarray], dim: int, code: str = "F64", **config: Any) -> Path:
    names = {f"model.layers.0.self_attn.{role}_proj.weight": values for role, values in w.items()}
    config = {"architectures": ["LlamaForCausalLM"], "head_dim": dim} | config
    return tensors_of(folder, names, code, config)


def found(folder: Path) -> dict[str, composites.Composite]:
    return {c.role: c for c in composites.list_composites(anatomy.place_tensors(open_checkpoint(folder)))}


def solved(circuit: composites.Composite) -> tuple[np.ndarray, list[str], np.ndarray]:
    """σ (heads, rank), methods, and self-checks of one layer's circuits."""
    result = reduced(circuit)
    assert result.failure is None
    spectra = Spectra.of(result.outcomes[CIRCUITS].of_tensor, "composites")
    return spectra.sigma, [METHODS[m] for m in spectra.methods], spectra.self_check


def reduced(circuit: composites.Composite) -> Result:
    return reduce_composite(CompositeTask("", "", CIRCUITS, circuit, (0, 0)))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "hidden"),
    [(4, 2, 8, 16), (4, 4, 8, 32), (6, 2, 5, 48), (4, 1, 20, 12), (1, 1, 1, 7), (2, 1, 8, 1)],
    ids=["GQA", "MHA", "head_dim is not hidden / heads", "d > hidden", "one", "one input"],
)
@pytest.mark.parametrize("code", ["F64", "BF16"])
def test_circuits_are_the_svd_of_the_product(
    tmp_path: Path, heads: int, kv_heads: int, dim: int, hidden: int, code: str
) -> None:
    folder = llama(tmp_path, weights(heads, kv_heads, dim, hidden), dim, code)
    names = {role: f"model.layers.0.self_attn.{role}_proj.weight" for role in "qkvo"}
    held = {role: shardscan.open(folder)[name].compute().astype(np.float64) for role, name in names.items()}
    for kind, circuit in found(folder).items():
        assert (circuit.heads, circuit.rank) == (heads, min(dim, hidden))
        sigma, methods, checks = solved(circuit)
        assert methods == ["qr_cores"] * heads
        assert checks.max() < 1e-14
        for head in range(heads):
            expected = np.linalg.svd(product(held, kind, head, heads, kv_heads), compute_uv=False)
            np.testing.assert_allclose(sigma[head], expected[: min(dim, hidden)], atol=1e-12 * expected[0], rtol=0)


def test_bert_has_circuits_too(tmp_path: Path) -> None:
    w = weights(3, 3, 4, 12)
    names = {f"encoder.layer.0.attention.{BERT[role]}.weight": values for role, values in w.items()}
    config = {"architectures": ["BertModel"], "hidden_size": 12, "num_attention_heads": 3}
    for kind, circuit in found(tensors_of(tmp_path, names, "F64", config)).items():
        assert circuit.id == f"circuit:encoder.0.{kind}"
        for head, sigma in enumerate(solved(circuit)[0]):
            expected = np.linalg.svd(product(w, kind, head, 3, 3), compute_uv=False)[:4]
            np.testing.assert_allclose(sigma, expected, atol=1e-12 * expected[0], rtol=0)


def test_a_planted_circuit_of_rank_one_is_found(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    w = weights(4, 2, 8, 16)
    w["o"][:, 16:24] = np.outer(w["o"][:, 16], w["o"][0, 16:24])  # of head 2
    llama(model, w, 8)
    shardscan.ingest(model, tmp_path / "scans", spectra="circuits")
    assert query(tmp_path / "scans", "select matrix, numerical_rank from ranks where numerical_rank < 8") == [
        ("circuit:text.0.ov.2", 1)
    ]
    ((below, condition),) = query(
        tmp_path / "scans", "select below_floor, condition from spectra join ranks using (model, spectrum) "
        "where spectrum = 'circuit:text.0.ov.2'",
    )  # fmt: skip
    assert (below, condition) == (7, None)


def test_the_floor_is_relative_to_the_factors_and_not_to_what_is_left_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    w = weights(1, 1, 8, 16)
    # W_V writes where W_O does not read, but for a share of 1e-15: all σ are what rounding makes of them
    w["o"][:] = basis @ np.diag([1.0] * 4 + [1e-15] * 4 + [0.0] * 8)[:, :8]
    w["v"][:] = np.diag([0.0] * 4 + [1.0] * 4) @ basis[:8]
    shardscan.ingest(llama(tmp_path / "m", w, 8), tmp_path / "scans", spectra="circuits")
    sql = "select sigma_max < floor, below_floor, self_check < 1e-14 from spectra where role = 'ov'"
    assert query(tmp_path / "scans", sql) == [(True, 8, True)]
    assert query(tmp_path / "scans", "select alpha, log_norm from spectrum_fits where role = 'ov'") == [(None, None)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_costs_the_heads_that_share_it(tmp_path: Path, bad: float) -> None:
    w = weights(4, 2, 8, 16)
    w["v"][9, 3] = bad  # KV head 1
    w["q"][0, 0] = bad  # query head 0
    folder = llama(tmp_path / "m", w, 8)
    assert solved(found(folder)["ov"])[1] == ["qr_cores"] * 2 + ["none"] * 2
    assert solved(found(folder)["qk"])[1] == ["none"] + ["qr_cores"] * 3
    summary = shardscan.ingest(folder, tmp_path / "scans", spectra="circuits")
    assert not summary.failures
    sql = "select role, head, sigma_max, floor, reason from spectra where method = 'none' order by role, head"
    why = "NaN or infinite values, or squares beyond float64"
    assert query(tmp_path / "scans", sql) == [
        ("ov", 2, None, None, why),
        ("ov", 3, None, None, why),
        ("qk", 0, None, None, why),
    ]
    assert query(tmp_path / "scans", "select count(*) from singular_values") == [(5 * 8,)]


def test_no_value_that_is_not_finite_reaches_lapack() -> None:
    """In a process of its own: one infinity makes LAPACK spin for ever where it does reach it."""
    code = (
        "import numpy as np; from shardscan.reduce.kernels import cpu; w = np.ones((64, 32)); w[3, 4] = np.inf;"
        "assert cpu.core(w) is None; w[3, 4] = np.nan; assert cpu.core(w) is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


@pytest.mark.parametrize(
    ("scales", "known"), [((1e300, 1e-300), True), ((1e200, 1e200), False), ((1e-150, 1e-10), False)]
)
def test_scales_of_factors_that_cancel_are_right_and_those_beyond_float64_are_not_known(
    scales: tuple[float, float], known: bool
) -> None:
    rng = np.random.default_rng(2)
    left, right = rng.standard_normal((20, 6)), rng.standard_normal((30, 6))
    cores = [cpu.core(w * scale) for w, scale in zip((left, right), scales, strict=True)]
    assert cores[0] and cores[1]
    spectrum = cpu.product_spectrum(cores[0], cores[1])
    assert (spectrum is not None) == known
    if spectrum:
        expected = np.linalg.svd(left @ right.T, compute_uv=False)[:6]
        np.testing.assert_allclose(spectrum[0], expected, rtol=1e-12)
        assert spectrum[1] == pytest.approx(np.linalg.norm(left, 2) * np.linalg.norm(right, 2), rel=1e-12)


def test_zero_heads_have_circuits_of_zeros(tmp_path: Path) -> None:
    w = weights(2, 1, 8, 16)
    w["v"][:] = 0
    sigma, methods, checks = solved(found(llama(tmp_path, w, 8))["ov"])
    assert (sigma == 0).all() and (checks == 0).all() and methods == ["qr_cores"] * 2


@pytest.mark.parametrize("shape", [(1, 1), (9, 4), (4, 9), (300, 32)], ids=str)
def test_a_triangle_is_numpys(shape: tuple[int, int]) -> None:
    w = np.random.default_rng(3).standard_normal(shape)
    np.testing.assert_array_equal(cpu.triangle(w.copy()), np.linalg.qr(w, mode="r"))


def test_what_does_not_fit_has_no_circuit(tmp_path: Path) -> None:
    w = weights(4, 2, 8, 16)
    assert found(llama(tmp_path / "all", w, 8)).keys() == {"ov", "qk"}
    assert found(llama(tmp_path / "no v", {role: w[role] for role in "qko"}, 8)).keys() == {"qk"}
    assert found(llama(tmp_path / "ints", w, 8, "I8")).keys() == set()
    assert found(llama(tmp_path / "odd", w | {"k": w["k"][:8], "v": np.ones((24, 16))}, 8)).keys() == {"qk"}
    assert found(llama(tmp_path / "narrow", w | {"o": w["o"][:, :24]}, 8)).keys() == {"qk"}
    unknown = {role: w[role] for role in "vo"}
    assert found(llama(tmp_path / "unknown", unknown, 8)).keys() == set()
    by_config = llama(tmp_path / "by config", unknown, 8, num_attention_heads=4, num_key_value_heads=2)
    assert found(by_config).keys() == {"ov"}


def test_no_role_is_named_like_a_circuit() -> None:
    roles = {rule.role for f in families.load_families().values() for rules in f.rules.values() for rule in rules}
    assert roles & composites.CIRCUITS.keys() == set()


@pytest.fixture(scope="session")
def with_circuits(once: Once) -> Path:
    """A store of a checkpoint with heads and circuits."""

    def make(folder: Path) -> None:
        shardscan.ingest(tiny.llama(folder / "tiny"), folder / "scans", spectra="heads,circuits")

    return once("circuits", make) / "scans"


@pytest.mark.parametrize("role", ["ov", "qk"])
def test_ids_keys_and_shapes(with_circuits: Path, tmp_path: Path, role: str) -> None:
    shutil.copytree(with_circuits, tmp_path / "scans")
    ids = [f"circuit:text.{layer}.{role}.{head}" for layer in range(2) for head in range(tiny.HEADS)]
    sql = "select matrix, kind, tensor, component, layer, rows, cols from matrices where role = '{}' order by 1"
    expected = [(id, "circuit", None, "text", int(id[13]), tiny.HIDDEN, tiny.HIDDEN) for id in ids]
    assert query(tmp_path / "scans", sql.format(role)) == expected
    sql = "select spectrum, matrix, layer, head, rank, method from spectra where role = '{}' order by 1"
    spectra = [(id, id, int(id[13]), int(id[-1]), tiny.HEAD_DIM, "qr_cores") for id in ids]
    assert query(tmp_path / "scans", sql.format(role)) == spectra
    kept = f"role = '{role}' and mp_edge is null and snr is null and alpha is not null"
    assert query(tmp_path / "scans", f"select count(*) from spectrum_fits where {kept}") == [(len(ids),)]
    before = [query(tmp_path / "scans", f"select * from {table} order by all") for table in TABLES]
    catalog.build(tmp_path / "scans", rebuild=True)
    assert [query(tmp_path / "scans", f"select * from {table} order by all") for table in TABLES] == before
    assert repeated(tmp_path / "scans" / "catalog.duckdb") == []


def test_circuits_asked_for_later_add_only_themselves_and_any_workers_give_the_same_bits(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    shardscan.ingest(model, tmp_path / "later", workers=2)
    before = remaining(prepare(model, ScanOptions(spectra="circuits")), tmp_path / "later")
    assert (before.bytes_to_read, len(before.composites)) == (CIRCUIT_BYTES, 4)
    seen: list[tuple[int, int]] = []
    added = shardscan.ingest(
        model, tmp_path / "later", spectra="circuits", workers=2, progress=lambda *counts: seen.append(counts)
    )
    assert (added.tasks, added.bytes_read) == (4, CIRCUIT_BYTES)
    assert (len(seen), seen[-1]) == (4, (CIRCUIT_BYTES, CIRCUIT_BYTES))
    shardscan.ingest(model, tmp_path / "later", spectra="full", blas_threads=1)
    shardscan.ingest(model, tmp_path / "once", spectra="heads,full,circuits", workers=1, blas_threads=1)
    for table in TABLES:
        sql = f"select * from {table} order by all"
        assert query(tmp_path / "later", sql) == query(tmp_path / "once", sql)
    again = shardscan.ingest(model, tmp_path / "later", spectra="heads,full,circuits")
    assert (again.tasks, again.bytes_read) == (0, 0)


def test_a_factor_that_cannot_be_read_fails_its_circuits_alone_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.llama(tmp_path / "tiny")
    wrong = found(model)["ov"].left.placed.tensor  # of the last layer
    unseen = keep.is_unchanged
    monkeypatch.setattr(keep, "is_unchanged", lambda tensor, seen: tensor != wrong and unseen(tensor, seen))
    shardscan.ingest(model, tmp_path / "scans", spectra="heads")
    failed = shardscan.ingest(model, tmp_path / "scans", spectra="circuits").failures
    assert failed["circuit:text.1.ov"] == keep.CHANGED_IN_SCAN
    why = "select reason, count(*) from spectra where role in ('ov', 'qk') group by 1 order by 2"
    assert query(tmp_path / "scans", why) == [(keep.CHANGED_IN_SCAN, tiny.HEADS), (None, 3 * tiny.HEADS)]
    assert query(tmp_path / "scans", "select count(*) from matrices where kind = 'circuit'") == [(4 * tiny.HEADS,)]
    monkeypatch.undo()
    again = shardscan.ingest(model, tmp_path / "scans", spectra="circuits")
    assert (again.tasks, again.failures) == (2, {})  # the tensor's own, and the circuit
    assert query(tmp_path / "scans", why) == [(None, 4 * tiny.HEADS)]


def test_a_file_that_ends_early_fails_with_its_reason(tmp_path: Path) -> None:
    model = llama(tmp_path, weights(4, 2, 8, 16), 8)
    circuit = found(model)["ov"]
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(900)
    assert "shorter than its header says" in str(reduced(circuit).failure)


def test_singular_values_that_miss_the_norm_are_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *a, **k: np.multiply(svd(*a, **k), 1 + 1e-5))
    failure = reduced(found(llama(tmp_path, weights(4, 2, 8, 16), 8))["ov"]).failure
    assert "of head" in str(failure) and "miss the norm of the weights by" in str(failure)


def test_a_model_without_circuits_is_told_so_in_a_sentence(tmp_path: Path) -> None:
    model = tensors_of(tmp_path / "plain", {"a.weight": np.ones((4, 4))})
    for more in (["--dry-run"], []):
        arguments = ["ingest", str(model), "--store", str(tmp_path / "scans"), "--spectra", "heads,circuits", *more]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0
        assert "Note: no circuits: no layer has q_proj and k_proj, or v_proj and o_proj, with heads" in done.stderr
    assert "circuits" not in CliRunner().invoke(main, ["ingest", str(model), "--dry-run"]).stderr


def test_circuits_are_counted_in_the_plan(tmp_path: Path) -> None:
    placed = anatomy.place_tensors(open_checkpoint(tiny.llama(tmp_path / "tiny")))
    without, all_of_it = (plan.plan_scan(placed, asked_by(spectra)) for spectra in ("none", "circuits"))
    assert all_of_it.bytes_to_read - without.bytes_to_read == CIRCUIT_BYTES
    assert all_of_it.store_bytes - without.store_bytes == product_costs.STORED_SIGMA * 4 * tiny.HEADS * tiny.HEAD_DIM
    assert [task.name for task in all_of_it.composites] == ["text.ov.0", "text.ov.1", "text.qk.0", "text.qk.1"]


def test_planned_memory_is_enough(tmp_path: Path) -> None:
    w = {role: x.astype(np.float32) for role, x in weights(2, 1, 128, 20_000).items()}
    model = llama(tmp_path / "m", w, 128, "BF16")
    prepared = prepare(model, ScanOptions(spectra="circuits"), resources=Resources.within(workers=2))
    planned = prepared.budget(prepared.plan)
    found = in_a_process(model, "--store", tmp_path / "scans", "--spectra", "circuits", "--workers", "2")
    assert planned.composites == planned.peak
    assert planned.composites - budget.BASELINE > 2 * 3 * 8 * 128 * 20_000
    assert found["peak_memory"] <= planned.peak <= 1.5 * found["peak_memory"]


@pytest.mark.real
def test_smollm2_agrees_with_the_svd_of_its_products(smollm2: Path) -> None:
    model = shardscan.open(smollm2)
    w = {role: model[f"model.layers.7.self_attn.{role}_proj.weight"].compute().astype(np.float64) for role in "qkvo"}
    layer = {c.role: c for c in composites.list_composites(anatomy.place_tensors(model.checkpoint)) if c.layer == 7}
    for kind, circuit in layer.items():
        sigma, methods, _ = solved(circuit)
        assert methods == ["qr_cores"] * 9
        for head in (0, 7):
            expected = np.linalg.svd(product(w, kind, head, 9, 3), compute_uv=False)[:64]
            np.testing.assert_allclose(sigma[head], expected, atol=1e-11 * expected[0], rtol=0)
