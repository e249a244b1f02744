"""Text-to-image diffusion of a few megabytes: caption -> CLIP text encoder -> U-Net on the latents of a VAE.

Latent diffusion (Rombach et al. 2022, arXiv 2112.10752) with the velocity as target (Salimans & Ho 2022), as Stable
Diffusion 2.1; every network is the class of `transformers` or `diffusers` that Stable Diffusion is made of. This trains
no slots: what it leaves behind is `pipeline/`, a folder that `slotworks synthesize --model`, StableLSD, GLASS and
`diffusers` itself read, where Stable Diffusion cannot be downloaded or a GPU is missing.

The VAE is trained first, for `vae_steps`, and then never again; text encoder and U-Net after it. Differences from
Stable Diffusion: everything is small; the text encoder is trained along, on captions of drawn scenes; the tokenizer has
a token for each of `words`; the loss of the VAE is the squared error (with absolute errors it ignores small objects for
thousands of steps), without a discriminator.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from slotworks.encoders.pretrained import save_pipeline
from slotworks.encoders.word_tokenizer import word_tokenizer
from slotworks.errors import needs_extra
from slotworks.nn.batch_norm import deviation_of_processes
from slotworks.nn.diffusion import add_noise, denoising_loss, speed_up_attention, target_of
from slotworks.nn.noise import batch_noise, batch_uniform
from slotworks.types import Batch, Method, MethodConfig


@dataclass(frozen=True)
class TinyDiffusionConfig(MethodConfig):
    """Hyperparameters of the three networks and of what they are trained on."""

    words: tuple[str, ...] = ()  # each is one token; other words are spelled letter by letter
    image_size: int = 64  # pixels, square
    vae_dims: tuple[int, ...] = (16, 32, 64)  # channels of the VAE's levels; each after the first halves the side
    latent_dim: int = 4  # channels of a latent
    vae_steps: int = 3_000  # updates of the VAE before the others start
    vae_batch: int = 8  # images of each process's part of a batch that the VAE is trained on
    unet_dims: tuple[int, ...] = (64, 128)  # channels of the U-Net's levels, all with attention
    head_dim: int = 32  # channels of a head of the U-Net's attention
    context_dim: int = 64  # width of a token
    text_layers: int = 2  # Transformer layers of the text encoder
    text_heads: int = 4  # attention heads of the text encoder
    max_tokens: int = 32  # of a prompt, with those of its beginning and end
    empty_share: float = 0.1  # share of the images that are shown without their caption, for guidance

    @property
    def finds_slots(self) -> bool:
        """No: methods build on it."""
        return False

    @property
    def skips_weights(self) -> bool:
        """Always: the VAE's are trained alone, and the others without it."""
        return True

    def build(self) -> "TinyDiffusion":
        """Make the method with fresh weights."""
        return TinyDiffusion(self)


