# %% [markdown]
# # Own pictures
#
# A folder of pictures goes in; masks, overlays and slot vectors come out. Nothing is trained here: a run that comes
# with the package does the work. Name your folder below. Without one some scenes are drawn, so that this notebook runs
# anywhere, without a download.

# %%
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import slotworks
from slotworks import show
from slotworks.data.scenes import TetrominoScenes
from slotworks.evaluation.masks import decode, inspecting, predicted_masks

PICTURES = os.environ.get("PICTURES", "")  # "holiday"
SMALL = bool(os.environ.get("SLOTWORKS_SMALL"))

# %%
run = "zoo:dinosaur-photos" if PICTURES else "zoo:slot-attention-tetrominoes"
if not PICTURES:
    PICTURES = "drawn_pictures"
    Path(PICTURES).mkdir(exist_ok=True)
    scenes = TetrominoScenes().open("test")
    for i in range(2 if SMALL else 8):
        Image.fromarray(scenes[i]["image"]).save(f"{PICTURES}/scene_{i}.png")
print(f"{len(list(Path(PICTURES).iterdir()))} pictures in {PICTURES}, taken apart by {run}")

# %% [markdown]
# For photographs `zoo:dinosaur-photos` is taken, a small head on DINOv2. The vision transformer itself does not come
# along: the variable `SLOTWORKS_DINOV2` names a folder with it, and otherwise its 88 MB are downloaded once
# ([encoders](../docs/encoders.md)). `pip install '.[vision]'`.
#
# Whatever takes a run takes a folder, a name of the zoo or one of the hub. The settings of a run show themselves:

# %%
settings, method = slotworks.from_pretrained(run)
settings

# %% [markdown]
# ## Segments
#
# Own files are never replaced; results of an earlier call in the same folder are.

# %%
found = list(slotworks.segment(run, [PICTURES], out="segments"))
for picture in found[:3]:
    print(Path(picture["file"]).name, "->", picture["slots"], "slots own pixels;", len(picture["written"]), "files")

# %% [markdown]
# The sheet shows every picture beside its segments:

# %%
Image.open("segments/contact_sheet.png")

# %% [markdown]
# ## What to do with them
#
# A mask is a PNG whose values are slots; `segments.json` has all of them as COCO run lengths, and the slot vectors lie
# in an `.npz`. Here: the share of each picture that its largest segment owns.

# %%
for file in sorted(Path("segments").glob("*_mask.png"))[:3]:
    ids, counts = np.unique(np.asarray(Image.open(file)), return_counts=True)
    print(file.name, f"{100 * counts.max() / counts.sum():.0f} % belong to slot {ids[counts.argmax()]}")

# %% [markdown]
# The method itself gives tensors, for whatever comes next:

# %%
side = settings.data.size
files = sorted(Path(PICTURES).glob("*.png"))[:4] or sorted(Path(PICTURES).glob("*.jpg"))[:4]
pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize(side[::-1])) for file in files])
images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
with inspecting(method, seed=0):
    out = method.encode(images)
    masks = predicted_masks(out, decode(method, out), size=side)
print("slots", tuple(out.slots.shape))
show(images, masks=masks)

# %% [markdown]
# Not good enough? A run takes apart what looks like the pictures it was trained on:
# [train on your pictures](../docs/guides/train.md).
