"""Generated images with their pseudo-masks, as `slotworks synthesize` writes them: Parquet shards to a prepared store.

    shard-00000.parquet    image, mask (PNG), caption, prompt, classes, class_ids, index, seed, settings
    shard-00001.parquet    ...

Any Parquet reader opens the shards. What holds for all rows of one (class names, which images it stands for) is in the
schema's metadata under `slotworks`, as JSON.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from slotworks.data.stores.prepared import WORKERS, PreparedData, in_order
from slotworks.data.stores.shrink import nearest, shrink
from slotworks.data.stores.store import Row, Store
from slotworks.errors import needs_extra, quote
from slotworks.images import open_picture, reading
from slotworks.json_text import read_json
from slotworks.remote import Place, RemotePath, as_place, is_url
from slotworks.types import DataConfig, Dataset, MethodConfig, RawBatch, UserError

VERSION = 1
UNCERTAIN = 255  # in a mask: nothing is claimed about this pixel


@dataclass(frozen=True)
class Generated(PreparedData):
    """Generated images to train on, and real or held-out ones to look at.

    Fields of a batch: `image`; `mask`, the class id of each pixel, or with masks by SAM 2 the number of a segment, 0
    where there is none; `void`, pixels of which the masks claim nothing (255 in the files; 0 in `mask`); and
    `class_mask`, equal to `mask`, if that holds classes. Masks have a size of their own. `class_names[k - 1]` is the
    class of id `k`.

    The store is made for the shards that are there: when more are finished, the next `open` makes a new one.

    Args:
        root: folder of the shards, on this machine or at a URL (`s3://`, `hf://`; extra `remote`).
        image_size: pixels; made smaller by Pillow, bicubic.
        mask_size: pixels; made smaller to the nearest pixel.
        real: where validation and test images come from; then all generated ones are for training.
        held_out: how many of the last images are kept for validation and test otherwise.
    """

    root: str = "data/generated"
    image_size: int = 256
    mask_size: int = 256
    real: DataConfig | None = None
    held_out: int = 64

    @property
    def name(self) -> str:
        """`generated`."""
        return "generated"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each id from 1 on; an empty name is an id that no class has."""
        return tuple(read_facts(self._shards()[0])["class_names"])

    @property
    def store_name(self) -> str:
        """Depends on the sizes and on which shards are there."""
        known = json.dumps([[file.name, file.stat().st_size] for file in self._shards()])
        return f"generated-{self.image_size}-{self.mask_size}-{google_crc32c.value(known.encode()):08x}"

    @property
    def store_path(self) -> Path:
        """Beside the shards; of those at a URL below `data/generated`."""
        if not is_url(self.root):
            return super().store_path
        return Path("data/generated/prepared") / f"{as_place(self.root).name}-{self.store_name}"

    @property
    def settings(self) -> dict[str, Any]:
        """How pictures become rows."""
        sizes = {"image_size": self.image_size, "mask_size": self.mask_size}
        return sizes | {"image": "Pillow bicubic", "mask": "nearest, pixel centres"}

    @property
    def num_images(self) -> int | None:
        """As many as the shards hold."""
        return sum(num_rows(file) for file in self._shards())

    def source(self) -> dict[str, Any]:
        """Number of images, kind of masks, and what the shards were made with."""
        facts = read_facts(self._shards()[0])
        known = {"name": self.name, "images": self.num_images, "masks": facts["masks"], "made_with": facts["settings"]}
        return known | {"shards": [file.name for file in self._shards()]}

    def open(self, split: str = "train") -> Dataset:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open one split; the first call prepares the store.

        Raises:
            UserError: there is no shard, one is damaged, or nothing is left for the split.
        """
        if self.real is not None and split != "train":
            return self.real.open(split)
        store = super().open(split)
        classes = store.index["source"].get("masks") == "classes"
        return ClassStore(store.path, store.rows) if classes else store

    def check_method(self, method: MethodConfig) -> None:
        """A method that names classes needs masks of the same ones.

        Raises:
            UserError: the shards hold segments, or the masks of other classes.
        """
        wanted = getattr(method, "class_names", None)
        if wanted is None:
            return
        facts = read_facts(self._shards()[0])
        if facts["masks"] != "classes":
            raise UserError(
                f"The masks in {self.root} are {facts['masks']}, and {type(method).__name__} learns classes; "
                "synthesize with `--masks attention`."
            )
        if tuple(facts["class_names"]) != tuple(wanted):
            ours, theirs = (sum(map(bool, names)) for names in (wanted, facts["class_names"]))
            raise UserError(
                f"method.class_names names {ours} classes, the masks in {self.root} are of {theirs}, or of others in "
                "this order; the names have to be those of the shards."
            )

    def shown(self, split: str) -> DataConfig:
        """Real images, where there are any, to look at."""
        return self if self.real is None or split == "train" else self.real.shown(split)

    def split_rows(self, store: Store, split: str) -> np.ndarray:
        """The last `held_out` rows are for validation and test, unless `real` images are."""
        held_out = 0 if self.real is not None else self.held_out
        rows = np.arange(len(store))
        chosen = rows[: len(rows) - held_out] if split == "train" else rows[max(0, len(rows) - held_out) :]
        if not len(chosen):
            raise UserError(
                f"{self.root} holds {len(rows)} images, of which {held_out} are held out: none is left for the split "
                f"{split!r}; generate more, or change held_out."
            )
        return chosen

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Decoded images and masks, from row `start`."""
        for file in self._shards():
            count = num_rows(file)
            if start < count:
                pictures = read_rows(file, ("image", "mask"))[start:]
                yield from in_order(lambda row, file=file: self._decode(row, file), pictures, WORKERS)
            start = max(0, start - count)

    def records(self, columns: Sequence[str] = ("index", "caption", "prompt", "classes")) -> Iterator[dict[str, Any]]:
        """What else is known about each image, in the order of the store's rows."""
        for file in self._shards():
            yield from read_rows(file, columns)

    def _decode(self, row: dict[str, Any], file: Place) -> Row:
        with reading(f"A row of {file}", otherwise="delete the file and synthesize again"):
            picture = open_picture(row["image"], name=file, formats=["PNG"]).convert("RGB")
            mask = np.asarray(open_picture(row["mask"], name=file, formats=["PNG"]))
            if mask.dtype != np.uint8 or mask.ndim != 2:
                raise ValueError(f"a mask of {mask.dtype} {mask.shape}")
        small = nearest((mask.shape[1], mask.shape[0]), self.mask_size, "whole")(mask)
        return {
            "image": shrink(picture, self.image_size, "whole", "bicubic")["image"],
            "mask": np.where(small == UNCERTAIN, 0, small).astype(np.uint8),
            "void": small == UNCERTAIN,
        }

    def _shards(self) -> list[Place]:
        found = find_shards(as_place(self.root))
        if not found:
            raise UserError(f"{self.root} holds no shard-*.parquet; make some with `slotworks synthesize`.")
        return found


