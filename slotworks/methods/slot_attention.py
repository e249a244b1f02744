"""Slot Attention for object discovery: image -> CNN -> slots -> spatial broadcast decoder -> image.

Locatello et al. 2020, "Object-Centric Learning with Slot Attention", arXiv 2006.15055; hyperparameters from the
supplement, section 5. The defaults are the model for Tetrominoes and multi-dSprites (tables 4 and 6);
`configs/slot_attention.py` has CLEVR6 (tables 3 and 5). Differences from the paper: none with the defaults.
The original's LayerNorms are Keras', with an epsilon of 1e-3: `norm_eps`, which the recipes of the paper set.
`encoder_strides` and `decoder_shuffle` make the reduced-cost variant that the `_mini` recipes use; `mask_posterior` has
them ask the image which slot a pixel belongs to.

`parts="slot_diffusion"` is the Slot Attention of SlotDiffusion's tables (Wu et al. 2023, appendix D.3; released code,
`img_based/models/slot_attention.py`): a ResNet-18 before the slots, a decoder that ends in 1x1 kernels, torch's initial
weights and padding, learned slots from N(0, 1).

`parts="oclf"` is the Slot Attention that DINOSAUR is compared with on photographs (Seitzer et al. 2023; OCLF,
`configs/experiment/projects/bridging/slot_attention`): SAVi's ResNet-34 and decoder, colours through tanh.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.decoders import SpatialBroadcastDecoder
from slotworks.decoders.spatial_broadcast import posterior_masks
from slotworks.encoders import CNNEncoder, ViTConfig
from slotworks.encoders.savi import PositionedEncoder
from slotworks.nn.init import torch_
from slotworks.slots import INITIALIZERS, LearnedInit, SlotAttentionOptions
from slotworks.types import Batch, DecoderOutput, Method, SlotOutput, refuse_ignored


@dataclass(frozen=True)
class SlotAttentionConfig(SlotAttentionOptions):
    """Hyperparameters of the autoencoder."""

    image_size: tuple[int, int] = (35, 35)  # height and width in pixels
    num_slots: int = 4  # K: objects and background
    slot_dim: int = 64  # D
    num_iterations: int = 3  # T in training
    test_iterations: int | None = None  # T outside of training; None: as in training
    mlp_dim: int | None = 128  # hidden width of the residual MLP inside Slot Attention; None: no MLP
    parts: Literal["slot_attention", "slot_diffusion", "oclf"] = "slot_attention"  # whose; the others: see above
    encoder: ViTConfig | None = None  # a vision transformer in the place of the CNN or ResNet (not in the papers)
    channels: int = 32  # of encoder and decoder; with others' parts of the decoder, the ResNet has its own
    encoder_strides: tuple[int, ...] = (1, 1, 1, 1)  # one convolution each; not of the ResNet
    encoder_kernel_size: int | tuple[int, ...] = 5  # of all of them, or of each; not of the ResNet
    position_embedding: bool = True  # added to the encoder's features; the ResNet always has one
    decoder_strides: tuple[int, ...] = (1, 1, 1)  # one layer each; 2 doubles the size
    decoder_kernel_size: int | tuple[int, ...] = 5  # of all its layers but the last, or of each
    decoder_shuffle: int = 1  # the last layer renders this many pixels squared at each position
    decoder_mask_shuffle: int = 1  # and this many mask values squared, interpolated to the pixels
    decoder_mask_pool: int = 1  # mask values averaged over this many positions squared before that
    initializer: Literal["gaussian", "per_slot", "learned"] = "gaussian"  # where slots start from
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only
    init_noise_steps: int = 0  # training steps over which the noise on learned slots falls from 1 to 0 (BO-QSA: 30k)
    mask_posterior: float | None = None  # spread of a slot's colours in [0, 1] by which masks ask the image; None: not
    position_gain: float = 1.0  # factor on the initial weights of both position embeddings (not in the paper)

    def build(self) -> "SlotAttentionAutoencoder":
        """Make the method with fresh weights."""
        return SlotAttentionAutoencoder(self)


class SlotAttentionAutoencoder(Method):
    """Slot Attention trained to render its input."""

    config: SlotAttentionConfig

    def __init__(self, config: SlotAttentionConfig):
        super().__init__()
        self.config = config
        other = config.parts != "slot_attention"
        if other or config.encoder is not None:
            ignored = ("encoder_strides", "encoder_kernel_size", "position_embedding")
            because = f"parts={config.parts!r}" if other else f"encoder={config.encoder!r}"
            refuse_ignored(config, because, ignored)
        self.encoder = _encoder(config)
        self.initializer = INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)
        self.slot_attention = config.slot_attention(
            self.encoder.feature_dim,
            config.slot_dim,
            config.num_iterations,
            mlp_dim=config.mlp_dim,
            gradient=config.gradient,
        )
        self.decoder = SpatialBroadcastDecoder(
            config.slot_dim,
            config.image_size,
            channels=config.channels,
            strides=config.decoder_strides,
            kernel_size=config.decoder_kernel_size,
            shuffle=config.decoder_shuffle,
            mask_shuffle=config.decoder_mask_shuffle,
            mask_pool=config.decoder_mask_pool,
            last_kernel_size=1 if other else 3,
            signed_position=config.parts == "oclf",
            make="torch" if other else "keras",
        )
        if other:
            torch_(self.slot_attention)
            if config.parts == "oclf":
                _as_oclf(self.slot_attention, self.decoder)
            elif isinstance(self.initializer, LearnedInit):
                nn.init.normal_(self.initializer.slots)
        for position in (self.encoder.position, self.decoder.position):
            if position is not None:
                position.project.weight.data *= config.position_gain

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1] to slots.

        `num_slots` may differ from training where the initialiser is shared; `num_iterations` may always.
        """
        features = self.encoder(2 * image - 1 if isinstance(self.encoder, CNNEncoder) else image)
        return self._group(image, features, num_slots, num_iterations)

    def _group(
        self,
        image: Float[Tensor, "b 3 h w"],
        features: Float[Tensor, "b p c"],
        num_slots: int | None = None,
        num_iterations: int | None = None,
    ) -> SlotOutput:
        if num_iterations is None and not self.training:
            num_iterations = self.config.test_iterations
        slots = self.initializer(image.shape[0], num_slots)  # `len` would fix the batch of an exported program
        out = self.slot_attention(features, slots, num_iterations=num_iterations)
        asked = None if self.config.mask_posterior is None else image
        return replace(out, grid=self.encoder.grid(*image.shape[-2:]), image=asked)

    def decode(self, slots: Float[Tensor, "b n d"], image: Float[Tensor, "b 3 h w"] | None = None) -> DecoderOutput:
        """Slots to images in about [0, 1].

        Given the `image` and with `mask_posterior`, the masks are `posterior_masks`; `recon` and `parts` stay.
        """
        out = self.decoder(slots)
        recon, masks, parts = out.recon, out.masks, out.parts
        assert parts is not None
        if self.config.parts == "oclf":
            parts = parts.tanh()
            recon = (parts * masks.unsqueeze(2)).sum(1)
        parts = (parts + 1) / 2
        if image is not None and self.config.mask_posterior is not None:
            masks = posterior_masks(masks, parts, image, self.config.mask_posterior)
        return DecoderOutput((recon + 1) / 2, masks, parts)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean squared error over all values in [-1, 1], four times the error in [0, 1].

        Cached `features` of a frozen vision transformer spare running it.
        """
        if isinstance(self.initializer, LearnedInit) and self.config.init_noise_steps:
            progress = min(step / self.config.init_noise_steps, 1)
            self.initializer.noise_scale = (1 + math.cos(math.pi * progress)) / 2
        image, encoder = batch["image"], self.encoder
        features = encoder.of_batch(batch) if isinstance(encoder, PositionedEncoder) else encoder(2 * image - 1)
        recon = self.decode(self._group(image, features).slots).recon
        return {"recon": 4 * F.mse_loss(recon, image)}


def _as_oclf(slot_attention: nn.Module, decoder: SpatialBroadcastDecoder) -> None:
    """Initial weights of OCLF: no biases in its MLPs, and a last layer that is transposed, with another fan."""
    for name, parameter in slot_attention.named_parameters():
        if "mlp" in name and name.endswith("bias"):
            nn.init.zeros_(parameter)
    bound = decoder.last.out_channels**-0.5
    nn.init.uniform_(decoder.last.weight, -bound, bound)
    assert decoder.last.bias is not None
    nn.init.uniform_(decoder.last.bias, -bound, bound)


def _encoder(config: SlotAttentionConfig) -> CNNEncoder | PositionedEncoder:
    if config.encoder is not None:
        return PositionedEncoder.of_vit(config.encoder, config.slot_dim)
    if config.parts != "slot_attention":
        return getattr(PositionedEncoder, config.parts)(config.slot_dim)
    return CNNEncoder(
        config.channels,
        strides=config.encoder_strides,
        kernel_size=config.encoder_kernel_size,
        position_embedding=config.position_embedding,
        norm_eps=config.norm_eps,
    )
