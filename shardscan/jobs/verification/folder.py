"""VERIFY, a folder: the files that lie beside the shards. Judged by name and kind; nothing here opens a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from shardscan.errors import shown
from shardscan.jobs.verification.findings import NOTE, PROBLEM, Finding, Severity
from shardscan.shards.folder import LeftOut, Listing
from shardscan.shards.formats import kinds
from shardscan.shards.sources.schemes import source_of
from shardscan.shards.sources.source import is_below, join, name_of, parent_of

MOST_FILES = 10_000  # of a folder and those below it: no model has more
KNOWN = re.compile(
    r"(?i).+\.(json|jsonl|txt|md|model|jinja|ya?ml|tiktoken|spm|vocab|bpe|csv|png|jpe?g|gif|svg|webp|pdf)"
    r"|(licen[cs]e|notice|readme|use_policy|copying|authors|citation|merges|vocab)[^/]*|\.git(attributes|ignore)"
)
HIDDEN_FOLDERS = {".git", ".cache"}  # git's and the hub's own
KINDS: tuple[tuple[re.Pattern[str], Severity, str], ...] = tuple(
    (re.compile(rf"(?i).+\.({endings})"), severity, detail)
    for endings, severity, detail in (
        (
            "incomplete|part|partial|aria2|crdownload|download|tmp|temp",
            PROBLEM,
            "is an unfinished download: finish it, or remove it.",
        ),
        (
            "ckpt|pkl|pickle|joblib|dill",
            NOTE,
            "was not read: it is no part of the model, and such a pickle runs code when it is loaded elsewhere.",
        ),
        ("gguf|ggml|h5|keras|msgpack|onnx|onnx_data|npz?|tflite|mlmodel", NOTE, "was not read: it is no safetensors."),
        ("pyc?|so|dll|dylib|exe|sh|bat|js", NOTE, "is code: some programs run it if they are told to trust it."),
    )
)


def findings(listing: Listing) -> Iterator[Finding]:
    """What lies beside the shards of a folder and is not expected there; nothing where a single file was opened."""
    if listing.path != listing.folder:
        return
    folder = listing.folder
    source = source_of(folder)
    left_out = {name: left for left in listing.left_out for name in left.names}
    expected = {*listing.shards, *(listing.weight_map or {}).values(), name_of(listing.index or "")}
    for count, name in enumerate(_names(folder)):
        if count == MOST_FILES:
            detail = f"The folder has more than {MOST_FILES:,} files: the others were not looked at."
            yield Finding(NOTE, "file", detail)
            return
        try:
            judged = _finding(folder, name, name in expected, left_out.get(name))
        except OSError as error:
            judged = PROBLEM, f"cannot be looked at: {error.strerror or error}."
        if judged:
            severity, detail = judged
            yield Finding(severity, "file", f"It {detail}", name)
    blobs = join(parent_of(parent_of(folder)), "blobs")
    if name_of(parent_of(folder)) == "snapshots" and source.find_kind(blobs) == "folder":
        for name in _names(blobs):
            if name.endswith(".incomplete"):
                detail = "It is an unfinished download of the hub's cache: download the model again."
                yield Finding(PROBLEM, "file", detail, f"../../blobs/{name}")


def _names(folder: str) -> Iterator[str]:
    """Every file below a folder, without following links; folders that git and the hub keep have their own."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            entries = source_of(folder).list_entries(join(folder, below) if below else folder)
        except OSError:
            continue  # what must be there, OPEN looked for
        for last, is_folder in entries:
            name = f"{below}/{last}" if below else last
            if not is_folder:
                yield name
            elif last == ".cache":
                waiting.append(f"{name}/huggingface/download")
            elif last != ".git":
                waiting.append(name)


def _finding(folder: str, name: str, is_expected: bool, left: LeftOut | None) -> tuple[Severity, str] | None:
    source, address, last = source_of(folder), join(folder, name), name_of(name)
    if source.is_link(address) and (odd_link := _of_link(folder, address)):
        return odd_link
    if kind := source.describe_special(address):
        return PROBLEM, f"is {kind} and no file: remove it."
    if is_expected:
        return None
    if left and left.outweighs:
        return PROBLEM, f"was left out: {left.why}."
    for pattern, severity, detail in KINDS:
        if pattern.fullmatch(last):
            return severity, detail
    if stray := _of_container(last):
        return NOTE, stray
    if left:
        return NOTE, f"was left out: {left.why}."
    if name.startswith(".cache/") or (KNOWN.fullmatch(last) and not _is_told_of(last, ignore_case=True)):
        return None
    return _of_name(name, last)


def _of_container(last: str) -> str | None:
    """What a container format says of its files that lie beside a model."""
    ending = os.path.splitext(last)[1].lower()  # noqa: PTH122 - '.bin' alone has none
    return next((container.stray for container in kinds.CONTAINERS if ending in container.endings), None)


def _is_told_of(last: str, *, ignore_case: bool = False) -> bool:
    """Whether a file is a shard or an index of which OPEN has told, where it is in the folder itself."""
    name = last.lower() if ignore_case else last
    quiet = [container for container in kinds.CONTAINERS if container.stray is None]
    return any(name.endswith((*container.endings, container.index)) for container in quiet)


def _of_name(name: str, last: str) -> tuple[Severity, str] | None:
    if last.startswith("."):
        return NOTE, "is hidden."
    if _is_told_of(last):
        return (NOTE, "was not read: it is in a folder of its own.") if "/" in name else None
    return NOTE, "is nothing that a model's folder needs."


def _of_link(folder: str, address: str) -> tuple[Severity, str] | None:
    """A link that leads nowhere, or out of the folder and not to where a hub cache keeps its files."""
    source = source_of(folder)
    target = source.resolve(address)
    if source.find_kind(target) == "nothing":
        return PROBLEM, "is a link to a file that is not there: download the model again."
    homes = [source.resolve(folder)]
    if name_of(parent_of(folder)) == "snapshots":
        homes.append(join(source.resolve(parent_of(parent_of(folder))), "blobs"))
    if any(is_below(target, home) for home in homes):
        return None
    return NOTE, f"is a link out of the folder, to {shown(target, 400)}."
