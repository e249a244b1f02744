"""Data sets that come as official files and are prepared once into a store."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c
import numpy as np

from slotworks import progress
from slotworks.data.stores.store import Row, Store, read_index, write_store
from slotworks.remote import RemotePath, as_place
from slotworks.types import DataConfig, Dataset, UserError

SPLITS = ("train", "val", "test")
FINGERPRINT_BYTES = 1 << 20
WORKERS = min(8, os.cpu_count() or 1)  # Pillow decodes and resizes without holding Python's lock

T, R = TypeVar("T"), TypeVar("R")


@dataclass(frozen=True)
class OfficialData(DataConfig):
    """A data set below `root`: official files, and what is made from them in `root/prepared/`."""

    root: str

    def parts(self) -> "Sequence[PreparedData]":
        """One for each prepared store."""
        raise NotImplementedError

    def part(self, split: str) -> "PreparedData":
        """The one that holds this split."""
        raise NotImplementedError

    def prepare(self) -> Path:
        """Make every store from the official files if it is not there. Can be killed and repeated.

        Returns:
            The store's folder; the last one's if there are several.

        Raises:
            UserError: official files are missing or damaged, or the disk is full.
        """
        return [part.prepare() for part in self.parts()][-1]

    def open(self, split: str = "train") -> Store:
        """Open one split: `train`, `val` or `test`. The first call prepares its store.

        Raises:
            UserError: official files are missing or damaged, or hold fewer images than the split needs.
            ValueError: there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
        part = self.part(split)
        store = Store(part.prepare())
        return store.select(part.split_rows(store, split))

    def preview(self) -> Dataset:
        """The prepared training split.

        Raises:
            UserError: it is not prepared, or its official files are missing.
        """
        part = self.part("train")
        if not part.store_path.exists():
            part.source()  # names an official file that is missing
            raise UserError(
                f"{part.store_path} is not there yet and a trial writes nothing; training prepares it, as does "
                "`slotworks data prepare` for official files."
            )
        return self.open("train")


