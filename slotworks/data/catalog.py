"""Which official data sets there are, where they come from, and whether what lies on the disk is whole."""

import pkgutil
import re
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from slotworks.data import readers
from slotworks.data.readers.pictures import Pictures
from slotworks.data.stores.prepared import SPLITS, CatalogRow, PreparedData
from slotworks.data.stores.store import Store
from slotworks.files import check_writable
from slotworks.images import IMAGE_SUFFIXES, files_below
from slotworks.types import UserError

ORDER = (
    *("tetrominoes", "multi_dsprites", "clevr_with_masks", "clevr_v1", "clevrtex", "shapes3d", "shapestacks"),
    *("folders", "voc", "coco", "objects365", "celeba", "movi"),
)
"""Of the readers when they are listed; others come after these, by name."""


@dataclass(frozen=True)
class Finding:
    """What `check` found about one official file or store."""

    name: str
    path: Path
    status: Literal["ok", "note", "missing", "damaged"]  # note: unusual but not wrong
    message: str  # one sentence or two: what is wrong, where the file comes from, what to do


def list_rows() -> list[CatalogRow]:
    """Every official data set this package prepares."""
    names = sorted(
        (module.name for module in pkgutil.iter_modules(readers.__path__)),
        key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name),
    )
    return [row for name in names for row in getattr(import_module(f"{readers.__name__}.{name}"), "ROWS", ())]


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
    """Prepare a data set from its official files below `root` and return the folders of its stores; see `stores`."""
    return [part.prepare() for part in stores(name, root, split=split, **options)]


def stores(
    name: str, root: str | Path | None = None, *, split: str | None = None, **options: Any
) -> "list[PreparedData]":
    """The stores of a data set, each of which `prepare` makes, if it is not there, without the others.

    Args:
        name: as `list_rows` gives it.
        root: the folder with the official files; `data/<folder>` if None.
        split: `train`, `val` or `test`, if only the store of this one is wanted; most data sets have one for all.
        options: fields of the config to change, for example `train_size=1000`.

    Raises:
        UserError: the name is unknown, an official file is missing or damaged, or the disk is full. What is missing, or
            in the way, of any store is said before the work on the first one.
    """
    config = find_row(name).config()
    known = [field.name for field in fields(config) if field.name != "root"]
    if unknown := sorted(set(options) - set(known)):
        raise UserError(f"{name} has no option {unknown[0]!r}; it has {', '.join(known)}.")
    if split not in (None, *SPLITS):
        raise UserError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
    config = replace(config, **({"root": str(root)} if root else {}), **options)
    parts = [config.part(split)] if split else list(config.parts())
    for part in parts:
        if not part.store_path.exists():
            check_writable(part.store_path.parent)
            part.source()
    return parts


def check(root: str | Path, name: str | None = None) -> list[Finding]:
    """Say which files are missing or damaged, and where they come from.

    Reads everything: prepared stores are checked against their checksums; official files are read and decoded to the
    end unless a whole store made from them lies beside. `root` may be the folder of one data set or the folder above
    with the default names (`data`). Without `name`, a data set of which there is no trace is not mentioned.

    A folder in which nothing is recognised but that holds pictures is looked at as `Pictures`, with all masks.

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
    if not findings and name is None and files_below(root, IMAGE_SUFFIXES):
        own = Pictures(root=str(root), train_masks=True)
        found = [finding for part in own.parts() for finding in _check_part(own.name, part)]
        whole = " All can be read to the end." if all(finding.status in ("ok", "note") for finding in found) else ""
        findings[root, ""] = Finding(own.name, root, "ok", f"{root}: {own.marked.describe()}{whole}")
        for finding in found:  # of its own splits nobody has heard yet, so how many are in each is not said
            if finding.status != "ok":
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
    sound = [(finding.path, Store(finding.path)) for finding in findings if finding.status == "ok"]
    try:
        source = part.source()
    except UserError as error:
        if sound:
            return findings  # the official files are not needed any more
        return [*findings, Finding(name, part.official, "missing", str(error))]
    if any(store.index["source"] == source for _, store in sound):
        return findings
    stale = "{} was made from other files than those that lie there now; to use these, delete it and prepare it again."
    alike = [path for path, store in sound if store.index["source"].keys() == source.keys()]  # not one without masks
    findings += [Finding(name, path, "damaged", stale.format(path)) for path in alike]
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
