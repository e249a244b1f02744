"""Checkpoints of TensorFlow 2: `NAME.index` and `NAME.data-00000-of-00001`, read by their format.

The index is a sorted table of blocks as LevelDB writes it; each value in it is a small protocol buffer that says type,
shape and place of a tensor in the data files. Little-endian numbers, no compression, as TensorFlow writes them.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from torch import Tensor

MAGIC = 0xDB4775248B80FB57  # ends a table
FOOTER = 48
LARGEST_INDEX = 2**28  # bytes
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}
"""`DataType` of TensorFlow -> numpy; text and others are no weights."""


def read_bundle(index: Path) -> dict[str, Tensor]:
    """All tensors of numbers, by the keys of the checkpoint.

    Raises:
        ValueError, OSError, LookupError: the files are damaged, cut short or of another kind.
    """
    if index.stat().st_size > LARGEST_INDEX:
        raise ValueError("its index is larger than that of any checkpoint")
    entries = dict(_table(index.read_bytes()))
    header = _fields(entries.pop(b"", b""))
    shards = _number(header, 1, 1)
    if _number(header, 2, 0) != 0:
        raise ValueError("its numbers are stored in the other order of bytes")
    found = {}
    for key, value in entries.items():
        entry = _fields(value)
        kind = TYPES.get(_number(entry, 1, 0))
        if kind is None:
            continue
        if 7 in entry:
            raise ValueError(f"{key.decode()} is stored in slices")
        name = f"{index.name.removesuffix('.index')}.data-{_number(entry, 3, 0):05d}-of-{shards:05d}"
        found[key.decode()] = _tensor(index.with_name(name), entry, np.dtype(kind), key.decode())
    return found


def _tensor(data: Path, entry: dict[int, list[int | bytes]], kind: np.dtype, name: str) -> Tensor:
    sizes = [_signed(_number(_fields(dim), 1, 0)) for dim in _messages(_fields(_bytes(entry, 2)), 2)]
    offset, size = _number(entry, 4, 0), _number(entry, 5, 0)
    if any(n < 0 for n in sizes) or math.prod(sizes) * kind.itemsize != size:
        raise ValueError(f"{name} has {size} bytes for the shape {tuple(sizes)}")
    with data.open("rb") as file:
        file.seek(offset)
        numbers = file.read(size)
    if len(numbers) != size:
        raise ValueError(f"{data.name} ends inside of {name}")
    if 6 in entry and _masked(google_crc32c.value(numbers)) != _number(entry, 6, 0):
        raise ValueError(f"{name} has another checksum than was written")
    return torch.from_numpy(np.frombuffer(bytearray(numbers), kind).reshape(sizes).copy())


def _masked(crc: int) -> int:
    """TensorFlow stores checksums so, lest one be taken of itself."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        raise ValueError("it is no index of a TensorFlow checkpoint")
    footer = data[-FOOTER:-8]
    at = 0
    for _ in range(2):  # of the index about the table, which is not used
        _, at = _varint(footer, at)
    start, at = _varint(footer, at)
    size, at = _varint(footer, at)
    for _, handle in _block(data, start, size):
        start, at = _varint(handle, 0)
        size, at = _varint(handle, at)
        yield from _block(data, start, size)


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    block, trailer = data[start : start + size], data[start + size : start + size + 5]
    if len(block) != size or len(trailer) != 5 or size < 4:
        raise ValueError("its index is cut short")
    if trailer[0] != 0:
        raise ValueError("its index is compressed, which TensorFlow's checkpoints are not")
    if _masked(google_crc32c.extend(google_crc32c.value(block), trailer[:1])) != struct.unpack("<I", trailer[1:])[0]:
        raise ValueError("its index has another checksum than was written")
    restarts = struct.unpack("<I", block[-4:])[0]
    end, at, key = size - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + own + length > end:
            raise ValueError("its index is damaged")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while shift < 70:
        if at >= len(data):
            raise ValueError("it ends inside of a number")
        byte = data[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number in it is too long")


def _fields(data: bytes) -> dict[int, list[int | bytes]]:
    """The fields of a protocol buffer by number: whole numbers, and bytes of text and of messages."""
    found: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at : at + size], "little"), at + size
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise ValueError("it holds a field of an unknown kind")
        if at > len(data):
            raise ValueError("it ends inside of a field")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _number(message: dict[int, list[int | bytes]], field: int, default: int) -> int:
    value = message.get(field, [default])[-1]
    if not isinstance(value, int):
        raise ValueError("a field that should be a number is none")
    return value


def _bytes(message: dict[int, list[int | bytes]], field: int) -> bytes:
    value = message.get(field, [b""])[-1]
    return value if isinstance(value, bytes) else b""


def _messages(message: dict[int, list[int | bytes]], field: int) -> list[bytes]:
    return [value for value in message.get(field, []) if isinstance(value, bytes)]


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
