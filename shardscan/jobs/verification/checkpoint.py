"""VERIFY, a checkpoint: headers, index and files as `open` judges them, then every byte of every tensor.

The records of PyTorch's zip files are read once more, for their checksums.

The rules are those of OPEN; here all faults are told, and what can be read is looked at all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from shardscan.anatomy.names import split
from shardscan.errors import CheckpointError, shown
from shardscan.jobs.verification import folder
from shardscan.jobs.verification.findings import NOTE, PROBLEM, Advance, Finding, Severity, Verdict, coordinates
from shardscan.jobs.verification.reading import WINDOW, Seen, ZeroRun, look, nbytes_of
from shardscan.shards.address import Tensor
from shardscan.shards.checkpoint import Inspected, Shard, inspect
from shardscan.shards.dtypes import DTYPES
from shardscan.shards.folder import missing_numbers, read_config
from shardscan.shards.formats.torch.checksums import damaged_records
from shardscan.shards.refusals import Fault
from shardscan.shards.strict_json import opened

LEAST_TENSOR = 4096  # bytes of a tensor whose zeros, or whose equal, are worth a note
MAY_BE_ZERO = {"bias", "lora_b", "zero", "index", "buffer"}  # parts that are zero at the start, or for good
SHA256 = re.compile("[0-9a-f]{64}")  # how a hub cache names the blob of a large file
VOCABULARY = re.compile(r"(.*\.)?(\w*embed\w*|wte|shared|lm_head|output)")  # modules with padded rows


def verify(path: str, advance: Advance, *, pickled_module: bool) -> Verdict:
    """Everything that is wrong or odd with the checkpoint at `path`; `advance` hears of bytes read and bytes in all.

    Raises CheckpointNotFound where nothing is to be read, and CheckpointError where that cannot even be told.
    """
    faults: list[Fault] = []
    # a download that goes on may cut what is mapped
    found = inspect(path, faults.append, io="read", pickled_module=pickled_module)
    findings = [*_of_faults(faults, found), *_of_headers(found), *_of_index(found), *folder.findings(found.listing)]
    there = [shard for shard in found.shards if shard.header.on_disk is None]
    total, read = sum(nbytes_of(_tensors(shard)) for shard in there), 0

    def advanced(nbytes: int) -> None:
        nonlocal read
        read += nbytes
        advance(read, total)

    everything: list[Seen] = []
    for shard in there:
        try:
            seen, of_shard = _look(shard, advanced)
        except (CheckpointError, OSError, ValueError) as error:
            why = str(error).rstrip(".")
            detail = f"{shown(shard.file.path, 400)} cannot be read to its end ({why}): verify it again."
            findings.append(Finding(PROBLEM, "file", detail, shard.file.name))
            continue
        everything += seen
        findings += of_shard
    findings += [*_of_copies(found, everything), *_of_ties(everything)]
    return Verdict(found.listing.name, tuple(findings), "tensor", len(found.tensors), read)


def _look(shard: Shard, advance: Callable[[int], None]) -> tuple[list[Seen], list[Finding]]:
    """What every tensor of a shard is like, and what is wrong with them; of a hub cache's blob its hash too."""
    path, tensors = Path(shard.file.path), _tensors(shard)
    if path.parent.name != "blobs" or not SHA256.fullmatch(path.name):
        seen, runs = look(tensors, advance)
        return seen, [*_of_records(shard), *_of_values(seen), *_of_zeros(seen, runs)]
    with opened(str(path)) as file:
        if shard.header.format == "safetensors":  # whose tensors are all that follows
            whole = sha256(file.read(shard.file.header_nbytes))
            seen, runs = look(tensors, advance, whole.update)
        else:
            whole = sha256()
            while some := file.read(WINDOW):
                whole.update(some)
            seen, runs = look(tensors, advance)
    detail = "Its SHA-256 is not the one by which the hub knows it: download it again."
    wrong = [Finding(PROBLEM, "checksum", detail, shard.file.name)] * (whole.hexdigest() != path.name)
    return seen, [*wrong, *_of_values(seen), *_of_zeros(seen, runs)]


def _of_records(shard: Shard) -> Iterator[Finding]:
    """Records of a PyTorch file whose checksums are wrong; a hub cache's blob has a better one."""
    if shard.header.format == "pytorch":
        for detail in damaged_records(shard.file.path):
            yield Finding(PROBLEM, "checksum", detail, shard.file.name)


def _tensors(shard: Shard) -> list[Tensor]:
    return [shard.tensor(entry) for entry in shard.header.tensors]


def _of_faults(faults: Iterable[Fault], found: Inspected) -> Iterator[Finding]:
    if found.listing.weight_map is not None:
        named = sorted(set(found.listing.weight_map.values()))
        faults = (*faults, *missing_numbers(Path(found.listing.folder), named))
    for fault in faults:
        yield Finding(PROBLEM, fault.check, str(fault.error), fault.file, fault.tensor)


