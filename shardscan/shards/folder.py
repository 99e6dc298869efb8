"""OPEN, before any header: which files a path means, and what they are called together.

Promises: nothing outside the folder is read because a file in it says so (see `shardscan.shards.index`). Where there is
any safetensors file or index, those are the checkpoint: a refused one never becomes a `.bin` that lies beside it.
Nothing is counted twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from shardscan.errors import CheckpointError, CheckpointNotFound, OptionError, ShardIndexError, shown
from shardscan.shards.formats import kinds
from shardscan.shards.formats.container import Container
from shardscan.shards.index import AUTO, FOLLOW, IGNORE, INDEX_WORDS, MAX_JSON, read_index, refused_shards
from shardscan.shards.refusals import Fault, Report, refuse
from shardscan.shards.sources.schemes import source_of
from shardscan.shards.sources.source import join, name_of, parent_of
from shardscan.shards.strict_json import MAX_DEPTH, count_depth, parse_json

OTHER_WEIGHTS = re.compile(
    r".+\.gguf|((pytorch_model|model|adapter_model|consolidated|tf_model|flax_model|diffusion_pytorch_model)"
    r".*\.(bin|pth?|ckpt|h5|msgpack|onnx|npz))"
)
MOST_FOLDERS = 5  # that a sentence names
WITHOUT_IT = "; --index ignore (index='ignore') reads what is there without it"
FAR, LARGE = 2, 1_000_000  # times as many bytes as were read, and that many: what has them may be the model
SLICE = re.compile(r"consolidated\.\d{2,3}\.\w+")  # Meta's, of a model that is cut for model parallelism
HUB_FOLDER = re.compile(r"models--(.+)")


class LeftOut(NamedTuple):
    """Files that were not read, and why: the end of a sentence; `outweighs` what was read, by far."""

    names: tuple[str, ...]
    why: str
    outweighs: bool = False

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


def list_shards(path: str, report: Report = refuse, index: str = AUTO) -> Listing:
    """Say what `path` means: a shard, an index, a folder of shards, or a folder of a hub cache.

    `index` is as for `shardscan.shards.checkpoint.open`; OptionError where it is none of its words. Where `report`
    returns, the listing has what can be read in spite of the fault. CheckpointNotFound is raised anyway.
    """
    if index not in INDEX_WORDS:
        raise OptionError(f"{shown(index)} is no way to read an index: take {', '.join(INDEX_WORDS)}.")
    source = source_of(path)
    where = source.make_absolute(path)
    kind = source.find_kind(where) if path else "nothing"
    if kind == "nothing":
        raise CheckpointNotFound(
            f"{shown(path, 400)} is not there: give a .safetensors or PyTorch file, a model's folder or a hub "
            "cache's, all on this machine."
        )
    if kind == "other":
        raise CheckpointError(
            f"{shown(path, 400)} is neither a file nor a folder: give a shard's file or a model's folder."
        )
    if kind == "folder":
        return _from_folder(_snapshot(where), report, index)
    name = name_of(where)
    if name.endswith(".index.json"):
        container = kinds.container_of_index(name)
        if index == IGNORE:
            return _from_shards(parent_of(where), container, report)
        return _from_index(parent_of(where), name, container, report, FOLLOW)  # whoever names it means what it names
    return _from_file(where)


def read_config(listing: Listing) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Read the config beside shards: config.json, else Meta's params.json, or an adapter's adapter_config.json.

    None where there is none; a note where it cannot be read.
    """
    of_adapter = all(name.startswith("adapter") for name in listing.shards)
    source = source_of(listing.folder)
    names = ("adapter_config.json",) if of_adapter else ("config.json", "params.json")
    name = next((name for name in names if source.is_listed(join(listing.folder, name))), None)
    if name is None:
        return None, ()
    try:
        config = parse_json(
            source.read_small(join(listing.folder, name), MAX_JSON).removeprefix("\ufeff"), lenient=True
        )
        if not isinstance(config, dict):
            raise ValueError("is not a JSON object")
        if count_depth(config) > MAX_DEPTH:
            raise ValueError("nests its JSON too deeply")
    except (ValueError, OSError) as error:
        return None, (f"{name} {error}: the model was read without it",)
    return config, ()


def _model_name(folder: str) -> str:
    """`org/model` of a hub cache, else the folder's name."""
    above = parent_of(folder)
    if name_of(above) == "snapshots" and (hub := HUB_FOLDER.fullmatch(name_of(parent_of(above)))):
        return hub[1].replace("--", "/")
    return name_of(folder) or "model"


