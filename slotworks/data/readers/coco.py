"""COCO 2017 (Lin et al. 2014, arXiv:1405.0312): photographs with polygons around the objects of 80 classes."""

import json
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from slotworks.data.readers.photos import Entry, MaskedPhotos, Schema, pictures_in
from slotworks.data.stores.prepared import CatalogRow
from slotworks.data.stores.store import Row
from slotworks.errors import quote
from slotworks.images import read_image
from slotworks.limits import check_decoded
from slotworks.types import UserError
from slotworks.vocabulary import COCO_CLASSES

PAGE = "https://cocodataset.org/#download"
POINT_BYTES = 24  # of memory for each point of an outline while pycocotools fills it
OFFICIAL_IMAGES = {"train2017": 118_287, "val2017": 5_000}


class Annotated(NamedTuple):
    """An image of an annotation file."""

    file: Path
    size: tuple[int, int]  # width and height as stated
    annotations: tuple[dict[str, Any], ...] = ()  # in the order of the file


@dataclass(frozen=True)
class AnnotatedPhotos(MaskedPhotos):
    """Photographs with an annotation file in COCO's format. Images come in the order of their ids.

    Fields of a batch beside `image`: `mask`, whose value `k` is the k-th annotation of the image (the last one owns
    shared pixels), `overlap` (pixels of several objects), `class_mask` (category id of the owner), `class_mask_highest`
    (the highest category id, which DINOSAUR's code shows), and kept apart `crowd`: groups of objects that were not
    told apart, numbered likewise; in `mask` they are background. `category` gives the category id of number `k` in row
    `k`, crowds included. Numbers above 255 make these fields int16 instead of uint8.
    """

    def annotation_file(self, split: str) -> Path:
        """Where the annotations of an official split are expected."""
        raise NotImplementedError

    def picture_file(self, split: str, name: str) -> Path:
        """Where the picture with this `file_name` is."""
        return self.folder(split) / Path(name).name

    def lists(self, split: str) -> Sequence[Path]:
        """The annotation file, if it is used."""
        return [self.annotation_file(split)] if self.has_masks(split) else []

    def keeps(self, annotation: dict[str, Any]) -> bool:
        """Whether an annotation is used at all."""
        return True

    def file(self, entry: Entry) -> Path:
        """The picture of an entry."""
        return entry.file

    def read(self, split: str, entry: Entry) -> Image.Image:
        """The picture of an entry as it is stored, or upright if only that has the size its annotations state."""
        stated = entry.size if entry.size != (0, 0) else None
        return read_image(entry.file, needed=self.image_size, stated_size=stated, upright=False)

    def entries(self, split: str) -> tuple[Sequence[Entry], list[str]]:
        """Images of the annotation file by id, or without masks the pictures of the folder by name."""
        if self.has_masks(split):
            entries, where = self._annotated(split), self.annotation_file(split)
        elif not self.folder(split).is_dir():
            raise UserError(f"{self.folder(split)} is missing; {self.origin(self.folder(split))}.")
        else:
            entries, where = [Annotated(file, (0, 0)) for file in pictures_in(self.folder(split))], self.folder(split)
        official = self.count_officially(split)
        different = official is not None and len(entries) != official
        return entries, [f"{where} has {len(entries):,} images instead of {official:,}."] if different else []

    def _annotated(self, split: str) -> list[Entry]:
        file = self.annotation_file(split)
        try:
            content = json.loads(file.read_bytes())
            known = {int(image["id"]): image for image in content["images"]}
            categories = {category["id"] for category in content.get("categories") or ()}
            if any(min(int(image["width"]), int(image["height"])) < 1 for image in known.values()):
                raise ValueError("an image of no pixels")
            found: dict[int, list[dict]] = {number: [] for number in known}
            for annotation in content["annotations"]:
                self._check_annotation(annotation, file, known, categories)
                if self.keeps(annotation):
                    found[annotation["image_id"]].append(annotation)
            return [
                Annotated(
                    self.picture_file(split, str(image["file_name"])),
                    (int(image["width"]), int(image["height"])),
                    tuple(found[number]),
                )
                for number, image in sorted(known.items())
            ]
        except FileNotFoundError as error:
            raise UserError(f"{file} is missing; {self.origin(file)}.") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise UserError(
                f"{file} is damaged or not in COCO's format ({quote(error)}); {self.origin(file)}."
            ) from error

    def _check_annotation(
        self, annotation: dict[str, Any], file: Path, images: Container[Any], categories: Container[Any]
    ) -> None:
        number, image, category = (annotation.get(key) for key in ("id", "image_id", "category_id"))
        if category == 0:
            raise UserError(
                f"{file}: annotation {number} has the category 0, which means background here, as files of Roboflow "
                "do; add 1 to every `id` of `categories` and every `category_id` of `annotations`."
            )
        if not isinstance(category, int) or not 0 < category < 1 << 12:
            raise ValueError(f"category_id {category!r}")
        if categories and category not in categories:
            raise UserError(
                f"{file}: annotation {number} has the category {category}, which `categories` does not list; add it "
                "there or take the annotation out."
            )
        if image not in images:
            raise UserError(
                f"{file}: annotation {number} belongs to the image {image!r}, which `images` does not list; add it "
                "there or take the annotation out."
            )

    def schema(self, split: str, entries: Sequence[Entry]) -> Schema:
        """Maps, and a row of categories as long as the most annotated image needs."""
        if not self.has_masks(split):
            return {}
        most = max(len(entry.annotations) for entry in entries)
        highest = max((a["category_id"] for entry in entries for a in entry.annotations), default=0)
        number = np.uint8 if most <= 255 else np.int16
        category = np.uint8 if highest <= 255 else np.int16
        shape = self.mask_shape(split)
        return {
            "mask": (number, shape),
            "class_mask": (category, shape),
            "class_mask_highest": (category, shape),
            "overlap": (np.bool_, shape),
            "crowd": (number, shape),
            "category": (category, (most + 1,)),
        }

    def classes_in(self, split: str, entry: Entry) -> list[int]:
        """The categories of the picture in the order of its annotations, crowds left out."""
        return list(dict.fromkeys(a["category_id"] for a in entry.annotations if not a.get("iscrowd")))

    def labels(self, split: str, entry: Entry, size: tuple[int, int]) -> Row:
        """The annotations of one image, painted one over the other."""
        if not self.has_masks(split):
            return {}
        pick = self.mask_picker(split, entry.size)
        shape = self.mask_shape(split)
        mask, crowd, highest = (np.zeros(shape, np.int16) for _ in range(3))
        overlap = np.zeros(shape, np.bool_)
        category = np.zeros(len(entry.annotations) + 1, np.int16)
        for k, annotation in enumerate(entry.annotations, 1):
            category[k] = annotation["category_id"]
            own = pick(unpack(annotation, entry.size, self.annotation_file(split))) != 0
            if annotation.get("iscrowd"):
                crowd[own] = k
                continue
            overlap |= own & (mask != 0)
            mask[own] = k
            highest[own] = np.maximum(highest[own], category[k])
        return {
            "mask": mask,
            "class_mask": category[mask],
            "class_mask_highest": highest,
            "overlap": overlap,
            "crowd": crowd,
            "category": category,
        }


