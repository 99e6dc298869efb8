"""Fixtures that several tests share."""

from pathlib import Path

import pytest

from checkpoints import Unavailable, cached


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
