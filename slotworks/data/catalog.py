"""Which official data sets there are, where they come from, and whether what lies on the disk is whole."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slotworks.data.readers.celeba import PAGE as CELEBA_PAGE
from slotworks.data.readers.celeba import PARTITION, CelebA
from slotworks.data.readers.clevr_v1 import PAGE as CLEVR_V1_PAGE
from slotworks.data.readers.clevr_v1 import CLEVRv1
from slotworks.data.readers.clevr_with_masks import CLEVR
from slotworks.data.readers.clevrtex import OFFICIAL_IMAGES, PAGE, CLEVRTex
from slotworks.data.readers.clevrtex import Variant as CLEVRTexVariant
from slotworks.data.readers.coco import COCO
from slotworks.data.readers.coco import PAGE as COCO_PAGE
from slotworks.data.readers.folders import BITMOJI_PAGE, CLEVR_MIRROR_PAGE, Bitmoji, CLEVRMirror
from slotworks.data.readers.movi import BUCKET as MOVI_BUCKET
from slotworks.data.readers.movi import MAX_OBJECTS as MOVI_VARIANTS
from slotworks.data.readers.movi import MOVi
from slotworks.data.readers.movi import Variant as MOViVariant
from slotworks.data.readers.multi_dsprites import VARIANTS, MultiDSprites, Variant
from slotworks.data.readers.multi_object_datasets import BUCKET
from slotworks.data.readers.objects365 import Objects365
from slotworks.data.readers.objects365_masks import PAGE as OBJECTS365_PAGE
from slotworks.data.readers.shapes3d import PAGE as SHAPES3D_PAGE
from slotworks.data.readers.shapes3d import Shapes3D
from slotworks.data.readers.shapestacks import PAGE as SHAPESTACKS_PAGE
from slotworks.data.readers.shapestacks import ShapeStacks
from slotworks.data.readers.tetrominoes import Tetrominoes
from slotworks.data.readers.voc import SBD_PAGE, VOC, VOC_PAGE
from slotworks.data.stores.prepared import SPLITS, OfficialData, PreparedData
from slotworks.data.stores.store import Store
from slotworks.types import UserError

MULTI_OBJECT_LICENCE = "see source (its repository is under Apache-2.0; nothing is said about the data)"
CLEVRTEX_LICENCE = "see source (the generator is under BSD-3-Clause)"


@dataclass(frozen=True)
class CatalogRow:
    """One data set as `slotworks data list` prints it."""

    name: str
    config: Callable[..., OfficialData]  # takes `root` and the options of the data set
    folder: str  # below a common root, the last part of the config's default root
    download: str  # size of the official files
    disk: str  # size of the prepared store with default settings
    licence: str
    splits: str
    background: str  # what mask value 0 means
    overlaps: str  # what the mask says where objects hide each other
    files: tuple[str, ...]  # expected below the data set's root
    origin: str


@dataclass(frozen=True)
class Finding:
    """What `check` found about one official file or store."""

    name: str
    path: Path
    status: Literal["ok", "note", "missing", "damaged"]  # note: unusual but not wrong
    message: str  # one sentence or two: what is wrong, where the file comes from, what to do


def list_rows() -> list[CatalogRow]:
    """Every official data set this package prepares."""
    rendered = [
        _tetrominoes(),
        *map(_multi_dsprites, VARIANTS),
        _clevr(6),
        _clevr(10),
        _clevr_v1(10),
        _clevr_v1(6),
        *map(_clevrtex, OFFICIAL_IMAGES),
    ]
    rendered += [_shapes3d(), _shapestacks(), _clevr_mirror()]
    drawn = [_bitmoji()]
    return [*rendered, *drawn, _voc2012(), _coco2017(), _objects365(), _celeba(), *map(_movi, MOVI_VARIANTS)]


def find_row(name: str) -> CatalogRow:
    """The row of a data set, whose name may be shortened while it is the only one; raises UserError for others."""
    rows = {row.name: row for row in list_rows()}
    if name in rows:
        return rows[name]
    longer = [known for known in rows if known.startswith(name)] if name else []
    if len(longer) != 1:
        raise UserError(f"There is no data set {name!r}; the known ones are {', '.join(rows)}.")
    return rows[longer[0]]


def prepare(name: str, root: str | Path | None = None, *, split: str | None = None, **options: Any) -> list[Path]:
    """Prepare a data set from its official files below `root` and return the folders of its stores.

    Args:
        name: as `list_rows` gives it.
        root: the folder with the official files; `data/<folder>` if None.
        split: `train`, `val` or `test`, if only the store of this one is wanted; most data sets have one for all.
        options: fields of the config to change, for example `train_size=1000`.

    Raises:
        UserError: the name is unknown, an official file is missing or damaged, or the disk is full.
    """
    config = find_row(name).config()
    known = [field.name for field in fields(config) if field.name != "root"]
    if unknown := sorted(set(options) - set(known)):
        raise UserError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known)}.")
    if split not in (None, *SPLITS):
        raise UserError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
    config = replace(config, **({"root": str(root)} if root else {}), **options)
    return [part.prepare() for part in ([config.part(split)] if split else config.parts())]


def check(root: str | Path, name: str | None = None) -> list[Finding]:
    """Say which files are missing or damaged, and where they come from.

    Reads everything: prepared stores are checked against their checksums; official files are read and decoded to the
    end unless a whole store made from them lies beside. `root` may be the folder of one data set or the folder above
    with the default names (`data`). Without `name`, a data set of which there is no trace is not mentioned.

    Raises:
        UserError: the name is unknown, or there is no folder `root`, or nothing known in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the one with the data sets, for example data.")
    findings: dict[tuple[Path, str], Finding] = {}  # CLEVR6 and CLEVR10 share file and store: said once
    for row in [find_row(name)] if name else list_rows():
        own = root if _has_trace(row, root) else root / row.folder
        if name or _has_trace(row, own):
            for part in row.config(root=str(own)).parts():
                for finding in _check_part(row.name, part):
                    findings.setdefault((finding.path, finding.message), finding)
    if not findings:
        folders = ", ".join(sorted({row.folder for row in list_rows()}))
        raise UserError(f"{root} holds no data set that is known here; expected are folders called {folders}.")
    return list(findings.values())


