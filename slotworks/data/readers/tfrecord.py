"""TFRecord files without TensorFlow: the framing, and the `tf.Example` inside.

A file is a sequence of records, as a whole GZIP compressed (Tetrominoes, Multi-dSprites, CLEVR with masks) or not
(MOVi). A record is a uint64 length, a masked CRC-32C of those eight bytes, the payload and its masked CRC-32C, all
little endian. The payload is a protobuf message: a map from feature names to lists of bytes, float32 or int64.

The multi-object data sets store every pixel as a string of one byte of its own. On the wire such a string is
`0A 01 xx`, so a list of N pixels is exactly 3 N bytes and `reshape(N, 3)[:, 2]` decodes it without touching the
elements one by one.

Every defect of a file is a `UserError` that names the file and the record, counted from 0.
"""

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path

import google_crc32c
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from slotworks.limits import check_decoded
from slotworks.types import UserError

MAX_RECORD_BYTES = 1 << 30  # far above any record of the field; a longer one is a damaged length
READ_BYTES = 4 << 20  # how much is asked for at once, so that a wrong length cannot allocate more than the file holds
HEADER_BYTES = 12

BYTES, FLOATS, INTS = 1, 2, 3  # field numbers of tf.Feature
KIND_NAMES = {BYTES: "bytes", FLOATS: "floats", INTS: "integers"}


def read_examples(path: str | Path, *, start: int = 0) -> Iterator["Example"]:
    """The records of a TFRecord file from number `start`, parsed as `tf.Example`.

    Records before `start` are passed over without checking or parsing their payload.

    Raises:
        UserError: the file is missing, empty, of another format, cut off or damaged.
    """
    for index, payload in enumerate(read_payloads(path, start=start), start):
        yield Example(payload, f"{path}, record {index}")


def read_payloads(path: str | Path, *, start: int = 0) -> Iterator[bytes]:
    """The payloads of a TFRecord file from record `start`, with both checksums verified; errors as `read_examples`."""
    path = Path(path)
    with _open(path) as file:
        index = 0
        where = f"{path}, record {index}"
        while (length := _read_length(file, where=where)) is not None:
            payload = _read(file, length, where=where) if index >= start else _skip(file, length, where=where)
            footer = _read(file, 4, where=where)
            if len(footer) < 4:
                raise UserError(f"{where}: the file ends inside the record; get the file again.")
            if index >= start:
                if _masked_crc(payload) != int.from_bytes(footer, "little"):
                    raise UserError(f"{where}: the checksum of the record is wrong; get the file again.")
                yield payload
            index += 1
            where = f"{path}, record {index}"
    if index == 0:
        raise UserError(f"{path} holds no record; get the file again.")


def count_records(path: str | Path) -> int:
    """How many records a TFRecord file holds, without looking at what is in them; fast where it is not compressed.

    Raises:
        UserError: the file is missing, empty, of another format, or cut off.
    """
    count = 0
    with _open(Path(path)) as file:
        where = f"{path}, record {count}"
        while (length := _read_length(file, where=where)) is not None:
            _skip(file, length, where=where)
            if len(_read(file, 4, where=where)) < 4:
                raise UserError(f"{where}: the file ends inside the record; get the file again.")
            count += 1
            where = f"{path}, record {count}"
    return count


def write_records(path: str | Path, payloads: Sequence[bytes], *, compress: bool = True) -> None:
    """Write a TFRecord file: the inverse of `read_payloads`, for tests and for small sets of one's own."""
    framed = b"".join(
        header + _masked_crc(header).to_bytes(4, "little") + payload + _masked_crc(payload).to_bytes(4, "little")
        for payload in payloads
        for header in [len(payload).to_bytes(8, "little")]
    )
    Path(path).write_bytes(gzip.compress(framed, mtime=0) if compress else framed)


