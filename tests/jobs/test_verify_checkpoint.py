"""`verify` of a checkpoint: one small defect planted, and the row that tells of it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from made import tiny
from shardscan.cli import main
from shardscan.errors import CheckpointError, CheckpointNotFound
from shardscan.jobs.verification import reading, values
from shardscan.jobs.verification.findings import coordinates
from shardscan.jobs.verification.job import Finding, verify

ONE, TWO, MODEL = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors"
INDEX = "model.safetensors.index.json"
MIB = 1 << 20
Stored = tuple[str, tuple[int, ...], bytes]  # dtype, shape, bytes
Build = Callable[[Path], object]


def shard(path: Path, tensors: dict[str, Stored]) -> None:
    header, body = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def of(*numbers: float) -> Stored:
    return "F32", (len(numbers),), np.array(numbers, np.float32).tobytes()


def weights(nbytes: int, seed: int = 0) -> Stored:
    """Bytes without a zero among them."""
    return "U8", (nbytes // 64, 64), np.random.default_rng(seed).integers(1, 255, nbytes, np.uint8).tobytes()


def put(name: str, **tensors: Stored) -> Build:
    return lambda folder: shard(folder / name, tensors or {"a": of(1, 2)})


def index(weight_map: object, **more: object) -> Build:
    return lambda folder: (folder / INDEX).write_text(json.dumps({"weight_map": weight_map, **more}))


def text(name: str, content: str = "x") -> Build:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return make


def link(name: str, target: str) -> Build:
    return lambda folder: (folder / name).symlink_to(target)


def sock(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "s"))


def build(*steps: Build) -> Build:
    return lambda folder: [step(folder) for step in steps]


two = build(put(ONE, a=of(1)), put(TWO, b=of(2)))
MAP = {"a": ONE, "b": TWO}


def found(path: Path) -> list[Finding]:
    return list(verify(path).findings)


def brief(findings: list[Finding]) -> list[tuple[object, ...]]:
    return [(f.severity, f.check, f.file, f.tensor, f.position) for f in findings]


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    (tmp_path / "my-model").mkdir()
    return tmp_path / "my-model"


def verified(path: Path) -> Result:
    return CliRunner().invoke(main, ["verify", str(path)])


# ---- what a user sees


def test_a_clean_model_is_clean_and_the_exit_code_says_so(tmp_path: Path) -> None:
    done = verified(tiny.llama(tmp_path / "tiny"))
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.endswith("Clean: 16 tensors, 10.6 kB read.\n")


def test_a_problem_is_a_row_a_summary_and_exit_code_10(folder: Path) -> None:
    put(MODEL, w=of(1, np.nan, np.inf, 2))(folder)
    text("x.py")(folder)
    done = verified(folder)
    assert done.exit_code == 10
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"severity": "problem", "check": "nan", "file": MODEL, "tensor": "w", "position": "[1]",
         "detail": "1 of 4 values is NaN."},
        {"severity": "problem", "check": "inf", "file": MODEL, "tensor": "w", "position": "[2]",
         "detail": "1 of 4 values is infinite."},
        {"severity": "note", "check": "file", "file": "x.py", "tensor": None, "position": None,
         "detail": "It is code: some programs run it if they are told to trust it."},
    ]  # fmt: skip
    assert done.stderr == "2 problems and 1 note in my-model: 1 tensor, 16 bytes read.\n"


def test_notes_alone_are_clean(folder: Path) -> None:
    build(put(MODEL), text("x.py"))(folder)
    done = verified(folder)
    assert (done.exit_code, done.stderr) == (0, "Clean, 1 note: 1 tensor, 8 bytes read.\n")


@pytest.mark.parametrize("make", [build(), text("model.gguf")])
def test_what_is_no_checkpoint_is_refused_with_exit_code_3(make: Build, folder: Path) -> None:
    make(folder)
    assert verified(folder).exit_code == 3
    assert verified(folder / "nowhere").exit_code == 3
    with pytest.raises(CheckpointNotFound):
        verify(folder)


def test_a_path_that_is_a_fifo_is_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / MODEL)
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        verify(folder / MODEL)


# ---- headers and index: problem or note, check, file, tensor, and words of the detail

FAULTS: list[tuple[str, Build, list[tuple[str, str, str | None, str | None, str]]]] = [
    (
        "a cut shard does not hide the other's NaN",
        build(put(ONE, a=of(1)), lambda f: os.truncate(f / ONE, 20), put(TWO, b=of(np.nan)), index(MAP)),
        [
            ("problem", "header", ONE, None, "is cut short"),
            ("problem", "nan", TWO, "b", "1 of 1 values is NaN"),
        ],
    ),
    (
        "a shard that is a FIFO",
        build(put(TWO, b=of(2)), lambda f: os.mkfifo(f / ONE), index(MAP)),
        [
            ("problem", "header", ONE, None, "is not a regular file"),
            ("problem", "file", ONE, None, "is a FIFO and no file"),
        ],
    ),
    (
        "a shard that is not there",
        build(put(TWO, b=of(2)), index(MAP)),
        [("problem", "index", ONE, None, "which is not there")],
    ),
    (
        "a tensor that no shard has, and one in another shard",
        build(two, index({"a": TWO, "b": TWO, "c": ONE})),
        [
            ("problem", "index", TWO, "a", f"but it is in {ONE!r}"),
            ("problem", "index", ONE, "c", "but no shard has it"),
        ],
    ),
    (
        "a tensor that the index does not list",
        build(two, put(ONE, a=of(1), z=of(3)), index(MAP)),
        [("problem", "index", ONE, "z", "in a shard and not in the index")],
    ),
    (
        "a tensor in two shards",
        build(two, put(TWO, a=of(1), b=of(2)), index(MAP)),
        [("problem", "duplicate", TWO, "a", f"wants it from {ONE!r}, with the same bytes")],
    ),
    (
        "a tensor in two shards, with other values",
        build(two, put(TWO, a=of(9), b=of(2)), index(MAP)),
        [("problem", "duplicate", TWO, "a", "with other bytes")],
    ),
    (
        "a tensor in two shards and no index",
        build(put("x.safetensors", a=of(1)), put("y.safetensors", a=of(1))),
        [
            ("problem", "duplicate", "y.safetensors", "a", "no index says which one counts"),
            ("note", "index", None, None, "all 2 shards were read"),
        ],
    ),
    (
        "a missing number, without an index",
        put(ONE, a=of(1)),
        [("problem", "file", None, None, "has 1 of the 2 shards")],
    ),
    (
        "a missing number, which the index leaves out too",
        build(put(ONE, a=of(1)), index({"a": ONE})),
        [("problem", "file", None, None, "has 1 of the 2 shards")],
    ),
    (
        "a false total_size",
        build(two, index(MAP, metadata={"total_size": 9})),
        [("note", "index", INDEX, None, "total_size of 9 where its tensors have 8 bytes")],
    ),
    (
        "an index that is no JSON",
        build(two, put(ONE, a=of(np.inf)), text(INDEX, "{")),
        [
            ("problem", "index", INDEX, None, "not valid JSON"),
            ("note", "index", None, None, "all 2 shards were read"),
            ("problem", "inf", ONE, "a", "infinite"),
        ],
    ),
    (
        "an index that leads outside",
        build(two, index({**MAP, "c": "../secret.safetensors"})),
        [("problem", "index", "../secret.safetensors", None, "outside this folder")],
    ),
    (
        "a name with unusual characters",
        put(MODEL, **{"a\x1b[31m\u202e": of(1)}),
        [("note", "header", MODEL, None, "a name with unusual characters")],
    ),
    (
        "a config that is no JSON",
        build(put(MODEL), text("config.json", "{")),
        [("note", "config", None, None, "config.json is not valid JSON")],
    ),
]


@pytest.mark.parametrize(("make", "expected"), [h[1:] for h in FAULTS], ids=[h[0] for h in FAULTS])
def test_every_fault_of_headers_and_index_is_told(
    make: Build, expected: list[tuple[str, str, str | None, str | None, str]], folder: Path
) -> None:
    make(folder)
    rows = found(folder)
    assert [(f.severity, f.check, f.file, f.tensor) for f in rows] == [row[:4] for row in expected]
    assert [said for f, (*_, said) in zip(rows, expected, strict=True) if said not in f.detail] == []
    assert all(f.detail.isprintable() and f.detail.endswith(".") for f in rows)


def test_an_index_of_nothing_but_absent_shards_is_a_problem_and_not_an_absent_checkpoint(folder: Path) -> None:
    index({"a": ONE, "b": TWO})(folder)
    assert brief(found(folder)) == [("problem", "index", ONE, None, None), ("problem", "index", TWO, None, None)]


def test_a_shard_that_is_mostly_a_hole_is_a_problem_and_its_terabyte_is_not_read(folder: Path) -> None:
    header = b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (1 << 40, 1 << 40)
    (folder / MODEL).write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(folder / MODEL, 8 + len(header) + (1 << 40))
    (row,) = found(folder)
    assert row[:2] == ("problem", "file")
    assert "on disk and the rest is a hole" in row.detail


# ---- values

NOT_FINITE: list[tuple[str, np.ndarray, int | None, int | None]] = [
    ("BF16", np.array([0x3F80, 0x7F80, 0x7FC1, 0xFF80], "<u2"), 2, 1),
    ("F16", np.array([0x3C00, 0x7BFF, 0xFC00, 0x7C01], "<u2"), 3, 2),
    ("F32", np.array([1, -np.inf, np.nan, np.nan], "<f4"), 2, 1),
    ("F64", np.array([1, 2, 3, np.nan], "<f8"), 3, None),
    ("C64", np.array([1, 1j, complex(1, np.inf), complex(np.nan, 1)], "<c8"), 3, 2),
    ("F8_E4M3", np.array([0x7E, 0xFF, 1, 2], np.uint8), 1, None),
    ("F8_E5M2", np.array([0x7B, 0x7C, 0xFD, 2], np.uint8), 2, 1),
    ("F8_E8M0", np.array([0x7F, 0xFE, 0xFF, 1], np.uint8), 2, None),
    ("F8_E4M3FNUZ", np.array([0x7F, 0xFF, 0x80, 1], np.uint8), 2, None),
    ("F8_E5M2FNUZ", np.array([0x7F, 0xFF, 1, 0x80], np.uint8), 3, None),
    ("I16", np.array([0x7F80, -1, 0x7C00, 1], "<i2"), None, None),
    ("BOOL", np.array([1, 0, 1, 1], np.uint8), None, None),
    ("F4", np.array([0x77, 0xFF], np.uint8), None, None),
    ("F6_E3M2", np.array([0xFF, 0xFF, 0xFF], np.uint8), None, None),
]


@pytest.mark.parametrize(("dtype", "stored", "nan", "inf"), NOT_FINITE, ids=[n[0] for n in NOT_FINITE])
def test_the_first_nan_and_infinity_of_every_dtype_are_found(
    dtype: str, stored: np.ndarray, nan: int | None, inf: int | None, folder: Path
) -> None:
    put("x.safetensors", pad=of(1), w=(dtype, (2, 2), stored.tobytes()))(folder)
    expected = [(check, coordinates(i, (2, 2))) for check, i in (("nan", nan), ("inf", inf)) if i is not None]
    assert [(f.check, f.position) for f in found(folder) if f.check != "header"] == expected


def test_values_are_counted_and_the_first_is_found_across_tiles_and_windows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "TILE", 48)
    monkeypatch.setattr(reading, "WINDOW", 96)
    numbers = np.ones((10, 15), np.float32)
    numbers[6, 3] = numbers[6, 4] = numbers[9, 14] = np.nan
    numbers[9, 0] = -np.inf
    put(MODEL, a=of(1, 2), w=("F32", (10, 15), numbers.tobytes()), z=of(np.nan))(folder)
    assert [(f.check, f.tensor, f.position, f.detail) for f in found(folder)] == [
        ("nan", "w", "[6, 3]", "3 of 150 values are NaN."),
        ("inf", "w", "[9, 0]", "1 of 150 values is infinite."),
        ("nan", "z", "[0]", "1 of 1 values is NaN."),
    ]


def test_infinities_of_a_mask_are_a_note(folder: Path) -> None:
    put(MODEL, attn_mask=of(0, -np.inf))(folder)
    assert brief(found(folder)) == [("note", "inf", MODEL, "attn_mask", "[1]")]


def test_a_header_of_an_odd_length_puts_no_value_out_of_sight(folder: Path) -> None:
    put(MODEL, odd=("U8", (3,), b"abc"), w=of(1, 2, np.nan))(folder)
    assert brief(found(folder)) == [("problem", "nan", MODEL, "w", "[2]")]


# ---- zeros


def zeroed(stored: Stored, start: int, stop: int) -> Stored:
    dtype, shape, data = stored
    return dtype, shape, data[:start] + bytes(stop - start) + data[stop:]


@pytest.mark.parametrize("window", [MIB // 2 * 3, 15 * MIB])
def test_a_mebibyte_of_zeros_is_a_problem_told_for_each_tensor_that_it_touches(
    window: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "WINDOW", window)
    a, b = zeroed(weights(2 * MIB), 2 * MIB - 130, 2 * MIB), zeroed(weights(2 * MIB), 0, MIB)
    put(MODEL, a=a, b=b)(folder)
    assert brief(found(folder)) == [
        ("problem", "zeros", MODEL, "a", "[32765, 62] to [32767, 63]"),
        ("problem", "zeros", MODEL, "b", "[0, 0] to [16383, 63]"),
    ]
    assert "1,048,576 of 2,097,152 bytes are zero" in found(folder)[1].detail


def test_a_byte_less_than_a_mebibyte_of_zeros_says_nothing(folder: Path) -> None:
    put(MODEL, a=zeroed(weights(3 * MIB), 77, 77 + MIB - 1))(folder)
    assert found(folder) == []
    put(MODEL, a=zeroed(weights(3 * MIB), 77, 77 + MIB))(folder)
    assert brief(found(folder)) == [("problem", "zeros", MODEL, "a", "[1, 13] to [16385, 12]")]


ZERO_TENSORS: list[tuple[str, str, int, str | None]] = [
    ("w.weight", "F32", MIB, "problem"),
    ("w.weight", "U8", MIB, "problem"),
    ("w.qweight", "I32", MIB, "problem"),
    ("w.weight", "F32", 4096, "note"),
    ("w.weight", "F32", 4092, None),
    ("w.bias", "F32", MIB, "note"),
    ("w.lora_B.weight", "BF16", MIB, "note"),
    ("w.lora_A.weight", "BF16", MIB, "problem"),
    ("w.qzeros", "I32", MIB, "note"),
    ("embeddings.token_type_embeddings.weight", "F32", MIB, "note"),
    ("position_ids", "I64", MIB, "note"),
    ("attn.causal", "BOOL", MIB, "note"),
]


@pytest.mark.parametrize(("name", "dtype", "nbytes", "severity"), ZERO_TENSORS)
def test_a_tensor_that_is_zero_altogether_is_judged_by_what_it_is(
    name: str, dtype: str, nbytes: int, severity: str | None, folder: Path
) -> None:
    count = nbytes * 8 // {"F32": 32, "U8": 8, "I32": 32, "BF16": 16, "I64": 64, "BOOL": 8}[dtype]
    shard(folder / MODEL, {"before": weights(4096), name: (dtype, (count,), bytes(nbytes)), "behind": weights(8192)})
    expected = [severity] if severity else []
    assert [f.severity for f in found(folder)] == expected
    assert [(f.check, f.tensor) for f in found(folder)] == [("zeros", name)] * len(expected)


@pytest.mark.parametrize(
    ("name", "start", "severity"),
    [
        ("model.embed_tokens.weight", MIB, "note"),
        ("lm_head.weight", MIB, "note"),
        ("lm_head.weight", MIB - 1, "problem"),
        ("mlp.up_proj.weight", MIB, "problem"),
    ],
)
def test_last_rows_of_zeros_are_padding_in_a_vocabulary_alone(
    name: str, start: int, severity: str, folder: Path
) -> None:
    shard(folder / MODEL, {name: zeroed(weights(2 * MIB), start, 2 * MIB)})
    assert [f.severity for f in found(folder)] == [severity]


@pytest.mark.parametrize("seed", range(20))
def test_runs_of_zeros_are_those_that_a_plain_loop_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(1, 255, 5 * values.BLOCK + int(rng.integers(0, 100)), np.uint8)
    for start, length in zip(rng.integers(0, len(raw), 4), rng.integers(1, 3 * values.BLOCK, 4), strict=True):
        raw[start : start + length] = 0
    edges = np.flatnonzero(np.diff(np.concatenate(([1], raw != 0, [1])).astype(np.int8))).reshape(-1, 2).tolist()
    expected = [(a, b) for a, b in edges if b - a >= 2 * values.BLOCK or a == 0 or b == len(raw)]
    told = list(values.zero_runs(raw))
    assert set(expected) <= set(told) <= {(a, b) for a, b in edges}


# ---- ties


def test_tensors_of_equal_bytes_are_a_note_across_shards(folder: Path) -> None:
    same = weights(4096)
    put(ONE, a=same)(folder)
    put(TWO, b=same, other=weights(4096, seed=1), typed=("I8", *same[1:]))(folder)
    index({"a": ONE, "b": TWO, "other": TWO, "typed": TWO})(folder)
    (row,) = found(folder)
    assert row == Finding("note", "tied", f"Its bytes are those of 'a' in {ONE!r}.", TWO, "b")


def test_small_and_constant_tensors_are_no_ties(folder: Path) -> None:
    ones, small = ("F32", (2048,), np.ones(2048, "<f4").tobytes()), weights(4032)
    packed = ("F6_E2M3", (8192,), bytes([1, 2, 3]) * 2048)
    put(MODEL, a=ones, b=ones, small=small, few=small, d=packed, e=packed)(folder)
    assert [f for f in found(folder) if f.check == "tied"] == []


# ---- files

FILES: list[tuple[str, Build, tuple[str, str] | None]] = [
    ("config.json", text("config.json", "{}"), None),
    ("tokenizer.model", text("tokenizer.model"), None),
    ("LICENSE", text("LICENSE"), None),
    (".gitattributes", text(".gitattributes"), None),
    ("figures/loss.PNG", text("figures/loss.PNG"), None),
    (".git/config", text(".git/objects/ab/cd"), None),
    (".cache/x", text(".cache/huggingface/download/model.safetensors.metadata"), None),
    ("pytorch_model.bin", text("pytorch_model.bin"), ("note", "runs code when it is loaded")),
    ("original/consolidated.00.pth", text("original/consolidated.00.pth"), ("note", "runs code when it is loaded")),
    ("m.gguf", text("m.gguf"), ("note", "no safetensors")),
    ("modeling.py", text("modeling.py"), ("note", "is code")),
    ("x.safetensors.part", text("x.safetensors.part"), ("problem", "unfinished download")),
    (
        ".cache/huggingface/download/x.incomplete",
        text(".cache/huggingface/download/x.incomplete"),
        ("problem", "unfinished download"),
    ),
    ("adapter_model.safetensors", put("adapter_model.safetensors"), ("note", "left out: model.safetensors was read")),
    ("onnx/x.safetensors", put("onnx/x.safetensors"), ("note", "in a folder of its own")),
    ("._model.safetensors", text("._model.safetensors"), ("note", "is hidden")),
    (".DS_Store", text(".DS_Store"), ("note", "is hidden")),
    ("core", text("core"), ("note", "nothing that a model's folder needs")),
    ("fifo", lambda f: os.mkfifo(f / "fifo"), ("problem", "is a FIFO")),
    ("s", sock, ("problem", "is a socket")),
    ("gone.json", link("gone.json", "nowhere"), ("problem", "a link to a file that is not there")),
    ("loop", link("loop", "loop"), ("problem", "a link to a file that is not there")),
    ("null", link("null", "/dev/null"), ("note", "a link out of the folder")),
    ("inside.json", build(text("config.json", "{}"), link("inside.json", "config.json")), None),
]


@pytest.mark.parametrize(("name", "make", "expected"), FILES, ids=[f[0] for f in FILES])
def test_what_lies_beside_the_shards_is_judged_by_name_and_kind(
    name: str, make: Build, expected: tuple[str, str] | None, folder: Path
) -> None:
    put(MODEL)(folder)
    make(folder)
    rows = found(folder)
    assert [(f.severity, f.check, f.file) for f in rows] == ([(expected[0], "file", name)] if expected else [])
    assert all(expected and expected[1] in f.detail for f in rows)


def test_a_hub_caches_links_are_its_layout_and_its_unfinished_blobs_are_told(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--my-model"
    shard(cache / "blobs" / "abc", {"a": of(1)})
    (cache / "snapshots" / "main").mkdir(parents=True)
    (cache / "snapshots" / "main" / MODEL).symlink_to("../../blobs/abc")
    assert verify(cache).name == "org/my-model"
    assert found(cache) == []
    (cache / "blobs" / "def.incomplete").touch()
    assert brief(found(cache)) == [("problem", "file", "../../blobs/def.incomplete", None, None)]
    (cache / "snapshots" / "main" / "config.json").symlink_to("../../blobs/gone")
    assert ("problem", "file", "config.json", None, None) in brief(found(cache))


def test_a_blob_of_a_hub_cache_has_the_hash_that_it_is_named_by(tmp_path: Path) -> None:
    cache = tmp_path / "models--org--my-model"
    shard(cache / "blobs" / "x", {"a": weights(4096), "b": weights(3 * reading.WINDOW // 64 * 64, seed=1), "e": of()})
    blob = (cache / "blobs" / "x").rename(cache / "blobs" / sha256((cache / "blobs" / "x").read_bytes()).hexdigest())
    (cache / "snapshots" / "main").mkdir(parents=True)
    (cache / "snapshots" / "main" / MODEL).symlink_to(f"../../blobs/{blob.name}")
    assert [f.check for f in found(cache)] == ["whole"]  # of e, which is empty
    data = bytearray(blob.read_bytes())
    data[-5] ^= 1
    blob.write_bytes(data)
    assert brief(found(cache))[1:] == [("problem", "checksum", MODEL, None, None)]


def test_a_single_file_is_judged_alone(folder: Path) -> None:
    build(put("a.safetensors"), text("x.py"), put("b.safetensors", a=of(np.nan)))(folder)
    assert found(folder / "a.safetensors") == []


def test_names_of_strangers_cannot_steer_a_terminal(folder: Path) -> None:
    odd = "a\u202e\x1b[31m" + "x" * 200
    text(odd)(folder)
    (folder / os.fsdecode(b"b\xe9")).touch()
    put(MODEL, **{"n" * MIB: of(np.nan)})(folder)
    done = verified(folder)
    assert done.exit_code == 10
    assert done.stdout.isascii()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == [MODEL, MODEL, odd, "b\\udce9"]
    assert all(len(row["detail"]) < 600 for row in rows)


def test_a_folder_of_very_many_files_is_looked_at_in_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardscan.jobs.verification.folder.MOST_FILES", 5)
    put(MODEL)(folder)
    for number in range(20):
        text(f"{number}.json", "{}")(folder)
    (row,) = found(folder)
    assert (row.severity, row.detail) == ("note", "The folder has more than 5 files: the others were not looked at.")
