"""The options of a job as values, checked where they are made: what it computes, how it reads and what it may take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from shardscan import machine
from shardscan.errors import OptionError, shown
from shardscan.plan.products import SPECTRA, asked_by
from shardscan.plan.scan import CHANNELS
from shardscan.plan.scan_budget import LEAST
from shardscan.shards.formats.container import FileOptions


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What a scan computes, and how; what the words mean is said by `ingest`.

    OptionError where `channels` or `spectra` are none of their words. `device` is looked for when a scan is prepared.
    """

    spectra: str = "heads"
    exact: bool = False
    device: str = "cpu"
    blas_threads: int | None = None
    channels: str | None = None

    def __post_init__(self) -> None:
        if self.channels is not None and self.channels not in CHANNELS:
            raise OptionError(f"{shown(self.channels)} is no choice of channels: take {', '.join(CHANNELS)}.")
        words = self._words()
        if any(word not in SPECTRA for word in words) or ("none" in words and len(words) > 1):
            raise OptionError(
                f"{shown(self.spectra)} is no choice of spectra: take none, or some of {', '.join(SPECTRA)} "
                "with commas."
            )

    @property
    def products(self) -> frozenset[str]:
        """The products that 'heads,full' asks for."""
        return frozenset().union(*map(asked_by, self._words()))

    def _words(self) -> list[str]:
        return [word.strip() for word in self.spectra.split(",")]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a checkpoint is read and its tensors are named: the same for every command; `ingest` says what it means.

    The words of `io` and `index` are checked by OPEN, which knows what they stand for.
    """

    io: str = "auto"
    pickled_module: bool = False
    family_files: Sequence[str | os.PathLike[str]] = ()
    index: str = "auto"
    state: str | None = None

    @property
    def of_files(self) -> FileOptions:
        """What is read of each file."""
        return FileOptions(self.pickled_module, self.state)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job may take: worker threads, bytes of anonymous memory and bytes to read; None is for any number."""

    workers: int
    memory: int | None
    max_bytes: int | None

    @classmethod
    def within(cls, workers: int | None = None, memory_limit: int | None = None, max_bytes: int | None = None) -> Self:
        """What is allowed; by default a worker for each processor, half of the memory that is free, any bytes to read.

        OptionError where no worker or too little memory for any scan is allowed.
        """
        if workers is not None and workers < 1:
            raise OptionError(f"{workers} workers do no work: take at least 1.")
        if memory_limit is not None and memory_limit < LEAST:
            raise OptionError(
                f"{_megabytes(memory_limit)} of memory are too few for any scan: take at least {_megabytes(LEAST)}."
            )
        memory = _half_of_what_is_free() if memory_limit is None else memory_limit
        return cls(workers or machine.processors(), memory, max_bytes)

    def check_bytes(self, job: str, nbytes: int) -> None:
        """OptionError where a job, such as 'this scan', would read more bytes than it may."""
        if self.max_bytes is not None and nbytes > self.max_bytes:
            raise OptionError(
                f"{job} would read {nbytes:,} bytes and may read {self.max_bytes:,}: allow more with --max-bytes."
            )

    def check_memory(self, needs: str, nbytes: int, otherwise: str = "") -> None:
        """OptionError where a job takes more bytes of memory than it may.

        `needs` begins the sentence, such as 'this scan needs'; `otherwise` says what else somebody may do.
        """
        if self.memory is not None and nbytes > self.memory:
            raise OptionError(
                f"{needs} {_megabytes(nbytes)} of memory and may take {_megabytes(self.memory)}: allow more with "
                f"--memory{otherwise}."
            )


def _half_of_what_is_free() -> int | None:
    """Bytes; None where the system does not tell."""
    available = machine.available_memory()
    return None if available is None else available // 2


def _megabytes(nbytes: int) -> str:
    return f"{-(-nbytes // 1_000_000):,} MB"
