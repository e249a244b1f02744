"""What people marked in their own pictures, in the formats that they have it in.

    a folder --names and headers--> pictures, and of each: label maps, masks of objects or outlines; a class; a caption

Known are

* PNG files with ids, a palette or plain colours: `masks/NAME.png` for `NAME.jpg` or `images/NAME.jpg`, or beside it as
  `NAME_mask.png` or `NAME.png`; several people's as `NAME_0.png`, `NAME_1.png`, ...; one file an object (black and
  white) as `NAME_0.png`, ... or `masks/NAME/*.png`;
* VOC's folders `JPEGImages`, `SegmentationObject`, `SegmentationClass` with `ImageSets/Segmentation/*.txt`;
* JSON in COCO's form (polygons, run lengths; exports of CVAT, Roboflow and Label Studio) and LabelMe's files;
* captions and classes in `captions.csv`, `metadata.jsonl` and the like, and captions in `NAME.txt`.

Nothing is decoded here but headers and tables. A fault costs the marks of one picture: it is named, the rest goes on.
"""

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from jaxtyping import Integer

from slotworks.data.readers.coco import unpack
from slotworks.errors import quote
from slotworks.images import files_below, find_images, open_picture, reading
from slotworks.types import UserError
from slotworks.vocabulary import VOC_CLASSES

Size = tuple[int, int]
"""Width and height in pixels."""

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "rgb")
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "segmentations", "segmentation", "seg", "gt"),
    *("groundtruth", "ground_truth", "instances", "segmentationobject", "segmentationclass"),
)
CAPTION_FOLDERS = ("captions", "texts", "text")
CLASS_FOLDER = "segmentationclass"
VOC_FOLDERS = ("segmentationobject", CLASS_FOLDER)
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "train2017"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val2017"), "val"),
    **dict.fromkeys(("test", "testing", "test2017"), "test"),
}
MAX_ID = 65_535
MAX_COLORS = 255  # of a mask in plain colours; more are shades of a photograph
MAX_CAPTION = 1_000  # bytes
VOID = 255  # in VOC's folders: border, or undecided

_MASK_SUFFIXES = (".png", ".gif", ".tif", ".tiff", ".bmp")
_TAIL = re.compile(r"[_\-.](masks?|seg|labels?|instances?|gt)$", re.IGNORECASE)
_NUMBER = re.compile(r"(.+)[_\-](\d+)")
_FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "image_path")
_CAPTION_COLUMNS = ("caption", "text", "description", "captions")
_CLASS_COLUMNS = ("class", "label", "category", "class_name")


class MarksFault(UserError):
    """Marks of one picture that cannot be used."""


class Marks(NamedTuple):
    """What is marked in one picture."""

    size: Size  # of the masks; what JSON states
    people: tuple[Path, ...] = ()  # label maps, one for each person
    objects: tuple[Path, ...] = ()  # masks, one for each object
    classes: Path | None = None  # VOC's map of classes
    outlines: tuple[Mapping[str, Any], ...] = ()  # COCO's annotations, each with its `class` by name
    source: Path | None = None  # the JSON file; one of LabelMe is read when it is needed

    @property
    def files(self) -> tuple[Path, ...]:
        """All that these marks are read from."""
        more = [file for file in (self.classes, self.source) if file is not None]
        return (*self.people, *self.objects, *more)


