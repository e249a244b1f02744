"""Multi-dSprites, drawn like the data sets of that name (Kabra et al. 2019, multi-object-datasets).

64x64 pixels; squares, ellipses and hearts with the factors of dSprites (Matthey et al. 2017): 6 scales from 0.5 to 1,
40 orientations from 0 to 2 pi (the first and the last coincide), 32 x 32 positions. Later sprites are painted over
earlier ones, so an object may be hidden, even completely.

How this differs from the original: outlines come from formulas at sizes close to dSprites', not from its archive, so
pixels are not equal; one step of a position is one pixel. The original's distributions of the number of sprites and of
colours are not documented; here all factors and the number are uniform. `binarized` images have three equal channels.

| variant | sprites | sprite colours | background |
| --- | --- | --- | --- |
| `binarized` | 2 to 3 | white | black |
| `colored_on_grayscale` | 2 to 5 | HSV: any hue, saturation and value in [0.5, 1] | any grey |
| `colored_on_colored` | 1 to 4 | RGB, each uniform | RGB, each uniform |
| `textured` (not in the original) | 2 to 5 | as on greyscale, times a pattern | HSV, duller, times a pattern |
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt64

from slotworks.data.random import integers, uniform
from slotworks.data.scenes.base import SceneConfig, boxes_of_mask
from slotworks.data.scenes.outlines import bitmap, ellipse, heart, square
from slotworks.data.scenes.stamps import Stamps
from slotworks.data.scenes.textures import pick_texture, texture_at
from slotworks.types import RawBatch

Variant = Literal["binarized", "colored_on_grayscale", "colored_on_colored", "textured"]

IMAGE_SIZE = 64  # pixels
SHAPES = {1: square, 2: ellipse, 3: heart}
SCALES = np.linspace(0.5, 1, 6)
ORIENTATIONS = np.linspace(0, 2 * np.pi, 40)  # radians, counter-clockwise
POSITIONS = np.linspace(0, 1, 32)
SPRITES_PER_IMAGE: dict[str, tuple[int, int]] = {
    "binarized": (2, 3),
    "colored_on_grayscale": (2, 5),
    "colored_on_colored": (1, 4),
    "textured": (2, 5),
}

# Half the extent at scale 1, in pixels; at every scale, no pixel centre lies on an edge, where rounding would decide.
_RADIUS = {1: 9.25, 2: 13.2, 3: 10.6}
_STAMP_SIZE = 31
_FIRST_CENTER = 16  # the pixel row or column of position 0; position 1 is pixel 47, so the range is centred
_SHADE = 0.5  # brightness where a pattern is darkest


@cache
def _sprites() -> Stamps:
    """All sprites, in the order shape, scale, orientation."""
    bitmaps = [
        bitmap(outline, size=_STAMP_SIZE, radius=_RADIUS[shape] * scale, angle=angle)
        for shape, outline in SHAPES.items()
        for scale in SCALES
        for angle in ORIENTATIONS
    ]
    return Stamps.cut(bitmaps, canvas_width=IMAGE_SIZE)


@dataclass(frozen=True)
class SpriteScenes(SceneConfig):
    """Multi-dSprites drawn on the fly: `image` 64x64, `mask` ids 1 to `m` in painting order, and per object:

    `boxes` `m 4` of the visible pixels as `x0 y0 x1 y1` in [0, 1]; `shape` `m`, 1 square, 2 ellipse, 3 heart; `scale`
    `m`; `orientation` `m`, radians; `x` (across) and `y` (down) `m`, the centre's position in [0, 1] of its range;
    `color` `m 3` in [0, 1]; `visibility` `m`, 1 for a sprite that exists. Row `k` describes mask id `k + 1`; rows of
    absent sprites are zero. A sprite that others hide completely keeps its row, with a zero box. `num_objects` counts
    the sprites with at least one pixel.

    Raises:
        ValueError: for an unknown variant or a negative number of images.
    """

    variant: Variant = "colored_on_grayscale"  # which of the official variants

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant is {self.variant!r}; choose one of {', '.join(get_args(Variant))}.")

    @property
    def name(self) -> str:  # noqa: D102
        return f"sprite_scenes_{self.variant}"

    @property
    def size(self) -> tuple[int, int]:  # noqa: D102
        return IMAGE_SIZE, IMAGE_SIZE

    @property
    def max_objects(self) -> int:  # noqa: D102
        return SPRITES_PER_IMAGE[self.variant][1]

    def draw(self, key: UInt64[np.ndarray, " b"]) -> RawBatch:
        """Draw one scene per key."""
        fewest, m = SPRITES_PER_IMAGE[self.variant]
        b, area, stamps = len(key), IMAGE_SIZE * IMAGE_SIZE, _sprites()
        present = np.arange(m) < fewest + integers(key, "count", 1, m - fewest + 1)  # b m
        shape = integers(key, "shape", m, len(SHAPES))
        scale = integers(key, "scale", m, len(SCALES))
        orientation = integers(key, "orientation", m, len(ORIENTATIONS))
        x, y = integers(key, "x", m, len(POSITIONS)), integers(key, "y", m, len(POSITIONS))
        color, background = self._colors(key, m)
        textures = pick_texture(key, "pattern", m + 1, size=IMAGE_SIZE) if self.variant == "textured" else None

        image = np.empty((b, area, 3), dtype=np.uint8)
        mask = np.zeros((b, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
        if textures is None:
            image[:] = background[:, None]
        else:
            image[:] = _shaded(background, textures[:, m], np.arange(area)[None])
        stamp = (shape * len(SCALES) + scale) * len(ORIENTATIONS) + orientation
        corner = (y + _FIRST_CENTER - _STAMP_SIZE // 2) * IMAGE_SIZE + x + _FIRST_CENTER - _STAMP_SIZE // 2
        for k in range(m):  # painting order
            some = np.flatnonzero(present[:, k])
            pixels = stamps.pixels(stamp[some, k], corner[some, k])
            where = pixels + area * some[:, None]
            paint = color[some, k]
            image.reshape(-1, 3)[where] = (
                paint[:, None] if textures is None else _shaded(paint, textures[some, k], pixels)
            )
            mask.reshape(-1)[where] = k + 1

        properties = {
            "shape": shape + 1,
            "scale": SCALES[scale].astype(np.float32),
            "orientation": ORIENTATIONS[orientation].astype(np.float32),
            "x": POSITIONS[x].astype(np.float32),
            "y": POSITIONS[y].astype(np.float32),
            "visibility": np.ones((b, m), dtype=np.float32),
        }
        boxes = boxes_of_mask(mask, m)
        return {
            "image": image.reshape(b, IMAGE_SIZE, IMAGE_SIZE, 3),
            "mask": mask,
            "boxes": boxes,
            "num_objects": boxes.any(axis=2).sum(axis=1),
            "color": (color / np.float32(255)) * present[..., None],
            **{name: value * present for name, value in properties.items()},
        }

    def _colors(
        self, key: UInt64[np.ndarray, " b"], m: int
    ) -> tuple[UInt8[np.ndarray, "b {m} 3"], UInt8[np.ndarray, "b 3"]]:
        """Colours of the sprites and of the background."""
        b = len(key)
        sprite, ground = uniform(key, "color", 3 * m).reshape(b, m, 3), uniform(key, "background", 3)
        match self.variant:
            case "binarized":
                sprite, ground = np.ones_like(sprite), np.zeros_like(ground)
            case "colored_on_grayscale":
                sprite, ground = _hsv_to_rgb(sprite * [1, 0.5, 0.5] + [0, 0.5, 0.5]), ground[:, :1].repeat(3, axis=1)
            case "textured":
                sprite = _hsv_to_rgb(sprite * [1, 0.5, 0.5] + [0, 0.5, 0.5])
                ground = _hsv_to_rgb(ground * [1, 0.4, 0.5] + [0, 0, 0.3])
        return np.rint(255 * sprite).astype(np.uint8), np.rint(255 * ground).astype(np.uint8)


def _shaded(
    color: UInt8[np.ndarray, "b 3"], texture: Int[np.ndarray, " b"], pixels: Int[np.ndarray, "#b p"]
) -> UInt8[np.ndarray, "b p 3"]:
    """A colour times a pattern between `_SHADE` and 1: it never clips."""
    brightness = _SHADE + (1 - _SHADE) * texture_at(texture, pixels, size=IMAGE_SIZE)
    return (color[:, None] * brightness[..., None]).astype(np.uint8)


def _hsv_to_rgb(hsv: Float[np.ndarray, "*s 3"]) -> Float[np.ndarray, "*s 3"]:
    """Hue, saturation and value in [0, 1] to red, green and blue in [0, 1]."""
    hue, saturation, value = hsv[..., :1], hsv[..., 1:2], hsv[..., 2:]
    turn = (np.array([5, 3, 1]) + 6 * hue) % 6
    return value * (1 - saturation * np.clip(np.minimum(turn, 4 - turn), 0, 1))
