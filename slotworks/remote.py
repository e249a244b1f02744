"""Folders and files at a URL that fsspec opens: `s3://bucket/folder`, `gs://`, `hf://`, `memory://`.

A `RemotePath` has what is used of a `Path`, so that code for one serves the other. Files are written on this machine,
sent beside their place and renamed; whole files are read through a cache on this disk that stays below `CACHE_BYTES`.
"""

import fnmatch
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from slotworks.errors import DISK_FULL, UserError, needs_extra, shorten

PARTIAL = ".partial."
BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "az")  # have no folders; making one would make a bucket that is missing
CACHE_BYTES = 20 << 30  # of whole files; SLOTWORKS_CACHE_BYTES in the environment says another number


class Size(NamedTuple):
    """Of a file, by the name that `Path.stat` uses."""

    st_size: int


class RemotePath:
    """A file or folder at a URL."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        with needs_extra("remote"):
            from fsspec.core import url_to_fs

            with _telling(url):
                self.fs, self.path = url_to_fs(self.url)

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"RemotePath({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __lt__(self, other: "RemotePath") -> bool:
        return self.url < other.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    def __reduce__(self) -> tuple[type["RemotePath"], tuple[str]]:
        return type(self), (self.url,)

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        """The folder."""
        return RemotePath(self.url.rpartition("/")[0])

    def exists(self) -> bool:
        """Whether a file, or a folder with something in it, is there."""
        with _telling(self.url):
            self.fs.invalidate_cache()  # others write, too
            return self.fs.exists(self.path)

    def is_file(self) -> bool:
        """Whether it is a file."""
        with _telling(self.url):
            return self.fs.isfile(self.path)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        with _telling(self.url):
            return self.fs.isdir(self.path)

    def glob(self, pattern: str) -> "Iterator[RemotePath]":
        """Files of the folder whose name fits."""
        with _telling(self.url):
            self.fs.invalidate_cache()
            found = self.fs.ls(self.path, detail=False) if self.fs.isdir(self.path) else []
        names = (path.rstrip("/").rpartition("/")[2] for path in found)
        return (self / name for name in sorted(names) if fnmatch.fnmatchcase(name, pattern))

    def stat(self) -> Size:
        """The size."""
        with _telling(self.url):
            return Size(self.fs.size(self.path))

    def mkdir(self, **options: Any) -> None:
        """Folders come with their files."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        with suppress(FileNotFoundError) if missing_ok else _telling(self.url):
            self.fs.rm_file(self.path)

    def open_bytes(self) -> Any:
        """The file for reading, of which only what is asked for travels."""
        with _telling(self.url):
            return self.fs.open(self.path, "rb")

    def read_bytes(self) -> bytes:
        """All of a small file; `FileNotFoundError` as of a local one."""
        with _telling(self.url):
            return self.fs.cat_file(self.path)

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of a small file as text."""
        return self.read_bytes().decode(encoding)

    def read_ranges(self, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
        """Pieces of the file, at the same time where the storage can."""
        with _telling(self.url):
            return self.fs.cat_ranges([self.path] * len(starts), list(starts), list(stops), on_error="raise")

    def put(self, file: Path) -> None:
        """Let a local file take this place, whole or not at all.

        Raises:
            UserError: the storage refuses.
        """
        beside = f"{self.path.rpartition('/')[0]}/{PARTIAL}{self.name}"
        with _telling(self.url, doing="written"):
            try:
                if self.url.partition("://")[0] not in BUCKETS:
                    self.fs.makedirs(self.path.rpartition("/")[0], exist_ok=True)
                self.fs.put_file(str(file), beside)
                self.fs.mv(beside, self.path)
            except BaseException:
                with suppress(OSError, NotImplementedError):
                    self.fs.rm_file(beside)
                raise

    def local(self) -> Path:
        """A copy of the whole file on this disk, as it is now; used longest ago, copies are deleted to make room.

        Raises:
            UserError: the storage refuses, or this disk does.
        """
        with _telling(self.url):
            self.fs.invalidate_cache()
            known = f"{self.url} {self.fs.ukey(self.path)}"
            size = self.fs.size(self.path) or 0
        place = cache_folder() / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}-{self.name}"
        if place.exists():
            _used(place)
            return place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            make_room(place.parent, size)
            handle, beside = tempfile.mkstemp(prefix=PARTIAL, dir=place.parent)
            os.close(handle)
        except OSError as error:
            raise _no_copy(self.url, error) from None
        try:
            with _telling(self.url):
                try:
                    self.fs.get_file(self.path, beside)
                except OSError as error:
                    if error.errno in DISK_FULL:  # storages have errors of their own
                        raise _no_copy(self.url, error) from None
                    raise
            Path(beside).replace(place)
            _used(place)
        finally:
            Path(beside).unlink(missing_ok=True)
        return place


Place = Path | RemotePath


def as_place(name: "str | Path | RemotePath") -> Place:
    """A folder or file by its name: of this machine, or at a URL.

    >>> as_place("data/generated").name
    'generated'
    """
    if isinstance(name, RemotePath):
        return name
    return RemotePath(str(name)) if is_url(name) else Path(name)


def is_url(name: object) -> bool:
    """Whether this names a place that fsspec opens.

    >>> is_url("s3://bucket/folder"), is_url("runs/mine"), is_url("zoo:glass-painted")
    (True, False, False)
    """
    return isinstance(name, RemotePath) or "://" in str(name)


@contextmanager
def written_at(path: RemotePath) -> Iterator[Path]:
    """A local file to write to, which is then sent.

    Raises:
        UserError: the disk or the storage refuses.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="slotworks-") as folder:
            file = Path(folder) / path.name
            yield file
            path.put(file)
    except OSError as error:
        raise UserError(
            f"{path} could not be written: before it is sent it lies in {tempfile.tempdir or 'a temporary folder'} "
            f"({_reason(error)}); make room there, or let TMPDIR name another folder. What is finished stays, and the "
            "same command goes on."
        ) from None


