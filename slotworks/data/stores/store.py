"""The prepared store: a folder with one memory-mapped array per field, read in random order without decoding anything.

    tetrominoes-60640/
      index.json      number of rows, dtype, shape and checksum of every field, where the rows come from
      image.npy       uint8 n h w 3
      mask.npy        uint8 n h w, 0 is background
      x.npy ...       properties, one row per image

A store is written beside its final place, in chunks, and renamed when complete: a folder under the final name is a
whole store. After every chunk `index.json` says how many rows are safely on the disk, so a preparation that was killed
goes on from there and ends with the same bytes. Checksums are CRC-32C of a field's values, because its running value,
unlike that of SHA-256, can be saved and continued.
"""

import json
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from slotworks.errors import DISK_FULL, quote
from slotworks.files import flush, only_one
from slotworks.json_text import read_json
from slotworks.progress import Advice, progress
from slotworks.remote import Place, RemotePath, as_place
from slotworks.types import RawBatch, UserError

FORMAT = "slotworks-store"
VERSION = 1
CHUNK_BYTES = 16 << 20
HEADER_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError, EOFError)
HEADER_DAMAGE += (OverflowError, RecursionError, MemoryError, TokenError)  # what NumPy raises for a damaged header

Row = dict[str, np.ndarray]
"""One image and what is known about it, by field name, without a batch axis."""

Rows = Callable[[int], Iterator[Row]]
"""Starts reading the official files at a row number. Rows must not depend on where the reading starts."""


class Store:
    """A prepared store, or a selection of its rows, as a `Dataset`.

    Args:
        path: the store's folder; at a URL, pieces that are asked for travel and some of them are kept in memory.
        rows: row numbers this selection consists of, in order; all rows if None.

    Raises:
        UserError: the folder is not a complete, undamaged store.

    Values stay on the disk until a batch asks for them. Worker processes open the files anew.
    """

    def __init__(self, path: str | Place, rows: np.ndarray | None = None):
        self.path = as_place(path)
        self.index = read_index(self.path)
        if not self.index["complete"]:
            raise UserError(f"{self.path} is not complete; run `slotworks data prepare` again to finish it.")
        self.arrays = {
            name: _open_field(self.path, name, field, self.index["rows"])
            for name, field in self.index["fields"].items()
        }
        self.rows = np.arange(self.index["rows"]) if rows is None else np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> RawBatch:
        """One row without a batch axis."""
        row = self.rows[index]
        return {name: np.array(array[row]) for name, array in self.arrays.items()}

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        """Stacked rows in the order of `indices`."""
        rows = self.rows[np.asarray(indices, np.int64)]  # sorting them first was measured: no gain, warm or cold
        return {name: array[rows] for name, array in self.arrays.items()}

    def __reduce__(self) -> tuple[type["Store"], tuple[Place, np.ndarray]]:
        return type(self), (self.path, self.rows)  # pickling a memory map would copy the whole file

    def select(self, rows: np.ndarray) -> "Store":
        """The same store, restricted to some of its rows."""
        return type(self)(self.path, self.rows[rows])

    def verify(self) -> None:
        """Recompute the checksum of every field: reads the whole store.

        Raises:
            UserError: names the damaged file.
        """
        for name, array in self.arrays.items():
            crc = 0
            step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
            for start in range(0, len(array), step):
                crc = _extend_crc(crc, array[start : start + step])
            if crc != self.index["fields"][name]["crc32c"]:
                raise UserError(
                    f"{self.path / f'{name}.npy'} is damaged: its checksum is {crc:08x}, expected "
                    f"{self.index['fields'][name]['crc32c']:08x}; delete {self.path} and prepare it again."
                )


