"""What Tetrominoes, Multi-dSprites and CLEVR with masks share: files of `multi_object_datasets` (Kabra et al. 2019).

Each is one GZIP compressed TFRecord file without splits. A record holds an image, one mask of 0 and 255 per entity
(entity 0 is the background, absent entities have an empty mask) and properties per entity.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from slotworks.data.readers.tfrecord import Example, read_examples
from slotworks.data.stores.prepared import PreparedData, fingerprint, take
from slotworks.data.stores.store import Row, Store
from slotworks.types import UserError

BUCKET = "https://storage.googleapis.com/multi-object-datasets"
LICENCE = "see source (its repository is under Apache-2.0; nothing is said about the data)"


@dataclass(frozen=True)
class MultiObjectFile(PreparedData):
    """A data set of one TFRecord file. Splits are ranges of records: train, then test, then val.

    Only the records of the splits are prepared, or all of them where `prepares_all` is true.
    """

    prepares_all: ClassVar[bool] = False

    train_size: int = 60_000  # images of the training split
    test_size: int = 320  # images of the test split
    val_size: int = 320  # images of the validation split

    @property
    def remote_file(self) -> str:
        """Where the file lies in the bucket."""
        raise NotImplementedError

    @property
    def download_size(self) -> str:
        """Size of the official file as its authors state it."""
        raise NotImplementedError

    @property
    def official_file(self) -> Path:
        """Where the file is expected."""
        return Path(self.root) / Path(self.remote_file).name

    @property
    def official(self) -> Path:
        """The same."""
        return self.official_file

    @property
    def num_images(self) -> int | None:
        """The records of all splits."""
        return self.train_size + self.test_size + self.val_size

    def decode(self, example: Example) -> Row:
        """One record as stored values."""
        raise NotImplementedError

    def source(self) -> dict[str, Any]:
        """Name, size and fingerprint of the official file; raises UserError if it is missing."""
        if not self.official_file.is_file():
            raise UserError(
                f"{self.official_file} is missing ({self.download_size}). Get it from {BUCKET}/{self.remote_file} "
                f"and put it there."
            )
        return fingerprint(self.official_file)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row per record; raises UserError if the file ends before the splits are complete."""
        wanted = None if self.prepares_all else self.train_size + self.test_size + self.val_size
        count = start
        for example in islice(read_examples(self.official_file, start=start), wanted and wanted - start):
            yield self.decode(example)
            count += 1
        if wanted and count < wanted:
            raise UserError(
                f"{self.official_file} holds {count:,} records, but train_size + test_size + val_size = {wanted:,}; "
                "choose smaller sizes or get the complete official file."
            )

    def split_rows(self, store: Store, split: str) -> np.ndarray:
        """Consecutive records: first train, then test, then val."""
        test, val = self.train_size, self.train_size + self.test_size
        start, stop = {"train": (0, test), "test": (test, val), "val": (val, val + self.val_size)}[split]
        return take(np.arange(len(store)), start, stop, store=store, split=split)


def labels(masks: UInt8[np.ndarray, "m h w"]) -> UInt8[np.ndarray, "h w"]:
    """One integer mask from one mask per entity: the number of the entity a pixel belongs to, 0 for the background."""
    return masks.argmax(axis=0).astype(np.uint8)


def count_objects(mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, ""]:
    """How many objects have at least one pixel."""
    return np.asarray(np.count_nonzero(np.bincount(mask.reshape(-1))[1:]), np.uint8)
