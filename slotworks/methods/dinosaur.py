"""DINOSAUR: image -> frozen ViT -> features -> slots -> MLP or Transformer decoder -> the same features.

Seitzer et al. 2023, "Bridging the Gap to Real-World Object-Centric Learning", arXiv 2209.14860. The defaults are the
configuration of the released code (OCLF) for COCO with the MLP decoder. Features are taken before the ViT's last norm.

Differences from the released code: the weights of Slot Attention are drawn as Slot Attention's, and `mu` and
`log_sigma` of the initial slots from a range 1.4 times as wide, as in Keras; the blocks of the Transformer decoder are
drawn one by one, where torch starts them all equal. The masks of the Transformer decoder are always its last
cross-attention; the released MOVi configurations score slot attention instead, as `protocol="oclf[attention]"` does.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.decoders import AutoregressiveDecoder, FlatPatchDecoder, PatchMLPDecoder
from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.guidance import match_masks, soft_distillation_loss
from slotworks.nn.noise import shared_permutation
from slotworks.slots import LearnedInit, SlotAttention
from slotworks.slots.features import (
    FeatureSlotOptions,
    FeatureSlots,
    blend_with_start,
    check_same_features,
    take_weights,
)
from slotworks.types import Batch, DecoderOutput, Method, SlotOutput, UserError, refuse_ignored


@dataclass(frozen=True)
class DinosaurConfig(FeatureSlotOptions):
    """Hyperparameters of DINOSAUR."""

    encoder: ViTConfig = field(default_factory=ViTConfig)  # frozen
    num_slots: int = 7  # K
    slot_dim: int = 256  # D_slots
    num_iterations: int = 3  # T of Slot Attention in training
    test_iterations: int | None = None  # T outside of training; None: as in training
    feature_mlp_dim: int | None = None  # hidden width of the MLP between features and slots; None: the features' width
    mlp_dim: int = 1024  # hidden width of the residual MLP inside Slot Attention
    initializer: Literal["gaussian", "per_slot", "learned", "kmeans"] = "gaussian"  # where slots start from
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only
    init_noise_steps: int = 0  # training steps over which the noise on learned slots falls from 1 to 0 (BO-QSA: 30k)
    decoder: Literal["mlp", "flat", "transformer"] = "mlp"  # of features; flat: one for each slot (not the paper's)
    decoder_dims: tuple[int, ...] = (2048, 2048, 2048)  # hidden widths of the MLP decoder
    decoder_positions: Literal["normal", "sine"] = "normal"  # how the MLP decoder's learned positions start
    decoder_blocks: int = 4  # of the Transformer decoder
    decoder_heads: int = 8  # of the Transformer decoder; 4 on VOC and MOVi
    decoded_patches: int | None = None  # patches that a step of training decodes, drawn at random; None: all

    def __post_init__(self):
        super().__post_init__()
        if self.decoder == "transformer":
            refuse_ignored(self, "decoder=transformer", ("decoded_patches",))
        else:
            refuse_ignored(self, f"decoder={self.decoder}", ("hidden_inputs",))
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


@dataclass(frozen=True)
class DinosaurStudentConfig(DinosaurConfig):
    """Hyperparameters of a second round, which is not the paper's; sizes are those of the first."""

    loss_weights: dict[str, float] = field(default_factory=lambda: {"distill": 0.3})
    """by term; a term not named here weighs 1"""
    teacher: str = "runs/dinosaur.photos_mlp"  # run folder of the first round; read when training starts
    teacher_start: float = 0.5  # weight of the k-means clusters that slots start from beside the teacher's attention
    teach_decoder: bool = False  # the same masks also teach the student's decoder, as the term distill_decoder

    @property
    def starts_trained(self) -> bool:
        """From the weights of the first round."""
        return True

    def build(self) -> "DinosaurStudent":
        """Make the method with fresh weights; those of the first round are read when training starts."""
        return DinosaurStudent(self)