@dataclass
class Marked:
    """A folder of pictures and what is known about them."""

    pictures: list[Path]
    marks: dict[Path, Marks] = field(default_factory=dict)
    captions: dict[Path, str] = field(default_factory=dict)
    picture_classes: dict[Path, str] = field(default_factory=dict)  # of whole pictures
    class_names: tuple[str, ...] = ()  # of the ids from 1 on
    splits: dict[Path, str] = field(default_factory=dict)  # by folders or lists; empty: there are none
    tables: list[Path] = field(default_factory=list)  # JSON, CSV and text files that were read
    notes: list[str] = field(default_factory=list)
    void: bool = False  # whether the value 255 of label maps means undecided

    @property
    def most_people(self) -> int:
        """Most people who marked one picture."""
        return max((len(marks.people) for marks in self.marks.values()), default=0)

    def describe(self) -> str:
        """What is there, in one sentence."""
        words = [f"{len(self.pictures):,} pictures", f"masks of {len(self.marks):,}" if self.marks else "no masks"]
        if self.most_people > 1:
            count = sum(len(marks.people) for marks in self.marks.values()) / len(self.marks)
            words[-1] += f" by {count:.1f} people on average"
        if self.class_names:
            shown = ", ".join(self.class_names[:6]) + (", ..." if len(self.class_names) > 6 else "")
            words.append(f"{len(self.class_names):,} classes ({shown})")
        if self.captions:
            words.append(f"captions of {len(self.captions):,}")
        if self.splits:
            counts = Counter(self.splits.values())
            words.append("splits " + ", ".join(f"{name} {counts[name]:,}" for name in ("train", "val", "test")))
        return "; ".join(words) + "."


def look_at(root: Path) -> Marked:
    """The pictures below a folder and their marks; looked at anew only when a file came, went or changed.

    Raises:
        UserError: there is no picture.
    """
    images = find_images([root])[0]
    tables = files_below(root, (".json", ".jsonl", ".csv", ".txt"))
    crc = 0
    for file in (*images, *tables):
        stat = file.stat()
        known = f"{file}\n{stat.st_size}\n{stat.st_mtime_ns}\n"
        crc = google_crc32c.extend(crc, known.encode("utf-8", "surrogateescape"))
    return _look_at(root, tuple(images), tuple(tables), crc)


@lru_cache(maxsize=4)
def _look_at(root: Path, images: tuple[Path, ...], tables: tuple[Path, ...], crc: int) -> Marked:
    look = _Look(root, images)
    found = look.found
    look.label_maps()
    for table in tables:
        if table.suffix.lower() == ".json":
            look.json(table)
        elif table.suffix.lower() in (".csv", ".jsonl"):
            look.table(table)
        else:
            look.text(table)
    look.check_sizes()
    look.splits()
    look.name_classes()
    used = {*found.tables, *look.masks}
    _, notes = find_images([root], used=used)
    found.notes = [*look.say(), *notes]
    return found


