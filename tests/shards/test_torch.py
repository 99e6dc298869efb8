"""PyTorch files of strangers: what is refused, what is read and said to be odd, and that nothing is ever run.

Each case is a recipe of bytes. Every hostile one is read both ways, with `pickled_module` and without.
"""

from __future__ import annotations

import pickle
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from made.sentences import check_sentence
from made.torchfiles import (
    APPEND,
    BINPERSID,
    BUILD,
    EMPTY_DICT,
    EMPTY_LIST,
    EMPTY_TUPLE,
    MARK,
    NEWOBJ,
    NOTHING,
    PROTO,
    REDUCE,
    SETITEM,
    SIX,
    STOP,
    TUPLE,
    Record,
    archived,
    call,
    dict_of,
    legacy,
    name,
    number,
    numbers,
    ordered_dict,
    pickled,
    records,
    storage,
    tensor,
    text,
    tuple_of,
    zipped,
)
from oracles.tally import Tally
from shardscan.errors import HeaderError
from shardscan.shards.formats import kinds
from shardscan.shards.formats.container import FileOptions
from shardscan.shards.formats.torch import PYTORCH
from shardscan.shards.formats.torch.opcodes import MAX_MARKS

read_header = partial(kinds.read_header, container=PYTORCH)

W = dict_of(w=tensor())
OS = name("os", "system")
RUN = OS + tuple_of(text("CANARY")) + REDUCE
RAN = pickled(RUN)


def with_value(value: bytes) -> bytes:
    return zipped(dict_of(w=tensor(), x=value))


def of(
    shape: tuple[object, ...] = (6,), strides: tuple[object, ...] = (1,), offset: object = 0, count: object = 6
) -> bytes:
    return zipped(dict_of(w=tensor(storage("0", count), offset, shape, strides)))


def changed(**facts: object) -> bytes:
    """An archive with one more record like these facts."""
    return archived([*records(pickled(W)), Record(**{"body": b"x", **facts})])  # type: ignore[arg-type]


def pickle_record(**facts: object) -> bytes:
    first, *others = records(pickled(W))
    return archived([Record(first.name, first.body, **facts), *others])  # type: ignore[arg-type]


def data_record(**facts: object) -> bytes:
    """An archive whose storage comes last and is like these facts."""
    first, *others = records(pickled(W), {})
    return archived([first, *others, Record("archive/data/0", SIX, **facts)])  # type: ignore[arg-type]


def flat(of: bytes, *args: bytes) -> bytes:
    return of + tuple_of(*args) + REDUCE


V2 = name("torch._utils", "_rebuild_tensor_v2")

