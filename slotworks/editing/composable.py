"""Composable Diffusion: pictures of several prompts at once, the comparison with text for editing by slots.

Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", arXiv 2206.01714; the form for
Stable Diffusion follows the authors' `pipeline_composable_stable_diffusion.py`. At every step

    prediction = empty + sum over prompts of weight * (prompt - empty)

where each is what the U-Net predicts for the same latents, noise or velocity: the velocity is linear in them, so the
rule holds for both. A negative weight is NOT. The authors run the prompts one by one, here they are one batch.

The total guidance grows with the number of prompts, and a prompt given twice counts twice, as in the original. GLASS
compares with it (supplement, figure 9: class names joined by AND) without stating model, steps, weights or seed.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from slotworks.encoders.diffusion import LatentDiffusion
from slotworks.encoders.pretrained import load_part
from slotworks.errors import UserError, needs_extra


def read_composition(text: str, guidance: float = 7.5) -> tuple[list[str], list[float]]:
    """Prompts and weights of a sentence whose parts are joined by AND, AND NOT, or `|`.

    >>> read_composition("a cat AND a sink AND NOT a towel")
    (['a cat', 'a sink', 'a towel'], [7.5, 7.5, -7.5])

    Raises:
        UserError: if a part is empty.
    """
    parts = [part.strip() for part in re.split(r"\bAND\b|\|", text)]
    prompts = [re.sub(r"^NOT\b\s*", "", part) for part in parts]
    if not all(prompts):
        raise UserError(f"{text!r} has an empty part; write prompts joined by AND, such as 'a cat AND NOT a dog'.")
    return prompts, [guidance if prompt == part else -guidance for prompt, part in zip(prompts, parts, strict=True)]


@torch.no_grad()
def compose(
    diffusion: LatentDiffusion | str,
    prompts: Sequence[str],
    weights: Sequence[float] | None = None,
    *,
    steps: int = 50,
    guidance: float = 7.5,
    seeds: Sequence[int] = (0,),
    size: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "s 3 h w"]:
    """Pictures in [0, 1] in which all prompts hold, sampled with DDIM; one for each seed.

    With one prompt this is what `StableDiffusionPipeline` of diffusers makes with the same scheduler and noise.

    Args:
        diffusion: hub id or folder of a Stable Diffusion with one text encoder (1.x, 2.x), or one that is loaded.
        prompts: texts; those too long for the text encoder are cut off.
        weights: one for each prompt, negative for NOT; by default `guidance` for all. The authors' are 7.5 each, also
            with 1.x models; their README allows 2.x.
        steps: of the sampler.
        guidance: weight of each prompt where `weights` are not given.
        seeds: of the starting noise, drawn on the CPU and so equal on every device.
        size: height and width in pixels; by default what the U-Net was trained at.
        device: where to compute.

    Raises:
        UserError: if the model cannot be read, or has two text encoders (SDXL).
        ValueError: without prompts, with another number of weights, or with a size that does not fit the networks.
    """
    weights = [guidance] * len(prompts) if weights is None else list(weights)
    if not prompts or len(weights) != len(prompts):
        raise ValueError(
            f"There are {len(prompts)} prompts and {len(weights)} weights; give one weight for each prompt."
        )
    diffusion = LatentDiffusion(diffusion) if isinstance(diffusion, str) else diffusion
    parts = diffusion.parts(torch.empty(0, device=device))
    if parts.pooled is not None:
        raise UserError(f"{diffusion.model!r} has two text encoders (SDXL); give a Stable Diffusion 1.x or 2.x.")
    with needs_extra("diffusion"):
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    scheduler: Any = load_part(DDIMScheduler.from_pretrained, diffusion.model, "scheduler")
    scheduler.set_timesteps(steps, device=device)

    texts = torch.cat([parts.empty_prompt, embed_prompts(diffusion.model, prompts, device)])  # (1 + k) l c
    shape = _latent_shape(parts, size)
    noise = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    latents = torch.cat(noise).to(device) * scheduler.init_noise_sigma
    count, conditions = len(latents), len(texts)
    context = texts.repeat_interleave(count, dim=0)  # condition outermost
    scale = torch.tensor(weights, device=device)[:, None, None, None, None]
    for t in scheduler.timesteps:
        inputs = scheduler.scale_model_input(latents, t).repeat(conditions, 1, 1, 1)
        out = parts.unet(inputs, t, encoder_hidden_states=context).sample.unflatten(0, (conditions, count))
        out = out[0] + (scale * (out[1:] - out[0])).sum(0)
        latents = scheduler.step(out, t, latents).prev_sample
    return diffusion.decode(latents).clamp(0, 1)


@torch.no_grad()
def embed_prompts(model: str, prompts: Sequence[str], device: torch.device | str = "cpu") -> Float[Tensor, "k l c"]:
    """The last layer of the text encoder, texts padded and cut to its length, as the U-Net of SD 1.x and 2.x takes it.

    Raises:
        UserError: if the tokenizer or the text encoder cannot be read.
    """
    with needs_extra("diffusion"):
        from transformers import CLIPTextModel, CLIPTokenizer
    tokenizer = load_part(CLIPTokenizer.from_pretrained, model, "tokenizer")
    options = {"dtype": torch.float32, "use_safetensors": True}
    encoder = load_part(CLIPTextModel.from_pretrained, model, "text_encoder", **options).to(device)
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoder(tokens.input_ids.to(device)).last_hidden_state


def _latent_shape(parts: Any, size: tuple[int, int] | None) -> tuple[int, int, int]:
    stride = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    channels, side = parts.unet.config.in_channels, parts.unet.config.sample_size
    if size is None:
        height, width = (side, side) if isinstance(side, int) else side
        return channels, height, width
    multiple = stride * 2 ** (len(parts.unet.config.block_out_channels) - 1)
    if size[0] % multiple or size[1] % multiple:
        raise ValueError(f"size is {size[0]} x {size[1]} pixels; both must be multiples of {multiple}.")
    return channels, size[0] // stride, size[1] // stride