class Example:
    """One `tf.Example`. Features are decoded when asked for, and checked against the shape the caller expects.

    Args:
        payload: the serialised message.
        where: file and record, the beginning of every error message.
    """

    def __init__(self, payload: bytes, where: str):
        self.where = where
        self.features: dict[str, tuple[int, memoryview]] = {}  # name -> kind, serialised list
        try:
            for features in _submessages(memoryview(payload), 1):
                for entry in _submessages(features, 1):
                    name = b"".join(bytes(part) for part in _submessages(entry, 1)).decode("utf-8", "replace")
                    for feature in _submessages(entry, 2):
                        for kind, _, content in _fields(feature):
                            if kind in KIND_NAMES and isinstance(content, memoryview):
                                self.features[name] = kind, content
        except ValueError as error:
            raise UserError(f"{where} is not a tf.Example ({error}); is this the right file?") from error

    def uint8(self, name: str, shape: Sequence[int]) -> UInt8[np.ndarray, "..."]:
        """A list of one-byte strings as an array of that shape: a view into the record with a stride of 3 bytes."""
        raw = np.frombuffer(self._content(name, BYTES), np.uint8)
        triples = raw[: len(raw) // 3 * 3].reshape(-1, 3)
        if len(raw) % 3 or (triples[:, 0] != 0x0A).any() or (triples[:, 1] != 1).any():
            raise UserError(
                f"{self.where}: feature '{name}' is not a list of single bytes as expected; is this the right file?"
            )
        return self._shaped(name, triples[:, 2], shape)

    def floats(self, name: str, shape: Sequence[int] | None = None) -> Float32[np.ndarray, "..."]:
        """A list of floats as an array of that shape; without a shape, all there are."""
        parts = [np.empty(0, np.float32)]
        for value in self._values(name, FLOATS):
            if isinstance(value, int) or len(value) % 4:
                raise UserError(f"{self.where}: feature '{name}' is not a list of floats; is this the right file?")
            parts.append(np.frombuffer(value, "<f4"))
        return self._shaped(name, np.concatenate(parts), shape)

    def ints(self, name: str, shape: Sequence[int] | None = None) -> Int64[np.ndarray, "..."]:
        """A list of integers as an array of that shape; without a shape, all there are."""
        parts = [np.empty(0, np.int64)]
        for value in self._values(name, INTS):
            try:
                single = isinstance(value, int)
                parts.append(np.array([value], np.uint64).view(np.int64) if single else _unpack_varints(value))
            except ValueError as error:
                raise UserError(f"{self.where}: feature '{name}' is damaged ({error}); get the file again.") from error
        return self._shaped(name, np.concatenate(parts), shape)

    def strings(self, name: str) -> list[bytes]:
        """A list of strings of any length, for example encoded pictures."""
        return [b"" if isinstance(value, int) else bytes(value) for value in self._values(name, BYTES)]

    def _content(self, name: str, kind: int) -> memoryview:
        """The serialised list of a feature, which must exist and hold that kind."""
        if name not in self.features:
            names = ", ".join(sorted(self.features)[:20]) or "nothing"
            raise UserError(f"{self.where} has no feature '{name}', only {names}; is this the right file?")
        found, content = self.features[name]
        if found != kind:
            raise UserError(
                f"{self.where}: feature '{name}' holds {KIND_NAMES[found]}, expected {KIND_NAMES[kind]}; "
                "is this the right file?"
            )
        return content

    def _values(self, name: str, kind: int) -> list[memoryview | int]:
        content = self._content(name, kind)
        try:
            return [value for number, _, value in _fields(content) if number == 1]
        except ValueError as error:
            raise UserError(f"{self.where}: feature '{name}' is damaged ({error}); get the file again.") from error

    def _shaped(self, name: str, values: np.ndarray, shape: Sequence[int] | None) -> np.ndarray:
        if shape is None:
            return values
        if values.size != np.prod(shape, dtype=np.int64):
            expected = " x ".join(map(str, shape))
            raise UserError(
                f"{self.where}: feature '{name}' holds {values.size} values, expected {expected}; "
                "is this the right file?"
            )
        return values.reshape(shape)


def _open(path: Path) -> BufferedIOBase:
    """Open plain or GZIP, whichever the first bytes show."""
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
        if not head:
            raise UserError(f"{path} is empty; get the file again.")
        if _is_header(head):  # asked first: a plain file's length may begin like a GZIP file
            return path.open("rb")
        if head.startswith(b"\x1f\x8b"):
            return gzip.open(path, "rb")
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror or error}.") from error
    raise UserError(
        f"{path} is neither a GZIP file nor a TFRecord file (it begins with {head!r}); get the official file again."
    )


