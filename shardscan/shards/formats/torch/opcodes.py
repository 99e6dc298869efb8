"""OPEN, PyTorch's pickles: an interpreter of their opcodes that imports nothing, calls nothing and makes no object.

What a pickle does with names is told to a `World`, which answers with inert values or refuses. Everything else is
lists, dicts, tuples, texts and numbers. Time and memory are linear in the pickle's length, which is bounded, and so is
everything that a short pickle could make long: opcodes, memo, marks, names and whole numbers. Nothing here recurses,
and nothing looks through a value that a pickle may ask for again and again.

The opcodes are those that Python's pickler writes under protocols 2 to 5. Source: Lib/pickletools.py of CPython.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

from shardscan.shards.formats.torch.values import Node, Strided, is_key, kind, shown_key

MAX_PICKLE = 64 << 20  # bytes; 45,000 tensors take 7 MB
MAX_OPCODES = 5_000_000  # a tensor takes about 35
MAX_MEMO, MAX_MARKS, MAX_SETS = 3_000_000, 1_000, 500_000
MAX_TEXT, MAX_NAME, MAX_INTEGER = 32 << 20, 512, 16  # bytes
TEXT_OPCODES = {
    "I": "INT", "L": "LONG", "F": "FLOAT", "S": "STRING", "V": "UNICODE", "P": "PERSID", "g": "GET", "p": "PUT",
    "i": "INST", "o": "OBJ", "l": "LIST", "d": "DICT", "0": "POP", "1": "POP_MARK", "2": "DUP",
    "\x82": "EXT1", "\x83": "EXT2", "\x84": "EXT4", "\x8b": "LONG4", "\x97": "NEXT_BUFFER", "\x98": "READONLY_BUFFER",
}  # fmt: skip


class Truncated(ValueError):
    """A pickle that goes on where its bytes end."""


class World(Protocol):
    """What a pickle may name and do with names; each answers with an inert value, or refuses with a ValueError."""

    is_lenient: bool  # whether keys that nothing asks for are dropped, and items of objects ignored

    def named(self, module: str, name: str) -> Any:
        """GLOBAL and STACK_GLOBAL."""

    def called(self, callee: Any, args: Any) -> Any:
        """REDUCE."""

    def made(self, cls: Any) -> Any:
        """NEWOBJ and NEWOBJ_EX."""

    def stated(self, value: Any, state: Any) -> None:
        """BUILD."""

    def kept(self, pid: Any) -> Any:
        """BINPERSID."""

    def note(self, what: str) -> None:
        """Whatever is legal and odd; the same may come many times."""


class Machine:
    """A pickle while it is read; `interpret` is the way in."""

    def __init__(self, data: bytes, start: int, world: World) -> None:
        self.data, self.at, self.world = data, start, world
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.sets = 0

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise Truncated("has a pickle that ends within a value: it was cut short, so download it again")
        raw = self.data[self.at : end]
        self.at = end
        return raw

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise Truncated("has a pickle that ends within a value: it was cut short, so download it again")
        self.at += 1
        return self.data[self.at - 1]

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def signed(self, length: int) -> int:
        if length > MAX_INTEGER:
            raise ValueError(f"has a whole number of {length:,} bytes in its pickle, which no state dict needs")
        return int.from_bytes(self.take(length), "little", signed=True)

    def text(self, length: int, encoding: str = "utf-8") -> str:
        try:
            return self.sized(length).decode(encoding)
        except UnicodeDecodeError:
            raise ValueError("has a text in its pickle that is not UTF-8") from None

    def sized(self, length: int) -> bytes:
        if length > MAX_TEXT and length <= len(self.data):
            raise ValueError(f"has a text of {length:,} bytes in its pickle, over the {MAX_TEXT:,} that it may have")
        return self.take(length)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + MAX_NAME + 1)
        if end < 0:
            if len(self.data) - self.at <= MAX_NAME:
                raise Truncated("has a pickle that ends within a name: it was cut short, so download it again")
            raise ValueError(f"has a name of more than {MAX_NAME} bytes in its pickle")
        name = self.text(end - self.at)
        self.at = end + 1
        return name

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise ValueError("nests its pickle too deeply")
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def popped(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def remember(self, number: int) -> None:
        if len(self.memo) >= MAX_MEMO and number not in self.memo:
            raise ValueError(f"remembers more than {MAX_MEMO:,} values in its pickle")
        self.memo[number] = self.stack[-1]

    def recall(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError("asks its pickle for a value that was never there")
        self.stack.append(self.memo[number])

    def add(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target += items
        elif not isinstance(target, Node):
            raise ValueError(f"appends to {kind(target)} in its pickle, which only lists allow")

    def put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Node):
            return
        if type(target) is not dict:
            raise ValueError(f"sets items of {kind(target)} in its pickle, which only dicts allow")
        if len(items) % 2:
            raise ValueError("has a dict in its pickle with a key and no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if is_key(key):
                if key in target:
                    self.world.note(f"a dict in it has the key {shown_key(key)} twice, of which the last counts")
                target[key] = value
            elif not self.world.is_lenient or isinstance(key, Strided):
                raise ValueError(f"has {kind(key)} as the key of a dict in its pickle")

    def join(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not set:
            raise ValueError(f"adds to {kind(target)} in its pickle, which only sets allow")
        target.update(self.members(items))

    def new_set(self) -> set[Any]:
        self.sets += 1
        if self.sets > MAX_SETS:  # an empty one takes 216 bytes
            raise ValueError(f"makes more than {MAX_SETS:,} sets in its pickle")
        return set()

    def members(self, items: list[Any]) -> set[Any]:
        if not self.world.is_lenient and not all(map(is_key, items)):
            raise ValueError("has a set in its pickle with members that are no texts or numbers")
        return {item for item in items if is_key(item)}

    def protocol(self) -> None:
        number = self.byte()
        if not 2 <= number <= 5:
            raise ValueError(f"has a pickle of protocol {number}, where PyTorch writes 2")
        if number > 2:
            self.world.note(f"its pickle is of protocol {number}, where PyTorch writes 2")

    def frame(self) -> None:
        self.take(8)  # how much follows, for those who read ahead

    def name(self) -> None:
        module, name = self.popped(2)
        if type(module) is not str or type(name) is not str or len(module) + len(name) > MAX_NAME:
            raise ValueError("names something in its pickle by what is no name")
        self.stack.append(self.world.named(module, name))

    def reduce(self) -> None:
        callee, args = self.popped(2)
        self.stack.append(self.world.called(callee, args))

    def make(self, count: int) -> None:
        self.stack.append(self.world.made(self.popped(count)[0]))

    def build(self) -> None:
        state = self.stack.pop()
        self.world.stated(self.stack[-1], state)


Step = Callable[[Machine], None]


def _pushes(value: Callable[[Machine], Any]) -> Step:
    def step(m: Machine) -> None:
        found = value(m)  # before the stack is looked up: a tuple's mark has another
        m.stack.append(found)

    return step


STEPS: dict[int, Step] = {
    ord(code): step
    for code, step in (
        ("\x80", Machine.protocol), ("\x95", Machine.frame),
        ("(", Machine.mark), ("R", Machine.reduce), ("b", Machine.build), ("\x93", Machine.name),
        ("\x81", lambda m: m.make(2)), ("\x92", lambda m: m.make(3)),
        ("c", _pushes(lambda m: m.world.named(m.line(), m.line()))),
        ("Q", _pushes(lambda m: m.world.kept(m.stack.pop()))),
        ("N", _pushes(lambda m: None)), ("\x88", _pushes(lambda m: True)), ("\x89", _pushes(lambda m: False)),
        ("]", _pushes(lambda m: [])), ("}", _pushes(lambda m: {})), (")", _pushes(lambda m: ())),
        ("\x8f", _pushes(Machine.new_set)),
        ("K", _pushes(lambda m: m.byte())), ("M", _pushes(lambda m: m.number(2))),
        ("J", _pushes(lambda m: m.signed(4))), ("\x8a", _pushes(lambda m: m.signed(m.byte()))),
        ("G", _pushes(lambda m: struct.unpack(">d", m.take(8))[0])),
        ("X", _pushes(lambda m: m.text(m.number(4)))), ("\x8c", _pushes(lambda m: m.text(m.byte()))),
        ("\x8d", _pushes(lambda m: m.text(m.number(8)))),
        ("T", _pushes(lambda m: m.text(m.number(4), "latin-1"))),
        ("U", _pushes(lambda m: m.text(m.byte(), "latin-1"))),
        ("B", _pushes(lambda m: m.sized(m.number(4)))), ("C", _pushes(lambda m: m.sized(m.byte()))),
        ("\x8e", _pushes(lambda m: m.sized(m.number(8)))), ("\x96", _pushes(lambda m: m.sized(m.number(8)))),
        ("t", _pushes(lambda m: tuple(m.since_mark()))),
        ("\x85", _pushes(lambda m: tuple(m.popped(1)))), ("\x86", _pushes(lambda m: tuple(m.popped(2)))),
        ("\x87", _pushes(lambda m: tuple(m.popped(3)))),
        ("\x91", _pushes(lambda m: m.new_set() | m.members(m.since_mark()))),
        ("\x90", lambda m: m.join(m.since_mark())),
        ("q", lambda m: m.remember(m.byte())), ("r", lambda m: m.remember(m.number(4))),
        ("\x94", lambda m: m.remember(len(m.memo))),
        ("h", lambda m: m.recall(m.byte())), ("j", lambda m: m.recall(m.number(4))),
        ("a", lambda m: m.add(m.popped(1))), ("e", lambda m: m.add(m.since_mark())),
        ("s", lambda m: m.put(m.popped(2))), ("u", lambda m: m.put(m.since_mark())),
    )
}  # fmt: skip
STOP = ord(".")


def interpret(data: bytes, world: World, start: int = 0) -> tuple[Any, int]:
    """The value of the pickle that begins at `start`, and where it ends; Truncated or ValueError where it is wrong."""
    m = Machine(data, start, world)
    try:
        value = _run(m)
    except IndexError:
        raise ValueError("takes more from its pickle's stack than there is") from None
    if m.stack or m.marks:
        world.note("its pickle leaves values behind that belong to nothing")
    return value, m.at


def _run(m: Machine) -> Any:
    data, steps, size = m.data, STEPS, len(m.data)
    for _ in range(MAX_OPCODES):
        if m.at >= size:
            raise Truncated("has a pickle without an end: it was cut short, so download it again")
        code = data[m.at]
        m.at += 1
        step = steps.get(code)
        if step is not None:
            step(m)
        elif code == STOP:
            return m.stack.pop()
        else:
            name = TEXT_OPCODES.get(chr(code), f"0x{code:02x}")
            raise ValueError(f"uses the pickle opcode {name}, which PyTorch does not write")
    raise ValueError(f"has more than {MAX_OPCODES:,} opcodes in its pickle, which no state dict needs")
