"""Painted scenes: shaded objects with soft shadows on lit grounds, the pictures of the miniature diffusion model.

Layout, ids, masks and fields are those of `ShapeScenes`; what differs is the paint. Each silhouette is drawn once at
eight times the side and averaged, so outlines are smooth; a pixel belongs to an object that covers at least half of it.
Light comes from the upper left: discs are balls, all else has a bevelled edge, everything casts a shadow to the lower
right. The ground is brightest at a random place in its upper half and darker away from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64

from slotworks.data.random import uniform
from slotworks.data.scenes.outlines import bitmap
from slotworks.data.scenes.shapes import (
    BACKGROUNDS,
    CLASSES,
    COLOR_TABLE,
    COLORS,
    Layout,
    ShapeDataset,
    ShapeScenes,
    phrase,
)
from slotworks.data.scenes.stamps import Stamps
from slotworks.encoders.object_words import hundredths
from slotworks.types import RawBatch

SIZE_NAMES = ("small", "medium", "large")
"""Words for the sizes, when there are three."""

_FINE = 8  # points of a pixel each way
_LIGHT = np.array((-0.45, -0.55, 0.70)) / np.linalg.norm((-0.45, -0.55, 0.70))  # across, down, towards the eye
_BEVEL = 0.22  # width of the bevelled edge, of the radius
_SHADOW = 0.45  # how much of the light a shadow takes
GROUND = np.array(((41, 41, 46), (133, 133, 138), (230, 230, 230), (41, 56, 117), (204, 184, 148)), np.float32)


@dataclass(frozen=True)
class Brushes:
    """What each silhouette does to the pixels of a window around it: `s y x` floats; `silhouettes` are their masks."""

    silhouettes: Stamps
    corner: Int[np.ndarray, "s 2"]  # row and column in the window of the silhouette's corner
    cover: Float[np.ndarray, "s y x"]  # share of the pixel
    shade: Float[np.ndarray, "s y x"]  # factor on the object's colour
    gloss: Float[np.ndarray, "s y x"]  # share of white added
    shadow: Float[np.ndarray, "s y x"]  # share of light taken from what lies below

    @property
    def margin(self) -> int:
        """Pixels by which a window may reach beyond the picture."""
        return self.cover.shape[1]


@cache
def brushes_of(image_size: int, shapes: tuple[str, ...], sizes: tuple[float, ...]) -> Brushes:
    """Those of a picture's side, shapes in the order of their names, then sizes."""
    reach = image_size / 8  # of a shadow beyond the object
    window = 2 * int(np.ceil(max(sizes) * image_size / 2 + reach))
    found = [_brush(image_size, shape, size, window) for shape in shapes for size in sizes]
    cover, shade, gloss, shadow = (np.stack(parts).astype(np.float32) for parts in zip(*found, strict=True))
    masks = cover >= 0.5
    corner = np.stack([masks.any(axis=2).argmax(axis=1), masks.any(axis=1).argmax(axis=1)], axis=1)
    cropped = [mask[mask.any(axis=1)][:, mask.any(axis=0)] for mask in masks]
    return Brushes(Stamps.cut(cropped, canvas_width=image_size), corner, cover, shade, gloss, shadow)


def _brush(image_size: int, shape: str, size: float, window: int) -> tuple[np.ndarray, ...]:
    """Cover, shade, gloss and shadow of one silhouette, each `window` pixels square."""
    from scipy import ndimage  # imported here: takes half a second

    radius = size * image_size / 2 * _FINE
    inside = bitmap(CLASSES[shape], size=window * _FINE, radius=radius)
    edge = np.asarray(ndimage.distance_transform_edt(inside))
    bevel = radius * (1 if shape == "circle" else _BEVEL)
    depth = np.clip(edge / bevel, 0, 1)
    height = bevel * np.sqrt(1 - (1 - depth) ** 2)  # a quarter of a round: a ball, or a flat top with a rounded edge
    height = ndimage.gaussian_filter(height, 0.04 * radius)
    down, across = np.gradient(height)
    normal = np.stack([-across, -down, np.ones_like(height)]) / np.sqrt(1 + across**2 + down**2)
    lit = np.tensordot(_LIGHT, normal, 1)
    mirrored = 2 * lit * normal[2] - _LIGHT[2]  # how far the reflected light points to the eye
    shade = 0.5 + 0.5 * np.clip(lit, 0, 1) / _LIGHT[2]  # 1 on a flat top
    gloss = 0.7 * np.clip(mirrored, 0, 1) ** 24 * (shape == "circle")
    cover = _averaged(inside)
    weight = np.maximum(cover, 1e-6)
    moved = ndimage.shift(ndimage.gaussian_filter(cover, image_size / 44), (image_size / 30, image_size / 42), order=1)
    return cover, _averaged(shade * inside) / weight, _averaged(gloss * inside) / weight, _SHADOW * moved


def _averaged(fine: np.ndarray) -> np.ndarray:
    side = len(fine) // _FINE
    return fine.reshape(side, _FINE, side, _FINE).mean(axis=(1, 3))


def light(
    key: UInt64[np.ndarray, " b"], image_size: int, moved: Int[np.ndarray, "b 2"] | None = None
) -> Float[np.ndarray, "b h w"]:
    """Brightness of the ground: 1 at about the brightest place, less with the square of the distance.

    `moved` are the rows and columns by which the camera has left its place.
    """
    across, down, bright = uniform(key, "light", 3).astype(np.float32).T[:, :, None, None]
    rows = columns = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size
    if moved is not None:
        rows, columns = (rows + (moved[:, axis, None] / image_size).astype(np.float32) for axis in (0, 1))
        columns = columns[:, None]
    distance = (columns - across) ** 2 + (rows[..., None] - 0.5 * down) ** 2
    return (1.0 + 0.14 * bright) - 0.34 * distance


