"""Which files a path means: a table of folders, good, odd and wrong."""

import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardscan.errors import CheckpointError, CheckpointNotFound, HeaderError, OptionError, ShardIndexError
from shardscan.shards.checkpoint import open as open_checkpoint

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MODEL, INDEX = "model.safetensors", "model.safetensors.index.json"
MAP = {"a": ONE, "b": TWO}
Build = Callable[[Path], object]


def shard(folder: Path, name: str, *tensors: str) -> None:
    header = {t: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, t in enumerate(tensors)}
    text = json.dumps(header).encode()
    body = b"".join(struct.pack("<f", i) for i in range(len(tensors)))
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def index(folder: Path, weight_map: Any, name: str = INDEX, **more: Any) -> None:
    (folder / name).write_text(json.dumps({"weight_map": weight_map, **more}))


def two(folder: Path) -> None:
    shard(folder, ONE, "a")
    shard(folder, TWO, "b")


def build(*steps: Build) -> Build:
    def all_steps(folder: Path) -> None:
        for step in steps:
            step(folder)

    return all_steps


def put(name: str, *tensors: str) -> Build:
    return lambda folder: shard(folder, name, *(tensors or ("a",)))


def text(name: str, content: bytes = b"x") -> Build:
    return lambda folder: (folder / name).write_bytes(content)


def indexed(weight_map: Any, name: str = INDEX, **more: Any) -> Build:
    return lambda folder: index(folder, weight_map, name, **more)


def link(name: str, target: str) -> Build:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return make


GOOD: list[tuple[str, Build, str]] = [
    ("one file", put(MODEL), "a"),
    ("an adapter alone", put("adapter_model.safetensors"), "a"),
    ("a file of another name", put("diffusion_pytorch_model.safetensors"), "a"),
    ("an index", build(two, indexed(MAP)), "ab"),
    ("an index with a true total", build(two, indexed(MAP, metadata={"total_size": 8})), "ab"),
    ("a link inside", build(two, put("real"), link(ONE, "real"), indexed(MAP)), "ab"),
    ("a hidden file beside", build(put(MODEL), text("._model.safetensors")), "a"),
    ("a config", build(put(MODEL), text("config.json", b'{"limit": [0.0, Infinity]}')), "a"),
    ("training leftovers beside", build(put(MODEL), text("training_args.bin"), text("optimizer.pt")), "a"),
]

ODD: list[tuple[str, Build, str, str]] = [
    ("no index", two, "ab", "no index says"),
    ("consolidated beside an index", build(two, indexed(MAP), put("consolidated.safetensors", "x")), "ab", "left out"),
    ("consolidated beside a model", build(put(MODEL), put("consolidated.safetensors", "x")), "a", "left out"),
    (
        "consolidated with its own index",
        build(two, indexed(MAP), indexed(MAP, "consolidated" + INDEX[5:])),
        "ab",
        "left",
    ),
    ("an adapter beside a model", build(put(MODEL), put("adapter_model.safetensors", "x")), "a", "left out"),
    ("two indexes", build(two, indexed(MAP), indexed(MAP, "model.fp16" + INDEX[5:])), "ab", "left out"),
    (
        "a shard the index does not know",
        build(two, indexed(MAP), put("more.safetensors", "c")),
        "ab",
        "not in the index",
    ),
    ("a tensor not in the index", build(two, put(ONE, "a", "d"), indexed(MAP)), "adb", "'d' has no place in the index"),
    ("a tensor in two shards", build(two, put(TWO, "a", "b"), indexed(MAP)), "ab", "that one was left out"),
    ("a subfolder", build(put("w/x.safetensors"), indexed({"a": "w/x.safetensors"})), "a", "subfolder"),
    (
        "a byte order mark",
        build(two, text(INDEX, b"\xef\xbb\xbf" + json.dumps({"weight_map": MAP}).encode())),
        "ab",
        "mark",
    ),
    ("a false total", build(two, indexed(MAP, metadata={"total_size": 10**15})), "ab", "total_size"),
    ("a total as a string", build(two, indexed(MAP, metadata={"total_size": "8"})), "ab", "total_size"),
    ("metadata as a list", build(two, indexed(MAP, metadata=[])), "ab", "not an object"),
    ("a torch file beside", build(put(MODEL), text("pytorch_model.bin")), "a", "'pytorch_model.bin' left out"),
    ("a broken config", build(put(MODEL), text("config.json", b"{")), "a", "config.json is not valid JSON"),
    ("a config that is a list", build(put(MODEL), text("config.json", b"[]")), "a", "config.json is not a JSON object"),
    ("a config that is a FIFO", build(put(MODEL), lambda d: os.mkfifo(d / "config.json")), "a", "not a regular file"),
    ("a note of a header", put(MODEL, "a/b"), "", "unusual characters"),
]

