"""Where the bytes of a checkpoint's files are: of one tensor, of several, of none, and why a file did not shrink."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from safetensors.numpy import save_file

import shardscan
from made import tiny
from made.torchfiles import archived, dict_of, legacy, name, pickled, records, storage, tensor
from shardscan.answers.connection import ask
from shardscan.shards import checkpoint as shards
from shardscan.shards import coverage as extents
from shardscan.shards.coverage import covered
from shardscan.shards.dtypes import DTYPES
from shardscan.shards.header import Entry

EMBED, HEAD, UP = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"
BF16 = name("torch", "BFloat16Storage")
CODES = {2: "F16", 4: "F32"}
ROWS, COLS = 64, 32
Fields = dict[str, Any]

# ---- bytes that are counted once


def view(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], width: int = 2) -> Entry:
    """A view of a storage that begins at byte 0, as the reader of PyTorch's files makes it."""
    is_plain = strides == tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    reach = width * (1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)))
    begin = width * offset
    return Entry("w", CODES[width], shape, begin, begin + reach, None if is_plain else strides)


def marked(*entries: Entry) -> int:
    """The same by marking every byte."""
    body = np.zeros(max((entry.end for entry in entries), default=0), bool)
    for entry in entries:
        width = DTYPES[entry.dtype].bits // 8
        strides = entry.strides or [math.prod(entry.shape[i + 1 :]) for i in range(len(entry.shape))]
        shape, steps = (*entry.shape, width), [*(width * s for s in strides), 1]
        as_strided(body[entry.begin :], shape, steps)[...] = True
    return int(body.sum())


VIEWS = {
    "one tensor": [view(0, (6, 4), (4, 1))],
    "tied": [view(0, (6, 4), (4, 1))] * 3,
    "turned": [view(0, (4, 6), (1, 4))],
    "a slice of rows": [view(8, (2, 4), (4, 1))],
    "a slice of columns": [view(1, (6, 2), (4, 1))],
    "slices of columns that overlap": [view(0, (6, 3), (4, 1)), view(2, (6, 2), (4, 1))],
    "slices of columns side by side": [view(0, (6, 2), (4, 1)), view(2, (6, 2), (4, 1))],
    "every other column": [view(0, (6, 2), (4, 2))],
    "expanded": [view(3, (5, 4), (0, 1))],
    "a sliding window": [view(0, (9, 4), (1, 1))],
    "a sliding window of steps": [view(0, (9, 4), (3, 3))],
    "a slice and the turned whole": [view(8, (2, 4), (4, 1)), view(0, (4, 6), (1, 4))],
    "apart": [view(0, (2, 2), (2, 1)), view(9, (3,), (1,)), view(40, (3, 2), (4, 1))],
    "another dtype": [view(0, (6, 4), (4, 1)), view(1, (3, 2), (4, 1), 4)],
    "a scalar": [view(5, (), ())],
}


@pytest.mark.parametrize("case", VIEWS)
def test_a_byte_counts_once_however_many_tensors_have_it(case: str) -> None:
    assert covered(VIEWS[case]) == marked(*VIEWS[case])


def test_bytes_of_any_views_are_those_that_marking_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        found = []
        for _ in range(rng.integers(1, 6)):
            ndim = int(rng.integers(0, 4))
            shape, strides = (tuple(map(int, rng.integers(low, 9, ndim))) for low in (1, 0))
            found.append(view(int(rng.integers(0, 300)), shape, strides, int(rng.choice([2, 4]))))
        # as the pickle's reader has it, a tensor of one value along an axis has no stride there
        assert covered(found) == min(marked(*found), sum(entry.nbytes for entry in found))


def test_empty_tensors_and_files_have_no_bytes() -> None:
    assert covered([]) == covered([Entry("w", "F16", (0, 4), 0, 0), Entry("v", "F16", (3, 0), 8, 8)]) == 0


@pytest.mark.parametrize("most", [0, 1, 5, 40])
def test_views_too_fine_to_be_followed_are_bounded_from_above(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    every = [entry for case in VIEWS.values() for entry in case]
    true = {case: marked(*VIEWS[case]) for case in VIEWS}
    monkeypatch.setattr(extents, "MOST_RUNS", most)
    for case, found in VIEWS.items():
        assert true[case] <= covered(found) <= sum(entry.nbytes for entry in found)
    assert covered(VIEWS["every other column"]) == 24  # nothing else has its gaps
    assert marked(*every) <= covered(every)


# ---- checkpoints with known answers


def values(code: Any = ml_dtypes.bfloat16) -> dict[str, np.ndarray]:
    """An embedding and an up_proj; a quarter of the latter is zero."""
    rng = np.random.default_rng(1)
    made = {EMBED: rng.standard_normal((ROWS, COLS)), UP: rng.standard_normal((16, COLS))}
    made[UP][:4] = 0
    return {key: w.astype(ml_dtypes.bfloat16).astype(code) for key, w in made.items()}


def safetensors(folder: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG))
    return folder


