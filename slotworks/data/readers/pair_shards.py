"""Files of images and texts: tar files of WebDataset, Parquet, COCO's captions. Any pair is read without the others.

    file --its headers, once--> where each pair lies --number--> the bytes of an image, and a text

Where the pairs of a tar file lie is kept beside the shards, so a second opening reads no headers.
"""

import json
import tarfile
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import google_crc32c
import numpy as np
from jaxtyping import Int64

from slotworks.data.readers.coco import COCO
from slotworks.data.stores.prepared import prepared_folder
from slotworks.errors import needs_extra, quote
from slotworks.files import replacing
from slotworks.images import IMAGE_SUFFIXES
from slotworks.types import UserError

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes")
TEXT_COLUMNS = ("caption", "text", "txt", "title")


class Pair(NamedTuple):
    """An image as its file's bytes, and a text."""

    image: bytes
    text: str


@runtime_checkable
class Shard(Protocol):
    """A file of pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair: ...


def open_shards(root: Path) -> list[Shard]:
    """The tar or Parquet files below a folder in order, then COCO's captions; or the one file that is named.

    Raises:
        UserError: there are none, or one is damaged.
    """
    if root.is_file():
        return [_open(root, root.parent)]
    found = [path for kind in ("*.tar", "*.parquet", "captions_train*.json") for path in sorted(root.rglob(kind))]
    if not found:
        raise UserError(
            f"{root} holds no *.tar, no *.parquet and no captions_train*.json; expected shards of images and texts in "
            "it, or COCO's captions."
        )
    captions = [path for path in found if path.suffix == ".json"]
    if len(captions) > 1:
        names = " and ".join(map(str, captions[:2]))
        raise UserError(f"{names} may caption the same pictures; give one of them as root, or take one away.")
    if any(path.suffix == ".tar" for path in found):
        found = [path for path in found if path.suffix != ".parquet"]  # img2dataset's lists of addresses
    return [_open(path, root) for path in found]


def _open(file: Path, root: Path) -> Shard:
    if file.suffix == ".tar":
        return TarShard(file, root)
    if file.suffix == ".parquet":
        return ParquetShard(file)
    if file.suffix == ".json":
        return CaptionShard(file)
    raise UserError(f"{file} is no file of pairs; expected *.tar, *.parquet or COCO's captions_*.json.")


class TarShard:
    """A tar file whose members share a name up to the first dot: `000000012.jpg` and `000000012.txt`, or `.json`.

    Args:
        file: the tar file.
        root: the folder beside whose files it is kept where pairs lie.

    Raises:
        UserError: it is damaged, or holds no pair.
    """

    def __init__(self, file: Path, root: Path):
        self.file = file
        try:
            stat = file.stat()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({quote(error)}); get it again.") from None
        known = f"{file.relative_to(root)}\n{stat.st_size}\n{stat.st_mtime_ns}".encode("utf-8", "surrogateescape")
        index = prepared_folder(root) / f"pairs-{file.stem}-{google_crc32c.value(known):08x}.npy"
        if not index.exists():
            places = self._look()
            index.parent.mkdir(parents=True, exist_ok=True)
            with replacing(index) as path, path.open("wb") as opened:
                np.save(opened, places)
        self._places = np.load(index, mmap_mode="r")

    def _look(self) -> Int64[np.ndarray, "n 5"]:
        """Of each pair the first byte and the length of its image and of its text, and whether this is JSON."""
        images: dict[str, tuple[int, int]] = {}
        texts: dict[str, tuple[int, int, bool]] = {}
        try:
            with tarfile.open(self.file, "r:") as opened:
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
            raise UserError(f"{self.file} cannot be read as a tar file ({quote(error)}); get it again.") from None
        places = [(*images[key], *texts[key]) for key in images if key in texts]
        if not places:
            raise UserError(
                f"{self.file} holds no pair: expected are images such as 000000000.jpg and 000000000.txt beside each."
            )
        return np.array(places, np.int64)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Pair:
        start, size, text_start, text_size, is_json = map(int, self._places[index])
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


class CaptionShard:
    """COCO's `captions_train2017.json`: a pair for each caption, five or so of a picture, in the order of the pictures.

    The pictures are those of the folder `train2017`, where `COCO` has it: beside the file or its folder
    `annotations`, or in `images` there.

    Raises:
        UserError: the file is damaged or of another form, or a picture is missing.
    """

    def __init__(self, file: Path):
        self.file, name = file, file.stem.removeprefix("captions_")
        folders = [COCO(root=str(root)).folder(name) for root in file.parents[:3]]
        self.folder = next((folder for folder in folders if folder.is_dir()), folders[1 % len(folders)])
        try:
            content = json.loads(file.read_bytes())
            names = {int(row["id"]): Path(row["file_name"]).name for row in content["images"]}
            rows = sorted((int(row["image_id"]), int(row["id"]), str(row["caption"])) for row in content["annotations"])
            self._pairs = [(names[image], text.strip()) for image, _, text in rows]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{file} is damaged or not in the form of COCO's captions ({quote(error)}); unpack it again."
            ) from None
        there = {one.name for one in self.folder.iterdir()} if self.folder.is_dir() else set()
        missing = sorted({name for name, _ in self._pairs} - there)
        if missing:
            raise UserError(
                f"{self.folder} lacks {len(missing):,} of the pictures that {file.name} names, such as {missing[0]}; "
                f"unpack {name}.zip there."
            )
        if not self._pairs:
            raise UserError(f"{file} holds no caption; unpack it again.")

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        name, text = self._pairs[index]
        try:
            return Pair((self.folder / name).read_bytes(), text)
        except OSError:
            return Pair(b"", text)  # as one that is damaged
