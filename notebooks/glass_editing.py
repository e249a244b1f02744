# %% [markdown]
# # Editing with GLASS
#
# Take an object out of a picture, and bring one in from another, by the slots that stand for them. The run
# `zoo:glass-painted` comes with the package, and so does the little diffusion model that it renders with: nothing is
# downloaded. `pip install '.[diffusion]'`.
#
# It is a miniature, trained on generated pictures of painted shapes with no mask by hand
# ([what it reaches](../docs/sharing.md#the-zoo)). It finds the objects of many scenes, not of all.

# %%
import os

import torch

import slotworks
from slotworks import show
from slotworks.data.scenes import PaintedScenes
from slotworks.editing import add, object_at, remove, render_edit, take_apart
from slotworks.evaluation.masks import inspecting
from slotworks.types import to_batch

SMALL = bool(os.environ.get("SLOTWORKS_SMALL"))
STEPS = 2 if SMALL else 20  # of the sampler
PICTURES = 4 if SMALL else 8

# %%
run, method = slotworks.from_pretrained("zoo:glass-painted")
run

# %% [markdown]
# Scenes that the run has never seen, with their slots:

# %%
test = PaintedScenes().open("test")
several = [i for i in range(40) if test[i]["num_objects"] > 1][:PICTURES]
batch = to_batch(test.__getitems__(several))
with inspecting(method, seed=0):
    attention = method.encode(batch["image"]).attn_maps
masks = torch.nn.functional.interpolate(attention, batch["image"].shape[-2:], mode="bilinear")
show(batch, masks=masks)

# %% [markdown]
# ## Take one out
#
# A click on a pixel names the object: its slot, and other slots that look there, too. Then the picture is rendered
# twice from the same noise, from all slots and from those that are left.

# %%
scene = take_apart(method, batch["image"][1])
rows, columns = (batch["mask"][1] == 1).nonzero().T  # the first object; a person clicks
gone = object_at(scene, x=int(columns.median()), y=int(rows.median()))
left = remove(scene.slots[None], gone)[0]
edit = render_edit(method, scene, left, steps=STEPS)
print(f"slots {gone} of {len(scene.slots)} were taken out")
show(torch.stack([edit.original, edit.recon[0], edit.edited[0]]))

# %% [markdown]
# From left to right: the picture, the picture from all of its slots, and without the object. What differs between the
# first two is what slots do not keep.
#
# ## Bring one in

# %%
other = take_apart(method, batch["image"][3])
rows, columns = (batch["mask"][3] == 1).nonzero().T
guest = object_at(other, x=int(columns.median()), y=int(rows.median()))[0]
more = add(scene.slots[None], other.slots[None], guest)[0]
edit = render_edit(method, scene, more, steps=STEPS)
show(torch.stack([edit.original, other.image, edit.recon[0], edit.edited[0]]))

# %% [markdown]
# The picture, the one that the object comes from, and what is rendered without and with it. The same from the command
# line is `slotworks edit`, and with a mouse the [studio](../docs/editing.md#the-studio). How often a removal really
# removes is [measured](../docs/editing.md#whether-a-removal-removes).
