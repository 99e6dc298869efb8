"""What every container format promises, once: a backend says how its files are written, in three lines."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy as reference

from made.sentences import check_sentence
from made.torchfiles import dict_of, storage, tensor, zipped
from made.toys import TOY, as_toys, with_toys
from shardscan.errors import HeaderError
from shardscan.jobs.verification.job import verify
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.shards.formats.container import Container
from shardscan.shards.formats.kinds import container_of_name, read_header
from shardscan.shards.formats.safetensors import SAFETENSORS
from shardscan.shards.formats.torch import PYTORCH

Arrays = Mapping[str, np.ndarray[Any, Any]]
ARRAYS = {
    "model.norm.weight": np.arange(1, 7, dtype="<f4").reshape(2, 3),
    "odd/name": np.full((4,), -2.5, "<f4"),
    "empty": np.empty((0, 5), "<f4"),
}


def as_torch(arrays: Arrays) -> bytes:
    """A file as torch.save writes one, with a storage for each array."""
    held, data = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = [s // array.itemsize for s in np.empty(array.shape, array.dtype).strides]
        held[name] = tensor(storage(str(key), array.size), 0, array.shape, strides)
        data[str(key)] = array.tobytes()
    return zipped(dict_of(**held), data=data)


class ContainerContract:
    """What a file of any format is to its readers."""

    container: Container

    def encode(self, arrays: Arrays) -> bytes:
        """A whole file with these arrays of float32."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _toys(self) -> Iterator[None]:
        with with_toys():
            yield

    @pytest.fixture(name="path")
    def _path(self, tmp_path: Path) -> Path:
        path = tmp_path / "model" / self.container.model
        path.parent.mkdir()
        path.write_bytes(self.encode(ARRAYS))
        return path

    def test_values_names_and_shapes_are_those_that_were_written(self, path: Path) -> None:
        found = open_checkpoint(path)
        assert found.format == self.container.name
        assert list(found) == [entry.name for entry in read_header(str(path)).tensors]
        assert set(found) == set(ARRAYS)
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name].window().read(), array)
            if len(array):
                np.testing.assert_array_equal(found[name].window(1, 2).read(), array[1:2])

    def test_a_file_with_any_of_the_endings_is_found_in_its_folder(self, path: Path) -> None:
        for ending in self.container.endings:
            path = path.rename(path.with_name(f"epoch=1{ending}"))
            assert set(open_checkpoint(path.parent)) == set(open_checkpoint(path)) == set(ARRAYS)

    def test_every_tensor_has_an_address_within_its_file_and_pickles(self, path: Path) -> None:
        data = path.read_bytes()
        for name, found in pickle.loads(pickle.dumps(open_checkpoint(path))).items():
            assert data[found.offset : found.offset + found.nbytes] == ARRAYS[name].tobytes()

    def test_a_header_counts_its_file_and_says_what_is_odd(self, path: Path) -> None:
        header = read_header(str(path))
        assert (header.format, header.nbytes) == (self.container.name, path.stat().st_size)
        assert header.on_disk is None
        assert any("unusual characters" in note for note in header.notes)
        assert pickle.loads(pickle.dumps(header)) == header

    def test_the_digest_is_of_the_header(self, path: Path) -> None:
        before = read_header(str(path)).digest
        path.write_bytes(self.encode({"other": ARRAYS["odd/name"]}))
        assert read_header(str(path)).digest != before

    def test_a_file_cut_anywhere_or_with_bytes_behind_is_refused_in_one_sentence(self, path: Path) -> None:
        data = path.read_bytes()
        for wrong in (*(data[:length] for length in range(0, len(data), 37)), data[:-1], data + b"x"):
            path.write_bytes(wrong)
            with pytest.raises(HeaderError) as refused:
                read_header(str(path), container=self.container)
            check_sentence(refused.value)

    @pytest.mark.parametrize("kind", ["fifo", "folder", "nothing", "dangling link", "link loop"])
    def test_what_is_no_regular_file_is_refused_at_once(self, kind: str, path: Path) -> None:
        path.unlink()
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind != "nothing":
            path.symlink_to("elsewhere" if kind == "dangling link" else path.name)
        errors: list[Exception] = []

        def attempt() -> None:
            try:
                read_header(str(path))
            except HeaderError as error:
                errors.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(100)
        assert not thread.is_alive()
        assert len(errors) == 1

    def test_a_sparse_file_is_read_and_its_hole_is_said(self, path: Path) -> None:
        data = self.encode({"a": np.zeros(1 << 23, "<f4")})
        middle = data.index(bytes(1 << 20))
        with path.open("wb") as file:
            file.write(data[:middle])
            file.seek(middle + (1 << 25) - 4096)
            file.write(data[middle + (1 << 25) - 4096 :])
        assert path.read_bytes() == data
        assert read_header(str(path)).on_disk is not None

    def test_it_is_called_as_it_says_and_verify_finds_nothing(self, path: Path) -> None:
        assert container_of_name(path.name) is self.container
        assert self.container.has_shard(path.name)
        assert self.container.has_index(self.container.model_index)
        assert verify(path.parent).problems == 0

    def test_a_shard_without_its_neighbours_is_refused_by_its_number(self, path: Path) -> None:
        stem = self.container.model.removesuffix(self.container.endings[0])
        path.rename(path.with_name(f"{stem}-00001-of-00002{self.container.endings[0]}"))
        with pytest.raises(ValueError, match="has 1 of the 2 shards"):
            open_checkpoint(path.parent)


class TestSafetensors(ContainerContract):
    container = SAFETENSORS

    def encode(self, arrays: Arrays) -> bytes:
        return reference.save(dict(arrays))


class TestTorch(ContainerContract):
    container = PYTORCH

    def encode(self, arrays: Arrays) -> bytes:
        return as_torch(arrays)


class TestToy(ContainerContract):
    container = TOY

    def encode(self, arrays: Arrays) -> bytes:
        return as_toys(arrays)
