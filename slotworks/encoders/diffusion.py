"""A latent diffusion model from `diffusers`, frozen: Stable Diffusion 1.x, 2.x, SDXL and its distilled versions.

Any folder in the `diffusers` format will do: `vae`, `unet`, `scheduler`, `tokenizer`, `text_encoder`, and for SDXL also
`tokenizer_2`, `text_encoder_2`. It needs the extra `diffusion`. Everything is computed in float32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.blank import blank_diffusion, wanted
from slotworks.encoders.pretrained import load_part
from slotworks.errors import needs_extra
from slotworks.nn.resize import resize
from slotworks.types import Batch, UserError


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
        return self.outputs(latents, timestep, [module])[0]

    def outputs(self, latents: Float[Tensor, "b l y x"], timestep: int, modules: Sequence[nn.Module]) -> list[Tensor]:
        """What modules inside the U-Net return, in the order of `modules`; the U-Net is run no further than needed."""
        caught: dict[nn.Module, Tensor] = {}

        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            caught[module] = output
            if len(caught) == len(modules):
                raise _Found

        handles = [module.register_forward_hook(keep) for module in modules]
        try:
            with torch.no_grad():
                self.parts(latents).unet(latents, timestep, **self._condition(latents))
        except _Found:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return [caught[module] for module in modules]

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


@dataclass(frozen=True)
class DiffusionFeaturesConfig:
    """Which features of a latent diffusion model. Nothing is loaded or imported by this."""

    model: str = "runwayml/stable-diffusion-v1-5"  # hub id, folder in the format of diffusers, or package:NAME
    image_size: int = 512  # pixels, square; images of another size are resized to it
    attentions: tuple[int, ...] = (
        0,
        6,
        7,
        8,
        9,
        10,
        11,
        12,
        15,
    )  # self-attentions, counted from 0 as the U-Net runs them
    timestep: int = 200  # noise level of the latents, 0 to 999
    noise_seed: int = 43  # of the one noise that all images get
    feature_side: int = 32  # height and width of the map of features
    feature_dim: int = 7680  # width of a feature: that of all of them together

    def __post_init__(self) -> None:
        if not self.attentions or min(self.attentions) < 0:
            raise ValueError(f"attentions is {self.attentions}; give at least one number of a self-attention, from 0.")


class DiffusionEncoder(LatentDiffusion):
    """Keys of self-attentions of a diffusion U-Net as features of an image: one pass at a noise level, empty prompt.

    The keys of each layer get length 1, so that no layer outweighs another, are brought to one size and joined. Used
    like a `ViTEncoder`.
    """

    def __init__(self, config: DiffusionFeaturesConfig):
        super().__init__(config.model)
        self.config = config

    def features_of(self, batch: Batch) -> Float[Tensor, "b p c"]:
        """Features of a batch's images, row major, `feature_side` squared of them.

        Raises:
            UserError: the U-Net has fewer layers, or they are of another width together.
        """
        config = self.config
        latents = self.encode(resize(batch["image"], config.image_size))
        # Drawn on the CPU: the same noise on every device.
        noise = torch.randn(1, *latents.shape[1:], generator=torch.Generator().manual_seed(config.noise_seed))
        noisy = self.add_noise(latents, noise.to(latents).expand_as(latents), config.timestep)
        layers = self_attentions(self.parts(latents).unet)
        if max(config.attentions) >= len(layers):
            raise UserError(
                f"attentions names {max(config.attentions)}, but the U-Net of {config.model} has {len(layers)} "
                "self-attentions, counted from 0."
            )
        maps = []
        for keys in self.outputs(noisy, config.timestep, [layers[k].to_k for k in config.attentions]):
            side = math.isqrt(keys.shape[1])
            found = F.normalize(keys, dim=2).mT.unflatten(2, (side, side))
            size = (config.feature_side, config.feature_side)
            maps.append(F.interpolate(found, size, mode="bilinear", antialias=True))
        features = torch.cat(maps, 1).flatten(2).mT
        if features.shape[2] != config.feature_dim:
            raise UserError(
                f"feature_dim is {config.feature_dim}, but the attentions {config.attentions} of {config.model} are "
                f"{features.shape[2]} wide together; set it to that."
            )
        return features


def self_attentions(unet: Any) -> list[Any]:
    """The self-attentions of a `UNet2DConditionModel` in the order in which it runs them: down, middle, up."""
    parts = [*unet.down_blocks, *([unet.mid_block] if unet.mid_block is not None else []), *unet.up_blocks]
    return [module for part in parts for name, module in part.named_modules() if name.endswith(".attn1")]


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
