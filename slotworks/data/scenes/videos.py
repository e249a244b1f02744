"""Videos of coloured shapes that move, cover each other and come into the picture, with exact masks, boxes and flow.

Each object glides along a straight line and bounces off the walls of a world as large as one picture; some come in from
outside later, and some may leave. The camera may glide along a straight line, too: then the world's walls move through
the picture. Where anything is at frame `t` is a formula in `t`, so a clip is drawn without the frames before
it and equals those frames of the whole video.

Positions are rounded to pixels before anything is painted, and flow is what the pixels really do: a whole number of
pixels, exact at every pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64

from slotworks.data.random import integers, scene_keys, uniform
from slotworks.data.scenes.base import SceneConfig, SceneDataset, boxes_of_mask
from slotworks.data.scenes.shapes import BACKGROUNDS, CLASSES, COLORS, MIN_DIAMETER, ColorName, ShapeName, cut_shapes
from slotworks.data.scenes.stamps import Stamps
from slotworks.data.scenes.textures import pick_texture, texture_bank
from slotworks.types import RawBatch

Flow = Literal["forward_flow", "backward_flow"]
FLOWS: tuple[Flow, ...] = get_args(Flow)

_CHUNK = 512  # frames drawn at once
_CONTRAST = 0.4  # how far a pattern goes from the background's colour to the second one
_CLASS_NAMES, _COLOR_NAMES = list(CLASSES), list(COLORS)
_COLOR_TABLE = np.array(list(COLORS.values()), dtype=np.uint8)
_BACKGROUND_TABLE = np.array(list(BACKGROUNDS.values()), dtype=np.float32)


@dataclass(frozen=True)
class VideoScenes(SceneConfig):
    """Videos of moving shapes drawn on the fly. Samples are as MOVi's: whole videos, training clips, or single frames.

    Fields of a batch, `t` absent for single frames, whose pictures are called `image`: `video` uint8 `b t h w 3`;
    `mask` uint8 `b t h w`, ids 1 to `m` from far to near, an object has the same id in all frames; `boxes` `b t m 4` of
    the visible pixels as `x0 y0 x1 y1` in [0, 1], all -1 where nothing of the object is seen; `visibility` `b t m`, its
    visible pixels; `image_positions` `b t m 2`, x and y of the middle of the whole shape, in [0, 1] inside the picture;
    `num_objects` `b t`, objects with a pixel in that frame; `scene_objects` `b`. Per object, mask id `k` in row
    `k - 1`, zero for rows without an object: `shape` and `color` ids and `size`, the diameter as a share of the
    picture, `b m`. `background` `b`, its id. `extras` adds `forward_flow` and `backward_flow` `b t 2 h w` float32, in
    pixels, rows first: where the pixel goes at the next frame, and where it was at the one before.

    Raises:
        ValueError: if a name is unknown or a number is out of range.
    """

    num_train: int = 10_000  # videos
    num_val: int = 100  # validation videos
    num_test: int = 100  # test videos
    image_size: int = 64  # pixels, square
    num_frames: int = 24  # of a whole video
    min_objects: int = 2  # fewest objects in one scene
    max_objects: int = 4  # pyright: ignore[reportIncompatibleMethodOverride]
    """most objects in one scene"""
    shapes: tuple[ShapeName, ...] = ("circle", "square", "triangle", "star")  # names of the shapes that are drawn
    colors: tuple[ColorName, ...] = tuple(COLORS)  # pyright: ignore[reportAssignmentType]
    """names of the colours that are drawn"""
    sizes: tuple[float, ...] = (0.18, 0.24, 0.3)  # diameters as shares of the picture
    background: Literal["plain", "textured"] = "plain"  # what is behind the objects
    max_speed: float = 0.03  # of objects along each axis, in shares of the picture per frame
    camera_speed: float = 0.0  # largest one along each axis, in shares of the picture per frame; 0: the camera rests
    appearing: float = 0.25  # share of objects that come in from outside, during the first half of the video
    leaving: float = 0.0  # share of objects that no wall holds, so that they may leave for good
    frames: Literal["video", "single"] = "video"  # whole videos, or each frame as an image of its own
    clip_length: int | None = None  # frames of a training sample; None: the whole video
    clip_stride: int | None = None  # frames from the start of a window to that of the next; None: clip_length
    extras: tuple[Flow, ...] = ()  # further maps of each frame

    def __post_init__(self):
        super().__post_init__()
        for field, given, known in (("shapes", self.shapes, CLASSES), ("colors", self.colors, COLORS)):
            if not given or any(name not in known for name in given):
                raise ValueError(f"{field} is {given}; give one or more of {', '.join(known)}.")
        for field, known in (("background", ("plain", "textured")), ("frames", ("video", "single"))):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is {getattr(self, field)!r}; expected {' or '.join(known)}.")
        if unknown := sorted(set(self.extras) - set(FLOWS)):
            raise ValueError(f"extras holds {unknown[0]!r}; expected some of {', '.join(FLOWS)}.")
        if not 0 <= self.min_objects <= self.max_objects or not 1 <= self.max_objects <= 255:
            raise ValueError(
                f"min_objects is {self.min_objects} and max_objects is {self.max_objects}; "
                "give 0 <= min_objects <= max_objects and 1 <= max_objects <= 255."
            )
        if not self.sizes or not MIN_DIAMETER / self.image_size <= min(self.sizes) <= max(self.sizes) <= 0.5:
            raise ValueError(
                f"sizes is {self.sizes} on {self.image_size} pixels; give shares of the picture up to 0.5 "
                f"that come to {MIN_DIAMETER} pixels or more."
            )
        for field in ("max_speed", "camera_speed"):
            if not 0 <= getattr(self, field) <= 0.5:
                raise ValueError(f"{field} is {getattr(self, field)}; give a share of the picture per frame, 0 to 0.5.")
        for field in ("appearing", "leaving"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it is a share of the objects, 0 to 1.")
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; a video has at least one frame.")
        for field in ("clip_length", "clip_stride"):
            value = getattr(self, field)
            if value is not None and not 1 <= value <= self.num_frames:
                raise ValueError(f"{field} is {value}; expected 1 to num_frames, {self.num_frames}.")
            if value is not None and self.frames != "video":
                raise ValueError(f"{field} is {value}, which means nothing with frames='single'; leave it out.")
        if self.clip_stride and not self.clip_length:
            raise ValueError(f"clip_stride is {self.clip_stride}, but there is no clip_length; give both or neither.")

    @property
    def name(self) -> str:
        """`video_scenes_plain` and so on; `..._frames` for single frames, whose scores say nothing about tracking."""
        return f"video_scenes_{self.background}" + ("_frames" if self.frames == "single" else "")

    def open(self, split: str = "train") -> "VideoDataset":
        """Open one split: `train`, `val` or `test`. Only training samples are clips; the others are whole videos."""
        return VideoDataset(self, split)

    def windows(self, split: str) -> Int[np.ndarray, "w t"]:
        """The frames of each sample that one video of a split gives."""
        frames = np.arange(self.num_frames)
        if self.frames == "single":
            return frames[:, None]
        if split == "train" and self.clip_length:
            starts = np.arange(0, self.num_frames - self.clip_length + 1, self.clip_stride or self.clip_length)
            return starts[:, None] + np.arange(self.clip_length)
        return frames[None]

    def draw_frames(self, key: UInt64[np.ndarray, " b"], frames: Int[np.ndarray, "b t"]) -> RawBatch:
        """Draw these frames of one video per key."""
        (b, t), m, side = frames.shape, self.max_objects, self.image_size
        stamps = self._stamps()
        shape, color = integers(key, "shape", m, len(self.shapes)), integers(key, "color", m, len(self.colors))
        size = integers(key, "size", m, len(self.sizes))
        count = self.min_objects + integers(key, "count", 1, m - self.min_objects + 1)
        present = np.arange(m) < count
        stamp = shape * len(self.sizes) + size
        corner = self._corners(key, frames, stamp, stamps)  # b t m 2, row and column
        color_ids = np.array([_COLOR_NAMES.index(name) for name in self.colors])[color]

        mask = self._masks(corner, stamp, present, stamps)
        image, background = self._background(key, frames)
        image = self._painted(key, frames, image, mask, present, stamp, color_ids, corner)
        visibility = np.stack([(mask == k + 1).sum(axis=(2, 3)) for k in range(m)], axis=2)
        seen = visibility > 0
        boxes = boxes_of_mask(mask.reshape(b * t, side, side), m).reshape(b, t, m, 4)
        extent = np.stack([stamps.height[stamp], stamps.width[stamp]], axis=-1)[:, None]  # b 1 m 2
        middle = (corner + extent / 2)[..., ::-1] / side
        there = present[:, None, :, None]
        batch: RawBatch = {
            "video": image,
            "mask": mask,
            "boxes": np.where(seen[..., None], boxes, np.float32(-1)),
            "visibility": visibility,
            "image_positions": (middle * there).astype(np.float32),
            "num_objects": seen.sum(axis=2),
            "scene_objects": count[:, 0],
            "shape": (np.array([_CLASS_NAMES.index(name) for name in self.shapes])[shape] + 1) * present,
            "color": (color_ids + 1) * present,
            "size": np.array(self.sizes, dtype=np.float32)[size] * present,
            "background": background + 1,
        }
        for name in self.extras:
            step = 1 if name == "forward_flow" else -1
            moved = self._corners(key, frames + step, stamp, stamps) - corner  # b t m 2
            camera = (self._camera(key, frames) - self._camera(key, frames + step))[:, :, None]  # b t 1 2
            motion = np.concatenate([camera, moved], axis=2).astype(np.float32)
            flow = np.take_along_axis(motion, mask.reshape(b, t, -1, 1).astype(np.intp), axis=2)
            batch[name] = np.moveaxis(flow, -1, 2).reshape(b, t, 2, side, side)
        return batch

    def _stamps(self) -> Stamps:
        return cut_shapes(self.image_size, self.shapes, self.sizes)

    def _background_colors(self) -> Float[np.ndarray, "n 3"]:
        return _BACKGROUND_TABLE

    def _painted(
        self,
        key: UInt64[np.ndarray, " b"],
        frames: Int[np.ndarray, "b t"],
        image: UInt8[np.ndarray, "b t h w 3"],
        mask: UInt8[np.ndarray, "b t h w"],
        present: Bool[np.ndarray, "b m"],
        stamp: Int[np.ndarray, "b m"],
        color: Int[np.ndarray, "b m"],
        corner: Int[np.ndarray, "b t m 2"],
    ) -> UInt8[np.ndarray, "b t h w 3"]:
        """Empty pictures with the objects in them; `color` counts the colours of the palette from 0."""
        palette = np.concatenate([np.zeros((len(key), 1, 3), np.uint8), _COLOR_TABLE[color]], axis=1)  # by mask id
        return np.where(mask[..., None] > 0, palette[np.arange(len(key))[:, None, None, None], mask], image)

    def _camera(self, key: UInt64[np.ndarray, " b"], frames: Int[np.ndarray, "b t"]) -> Int[np.ndarray, "b t 2"]:
        """How many rows and columns the camera has moved."""
        velocity = (2 * uniform(key, "camera", 2) - 1) * self.camera_speed * self.image_size  # b 2
        return np.rint(velocity[:, None] * frames[..., None]).astype(np.int64)

    def _corners(
        self,
        key: UInt64[np.ndarray, " b"],
        frames: Int[np.ndarray, "b t"],
        stamp: Int[np.ndarray, "b m"],
        stamps: Stamps,
    ) -> Int[np.ndarray, "b t m 2"]:
        """Row and column of each object's top left corner in the picture; may lie outside."""
        m, side, time = self.max_objects, self.image_size, frames[:, :, None]
        speed, share = self.max_speed * side, uniform(key, "start", 2 * m).reshape(-1, 2, m)
        velocity = (2 * uniform(key, "velocity", 2 * m) - 1).reshape(-1, 2, m) * speed
        enters = uniform(key, "enters", m) < self.appearing
        gate = integers(key, "gate", m, 4)  # which of the four sides
        begin = 1 + uniform(key, "begin", m) * max(self.num_frames / 2 - 1, 0)  # the frame at which it touches the side
        leaves = (uniform(key, "leaves", m) < self.leaving)[:, None]
        inward = (0.5 + uniform(key, "inward", m) / 2) * speed
        corners = []
        for axis, extent in enumerate((stamps.height[stamp], stamps.width[stamp])):
            room = side - extent  # b m: the last corner inside
            way = share[:, axis, None] * room[:, None] + velocity[:, axis, None] * time
            bounced = np.where(leaves, way, _bounce(way, room[:, None]))
            coming = inward[:, None] * (time - begin[:, None]) - extent[:, None]
            coming = np.where((coming < 0) | leaves, coming, _bounce(coming, room[:, None]))
            coming = np.where((gate % 2)[:, None] == 1, room[:, None] - coming, coming)
            through = (enters & (gate // 2 == axis))[:, None]
            corners.append(np.where(through, coming, bounced))
        world = np.rint(np.stack(corners, axis=-1)).astype(np.int64)
        return world - self._camera(key, frames)[:, :, None]

    def _masks(
        self,
        corner: Int[np.ndarray, "b t m 2"],
        stamp: Int[np.ndarray, "b m"],
        present: np.ndarray,
        stamps: Stamps,
    ) -> UInt8[np.ndarray, "b t h w"]:
        """Ids from far to near, on a canvas with margins into which what lies outside is painted."""
        (b, t, m, _), side = corner.shape, self.image_size
        margin = int(max(stamps.height.max(), stamps.width.max()))
        wide = side + 2 * margin
        canvas = np.zeros((b * t, wide * wide), dtype=np.uint8)
        last = wide - np.stack([stamps.height[stamp], stamps.width[stamp]], axis=-1)[:, None]  # b 1 m 2
        row, column = np.moveaxis(np.clip(corner + margin, 0, last), -1, 0)  # b t m
        # The stamps count pixels in rows of one picture; here rows are longer by both margins.
        longer = (stamps.offsets // side) * 2 * margin
        for k in range(m):
            some = np.flatnonzero(np.repeat(present[:, k], t))
            own = np.repeat(stamp[:, k], t)[some]
            first = wide * wide * some + wide * row[:, :, k].ravel()[some] + column[:, :, k].ravel()[some]
            canvas.reshape(-1)[(stamps.offsets + longer)[own] + first[:, None]] = k + 1
        return canvas.reshape(b, t, wide, wide)[:, :, margin : margin + side, margin : margin + side]

    def _background(
        self, key: UInt64[np.ndarray, " b"], frames: Int[np.ndarray, "b t"]
    ) -> tuple[UInt8[np.ndarray, "b t h w 3"], Int[np.ndarray, " b"]]:
        """Empty pictures, and the id of their first colour counted from 0. A pattern moves with the camera."""
        (b, t), side = frames.shape, self.image_size
        first = integers(key, "background", 1, len(BACKGROUNDS))
        second = (first + 1 + integers(key, "second background", 1, len(BACKGROUNDS) - 1)) % len(BACKGROUNDS)
        low, high = self._background_colors()[first[:, 0]], self._background_colors()[second[:, 0]]  # b 3
        if self.background == "plain":
            still = low.astype(np.uint8)[:, None, None, None]
            return np.broadcast_to(still, (b, t, side, side, 3)), first[:, 0]
        texture, rest = np.divmod(pick_texture(key, "pattern", 1, size=side), 4 * side**2)  # b 1
        row, column = np.divmod(rest, 2 * side)
        moved = self._camera(key, frames)
        rows = (row + moved[..., 0])[..., None] + np.arange(side)  # b t h
        columns = (column + moved[..., 1])[..., None] + np.arange(side)
        pattern = texture_bank(side)[texture[..., None, None], rows[..., None] % side, columns[:, :, None] % side]
        blend = _CONTRAST * pattern[..., None]  # b t h w 1
        low, high = low[:, None, None, None], high[:, None, None, None]
        return (low + blend * (high - low)).astype(np.uint8), first[:, 0]


def _bounce(
    way: Float[np.ndarray, "b t m"], room: Int[np.ndarray, "b #t m"] | Float[np.ndarray, "b #t m"]
) -> Float[np.ndarray, "b t m"]:
    """Where something is after a way along an axis with walls at 0 and `room`."""
    return room - np.abs(way % (2 * room) - room)


class VideoDataset(SceneDataset):
    """One split of `VideoScenes`: samples of the same video follow each other."""

    config: VideoScenes

    def __init__(self, config: VideoScenes, split: str):
        super().__init__(config, split)
        self._windows = config.windows(split)
        self._length *= len(self._windows)

    def __getitems__(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> RawBatch:
        """Stacked samples in the order of `indices`."""
        array = np.asarray(indices, dtype=np.int64)
        super().keys(array)  # refuses what lies outside
        frames = self._windows[array % len(self._windows)]
        keys = self.keys(array)
        size = max(_CHUNK // frames.shape[1], 1)
        starts = range(0, max(len(keys), 1), size)
        chunks = [self.config.draw_frames(keys[i : i + size], frames[i : i + size]) for i in starts]
        batch = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
        if self.config.frames == "single":
            with_time = {"video", "mask", "boxes", "visibility", "image_positions", "num_objects", *FLOWS}
            batch = {name: value[:, 0] if name in with_time else value for name, value in batch.items()}
            batch["image"] = batch.pop("video")
        return batch

    def keys(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
        """The keys of the videos of these samples."""
        videos = np.asarray(indices, dtype=np.int64) // len(self._windows)
        split = ("train", "val", "test").index(self.split)
        return scene_keys(seed=self.config.seed, split=split, indices=videos)
