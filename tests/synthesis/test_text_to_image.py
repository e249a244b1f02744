from dataclasses import replace

import diffusers
import pytest
import torch

from slotworks.synthesis.capture import AttentionCapture
from slotworks.synthesis.stable_diffusion import load_stable_diffusion
from slotworks.types import UserError

HOW = {"image_size": 64, "steps": 3, "cfg_scale": 4.0, "seeds": [5, 6]}


def with_scheduler(diffusion, kind, **options):
    if kind == "PNDMScheduler":
        options["skip_prk_steps"] = True  # as in the checkpoints of Stable Diffusion
    return replace(diffusion, scheduler=getattr(diffusers, kind).from_config(diffusion.scheduler.config, **options))


@pytest.fixture(scope="module")
def context(diffusion):
    return diffusion.embed(["a cat", "two dogs on a car"])


@pytest.fixture(scope="module")
def negative(diffusion):
    return diffusion.embed(["ugly"])


def pipeline(parts, context, negative, **changes):
    """Images of `StableDiffusionPipeline` from the same starting noise."""
    how = {**HOW, **changes}
    pipe = diffusers.StableDiffusionPipeline(
        vae=parts.vae,
        unet=parts.unet,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        scheduler=type(parts.scheduler).from_config(parts.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt_embeds=context,
        negative_prompt_embeds=negative.expand_as(context),
        height=how["image_size"],
        width=how["image_size"],
        num_inference_steps=how["steps"],
        guidance_scale=how["cfg_scale"],
        generator=[torch.Generator().manual_seed(seed) for seed in how["seeds"]],
        output_type="pt",
    ).images


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler", "EulerAncestralDiscreteScheduler"])
def test_images_are_those_of_the_pipeline(diffusion, context, negative, kind, prediction):
    parts = with_scheduler(diffusion, kind, prediction_type=prediction)
    images = parts.generate(context, negative, **HOW)
    wanted = pipeline(parts, context, negative).mul(255).movedim(1, -1)
    assert (images.float() - wanted).abs().max() < 0.51  # rounding to whole numbers
    assert images.float().std() > 5


def test_without_guidance_the_negative_prompt_counts_for_nothing(diffusion, context, negative):
    how = HOW | {"cfg_scale": 1.0}
    images = diffusion.generate(context, negative, **how)
    assert torch.equal(images, diffusion.generate(context, None, **how))
    wanted = pipeline(diffusion, context, negative, cfg_scale=1.0).mul(255).movedim(1, -1)
    assert (images.float() - wanted).abs().max() < 0.51


def test_every_call_of_a_scheduler_is_captured(diffusion, context, negative):
    for kind, calls in (("DDIMScheduler", 3), ("PNDMScheduler", 4)):
        parts = with_scheduler(diffusion, kind)
        maps = AttentionCapture(parts.unet, context, cross_sizes=(8,), self_size=8)
        captured = parts.generate(context, negative, **HOW, inside=maps)
        assert maps.calls == calls
        assert torch.equal(captured, parts.generate(context, negative, **HOW))
        torch.testing.assert_close(maps.self_.sum(2), torch.ones(2, 64), rtol=0, atol=1e-5)


def test_an_image_follows_from_its_seed_and_not_from_its_neighbours(diffusion, context, negative):
    both = diffusion.generate(context, negative, **HOW).int()
    alone = diffusion.generate(context[1:], negative, **HOW | {"seeds": [6]}).int()
    assert (both[1:] - alone).abs().max() <= 1
    assert torch.equal(both, diffusion.generate(context, negative, **HOW).int())
    assert (both - diffusion.generate(context, negative, **HOW | {"seeds": [5, 7]}).int())[1].abs().max() > 5


def test_mistakes_get_a_sentence(diffusion, context, negative, tmp_path):
    with pytest.raises(UserError, match=r"image_size is 72; .* multiple of 32 pixels, such as 64\."):
        diffusion.generate(context, negative, **HOW | {"image_size": 72})
    with pytest.raises(UserError, match="There is no folder"):
        load_stable_diffusion("./nowhere")
    with pytest.raises(UserError, match="part unet"):
        load_stable_diffusion(str(tmp_path))
