"""Collages: cut-outs of photographs on photographs, with exact masks, classes and captions.

    cut-outs (RGBA) --place, size, mirror, light--> + shadow on a background, photographed or drawn --> image, mask

A collage is made when it is asked for, and is a function of `seed`, the split, its number and the files of the split.
Objects are placed one after the other, far to near, each at that of `TRIES` places where it covers least of the others;
every object keeps at least `MIN_VISIBLE` of its pixels, else the collage is made anew, at last with smaller objects.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64
from PIL import Image, ImageFilter

from slotworks import progress
from slotworks.data.random import derive, integers, uniform
from slotworks.data.scenes.base import SPLITS, SceneConfig, SceneDataset, boxes_of_mask
from slotworks.data.scenes.shapes import MIN_VISIBLE, phrase
from slotworks.data.stores.prepared import WORKERS, in_order, say
from slotworks.images import find_images, open_picture, read_image, reading
from slotworks.types import RawBatch, UserError

TRIES = 8  # places looked at for each object
NO_CLASS = "object"  # of cut-outs that lie in no folder of their own
OPAQUE = 128  # an alpha from here on is the object
RESTARTS = 12  # collages tried before objects become smaller
SHRINK = 0.8  # by how much

_KEPT = 256  # cut-outs that stay in memory, each as large as the collage at most


@dataclass(frozen=True)
class CollageScenes(SceneConfig):
    """Cut-outs on backgrounds: `image`, `mask` ids 1 to `m` from far to near, `class_mask`, and per object:

    `boxes` `m 4` of the visible pixels as `x0 y0 x1 y1` in [0, 1]; `classes` `m`, the class id; `size` `m`, the root of
    the cut-out's width times height, as a share of the image; `x` (across) and `y` (down) `m`, the middle of the whole
    cut-out in [0, 1]; `depth` `m`, 1 for the nearest object; `visibility` `m`, 1 for an object that exists. Row `k`
    describes mask id `k + 1`; rows of absent objects are zero. `num_objects` is one number per image; with `captions`,
    `caption` holds UTF-8 bytes, zeros behind the end.

    `cutouts` is a folder of pictures with transparency (PNG, WebP, ...). The class of one is the first folder that it
    lies in, below `cutouts`; ids count from 1 in the order of the names. A pixel is the object's where its alpha is
    128 or more.

    Each cut-out and each background belongs to one split: to that of the folder where folders `train`, `val` and `test`
    lie in `cutouts` or `backgrounds`, else to one that follows from its name alone (SHA-256), so that files which come
    later move no other. Only where that leaves a split empty it gets the file nearest to it.

    Raises:
        ValueError: if a number is out of range.
    """

    cutouts: str = "data/cutouts"  # folder of cut-outs; class = first folder below
    backgrounds: str | None = None  # folder of photographs; None: all backgrounds are drawn
    num_train: int = 2_000  # images
    image_size: int = 224  # pixels, square
    mask_size: int | None = None  # pixels, square; None: as the image
    min_objects: int = 1  # fewest objects in one collage
    max_objects: int = 6  # pyright: ignore[reportIncompatibleMethodOverride]
    """most objects in one collage"""
    sizes: tuple[float, float] = (0.28, 0.6)  # of the objects, shares of the image; smaller where more than 3 are
    mirror: bool = True  # every second cut-out and background, left to right
    light: float = 0.25  # by how much brightness and colour of an object may vary, as a share
    shadow: float = 0.5  # share of the collages whose objects throw a shadow
    drawn_share: float = 0.3  # share of the backgrounds that are drawn although there are photographs
    background_blur: tuple[float, float] = (0.018, 0.054)  # of photographs behind objects, as a share of the image
    val_fraction: float = 0.1  # share of cut-outs and backgrounds for validation
    test_fraction: float = 0.2  # share of cut-outs and backgrounds for tests
    captions: bool = False  # also a caption in each batch

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_objects <= self.max_objects <= 255:
            raise ValueError(
                f"min_objects is {self.min_objects} and max_objects is {self.max_objects}; "
                "give 0 <= min_objects <= max_objects and 1 <= max_objects <= 255."
            )
        if not 0 < self.sizes[0] <= self.sizes[1] <= 1:
            raise ValueError(f"sizes is {self.sizes}; give the smallest and the largest as shares of the image.")
        if not 0 <= self.background_blur[0] <= self.background_blur[1] <= 1:
            raise ValueError(f"background_blur is {self.background_blur}; give two shares of the image, smaller first.")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction is {self.val_fraction} and test_fraction {self.test_fraction}; expected shares that "
                "leave something to train on."
            )

    @property
    def name(self) -> str:  # noqa: D102
        return "collages"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each id from 1 on; of all splits, so that ids are the same in each."""
        return tuple(sorted(set(classes_of(self._known[0], Path(self.cutouts)).values())))

    @property
    def class_ids(self) -> dict[Path, int]:
        """The class id of each cut-out."""
        ids = {name: number for number, name in enumerate(self.class_names, 1)}
        return {file: ids[name] for file, name in classes_of(self._known[0], Path(self.cutouts)).items()}

    def open(self, split: str = "train") -> "CollageDataset":
        """Open one split; looks at all cut-outs once. What is left out is counted and named.

        Raises:
            ValueError: for an unknown split.
            UserError: a folder is missing or holds nothing of use for this split.
        """
        return CollageDataset(self, split)

    @cached_property
    def _known(self) -> tuple[list[Path], list[Path]]:
        """The cut-outs and the backgrounds of all splits."""
        folder = Path(self.cutouts)
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; data.cutouts names one with pictures that have transparency.")
        found, notes = find_images([folder], results=True)
        wrong = [fault for fault in _look_at(tuple(found)) if fault]
        for note in notes:
            say(note)
        if wrong:
            named = " ".join(wrong[:3])
            more = f" And {len(wrong) - 3:,} others." if len(wrong) > 3 else ""
            say(f"{len(wrong):,} of {len(found):,} pictures in {folder} are left out: {named}{more}")
        good = [file for file, fault in zip(found, _look_at(tuple(found)), strict=True) if not fault]
        if not good:
            raise UserError(f"No picture in {folder} is a cut-out: {wrong[0]}")
        if self.backgrounds is None:
            return good, []
        if not Path(self.backgrounds).is_dir():
            raise UserError(
                f"{self.backgrounds} is not a folder; data.backgrounds names one with photographs, or none."
            )
        behind, notes = find_images([Path(self.backgrounds)])
        for note in notes:
            say(note)
        return good, behind

    def files(self, split: str) -> tuple[list[Path], list[Path]]:
        """The cut-outs and the backgrounds of a split, by name.

        Raises:
            UserError: there are too few for it.
        """
        shares = {"val": self.val_fraction, "test": self.test_fraction}
        cutouts, backgrounds = self._known
        chosen = share_out(cutouts, Path(self.cutouts), shares)[split]
        behind = share_out(backgrounds, Path(self.backgrounds or ""), shares)[split] if backgrounds else []
        for folder, found, all_found in ((self.cutouts, chosen, cutouts), (self.backgrounds, behind, backgrounds)):
            if all_found and not found:
                raise UserError(
                    f"{folder} holds {len(all_found)} of the pictures that collages are made of and none for the split "
                    f"{split!r}: each belongs to one split; add some, or raise data.{split}_fraction."
                )
        return chosen, behind


