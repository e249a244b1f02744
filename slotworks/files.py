"""Files are written beside and renamed: whoever reads one sees the old content or the new, never half of it."""

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slotworks.errors import QUOTE, UserError, shorten


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success it reaches the disk and takes the place of `path`.

    If writing fails, for example because the disk is full, the partial file is removed and `path` stays as it was.

    Raises:
        UserError: if the disk refuses.
    """
    path = Path(path)
    beside = path.with_name(f".partial.{path.name}")  # the same name every time: a killed process leaves one at most
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)  # the rename itself
    except OSError as error:
        kept = "the file that was there is untouched" if path.exists() else "nothing was there before"
        raise UserError(f"{path} could not be written ({error.strerror or error}); {kept}.") from None
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> Path:
    """Write text in UTF-8, whole or not at all.

    Raises:
        UserError: if the disk refuses.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return Path(path)


def check_writable(folder: Path | str) -> None:
    """Refuse a folder in which nothing could be written, before the work whose results belong there; changes nothing.

    Raises:
        UserError: saying why.
    """
    place = Path(folder)
    try:
        while True:
            try:
                place.lstat()
                break
            except FileNotFoundError:  # it will be made: what counts is the folder that it will be made in
                place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(4096))  # a full disk lets an empty file through
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{shorten(str(folder), QUOTE)} cannot be written to ({reason}); choose another place."
        ) from None


def finite(value: Any) -> Any:
    """The same value for JSON: NaN and infinity, which it cannot hold, become null, however deep."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def locked(folder: Path, *, doing: str = "training") -> Iterator[None]:
    """Hold the folder for this process: two trainings in one folder would mix their files.

    Raises:
        UserError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("a") as file:
        try:  # the system lets go when the process ends, however it does
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another process is {doing} in {folder}; wait for it, or choose another.") from None
        except OSError:  # a file system without locks
            pass
        yield


def _flush(path: Path) -> None:
    if os.name == "nt":  # cannot open a folder, nor flush a file opened to read
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
