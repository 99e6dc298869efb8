"""VERIFY, its pass: all bytes of a shard once, in file order, in windows of bounded size, read ahead of the looking."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import xxhash

from shardscan.jobs.verification.values import NonFinite, constant, joined, non_finite, zero_runs
from shardscan.shards.address import Tensor, Window
from shardscan.shards.ahead import Ahead
from shardscan.shards.dtypes import DTYPES

WINDOW = 15 << 20  # bytes; a multiple of 16 and of 3, so that no value of any dtype is cut
LEAST_RUN = 1 << 20  # bytes of zeros that no weights have by chance


Address = tuple[int, str, tuple[int, ...], tuple[int, ...] | None]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the bytes of one tensor are like; `constant` is the value of all, as stored, None where they differ."""

    tensor: Tensor
    non_finite: NonFinite
    constant: bytes | None
    digest: str

    @property
    def is_zero(self) -> bool:
        return self.constant is not None and not any(self.constant)


class ZeroRun(NamedTuple):
    """Zero bytes `start` to `stop` of a tensor, part of a run of `LEAST_RUN` bytes that may go on in its neighbours."""

    tensor: Tensor
    start: int
    stop: int

    @property
    def is_whole(self) -> bool:
        return self.stop - self.start == self.tensor.nbytes


class _Piece(NamedTuple):
    """Bytes `start` to `stop` of a tensor, all of them in one window."""

    tensor: Tensor
    start: int
    stop: int

    @property
    def first_value(self) -> int:
        """The number of its first value in the tensor."""
        return self.start * 8 // DTYPES[self.tensor.dtype].bits


