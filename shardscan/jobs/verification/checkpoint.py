"""VERIFY, a checkpoint: headers, index and files as `open` judges them, then every byte of every tensor.

Of a container format that has checksums of its own the records are read once more, for those.

The rules are those of OPEN; here all faults are told, and what can be read is looked at all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

from shardscan.anatomy.codes import Quantisation
from shardscan.anatomy.names import split
from shardscan.errors import CheckpointError, shown
from shardscan.jobs.scan.options import Reading
from shardscan.jobs.verification import folder
from shardscan.jobs.verification.completeness import find_missing
from shardscan.jobs.verification.findings import NOTE, PROBLEM, Advance, Finding, Severity, Verdict, coordinates
from shardscan.jobs.verification.reading import WINDOW, Seen, ZeroRun, look_at_tensors, nbytes_of
from shardscan.shards.address import Tensor
from shardscan.shards.checkpoint import Inspected, Shard, inspect
from shardscan.shards.dtypes import DTYPES
from shardscan.shards.folder import missing_numbers, read_config
from shardscan.shards.formats.kinds import container_called
from shardscan.shards.refusals import Fault
from shardscan.shards.sources.schemes import source_of
from shardscan.shards.sources.source import name_of, parent_of

LEAST_TENSOR = 4096  # bytes of a tensor whose zeros, or whose equal, are worth a note
MAY_BE_ZERO = {"bias", "lora_b", "zero", "index", "buffer"}  # parts that are zero at the start, or for good
UNREAD = {"header", "file"}  # faults of which a shard was not read: what is missing is in it
SHA256 = re.compile("[0-9a-f]{64}")  # how a hub cache names the blob of a large file
VOCABULARY = re.compile(r"(.*\.)?(\w*embed\w*|wte|shared|lm_head|output)")  # modules with padded rows


def verify(path: str, advance: Advance, reading: Reading) -> Verdict:
    """Everything that is wrong or odd with the checkpoint at `path`; `advance` hears of bytes read and bytes in all.

    Raises CheckpointNotFound where nothing is to be read, and CheckpointError where that cannot even be told.
    """
    faults: list[Fault] = []
    # a download that goes on may cut what is mapped
    inspected = inspect(path, faults.append, io="read", options=reading.of_files, index=reading.index)
    findings = [
        *_of_faults(faults, inspected),
        *_of_headers(inspected),
        *_of_index(inspected),
        *(() if any(fault.check in UNREAD for fault in faults) else find_missing(inspected)),
        *folder.findings(inspected.listing),
    ]
    there = [shard for shard in inspected.shards if shard.header.on_disk is None]
    total, read = sum(nbytes_of(_tensors(shard)) for shard in there), 0

    def advanced(nbytes: int) -> None:
        nonlocal read
        read += nbytes
        advance(read, total)

    everything: list[Seen] = []
    for shard in there:
        try:
            seen, of_shard = _look_at_shard(shard, advanced)
        except (CheckpointError, OSError, ValueError) as error:
            why = str(error).rstrip(".")
            detail = f"{shown(shard.file.path, 400)} cannot be read to its end ({why}): verify it again."
            findings.append(Finding(PROBLEM, "file", detail, shard.file.name))
            continue
        everything += seen
        findings += of_shard
    findings += [*_of_copies(inspected, everything), *_of_ties(everything)]
    return Verdict(inspected.listing.name, tuple(findings), "tensor", len(inspected.tensors), read)


def _look_at_shard(shard: Shard, advance: Callable[[int], None]) -> tuple[list[Seen], list[Finding]]:
    """What every tensor of a shard is like, and what is wrong with them; of a hub cache's blob its hash too."""
    address, tensors = shard.file.path, _tensors(shard)
    known_digest = name_of(address)
    if name_of(parent_of(address)) != "blobs" or not SHA256.fullmatch(known_digest):
        seen, runs = look_at_tensors(tensors, advance)
        return seen, [*_of_records(shard), *_of_values(seen), *_of_zeros(seen, runs)]
    with source_of(address).open_file(address) as file:
        if container_called(shard.header.format).is_gapless:
            whole = sha256(file.read(shard.file.header_nbytes))
            seen, runs = look_at_tensors(tensors, advance, whole.update)
        else:
            whole = sha256()
            while window := file.read(WINDOW):
                whole.update(window)
            seen, runs = look_at_tensors(tensors, advance)
    findings = [*_of_values(seen), *_of_zeros(seen, runs)]
    if whole.hexdigest() != known_digest:
        detail = "Its SHA-256 is not the one by which the hub knows it: download it again."
        findings.insert(0, Finding(PROBLEM, "checksum", detail, shard.file.name))
    return seen, findings


def _of_records(shard: Shard) -> Iterator[Finding]:
    """Records of a file that have checksums, and those are wrong; a hub cache's blob has a better one."""
    damaged_records = container_called(shard.header.format).damaged_records
    if damaged_records:
        with source_of(shard.file.path).open_file(shard.file.path) as file:
            details = list(damaged_records(file))
        for detail in details:
            yield Finding(PROBLEM, "checksum", detail, shard.file.name)


def _tensors(shard: Shard) -> list[Tensor]:
    return [shard.tensor(entry) for entry in shard.header.tensors]


def _of_faults(faults: Iterable[Fault], inspected: Inspected) -> Iterator[Finding]:
    if inspected.listing.weight_map is not None:
        named = sorted(set(inspected.listing.weight_map.values()))
        faults = (*faults, *missing_numbers(inspected.listing.folder, named))
    for fault in faults:
        yield Finding(PROBLEM, fault.check, str(fault.error), fault.file, fault.tensor)


