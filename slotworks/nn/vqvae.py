"""The VQ-VAE of latent diffusion: `diffusers`' `VQModel` in the released code's measures, and what training needs.

    image --encoder, 1x1--> latents --nearest code--> codes --1x1, decoder--> image
    b 3 h w                 b l y x                   b l y x                  b 3 h w

van den Oord et al. 2017 with the networks of Rombach et al. 2022. The defaults are SlotDiffusion's: three levels, so a
quarter of the side, 3 channels, 4096 codes, attention in the middle of encoder and decoder only; 13,857,886 parameters.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slotworks.errors import needs_extra
from slotworks.nn.precision import without_autocast


@dataclass(frozen=True)
class VQConfig:
    """The networks of a VQ-VAE. Nothing is loaded or imported by this."""

    dims: tuple[int, ...] = (64, 128, 256)  # channels of the levels; each after the first halves the side
    layers: int = 2  # residual blocks of a level; one more in the decoder
    latent_dim: int = 3  # channels of a latent, and width of a code
    num_codes: int = 4096  # words of the codebook
    norm_groups: int = 32  # of every GroupNorm
    attention: bool = True  # one self-attention in the middle of encoder and decoder
    code_range: float | None = None  # codes start uniform in +- this; None: one over their number

    @property
    def stride(self) -> int:
        """Pixels for each latent, along a side."""
        return 2 ** (len(self.dims) - 1)


@dataclass(frozen=True)
class Quantized:
    """What quantisation gives: codes whose gradient is that of the latents, its two errors, and which codes."""

    codes: Float[Tensor, "b l y x"]
    commit: Float[Tensor, ""]  # moves latents towards their codes
    codebook: Float[Tensor, ""]  # moves codes towards their latents
    index: Int64[Tensor, "b y x"]


class VQAutoencoder(nn.Module):
    """Images in [0, 1] to latents and back; `net` is a `VQModel` of `diffusers`."""

    def __init__(self, config: VQConfig):
        super().__init__()
        with needs_extra("diffusion"):
            from diffusers.models.autoencoders.vq_model import VQModel
        self.config, levels = config, len(config.dims)
        self.net: Any = VQModel(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.dims,
            layers_per_block=config.layers,
            latent_channels=config.latent_dim,
            num_vq_embeddings=config.num_codes,
            norm_num_groups=config.norm_groups,
            mid_block_add_attention=config.attention,
            scaling_factor=1.0,
        )
        if config.code_range is not None:
            nn.init.uniform_(self.net.quantize.embedding.weight, -config.code_range, config.code_range)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b l y x"]:
        """Latents before quantisation, which are what SlotDiffusion's diffusion model sees."""
        return self.net.encode(2 * image - 1).latents

    def quantize(self, latents: Float[Tensor, "b l y x"]) -> Quantized:
        """The nearest code of every latent, by Euclidean distance, in float32."""
        book = self.net.quantize.embedding.weight
        with without_autocast(latents.device):
            latents = latents.to(book.dtype)
            flat = latents.movedim(1, -1)  # b y x l
            index = torch.cdist(flat.flatten(0, 2), book).argmin(dim=1).view(flat.shape[:3])
            codes = book[index].movedim(-1, 1)
            commit = (codes.detach() - latents).square().mean()
            codebook = (codes - latents.detach()).square().mean()
            return Quantized(latents + (codes - latents).detach(), commit, codebook, index)

    def decode(self, latents: Float[Tensor, "b l y x"], *, quantize: bool = True) -> Float[Tensor, "b 3 h w"]:
        """Images in about [0, 1] from latents, quantised first, or from codes."""
        codes = self.quantize(latents).codes if quantize else latents
        return self.net.decode(codes, force_not_quantize=True).sample / 2 + 0.5
