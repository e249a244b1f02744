"""A folder of own pictures, to train on without labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import google_crc32c

from slotworks.data.readers.photos import Entry, Photos, say
from slotworks.data.stores.store import Store
from slotworks.images import find_images
from slotworks.types import UserError

FEW = 15  # below it the usual tenths leave one picture each for validation and test


@dataclass(frozen=True)
class Pictures(Photos):
    """Every picture below a folder, of any size and kind. There are no masks.

    Which split a picture belongs to follows from its name alone: pictures are put in an order that looks random, the
    first go to val, the next to test, the rest to train; of three pictures or more each split gets one, of two val and
    test share one. The store is made for the pictures that are there: after adding or changing some, the next `open`
    makes a new one beside the old.
    """

    root: str = "data/pictures"
    val_fraction: float = 0.1  # share of the pictures for validation
    test_fraction: float = 0.1  # share of the pictures for tests

    official_splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}

    def __post_init__(self):
        super().__post_init__()
        if min(self.val_fraction, self.test_fraction) < 0 or self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction is {self.val_fraction} and test_fraction {self.test_fraction}; expected numbers from 0 "
                "that leave something to train on."
            )

    @property
    def splits_all(self) -> bool:
        """Whether some pictures shall go to val and some to test."""
        return self.val_fraction > 0 and self.test_fraction > 0

    @property
    def name(self) -> str:
        """`pictures`."""
        return "pictures"

    def store_name(self, split: str) -> str:
        """Also depends on the names, sizes and times of change of the pictures."""
        crc = 0
        for file in self.entries(split)[0]:
            stat = file.stat()
            known = f"{file.relative_to(self.root)}\n{stat.st_size}\n{stat.st_mtime_ns}\n"
            crc = google_crc32c.extend(crc, known.encode("utf-8", "surrogateescape"))
        return f"{super().store_name(split)}-{crc:08x}"

    def open(self, split: str = "train") -> Store:
        """Open one split; says how few pictures are shared out."""
        dataset = super().open(split)
        count = len(find_images([Path(self.root)])[0]) if split == "train" and self.splits_all else FEW
        if 1 < count < FEW:
            say(
                f"{self.root} holds {count} pictures: {len(dataset)} to train on, and for validation and test "
                + ("the other one, the same for both." if count == 2 else "one each at least.")
                + " So few show that the training runs, not what it finds."
            )
        return dataset

    def folder(self, split: str) -> Path:
        """The folder itself."""
        return Path(self.root)

    @property
    def skipping(self) -> str:
        """Own pictures are prepared when training begins."""
        return "set skip_damaged (`slotworks train ... --data.skip-damaged`)"

    def origin(self, file: Path) -> str:
        """The user's own."""
        return "put your pictures there"

    def entries(self, split: str) -> tuple[Sequence[Entry], list[str]]:
        """The pictures of a split, by name."""
        if not Path(self.root).is_dir():
            raise UserError(f"{self.root} is not a folder; give one with pictures.")
        found, notes = find_images([Path(self.root)])
        order = sorted(found, key=self._lot)
        most = max(0, len(found) - 1) // 2  # val and test may take this many each
        val, test = (
            min(max(1, math.floor(f * len(found) + 0.5)), most) if f else 0
            for f in (self.val_fraction, self.test_fraction)
        )
        chosen = {"val": order[:val], "test": order[val : val + test], "train": order[val + test :]}[split]
        if len(found) == 2 and self.splits_all:
            chosen = order[1:] if split == "train" else order[:1]
        if len(found) == 1 and not chosen:
            raise UserError(
                f"{self.root} holds one picture; training needs two or more, one to learn from and one to look at."
            )
        if not chosen:
            raise UserError(
                f"{self.root} holds {len(found)} pictures, of which none goes to the split {split!r}; add pictures, or "
                f"raise {split}_fraction."
            )
        return sorted(chosen), notes

    def _lot(self, file: Path) -> tuple[int, Path]:
        return google_crc32c.value(str(file.relative_to(self.root)).encode("utf-8", "surrogateescape")), file
