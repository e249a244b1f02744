"""Checkpoints of flax: msgpack with numpy arrays, read by their format.

`flax.serialization.to_bytes` writes a state as nested maps; an array is an extension of type 1, which holds shape, type
and bytes, and one that is too large for msgpack a map of pieces.
"""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNKED = "__msgpack_chunked_array__"
TYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "uint32", "uint64", "bool")
DEEPEST = 64  # maps inside of maps


def read_flax(path: Path) -> Any:
    """What the file holds: maps, lists, numbers, text, and arrays as tensors.

    Raises:
        ValueError, OSError, struct.error: it is damaged, cut short or of another kind.
    """
    data = path.read_bytes()
    value, at = _value(memoryview(data), 0, 0)
    if at != len(data):
        raise ValueError(f"it goes on for {len(data) - at} bytes after its end")
    return _whole(value)


def flat(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of nested maps by their paths: `encoder/conv/kernel`."""
    found: dict[str, Tensor] = {}
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value
        else:
            found |= flat(value, f"{prefix}{key}/")
    return found


def _take(data: memoryview, at: int, size: int) -> tuple[memoryview, int]:
    if size < 0 or at + size > len(data):
        raise ValueError("it ends inside of a value")
    return data[at : at + size], at + size


SIZES = {0: ">B", 1: ">H", 2: ">I"}
NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
NUMBERS |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}


def _size(data: memoryview, at: int, power: int) -> tuple[int, int]:
    form = SIZES[power]
    piece, at = _take(data, at, struct.calcsize(form))
    return struct.unpack(form, piece)[0], at


def _value(data: memoryview, at: int, depth: int) -> tuple[Any, int]:
    if depth > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} maps")
    head, at = _take(data, at, 1)
    code = head[0]
    if code < 0x80:
        return code, at
    if code >= 0xE0:
        return code - 0x100, at
    if code < 0x90:
        return _map(data, at, code & 15, depth)
    if code < 0xA0:
        return _list(data, at, code & 15, depth)
    if code < 0xC0:
        return _text(data, at, code & 31)
    if code in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[code], at
    if code in NUMBERS:
        piece, at = _take(data, at, struct.calcsize(NUMBERS[code]))
        return struct.unpack(NUMBERS[code], piece)[0], at
    if 0xD4 <= code <= 0xD8:
        return _extension(data, at, 1 << code - 0xD4, depth)
    for first, read in ((0xC4, _binary), (0xC7, _extension_of), (0xD9, _text)):
        if first <= code < first + 3:
            size, at = _size(data, at, code - first)
            return read(data, at, size)
    if code in (0xDC, 0xDD):
        size, at = _size(data, at, code - 0xDB)
        return _list(data, at, size, depth)
    if code in (0xDE, 0xDF):
        size, at = _size(data, at, code - 0xDD)
        return _map(data, at, size, depth)
    raise ValueError(f"it has the byte {code:#x}, which means nothing in msgpack")


def _map(data: memoryview, at: int, size: int, depth: int) -> tuple[dict[Any, Any], int]:
    found = {}
    for _ in range(size):
        key, at = _value(data, at, depth + 1)
        if not isinstance(key, str | int):
            raise ValueError("a map in it has a key that is neither text nor a number")
        found[key], at = _value(data, at, depth + 1)
    return found, at


def _list(data: memoryview, at: int, size: int, depth: int) -> tuple[list[Any], int]:
    found = []
    for _ in range(size):
        value, at = _value(data, at, depth + 1)
        found.append(value)
    return found, at


def _text(data: memoryview, at: int, size: int) -> tuple[str, int]:
    piece, at = _take(data, at, size)
    return bytes(piece).decode(), at


def _binary(data: memoryview, at: int, size: int) -> tuple[bytes, int]:
    piece, at = _take(data, at, size)
    return bytes(piece), at


def _extension_of(data: memoryview, at: int, size: int) -> tuple[Any, int]:
    return _extension(data, at, size, 0)


def _extension(data: memoryview, at: int, size: int, depth: int) -> tuple[Any, int]:
    kind, at = _take(data, at, 1)
    piece, at = _take(data, at, size)
    if kind[0] not in (1, 3):  # 2: a complex number
        return None, at
    value, _ = _value(piece, 0, depth + 1)
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[0], list):
        raise ValueError("an array in it has no shape, type and numbers")
    shape, name, numbers = value
    return _array(shape, name.decode() if isinstance(name, bytes) else name, numbers), at


def _array(shape: list[Any], name: Any, numbers: Any) -> Tensor:
    if name == "bfloat16":
        kind = np.dtype("<u2")
    elif name in TYPES:
        kind = np.dtype(name).newbyteorder("<")
    else:
        raise ValueError(f"an array in it has the type {name!r}")
    sizes = [n for n in shape if type(n) is int and n >= 0]
    if len(sizes) != len(shape) or not isinstance(numbers, bytes) or math.prod(sizes) * kind.itemsize != len(numbers):
        raise ValueError(f"an array in it has the shape {shape} but other numbers")
    values = np.frombuffer(bytearray(numbers), kind).reshape(sizes)
    if name == "bfloat16":
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(values.astype("int64") if kind.kind == "u" and kind.itemsize > 1 else values.copy())


def _whole(value: Any) -> Any:
    """Arrays in pieces put together, however deep."""
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get(CHUNKED) is not True:
        return {key: _whole(one) for key, one in value.items()}
    parts, shape = (_in_order(value.get(name)) for name in ("chunks", "shape"))
    if not isinstance(parts, list) or not isinstance(shape, list) or not all(isinstance(one, Tensor) for one in parts):
        raise ValueError("an array in it is in pieces that do not fit")
    return torch.cat([one.flatten() for one in parts]).reshape([int(n) for n in shape])


def _in_order(value: Any) -> Any:
    """flax writes a tuple as a map with its places for keys."""
    if not isinstance(value, dict):
        return value
    return [one for _, one in sorted(value.items(), key=lambda item: int(item[0]))]