def _from_file(address: str) -> Listing:
    folder, file = parent_of(address), name_of(address)
    name = _model_name(folder)
    container = kinds.container_of_name(file)
    if (container is None or file != container.model) and "/" not in name:
        name = PurePosixPath(file).stem if container else file
    return Listing(address, folder, name, (file,), tuple(_say_what_is_beside(folder, file)))


def _say_what_is_beside(folder: str, file: str) -> Iterator[str]:
    """A note where a file is not the whole model."""
    part = kinds.parse_number(file)
    if part and int(part.total) > 1:
        yield f"{shown(file)} is one shard of {int(part.total):,}: the others were not read"
    if SLICE.fullmatch(file) and (slices := len(list(filter(SLICE.fullmatch, _names(folder))))) > 1:
        yield f"{shown(file)} has one of {slices} slices of every tensor, and shapes and statistics are of that slice"


def _snapshot(folder: str) -> str:
    """Choose the snapshot to read where `folder` is a hub cache's folder of one model; `folder` itself otherwise."""
    source, snapshots = source_of(folder), join(folder, "snapshots")
    if source.find_kind(snapshots) != "folder" or any(map(kinds.is_weights, _names(folder))):
        return folder
    try:
        main = source.read_small(join(folder, "refs/main"), 1000).strip()
    except ValueError:
        main = ""
    revisions = [name for name in _names(snapshots) if source.find_kind(join(snapshots, name)) == "folder"]
    if main in revisions:
        return join(snapshots, main)
    if len(revisions) == 1:
        return join(snapshots, revisions[0])
    if not revisions:
        raise CheckpointNotFound(f"{shown(folder, 400)} is a hub cache without a snapshot: download the model again.")
    raise CheckpointNotFound(
        f"{shown(folder, 400)} has {len(revisions)} snapshots and no refs/main: give one of them, like "
        f"{shown('snapshots/' + revisions[0])}."
    )


def _names(folder: str) -> list[str]:
    """Sorted names in a folder, without hidden files: macOS leaves `._model.safetensors` on foreign disks."""
    try:
        return sorted(name for name in source_of(folder).list_names(folder) if not name.startswith("."))
    except OSError as error:
        raise CheckpointError(f"{shown(folder, 400)} cannot be listed: {error.strerror or error}.") from None


def _from_folder(folder: str, report: Report, index: str) -> Listing:
    names = _names(folder)
    container = kinds.container_of_folder(names)
    indexes = list(filter(container.has_index, names))
    if index != IGNORE and indexes and (main := _main_index(folder, indexes, container, report)):
        return _from_index(folder, main, container, report, index)
    return _from_shards(folder, container, report)


def _from_shards(folder: str, container: Container, report: Report) -> Listing:
    names = _names(folder)
    shards = list(filter(container.has_shard, names))
    if not shards:
        raise CheckpointNotFound(_nothing_here(folder, names))
    if len(shards) > 1 and all(map(SLICE.fullmatch, shards)):
        raise CheckpointError(
            f"{shown(folder, 400)} has {len(shards)} slices of every tensor, cut for model parallelism, which shardscan"
            " does not join: convert the model to safetensors as transformers reads it, or give the path of one slice."
        )
    chosen, why = container.choose_shards(container, folder, shards)
    for fault in missing_numbers(folder, chosen):
        report(fault)
    others = _other_weights(folder, names, container, shards, chosen)
    spare = _left_out([n for n in shards if n not in chosen], why)
    left_out = (*spare, *others, *_folders_beside(folder, names, chosen))
    unsaid = f"no index says which tensors belong to the model: all {len(chosen)} shards were read"
    notes = (unsaid,) if len(chosen) > 1 else ()
    return Listing(folder, folder, _model_name(folder), tuple(chosen), notes, left_out)


def _main_index(folder: str, indexes: list[str], container: Container, report: Report) -> str | None:
    """The index of several that counts; None where none says so."""
    if container.model_index in indexes:
        return container.model_index
    usual = [name for name in indexes if not name.startswith(("consolidated", "adapter"))] or indexes
    if len(usual) == 1:
        return usual[0]
    error = ShardIndexError(
        f"{shown(folder, 400)} has {len(usual)} indexes and none is {container.model_index}: give the path of "
        f"one, like {shown(usual[0])}."
    )
    report(Fault(error, "index", usual[0]))
    return None


def missing_numbers(folder: str, shards: list[str]) -> Iterator[Fault]:
    """`-00001-of-00003` says how many there are: a missing one is an unfinished download."""
    numbers: dict[tuple[str, str, str], set[int]] = {}
    for part in filter(None, map(kinds.parse_number, shards)):
        numbers.setdefault((part.stem, part.total, part.ending), set()).add(part.number)
    for (stem, total, ending), present in numbers.items():
        if len(present) < int(total):
            error = ShardIndexError(
                f"{shown(folder, 400)} has {len(present)} of the {int(total):,} shards "
                f"{shown(f'{stem}-…-of-{total}{ending}')}: download the others."
            )
            yield Fault(error, "file")