class _Look:
    """The one pass over a folder; what is left out is collected by reason, to be counted and named."""

    def __init__(self, root: Path, images: Sequence[Path]):
        self.root = root
        self.left_out: dict[str, list[str]] = defaultdict(list)
        zone = {file for file in images if file.suffix.lower() in _MASK_SUFFIXES and self._in(file, MASK_FOLDERS)}
        self.by_key = {self._key(file): file for file in reversed(images) if file not in zone}
        self.people: dict[Path, list[Path]] = defaultdict(list)
        self.objects: dict[Path, list[Path]] = defaultdict(list)
        self.class_maps: dict[Path, Path] = {}
        self.masks: set[Path] = set()
        beside = []
        for file in images:
            if file in zone:
                if not self._take(file):
                    beside.append(file)
            elif file.suffix.lower() in _MASK_SUFFIXES and any(map(_TAIL.search, (file.stem, _base(file.stem)))):
                self._take(file)
        if self.masks & zone:
            self.left_out["masks without a picture"] += [str(file) for file in beside]
            self.masks |= {*beside}
        pictures = [file for file in images if file not in self.masks]
        others = {(file.parent, file.stem): file for file in reversed(pictures) if file.suffix.lower() != ".png"}
        for file in pictures:
            picture = others.get((file.parent, file.stem)) if file.suffix.lower() == ".png" else None
            if picture is not None and _is_label_map(file):
                self.people[picture].append(file)
                self.masks.add(file)
        self.found = Marked([file for file in pictures if file not in self.masks])
        self.known = {*self.found.pictures}
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for file in self.found.pictures:
            self.by_name[file.name.lower()].append(file)
        self.by_key = {self._key(file): file for file in reversed(self.found.pictures)}

    def _in(self, file: Path, folders: Sequence[str]) -> bool:
        return any(part.lower() in folders for part in file.relative_to(self.root).parts[:-1])

    def _key(self, file: Path) -> tuple[tuple[str, ...], str]:
        """Where a picture and its masks are alike: folders that only say what is in them do not count."""
        known = (*IMAGE_FOLDERS, *MASK_FOLDERS, *CAPTION_FOLDERS)
        parts = file.relative_to(self.root).parts[:-1]
        return tuple(part for part in parts if part.lower() not in known), file.stem

    def _take(self, file: Path) -> bool:
        """Whether a file is a mask of a picture; if so it is noted as one."""
        folders, stem = self._key(file)
        stem = _TAIL.sub("", stem)
        for base in dict.fromkeys((stem, _TAIL.sub("", _base(stem)))):
            picture = self.by_key.get((folders, base))
            if picture is not None and picture != file:
                if self._in(file, (CLASS_FOLDER,)):
                    self.class_maps[picture] = file
                else:
                    self.people[picture].append(file)
                self.masks.add(file)
                return True
        picture = self.by_key.get((folders[:-1], folders[-1])) if folders else None
        if picture is not None:
            self.objects[picture].append(file)
            self.masks.add(file)
        return picture is not None

    def label_maps(self) -> None:
        """Marks from PNG files."""
        found = self.found
        for picture in found.pictures:
            people, objects = self.people.get(picture, []), self.objects.get(picture, [])
            classes = self.class_maps.get(picture)
            found.void |= classes is not None or any(self._in(file, VOC_FOLDERS) for file in people)
            if not people and classes is not None:
                people = [classes]
            if not people and not objects:
                continue
            try:
                sizes = {file: _header(file)[0] for file in (*people, *objects)}
                if len(people) > 1 and all(_is_one_object(file) for file in people):
                    people, objects = [], [*objects, *people]
            except UserError as error:
                self.left_out["masks that cannot be read"].append(str(error))
                continue
            size = next(iter(sizes.values()))
            if wrong := next((file for file, other in sizes.items() if other != size), None):
                said = f"{wrong} ({_by(sizes[wrong])}, others of its picture {_by(size)})"
                self.left_out["masks of another size than their picture"].append(said)
                continue
            chosen = tuple(sorted(people, key=_by_number)), tuple(sorted(objects, key=_by_number)) if not people else ()
            found.marks[picture] = Marks(size, *chosen, classes)

    def json(self, file: Path) -> None:
        """Marks from COCO's or LabelMe's JSON; others are left alone."""
        try:
            content = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            self.left_out["JSON files that cannot be read"].append(f"{file} ({quote(str(error))})")
            return
        try:
            if isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" in content:
                self._coco(file, content)
            elif isinstance(content, dict) and isinstance(content.get("shapes"), list):
                self._labelme(file, content)
            elif isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
                self._rows(file, content)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            self.left_out["JSON files that are damaged"].append(f"{file} ({quote(str(error))})")

    def _coco(self, file: Path, content: Mapping[str, Any]) -> None:
        self.found.tables.append(file)
        if not content["images"]:
            self.left_out["JSON files that name no picture"].append(str(file))
            return
        names = {int(row["id"]): str(row["name"]) for row in content.get("categories") or ()}
        pictures: dict[Any, tuple[Path, Size]] = {}
        for row in content["images"]:
            picture = self._resolve(str(row["file_name"]), file)
            if picture is None:
                self.left_out[f"pictures that {file.name} names and that are not there"].append(str(row["file_name"]))
            else:
                pictures[row["id"]] = picture, (int(row["width"]), int(row["height"]))
        outlines: dict[Any, list[dict[str, Any]]] = {number: [] for number in pictures}
        known, boxed = {row["id"] for row in content["images"]}, set()
        for row in content["annotations"]:
            number, image = row.get("id"), row.get("image_id")
            if image not in known:
                self.left_out["annotations of pictures that are not listed"].append(f"{file}, annotation {number!r}")
            elif not row.get("segmentation"):
                self.left_out["annotations without an outline, boxes alone"].append(f"{file}, annotation {number!r}")
                boxed.add(image)
            elif image in outlines:
                label = names.get(row.get("category_id"), str(row.get("category_id")))
                outlines[image].append({"id": number, "segmentation": row["segmentation"], "class": label})
        for number, (picture, size) in pictures.items():
            if number not in boxed and any(outlines.values()):  # a picture of no object counts where others have some
                self._add(picture, Marks(size, outlines=tuple(outlines[number]), source=file))

    def _labelme(self, file: Path, content: Mapping[str, Any]) -> None:
        picture = self._resolve(str(content.get("imagePath") or ""), file)
        picture = picture or self.by_key.get(self._key(file))
        self.found.tables.append(file)
        if picture is None:
            self.left_out["LabelMe files without their picture"].append(str(file))
            return
        outlines, others = labelme_outlines(content)
        if others:
            self.left_out["LabelMe's points and lines, which enclose nothing"] += [str(file)] * others
        size = int(content["imageWidth"]), int(content["imageHeight"])
        # only classes stay in memory: the outlines are read again when they are needed
        kept = tuple({"class": outline["class"]} for outline in outlines)
        self._add(picture, Marks(size, outlines=kept, source=file))

    def _add(self, picture: Path, marks: Marks) -> None:
        old = self.found.marks.get(picture)
        if old is not None and old.source is not None and marks.source != old.source:
            both = f"{old.source.name} and {marks.source.name if marks.source else ''}"
            self.left_out["second outlines of a picture"].append(f"{picture} (in {both})")
        elif old is None or old.source is not None:
            self.found.marks[picture] = marks

    def table(self, file: Path) -> None:
        """Captions and classes from CSV or JSON lines; other tables are left alone."""
        try:
            with file.open(encoding="utf-8-sig", newline="") as opened:
                if file.suffix.lower() == ".csv":
                    rows: list[Any] = list(csv.DictReader(opened))
                else:
                    rows = [json.loads(line) for line in opened if line.strip()]
        except (OSError, ValueError, csv.Error) as error:
            self.left_out["tables that cannot be read"].append(f"{file} ({quote(str(error))})")
            return
        self._rows(file, [row for row in rows if isinstance(row, dict)])

    def _rows(self, file: Path, rows: Sequence[Mapping[Any, Any]]) -> None:
        for row in rows:
            lower = {str(key).strip().lower(): value for key, value in row.items()}
            name = next((lower[key] for key in _FILE_COLUMNS if lower.get(key)), None)
            caption = next((lower[key] for key in _CAPTION_COLUMNS if lower.get(key)), None)
            label = next((lower[key] for key in _CLASS_COLUMNS if lower.get(key)), None)
            if name is None or (caption is None and label is None):
                continue
            if file not in self.found.tables:
                self.found.tables.append(file)
            picture = self._resolve(str(name), file)
            if picture is None:
                self.left_out[f"pictures that {file.name} names and that are not there"].append(str(name))
                continue
            if caption is not None:
                self.found.captions[picture] = str(caption[0] if isinstance(caption, list) else caption).strip()
            if label is not None:
                self.found.picture_classes[picture] = str(label).strip()

    def text(self, file: Path) -> None:
        """A caption in a text of a picture's name; numbers alone are boxes in YOLO's form."""
        picture = self.by_key.get(self._key(file))
        if picture is None or picture not in self.known:
            return
        try:
            words = file.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            self.left_out["captions that cannot be read"].append(f"{file} ({quote(str(error))})")
            return
        self.found.tables.append(file)
        if words and all(re.fullmatch(r"[-+.\deE]+", word) for word in words):
            self.left_out["texts of numbers, such as YOLO's boxes"].append(str(file))
        elif words:
            self.found.captions.setdefault(picture, " ".join(words))

    def _resolve(self, name: str, source: Path) -> Path | None:
        """The picture that a table names, wherever its paths begin."""
        name = name.replace("\\", "/")
        for folder in (source.parent, self.root, source.parent.parent):
            if name and (folder / name) in self.known:
                return folder / name
        alike = self.by_name.get(name.rpartition("/")[2].lower(), [])
        near = [file for file in alike if file.is_relative_to(source.parent)]
        wanted = _split_in(re.split(r"[_\W]+", source.stem))
        same = [file for file in alike if wanted and self._split(file) == wanted]
        return next((chosen[0] for chosen in (same, near, alike) if len(chosen) == 1), None)

    def check_sizes(self) -> None:
        """Leave out marks of another size than their picture, as stored or upright."""
        for picture, marks in [*self.found.marks.items()]:
            try:
                size, _ = _header(picture)
            except UserError:
                continue  # the picture is named where it is decoded
            if marks.size in (size, size[::-1]):  # lying pictures are turned, or not, as the marks have it
                continue
            what = next(iter(marks.files))
            said = f"{what} ({_by(marks.size)}, {picture.name} {_by(size)})"
            self.left_out["masks of another size than their picture"].append(said)
            del self.found.marks[picture]

    def _split(self, file: Path) -> str | None:
        return _split_in(file.relative_to(self.root).parts[:-1][:2])

    def splits(self) -> None:
        """Splits by folders, or by VOC's lists."""
        found = {file: split for file in self.found.pictures if (split := self._split(file))}
        lists = [file for file in files_below(self.root, (".txt",)) if file.parent.parent.name == "ImageSets"]
        for file in lists if not found else []:
            if split := _split_in([file.stem]):
                names = file.read_text(encoding="utf-8-sig", errors="replace").split("\n")
                stems = {line.split()[0] for line in names if line.split()}
                found |= {picture: split for picture in self.found.pictures if picture.stem in stems}
                self.found.tables.append(file)
        if len({*found.values()}) < 2:
            return
        self.found.splits = found
        outside = [str(file) for file in self.found.pictures if file not in found]
        if outside:
            self.left_out["pictures outside of the folders of splits"] += outside

    def name_classes(self) -> None:
        """The classes of all pictures, so that ids are the same in every split; palette maps have numbers alone."""
        found = self.found
        if any(marks.classes for marks in found.marks.values()):
            found.class_names = self._listed_classes() or VOC_CLASSES
            return
        names = [str(outline["class"]) for marks in found.marks.values() for outline in marks.outlines]
        names += [found.picture_classes[picture] for picture in found.marks if picture in found.picture_classes]
        found.class_names = tuple(sorted({*names}))

    def _listed_classes(self) -> tuple[str, ...]:
        """Those of CVAT's `labelmap.txt`: lines say `name:color:...` in the order of the ids, background first."""
        file = self.root / "labelmap.txt"
        if not file.is_file():
            return ()
        self.found.tables.append(file)
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        return tuple(line.split(":")[0] for line in lines if line.strip() and not line.startswith("#"))[1:]

    def say(self) -> list[str]:
        """Sentences about what was left out, each with a number and names."""
        said = []
        for what, names in self.left_out.items():
            if names:
                more = f" and {len(names) - 2:,} more" if len(names) > 2 else ""
                said.append(f"Left out below {self.root}: {len(names):,} {what}: {', '.join(names[:2])}{more}.")
        return said