def composed(
    ground: Float[np.ndarray, "b h w 3"],
    brushes: Brushes,
    present: Bool[np.ndarray, "b m"],
    stamp: Int[np.ndarray, "b m"],
    color: Int[np.ndarray, "b m"],
    top: Int[np.ndarray, "b m"],
    left: Int[np.ndarray, "b m"],
) -> UInt8[np.ndarray, "b h w 3"]:
    """Objects painted on a lit ground, from far to near; what lies outside of the picture leaves a shadow at most.

    `top` and `left` are the corners of the silhouettes in the picture, `color` counts the colours of the palette from
    0.
    """
    side, margin = ground.shape[1], brushes.margin
    canvas = np.pad(ground, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    steps = np.arange(margin)
    for k in range(present.shape[1]):
        some = np.flatnonzero(present[:, k])
        own = stamp[some, k]
        first = np.stack([top[some, k], left[some, k]], axis=1) - brushes.corner[own] + margin
        rows, columns = np.clip(first, 0, side + margin).T[:, :, None, None]
        where = (some[:, None, None], rows + steps[:, None], columns + steps)
        cover, shade, gloss = (one[own][..., None] for one in (brushes.cover, brushes.shade, brushes.gloss))
        paint = np.minimum(COLOR_TABLE[color[some, k]][:, None, None] * shade, 255)
        paint += gloss * (255 - paint)
        below = canvas[where] * (1 - brushes.shadow[own])[..., None]
        canvas[where] = below + cover * (paint - below)
    shown = canvas[:, margin:-margin, margin:-margin]
    return (np.clip(shown, 0, 255) + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class PaintedScenes(ShapeScenes):
    """Shaded shapes with shadows, painted on the fly; fields as those of `ShapeScenes`.

    An object's class is its shape, so that many pictures show several objects of one class in different colours. The
    sizes are the diameters of balls and the sides of squares.

    Raises:
        ValueError: as `ShapeScenes`, or if the picture is smaller than 32 or larger than 256 pixels.
    """

    max_objects: int = 5  # pyright: ignore[reportIncompatibleMethodOverride]
    """most objects in one scene"""
    sizes: tuple[float, ...] = (0.26, 0.33, 0.40)  # diameters as shares of the image

    def __post_init__(self):
        super().__post_init__()
        if not 32 <= self.image_size <= 256:
            raise ValueError(f"image_size is {self.image_size}; painted scenes have 32 to 256 pixels.")

    @property
    def name(self) -> str:  # noqa: D102
        return f"painted_scenes_{self.background}"

    def open(self, split: str = "train") -> "PaintedDataset":
        """Open one split: `train`, `val` or `test`."""
        return PaintedDataset(self, split)

    @property
    def _least_visible(self) -> float:
        return 0.5  # a ball behind a ball is still seen to be one

    def _background_colors(self) -> Float[np.ndarray, "n 3"]:
        return GROUND

    def _stamps(self) -> Stamps:
        return brushes_of(self.image_size, self.shapes, self.sizes).silhouettes

    def _paint(
        self,
        key: UInt64[np.ndarray, " b"],
        layout: Layout,
        color: Int[np.ndarray, "b m"],
        top: Int[np.ndarray, "b m"],
        left: Int[np.ndarray, "b m"],
    ) -> UInt8[np.ndarray, "b h w 3"]:
        b, side = len(key), self.image_size
        brushes = brushes_of(side, self.shapes, self.sizes)
        ground = self._backgrounds(key, layout.background).reshape(b, side, side, 3) * light(key, side)[..., None]
        stamp = layout.shape * len(self.sizes) + layout.size
        return composed(ground, brushes, layout.present, stamp, color, top, left)


class PaintedDataset(ShapeDataset):
    """One split of `PaintedScenes`: batches of numbers as everywhere, and a caption per image."""

    config: PaintedScenes  # pyright: ignore[reportIncompatibleVariableOverride]

    def caption(self, index: int, *, places: bool = False) -> str:
        """The scene in words, from far to near, each object for itself.

        "a small red circle and a large blue star on grey"; with places, the middle of each in hundredths of the side,
        across and down: "a small red circle at 25 40 and a large blue star at 71 66 on grey".
        """
        return self._in_words({name: value[0] for name, value in self.__getitems__([index]).items()}, places=places)

    def captions(self, indices: Sequence[int] | Int[np.ndarray, " b"], batch: RawBatch) -> list[str]:
        """Those of the pictures of a batch, which are not drawn again."""
        return [self._in_words({name: value[i] for name, value in batch.items()}) for i in range(len(indices))]

    def _in_words(self, scene: RawBatch, *, places: bool = False) -> str:
        named = len(self.config.sizes) == len(SIZE_NAMES)
        phrases = []
        for k in range(int(scene["num_objects"])):
            size = SIZE_NAMES[int(np.argmin(np.abs(np.array(self.config.sizes) - scene["size"][k])))]
            words = [size] * named + [list(COLORS)[scene["color"][k] - 1], list(CLASSES)[scene["shape"][k] - 1]]
            where = f" at {hundredths(float(scene['x'][k]))} {hundredths(float(scene['y'][k]))}" if places else ""
            phrases.append(phrase(" ".join(words), 1) + where)
        what = " and ".join([*([", ".join(phrases[:-1])] if len(phrases) > 1 else []), *phrases[-1:]]) or "nothing"
        return f"{what} on {list(BACKGROUNDS)[scene['background'] - 1]}"
