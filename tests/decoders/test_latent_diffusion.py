"""SlotDiffusion's decoder on tiny networks. The U-Net's transfer: `tests/methods/test_transfer_slot_diffusion.py`."""

from dataclasses import replace

import pytest
import torch

from slotworks.decoders import DenoiserConfig, LatentDiffusionDecoder
from slotworks.nn.vqvae import VQAutoencoder, VQConfig
from slotworks.types import UserError

pytest.importorskip("diffusers")

VQ = VQConfig(dims=(8, 8), layers=1, num_codes=7, norm_groups=4, code_range=1.0)
UNET = DenoiserConfig(dims=(8, 16), layers=1, head_dim=8, norm_groups=4)


def decoder(autoencoder=VQ, **changed):
    torch.manual_seed(0)
    made = LatentDiffusionDecoder(6, 16, replace(UNET, **changed), autoencoder)
    if autoencoder is not None:
        made.load_autoencoder(VQAutoencoder(autoencoder))
    return made.eval()


def told(made):
    """The same with a U-Net that says something."""
    with torch.no_grad():
        for parameter in made.unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


SLOTS = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(5))


def test_the_published_size():
    with torch.device("meta"):
        made = LatentDiffusionDecoder(192, 128, DenoiserConfig(), VQConfig())
        wide = LatentDiffusionDecoder(256, 224, DenoiserConfig(), VQConfig())
    assert sum(p.numel() for p in made.unet.parameters()) == 134_243_331
    assert sum(p.numel() for p in wide.unet.parameters()) == 135_046_147
    assert (made.shape, wide.shape) == ((3, 32, 32), (3, 56, 56))
    attended = [type(block).__name__ for block in made.unet.down_blocks]
    assert attended == ["DownBlock2D"] + 3 * ["CrossAttnDownBlock2D"]


def test_a_fresh_network_says_zero_so_the_first_loss_is_one():
    made = decoder()
    latents = torch.randn(64, 3, 8, 8)
    assert made.predict(latents[:2], torch.tensor([5, 800]), SLOTS).abs().max() == 0
    assert made.loss(latents, SLOTS[:1].expand(64, -1, -1)).item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_noise_and_target(prediction):
    made = decoder(prediction=prediction)
    z, e, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    a = made.alphas[t][:, None, None, None]
    mixed, target = made.noisy(z, e, t)
    torch.testing.assert_close(mixed, a.sqrt() * z + (1 - a).sqrt() * e)
    known = {"epsilon": e, "sample": z, "v_prediction": a.sqrt() * e - (1 - a).sqrt() * z}
    torch.testing.assert_close(target, known[prediction])


def test_the_order_of_slots_does_not_matter_and_their_number_may_change():
    made = told(decoder())
    latents, time = torch.randn(2, 3, 8, 8), torch.tensor([10, 700])
    with torch.no_grad():
        said = made.predict(latents, time, SLOTS)
        torch.testing.assert_close(made.predict(latents, time, SLOTS[:, [2, 0, 3, 1]]), said, rtol=1e-4, atol=1e-5)
        fewer = made.predict(latents, time, SLOTS[:, :2])
    assert (fewer - said).abs().max() > 1e-3


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("solver", ["singlestep", "multistep", "ddim"])
def test_a_network_that_knows_the_latents_is_decoded_to_their_image(prediction, solver, monkeypatch):
    """Whatever it is asked for, each solver ends near the latents it means; quantisation does the rest."""
    made = decoder(prediction=prediction, solver=solver)
    known = made.autoencoder.quantize(torch.randn(2, 3, 8, 8)).codes

    def oracle(z, t, context):
        a = made.alphas[t]
        e = (z - a.sqrt() * known) / (1 - a).sqrt()
        return {"epsilon": e, "sample": known, "v_prediction": a.sqrt() * e - (1 - a).sqrt() * known}[prediction]

    monkeypatch.setattr(made, "predict", oracle)
    image = made.sample(SLOTS, steps=5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(image, made.images(known), rtol=0, atol=1e-4)


def test_every_estimate_is_quantised_where_that_is_wanted(monkeypatch):
    for wanted in (True, False):
        made, calls = told(decoder(quantize_steps=wanted)), []
        quantize = made.autoencoder.quantize
        monkeypatch.setattr(made.autoencoder, "quantize", lambda z, q=quantize, c=calls: (c.append(1), q(z))[1])
        made.sample(SLOTS, steps=4)
        assert len(calls) == (5 if wanted else 1)  # the last one is the decoder's


def test_a_scale_of_the_latents_is_undone_before_they_become_an_image(monkeypatch):
    """What the U-Net sees is four times as large; codes and images are the same."""
    plain, scaled = decoder(), decoder(latent_scale=4.0)
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(scaled.latents(image), 4 * plain.latents(image))
    codes = plain.autoencoder.quantize(torch.randn(2, 3, 8, 8)).codes
    torch.testing.assert_close(scaled.images(4 * codes), plain.images(codes))
    monkeypatch.setattr(
        scaled,
        "predict",
        lambda z, t, context: (z - scaled.alphas[t].sqrt() * 4 * codes) / (1 - scaled.alphas[t]).sqrt(),
    )
    seen, quantize = [], scaled.autoencoder.quantize
    monkeypatch.setattr(scaled.autoencoder, "quantize", lambda z: (seen.append(z), quantize(z))[1])
    made = scaled.sample(SLOTS, steps=5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made, plain.images(codes), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[0], codes, rtol=0, atol=1e-4)  # the first estimate, as the codebook knows it


def test_keys_computed_once_change_no_image():
    made = told(decoder())
    images = [
        made.sample(SLOTS, steps=4, generator=torch.Generator().manual_seed(1), fixed=fixed) for fixed in (True, False)
    ]
    torch.testing.assert_close(*images, rtol=0, atol=1e-4)
    assert images[0].shape == (2, 3, 16, 16)


def test_the_seed_repeats_an_image_and_shared_noise_makes_equal_slots_equal():
    made = told(decoder())

    def sample(slots, seed, **options):
        return made.sample(slots, steps=3, generator=torch.Generator().manual_seed(seed), **options)

    assert torch.equal(sample(SLOTS, 1), sample(SLOTS, 1))
    assert not torch.equal(sample(SLOTS, 1), sample(SLOTS, 2))
    same = SLOTS[:1].expand(2, -1, -1)
    one, two = sample(same, 1, shared_noise=True)
    torch.testing.assert_close(one, two)
    one, two = sample(same, 1)
    assert not torch.equal(one, two)


def test_images_themselves_can_be_diffused():
    made = told(decoder(None))
    image = torch.rand(2, 3, 16, 16)
    latents = made.latents(image)
    torch.testing.assert_close(latents, 2 * image - 1)
    torch.testing.assert_close(made.images(latents), image)
    assert made.shape == (3, 16, 16)
    sampled = made.sample(SLOTS, steps=3)
    assert 0 <= sampled.min() <= sampled.max() <= 1


def test_the_autoencoder_is_saved_and_not_trained():
    made = decoder()
    made.loss(made.latents(torch.rand(2, 3, 16, 16)), SLOTS).backward()
    assert all(p.grad is None and not p.requires_grad for p in made.autoencoder.parameters())
    fresh = LatentDiffusionDecoder(6, 16, UNET, VQ)
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh.latents(torch.ones(1, 3, 16, 16)), made.latents(torch.ones(1, 3, 16, 16)))


