"""Noise schedule, targets and solvers against closed forms, and against the original solver's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from slotworks.nn.diffusion import (
    add_noise,
    clean_of,
    denoising_loss,
    fixed_context,
    make_solver,
    noisier_timesteps,
    run_solver,
    scaled_linear_alphas,
    speed_up_attention,
    starting_noise,
    target_of,
)
from slotworks.nn.noise import shared_noise

diffusers = pytest.importorskip("diffusers")
AttnProcessor = pytest.importorskip("diffusers.models.attention_processor").AttnProcessor

BETAS = (0.0015, 0.0195)
ALPHAS = scaled_linear_alphas(1000, *BETAS)
REFERENCE = np.load(Path(__file__).parents[1] / "references" / "slot_diffusion_model.npz")
START = torch.tensor([1.3, -2.0])[:, None, None, None]


@pytest.mark.parametrize(
    ("timestep", "alpha"), [(0, 0.9985), (249, 0.510514), (499, 0.115844), (749, 0.00844483), (999, 1.42304e-4)]
)
def test_alphas_are_those_of_latent_diffusion(timestep, alpha):
    """A linear schedule between the same ends would give 0.391496 at 249."""
    assert ALPHAS[timestep].item() == pytest.approx(alpha, rel=1e-5)
    assert make_solver("ddim", 1000, *BETAS).alphas_cumprod[timestep].item() == pytest.approx(alpha, rel=1e-4)


@pytest.mark.parametrize("timestep", [249, 499])
def test_noise_keeps_the_variance_of_unit_data(timestep):
    """Equation 5 as printed, without the second root, would leave 0.75 and 0.90."""
    torch.manual_seed(0)
    mixed = add_noise(torch.randn(1_000_000), torch.randn(1_000_000), ALPHAS[timestep])
    assert mixed.var().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_targets_are_those_of_diffusers_and_give_the_data_back(prediction):
    torch.manual_seed(0)
    clean, noise, steps = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4), torch.tensor([0, 300, 800])
    alpha = ALPHAS[steps][:, None, None, None]
    mixed, target = add_noise(clean, noise, alpha), target_of(clean, noise, alpha, prediction)
    torch.testing.assert_close(clean_of(target, mixed, alpha, prediction), clean, rtol=1e-4, atol=1e-4)
    scheduler = diffusers.DDPMScheduler(1000, *BETAS, "scaled_linear")
    torch.testing.assert_close(mixed, scheduler.add_noise(clean, noise, steps), rtol=1e-4, atol=1e-5)
    known = {"epsilon": noise, "sample": clean, "v_prediction": scheduler.get_velocity(clean, noise, steps)}
    torch.testing.assert_close(target, known[prediction], rtol=1e-4, atol=1e-5)


def test_the_loss_is_a_mean_over_everything_and_draws_all_timesteps():
    seen = []

    def noisy(clean, noise, timestep):
        seen.append(timestep)
        return clean + noise, noise

    loss = denoising_loss(torch.zeros(4000, 3), 10, noisy, lambda mixed, timestep: mixed + 0.5)
    assert loss.item() == pytest.approx(0.25)
    counts = torch.bincount(seen[0], minlength=10)
    assert len(counts) == 10
    assert counts.min() > 300


def test_more_of_the_timesteps_are_noisy():
    """P(t < x T) = 1 - (1 - x) ** (1 / power); power 1 takes the numbers as they are."""
    uniform = torch.arange(10_000) / 10_000
    assert torch.equal(noisier_timesteps(uniform, 1000, 1.0), (uniform * 1000).long())
    timestep = noisier_timesteps(uniform, 1000, 4.0)
    for share in (0.3, 0.6, 0.9):
        below = (timestep < 1000 * share).double().mean().item()
        assert below == pytest.approx(1 - (1 - share) ** 0.25, abs=2e-3)
    assert timestep.max() == 999
    seen = []

    def noisy(clean, noise, timestep):
        seen.append(timestep)
        return clean, noise

    denoising_loss(torch.zeros(4000, 1), 1000, noisy, lambda mixed, timestep: mixed, time_power=4.0)
    assert (seen[0] < 600).double().mean().item() == pytest.approx(1 - 0.4**0.25, abs=0.03)


def test_the_loss_does_not_depend_on_the_split_of_a_batch():
    clean = torch.arange(12.0).view(4, 3)

    def noisy(clean, noise, timestep):
        return clean, noise * timestep[:, None]

    def loss(rows):
        return denoising_loss(rows, 100, noisy, lambda mixed, timestep: mixed)

    with shared_noise(3, part=0, parts=1):
        whole = loss(clean)
    parts = []
    for part in (0, 1):
        with shared_noise(3, part=part, parts=2):
            parts.append(loss(clean[2 * part :][:2]))
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def solve(clean_at, name="singlestep", steps=20):
    """What a solver makes of START where the clean data are known for every z_t."""
    scheduler = make_solver(name, 1000, *BETAS)
    return run_solver(scheduler, START, lambda z, t: clean_at(z, ALPHAS[t]), steps=steps).flatten()


@pytest.mark.parametrize("steps", [6, 20, 40])
def test_singlestep_is_exact_for_a_point(steps):
    """It ends at the smallest noise, a = 0.9985: sqrt(a) 0.7 + sqrt(1 - a) times the noise at the start."""
    end, start = ALPHAS[0], ALPHAS[999]
    noise = (START.flatten() - start.sqrt() * 0.7) / (1 - start).sqrt()
    found = solve(lambda z, a: torch.full_like(z, 0.7), steps=steps)
    torch.testing.assert_close(found, end.sqrt() * 0.7 + (1 - end).sqrt() * noise, rtol=0, atol=1e-5)
    assert found.tolist() == pytest.approx([0.7495, 0.6217], abs=1e-4)
    assert found.tolist() == pytest.approx(REFERENCE["dpm_point_20"].tolist(), abs=1e-5)


@pytest.mark.parametrize("name", ["multistep", "ddim"])
def test_other_solvers_end_at_a_point(name):
    end = ALPHAS[0] if name == "ddim" else torch.tensor(1.0)
    found = solve(lambda z, a: torch.full_like(z, 0.7), name)
    noise = (START.flatten() - ALPHAS[999].sqrt() * 0.7) / (1 - ALPHAS[999]).sqrt()
    if name == "ddim":  # its first timestep is 950 of 1000
        noise = (START.flatten() - ALPHAS[950].sqrt() * 0.7) / (1 - ALPHAS[950]).sqrt()
    torch.testing.assert_close(found, end.sqrt() * 0.7 + (1 - end).sqrt() * noise, rtol=0, atol=1e-5)


def gaussian(z, a):
    """The mean of x ~ N(0, 1) given z: the exact flow leaves z as it is."""
    return a.sqrt() * z


def two_points(z, a):
    """The mean of x = 1 or -1, equally likely, given z."""
    return torch.tanh(a.sqrt() * z / (1 - a))


@pytest.mark.parametrize(("name", "clean_at"), [("gauss", gaussian), ("two", two_points)])
@pytest.mark.parametrize("steps", [20, 40])
def test_singlestep_gives_the_originals_numbers(name, clean_at, steps):
    """Up to the whole timesteps, of which the original takes 949.05 where 949 stands here."""
    found = solve(clean_at, steps=steps)
    assert found.tolist() == pytest.approx(REFERENCE[f"dpm_{name}_{steps}"].tolist(), rel=5e-3)


def test_more_steps_come_nearer_to_the_gaussian_flow():
    errors = [(solve(gaussian, steps=steps) / START.flatten() - 1).abs().max().item() for steps in (10, 20, 80)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_two_points_are_told_apart():
    assert solve(two_points).sign().tolist() == [1, -1]
    assert solve(two_points).abs().tolist() == pytest.approx([1, 1], abs=0.1)


def test_starting_noise_can_be_shared():
    generator = torch.Generator().manual_seed(0)
    noise = starting_noise((3, 2, 4, 4), torch.device("cpu"), generator, shared=True)
    assert torch.equal(noise[0], noise[2])
    own = starting_noise((3, 2, 4, 4), torch.device("cpu"), torch.Generator().manual_seed(0))
    assert not torch.equal(own[0], own[1])
    torch.testing.assert_close(own[0], noise[0])


def small_unet():
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=(2, 4),
        norm_num_groups=8,
    ).eval()


def test_fixed_context_is_the_context_and_is_undone():
    unet, latents, context = small_unet(), torch.randn(2, 3, 8, 8), torch.randn(2, 5, 12)
    speed_up_attention(unet)
    with torch.no_grad():
        plain = unet(latents, 500, context).sample
        other = unet(latents, 500, torch.zeros_like(context)).sample
        before = dict(unet.attn_processors)
        with fixed_context(unet, context):
            fixed = unet(latents, 500, torch.zeros_like(context)).sample  # what it is given is not looked at
            changed = [name for name, now in unet.attn_processors.items() if now is not before[name]]
        after = unet(latents, 500, context).sample
    torch.testing.assert_close(fixed, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after, plain)
    assert (other - plain).abs().max() > 1e-4
    assert changed
    assert all(".attn2." in name for name in changed)
    assert unet.attn_processors == before


@pytest.fixture
def asked(monkeypatch):
    """How often attention was computed by plain products."""
    asked, plain = [], AttnProcessor.__call__
    monkeypatch.setattr(AttnProcessor, "__call__", lambda *args, **kw: asked.append(1) or plain(*args, **kw))
    return asked


@pytest.mark.parametrize("mask", [None, torch.tensor([[True, True, False, True, False]] * 2)])
def test_faster_attention_is_the_same_attention(mask, asked, monkeypatch):
    """In float32, as if it were autocast: the same outputs and the same gradient of the context."""
    unet, latents, context = small_unet(), torch.randn(2, 3, 8, 8), torch.randn(2, 5, 12, requires_grad=True)
    fused = unet(latents, 500, context, encoder_attention_mask=mask).sample
    (gradient,) = torch.autograd.grad(fused.square().sum(), context)
    speed_up_attention(unet)
    assert torch.equal(unet(latents, 500, context, encoder_attention_mask=mask).sample, fused)
    assert not asked
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device="cpu": device == "cpu")
    plain = unet(latents, 500, context, encoder_attention_mask=mask).sample
    assert len(asked) == len(unet.attn_processors)
    torch.testing.assert_close(plain, fused, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(plain.square().sum(), context)[0], gradient, rtol=1e-4, atol=1e-5)


def test_plain_attention_where_it_is_faster(asked):
    """Training in bfloat16; not without gradients, and not for 32 x 32 positions among themselves."""
    unet, context = small_unet(), torch.randn(2, 5, 12)
    other = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    other.set_processor(own := AttnProcessor())
    speed_up_attention(unet)
    assert other.processor is own
    count = len(unet.attn_processors)
    with torch.autocast("cpu", torch.bfloat16):
        for side, grad, plain in ((8, True, count), (8, False, 1), (32, True, count - 3)):
            asked.clear()
            with torch.set_grad_enabled(grad):
                unet(torch.randn(2, 3, side, side), 500, context)
            assert len(asked) == plain


def test_steps_and_names_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="steps is 0"):
        solve(gaussian, steps=0)
    with pytest.raises(ValueError, match="solver is 'euler'"):
        make_solver("euler", 1000, *BETAS)
