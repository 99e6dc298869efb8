"""N:M sparsity: groups that break 2:4 and 4:8, counted by a kernel, through an ingest, and as SQL says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import shardscan
from made import numpy_gpu, tiny
from oracles.exactness import NUMPY, SUB_BYTE, packed
from oracles.reference import group_violations
from shardscan.reduce.kernels import cpu
from shardscan.reduce.values import kernel_values
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.shards.dtypes import DTYPES

NAN, INF = np.nan, np.inf
LENGTHS = (4, 8)
SHAPES = [(1, 4), (1, 8), (7, 12), (16, 8), (33, 268), (12, 520), (268, 33), (36, 3), (0, 8), (8, 0), (0, 0)]


def query(store: Path, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with shardscan.connect(store) as db:
        return (db.sql(sql, params=parameters) if parameters else db.sql(sql)).fetchall()


def pruned(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Rows that are dense, empty, 2:4 to the last group or but for one value, and masked at random with any density."""
    x = rng.standard_normal((rows, cols))
    for i in range(rows):
        if i % 4 == 0:
            x[i] *= rng.random(cols) < rng.choice([0.0, 0.2, 0.5, 0.8, 0.99])
        elif i % 4 < 3:
            for j in range(0, cols - 3, 4):
                x[i, j + rng.permutation(4)[:2]] = 0
            if i % 4 == 2 and cols:
                x[i, rng.integers(cols)] = 1
    return x


def patterned(rng: np.random.Generator, code: str, shape: tuple[int, int]) -> np.ndarray:
    """Any bit patterns of a dtype (−0, NaN, infinities and subnormals among them), and zero where a mask prunes."""
    if code == "C128":  # two patterns in one value
        parts = [patterned(rng, "F64", shape) for _ in range(2)]
        return np.stack(parts, -1).view(np.complex128)[..., 0]
    bits = 1 if code == "BOOL" else DTYPES[code].bits
    patterns = rng.integers(0, 1 << min(bits, 62), shape, dtype=np.int64) * (pruned(rng, *shape) != 0)
    found: np.ndarray = patterns.astype(f"u{-(-DTYPES[code].bits // 8)}").view(NUMPY.get(code) or SUB_BYTE[code])
    return found


