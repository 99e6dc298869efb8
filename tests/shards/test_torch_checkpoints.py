"""PyTorch files as checkpoints: which of a folder are read, views of storages, and what `verify` finds in them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.lib.stride_tricks import as_strided

import shardscan
from made import tiny
from made.torchfiles import Record, archived, dict_of, name, pickled, records, storage, tensor, zipped
from shardscan.cli import main
from shardscan.errors import CheckpointError, CheckpointNotFound, HeaderError, ShardIndexError
from shardscan.jobs.verification.job import Finding, verify
from shardscan.shards import checkpoint as shards
from shardscan.shards import strided as gather

ONE, TWO = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
MODEL, INDEX, SAFE = "pytorch_model.bin", "pytorch_model.bin.index.json", "model.safetensors"
Build = Callable[[Path], object]


def put(file: str, *names: str) -> Build:
    data = zipped(dict_of(**dict.fromkeys(names or ("a",), tensor())))
    return lambda folder: (folder / file).write_bytes(data)


def text(file: str, content: bytes = b"x") -> Build:
    return lambda folder: (folder / file).write_bytes(content)


def indexed(weight_map: Any, file: str = INDEX) -> Build:
    return lambda folder: (folder / file).write_text(json.dumps({"weight_map": weight_map}))


def build(*steps: Build) -> Build:
    return lambda folder: [step(folder) for step in steps]


def safetensors(file: str = SAFE) -> Build:
    header = b'{"safe":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    return text(file, struct.pack("<Q", len(header)) + header + b"x")


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    (tmp_path / "pruned").mkdir()
    return tmp_path / "pruned"


LEFT_BY_TRAINING = ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state_0.pth", "scaler.pt")
BOTH = build(put(ONE, "a"), put(TWO, "b"))
FOUND: dict[str, tuple[Build, str, list[str]]] = {
    "one file": (put(MODEL), "", ["a"]),
    "the file itself": (put(MODEL), MODEL, ["a"]),
    "an index": (build(BOTH, indexed({"a": ONE, "b": TWO})), "", ["a", "b"]),
    "the index itself": (build(BOTH, indexed({"a": ONE, "b": TWO})), INDEX, ["a", "b"]),
    "an index before a file": (build(BOTH, put(MODEL, "z"), indexed({"a": ONE, "b": TWO})), "", ["a", "b"]),
    "numbered files": (BOTH, "", ["a", "b"]),
    "a file before numbered ones": (build(BOTH, put(MODEL, "z")), "", ["z"]),
    "an adapter": (build(put("adapter_model.bin"), put("other.bin", "z")), "", ["a"]),
    "the only file": (build(put("weights.pth"), text("config.json", b"{}")), "", ["a"]),
    "what training leaves beside": (
        build(put("model.pt"), *map(put, LEFT_BY_TRAINING)),
        "",
        ["a"],
    ),
    "safetensors before all": (build(BOTH, put(MODEL), indexed({"a": ONE}), safetensors()), "", ["safe"]),
    "a file by what is in it": (safetensors(MODEL), "", ["safe"]),
    "a file without an ending": (put("weights"), "weights", ["a"]),
}  # fmt: skip
REFUSED: dict[str, tuple[Build, type[CheckpointError], str]] = {
    "a refused safetensors file beside": (build(put(MODEL), text(SAFE)), HeaderError, "1 bytes long"),
    "a refused safetensors index beside": (
        build(put(MODEL), indexed({}, "model.safetensors.index.json")),
        ShardIndexError,
        "empty weight_map",
    ),
    "a torch file named .safetensors": (put(SAFE), HeaderError, "name it .bin"),
    "two files": (build(put("a.pt"), put("b.pt")), CheckpointError, "2 PyTorch files, like 'a.pt'"),
    "only what training leaves": (put("optimizer.pt"), CheckpointNotFound, "only 'optimizer.pt'"),
    "a missing number": (put(ONE), ShardIndexError, "has 1 of the 2 shards"),
    "an index to another kind": (build(safetensors("x"), indexed({"safe": "x"})), ShardIndexError, "not a .bin file"),
    "an index to a path": (build(put(MODEL), indexed({"a": "../x.bin"})), ShardIndexError, "outside this folder"),
    "a tensor in two files": (build(put(ONE), put(TWO)), ShardIndexError, "no index says which one counts"),
}


@pytest.mark.parametrize("case", FOUND)
def test_a_folder_means_these_files(case: str, folder: Path) -> None:
    make, given, names = FOUND[case]
    make(folder)
    found = shards.open(folder / given)
    assert list(found) == names
    assert found.format == ("safetensors" if "safe" in names else "pytorch")
    assert found.name == (given if given == "weights" else "pruned")


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_is_refused(case: str, folder: Path) -> None:
    make, kind, said = REFUSED[case]
    make(folder)
    with pytest.raises(kind, match=said) as refused:
        shards.open(folder)
    assert type(refused.value) is kind


def test_a_model_in_a_file_of_another_name_is_called_like_it(folder: Path) -> None:
    put("foo.pt")(folder)
    assert shards.open(folder / "foo.pt").name == "foo"
    assert shards.open(folder).name == "pruned"


def test_pickles_beside_safetensors_are_told_and_left_alone(folder: Path) -> None:
    build(safetensors(), put(MODEL), put("optimizer.pt"))(folder)
    assert any("'pytorch_model.bin' left out" in note for note in shards.open(folder).notes)
    findings = {f.file: f.detail for f in verify(folder).findings}
    assert all("runs code when it is loaded" in findings[file] for file in (MODEL, "optimizer.pt"))


# ---- views, against NumPy


def viewed(folder: Path, body: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Path:
    of = storage("0", body.size, name("torch", "IntStorage"))
    path = folder / MODEL
    path.write_bytes(zipped(dict_of(w=tensor(of, offset, shape, strides)), data={"0": body.astype("<i4").tobytes()}))
    return path


VIEWS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...]]] = {
    "in order": (0, (300, 200), (200, 1)),
    "transposed": (0, (200, 300), (1, 200)),
    "every other column": (1, (300, 100), (200, 2)),
    "expanded": (7, (40, 300), (0, 1)),
    "overlapping": (3, (50, 100), (1, 1)),
    "three dimensions, permuted": (0, (10, 30, 200), (200, 2000, 1)),
    "three dimensions, turned": (0, (20, 30, 10), (1, 20, 600)),
    "one value": (5, (), ()),
}


@pytest.mark.parametrize("span", [64, gather.SPAN])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_the_values_that_numpy_has(
    view: str, span: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("SPAN", "LEAST"):
        monkeypatch.setattr(gather, limit, min(span, getattr(gather, limit)))  # the less, the more pieces
    body = np.arange(60_000, dtype="<i4")
    offset, shape, strides = VIEWS[view]
    expected = np.array(as_strided(body[offset:], shape, [4 * stride for stride in strides]))
    found = shards.open(viewed(folder, body, offset, shape, strides))["w"]
    np.testing.assert_array_equal(found.window().read(), expected)
    for start in range(0, expected.size, 997):
        stop = min(start + 1500, expected.size)
        np.testing.assert_array_equal(found.run(start, (stop - start,)).read(), expected.reshape(-1)[start:stop])


def test_boxes_cover_a_run_of_values_in_order_and_once() -> None:
    shape = (3, 4, 5)
    numbers = np.arange(60).reshape(shape)
    for start in range(61):
        for stop in range(start, 61):
            cut = [
                numbers[tuple(slice(i, i + n) for i, n in zip(first, box, strict=True))].ravel()
                for first, box in gather.boxes(shape, start, stop)
            ]
            assert np.array_equal(np.concatenate([*cut, []]), np.arange(start, stop))
            assert len(cut) <= 5


def test_what_is_gathered_is_read_in_small_pieces() -> None:
    asked: list[int] = []
    body = np.arange(1 << 20, dtype="<u2").reshape(1024, 1024).view(np.uint8).reshape(-1)

    def read(into: memoryview, at: int) -> None:
        asked.append(len(into))
        into[:] = body[at : at + len(into)].data

    found = gather.gathered(read, 0, 2, gather.View((1024, 1024), (1, 1024), 0), 256 * 1024)
    np.testing.assert_array_equal(found.view("<u2").reshape(256, 1024), body.view("<u2").reshape(1024, 1024).T[:256])
    assert max(asked) <= gather.SPAN
    assert sum(asked) < 4 * len(found)


def test_a_view_is_scanned_as_its_values_are_and_a_tied_tensor_too(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = rng.standard_normal((40, 16)).astype("<f4")
    query = rng.standard_normal((32, 16)).astype("<f4")
    of = [storage(key, array.size) for key, array in (("0", head), ("1", query))]
    held = {
        "model.embed_tokens.weight": tensor(of[0], 0, (40, 16), (16, 1)),
        "lm_head.weight": tensor(of[0], 0, (40, 16), (16, 1)),
        "model.layers.0.self_attn.q_proj.weight": tensor(of[1], 0, (32, 16), (1, 32)),
    }
    data = {"0": head.tobytes(), "1": np.ascontiguousarray(query.T).tobytes()}
    (folder / MODEL).write_bytes(zipped(dict_of(**held), data=data))
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG))
    plain = dict.fromkeys(list(held)[:2], head) | {list(held)[2]: query}
    tiny.write(tmp_path / "plain", plain, tiny.CONFIG)
    for path in (folder, tmp_path / "plain"):
        assert not shardscan.ingest(path, tmp_path / "scans", spectra="heads,full").failures
    with shardscan.connect(tmp_path / "scans") as db:
        for table in ("tensors", "channels", "spectra", "distribution"):
            columns = "* exclude (model, file, shared_with)" if table == "tensors" else "* exclude (model)"
            ours, theirs = (
                sorted(map(str, db.sql(f"select {columns} from {table} where model = '{model}'").fetchall()))
                for model in ("pruned", "plain")
            )
            assert ours == theirs
            assert ours
        aliases = db.sql("select tensor, alias_of from tensors where alias_of is not null and model = 'pruned'")
        assert aliases.fetchall() == [("lm_head.weight", "model.embed_tokens.weight")]


# ---- verify


def findings(path: Path) -> list[Finding]:
    return list(verify(path).findings)


def floats(folder: Path, values: np.ndarray, *views: tuple[str, int, tuple[int, ...], tuple[int, ...]]) -> Path:
    of = storage("0", values.size)
    held = dict_of(**{name_: tensor(of, offset, shape, strides) for name_, offset, shape, strides in views})
    (folder / MODEL).write_bytes(zipped(held, data={"0": values.astype("<f4").tobytes()}))
    return folder


def test_verify_looks_at_every_value_of_a_view(folder: Path) -> None:
    values = np.ones(12)
    values[7] = np.nan  # row 1, column 3 of (3, 4), so row 3, column 1 of its transpose
    floats(folder, values, ("w.t", 0, (4, 3), (1, 4)), ("w", 0, (3, 4), (4, 1)), ("again", 0, (3, 4), (4, 1)))
    found = {(f.tensor, f.position) for f in findings(folder) if f.check == "nan"}
    assert found == {("w.t", "[3, 1]"), ("w", "[1, 3]"), ("again", "[1, 3]")}


def test_verify_finds_holes_in_tensors_that_share_a_storage(folder: Path) -> None:
    values = np.full(1 << 20, 1.1)  # none of whose bytes is zero
    values[300_000:700_000] = 0
    floats(
        folder, values, ("whole.weight", 0, (1024, 1024), (1024, 1)), ("part.weight", 10_240, (700, 1024), (1024, 1)),
        ("turned.weight", 0, (1024, 1024), (1, 1024)), ("early.weight", 0, (10, 1024), (1024, 1)),
    )  # fmt: skip
    found = {f.tensor: f.detail for f in findings(folder) if f.check == "zeros"}
    assert set(found) == {"whole.weight", "part.weight"}
    assert all("1,600,000 of" in detail for detail in found.values())


def test_verify_finds_a_bit_that_is_not_what_was_written(folder: Path) -> None:
    data = bytearray(zipped(dict_of(a=tensor()), data={"0": struct.pack("<6f", *range(1, 7))}))
    data[data.index(struct.pack("<f", 6.0)) + 1] ^= 1
    (folder / MODEL).write_bytes(data)
    (found,) = [f for f in findings(folder) if f.severity == "problem"]
    assert (found.check, found.file) == ("checksum", MODEL)
    assert "'data/0'" in found.detail


def test_verify_tells_of_a_bad_shard_and_reads_the_other(folder: Path) -> None:
    build(put(ONE, "a"), text(TWO, b"PK\3\4"), indexed({"a": ONE, "b": TWO}))(folder)
    verdict = verify(folder)
    assert [(f.check, f.file) for f in verdict.findings if f.severity == "problem"] == [("header", TWO)]
    assert verdict.count == 1


def test_a_checkpoint_without_checksums_is_clean(folder: Path) -> None:
    bare = [Record(r.name, r.body, crc=0) for r in records(pickled(dict_of(a=tensor())))]
    (folder / MODEL).write_bytes(archived(bare))
    assert verify(folder).problems == 0


def test_the_commands_take_pytorch_files_and_say_what_is_odd(folder: Path) -> None:
    build(put(MODEL, "a", "b"))(folder)
    done = CliRunner().invoke(main, ["ls", str(folder), "--format", "jsonl"])
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 2)
    assert "Note: 'pytorch_model.bin': The tensor 'b' has the very bytes of another: 'a' (tied weights)." in done.stderr
    assert CliRunner().invoke(main, ["anatomy", str(folder)]).exit_code == 0
    assert CliRunner().invoke(main, ["verify", str(folder)]).exit_code == 0