def test_an_untrained_autoencoder_is_refused():
    fresh = LatentDiffusionDecoder(6, 16, UNET, VQ)
    with pytest.raises(UserError, match="has no trained weights; train one"):
        fresh.latents(torch.rand(1, 3, 16, 16))
    with pytest.raises(UserError, match=r"give its run folder as method\.autoencoder_run"):
        fresh.sample(SLOTS)


def test_steps_follow_the_number_of_timesteps():
    assert decoder().sample_steps == 20
    assert decoder(num_timesteps=2_000).sample_steps == 40
    assert decoder(num_timesteps=100).sample_steps == 20


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="image_size is 18; autoencoder and U-Net need a multiple of 4"):
        LatentDiffusionDecoder(6, 18, UNET, VQ)
    with pytest.raises(ValueError, match="must be a multiple of norm_groups 32 and of head_dim 32"):
        DenoiserConfig(dims=(48,))


def test_more_of_training_may_be_spent_on_noise(monkeypatch):
    """t / T = 1 - (1 - u) ** 4: half of the timesteps lie above 1 - 1 / 16, a quarter of them below 0.68."""
    asked = []
    made = told(decoder(time_power=4.0))
    monkeypatch.setattr(made, "predict", lambda z, t, context: asked.append(t) or torch.zeros_like(z))
    made.loss(torch.zeros(4_000, *made.shape), torch.zeros(4_000, 1, 8))
    share = torch.cat(asked).double() / len(made.alphas)
    assert share.median().item() == pytest.approx(1 - 1 / 16, abs=0.02)
    assert share.quantile(0.25).item() == pytest.approx(1 - 0.75**4, abs=0.03)
    with pytest.raises(ValueError, match=r"denoiser\.time_power is 0\.5; give 1"):
        decoder(time_power=0.5)


def test_the_unet_may_be_told_the_place():
    """Ten channels of coordinates behind the latents, the same for every image and not saved."""
    plain, made, seen = decoder(), decoder(coordinates=True), []
    assert plain.unet.conv_in.in_channels == 3
    assert made.unet.conv_in.in_channels == 13
    made.unet.conv_in.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    latents = torch.randn(2, *made.shape)
    made.predict(latents, torch.tensor([3, 900]), SLOTS)
    assert torch.equal(seen[0][:, :3], latents)
    column, row = seen[0][:, 4] / 3**0.5, seen[0][:, 3] / 3**0.5  # -1 to 1
    places = torch.linspace(-1, 1, made.shape[-1])
    torch.testing.assert_close(row, places[:, None].expand(2, *made.shape[1:]))
    torch.testing.assert_close(column, places.expand(2, *made.shape[1:]))
    assert not any("place" in name for name in made.state_dict())