def _of_headers(found: Inspected) -> Iterator[Finding]:
    for file, header, _ in found.shards:
        for note in header.notes:
            yield Finding(NOTE, "header", f"{note}.", file.name)
        if header.on_disk is not None:
            detail = (
                f"Only {header.on_disk:,} of {file.nbytes:,} bytes are on disk and the rest is a hole that reads as "
                "zeros, so its tensors were not looked at: download it again."
            )
            yield Finding(PROBLEM, "file", detail, file.name)


def _of_index(found: Inspected) -> Iterator[Finding]:
    listing = found.listing
    index = Path(listing.index).name if listing.index else None
    notes = [*listing.notes, *([found.total_size] if found.total_size else [])]
    yield from (Finding(NOTE, "index", f"{note[:1].upper()}{note[1:]}.", index) for note in notes)
    for name in found.unlisted:
        detail = "The tensor is in a shard and not in the index: some programs load it, others do not."
        yield Finding(PROBLEM, "index", detail, found.tensors[name].file, name)
    yield from (Finding(NOTE, "config", f"{note}.") for note in read_config(listing)[1])


def _of_values(seen: Iterable[Seen]) -> Iterator[Finding]:
    for one in seen:
        tensor, (nans, infs, first_nan, first_inf) = one.tensor, one.non_finite
        for check, what, count, first in (("nan", "NaN", nans, first_nan), ("inf", "infinite", infs, first_inf)):
            if first is not None:
                # masks of attention are made of infinities
                severity = NOTE if check == "inf" and "mask" in tensor.name.lower() else PROBLEM
                detail = f"{count:,} of {tensor.parameters:,} values {'is' if count == 1 else 'are'} {what}."
                yield _at(severity, check, detail, tensor, coordinates(first, tensor.shape))


def _of_zeros(seen: Iterable[Seen], runs: Sequence[ZeroRun]) -> Iterator[Finding]:
    for run in runs:
        tensor, bits = run.tensor, DTYPES[run.tensor.dtype].bits
        first, last = -(-run.start * 8 // bits), run.stop * 8 // bits - 1
        if first > last:
            continue  # its last or first bytes only
        where = f"{coordinates(first, tensor.shape)} to {coordinates(last, tensor.shape)}"
        zeros = f"{run.stop - run.start:,} of {tensor.nbytes:,} bytes are zero"
        detail = f"{zeros}, as where a download did not fill its file."
        yield _at(NOTE if _may_be_zero(run) else PROBLEM, "zeros", detail, tensor, where)
    told = {run.tensor for run in runs}
    for one in seen:
        if one.is_zero and one.tensor.nbytes >= LEAST_TENSOR and one.tensor not in told:
            yield _at(NOTE, "zeros", f"All {one.tensor.parameters:,} values are zero.", one.tensor, None)


def _may_be_zero(run: ZeroRun) -> bool:
    """Whether a run of zeros is no sign of a hole: see the table in this folder's README."""
    module, part = split(run.tensor)
    if DTYPES[run.tensor.dtype].kind == "bool":
        return True
    if run.is_whole:
        return part in MAY_BE_ZERO or "token_type" in run.tensor.name
    row = run.tensor.nbytes // max(1, run.tensor.shape[0]) if run.tensor.shape else 0
    is_rows_to_the_end = run.stop == run.tensor.nbytes and bool(row) and run.start % row == 0
    return is_rows_to_the_end and VOCABULARY.fullmatch(module) is not None


def _of_copies(found: Inspected, everything: Iterable[Seen]) -> Iterator[Finding]:
    digests = {(one.tensor.file, one.tensor.name): one.digest for one in everything}
    for name, file in found.copies:
        wanted = (found.listing.weight_map or {})[name]
        first, second = digests.get((wanted, name)), digests.get((file, name))
        same = "with the same bytes" if first == second else "with other bytes"
        how = f", {same}" if first and second else ""
        detail = f"The tensor is in this shard too, where the index wants it from {shown(wanted)}{how}."
        yield Finding(PROBLEM, "duplicate", detail, file, name)


def _of_ties(everything: Iterable[Seen]) -> Iterator[Finding]:
    """Tensors of equal dtype, shape and bytes under several names; not of one value, as norms are at the start."""
    first_of: dict[tuple[str, tuple[int, ...], str], Tensor] = {}
    for one in everything:
        tensor = one.tensor
        if tensor.nbytes < LEAST_TENSOR or one.constant is not None:
            continue
        first = first_of.setdefault((tensor.dtype, tensor.shape, one.digest), tensor)
        if first.name != tensor.name:
            yield _at(NOTE, "tied", f"Its bytes are those of {shown(first.name)} in {shown(first.file)}.", tensor, None)


def _at(severity: Severity, check: str, detail: str, tensor: Tensor, position: str | None) -> Finding:
    return Finding(severity, check, detail, tensor.file, tensor.name, position)