def _has_trace(row: CatalogRow, root: Path) -> bool:
    parts = row.config(root=str(root)).parts()
    return any((root / file).exists() for file in row.files) or any(_stores(part) for part in parts)


def _stores(part: PreparedData) -> list[Path]:
    """Prepared stores of the same with any sizes; what is before the first number of a name says of what it is."""
    about = re.split(r"-(?=\d)", part.store_name)[0]
    found = (part.store_path.parent.glob(f"{about}-*")) if part.store_path.parent.is_dir() else ()
    return sorted(path for path in found if path.is_dir() and re.split(r"-(?=\d)", path.name)[0] == about)


def _check_part(name: str, part: PreparedData) -> list[Finding]:
    findings = [_check_store(name, path) for path in _stores(part)]
    sound = [Store(finding.path) for finding in findings if finding.status == "ok"]
    try:
        source = part.source()
    except UserError as error:
        if sound:
            return findings  # the official files are not needed any more
        return [*findings, Finding(name, part.official, "missing", str(error))]
    if any(store.index["source"] == source for store in sound):
        return findings
    stale = "{} was made from other files than those that lie there now; to use these, delete it and prepare it again."
    alike = [store for store in sound if store.index["source"].keys() == source.keys()]  # not one without masks
    findings += [Finding(name, store.path, "damaged", stale.format(store.path)) for store in alike]
    found = part.examine()
    for path, message in found.faults:
        findings.append(Finding(name, path, "damaged" if path.exists() else "missing", message))
    findings += [Finding(name, part.official, "note", note) for note in found.notes]
    if found.num_images:
        expected = part.official_images
        count = f"{found.num_images:,} images" if expected is None else f"{found.num_images:,} of {expected:,} images"
        said = f"{part.official} is readable to the end: {count}."
        if len(found.faults) or found.notes:
            said = f"{part.official}: {count} can be read."
        findings.append(Finding(name, part.official, "ok", said))
    return findings


def _check_store(name: str, path: Path) -> Finding:
    try:
        store = Store(path)
        store.verify()
    except UserError as error:
        return Finding(name, path, "damaged", str(error))
    left_out = int(np.asarray(store.arrays["damaged"]).sum()) if "damaged" in store.arrays else 0
    but = f", without {left_out:,} that could not be read ({path}.damaged.txt)" if left_out else ""
    return Finding(name, path, "ok", f"{path} is whole: {len(store) - left_out:,} images{but}.")