class ClassStore(Store):
    """A store whose masks hold classes: they are given under both names and stored once."""

    def __getitem__(self, index: int) -> RawBatch:
        """One row without a batch axis."""
        row = super().__getitem__(index)
        return {**row, "class_mask": row["mask"]}

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        """Stacked rows."""
        rows = super().__getitems__(indices)
        return {**rows, "class_mask": rows["mask"]}


def shard_path(folder: Place, number: int) -> Place:
    """`shard-00012.parquet`."""
    return folder / f"shard-{number:05d}.parquet"


def number_of(shard: Place) -> int:
    """12 of `shard-00012.parquet`."""
    return int(shard.name[6:11])


def find_shards(folder: Place) -> list[Place]:
    """Finished shards in order."""
    return sorted(folder.glob("shard-[0-9][0-9][0-9][0-9][0-9].parquet"))


def num_rows(path: Place) -> int:
    """How many images a shard holds; reads its end only."""
    return _opened(path).metadata.num_rows


def read_facts(path: Place) -> dict[str, Any]:
    """What holds for all rows of a shard.

    `class_names`; `masks`: `classes` or `segments`; `settings`: a hash; `start` and `stop`: numbers of the prompts it
    stands for; `left_out`: those without an image.

    Raises:
        UserError: the file is damaged, or no shard of this version.
    """
    try:
        facts = read_json((_opened(path).schema_arrow.metadata or {})[b"slotworks"])
        version = facts["version"]
        if version == VERSION:
            _check_facts(facts)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no shard of generated images ({quote(error)}); take it away.") from None
    if version != VERSION:
        raise UserError(
            f"{path} has the layout of version {quote(version)}, this program reads {VERSION}; synthesize again."
        )
    return facts


def _check_facts(facts: dict[str, Any]) -> None:
    names = facts["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is no list of names")
    if facts["masks"] not in ("classes", "segments"):
        raise ValueError(f"masks is {quote(facts['masks'])}")
    if any(type(facts[name]) is not int for name in ("start", "stop")):
        raise ValueError("start or stop is no number")


def read_rows(path: Place, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of a shard, row by row.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return _opened(path.local() if isinstance(path, RemotePath) else path).read(columns=list(columns)).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise _damaged(path, error) from None


def _opened(path: Place) -> Any:
    with needs_extra("synthesis"):
        import pyarrow.parquet as parquet
    try:
        if isinstance(path, RemotePath):
            return parquet.ParquetFile(path.open_bytes())  # its end alone travels
        return parquet.ParquetFile(path, memory_map=True)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Place, error: Exception) -> UserError:
    reason = next(iter(str(error).splitlines()), "")[:100].rstrip(" .")
    return UserError(f"{path} is damaged ({reason}); delete it and run the same `slotworks synthesize` again.")
