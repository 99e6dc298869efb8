"""Fixtures that several tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints import Unavailable, cached
from keys import repeated
from shardscan import catalog


@pytest.fixture(scope="session", autouse=True)
def _keys_are_keys() -> Iterator[None]:
    """Every catalog that any test builds in this process has unique keys."""
    build = catalog.build

    def checked(folder: Path, *, rebuild: bool = False) -> Path:
        file = build(folder, rebuild=rebuild)
        assert repeated(file) == []
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "build", checked)
        yield


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2: BERT, one F32 shard. Tests that use it are marked `real`."""
    return _checkpoint("minilm")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct: Llama with GQA, BF16 in 5 shards. Tests that use it are marked `real`."""
    return _checkpoint("smollm2")


def _checkpoint(name: str) -> Path:
    try:
        return cached(name)
    except Unavailable as error:
        pytest.skip(str(error))
