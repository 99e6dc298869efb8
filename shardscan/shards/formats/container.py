"""OPEN, a container format as a value: everything that other modules need to know of one.

A format is one file of this folder with its `Container`, and one line in `kinds.CONTAINERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from shardscan.errors import CheckpointError, shown
from shardscan.shards.header import Header
from shardscan.shards.sources.source import StoredFile

NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,9})-of-(?P<total>\d{1,9})(?P<ending>\.\w+)")


@dataclass(frozen=True, slots=True)
class FileOptions:
    """What is read of a file that holds more than a model's tensors, which PyTorch's may.

    `pickled_module`: also the weights of a whole module, whose classes stay names: nothing is imported. `state`: those
    under this key, or keys with dots between them; '.' those that are under none; None where there is one choice.
    """

    pickled_module: bool = False
    state: str | None = None


PLAIN = FileOptions()

Choose = Callable[["Container", str, list[str]], tuple[list[str], str]]


class Numbered(NamedTuple):
    """A shard's name such as model-00001-of-00003.safetensors, in its parts."""

    stem: str
    number: int
    total: str
    ending: str


@dataclass(frozen=True, slots=True)
class Container:
    """One container format.

    `name` is what stores and tables call it, `title` what people do. A file of the first of `endings` is called
    `model` where it is the whole model, and a file that ends in `index` says which shard has a tensor.

    `read_header` takes an open file and what is to be read of it; it raises ValueError with the end of a sentence, and
    OSError. `begins` tells the format by a file's first 16 bytes; where `is_told_by_name`, a file with one of the
    endings is read as this format or refused, whatever it begins with.

    `choose_shards` takes a folder's shards where no index says which are the model: those that are, and why the others
    are not. `is_weights` tells shards from other files with these endings. `stray` is what is said of a file of this
    format that lies beside the model: the end of a sentence, or None where that it was left out is enough.

    `damaged_records` reads a whole file and gives a sentence for each part whose own checksum is wrong; None of a
    format without checksums. Where `is_gapless`, a file is its header and then its tensors without a byte between, so
    that one pass over the tensors sees all of it.
    """

    name: str
    title: str
    endings: tuple[str, ...]
    index: str
    model: str
    read_header: Callable[[StoredFile, FileOptions], Header]
    begins: Callable[[bytes], bool]
    choose_shards: Choose
    is_told_by_name: bool = True
    is_weights: Callable[[str], bool] = lambda name: True
    stray: str | None = None
    damaged_records: Callable[[StoredFile], Iterator[str]] | None = None
    is_gapless: bool = False

    @property
    def model_index(self) -> str:
        """The name of the index of a model whose files are called in the usual way."""
        return self.model.removesuffix(self.endings[0]) + self.index

    def has_shard(self, name: str) -> bool:
        """Whether a file's name is that of a shard of this format."""
        return name.endswith(self.endings) and self.is_weights(name)

    def has_index(self, name: str) -> bool:
        """Whether a file's name is that of an index of this format."""
        return name.endswith(self.index)

    def parse_number(self, name: str) -> Numbered | None:
        """The parts of a numbered shard's name; None of every other name."""
        part = NUMBERED.fullmatch(name)
        if part is None or part["ending"] not in self.endings:
            return None
        return Numbered(part["stem"], int(part["number"]), part["total"], part["ending"])


def choose_named_shards(container: Container, folder: str, shards: list[str]) -> tuple[list[str], str]:
    """The model, its numbered shards, an adapter or the only file; CheckpointError where there is more to choose from.

    None is guessed where nothing says which: for formats whose files are often something else than weights.
    """
    stem = container.model.removesuffix(container.endings[0])
    numbered = [name for name in shards if name.startswith(f"{stem}-") and container.parse_number(name)]
    for chosen in ([container.model], numbered, [f"adapter_model{container.endings[0]}"]):
        if chosen and set(chosen) <= set(shards):
            return chosen, f"{chosen[0]} was read"
    if len(shards) > 1:
        raise CheckpointError(
            f"{shown(folder, 400)} has {len(shards)} {container.title} files, like {shown(shards[0])}, and none is "
            f"{container.model} or an index: give the path of one."
        )
    return shards, ""
