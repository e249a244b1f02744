"""Images with texts from the web, in shards as img2dataset writes them: tar files of WebDataset, or Parquet.

    00000.tar        000000000.jpg, 000000000.txt, 000000000.json, 000000001.jpg, ...
    00000.parquet    columns of image bytes and of text

CC3M, CC12M, RedCaps, YFCC and the like come so. Nothing is copied: a pair is read from its shard when it is asked for.
"""

import json
import tarfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from slotworks.data.readers.marks import MAX_CAPTION
from slotworks.data.stores.shrink import Crop, shrink
from slotworks.errors import needs_extra, quote
from slotworks.images import IMAGE_SUFFIXES, open_picture, reading
from slotworks.nn.superpixels import felzenszwalb, most_frequent
from slotworks.types import DataConfig, Dataset, RawBatch, UserError

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes")
TEXT_COLUMNS = ("caption", "text", "txt", "title")
NEXT = 100
"""Pairs behind a damaged one that are tried in its place."""


@dataclass(frozen=True)
class ImageText(DataConfig):
    """Pairs of an image and a text to train on; other images, with masks, to look at.

    Fields of a batch: `image`; `caption`, UTF-8 bytes with zeros behind, cut at 1,000; with `superpixels` also those of
    each patch. A pair whose image is damaged is passed over: the one behind it takes its place.

    Args:
        root: folder of the shards, `*.tar` or `*.parquet`, also in folders below.
        image_size: pixels, square.
        crop: `center` keeps the middle square, `whole` squeezes the picture into the square.
        real: where validation and test images come from; then all pairs are for training.
        held_out: how many of the last pairs are kept for validation and test otherwise.
        superpixels: pixels of a patch: the number of the superpixel that covers most of it; 0: none.
    """

    root: str = "data/cc3m"
    image_size: int = 224
    crop: Crop = "center"
    real: DataConfig | None = None
    held_out: int = 64
    superpixels: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop not in ("center", "whole"):
            raise ValueError(f"data.crop is {self.crop!r}; expected one of center, whole.")
        if self.superpixels and self.image_size % self.superpixels:
            raise ValueError(
                f"data.superpixels is {self.superpixels} pixels, which do not fill an image of {self.image_size}; "
                "choose a divisor."
            )

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.root).name

    def open(self, split: str = "train") -> Dataset:
        """Open one split.

        Raises:
            UserError: there is no shard, one is damaged, or nothing is left for the split.
        """
        if self.real is not None and split != "train":
            return self.real.open(split)
        shards = [_open(file) for file in find_shards(Path(self.root))]
        total, held_out = sum(map(len, shards)), 0 if self.real is not None else self.held_out
        rows = range(max(0, total - held_out)) if split == "train" else range(max(0, total - held_out), total)
        if not rows:
            raise UserError(
                f"{self.root} holds {total} pairs, of which {held_out} are held out: none is left for the split "
                f"{split!r}; add shards, or change held_out."
            )
        return Pairs(self, shards, rows)

    def shown(self, split: str) -> DataConfig:
        """Real images, where there are any, to look at."""
        return self if self.real is None or split == "train" else self.real.shown(split)


class Pair(NamedTuple):
    """An image as its file's bytes, and a text."""

    image: bytes
    text: str


