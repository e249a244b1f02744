"""The small text-to-image model, and the one that comes with the package."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from slotworks.methods import TinyDiffusionConfig
from slotworks.nn.noise import batch_noise, batch_uniform, shared_noise
from slotworks.synthesis.stable_diffusion import load_stable_diffusion

SMALL = TinyDiffusionConfig(
    words=("red", "circle", "on", "grey"),
    image_size=16,
    vae_dims=(8, 16),
    vae_steps=3,
    vae_batch=2,
    unet_dims=(16, 32),
    head_dim=8,
    context_dim=8,
    text_layers=1,
    text_heads=2,
    max_tokens=8,
)


def build(**changed):
    torch.manual_seed(0)
    return replace(SMALL, **changed).build()


def batch(count=4, text=b"red circle on grey"):
    torch.manual_seed(1)
    caption = torch.frombuffer(bytearray(text), dtype=torch.uint8).expand(count, -1)
    return {"image": torch.rand(count, 3, 16, 16), "caption": caption}


def with_gradient(method, step):
    """Parts that a step trains."""
    method.zero_grad()
    torch.stack(list(method.loss(batch(), step).values())).sum().backward()
    return {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}


def test_the_vae_first_then_the_others():
    method = build()
    assert with_gradient(method, 0) == {"vae"}
    assert with_gradient(method, 2) == {"vae"}
    assert with_gradient(method, 3) == {"unet", "text_encoder"}
    assert with_gradient(method, 100) == {"unet", "text_encoder"}


class Exact(nn.Module):
    """A VAE whose latents are four fixed numbers per image: mean and deviation known, decoded as zeros."""

    def encode(self, image):
        mean = torch.arange(1.0, 5.0).view(1, 4, 1, 1).expand(len(image), 4, 8, 8)
        std = torch.full_like(mean, 0.5)
        found = SimpleNamespace(mean=mean, std=std, var=std**2, logvar=2 * std.log(), mode=lambda: mean)
        return SimpleNamespace(latent_dist=found)

    def decode(self, latents):
        return SimpleNamespace(sample=torch.zeros(len(latents), 3, 16, 16))


def test_the_losses_of_the_vae_in_closed_form():
    method = build()
    method.vae = Exact()
    data = batch()
    terms = method.loss(data, 0)
    torch.testing.assert_close(terms["recon"], (2 * data["image"][:2] - 1).square().mean())  # of `vae_batch` images
    # Kullback-Leibler of N(m, s^2) from N(0, 1): (m^2 + s^2 - 1 - log s^2) / 2, here mean of m^2 is 30 / 4.
    expected = 0.5 * (30 / 4 + 0.25 - 1 - torch.tensor(0.25).log())
    torch.testing.assert_close(terms["kl"], expected)


def test_the_target_is_the_velocity():
    """From the mixed latents and the velocity follow the latents: z = sqrt(a) z_t - sqrt(1 - a) v."""
    method = build()
    method.vae, seen = Exact(), {}

    class Silent(nn.Module):
        def forward(self, mixed, timestep, context):
            seen.update(mixed=mixed, timestep=timestep)
            return SimpleNamespace(sample=torch.zeros_like(mixed))

    method.unet = Silent()
    with shared_noise(3, part=0, parts=1):
        loss = method.loss(batch(), 3)["denoise"]
    with shared_noise(3, part=0, parts=1):
        batch_uniform((4,))  # which captions are left out
        noise = batch_noise((4, 4, 8, 8))
    scale = 1 / torch.arange(1.0, 5.0).view(1, 4, 1, 1).expand(4, 4, 8, 8).std()
    torch.testing.assert_close(method.latent_scale, scale)
    latents = scale * torch.arange(1.0, 5.0).view(1, 4, 1, 1)
    alpha = method.alphas[seen["timestep"]].view(-1, 1, 1, 1)
    velocity = (alpha.sqrt() * seen["mixed"] - latents) / (1 - alpha).sqrt()
    torch.testing.assert_close(velocity, alpha.sqrt() * noise - (1 - alpha).sqrt() * latents, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(loss, (alpha.sqrt() * noise - (1 - alpha).sqrt() * latents).square().mean())


@pytest.mark.parametrize(("share", "same"), [(1.0, True), (0.0, False)])
def test_captions_left_out(share, same):
    """Where all captions are left out, what they say changes nothing."""
    method = build(empty_share=share).eval()
    losses = []
    for text in (b"red circle on grey", b"grey circle on red"):
        with shared_noise(0, part=0, parts=1):
            losses.append(method.loss(batch(text=text), 100)["denoise"])
    assert torch.equal(*losses) is same


def test_captions_end_in_zeros():
    method = build(empty_share=0.0)
    ids = method._tokens(batch(text=b"red circle\0\0\0\0"))[0].tolist()
    red, circle = method.tokenizer.convert_tokens_to_ids(["red</w>", "circle</w>"])
    end = method.tokenizer.eos_token_id
    assert ids == [method.tokenizer.bos_token_id, red, circle, *[end] * 5]


def test_exported_as_a_pipeline(tmp_path):
    from diffusers import StableDiffusionPipeline

    method = build()
    method.latent_scale.fill_(0.25)
    method.export(tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", torch_dtype=torch.float32)
    assert pipeline.vae.config.scaling_factor == 0.25
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    for name in ("vae", "unet", "text_encoder"):
        for file in (tmp_path / "pipeline" / name).glob("*.safetensors"):
            assert {value.dtype for value in load_file(file).values()} == {torch.float16}
        own, read = getattr(method, name).state_dict(), getattr(pipeline, name).state_dict()
        assert own.keys() == read.keys()
        for key, value in own.items():
            torch.testing.assert_close(read[key].half(), value.half(), msg=f"{name}.{key}")
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
    theirs = pipeline("red circle", generator=torch.Generator().manual_seed(0), **options).images[0]
    assert theirs.shape == (16, 16, 3)
    ours = load_stable_diffusion(str(tmp_path / "pipeline"), "cpu")
    tokens = ours.embed(["red circle"])
    torch.testing.assert_close(
        tokens, pipeline.encode_prompt("red circle", "cpu", 1, do_classifier_free_guidance=False)[0]
    )
