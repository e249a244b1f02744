"""The discrete VAE. That it is SLATE's and STEVE's: `tests/methods/test_transfer_slate.py`."""

import pytest
import torch

from slotworks.nn.dvae import (
    DiscreteVAE,
    cosine_anneal,
    gumbel_argmax,
    gumbel_noise,
    gumbel_softmax,
    one_hot_at,
)
from slotworks.nn.noise import shared_noise

BLOCKS = ["norm", "bias"]


def build(block="norm", vocab_size=12):
    torch.manual_seed(0)
    return DiscreteVAE(vocab_size, channels=8, block=block)


@pytest.mark.parametrize(("vocab_size", "block", "count"), [(1024, "norm", 285_635), (4096, "bias", 680_515)])
def test_parameters_of_the_originals(vocab_size, block, count):
    """By hand from the layers: 3D Shapes of SLATE, and STEVE."""
    with torch.device("meta"):
        dvae = DiscreteVAE(vocab_size, block=block)
    assert sum(p.numel() for p in dvae.parameters()) == count


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.0), (7_500, 0.868198), (15_000, 0.55), (22_500, 0.231802), (30_000, 0.1), (10**6, 0.1)]
)
def test_temperature(step, expected):
    """0.55 + 0.45 cos(pi step / 30000)."""
    assert cosine_anneal(step, 1.0, 0.1, 30_000) == pytest.approx(expected, abs=1e-6)


def test_a_schedule_of_no_steps_is_at_its_end():
    assert cosine_anneal(0, 1.0, 0.1, 0) == 0.1


def test_gumbel_noise_has_its_mean_and_variance():
    torch.manual_seed(0)
    noise = gumbel_noise(torch.empty(400, 500))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert noise.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.02)
    assert noise.isfinite().all()


def test_samples_have_the_probabilities():
    torch.manual_seed(0)
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    log_probs = probs.log().view(1, 4, 1).expand(20_000, 4, 1)
    hard = gumbel_softmax(log_probs, 0.7, hard=True)
    torch.testing.assert_close(hard.sum(dim=1), torch.ones(20_000, 1))
    for drawn in (hard[..., 0].mean(dim=0), one_hot_at(gumbel_argmax(log_probs), 4).float().mean(dim=0)[:, 0]):
        torch.testing.assert_close(drawn, probs, atol=0.01, rtol=0)


def test_a_low_temperature_makes_one_hot_codes():
    torch.manual_seed(0)
    log_probs = torch.randn(8, 6, 3).log_softmax(dim=1)
    largest = []
    for temperature in (5.0, 1.0, 0.1, 0.01):
        torch.manual_seed(1)
        soft = gumbel_softmax(log_probs, temperature)
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(8, 3))
        largest.append(soft.amax(dim=1).mean().item())
    assert largest == sorted(largest)
    assert largest[-1] > 0.99


def test_a_hard_sample_has_the_gradient_of_the_soft_one():
    log_probs = torch.randn(2, 5, 3).double().log_softmax(dim=1).requires_grad_()
    probe = torch.randn(2, 5, 3).double()
    grads = []
    for hard in (False, True):
        torch.manual_seed(1)
        code = gumbel_softmax(log_probs, 0.5, hard=hard)
        grads.append(torch.autograd.grad((code * probe).sum(), log_probs)[0])
    torch.testing.assert_close(grads[0], grads[1])
    assert grads[0].abs().max() > 0
    assert set(code.detach().round(decimals=9).unique().tolist()) == {0.0, 1.0}


def test_noise_does_not_depend_on_how_the_batch_is_split():
    log_probs = torch.randn(4, 5, 3).log_softmax(dim=1)
    with shared_noise(7, part=0, parts=1):
        whole = gumbel_softmax(log_probs, 0.5)
    parts = []
    for part in range(2):
        with shared_noise(7, part=part, parts=2):
            parts.append(gumbel_softmax(log_probs[2 * part :][:2], 0.5))
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("block", BLOCKS)
def test_looking_tokens_up_is_decoding_their_one_hot_codes(block):
    dvae = build(block).double()
    for p in dvae.parameters():
        torch.nn.init.normal_(p, std=0.3)
    tokens = torch.randint(12, (2, 15))
    codes = one_hot_at(tokens.unflatten(1, (3, 5)), 12).double()
    recon = dvae.decode(tokens, (3, 5))
    assert recon.shape == (2, 3, 12, 20)
    torch.testing.assert_close(recon, dvae.decode_codes(codes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_each_token_stands_for_its_own_square(block):
    """With one group the GroupNorm of SLATE sees the whole image; without it a token sees 4 x 4 pixels alone."""
    dvae, image = build(block).double(), torch.rand(1, 3, 8, 12).double()
    changed = image.clone()
    changed[..., 4:8, 8:12] = torch.rand(1, 3, 4, 4).double()
    moved = (dvae.log_probs(image) - dvae.log_probs(changed)).abs().amax(dim=1)[0] > 1e-12
    assert moved[1, 2]
    assert (moved.sum() > 3) == (block == "norm")


def test_the_two_samples_have_noise_of_their_own():
    """Flat probabilities: one-hot recon codes and tokens agree as often as chance."""
    torch.manual_seed(0)
    dvae = build("bias", vocab_size=4)
    torch.nn.init.zeros_(dvae.encoder[-1].weight)
    seen = {}
    dvae.decode_codes = lambda codes: seen.update(codes=codes) or codes[:, :3]
    out = dvae(torch.rand(40, 3, 32, 32), 1.0, hard=True)
    agreement = (seen["codes"].argmax(dim=1).flatten(1) == out.tokens).float().mean()
    assert agreement.item() == pytest.approx(0.25, abs=0.03)


def test_tokens_and_their_embedding_pass_no_gradient():
    dvae = build()
    out = dvae(torch.rand(2, 3, 8, 8), 1.0)
    assert not out.tokens.is_floating_point()
    out.recon.sum().backward()
    assert all(p.grad is not None for p in dvae.parameters())


def test_most_probable_tokens():
    dvae, image = build(), torch.rand(2, 3, 8, 8)
    expected = dvae.log_probs(image).argmax(dim=1).flatten(1)
    assert torch.equal(dvae.tokenize(image), expected)
    assert torch.equal(dvae(image, 1.0, sample=False).tokens, expected)


def test_probabilities_stay_float32_in_mixed_precision():
    dvae, image = build(), torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out, log_probs = dvae(image, 0.5), dvae.log_probs(image)
    assert log_probs.dtype == out.recon.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(2, 2, 2))


def test_refuses():
    with pytest.raises(ValueError, match="The image has 8 x 10 pixels; both must be multiples of 4"):
        build().log_probs(torch.rand(1, 3, 8, 10))