REFUSED: list[tuple[str, Build, type[CheckpointError], str]] = [
    ("an empty folder", build(), CheckpointNotFound, "the folder is empty"),
    ("a torch file that is none", text("pytorch_model.bin"), HeaderError, "is no PyTorch file"),
    ("only a GGUF file", text("m.Q4_K.gguf"), CheckpointNotFound, "only 'm.Q4_K.gguf'"),
    ("only something else", text("README.md"), CheckpointNotFound, "only 'README.md'"),
    ("a pipeline of subfolders", put("unet/model.safetensors"), CheckpointNotFound, "its folder 'unet' has"),
    ("a refused file beside a .bin", build(text(MODEL), text("pytorch_model.bin")), HeaderError, "1 bytes long"),
    ("a tensor in two shards", build(put(ONE), put(TWO)), ShardIndexError, "no index says which one counts"),
    ("a missing numbered shard", put(ONE), ShardIndexError, "has 1 of the 2 shards"),
    (
        "several strange indexes",
        build(two, indexed(MAP, "x" + INDEX), indexed(MAP, "y" + INDEX)),
        ShardIndexError,
        "2 indexes",
    ),
    ("a shard that is not there", build(put(ONE), indexed(MAP)), ShardIndexError, "which is not there"),
    (
        "one file under two names",
        build(two, put(ONE), link(TWO, ONE), indexed(MAP)),
        ShardIndexError,
        "one and the same",
    ),
    ("a dangling link", build(two, link(ONE, "nowhere"), indexed(MAP)), HeaderError, "not there"),
    ("a link loop", build(two, link(ONE, ONE), indexed(MAP)), HeaderError, "cannot be opened"),
    ("a link to another file", build(two, link(ONE, "/etc/passwd"), indexed(MAP)), HeaderError, ONE),
    (
        "a link out of the folder",
        build(put("../out/x.safetensors"), link("w", "../out"), indexed({"a": "w/x.safetensors"})),
        ShardIndexError,
        "a link out of this one",
    ),
    ("an index that is no JSON", build(two, text(INDEX, b"{")), ShardIndexError, "not valid JSON"),
    ("an index that is not UTF-8", build(two, text(INDEX, b"\xff\xfe{")), ShardIndexError, "not UTF-8"),
    ("an index that is a FIFO", build(two, lambda d: os.mkfifo(d / INDEX)), ShardIndexError, "not a regular file"),
    ("an index that is a list", build(two, text(INDEX, b"[]")), ShardIndexError, "no weight_map"),
    ("an index nested deep", build(two, text(INDEX, b"[" * 100_000)), ShardIndexError, "too deeply"),
    ("a tensor twice", build(two, text(INDEX, b'{"weight_map":{"a":"x","a":"x"}}')), ShardIndexError, "'a' twice"),
    ("an empty map", build(two, indexed({})), ShardIndexError, "empty weight_map"),
    ("a map that is null", build(two, indexed(None)), ShardIndexError, "no weight_map"),
    ("a shard that is a number", build(two, indexed({"a": 7})), ShardIndexError, "not a file's name"),
    *(
        (
            f"the shard name {name!r}",
            build(two, put("../secret.safetensors"), indexed({"a": name})),
            ShardIndexError,
            said,
        )
        for name, said in (
            ("../secret.safetensors", "outside this folder"),
            ("w/../../secret.safetensors", "outside this folder"),
            ("/secret.safetensors", "outside this folder"),
            ("..\\secret.safetensors", "with a backslash"),
            ("https://example.invalid/x.safetensors", "not a .safetensors file of this folder"),
            ("file:///x.safetensors", "not a .safetensors file of this folder"),
            (ONE + "\0.safetensors", "not a .safetensors file of this folder"),
            ("/dev/zero", "not a .safetensors file of this folder"),
            ("pytorch_model.bin", "not a .safetensors file of this folder"),
            ("", "not a .safetensors file of this folder"),
            ("$HOME/x.safetensors", "which is not there"),
            ("~/x.safetensors", "which is not there"),
        )
    ),
]

