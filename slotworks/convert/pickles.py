"""What a file of `torch.save` holds, without calling anything that it names.

Such a file is a zip archive: `data.pkl`, a pickle, says what there is, and each `data/N` holds the numbers of a tensor.
A pickle is a program that may name any function of the machine. Here the functions that it names are not looked up:
those that rebuild tensors and plain containers are replaced by our own, every other one by an inert placeholder that
keeps what it is given. So the state dict of a checkpoint can be read beside objects of Lightning or omegaconf, and a
harmful file does nothing; `foreign` says what it named.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LARGEST_PROGRAM = 2**28  # bytes of data.pkl; a state dict of ten thousand tensors has a few million


class Storage(NamedTuple):
    """Numbers of one or several tensors: the name of their file, type and how many."""

    key: str
    dtype: torch.dtype
    length: int


class Stored(NamedTuple):
    """A tensor that is not read yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """Stands for an object of a class that is not known here, or for what a function would have returned."""

    path = ""
    given: list[Any]

    def __new__(cls, *args: Any, **options: Any) -> "Inert":
        """Whatever it is given is kept, nothing is done with it."""
        self = object.__new__(cls)
        self.given = [args, options]  # data, never looked at
        return self

    def __init__(self, *args: Any, **options: Any):
        pass

    def __call__(self, *args: Any, **options: Any) -> "Inert":  # noqa: D102  (there is nothing to say)
        return self

    def __setstate__(self, state: Any) -> None:
        self.given.append(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.given.append((key, value))

    def append(self, value: Any) -> None:
        """As a list's."""
        self.given.append(value)

    def extend(self, values: Any) -> None:
        """As a list's."""
        self.given.append(values)

    add = append


class _Dict(dict):
    """An ordered dictionary; the versions of modules that torch notes on it are dropped."""

    def __init__(self, *args: Any):
        super().__init__(*args)

    def __setstate__(self, state: Any) -> None:
        pass


def _default_dict(factory: Any = None, *args: Any) -> _Dict:
    return _Dict(*args)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    return Stored(storage, offset, size, stride)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


KNOWN: dict[str, Any] = {
    "collections.OrderedDict": _Dict,
    "collections.defaultdict": _default_dict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.set": set,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
}
"""What a pickle may name, and what is called in its place."""

COMMON = ("torch.device", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
COMMON += ("_codecs.encode", *(f"torch.{str(dtype).removeprefix('torch.')}" for dtype in STORAGES.values()))
"""Plain values that nobody needs here; they are inert, too, but nothing to tell."""


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO):
        super().__init__(file, encoding="utf-8")
        self.foreign: list[str] = []

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        path = f"{module_name}.{global_name}"
        if path in KNOWN:
            return KNOWN[path]
        if path not in self.foreign and path not in COMMON:
            self.foreign.append(path)
        return type("Inert", (Inert,), {"path": path})

    def persistent_load(self, pid: Any, /) -> Storage:
        kind, dtype, key, _, length = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise pickle.UnpicklingError("it names numbers of an unknown kind")
        if type(length) is not int or length < 0:
            raise pickle.UnpicklingError(f"the numbers {key} have the length {length!r}")
        return Storage(key, dtype, length)


@dataclass(frozen=True)
class Saved:
    """The contents of a file: plain containers and values, with `Stored` for tensors and `Inert` for all else."""

    contents: Any
    foreign: tuple[str, ...] = ()  # classes and functions that it names and that were left alone
    load: Callable[[Stored], Tensor] = field(default=lambda stored: torch.empty(0), repr=False)


def read_saved(path: Path) -> Saved:
    """Read a file of `torch.save` in the format of torch 1.6 and later.

    Raises:
        pickle.UnpicklingError, zipfile.BadZipFile, OSError and others of a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        program = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if program is None:
            raise pickle.UnpicklingError("it is a zip archive without data.pkl")
        folder = program.removesuffix("data.pkl")
        if archive.getinfo(program).file_size > LARGEST_PROGRAM:
            raise pickle.UnpicklingError("its description is larger than that of any checkpoint")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise pickle.UnpicklingError("its numbers are stored in the other order of bytes")
        reader = _Reader(io.BytesIO(archive.read(program)))
        contents = reader.load()
    read: dict[Storage, Tensor] = {}

    def load(stored: Stored) -> Tensor:
        storage = stored.storage
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("it has a tensor without numbers")
        if storage not in read:
            read[storage] = _numbers(path, f"{folder}data/{storage.key}", storage.dtype, storage.length)
        return _placed(read[storage], stored)

    return Saved(contents, tuple(reader.foreign), load)


def _numbers(path: Path, name: str, dtype: torch.dtype, length: int) -> Tensor:
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(name).file_size != length * dtype.itemsize:
            raise pickle.UnpicklingError(f"{name} has {archive.getinfo(name).file_size} bytes for {length} numbers")
        values = bytearray(archive.read(name))
    return torch.frombuffer(values, dtype=dtype) if length else torch.empty(0, dtype=dtype)


def _placed(numbers: Tensor, stored: Stored) -> Tensor:
    tuples = isinstance(stored.size, tuple) and isinstance(stored.stride, tuple)
    whole = (stored.offset, *stored.size, *stored.stride) if tuples else (-1,)
    if any(type(n) is not int or n < 0 for n in whole) or len(stored.size) != len(stored.stride):
        raise pickle.UnpicklingError(f"a tensor has the shape {stored.size} and the steps {stored.stride}")
    last = stored.offset + sum((n - 1) * step for n, step in zip(stored.size, stored.stride, strict=True))
    if math.prod(stored.size) > len(numbers) or (math.prod(stored.size) and last >= len(numbers)):
        raise pickle.UnpicklingError(f"a tensor of shape {stored.size} lies outside of its numbers")
    return numbers.as_strided(stored.size, stored.stride, stored.offset)


def tensors_in(contents: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every dictionary of named tensors in what a file holds, with the keys that lead to it, the outermost first."""
    level: list[tuple[tuple[str, ...], Any]] = [((), contents)]
    for _ in range(3):
        deeper: list[tuple[tuple[str, ...], Any]] = []
        for keys, value in level:
            if not isinstance(value, dict):
                continue
            if any(isinstance(one, Stored | Tensor) for one in value.values()):
                yield keys, value
            deeper += [((*keys, key), one) for key, one in value.items() if isinstance(key, str)]
        level = deeper
