"""Stable Diffusion with slots as its prompt, on tiny random networks."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_models import loud, save_diffusion

from slotworks.decoders import StableDiffusionConfig, StableDiffusionDecoder
from slotworks.encoders.diffusion import load_diffusion
from slotworks.evaluation.rendering import EDITING, sampling_of
from slotworks.nn.noise import shared_noise
from slotworks.types import Method, UserError

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module", params=["v_prediction", "epsilon"])
def model(request, tmp_path_factory):
    return request.param, save_diffusion(tmp_path_factory.mktemp(request.param), prediction=request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_diffusion(tmp_path_factory.mktemp("velocity"), prediction="v_prediction")


def decoder(folder, **changed):
    return StableDiffusionDecoder(
        StableDiffusionConfig(str(folder), image_size=64, context_dim=32, **changed), load_diffusion
    )


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_noisy_latents_and_target_are_those_of_diffusers(model):
    prediction, folder = model
    ours, latents, noise = decoder(folder), draw(3, 4, 8, 8), draw(3, 4, 8, 8, seed=1)
    steps = torch.tensor([0, 500, 999])
    mixed, target = ours.noisy(latents, noise, steps)
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    torch.testing.assert_close(mixed, scheduler.add_noise(latents, noise, steps))
    wanted = scheduler.get_velocity(latents, noise, steps) if prediction == "v_prediction" else noise
    torch.testing.assert_close(target, wanted)


def test_loss_is_zero_for_a_network_that_knows_the_target(model, monkeypatch):
    _, folder = model
    ours, latents = decoder(folder), draw(2, 4, 8, 8)
    targets = []
    noisy = ours.noisy

    def note(*args):
        targets.append(noisy(*args))
        return targets[-1]

    monkeypatch.setattr(ours, "noisy", note)
    monkeypatch.setattr(ours, "predict", lambda *args, **kwargs: targets[-1][1] + 0.5)
    assert ours.loss(latents, draw(2, 3, 32)).item() == pytest.approx(0.25, rel=1e-5)


def test_a_frozen_network_passes_gradients_on_and_keeps_none(folder):
    ours, slots = decoder(folder), draw(2, 3, 32).requires_grad_()
    ours.loss(draw(2, 4, 8, 8), slots).backward()
    assert (slots.grad.abs().sum(dim=2) > 0).all()
    assert all(p.grad is None for p in ours.parts(slots).unet.parameters())
    assert list(ours.parameters()) == []
    assert ours.state_dict() == {}


def test_a_trained_network_is_a_part_of_the_method(folder):
    ours = decoder(folder, trained=True)
    ours.loss(draw(2, 4, 8, 8), draw(2, 3, 32)).backward()
    without = {name for name, p in ours.named_parameters() if p.grad is None}
    assert without == set()
    published = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
    assert {name.removeprefix("unet.") for name in ours.state_dict()} == set(published)
    assert all(torch.equal(ours.state_dict()[f"unet.{name}"], value) for name, value in published.items())
    twin = copy.deepcopy(ours)
    with torch.no_grad():
        loud(twin.unet)
    assert twin.parts(torch.empty(0)).unet is twin.unet
    assert ours.parts(torch.empty(0)).unet is ours.unet is not twin.unet


def test_checkpointing_changes_no_gradient(folder):
    found = []
    for checkpointing in (False, True):
        ours, slots = decoder(folder, checkpointing=checkpointing, trained=True), draw(2, 3, 32).requires_grad_()
        torch.manual_seed(5)
        loss = ours.loss(draw(2, 4, 8, 8), slots)
        loss.backward()
        found.append((loss.detach(), slots.grad, ours.unet.conv_in.weight.grad))
    for plain, saved in zip(*found, strict=True):
        torch.testing.assert_close(plain, saved)


def test_cached_moments_draw_the_latents_of_their_image(folder):
    ours, image = decoder(folder), torch.rand(2, 3, 64, 64)
    moments = ours.moments(image)
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    known = vae.encode(2 * image - 1).latent_dist
    torch.testing.assert_close(moments, known.parameters.detach())
    drawn = []
    for batch in ({"image": image}, {"latents": moments}):
        torch.manual_seed(3)
        drawn.append(ours.latents_of(batch))
    assert torch.equal(*drawn)
    torch.manual_seed(3)
    wanted = (known.mean + known.std * torch.randn(2, 4, 8, 8)) * vae.config.scaling_factor
    torch.testing.assert_close(drawn[0], wanted.detach())


def test_moments_are_those_of_the_resized_image(folder):
    image = torch.rand(1, 3, 96, 96)
    small = torch.nn.functional.interpolate(image, (64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(decoder(folder).moments(image), decoder(folder).moments(small))


def test_noise_and_timesteps_do_not_depend_on_the_split_of_a_batch(folder):
    ours, latents, slots = decoder(folder), draw(4, 4, 8, 8), draw(4, 3, 32)
    with shared_noise(9, part=0, parts=1):
        whole = ours.loss(latents, slots)
    parts = []
    for part in (0, 1):
        with shared_noise(9, part=part, parts=2):
            parts.append(ours.loss(latents[2 * part :][:2], slots[2 * part :][:2]))
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_a_slot_that_is_not_looked_at_changes_nothing(folder):
    ours, latents, slots = decoder(folder), draw(2, 4, 8, 8), draw(2, 3, 32)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    time = torch.tensor([10, 700])
    seen = ours.predict(latents, time, slots, slot_mask=mask)
    other = torch.where(mask[:, :, None], slots, 7.0)
    torch.testing.assert_close(ours.predict(latents, time, other, slot_mask=mask), seen, rtol=1e-4, atol=1e-5)
    alone = ours.predict(latents[1:], time[1:], slots[1:, :1])
    torch.testing.assert_close(seen[1:], alone, rtol=1e-4, atol=1e-5)
    assert (ours.predict(latents, time, other) - ours.predict(latents, time, slots)).abs().max() > 1e-4


@pytest.mark.parametrize("cfg_scale", [1.0, 1.3, 3.0])
def test_samples_are_those_of_the_pipeline_of_diffusers(model, cfg_scale):
    """The pipeline tokenises the empty prompt to the number of slots; ours takes the start of the full one."""
    _, folder = model
    ours = decoder(folder)
    transformers = pytest.importorskip("transformers")
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    slots = draw(2, 3, 32)
    wanted = pipeline(
        prompt_embeds=slots,
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=cfg_scale,
        generator=torch.Generator().manual_seed(42),
        output_type="pt",
    ).images
    image = ours.sample(slots, steps=4, cfg_scale=cfg_scale, generator=torch.Generator().manual_seed(42))
    torch.testing.assert_close(image, wanted, rtol=0, atol=1e-5)
    assert image.shape == (2, 3, 64, 64)
    assert wanted.std() > 0.01


def test_a_zeroed_slot_changes_the_image_and_a_seed_repeats_it(folder):
    ours, slots = decoder(folder), draw(1, 3, 32)
    first, again, edited = (
        ours.sample(given, steps=2, cfg_scale=3.0, generator=torch.Generator().manual_seed(0))
        for given in (slots, slots, slots * torch.tensor([1.0, 0.0, 1.0])[:, None])
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, edited)


def test_what_cannot_be_sampled_or_does_not_fit_is_said(folder):
    ours = decoder(folder)
    with pytest.raises(ValueError, match="80 slots are more than the 77 tokens"):
        ours.sample(draw(1, 80, 32), steps=1, cfg_scale=2.0)
    with pytest.raises(ValueError, match="steps is 0"):
        ours.sample(draw(1, 3, 32), steps=0)
    wide = StableDiffusionDecoder(replace(ours.config, context_dim=1024), load_diffusion)
    with pytest.raises(UserError, match=r"context_dim is 1024, but the U-Net of .* has a context 32 wide"):
        wide.moments(torch.rand(1, 3, 64, 64))
    odd = StableDiffusionDecoder(replace(ours.config, image_size=60), load_diffusion)
    with pytest.raises(UserError, match="needs a multiple of 8"):
        odd.moments(torch.rand(1, 3, 60, 60))


def test_a_network_is_exported_as_diffusers_reads_it(folder, tmp_path):
    path = decoder(folder, trained=True).export(tmp_path)
    before, after = (
        diffusers.UNet2DConditionModel.from_pretrained(where).state_dict() for where in (folder / "unet", path)
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_small_model_of_the_package_says_how_it_is_sampled(folder):
    """As its rows of results were; of others nobody knows, and what asks has its own defaults."""
    small = StableDiffusionDecoder(StableDiffusionConfig("package:painted_diffusion", image_size=64), load_diffusion)
    assert small.sampling == {"steps": 20, "cfg_scale": 1.5}
    assert decoder(folder).sampling is None
    assert (sampling_of(Says(small), None, None, EDITING), sampling_of(Says(small), 30, None, EDITING)) == (
        (20, 1.5),
        (30, 1.5),
    )
    assert sampling_of(Says(decoder(folder)), None, 2.0, EDITING) == (75, 2.0)


class Says(Method):
    """A method that says of its sampling what its decoder does, as StableLSD and GLASS do."""

    def __init__(self, decoder):
        super().__init__()
        self.sampling = decoder.sampling
