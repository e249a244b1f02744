"""Data sets that come as official files and are prepared once into a store."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from slotworks.data.store import Row, Store, write_store
from slotworks.types import DataConfig, UserError

SPLITS = ("train", "val", "test")
FINGERPRINT_BYTES = 1 << 20


@dataclass(frozen=True)
class PreparedData(DataConfig):
    """A data set below `root`: official files, and the store made from them in `root/prepared/`.

    A data set says what its store is called, how the official files are read and which rows belong to a split. Once
    the store is complete, the official files are not needed any more.
    """

    root: str

    @property
    def store_name(self) -> str:
        """Name of the prepared store: holds every setting that changes the stored values."""
        raise NotImplementedError

    @property
    def store_path(self) -> Path:
        """Folder of the prepared store."""
        return Path(self.root) / "prepared" / self.store_name

    @property
    def settings(self) -> dict[str, Any]:
        """How official values become stored ones; saved in the store's index."""
        return {}

    @property
    def num_images(self) -> int | None:
        """How many images are prepared, for the progress bar; None if unknown."""
        return None

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

    def prepare(self) -> Path:
        """Make the store from the official files if it is not there, and return its folder. Can be killed and repeated.

        Raises:
            UserError: official files are missing or damaged, or the disk is full.
        """
        if not self.store_path.exists():
            write_store(self.store_path, self.rows, source=self.source(), settings=self.settings, total=self.num_images)
        return self.store_path

    def open(self, split: str = "train") -> Store:
        """Open one split: `train`, `val` or `test`. The first call prepares the store.

        Raises:
            UserError: official files are missing or damaged, or hold fewer images than the split needs.
            ValueError: there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
        store = Store(self.prepare())
        return store.select(self.split_rows(store, split))


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
