"""A folder of own pictures, with or without masks, classes and captions."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import google_crc32c
import numpy as np
from jaxtyping import Integer

from slotworks.data.readers.marks import (
    MAX_CAPTION,
    VOID,
    Marked,
    Marks,
    MarksFault,
    fill,
    is_wide,
    look_at,
    read_ids,
    read_outlines,
)
from slotworks.data.readers.photos import Entry, MaskedPhotos, PhotoSplit, Schema, say
from slotworks.data.stores.prepared import PreparedData, prepared_folder
from slotworks.data.stores.store import Row, Store
from slotworks.images import find_images, read_image
from slotworks.types import UserError

FEW = 15  # below it the usual tenths leave one picture each for validation and test


@dataclass(frozen=True)
class Pictures(MaskedPhotos):
    """Every picture below a folder, of any size and kind, and the masks, classes and captions that lie with them.

    What is recognised says `slotworks.data.readers.marks`. Folders `train`, `val` and `test` (also `valid`, ...) and
    VOC's lists are respected. Otherwise which split a picture belongs to follows from its name alone: pictures are put
    in an order that looks random, the first go to val, the next to test, the rest to train; of three pictures or more
    each split gets one, of two val and test share one. Where only some have masks, val and test are taken from those.
    The store is made for the files that are there: after adding or changing some, the next `open` makes a new one
    beside the old.

    Fields of a batch beside `image`, where there are masks: `mask` (ids from 1 in each picture, 0 is background; of
    several people's that of the one with the fewest segments), `annotators` `a h w` (each one's ids, zeros where fewer
    marked this picture), `class_mask` and `class_mask_highest`, `overlap` (pixels of several objects), `void`; and
    `caption`, UTF-8 bytes with zeros behind. Where the last of several outlines or files of objects owns shared pixels.
    """

    root: str = "data/pictures"
    val_fraction: float = 0.1  # share of the pictures for validation
    test_fraction: float = 0.1  # share of the pictures for tests; 1 with no val_fraction: all

    official_splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    reads_marks: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        whole = self.test_fraction == 1 and self.val_fraction == 0
        if min(self.val_fraction, self.test_fraction) < 0 or (
            self.val_fraction + self.test_fraction >= 1 and not whole
        ):
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

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each id from 1 on; empty where nobody named classes."""
        return self.marked.class_names

    @property
    def scored_split(self) -> str:
        """The split to score where none is named: test, or val in a folder that has no folder test."""
        there = {*self.marked.splits.values()}
        return "val" if there and "test" not in there else "test"

    @cached_property
    def marked(self) -> Marked:
        """The pictures of all splits and what is known about them, as they were when this was first asked for.

        Raises:
            UserError: there is no folder, or no picture in it.
        """
        if not Path(self.root).is_dir():
            raise UserError(f"{self.root} is not a folder; give one with pictures.")
        if self.reads_marks:
            return look_at(Path(self.root))
        found, notes = find_images([Path(self.root)])
        return Marked(found, notes=notes)

    def has_masks(self, split: str) -> bool:
        """Whether masks of this split are prepared, and there are some."""
        return super().has_masks(split) and self._with_marks[split]

    @cached_property
    def _with_marks(self) -> dict[str, bool]:
        marks = self.marked.marks
        return {split: any(file in marks for file in self._chosen(split)) for split in self.official_splits}

    def part(self, split: str) -> PreparedData:
        """The store of a split; beside the pictures, or below `data` where their folder is not to be written to."""
        if split not in self.official_splits:
            return super().part(split)
        return OwnSplit(self.root, replace(self), split)  # a copy looks at the folder anew

    def parts(self) -> Sequence[PreparedData]:
        """One for each split that has a picture."""
        return [self.part(split) for split in self.official_splits if replace(self)._chosen(split)]

    def store_name(self, split: str) -> str:
        """Also depends on the names, sizes and times of change of the pictures and of what is read beside them."""
        crc, pictures = 0, self.entries(split)[0]
        files = list(pictures)
        if self.has_masks(split):
            marked = self.marked
            more = {file for picture in pictures if picture in marked.marks for file in marked.marks[picture].files}
            files += sorted({*more, *marked.tables})
        elif self.reads_marks and self.marked.captions:
            files += self.marked.tables
        for file in files:
            stat = file.stat()
            known = f"{os.path.relpath(file, self.root)}\n{stat.st_size}\n{stat.st_mtime_ns}\n"
            crc = google_crc32c.extend(crc, known.encode("utf-8", "surrogateescape"))
        return f"{super().store_name(split)}-{crc:08x}"

    def open(self, split: str = "train") -> Store:
        """Open one split; says how few pictures are shared out."""
        dataset = super().open(split)
        marked = replace(self).marked
        count = len(marked.pictures) if split == "train" and self.splits_all and not marked.splits else FEW
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

    def skips(self, error: UserError) -> bool:
        """Also pictures whose masks cannot be used; the others go on."""
        if isinstance(error, MarksFault):
            say(str(error))
        return super().skips(error) or isinstance(error, MarksFault)

    @property
    def skipping(self) -> str:
        """Own pictures are prepared when training begins."""
        return "set skip_damaged (`slotworks train ... --data.skip-damaged`)"

    def origin(self, file: Path) -> str:
        """The user's own."""
        return "put your pictures there"

    def entries(self, split: str) -> tuple[Sequence[Entry], list[str]]:
        """The pictures of a split, by name."""
        found = self.marked
        chosen, notes = self._chosen(split), list(found.notes)
        if not chosen and found.splits:
            raise UserError(
                f"{self.root} has no picture in a folder of the split {split!r}; add some, or take another."
            )
        if not chosen and len(found.pictures) == 1:
            raise UserError(
                f"{self.root} holds one picture; training needs two or more, one to learn from and one to look at."
            )
        if not chosen:
            raise UserError(
                f"{self.root} holds {len(found.pictures)} pictures, of which none goes to the split {split!r}; add "
                f"pictures, or raise {split}_fraction."
            )
        if self.reads_marks and (self.train_masks or split != "train"):
            marked = [file for file in chosen if file in found.marks]
            if 0 < len(marked) < len(chosen):
                without = sorted({*chosen} - {*marked})
                notes.append(
                    f"Of the {len(chosen):,} pictures of the split {split} in {self.root} {len(marked):,} have masks; "
                    f"only these are in it. Without: {', '.join(file.name for file in without[:2])}"
                    + (f" and {len(without) - 2:,} more." if len(without) > 2 else ".")
                )
                chosen = marked
        return sorted(chosen), notes

    def _chosen(self, split: str) -> list[Path]:
        """The pictures of a split in any order, also those without masks."""
        found = self.marked
        if found.splits:
            others = {"val": "test", "test": "val"}
            there = {*found.splits.values()}
            wanted = split if split in there else others.get(split, split)
            return [file for file in found.pictures if found.splits.get(file) == wanted]
        pictures = found.pictures
        if self.test_fraction == 1:
            return list(pictures) if split == "test" else []
        order = sorted(pictures, key=self._lot)
        most = max(0, len(pictures) - 1) // 2  # val and test may take this many each
        val, test = (
            min(max(1, math.floor(f * len(pictures) + 0.5)), most) if f else 0
            for f in (self.val_fraction, self.test_fraction)
        )
        if self.reads_marks and 0 < (count := sum(file in found.marks for file in order)) < len(order):
            order.sort(key=lambda file: file not in found.marks)  # stable: those with masks first
            val, test = min(val, (count + 1) // 2), min(test, max(1, count // 2)) if test else 0
        if len(pictures) == 2 and self.splits_all:
            return order[1:] if split == "train" else order[:1]
        return {"val": order[:val], "test": order[val : val + test], "train": order[val + test :]}[split]

    def _lot(self, file: Path) -> tuple[int, Path]:
        return google_crc32c.value(str(file.relative_to(self.root)).encode("utf-8", "surrogateescape")), file

    def read(self, split: str, entry: Entry):
        """The picture: upright, or as it is stored where its masks are of the stored pixels."""
        marks = self.marked.marks.get(entry) if self.has_masks(split) else None
        if marks is None:
            return super().read(split, entry)
        return read_image(entry, needed=self.image_size, stated_size=marks.size, upright=False)

    def schema(self, split: str, entries: Sequence[Entry]) -> Schema:
        """Maps as the marks of this split need them, and captions."""
        found, known = self.marked, Schema()
        captions = [len(self._caption(entry)) for entry in entries] if self.reads_marks else []
        if max(captions, default=0):
            known["caption"] = (np.uint8, (max(captions),))
        if not self.has_masks(split):
            return known
        shape = self.mask_shape(split)
        marks = [found.marks[entry] for entry in entries if entry in found.marks]
        wide = any(len(one.outlines) > 255 or len(one.objects) > 255 for one in marks)
        number = np.int16 if wide or any(is_wide(file) for one in marks for file in one.people) else np.uint8
        known["mask"] = (number, shape)
        if (most := max(len(one.people) for one in marks)) > 1:
            known["annotators"] = (number, (most, *shape))
        if found.class_names:
            kind = np.uint8 if len(found.class_names) <= 255 else np.int16
            known |= {"class_mask": (kind, shape), "class_mask_highest": (kind, shape)}
        if any(one.outlines or one.objects for one in marks):
            known["overlap"] = (np.bool_, shape)
        if found.void:
            known["void"] = (np.bool_, shape)
        return known

    def labels(self, split: str, entry: Entry, size: tuple[int, int]) -> Row:
        """The marks of one picture as maps; raises MarksFault for what cannot be used."""
        found = self.marked
        row: Row = {"caption": np.frombuffer(self._caption(entry), np.uint8)} if self.reads_marks else {}
        marks = found.marks.get(entry) if self.has_masks(split) else None
        if marks is None:
            return row
        pick = self.mask_picker(split, marks.size)
        if marks.people:
            maps = [read_ids(file) for file in marks.people]
            void = maps[0] == VOID if found.void else None
            maps = [np.where(ids == VOID, 0, ids) if found.void else ids for ids in maps]
            counts = [len(np.unique(ids)) for ids in maps]
            maps = [_renumbered(pick(ids)) for ids in maps]
            row["mask"] = maps[counts.index(min(counts))]
            row["annotators"] = np.stack(maps)
            if void is not None:
                row["void"] = pick(void)
            classes = pick(read_ids(marks.classes)) if marks.classes else None
        else:
            painted = self._paint(marks, pick)
            classes = None
            row |= painted
        if found.class_names:
            own = row.pop("class_of", None)
            if classes is not None:
                row["class_mask"] = np.where(classes == VOID, 0, classes)
            elif own is not None:
                row["class_mask"] = own[row["mask"]]
            elif name := found.picture_classes.get(entry):
                row["class_mask"] = (row["mask"] > 0) * (found.class_names.index(name) + 1)
            if "class_mask" in row:
                row.setdefault("class_mask_highest", row["class_mask"])
        row.pop("class_of", None)
        return row

    def _paint(self, marks: Marks, pick) -> Row:
        """Objects one over the other: outlines, or a file each."""
        outlines = read_outlines(marks)
        shapes = (fill(outline, marks) for outline in outlines) if outlines else map(read_ids, marks.objects)
        ids = {name: number for number, name in enumerate(self.class_names, 1)}
        class_of = np.array([0, *(ids[str(outline["class"])] for outline in outlines)])
        mask = highest = overlap = None
        for k, shape in enumerate(shapes, 1):
            own = pick(shape) != 0
            if mask is None or highest is None or overlap is None:
                mask, highest, overlap = (np.zeros(own.shape, kind) for kind in (np.int32, np.int32, np.bool_))
            overlap |= own & (mask != 0)
            mask[own] = k
            if outlines:
                highest[own] = np.maximum(highest[own], class_of[k])
        if mask is None or overlap is None:  # somebody looked and found nothing
            return {}
        row: Row = {"mask": mask, "overlap": overlap}
        return row | ({"class_of": class_of, "class_mask_highest": highest} if outlines else {})

    def _caption(self, entry: Entry) -> bytes:
        text = self.marked.captions.get(entry, "").encode("utf-8", "replace")[:MAX_CAPTION]
        return text.decode("utf-8", "ignore").encode()  # no half of a letter at the end


class OwnSplit(PhotoSplit):
    """The store of one split of own pictures."""

    @property
    def store_path(self) -> Path:
        """Below the pictures; where their folder is not to be written to, below `data/prepared` here."""
        return prepared_folder(Path(self.root)) / self.store_name


def _renumbered(ids: Integer[np.ndarray, "h w"]) -> Integer[np.ndarray, "h w"]:
    """The ids that are there as 1, 2, 3, ... in their order; 0 stays."""
    there = np.unique(ids)
    there = there[there > 0]
    if len(there) > np.iinfo(np.int16).max:
        raise MarksFault(f"A mask has {len(there):,} ids; at most {np.iinfo(np.int16).max:,} are kept.")
    return np.where(ids > 0, np.searchsorted(there, ids) + 1, 0)
