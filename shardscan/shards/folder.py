"""OPEN, before any header: which files a path means, and what they are called together.

Promises: nothing outside the folder is read because a file in it says so: shards are plain names of files in it
(links in a hub cache are followed: they are the cache's own layout), never URLs, globs or absolute paths. A refused
safetensors checkpoint never becomes a `.bin` that lies beside it. Nothing is counted twice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from shardscan.errors import CheckpointError, CheckpointNotFound, ShardIndexError, shown
from shardscan.shards.faults import Fault, Report, refuse
from shardscan.shards.strict import MAX_DEPTH, depth, parse, read_text

SHARD = ".safetensors"
INDEX = ".safetensors.index.json"
MODEL, MODEL_INDEX = "model" + SHARD, "model" + INDEX
MAX_JSON = 100_000_000
NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,9})-of-(?P<total>\d{1,9})\.safetensors")
OTHER_WEIGHTS = re.compile(
    r".+\.gguf|((pytorch_model|model|adapter_model|consolidated|tf_model|flax_model|diffusion_pytorch_model)"
    r".*\.(bin|pth?|ckpt|h5|msgpack|onnx|npz))"
)
HUB_FOLDER = re.compile(r"models--(.+)")


class LeftOut(NamedTuple):
    """Files that were not read, and why: the end of a sentence."""

    names: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        return f"{shown(self.names[0])}{more} left out: {self.why}"


@dataclass(frozen=True, slots=True)
class Listing:
    """The shards of one checkpoint, as names in `folder`, and the index that says which of them holds a tensor.

    `path` is what was opened: one file, or the folder (the snapshot's, of a hub cache).
    """

    path: str
    folder: str
    name: str
    shards: tuple[str, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    index: str | None = None
    weight_map: Mapping[str, str] | None = None
    total_size: Any = None


def find(path: str, report: Report = refuse) -> Listing:
    """Say what `path` means: a shard, an index, a folder of shards, or a folder of a hub cache.

    Where `report` returns, the listing has what can be read in spite of the fault. CheckpointNotFound is raised anyway.
    """
    where = Path(os.path.abspath(path))  # noqa: PTH100 - not resolved: people know the model by the link's name
    try:
        kind = "folder" if where.is_dir() else "file" if where.is_file() else "other" if where.exists() else "nothing"
    except (OSError, ValueError):
        kind = "nothing"
    if kind == "nothing" or not path:
        raise CheckpointNotFound(
            f"{shown(path, 400)} is not there: give a .safetensors file, a model's folder or a hub cache's, all on "
            "this machine."
        )
    if kind == "other":
        raise CheckpointError(
            f"{shown(path, 400)} is neither a file nor a folder: give a .safetensors file or a model's folder."
        )
    if kind == "folder":
        return _from_folder(_snapshot(where), report)
    return _from_index(where.parent, where.name, report) if where.name.endswith(".index.json") else _from_file(where)


def read_config(listing: Listing) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Read the config.json beside shards, or an adapter's adapter_config.json; a note where it cannot be read."""
    of_adapter = all(name.startswith("adapter") for name in listing.shards)
    path = Path(listing.folder, "adapter_config.json" if of_adapter else "config.json")
    if not os.path.lexists(path):
        return None, ()
    try:
        config = parse(read_text(str(path), MAX_JSON).removeprefix("\ufeff"), lenient=True)
        if not isinstance(config, dict):
            raise ValueError("is not a JSON object")
        if depth(config) > MAX_DEPTH:
            raise ValueError("nests its JSON too deeply")
    except (ValueError, OSError) as error:
        return None, (f"{path.name} {error}: the model was read without it",)
    return config, ()


def _model_name(folder: Path) -> str:
    """`org/model` of a hub cache, else the folder's name."""
    if folder.parent.name == "snapshots" and (hub := HUB_FOLDER.fullmatch(folder.parent.parent.name)):
        return hub[1].replace("--", "/")
    return folder.name or "model"


def _from_file(file: Path) -> Listing:
    name = _model_name(file.parent)
    if file.name != MODEL and "/" not in name:
        name = file.name.removesuffix(SHARD)
    part = NUMBERED.fullmatch(file.name)
    notes = (f"{shown(file.name)} is one shard of {int(part['total']):,}: the others were not read",) if part else ()
    return Listing(str(file), str(file.parent), name, (file.name,), notes if part and int(part["total"]) > 1 else ())


def _snapshot(folder: Path) -> Path:
    """Choose the snapshot to read where `folder` is a hub cache's folder of one model; `folder` itself otherwise."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir() or any(name.endswith((SHARD, INDEX)) for name in _names(folder)):
        return folder
    try:
        main = read_text(str(folder / "refs" / "main"), 1000).strip()
    except ValueError:
        main = ""
    revisions = [name for name in _names(snapshots) if (snapshots / name).is_dir()]
    if main in revisions:
        return snapshots / main
    if len(revisions) == 1:
        return snapshots / revisions[0]
    if not revisions:
        raise CheckpointNotFound(
            f"{shown(str(folder), 400)} is a hub cache without a snapshot: download the model again."
        )
    raise CheckpointNotFound(
        f"{shown(str(folder), 400)} has {len(revisions)} snapshots and no refs/main: give one of them, like "
        f"{shown('snapshots/' + revisions[0])}."
    )


def _names(folder: Path) -> list[str]:
    """Sorted names in a folder, without hidden files: macOS leaves `._model.safetensors` on foreign disks."""
    try:
        return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise CheckpointError(f"{shown(str(folder), 400)} cannot be listed: {error.strerror}.") from None


def _from_folder(folder: Path, report: Report) -> Listing:
    names = _names(folder)
    indexes = [name for name in names if name.endswith(INDEX)]
    if indexes and (main := _main_index(folder, indexes, report)):
        return _from_index(folder, main, report)
    if not any(name.endswith(SHARD) for name in names):
        raise CheckpointNotFound(_nothing_here(folder, names))
    return _from_shards(folder, report)


def _from_shards(folder: Path, report: Report) -> Listing:
    names = _names(folder)
    shards = [name for name in names if name.endswith(SHARD)]
    if MODEL in shards:
        chosen, why = [MODEL], f"{MODEL} was read"
    else:
        # other forms of the same weights, or small ones that go on top of them
        whole = [name for name in shards if not name.startswith(("consolidated", "adapter"))]
        chosen = whole or [name for name in shards if name.startswith("consolidated")] or shards
        why = "they are not counted beside the model's shards"
    for fault in missing_numbers(folder, chosen):
        report(fault)
    left_out = (*_left_out([name for name in shards if name not in chosen], why), *_other_weights(names))
    unsaid = f"no index says which tensors belong to the model: all {len(chosen)} shards were read"
    notes = (unsaid,) if len(chosen) > 1 else ()
    return Listing(str(folder), str(folder), _model_name(folder), tuple(chosen), notes, left_out)


def _main_index(folder: Path, indexes: list[str], report: Report) -> str | None:
    """The index of several that counts; None where none says so."""
    if MODEL_INDEX in indexes:
        return MODEL_INDEX
    usual = [name for name in indexes if not name.startswith(("consolidated", "adapter"))] or indexes
    if len(usual) == 1:
        return usual[0]
    error = ShardIndexError(
        f"{shown(str(folder), 400)} has {len(usual)} indexes and none is {MODEL_INDEX}: give the path of one, "
        f"like {shown(usual[0])}."
    )
    report(Fault(error, "index", usual[0]))
    return None


def missing_numbers(folder: Path, shards: list[str]) -> Iterator[Fault]:
    """`-00001-of-00003` says how many there are: a missing one is an unfinished download."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for part in filter(None, map(NUMBERED.fullmatch, shards)):
        numbers.setdefault((part["stem"], part["total"]), set()).add(int(part["number"]))
    for (stem, total), found in numbers.items():
        if len(found) < int(total):
            error = ShardIndexError(
                f"{shown(str(folder), 400)} has {len(found)} of the {int(total):,} shards "
                f"{shown(f'{stem}-…-of-{total}{SHARD}')}: download the others."
            )
            yield Fault(error, "file")


def _from_index(folder: Path, index: str, report: Report) -> Listing:
    where = shown(str(folder / index), 400)
    try:
        text = read_text(str(folder / index), MAX_JSON)
        document = parse(text.removeprefix("\ufeff"))
        if depth(document) > MAX_DEPTH:
            raise ValueError("nests its JSON too deeply")
        weight_map = _weight_map(document)
    except (ValueError, OSError) as error:
        report(Fault(ShardIndexError(f"{where} {error}."), "index", index))
        return _from_shards(folder, report)
    named, refused, names = set(weight_map.values()), set(), _names(folder)
    for shard, why in _refused_shards(folder, sorted(named)):
        refused.add(shard)
        report(Fault(ShardIndexError(f"{where} {why}."), "index", shard))
    shards = sorted(named - refused)
    notes = ["the index begins with a byte order mark"] if text.startswith("\ufeff") else []
    if below := [shard for shard in shards if "/" in shard]:
        notes.append(f"the index names shards in a subfolder, like {shown(below[0])}")
    metadata = document.get("metadata", {})
    if not isinstance(metadata, dict):
        notes.append("the index has metadata that is not an object")
        metadata = {}
    others = [name for name in names if name.endswith(INDEX) and name != index]
    spare = [name for name in names if name.endswith(SHARD) and name not in named]
    return Listing(
        path=str(folder),
        folder=str(folder),
        name=_model_name(folder),
        shards=tuple(shards),
        notes=tuple(notes),
        left_out=(
            *_left_out(others, f"{shown(index)} was read"),
            *_left_out(spare, "not in the index"),
            *_other_weights(names),
        ),
        index=str(folder / index),
        weight_map=weight_map,
        total_size=metadata.get("total_size"),
    )


def _weight_map(document: Any) -> dict[str, str]:
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict):
        raise ValueError("has no weight_map that is an object of tensors and their shards")
    if not weight_map:
        raise ValueError("has an empty weight_map: an index of nothing")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise ValueError(f"gives the tensor {shown(tensor)} a shard that is not a file's name")
    return weight_map