def torch(folder: Path, held: Mapping[str, bytes], data: Mapping[str, np.ndarray]) -> Path:
    """A PyTorch file of these tensors and storages."""
    folder.mkdir()
    stored = {key: np.ascontiguousarray(w).tobytes() for key, w in data.items()}
    (folder / "pytorch_model.bin").write_bytes(archived(records(pickled(dict_of(**held)), stored)))
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG))
    return folder


def whole(key: str, w: np.ndarray) -> bytes:
    return tensor(storage(key, w.size, BF16), 0, w.shape, (w.shape[1], 1))


def stored_copy(folder: Path) -> Path:
    w = values()
    return safetensors(folder, {**w, HEAD: w[EMBED].copy()})


def tied(folder: Path) -> Path:
    w = values()
    held = {EMBED: whole("0", w[EMBED]), UP: whole("1", w[UP]), HEAD: whole("0", w[EMBED])}
    return torch(folder, held, {"0": w[EMBED], "1": w[UP]})


def tied_head_first(folder: Path) -> Path:
    w = values()
    held = {HEAD: whole("0", w[EMBED]), EMBED: whole("0", w[EMBED]), UP: whole("1", w[UP])}
    return torch(folder, held, {"0": w[EMBED], "1": w[UP]})


def torch_copy(folder: Path) -> Path:
    w = values()
    held = {HEAD: whole("2", w[EMBED]), EMBED: whole("0", w[EMBED]), UP: whole("1", w[UP])}
    return torch(folder, held, {"0": w[EMBED], "1": w[UP], "2": w[EMBED]})


