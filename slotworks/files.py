"""Files are written beside and renamed: whoever reads one sees the old content or the new, never half of it."""

import math
import os
import re
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from slotworks.errors import QUOTE, UserError, shorten
from slotworks.remote import PARTIAL as PARTIAL
from slotworks.remote import Place, RemotePath, as_place, check_writable_url, written_at

T = TypeVar("T")


@contextmanager
def replacing(path: Place | str) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success it reaches the disk and takes the place of `path`.

    If writing fails, for example because the disk is full, the partial file is removed and `path` stays as it was. The
    file gets the permissions that the umask leaves, whatever the library that writes it prefers.

    Raises:
        UserError: if the disk refuses.
    """
    path = as_place(path)
    if isinstance(path, RemotePath):
        with written_at(path) as file, _SystemErrors():
            yield file
        return
    beside = path.with_name(f"{PARTIAL}{path.name}")  # the same name every time: a killed process leaves one at most
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.unlink(missing_ok=True)
            beside.touch()
            mode = beside.stat().st_mode
            with _SystemErrors():
                yield beside
            beside.chmod(mode)
            flush(beside)
            beside.replace(path)
            flush(path.parent)  # the rename itself
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
    except OSError as error:
        kept = "the file that was there is untouched" if os.path.lexists(path) else "nothing was there before"
        raise UserError(f"{path} could not be written ({error.strerror or error}); {kept}.") from None


class _SystemErrors:
    """Libraries in Rust (safetensors, tokenizers) say in an error of their own what the system refused."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        stated = None if isinstance(error, OSError) else re.search(r"\(os error (\d+)\)", str(error))
        if stated:
            number = int(stated[1])
            raise OSError(number, os.strerror(number)) from error


@contextmanager
def folder_beside(folder: Path | str) -> Iterator[Path]:
    """Gives an empty folder beside `folder` to write to; it is removed at the end, with what was not moved elsewhere.

    Raises:
        UserError: if the disk refuses.
    """
    folder = Path(folder)
    beside = folder.with_name(f"{PARTIAL}{folder.name}")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        with _SystemErrors():
            yield beside
    except OSError as error:
        raise UserError(f"{folder} could not be written ({error.strerror or error}).") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def replacing_tree(folder: Path | str) -> Iterator[Path]:
    """Like `replacing` for a library that writes a folder of files: each takes its place whole; others there stay.

    Raises:
        UserError: if the disk refuses.
    """
    with folder_beside(folder) as beside:
        yield beside
        for file in sorted(path for path in beside.rglob("*") if path.is_file()):
            with replacing(Path(folder) / file.relative_to(beside)) as place:
                file.replace(place)


def same_file(source: Path, path: Path) -> None:
    """Let `path` be the same file as `source`, or a copy where the file system knows no links.

    Only for files that are replaced and never changed in place.

    Raises:
        UserError: if the disk refuses.
    """
    with replacing(path) as beside:
        beside.unlink()
        try:
            os.link(source, beside)
        except OSError:
            shutil.copyfile(source, beside)


