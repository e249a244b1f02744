"""Stable Diffusion: prompts to images, each from a seed of its own, with any scheduler of the checkpoint."""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from slotworks.encoders.pretrained import load_part
from slotworks.errors import needs_extra
from slotworks.machine import Precision
from slotworks.training.numerics import DTYPES, fast_precision
from slotworks.types import UserError


@dataclass(frozen=True)
class StableDiffusion:
    """The parts of a text-to-image model, frozen, on one device. The VAE is float32, for which it is fast enough."""

    vae: Any
    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    device: torch.device

    @property
    def stride(self) -> int:
        """Pixels per latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Float[Tensor, "b s c"]:
        """Texts as the U-Net's context, padded to the length of the text encoder; a longer one is cut at its end."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        mask = getattr(self.text_encoder.config, "use_attention_mask", False)  # as the pipeline of diffusers does
        attention = {"attention_mask": tokens.attention_mask.to(self.device)} if mask else {}
        return self.text_encoder(tokens.input_ids.to(self.device), **attention)[0]

    @torch.no_grad()
    def generate(
        self,
        context: Float[Tensor, "b s c"],
        negative: Float[Tensor, "b s c"] | Float[Tensor, "1 s c"] | None,
        *,
        seeds: Sequence[int],
        image_size: int,
        steps: int,
        cfg_scale: float,
        inside: AbstractContextManager[Any] | None = None,
    ) -> UInt8[Tensor, "b h w 3"]:
        """Images on the CPU. Noise is drawn on the CPU, from one generator for each image.

        The same as `StableDiffusionPipeline` of diffusers for the same start and scheduler.

        Args:
            context: embedded prompts.
            negative: embedded negative prompts, for classifier-free guidance; not used with `cfg_scale` 1.
            seeds: one for each image.
            image_size: pixels, square; a multiple of the strides of both networks.
            steps: of the scheduler, which may call the U-Net once more often.
            cfg_scale: guidance; 1 is none.
            inside: a context that is open while the U-Net is called, such as `AttentionCapture`.

        Raises:
            UserError: the image size does not fit the networks.
        """
        self._check_size(image_size)
        batch, side = len(context), image_size // self.stride
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = (self.unet.config.in_channels, side, side)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        guided = cfg_scale != 1 and negative is not None
        if guided:
            assert negative is not None
            context = torch.cat([negative.expand(batch, -1, -1), context])
        # A scheduler remembers earlier steps: a fresh one for every batch.
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=self.device)
        latents = (noise * scheduler.init_noise_sigma).to(self.device)
        known = inspect.signature(scheduler.step).parameters
        options: dict[str, Any] = {"generator": generators} if "generator" in known else {}
        if "eta" in known:
            options["eta"] = 0.0
        with inside or nullcontext():
            for t in scheduler.timesteps:
                given = torch.cat([latents] * 2) if guided else latents
                given = scheduler.scale_model_input(given, t).to(context.dtype)
                predicted = self.unet(given, t, encoder_hidden_states=context, return_dict=False)[0].float()
                if guided:
                    without, with_text = predicted.chunk(2)
                    predicted = without + cfg_scale * (with_text - without)
                latents = scheduler.step(predicted, t, latents, **options, return_dict=False)[0]
        image = self.vae.decode(latents.float() / self.vae.config.scaling_factor, return_dict=False)[0]
        return (255 * (image / 2 + 0.5).clamp(0, 1)).round().to(torch.uint8).movedim(1, -1).cpu()

    def _check_size(self, image_size: int) -> None:
        multiple = self.stride * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if image_size % multiple:
            raise UserError(
                f"image_size is {image_size}; this model makes images of a multiple of {multiple} pixels, such as "
                f"{max(1, round(image_size / multiple)) * multiple}."
            )


def load_stable_diffusion(
    model: str, device: torch.device | str = "cpu", *, precision: Precision = "32"
) -> StableDiffusion:
    """Read a Stable Diffusion 1.x or 2.x in the format of diffusers from a hub id, a folder or `package:NAME`.

    Raises:
        UserError: a part cannot be found or read, or the model needs more than text (SDXL).
    """
    with needs_extra("diffusion"):
        import diffusers
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_utils import SchedulerMixin
        from transformers import CLIPTextModel, CLIPTokenizer
    place = torch.device(device)
    dtype = DTYPES[fast_precision(precision, place)]
    options = {"use_safetensors": True}
    unet = load_part(UNet2DConditionModel.from_pretrained, model, "unet", torch_dtype=dtype, **options)
    if unet.config.addition_embed_type is not None:
        raise UserError(f"{model!r} is an SDXL or needs more than text; choose a Stable Diffusion 1.x or 2.x.")
    vae = load_part(AutoencoderKL.from_pretrained, model, "vae", torch_dtype=torch.float32, **options)
    text = load_part(CLIPTextModel.from_pretrained, model, "text_encoder", dtype=dtype, **options)
    tokenizer = load_part(CLIPTokenizer.from_pretrained, model, "tokenizer")
    tokenizer.model_max_length = min(tokenizer.model_max_length, text.config.max_position_embeddings)
    settings = load_part(DDIMScheduler.load_config, model, "scheduler")
    kind = getattr(diffusers, str(settings.get("_class_name")), None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise UserError(
            f"The scheduler of {model!r} is {settings.get('_class_name')!r}, which diffusers does not have."
        )
    parts = (part.to(place) for part in (vae, unet, text))
    return StableDiffusion(*parts, tokenizer, kind.from_config(settings), place)  # type: ignore[attr-defined]