class Dinosaur(FeatureSlots):
    """Slot Attention on the features of a frozen vision transformer, trained to reconstruct them."""

    config: DinosaurConfig

    def __init__(self, config: DinosaurConfig):
        super().__init__()
        self.config = config
        width = self.width(config)
        hidden = config.feature_mlp_dim or width
        self.encoder = ViTEncoder(config.encoder)
        self.feature_mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, config.slot_dim)
        )
        for layer in (self.feature_mlp[1], self.feature_mlp[3]):
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]  (Sequential has no element type)
        self.initializer = self._make_initializer(config, config.slot_dim)
        self.slot_attention = SlotAttention(
            config.slot_dim, config.slot_dim, config.num_iterations, mlp_dim=config.mlp_dim, gradient=config.gradient
        )
        self.decoder = self._make_decoder(config, width)
        self._add_departures(config, config.slot_dim)

    def _make_decoder(self, config: DinosaurConfig, width: int) -> nn.Module:
        grid = config.encoder.grid
        if config.decoder == "transformer":
            return AutoregressiveDecoder(
                config.slot_dim,
                width,
                grid,
                num_blocks=config.decoder_blocks,
                num_heads=config.decoder_heads,
                num_orders=1,
                bias=True,
                norm_stream=False,
                final_norm=False,
                init="torch",
                begin_std=width**-0.5,
                hidden_inputs=config.hidden_inputs,
            )
        kind = PatchMLPDecoder if config.decoder == "mlp" else FlatPatchDecoder
        return kind(
            config.slot_dim, width, grid, hidden_dims=config.decoder_dims, position_init=config.decoder_positions
        )

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1], of any size that is a multiple of the patch, to slots.

        `num_slots` may differ from training where the initialiser is shared; `num_iterations` may always. The masks of
        an MLP decoder keep the grid of training; the Transformer decoder knows no other.
        """
        with torch.no_grad():
            features = self.encoder(image)
        grid = self.encoder.grid(*image.shape[-2:])
        return self._group(self.points(features), num_slots, num_iterations, grid=grid)

    def decode(self, slots: Float[Tensor, "b n d"], features: Float[Tensor, "b p c"] | None = None) -> DecoderOutput:
        """Slots to features `b c h w` and masks `b n h w` on the grid of patches.

        The Transformer decoder is teacher-forced and needs the `features` that `encode` returned.
        """
        if not isinstance(self.decoder, AutoregressiveDecoder):
            return self.decoder(slots)
        if features is None:
            raise ValueError("The Transformer decoder predicts from true features; call decode(slots, out.features).")
        return self.decoder(slots, features)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean squared error over patches and channels. Cached `features` take the place of images."""
        self._set_noise(step)
        points = self.points(self.encoder.features_of(batch))
        return {"recon": self._reconstruction(points, self._group(points).slots)[0]}

    def _set_noise(self, step: int) -> None:
        if isinstance(self.initializer, LearnedInit) and self.config.init_noise_steps:
            progress = min(step / self.config.init_noise_steps, 1)
            self.initializer.noise_scale = (1 + math.cos(math.pi * progress)) / 2

    def _reconstruction(self, points: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The error, the decoder's masks `b n q`, and which patches they are of; None: all."""
        if not self.config.decoded_patches:
            decoded = self.decode(slots, points)
            return F.mse_loss(decoded.recon.flatten(2).transpose(1, 2), points), decoded.masks.flatten(2), None
        decoder: Any = self.decoder
        patches = shared_permutation(points.shape[1])[: self.config.decoded_patches].to(points.device)
        recon, masks = decoder.some(slots, patches)
        return F.mse_loss(recon, points[:, patches]), masks, patches

    def _group(
        self,
        points: Tensor,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        clusters: Tensor | None = None,
        grid: tuple[int, int] | None = None,
    ) -> SlotOutput:
        out = self.assign(points, num_slots, num_iterations, clusters, grid)
        return replace(out, features=points if self.config.decoder == "transformer" else None)


class DinosaurStudent(Dinosaur):
    """A second round: from the weights of a first one, taught by its attention and by k-means."""

    config: DinosaurStudentConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: DinosaurStudentConfig):
        super().__init__(config)
        self.teacher: tuple[Dinosaur, ...] = ()  # in a tuple: neither in the state dict nor in the optimiser

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Load the teacher, and take over its weights where a part of the same name has the same shape.

        Raises:
            UserError: if that run is no DINOSAUR, or on other features.
        """
        folder, teacher = self.config.teacher, load(self.config.teacher)
        if not isinstance(teacher, Dinosaur):
            raise UserError(f"method.teacher is {folder}, a run of {type(teacher).__name__}; give a run of DINOSAUR.")
        check_same_features(self, teacher, folder)
        take_weights(self, teacher)
        self.teacher = (teacher.eval().requires_grad_(False),)

    def fit(self, batches: Iterable[Batch]) -> None:
        """Nothing: the principal components are the teacher's."""

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The first round's error, and the cross-entropy of attention with the teacher's from the same clusters.

        With `teach_decoder` also that of the decoder's masks.
        """
        if not self.teacher:
            raise ValueError("The teacher is not loaded; call method.prepare(load_method) before training.")
        points = self.points(self.encoder.features_of(batch))
        clusters = self.clusters(points)
        out = self._group(points, clusters=clusters)
        masks = self._taught(points, clusters)
        matched = match_masks(out.attn, masks)
        error, decoded, patches = self._reconstruction(points, out.slots)
        terms = {"recon": error, "distill": soft_distillation_loss(out.attn, masks, matched=matched)}
        if self.config.teach_decoder:
            wanted = masks if patches is None else masks[:, :, patches]
            terms["distill_decoder"] = soft_distillation_loss(decoded, wanted, matched=matched)
        return terms

    @torch.no_grad()
    def _taught(self, points: Tensor, clusters: Tensor | None) -> Tensor:
        teacher = self.teacher[0].to(points.device)
        return blend_with_start(teacher.assign(points, clusters=clusters).attn, clusters, self.config.teacher_start)
