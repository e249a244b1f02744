"""What is written about all segmented pictures together, and segments as pictures of their own.

contact_sheet.png   each picture beside its segments, SHEET pictures to a file
segments.json       all masks in one file of COCO's format
cutouts/            segments with transparency, which `slotworks.data.CollageScenes` reads
"""

import json
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from slotworks.evaluation.samples import Places, write_numbers
from slotworks.outputs import Outputs

CUT_OUTS = "cutouts"
JSON = "segments.json"
SHEET = 48  # pictures on one sheet
THUMB = 160  # pixels, longest side
COLUMNS = 4  # pictures in a row, each beside its segments
GAP = 6  # pixels
SMALLEST = 0.002  # share of the picture below which a segment is not cut out
SOFT = 0.7  # pixels over which the border of a cut-out fades


def sheet_names(count: int) -> list[str]:
    """Names of the contact sheets of so many pictures."""
    sheets = -(-count // SHEET)
    return ["contact_sheet.png" if sheets == 1 else f"contact_sheet_{i:03}.png" for i in range(1, sheets + 1)]


def thumbnails(picture: Image.Image, overlay: Image.Image, places: Places) -> tuple[Image.Image, Image.Image]:
    """A picture and its segments, with their numbers, as a contact sheet shows them."""
    scale = THUMB / max(picture.size)
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    shown = overlay.resize(size)
    write_numbers(shown, places)
    return picture.resize(size), shown


def write_sheet(outputs: Outputs, name: str, pairs: Sequence[tuple[Image.Image, Image.Image]]) -> None:
    """Pictures beside their segments, `COLUMNS` to a row."""
    columns = min(COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    wide, high = 2 * THUMB + 2 * GAP, THUMB + GAP
    sheet = Image.new("RGB", (columns * wide + GAP, rows * high + GAP), "white")
    for k, pair in enumerate(pairs):
        left, top = GAP + k % columns * wide, GAP + k // columns * high
        for i, image in enumerate(pair):
            across, down = (THUMB - image.width) // 2, (THUMB - image.height) // 2
            sheet.paste(image, (left + i * (THUMB + GAP // 2) + across, top + down))
    with outputs.replacing(name) as path:
        sheet.save(path, format="PNG")


def write_json(outputs: Outputs, names: Sequence[str]) -> None:
    """One file in COCO's format from those of all pictures, one after the other: memory does not grow with them.

    Args:
        outputs: the folder of the results.
        names: of the files of single pictures, in order; ids count from 1.
    """

    def read(name: str) -> dict:
        return json.loads((outputs.folder / name).read_text(encoding="utf-8"))

    with outputs.replacing(JSON) as path, path.open("w", encoding="utf-8") as file:
        file.write('{"images": [')
        for number, name in enumerate(names, 1):
            one = read(name)
            image = {"id": number, **{key: one[key] for key in ("file_name", "height", "width")}}
            file.write(("" if number == 1 else ",") + "\n" + json.dumps(image))
        file.write('\n],\n"annotations": [')
        count = 0
        for number, name in enumerate(names, 1):
            for found in read(name)["annotations"]:
                count += 1
                row = {"id": count, "image_id": number, "category_id": 1, "iscrowd": 0, **found}
                file.write(("" if count == 1 else ",") + "\n" + json.dumps(row))
        file.write('\n],\n"categories": [{"id": 1, "name": "segment"}]}\n')


def write_cut_outs(outputs: Outputs, name: str, picture: Image.Image, labels: UInt8[np.ndarray, "h w"]) -> list[str]:
    """Each segment with transparency, cropped to it, as `cutouts/NAME_SLOT.png`; those of an earlier call are removed.

    Left out are specks and the segment that owns most of the picture's border, as a rule the background.

    Returns:
        The names of the files.
    """
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    background = np.bincount(border).argmax()
    written = []
    for slot in np.unique(labels):
        own = labels == slot
        if slot == background or own.mean() < SMALLEST:
            continue
        rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        pad = 2  # the border fades a little outside
        box = (columns[0] - pad, rows[0] - pad, columns[-1] + 1 + pad, rows[-1] + 1 + pad)
        alpha = Image.fromarray(np.where(own, np.uint8(255), np.uint8(0))).crop(box)
        alpha = alpha.filter(ImageFilter.GaussianBlur(SOFT))
        cut = picture.crop(box).convert("RGBA")
        cut.putalpha(alpha)
        written.append(f"{CUT_OUTS}/{name}_{slot}.png")
        with outputs.replacing(written[-1]) as path:
            cut.save(path, format="PNG")
    for old in sorted((outputs.folder / CUT_OUTS).glob("*.png")):
        stem, _, number = old.stem.rpartition("_")
        known = f"{CUT_OUTS}/{old.name}"
        if stem == name and number.isdigit() and known not in written and outputs.owns(known):
            old.unlink()
    return written
