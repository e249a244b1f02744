"""PASCAL VOC 2012 segmentation (Everingham et al. 2010) with the additional masks of SBD (Hariharan et al. 2011)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from slotworks.data.readers.photos import Entry, MaskedPhotos, Schema, names_in, pictures_in, read_labels
from slotworks.data.stores.prepared import CatalogRow
from slotworks.data.stores.store import Row
from slotworks.images import DAMAGE, read_image
from slotworks.limits import check_decoded
from slotworks.types import UserError
from slotworks.vocabulary import VOC_CLASSES

VOC_PAGE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
SBD_PAGE = "http://home.bharathh.info/pubs/codes/SBD/download.html"
OFFICIAL_IMAGES = {"trainaug": 10_582, "val": 1_449}
VOID = 255
MATLAB_RATIO = 1032  # what zlib can make of a byte at most


@dataclass(frozen=True)
class VOC(MaskedPhotos):
    """VOC 2012: training on trainaug (10,582 images), validation and test on the official val (1,449).

    The papers' tables use val for both, because the labels of the test images are not public. `trainaug` is no official
    list: it is computed as VOC's train and all of SBD without VOC's val, from the lists below `root`. SBD may be there
    as its archive (`benchmark_RELEASE`) or as the folder `SegmentationClassAug` that many repositories share; if there
    is also a list `trainaug.txt`, differences are said. Without SBD the 1,464 images of train remain, or those of
    `trainaug.txt`.

    Fields of a batch beside `image`: `mask` (object number, 0 background), `class_mask` (id of the class in
    `class_names`, from 1) and `void` (border and undecided pixels, 255 in the files; background in both masks). In the
    training store, with `train_masks`: `mask` is there only if all images have one, which needs SBD's archive. SBD has
    no void pixels. Objects never share pixels.
    """

    root: str = "data/VOCdevkit"  # folder of the official files, and of what is prepared from them

    official_splits: ClassVar[dict[str, str]] = {"train": "trainaug", "val": "val", "test": "val"}

    @property
    def name(self) -> str:
        """`voc2012`."""
        return "voc2012"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each id from 1 on."""
        return VOC_CLASSES

    @property
    def year(self) -> Path:
        """The folder `VOC2012`: in `root`, in a `VOCdevkit` below it, `root` itself, or up to three folders deeper."""
        root = Path(self.root)
        places = [root / "VOC2012", root / "VOCdevkit" / "VOC2012", root]
        if not any((place / "JPEGImages").is_dir() for place in places):  # unpacked into a folder of its own
            deeper = [path.parent for depth in ("*", "*/*", "*/*/*") for path in root.glob(f"{depth}/JPEGImages")]
            places += sorted(path for path in deeper if "2012" in str(path.relative_to(root)))
        return next((place for place in places if (place / "JPEGImages").is_dir()), places[0])

    @property
    def sbd(self) -> Path | None:
        """The folder `dataset` of SBD's archive, if it is there."""
        root, year = Path(self.root), self.year
        above = (root, year, year.parent, year.parent.parent, root / "benchmark")
        places = [place / "benchmark_RELEASE" / "dataset" for place in above]
        return next((place for place in places if place.is_dir()), None)

    def folder(self, split: str) -> Path:
        """`JPEGImages`, for all splits."""
        return self.year / "JPEGImages"

    def file(self, entry: Entry) -> Path:
        """The picture of a name, whose ending may also be `.JPG` or `.jpeg`."""
        files = [self._pictures / f"{entry}{suffix}" for suffix in (".jpg", ".JPG", ".jpeg", ".JPEG")]
        return next((file for file in files if file.is_file()), files[0])

    @cached_property
    def _pictures(self) -> Path:
        return self.folder("")

    def read(self, split: str, entry: Entry) -> Image.Image:
        """The picture of a name as it is stored: whatever orientation a camera noted, the masks are of these pixels."""
        return read_image(self.file(entry), upright=False)

    def origin(self, file: Path) -> str:
        """The pages of VOC and SBD."""
        if "SegmentationClassAug" in file.parts or "benchmark_RELEASE" in file.parts:
            return f"get SBD (benchmark.tgz, 1.4 GB) from {SBD_PAGE} and unpack it into {self.root}"
        return f"get VOCtrainval_11-May-2012.tar (1.9 GB) from {VOC_PAGE} and unpack it, so that {self.year} exists"

    def count_officially(self, split: str) -> int | None:
        """10,582 and 1,449."""
        return OFFICIAL_IMAGES[split]

    def entries(self, split: str) -> tuple[Sequence[Entry], list[str]]:
        """Names of images; trainaug: VOC's train in its order, then what SBD adds, sorted."""
        lists = self.year / "ImageSets" / "Segmentation"
        val = names_in(lists / "val.txt", self.origin(lists), files=True)
        if split == "val":
            names, notes = val, []
        else:
            train = names_in(lists / "train.txt", self.origin(lists), files=True)
            shared = lists / "trainaug.txt"
            shared_names = names_in(shared, self.origin(shared), files=True) if shared.is_file() else []
            added, where = self._sbd_names()
            names = [*train, *sorted(set(added or shared_names) - set(train) - set(val))]
            notes = []
            if not added:
                where = f"{shared} says alone" if shared_names else "there is no SBD"
            elif shared_names and (more := len(set(shared_names) - set(names))) + (
                less := len(set(names) - set(shared_names))
            ):
                notes = [
                    f"{shared} differs from train and SBD without val: it has {more} other images and lacks {less}."
                ]
            if len(names) != OFFICIAL_IMAGES[split]:
                notes.append(
                    f"trainaug has {len(names):,} images here instead of {OFFICIAL_IMAGES[split]:,}: {len(train):,} of "
                    f"train.txt and {len(names) - len(train):,} more ({where})."
                )
        if split == "val" and len(names) != OFFICIAL_IMAGES[split]:
            notes.append(f"{lists / 'val.txt'} lists {len(names):,} images instead of {OFFICIAL_IMAGES[split]:,}.")
        return names, notes

    def _sbd_names(self) -> tuple[list[str], str]:
        """Every image of SBD (the shared folder also holds VOC's own), and where that is known from."""
        if self.sbd is not None:
            lists = [self.sbd / "train.txt", self.sbd / "val.txt"]
            return [
                name for file in lists for name in names_in(file, self.origin(file), files=True)
            ], f"from {self.sbd}"
        folder = self.year / "SegmentationClassAug"
        if folder.is_dir():
            return [file.stem for file in pictures_in(folder, ".png")], f"from {folder}"
        return [], ""

    def facts(self, split: str, entries: Sequence[Entry]) -> dict[str, Any]:
        """Whether masks of objects are there for all pictures: they are once SBD's archive is."""
        return {"object_masks": "mask" in self.schema(split, entries)} if self.has_masks(split) else {}

    def schema(self, split: str, entries: Sequence[Entry]) -> Schema:
        """`mask`, `class_mask`, `void`."""
        if not self.has_masks(split):
            return {}
        shape = self.mask_shape(split)
        fields: Schema = {"class_mask": (np.uint8, shape), "void": (np.bool_, shape)}
        if split == "val" or all(self._object_file(name) for name in entries):
            fields = {"mask": (np.uint8, shape), **fields}
        return fields

    def labels(self, split: str, entry: Entry, size: tuple[int, int]) -> Row:
        """Object and class masks of one image."""
        if not self.has_masks(split):
            return {}
        pick = self.mask_picker(split, size)
        classes = pick(self._class_map(entry, size))
        row = {"class_mask": np.where(classes == VOID, 0, classes), "void": classes == VOID}
        file = self._object_file(entry)
        if file is None and split == "val":
            file = self._official_file("SegmentationObject", entry)
        if file is not None:
            objects = pick(_read(file, size, "GTinst"))
            row |= {"mask": np.where(objects == VOID, 0, objects), "void": row["void"] | (objects == VOID)}
        return row

    def classes_in(self, split: str, entry: Entry) -> list[int]:
        """The classes of the whole picture, by id; a crop may have lost some."""
        return [int(k) for k in np.unique(self._class_map(entry, None)) if k not in (0, VOID)]

    def _class_map(self, entry: Entry, size: tuple[int, int] | None) -> np.ndarray:
        file = self._class_file(entry) or self._official_file("SegmentationClass", entry)
        classes = _read(file, size, "GTcls")
        if (wrong := np.setdiff1d(classes, [*range(len(VOC_CLASSES) + 1), VOID])).size:
            raise UserError(
                f"{file} has the class {wrong[0]}, expected 0 to {len(VOC_CLASSES)} or {VOID}; unpack it again."
            )
        return classes

    def _official_file(self, folder: str, name: str) -> Path:
        return self.year / folder / f"{name}.png"

    def _class_file(self, name: str) -> Path | None:
        """Where the classes of an image are: VOC's own masks before those of SBD, which are coarser."""
        files = [self._official_file(folder, name) for folder in ("SegmentationClass", "SegmentationClassAug")]
        return next((file for file in [*files, *self._matlab_files("cls", name)] if file.is_file()), None)

    def _object_file(self, name: str) -> Path | None:
        files = [self._official_file("SegmentationObject", name), *self._matlab_files("inst", name)]
        return next((file for file in files if file.is_file()), None)

    def _matlab_files(self, kind: str, name: str) -> list[Path]:
        return [] if self.sbd is None else [self.sbd / kind / f"{name}.mat"]


