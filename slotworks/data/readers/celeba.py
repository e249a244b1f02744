"""CelebA (Liu et al. 2015): 202,599 aligned portraits with 40 attributes and without masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from slotworks.data.readers.photos import Entry, Photos, Schema
from slotworks.data.stores.prepared import CatalogRow
from slotworks.data.stores.shrink import Crop, Interpolation
from slotworks.data.stores.store import Row
from slotworks.types import UserError

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
PARTITION, ATTRIBUTES = "list_eval_partition.txt", "list_attr_celeba.txt"
OFFICIAL_IMAGES = {"train": 162_770, "val": 19_867, "test": 19_962}
NUM_ATTRIBUTES = 40


class Portrait(NamedTuple):
    """A line of the partition, and of the attributes if they are there."""

    file: Path
    attributes: tuple[bool, ...]


@dataclass(frozen=True)
class CelebA(Photos):
    """CelebA in its official splits, for reconstruction and generation.

    As in SlotDiffusion the whole picture of 178 x 218 pixels is squeezed to 128 x 128. The files may lie in `root` or
    in `root/celeba`. There are no masks. `attributes`, bool `b 40` in the order of `list_attr_celeba.txt`, is there if
    that file is.
    """

    root: str = "data/celeba"  # folder of the official files, and of what is prepared from them
    image_size: int = 128  # pixels, square
    crop: Crop = "whole"  # which part of a picture is seen
    flip: bool = False  # mirror training images left to right at random
    interpolation: Interpolation = "bilinear"  # of the images when they are resized

    official_splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}

    @property
    def name(self) -> str:
        """`celeba`."""
        return "celeba"

    @property
    def base(self) -> Path:
        """Where the lists are."""
        root = Path(self.root)
        return root / "celeba" if (root / "celeba").is_dir() else root

    def store_name(self, split: str) -> str:
        """Also says whether there are attributes."""
        return super().store_name(split) + ("-attributes" if self.lists(split)[1:] else "")

    def folder(self, split: str) -> Path:
        """`img_align_celeba`."""
        folder = self.base / "img_align_celeba"
        return inner if (inner := folder / folder.name).is_dir() else folder

    def file(self, entry: Entry) -> Path:
        """The picture of an entry."""
        return entry.file

    def lists(self, split: str) -> Sequence[Path]:
        """The partition and the attributes, if they are there."""
        return [file for file in (self.base / PARTITION, self.base / ATTRIBUTES) if file.is_file()]

    def origin(self, file: Path) -> str:
        """The page of CelebA."""
        what = file.name if file.suffix == ".txt" else "img_align_celeba.zip (1.4 GB)"
        return f"get {what} from {PAGE} and put it into {self.base}"

    def count_officially(self, split: str) -> int | None:
        """162,770, 19,867 and 19,962."""
        return OFFICIAL_IMAGES[split]

    def entries(self, split: str) -> tuple[Sequence[Entry], list[str]]:
        """Lines of the partition that belong to the split."""
        number = str(list(OFFICIAL_IMAGES).index(split))
        partition = self.base / PARTITION
        names = []
        for words in self._lines(partition):
            if len(words) != 2 or words[1] not in ("0", "1", "2") or Path(words[0]).name != words[0]:
                raise UserError(f"{partition} has the line {' '.join(words)[:50]!r}, expected a name and 0, 1 or 2.")
            if words[1] == number:
                names.append(words[0])
        attributes = self._attributes()
        if attributes and (lost := next((name for name in names if name not in attributes), None)):
            raise UserError(
                f"{self.base / ATTRIBUTES} says nothing about {lost}; {self.origin(self.base / ATTRIBUTES)}."
            )
        entries = [Portrait(self.folder(split) / name, attributes.get(name, ())) for name in names]
        official = OFFICIAL_IMAGES[split]
        notes = [f"{partition} lists {len(names):,} images of {split} instead of {official:,}."]
        return entries, notes if len(names) != official else []

    def schema(self, split: str, entries: Sequence[Entry]) -> Schema:
        """Attributes, if they are known."""
        return {"attributes": (np.bool_, (NUM_ATTRIBUTES,))} if entries[0].attributes else {}

    def labels(self, split: str, entry: Entry, size: tuple[int, int]) -> Row:
        """Attributes."""
        return {"attributes": np.asarray(entry.attributes)} if entry.attributes else {}

    def _attributes(self) -> dict[str, tuple[bool, ...]]:
        file = self.base / ATTRIBUTES
        if not file.is_file():
            return {}
        found = {}
        for words in self._lines(file)[2:]:  # below the number of images and the names of the attributes
            if len(words) != NUM_ATTRIBUTES + 1 or not set(words[1:]) <= {"1", "-1"}:
                raise UserError(f"{file} has the line {' '.join(words)[:50]!r}, expected a name and 40 times 1 or -1.")
            found[words[0]] = tuple(word == "1" for word in words[1:])
        return found

    def _lines(self, file: Path) -> list[list[str]]:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError as error:
            raise UserError(f"{file} is missing; {self.origin(file)}.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read ({error}); {self.origin(file)}.") from error
        return [words for line in lines if (words := line.split())]


ROWS = (
    CatalogRow(
        CelebA,
        download="1.4 GB",
        disk="10.0 GB",
        licence="non-commercial research only; see source",
        splits="train 162,770, val 19,867, test 19,962",
        files=("img_align_celeba", PARTITION),
        origin=PAGE,
    ),
)
