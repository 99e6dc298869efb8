"""A container format of somebody's own: read, scanned, verified and compared without a line of shardscan changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import shardscan
from made import tiny
from made.toys import as_toys, with_toys
from shardscan.cli import main
from shardscan.jobs.verification.job import verify
from shardscan.shards.checkpoint import open as open_checkpoint


@pytest.fixture(autouse=True)
def _toys() -> Iterator[None]:
    with with_toys():
        yield


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (40, 16), "model.layers.0.mlp.up_proj.weight": (24, 16)}
    return {name: rng.standard_normal(shape).astype("<f4") for name, shape in shapes.items()}


# of one layer, as the toy is
CONFIG = {**tiny.CONFIG, "num_hidden_layers": 1}


def toy_model(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    first, second = ([item] for item in arrays(seed).items())
    one, two = "model-00001-of-00002.toy", "model-00002-of-00002.toy"
    (folder / one).write_bytes(as_toys(dict(first)))
    (folder / two).write_bytes(as_toys(dict(second)))
    (folder / "model.toy.index.json").write_text(json.dumps({"weight_map": {first[0][0]: one, second[0][0]: two}}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def test_a_toy_is_opened_with_its_index_and_config_and_has_its_values(tmp_path: Path) -> None:
    found = open_checkpoint(toy_model(tmp_path / "m"))
    assert (found.format, found.name, found.notes) == ("toy", "m", ())
    assert found.config == CONFIG
    for name, values in arrays().items():
        np.testing.assert_array_equal(found[name].window().read(), values)


def test_a_toy_is_scanned_to_the_numbers_of_its_safetensors_twin(tmp_path: Path) -> None:
    toy, twin = toy_model(tmp_path / "toy"), tiny.write(tmp_path / "twin", arrays(), CONFIG)
    for path in (toy, twin):
        assert not shardscan.ingest(path, tmp_path / "scans").failures
    with shardscan.connect(tmp_path / "scans") as db:
        ours, theirs = (
            db.sql(f"select * exclude (model, file) from tensors where model = '{m}' order by tensor").fetchall()
            for m in ("toy", "twin")
        )
    assert str(ours) == str(theirs)


def test_the_commands_take_a_toy(tmp_path: Path) -> None:
    a, b, store = toy_model(tmp_path / "a"), toy_model(tmp_path / "b", 1), str(tmp_path / "scans")
    run = CliRunner().invoke
    assert len(run(main, ["ls", str(a), "--format", "jsonl"]).stdout.splitlines()) == 2
    assert run(main, ["ingest", str(a), "--store", store]).exit_code == 0
    assert run(main, ["verify", str(a)]).exit_code == 0
    assert run(main, ["diff", str(a), str(b), "--store", store]).exit_code == 0


def test_a_toy_that_is_cut_or_has_a_nan_is_a_problem(tmp_path: Path) -> None:
    model = toy_model(tmp_path / "m")
    one = model / "model-00001-of-00002.toy"
    bad = next(iter(arrays().values())).copy()
    bad[0, 1] = np.nan
    one.write_bytes(as_toys({next(iter(arrays())): bad}))
    assert [(f.check, f.position) for f in verify(model).findings if f.severity == "problem"] == [("nan", "[0, 1]")]
    one.write_bytes(one.read_bytes()[:-4])
    problems = [f for f in verify(model).findings if f.severity == "problem"]
    assert [(f.check, f.file) for f in problems] == [("header", one.name)]
    assert "cut short: 4 bytes" in problems[0].detail


def test_a_toy_beside_a_model_of_safetensors_is_left_alone_and_one_of_another_name_is_told_by_its_start(
    tmp_path: Path,
) -> None:
    tiny.write(tmp_path / "m", arrays())
    (tmp_path / "m" / "other.toy").write_bytes(as_toys(arrays()))
    assert open_checkpoint(tmp_path / "m").format == "safetensors"
    (tmp_path / "weights").write_bytes(as_toys(arrays()))
    assert open_checkpoint(tmp_path / "weights").format == "toy"
