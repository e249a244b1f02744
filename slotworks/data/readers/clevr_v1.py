"""CLEVR v1.0 (Johnson et al. 2017, arXiv 1612.06890): images and what stands in them, without masks. Set prediction."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from slotworks.data.readers.clevr_with_masks import resize
from slotworks.data.sets import encode_objects
from slotworks.data.stores.prepared import CatalogRow, PreparedData, fingerprint, take
from slotworks.data.stores.store import Row, Store
from slotworks.errors import quote
from slotworks.images import open_picture, reading
from slotworks.types import RawBatch, UserError

PAGE = "https://cs.stanford.edu/people/jcjohns/clevr/"
HEIGHT, WIDTH = 320, 480
MAX_OBJECTS = 10
OFFICIAL_IMAGES = {"train": 70_000, "val": 15_000}  # the official test images come without scenes
COORDINATE_RANGE = (-3.0, 3.0)

# Classes in the order of the one-hots, which is that of TensorFlow Datasets; numbers in the store count from 1.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "size": ("small", "large"),
    "material": ("rubber", "metal"),
    "shape": ("cube", "sphere", "cylinder"),
    "color": ("gray", "blue", "brown", "yellow", "red", "green", "purple", "cyan"),
}


@dataclass(frozen=True)
class CLEVRv1(PreparedData):
    """Images and scenes of CLEVR v1.0: CLEVR10 (`max_objects=10`, the default) or CLEVR6 for set prediction.

    The whole picture of 320 x 480 pixels is squeezed to `image_size` squared, bilinear without antialiasing, as in the
    released code of Slot Attention, and rounded to 8 bits. Every `max_objects` uses the same store.

    Splits: val is the first `val_size` of the official training images, as in that code, train the others, test the
    official validation images; each filtered to scenes of at most `max_objects` objects.

    Fields of a batch beside `image`: `objects`, `max_objects` rows of 19 numbers (see `slotworks.data.sets`), the
    position (x, y, z) moved from [-3, 3] to [0, 1]; per object, in the order of the scene file, `coords` (as in the
    file), `rotation` (degrees), `pixel_coords` (column, row, depth in the whole picture), `size`, `material`, `shape`,
    `color` (integers from 1, see CATEGORIES; 0 where there is none); `num_objects`.
    """

    root: str = "data/clevr"  # folder of the official files, and of what is prepared from them
    image_size: int = 128  # pixels, square
    max_objects: int = MAX_OBJECTS  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    """most objects in one scene"""
    val_size: int = 512  # images of the validation split

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.image_size <= HEIGHT:
            raise ValueError(f"image_size is {self.image_size}; expected 1 to {HEIGHT} pixels.")
        if not 3 <= self.max_objects <= MAX_OBJECTS:
            raise ValueError(f"max_objects is {self.max_objects}; scenes hold 3 to {MAX_OBJECTS} objects.")

    @property
    def name(self) -> str:
        """`clevr_v1`, or `clevr_v1_6` for at most six objects."""
        return "clevr_v1" if self.max_objects == MAX_OBJECTS else f"clevr_v1_{self.max_objects}"

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """Properties and their classes, in the order of the one-hots."""
        return CATEGORIES

    @property
    def official(self) -> Path:
        """The unpacked archive."""
        return Path(self.root) / "CLEVR_v1.0"

    @property
    def store_name(self) -> str:
        """Depends on the size; every `max_objects` uses the same store."""
        return f"clevr_v1-{self.image_size}"

    @property
    def num_images(self) -> int | None:
        """Training and validation images of the official set."""
        return sum(OFFICIAL_IMAGES.values())

    @property
    def settings(self) -> dict[str, Any]:
        """Interpolation, and the names behind the numbers."""
        return {"image": "squeezed, bilinear, no antialiasing", "names_from_1": CATEGORIES}

    def scenes_file(self, official_split: str) -> Path:
        """The scenes of `train` or `val`."""
        return self.official / "scenes" / f"CLEVR_{official_split}_scenes.json"

    def source(self) -> dict[str, Any]:
        """Fingerprints of the two scene files; raises UserError if one is missing."""
        for split in OFFICIAL_IMAGES:
            if not self.scenes_file(split).is_file():
                raise UserError(
                    f"{self.scenes_file(split)} is missing; get CLEVR_v1.0.zip (18 GB) from {PAGE} and unpack it in "
                    f"{self.root}."
                )
        return {split: fingerprint(self.scenes_file(split)) for split in OFFICIAL_IMAGES}

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row per image: the official training images in the order of their file, then those of validation."""
        scenes = [(k, scene) for k, split in enumerate(OFFICIAL_IMAGES) for scene in self._scenes(split)]
        for k, scene in scenes[start:]:
            split = list(OFFICIAL_IMAGES)[k]
            row = _properties(scene, self.scenes_file(split))
            image = _open_image(self.official / "images" / split / row.pop("file"))
            yield {"image": resize(image, self.image_size), "official_split": np.asarray(k, np.uint8), **row}

    def split_rows(self, store: Store, split: str) -> np.ndarray:
        """Rows by official split, filtered by the number of objects."""
        official = np.asarray(store.arrays["official_split"])
        few = np.asarray(store.arrays["num_objects"]) <= self.max_objects
        training, testing = np.flatnonzero(official == 0), np.flatnonzero(official == 1)
        if split == "test":
            rows = testing
        elif split == "val":
            rows = take(training, 0, self.val_size, store=store, split=split)
        else:
            rows = take(training, self.val_size, max(len(training), self.val_size), store=store, split=split)
        rows = rows[few[rows]]
        return take(rows, 0, len(rows), store=store, split=split)

    def open(self, split: str = "train") -> "CLEVRv1Split":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open one split: `train`, `val` or `test`. The first call prepares the store."""
        return CLEVRv1Split(super().open(split), self.max_objects)

    def _scenes(self, split: str) -> Sequence[dict[str, Any]]:
        file = self.scenes_file(split)
        try:
            scenes = json.loads(file.read_bytes())["scenes"]
            return [dict(scene) for scene in scenes]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(
                f"{file} is damaged or not a scene file of CLEVR ({quote(error)}); unpack it again."
            ) from error


@dataclass(frozen=True)
class CLEVRv1Split:
    """Rows of a prepared store with their objects as vectors."""

    store: Store
    max_objects: int
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: CATEGORIES)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> RawBatch:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> RawBatch:
        batch = self.store.__getitems__(list(indices))
        per_object = {name: batch[name][:, : self.max_objects] for name in self.categories}
        low, high = COORDINATE_RANGE
        coordinates = (batch["coords"][:, : self.max_objects] - low) / (high - low)
        present = np.arange(self.max_objects) < batch["num_objects"][:, None]
        return {**batch, "objects": encode_objects(coordinates, per_object, self.categories, present)}


def _properties(scene: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What a scene file says about one image, object `k` in row `k`."""
    row: dict[str, Any] = {
        "coords": np.zeros((MAX_OBJECTS, 3), np.float32),
        "pixel_coords": np.zeros((MAX_OBJECTS, 3), np.float32),
        "rotation": np.zeros(MAX_OBJECTS, np.float32),
        **{name: np.zeros(MAX_OBJECTS, np.uint8) for name in CATEGORIES},
    }
    try:
        row["file"] = str(scene["image_filename"])
        if Path(row["file"]).name != row["file"]:
            raise ValueError(f"{row['file']} is no plain file name")
        row["num_objects"] = np.asarray(len(scene["objects"]), np.uint8)
        for k, item in enumerate(scene["objects"]):
            row["coords"][k], row["pixel_coords"][k] = item["3d_coords"], item["pixel_coords"]
            row["rotation"][k] = item["rotation"]
            for name, classes in CATEGORIES.items():
                row[name][k] = classes.index(item[name]) + 1
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise UserError(f"{file} holds a scene that is not one of CLEVR ({quote(error)}); unpack it again.") from error
    return row


def _open_image(file: Path) -> np.ndarray:
    """Decode a picture, which must have the size of the official ones."""
    if not file.is_file():
        raise UserError(f"{file} is missing; unpack CLEVR_v1.0.zip of {PAGE} again.")
    with reading(file, otherwise="unpack it again"), open_picture(file, formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("RGB")) if image.size == (WIDTH, HEIGHT) else None
    if pixels is None:
        raise UserError(
            f"{file} has {image.width} x {image.height} pixels, expected {WIDTH} x {HEIGHT}; unpack it again."
        )
    return pixels


ROWS = tuple(
    CatalogRow(
        partial(CLEVRv1, max_objects=max_objects),
        download="18 GB",
        disk="4.2 GB (both together)",
        licence="CC BY 4.0",
        splits=f"scenes of at most {max_objects} objects: train from 69,488, val from 512 of the training images, test "
        "from the 15,000 validation images",
        files=("CLEVR_v1.0",),
        origin=PAGE,
    )
    for max_objects in (10, 6)
)