def check_writable_url(folder: RemotePath) -> None:
    """Refuse a place where nothing could be written, before the work whose results belong there.

    Raises:
        UserError: saying why.
    """
    trial = folder / f"{PARTIAL}trial-{os.getpid()}"
    with written_at(trial) as file:
        file.write_bytes(b"may this be written?")
    with suppress(OSError):
        trial.unlink()


def cache_folder() -> Path:
    """Where copies of whole files lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slotworks" / "remote"


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)  # pyarrow has words of its own for it


def _no_copy(url: str, error: OSError) -> UserError:
    return UserError(
        f"{url} could not be copied to {cache_folder()} ({_reason(error)}); make room there, let XDG_CACHE_HOME name "
        "another folder, or SLOTWORKS_CACHE_BYTES a smaller number of bytes. The same command goes on."
    )


def _limit() -> int:
    """Bytes of whole files that the cache may hold.

    Raises:
        UserError: the environment says something else than a number.
    """
    said = os.environ.get("SLOTWORKS_CACHE_BYTES") or str(CACHE_BYTES)
    if not said.isdecimal():
        raise UserError(f"SLOTWORKS_CACHE_BYTES is {said}; expected a number of bytes, such as {CACHE_BYTES}.")
    return int(said)


def _used(copy: Path) -> None:
    """Note that it was used now: the times that file systems note themselves may lie milliseconds back."""
    now = time.time_ns()
    os.utime(copy, ns=(now, now))


def make_room(folder: Path, size: int) -> None:
    """Delete the copies that were used longest ago, until one of this size fits below the limit.

    Raises:
        UserError: the limit is no number.
    """
    limit = _limit()
    copies = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in folder.iterdir())
    total = size + sum(bytes_ for _, bytes_, _ in copies)
    for _, bytes_, path in copies:
        if total <= limit:
            return
        with suppress(OSError):  # another process was first
            path.unlink()
        total -= bytes_


@contextmanager
def _telling(url: str, doing: str = "opened") -> Iterator[None]:
    """What storages refuse, each by errors of its own library, in one sentence."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        if doing == "opened":  # a file that may be absent is the caller's affair
            raise
        raise UserError(f"{url} could not be {doing} ({str(error).rstrip('.')}); make the bucket first.") from None
    except ImportError as error:
        raise UserError(f"{url} needs a library that is not installed: {error}") from None
    except Exception as error:
        reason = shorten(" ".join(str(error).split()), 300).rstrip(".") or type(error).__name__
        raise UserError(
            f"{url} could not be {doing} ({reason}); check the address, your rights there and that there is room. What "
            "is finished stays, and the same command goes on."
        ) from None
