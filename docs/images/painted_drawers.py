"""Three ways to draw from slots, on painted scenes: `painted_drawers.py SLOT_ATTENTION SLATE SLOT_DIFFUSION`, runs.

The runs are of the three recipes `painted_mini`. The first eight test scenes of two objects or more, not chosen.
`painted_drawers.png`, row by row: scene, true masks, then of each method its masks and what it draws from its slots.
`slate_edits.png` and `slot_diffusion_edits.png`, a scene in each row: image, true masks, slots, drawn again, without
the slot of object `1 + i % m`, with that of the next scene's, and that in the place of its own. `slate_composed.png`
and `slot_diffusion_composed.png`, a new scene in each row: the scene whose ground it has, one object of it, of the next
and of the one after that, and what is drawn from these four slots.
"""

import sys
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from slotworks import load
from slotworks.data.scenes import PaintedScenes
from slotworks.evaluation.masks import decode, inspecting, predicted_masks
from slotworks.evaluation.removal import chosen, slot_of
from slotworks.evaluation.rendering import render
from slotworks.evaluation.samples import contact_sheet, to_pixels
from slotworks.evaluation.show import show, show_edits
from slotworks.types import Batch, Method, SlotOutput, to_batch

HERE = Path(__file__).parent


def pictures(folders: list[str]) -> None:
    scenes = PaintedScenes().open("test")
    indices = list(islice((i for i in range(len(scenes)) if scenes[i]["num_objects"] > 1), 8))
    batch, rows = to_batch(scenes.__getitems__(indices), torch.device("cpu")), []
    for name, folder in zip(("slot_attention", "slate", "slot_diffusion"), folders, strict=True):
        method = load(folder, device="cpu")[1]
        with inspecting(method, seed=0):
            out = method.encode(batch["image"])
            masks = predicted_masks(out, decode(method, out), size=(64, 64))
        shown = show(batch, masks=masks, recon=render(method, out.slots).image).rows
        rows += list(shown.values())[2 * bool(rows) :]
        if name != "slot_attention":
            show_edits(method, batch).sheet(across=True).save(HERE / f"{name}_edits.png", optimize=True)
            contact_sheet(composed(method, batch, out, masks)).save(HERE / f"{name}_composed.png", optimize=True)
    contact_sheet(rows).save(HERE / "painted_drawers.png", optimize=True)


def composed(method: Method, batch: Batch, out: SlotOutput, masks: Tensor) -> list[list[Image.Image]]:
    """A row for each scene: it, three objects alone, and a picture of the slots of its ground and of these objects."""
    image, mask = batch["image"], batch["mask"]
    where = mask == chosen(mask)[:, None, None]
    with inspecting(method, seed=0):
        every = torch.arange(len(image))
        ground, own = (out.slots[every, slot_of(masks, one)] for one in (mask == 0, where))
        slots = torch.stack([ground, *(own.roll(-k, 0) for k in range(3))], 1)
        drawn = render(method, slots, features=out.features).image
    alone = torch.where(where[:, None], image, torch.ones_like(image))
    columns = [image, *(alone.roll(-k, 0) for k in range(3)), drawn]
    return [[Image.fromarray(to_pixels(column[i : i + 1])[0]) for column in columns] for i in range(len(image))]


if __name__ == "__main__":
    pictures(sys.argv[1:4])
