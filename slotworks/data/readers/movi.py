"""MOVi-A to MOVi-E (Greff et al. 2022, arXiv:2203.03570): videos of falling objects, from the official TFDS files.

    shards --threads--> prepared/movi_c-train-128/  --window of frames, or one frame-->  batch

A store holds whole videos, every field with its time axis first. What a sample is, a video, a clip or a single frame,
is decided when the store is read: only the frames that a batch asks for are touched.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from slotworks.data.random import scene_keys, uniform
from slotworks.data.readers.multi_object_datasets import count_objects
from slotworks.data.readers.tfrecord import Example, count_records, read_examples
from slotworks.data.stores.prepared import (
    SPLITS,
    WORKERS,
    CatalogRow,
    OfficialData,
    PreparedData,
    fingerprint,
    in_order,
)
from slotworks.data.stores.store import Row, Store
from slotworks.errors import quote
from slotworks.images import open_picture, reading
from slotworks.json_text import read_json
from slotworks.types import RawBatch, UserError

BUCKET = "gs://kubric-public/tfds"
VERSION = "1.0.0"
MAX_FRAMES = 300  # of a video; the official ones have 24, two seconds

Variant = Literal["a", "b", "c", "d", "e"]
Interpolation = Literal["bicubic", "bilinear", "bilinear_no_antialias"]
Extra = Literal["forward_flow", "backward_flow", "depth"]
MAX_OBJECTS: dict[Variant, int] = {"a": 10, "b": 10, "c": 10, "d": 23, "e": 23}
EXTRAS: tuple[Extra, ...] = ("forward_flow", "backward_flow", "depth")
MODES = {"video": "RGB", "segmentations": "L", "depth": "I;16"}  # of the pictures, as Pillow calls them

# What is stored beside images, masks and boxes, if the first record has it; official names and shapes of one value.
TRACKS = {
    "visibility": (),
    "image_positions": (2,),
    "positions": (3,),
    "quaternions": (4,),
    "velocities": (3,),
    "angular_velocities": (3,),
    "bboxes_3d": (8, 3),
}  # per object and frame
LABELS = {
    "shape_label": "shape_label",
    "size_label": "size_label",
    "color_label": "color_label",
    "material_label": "material_label",
    "category": "category_label",  # `category` of a batch means the class of each mask id
    "is_dynamic": "is_dynamic",
}  # per object, with the name of our field
VALUES = {"color": (3,), "scale": (), "mass": (), "friction": (), "restitution": ()}  # per object
CAMERA = {
    "positions": (3,),
    "quaternions": (4,),
    "focal_length": (),
    "sensor_width": (),
    "field_of_view": (),
}

PER_FRAME = {"image", "mask", "num_objects", "boxes", *TRACKS, "camera_positions", "camera_quaternions", *EXTRAS}


@dataclass(frozen=True)
class MOVi(OfficialData):
    """MOVi: 24 frames of 3 to 10 simple shapes (A, B), scanned things (C), or 11 to 23 of them (D, E: moving camera).

    Expects the official files as TFDS lays them out, `root/movi_c/128x128/1.0.0/movi_c-train.tfrecord-00000-of-...`.
    Files of one's own in the same format may hold videos of 1 to 300 frames, equally many in all of a split.

    Splits: train, val (`validation`: on it the tables of SAVi, DINOSAUR and SPOT are measured) and test, whose scenes
    consist of objects and backgrounds that the others lack. MOVi-A and B have no test files: `open("test")` gives their
    validation videos.

    A sample is
      * a video, `frames="video"`. With `clip_length`, training samples are windows of so many frames that begin every
        `clip_stride` frames: 6 for SAVi, 3 for STEVE, both without overlap; a stride of 1 gives every window. Windows
        are counted as samples of their own, so only their frames are read, and the order of samples alone says which
        window is seen when. Other splits always give whole videos.
      * one frame, `frames="single"`: an image like those of any other data set. Training takes all frames, or
        `frames_per_video` of each video that `frame_seed` chooses once, as SPOT does (9; DINOSAUR's code draws another
        9 in every epoch, which in the long run is all frames). Other splits give every frame, video after video.

    Images are resized from `resolution` to `image_size` and masks to `mask_size` while the store is made. `bicubic` and
    `bilinear` are Pillow's, which antialias; `bilinear_no_antialias` is what `tf.image.resize` and so SAVi do. Masks:
    nearest, with the pixel-centre rule. The official 128x128 files average 2x2 pixels of images and keep the first one
    of masks, flow and depth, so they are not the 256x256 files made small here. DINOSAUR's and SPOT's scripts take the
    128x128 files and enlarge them to 224.

    Fields of a batch, `t` absent for single frames, whose pictures are called `image`: `video` uint8 `b t h w 3`;
    `mask` uint8 `b t h w`, an object has the same number in all frames; `boxes` float32 `b t m 4`, `x0 y0 x1 y1`, all
    -1 where the object is not seen (the official order is y x y x, and SAVi writes zeros); `num_objects` `b t`, objects
    with a pixel in the stored mask of that frame; `scene_objects` `b`, those of the scene. Per object, mask id `k` in
    row `k - 1`: `visibility` (pixels at 256x256 whatever the resolution), `image_positions` (x, y), `positions`,
    `quaternions`, `velocities`, `angular_velocities`, `bboxes_3d`, all `b t m ...`; `shape_label`, `size_label`,
    `color_label`, `material_label`, `category_label`, `is_dynamic` (integers `b m`, -1 for rows without an object),
    `color`, `scale`, `mass`, `friction`, `restitution`, where the files have them (the names behind the numbers are in
    the store's index.json). `camera_positions`, `camera_quaternions`, `camera_field_of_view` and so on;
    `background_color` (B). Objects are sorted by visibility; were there more than `max_objects`, the least visible
    would have no row, but keep their number in the mask.

    `extras` adds `forward_flow` and `backward_flow`, float32 `b t 2 h w`, in pixels of the image, rows first; `depth`,
    float32 `b t h w`, the distance to the camera's centre. Each has a store of its own, so they can be prepared later
    and deleted, and keeps the official 16 bits with their range; resizing is bilinear without antialiasing, as SAVi's.
    """

    root: str = "data/movi"  # folder of the official files, and of what is prepared from them
    variant: Variant = "a"  # which of the official variants
    resolution: str = "128x128"  # of the official files: 128x128 or 256x256
    image_size: int | None = None  # pixels; None: as the official files
    mask_size: int | None = None  # pixels; None: as the images
    interpolation: Interpolation = "bicubic"  # of images that are resized
    frames: Literal["video", "single"] = "video"  # whole videos, or each frame as an image of its own
    clip_length: int | None = None  # frames of a training sample; None: the whole video
    clip_stride: int | None = None  # frames from the start of a window to that of the next; None: clip_length
    frames_per_video: int | None = None  # single frames of a video that training sees; None: all
    frame_seed: int = 0  # which ones
    extras: tuple[Extra, ...] = ()  # further maps of each frame

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in MAX_OBJECTS:
            raise ValueError(f"variant is {self.variant!r}; expected one of {', '.join(MAX_OBJECTS)}.")
        if not re.fullmatch(r"([1-9]\d{0,3})x\1", self.resolution):
            raise ValueError(f"resolution is {self.resolution!r}; expected the name of a folder, such as '128x128'.")
        if self.interpolation not in ("bicubic", "bilinear", "bilinear_no_antialias"):
            raise ValueError(
                f"interpolation is {self.interpolation!r}; expected bicubic, bilinear or bilinear_no_antialias."
            )
        if self.frames not in ("video", "single"):
            raise ValueError(f"frames is {self.frames!r}; expected 'video' or 'single'.")
        if unknown := sorted(set(self.extras) - set(EXTRAS)):
            raise ValueError(f"extras holds {unknown[0]!r}; expected some of {', '.join(EXTRAS)}.")
        for name, fitting in (("clip_length", "video"), ("clip_stride", "video"), ("frames_per_video", "single")):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_FRAMES:
                raise ValueError(f"{name} is {value}; expected 1 to {MAX_FRAMES} frames.")
            if value is not None and self.frames != fitting:
                raise ValueError(f"{name} is {value}, which means nothing with frames={self.frames!r}; leave it out.")
        if self.clip_stride and not self.clip_length:
            raise ValueError(f"clip_stride is {self.clip_stride}, but there is no clip_length; give both or neither.")

    @property
    def name(self) -> str:
        """`movi_a` and so on; `movi_a_frames` for single frames, whose scores say nothing about tracking."""
        return f"movi_{self.variant}" + ("_frames" if self.frames == "single" else "")

    @property
    def official_size(self) -> int:
        """Height and width of the official files."""
        return int(self.resolution.partition("x")[0])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images of a batch."""
        return self.image_size or self.official_size, self.image_size or self.official_size

    @property
    def mask_shape(self) -> tuple[int, int]:
        """Height and width of the masks."""
        return (self.mask_size, self.mask_size) if self.mask_size else self.size

    @property
    def max_objects(self) -> int:
        """Ten for A, B and C; 20 at rest and 3 thrown for D and E."""
        return MAX_OBJECTS[self.variant]

    @property
    def official_splits(self) -> dict[str, str]:
        """Our names of splits to the official ones."""
        test = "test" if self.variant in ("c", "d", "e") else "validation"
        return {"train": "train", "val": "validation", "test": test}

    def parts(self) -> Sequence[PreparedData]:
        """One for each official split, and one more for each of the extras."""
        return [part for split in dict.fromkeys(self.official_splits.values()) for part in self._contents(split)]

    def part(self, split: str) -> PreparedData:
        """The one with the images of a split."""
        return self._contents(self.official_splits[split])[0]

    def _contents(self, official_split: str) -> "list[MOViSplit]":
        return [MOViSplit(self.root, self, official_split, content) for content in ("video", *self.extras)]

    def open(self, split: str = "train") -> "Clips":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open one split: `train`, `val` or `test`. The first call prepares its stores.

        Raises:
            UserError: official files are missing or damaged, or stores were made from different files.
            ValueError: there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
        stores = [Store(part.prepare()) for part in self._contents(self.official_splits[split])]
        for store in stores[1:]:
            if store.index["source"] != stores[0].index["source"]:
                raise UserError(
                    f"{store.path} was made from other official files than {stores[0].path}; delete one of the two and "
                    "prepare it again."
                )
        count, length = stores[0].arrays["image"].shape[:2]
        for name in ("clip_length", "frames_per_video"):
            value = getattr(self, name)
            if value is not None and value > length:
                raise UserError(f"{name} is {value}, but the videos of {stores[0].path} have {length} frames.")
        frames = self._samples(count, length) if split == "train" else self._everything(count, length)
        videos = np.repeat(np.arange(count), len(frames) // count)
        return Clips(stores, videos, frames)

    def _everything(self, count: int, length: int) -> Int64[np.ndarray, "s *t"]:
        """The frames of each sample of whole videos: all of them together, or one by one."""
        frames = np.tile(np.arange(length), (count, 1))
        return frames.reshape(-1) if self.frames == "single" else frames

    def _samples(self, count: int, length: int) -> Int64[np.ndarray, "s *t"]:
        """The frames of each training sample, samples of the same video one after the other, equally many of each."""
        if self.frames_per_video:
            draws = uniform(scene_keys(seed=self.frame_seed, split=0, indices=np.arange(count)), "frames", length)
            return np.sort(draws.argsort(axis=1, kind="stable")[:, : self.frames_per_video], axis=1).reshape(-1)
        if self.clip_length:
            starts = np.arange(0, length - self.clip_length + 1, self.clip_stride or self.clip_length)
            return np.tile(starts[:, None] + np.arange(self.clip_length), (count, 1))
        return self._everything(count, length)


@dataclass(frozen=True)
class MOViSplit(PreparedData):
    """The prepared store of one official split: its videos with masks and properties, or one of the extras."""

    data: MOVi
    split: str
    content: Literal["video"] | Extra = "video"

    @property
    def name(self) -> str:
        """That of the data set."""
        return self.data.name

    @property
    def size(self) -> tuple[int, int]:
        """That of the data set."""
        return self.data.size

    @property
    def store_name(self) -> str:
        """Holds every setting that changes the stored values; how samples are made of videos is none of them."""
        data = self.data
        words = [f"movi_{data.variant}", self.split, *([] if self.content == "video" else [self.content])]
        words.append(str(data.size[0]))
        resized = [data.size[0] != data.official_size]
        if self.content == "video" and data.mask_shape != data.size:
            words.append(f"mask{data.mask_shape[0]}")
            resized.append(data.mask_shape[0] != data.official_size)
        if any(resized):
            words.append(f"from{data.official_size}")
        if resized[0] and self.content == "video" and data.interpolation != "bicubic":
            words.append(data.interpolation)
        return "-".join(words)

    @property
    def official(self) -> Path:
        """The folder of the official files; all splits lie in one."""
        return Path(self.root) / f"movi_{self.data.variant}" / self.data.resolution / VERSION

    @property
    def num_images(self) -> int | None:
        """How many videos the split has according to `dataset_info.json`, if that is there."""
        lengths = self._stated_lengths()
        return None if lengths is None else sum(lengths)

    @property
    def settings(self) -> dict[str, Any]:
        """Sizes, interpolation, and the names behind the numbers of labels as the official files give them."""
        sizes = {"official_size": self.data.official_size, "size": self.data.size[0]}
        if self.content != "video":
            return {**sizes, "interpolation": "bilinear, no antialiasing", "value": "v / 65535 * (max - min) + min"}
        files = {field: self.official / f"instances-{key}.labels.txt" for key, field in LABELS.items()}
        names = {field: _read_text(file).splitlines() for field, file in files.items() if file.is_file()}
        masks = {"mask_size": self.data.mask_shape[0], "mask": "nearest, pixel centres"}
        return {**sizes, **masks, "image": self.data.interpolation, "names": names}

    @cached_property
    def shards(self) -> Sequence[Path]:
        """The official files of the split, in order; raises UserError if one is missing, which it names."""
        folder, name = self.official, f"movi_{self.data.variant}"
        get = f"Get it with `gsutil -m cp -r {BUCKET}/{name}/{self.data.resolution} {folder.parent.parent}`"
        if not folder.is_dir():
            others = sorted(path.parent.name for path in folder.parent.parent.glob(f"*/{VERSION}"))
            if others:
                raise UserError(
                    f"{folder} is missing, but there is {', '.join(others)}; set resolution to one of these, or {get}."
                )
            raise UserError(f"{folder} is missing. {get}.")
        pattern = re.compile(rf"{name}-(\w+)\.tfrecord-(\d{{5}})-of-(\d{{5}})")
        found = [match for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
        own = sorted((match for match in found if match[1] == self.split), key=lambda match: match[0])
        if not own:
            splits = ", ".join(sorted({match[1] for match in found})) or "no shards at all"
            raise UserError(f"{folder} holds no files of the split {self.split!r}, only {splits}. {get}.")
        total = own[0][3]
        if other := next((match[0] for match in own if match[3] != total), None):
            raise UserError(f"{folder} holds both {own[0][0]} and {other}; keep one set of shards, the official one.")
        names = {match[0] for match in own}
        for number in range(int(total)):
            if (wanted := f"{name}-{self.split}.tfrecord-{number:05d}-of-{total}") not in names:
                raise UserError(f"{folder / wanted} is missing. {get}.")
        return [folder / match[0] for match in own]

    def source(self) -> dict[str, Any]:
        """Number and size of the shards, and a fingerprint of the first and the last; errors as `shards`."""
        ends = [fingerprint(path) for path in (self.shards[0], self.shards[-1])]
        crc = google_crc32c.value(json.dumps(ends, sort_keys=True).encode())
        size = sum(path.stat().st_size for path in self.shards)
        name = f"movi_{self.data.variant}/{self.data.resolution}/{VERSION} {self.split}"
        return {"name": name, "shards": len(self.shards), "bytes": size, "crc32c_of_ends": crc}

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row per video; raises UserError at a missing, shortened or damaged shard."""
        first = next(read_examples(self.shards[0]))
        names, length = frozenset(first.features), _frames(first)
        yield from in_order(lambda example: self.decode(example, names, length), self._examples(start), WORKERS)

    def _examples(self, start: int) -> Iterator[Example]:
        stated = self._stated_lengths()
        if stated and len(stated) != len(self.shards):
            raise UserError(
                f"{self.official} holds {len(self.shards)} shards of the split {self.split!r}, but dataset_info.json "
                f"speaks of {len(stated)}; get the folder again."
            )
        for number, path in enumerate(self.shards):
            count = count_records(path)
            if stated and count != stated[number]:
                raise UserError(
                    f"{path} holds {count} videos, but dataset_info.json says {stated[number]}; get the file again."
                )
            if start < count:
                yield from read_examples(path, start=start)
            start = max(0, start - count)

    def _stated_lengths(self) -> list[int] | None:
        """Videos of each shard as `dataset_info.json` says."""
        file = self.official / "dataset_info.json"
        if not file.is_file():
            return None
        try:
            splits = {split["name"]: split["shardLengths"] for split in read_json(_read_text(file))["splits"]}
            return [int(length) for length in splits[self.split]] if self.split in splits else None
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise UserError(f"{file} is damaged ({quote(error)}); get it again, or delete it.") from error

    def split_rows(self, store: Store, split: str) -> np.ndarray:
        """All: the store holds one split."""
        return np.arange(len(store))

    def decode(self, example: Example, names: frozenset[str] | None = None, length: int | None = None) -> Row:
        """One record as stored values.

        Args:
            example: the record.
            names: the features a row is made of, if they exist; those of this record by default.
            length: of all videos of the split; that of this record by default.
        """
        side, found = self.data.official_size, _frames(example)
        if length is not None and found != length:
            raise UserError(
                f"{example.where} is a video of {found} frames, the first one has {length}; a store holds videos of "
                "one length, so write them to folders of their own, or get the files again."
            )
        for key, expected in (("width", side), ("height", side)):
            found = int(example.ints(f"metadata/{key}", (1,))[0])
            if found != expected:
                raise UserError(
                    f"{example.where} has a {key} of {found}, expected {expected} as in {self.official}; get the files "
                    "of this resolution again."
                )
        if self.content == "video":
            return self._video(example, frozenset(example.features) if names is None else names)
        return self._extra(example, self.content)

    def _video(self, example: Example, names: frozenset[str]) -> Row:
        """Images, masks and all properties, the time axis first."""
        side, data, length = self.data.official_size, self.data, _frames(example)
        count = int(example.ints("metadata/num_instances", (1,))[0])
        if not 0 <= count <= 255:
            raise UserError(f"{example.where} has {count} objects, expected 0 to 255; get the file again.")
        masks = np.stack([np.asarray(picture) for picture in _pictures(example, "segmentations", side)])
        if data.mask_shape[0] != side:
            nearest = ((np.arange(data.mask_shape[0]) + 0.5) * side / data.mask_shape[0]).astype(np.int64)
            masks = masks[:, nearest[:, None], nearest]
        row: Row = {
            "image": _resize(_pictures(example, "video", side), data.size[0], data.interpolation),
            "mask": masks,
            "num_objects": np.stack([count_objects(mask) for mask in masks]),
            "scene_objects": np.asarray(count, np.uint8),
            "boxes": self._boxes(example, count),
        }
        for key, shape in TRACKS.items():
            if (name := f"instances/{key}") in names:
                read = example.ints if key == "visibility" else example.floats
                values = read(name, (count, length, *shape)).swapaxes(0, 1)
                if key == "visibility":
                    values = _checked(example, name, values, 65535).astype(np.int32)
                row[key] = _padded(values, data.max_objects, axis=1, fill=0)
        for key, field in LABELS.items():
            if (name := f"instances/{key}") in names:
                labels = _checked(example, name, example.ints(name, (count,)), 127).astype(np.int8)
                row[field] = _padded(labels, data.max_objects, axis=0, fill=-1)
        for key, shape in VALUES.items():
            if (name := f"instances/{key}") in names:
                row[key] = _padded(example.floats(name, (count, *shape)), data.max_objects, axis=0, fill=0)
        for key, shape in CAMERA.items():
            if (name := f"camera/{key}") in names:
                row[f"camera_{key}"] = example.floats(name, (length, *shape) if shape else ())
        for name in ("background_color", "metadata/background_color"):
            if name in names:
                row["background_color"] = example.floats(name, (3,))
        return row

    def _boxes(self, example: Example, count: int) -> Float32[np.ndarray, "t m 4"]:
        """Boxes at their frames; the files hold those of all objects one after the other, and how many of each."""
        length = _frames(example)
        lengths = example.ints("instances/bbox_frames/ragged_row_lengths_0", (count,))
        again = example.ints("instances/bboxes/ragged_row_lengths_0", (count,))
        total = int(_checked(example, "instances/bbox_frames/ragged_row_lengths_0", lengths, length).sum())
        frames = example.ints("instances/bbox_frames/ragged_flat_values", (total,))
        frames = _checked(example, "instances/bbox_frames/ragged_flat_values", frames, length - 1)
        values = example.floats("instances/bboxes/ragged_flat_values", (total, 4))
        if not (lengths == again).all() or not ((values > -1e-3) & (values < 1 + 1e-3)).all():
            raise UserError(f"{example.where}: the bounding boxes are damaged; get the file again.")
        boxes = np.full((length, max(count, self.data.max_objects), 4), -1, np.float32)
        boxes[frames, np.repeat(np.arange(count), lengths)] = values[:, [1, 0, 3, 2]].clip(0, 1)
        return boxes[:, : self.data.max_objects]

    def _extra(self, example: Example, content: Extra) -> Row:
        """Flow or depth as 16 bits and the range they span."""
        side, size, length = self.data.official_size, self.data.size[0], _frames(example)
        span = example.floats(f"metadata/{content}_range", (2,))
        if not np.isfinite(span).all():
            raise UserError(f"{example.where}: feature 'metadata/{content}_range' is damaged; get the file again.")
        if content == "depth":
            values = np.stack([np.asarray(picture) for picture in _pictures(example, "depth", side)])
        else:
            values = example.ints(content, (length, side, side, 2))
            values = _checked(example, content, values, 65535)
            span = span * np.float32(size / side)  # in pixels of the resized image
        if size != side:  # the weights of interpolation sum to one, so the range stays
            planes = torch.from_numpy(values.reshape(length, side, side, -1).astype(np.float32))
            values = _interpolate(planes, size).round().numpy().reshape(length, size, size, *values.shape[3:])
        return {content: values.astype(np.uint16), f"{content}_range": span}


class Clips:
    """Videos, windows of them or single frames of prepared videos, as a `Dataset`.

    Args:
        stores: the videos, and stores with other fields of the same videos.
        videos: for each sample the number of its video.
        frames: for each sample its frames: `s t` for clips, `s` for single frames.
    """

    def __init__(self, stores: Sequence[Store], videos: Int64[np.ndarray, " s"], frames: Int64[np.ndarray, "s *t"]):
        self.stores, self.videos, self.frames = list(stores), videos, frames

    def __len__(self) -> int:
        return len(self.videos)

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        """Stacked samples in the order of `indices`; of every video only the frames that are asked for are read."""
        chosen = np.asarray(indices, np.int64)
        videos, frames = self.videos[chosen], self.frames[chosen]
        rows = videos.reshape(-1, *[1] * (frames.ndim - 1))
        batch: RawBatch = {}
        for store in self.stores:
            for name, array in store.arrays.items():
                batch[name] = array[rows, frames] if name in PER_FRAME else array[videos]
        for name in EXTRAS:
            if name in batch:
                batch[name] = _decoded(batch[name], batch.pop(f"{name}_range"))
        if self.frames.ndim > 1:
            batch["video"] = batch.pop("image")
        return batch

    def verify(self) -> None:
        """Recompute the checksum of every field of every store; raises UserError for a damaged one."""
        for store in self.stores:
            store.verify()


def _decoded(values: np.ndarray, span: Float32[np.ndarray, "b 2"]) -> Float32[np.ndarray, "b ..."]:
    """16 bits to what they stand for; flow gets its two directions before height and width, as images of a batch."""
    low, high = (end.reshape(-1, *[1] * (values.ndim - 1)) for end in span.T)
    decoded = values.astype(np.float32)
    decoded *= (high - low) / np.float32(65535)
    decoded += low
    return np.moveaxis(decoded, -1, -3) if values.shape[-1] == 2 else decoded


def _frames(example: Example) -> int:
    """How many frames a video states to have.

    Raises:
        UserError: if that cannot be.
    """
    found = int(example.ints("metadata/num_frames", (1,))[0])
    if not 1 <= found <= MAX_FRAMES:
        raise UserError(f"{example.where} states {found} frames, expected 1 to {MAX_FRAMES}; get the file again.")
    return found


def _pictures(example: Example, name: str, side: int) -> Iterator[Image.Image]:
    """The frames of a video feature, decoded."""
    strings, length = example.strings(name), _frames(example)
    if len(strings) != length:
        raise UserError(
            f"{example.where}: feature {name!r} has {len(strings)} frames, expected {length}; is this the right file?"
        )
    for number, string in enumerate(strings):
        where = f"{example.where}: frame {number} of {name!r}"
        with reading(where, otherwise="get the file again"):
            # checksums inside PNG are not asked for: the record's own covers them
            picture = open_picture(string, name=where, formats=["PNG"], verify=False)
            fits = picture.size == (side, side) and picture.mode == MODES[name]
            if fits:
                picture.load()
        if not fits:
            raise UserError(
                f"{where} is a {picture.mode} picture of {picture.width} x {picture.height} pixels, expected "
                f"{MODES[name]} of {side} x {side}; is this the right file?"
            )
        yield picture


def _resize(
    pictures: Iterator[Image.Image], size: int, interpolation: Interpolation
) -> UInt8[np.ndarray, "t {size} {size} 3"]:
    """Frames as one array of the size that is stored."""
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    if interpolation in filters:  # Pillow returns a copy where the size stays
        return np.stack([np.asarray(picture.resize((size, size), filters[interpolation])) for picture in pictures])
    frames = np.stack([np.asarray(picture) for picture in pictures])
    if frames.shape[1] == size:
        return frames
    return _interpolate(torch.from_numpy(frames).float(), size).round().to(torch.uint8).numpy()


def _interpolate(frames: torch.Tensor, size: int) -> torch.Tensor:
    """`t h w c` bilinearly between pixel centres, without antialiasing."""
    planes = frames.permute(0, 3, 1, 2)
    return F.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def _padded(values: np.ndarray, count: int, *, axis: int, fill: int) -> np.ndarray:
    """Exactly `count` rows of objects: the rest filled, or cut off."""
    values = values.take(np.arange(min(count, values.shape[axis])), axis)
    missing = [(0, count - values.shape[i] if i == axis else 0) for i in range(values.ndim)]
    return np.pad(values, missing, constant_values=fill)


def _checked(example: Example, name: str, values: np.ndarray, largest: int) -> np.ndarray:
    """Integers that must lie between 0 and `largest`."""
    if values.size and (values.min() < 0 or values.max() > largest):
        raise UserError(
            f"{example.where}: feature {name!r} holds {int(values.max() if values.min() >= 0 else values.min())}, "
            f"expected 0 to {largest}; get the file again."
        )
    return values


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); get it again.") from error


_SAME, _OTHERS = "the same 250; videos of 24 frames", "about 1,000 with other objects and backgrounds"
TESTS: dict[Variant, str] = {"a": _SAME, "b": _SAME, "c": _OTHERS, "d": _OTHERS, "e": _OTHERS}
ROWS = tuple(
    CatalogRow(
        partial(MOVi, variant=variant),
        disk="about 16 GB at 128x128, masks and boxes included",
        licence="see source (the generator is under Apache-2.0)",
        splits=f"train about 9,700, val 250 (validation), test {test}",
        background="floor and surroundings",
        overlaps="a pixel belongs to the visible object; ids stay the same over time",
        files=(f"movi_{variant}",),
        origin=f"{BUCKET}/movi_{variant}",
    )
    for variant, test in TESTS.items()
)
