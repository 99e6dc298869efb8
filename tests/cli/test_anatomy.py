"""`shardscan anatomy`: every tensor's place, why it is there, and families of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from made import golden, tiny
from shardscan.cli import main

OURS = """
# A model of our own
name = "ours"
architectures = ["OursForCausalLM"]
extends = "llama"
[[component]]
name = "text"
[component.inside]
"mixer.qkv" = { role = "qkv_proj", axes = "(parts heads d) m", parts = ["q_proj", "k_proj", "v_proj"] }
"""


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, words, env=environment)


def rows(*words: str, **environment: str) -> list[dict[str, Any]]:
    done = run(*words, "--format", "json", **environment)
    assert done.exit_code == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def explained(model: Path, name: str, *words: str) -> dict[str, list[str]]:
    facts: dict[str, list[str]] = {}
    for row in rows("anatomy", str(model), "--explain", name, *words):
        facts.setdefault(row["fact"], []).append(row["value"])
    return facts


def of_golden(name: str, folder: Path) -> Path:
    file = golden.read(name)
    tensors: dict[str, np.ndarray] = {n: np.ones(shape, np.float32) for n, shape in file.shapes.items()}
    return tiny.write(folder, tensors, file.config)


@pytest.fixture(name="ours")
def _ours(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint that no family of ours knows, and the file of one that does."""
    tensors: dict[str, np.ndarray] = {
        f"model.layers.{n}.mixer.qkv.weight": np.ones((48, 16), np.float32) for n in range(2)
    }
    tensors |= {f"model.layers.{n}.input_layernorm.weight": np.ones(16, np.float32) for n in range(2)}
    config = {"architectures": ["OursForCausalLM"], "num_attention_heads": 2, "head_dim": 8}
    family = tmp_path / "families" / "ours.toml"
    family.parent.mkdir()
    family.write_text(OURS)
    return tiny.write(tmp_path / "model", tensors, config), family


def test_tensors_without_a_place_come_first(ours: tuple[Path, Path]) -> None:
    found = rows("anatomy", str(ours[0]))
    assert [(row["role"], row["layer"], row["rule"]) for row in found] == [
        ("other", 0, None),
        ("other", 1, None),
        ("input_norm", 0, "llama.toml: model.layers.{layer}.input_layernorm"),
        ("input_norm", 1, "llama.toml: model.layers.{layer}.input_layernorm"),
    ]
    said = run("anatomy", str(ours[0])).stderr
    assert "; family llama, 2.0 % of the parameters placed. `shardscan anatomy` lists" in said and "--family" in said


@pytest.mark.parametrize("how", ["file", "folder", "environment"])
def test_a_family_of_ones_own_names_them(ours: tuple[Path, Path], how: str, tmp_path: Path) -> None:
    model, family = ours
    words = [] if how == "environment" else ["--family", str(family if how == "file" else family.parent)]
    environment = {"SHARDSCAN_FAMILIES": f"{family}"} if how == "environment" else {}
    found = rows("anatomy", str(model), *words, **environment)
    matrices = "q_proj 16×16 (2×8), k_proj 16×16 (2×8), v_proj 16×16 (2×8)"
    assert {row["matrices"] for row in found if row["role"] == "qkv_proj"} == {matrices}
    assert {row["role"] for row in rows("ls", str(model), *words, **environment)} == {"qkv_proj", "input_norm"}
    done = run("ingest", str(model), "--store", str(tmp_path / "scans"), *words, **environment)
    assert done.exit_code == 0, done.stderr
    assert "family ours" in done.stderr
    sql = "select family, count(*) as heads from models join spectra using (model) group by all"
    assert rows("sql", sql, "--store", str(tmp_path / "scans")) == [{"family": "ours", "heads": 12}]