class CollageDataset(SceneDataset):
    """One split of `CollageScenes`: batches as everywhere, and a caption per image."""

    config: CollageScenes

    def __init__(self, config: CollageScenes, split: str):
        super().__init__(config, split)
        self.cutouts, self.backgrounds = config.files(split)
        self.class_names = config.class_names
        self._classes = np.array([config.class_ids[file] for file in self.cutouts])

    @property
    def source(self) -> dict[str, Any]:
        """Number, names and lengths of the files of this split: what the collages depend on beside the settings."""
        known: dict[str, Any] = {}
        of = (
            ("cutouts", self.config.cutouts, self.cutouts),
            ("backgrounds", self.config.backgrounds, self.backgrounds),
        )
        for name, root, files in of:
            lines = (f"{file.relative_to(root or '').as_posix()} {file.stat().st_size}\n" for file in files)
            text = "".join(lines).encode("utf-8", "surrogateescape")
            known[name] = {"files": len(files), "crc32c": google_crc32c.value(text)}
        return known

    def __getitems__(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> RawBatch:
        made = [self._make(key) for key in self.keys(indices)[:, None]]
        if not made:
            return {name: value[:0] for name, value in self.__getitems__([0]).items()}
        texts = [one.pop("caption").tobytes() for one in made] if self.config.captions else []
        batch = {name: np.stack([one[name] for one in made]) for name in made[0]}
        batch["boxes"] = boxes_of_mask(batch["mask"], self.config.max_objects)
        if texts:
            width = max(map(len, texts))
            padded = b"".join(text.ljust(width, b"\0") for text in texts)
            batch["caption"] = np.frombuffer(bytearray(padded), np.uint8).reshape(len(texts), width)
        return batch

    def caption(self, index: int) -> str:
        """The collage in words, from far to near: "a dog and two cups on a photograph"."""
        key = self.keys([index])
        return self._caption(self._chosen(key), drawn=self._drawn(key))

    def _caption(self, chosen: Int[np.ndarray, " n"], *, drawn: bool) -> str:
        names = [singular(self.class_names[self._classes[i] - 1].replace("_", " ")) for i in chosen]
        phrases = [phrase(name, number) for name, number in Counter(names).items()] or ["nothing"]
        what = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
        return f"{what} on {'a plain background' if drawn else 'a photograph'}"

    def _chosen(self, key: UInt64[np.ndarray, "1"]) -> Int[np.ndarray, " n"]:
        """Numbers of the cut-outs of a collage."""
        low, high = self.config.min_objects, self.config.max_objects
        count = low + _integer(key, "count", high - low + 1)
        return integers(key, "cutout", count, len(self.cutouts))[0]

    def _drawn(self, key: UInt64[np.ndarray, "1"]) -> bool:
        return not self.backgrounds or _number(key, "drawn") < self.config.drawn_share

    def _make(self, key: UInt64[np.ndarray, "1"]) -> RawBatch:
        """One collage, without `boxes`."""
        config, side, m = self.config, self.config.image_size, self.config.max_objects
        mask_side = config.mask_size or side
        chosen = self._chosen(key)
        whole = [_cutout(self.cutouts[i], side) for i in chosen]
        placed, flipped, mask = self._place(key, whole)
        image = self._background(key)
        shadow = self._shadow(key) if _number(key, "shadow") < config.shadow else None
        light = (config.light * (2 * uniform(key, "light", 2 * len(chosen)) - 1)[0].reshape(-1, 2)).tolist()
        for cutout, (left, top, width, height), mirrored, (bright, warm) in zip(
            whole, placed, flipped, light, strict=True
        ):
            at = (round(left * side), round(top * side))
            own = _resized(cutout, (width, height), side, mirrored=mirrored)
            alpha = own.getchannel("A")
            if shadow is not None:
                image = _darkened(image, alpha, at, shadow)
            gains = (1 + bright) * np.array([1 + warm / 4, 1, 1 - warm / 4])
            lit = (np.asarray(own.convert("RGB")) * gains).clip(0, 255).astype(np.uint8)
            image.paste(Image.fromarray(lit), at, alpha)
        if mask_side != side:
            mask = _masks(whole, placed, flipped, mask_side)
        count = len(chosen)
        rows = np.zeros((m, 4), np.float32)
        rows[:count] = placed
        class_ids = np.zeros(m, np.uint8 if len(self.class_names) < 256 else np.int32)
        class_ids[:count] = self._classes[chosen]
        present = np.arange(m) < count
        batch: RawBatch = {
            "image": np.asarray(image),
            "mask": mask,
            "class_mask": np.concatenate([np.zeros(1, class_ids.dtype), class_ids])[mask],
            "classes": class_ids,
            "size": np.sqrt(rows[:, 2] * rows[:, 3]),
            "x": rows[:, 0] + rows[:, 2] / 2,
            "y": rows[:, 1] + rows[:, 3] / 2,
            "depth": (count - np.arange(m)) * present,
            "visibility": present.astype(np.float32),
            "num_objects": np.asarray(count),
        }
        if config.captions:
            text = self._caption(chosen, drawn=self._drawn(key)).encode("utf-8", "replace")
            batch["caption"] = np.frombuffer(text, np.uint8)
        return batch

    def _place(
        self, key: UInt64[np.ndarray, "1"], whole: Sequence[Image.Image]
    ) -> tuple[list[tuple[float, float, float, float]], list[bool], UInt8[np.ndarray, "h w"]]:
        """Left, top, width and height of each cut-out as shares of the image, which are mirrored, and the mask."""
        count, side = len(whole), self.config.image_size
        flipped = [self.config.mirror and lot < 0.5 for lot in uniform(key, "flip", count)[0].tolist()]
        low, high = self.config.sizes
        crowd = min(1.0, math.sqrt(3 / max(count, 1)))
        for restart in range(1000):
            again = derive(key, f"restart {restart}")
            smaller = SHRINK ** (restart // RESTARTS)
            sizes = (low + (high - low) * uniform(again, "size", count)[0]) * crowd * smaller
            mask, placed, areas = np.zeros((side, side), np.uint8), [], []
            for k, cutout in enumerate(whole):
                scale = float(sizes[k]) / math.sqrt(cutout.width * cutout.height)
                scale = min(scale, 0.85 / max(cutout.size))
                width, height = (max(4, round(scale * n * side)) / side for n in cutout.size)
                shape = _shape(_resized(cutout, (width, height), side, mirrored=flipped[k]))
                places = uniform(again, f"place {k}", 2 * TRIES)[0].reshape(TRIES, 2)
                best = None
                for across, down in places:  # an eighth of it may lie outside
                    left = round(((across * (1 - 0.75 * width)) - width / 8) * side)
                    top = round(((down * (1 - 0.75 * height)) - height / 8) * side)
                    there, own = _overlap(mask, shape, left, top)
                    covered = int(np.count_nonzero(there[own]))
                    if best is None or covered < best[0]:
                        best = (covered, left, top)
                assert best is not None
                _, left, top = best
                there, own = _overlap(mask, shape, left, top)
                there[own] = k + 1
                areas.append(int(shape.sum()))
                placed.append((left / side, top / side, width, height))
            seen = np.bincount(mask.ravel(), minlength=count + 1)[1:]
            if (seen >= np.maximum(1, MIN_VISIBLE * np.array(areas))).all():
                return placed, flipped, mask
        raise UserError(f"{count} objects found no place on {side} pixels; lower data.max_objects or data.sizes.")

    def _background(self, key: UInt64[np.ndarray, "1"]) -> Image.Image:
        side = self.config.image_size
        if self._drawn(key):
            colors = 20 + 215 * uniform(key, "colors", 6)[0].reshape(2, 3)
            plain, angle = _number(key, "plain") < 0.5, 2 * np.pi * _number(key, "angle")
            first, second = colors[0], colors[0 if plain else 1]
            down, across = np.mgrid[:side, :side] / side - 0.5
            blend = (np.cos(angle) * across + np.sin(angle) * down) / math.sqrt(2) + 0.5
            grain = 8 * _number(key, "grain") * (_noise(key, side) - 0.5) * math.sqrt(12)
            pixels = first + blend[..., None] * (second - first) + grain[..., None]
            return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        file = self.backgrounds[_integer(key, "background", len(self.backgrounds))]
        picture = read_image(file, needed=side)
        window = (0.4 + 0.6 * _number(key, "crop")) * min(picture.size)
        left = _number(key, "crop left") * (picture.width - window)
        top = _number(key, "crop top") * (picture.height - window)
        box = (left, top, left + window, top + window)
        picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
        if self.config.mirror and _number(key, "background flip") < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        low, high = self.config.background_blur
        radius = (low + (high - low) * _number(key, "blur")) * side
        return picture.filter(ImageFilter.GaussianBlur(radius)) if radius else picture

    def _shadow(self, key: UInt64[np.ndarray, "1"]) -> tuple[float, float, float, float]:
        """Of all objects of a collage: the shift in pixels, the blur in pixels and how dark it is."""
        side = self.config.image_size
        angle = 2 * np.pi * _number(key, "shadow angle")
        far = (0.01 + 0.03 * _number(key, "shadow length")) * side
        soft = (0.005 + 0.02 * _number(key, "shadow blur")) * side
        return far * math.cos(angle), far * math.sin(angle), soft, 0.2 + 0.4 * _number(key, "shadow depth")


def share_out(files: Sequence[Path], root: Path, shares: Mapping[str, float]) -> dict[str, list[Path]]:
    """Each file to one split: by folders `train`, `val` and `test` right below `root` if there are such, else by name.

    Args:
        files: below `root`, in order of name.
        shares: of `val` and `test`, 0 to 1.
    """
    if by_folder(files, root):
        return {split: [file for file in files if file.relative_to(root).parts[0] == split] for split in SPLITS}
    lots = {file: _lot(file.relative_to(root).as_posix()) for file in files}
    edge = 1 - shares["val"] - shares["test"]
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for file, lot in lots.items():
        found["train" if lot < edge else "val" if lot < edge + shares["val"] else "test"].append(file)
    for split, middle in (("val", edge + shares["val"] / 2), ("test", 1 - shares["test"] / 2), ("train", edge / 2)):
        richest = max(SPLITS, key=lambda other: len(found[other]))
        if not found[split] and shares.get(split, 1) and len(found[richest]) > 1:
            file = min(found[richest], key=lambda one: abs(lots[one] - middle))
            found[richest].remove(file)
            found[split] = [file]
    return found


def by_folder(files: Sequence[Path], root: Path) -> bool:
    """Whether folders right below `root` are splits: `train` and one of the others. One alone is a class."""
    first = {file.relative_to(root).parts[0] for file in files}
    return "train" in first and len(first & {*SPLITS}) > 1


def classes_of(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """The first folder below `root` that each file lies in, behind that of the split; `NO_CLASS` without one."""
    start = 1 if by_folder(files, root) else 0
    folders = {file: file.relative_to(root).parts[start:-1] for file in files}
    return {file: parts[0] if parts else NO_CLASS for file, parts in folders.items()}


def singular(name: str) -> str:
    """The name of a folder as that of one thing: "dogs" is "dog"; "glass", "bus" and "iris" stay."""
    return name[:-1] if name.endswith("s") and name[-2:] not in ("s", "ss", "us", "is") else name


def read_cutout(file: Path) -> Image.Image:
    """A picture with its alpha, upright, cropped to what is not transparent.

    Raises:
        UserError: it cannot be read, has no transparency, or nothing else.
    """
    from PIL.ImageOps import exif_transpose

    with reading(file), open_picture(file) as image:
        image.load()
        if "A" not in image.getbands() and "transparency" not in image.info:
            raise UserError(f"{file} has no transparency, so nothing is cut out.")
        image = exif_transpose(image).convert("RGBA")
    opaque = np.asarray(image.getchannel("A")) >= OPAQUE
    if opaque.all() or not opaque.any():
        what = "opaque everywhere" if opaque.all() else "transparent everywhere"
        raise UserError(f"{file} is {what}, so nothing is cut out.")
    rows, columns = np.flatnonzero(opaque.any(1)), np.flatnonzero(opaque.any(0))
    return image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def _fault(file: Path) -> str:
    try:
        read_cutout(file)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror or error}."
    return ""


@lru_cache(maxsize=8)
def _look_at(files: tuple[Path, ...]) -> list[str]:
    """Why each is no cut-out; empty where it is one."""
    faults = []
    with progress.progress("looking at cut-outs", len(files), unit="files") as advance:
        for fault in in_order(_fault, files, WORKERS):
            faults.append(fault)
            advance(1)
    return faults


@lru_cache(maxsize=_KEPT)
def _cutout(file: Path, side: int) -> Image.Image:
    """A cut-out whose longer side is `side` at most."""
    cutout = read_cutout(file)
    scale = side / max(cutout.size)
    if scale >= 1:
        return cutout
    return cutout.resize((max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale))))


