"""What data sets of photographs share: pictures of many sizes become rows of one size, once, in several threads.

    JPEG --decode, upright--> RGB --short side to image_size, crop--> store --crop and flip on the device--> batch

Every official split has a store of its own, so that measuring on the validation pictures does not wait for the training
pictures. A damaged file ends the preparation with a sentence that names it, or is noted and left out; training reads
only the store and never meets one.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import google_crc32c
import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import DTypeLike
from PIL import Image
from torch import Tensor

from slotworks.data.stores.prepared import WORKERS, Examined, OfficialData, PreparedData, in_order, say
from slotworks.data.stores.shrink import Crop, Interpolation, nearest, shrink, square, stored_shape
from slotworks.data.stores.store import Row, Store
from slotworks.files import write_text
from slotworks.images import IMAGE_SUFFIXES, open_picture, read_image, reading
from slotworks.nn.noise import batch_uniform
from slotworks.types import Batch, UserError

Schema = dict[str, tuple[DTypeLike, tuple[int, ...]]]
"""Type and shape of what a row holds beside the image."""

Entry = Any


@dataclass(frozen=True)
class Photos(OfficialData):
    """A data set of photographs; one prepared store for every official split.

    Images are made small by Pillow, with antialiasing. `crop` says what becomes of the longer side: `center` keeps the
    middle square; `random` stores more, centrally cut to at most 4:3, and takes a random square of it for each
    training batch; `whole` squeezes the picture into the square. Validation and test images are never cropped at
    random. With `flip` every second training image is mirrored.

    Random numbers are those of `slotworks.nn.noise`: they do not depend on the number of processes.
    """

    root: str = ""
    image_size: int = 224  # pixels, square
    crop: Crop = "center"  # which part of a photograph is seen
    flip: bool = True  # mirror training images left to right at random
    interpolation: Interpolation = "bicubic"  # of the images when they are resized
    skip_damaged: bool = False  # leave out pictures that cannot be read, and say which

    official_splits: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "val"}

    def __post_init__(self):
        super().__post_init__()
        for field, choices in (("crop", ("center", "random", "whole")), ("interpolation", ("bicubic", "bilinear"))):
            if getattr(self, field) not in choices:
                raise ValueError(f"{field} is {getattr(self, field)!r}; expected one of {', '.join(choices)}.")

    def parts(self) -> Sequence[PreparedData]:
        """One for each official split."""
        return [PhotoSplit(self.root, self, name) for name in dict.fromkeys(self.official_splits.values())]

    def part(self, split: str) -> PreparedData:
        """The one of the official split that stands for `split`."""
        if split not in self.official_splits:
            known = ", ".join(self.official_splits)
            raise UserError(f"{self.name} has no split {split!r}; open one of {known}.")
        return PhotoSplit(self.root, self, self.official_splits[split])

    def store_name(self, split: str) -> str:
        """Name of the store of an official split: holds every setting that changes the stored values."""
        crop = self.stored_crop(split)
        words = [self.name, split, str(self.image_size)]
        return "-".join([*words, *[w for w in (crop, self.interpolation) if w not in ("center", "bicubic")]])

    def stored_crop(self, split: str) -> Crop:
        """How the pictures of an official split are cropped before they are stored."""
        return "center" if self.crop == "random" and split != self.official_splits.get("train") else self.crop

    def folder(self, split: str) -> Path:
        """Where the pictures of an official split are expected."""
        raise NotImplementedError

    def entries(self, split: str) -> tuple[Sequence[Entry], list[str]]:
        """The pictures of an official split in order, and sentences about what is unusual.

        Raises:
            UserError: a list or annotation file is missing or damaged; says which and where it comes from.
        """
        raise NotImplementedError

    def file(self, entry: Entry) -> Path:
        """The picture of an entry."""
        return entry

    def skips(self, error: UserError) -> bool:
        """Whether a picture with this fault is left out, and the others go on."""
        return self.skip_damaged

    @property
    def skipping(self) -> str:
        """How damaged pictures are left out: the end of a sentence."""
        return f"set skip_damaged (`slotworks data prepare {self.name} --skip-damaged`)"

    def origin(self, file: Path) -> str:
        """What to do about a missing or damaged file: a part of a sentence that says where it comes from."""
        raise NotImplementedError

    def count_officially(self, split: str) -> int | None:
        """How many pictures the official split has."""
        return None

    def lists(self, split: str) -> Sequence[Path]:
        """Files that the entries are read from; their content is part of what identifies a store."""
        return ()

    def facts(self, split: str, entries: Sequence[Entry]) -> dict[str, Any]:
        """What else tells one state of the official files from another; saved in the store."""
        return {}

    def schema(self, split: str, entries: Sequence[Entry]) -> Schema:
        """What is known about a picture beside its pixels."""
        return {}

    def before_preparing(self, split: str) -> None:
        """Make what the lists of a split need and what is not there yet."""

    def read(self, split: str, entry: Entry) -> Image.Image:
        """The picture of an entry, upright."""
        return read_image(self.file(entry), needed=self.image_size)

    def labels(self, split: str, entry: Entry, size: tuple[int, int]) -> Row:
        """The fields of `schema`, for a picture of this width and height."""
        return {}

    def augment(self, batch: Batch) -> Batch:
        """A training batch, mirrored and cropped at random; masks move along."""
        if "image" not in batch:  # features were computed before
            return batch
        batch = dict(batch)
        images, size = batch["image"], self.image_size
        draws = batch_uniform((len(images), 2), images.device)
        maps = [name for name in ("image", *MAPS) if name in batch]
        if "width" in batch:
            width, turned = batch.pop("width").long(), batch.pop("turned").bool()
            left = (draws[:, 0] * (width - size + 1)).long().clamp(max=(width - size))
            for name in maps:
                side = batch[name].shape[-2]
                batch[name] = square(batch[name], left * side // size)
                batch[name] = _where(turned, batch[name].transpose(-1, -2), batch[name])
        if self.flip:
            mirrored = draws[:, 1] < 0.5
            for name in maps:
                batch[name] = _where(mirrored, batch[name].flip(-1), batch[name])
        return batch


MAPS = ("mask", "annotators", "class_mask", "class_mask_highest", "void", "overlap", "crowd")


@dataclass(frozen=True)
class MaskedPhotos(Photos):
    """Photographs with masks of their objects.

    Masks have a size of their own, `mask_size`: tables are printed at 320. They are made small by the nearest pixel of
    the original, and cropped as the image is. Training stores hold images only, unless `train_masks` is set: training
    without labels does not need them, and they take as much room as the images.
    """

    mask_size: int = 320  # pixels, square; masks may be larger than images
    train_masks: bool = False  # also prepare masks for the training images

    def has_masks(self, split: str) -> bool:
        """Whether the store of an official split holds masks."""
        return self.train_masks or split != self.official_splits.get("train")

    def store_name(self, split: str) -> str:
        """Also holds the size of the masks, where there are any."""
        name, size = super().store_name(split), str(self.image_size)
        head, _, tail = name.partition(f"-{size}")
        return f"{head}-{size}-{self.mask_size}{tail}" if self.has_masks(split) else name

    def mask_shape(self, split: str) -> tuple[int, int]:
        """Height and width of the stored masks."""
        return stored_shape(self.mask_size, self.stored_crop(split))

    def classes_in(self, split: str, entry: Entry) -> list[int]:
        """The classes of the whole picture of an entry, each once, whatever a crop keeps of it.

        Raises:
            UserError: a file is missing or damaged.
        """
        raise NotImplementedError

    def mask_picker(self, split: str, size: tuple[int, int]) -> "Callable[[np.ndarray], np.ndarray]":
        """What makes a full map of a picture of this width and height as small as the stored ones."""
        return nearest(size, self.mask_size, self.stored_crop(split))


@dataclass(frozen=True)
class PhotoSplit(PreparedData):
    """The store of one official split of photographs.

    Fields: `image`, what the data set's `schema` names, `damaged` (such rows are black and belong to no split), and
    where crops are random `width` (columns of `image` in use) and `turned` (rows and columns are exchanged, to lay a
    portrait on its side).
    """

    photos: Photos
    split: str

    @property
    def name(self) -> str:
        """The data set's name and the split's."""
        return f"{self.photos.name} {self.split}"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.photos.size

    @property
    def store_name(self) -> str:
        """Depends on the split and on all sizes."""
        return self.photos.store_name(self.split)

    @property
    def official(self) -> Path:
        """The folder of the pictures."""
        return self.photos.folder(self.split)

    @property
    def num_images(self) -> int | None:
        """As many as are listed."""
        return len(self.entries)

    @property
    def official_images(self) -> int | None:
        """As many as the official split has."""
        return self.photos.count_officially(self.split)

    @property
    def settings(self) -> dict[str, Any]:
        """How pictures become rows."""
        crop = self.photos.stored_crop(self.split)
        known = {"image_size": self.photos.image_size, "crop": crop}
        if isinstance(self.photos, MaskedPhotos) and self.photos.has_masks(self.split):
            known |= {"mask_size": self.photos.mask_size, "mask": "nearest, pixel centres"}
        return known | {"image": f"Pillow {self.photos.interpolation}"}

    @cached_property
    def _listed(self) -> tuple[Sequence[Entry], list[str]]:
        entries, notes = self.photos.entries(self.split)
        if not entries:
            raise UserError(f"{self.official} holds no picture of {self.name}; {self.photos.origin(self.official)}.")
        return entries, notes

    @property
    def entries(self) -> Sequence[Entry]:
        """The pictures in the order of the rows; errors as `Photos.entries`."""
        return self._listed[0]

    def source(self) -> dict[str, Any]:
        """Number and names of the pictures and the content of the lists; errors as `Photos.entries`.

        Raises:
            UserError: also if the folder of the pictures is missing.
        """
        names = "\n".join(self.photos.file(entry).name for entry in self.entries)
        crc, facts = self._crc_of_lists(), self.photos.facts(self.split, self.entries)
        if not self.official.is_dir():
            raise UserError(f"{self.official} is missing; {self.photos.origin(self.official)}.")
        known = {"name": self.name, "images": len(self.entries), "crc32c_of_names": google_crc32c.value(names.encode())}
        return known | facts | ({"crc32c_of_lists": crc} if crc else {})

    def same_source(self, noted: dict[str, Any]) -> dict[str, Any]:
        """Where there are lists, they alone: they say which pictures there are, and parsing COCO's takes seconds."""
        files = self.photos.lists(self.split)
        if "crc32c_of_lists" in noted and files and all(file.is_file() for file in files):
            found = {"crc32c_of_lists": self._crc_of_lists()}
            if found.items() <= noted.items():
                return found
        return super().same_source(noted)

    def _crc_of_lists(self) -> int:
        crc = 0
        for file in self.photos.lists(self.split):
            with file.open("rb") as opened:
                while block := opened.read(1 << 24):
                    crc = google_crc32c.extend(crc, block)
        return crc

    def split_rows(self, store: Store, split: str) -> np.ndarray:
        """All rows but those of damaged pictures."""
        rows = np.flatnonzero(~np.asarray(store.arrays["damaged"]))
        if not len(rows):
            raise UserError(f"No picture of {self.name} could be read; see {self._damaged_file}.")
        return rows

    def rows(self, start: int = 0) -> Iterator[Row]:
        """One row per picture; a damaged one raises UserError, or gives a black row with `skip_damaged`."""
        for row in self._decoded(self.entries[start:]):
            if isinstance(row, UserError):
                if not self.photos.skips(row):
                    raise UserError(f"{row} To leave such pictures out, {self.photos.skipping}.")
                row = self._fill({})
            yield row

    def decode(self, entry: Entry) -> Row:
        """One picture with what is known about it; raises UserError if a file is missing, damaged or does not fit."""
        file, photos = self.photos.file(entry), self.photos
        try:
            if not file.is_file():
                raise UserError(f"{file} is missing; {photos.origin(file)}.")
            picture = photos.read(self.split, entry)
            image = shrink(picture, photos.image_size, photos.stored_crop(self.split), photos.interpolation)
            labels = photos.labels(self.split, entry, picture.size)
            return self._fill({name: value for name, value in (image | labels).items() if name in self._schema})
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error

    def examine(self) -> Examined:
        """Decode every picture and name each that is missing or damaged."""
        faults = [
            (self.photos.file(entry), str(row))
            for entry, row in zip(self.entries, self._decoded(self.entries), strict=True)
            if isinstance(row, UserError)
        ]
        return Examined(len(self.entries) - len(faults), faults, self._listed[1])

    def prepare(self) -> Path:
        """Make the store if it is not there. What is unusual, and which pictures were left out, is said.

        A file `<store>.damaged.txt` beside the store names the damaged pictures.
        """
        new = not self.store_path.exists()
        if new:
            self.photos.before_preparing(self.split)
            for note in self._listed[1]:
                say(note)
        path = super().prepare()
        store = Store(path)
        damaged = np.flatnonzero(np.asarray(store.arrays["damaged"])).tolist()
        if damaged and new:
            found = (self._try_decode(self.entries[i]) for i in damaged)
            lines = [str(row) if isinstance(row, UserError) else "readable again" for row in found]
            write_text(
                self._damaged_file, "".join(f"row {i}: {line}\n" for i, line in zip(damaged, lines, strict=True))
            )
        if damaged:
            say(f"{len(damaged):,} damaged of {len(store):,} pictures are left out: {self._damaged_file}.")
        return path

    @property
    def _damaged_file(self) -> Path:
        return self.store_path.with_name(f"{self.store_name}.damaged.txt")

    @cached_property
    def _schema(self) -> Schema:
        shape = stored_shape(self.photos.image_size, crop := self.photos.stored_crop(self.split))
        turns: Schema = {"width": (np.int32, ()), "turned": (np.bool_, ())} if crop == "random" else {}
        own = self.photos.schema(self.split, self.entries)
        return {"image": (np.uint8, (*shape, 3)), **turns, **own, "damaged": (np.bool_, ())}

    def _fill(self, known: Row) -> Row:
        """A row with all fields in order, shorter values with zeros behind; nothing known makes it a damaged one."""
        row = {name: np.zeros(shape, dtype) for name, (dtype, shape) in self._schema.items()}
        for name, value in known.items():
            row[name][tuple(slice(n) for n in value.shape)] = value
        row["damaged"][()] = not known
        return row

    def _try_decode(self, entry: Entry) -> Row | UserError:
        try:
            return self.decode(entry)
        except UserError as error:
            return error

    def _decoded(self, entries: Sequence[Entry]) -> Iterator[Row | UserError]:
        self._schema  # noqa: B018  (threads would compute it several times)
        return in_order(self._try_decode, entries, WORKERS)


