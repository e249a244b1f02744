"""Draws collages_zoo.png: what `zoo:dinosaur-photos` makes of twelve collages that it was not trained on, none chosen.

Run `python docs/images/collages_zoo.py CUTOUTS ENCODER` with the folder of the cut-outs and a folder with DINOv2
ViT-S/14. They are the first twelve of its record. Rows, twice: pictures, true objects, eight slots of which similar
ones are joined.
"""

import sys
from dataclasses import replace

import torch
from collages import COLORS, HERE, painted
from PIL import Image

import slotworks
from slotworks.editing.pictures import to_picture
from slotworks.encoders import ViTEncoder
from slotworks.evaluation.masks import merge_similar
from slotworks.evaluation.samples import contact_sheet
from slotworks.types import to_batch

COUNT, COLUMNS = 12, 6


def sheet(cutouts: str, encoder: str) -> None:
    run, method = slotworks.from_pretrained("zoo:dinosaur-photos")
    method.encoder = ViTEncoder(replace(method.encoder.config, model=encoder))
    batch = to_batch(replace(run.data.images, cutouts=cutouts).open("test").__getitems__(range(COUNT)))
    torch.manual_seed(0)
    with torch.no_grad():
        out = method.encode(batch["image"], num_slots=8)
    masks, true = merge_similar(out.attn_maps, out.slots, 0.9), batch["mask"].numpy()
    rows = []
    for row in range(0, COUNT, COLUMNS):
        shown = range(row, row + COLUMNS)
        rows.append([to_picture(batch["image"][i]) for i in shown])
        rows.append([Image.fromarray(COLORS[true[i]]) for i in shown])
        rows.append([painted(masks[i], true[i]) for i in shown])
    contact_sheet(rows, cell=144).save(HERE / "collages_zoo.png", optimize=True)


if __name__ == "__main__":
    sheet(*sys.argv[1:])
