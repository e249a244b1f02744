"""3D Shapes (Burgess & Kim 2018): 480,000 rendered rooms with one object, every combination of six factors once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slotworks.data.stores.prepared import CatalogRow, PreparedData, fingerprint, take
from slotworks.data.stores.store import Row, Store
from slotworks.errors import needs_extra
from slotworks.limits import check_decoded
from slotworks.types import UserError

PAGE = "https://github.com/google-deepmind/3d-shapes"
IMAGE_SIZE = 64
OFFICIAL_IMAGES = 480_000
FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")  # columns of the labels
SPLITS = {"train": (0, 400_000), "val": (400_000, 430_000), "test": (430_000, 460_000)}
_BLOCK = 512  # images read at once


@dataclass(frozen=True)
class Shapes3D(PreparedData):
    """3D Shapes at 64 x 64 pixels, in the splits of SLATE's code: 400,000 to train, 30,000 to validate and to test.

    The images are sorted by their factors, floor first, and the splits are taken in that order: floors of the colours 8
    and 9 are never trained on. (SLATE's code leaves out images 400,000 and 430,000.) There are no masks. Fields beside
    `image`: `floor_hue`, `wall_hue` and `object_hue` in [0, 1), `scale`, `shape` (0 to 3), `orientation` in degrees.

    Reading the official file, HDF5, needs the extra `hdf5`; the prepared store does not.
    """

    root: str = "data/3dshapes"  # folder of the official files, and of what is prepared from them

    @property
    def name(self) -> str:
        """`shapes3d`."""
        return "shapes3d"

    @property
    def size(self) -> tuple[int, int]:
        """64 x 64 pixels."""
        return IMAGE_SIZE, IMAGE_SIZE

    @property
    def official(self) -> Path:
        """`3dshapes.h5`."""
        return Path(self.root) / "3dshapes.h5"

    @property
    def store_name(self) -> str:
        """One size."""
        return f"shapes3d-{IMAGE_SIZE}"

    @property
    def num_images(self) -> int | None:
        """As many as the splits need."""
        return SPLITS["test"][1]

    @property
    def official_images(self) -> int | None:
        """480,000, of which the last 20,000 belong to no split."""
        return SPLITS["test"][1]

    def source(self) -> dict[str, Any]:
        """Name, size and fingerprint of the file; raises UserError if it is missing."""
        if not self.official.is_file():
            raise UserError(
                f"{self.official} is missing; get 3dshapes.h5 (255 MB) from the bucket named at {PAGE} and put it "
                f"into {self.root}."
            )
        return fingerprint(self.official)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row per image, in the order of the file."""
        with needs_extra("hdf5"):
            import h5py
        self.source()
        stop = SPLITS["test"][1]
        try:
            with h5py.File(self.official, "r") as opened:
                file: Any = opened
                images, labels = file["images"], file["labels"]
                found, wanted = tuple(images.shape), (OFFICIAL_IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3)
                if found[1:] != wanted[1:] or images.dtype != np.uint8 or labels.shape != (found[0], len(FACTORS)):
                    raise UserError(
                        f"{self.official} holds images {found} of {images.dtype} with labels {tuple(labels.shape)}, "
                        f"expected {wanted} of uint8 with six labels each; is this the right file?"
                    )
                if labels.dtype.kind not in "fiu":
                    raise UserError(f"{self.official} has labels of {labels.dtype}, expected numbers; get it again.")
                for values in (images, labels):  # a packed chunk is unpacked as a whole
                    chunk = values.chunks or (1,)
                    what = f"chunks of {' x '.join(f'{n:,}' for n in chunk)} values"
                    check_decoded(2 * math.prod(chunk) * values.dtype.itemsize, self.official, what)
                for first in range(start, min(stop, found[0]), _BLOCK):
                    block = slice(first, min(first + _BLOCK, stop, found[0]))
                    for image, label in zip(images[block], labels[block], strict=True):
                        factors = {name: np.float32(value) for name, value in zip(FACTORS, label, strict=True)}
                        yield {"image": image, **{name: np.asarray(value) for name, value in factors.items()}}
        except (OSError, KeyError, RuntimeError, AttributeError) as error:  # all of these are h5py's word for damage
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.official} cannot be read as 3D Shapes ({reason}); get it again.") from error

    def split_rows(self, store: Store, split: str) -> np.ndarray:
        """Consecutive images."""
        start, stop = SPLITS[split]
        return take(np.arange(len(store)), start, stop, store=store, split=split)


ROWS = (
    CatalogRow(
        Shapes3D,
        download="255 MB",
        disk="5.7 GB",
        licence="Apache-2.0",
        splits="train 400,000, val 30,000, test 30,000 of 480,000, in the order of the file, as in SLATE's code",
        files=("3dshapes.h5",),
        origin=PAGE,
    ),
)
