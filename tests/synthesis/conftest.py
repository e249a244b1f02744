"""A Stable Diffusion of a few kilobytes: 64 pixels, latents of 8 x 8, attention on maps of 8 and 4."""

import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_models import save_diffusion

from slotworks.data.scenes import ShapeScenes
from slotworks.synthesis import SceneCaptions, Synthesis
from slotworks.synthesis.stable_diffusion import load_stable_diffusion


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="session")
def model(plain, tmp_path_factory):
    """The same with sharp attention: that of fresh weights is nearly uniform, and refined maps have no contrast."""
    folder = shutil.copytree(plain, tmp_path_factory.mktemp("sharp") / "model")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight.mul_(5)
    unet.save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="session")
def diffusion(plain):
    return load_stable_diffusion(str(plain))


@pytest.fixture
def config(model):
    """Eight captions in shards of three, two steps."""
    return Synthesis(
        source=SceneCaptions(ShapeScenes(num_train=8)),
        model=str(model),
        image_size=64,
        steps=2,
        cross_sizes=(8,),
        self_size=8,
        batch_size=2,
        shard_size=3,
    )