def sliced(folder: Path) -> Path:
    """Half of the rows of one tensor and a quarter of the columns of the other, saved without .clone()."""
    w = values()
    held = {
        EMBED: tensor(storage("0", w[EMBED].size, BF16), 0, (ROWS // 2, COLS), (COLS, 1)),
        UP: tensor(storage("1", w[UP].size, BF16), 3, (16, COLS // 4), (COLS, 1)),
    }
    return torch(folder, held, {"0": w[EMBED], "1": w[UP]})


def single(folder: Path) -> Path:
    return safetensors(folder, values(np.float32))


E, U = 2 * ROWS * COLS, 2 * 16 * COLS  # bytes of the embedding and of up_proj, in BF16
KNOWN: dict[str, tuple[Callable[[Path], Path], Fields]] = {
    "a copy that is stored": (stored_copy, {"tensor_bytes": 2 * E + U, "copied_bytes": E, "zero_bytes": U // 4}),
    "a copy that PyTorch stored": (torch_copy, {"tensor_bytes": 2 * E + U, "copied_bytes": E, "zero_bytes": U // 4}),
    "tied, stored once": (tied, {"tensor_bytes": 2 * E + U, "shared_bytes": E, "zero_bytes": U // 4}),
    "tied, the head first": (tied_head_first, {"tensor_bytes": 2 * E + U, "shared_bytes": E, "zero_bytes": U // 4}),
    "slices of storages": (
        sliced, {"tensor_bytes": E // 2 + U // 4, "unused_bytes": E // 2 + 3 * U // 4, "zero_bytes": U // 16}
    ),
    "a copy in F32": (single, {"tensor_bytes": 2 * (E + U), "zero_bytes": U // 2, "bits_per_parameter": 32}),
}  # fmt: skip


@pytest.mark.parametrize("case", KNOWN)
def test_size_check_says_where_the_bytes_of_a_file_are(case: str, tmp_path: Path) -> None:
    make, known = KNOWN[case]
    folder = make(tmp_path / "model")
    shardscan.ingest(folder, tmp_path / "scans", spectra="none")
    (row,) = ask(tmp_path / "scans", "size-check").to_pylist()
    nothing = {"shared_bytes": 0, "unused_bytes": 0, "copied_bytes": 0, "bits_per_parameter": 16}
    assert {key: row[key] for key in nothing | known} == nothing | known
    (file,) = (path for path in folder.iterdir() if path.suffix != ".json")
    stored = sum(w.nbytes for w in values().values())
    stored += E * (row["copied_bytes"] > 0) + stored * (row["bits_per_parameter"] == 32)
    assert row["file_bytes"] == file.stat().st_size
    assert row["other_bytes"] == file.stat().st_size - stored > 0
    with shardscan.connect(tmp_path / "scans") as db:
        used = stored - row["unused_bytes"]
        assert db.sql("select bytes, (select sum(used_bytes) from files) from models").fetchall() == [(used, used)]
        found = db.sql("select bytes, file_bytes from size_report() where level = 'model'").fetchall()
        assert found == [(row["tensor_bytes"], row["file_bytes"])]


def test_a_tensor_says_whose_bytes_it_has(tmp_path: Path) -> None:
    for make in (stored_copy, tied, tied_head_first, sliced):
        shardscan.ingest(make(tmp_path / make.__name__), tmp_path / "scans", spectra="none")
    with shardscan.connect(tmp_path / "scans") as db:
        sql = (
            "select model, tensor, alias_of, shared_with from tensors where coalesce(alias_of, shared_with) is not null"
        )
        found = set(db.sql(sql).fetchall())
    assert found == {
        ("stored_copy", HEAD, EMBED, None),
        ("tied", HEAD, EMBED, EMBED),
        ("tied_head_first", HEAD, EMBED, None),
        ("tied_head_first", EMBED, None, HEAD),
    }


@pytest.mark.parametrize("make", [tied, tied_head_first])
def test_tied_weights_count_once_as_where_they_are_stored_once(make: Callable[[Path], Path], tmp_path: Path) -> None:
    once, twice = safetensors(tmp_path / "once", values()), make(tmp_path / "tied")
    parameters = (ROWS + 16) * COLS
    assert (shards.open(once).parameters, shards.open(twice).parameters) == (parameters, parameters)
    for a, b in ((once, twice), (twice, once)):
        found = shardscan.diff(a, b, tmp_path / "scans", values=True)
        assert (found.summary["parameters_a"], found.summary["parameters_b"]) == (parameters, parameters)
        assert (found.summary["equal"], found.summary["added"], found.summary["removed"]) == (2, 0, 0)
        assert found.modules["role"].to_pylist() == ["embed_tokens", "up_proj"]
    with shardscan.connect(tmp_path / "scans") as db:
        sizes = db.sql("select distinct parameters from size_report() where level = 'model'").fetchall()
        assert sizes == db.sql("select distinct parameters from models").fetchall() == [(parameters,)]


def test_a_checkpoint_notes_what_slices_have_kept(tmp_path: Path) -> None:
    (note,) = (note for note in shards.open(sliced(tmp_path / "model")).notes if "storages" in note)
    assert note == (
        f"'pytorch_model.bin': 2 tensors, like '{EMBED}', have a part of a storage that was saved whole, for want of "
        f".clone(): {E // 2 + 3 * U // 4:,} of the {E + U:,} bytes of its storages belong to no tensor"
    )
    for make in (tied, torch_copy, stored_copy):
        assert not any("belong to no tensor" in note for note in shards.open(make(tmp_path / make.__name__)).notes)


def test_storages_of_what_is_not_read_are_of_no_tensor(tmp_path: Path) -> None:
    six, more = storage("0", 6), storage("1", 10)
    value = dict_of(
        model=dict_of(w=tensor(six, 0, (6,), (1,))), optimizer=dict_of(state=dict_of(m=tensor(more, 0, (10,), (1,))))
    )
    for form, data in {
        "zip.bin": archived(records(pickled(value), {"0": bytes(24), "1": bytes(40)})),
        "legacy.bin": legacy(pickled(value), ("0", "1"), struct.pack("<q24x", 6) + struct.pack("<q40x", 10)),
    }.items():
        (tmp_path / form).write_bytes(data)
        found = shards.open(tmp_path / form)
        assert f"'{form}': 40 of the 64 bytes of its storages belong to no tensor" in found.notes
        assert [(f.data_nbytes, f.used_nbytes) for f in found.files] == [(64, 24)]


def test_a_second_copy_that_the_index_does_not_want_is_of_no_tensor(tmp_path: Path) -> None:
    w = values()
    save_file({EMBED: w[EMBED], UP: w[UP]}, tmp_path / "a.safetensors")
    save_file({UP: w[UP]}, tmp_path / "b.safetensors")
    index = {"weight_map": {EMBED: "a.safetensors", UP: "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = {f.name: (f.data_nbytes, f.used_nbytes) for f in shards.open(tmp_path).files}
    assert found == {"a.safetensors": (E + U, E), "b.safetensors": (U, U)}


@pytest.mark.parametrize(("total", "is_true"), [(E + U, True), (2 * E + U, True), (E, False)])
def test_an_index_may_count_what_is_tied_once_or_for_each_of_its_names(
    total: int, is_true: bool, tmp_path: Path
) -> None:
    folder = tied(tmp_path / "model")
    weight_map = dict.fromkeys((EMBED, UP, HEAD), "pytorch_model.bin")
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert any("total_size" in note for note in shards.open(folder).notes) is not is_true