@dataclass(frozen=True)
class COCO(AnnotatedPhotos):
    """COCO 2017: training on train2017 (118,287 images), validation and test on val2017 (5,000).

    The papers' tables use val2017 for both. Pictures may lie in `root/val2017` or in `root/images/val2017`. Without
    `train_masks` the training pictures are those of their folder, and their annotations (470 MB) are not read.

    For fields see `AnnotatedPhotos`. 48 images of val2017 have no object: they are kept, and metrics of objects skip
    them.
    """

    root: str = "data/coco"  # folder of the official files, and of what is prepared from them

    official_splits: ClassVar[dict[str, str]] = {"train": "train2017", "val": "val2017", "test": "val2017"}

    @property
    def name(self) -> str:
        """`coco2017`."""
        return "coco2017"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each id from 1 to 90; empty for the ten ids that no class has."""
        return COCO_CLASSES

    def annotation_file(self, split: str) -> Path:
        """`annotations/instances_val2017.json`, and so on."""
        name, root = f"instances_{split}.json", Path(self.root)
        places = [root / place / name for place in ("annotations", "annotations/annotations", ".")]
        places.append(root / "annotations_trainval2017" / "annotations" / name)
        return next((place for place in places if place.is_file()), places[0])

    def folder(self, split: str) -> Path:
        """`val2017` or `images/val2017`, and so on; unpacked into a folder of its own also `val2017/val2017`."""
        places = (Path(self.root) / split, Path(self.root) / "images" / split)
        place = next((place for place in places if place.is_dir()), places[0])
        return inner if (inner := place / split).is_dir() else place

    def count_officially(self, split: str) -> int | None:
        """118,287 and 5,000."""
        return OFFICIAL_IMAGES[split]

    def origin(self, file: Path) -> str:
        """The page of COCO and the archive."""
        if file.suffix == ".json":
            return f"get annotations_trainval2017.zip (241 MB) from {PAGE} and unpack it into {self.root}"
        archive = "train2017.zip (18 GB)" if "train2017" in file.parts else "val2017.zip (1 GB)"
        return f"get {archive} from {PAGE} and unpack it into {self.root}"


def unpack(annotation: dict[str, Any], size: tuple[int, int], source: Path) -> UInt8[np.ndarray, "h w"]:
    """The mask of one annotation, 0 and 1, at the size of the picture: from polygons or run lengths, by pycocotools.

    Polygons of fewer than three corners cover nothing.

    Raises:
        UserError: the shape is damaged. pycocotools itself would read and write beyond its memory.
    """
    from pycocotools import mask as coco_mask

    width, height = size
    shape = annotation.get("segmentation")
    where = f"{source}: the shape of annotation {annotation.get('id')!r}"
    check_decoded(3 * width * height, where, f"{width:,} x {height:,} pixels")
    try:
        if isinstance(shape, list):
            polygons: list[Any] = [_checked_polygon(polygon, size) for polygon in shape]
            polygons = [polygon for polygon in polygons if len(polygon) >= 6]
            if not polygons:
                return np.zeros((height, width), np.uint8)
            points = sum(map(_outline, polygons))
            what = f"{sum(map(len, polygons)) // 2:,} corners with an outline of {points:,} points"
            check_decoded(POINT_BYTES * points, where, what)
            runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        elif isinstance(shape, dict) and shape["size"] == [height, width]:
            counts = shape["counts"]
            lengths = _run_lengths(counts) if isinstance(counts, str) else counts
            if any(type(n) is not int or n < 0 for n in lengths) or sum(lengths) != width * height:
                raise ValueError(f"its run lengths do not add up to {width} x {height} pixels")
            uncompressed: Any = {"size": [height, width], "counts": list(lengths)}
            runs = coco_mask.frPyObjects(uncompressed, height, width)
        else:
            raise ValueError(f"it is neither a list of polygons nor run lengths of {width} x {height} pixels")
        return coco_mask.decode(runs)
    except (ValueError, TypeError, KeyError, OverflowError, IndexError) as error:
        raise UserError(f"{where} is damaged ({error}); unpack it again.") from error


def _checked_polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
    numbers = [float(value) for value in polygon]
    reach = 2 * max(size) + 16  # polygons may leave the picture a little
    if len(numbers) % 2 or not all(math.isfinite(value) and abs(value) <= reach for value in numbers):
        raise ValueError("a polygon has an odd number of coordinates, or some far outside of the picture")
    return numbers


def _outline(polygon: list[float]) -> int:
    """Points that pycocotools lays along a polygon: five for each pixel of its sides."""
    corners = np.asarray(polygon).reshape(-1, 2)
    sides = np.abs(corners - np.roll(corners, -1, 0)).max(1)
    return int(np.ceil(5 * sides).sum()) + len(corners)


def _run_lengths(text: str) -> list[int]:
    """The run lengths behind COCO's compressed text: digits of base 32, from the fourth run on differences."""
    lengths: list[int] = []
    value = shift = 0
    for byte in text.encode("ascii"):
        digit = byte - 48
        if not 0 <= digit < 64 or shift > 40:
            raise ValueError("its run lengths are no compressed text")
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its run lengths end early")
    return lengths


ROWS = (
    CatalogRow(
        COCO,
        download="18 GB, 1 GB and 0.2 GB of annotations",
        disk="17.8 GB for training, 3.3 GB for validation",
        licence="CC BY 4.0 for the annotations; Flickr's terms of use for the photographs",
        splits="train: train2017 118,287; val and test: val2017 5,000",
        background="everything that is not of the 80 classes, and crowds, which are also kept apart",
        overlaps="pixels of several objects are marked; the last one owns them",
        files=("val2017", "train2017", "images/val2017", "images/train2017", "annotations/instances_val2017.json"),
        origin=PAGE,
    ),
)