def test_a_family_that_has_a_name_of_ours_takes_its_place(ours: tuple[Path, Path]) -> None:
    model, family = ours
    family.write_text(OURS.replace('"ours"', '"gpt2"').replace("OursForCausalLM", "GPT2LMHeadModel"))
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["GPT2LMHeadModel"]}
    (model / "config.json").write_text(json.dumps(config))
    assert "family gpt2" in run("anatomy", str(model), "--family", str(family)).stderr
    assert all(row["role"] != "other" for row in rows("anatomy", str(model), "--family", str(family)))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = ", "not a family file"),
        ("name = 'Ours'", "a family needs a name of lower-case letters"),
        (OURS.replace('"llama"', '"lama"'), "there is no family 'lama' to extend"),
        (OURS.replace("(parts heads d) m", "(parts heads dd) m"), "'dd' is no size; say under [config] which keys"),
        (OURS.replace("parts = [", "lengths = ["), "'lengths' is none of role, axes, parts"),
    ],
)
def test_a_family_file_that_is_wrong_ends_in_a_sentence_and_its_exit_code(
    ours: tuple[Path, Path], text: str, complaint: str
) -> None:
    model, family = ours
    family.write_text(text)
    done = run("anatomy", str(model), "--family", str(family))
    assert done.exit_code == 4
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_files_of_one_name_are_refused(ours: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(OURS)
    done = run("anatomy", str(ours[0]), "--family", str(ours[1]), "--family", str(tmp_path / "other.toml"))
    assert done.exit_code == 4
    assert "there is a family 'ours' in" in done.stderr


@pytest.mark.parametrize("what", ["gone.toml", "empty", "latin.toml"])
def test_a_family_file_that_cannot_be_read_ends_in_a_sentence(
    ours: tuple[Path, Path], what: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    done = run("anatomy", str(ours[0]), "--family", str(tmp_path / what))
    assert done.exit_code == 4
    assert what in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_explanation_says_the_rule_and_what_follows_from_it(tmp_path: Path) -> None:
    model = of_golden("phi3", tmp_path / "phi3")
    name = "model.layers.1.self_attn.qkv_proj.weight"
    facts = explained(model, name)
    assert facts["rule"] == ["llama.toml: model.layers.{layer}.self_attn.qkv_proj"]
    assert facts["place"] == ["text, layer 1, qkv_proj: weight"]
    assert facts["axes"] == ["(parts d) m"]
    assert facts["parts"] == ["q_proj heads, k_proj kv_heads, v_proj kv_heads"]
    assert facts["matrix"] == [
        f"{name}#q_proj; 48 × 48; 6 heads of 8 rows; stored rows 0 to 47, columns 0 to 47",
        f"{name}#k_proj; 16 × 48; 2 heads of 8 rows for 3 query heads each; stored rows 48 to 63, columns 0 to 47",
        f"{name}#v_proj; 16 × 48; 2 heads of 8 rows for 3 query heads each; stored rows 64 to 79, columns 0 to 47",
    ]


def test_an_explanation_of_a_stack_says_where_its_parts_alternate(tmp_path: Path) -> None:
    model = of_golden("gpt_oss", tmp_path / "gpt_oss")
    name = "model.layers.0.mlp.experts.gate_up_proj"
    facts = explained(model, name)
    assert facts["stored"] == ["F32 [4, 64, 192] inputs × outputs"]
    assert facts["matrix"][3] == (
        f"{name}[1]#up_proj; 96 × 64; stored rows 64 to 127, columns 1 and so on every 2, 96 times"
    )


def test_an_explanation_of_what_no_rule_names_shows_the_nearest(ours: tuple[Path, Path]) -> None:
    facts = explained(ours[0], "model.layers.0.mixer.qkv.weight")
    assert facts["family"] == ["none; the checkpoint's is llama"]
    assert facts["rule"][0].startswith("none")


def test_a_name_that_is_not_there_is_refused_with_the_nearest(ours: tuple[Path, Path]) -> None:
    done = run("anatomy", str(ours[0]), "--explain", "model.layers.0.mixer.qvk.weight")
    assert done.exit_code == 3
    assert "did you mean 'model.layers.0.mixer.qkv.weight'?" in done.stderr