def _read(file: BufferedIOBase, size: int, *, where: str) -> bytes:
    """`size` bytes, or fewer at the end of the file."""
    parts = []
    try:
        while size > 0 and (part := file.read(min(size, READ_BYTES))):
            parts.append(part)
            size -= len(part)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: the file is cut off or damaged ({error}); get the file again.") from error
    return b"".join(parts)


def _skip(file: BufferedIOBase, size: int, *, where: str) -> bytes:
    """Pass over `size` bytes, possibly beyond the end; returns nothing of them."""
    try:
        file.seek(size, io.SEEK_CUR)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: the file is cut off or damaged ({error}); get the file again.") from error
    return b""


def _read_length(file: BufferedIOBase, *, where: str) -> int | None:
    """The length of the next payload, or None at the end of the file."""
    header = _read(file, HEADER_BYTES, where=where)
    if not header:
        return None
    if len(header) < HEADER_BYTES:
        raise UserError(f"{where}: the file ends inside the record's header; get the file again.")
    if not _is_header(header):
        raise UserError(f"{where}: the checksum of the record's length is wrong; get the file again.")
    length = int.from_bytes(header[:8], "little")
    if length > MAX_RECORD_BYTES:
        raise UserError(f"{where}: a length of {length:,} bytes cannot be right; get the file again.")
    check_decoded(2 * length, where, f"a length of {length:,} bytes")  # its parts, and joined
    return length


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _is_header(header: bytes) -> bool:
    return len(header) == HEADER_BYTES and _masked_crc(header[:8]) == int.from_bytes(header[8:], "little")


def _submessages(message: memoryview, number: int) -> Iterator[memoryview]:
    for found, _, value in _fields(message):
        if found == number and isinstance(value, memoryview):
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Number, wire type and value of every field: an integer for a varint, otherwise the field's bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, wire, value
            continue
        if wire == 2:
            length, position = _varint(message, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire}")
        if length > len(message) - position:
            raise ValueError("a field is longer than its message")
        yield number, wire, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A base-128 number, low bits first, of at most ten bytes, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("a number is cut off")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise ValueError("a number is longer than ten bytes")


def _unpack_varints(data: memoryview) -> Int64[np.ndarray, " n"]:
    """All numbers of a packed list: first the last byte of each, which is its highest, then those before it."""
    raw = np.frombuffer(data, np.uint8)
    if len(raw) == 0:
        return np.empty(0, np.int64)
    if raw[-1] >= 0x80:
        raise ValueError("a number is cut off")
    ends = np.flatnonzero(raw < 0x80)
    lengths = np.diff(ends, prepend=-1)
    longest = lengths.max()
    if longest > 10:
        raise ValueError("a number is longer than ten bytes")
    # the widest type only where it is needed: a flow field has millions of numbers of at most three bytes
    values = raw[ends].astype(np.uint32 if longest <= 4 else np.uint64)
    low = raw & 0x7F
    for place in range(1, longest):
        longer = np.flatnonzero(lengths > place)
        values[longer] = values[longer] << 7 | low[ends[longer] - place]
    return values.astype(np.int64) if longest <= 4 else values.view(np.int64)