def _resized(cutout: Image.Image, size: tuple[float, float], side: int, *, mirrored: bool) -> Image.Image:
    """A cut-out whose width and height are shares of `side` pixels."""
    width, height = (max(1, round(share * side)) for share in size)
    small = cutout.resize((width, height), Image.Resampling.BICUBIC)  # of RGBA, Pillow weighs colours by alpha
    return small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else small


def _shape(cutout: Image.Image) -> Bool[np.ndarray, "h w"]:
    return np.asarray(cutout.getchannel("A")) >= OPAQUE


def _overlap(
    canvas: UInt8[np.ndarray, "h w"], shape: Bool[np.ndarray, "a b"], left: int, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the canvas below a shape, a view, and the part of the shape on it."""
    side_down, side_across = canvas.shape
    y0, y1 = max(0, top), min(side_down, top + shape.shape[0])
    x0, x1 = max(0, left), min(side_across, left + shape.shape[1])
    y1, x1 = max(y0, y1), max(x0, x1)
    return canvas[y0:y1, x0:x1], shape[y0 - top : y1 - top, x0 - left : x1 - left]


def _masks(
    whole: Sequence[Image.Image],
    placed: Sequence[tuple[float, float, float, float]],
    flipped: list[bool],
    side: int,
) -> UInt8[np.ndarray, "h w"]:
    """The mask at another size than the image, drawn from the cut-outs and not enlarged."""
    mask = np.zeros((side, side), np.uint8)
    for k, (cutout, (left, top, width, height)) in enumerate(zip(whole, placed, strict=True)):
        shape = _shape(_resized(cutout, (width, height), side, mirrored=flipped[k]))
        there, own = _overlap(mask, shape, round(left * side), round(top * side))
        there[own] = k + 1
    return mask


def _darkened(
    image: Image.Image, alpha: Image.Image, at: tuple[int, int], shadow: tuple[float, float, float, float]
) -> Image.Image:
    """The image under a soft, shifted copy of an object's outline."""
    across, down, soft, depth = shadow
    veil = Image.new("L", image.size)
    veil.paste(alpha, (at[0] + round(across), at[1] + round(down)))
    veil = veil.filter(ImageFilter.GaussianBlur(soft)).point([round(depth * value) for value in range(256)])
    return Image.composite(Image.new("RGB", image.size), image, veil)


def _lot(name: str) -> float:
    """A number in [0, 1) that follows from a name."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def _number(key: UInt64[np.ndarray, "1"], name: str) -> float:
    return float(uniform(key, name, 1)[0, 0])


def _integer(key: UInt64[np.ndarray, "1"], name: str, high: int) -> int:
    return int(integers(key, name, 1, high)[0, 0])


def _noise(key: UInt64[np.ndarray, "1"], side: int) -> np.ndarray:
    return uniform(key, "noise", side * side)[0].reshape(side, side)