def _tetrominoes() -> CatalogRow:
    return CatalogRow(
        name="tetrominoes",
        config=Tetrominoes,
        folder="tetrominoes",
        download="300 MB",
        disk="0.3 GB",
        licence=MULTI_OBJECT_LICENCE,
        splits="train 60,000, test 320, val 320 of 1,000,000",
        background="black",
        overlaps="none",
        files=("tetrominoes_train.tfrecords",),
        origin=f"{BUCKET}/tetrominoes/tetrominoes_train.tfrecords",
    )


def _multi_dsprites(variant: Variant) -> CatalogRow:
    config = partial(MultiDSprites, variant=variant)
    colors = {"binarized": "black", "colored_on_grayscale": "one grey", "colored_on_colored": "one colour"}
    return CatalogRow(
        name=f"multi_dsprites_{variant}",
        config=config,
        folder="multi_dsprites",
        download="0.5 to 1 GB",
        disk="1.0 GB",
        licence=MULTI_OBJECT_LICENCE,
        splits="train 60,000, test 320, val 320 of 1,000,000",
        background=colors[variant],
        overlaps="later sprites hide earlier ones; a pixel belongs to the visible one",
        files=(f"multi_dsprites_{variant}.tfrecords",),
        origin=f"{BUCKET}/multi_dsprites/multi_dsprites_{variant}.tfrecords",
    )


def _clevr(max_objects: int) -> CatalogRow:
    return CatalogRow(
        name=f"clevr{max_objects}",
        config=partial(CLEVR, max_objects=max_objects),
        folder="clevr_with_masks",
        download="10.5 GB",
        disk="6.6 GB (CLEVR6 and CLEVR10 together)",
        licence=MULTI_OBJECT_LICENCE,
        splits=f"scenes of at most {max_objects} objects: train from the first 70,000, then test 320, val 320",
        background="floor and horizon",
        overlaps="a pixel belongs to the visible object",
        files=("clevr_with_masks_train.tfrecords",),
        origin=f"{BUCKET}/clevr_with_masks/clevr_with_masks_train.tfrecords",
    )


def _clevr_v1(max_objects: int) -> CatalogRow:
    config = partial(CLEVRv1, max_objects=max_objects)
    return CatalogRow(
        name=config().name,
        config=config,
        folder="clevr",
        download="18 GB",
        disk="4.2 GB (both together)",
        licence="CC BY 4.0",
        splits=f"scenes of at most {max_objects} objects: train from 69,488, val from 512 of the training images, test "
        "from the 15,000 validation images",
        background="there are no masks",
        overlaps="there are no masks",
        files=("CLEVR_v1.0",),
        origin=CLEVR_V1_PAGE,
    )


def _clevrtex(variant: CLEVRTexVariant) -> CatalogRow:
    config = partial(CLEVRTex, variant=variant)
    count = OFFICIAL_IMAGES[variant]
    return CatalogRow(
        name=config().name,
        config=config,
        folder="clevrtex",
        download="5 archives of 4.7 GB" if variant == "full" else "see source",
        disk=f"{count * 128 * 128 * 4 / 1e9:.1f} GB",
        licence=CLEVRTEX_LICENCE,
        splits=f"test {count:,}" if variant == "outd" else f"test {count // 10:,}, val {count // 10:,}, train the rest",
        background="floor",
        overlaps="a pixel belongs to the visible object",
        files=(f"clevrtex_{variant}",),
        origin=PAGE,
    )


def _shapes3d() -> CatalogRow:
    return CatalogRow(
        name="shapes3d",
        config=Shapes3D,
        folder="3dshapes",
        download="255 MB",
        disk="5.7 GB",
        licence="Apache-2.0",
        splits="train 400,000, val 30,000, test 30,000 of 480,000, in the order of the file, as in SLATE's code",
        background="there are no masks",
        overlaps="there are no masks",
        files=("3dshapes.h5",),
        origin=SHAPES3D_PAGE,
    )


def _shapestacks() -> CatalogRow:
    return CatalogRow(
        name="shapestacks",
        config=ShapeStacks,
        folder="shapestacks",
        download="see source",
        disk="0.03 MB for each image",
        licence="see source",
        splits="the official lists train, eval (val) and test, every camera of every scenario",
        background="floor and walls",
        overlaps="a pixel belongs to the visible block",
        files=("recordings", "splits", "iseg"),
        origin=SHAPESTACKS_PAGE,
    )