def labelme_outlines(content: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """LabelMe's shapes as COCO's annotations, those of one `group_id` and label together; and how many enclose nothing.

    Raises:
        ValueError, TypeError, KeyError: it is damaged.
    """
    grouped: dict[Any, dict[str, Any]] = {}
    others = 0
    for number, shape in enumerate(content["shapes"]):
        points = np.asarray(shape["points"], dtype=np.float64).reshape(-1, 2)
        kind = shape.get("shape_type") or "polygon"
        if kind == "rectangle" and len(points) == 2:
            (x0, y0), (x1, y1) = points
            points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        elif kind == "circle" and len(points) == 2:
            turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
            radius = np.linalg.norm(points[1] - points[0])
            points = points[0] + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        elif kind != "polygon" or len(points) < 3:
            others += 1
            continue
        group = shape.get("group_id")
        key = number if group is None else ("group", group, shape["label"])
        outline = grouped.setdefault(key, {"id": number, "segmentation": [], "class": str(shape["label"])})
        outline["segmentation"].append(points.reshape(-1).tolist())
    return [*grouped.values()], others


def read_outlines(marks: Marks) -> Sequence[Mapping[str, Any]]:
    """The outlines of a picture; those of LabelMe from its file.

    Raises:
        MarksFault: the file is damaged.
    """
    if not marks.outlines or "segmentation" in marks.outlines[0]:
        return marks.outlines
    assert marks.source is not None
    try:
        return labelme_outlines(json.loads(marks.source.read_bytes()))[0]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise MarksFault(f"{marks.source} is damaged ({quote(str(error))}).") from None


def fill(outline: Mapping[str, Any], marks: Marks) -> Integer[np.ndarray, "h w"]:
    """The mask of an outline, 0 and 1.

    Raises:
        MarksFault: it is damaged.
    """
    assert marks.source is not None
    try:
        return unpack({**outline}, marks.size, marks.source)
    except UserError as error:
        raise MarksFault(str(error)) from None


def read_ids(file: Path) -> Integer[np.ndarray, "h w"]:
    """The ids of a label map: values of a grey or palette picture; of one in colours each colour is one, black is 0.

    Raises:
        MarksFault: it cannot be read, has ids beyond 65,535, or more colours than a mask has.
    """
    try:
        with reading(file), open_picture(file) as image:
            image.load()
            mode = image.mode
            if mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"):
                image = image.convert("RGB")
            values = np.array(image)
    except UserError as error:
        raise MarksFault(str(error)) from None
    if values.ndim == 2:
        if values.min(initial=0) < 0 or values.max(initial=0) > MAX_ID:
            raise MarksFault(f"{file} has the id {values.max()}; ids go from 0, the background, to {MAX_ID:,}.")
        return values.astype(np.int32)
    numbers = values.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    colors, ids = np.unique(numbers, return_inverse=True)
    if len(colors) > MAX_COLORS + 1:
        raise MarksFault(
            f"{file} has {len(colors):,} colours; a mask has one for each object, or ids in a grey or palette picture."
        )
    ids = ids.reshape(numbers.shape).astype(np.int32)
    return ids if colors[0] == 0 else ids + 1


def _by_number(file: Path) -> tuple[int, str]:
    number = re.search(r"\d+$", file.stem)
    return int(number[0]) if number else -1, file.name


def _base(stem: str) -> str:
    """A name without the number of a person or object behind it."""
    found = _NUMBER.fullmatch(stem)
    return found[1] if found else stem


def _by(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _split_in(words: Iterable[str]) -> str | None:
    return next((SPLIT_WORDS[word.lower()] for word in words if word.lower() in SPLIT_WORDS), None)


def _header(file: Path) -> tuple[Size, str]:
    """Width, height and mode, without decoding."""
    with reading(file), open_picture(file, verify=False) as image:
        return image.size, image.mode


def _is_label_map(file: Path) -> bool:
    try:
        return _header(file)[1] in ("1", "L", "P", "I", "I;16")
    except UserError:
        return False


def is_wide(file: Path) -> bool:
    """Whether a label map may hold more than 255 ids."""
    return _header(file)[1].startswith("I")


def _is_one_object(file: Path) -> bool:
    """Whether a mask is black and white, both."""
    ids = np.unique(read_ids(file))
    return ids.tolist() == [0, 255] or (ids.tolist() == [0, 1] and _header(file)[1] in ("1", "RGB"))
