"""CLEVR with masks (Kabra et al. 2019; Johnson et al. 2017): rendered scenes of 3 to 10 objects. CLEVR6 and CLEVR10."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8

from slotworks.data.readers.multi_object_datasets import BUCKET, LICENCE, MultiObjectFile, count_objects, labels
from slotworks.data.readers.tfrecord import Example
from slotworks.data.stores.prepared import CatalogRow, take
from slotworks.data.stores.store import Row, Store

NUM_ENTITIES = 11
HEIGHT, WIDTH = 240, 320
CROP_TOP, CROP_LEFT, CROP_SIZE = (
    29,
    64,
    192,
)  # Locatello et al. 2020, supplement (which swaps the words width and height)


@dataclass(frozen=True)
class CLEVR(MultiObjectFile):
    """Object discovery on CLEVR6 (`max_objects=6`, the default) or CLEVR10 (`max_objects=10`), Locatello et al. 2020.

    Images are cropped to rows 29 to 220 and columns 64 to 255 and made `image_size` pixels wide. The whole official
    file is prepared once; both use the same store.

    Splits: train is what remains of the first `train_size` records with at most `max_objects` objects, test the next
    `test_size` such scenes, val the `val_size` after them. The number of objects is that of the whole scene, before the
    crop. Filters on `sum(visibility) <= 6` that are found elsewhere keep at most five objects, because `visibility`
    counts the background.

    Interpolation: bilinear without antialiasing for images, as `tf.image.resize` of TensorFlow 2 does by default, and
    rounded to 8 bits, which moves a value by at most 1/510; nearest with the pixel-centre rule for masks.

    Fields of a batch beside `image` and `mask`, per entity with the background first: `x`, `y`, `z`, `rotation`,
    `pixel_coords` (in the uncropped 240x320 image), `size`, `material`, `shape`, `color` (integers, 0 for
    none; which number is which colour is not documented), `visibility`; `num_objects`, the objects with at least one
    pixel in the stored mask; `scene_objects`, those of the whole scene.
    """

    prepares_all: ClassVar[bool] = True

    root: str = "data/clevr_with_masks"  # folder of the official files, and of what is prepared from them
    train_size: int = 70_000  # images of the training split
    max_objects: int = 6  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    """most objects in one scene"""
    image_size: int = 128  # pixels, square

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.image_size <= CROP_SIZE:
            raise ValueError(f"image_size is {self.image_size}; expected 1 to {CROP_SIZE} pixels.")
        if self.max_objects < 3:
            raise ValueError(f"max_objects is {self.max_objects}; every scene has at least 3 objects.")

    @property
    def name(self) -> str:
        """`clevr6` and `clevr10` are the usual ones."""
        return f"clevr{self.max_objects}"

    @property
    def remote_file(self) -> str:
        """One file for CLEVR6 and CLEVR10."""
        return "clevr_with_masks/clevr_with_masks_train.tfrecords"

    @property
    def download_size(self) -> str:
        """Stated by the authors."""
        return "10.5 GB"

    @property
    def num_images(self) -> int | None:
        """All records of the official file."""
        return 100_000

    @property
    def store_name(self) -> str:
        """Depends on the size; every `max_objects` uses the same store."""
        return f"clevr_with_masks-{self.image_size}"

    @property
    def settings(self) -> dict[str, Any]:
        """Crop and interpolation."""
        crop = [CROP_TOP, CROP_TOP + CROP_SIZE, CROP_LEFT, CROP_LEFT + CROP_SIZE]
        return {"crop_top_bottom_left_right": crop, "image": "bilinear, no antialiasing", "mask": "nearest"}

    def decode(self, example: Example) -> Row:
        """Image, mask and properties of one record, cropped and resized."""
        image = example.uint8("image", (HEIGHT, WIDTH, 3))
        masks = example.uint8("mask", (NUM_ENTITIES, HEIGHT, WIDTH))
        nearest = ((np.arange(self.image_size) + 0.5) * CROP_SIZE / self.image_size).astype(np.int64)  # pixel centres
        mask = labels(masks[:, CROP_TOP + nearest[:, None], CROP_LEFT + nearest])
        visibility = example.floats("visibility", (NUM_ENTITIES,))
        return {
            "image": resize(image[CROP_TOP:, CROP_LEFT:][:CROP_SIZE, :CROP_SIZE], self.image_size),
            "mask": mask,
            "num_objects": count_objects(mask),
            "scene_objects": np.asarray(np.count_nonzero(visibility[1:]), np.uint8),
            "visibility": visibility,
            "pixel_coords": example.floats("pixel_coords", (NUM_ENTITIES, 3)),
            **{key: example.floats(key, (NUM_ENTITIES,)) for key in ("x", "y", "z", "rotation")},
            **{key: example.uint8(key, (NUM_ENTITIES,)) for key in ("size", "material", "shape", "color")},
        }

    def split_rows(self, store: Store, split: str) -> np.ndarray:
        """Records by number, filtered by the number of objects."""
        kept = np.flatnonzero(np.asarray(store.arrays["scene_objects"]) <= self.max_objects)
        if split == "train":
            take(np.arange(len(store)), 0, self.train_size, store=store, split=split)  # are that many records there?
            train = kept[kept < self.train_size]
            return take(train, 0, len(train), store=store, split=split)
        after = kept[kept >= self.train_size]
        start = 0 if split == "test" else self.test_size
        stop = self.test_size if split == "test" else self.test_size + self.val_size
        return take(after, start, stop, store=store, split=split)


def resize(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Bilinear interpolation between pixel centres without antialiasing, rounded to 8 bits."""
    planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    planes = F.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False, antialias=False)
    return planes[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


ROWS = tuple(
    CatalogRow(
        partial(CLEVR, max_objects=max_objects),
        download="10.5 GB",
        disk="6.6 GB (CLEVR6 and CLEVR10 together)",
        licence=LICENCE,
        splits=f"scenes of at most {max_objects} objects: train from the first 70,000, then test 320, val 320",
        background="floor and horizon",
        overlaps="a pixel belongs to the visible object",
        files=("clevr_with_masks_train.tfrecords",),
        origin=f"{BUCKET}/clevr_with_masks/clevr_with_masks_train.tfrecords",
    )
    for max_objects in (6, 10)
)