@dataclass(frozen=True)
class PreparedData(OfficialData):
    """One prepared store, which for most data sets holds all splits.

    A data set says what its store is called, how the official files are read and which rows belong to a split. Once
    the store is complete, the official files are not needed any more. While they are there, a store that was made from
    others is not opened.
    """

    def parts(self) -> "Sequence[PreparedData]":
        """Itself: one store holds all splits."""
        return [self]

    def part(self, split: str) -> "PreparedData":
        """Itself: one store holds all splits."""
        return self

    @property
    def official(self) -> Path:
        """The official file, or the folder of them."""
        return Path(self.root)

    @property
    def store_name(self) -> str:
        """Name of the prepared store: holds every setting that changes the stored values."""
        raise NotImplementedError

    @property
    def store_path(self) -> Any:
        """Folder of the prepared store, a `Path`; or a `RemotePath`, where the root is a URL."""
        return as_place(self.root) / "prepared" / self.store_name

    @property
    def settings(self) -> dict[str, Any]:
        """How official values become stored ones; saved in the store's index."""
        return {}

    @property
    def num_images(self) -> int | None:
        """How many images are prepared, for the progress bar; None if unknown."""
        return None

    @property
    def official_images(self) -> int | None:
        """How many the complete official files hold; None if unknown."""
        return self.num_images

    def source(self) -> dict[str, Any]:
        """Name, size and fingerprint of the official files.

        Raises:
            UserError: a file is missing; says which, where it comes from and how large it is.
        """
        raise NotImplementedError

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Images and properties from the official files, from row `start`; raises UserError at a damaged one."""
        raise NotImplementedError

    def split_rows(self, store: Store, split: str) -> np.ndarray:
        """The row numbers of a split; raises UserError if the store holds too few."""
        raise NotImplementedError

    def prepare(self) -> Any:
        """Make the store from the official files if it is not there, and return its folder. Can be killed and repeated.

        Raises:
            UserError: official files are missing or damaged, or the disk is full.
        """
        if isinstance(self.store_path, RemotePath):
            if not (self.store_path / "index.json").is_file():
                raise UserError(
                    f"{self.store_path} is no prepared store; prepare it in a folder of this machine, and send it with "
                    "`slotworks data prepare NAME --root FOLDER --send URL`."
                )
        elif self.store_path.exists():
            self.check_current()
        else:
            write_store(self.store_path, self.rows, source=self.source(), settings=self.settings, total=self.num_images)
        rows, complete = read_index(self.store_path)["rows"], self.official_images
        if complete is not None and rows != complete:
            say(f"{self.store_path} holds {rows:,} images; the complete official files have {complete:,}.")
        return self.store_path

    def check_current(self) -> None:
        """Whether the store was made from the official files that lie there now; gone, they are not asked for.

        Raises:
            UserError: says what is different and what to do.
        """
        noted = read_index(self.store_path)["source"]
        if not self.official.exists():
            return
        try:
            found = self.same_source(noted)
        except UserError:  # deleted after preparing, as one may
            return
        if changed := [name for name, value in found.items() if name in noted and noted[name] != value]:
            what = "; ".join(f"{name.replace('_', ' ')}: {noted[name]} then, {found[name]} now" for name in changed[:4])
            raise UserError(
                f"{self.store_path} was made from other files than those that lie in {self.official} now "
                f"({what[:300]}). Delete or rename this folder to prepare it anew, or put the files back that it was "
                "made from."
            )

    def same_source(self, noted: dict[str, Any]) -> dict[str, Any]:
        """`source`, or as much of it as tells whether what was `noted` still holds; as JSON gives it back."""
        return json.loads(json.dumps(self.source()))

    def examine(self) -> "Examined":
        """Read and decode all official files; does not change anything.

        Raises:
            UserError: there is nothing that could be read, as from `source`.
        """
        try:
            return Examined(sum(1 for _ in self.rows()))
        except UserError as error:
            return Examined(0, [(self.official, str(error))])


@dataclass(frozen=True)
class CatalogRow:
    """One data set as `slotworks data list` prints it; `config` takes `root` and the options of the data set."""

    config: Callable[..., OfficialData]
    _: KW_ONLY
    download: str = "see source"  # size of the official files
    disk: str  # size of the prepared store with default settings
    licence: str = "see source"
    splits: str
    background: str = "there are no masks"  # what mask value 0 means
    overlaps: str = "there are no masks"  # what the mask says where objects hide each other
    files: tuple[str, ...]  # expected below the data set's root
    origin: str

    @property
    def name(self) -> str:
        """The data set's."""
        return self.config().name

    @property
    def folder(self) -> str:
        """The folder below a common root: the last part of the default root."""
        return Path(self.config().root).name


@dataclass(frozen=True)
class Examined:
    """What reading all official files of a store found."""

    num_images: int  # that could be read
    faults: Sequence[tuple[Path, str]] = ()  # files that could not, each with a sentence
    notes: Sequence[str] = ()  # what is unusual but not wrong


@cache
def say(sentence: str) -> None:
    """Print a sentence to standard error, once in a process."""
    progress.say(sentence)


def prepared_folder(root: Path) -> Path:
    """`root/prepared`; where a user's folder is not to be written to, one of its own below `data/prepared` here."""
    inside = root / "prepared"
    if inside.is_dir() or (os.access(root, os.W_OK) and root.stat().st_mode & 0o222):
        return inside
    whole = google_crc32c.value(os.fsencode(root.resolve()))
    return Path("data/prepared") / f"{root.resolve().name}-{whole:08x}"


def fingerprint(path: Path) -> dict[str, Any]:
    """Name, size and CRC-32C of the first and last MiB of a file: tells two files apart without reading all."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            crc = google_crc32c.value(file.read(FINGERPRINT_BYTES))
            file.seek(max(0, size - FINGERPRINT_BYTES))
            crc = google_crc32c.extend(crc, file.read())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    return {"name": path.name, "bytes": size, "crc32c_of_ends": crc}


def take(rows: np.ndarray, start: int, stop: int, *, store: Store, split: str) -> np.ndarray:
    """`rows[start:stop]`, which must not be empty and must all be there."""
    if start >= stop:
        raise UserError(f"The split {split!r} of {store.path} is empty; choose a larger size for it.")
    if stop > len(rows):
        raise UserError(
            f"The split {split!r} needs {stop:,} images of {store.path}, but {len(rows):,} fit; choose a smaller "
            "train_size, test_size or val_size, or prepare the complete official files."
        )
    return rows[start:stop]


def in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`map` in several threads: results in the order of the items, computed only a little ahead of their use."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[R]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