def _refused_shards(folder: Path, shards: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The shards that an index must not name, and why."""
    names = cache(lambda path: frozenset(_names(path)))
    seen: dict[tuple[int, int], str] = {}
    for shard in shards:
        try:
            _check_shard_name(folder, shard, names)
        except ValueError as error:
            yield shard, str(error)
            continue
        if not (folder / shard).exists():
            continue  # a dangling link: reading it says so
        status = (folder / shard).stat()
        first = seen.setdefault((status.st_dev, status.st_ino), shard)
        if first != shard:
            same = f"names {shown(first)} and {shown(shard)}, which are one and the same file: download them again"
            yield shard, same


def _check_shard_name(folder: Path, shard: str, names: Callable[[Path], frozenset[str]]) -> None:
    """Take plain relative names only, spelt as on disk; their links are followed, since a hub cache is made of them."""
    parts = shard.split("/")
    if not shard.endswith(SHARD) or "\\" in shard or ":" in shard or not shard.isprintable():
        raise ValueError(f"names {shown(shard)}, which is not a {SHARD} file of this folder")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"names {shown(shard)}, which lies outside this folder")
    here = folder
    for i, part in enumerate(parts):
        if not here.is_dir() or part not in names(here):  # a disk that ignores case would find more
            raise ValueError(f"names {shown(shard)}, which is not there: download it, or correct the index")
        here = here / part
        if i < len(parts) - 1 and not Path(os.path.realpath(here)).is_relative_to(os.path.realpath(folder)):
            raise ValueError(f"names {shown(shard)}, whose folder is a link out of this one")


def _left_out(names: list[str], why: str) -> tuple[LeftOut, ...]:
    return (LeftOut(tuple(names), why),) if names else ()


def _other_weights(names: list[str]) -> tuple[LeftOut, ...]:
    return _left_out([n for n in names if OTHER_WEIGHTS.fullmatch(n)], "only the safetensors files were read")


def _nothing_here(folder: Path, names: list[str]) -> str:
    start = f"{shown(str(folder), 400)} has no {SHARD} file"
    if below := [n for n in names if (folder / n).is_dir() and any(f.endswith(SHARD) for f in _names(folder / n))]:
        return f"{start}, but its folder {shown(below[0])} has: give that one."
    if others := [n for n in names if OTHER_WEIGHTS.fullmatch(n)]:
        return f"{start}, only {shown(others[0])}, which shardscan does not read: convert it to safetensors first."
    if not names:
        return f"{start}: the folder is empty."
    return f"{start}, only {shown(names[0])}" + (f" and {len(names) - 1} more." if len(names) > 1 else ".")
