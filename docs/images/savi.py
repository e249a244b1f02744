"""Draws savi.png from two trained runs.

Run `python docs/images/savi.py runs/savi.scenes_mini runs/savi.scenes_mini_frames`. Every fourth frame of the first
three test videos, one kind of picture a row: frames, true objects, slots of SAVi, their picture, slots frame by frame.
Slots follow the boxes of the first frame in their order, so a colour means the same object in all rows.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from slotworks.api import load
from slotworks.editing.pictures import to_picture
from slotworks.evaluation.samples import PALETTE, contact_sheet
from slotworks.types import to_batch

HERE = Path(__file__).parent


COLORS = np.concatenate([[[64, 64, 64]], PALETTE]).astype(np.uint8)  # the background's first


def painted(labels) -> Image.Image:
    return Image.fromarray(COLORS[labels.numpy()])


def savi(folder: str, baseline: str, count: int = 3, every: int = 4) -> None:
    run, method = load(folder, device="cpu")
    _, frame_by_frame = load(baseline, device="cpu")
    batch = to_batch(run.data.open("test").__getitems__(range(count)))
    with torch.no_grad():
        carried, alone = (one.decode(one.encode_batch(batch).slots) for one in (method, frame_by_frame))
    rows = []
    for i in range(count):
        frames = range(0, batch["video"].shape[1], every)
        rows.append([to_picture(batch["video"][i, t]) for t in frames])
        rows.append([painted(batch["mask"][i, t]) for t in frames])
        rows.append([painted(carried.masks[i, t].argmax(dim=0)) for t in frames])
        rows.append([to_picture(carried.recon[i, t]) for t in frames])
        rows.append([painted(alone.masks[i, t].argmax(dim=0)) for t in frames])
    contact_sheet(rows, cell=72).save(HERE / "savi.png", optimize=True)


if __name__ == "__main__":
    savi(*sys.argv[1:])
