"""One step of a miniature of every method in bfloat16 and in float16, against the same step in float32.

A dtype that mixed precision leaves where it does not fit is an error on a GPU and here alike; sums that would be taken
in 8 or 11 bits show as another loss.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slotworks.configs import recipes
from slotworks.training.bench import noise
from slotworks.training.devices import clip, open_fabric
from slotworks.training.loop import set_up
from slotworks.training.seeds import set_seed
from slotworks.types import VideoMethod

COVERED = ("stable_lsd.scenes_mini", "spot.scenes_mini", "slot_diffusion.scenes_mini")  # by GLASS, stage 2, videos


CODES = {"vqvae.scenes_mini": 1e-2}  # latents of eight bits have other nearest codes where two are as near; 0.6 percent


def miniatures():
    """A miniature of each class of settings; left out are those whose step reads of its data what noise has not."""
    seen = {"PaintedDiffusionConfig", "TinyDiffusionConfig", "CLIPpyConfig", "OVSegmentorConfig", "SegCLIPConfig"}
    for name, function in recipes().items():
        run = function()
        if name.endswith("_mini") and run.steps and type(run.method).__name__ not in seen:
            seen.add(type(run.method).__name__)
            yield pytest.param(name, marks=pytest.mark.slow if name in COVERED else ())


def step(name, precision):
    """Losses of one step by name, the norm of the gradient, and the loss scale after it if there is one."""
    run = replace(recipes()[name](), batch_size=2, accumulate=1, precision=precision, channels_last=False)
    fabric = open_fabric(run, device="cpu")
    method, model, optimizer = set_up(run, fabric, lambda folder: recipes()[Path(folder).name]().method.build())
    for part in method.modules():
        if isinstance(ready := getattr(part, "ready", None), torch.Tensor):  # an autoencoder trained before
            ready.fill_(True)
    for weight in method.parameters():
        if not weight.any():  # layers that start at zero would hide what comes before them
            torch.nn.init.normal_(weight, std=0.02)
    torch.manual_seed(1)
    raw = noise(run, 2, video=isinstance(method, VideoMethod))
    set_seed(0, fabric.device)
    terms = model(raw, 0)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    fabric.backward(torch.stack(list(terms.values())).sum())
    norm = clip(fabric, model, optimizer, run).item()
    assert {p.grad.dtype for p in method.parameters() if p.grad is not None} == {torch.float32}
    optimizer.step()
    values = {key: value.item() for key, value in terms.items()}
    return values, norm, fabric.strategy.precision.state_dict().get("scale")


@pytest.mark.parametrize("name", list(miniatures()))
def test_a_step_in_mixed_precision(name):
    """Losses within half a percent, or as `CODES` has it; a float16 gradient that overflows halves the loss scale."""
    plain, norm, _ = step(name, "32")
    bf16, bf16_norm, _ = step(name, "bf16")
    fp16, fp16_norm, scale = step(name, "16")
    assert bf16 == pytest.approx(plain, rel=CODES.get(name, 5e-3))
    assert fp16 == pytest.approx(plain, rel=5e-3)
    assert bf16_norm == pytest.approx(norm, rel=0.1)
    assert scale == (65536 if math.isfinite(fp16_norm) else 32768)
    assert fp16_norm == pytest.approx(norm, rel=0.05) or scale == 32768