def widened(x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.abs(x.astype(np.complex128)) if x.dtype.kind == "c" else x.astype(np.float64)


def counted(x: np.ndarray, code: str, *, down: bool = False) -> list[list[int]]:
    """Violations (2, rows or columns) by the kernel, of an array in the bytes of a dtype."""
    rows, cols = x.shape
    raw = x.tobytes() if code == "C128" else packed(x, code)  # safetensors has no such dtype
    values, table = kernel_values(np.frombuffer(raw, np.uint8), code, (rows, cols))
    zeros = (widened(x) == 0).sum(1).astype(np.float64)
    found: list[list[int]] = cpu.group_violations(values, table, zeros, down).tolist()
    return found


@pytest.mark.parametrize("code", DTYPES)
def test_random_masks_of_every_dtype_agree_with_the_reference(code: str) -> None:
    rng = np.random.default_rng(1)
    for rows, cols in SHAPES:
        x = patterned(rng, code, (rows, cols))
        wide = widened(x)
        if cols % 4 == 0:
            expected = [group_violations(wide, length).tolist() for length in LENGTHS]
            assert counted(x, code) == expected, (rows, cols)
        if rows % 4 == 0:
            expected = [group_violations(wide.T, length).tolist() for length in LENGTHS]
            assert counted(x, code, down=True) == expected, (rows, cols)


@pytest.mark.parametrize("code", ["F16", "BF16", "F32", "F64"])
def test_nan_and_infinity_are_not_zero_and_negative_zero_is(code: str) -> None:
    rows: list[list[float]] = [
        [0, 0, NAN, INF],
        [-0.0, 1, -0.0, 1],
        [0, NAN, INF, -INF],
        [-0.0, NAN, 1, 1],
        [0, 0, 0, 0],
    ]
    x = np.array([row + row[::-1] for row in rows]).astype(NUMPY[code])
    assert counted(x, code) == [[0, 0, 2, 2, 0], [0, 0, 1, 1, 0]]


def test_the_least_float64_is_not_zero() -> None:
    x = np.array([[5e-324, 5e-324, 1, 0], [0, 0, 1, -5e-324]])
    assert counted(x, "F64")[0] == [1, 0]


def test_rows_that_can_hold_no_group_that_obeys_are_not_looked_at() -> None:
    values = np.zeros((8, 16), np.float32)
    values.flags.writeable = False
    for down in (False, True):
        unseen, seen = (cpu.group_violations(values, None, np.full(8, zeros), down) for zeros in (0.0, 16.0))
        assert {tuple(found) for found in unseen.T.tolist()} == {(2, 1) if down else (4, 2)}
        assert not seen.any()


# ---- through an ingest


def gpt2(folder: Path, seed: int = 0) -> tuple[Path, dict[str, np.ndarray]]:
    """Weights stored inputs × outputs, one of them three parts; and its matrices by id, rows outputs."""
    rng, hidden, inner = np.random.default_rng(seed), 24, 36
    alone = {"#q_proj": (hidden, hidden), "#k_proj": (hidden, hidden), "#v_proj": (hidden, hidden)}
    attn, fc, proj = (f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj"))
    found = {attn + part: pruned(rng, *shape) for part, shape in alone.items()}
    found |= {fc: pruned(rng, inner, hidden), proj: pruned(rng, hidden, inner)}
    found = {name: x.astype(ml_dtypes.bfloat16) for name, x in found.items()}
    stored = {attn: np.concatenate([found[attn + part] for part in alone]), fc: found[fc], proj: found[proj]}
    config = {"architectures": ["GPT2LMHeadModel"], "n_embd": hidden, "n_head": 3, "n_layer": 1}
    return tiny.write(folder, {name: np.ascontiguousarray(x.T) for name, x in stored.items()}, config), found


def gpt_oss(folder: Path, seed: int = 0) -> tuple[Path, dict[str, np.ndarray]]:
    """Stacks of 20 experts, inputs × outputs, whose gates and ups alternate, and a weight that is stored as it is."""
    rng, hidden, inner, experts = np.random.default_rng(seed), 20, 24, 20
    prefix = "model.layers.0"
    fused, down, q = (
        f"{prefix}.{n}" for n in ("mlp.experts.gate_up_proj", "mlp.experts.down_proj", "self_attn.q_proj.weight")
    )
    found = {
        f"{fused}[{e}]#{role}": pruned(rng, inner, hidden) for e in range(experts) for role in ("gate_proj", "up_proj")
    }
    found |= {f"{down}[{e}]": pruned(rng, hidden, inner) for e in range(experts)} | {q: pruned(rng, 16, hidden)}
    found = {name: x.astype(np.float16) for name, x in found.items()}
    both = [[found[f"{fused}[{e}]#{role}"] for role in ("gate_proj", "up_proj")] for e in range(experts)]
    stored = {
        fused: np.stack([np.stack(pair, 1).reshape(-1, hidden).T for pair in both]),
        down: np.stack([found[f"{down}[{e}]"].T for e in range(experts)]),
        q: found[q],
    }
    config = {
        "architectures": ["GptOssForCausalLM"],
        "num_local_experts": experts,
        "head_dim": 8,
        "num_attention_heads": 2,
    }
    return tiny.write(folder, {name: np.ascontiguousarray(x) for name, x in stored.items()}, config), found


def groups_of(w: np.ndarray) -> list[list[int] | None]:
    """Violations of each row by length; None where it does not divide the columns."""
    return [None if w.shape[1] % length else group_violations(w, length).tolist() for length in LENGTHS]


@pytest.mark.parametrize("made", [gpt2, gpt_oss])
@pytest.mark.parametrize("block", [100, 16 << 20])
def test_parts_experts_and_turned_weights_have_their_own_groups(
    made: Any, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardscan.plan.blocks.BLOCK_BYTES", block)
    folder, weights = made(tmp_path / "model")
    tables = []
    for workers in (1, 2):
        store = tmp_path / f"scans{workers}"
        shardscan.ingest(folder, store, workers=workers)
        tables.append([query(store, f"select * from {table} order by all") for table in ("channels", "matrices")])
    assert tables[0] == tables[1]
    found = {
        m: counts for m, *counts in query(store, "select matrix, zeros, violations_2_4, violations_4_8 from matrices")
    }
    assert found == {
        name: [int((w == 0).sum()), *(None if rows is None else sum(rows) for rows in groups_of(w))]
        for name, w in weights.items()
    }
    sql = """select matrix, list(violations_2_4 order by channel), list(violations_4_8 order by channel)
             from channels where axis = 'out' group by matrix"""
    every = {m: [None if None in rows else rows for rows in lists] for m, *lists in query(store, sql)}
    assert every == {name: groups_of(w) for name, w in weights.items()}
    sql = "select count(violations_2_4), count(violations_4_8), count(*) > 0 from channels where axis = 'in'"
    assert query(store, sql) == [(0, 0, True)]


def test_a_gpu_leaves_the_same_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy_gpu.install(monkeypatch)
    folder, _ = gpt2(tmp_path / "model")
    sql = "select matrix, axis, channel, zeros, violations_2_4, violations_4_8 from channels order by all"
    found = []
    for device in ("cpu", "cuda"):
        shardscan.ingest(folder, tmp_path / device, device=device)
        found.append(query(tmp_path / device, sql))
    assert found[0] == found[1]


def test_what_has_no_input_channels_or_no_statistics_has_no_groups(tmp_path: Path) -> None:
    tensors = {
        "conv.weight": np.zeros((8, 4, 2, 2), np.float32),
        "odd.weight": np.zeros((8, 6), np.float32),
        "bias": np.zeros(8, np.float32),
        "infinite.weight": np.full((2, 8), INF, np.float32),
    }
    shardscan.ingest(tiny.write(tmp_path / "model", tensors), tmp_path / "scans")
    sql = "select matrix, zeros, violations_2_4, violations_4_8 from matrices order by matrix"
    assert query(tmp_path / "scans", sql) == [
        ("conv.weight", 128, None, None), ("infinite.weight", 0, 4, 2), ("odd.weight", 48, None, None),
    ]  # fmt: skip
    sql = "select * exclude (model, component, layer, role) from unstructured_sparsity() order by parameters"
    assert query(tmp_path / "scans", sql) == [(3, 192, 176, 176 / 192, 4, 0.0, 2, False, 2, 0.0, 2, False)]


# ---- as SQL says it

PASSING = "passing_2_4, violating_rows_2_4, is_2_4, passing_4_8, violating_rows_4_8, is_4_8"


def obeying(weights: list[np.ndarray]) -> tuple[Any, ...]:
    """What PASSING is of weights that are pooled, all of whose columns are multiples of 8."""
    found: list[Any] = []
    for length in LENGTHS:
        obey = [(w != 0).reshape(len(w), -1, length).sum(2) <= length // 2 for w in weights]
        passing, groups = sum(int(x.sum()) for x in obey), sum(x.size for x in obey)
        found += [passing / groups, sum(int((~x).any(1).sum()) for x in obey), passing == groups]
    return tuple(found)


def test_experts_are_pooled_and_rows_are_known_where_the_catalog_has_channels(tmp_path: Path) -> None:
    folder, weights = gpt_oss(tmp_path / "model")
    store = tmp_path / "scans"
    downs = [w for name, w in weights.items() if "down_proj" in name]
    (q,) = (w for name, w in weights.items() if "q_proj" in name)
    expected = obeying(downs)
    sql = f"select matrices, parameters, zeros, {PASSING} from unstructured_sparsity(model := 'm%') where role = $role"
    counts = (len(downs), sum(w.size for w in downs), sum(int((w == 0).sum()) for w in downs))
    for channels, of_experts, of_q in (("all", True, True), ("dense", False, True), ("none", False, False)):
        shardscan.ingest(folder, store, channels=channels)
        known = expected if of_experts else [None if i in (1, 4) else value for i, value in enumerate(expected)]
        assert query(store, sql, role="down_proj") == [(*counts, *known)]
        # of 20 columns 8 is no divisor
        rows = sum(n > 0 for n in group_violations(q, 4)) if of_q else None
        ((_, _, zeros, passing, found, is_2_4, *of_8),) = query(store, sql, role="q_proj")
        assert (zeros, found, is_2_4, of_8) == ((q == 0).sum(), rows, False, [None, None, False])
        assert passing == pytest.approx(1 - group_violations(q, 4).sum() / (q.size / 4), abs=1e-12)
    assert query(store, "select count(*) from unstructured_sparsity(model := 'x%')") == [(0,)]


def test_one_group_of_one_expert_is_in_the_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    names = [f"model.layers.0.block_sparse_moe.experts.{e}.w2.weight" for e in range(3)]
    weights = {name: rng.standard_normal((16, 24)).astype(np.float32) for name in names}
    for w in weights.values():
        w.reshape(-1, 4)[:, :2] = 0
    config = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 3}
    shardscan.ingest(tiny.write(tmp_path / "sparse", weights, config), tmp_path / "scans")
    weights[names[1]][5, 8] = 1
    shardscan.ingest(tiny.write(tmp_path / "spoilt", weights, config), tmp_path / "scans")
    sql = f"select {PASSING} from unstructured_sparsity() order by model"
    sparse, spoilt = query(tmp_path / "scans", sql)
    assert sparse == (1, 0, True, 1, 0, True)
    groups = 3 * 16 * 24 // 4
    assert spoilt == ((groups - 1) / groups, 1, False, (groups // 2 - 1) / (groups // 2), 1, False)
    sql = "select matrix, channel from channels where violations_2_4 > 0"
    assert query(tmp_path / "scans", sql) == [(names[1], 5)]


# ---- real weights


def two_of_four(w: np.ndarray) -> np.ndarray:
    """Keep the two largest magnitudes of every group of 4."""
    groups = np.abs(w).reshape(-1, 4)
    kept = np.zeros(groups.shape, bool)
    np.put_along_axis(kept, np.argsort(-groups, axis=1, kind="stable")[:, :2], True, axis=1)
    return np.where(kept.reshape(w.shape), w, 0)


def wanda(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Zero the half of each row whose |w|·‖x‖ is lowest, x activations that nobody knows (arXiv 2306.11695)."""
    scores = np.abs(w) * rng.lognormal(size=(1, w.shape[1])).astype(np.float32)
    out = w.copy()
    np.put_along_axis(out, np.argsort(scores, axis=1, kind="stable")[:, : w.shape[1] // 2], 0, axis=1)
    return out


@pytest.mark.real
def test_masks_of_a_real_model_are_found_to_the_last_group(smollm2: Path, tmp_path: Path) -> None:
    rng, stored, rows = np.random.default_rng(3), {}, []
    roles = {"q_proj": "self_attn", "o_proj": "self_attn", "gate_proj": "mlp", "down_proj": "mlp"}
    checkpoint = open_checkpoint(smollm2)
    for layer in range(3):
        for role, module in roles.items():
            name = f"model.layers.{layer}.{module}.{role}.weight"
            dense = checkpoint[name].window().read()
            w = (dense, two_of_four(dense), wanda(dense, rng))[layer].astype(ml_dtypes.bfloat16)
            stored[name] = w
            rows.append((layer, role, int((w == 0).sum()), w.size, *obeying([w])))
    config = json.loads((smollm2 / "config.json").read_text())
    shardscan.ingest(tiny.write(tmp_path / "pruned", stored, config), tmp_path / "scans", workers=2)
    sql = f"select layer, role, zeros, parameters, {PASSING} from unstructured_sparsity() order by layer, role"
    assert query(tmp_path / "scans", sql) == sorted(rows)
    untouched, sparse, random = ([row for row in rows if row[0] == layer] for layer in range(3))
    assert all(row[2] < row[3] / 100 and row[4] < 0.01 for row in untouched)
    # more than half, because a kept value may have been zero before
    assert all(0.5 <= row[2] / row[3] < 0.501 for row in sparse + random)
    assert all(row[6] and row[9] for row in sparse)
    assert all(0.6 < row[4] < 0.75 and not row[6] for row in random)  # 11/16 by chance
