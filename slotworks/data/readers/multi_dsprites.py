"""Multi-dSprites (Kabra et al. 2019): 64x64 images of squares, ellipses and hearts that may hide each other."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from slotworks.data.readers.multi_object_datasets import BUCKET, LICENCE, MultiObjectFile, count_objects, labels
from slotworks.data.readers.tfrecord import Example
from slotworks.data.stores.prepared import CatalogRow
from slotworks.data.stores.store import Row
from slotworks.types import UserError

IMAGE_SIZE = 64
Variant = Literal["binarized", "colored_on_grayscale", "colored_on_colored"]
VARIANTS: dict[Variant, tuple[int, int]] = {  # entities with the background, channels
    "binarized": (4, 1),
    "colored_on_grayscale": (6, 3),
    "colored_on_colored": (5, 3),
}


@dataclass(frozen=True)
class MultiDSprites(MultiObjectFile):
    """Object discovery on Multi-dSprites: 60,000 images to train, the next 320 to test, the 320 after to validate.

    `binarized` has 2 or 3 white sprites on black, `colored_on_grayscale` (the one IODINE and comparisons with it use)
    2 to 5 coloured ones on grey, `colored_on_colored` 1 to 4 on any colour.

    Fields of a batch beside `image` and `mask`, per entity with the background first: `x` and `y` in [0, 1], `shape`
    (1 square, 2 ellipse, 3 heart, 0 none), `scale` (0.5 to 1), `orientation` (radians), `color`, `visibility` (1 if the
    entity exists); and `num_objects`, the objects with at least one pixel: later sprites are drawn over earlier ones,
    so one that exists may have few pixels or none.
    """

    root: str = "data/multi_dsprites"  # folder of the official files, and of what is prepared from them
    variant: Variant = "colored_on_grayscale"  # which of the official variants

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}; expected one of {', '.join(VARIANTS)}.")

    @property
    def name(self) -> str:
        """`multi_dsprites_` and the variant, as the official file is called."""
        return f"multi_dsprites_{self.variant}"

    @property
    def size(self) -> tuple[int, int]:
        """64x64 pixels."""
        return IMAGE_SIZE, IMAGE_SIZE

    @property
    def max_objects(self) -> int | None:
        """3, 5 or 4."""
        return VARIANTS[self.variant][0] - 1

    @property
    def remote_file(self) -> str:
        """One file per variant."""
        return f"multi_dsprites/{self.name}.tfrecords"

    @property
    def download_size(self) -> str:
        """Stated by the authors."""
        return "between 500 MB and 1 GB"

    @property
    def store_name(self) -> str:
        """Depends on variant and number of images."""
        return f"{self.name}-{self.num_images}"

    def decode(self, example: Example) -> Row:
        """Image, mask and properties of one record, which must be of the right variant."""
        entities, channels = VARIANTS[self.variant]
        found = example.floats("x").size
        if found != entities:
            fits = [name for name, (number, _) in VARIANTS.items() if number == found]
            raise UserError(
                f"{example.where} has {found} entities, but {self.variant} has {entities}; "
                + (f"the file is of the variant {fits[0]}." if fits else "is this the right file?")
            )
        image = example.uint8("image", (IMAGE_SIZE, IMAGE_SIZE, channels))
        masks = example.uint8("mask", (IMAGE_SIZE, IMAGE_SIZE, entities))  # the entity axis is the third here
        mask = labels(masks.transpose(2, 0, 1))
        properties = ("x", "y", "shape", "scale", "orientation", "visibility")
        return {
            "image": np.broadcast_to(image, (IMAGE_SIZE, IMAGE_SIZE, 3)),  # one channel becomes three equal ones
            "mask": mask,
            "num_objects": count_objects(mask),
            **{key: example.floats(key, (entities,)) for key in properties},
            "color": example.floats("color", (entities, channels)),
        }


BACKGROUNDS: dict[Variant, str] = {
    "binarized": "black",
    "colored_on_grayscale": "one grey",
    "colored_on_colored": "one colour",
}
ROWS = tuple(
    CatalogRow(
        partial(MultiDSprites, variant=variant),
        download="0.5 to 1 GB",
        disk="1.0 GB",
        licence=LICENCE,
        splits="train 60,000, test 320, val 320 of 1,000,000",
        background=background,
        overlaps="later sprites hide earlier ones; a pixel belongs to the visible one",
        files=(f"multi_dsprites_{variant}.tfrecords",),
        origin=f"{BUCKET}/multi_dsprites/multi_dsprites_{variant}.tfrecords",
    )
    for variant, background in BACKGROUNDS.items()
)
