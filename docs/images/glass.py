"""Makes glass_masks.png and glass_edits.png: `python docs/images/glass.py RECON_RUN GLASS_RUN GLASS_PHASE2_RUN`.

The first eight test scenes of two objects or more, not chosen. Masks, row by row: image, true masks, those of
reconstruction alone, those of GLASS. Edits, a scene in each row: image, true masks, slots, drawn again, without the
slot of object `1 + i % m`, with that of the next scene's, and that in the place of its own.

`RUN --blind FOLDER` makes twenty single edits for somebody to name who does not know them: `blind.py`.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from blind import blind

from slotworks import load
from slotworks.configs.glass import painted_mini
from slotworks.evaluation.masks import inspecting, predicted_masks
from slotworks.evaluation.samples import contact_sheet
from slotworks.evaluation.show import show, show_edits
from slotworks.types import to_batch

HOW = {"steps": 25, "cfg_scale": 1.5}  # of the sampler
HERE = Path(__file__).parent
SCENES = painted_mini().data.images.real


def pictures(recon_run: str, glass_run: str, phase2_run: str) -> None:
    scenes = SCENES.open("test")
    indices = list(islice((i for i in range(len(scenes)) if scenes[i]["num_objects"] > 1), 8))
    batch = to_batch(scenes.__getitems__(indices), torch.device("cpu"))
    rows = []
    for folder in (recon_run, glass_run):
        method = load(folder, device="cpu")[1]
        with inspecting(method, seed=0):
            masks = predicted_masks(method.encode(batch["image"]), None, size=(64, 64))
        shown = list(show(batch, masks=masks).rows.values())
        rows += shown if not rows else shown[-1:]
    contact_sheet(rows).save(HERE / "glass_masks.png", optimize=True)
    edits = show_edits(load(phase2_run, device="cpu")[1], batch, **HOW)
    edits.sheet(across=True).save(HERE / "glass_edits.png", optimize=True)


if __name__ == "__main__":
    if "--blind" in sys.argv:
        blind(sys.argv[1], sys.argv[3], **HOW)
    else:
        pictures(*sys.argv[1:4])
