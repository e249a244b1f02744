"""Training on cached features against running the encoder in every step: DINOSAUR with a small MLP decoder.

The encoder has the size of DINOv2 ViT-B/14 at 224 pixels with random weights, which take as long as trained ones. Both
steps read their batch from the data set, as the training loop does, and end with an update of the weights.
"""

import tempfile
import time

import numpy as np
import torch
from transformers import Dinov2Config, Dinov2Model

from slotworks.data.stores.features import CachedFeatures
from slotworks.encoders import ViTConfig
from slotworks.methods.dinosaur import DinosaurConfig
from slotworks.types import DataConfig, RawBatch, to_batch

BATCH = 8
NUM_IMAGES = 16
STEPS = 2


class Images:
    """Random images of 224 x 224 pixels."""

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitems__(self, indices) -> RawBatch:
        drawn = [np.random.default_rng(i).integers(0, 256, (224, 224, 3), np.uint8) for i in indices]
        return {"image": np.stack(drawn)}


class RandomImages(DataConfig):
    name = "random"  # type: ignore[assignment]
    size = (224, 224)  # type: ignore[assignment]

    def open(self, split: str = "train") -> Images:
        return Images()


def run() -> list[dict]:
    """Seconds of one training step, the best of two after one to warm up."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        Dinov2Model(Dinov2Config(image_size=518, patch_size=14)).save_pretrained(f"{folder}/vit")
        encoder = ViTConfig(f"{folder}/vit", patch_size=14)
        images = RandomImages()
        cached = CachedFeatures(images, encoder, root=f"{folder}/features", batch_size=BATCH)
        method = DinosaurConfig(encoder=encoder, decoder_dims=(512, 512)).build()
        return [
            {
                "name": "DINOSAUR step, batch 8: cached features / ViT-B/14 at 224",
                **(times := {"ours_s": step_time(method, cached), "naive_s": step_time(method, images)}),
                "ratio": times["naive_s"] / times["ours_s"],
            }
        ]


def step_time(method: torch.nn.Module, data: DataConfig) -> float:
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-4)
    dataset, seconds = data.open("train"), []
    for step in range(1 + STEPS):
        start = time.perf_counter()
        indices = [(step * BATCH + i) % NUM_IMAGES for i in range(BATCH)]
        loss = method.loss(data.augment(to_batch(dataset.__getitems__(indices))), step)["recon"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
