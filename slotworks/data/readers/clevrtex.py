"""CLEVRTex (Karazija et al. 2021, arXiv:2111.10265): scenes of 3 to 10 objects, every surface with a texture."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
from PIL import Image

from slotworks.data.readers.multi_object_datasets import count_objects
from slotworks.data.stores.prepared import CatalogRow, PreparedData, take
from slotworks.data.stores.store import Row, Store
from slotworks.errors import quote
from slotworks.images import open_picture, reading
from slotworks.json_text import read_json
from slotworks.types import UserError

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/clevrtex/"
HEIGHT, WIDTH = 240, 320
CROP_SIZE = 192  # 0.8 of the short side
MAX_OBJECTS = 10
MAX_SIZE = 512  # pixels; above CROP_SIZE images are enlarged, for networks that were trained on larger ones
Variant = Literal["full", "pbg", "vbg", "grassbg", "camo", "outd"]
OFFICIAL_IMAGES: dict[Variant, int] = {
    "full": 50_000,
    "pbg": 20_000,
    "vbg": 20_000,
    "grassbg": 20_000,
    "camo": 20_000,
    "outd": 10_000,
}

# The numbers of names in the store, from 1; 0 is for rows without an object.
SHAPES = ("cube", "sphere", "cylinder", "monkey", "cone", "icosahedron", "torus", "teapot")
SIZES = ("small", "medium", "large")
COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")


@dataclass(frozen=True)
class CLEVRTex(PreparedData):
    """CLEVRTex and its variants.

    `full` is the main set; `pbg` has a plain background, `vbg` plain objects on varied backgrounds, `grassbg` always
    grass; in `camo` objects and ground share one material; `outd` has shapes and materials that `full` lacks.

    Splits by image number, as in the authors' loader: the first tenth is test, the second val, the rest train. `outd`
    is for testing only, whole. Images are cropped to the central 192x192 pixels and resized by Pillow, bilinear (which
    antialiases), also to more than they have; masks likewise, nearest, to `mask_size` if it is given. Mask files are
    palette images whose index is the object.

    Fields of a batch beside `image` and `mask`, per object, mask id `k` in row `k`, row 0 empty: `x`, `y`, `z`
    (Blender units), `rotation` (degrees), `shape`, `size` and for `vbg` `color` (integers, see SHAPES, SIZES, COLORS);
    `num_objects`, the objects with at least one pixel in the stored mask; `scene_objects`, those of the whole scene.
    Materials are not stored. Colours exist in the other variants' files, too, but say nothing there.
    """

    root: str = "data/clevrtex"  # folder of the official files, and of what is prepared from them
    variant: Variant = "full"  # which of the official variants
    image_size: int = 128  # pixels, square
    mask_size: int | None = None  # of the masks, if it is another

    def __post_init__(self):
        super().__post_init__()
        if self.variant not in OFFICIAL_IMAGES:
            raise ValueError(f"variant is {self.variant!r}; expected one of {', '.join(OFFICIAL_IMAGES)}.")
        for field, size in (("image_size", self.image_size), ("mask_size", self.mask_size)):
            if size is not None and not 1 <= size <= MAX_SIZE:
                raise ValueError(f"{field} is {size}; expected 1 to {MAX_SIZE} pixels.")

    @property
    def name(self) -> str:
        """`clevrtex`, or `clevrtex_` and the variant."""
        return "clevrtex" if self.variant == "full" else f"clevrtex_{self.variant}"

    @property
    def max_objects(self) -> int | None:
        """Ten, before and after the crop."""
        return MAX_OBJECTS

    @property
    def official_folder(self) -> Path:
        """Where the unpacked archive is expected."""
        return Path(self.root) / f"clevrtex_{self.variant}"

    @property
    def official(self) -> Path:
        """The same."""
        return self.official_folder

    @property
    def store_name(self) -> str:
        """Depends on variant and sizes."""
        own_size = "" if self.mask_size in (None, self.image_size) else f"-{self.mask_size}"
        return f"clevrtex_{self.variant}-{self.image_size}{own_size}"

    @property
    def num_images(self) -> int | None:
        """As many as the official set has."""
        return OFFICIAL_IMAGES[self.variant]

    @property
    def settings(self) -> dict[str, Any]:
        """Crop, interpolation, and the names behind the numbers."""
        names = {"shape": SHAPES, "size": SIZES, "color": COLORS}
        return {"central_crop": CROP_SIZE, "image": "Pillow bilinear", "mask": "Pillow nearest", "names_from_1": names}

    def files(self, index: int) -> tuple[Path, Path, Path]:
        """The image, its mask and its description."""
        stem = self.official_folder / str(index // 1000) / f"CLEVRTEX_{self.variant}_{index:06d}"
        return stem.with_suffix(".png"), stem.with_name(f"{stem.name}_flat.png"), stem.with_suffix(".json")

    def source(self) -> dict[str, Any]:
        """Number of images and checksum of the first and the last; errors as `count_images`."""
        count = self.count_images()
        ends = b"".join(_read(self.files(index)[0]) for index in (0, count - 1))
        return {"name": self.official_folder.name, "images": count, "crc32c_of_ends": google_crc32c.value(ends)}

    def count_images(self) -> int:
        """How many images lie in the folder; raises UserError if there is none or a number is missing between."""
        pattern = re.compile(rf"CLEVRTEX_{self.variant}_(\d{{6}})\.png")
        names = (file.name for file in self.official_folder.glob("*/*.png"))
        numbers = {int(match[1]) for name in names if (match := pattern.fullmatch(name))}
        if not numbers:
            size = "5 archives of 4.7 GB" if self.variant == "full" else "for its size see there"
            raise UserError(
                f"{self.official_folder} is missing or holds no image of {self.name} ({size}). Get it from {PAGE} "
                f"and unpack it, so that there is a file {self.files(0)[0]}."
            )
        if missing := set(range(len(numbers))) - numbers:
            raise UserError(f"{self.files(min(missing))[0]} is missing; unpack the archives of {PAGE} again.")
        return len(numbers)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row per image, by image number."""
        for index in range(start, self.count_images()):
            yield self.decode(index)

    def decode(self, index: int) -> Row:
        """One image with its mask and properties, cropped and resized."""
        image_file, mask_file, scene_file = self.files(index)
        image = _open_image(image_file, ("RGB", "RGBA")).convert("RGB")
        mask_image = _open_image(mask_file, ("P", "L"))
        if (largest := int(np.asarray(mask_image).max())) > MAX_OBJECTS:
            raise UserError(f"{mask_file} has the object {largest}, expected 0 to {MAX_OBJECTS}; unpack it again.")
        left, top = (WIDTH - CROP_SIZE) // 2, (HEIGHT - CROP_SIZE) // 2
        box = (left, top, left + CROP_SIZE, top + CROP_SIZE)
        side = self.mask_size or self.image_size
        mask = np.asarray(mask_image.crop(box).resize((side, side), Image.Resampling.NEAREST))
        return {
            "image": np.asarray(image.crop(box).resize(self.size, Image.Resampling.BILINEAR)),
            "mask": mask,
            "num_objects": count_objects(mask),
            **_properties(scene_file, with_color=self.variant == "vbg"),
        }

    def split_rows(self, store: Store, split: str) -> np.ndarray:
        """A tenth to test, a tenth to validate, the rest to train."""
        count = len(store)
        if self.variant == "outd":
            if split != "test":
                raise UserError(f"clevrtex_outd is for testing and has no split {split!r}; open 'test'.")
            return np.arange(count)
        start, stop = {"test": (0, count // 10), "val": (count // 10, count // 5), "train": (count // 5, count)}[split]
        return take(np.arange(count), start, stop, store=store, split=split)


def _properties(file: Path, *, with_color: bool) -> Row:
    """What the description says about the objects, object `k` in row `k`."""
    row: Row = {key: np.zeros(MAX_OBJECTS + 1, np.float32) for key in ("x", "y", "z", "rotation")}
    named = {"shape": SHAPES, "size": SIZES} | ({"color": COLORS} if with_color else {})
    row |= {key: np.zeros(MAX_OBJECTS + 1, np.uint8) for key in named}
    try:
        objects = read_json(_read(file))["objects"]
        for k, item in enumerate(objects, 1):
            row["x"][k], row["y"][k], row["z"][k] = item["3d_coords"]
            row["rotation"][k] = item["rotation"]
            for key, names in named.items():
                row[key][k] = names.index(item[key]) + 1
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise UserError(f"{file} is damaged or not a scene of CLEVRTex ({quote(error)}); unpack it again.") from error
    return row | {"scene_objects": np.asarray(len(objects), np.uint8)}


def _open_image(file: Path, modes: tuple[str, ...]) -> Image.Image:
    """Decode a picture, which must have the size and one of the modes of the official ones."""
    data = _read(file)
    with reading(file, otherwise="unpack it again"):
        image = open_picture(data, name=file, formats=["PNG"])
        fits = image.size == (WIDTH, HEIGHT) and image.mode in modes
        if fits:
            image.load()
    if not fits:
        raise UserError(
            f"{file} is a {image.mode} image of {image.width} x {image.height} pixels, expected "
            f"{' or '.join(modes)} of {WIDTH} x {HEIGHT}; unpack it again."
        )
    return image


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); unpack the archives of {PAGE} again.") from error


ROWS = tuple(
    CatalogRow(
        partial(CLEVRTex, variant=variant),
        download="5 archives of 4.7 GB" if variant == "full" else "see source",
        disk=f"{count * 128 * 128 * 4 / 1e9:.1f} GB",
        licence="see source (the generator is under BSD-3-Clause)",
        splits=f"test {count:,}" if variant == "outd" else f"test {count // 10:,}, val {count // 10:,}, train the rest",
        background="floor",
        overlaps="a pixel belongs to the visible object",
        files=(f"clevrtex_{variant}",),
        origin=PAGE,
    )
    for variant, count in OFFICIAL_IMAGES.items()
)
