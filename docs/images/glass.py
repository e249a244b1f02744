"""Makes glass_masks.png and glass_edits.png: `python docs/images/glass.py STABLE_LSD_RUN GLASS_RUN GLASS_PHASE2_RUN`.

The first eight drawn test scenes of two objects or more, not chosen. Masks: image, true masks, those of StableLSD,
those of GLASS. Edits: image, image written from its slots, the same without the slot of object `1 + i % m`.
"""

import json
import sys
import tempfile
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from slotworks import load
from slotworks.configs.tiny_diffusion import TINY_SCENES
from slotworks.editing import render_edit, take_apart
from slotworks.editing.pictures import to_picture
from slotworks.evaluation.removal import going, slot_of
from slotworks.evaluation.samples import contact_sheet, write_samples
from slotworks.types import to_batch

STEPS, SCALE = 30, 1.5  # of the sampler

here = Path(__file__).parent
runs = [load(folder, device="cpu")[1] for folder in sys.argv[1:4]]
scenes = TINY_SCENES.open("test")
indices = list(islice((i for i in range(len(scenes)) if scenes[i]["num_objects"] > 1), 8))

rows = []
with tempfile.TemporaryDirectory() as folder:
    for name, method in zip(("stable_lsd", "glass"), runs, strict=False):
        samples = write_samples(method, scenes, Path(folder) / name, indices=indices, step=0).parent
        shown = json.loads((samples / "index.json").read_text())["rows"]
        for key in ("input", "truth", "segmentation") if not rows else ("segmentation",):
            rows.append([Image.open(samples / row[key]).convert("RGB") for row in shown])
contact_sheet(rows).save(here / "glass_masks.png", optimize=True)

columns = []
for index in indices:
    batch = to_batch(scenes.__getitems__([index]), torch.device("cpu"))
    image, mask = batch["image"], batch["mask"]
    scene = take_apart(runs[2], image[0])
    masks = torch.nn.functional.interpolate(scene.masks[None], image.shape[-2:], mode="bilinear")
    gone = 1 + index % int(mask.max())
    slots = scene.slots[~going(masks, slot_of(masks, mask == gone))[0]]
    edit = render_edit(runs[2], scene, slots, steps=STEPS, cfg_scale=SCALE)
    columns.append([to_picture(edit.original), to_picture(edit.recon[0]), to_picture(edit.edited[0])])
contact_sheet([list(row) for row in zip(*columns, strict=True)]).save(here / "glass_edits.png", optimize=True)
