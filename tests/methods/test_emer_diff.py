"""EmerDiff: inversion, shared attention maps, offsets, and a U-Net whose offsets move known pixels."""

from dataclasses import replace

import pytest
import torch
from tiny_models import save_diffusion

from slotworks.methods.emer_diff import EmerDiffConfig, blurred, share_attention, up_cross_attentions
from slotworks.types import UserError


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def config(request, tmp_path_factory):
    folder = save_diffusion(tmp_path_factory.mktemp(request.param), prediction=request.param)
    return EmerDiffConfig(model=str(folder), image_size=64, num_slots=3, num_steps=50, modulated_timestep=61, blur=0.0)


@pytest.fixture(scope="module")
def method(config):
    """One for all tests: it holds nothing but frozen networks."""
    return config.build()


def test_timesteps():
    times = EmerDiffConfig().build().timesteps()
    assert (times[0], times[1], times[-1], len(times)) == (1, 21, 281, 15)


def test_moves_are_those_of_the_ddim_scheduler(method):
    """All four steps from timestep 61 to the image."""
    import diffusers

    torch.manual_seed(0)
    latents, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    parts = method.diffusion.parts(latents)
    scheduler = diffusers.DDIMScheduler.from_pretrained(method.config.model, subfolder="scheduler")
    scheduler.set_timesteps(50)
    times = method.timesteps()
    assert times == [1, 21, 41, 61]
    theirs = ours = latents
    for i in range(3, -1, -1):
        out = noise
        if parts.prediction == "v_prediction":
            out = (noise - (1 - parts.alphas[times[i]]).sqrt() * theirs) / parts.alphas[times[i]].sqrt()
        theirs = scheduler.step(out, times[i], theirs).prev_sample
        ours = method._move(ours, noise, times[i], times[i - 1] if i else 0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_noise_is_the_prediction(method):
    """The noise implied by the U-Net's output, with the empty prompt."""
    latents = torch.randn(2, 4, 8, 8)
    parts = method.diffusion.parts(latents)
    with torch.no_grad():
        out = parts.unet(latents, 41, encoder_hidden_states=parts.empty_prompt.expand(2, -1, -1)).sample
    if parts.prediction == "v_prediction":
        clean = parts.alphas[41].sqrt() * latents - (1 - parts.alphas[41]).sqrt() * out
        out = (latents - parts.alphas[41].sqrt() * clean) / (1 - parts.alphas[41]).sqrt()
    torch.testing.assert_close(method.diffusion.predict_noise(latents, 41), out, rtol=0, atol=1e-4)


def test_inversion_with_constant_noise_comes_back(method, monkeypatch):
    """If the predicted noise did not depend on the latents, denoising would undo inversion exactly."""
    image = torch.rand(1, 3, 64, 64)
    noise = torch.randn(1, 4, 8, 8)
    monkeypatch.setattr(method.diffusion, "predict_noise", lambda latents, t: noise.expand_as(latents))
    first, noisy = method.invert(image)
    back = method._denoised(noisy, torch.zeros(2, 4), None)
    torch.testing.assert_close(back, method.diffusion.encode(image).expand(3, -1, -1, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(first, method._move(method.diffusion.encode(image), noise, 0, 1), rtol=0, atol=1e-6)


def test_sharing_changes_nothing_for_the_first_image(method):
    """And gives the others its attention maps: equal images stay equal, different ones change."""
    latents = torch.randn(3, 4, 8, 8)
    latents[1] = latents[0]
    unet = method.diffusion.parts(latents).unet
    before = dict(unet.attn_processors)
    alone = method.diffusion.predict_noise(latents, 41)
    try:
        share_attention(unet, {})
        shared = method.diffusion.predict_noise(latents, 41)
    finally:
        unet.set_attn_processor(dict(before))
    torch.testing.assert_close(shared[:2], alone[:2], rtol=0, atol=1e-5)
    assert (shared[2] - alone[2]).abs().max() > 1e-3
    torch.testing.assert_close(method.diffusion.predict_noise(latents, 41), alone, rtol=0, atol=0)
    assert unet.attn_processors == before


def test_offset_is_added_where_the_mask_is(method):
    """What the layer returns differs from before by strength times mask, in every channel."""
    latents = torch.randn(1, 4, 8, 8).expand(3, -1, -1, -1)
    unet = method.diffusion.parts(latents).unet
    layer = up_cross_attentions(unet)[0]
    masks = torch.zeros(3, 16)
    masks[1, :5], masks[2, :5] = 10.0, -10.0
    before = dict(unet.attn_processors)
    caught = []
    handle = layer.register_forward_hook(lambda module, args, output: caught.append(output))
    try:
        for offsets in ({}, {layer: masks}):
            share_attention(unet, offsets)
            method.diffusion.predict_noise(latents, 41)
    finally:
        handle.remove()
        unet.set_attn_processor(before)
    plain, changed = caught
    torch.testing.assert_close(changed - plain, masks.unsqueeze(2).expand_as(plain), rtol=0, atol=1e-4)


def test_clusters_without_members_move_nothing(method):
    image = torch.rand(1, 3, 64, 64)
    _, noisy = method.invert(image)
    layer = up_cross_attentions(method.diffusion.parts(image).unet)[-1]
    masks = torch.stack([torch.ones(16), torch.zeros(16)])
    distance = method.moved(noisy, masks, layer)
    assert distance.shape == (1, 2, 64, 64)
    assert distance[0, 1].abs().max() < 1e-4 < 0.01 < distance[0, 0].mean()


def test_results_do_not_depend_on_the_images_per_pass(method):
    image = torch.rand(2, 3, 64, 64)
    results = []
    for count in (2, 20):
        other = replace(method.config, images_per_pass=count).build()
        other.diffusion = method.diffusion
        torch.manual_seed(0)
        results.append(other.encode(image))
    torch.testing.assert_close(results[0].attn, results[1].attn, rtol=0, atol=1e-3)
    out = results[0]
    assert out.attn.shape == (2, 3, 32 * 32)
    assert out.grid == (32, 32)
    assert method.state_dict() == {}
    torch.testing.assert_close(out.attn.sum(1), torch.ones(2, 1024), rtol=0, atol=1e-5)


def test_blur():
    """A point becomes the Gaussian; a constant stays; no blur is no change."""
    maps = torch.zeros(1, 1, 21, 21)
    maps[..., 10, 10] = 1
    found = blurred(maps, 1.5)[0, 0]
    assert found.sum() == pytest.approx(1, abs=1e-5)
    rows = torch.arange(21) - 10.0
    g = torch.where(rows.abs() <= 6, (-rows.square() / 4.5).exp(), 0)
    g = g / g.sum()
    torch.testing.assert_close(found, g[:, None] * g, rtol=0, atol=1e-6)
    torch.testing.assert_close(blurred(torch.ones(2, 3, 9, 9), 2.0), torch.ones(2, 3, 9, 9))
    assert blurred(maps, 0.0) is maps


def test_mistakes(method):
    class NoAttention:
        up_blocks = ()

    with pytest.raises(UserError, match="no attention in its up blocks"):
        up_cross_attentions(NoAttention())
    with pytest.raises(UserError, match="EmerDiff trains nothing"):
        method.loss({}, 0)
