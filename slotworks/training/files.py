"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from slotworks.types import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success it reaches the disk and takes the place of `path`.

    If writing fails, for example because the disk is full, the partial file is removed and `path` stays as it was.

    Raises:
        UserError: if the disk refuses.
    """
    beside = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)  # the rename itself
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        kept = "the file that was there is untouched" if path.exists() else "nothing was there before"
        raise UserError(f"{path} could not be written ({_reason(error)}); {kept}.") from None
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all.

    Raises:
        UserError: if the disk refuses.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the process ends, however it does
        except BlockingIOError:
            raise UserError(
                f"Another process is training in {folder}; wait for it, or choose another folder."
            ) from None
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


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