def write_text(path: Path | str, text: str) -> Path:
    """Write text in UTF-8, whole or not at all.

    Raises:
        UserError: if the disk refuses.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return Path(path)


def check_writable(folder: Place | str) -> None:
    """Refuse a folder in which nothing could be written, before the work whose results belong there; changes nothing.

    Raises:
        UserError: saying why.
    """
    place = as_place(folder)
    if isinstance(place, RemotePath):
        return check_writable_url(place)
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
def locked(folder: Path | str, *, doing: str = "training", name: str = ".lock") -> Iterator[None]:
    """Hold the folder for this process: two trainings in one folder would mix their files.

    The folder is made if it is missing, and removed again if nothing was written into it. The lock ends with the
    process, however that ends.

    Raises:
        UserError: if another process holds it, or the disk refuses.
    """
    folder = Path(folder)
    fresh = [parent for parent in (folder, *folder.parents) if not parent.exists()]  # the innermost first
    try:
        file = _lock(folder / name, f"Another process is {doing} in {folder}; wait for it, or choose another folder.")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror or error}).") from None
    with file:
        try:
            yield
        finally:
            with suppress(OSError):
                (folder / name).unlink()  # while the lock is held
                for parent in fresh:
                    parent.rmdir()  # refused if anything was written


def _opened(lock: Path) -> IO[str]:
    while True:
        try:
            return lock.open("w")
        except FileNotFoundError:  # whoever was done with the folder took it away
            lock.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def only_one(lock: Path, *, wait: bool = True) -> Iterator[bool]:
    """One process at a time: with several GPUs, every process opens the data set. The lock ends with its process.

    Gives whether this process holds the lock: always, unless it does not `wait`.
    """
    with _opened(lock) as file:
        held = True
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        except (ImportError, OSError):  # Windows, and file systems without locks
            pass
        yield held


class Claims(Generic[T]):
    """Pieces of work that several processes share: each takes what is neither done nor in another's hands.

    A claim is a lock, which ends with its process, so a dead process's piece is taken by one that lives. Where a file
    system has no locks, a piece may be made twice, of which the last takes its place.

    Args:
        items: of all processes.
        claim: of a piece, such as `only_one(file, wait=False)`; gives whether it was to be had.
        done: whether a piece needs no work any more; asked for one that was claimed.
        listed: pieces that are known to be done, such as a listing of their folder gives at once; some may be missing.
        first: which piece this process looks at first, so that processes do not all begin with the same one.
    """

    PAUSES = (0.1, 30.0)  # seconds between looks at what others have in their hands, ever longer

    def __init__(
        self,
        items: Sequence[T],
        claim: Callable[[T], AbstractContextManager[bool]],
        done: Callable[[T], bool],
        listed: Callable[[], Container[T]] = tuple,
        first: int = 0,
    ):
        self.waiting = deque([*items[first:], *items[:first]])  # what may be left to do, for all that is known
        self.closed = False  # set it, and `take` of another thread ends
        self._claim, self._done, self._listed = claim, done, listed
        self._held: dict[T, AbstractContextManager[bool]] = {}

    def look(self) -> T | None:
        """Once around: a piece, which is this process's until `release`; None if the others have all that is left."""
        finished = self._listed()
        for _ in range(len(self.waiting)):
            item = self.waiting.popleft()
            if item in finished:
                continue
            claim = self._claim(item)
            mine = claim.__enter__()
            if mine and not self._done(item):
                self._held[item] = claim
                return item
            claim.__exit__(None, None, None)
            if not mine:
                self.waiting.append(item)
        return None

    def take(self) -> T | None:
        """A piece as `look` gives it, as soon as there is one; None once all are done, or at the end."""
        pause, most = self.PAUSES
        while not self.closed:
            item = self.look()
            if item is not None or not self.waiting:
                return item
            time.sleep(pause)
            pause = min(most, 2 * pause)
        return None

    def release(self, item: T) -> None:
        """Done with it, or not."""
        self._held.pop(item).__exit__(None, None, None)

    def close(self) -> None:
        """Release all."""
        self.closed = True
        for item in list(self._held):
            self.release(item)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left half written in a folder. To be called while the folder is locked."""
    for path in folder.glob(f"{PARTIAL}*"):
        with suppress(OSError):
            path.unlink()


def _lock(path: Path, refusal: str) -> IO[str]:
    """The file, open and locked until it is closed, where locks are known.

    Raises:
        UserError: with the text, if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return path.open("a")
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(refusal) from None
        except OSError:  # a file system without locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its holder removed it: this lock is of a file that nobody else will see


def flush(path: Path) -> None:
    """Let a file or the entries of a folder reach the disk."""
    if os.name == "nt":  # cannot open a folder, nor flush a file opened to read
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seed_folders(folder: Path) -> list[Path]:
    """The run folders of `--seeds`, in the order of the seeds, or the run folder itself."""
    seeds = {int(found[1]): path for path in folder.glob("seed*") if (found := re.fullmatch(r"seed(\d+)", path.name))}
    trained = [seeds[seed] for seed in sorted(seeds) if (seeds[seed] / "run.yaml").is_file()]
    return [folder] if (folder / "run.yaml").is_file() or not trained else trained
