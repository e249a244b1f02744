"""The diffusion model of painted scenes that comes with the package: it puts objects where it is told."""

import pytest
import torch

from slotworks.configs.painted_diffusion import PAINTED_SCENES
from slotworks.encoders.object_tokens import Objects, load_object_tokens
from slotworks.encoders.vit import package_folder
from slotworks.evaluation.generation import placement
from slotworks.synthesis.stable_diffusion import load_stable_diffusion
from slotworks.types import UserError, to_batch

pytest.importorskip("diffusers")
MODEL = "package:painted_diffusion"
SCENES = 12


@pytest.fixture(scope="module")
def model():
    return load_stable_diffusion(MODEL, "cpu")


@pytest.fixture(scope="module")
def batch():
    return to_batch(PAINTED_SCENES.open("test").__getitems__(range(SCENES)))


def scored(model, batch, context, negative):
    options = {"seeds": range(SCENES), "image_size": 64, "steps": 12, "cfg_scale": 1.5}
    image = model.generate(context, negative, **options).movedim(-1, 1).float() / 255
    return {name: float(value.nanmean()) for name, value in placement(batch["image"], batch["mask"], image).items()}


def test_smaller_than_ten_megabytes():
    assert sum(path.stat().st_size for path in package_folder(MODEL).rglob("*") if path.is_file()) < 10e6


def test_the_autoencoder(model, batch):
    """Decibels on clean latents, and on latents with noise of 0.3 in them."""
    with torch.no_grad():
        latents = model.vae.encode(2 * batch["image"] - 1).latent_dist.mode()
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        for spread, least in ((0.0, 30), (0.3, 28)):
            image = ((model.vae.decode(latents + spread * noise).sample + 1) / 2).clamp(0, 1)
            error = (image - batch["image"]).square().mean((1, 2, 3))
            assert float(-10 * error.log10().mean()) > least


def test_objects_stand_where_their_properties_say(model, batch):
    tokens = load_object_tokens(MODEL)
    context = tokens.context(Objects.of(batch), batch["background"].long())
    found = scored(model, batch, context, tokens.nulls(SCENES, context.shape[1]))
    assert found["shown"] > 0.9
    assert found["placed"] > 0.8


def test_objects_stand_where_captions_say(model, batch):
    scenes = PAINTED_SCENES.open("test")
    context = model.embed([scenes.caption(i, places=True) for i in range(SCENES)])
    assert scored(model, batch, context, model.embed([""]))["placed"] > 0.7


@pytest.mark.parametrize(
    "caption", ["", "nothing", "a flying zebra at 999 999", " and ".join(["a red star at 50 50"] * 12), "😀"]
)
def test_captions_that_it_does_not_understand_make_a_picture(model, caption):
    options = {"seeds": [0], "image_size": 64, "steps": 2, "cfg_scale": 1.5}
    image = model.generate(model.embed([caption]), model.embed([""]), **options)
    assert image.shape == (1, 64, 64, 3)


def test_objects_that_cannot_be_drawn(batch):
    tokens = load_object_tokens(MODEL)
    objects = Objects.of({**batch, "x": batch["x"] + 1})
    with pytest.raises(UserError, match="places are shares of the side, 0 to 1"):
        tokens(objects)
