"""Tetrominoes (Kabra et al. 2019): 35x35 images of three Tetris-like pieces on black, never overlapping or cut off."""

from dataclasses import dataclass

from slotworks.data.readers.multi_object_datasets import BUCKET, LICENCE, MultiObjectFile, count_objects, labels
from slotworks.data.readers.tfrecord import Example
from slotworks.data.stores.prepared import CatalogRow
from slotworks.data.stores.store import Row

NUM_ENTITIES = 4
IMAGE_SIZE = 35


@dataclass(frozen=True)
class Tetrominoes(MultiObjectFile):
    """Object discovery on Tetrominoes: 60,000 images to train, the next 320 to test, the 320 after them to validate.

    Fields of a batch beside `image` and `mask`, all per entity with the background first: `x` (row of the top edge,
    in pixels) and `y` (column of the left edge) of the bounding box, `shape` (1 to 19), `color` (RGB of 0 and 1),
    `visibility` (1, also for the background); and `num_objects`. The axes of `x` and `y` are the official ones.
    """

    root: str = "data/tetrominoes"  # folder of the official files, and of what is prepared from them

    @property
    def name(self) -> str:
        """`tetrominoes`."""
        return "tetrominoes"

    @property
    def size(self) -> tuple[int, int]:
        """35x35 pixels."""
        return IMAGE_SIZE, IMAGE_SIZE

    @property
    def max_objects(self) -> int | None:
        """Always three."""
        return NUM_ENTITIES - 1

    @property
    def remote_file(self) -> str:
        """One file."""
        return "tetrominoes/tetrominoes_train.tfrecords"

    @property
    def download_size(self) -> str:
        """Stated by the authors."""
        return "300 MB"

    @property
    def store_name(self) -> str:
        """Depends on the number of images."""
        return f"tetrominoes-{self.num_images}"

    def decode(self, example: Example) -> Row:
        """Image, mask and properties of one record."""
        mask = labels(example.uint8("mask", (NUM_ENTITIES, IMAGE_SIZE, IMAGE_SIZE)))
        return {
            "image": example.uint8("image", (IMAGE_SIZE, IMAGE_SIZE, 3)),
            "mask": mask,
            "num_objects": count_objects(mask),
            **{key: example.floats(key, (NUM_ENTITIES,)) for key in ("x", "y", "shape", "visibility")},
            "color": example.floats("color", (NUM_ENTITIES, 3)),
        }


ROWS = (
    CatalogRow(
        Tetrominoes,
        download="300 MB",
        disk="0.3 GB",
        licence=LICENCE,
        splits="train 60,000, test 320, val 320 of 1,000,000",
        background="black",
        overlaps="none",
        files=("tetrominoes_train.tfrecords",),
        origin=f"{BUCKET}/tetrominoes/tetrominoes_train.tfrecords",
    ),
)
