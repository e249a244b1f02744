# %% [markdown]
# # Slot Attention from scratch
#
# A picture of Tetrominoes goes in, and comes out as a few *slots*, vectors that each stand for one thing in it. Nobody
# says what a thing is: the network only has to put the picture together again. This notebook writes the module in
# thirty lines, checks it against the one of the package, and trains it, which takes a while on a CPU: lower `STEPS`
# for a first look.
#
# Locatello et al. 2020, [Object-Centric Learning with Slot Attention](https://arxiv.org/abs/2006.15055), algorithm 1.

# %%
import os

import torch
import torch.nn.functional as F
from torch import nn

from slotworks import show, slots
from slotworks.data.scenes import TetrominoScenes
from slotworks.metrics import fg_ari
from slotworks.progress import progress
from slotworks.types import to_batch

STEPS = 3 if os.environ.get("SLOTWORKS_SMALL") else 3000
torch.manual_seed(0)

# %% [markdown]
# ## The pictures
#
# They are drawn when they are asked for, so there is nothing to download. `mask` says which pixel belongs to which
# object; it is used to measure, never to train.

# %%
scenes = TetrominoScenes(num_train=60_000, num_val=320)
train, val = scenes.open("train"), scenes.open("val")
batch = to_batch(val.__getitems__(range(8)))
show(batch)

# %% [markdown]
# ## The module
#
# Slots ask the picture for what belongs to them. The softmax runs over the *slots*: they compete for each position.
# Then every slot takes the mean of what it won, and is updated by a GRU. Three rounds, the same weights in each.


# %%
class SlotAttention(nn.Module):
    def __init__(self, feature_dim, slot_dim, iterations=3, mlp_dim=128):
        super().__init__()
        self.iterations = iterations
        self.norm_features, self.norm_slots = nn.LayerNorm(feature_dim), nn.LayerNorm(slot_dim)
        self.to_q = nn.Linear(slot_dim, slot_dim, bias=False)
        self.to_k = nn.Linear(feature_dim, slot_dim, bias=False)
        self.to_v = nn.Linear(feature_dim, slot_dim, bias=False)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.norm_mlp = nn.LayerNorm(slot_dim)
        self.mlp = nn.Sequential(nn.Linear(slot_dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, slot_dim))

    def forward(self, features, slots):  # b p c and b n d
        features = self.norm_features(features)
        k, v = self.to_k(features), self.to_v(features)
        for _ in range(self.iterations):
            q = self.to_q(self.norm_slots(slots))
            attn = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=1)  # over slots: b n p
            weights = (attn + 1e-8) / (attn + 1e-8).sum(dim=2, keepdim=True)  # of a mean over positions
            slots = self.gru((weights @ v).flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(self.norm_mlp(slots))
        return slots, attn


# %% [markdown]
# The package has the same module, with an argument for every way in which later code departs from the paper
# ([the parts](../docs/methods/slot_attention.md)). With the same weights both give the same slots:

# %%
ours, theirs = SlotAttention(32, 64), slots.SlotAttention(32, 64)
theirs.load_state_dict(ours.state_dict())
features, start = torch.randn(2, 100, 32), torch.randn(2, 4, 64)
difference = (ours(features, start)[0] - theirs(features, start).slots).abs().max().item()
assert difference < 1e-5
print(f"largest difference {difference:.1e}")

# %% [markdown]
# ## The autoencoder
#
# A small convolutional network in front. Behind it each slot is spread over a grid with coordinates, and drawn alone: a
# colour and a mask for every pixel. The masks of all slots are a softmax, and mix the colours into one picture.


# %%
def grid(size):
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return torch.stack([x, y, -x, -y])


class Autoencoder(nn.Module):
    def __init__(self, slots=4, width=32, slot_dim=64, size=35):
        super().__init__()
        self.start = nn.Parameter(torch.randn(1, slots, slot_dim) * 0.1)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2),
        )
        self.place = nn.Conv2d(4, width, 1)
        self.attention = SlotAttention(width, slot_dim)
        self.decoder = nn.Sequential(
            nn.Conv2d(slot_dim + 4, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, 4, 3, padding=1),
        )
        self.register_buffer("small", grid((size + 1) // 2))
        self.register_buffer("large", grid(size))

    def forward(self, image):
        maps = self.encoder(2 * image - 1) + self.place(self.small[None])
        found, _ = self.attention(maps.flatten(2).transpose(1, 2), self.start.expand(len(image), -1, -1))
        b, n, d = found.shape
        size = self.large.shape[-1]
        spread = found.reshape(b * n, d, 1, 1).expand(-1, -1, size, size)
        drawn = self.decoder(torch.cat([spread, self.large.expand(b * n, -1, -1, -1)], dim=1)).view(b, n, 4, size, size)
        masks = drawn[:, :, 3:].softmax(dim=1)
        return (masks * drawn[:, :, :3]).sum(dim=1), masks[:, :, 0]


# %% [markdown]
# ## Training

# %%
model = Autoencoder()
optimizer = torch.optim.Adam(model.parameters(), lr=4e-4)
losses = []
with progress("training", STEPS, unit="steps") as advance:
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 4e-4 * min((step + 1) / 300, 1)  # a warmup, without which slots may end in stripes
        image = to_batch(train.__getitems__(torch.randint(len(train), (16,)).tolist()))["image"]
        recon, _ = model(image)
        loss = F.mse_loss(recon, image)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        advance(1)
print(f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} at last")

# %% [markdown]
# ## What the slots hold
#
# Colours name slots. FG-ARI, the field's usual score, is 1 where two pixels of objects share a slot exactly if they
# share an object; pixels of the background do not count.

# %%
with torch.no_grad():
    recon, masks = model(batch["image"])
score = fg_ari(masks.argmax(1), batch["mask"]).mean().item()
print(f"FG-ARI {100 * score:.1f} on these {len(recon)} pictures")
show(batch, masks=masks, recon=recon)

# %% [markdown]
# The recipe `slot_attention.tetrominoes_mini` is this model with more care: cheaper convolutions, masks that look at
# the picture, a decaying learning rate. [Its page](../docs/methods/slot_attention.md) says what it changes, and
# [results](../docs/results.md) how well it does.