@runtime_checkable
class Shard(Protocol):
    """A file of pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...


class Pairs:
    """One split: batches of images and captions, read when they are asked for."""

    def __init__(self, config: ImageText, shards: Sequence[Shard], rows: range):
        self.config, self.shards, self.rows = config, shards, rows
        self._ends = list(accumulate(map(len, shards)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> RawBatch:
        found = [self._whole(int(index)) for index in indices]
        images = np.stack([image for image, _ in found])
        texts = [text.encode()[:MAX_CAPTION] for _, text in found]
        width = max(map(len, texts), default=0)
        padded = b"".join(text.ljust(width, b"\0") for text in texts)
        batch = {"image": images, "caption": np.frombuffer(bytearray(padded), np.uint8).reshape(len(texts), width)}
        if patch := self.config.superpixels:
            size = {"scale": self.config.image_size, "min_size": self.config.image_size}  # 224 for 224 pixels
            parts = [most_frequent(felzenszwalb(image, **size), patch) for image in images]
            batch["superpixels"] = np.stack(parts).astype(np.int32)
        return batch

    def pair(self, index: int) -> Pair:
        """The pair of a row, its image as it lies in the shard.

        Raises:
            IndexError: for an index outside the split.
        """
        row = self.rows[index]
        number = bisect_right(self._ends, row)
        return self.shards[number][row - self._ends[number] + len(self.shards[number])]

    def _whole(self, index: int) -> tuple[np.ndarray, str]:
        """Image and text of a row, or of the next row whose image is whole."""
        for step in range(min(NEXT, len(self))):
            image, text = self.pair((index + step) % len(self))
            try:
                with reading(f"An image of {self.config.root}"):
                    picture = open_picture(image, name=self.config.root, verify=False).convert("RGB")
                    return shrink(picture, self.config.image_size, self.config.crop, "bicubic")["image"], text
            except UserError:
                continue
        raise UserError(
            f"{self.config.root}: the images of {NEXT} pairs in a row, from number {index} on, cannot be read; get the "
            "shard again."
        )


def find_shards(folder: Path) -> list[Path]:
    """The tar and Parquet files below a folder in order.

    Raises:
        UserError: there are none.
    """
    found = sorted(path for kind in ("*.tar", "*.parquet") for path in folder.rglob(kind))
    if not found:
        raise UserError(f"{folder} holds no *.tar and no *.parquet; expected shards of images and texts in it.")
    tars = [path for path in found if path.suffix == ".tar"]
    return tars or found  # img2dataset writes a Parquet file of addresses beside each tar file


def _open(file: Path) -> Shard:
    return TarShard(file) if file.suffix == ".tar" else ParquetShard(file)


class TarShard:
    """A tar file whose members share a name up to the first dot: `000000012.jpg` and `000000012.txt`, or `.json`.

    Raises:
        UserError: it is damaged, or holds no pair.
    """

    def __init__(self, file: Path):
        self.file = file
        images: dict[str, tuple[int, int]] = {}
        texts: dict[str, tuple[int, int, bool]] = {}
        try:
            with tarfile.open(file, "r:") as opened:
                for member in opened:
                    key, _, kind = member.name.rpartition("/")[2].partition(".")
                    key = f"{member.name.rpartition('/')[0]}/{key}"
                    place = member.offset_data, member.size
                    if f".{kind.lower()}" in IMAGE_SUFFIXES:
                        images[key] = place
                    elif kind in ("txt", "caption"):
                        texts[key] = (*place, False)
                    elif kind == "json":
                        texts.setdefault(key, (*place, True))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{file} cannot be read as a tar file ({quote(error)}); get it again.") from None
        self._places = [(images[key], texts[key]) for key in images if key in texts]
        if not self._places:
            raise UserError(
                f"{file} holds no pair: expected are images such as 000000000.jpg and 000000000.txt beside each."
            )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Pair:
        (start, size), (text_start, text_size, is_json) = self._places[index]
        with self.file.open("rb") as opened:
            opened.seek(start)
            image = opened.read(size)
            opened.seek(text_start)
            text = opened.read(text_size).decode("utf-8", "replace").strip()
        return Pair(image, _text_in(text, self.file) if is_json else text)


def _text_in(text: str, file: Path) -> str:
    try:
        facts = json.loads(text)
        return str(next(facts[name] for name in TEXT_COLUMNS if facts.get(name)))
    except (ValueError, TypeError, AttributeError, StopIteration):
        raise UserError(f"{file} holds a .json without a {' or '.join(TEXT_COLUMNS)}; a pair needs a text.") from None


class ParquetShard:
    """A Parquet file with a column of image files, bytes or `{"bytes": ...}`, and one of texts.

    A row group is read whole, and the last few are kept: groups of some hundred rows are read fastest in random order.

    Raises:
        UserError: it is damaged, or lacks one of the columns.
    """

    def __init__(self, file: Path):
        with needs_extra("synthesis"):
            import pyarrow.parquet as parquet
        self.file = file
        try:
            opened = parquet.ParquetFile(file)
            names = {name.lower(): name for name in opened.schema_arrow.names}
            sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
            raise UserError(f"{file} cannot be read as Parquet ({quote(error)}); get it again.") from None
        self._columns = []
        for what, known in (("images", IMAGE_COLUMNS), ("texts", TEXT_COLUMNS)):
            found = [names[name] for name in known if name in names]
            if not found:
                raise UserError(
                    f"{file} has no column of {what}: it has {', '.join(names) or 'none'}, expected is one of "
                    f"{', '.join(known)}."
                )
            self._columns.append(found[0])
        self._ends = list(accumulate(sizes))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Pair:
        group = bisect_right(self._ends, index)
        rows = _row_group(self.file, group, tuple(self._columns))
        image, text = rows[index - self._ends[group] + len(rows)]
        if not isinstance(image, bytes):
            raise UserError(
                f"{self.file}: the column {self._columns[0]} holds {quote(type(image).__name__)}, no bytes."
            )
        return Pair(image, str(text or "").strip())


@lru_cache(maxsize=8)
def _row_group(file: Path, group: int, columns: tuple[str, ...]) -> list[tuple[Any, Any]]:
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(file).read_row_group(group, columns=list(columns))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({quote(error)}); get it again.") from None
    images, texts = (table.column(name).to_pylist() for name in columns)
    return [(one.get("bytes") if isinstance(one, dict) else one, text) for one, text in zip(images, texts, strict=True)]
