"""Values, not only names: what a model's own forward code takes for q, k, v and experts is what our tables describe.

A tiny random model of each architecture sees one basis vector after the other at position 0, where rotary embeddings
turn nothing. What its code then hands to attention are the columns of the weights, in heads, as the code splits them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shardscan
from made import golden
from oracles.reference import channel_statistics
from shardscan.anatomy.matrices import Matrix
from shardscan.anatomy.places import Placed
from shardscan.jobs.scan.prepare import prepare

torch = pytest.importorskip("torch", reason="torch comes with the extra `oracle`")
transformers = pytest.importorskip("transformers", reason="transformers comes with the extra `oracle`")

LAYER = 1
Weights = dict[str, np.ndarray]  # by role: the rows of all heads, inputs as columns


def model_of(name: str) -> Any:
    """The model of a golden file with random weights and no biases, which would add to what is read off."""
    file = golden.read(name)
    cls = getattr(transformers, file.cls)
    config = cls.config_class(**file.settings)
    config._attn_implementation = config._experts_implementation = "eager"
    model = cls(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if parameter_name.endswith("bias"):
                parameter.zero_()
    return model


def scanned(name: str, model: Any, folder: Path) -> Path:
    """A store with a scan of the model's tensors under the names that they have in memory."""
    from safetensors.torch import save_file

    file = golden.read(name)
    state = model.state_dict()
    save_file({key: state[key].contiguous() for key in file.shapes}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(file.config))
    shardscan.ingest(folder, folder / "scans", name=name)
    return folder / "scans"


def placed(folder: Path) -> Iterator[tuple[Placed, Matrix, np.ndarray]]:
    """Every matrix of the layer with its values, cut from its tensor as our anatomy says, as it is after turning."""
    prepared = prepare(folder)
    for p in prepared.anatomy.placed:
        if p.place.layer == LAYER and p.matrices:
            stored = p.tensor.window().read().reshape(p.stored_shape)
            for matrix in p.matrices:
                rows = matrix.stored_rows.indices(0, len(matrix.stored_rows))
                w = stored[rows][:, matrix.stored_cols.indices(0, len(matrix.stored_cols))]
                yield p, matrix, w.T if matrix.turned else w


def check(store: Path, role: str, w: np.ndarray, heads: int, axis: str, expert: int | None = None) -> None:
    """The channels and head spectra that the tables have for one matrix of the layer are those of `w`."""
    with shardscan.connect(store) as db:
        of_one = "role = $role and layer = $layer and expert is not distinct from $expert"
        what = {"role": role, "layer": LAYER, "expert": expert}
        ((id, rows, cols, count),) = db.execute(
            f"select matrix, rows, cols, heads from matrices where {of_one}", what
        ).fetchall()
        assert (rows, cols, count or 0) == (*w.shape, heads)
        for side in ("out", "in"):
            names = ("mean", "std", "absmax", "mean_abs")
            sql = f"select {', '.join(names)} from channels where matrix = $id and axis = $side order by channel"
            found = np.array(db.execute(sql, {"id": id, "side": side}).fetchall())
            expected = channel_statistics(w.astype(np.float64), side)
            for i, statistic in enumerate(names):
                np.testing.assert_allclose(found[:, i], expected[statistic], rtol=1e-6, atol=1e-7)
        sql = "select head, sigma from singular_values where spectrum like $id || '@%' order by head, i"
        sigmas = db.execute(sql, {"id": id}).fetchall()
    pieces = np.split(w, heads, axis=0 if axis == "out" else 1) if heads else []
    for head, piece in enumerate(pieces):
        sigma = [s for h, s in sigmas if h == head]
        np.testing.assert_allclose(sigma, np.linalg.svd(piece, compute_uv=False), rtol=1e-5, atol=1e-5)


# ---- attention


def basis(count: int, width: int) -> Any:
    """The first `width` of `count` inputs are basis vectors, the others 0: (count, 1, width)."""
    return torch.eye(count, width)[:, None, :]


def attention_of(name: str, model: Any) -> Any:
    paths = {"gpt2": "transformer.h.1.attn", "gpt_neox": "gpt_neox.layers.1.attention", "bloom": "", "falcon": ""}
    default = "transformer.h.1.self_attention" if name.startswith(("bloom", "falcon")) else "model.layers.1.self_attn"
    return model.get_submodule(paths.get(name) or default)


