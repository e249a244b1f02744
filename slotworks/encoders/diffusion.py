"""A latent diffusion model from `diffusers`, frozen: Stable Diffusion 1.x, 2.x, SDXL and its distilled versions.

Any folder in the `diffusers` format will do: `vae`, `unet`, `scheduler`, `tokenizer`, `text_encoder`, and for SDXL also
`tokenizer_2`, `text_encoder_2`. It needs the extra `diffusion`. Everything is computed in float32.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.blank import blank_diffusion, wanted
from slotworks.encoders.pretrained import load_part
from slotworks.errors import needs_extra
from slotworks.types import UserError


class _Found(Exception):
    """A hook has what it waited for; the rest of the network need not run."""


@dataclass(frozen=True)
class DiffusionParts:
    """What was loaded, on one device."""

    vae: Any  # AutoencoderKL
    unet: Any  # UNet2DConditionModel
    alphas: Tensor  # cumulative products of alpha, one per timestep, float32
    prediction: str  # epsilon or v_prediction
    empty_prompt: Tensor  # 1 l c, the text "" padded to the length of the text encoder
    pooled: Tensor | None  # 1 d for SDXL
    scheduler: Any  # DDIMScheduler, for its settings


class LatentDiffusion(nn.Module):
    """A frozen latent diffusion model, loaded when it is first used; it follows the images to their device.

    Its weights are no parameters of the method and are not saved.

    Args:
        model: hub id or folder.
    """

    def __init__(self, model: str):
        super().__init__()
        self.model = model
        self._parts: tuple[DiffusionParts] | None = None  # in a tuple, it is no submodule

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": None}

    def parts(self, like: Tensor) -> DiffusionParts:
        """The networks, on the device of `like`.

        Raises:
            UserError: a part cannot be found or read, or the U-Net predicts neither noise nor velocity.
        """
        if self._parts is None or self._parts[0].alphas.device != like.device:
            self._parts = (load_diffusion(self.model, like.device),)
        return self._parts[0]

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l y x"]:
        """Images in [0, 1] to the mean of the latents, scaled as the U-Net wants them.

        Raises:
            ValueError: if height or width do not fit the strides of both networks.
        """
        parts = self.parts(image)
        stride = 2 ** (len(parts.vae.config.block_out_channels) + len(parts.unet.config.block_out_channels) - 2)
        height, width = image.shape[-2:]
        if height % stride or width % stride:
            raise ValueError(
                f"The image has {height}x{width} pixels, but {self.model} needs multiples of {stride}; resize it."
            )
        with torch.no_grad():
            return parts.vae.encode(2 * image - 1).latent_dist.mode() * parts.vae.config.scaling_factor

    def decode(self, latents: Float[Tensor, "b l y x"]) -> Float[Tensor, "b 3 h w"]:
        """Latents to images in about [0, 1]."""
        parts = self.parts(latents)
        with torch.no_grad():
            return (parts.vae.decode(latents / parts.vae.config.scaling_factor).sample + 1) / 2

    def add_noise(
        self, latents: Float[Tensor, "b l y x"], noise: Float[Tensor, "b l y x"], timestep: int
    ) -> Float[Tensor, "b l y x"]:
        """Latents as they are at a timestep, from 0 (almost clean)."""
        alpha = self.parts(latents).alphas[timestep]
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def predict_noise(self, latents: Float[Tensor, "b l y x"], timestep: int) -> Float[Tensor, "b l y x"]:
        """The noise in latents, with the empty prompt. A velocity is turned into the noise it implies."""
        parts = self.parts(latents)
        with torch.no_grad():
            out = parts.unet(latents, timestep, **self._condition(latents)).sample
        if parts.prediction == "v_prediction":
            alpha = parts.alphas[timestep]
            out = alpha.sqrt() * out + (1 - alpha).sqrt() * latents
        return out

    def features(self, latents: Float[Tensor, "b l y x"], timestep: int, module: nn.Module) -> Float[Tensor, "b p c"]:
        """What one module inside the U-Net returns; the U-Net is run no further."""
        caught: list[Tensor] = []

        def stop(module: nn.Module, args: Any, output: Tensor) -> None:
            caught.append(output)
            raise _Found

        handle = module.register_forward_hook(stop)
        try:
            with torch.no_grad():
                self.parts(latents).unet(latents, timestep, **self._condition(latents))
        except _Found:
            pass
        finally:
            handle.remove()
        return caught[0]

    def _condition(self, latents: Tensor) -> dict[str, Any]:
        parts, batch = self.parts(latents), len(latents)
        condition: dict[str, Any] = {"encoder_hidden_states": parts.empty_prompt.expand(batch, -1, -1)}
        if parts.pooled is not None:
            stride = 2 ** (len(parts.vae.config.block_out_channels) - 1)
            size = [stride * side for side in latents.shape[-2:]]
            ids = latents.new_tensor([*size, 0, 0, *size])  # original size, crop, target size
            condition["added_cond_kwargs"] = {
                "text_embeds": parts.pooled.expand(batch, -1),
                "time_ids": ids.expand(batch, -1),
            }
        return condition


def load_diffusion(model: str, device: torch.device | str = "cpu") -> DiffusionParts:
    """Read a latent diffusion model from a hub id or a folder; frozen, float32. The text encoders are let go again.

    Raises:
        UserError: a part cannot be found or read, or the U-Net predicts neither noise nor velocity.
    """
    with needs_extra("diffusion"):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    if wanted(model):
        vae, unet, scheduler = blank_diffusion(model)
    else:
        options = {"torch_dtype": torch.float32, "use_safetensors": True}
        unet = load_part(UNet2DConditionModel.from_pretrained, model, "unet", **options).to(device)
        vae = load_part(AutoencoderKL.from_pretrained, model, "vae", **options).to(device)
        scheduler = load_part(DDIMScheduler.from_pretrained, model, "scheduler")
    prediction = scheduler.config.prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(f"{model!r} predicts {prediction!r}; only epsilon and v_prediction are understood here.")
    double = unet.config.addition_embed_type == "text_time"  # SDXL
    if wanted(model):
        prompt, pooled = torch.zeros(1, 77, unet.config.cross_attention_dim, device=device), None
    else:
        prompt, pooled = _empty_prompt(model, device, double=double)
    return DiffusionParts(vae, unet, scheduler.alphas_cumprod.float().to(device), prediction, prompt, pooled, scheduler)


def _empty_prompt(model: str, device: torch.device | str, *, double: bool) -> tuple[Tensor, Tensor | None]:
    """The text "": last layer of the text encoder; of both the layers before the last, and the pooled text (SDXL)."""
    with needs_extra("diffusion"):
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    found, pooled = [], None
    for number, encoder_class in enumerate((CLIPTextModel, CLIPTextModelWithProjection)[: 2 if double else 1]):
        suffix = "_2" if number else ""
        tokenizer = load_part(CLIPTokenizer.from_pretrained, model, f"tokenizer{suffix}")
        options = {"dtype": torch.float32, "use_safetensors": True}
        encoder = load_part(encoder_class.from_pretrained, model, f"text_encoder{suffix}", **options).to(device)
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        ids = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            out = encoder(ids.to(device), output_hidden_states=True)
        found.append(out.hidden_states[-2] if double else out.last_hidden_state)
        pooled = getattr(out, "text_embeds", None) if double else None
    return torch.cat(found, 2), pooled