def _of_headers(inspected: Inspected) -> Iterator[Finding]:
    for file, header, _ in inspected.shards:
        for note in header.notes:
            yield Finding(NOTE, "header", f"{note}.", file.name)
        if header.on_disk is not None:
            detail = (
                f"Only {header.on_disk:,} of {file.nbytes:,} bytes are on disk and the rest is a hole that reads as "
                "zeros, so its tensors were not looked at: download it again."
            )
            yield Finding(PROBLEM, "file", detail, file.name)


def _of_index(inspected: Inspected) -> Iterator[Finding]:
    listing = inspected.listing
    index = name_of(listing.index) if listing.index else None
    notes = [*listing.notes, *([inspected.total_size] if inspected.total_size else [])]
    yield from (Finding(NOTE, "index", f"{note[:1].upper()}{note[1:]}.", index) for note in notes)
    for name in inspected.unlisted:
        detail = "The tensor is in a shard and not in the index: some programs load it, others do not."
        yield Finding(PROBLEM, "index", detail, inspected.tensors[name].file, name)
    yield from (Finding(NOTE, "config", f"{note}.") for note in read_config(listing)[1])


def _of_values(seen: Iterable[Seen]) -> Iterator[Finding]:
    for of_tensor in seen:
        tensor, (nans, infs, first_nan, first_inf) = of_tensor.tensor, of_tensor.non_finite
        for check, what, count, first in (("nan", "NaN", nans, first_nan), ("inf", "infinite", infs, first_inf)):
            if first is not None:
                # masks of attention are made of infinities
                severity = NOTE if check == "inf" and "mask" in tensor.name.lower() else PROBLEM
                detail = f"{count:,} of {tensor.parameters:,} values {'is' if count == 1 else 'are'} {what}."
                yield _at(severity, check, detail, tensor, coordinates(first, tensor.shape))


def _of_zeros(seen: Sequence[Seen], runs: Sequence[ZeroRun]) -> Iterator[Finding]:
    quantisation = Quantisation({of_tensor.tensor.name: of_tensor.tensor for of_tensor in seen}, None)
    for run in runs:
        tensor, bits = run.tensor, DTYPES[run.tensor.dtype].bits
        first, last = -(-run.start * 8 // bits), run.stop * 8 // bits - 1
        if first > last:
            continue  # its last or first bytes only
        where = f"{coordinates(first, tensor.shape)} to {coordinates(last, tensor.shape)}"
        zeros = f"{run.stop - run.start:,} of {tensor.nbytes:,} bytes are zero"
        detail = f"{zeros}, as where a download did not fill its file."
        yield _at(NOTE if _may_be_zero(run, quantisation) else PROBLEM, "zeros", detail, tensor, where)
    with_runs = {run.tensor for run in runs}
    for of_tensor in seen:
        if of_tensor.is_zero and of_tensor.tensor.nbytes >= LEAST_TENSOR and of_tensor.tensor not in with_runs:
            yield _at(NOTE, "zeros", f"All {of_tensor.tensor.parameters:,} values are zero.", of_tensor.tensor, None)


def _may_be_zero(run: ZeroRun, quantisation: Quantisation) -> bool:
    """Whether a run of zeros is no sign of a hole: see the table in this folder's README."""
    module, part = split(run.tensor, quantisation.find_part(run.tensor))
    if DTYPES[run.tensor.dtype].kind == "bool":
        return True
    if run.is_whole:
        return part in MAY_BE_ZERO or "token_type" in run.tensor.name
    row = run.tensor.nbytes // max(1, run.tensor.shape[0]) if run.tensor.shape else 0
    is_rows_to_the_end = run.stop == run.tensor.nbytes and bool(row) and run.start % row == 0
    return is_rows_to_the_end and VOCABULARY.fullmatch(module) is not None


def _of_copies(inspected: Inspected, everything: Iterable[Seen]) -> Iterator[Finding]:
    digests = {(of_tensor.tensor.file, of_tensor.tensor.name): of_tensor.digest for of_tensor in everything}
    for name, file in inspected.copies:
        wanted = (inspected.listing.weight_map or {})[name]
        first, second = digests.get((wanted, name)), digests.get((file, name))
        same = "with the same bytes" if first == second else "with other bytes"
        how = f", {same}" if first and second else ""
        detail = f"The tensor is in this shard too, where the index wants it from {shown(wanted)}{how}."
        yield Finding(PROBLEM, "duplicate", detail, file, name)


def _of_ties(everything: Iterable[Seen]) -> Iterator[Finding]:
    """Tensors of equal dtype, shape and bytes under several names; not of one value, as norms are at the start."""
    first_of: dict[tuple[str, tuple[int, ...], str], Tensor] = {}
    for of_tensor in everything:
        tensor = of_tensor.tensor
        if tensor.nbytes < LEAST_TENSOR or of_tensor.constant is not None:
            continue
        first = first_of.setdefault((tensor.dtype, tensor.shape, of_tensor.digest), tensor)
        if first.name != tensor.name:
            yield _at(NOTE, "tied", f"Its bytes are those of {shown(first.name)} in {shown(first.file)}.", tensor, None)


def _at(severity: Severity, check: str, detail: str, tensor: Tensor, position: str | None) -> Finding:
    return Finding(severity, check, detail, tensor.file, tensor.name, position)
