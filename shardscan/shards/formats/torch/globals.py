"""OPEN, the names that a pickle of weights may have: all of them, and what each stands for.

A name is taken letter by letter and never looked up: `torch._utils _rebuild_tensor_v2` is allowed, `torch
_utils._rebuild_tensor_v2`, which Python would resolve to the same function, is not.
"""

from __future__ import annotations

import re

from shardscan.errors import shown

STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "ComplexDoubleStorage": "C128",
}  # fmt: skip
DTYPE_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
    "bool": "BOOL", "complex64": "C64", "complex128": "C128",
}  # fmt: skip
UNTYPED = ("torch.storage", "UntypedStorage")
STORAGE_CLASSES: dict[tuple[str, str], tuple[str, bool]] = {
    **{(module, name): (code, True) for module in ("torch", "torch.cuda") for name, code in STORAGES.items()},
    UNTYPED: ("U8", False),
}
DTYPES_BY_NAME = {("torch", name): code for name, code in DTYPE_NAMES.items()}

ORDERED_DICT = ("collections", "OrderedDict")
SETS = (("builtins", "set"), ("__builtin__", "set"))
SIZE, DEVICE = ("torch", "Size"), ("torch", "device")
TENSORS = (("torch", "Tensor"), ("torch._tensor", "Tensor"), ("torch.nn.parameter", "Parameter"))
REBUILT = tuple(("torch._utils", f"_rebuild_{what}") for what in ("tensor", "tensor_v2", "tensor_v3"))
PARAMETER, PARAMETER_WITH_STATE = (("torch._utils", f"_rebuild_parameter{more}") for more in ("", "_with_state"))
FROM_TYPE = ("torch._tensor", "_rebuild_from_type_v2")

# NumPy's scalars and arrays, which training scripts keep beside weights, and how protocol 2 writes their bytes
ARRAYS = frozenset({
    ("numpy", "dtype"), ("numpy", "ndarray"), ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
})  # fmt: skip

ALLOWED = frozenset({
    *STORAGE_CLASSES, *DTYPES_BY_NAME, ORDERED_DICT, *SETS, SIZE, DEVICE, *TENSORS, *REBUILT, PARAMETER,
    PARAMETER_WITH_STATE, FROM_TYPE, *ARRAYS,
})  # fmt: skip

# what only an attack names: refused also where classes may be named, since whoever loads such a file may run it
HOSTILE = frozenset({
    "os", "posix", "nt", "subprocess", "pty", "sys", "shutil", "socket", "runpy", "importlib", "imp", "code", "ctypes",
    "webbrowser", "pip", "pydoc", "asyncio", "uuid", "_pyrepl", "commands", "timeit", "pdb", "bdb", "cProfile",
    "profile", "doctest", "multiprocessing", "urllib", "http", "requests", "pickle", "_pickle", "marshal",
    "cloudpickle", "dill",
})  # fmt: skip
HOSTILE_NAMES = frozenset({"eval", "exec", "execfile", "compile", "open", "file", "__import__", "input", "breakpoint"})
BUILTINS = ("builtins", "__builtin__")
IDENTIFIERS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def check_class(module: str, name: str) -> None:
    """Refuse what is no name, and what is no class of a model or of its tokenizer; ValueError says why."""
    if not IDENTIFIERS.fullmatch(module) or not IDENTIFIERS.fullmatch(name):
        raise ValueError(f"names {shown(f'{module}.{name}', 200)} in its pickle, which is no name of Python's")
    is_hostile = module.partition(".")[0] in HOSTILE or (module in BUILTINS and name in HOSTILE_NAMES)
    parts = f"{module.removeprefix('__main__').removeprefix('__builtin__')}.{name}".split(".")
    if is_hostile or any(part.startswith("__") and part.endswith("__") for part in parts):
        raise ValueError(
            f"names {shown(f'{module}.{name}', 200)} in its pickle, which no model is made of: nothing of it was run, "
            "but do not load this file with pickle or torch, which might run it"
        )