def color_map() -> np.ndarray:
    """The colours of VOC's palette, `256 3`: bit k of a channel comes from bit 3k of the number, reversed."""
    number = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for channel in range(3):
        for bit in range(8 // 3 + 1):
            colors[:, channel] |= ((number >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def _read(file: Path, size: tuple[int, int] | None, matlab_name: str) -> np.ndarray:
    """Numbers of a mask file, which must have the size of the picture where that is given."""
    labels = _read_matlab(file, matlab_name) if file.suffix == ".mat" else read_labels(file, palette=color_map())
    if size is not None and labels.shape[::-1] != size:
        raise UserError(
            f"{file} has {labels.shape[1]} x {labels.shape[0]} pixels, its picture {size[0]} x {size[1]}; unpack both "
            "again."
        )
    return labels


def _read_matlab(file: Path, name: str) -> np.ndarray:
    """The field `Segmentation` of one of SBD's files."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        size = file.stat().st_size
        check_decoded(MATLAB_RATIO * size, file, f"{size:,} bytes that may be packed a thousandfold")
        content: Any = loadmat(file, variable_names=[name])[name]
        labels = np.asarray(content["Segmentation"][0, 0])
        if (
            labels.ndim != 2
            or labels.dtype.kind not in "ui"
            or labels.max(initial=0) > 255
            or labels.min(initial=0) < 0
        ):
            raise ValueError(f"Segmentation is {labels.dtype} {labels.shape}")
    except (*DAMAGE, MatReadError, NotImplementedError) as error:  # SciPy raises much the same kinds as Pillow
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file} cannot be read as a file of SBD ({reason}); unpack it again.") from error
    return labels.astype(np.uint8)


ROWS = (
    CatalogRow(
        VOC,
        download="1.9 GB, and 1.4 GB of SBD",
        disk="1.6 GB for training, 0.7 GB for validation",
        licence="Flickr's terms of use for the photographs; see source",
        splits="train: trainaug 10,582 (VOC's train 1,464 and SBD without val); val and test: val 1,449",
        background="everything that is not of the 20 classes; void pixels (255) are kept apart",
        overlaps="none in the files",
        files=("VOC2012",),
        origin=f"{VOC_PAGE} {SBD_PAGE}",
    ),
)