def look_at_tensors(
    tensors: Iterable[Tensor], advance: Callable[[int], None], also: Callable[[memoryview], None] = lambda data: None
) -> tuple[list[Seen], list[ZeroRun]]:
    """Read the tensors of one shard; `advance` hears of the bytes of each window. Raises CheckpointError and OSError.

    `also` takes the same bytes in file order, from a thread of its own. Empty tensors are not seen: there is nothing.
    Tensors that are the very same bytes are read once, and seen under each name.
    """
    of_address: dict[Address, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.nbytes:
            of_address.setdefault(_address(tensor), []).append(tensor)
    neighbours, others = _sorted_out(first for first, *_ in of_address.values())
    seen, runs = _look_at_neighbours(neighbours, advance, also)
    for tensor in others:
        of_tensor, zeros = _look_at_values(tensor, advance)
        seen.append(of_tensor)
        runs += zeros
    return [
        replace(tensor_seen, tensor=tensor)
        for tensor_seen in seen
        for tensor in of_address[_address(tensor_seen.tensor)]
    ], runs


def nbytes_of(tensors: Iterable[Tensor]) -> int:
    """The bytes that looking at these tensors reads."""
    return sum({_address(tensor): tensor.nbytes for tensor in tensors}.values())


def _address(tensor: Tensor) -> Address:
    return tensor.offset, tensor.dtype, tensor.shape, tensor.strides


def _sorted_out(tensors: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors in file order that share no byte, and those that do or whose values are not stored in their order."""
    neighbours: list[Tensor] = []
    others: list[Tensor] = []
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.strides is not None or tensor.offset < end:
            others.append(tensor)
        else:
            neighbours.append(tensor)
            end = tensor.offset + tensor.nbytes
    return neighbours, others


def _look_at_neighbours(
    ordered: Sequence[Tensor], advance: Callable[[int], None], also: Callable[[memoryview], None]
) -> tuple[list[Seen], list[ZeroRun]]:
    """Look at tensors in file order that share no byte."""
    windows = list(_windows(ordered))
    seen: list[Seen] = []
    runs: list[tuple[int, int]] = []
    with Ahead(window for window, _ in windows) as ahead, ThreadPoolExecutor(1, "also") as beside:
        for window, pieces in windows:
            with ahead.raw(window) as raw:
                taken = beside.submit(also, raw.data)
                runs += [(window.offset + start, window.offset + stop) for start, stop in zero_runs(raw)]
                for piece in pieces:
                    raw_piece = raw[piece.tensor.offset + piece.start - window.offset :][: piece.stop - piece.start]
                    if not piece.start:
                        hasher, odd_values, value = (
                            xxhash.xxh3_128(),
                            NonFinite(),
                            constant(raw_piece, piece.tensor.dtype),
                        )
                    hasher.update(raw_piece.data)
                    odd_values = odd_values.then(non_finite(raw_piece, piece.tensor.dtype), piece.first_value)
                    value = value if value == constant(raw_piece, piece.tensor.dtype) else None
                    if piece.stop == piece.tensor.nbytes:
                        seen.append(Seen(piece.tensor, odd_values, value, hasher.hexdigest()))
                taken.result()  # the window is gone after this
            advance(window.nbytes)
    return seen, list(_by_tensor(ordered, joined(runs, LEAST_RUN)))


def _look_at_values(tensor: Tensor, advance: Callable[[int], None]) -> tuple[Seen, list[ZeroRun]]:
    """Look at one tensor by itself, at its values in the order in which they count."""
    width = DTYPES[tensor.dtype].bits // 8
    hasher, odd_values, runs = xxhash.xxh3_128(), NonFinite(), []
    values = []
    for start in range(0, tensor.nbytes, WINDOW):
        window = tensor.run(start // width, (min(WINDOW, tensor.nbytes - start) // width,))
        raw = window.raw()
        hasher.update(raw.data)
        odd_values = odd_values.then(non_finite(raw, tensor.dtype), start // width)
        values.append(constant(raw, tensor.dtype))
        runs += [(start + first, start + last) for first, last in zero_runs(raw)]
        advance(window.nbytes)
    value = values[0] if len(set(values)) == 1 else None
    zeros = [ZeroRun(tensor, first, last) for first, last in joined(runs, LEAST_RUN)]
    return Seen(tensor, odd_values, value, hasher.hexdigest()), zeros


def _windows(ordered: Iterable[Tensor]) -> Iterator[tuple[Window, list[_Piece]]]:
    """Windows over neighbouring tensors, each with its pieces: small tensors share one, large ones have several.

    Where a file has something else between two tensors, the second begins a window.
    """
    pieces: list[_Piece] = []
    filled = end = 0
    for piece in _pieces(ordered):
        nbytes = piece.stop - piece.start
        begin = piece.tensor.offset + piece.start
        if pieces and (filled + nbytes > WINDOW or begin != end):
            yield _window(pieces, filled), pieces
            pieces, filled = [], 0
        end = begin + nbytes
        pieces.append(piece)
        filled += nbytes
    if pieces:
        yield _window(pieces, filled), pieces


def _pieces(ordered: Iterable[Tensor]) -> Iterator[_Piece]:
    for tensor in ordered:
        for start in range(0, tensor.nbytes, WINDOW):
            yield _Piece(tensor, start, min(start + WINDOW, tensor.nbytes))


def _window(pieces: Sequence[_Piece], nbytes: int) -> Window:
    whole = pieces[0].tensor.window()
    return replace(whole, offset=whole.offset + pieces[0].start, dtype="U8", shape=(nbytes,))


def _by_tensor(ordered: Sequence[Tensor], runs: Iterable[tuple[int, int]]) -> Iterator[ZeroRun]:
    """The part of each run that each tensor has."""
    begins = [tensor.offset for tensor in ordered]
    for start, stop in runs:
        for tensor in ordered[bisect_right(begins, start) - 1 : bisect_left(begins, stop)]:
            first, last = max(start, tensor.offset), min(stop, tensor.offset + tensor.nbytes)
            yield ZeroRun(tensor, first - tensor.offset, last - tensor.offset)
