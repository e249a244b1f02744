"""Generated images on the disk: one Parquet file for each shard, and a page of the first of them to look at."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from slotworks.data.readers.voc import color_map
from slotworks.data.stores.generated import UNCERTAIN, VERSION, find_shards, read_facts, read_rows
from slotworks.errors import needs_extra
from slotworks.files import replacing
from slotworks.images import open_picture
from slotworks.remote import Place

TILE = 160  # pixels of one picture on the contact sheet


def png(pixels: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Pixels as a PNG file: the same pixels give the same bytes."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def npy(values: np.ndarray) -> bytes:
    """Numbers as a file of NumPy's format."""
    buffer = BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def write_shard(path: Place, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Write a shard, whole or not at all; equal rows give equal bytes. It may have no row.

    Args:
        path: the final file.
        rows: with the columns of `writing_shard`.
        facts: what holds for all rows, see `slotworks.data.stores.generated.read_facts`.

    Raises:
        UserError: the disk refuses.
    """
    with writing_shard(path, facts) as write:
        write(rows)


@contextmanager
def writing_shard(path: Place, facts: dict[str, Any]) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    """A shard whose rows come piece by piece, each a row group: gives the function that writes some.

    The file takes its place at the end, whole or not at all.

    Args:
        path: the final file.
        facts: what holds for all rows, see `slotworks.data.stores.generated.read_facts`.

    Raises:
        UserError: the disk refuses.
    """
    with needs_extra("synthesis"):
        import pyarrow as pa
        import pyarrow.parquet as parquet
    columns = {
        "image": pa.binary(),  # PNG, RGB
        "mask": pa.binary(),  # PNG, 8 bits: class ids, 0 background, 255 uncertain; or numbers of segments
        "caption": pa.string(),
        "prompt": pa.string(),
        "classes": pa.list_(pa.string()),
        "class_ids": pa.list_(pa.int32()),
        "index": pa.int64(),  # in the source of prompts
        "seed": pa.int64(),
        "settings": pa.string(),
        "maps": pa.binary(),  # refined maps of the classes, see `slotworks.synthesis.remask`
    }
    metadata = {"slotworks": json.dumps({"version": VERSION, **facts}, ensure_ascii=False)}
    schema = pa.schema(list(columns.items()), metadata=metadata)
    with (
        replacing(path) as beside,
        # the pictures are compressed, and the rest is little
        parquet.ParquetWriter(beside, schema, compression="none") as writer,
    ):
        yield lambda rows: writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))


def is_finished(path: Place, stop: int) -> bool:
    """Whether a shard is there and reaches at least up to image `stop`."""
    return path.is_file() and read_facts(path)["stop"] >= stop


def contact_sheet(folder: Place, count: int = 16, columns: int = 4) -> Place | None:
    """Draw `sheet.png`: the first images, each with its mask beside it and the prompt below. None without images.

    Classes have VOC's colours by their id, uncertain pixels are white.
    """
    rows: list[dict[str, Any]] = []
    for file in find_shards(folder):
        rows += read_rows(file, ("image", "mask", "prompt"))[: count - len(rows)]
        if len(rows) == count:
            break
    if not rows:
        return None
    columns = min(columns, len(rows))
    line = 14  # pixels of a line of text
    width, height = 2 * TILE + 8, TILE + 2 * line + 8
    sheet = Image.new("RGB", (columns * width, -(-len(rows) // columns) * height), "white")
    draw, colors = ImageDraw.Draw(sheet), color_map()
    colors[UNCERTAIN] = 255
    for k, row in enumerate(rows):
        x, y = k % columns * width + 4, k // columns * height + 4
        image, mask = (open_picture(row[name], name=folder, formats=["PNG"]) for name in ("image", "mask"))
        sheet.paste(image.resize((TILE, TILE), Image.Resampling.BICUBIC), (x, y))
        painted = Image.fromarray(colors[np.asarray(mask)])
        sheet.paste(painted.resize((TILE, TILE), Image.Resampling.NEAREST), (x + TILE, y))
        for number, text in enumerate(_two_lines(row["prompt"], draw, width - 8)):
            draw.text((x, y + TILE + line * number), text, "black")
    with replacing(folder / "sheet.png") as beside:
        sheet.save(beside, "PNG")
    return folder / "sheet.png"


def _two_lines(text: str, draw: ImageDraw.ImageDraw, width: int) -> list[str]:
    """A text in at most two lines of this many pixels; what does not fit is left out in the middle of the prompt."""
    text = text.encode("ascii", "replace").decode()  # what the built-in font can draw
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) <= 2:
        return lines
    end = text
    while draw.textlength(f"... {end}") > width:
        end = end[1:]
    return [lines[0], f"... {end}"]
