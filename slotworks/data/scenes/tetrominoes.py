"""Tetrominoes, drawn like the data set of that name (Kabra et al. 2019, multi-object-datasets).

35x35 pixels, black background, three tetrominoes of four 5x5 blocks each, never overlapping, never cut off. All objects
share one bevelled texture, multiplied by one of six colours. The texture, the colours, the numbering of the shapes and
the meaning of `x` and `y` are those of the original records.

The published description counts 17 shapes, but the numbering runs to 19 and users of the data have counted all 19
one-sided orientations in it; so all 19 are drawn here, uniformly. Numbers 1, 4 and 8 were not seen in the few original
records that were inspected: their patterns are the three that remain.

How the original drew positions is not documented. Here shapes and colours are uniform and independent, and the three
positions are uniform over all placements without overlap: all three are drawn anew until none overlaps.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt64

from slotworks.data.random import derive, integers
from slotworks.data.scenes.base import SceneConfig
from slotworks.data.scenes.stamps import Stamps
from slotworks.types import RawBatch

IMAGE_SIZE = 35  # pixels
BLOCK_SIZE = 5
NUM_OBJECTS = 3
COLORS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
}
# Blocks by rows; the key is the number in the data, 0 being the background.
SHAPES = {
    1: "####",
    2: "# # # #",
    3: "### #..",
    4: "#.. ###",
    5: "..# ###",
    6: "### ..#",
    7: "## .# .#",
    8: ".# .# ##",
    9: "## #. #.",
    10: "#. #. ##",
    11: "##. .##",
    12: ".## ##.",
    13: ".# ## #.",
    14: "#. ## .#",
    15: ".#. ###",
    16: "### .#.",
    17: ".# ## .#",
    18: "#. ## #.",
    19: "## ##",
}
TEXTURE = np.array(
    [
        [191, 255, 255, 255, 223],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [95, 63, 63, 63, 127],
    ],
    dtype=np.uint8,
)

_BLOCKS = [np.array([[cell == "#" for cell in row] for row in pattern.split()]) for pattern in SHAPES.values()]
_BLOCK_ROWS, _BLOCK_COLUMNS = (
    BLOCK_SIZE * np.array([np.nonzero(blocks)[axis] for blocks in _BLOCKS]) for axis in (0, 1)
)
_STAMPS = Stamps.cut(
    [blocks.repeat(BLOCK_SIZE, 0).repeat(BLOCK_SIZE, 1) for blocks in _BLOCKS], canvas_width=IMAGE_SIZE
)
# Brightness of every pixel of every stamp: block corners lie on multiples of the block size.
_SHADES = TEXTURE[_STAMPS.offsets // IMAGE_SIZE % BLOCK_SIZE, _STAMPS.offsets % IMAGE_SIZE % BLOCK_SIZE]
_TRIES = 8  # placements drawn at once; most scenes need fewer
_PALETTE = np.array(list(COLORS.values()), dtype=np.uint8)


@dataclass(frozen=True)
class TetrominoScenes(SceneConfig):
    """Tetrominoes drawn on the fly: `image` 35x35, `mask` ids 1 to 3, and per object (`m` = 3):

    `boxes` `m 4` as `x0 y0 x1 y1` in [0, 1]; `shape` `m`, 1 to 19; `color` `m 3`, zeros and ones; `x` `m`, the row of
    the top edge and `y` `m`, the column of the left edge, in pixels, named as in the original; `visibility` `m`, ones.
    Row `k` describes mask id `k + 1`. `num_objects` is 3.

    Raises:
        ValueError: for a negative number of images.
    """

    @property
    def name(self) -> str:  # noqa: D102
        return "tetromino_scenes"

    @property
    def size(self) -> tuple[int, int]:  # noqa: D102
        return IMAGE_SIZE, IMAGE_SIZE

    @property
    def max_objects(self) -> int:  # noqa: D102
        return NUM_OBJECTS

    def draw(self, key: UInt64[np.ndarray, " b"]) -> RawBatch:
        """Draw one scene per key."""
        b, area = len(key), IMAGE_SIZE * IMAGE_SIZE
        shape = integers(key, "shape", NUM_OBJECTS, len(SHAPES))
        color = _PALETTE[integers(key, "color", NUM_OBJECTS, len(COLORS))]  # b m 3
        top, left = place(key, shape)

        image = np.zeros((b, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        mask = np.zeros((b, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
        where = _STAMPS.pixels(shape, area * np.arange(b)[:, None] + IMAGE_SIZE * top + left)  # b m p
        image.reshape(-1, 3)[where] = _SHADES[shape][..., None] * color[:, :, None]
        mask.reshape(-1)[where] = np.arange(1, NUM_OBJECTS + 1)[:, None]

        bottom, right = top + _STAMPS.height[shape], left + _STAMPS.width[shape]
        return {
            "image": image,
            "mask": mask,
            "boxes": (np.stack([left, top, right, bottom], axis=2) / IMAGE_SIZE).astype(np.float32),
            "shape": shape + 1,
            "color": color.astype(np.float32),
            "x": top.astype(np.float32),
            "y": left.astype(np.float32),
            "visibility": np.ones((b, NUM_OBJECTS), dtype=np.float32),
            "num_objects": np.full(b, NUM_OBJECTS),
        }


def place(
    key: UInt64[np.ndarray, " b"], shape: Int[np.ndarray, "b 3"]
) -> tuple[Int[np.ndarray, "b 3"], Int[np.ndarray, "b 3"]]:
    """Rows and columns of the top left corners of three tetrominoes (`shape` counts from 0) that do not overlap."""
    top, left = np.zeros_like(shape), np.zeros_like(shape)
    todo, attempt = np.arange(len(key)), 0
    while todo.size:
        attempt_key = derive(derive(key[todo], "attempt"), attempt)
        stamp = shape[todo]
        rows, columns = (
            integers(
                attempt_key, name, _TRIES * NUM_OBJECTS, np.tile(IMAGE_SIZE - extent[stamp] + 1, (1, _TRIES))
            ).reshape(-1, _TRIES, NUM_OBJECTS)
            for name, extent in (("row", _STAMPS.height), ("column", _STAMPS.width))
        )
        free = ~_overlap(stamp[:, None], rows, columns)  # b tries
        first = np.arange(len(todo)), free.argmax(axis=1)
        top[todo], left[todo] = rows[first], columns[first]
        todo, attempt = todo[~free.any(axis=1)], attempt + 1
    return top, left


def _overlap(
    shape: Int[np.ndarray, "b #t 3"], top: Int[np.ndarray, "b t 3"], left: Int[np.ndarray, "b t 3"]
) -> Bool[np.ndarray, "b t"]:
    """Whether any two of the tetrominoes share a pixel."""
    rows = _BLOCK_ROWS[shape] + top[..., None]  # b t 3 blocks
    columns = _BLOCK_COLUMNS[shape] + left[..., None]
    first, second = [0, 0, 1], [1, 2, 2]
    row_distance = np.abs(rows[:, :, first, :, None] - rows[:, :, second, None, :])  # b t pairs blocks blocks
    column_distance = np.abs(columns[:, :, first, :, None] - columns[:, :, second, None, :])
    return np.any((row_distance < BLOCK_SIZE) & (column_distance < BLOCK_SIZE), axis=(2, 3, 4))
