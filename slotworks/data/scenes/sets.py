"""Drawn shapes that lie near and far, with their properties as vectors: set prediction without a file.

As in CLEVR an object has a place in three coordinates, a size, a shape and a colour. Nearer objects look larger and
hide farther ones; the apparent diameter tells the true size and the depth, for no two pairs of them look equally large.

The defaults are easier than CLEVR, so that minutes of training on a CPU are enough: at most five objects, flat shapes
of one material on an even grey floor, two depths, and diameters that differ by a third from one to the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt64

from slotworks.data.scenes.shapes import BACKGROUNDS, Layout, ShapeName, ShapeScenes
from slotworks.data.sets import encode_objects
from slotworks.types import RawBatch

SIZE_NAMES = ("small", "large")
FLOOR = list(BACKGROUNDS).index("grey")


@dataclass(frozen=True)
class SetScenes(ShapeScenes):
    """`ShapeScenes` whose objects have a depth, and whose batches also hold `objects`: one vector for each object.

    The vector is that of `slotworks.data.sets`: x and y of the centre (shares of the image, y down) and depth, 0 the
    nearest and 1 the farthest; one-hots of size, shape and colour; 1. Rows that pad an image to `max_objects` are zero.
    Depth has `num_depths` levels. `sizes` are apparent diameters: those of small objects from far to near, then those
    of large ones. The floor is grey, as CLEVR's; gradients and patterns go from grey to another colour.
    """

    image_size: int = 64  # pixels, square
    min_objects: int = 2  # fewest objects in one scene
    max_objects: int = 5  # pyright: ignore[reportIncompatibleMethodOverride]
    """most objects in one scene"""
    shapes: tuple[ShapeName, ...] = ("circle", "square", "triangle")  # three, as CLEVR
    sizes: tuple[float, ...] = (0.15, 0.2, 0.27, 0.36)  # shares of the image
    num_depths: int = 2  # levels of depth

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_depths < 2 or len(self.sizes) != len(SIZE_NAMES) * self.num_depths:
            raise ValueError(
                f"sizes has {len(self.sizes)} entries and num_depths is {self.num_depths}; give {len(SIZE_NAMES)} "
                "apparent diameters for each of two or more levels of depth."
            )

    @property
    def name(self) -> str:  # noqa: D102
        return f"set_scenes_{self.background}"

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """Properties and their classes, in the order of the one-hots."""
        return {"size": SIZE_NAMES, "shape": self.shapes, "color": self.colors}

    def layout(self, key: UInt64[np.ndarray, " b"]) -> Layout:
        """What each scene holds; farther objects come first and are hidden by those that follow."""
        layout = super().layout(key)
        first, second = layout.background.T  # never the same
        floor = np.stack([np.full_like(first, FLOOR), np.where(second == FLOOR, first, second)], axis=1)
        level = np.where(layout.present, layout.size % self.num_depths, self.num_depths)  # absent rows stay last
        order = np.argsort(level, axis=1, kind="stable")
        return replace(layout, size=np.take_along_axis(layout.size, order, axis=1), background=floor)

    def draw(self, key: UInt64[np.ndarray, " b"]) -> RawBatch:
        """Draw one scene per key."""
        batch, layout = super().draw(key), self.layout(key)
        size_class, level = np.divmod(layout.size, self.num_depths)
        depth = 1 - level / (self.num_depths - 1)
        coordinates = np.stack([batch["x"], batch["y"], depth], axis=-1)
        numbers = {"size": size_class + 1, "shape": layout.shape + 1, "color": layout.color + 1}
        return {**batch, "objects": encode_objects(coordinates, numbers, self.categories, layout.present)}
