"""Dataset Diffusion of its authors (Nguyen et al. 2023): VinAIResearch/Dataset-Diffusion.

Its U-Net is random and narrower than Stable Diffusion's, with attention on maps of the same sides: 64, 32, 16 and 8.
What its program does with the maps stands in the middle of `gen_data.py` and is repeated here in its order: the fourth
power of the self-attention, the maps of the classes one after the other, their masks in NumPy.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.peers import Job, their_modules
from slotworks.synthesis.capture import AttentionCapture
from slotworks.synthesis.refine import refine, to_labels

REPOSITORY, COMMIT = "VinAIResearch/Dataset-Diffusion", "00866c4fd2a6bb5fc7c2d8088e33bbbcfbecb2cf"
CLASSES, TOKENS, CONTEXT = 5, 77, 64
LOW, HIGH = 0.5, 0.6


def jobs(folder: Path) -> Iterator[Job]:
    """Maps of five classes from a guided step, what refines them, and masks."""
    torch.manual_seed(0)
    with torch.no_grad():
        with their_modules(folder):
            yield from _maps(importlib.import_module("src.attn_processor"))
        for side, refining, masks in ((32, 40.0, 20.0), (64, 150.0, 100.0)):
            attention = torch.randn(1, side**2, side**2).mul(3).softmax(2)
            maps = torch.rand(1, CLASSES, side, side)
            theirs = _refined(attention[0], maps[0])
            difference = (refine(maps, attention)[0] - theirs).abs().max().item()
            yield Job(
                f"refined maps, {CLASSES} classes, {side}x{side}",
                lambda maps=maps, attention=attention: refine(maps, attention),
                lambda maps=maps, attention=attention: _refined(attention[0], maps[0]),
                "the maps",
                difference,
                target=refining,
            )
            ids = torch.arange(1, CLASSES + 1)[None]
            labels = _labels(refine(maps, attention), ids)
            wrong = (labels[0].numpy() != _mask(attention[0], maps[0])).mean().item()
            yield Job(
                f"maps to a mask of 512 px, {CLASSES} classes, {side}x{side}",
                lambda maps=maps, attention=attention, ids=ids: _labels(refine(maps, attention), ids),
                lambda maps=maps, attention=attention: _mask(attention[0], maps[0]),
                "share of pixels with another label",
                wrong,
                target=masks,
            )


def _labels(maps: Tensor, ids: Tensor) -> Tensor:
    return to_labels(maps, ids, (512, 512), LOW, HIGH)


def _maps(processors: Any) -> Iterator[Job]:
    """One step with classifier-free guidance: the U-Net sees the empty prompt, the prompt and the classes."""
    unet = UNet2DConditionModel(
        sample_size=64,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64, 128, 128),
        attention_head_dim=(1, 2, 4, 4),
        layers_per_block=2,
        cross_attention_dim=CONTEXT,
    ).eval()
    latents = torch.randn(1, 4, 64, 64).repeat(2, 1, 1, 1)
    prompt, classes = torch.randn(2, TOKENS, CONTEXT), torch.randn(1, CLASSES, TOKENS, CONTEXT)
    plain = dict(unet.attn_processors)
    store = processors.AttentionStoreClassPrompts(start=0, end=100)

    def ours(given: Tensor) -> tuple[Tensor, Tensor]:
        unet.set_attn_processor(dict(plain))
        with AttentionCapture(unet, given, cross_sizes=(16,), self_size=32) as found:
            unet(latents, 500, encoder_hidden_states=prompt)
        return found.cross, found.self_

    def theirs(given: Tensor) -> tuple[Tensor, Tensor]:
        store.reset()
        stored = SimpleNamespace(unet=unet)
        processors.register_attention_control(stored, store, processors.StoredAttnClassPromptsProcessor)
        unet(latents, 500, encoder_hidden_states=torch.cat([prompt, given]))
        cross = processors.aggregate_attention(store, res=16, is_cross=True)
        return cross.movedim(-1, 1), processors.aggregate_attention(store, res=32, is_cross=False)

    def difference(given: Tensor) -> float:
        mine, other = ours(given), theirs(given)
        return max((one - two.reshape(one.shape)).abs().max().item() for one, two in zip(mine, other, strict=True))

    name = f"maps of {CLASSES} classes, a guided step at 64x64 latents"
    off = difference(classes[:, 0])
    yield Job(
        f"{name}, a prompt for each class",
        lambda: ours(classes),
        lambda: [theirs(classes[:, k]) for k in range(CLASSES)],
        "cross- and self-attention maps",
        off,
        target=8.0,
    )
    yield Job(
        f"{name}, one prompt for all",
        lambda: ours(classes[:, 0]),
        lambda: theirs(classes[:, 0]),
        "cross- and self-attention maps",
        off,
        target=1.5,
    )


def _refined(attention: Tensor, maps: Tensor) -> Tensor:
    """Class after class by the fourth power of the self-attention."""
    side = maps.shape[-1]
    power = torch.matrix_power(attention, 4)
    return torch.stack([(power @ one.reshape(-1, 1)).reshape(side, side) for one in maps])


def _mask(attention: Tensor, maps: Tensor) -> np.ndarray:
    """Refined maps, each stretched to [0, 1], enlarged to 512 pixels and cut at both thresholds."""
    refined = _refined(attention, maps)
    stretched = torch.stack([(one - one.min()) / (one - one.min()).max() for one in refined])
    scores = interpolate(stretched[None], (512, 512), mode="bicubic")[0].numpy()
    best = scores.max(axis=0)
    found = np.where(best >= HIGH, scores.argmax(axis=0) + 1, 0).astype(np.uint8)
    found[(best < HIGH) & (best >= LOW)] = 255
    return found
