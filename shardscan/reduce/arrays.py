"""OPEN, as arrays: every tensor of a checkpoint as a lazy dask array.

An array's graph holds windows (address, offset, dtype, shape), a kilobyte that pickles and that any worker opens by
itself; its name is made of that address and the file's size and time, so that two arrays are one only if their bytes
are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import dask.array as da
import numpy as np
import xxhash

from shardscan.plan.tasks import ROW_MULTIPLE
from shardscan.shards.address import Checkpoint, Tensor, Window
from shardscan.shards.checkpoint import open as open_checkpoint
from shardscan.shards.dtypes import decode
from shardscan.shards.formats.container import FileOptions
from shardscan.shards.sources.schemes import source_of

CHUNK_BYTES = 32 << 20


class LazyCheckpoint(Mapping[str, da.Array]):
    """A mapping from tensor name to a lazy dask array; `checkpoint` holds the headers.

    Dtypes that NumPy has arrive as they are, memory-mapped, or copied where they are strided views. bfloat16, float8,
    float6, float4 and E8M0 scales arrive as float32, which holds each of their values exactly.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def __getitem__(self, name: str) -> da.Array:
        return as_dask(self.checkpoint[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.checkpoint)

    def __len__(self) -> int:
        return len(self.checkpoint)

    def __repr__(self) -> str:
        c = self.checkpoint
        return (
            f"<{c.name}: {len(c):,} tensors, {c.parameters:,} parameters, {c.nbytes:,} bytes in {len(c.files)} files>"
        )


def open(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    pickled_module: bool = False,
    index: str = "auto",
    state: str | None = None,
) -> LazyCheckpoint:
    """Open a checkpoint, reading headers only: a file, a folder, a sharded folder or a hub-cache snapshot.

    `pickled_module` reads the weights of a whole module that was pickled by PyTorch, as inert data; `index` and `state`
    are as for `shardscan.ingest`. CheckpointNotFound or CheckpointError say what is wrong with it.
    """
    options = FileOptions(pickled_module, state)
    return LazyCheckpoint(open_checkpoint(path, name=name, options=options, index=index))


def as_dask(tensor: Tensor) -> da.Array:
    """One tensor as a dask array in chunks of about 32 MiB of whole rows."""
    _, _, size, time = source_of(tensor.path).take_witness(tensor.path)
    where = f"{tensor.path}\0{tensor.offset}\0{tensor.dtype}\0{tensor.shape}\0{tensor.strides}"
    token = f"{where}\0{size}\0{time}"
    name = f"shard-{xxhash.xxh3_128_hexdigest(token.encode('utf-8', 'surrogatepass'))}"
    starts, lengths = _rows(tensor)
    key_tail = (0,) * max(0, len(tensor.shape) - 1)
    graph = {
        (name, *((i,) if tensor.shape else ()), *key_tail): (Window.read, tensor.window(start, start + length))
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True))
    }
    chunks = (tuple(lengths), *((n,) for n in tensor.shape[1:])) if tensor.shape else ()
    return da.Array(graph, name, chunks, dtype=_numpy_dtype(tensor.dtype))


def _rows(tensor: Tensor) -> tuple[range, list[int]]:
    rows = tensor.shape[0] if tensor.shape else 1
    row_bytes = max(1, tensor.nbytes // max(1, rows))
    step = max(1, CHUNK_BYTES // row_bytes // ROW_MULTIPLE) * ROW_MULTIPLE
    starts = range(0, max(1, rows), step)
    return starts, [min(step, rows - start) for start in starts]


def _numpy_dtype(code: str) -> np.dtype[np.generic]:
    return decode(np.empty(0, np.uint8), code, (0,)).dtype