def read_labels(file: Path, *, palette: np.ndarray | None = None) -> UInt8[np.ndarray, "h w"]:
    """The numbers of a palette or grey PNG file.

    Args:
        file: the file; its checksums are verified.
        palette: colours of the numbers, `256 3`; a palette image that shows other colours is refused, unless they are
            greys.

    Raises:
        UserError: the file is missing, damaged, no such picture, or its colours say that its numbers mean other things.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing.")
    with reading(file, otherwise="unpack it again"), open_picture(file, formats=["PNG"]) as image:
        mode = image.mode
        labels = np.array(image) if mode in ("P", "L") else None
        colors = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3) if mode == "P" else None
    if labels is None:
        raise UserError(
            f"{file} is a {mode} image; expected a palette or grey image whose values are numbers. It was saved anew "
            "by some program; unpack it again."
        )
    if colors is not None and palette is not None:
        used = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=256))
        if used.max(initial=0) >= len(colors):
            raise UserError(f"{file} has the value {used.max()}, but a palette of {len(colors)}; unpack it again.")
        wrong = (colors[used] != palette[used]).any(1) & (colors[used].min(1) != colors[used].max(1))
        if wrong.any():
            value = used[wrong.argmax()]
            raise UserError(
                f"{file} shows {value} in the colour {tuple(map(int, colors[value]))}, expected "
                f"{tuple(map(int, palette[value]))}: its palette is another one and its values mean something else; "
                "unpack it again."
            )
    return labels


def names_in(file: Path, origin: str, *, files: bool = False) -> list[str]:
    """The first words of the lines of a list of images.

    Args:
        file: the list.
        origin: where it comes from, for messages.
        files: whether the words may also be paths of pictures; then folders and the ending are left out.

    Raises:
        UserError: it is missing, no text, or names folders.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()  # Windows' editors put a mark in front
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; {origin}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a list of images ({error}); {origin}.") from error
    names = [line.split()[0] for line in lines if line.split()]
    if files:
        names = [Path(name).stem if name.lower().endswith((*IMAGE_SUFFIXES, ".mat")) else name for name in names]
    if bad := next((name for name in names if "/" in name or "\\" in name or "\0" in name), None):
        raise UserError(f"{file} has the line {bad[:50]!r}, expected names without folders; {origin}.")
    return names


def pictures_in(folder: Path, suffix: str | tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The files of a folder with one of these endings, by name, without the `._` files of macOS.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            names = [item.name for item in found if item.name.lower().endswith(suffix)]
            return [folder / name for name in sorted(names) if not name.startswith("._")]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}.") from error


def _where(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (no.ndim - 1)), yes, no)
