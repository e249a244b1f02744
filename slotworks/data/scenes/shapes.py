"""Captioned scenes of coloured shapes: several instances per class, occlusion, plain and busy backgrounds.

Class ids and colour ids never depend on the configuration: 0 is the background, then in the order of `CLASSES` and
`COLORS`. Backgrounds have a palette of their own, so no object takes the colour it lies on.

Number of objects, class, colour, size and background are uniform and independent. Objects are placed one after the
other, far to near, each position uniform among those where every object keeps its visible share: all of it without
occlusion, at least `MIN_VISIBLE` of its pixels with occlusion. So every object has pixels, and a caption names what can
be seen. In a scene that gets stuck, all objects are placed anew.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64

from slotworks.data.random import derive, integers, uniform
from slotworks.data.scenes.base import SceneConfig, SceneDataset, boxes_of_mask
from slotworks.data.scenes.outlines import bitmap, circle, cross, diamond, heart, ring, square, star, triangle
from slotworks.data.scenes.stamps import Stamps
from slotworks.data.scenes.textures import pick_texture, texture_at
from slotworks.types import RawBatch

Background = Literal["plain", "gradient", "textured"]
ShapeName = Literal["circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring"]
ColorName = Literal["red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink"]

CLASSES = {  # class id is the position, from 1
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "diamond": diamond,
    "cross": cross,
    "heart": heart,
    "ring": ring,
}
COLORS = {  # colour id is the position, from 1
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 90, 225),
    "yellow": (240, 215, 50),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
    "cyan": (60, 205, 215),
    "pink": (245, 150, 190),
}
BACKGROUNDS = {  # background id is the position, from 1
    "black": (10, 10, 10),
    "grey": (128, 128, 128),
    "white": (245, 245, 245),
    "navy": (25, 35, 105),
    "beige": (215, 200, 170),
}
MIN_DIAMETER = 6  # pixels; smaller shapes look alike
MIN_VISIBLE = 0.3  # share of its pixels that an object keeps when others cover it

_TEXTURE_CONTRAST = 0.4  # how far a pattern goes from the background's colour to the second one
_TRIES = 32  # positions tried for an object before the whole scene is placed anew
_RESTARTS = 100
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_CLASS_NAMES, _COLOR_NAMES, _BACKGROUND_NAMES = list(CLASSES), list(COLORS), list(BACKGROUNDS)
COLOR_TABLE = np.array(list(COLORS.values()), dtype=np.uint8)
_BACKGROUND_TABLE = np.array(list(BACKGROUNDS.values()), dtype=np.float32)


@cache
def cut_shapes(image_size: int, shapes: tuple[str, ...], sizes: tuple[float, ...]) -> Stamps:
    """Shapes in the order of their names, then sizes, each cropped to its pixels."""
    bitmaps = []
    for shape in shapes:
        for size in sizes:
            pixels = round(size * image_size)
            drawn = bitmap(CLASSES[shape], size=pixels, radius=pixels / 2)
            bitmaps.append(drawn[drawn.any(axis=1)][:, drawn.any(axis=0)])
    return Stamps.cut(bitmaps, canvas_width=image_size)


@dataclass(frozen=True)
class Layout:
    """What is in each scene, before anything is painted. Indices count from 0; rows of absent objects are arbitrary."""

    present: Bool[np.ndarray, "b m"]
    shape: Int[np.ndarray, "b m"]  # index into the configuration's shapes
    color: Int[np.ndarray, "b m"]
    size: Int[np.ndarray, "b m"]  # index into the configuration's sizes
    background: Int[np.ndarray, "b 2"]  # its colour, and a different one that gradients and patterns go to


@dataclass(frozen=True)
class ShapeScenes(SceneConfig):
    """Captioned shapes drawn on the fly: `image`, `mask` ids 1 to `m` from far to near, `class_mask`, and per object:

    `boxes` `m 4` of the visible pixels as `x0 y0 x1 y1` in [0, 1]; `classes` `m`, the class id; `shape` and `color`
    `m`, their ids; `size` `m`, the diameter as a share of the image; `x` (across) and `y` (down) `m`, the middle of the
    whole shape in [0, 1]; `depth` `m`, 1 for the nearest object; `visibility` `m`, 1 for an object that exists. Row
    `k` describes mask id `k + 1`; rows of absent objects are zero. `num_objects` and `background`, the background id,
    are one number per image.

    Raises:
        ValueError: if a name is unknown, a number is out of range, or that many objects do not fit on the canvas.
    """

    image_size: int = 64  # pixels, square
    min_objects: int = 1  # fewest objects in one scene
    max_objects: int = 4  # pyright: ignore[reportIncompatibleMethodOverride]
    """most objects in one scene"""
    shapes: tuple[ShapeName, ...] = ("circle", "square", "triangle", "star")  # names of the shapes that are drawn
    colors: tuple[ColorName, ...] = tuple(COLORS)  # pyright: ignore[reportAssignmentType]
    """names of the colours that are drawn"""
    sizes: tuple[float, ...] = (0.18, 0.24, 0.3)  # diameters as shares of the image
    background: Background = "plain"  # what is behind the objects
    occlusion: bool = True  # whether objects may cover each other
    classes: Literal["shape", "color"] = "shape"  # which property is an object's class

    def __post_init__(self):
        super().__post_init__()
        if self.classes not in ("shape", "color"):
            raise ValueError(f"classes is {self.classes!r}; choose shape or color.")
        for field, given, known in (("shapes", self.shapes, CLASSES), ("colors", self.colors, COLORS)):
            if not given or any(name not in known for name in given):
                raise ValueError(f"{field} is {given}; give one or more of {', '.join(known)}.")
        if self.background not in get_args(Background):
            raise ValueError(f"background is {self.background!r}; choose one of {', '.join(get_args(Background))}.")
        if not 0 <= self.min_objects <= self.max_objects or not 1 <= self.max_objects <= 255:
            raise ValueError(
                f"min_objects is {self.min_objects} and max_objects is {self.max_objects}; "
                "give 0 <= min_objects <= max_objects and 1 <= max_objects <= 255."
            )
        if not self.sizes or not MIN_DIAMETER / self.image_size <= min(self.sizes) <= max(self.sizes) <= 1:
            raise ValueError(
                f"sizes is {self.sizes} on {self.image_size} pixels; give shares of the image up to 1 "
                f"that come to {MIN_DIAMETER} pixels or more."
            )
        filled = self.max_objects * max(self.sizes) ** 2
        limit = 1.0 if self.occlusion else 0.4  # beyond this, placing them at random may never end
        if filled > limit:
            raise ValueError(
                f"{self.max_objects} objects of size {max(self.sizes)} would fill {filled:.0%} of the canvas; with "
                f"occlusion={self.occlusion} at most {limit:.0%} can be filled. Lower max_objects or sizes."
            )

    @property
    def _least_visible(self) -> float:
        return MIN_VISIBLE

    @property
    def name(self) -> str:  # noqa: D102
        return f"shape_scenes_{self.background}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each id from 1 on, those that this configuration does not draw included."""
        return tuple(CLASSES) if self.classes == "shape" else tuple(COLORS)

    def open(self, split: str = "train") -> "ShapeDataset":
        """Open one split: `train`, `val` or `test`."""
        return ShapeDataset(self, split)

    def draw(self, key: UInt64[np.ndarray, " b"]) -> RawBatch:
        """Draw one scene per key."""
        b, m, side = len(key), self.max_objects, self.image_size
        layout, stamps = self.layout(key), self._stamps()
        stamp = layout.shape * len(self.sizes) + layout.size
        top, left, mask = self._place(key, stamp, layout.present)

        color_ids = np.array([_COLOR_NAMES.index(name) for name in self.colors])[layout.color]  # b m, from 0
        class_ids = np.array([_CLASS_NAMES.index(name) for name in self.shapes])[layout.shape]
        image = self._paint(key, layout, color_ids, top, left)

        classes = ((class_ids if self.classes == "shape" else color_ids) + 1) * layout.present
        with_background = np.concatenate([np.zeros((b, 1), np.uint8), classes.astype(np.uint8)], axis=1)
        count = layout.present.sum(axis=1)
        properties = {
            "shape": class_ids + 1,
            "color": color_ids + 1,
            "size": np.array(self.sizes, dtype=np.float32)[layout.size],
            "x": ((left + stamps.width[stamp] / 2) / side).astype(np.float32),
            "y": ((top + stamps.height[stamp] / 2) / side).astype(np.float32),
            "depth": count[:, None] - np.arange(m),
            "visibility": np.ones((b, m), dtype=np.float32),
        }
        return {
            "image": image,
            "mask": mask.reshape(b, side, side),
            "class_mask": np.take_along_axis(with_background, mask.astype(np.intp), axis=1).reshape(b, side, side),
            "boxes": boxes_of_mask(mask.reshape(b, side, side), m),
            "classes": classes,
            "background": layout.background[:, 0] + 1,
            "num_objects": count,
            **{name: value * layout.present for name, value in properties.items()},
        }

    def _paint(
        self,
        key: UInt64[np.ndarray, " b"],
        layout: "Layout",
        color: Int[np.ndarray, "b m"],
        top: Int[np.ndarray, "b m"],
        left: Int[np.ndarray, "b m"],
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """The pictures; `color` counts the colours of the palette from 0, `top` and `left` are corners of stamps."""
        side, stamps = self.image_size, self._stamps()
        image = self._backgrounds(key, layout.background).reshape(-1, 3)
        stamp, area = layout.shape * len(self.sizes) + layout.size, side * side
        for k in range(self.max_objects):  # far to near
            some = np.flatnonzero(layout.present[:, k])
            where = stamps.pixels(stamp[some, k], area * some + side * top[some, k] + left[some, k])
            image[where] = COLOR_TABLE[color[some, k], None]
        return image.reshape(len(key), side, side, 3)

    def layout(self, key: UInt64[np.ndarray, " b"]) -> "Layout":
        """What each scene holds, without placing or painting it."""
        m = self.max_objects
        count = self.min_objects + integers(key, "count", 1, m - self.min_objects + 1)
        first = integers(key, "background", 1, len(BACKGROUNDS))
        second = (first + 1 + integers(key, "second background", 1, len(BACKGROUNDS) - 1)) % len(BACKGROUNDS)
        return Layout(
            present=np.arange(m) < count,
            shape=integers(key, "shape", m, len(self.shapes)),
            color=integers(key, "color", m, len(self.colors)),
            size=integers(key, "size", m, len(self.sizes)),
            background=np.concatenate([first, second], axis=1),
        )

    def _background_colors(self) -> Float[np.ndarray, "n 3"]:
        return _BACKGROUND_TABLE

    def _stamps(self) -> Stamps:
        return cut_shapes(self.image_size, self.shapes, self.sizes)

    def _place(
        self, key: UInt64[np.ndarray, " b"], stamp: Int[np.ndarray, "b m"], present: Bool[np.ndarray, "b m"]
    ) -> tuple[Int[np.ndarray, "b m"], Int[np.ndarray, "b m"], UInt8[np.ndarray, "b p"]]:
        """Rows and columns of the top left corners, and the mask, of scenes whose objects all keep their share."""
        top, left = np.zeros_like(stamp), np.zeros_like(stamp)
        mask = np.zeros((len(key), self.image_size**2), dtype=np.uint8)
        todo = np.arange(len(key))
        for restart in range(_RESTARTS):
            again = derive(derive(key[todo], "restart"), restart)
            top[todo], left[todo], mask[todo], placed = self._try_to_place(again, stamp[todo], present[todo])
            todo = todo[~placed]
            if not todo.size:
                return top, left, mask
        raise ValueError(
            f"{present[todo[0]].sum()} objects of sizes up to {max(self.sizes)} found no free place; "
            "lower max_objects or sizes."
        )

    def _try_to_place(
        self, key: UInt64[np.ndarray, " b"], stamp: Int[np.ndarray, "b m"], present: Bool[np.ndarray, "b m"]
    ) -> tuple[Int[np.ndarray, "b m"], Int[np.ndarray, "b m"], UInt8[np.ndarray, "b p"], Bool[np.ndarray, " b"]]:
        """One attempt: objects in order, each at the first of `_TRIES` positions that leaves all others their share."""
        (b, m), side, stamps = stamp.shape, self.image_size, self._stamps()
        top, left = np.zeros_like(stamp), np.zeros_like(stamp)
        mask, placed = np.zeros((b, side * side), dtype=np.uint8), np.ones(b, dtype=bool)
        visible = np.zeros((b, m + 1), dtype=np.int64)  # pixels by id; id 0 is left alone
        share = self._least_visible if self.occlusion else 1.0
        needed = np.zeros((b, m + 1))  # pixels by id that must stay visible
        for k in range(m):
            todo, tries = np.flatnonzero(present[:, k] & placed), 0
            while todo.size and tries < _TRIES:
                own, again = stamp[todo, k], derive(key[todo], f"object {k} try {tries}")
                row = integers(again, "row", 1, (side - stamps.height[own] + 1)[:, None])[:, 0]
                column = integers(again, "column", 1, (side - stamps.width[own] + 1)[:, None])[:, 0]
                where = stamps.pixels(own, side * side * todo + side * row + column)
                under = mask.reshape(-1)[where] * stamps.valid[own]  # ids about to be covered
                rows = np.arange(len(todo))
                covered = np.bincount((under + (m + 1) * rows[:, None]).ravel(), minlength=len(todo) * (m + 1))
                left_over = visible[todo] - covered.reshape(-1, m + 1)
                free = (left_over >= needed[todo])[:, 1:].all(axis=1)
                done = todo[free]
                mask.reshape(-1)[where[free]] = k + 1
                top[done, k], left[done, k] = row[free], column[free]
                visible[done] = left_over[free]
                visible[done, k + 1] = stamps.area[own[free]]
                needed[done, k + 1] = share * stamps.area[own[free]]
                todo, tries = todo[~free], tries + 1
            placed[todo] = False
        return top, left, mask, placed

    def _backgrounds(self, key: UInt64[np.ndarray, " b"], colors: Int[np.ndarray, "b 2"]) -> UInt8[np.ndarray, "b p 3"]:
        """Empty canvases: one colour, or a blend of two along a line or a pattern."""
        side = self.image_size
        first, second = self._background_colors()[colors].swapaxes(0, 1)  # b 3 each
        if self.background == "plain":
            return first.astype(np.uint8)[:, None].repeat(side * side, axis=1)
        if self.background == "gradient":
            angle = (2 * np.pi * uniform(key, "angle", 1)).astype(np.float32)
            y, x = np.mgrid[:side, :side].reshape(2, -1).astype(np.float32) / (side - 1) - 0.5
            across = np.cos(angle) * x + np.sin(angle) * y  # b p
            blend = 0.5 + across / (np.abs(np.cos(angle)) + np.abs(np.sin(angle)))  # 0 and 1 in opposite corners
        else:
            texture = pick_texture(key, "pattern", 1, size=side)[:, 0]
            blend = _TEXTURE_CONTRAST * texture_at(texture, np.arange(side * side)[None], size=side)
        return (first[:, None] + blend[..., None] * (second - first)[:, None]).astype(np.uint8)


class ShapeDataset(SceneDataset):
    """One split of `ShapeScenes`: batches of numbers as everywhere, and a caption per image."""

    config: ShapeScenes

    def captions(self, indices: Sequence[int] | Int[np.ndarray, " b"], batch: RawBatch) -> list[str]:
        """Those of the pictures of a batch."""
        return [self.caption(int(index)) for index in indices]

    def caption(self, index: int) -> str:
        """The scene in words, from far to near: "a red square and two blue circles on grey"."""
        layout = self.config.layout(self.keys([index]))
        names = [
            (self.config.colors[color], self.config.shapes[shape])
            for color, shape, present in zip(layout.color[0], layout.shape[0], layout.present[0], strict=True)
            if present
        ]
        phrases = [phrase(f"{color} {shape}", number) for (color, shape), number in Counter(names).items()] or [
            "nothing"
        ]
        what = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
        first, second = (_BACKGROUND_NAMES[i] for i in layout.background[0])
        where = {"plain": first, "gradient": f"{first} fading to {second}", "textured": f"patterned {first}"}
        return f"{what} on {where[self.config.background]}"


def phrase(name: str, number: int) -> str:
    """So many of these, in words: "a red square", "two crosses"."""
    if number == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    plural = f"{name}es" if name.endswith("s") else f"{name}s"
    return f"{_NUMBERS[number] if number < len(_NUMBERS) else number} {plural}"