class TinyDiffusion(Method):
    """VAE, text encoder and U-Net; batches have `image` and `caption`, UTF-8 bytes `b l` that end in zeros."""

    config: TinyDiffusionConfig
    vae: Any
    text_encoder: Any
    unet: Any
    latent_scale: Tensor
    alphas: Tensor

    def __init__(self, config: TinyDiffusionConfig):
        super().__init__()
        with needs_extra("diffusion"):
            from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
            from diffusers.schedulers.scheduling_ddim import DDIMScheduler
            from transformers import CLIPTextConfig, CLIPTextModel
        self.config, levels = config, len(config.unet_dims)
        heads: Any = tuple(dim // config.head_dim for dim in config.unet_dims)
        self.tokenizer = word_tokenizer(config.words, config.max_tokens)
        levels_of_vae: dict[str, Any] = {  # annotated in diffusers as tuples of one
            "down_block_types": ("DownEncoderBlock2D",) * len(config.vae_dims),
            "up_block_types": ("UpDecoderBlock2D",) * len(config.vae_dims),
            "block_out_channels": config.vae_dims,
        }
        self.vae = AutoencoderKL(
            **levels_of_vae,
            layers_per_block=1,
            latent_channels=config.latent_dim,
            norm_num_groups=8,
            sample_size=config.image_size,
        )
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=config.context_dim,
                intermediate_size=4 * config.context_dim,
                num_hidden_layers=config.text_layers,
                num_attention_heads=config.text_heads,
                max_position_embeddings=config.max_tokens,
                bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=config.image_size // 2 ** (len(config.vae_dims) - 1),
            in_channels=config.latent_dim,
            out_channels=config.latent_dim,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            block_out_channels=config.unet_dims,
            layers_per_block=1,
            cross_attention_dim=config.context_dim,
            attention_head_dim=heads,  # diffusers takes the number of heads here
            norm_num_groups=16,
            use_linear_projection=True,
        )
        speed_up_attention(self.unet)
        self.scheduler = DDIMScheduler(  # Stable Diffusion 2.1's
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type="v_prediction",
        )
        self.register_buffer("alphas", self.scheduler.alphas_cumprod.float(), persistent=False)
        self.register_buffer("latent_scale", torch.ones(()))  # one over the deviation of latents

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """First `recon`, squared error of the VAE in [-1, 1], and `kl`, mean over a latent's values; then `denoise`.

        `denoise` is the mean squared error of the velocity, at a random timestep for each image. What does not count
        in a step is 0.
        """
        image = 2 * batch["image"] - 1
        terms = dict.fromkeys(("recon", "kl", "denoise"), image.new_zeros(()))
        if step < self.config.vae_steps:
            image = image[: self.config.vae_batch]
            found = self.vae.encode(image).latent_dist
            drawn = found.mean + found.std * batch_noise(tuple(found.mean.shape), image.device, found.mean.dtype)
            recon = F.mse_loss(self.vae.decode(drawn).sample.float(), image)
            kl = 0.5 * (found.mean.square() + found.var - 1 - found.logvar).float().mean()
            return {**terms, "recon": recon, "kl": kl}
        with torch.no_grad():
            latents = self.vae.encode(image).latent_dist.mode().float()
            if step == self.config.vae_steps:
                self.latent_scale.copy_(1 / deviation_of_processes(latents))
            latents = latents * self.latent_scale
        context = self.text_encoder(self._tokens(batch)).last_hidden_state

        def noisy(latents: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
            alpha = self.alphas[timestep][:, None, None, None]
            return add_noise(latents, noise, alpha), target_of(latents, noise, alpha, "v_prediction")

        def predict(mixed: Tensor, timestep: Tensor) -> Tensor:
            return self.unet(mixed, timestep, context).sample

        return {**terms, "denoise": denoising_loss(latents, len(self.alphas), noisy, predict)}

    def export(self, folder: Path) -> None:
        """Write `pipeline/`, the folder that `diffusers` reads, in float16."""
        self.save_pipeline(folder / "pipeline")

    def save_pipeline(self, folder: Path | str) -> Path:
        """Write all parts as a Stable Diffusion pipeline in float16; returns the folder.

        Raises:
            UserError: if the disk refuses.
        """
        self.vae.register_to_config(scaling_factor=float(self.latent_scale))
        networks = {name: getattr(self, name) for name in ("vae", "unet", "text_encoder")}
        return save_pipeline(folder, networks, self.tokenizer, self.scheduler)

    def _tokens(self, batch: Batch) -> Int64[Tensor, "b l"]:
        """The tokens of each caption; those of the empty text for `empty_share` of them."""
        empty = (batch_uniform((len(batch["caption"]),)) < self.config.empty_share).tolist()
        rows = batch["caption"].cpu().numpy().astype("uint8")
        texts = ["" if e else bytes(row).rstrip(b"\0").decode() for row, e in zip(rows, empty, strict=True)]
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=self.config.max_tokens, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids.to(batch["caption"].device)