# names that attacks are made of: none is a tensor's
NAMES = [
    ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"), ("builtins", "open"), ("__builtin__", "apply"),
    ("webbrowser", "open"), ("pydoc", "locate"), ("pip", "main"), ("importlib", "import_module"), ("torch.hub", "load"),
    ("torch.serialization", "load"), ("torch", "load"), ("torch.jit", "load"),
    ("torch._dynamo.guards", "GuardBuilder.get"), ("torch.utils._config_module", "load_config"),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    ("logging", "FileHandler"), ("uuid", "_get_command_stdout"), ("_pyrepl.pager", "pipe_pager"),
    ("functools", "partial"), ("collections.OrderedDict", "fromkeys"), ("collections", "OrderedDict.__init__"),
    ("collections", "Counter"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("torch", "_utils._rebuild_tensor_v2"),
    ("torch._utils", "_import_dotted_name"), ("torch.serialization", "_get_layout"), ("copyreg", "_reconstructor"),
    ("__main__", "Model"), ("transformers.modeling_utils", "PreTrainedModel"), ("torch.nn.modules.linear", "Linear"),
    ("torch", "QInt8Storage"), ("torch\r", "FloatStorage"), ("", "system"), ("torch", ""), ("os", "system"),
    ("numpy.core.multiarray", "_reconstruct.__globals__"), ("numpy", "load"), ("torch", "FloatStorage.from_file"),
    ("torch._utils", "_rebuild_qtensor"),
]  # fmt: skip

REFUSED: dict[str, tuple[bytes, str]] = {
    **{f"calls {m}.{n}": (with_value(call(m, n, text("CANARY"))), "names") for m, n in NAMES},
    "names and never calls": (with_value(OS), "names 'os.system'"),
    "runs, then breaks": (archived(records(PROTO + RUN + b"\xff\xff")), "names 'os.system'"),
    "STACK_GLOBAL": (with_value(text("os") + text("system") + b"\x93" + tuple_of(text("x")) + REDUCE), "'os.system'"),
    "STACK_GLOBAL of a list": (with_value(EMPTY_LIST + text("system") + b"\x93"), "no name"),
    "INST": (with_value(MARK + text("CANARY") + b"ios\nsystem\n"), "opcode INST"),
    "OBJ": (with_value(MARK + name("collections", "OrderedDict") + text("CANARY") + b"o"), "opcode OBJ"),
    "NEWOBJ": (with_value(OS + EMPTY_TUPLE + NEWOBJ), "names 'os.system'"),
    "NEWOBJ of a storage": (with_value(name("torch", "FloatStorage") + EMPTY_TUPLE + NEWOBJ), "makes an object"),
    "NEWOBJ_EX": (with_value(OS + EMPTY_TUPLE + EMPTY_DICT + b"\x92"), "names 'os.system'"),
    "EXT1": (with_value(b"\x82\x01"), "opcode EXT1"),
    "a text as a function": (with_value(text("eval") + tuple_of(text("1")) + REDUCE), "calls a str"),
    "a number of text": (with_value(b"I1\n"), "opcode INT"),
    "LONG4": (with_value(b"\x8b\xff\xff\xff\x7f"), "opcode LONG4"),
    "a number of 255 bytes": (with_value(b"\x8a\xff" + bytes(255)), "255 bytes"),
    "an opcode that is none": (with_value(b"\x07"), "opcode 0x07"),
    "BUILD of a tensor": (
        zipped(dict_of(w=tensor() + dict_of(__class__=text("x")) + BUILD)),
        "gives a state to a tensor",
    ),
    "SETITEM on a tensor": (zipped(dict_of(w=tensor() + number(0) + number(1) + SETITEM)), "sets items of a tensor"),
    "SETITEMS on a tensor": (
        zipped(dict_of(w=tensor() + MARK + number(0) + number(1) + b"u")),
        "sets items of a tensor",
    ),
    "a key without a value": (zipped(EMPTY_DICT + MARK + text("w") + b"u"), "a key and no value"),
    "APPEND to a dict": (zipped(EMPTY_DICT + number(1) + APPEND), "appends to a dict"),
    "a storage that would be made": (with_value(call("torch", "FloatStorage", number(10**9))), "calls the name"),
    "a tensor as a key": (zipped(EMPTY_DICT + tensor() + number(1) + SETITEM), "a tensor as the key"),
    "100,000 lists in each other": (archived(records(PROTO + EMPTY_LIST * 100_000 + APPEND * 99_999 + STOP)), "a list"),
    "marks in marks": (archived(records(PROTO + MARK * (MAX_MARKS + 1) + STOP)), "too deeply"),
    "a text of 4 GB": (zipped(b"X\xff\xff\xff\xff"), "cut short"),
    "a text of 2**62 bytes": (zipped(b"\x8d" + struct.pack("<Q", 2**62)), "cut short"),
    "a name without an end": (archived(records(PROTO + b"c" + b"x" * 10_000)), "a name of more than 512 bytes"),
    "no pickle": (archived(records(b"")), "without an end"),
    "no STOP": (archived(records(PROTO + EMPTY_DICT)), "without an end"),
    "bytes behind STOP": (archived(records(pickled(W) + RAN)), "behind the end of its pickle"),
    "REDUCE of nothing": (zipped(REDUCE), "takes more from its pickle's stack"),
    "TUPLE without a mark": (zipped(TUPLE), "takes more from its pickle's stack"),
    "a value that never was": (zipped(b"h\x09"), "never there"),
    "protocol 0": (archived(records(b"\x80\x00" + W + STOP)), "protocol 0"),
    "a tensor alone": (zipped(tensor()), "holds a tensor and no dict"),
    "a dict without tensors": (zipped(dict_of(epoch=number(3))), "no dict of tensors in it"),
    "two dicts with tensors": (zipped(dict_of(model=W, ema=W)), "in several places: 'model' and 'ema'"),
    "tensors beside a dict of tensors": (zipped(dict_of(w=tensor(), more=W)), "beside and in its dict 'more'"),
    "a tensor with a number for a name": (zipped(EMPTY_DICT + number(1) + tensor() + SETITEM), "names are texts"),
    # tensors and storages
    "more values than bytes": (of(count=1000), "its pickle says 4,000"),
    "fewer values than bytes": (of((2,), count=2), "its pickle says 8"),
    "a negative length": (of(count=-6), "-6 and no count"),
    "a length that wraps": (of(count=0x4000000000000006), "bytes, where its pickle says"),
    "a length of 2**64": (of(count=2**64 + 6), "no count"),
    "a length that is a float": (of(count=6.0), "6.0 and no count"),
    "a length that is a bool": (of((1,), count=True), "True and no count"),
    "a value too many": (of((7,)), "number 6, where its storage has 6"),
    "a value before the first": (of(offset=-1), "-1, which is no count"),
    "a negative stride": (of(strides=(-1,)), "-1, which is no count"),
    "a stride that wraps": (of((5,), (2**62,)), "last value would be number"),
    "a negative size": (of((-1,)), "-1, which is no count"),
    "a size that is a bool": (of((True,)), "no count"),
    "a shape without its strides": (of((2, 3), (1,)), "not two tuples of one length"),
    "65 dimensions": (of((1,) * 65, (1,) * 65), "65 dimensions"),
    "2**64 values of one": (of((2**32, 2**32), (0, 0)), "more values than an array"),
    "10**12 values of one": (of((10**6, 10**6), (0, 0)), "all views of the same few"),
    "no values, but more than any shape": (of((0, 2**62, 2**62), (1, 1, 1)), "more values than an array"),
    "a storage out of the archive": (zipped(dict_of(w=tensor(storage("../../../etc/passwd")))), "which is not there"),
    "a storage that is not there": (zipped(dict_of(w=tensor(storage("9")))), "not there"),
    "a storage that is the pickle": (zipped(dict_of(w=tensor(storage("../data.pkl")))), "not there"),
    "one storage of two types": (
        zipped(dict_of(a=tensor(), b=tensor(storage("0", 12, name("torch", "HalfStorage"))))),
        "two types",
    ),
    "a module for a storage": (
        zipped(dict_of(w=tuple_of(text("module"), name("torch", "Size"), text("a"), text("b")) + BINPERSID)),
        "no storage's",
    ),
    "a storage of three facts": (zipped(dict_of(w=tuple_of(text("storage"), V2, text("0")) + BINPERSID)), "3 facts"),
    "a storage that is a text": (zipped(dict_of(w=text("0") + BINPERSID)), "no storage's"),
    "a class that is a text": (zipped(dict_of(w=tensor(storage("0", 6, text("FloatStorage"))))), "a str in its pickle"),
    "a class that is a function": (zipped(dict_of(w=tensor(storage("0", 6, V2)))), "where the class of a storage"),
    "a view of a storage": (zipped(dict_of(w=tensor(storage("0", 6, None, numbers((0, 0, 6)))))), "a view of another"),
    "two arguments": (zipped(dict_of(w=flat(V2, storage(), number(0)))), "with 2 arguments"),
    "a list of arguments": (zipped(dict_of(w=V2 + EMPTY_LIST + REDUCE)), "a list for arguments"),
    "a list for a shape": (
        zipped(dict_of(w=flat(V2, storage(), number(0), EMPTY_LIST, numbers(()), b"\x89", ordered_dict()))),
        "not two tuples",
    ),
    "a tensor of a number": (zipped(dict_of(w=tensor(number(1)))), "makes a tensor of a int"),
    "a lazy conjugate": (
        zipped(dict_of(w=tensor(None, 0, (6,), (1,), dict_of(conj=number(True))))),
        "conjugate or negative",
    ),
    "a parameter of a number": (
        zipped(dict_of(w=call("torch._utils", "_rebuild_parameter", number(1), number(True), ordered_dict()))),
        "makes a parameter of a int",
    ),
    # the archive
    "a compressed storage": (data_record(method=8), "compressed"),
    "a compressed pickle": (pickle_record(method=8, size=50_000_141, packed=141), "compressed"),
    "records that overlap": (data_record(header=0), "nothing where the directory says"),
    "the pickle twice": (changed(name="archive/data.pkl", body=RAN), "twice"),
    "another name before the bytes": (pickle_record(local_name="archive/evil.pkl"), "under another name"),
    "an encrypted record": (pickle_record(flags=0x809), "encrypted"),
    "a wrong checksum of the pickle": (pickle_record(crc=1), "checksum is wrong"),
    "no checksum of the pickle alone": (pickle_record(crc=0), "checksum is wrong"),
    "bytes before the archive": (b"PK\3\4" + bytes(1020) + zipped(W), "not where its locator says"),
    "a shell script before the archive": (b"#!/bin/sh\n" + zipped(W), "no PyTorch file"),
    "bytes behind the archive": (zipped(W) + bytes(64), "does not end as a zip archive does"),
    "an archive in a comment": (
        archived(records(pickled(W)), comment=struct.pack("<4s4H2IH", b"PK\5\6", *[0] * 7)),
        "not where its end says",
    ),
    "more records than there are": (archived(records(pickled(W)), count=65000), "two zip directories"),
    "a directory elsewhere in 64 bits": (archived(records(pickled(W)), start64=64), "two zip directories"),
    "2**40 records": (archived(records(pickled(W)), count=0xFFFF, count64=2**40), "not where its end says"),
    "sizes that stand nowhere": (archived(records(pickled(W)), zip64=False, count=0xFFFF), "stands nowhere"),
    "a record of 2 GB": (data_record(size=2**31, packed=2**31), "cut short or overlaps"),
    "a size that stands nowhere": (data_record(size=2**32 - 1, packed=2**32 - 1), "without its size"),
    "a record of 1 TB": (
        data_record(size=2**32 - 1, packed=2**32 - 1, extra=struct.pack("<HHQQ", 1, 16, 2**40, 2**40)),
        "cut short or overlaps",
    ),
    "a name out of the archive": (changed(name="../../evil.txt"), "no plain name"),
    "an absolute name": (changed(name="/etc/cron.d/x"), "no plain name"),
    "a name of Windows": (changed(name="archive\\x"), "no plain name"),
    "a name with NUL": (changed(name="archive/data.pkl\0.txt"), "no plain name"),
    "a second folder": (changed(name="other/x"), "outside its folder"),
    "a link": (changed(name="archive/data/7", body=b"/etc/passwd", kind=0xA1FF0000), "a link"),
    "TorchScript": (changed(name="archive/constants.pkl"), "TorchScript"),
    "code": (changed(name="archive/code/__torch__.py"), "TorchScript"),
    "another byte order": (
        archived([r if r.name != "archive/byteorder" else Record(r.name, b"middle") for r in records(pickled(W))]),
        "another byte order",
    ),
    "the end is missing": (zipped(W)[:-10], "does not end as a zip archive does"),
    "the start of the directory is missing": (zipped(W)[:700], "does not end as a zip archive does"),
    "an empty archive": (struct.pack("<4s4H2IH", b"PK\5\6", *[0] * 7), "empty zip archive"),
    "an archive without a pickle": (archived([Record("archive/x", b"x")]), "without data.pkl"),
    "a safetensors file": (struct.pack("<Q", 2) + b"{}", "is a safetensors file"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "7-Zip"),
    "tar": (b"x" * 257 + b"ustar" + bytes(300), "tar archive"),
    "nothing": (b"", "is empty"),
    "a download's error page": (b"<html>", "web page"),
    # legacy
    "another magic number": (legacy(magic=pickled(number(1))), "no PyTorch file"),
    "a bare pickle": (RAN, "no PyTorch file"),
    "a pickle that runs for the system's": (legacy(system=RAN), "where PyTorch names nothing"),
    "a pickle that runs for the keys": (legacy(listed=RAN), "where PyTorch names nothing"),
    "a storage for the keys": (legacy(listed=pickled(text("0") + BINPERSID)), "where PyTorch has none"),
    "a pickle that runs for the weights": (legacy(RAN), "names 'os.system'"),
    "big-endian": (legacy(system=pickled(dict_of(little_endian=number(False)))), "another byte order"),
    "a key too few": (legacy(keys=()), "not in both"),
    "a key too many": (legacy(keys=("0", "1")), "not in both"),
    "a key twice": (legacy(keys=("0", "0")), "each once"),
    "another length of a storage": (legacy(storages=struct.pack("<q", 1000) + SIX), "with 1,000 values"),
    "a negative length of a storage": (legacy(storages=struct.pack("<q", -1) + SIX), "with -1 values"),
    "bytes behind the storages": (legacy() + bytes(16), "16 bytes behind"),
    "a storage cut short": (legacy()[:-1], "1 bytes of its storages are missing"),
    "a file cut short in its weights": (legacy()[:200], "cut short"),
    "a legacy module": (
        legacy(pickled(dict_of(w=tuple_of(text("module"), name("torch", "Size"), text("a"), text("b")) + BINPERSID))),
        "no storage's",
    ),
}

FIRST = call("torch._utils", "_rebuild_tensor", storage(), number(0), numbers((2, 3)), numbers((3, 1)))

READ: dict[str, tuple[bytes, str | None]] = {
    "a tensor": (zipped(W), None),
    "without padding or descriptors": (
        archived([Record(r.name, r.body, flags=0x800, aligned=False) for r in records(pickled(W))]),
        None,
    ),
    "without zip64": (archived(records(pickled(W)), zip64=False), None),
    "another folder": (archived(records(pickled(W), top="pytorch_model/")), None),
    "without the order of bytes": (archived([r for r in records(pickled(W)) if "byteorder" not in r.name]), None),
    "an empty dict": (zipped(EMPTY_DICT, data={}), None),
    "a scalar": (of((), (), count=6), "20 of the 24 bytes of its storages belong to no tensor"),
    "no values": (zipped(dict_of(w=tensor(storage("0", 0), 0, (0, 5), (5, 1))), data={"0": b""}), None),
    "legacy": (legacy(), None),
    "legacy, with the first of rebuild functions": (legacy(pickled(dict_of(w=FIRST))), None),
    "no folder": (archived(records(pickled(W), top="")), "in no folder"),
    "a record of somebody's": (changed(name="archive/extra.pkl", body=RAN), "'extra.pkl', which PyTorch does not know"),
    "a storage of nobody's": (changed(name="archive/data/1"), "which no tensor uses"),
    "no checksum of a storage": (data_record(crc=0), "without a checksum"),
    "a shape beside": (with_value(call("torch", "Size", numbers((2, 3)))), "'x' is no tensor"),
    "a dtype beside": (with_value(name("torch", "bfloat16")), "'x' is no tensor"),
    "protocol 5": (archived(records(b"\x80\x05" + W + STOP)), "protocol 5"),
    "a memo at 4 billion": (zipped(EMPTY_DICT + b"r\xf0\xff\xff\xff", data={}), None),
    "two values at the end": (zipped(number(1), W), "leaves values behind"),
    "a name twice": (
        zipped(EMPTY_DICT + MARK + text("w") + tensor() + text("w") + tensor(None, 0, (6,), (1,)) + b"u"),
        "the key 'w' twice",
    ),
    "attributes of a dict": (
        zipped(ordered_dict() + MARK + text("w") + tensor() + b"u" + dict_of(__class__=text("x")) + BUILD),
        "attributes, like '__class__'",
    ),
    "two names of one tensor": (zipped(dict_of(a=tensor(), b=tensor())), "the very bytes of another: 'a'"),
    "an expanded view": (of((4, 6), (0, 1)), "more values than are stored"),
    "nothing, from outside": (of((0,), (1,), offset=999), "outside of its storage"),
    "a dict in a dict": (zipped(dict_of(epoch=number(3), model=W)), "in 'model', and 'epoch' was not read"),
    "a lone tensor beside a model": (zipped(dict_of(rng=tensor(), state_dict=W)), "in 'state_dict'"),
}  # fmt: skip


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Callable[[bytes], str]:
    def write(data: bytes) -> str:
        path = tmp_path / "pytorch_model.bin"
        path.write_bytes(data)
        return str(path)

    return write


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_state_dict_is_refused_in_one_sentence(case: str, write: Callable[[bytes], str]) -> None:
    data, why = REFUSED[case]
    with pytest.raises(HeaderError) as refused:
        read_header(write(data))
    assert why in check_sentence(refused.value, 700)


def test_a_name_that_no_tensor_needs_is_refused_with_the_way_on(write: Callable[[bytes], str]) -> None:
    path = write(with_value(name("argparse", "Namespace")))
    with pytest.raises(HeaderError, match=r"names 'argparse\.Namespace'.*; --pickled-module .* as inert data"):
        read_header(path)
    assert read_header(path, FileOptions(pickled_module=True)).tensors


@pytest.mark.parametrize("case", READ)
def test_what_is_legal_is_read_and_what_is_odd_is_said(case: str, write: Callable[[bytes], str]) -> None:
    data, note = READ[case]
    header = read_header(write(data))
    assert (header.format, header.nbytes, header.body) == ("pytorch", len(data), 0)
    assert all(0 <= entry.begin <= entry.end <= header.nbytes for entry in header.tensors)
    assert any(note in said for said in header.notes) if note else header.notes == ()


# ---- files of several dicts

TWO_OF = dict_of(model=dict_of(a=tensor()), ema=dict_of(b=tensor()), step=number(3))
DEEP = dict_of(
    trainer=dict_of(optimizer=dict_of(exp_avg=tensor())), weights=dict_of(**{"net.v2": dict_of(state_dict=W)})
)


@pytest.mark.parametrize(
    ("value", "state", "names"),
    [
        (TWO_OF, "model", {"a"}),
        (TWO_OF, "ema", {"b"}),
        (dict_of(ema=dict_of(state_dict=W)), "ema", {"w"}),
        (dict_of(loose=tensor(), ema=W), ".", {"loose"}),
        (dict_of(loose=tensor(), ema=W), "ema", {"w"}),
        (DEEP, None, {"w"}),
        (dict_of(model=W, aux=dict_of(x=dict_of(y=tensor()))), None, {"w"}),
        (dict_of(**{"a.b": dict_of(x=dict_of(n=tensor())), "a": dict_of(b=dict_of(c=W))}), "a.b.c", {"w"}),
        (DEEP, "weights.net.v2.state_dict", {"w"}),
        (DEEP, "weights", {"w"}),
        (DEEP, "trainer.optimizer", {"exp_avg"}),
        (EMPTY_LIST + MARK + number(1) + W + b"e", None, {"w"}),
        (EMPTY_LIST + MARK + W + dict_of(v=tensor()) + b"e", "1", {"v"}),
        (dict_of(model=W, optimizer_state=dict_of(step=tensor())), None, {"w"}),
    ],
)
def test_of_a_file_of_several_dicts_the_one_is_read_that_was_asked_for(
    value: bytes, state: str | None, names: set[str], write: Callable[[bytes], str]
) -> None:
    header = read_header(write(zipped(value)), FileOptions(state=state))
    assert {entry.name for entry in header.tensors} == names


@pytest.mark.parametrize(
    ("value", "state", "why"),
    [
        (TWO_OF, None, "in several places: 'model' and 'ema': choose one, as with --state 'model'"),
        (dict_of(loose=tensor(), ema=W), None, "choose with --state 'ema', or --state . for those beside"),
        (TWO_OF, "emo", "nothing under 'emo': it has tensors in 'model' and 'ema'"),
        (TWO_OF, "step", "a int under 'step', and no dict of tensors: it has tensors in 'model' and 'ema'"),
        (TWO_OF, ".", "no tensors under no key: it has tensors in 'model' and 'ema'"),
        (dict_of(**{f"n{i}": W for i in range(9)}), None, "'n0', 'n1', 'n2', 'n3', 'n4' and 4 more"),
        (dict_of(model=dict_of(net=W), stats=dict_of(m=tensor())), None, "'stats' and 'model.net'"),
        (dict_of(optimized_model=W, stats=dict_of(m=tensor())), None, "'optimized_model' and 'stats'"),
        (EMPTY_DICT + MARK + number(1) + W + text("1") + dict_of(v=tensor()) + b"u", None, "keys that read '1'"),
        (dict_of(a=dict_of(b=W), c=dict_of(d=W)), None, "in several places: 'a.b' and 'c.d'"),
    ],
)
def test_where_nobody_said_which_of_several_dicts_the_refusal_lists_them(
    value: bytes, state: str | None, why: str, write: Callable[[bytes], str]
) -> None:
    with pytest.raises(HeaderError) as refused:
        read_header(write(zipped(value)), FileOptions(state=state))
    assert why in check_sentence(refused.value, 700)


def test_dicts_that_hold_each_other_are_looked_through_once(write: Callable[[bytes], str]) -> None:
    itself = EMPTY_DICT + b"q\x00" + MARK + b"".join(text(key) + b"h\x00" for key in ("a", "a.a")) + b"u"
    with pytest.raises(HeaderError, match="nothing under"):
        read_header(write(zipped(itself)), FileOptions(state=".".join("a" * 200) + ".b"))


def test_what_was_asked_for_makes_another_checkpoint(write: Callable[[bytes], str]) -> None:
    path = write(zipped(TWO_OF))
    digests = {read_header(path, FileOptions(state=state)).digest for state in ("model", "ema")}
    assert len(digests) == 2


@pytest.mark.parametrize("core", ["core", "_core"])
def test_scalars_and_arrays_of_numpy_beside_weights_are_inert(core: str, write: Callable[[bytes], str]) -> None:
    beside = {"epoch": np.int64(3), "best": np.float64(0.5), "lr": np.ones(3, np.float32), "flag": np.bool_(True)}
    written = pickle.dumps(beside, 2).replace(b"numpy._core.", f"numpy.{core}.".encode())  # as torch.save writes it
    header = read_header(write(zipped(dict_of(model=W, beside=written[2:-1]))))
    assert [entry.name for entry in header.tensors] == ["w"]


def module(cls: bytes, parameters: bytes = EMPTY_DICT, children: bytes = EMPTY_DICT, **more: bytes) -> bytes:
    state = dict_of(_parameters=parameters, _modules=children, **more)
    return cls + EMPTY_TUPLE + NEWOBJ + state + BUILD


LINEAR = name("torch.nn.modules.linear", "Linear")


def test_a_pickled_module_gives_what_its_state_dict_would(write: Callable[[bytes], str]) -> None:
    saved = call("__builtin__", "set", EMPTY_LIST + text("cache") + APPEND)
    inner = module(LINEAR, dict_of(weight=tensor(), bias=NOTHING))
    outer = module(
        name("somebody.modeling", "Model"), dict_of(scale=tensor(None, 0, (6,), (1,))), dict_of(up=inner, none=NOTHING),
        _buffers=dict_of(mean=tensor(), cache=tensor()), _non_persistent_buffers_set=saved,
        hook=call("functools", "partial", name("builtins", "print")),
    )  # fmt: skip
    data = zipped(dict_of(model=outer, tokenizer=name("tok", "Tok") + EMPTY_TUPLE + NEWOBJ, loss=module(LINEAR)))
    with pytest.raises(HeaderError, match=r"names 'somebody.modeling.Model'.*--pickled-module"):
        read_header(write(data))
    header = read_header(write(data), FileOptions(pickled_module=True))
    assert [entry.name for entry in header.tensors] == ["scale", "mean", "up.weight"]
    assert any("'tokenizer', were not read" in note for note in header.notes)
    assert any("nothing was imported or run" in note for note in header.notes)


TWICE = module(LINEAR, EMPTY_DICT, dict_of(a=b"h\x00", b=b"h\x00")) + b"q\x00"
ITSELF = dict_of(_parameters=EMPTY_DICT, _modules=dict_of(a=b"h\x00"))
OBJECT = LINEAR + EMPTY_TUPLE + NEWOBJ
HELD = module(LINEAR, dict_of(weight=tensor()))

NO_MODULES: dict[str, tuple[bytes, str]] = {
    "2**60 modules": (zipped(module(LINEAR), b"q\x00", TWICE * 60), "without an end"),
    "a module in itself": (zipped(OBJECT, b"q\x00", ITSELF, BUILD), "without an end"),
    "two modules": (zipped(dict_of(a=HELD, b=HELD)), "in several places: 'a' and 'b'"),
    "a parameter that is an object": (zipped(module(LINEAR, dict_of(weight=OBJECT))), "no plain tensor"),
    "a child that is no module": (zipped(module(LINEAR, EMPTY_DICT, dict_of(a=number(1)))), "as its module 'a'"),
    "an object that is no module": (zipped(OBJECT), "holds an object of"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_MODULES)
def test_what_is_no_module_is_refused(case: str, write: Callable[[bytes], str]) -> None:
    data, why = NO_MODULES[case]
    with pytest.raises(HeaderError, match=why):
        read_header(write(data), FileOptions(pickled_module=True))


def many_times(what: bytes, *values: bytes, times: int = 200_000) -> bytes:
    """A pickle that makes a list of a million values, and something of that list again and again."""
    million = EMPTY_LIST + b"q\x00" + MARK + NOTHING * 1_000_000 + b"e"
    return archived(records(PROTO + b"".join(values) + million + MARK + what * times + TUPLE + STOP))


ORDERED, SET, SIZED = name("collections", "OrderedDict"), name("builtins", "set"), name("torch", "Size")
AGAIN: dict[str, bytes] = {
    "dicts of one list": many_times(b"h\x01h\x00\x85R", ORDERED, b"q\x01"),
    "sets of one list": many_times(b"h\x01h\x00\x85R", SET, b"q\x01"),
    "one key in many dicts": zipped(
        text("k" * 1_000_000), b"q\x00", EMPTY_DICT, MARK, (b"h\x00N" * 500_000), b"u"
    ),
    "one dict under many keys": zipped(
        EMPTY_DICT, b"q\x00", MARK, *(number(i) + NOTHING for i in range(30_000)), b"u",
        EMPTY_DICT, MARK, *(number(i) + b"h\x00" for i in range(30_000)), b"u",
    ),
    "one module in many modules": zipped(
        module(LINEAR, dict_of(**{f"p{i}": NOTHING for i in range(10_000)})), b"q\x00",
        module(LINEAR, EMPTY_DICT, EMPTY_DICT + MARK + b"".join(text(str(i)) + b"h\x00" for i in range(30_000)) + b"u"),
    ),
    "one tensor again and again": zipped(
        V2, b"q\x00", tuple_of(storage(), number(0), numbers((1,) * 64), numbers((0,) * 64), b"\x89", ordered_dict()),
        b"q\x01", EMPTY_LIST, MARK, b"h\x00h\x01R" * 500_000, b"e",
    ),
}  # fmt: skip


SLOW = ("sets of one list", "one key in many dicts", "one tensor again and again")  # seconds, as long as they may take


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.full_only] if case in SLOW else []) for case in AGAIN]
)
def test_what_a_short_pickle_asks_for_again_and_again_takes_no_long_time(
    case: str, write: Callable[[bytes], str]
) -> None:
    path = write(AGAIN[case])
    for pickled_module in (False, True):
        clock = time.process_time()
        with pytest.raises(HeaderError):
            read_header(path, FileOptions(pickled_module))
        assert time.process_time() - clock < 20


