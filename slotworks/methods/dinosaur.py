"""DINOSAUR: image -> frozen ViT -> features -> slots -> MLP or Transformer decoder -> the same features.

Seitzer et al. 2023, "Bridging the Gap to Real-World Object-Centric Learning", arXiv 2209.14860. The defaults are the
configuration of the released code (OCLF) for COCO with the MLP decoder. Features are taken before the ViT's last norm.

Differences from the released code: the weights of Slot Attention are drawn as Slot Attention's, and `mu` and
`log_sigma` of the initial slots from a range 1.7 times as wide, as in Keras; the blocks of the Transformer decoder are
drawn one by one, where torch starts them all equal. The masks of the Transformer decoder are always its last
cross-attention; the released MOVi configurations score slot attention instead, as `protocol="oclf[attention]"` does.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.decoders import AutoregressiveDecoder, PatchMLPDecoder
from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.slots import INITIALIZERS, LearnedInit, SlotAttention
from slotworks.types import Batch, DecoderOutput, Method, MethodConfig, SlotOutput


@dataclass(frozen=True)
class DinosaurConfig(MethodConfig):
    """Hyperparameters of DINOSAUR."""

    encoder: ViTConfig = field(default_factory=ViTConfig)  # frozen
    num_slots: int = 7  # K
    slot_dim: int = 256  # D_slots
    num_iterations: int = 3  # T of Slot Attention in training
    test_iterations: int | None = None  # T outside of training; None: as in training
    feature_mlp_dim: int | None = None  # hidden width of the MLP between features and slots; None: the features' width
    mlp_dim: int = 1024  # hidden width of the residual MLP inside Slot Attention
    initializer: Literal["gaussian", "per_slot", "learned"] = "gaussian"  # where slots start from
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only
    init_noise_steps: int = 0  # training steps over which the noise on learned slots falls from 1 to 0 (BO-QSA: 30k)
    decoder: Literal["mlp", "transformer"] = "mlp"  # what reconstructs the features
    decoder_dims: tuple[int, ...] = (2048, 2048, 2048)  # hidden widths of the MLP decoder
    decoder_positions: Literal["normal", "sine"] = "normal"  # how the MLP decoder's learned positions start
    decoder_blocks: int = 4  # of the Transformer decoder
    decoder_heads: int = 8  # of the Transformer decoder; 4 on VOC and MOVi

    def __post_init__(self):
        super().__post_init__()
        if self.encoder.trained_blocks:
            raise ValueError(
                f"method.encoder.trained_blocks is {self.encoder.trained_blocks}; DINOSAUR predicts its own input, so "
                "a trained encoder would make its features trivial. Leave it at 0, or use SPOT's second stage."
            )

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        return self.encoder.image_size

    def build(self) -> "Dinosaur":
        """Make the method with fresh weights; the encoder is loaded when the first image comes."""
        return Dinosaur(self)


class Dinosaur(Method):
    """Slot Attention on the features of a frozen vision transformer, trained to reconstruct them."""

    config: DinosaurConfig

    def __init__(self, config: DinosaurConfig):
        super().__init__()
        self.config = config
        width, hidden = config.encoder.feature_dim, config.feature_mlp_dim or config.encoder.feature_dim
        self.encoder = ViTEncoder(config.encoder)
        self.feature_mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, config.slot_dim)
        )
        for layer in (self.feature_mlp[1], self.feature_mlp[3]):
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]  (Sequential has no element type)
        self.initializer = INITIALIZERS[config.initializer](config.num_slots, config.slot_dim)
        self.slot_attention = SlotAttention(
            config.slot_dim, config.slot_dim, config.num_iterations, mlp_dim=config.mlp_dim, gradient=config.gradient
        )
        if config.decoder == "mlp":
            self.decoder = PatchMLPDecoder(
                config.slot_dim,
                width,
                config.encoder.grid,
                hidden_dims=config.decoder_dims,
                position_init=config.decoder_positions,
            )
        else:
            self.decoder = AutoregressiveDecoder(
                config.slot_dim,
                width,
                config.encoder.grid,
                num_blocks=config.decoder_blocks,
                num_heads=config.decoder_heads,
                num_orders=1,
                bias=True,
                norm_stream=False,
                final_norm=False,
                init="torch",
                begin_std=width**-0.5,
            )

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1] to slots.

        `num_slots` may differ from training where the initialiser is shared; `num_iterations` may always.
        """
        with torch.no_grad():
            features = self.encoder(image)
        return self._group(features, num_slots, num_iterations)

    def decode(self, slots: Float[Tensor, "b n d"], features: Float[Tensor, "b p c"] | None = None) -> DecoderOutput:
        """Slots to features `b c h w` and masks `b n h w` on the grid of patches.

        The Transformer decoder is teacher-forced and needs the `features` that `encode` returned.
        """
        if isinstance(self.decoder, PatchMLPDecoder):
            return self.decoder(slots)
        if features is None:
            raise ValueError("The Transformer decoder predicts from true features; call decode(slots, out.features).")
        return self.decoder(slots, features)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean squared error over patches and channels. Cached `features` take the place of images."""
        if isinstance(self.initializer, LearnedInit) and self.config.init_noise_steps:
            progress = min(step / self.config.init_noise_steps, 1)
            self.initializer.noise_scale = (1 + math.cos(math.pi * progress)) / 2
        if "features" in batch:
            features = batch["features"].float()  # stored as float16
        else:
            with torch.no_grad():
                features = self.encoder(batch["image"])
        recon = self.decode(self._group(features).slots, features).recon
        return {"recon": F.mse_loss(recon.flatten(2).transpose(1, 2), features)}

    def _group(self, features: Tensor, num_slots: int | None = None, num_iterations: int | None = None) -> SlotOutput:
        if num_iterations is None and not self.training:
            num_iterations = self.config.test_iterations
        slots = self.initializer(len(features), num_slots)
        out = self.slot_attention(self.feature_mlp(features), slots, num_iterations=num_iterations)
        forced = features if self.config.decoder == "transformer" else None
        return replace(out, grid=self.config.encoder.grid, features=forced)