# what an index says wrongly of shards that are there, and tell what they are by themselves
DOUBTLESS: list[tuple[str, Any, str]] = [
    ("an exchanged map", {"a": TWO, "b": ONE}, f"but it is in {ONE!r}"),
    ("a tensor in no shard", {**MAP, "lm_head.weight": TWO}, "no shard has it"),
    ("a pattern for a name", {"a": "model-*.safetensors"}, "which is not there"),
    ("a name in capitals", {"a": "MODEL-00001-of-00002.safetensors"}, "which is not there"),
    ("the index of another revision", {"a": "model-00001-of-00001.safetensors"}, "which is not there"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my-model"
    path.mkdir()
    return path


@pytest.mark.parametrize(("make", "tensors"), [g[1:] for g in GOOD], ids=[g[0] for g in GOOD])
def test_a_folder_is_read_without_a_note(make: Build, tensors: str, folder: Path) -> None:
    make(folder)
    checkpoint = open_checkpoint(folder)
    assert list(checkpoint) == list(tensors)
    assert checkpoint.notes == ()
    assert checkpoint.name == "my-model"


@pytest.mark.parametrize(("make", "tensors", "said"), [o[1:] for o in ODD], ids=[o[0] for o in ODD])
def test_an_odd_folder_is_read_and_the_oddity_is_said(make: Build, tensors: str, said: str, folder: Path) -> None:
    make(folder)
    checkpoint = open_checkpoint(folder)
    assert list(checkpoint) == (list(tensors) or ["a/b"])
    assert len(checkpoint.notes) == 1
    assert said in checkpoint.notes[0]


@pytest.mark.parametrize(("make", "error", "said"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_wrong_folder_is_refused_in_one_sentence(
    make: Build, error: type[CheckpointError], said: str, folder: Path
) -> None:
    make(folder)
    with pytest.raises(error) as caught:
        open_checkpoint(folder)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(("weight_map", "said"), [case[1:] for case in DOUBTLESS], ids=[case[0] for case in DOUBTLESS])
def test_an_index_that_is_wrong_of_whole_shards_is_noted_and_refused_to_who_follows_it(
    weight_map: Any, said: str, folder: Path
) -> None:
    two(folder)
    index(folder, weight_map)
    checkpoint = open_checkpoint(folder)
    assert list(checkpoint) == ["a", "b"]
    assert said in checkpoint.notes[0] or "names only shards that are not there" in checkpoint.notes[0]
    with pytest.raises(ShardIndexError, match=re.escape(said)):
        open_checkpoint(folder, index="follow")
    assert list(open_checkpoint(folder, index="ignore")) == ["a", "b"]


def test_a_tensor_that_two_shards_have_and_not_the_one_that_the_index_says_is_refused(folder: Path) -> None:
    build(two, put(ONE, "a", "c"), put(TWO, "b", "c"), put("x.safetensors", "d"))(folder)
    index(folder, {**MAP, "c": "x.safetensors", "d": "x.safetensors"})
    with pytest.raises(ShardIndexError, match=r"'c' in 'x\.safetensors', but it is in"):
        open_checkpoint(folder)


@pytest.mark.parametrize("how", ["auto", "follow"])
def test_a_shard_in_this_folder_may_be_said_to_be_in_it(how: str, folder: Path) -> None:
    two(folder)
    index(folder, {"a": f"./{ONE}", "b": f"./{TWO}"})
    assert open_checkpoint(folder, index=how).notes == ()


def test_a_missing_shard_is_an_unfinished_download_whatever_the_index_is_for(folder: Path) -> None:
    shard(folder, ONE, "a")
    index(folder, MAP)
    for how, said in (
        ("auto", "--index ignore"),
        ("follow", "which is not there"),
        ("ignore", "has 1 of the 2 shards"),
    ):
        with pytest.raises(ShardIndexError, match=said):
            open_checkpoint(folder, index=how)


@pytest.mark.parametrize("path", ["", INDEX], ids=["the folder", "the index"])
def test_an_index_that_cannot_be_read_can_be_ignored_as_its_refusal_says(path: str, folder: Path) -> None:
    build(two, text(INDEX, b"{"))(folder)
    with pytest.raises(ShardIndexError, match="--index ignore"):
        open_checkpoint(folder / path)
    assert list(open_checkpoint(folder / path, index="ignore")) == ["a", "b"]


def test_an_index_that_is_given_by_its_path_is_never_taken_for_another(folder: Path) -> None:
    two(folder)
    index(folder, {"a": "other-00001-of-00001.safetensors"}, "other.safetensors.index.json")
    with pytest.raises(ShardIndexError, match="which is not there"):
        open_checkpoint(folder / "other.safetensors.index.json")


def test_an_unknown_use_of_an_index_is_refused(folder: Path) -> None:
    two(folder)
    with pytest.raises(OptionError, match="take auto, follow, ignore"):
        open_checkpoint(folder, index="never")


def hub_cache(root: Path, revisions: tuple[str, ...], main: str | None) -> Path:
    cache = root / "models--org--my-model"
    for revision in revisions:
        shard(cache, f"blobs/{revision}", revision)
        (cache / "snapshots" / revision).mkdir(parents=True)
        (cache / "snapshots" / revision / MODEL).symlink_to(f"../../blobs/{revision}")
    if main is not None:
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text(main)
    return cache


def test_a_hub_caches_snapshot_is_read_through_its_links_and_named_org_model(tmp_path: Path) -> None:
    cache = hub_cache(tmp_path, ("old", "new"), None)
    for path in (cache / "snapshots/old", cache / "snapshots/old" / MODEL):
        checkpoint = open_checkpoint(path)
        assert (checkpoint.name, list(checkpoint)) == ("org/my-model", ["old"])
        assert checkpoint.files[0].name == MODEL
        assert checkpoint.files[0].path == str((cache / "blobs/old").resolve())


@pytest.mark.parametrize(("revisions", "main", "read"), [(("old", "new"), "new", "new"), (("old",), None, "old")])
def test_a_hub_caches_folder_means_its_main_or_only_snapshot(
    revisions: tuple[str, ...], main: str | None, read: str, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(hub_cache(tmp_path, revisions, main))
    assert (checkpoint.name, list(checkpoint)) == ("org/my-model", [read])


@pytest.mark.parametrize("main", [None, "../../..", "gone"])
def test_a_hub_caches_folder_with_several_snapshots_and_no_main_asks_for_one(main: str | None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="2 snapshots"):
        open_checkpoint(hub_cache(tmp_path, ("old", "new"), main))


def test_a_single_file_is_named_by_its_folder_or_its_own_stem(folder: Path) -> None:
    shard(folder, MODEL, "a")
    shard(folder, "lora.safetensors", "b")
    assert open_checkpoint(folder / MODEL).name == "my-model"
    assert open_checkpoint(folder / "lora.safetensors").name == "lora"
    assert open_checkpoint(folder / "lora.safetensors", name="mine").name == "mine"
    with pytest.raises(CheckpointError, match="not empty"):
        open_checkpoint(folder, name=" ")


def test_one_shard_of_several_is_read_alone_and_says_so(folder: Path) -> None:
    two(folder)
    checkpoint = open_checkpoint(folder / ONE)
    assert list(checkpoint) == ["a"]
    assert "one shard of 2" in checkpoint.notes[0]


def test_slices_of_every_tensor_are_no_shards_and_one_of_them_is_no_model(folder: Path) -> None:
    slices = [folder / f"consolidated.{n:02}.safetensors" for n in range(2)]
    for path in slices:
        shard(folder, path.name, "layers.0.attention.wq.weight")
    with pytest.raises(CheckpointError, match=r"2 slices of every tensor, cut for model parallelism.*does not join"):
        open_checkpoint(folder)
    assert "one of 2 slices of every tensor" in open_checkpoint(slices[0]).notes[0]
    slices[1].unlink()
    assert open_checkpoint(folder).notes == open_checkpoint(slices[0]).notes == ()


def test_the_config_is_metas_params_json_where_there_is_no_config_json(folder: Path) -> None:
    shard(folder, "consolidated.safetensors", "a")
    (folder / "params.json").write_text('{"dim": 64}')
    assert open_checkpoint(folder).config == {"dim": 64}
    (folder / "config.json").write_text('{"hidden_size": 64}')
    assert open_checkpoint(folder).config == {"hidden_size": 64}


def test_an_index_and_its_folder_are_the_same_checkpoint_and_it_pickles(folder: Path) -> None:
    two(folder)
    index(folder, MAP)
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    checkpoint = open_checkpoint(folder)
    assert open_checkpoint(folder / INDEX) == checkpoint
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint
    assert checkpoint.config == {"num_hidden_layers": 2}
    assert (checkpoint.path, checkpoint.parameters, checkpoint.nbytes) == (str(folder), 2, 8)
    assert [(f.name, f.tensors) for f in checkpoint.files] == [(ONE, 1), (TWO, 1)]


@pytest.mark.parametrize("path", ["", "not/there", "https://example.invalid/m", "a\0b", "x" * 5000])
def test_a_path_to_nothing_is_not_found(path: str) -> None:
    with pytest.raises(CheckpointNotFound, match="is not there"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", ["\ud800", "a\udce9b", "\udfff"])
def test_a_name_with_a_lone_surrogate_is_refused(name: str, folder: Path) -> None:
    shard(folder, MODEL, "a")
    with pytest.raises(CheckpointError, match=r"The model's name .* is not valid Unicode text: .* with --name\."):
        open_checkpoint(folder, name)
    assert open_checkpoint(folder, "é \U0001f984").name == "é \U0001f984"


def test_a_shard_whose_name_is_not_text_is_refused(folder: Path) -> None:
    name = os.fsdecode(b"mod\xe9l.safetensors")
    try:
        shard(folder, name, "a")
    except OSError:
        pytest.skip("this file system has names in Unicode only")
    with pytest.raises(CheckpointError, match="has a name that is not valid Unicode text: rename it"):
        open_checkpoint(folder, "m")


def test_a_fifo_is_neither_a_file_nor_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MODEL)
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        open_checkpoint(tmp_path / MODEL)


def test_an_index_of_300_000_absent_tensors_is_refused_without_reading_each(folder: Path) -> None:
    two(folder)
    index(folder, {f"t{i}": ONE for i in range(300_000)})
    with pytest.raises(ShardIndexError, match="'t0' and 299,999 more"):
        open_checkpoint(folder, index="follow")


@pytest.mark.parametrize("count", [1, 3])
def test_shards_that_are_mostly_a_hole_are_one_note(tmp_path: Path, count: int) -> None:
    for number in range(1, count + 1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
        header = b'{"t%d":{"dtype":"U8","shape":[8388608],"data_offsets":[0,8388608]}}' % number
        (tmp_path / name).write_bytes(len(header).to_bytes(8, "little") + header)
        os.truncate(tmp_path / name, 8 + len(header) + (8 << 20))
    (note,) = [note for note in open_checkpoint(tmp_path).notes if "hole" in note]
    assert note.startswith("3 shards, like 'model-00001-of-00003.safetensors': only" if count > 1 else "'model.s")
