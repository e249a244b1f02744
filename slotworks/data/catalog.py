"""Which official data sets there are, where they come from, and whether what lies on the disk is whole."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from slotworks.data.clevr_with_masks import CLEVR
from slotworks.data.clevrtex import OFFICIAL_IMAGES, PAGE, CLEVRTex
from slotworks.data.clevrtex import Variant as CLEVRTexVariant
from slotworks.data.multi_dsprites import VARIANTS, MultiDSprites, Variant
from slotworks.data.multi_object_datasets import BUCKET
from slotworks.data.prepared import PreparedData
from slotworks.data.store import Store
from slotworks.data.tetrominoes import Tetrominoes
from slotworks.types import UserError

MULTI_OBJECT_LICENCE = "see source (its repository is under Apache-2.0; nothing is said about the data)"
CLEVRTEX_LICENCE = "see source (the generator is under BSD-3-Clause)"


@dataclass(frozen=True)
class CatalogRow:
    """One data set as `slotworks data list` prints it."""

    name: str
    config: Callable[..., PreparedData]  # takes `root` and the options of the data set
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
    status: Literal["ok", "missing", "damaged"]
    message: str  # one sentence or two: what is wrong, where the file comes from, what to do


def list_rows() -> list[CatalogRow]:
    """Every official data set this package prepares."""
    return [_tetrominoes(), *map(_multi_dsprites, VARIANTS), _clevr(6), _clevr(10), *map(_clevrtex, OFFICIAL_IMAGES)]


def find_row(name: str) -> CatalogRow:
    """The row of a data set; raises UserError for an unknown name."""
    rows = {row.name: row for row in list_rows()}
    if name not in rows:
        raise UserError(f"There is no data set {name!r}; the known ones are {', '.join(rows)}.")
    return rows[name]


def prepare(name: str, root: str | Path | None = None, **options: Any) -> Path:
    """Prepare a data set from its official files below `root` and return the folder of the store.

    Args:
        name: as `list_rows` gives it.
        root: the folder with the official files; `data/<folder>` if None.
        options: fields of the config to change, for example `train_size=1000`.

    Raises:
        UserError: the name is unknown, an official file is missing or damaged, or the disk is full.
    """
    config = find_row(name).config()
    known = [field.name for field in fields(config) if field.name != "root"]
    if unknown := sorted(set(options) - set(known)):
        raise UserError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known)}.")
    return replace(config, **({"root": str(root)} if root else {}), **options).prepare()


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
            for finding in _check_one(row, own):
                findings.setdefault((finding.path, finding.message), finding)
    if not findings:
        folders = ", ".join(sorted({row.folder for row in list_rows()}))
        raise UserError(f"{root} holds no data set that is known here; expected are folders called {folders}.")
    return list(findings.values())


def _has_trace(row: CatalogRow, root: Path) -> bool:
    stores = row.config(root=str(root)).store_path
    return any((root / file).exists() for file in row.files) or any(_stores(stores))


def _stores(store_path: Path) -> list[Path]:
    """Prepared stores of this data set with any sizes; what is before the last hyphen names the data set."""
    return sorted(store_path.parent.glob(store_path.name.rsplit("-", 1)[0] + "-*"))


def _check_one(row: CatalogRow, root: Path) -> list[Finding]:
    config = row.config(root=str(root))
    findings = [_check_store(row.name, path) for path in _stores(config.store_path)]
    sound = [Store(finding.path) for finding in findings if finding.status == "ok"]
    official = root / row.files[0]
    try:
        source = config.source()
    except UserError as error:
        if sound:
            return findings  # the official files are not needed any more
        return [*findings, Finding(row.name, official, "missing", str(error))]
    if any(store.index["source"] == source for store in sound):
        return findings
    stale = "{} was made from other files than those that lie there now; to use these, delete it and prepare it again."
    findings += [Finding(row.name, store.path, "damaged", stale.format(store.path)) for store in sound]
    try:
        count = sum(1 for _ in config.rows())
    except UserError as error:
        return [*findings, Finding(row.name, official, "damaged", str(error))]
    said = f"{official} is readable to the end: {count:,} of {config.num_images:,} images."
    return [*findings, Finding(row.name, official, "ok", said)]


def _check_store(name: str, path: Path) -> Finding:
    try:
        store = Store(path)
        store.verify()
    except UserError as error:
        return Finding(name, path, "damaged", str(error))
    return Finding(name, path, "ok", f"{path} is whole: {len(store):,} images.")


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
