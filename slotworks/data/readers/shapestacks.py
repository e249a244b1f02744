"""ShapeStacks (Groth et al. 2018, arXiv 1804.08018): towers of two to six blocks, each seen by several cameras."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from slotworks.data.readers.multi_object_datasets import count_objects
from slotworks.data.readers.photos import Entry, MaskedPhotos, Schema, names_in, pictures_in
from slotworks.data.stores.prepared import CatalogRow
from slotworks.data.stores.shrink import Crop, Interpolation
from slotworks.data.stores.store import Row
from slotworks.images import open_picture, read_image, reading
from slotworks.types import UserError

PAGE = "https://shapestacks.robots.ox.ac.uk"
MAX_OBJECTS = 6
SIDE, CROP_SIZE = 224, 196
LABEL_STEP = 32  # object k of a map has the value 32 k
_CAMERA = re.compile(r"rgb-.*-cam_(\d+)-mono-0\.png")


class View(NamedTuple):
    """A picture of a scenario and the map of its objects."""

    file: Path
    objects: Path


@dataclass(frozen=True)
class ShapeStacks(MaskedPhotos):
    """ShapeStacks in one of its official splits, cut to the middle 196 of 224 pixels as in GENESIS and GENESIS-V2.

    Expected below `root`: `recordings/SCENARIO/rgb-...-cam_1-mono-0.png`, the lists `splits/default/train.txt`,
    `eval.txt` and `test.txt` of scenarios, and for masks `iseg/SCENARIO/iseg-...-cam_1-mono-0.map`. Without the folder
    `iseg` there are no masks. Images are made small by Pillow. Beside `image`: `mask`, and `num_objects` with a pixel.
    """

    root: str = "data/shapestacks"  # folder of the official files, and of what is prepared from them
    image_size: int = 96  # pixels, square
    mask_size: int = 96  # pixels, square; masks may be larger than images
    crop: Crop = "whole"  # which part of a picture is seen
    flip: bool = False  # mirror training images left to right at random
    interpolation: Interpolation = "bilinear"  # of the images when they are resized
    lists_name: str = "default"  # of the split: default, blocks_all or ccs_all

    official_splits: ClassVar[dict[str, str]] = {"train": "train", "val": "eval", "test": "test"}

    @property
    def name(self) -> str:
        """`shapestacks`."""
        return "shapestacks"

    @property
    def max_objects(self) -> int | None:
        """Six."""
        return MAX_OBJECTS

    def store_name(self, split: str) -> str:
        """Also says which lists, and whether there are masks."""
        lists = "" if self.lists_name == "default" else f"-{self.lists_name}"
        return super().store_name(split) + lists

    def has_masks(self, split: str) -> bool:
        """Whether the store of an official split holds masks."""
        return super().has_masks(split) and (Path(self.root) / "iseg").is_dir()

    def folder(self, split: str) -> Path:
        """`recordings`."""
        return Path(self.root) / "recordings"

    def file(self, entry: Entry) -> Path:
        """The picture of a view."""
        return entry.file

    def origin(self, file: Path) -> str:
        """The page of ShapeStacks."""
        return f"get recordings, splits and iseg from {PAGE} and unpack them in {self.root}"

    def lists(self, split: str) -> Sequence[Path]:
        """The list of scenarios."""
        return [Path(self.root) / "splits" / self.lists_name / f"{split}.txt"]

    def entries(self, split: str) -> tuple[Sequence[Entry], list[str]]:
        """Every view of every scenario of the split, in the order of the list, then by name."""
        file = self.lists(split)[0]
        views = []
        for scenario in names_in(file, self.origin(file)):
            folder = self.folder(split) / scenario
            if not folder.is_dir():
                raise UserError(f"{folder} is missing, which {file} lists; {self.origin(folder)}.")
            for picture in pictures_in(folder, "-mono-0.png"):
                if match := _CAMERA.fullmatch(picture.name):
                    name = f"iseg-w=0-f=0-l=0-c=original-cam_{match[1]}-mono-0.map"
                    views.append(View(picture, Path(self.root) / "iseg" / scenario / name))
        return views, []

    def read(self, split: str, entry: Entry) -> Image.Image:
        """The middle of a picture."""
        return _middle(read_image(entry.file, upright=False), entry.file)

    def schema(self, split: str, entries: Sequence[Entry]) -> Schema:
        """`mask` and `num_objects`, where there are masks."""
        if not self.has_masks(split):
            return {}
        return {"mask": (np.uint8, self.mask_shape(split)), "num_objects": (np.uint8, ())}

    def labels(self, split: str, entry: Entry, size: tuple[int, int]) -> Row:
        """The objects of a view."""
        if not self.has_masks(split):
            return {}
        if not entry.objects.is_file():
            raise UserError(f"{entry.objects} is missing; {self.origin(entry.objects)}.")
        file = entry.objects
        with reading(file, otherwise="unpack it again"), open_picture(file, formats=["PNG"]) as opened:
            values = np.asarray(_middle(opened, file))
        values = values if values.ndim == 2 else values[..., 0]
        if values.dtype != np.uint8 or (values % LABEL_STEP).any() or values.max() > MAX_OBJECTS * LABEL_STEP:
            raise UserError(
                f"{entry.objects} has other values than 0, 32, ... {MAX_OBJECTS * LABEL_STEP}; it is no map of objects."
            )
        mask = self.mask_picker(split, size)(values // LABEL_STEP)
        return {"mask": mask, "num_objects": count_objects(mask)}


def _middle(picture: Image.Image, file: Path) -> Image.Image:
    if picture.size != (SIDE, SIDE):
        raise UserError(
            f"{file} has {picture.width} x {picture.height} pixels, expected {SIDE} x {SIDE}; unpack it again."
        )
    start = (SIDE - CROP_SIZE) // 2
    return picture.crop((start, start, start + CROP_SIZE, start + CROP_SIZE))


ROWS = (
    CatalogRow(
        ShapeStacks,
        disk="0.03 MB for each image",
        splits="the official lists train, eval (val) and test, every camera of every scenario",
        background="floor and walls",
        overlaps="a pixel belongs to the visible block",
        files=("recordings", "splits", "iseg"),
        origin=PAGE,
    ),
)