class RemoteArray:
    """A `.npy` file at a URL, of which rows are read: pieces of `BLOCK` bytes, the last used ones kept in memory."""

    BLOCK, KEPT = 256 << 10, 256  # bytes of a piece, and how many are kept

    def __init__(self, file: RemotePath, dtype: np.dtype, shape: tuple[int, ...]):
        self.file, self.dtype, self.shape = file, dtype, shape
        head = BytesIO(file.read_ranges([0], [min(file.stat().st_size, 4096)])[0])
        version = np.lib.format.read_magic(head)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found = read(head)
        if found != (shape, False, dtype):
            raise ValueError(f"it holds {found[2]} {found[0]}")
        self._first = head.tell()
        self._row = dtype.itemsize * math.prod(shape[1:])
        self._rows = max(1, self.BLOCK // max(1, self._row))  # of a piece
        self._pieces: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """One row, a slice of them, or those of an array of numbers."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        wanted = np.atleast_1d(np.asarray(rows, np.int64))
        if wanted.size and not -len(self) <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"row {wanted.min()} or {wanted.max()} of {len(self)}")
        wanted = wanted % max(1, len(self))
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        numbers = wanted // self._rows
        needed = np.unique(numbers)
        for start in range(0, len(needed), self.KEPT):  # a batch may need more pieces than are kept
            pieces = self._read(needed[start : start + self.KEPT].tolist())
            for number, piece in pieces.items():
                here = numbers == number
                found[here] = piece[wanted[here] - number * self._rows]
        return found if np.ndim(rows) else found[0]

    def _read(self, numbers: list[int]) -> dict[int, np.ndarray]:
        missing = [number for number in numbers if number not in self._pieces]
        bounds = [(number * self._rows, min(len(self), (number + 1) * self._rows)) for number in missing]
        starts, stops = ([self._first + self._row * pair[k] for pair in bounds] for k in (0, 1))
        for number, pair, data in zip(missing, bounds, self.file.read_ranges(starts, stops), strict=True):
            self._pieces[number] = np.frombuffer(data, self.dtype).reshape(pair[1] - pair[0], *self.shape[1:])
        for number in numbers:
            self._pieces.move_to_end(number)
        found = {number: self._pieces[number] for number in numbers}
        while len(self._pieces) > self.KEPT:
            self._pieces.popitem(last=False)
        return found


def send_store(path: Path, url: RemotePath) -> None:
    """Copy a store to a URL, its index last: it is a store there when all of it is.

    Raises:
        UserError: it is not complete, or the storage refuses. The same call goes on.
    """
    if not read_index(path)["complete"]:
        raise UserError(f"{path} is not complete; run `slotworks data prepare` again to finish it.")
    for file in sorted(path.iterdir(), key=lambda file: file.name == "index.json"):
        there = url / file.name
        if file.name == "index.json" or not there.is_file() or there.stat().st_size != file.stat().st_size:
            there.put(file)


def write_store(
    path: str | Path,
    rows: Rows,
    *,
    source: dict[str, Any],
    settings: dict[str, Any] | None = None,
    total: int | None = None,
    unit: str = "images",
    advice: Advice | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Write a store, going on where a killed preparation stopped. Does nothing if the store is there already.

    Args:
        path: the final folder; the parent is made. The work happens in `.<name>.partial` beside it.
        rows: called with the number of rows that are safe already; gives the following ones.
        source: what the rows are made from (name, size, fingerprint); a partial store of another source is begun anew.
        settings: how they are made, saved beside the source and compared likewise.
        total: number of rows, if known.
        unit: what rows are, for the progress.
        advice: what would make it shorter, see `slotworks.progress`.
        chunk_bytes: how much is collected before it is made safe.

    Raises:
        UserError: the disk is full or the folder cannot be written. Rows that are safe stay; the same call goes on.
    """
    path = Path(path)
    work = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_one(path.with_name(f".{path.name}.lock")):
            if path.exists():
                return
            writer = _Writer(work, {"source": source, "settings": settings or {}}, chunk_bytes)
            safe = writer.index["rows"]
            try:
                with writer, progress(path.name, total, done=safe, unit=unit, advice=advice) as advance:
                    for row in rows(safe):
                        writer.add(row)
                        advance(1)
                    writer.finish()
            except (UserError, OSError):
                if not writer.index["rows"] or not (work / "index.json").is_file():  # nothing to go on from
                    shutil.rmtree(work, ignore_errors=True)
                raise
            os.rename(work, path)
            with suppress(OSError):  # not every file system can synchronise folders
                flush(path.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            kept = f"what is done is kept in {work}" if work.exists() else "nothing of it is kept"
            raise UserError(
                f"The disk is full: {path} could not be finished; {kept}. "
                "Free some space and run the same command again to go on."
            ) from error
        raise UserError(f"{path} cannot be written: {error.strerror or error} ({error.filename}).") from error


class _Writer:
    """The partial store: appends rows in chunks and notes after each how many are safe."""

    def __init__(self, work: Path, origin: dict[str, Any], chunk_bytes: int):
        self.work = work
        self.chunk_bytes = chunk_bytes
        self.pending: list[Row] = []
        self.pending_bytes = 0
        self.files: dict[str, BinaryIO] = {}
        self.stack = ExitStack()
        # through JSON and back, so that it compares equal to what was saved
        self.index = json.loads(
            json.dumps({"format": FORMAT, "version": VERSION, "complete": False, "rows": 0, "fields": {}, **origin})
        )
        if saved := self._continued():
            self.index = {**saved, "complete": False}
        elif work.exists():
            for file in (*work.glob("*.npy"), *work.glob("index.json*")):
                file.unlink()
        work.mkdir(exist_ok=True)

    def _continued(self) -> dict[str, Any]:
        """What a killed preparation of the same thing noted, or nothing if there is none to go on from."""
        try:
            saved = read_index(self.work)
        except UserError:
            return {}
        same = all(saved.get(key) == self.index[key] for key in ("source", "settings"))
        safe = all(
            (self.work / f"{name}.npy").is_file()
            and (self.work / f"{name}.npy").stat().st_size >= _file_bytes(field, saved["rows"])
            for name, field in saved["fields"].items()
        )
        return saved if same and safe else {}

    def __enter__(self) -> "_Writer":
        for name, field in self.index["fields"].items():
            file = self._open(name)
            file.truncate(_file_bytes(field, self.index["rows"]))  # drops an unfinished chunk
            file.seek(0, os.SEEK_END)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    def _open(self, name: str) -> BinaryIO:
        file = self.work / f"{name}.npy"
        self.files[name] = self.stack.enter_context(file.open("r+b" if file.exists() else "w+b"))
        return self.files[name]

    def add(self, row: Row) -> None:
        if not self.index["fields"]:
            for name, value in row.items():
                field = {"dtype": value.dtype.str, "shape": list(value.shape), "crc32c": 0}
                self.index["fields"][name] = field
                self._open(name).write(_header(field, 0))
        self.pending.append(
            {name: np.array(value, order="C") for name, value in row.items()}
        )  # a view would keep its record
        self.pending_bytes += sum(value.nbytes for value in row.values())
        if self.pending_bytes >= self.chunk_bytes:
            self.flush()

    def flush(self) -> None:
        """Make the pending rows safe: first the data, then the note that they are there."""
        for name, field in self.index["fields"].items():
            if self.pending:
                values = np.stack([row[name] for row in self.pending])
                assert (values.dtype.str, list(values.shape[1:])) == (field["dtype"], field["shape"]), name
                field["crc32c"] = _extend_crc(field["crc32c"], values)
                self.files[name].write(values.data)
            self.files[name].flush()
            os.fsync(self.files[name].fileno())
        self.index["rows"] += len(self.pending)
        self.pending, self.pending_bytes = [], 0
        self._save_index()

    def finish(self) -> None:
        """Write the number of rows into every header and mark the store complete."""
        self.flush()
        if self.index["rows"] == 0:
            raise UserError(f"There is nothing to prepare for {self.work.parent}: the source holds no image.")
        for name, field in self.index["fields"].items():
            self.files[name].seek(0)
            self.files[name].write(_header(field, self.index["rows"]))
            self.files[name].flush()
            os.fsync(self.files[name].fileno())
        self.index["complete"] = True
        self._save_index()

    def _save_index(self) -> None:
        beside = self.work / "index.json.new"
        with beside.open("w") as file:
            json.dump(self.index, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self.work / "index.json")
        with suppress(OSError):
            flush(self.work)


def _header(field: dict[str, Any], rows: int) -> bytes:
    """The beginning of a .npy file. NumPy leaves room for any number of rows, so its length does not change."""
    buffer = BytesIO()
    shape = (rows, *field["shape"])
    np.lib.format.write_array_header_1_0(buffer, {"descr": field["dtype"], "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _file_bytes(field: dict[str, Any], rows: int) -> int:
    return len(_header(field, rows)) + rows * math.prod(field["shape"]) * np.dtype(field["dtype"]).itemsize


def _extend_crc(crc: int, values: np.ndarray) -> int:
    return google_crc32c.extend(crc, np.ascontiguousarray(values).reshape(-1).view(np.uint8))


def read_index(path: Place) -> dict[str, Any]:
    """Read and check `index.json`: what it says about rows and fields can be relied on afterwards."""
    file = path / "index.json"
    if not path.is_dir():
        raise UserError(f"{path} is not a folder with a prepared store; run `slotworks data prepare` first.")
    try:
        index = read_json(file.read_text(encoding="utf-8"))
        if index["format"] != FORMAT or not isinstance(index["complete"], bool):
            raise ValueError("not the index of a store")
        if index["version"] != VERSION:
            raise UserError(
                f"{path} has the layout of version {quote(index['version'])}, this program reads version {VERSION}; "
                "delete the folder and prepare it again."
            )
        _check_count(index["rows"], 0)
        if not isinstance(index["source"], dict):
            raise ValueError("it does not say what it was made from")
        for name, field in index["fields"].items():
            if not name.isidentifier() or np.dtype(field["dtype"]).kind not in "buif":
                raise ValueError(f"field {name!r} of type {field['dtype']!r}")
            for length in field["shape"]:
                _check_count(length, 1)
            _check_count(field["crc32c"], 0)
    except FileNotFoundError as error:
        raise UserError(f"{path} holds no index.json and so is not a prepared store.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({quote(error)}); delete {path} and prepare it again.") from error
    return index


def _check_count(value: object, least: int) -> None:
    if type(value) is not int or not least <= value < 1 << 48:
        raise ValueError(f"{value!r} is not a count")


def _open_field(path: Place, name: str, field: dict[str, Any], rows: int) -> Any:
    """Map one field into memory after checking that the file is as long and of the kind the index says."""
    file = path / f"{name}.npy"
    again = f"delete {path} and prepare it again."
    try:
        size = file.stat().st_size
        if size != _file_bytes(field, rows):
            raise UserError(f"{file} has {size:,} bytes, expected {_file_bytes(field, rows):,}; {again}")
        if isinstance(file, RemotePath):
            return RemoteArray(file, np.dtype(field["dtype"]), (rows, *field["shape"]))
        array = np.lib.format.open_memmap(file, mode="r")  # takes no more memory than the file is long
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; {again}") from error
    except HEADER_DAMAGE as error:
        raise UserError(f"{file} is damaged ({error}); {again}") from error
    if array.dtype != np.dtype(field["dtype"]) or array.shape != (rows, *field["shape"]):
        raise UserError(f"{file} is damaged: it holds {array.dtype} {array.shape}, not what index.json says; {again}")
    return np.asarray(array)