def _clevr_mirror() -> CatalogRow:
    return CatalogRow(
        name="clevr_mirror",
        config=CLEVRMirror,
        folder="clevr_mirror",
        download="see source",
        disk="0.05 MB for each image",
        licence="see source",
        splits="val a tenth, test a tenth, train the rest, by a hash of the name; there are no official ones",
        background="there are no masks",
        overlaps="there are no masks",
        files=(),
        origin=CLEVR_MIRROR_PAGE,
    )


def _bitmoji() -> CatalogRow:
    return CatalogRow(
        name="bitmoji",
        config=Bitmoji,
        folder="bitmoji",
        download="see source",
        disk="0.05 MB for each image",
        licence="see source",
        splits="val a tenth, test a tenth, train the rest, by a hash of the name; there are no official ones",
        background="there are no masks",
        overlaps="there are no masks",
        files=(),
        origin=BITMOJI_PAGE,
    )


def _voc2012() -> CatalogRow:
    return CatalogRow(
        name="voc2012",
        config=VOC,
        folder="VOCdevkit",
        download="1.9 GB, and 1.4 GB of SBD",
        disk="1.6 GB for training, 0.7 GB for validation",
        licence="Flickr's terms of use for the photographs; see source",
        splits="train: trainaug 10,582 (VOC's train 1,464 and SBD without val); val and test: val 1,449",
        background="everything that is not of the 20 classes; void pixels (255) are kept apart",
        overlaps="none in the files",
        files=("VOC2012",),
        origin=f"{VOC_PAGE} {SBD_PAGE}",
    )


def _coco2017() -> CatalogRow:
    return CatalogRow(
        name="coco2017",
        config=COCO,
        folder="coco",
        download="18 GB, 1 GB and 0.2 GB of annotations",
        disk="17.8 GB for training, 3.3 GB for validation",
        licence="CC BY 4.0 for the annotations; Flickr's terms of use for the photographs",
        splits="train: train2017 118,287; val and test: val2017 5,000",
        background="everything that is not of the 80 classes, and crowds, which are also kept apart",
        overlaps="pixels of several objects are marked; the last one owns them",
        files=("val2017", "train2017", "images/val2017", "images/train2017", "annotations/instances_val2017.json"),
        origin=COCO_PAGE,
    )


def _objects365() -> CatalogRow:
    return CatalogRow(
        name="objects365",
        config=Objects365,
        folder="objects365",
        download="see source; only the validation images are used",
        disk="up to 70 GB, by the number of images with masks",
        licence="CC BY 4.0 for the annotations; see source for the photographs",
        splits="val and test: the validation images that the file of masks lists",
        background="everything outside of the boxes' masks; made by SAM 2, docs/data.md",
        overlaps="pixels of several objects are marked; the smaller one owns them",
        files=("annotations/zhiyuan_objv2_val.json", "annotations/zhiyuan_objv2_val_sam2.json"),
        origin=OBJECTS365_PAGE,
    )


def _celeba() -> CatalogRow:
    return CatalogRow(
        name="celeba",
        config=CelebA,
        folder="celeba",
        download="1.4 GB",
        disk="10.0 GB",
        licence="non-commercial research only; see source",
        splits="train 162,770, val 19,867, test 19,962",
        background="there are no masks",
        overlaps="there are no masks",
        files=("img_align_celeba", PARTITION),
        origin=CELEBA_PAGE,
    )


def _movi(variant: MOViVariant) -> CatalogRow:
    held_out = variant in ("c", "d", "e")
    return CatalogRow(
        name=f"movi_{variant}",
        config=partial(MOVi, variant=variant),
        folder="movi",
        download="see source",
        disk="about 16 GB at 128x128, masks and boxes included",
        licence="see source (the generator is under Apache-2.0)",
        splits="train about 9,700, val 250 (validation), test "
        + ("about 1,000 with other objects and backgrounds" if held_out else "the same 250; videos of 24 frames"),
        background="floor and surroundings",
        overlaps="a pixel belongs to the visible object; ids stay the same over time",
        files=(f"movi_{variant}",),
        origin=f"{MOVI_BUCKET}/movi_{variant}",
    )