def _from_index(folder: str, index: str, container: Container, report: Report, wanted: str) -> Listing:
    address = join(folder, index)
    where = shown(address, 400)
    try:
        index_file = read_index(address)
    except (ValueError, OSError) as error:
        report(Fault(ShardIndexError(f"{where} {error}{WITHOUT_IT}."), "index", index))
        return _from_shards(folder, container, report)
    named, names = set(index_file.weight_map.values()), _names(folder)
    refusals = list(refused_shards(folder, sorted(named), container.endings, _names))
    is_stale = len(refusals) == len(named) and all(
        refusal.is_absent and "/" not in refusal.shard for refusal in refusals
    )
    if wanted == AUTO and is_stale and any(map(container.has_shard, names)):
        listing = _from_shards(folder, container, report)
        stale = f"{shown(index)} names only shards that are not there, like {shown(min(named))}, and was not followed"
        return replace(listing, notes=(stale, *listing.notes))
    for shard, why, _ in refusals:
        refusal = ShardIndexError(f"{where} {why}{WITHOUT_IT}.")
        report(Fault(refusal, "index", shard))
    shards = sorted(named - {shard for shard, _, _ in refusals})
    below = [shard for shard in shards if "/" in shard]
    notes = [f"the index names shards in a subfolder, like {shown(below[0])}"] if below else []
    others = [name for name in names if container.has_index(name) and name != index]
    spare = [name for name in names if container.has_shard(name) and name not in named]
    return Listing(
        path=folder,
        folder=folder,
        name=_model_name(folder),
        shards=tuple(shards),
        notes=(*index_file.notes, *notes),
        left_out=(
            *_left_out(others, f"{shown(index)} was read"),
            *_left_out(spare, "not in the index"),
            *_other_weights(folder, names, container, [*named, *spare], shards),
            *_folders_beside(folder, names, shards),
        ),
        index=address,
        weight_map=index_file.weight_map,
        total_size=index_file.total_size,
    )


def _left_out(names: list[str], why: str) -> tuple[LeftOut, ...]:
    return (LeftOut(tuple(names), why),) if names else ()


def _other_weights(
    folder: str, names: list[str], container: Container, told: Sequence[str], chosen: Sequence[str]
) -> tuple[LeftOut, ...]:
    """Weights in other formats; said louder where they are far larger than what was read."""
    others = [name for name in names if OTHER_WEIGHTS.fullmatch(name) and name not in told]
    why, read = f"only the {container.title} files were read", sum(_size(folder, name) for name in chosen)
    sizes = {name: _size(folder, name) for name in others}
    larger = [name for name, size in sizes.items() if size > max(FAR * read, LARGE)]
    return (
        *(LeftOut((name,), f"{why}, and this is {sizes[name] // max(1, read):,} times as large: give its path if it is "
                  "the model", outweighs=True) for name in larger),
        *_left_out([name for name in others if name not in larger], why),
    )  # fmt: skip


def _size(folder: str, name: str) -> int:
    try:
        return source_of(folder).take_witness(join(folder, name))[2]
    except OSError:
        return 0


def _folders_beside(folder: str, names: list[str], chosen: Sequence[str]) -> tuple[LeftOut, ...]:
    """Folders in the model's whose weights are none of it."""
    read = {name.partition("/")[0] for name in chosen if "/" in name}
    below = [name for name in names if name not in read and _is_folder_of_weights(join(folder, name))]
    return _left_out(below, "a folder with weights of its own, which is read if it is given")


def _is_folder_of_weights(address: str) -> bool:
    return source_of(address).find_kind(address) == "folder" and any(map(kinds.is_weights, _names(address)))


def _nothing_here(folder: str, names: list[str]) -> str:
    start = f"{shown(folder, 400)} has no {kinds.name_containers()} file"
    if below := [n for n in names if _is_folder_of_weights(join(folder, n))]:
        if len(below) == 1:
            return f"{start}, but its folder {shown(below[0])} has: give that one."
        some = ", ".join(map(shown, below[:MOST_FOLDERS]))
        return f"{start}, but {len(below)} of its folders have, like {some}: give one of them."
    if others := [n for n in names if OTHER_WEIGHTS.fullmatch(n)]:
        return f"{start}, only {shown(others[0])}, which shardscan does not read: convert it to safetensors first."
    if not names:
        return f"{start}: the folder is empty."
    return f"{start}, only {shown(names[0])}" + (f" and {len(names) - 1} more." if len(names) > 1 else ".")