def run_with(model: Any, attention: Any, inputs: Any) -> Any:
    """Run the model with these inputs to one attention module; what that module gives."""
    given: list[Any] = []

    def replace(_: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (inputs, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": inputs}

    hooks = [
        attention.register_forward_pre_hook(replace, with_kwargs=True),
        attention.register_forward_hook(lambda _, __, output: given.append(output[0])),
    ]
    with torch.no_grad():
        model(torch.zeros(len(inputs), 1, dtype=torch.long), use_cache=False)
    for hook in hooks:
        hook.remove()
    return given[0]


def heads_of(states: Any, width: int) -> np.ndarray:
    """(count, heads, 1, d) or (count, 1, heads, d) of basis vectors → (heads, d, width)."""
    flat = states.squeeze(2) if states.shape[2] == 1 else states.squeeze(1)
    return np.asarray(flat.detach()[:width]).transpose(1, 2, 0)


@pytest.mark.parametrize("name", ["phi3", "gpt2", "gpt_neox"])
def test_q_k_v_and_o_are_what_attention_is_given(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    attention = attention_of(name, model)
    seen: dict[str, Any] = {}
    hidden = model.config.hidden_size

    def spy(module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        count, heads, _, d = query.shape
        if module is attention:
            seen.update(q_proj=query, k_proj=key, v_proj=value)
        return torch.eye(count, heads * d).reshape(count, 1, heads, d), None

    monkeypatch.setattr(sys.modules[type(attention).__module__], "eager_attention_forward", spy)
    output = run_with(model, attention, basis(2 * hidden, hidden))
    store = scanned(name, model, tmp_path)
    for role, states in seen.items():
        w = heads_of(states, hidden)
        check(store, role, w.reshape(-1, hidden), len(w), "out")
    heads = len(heads_of(seen["q_proj"], hidden))
    width = heads * seen["q_proj"].shape[-1]
    check(store, "o_proj", np.asarray(output.detach()[:width, 0]).T, heads, "in")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("bloom", "_reshape"),
        ("falcon", "_split_heads"),
        ("falcon-multi_query", "_split_heads"),
        ("falcon-multi_head", "_split_heads"),
    ],
)
def test_q_k_and_v_are_what_the_model_splits(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name)
    attention = attention_of(name, model)
    seen: dict[str, Any] = {}
    split: Callable[[Any], Any] = getattr(attention, method)

    def spy(fused: Any) -> Any:
        found = split(fused)
        seen.update(zip(("q_proj", "k_proj", "v_proj"), found, strict=True))
        return found

    monkeypatch.setattr(attention, method, spy)
    hidden = model.config.hidden_size
    run_with(model, attention, basis(hidden, hidden))
    store = scanned(name, model, tmp_path)
    for role, states in seen.items():
        w = heads_of(states, hidden)
        # Falcon repeats a KV head for each of its queries
        once = [head for i, head in enumerate(w) if i == 0 or not np.array_equal(head, w[i - 1])]
        check(store, role, np.concatenate(once), len(once), "out")


@pytest.mark.parametrize("name", ["deepseek_v3"])
def test_k_and_v_of_latent_attention_are_what_the_model_expands(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    attention, rank = attention_of(name, model), model.config.kv_lora_rank
    latents = torch.eye(rank)[:, None, None, :]
    rotary = torch.zeros(rank, 1, 1, model.config.qk_rope_head_dim)
    with torch.no_grad():
        key, value = attention.expand_kv(latents, rotary)
    store = scanned(name, model, tmp_path)
    for role, states in (("k_b_proj", key[..., : model.config.qk_nope_head_dim]), ("v_b_proj", value)):
        w = heads_of(states, rank)
        check(store, role, w.reshape(-1, rank), len(w), "out")


# ---- experts


def by_silu(gate: Any, up: Any) -> Any:
    return torch.nn.functional.silu(gate) * up


def of_gpt_oss(gate: Any, up: Any) -> Any:
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return (up + 1) * gate * torch.sigmoid(gate * 1.702)


def routed(experts: Any, x: Any, expert: int) -> Any:
    """One expert's answer, by the stack's own forward code."""
    index = torch.full((len(x), 1), expert)
    return experts(x, index, torch.ones(len(x), 1))


def of_llama4(experts: Any, x: Any, expert: int) -> Any:
    count = len(experts.down_proj)
    return experts(x.repeat(count, 1)).reshape(count, *x.shape)[expert]


@pytest.mark.parametrize(
    ("name", "path", "answer", "activation"),
    [
        ("mixtral", "mlp.experts", routed, by_silu),
        ("qwen3_moe", "mlp.experts", routed, by_silu),
        ("deepseek_v3", "mlp.experts", routed, by_silu),
        ("gpt_oss", "mlp.experts", routed, of_gpt_oss),
        ("llama4", "feed_forward.experts", of_llama4, by_silu),
    ],
)
def test_an_expert_is_what_the_model_computes_with(
    name: str, path: str, answer: Callable[[Any, Any, int], Any], activation: Callable[[Any, Any], Any], tmp_path: Path
) -> None:
    model = model_of(name)
    store = scanned(name, model, tmp_path)
    found = {(matrix.role, matrix.expert): w for _, matrix, w in placed(tmp_path) if matrix.kind == "expert"}
    experts = 1 + max(expert for _, expert in found if expert is not None)
    assert experts > 2
    x = torch.randn(5, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    for expert in range(experts):
        gate, up, down = (torch.tensor(found[role, expert]) for role in ("gate_proj", "up_proj", "down_proj"))
        with torch.no_grad():
            theirs = answer(model.get_submodule(f"model.layers.{LAYER}.{path}"), x, expert)
        ours = activation(x @ gate.T, x @ up.T) @ down.T
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        for role in ("gate_proj", "up_proj", "down_proj"):
            check(store, role, found[role, expert], 0, "out", expert)
