"""Parts, stacks and turned weights, any of them: what is cut out of a stored tensor is what lies there by itself.

Random layouts, dtypes and grids of blocks; every matrix has the fingerprints, channels, groups and spectra of the same
values stored alone.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles.exactness import Found, of_matrix, packed, shard
from shardscan.anatomy import placement as anatomy
from shardscan.anatomy.families import loading as families
from shardscan.anatomy.matrices import Matrix
from shardscan.plan import scan as plan
from shardscan.plan.products import FULL, HEADS, STATS
from shardscan.reduce.blocks import Partial, finish_tensor, merge_products, reduce_block
from shardscan.reduce.devices import Solver
from shardscan.reduce.products import MatrixSteps, steps_of
from shardscan.shards.checkpoint import open as open_checkpoint

FAMILY = """
name = "any"
architectures = ["Any"]
[config]
heads = ["heads"]
kv_heads = ["kv_heads"]
head_dim = ["d"]
experts = ["experts"]
x = ["x"]
y = ["y"]
[[component]]
name = "text"
prefixes = [""]
layer = "layers.{layer}."
[component.inside."t"]
role = "fused"
axes = "%s"
transposed = %s
%s
"""
NAME = "layers.0.t.weight"
EQUAL, OF_HEADS = 'parts = ["q", "k", "v"]', 'parts = { q = "heads", k = "kv_heads", v = "kv_heads" }'
ONE_KEY = 'parts = { q = "heads", k = "1", v = "1" }'
Weights = dict[str, np.ndarray]
Made = tuple[
    str, str, np.ndarray, Weights
]  # axes, parts, the tensor before turning, its matrices by the end of their id


def made(kind: str, rng: np.random.Generator, sizes: dict[str, int], code: str) -> Made:
    """A tensor of one kind of layout, put together from its matrices."""
    heads, kv_heads, d, m = (sizes[name] for name in ("heads", "kv_heads", "d", "m"))

    def w(rows: int, cols: int = m) -> np.ndarray:
        values = (
            rng.standard_normal((rows, cols))
            if code not in ("F4", "F6_E2M3")
            else rng.choice([0.5, 1, -2, 3.0], (rows, cols))
        )
        return np.asarray(values * (rng.random((rows, cols)) < 0.6), np.float32)

    def named(parts: Weights) -> Weights:
        return {f"#{role}": x for role, x in parts.items()}

    all_heads = {role: w(heads * d) for role in "qkv"}
    shared = {"q": w(heads * d), "k": w(kv_heads * d), "v": w(kv_heads * d)}
    match kind:
        case "one after the other":
            return "(parts d) m", OF_HEADS, np.concatenate(list(shared.values())), named(shared)
        case "equal":
            return "(parts heads d) m", EQUAL, np.concatenate(list(all_heads.values())), named(all_heads)
        case "by head":
            stacked = np.stack([x.reshape(heads, d, m) for x in all_heads.values()], 1)
            return "(heads parts d) m", EQUAL, stacked.reshape(-1, m), named(all_heads)
        case "by KV head":
            grouped = np.concatenate([x.reshape(kv_heads, -1, m) for x in shared.values()], 1)
            parts = 'parts = { q = "queries", k = "1", v = "1" }'
            return "(kv_heads parts d) m", parts, grouped.reshape(-1, m), named(shared)
        case "one KV head":
            single = {"q": w(heads * d), "k": w(d), "v": w(d)}
            return "(parts d) m", ONE_KEY, np.concatenate(list(single.values())), named(single)
        case "latent":
            x, y = sizes["x"], sizes["y"]
            latent = {"k": w(heads * x), "v": w(heads * y)}
            by_head = np.concatenate([latent["k"].reshape(heads, x, m), latent["v"].reshape(heads, y, m)], 1)
            return "(heads parts) m", 'parts = { k = "x", v = "y" }', by_head.reshape(-1, m), named(latent)
        case "heads are columns":
            o = w(m, heads * d)
            return "m (heads d)", "", o, {"": o}
    experts = [{"g": w(sizes["f"]), "u": w(sizes["f"])} for _ in range(sizes["experts"])]
    each = [np.stack([e["g"], e["u"]], 1 if kind == "alternating experts" else 0).reshape(-1, m) for e in experts]
    axes = "experts (f parts) m" if kind == "alternating experts" else "experts parts m"
    return axes, 'parts = ["g", "u"]', np.stack(each), {
        f"[{i}]#{role}": x for i, e in enumerate(experts) for role, x in e.items()
    }  # fmt: skip


def results(folder: Path, family: str) -> dict[str, tuple[Matrix, Found, np.ndarray]]:
    """Every matrix of a checkpoint with its results and all its singular values."""
    placed = anatomy.place_tensors(open_checkpoint(folder), {"any": families.parse_family(family, "any.toml")})
    planned = plan.plan_scan(placed, frozenset({STATS, HEADS, FULL}))
    found = {}
    for unit in (unit for task in planned.tasks for unit in task.units):
        result = finish_tensor(
            unit, reduce(merge_products, [reduce_block(block) for block in unit.blocks] or [Partial()])
        )
        assert result.failure is None
        for number, matrix in enumerate(unit.matrices):
            full = steps_of(FULL, MatrixSteps).solve(unit.placed, matrix, Solver())["full"]
            found[matrix.id] = matrix, of_matrix(result, unit, number), full[None]
    return found


KINDS = [
    "one after the other", "equal", "by head", "by KV head", "one KV head", "latent", "heads are columns",
    "experts", "alternating experts",
]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True], ids=["outputs × inputs", "inputs × outputs"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_out_is_what_lies_alone(
    kind: str, turned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(KINDS.index(kind) + 100 * turned)
    for number, code in enumerate(("F32", "BF16", "F8_E4M3", "F6_E2M3", "F4", "F16")):
        monkeypatch.setattr("shardscan.plan.blocks.BLOCK_BYTES", int(rng.choice([64, 300, 1000, 16 << 20])))
        kv_heads = int(rng.choice([1, 2, 3]))
        sizes: dict[str, Any] = {
            "kv_heads": kv_heads, "heads": kv_heads * int(rng.choice([1, 2])), "d": int(rng.choice([2, 4, 8])),
            "x": int(rng.choice([2, 5])), "y": int(rng.choice([1, 8])), "m": int(rng.choice([8, 24])),
            "f": int(rng.choice([2, 7])), "experts": int(rng.choice([2, 9, 17])),
        }  # fmt: skip
        axes, parts, tensor, alone = made(kind, rng, sizes, code)
        stored = np.ascontiguousarray(np.swapaxes(tensor, -1, -2) if turned else tensor)
        folder = shard(
            tmp_path / f"{number}",
            {NAME: (code, stored.shape, packed(stored, code))},
            {**sizes, "architectures": ["Any"]},
        )
        found = results(folder, FAMILY % (axes, str(turned).lower(), parts))
        assert {id.removeprefix(NAME) for id in found} == alone.keys()
        for end, w in alone.items():
            matrix, one, sigma = found[NAME + end]
            single = shard(
                tmp_path / f"{number}{end}", {NAME: (code, w.shape, packed(w, code))}, {"architectures": ["Any"]}
            )
            ((_, expected, all_of_it),) = results(single, FAMILY % ("m f", "false", "")).values()
            assert (matrix.rows, matrix.cols) == w.shape
            for side in ("out", "in"):
                prints, right = (getattr(r, f"fingerprints_{side}") for r in (one, expected))
                np.testing.assert_array_equal(prints, right, err_msg=f"{code} {side}")
                channels, right = (getattr(r, f"channels_{side}") for r in (one, expected))
                np.testing.assert_allclose(channels, right, rtol=1e-9, atol=1e-12, err_msg=f"{code} {side}")
            np.testing.assert_array_equal(one.violations, expected.violations, err_msg=code)
            np.testing.assert_allclose(sigma, all_of_it, atol=1e-7 * all_of_it.max())
            if matrix.heads:
                assert one.heads
                value = open_checkpoint(single)[NAME].window().read().astype(np.float64)
                cut = np.split(value, matrix.heads.count, axis=0 if matrix.heads.axis == "out" else 1)
                for sigma_of_head, piece in zip(one.heads.sigma, cut, strict=True):
                    right = np.linalg.svd(piece, compute_uv=False)
                    np.testing.assert_allclose(sigma_of_head, right, atol=1e-7 * right.max())