AUDITED = """
import sys
from pathlib import Path
from shardscan.errors import CheckpointError
from functools import partial
from shardscan.shards.formats import kinds
from shardscan.shards.formats.container import FileOptions
from shardscan.shards.formats.torch import PYTORCH

read_header = partial(kinds.read_header, container=PYTORCH)
allowed, seen = {}, []
def hook(event, args):
    if event == "open" and (isinstance(args[0], int) or str(args[0]) in allowed):
        return
    if not event.startswith(("object.", "builtins.id", "os.listdir", "os.scandir")):
        seen.append((event, str(args)[:200]))

folder = Path(sys.argv[1])
files = sorted(map(str, folder.iterdir()))
allowed = set(files)
read_header(str(folder / "good"))  # whatever is imported late is imported by now
sys.addaudithook(hook)
for pickled_module in (False, True):
    for file in files:
        try:
            read_header(file, FileOptions(pickled_module))
        except CheckpointError:
            pass
events, seen = seen, None
sys.modules["os"].write(1, repr(events).encode())
sys.modules["os"]._exit(0)
"""


def test_no_file_of_strangers_ever_has_anything_imported_called_or_opened(tmp_path: Path) -> None:
    cases = {**REFUSED, **NO_MODULES, **READ}
    for number_, (data, _) in enumerate(cases.values()):
        (tmp_path / str(number_)).write_bytes(data)
    (tmp_path / "good").write_bytes(READ["a tensor"][0])
    done = subprocess.run([sys.executable, "-c", AUDITED, str(tmp_path)], capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", "[]")


SEEDS = [
    zipped(dict_of(w=tensor(), x=number(3), y=call("torch", "Size", numbers((2, 3))))),
    archived(records(pickled(module(LINEAR, dict_of(weight=tensor()), dict_of(a=module(LINEAR)))))),
    legacy(),
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(raw))
        match chance.randrange(5):
            case 0:
                raw[at] = chance.randrange(256)
            case 1:
                raw[at] = chance.choice(b"(.0]})tRbscXKMJNq\x80\x81\x85\x86\x87\x88\x89\x8a\x93Qhuea")
            case 2:
                del raw[at : at + chance.randint(1, 20)]
            case 3:
                other = chance.randrange(len(raw))
                raw[at:at] = raw[other : other + chance.randint(1, 60)]
            case _:
                raw[at : at + 4] = chance.choice([bytes(4), b"\xff" * 4, b"\0\0\0\x80", b"\xff\xff\xff\x7f"])
    return bytes(raw)


@pytest.mark.hostile
def test_mutated_files_are_read_or_refused_in_one_sentence_and_nothing_else_happens(
    write: Callable[[bytes], str], tally: Tally
) -> None:
    chance = random.Random(6)
    tally(tracebacks=0)
    for i in range(4000):
        if i % 2:  # the pickle alone: what a checksum would have caught
            pickle = mutated(records(SEEDS_OF_PICKLES[i % 4 // 2])[0].body, chance)
            data = archived(records(pickle))
        else:
            data = mutated(chance.choice(SEEDS), chance)
        path = write(data)
        for pickled_module in (False, True):
            tally(inputs=1)
            try:
                header = read_header(path, FileOptions(pickled_module))
            except HeaderError as error:
                assert str(error).endswith(".")
                assert "\n" not in str(error)
                continue
            assert all(0 <= entry.begin <= entry.end <= header.nbytes for entry in header.tensors)


SEEDS_OF_PICKLES = [
    pickled(dict_of(w=tensor(), x=number(3), y=call("torch", "Size", numbers((2, 3))))),
    pickled(module(LINEAR, dict_of(weight=tensor()), dict_of(a=module(LINEAR)))),
]
