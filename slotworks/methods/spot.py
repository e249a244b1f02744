"""SPOT: DINOSAUR with an autoregressive decoder that reads patches in nine orders, trained twice.

Kakogeorgiou et al. 2024, "SPOT: Self-Training with Patch-Order Permutation for Object-Centric Learning with
Autoregressive Transformers", arXiv 2312.00648. Stage 1 (`Spot`) reconstructs the features of a frozen ViT. Stage 2
(`SpotStudent`) starts anew, trains the last four blocks of its own ViT, still reconstructs the features of the frozen
one, and learns to share patches between slots as the decoder of the first stage (the teacher) does.

The defaults are the released code's for COCO. Differences from it: `mu` and `log_sigma` of the initial slots are drawn
from a range 1.4 times as wide, as in Keras, and the residual MLP of Slot Attention starts Glorot in both layers; the
teacher works on the frozen features that the student's target needs anyway, so that ViT runs once per image, not twice.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slotworks.decoders import AutoregressiveDecoder
from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.guidance import distillation_loss, match_masks, soft_distillation_loss
from slotworks.nn.noise import shared_choice
from slotworks.nn.orders import NUM_ORDERS
from slotworks.slots import KMeansInit, SlotAttention
from slotworks.slots.features import (
    FeatureSlotOptions,
    FeatureSlots,
    blend_with_start,
    check_same_features,
    take_weights,
)
from slotworks.types import Batch, DecoderOutput, Method, MethodConfig, SlotOutput, UserError, refuse_ignored

Orders = Literal["standard", "random", "all"]
"""Orders of one pass: row by row; one of the nine, the same for the whole batch; or the mean over all nine."""


@dataclass(frozen=True)
class SpotConfig(FeatureSlotOptions):
    """Hyperparameters of the first stage."""

    encoder: ViTConfig = field(default_factory=ViTConfig)  # the vision transformer whose features the slots see
    num_slots: int = 7  # K
    slot_dim: int = 256  # D, the width of a slot
    num_iterations: int = 3  # T of Slot Attention in training
    test_iterations: int | None = None  # T outside of training; None: as in training
    mlp_dim: int = 1024  # hidden width of the residual MLP inside Slot Attention
    initializer: Literal["gaussian", "per_slot", "learned", "kmeans"] = "gaussian"  # where slots start from
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only
    decoder_blocks: int = 4  # Transformer blocks of the decoder
    decoder_heads: int = 6  # attention heads of the decoder
    train_orders: Orders = "random"  # in which the decoder reads patches in training; standard: as in DINOSAUR
    eval_orders: Orders = "standard"  # in evaluation; all: the ensemble of the paper's tables

    def __post_init__(self):
        super().__post_init__()
        if self.encoder.trained_blocks:
            raise ValueError(
                f"method.encoder.trained_blocks is {self.encoder.trained_blocks}; the first stage of SPOT predicts its "
                "own input, so its encoder stays frozen. Leave it at 0; the second stage is SpotStudentConfig."
            )

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels."""
        return self.encoder.image_size

    def build(self) -> "Spot":
        """Make the method with fresh weights; the encoder is loaded when the first image comes."""
        return Spot(self)


@dataclass(frozen=True)
class SpotStudentConfig(SpotConfig):
    """Hyperparameters of the second stage."""

    loss_weights: dict[str, float] = field(default_factory=lambda: {"distill": 0.005})
    """by term; a term not named here weighs 1"""
    encoder: ViTConfig = field(default_factory=lambda: ViTConfig(trained_blocks=4))
    """the vision transformer whose features the slots see"""
    initializer: Literal["gaussian", "per_slot", "learned", "kmeans"] = "learned"  # where slots start from
    gradient: Literal["unrolled", "implicit", "bilevel"] = "bilevel"  # through all iterations, or the last only
    teacher: str = "runs/spot.coco"  # run folder of the first stage; read when training starts, not for evaluation
    teacher_orders: Orders = "random"  # in which the teacher reads patches
    teacher_masks: Literal["decoder", "attention"] = "decoder"  # attention: soft, slots starting where the student's do
    teacher_start: float = 0.0  # weight of the k-means clusters that slots start from beside the teacher's attention
    teach_decoder: bool = False  # attention also teaches the student's decoder masks, as the term distill_decoder
    start_from_teacher: bool = False  # start from the teacher's weights where parts have the same name and shape

    def __post_init__(self):
        MethodConfig.__post_init__(self)  # any number of blocks may be trained: the target is of the frozen network
        if self.teacher_masks == "decoder":
            refuse_ignored(self, "teacher_masks=decoder", ("teacher_start", "teach_decoder"))

    @property
    def starts_trained(self) -> bool:
        """Whether from the teacher's weights."""
        return self.start_from_teacher

    def build(self) -> "SpotStudent":
        """Make the method with fresh weights. Trained blocks of the encoder are loaded at once."""
        return SpotStudent(self)


class Spot(FeatureSlots):
    """Slots from the features of a frozen vision transformer, decoded autoregressively in permuted patch orders."""

    config: SpotConfig

    def __init__(self, config: SpotConfig):
        super().__init__()
        self.config = config
        width = self.width(config)
        self.encoder = ViTEncoder(config.encoder)
        self.feature_mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        first, last = self.feature_mlp[1], self.feature_mlp[3]
        nn.init.kaiming_uniform_(first.weight, nonlinearity="relu")  # pyright: ignore[reportArgumentType]
        nn.init.xavier_uniform_(last.weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(first.bias)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
        self.initializer = self._make_initializer(config, width)
        self.slot_attention = SlotAttention(
            width, config.slot_dim, config.num_iterations, mlp_dim=config.mlp_dim, gradient=config.gradient
        )
        self.decoder = AutoregressiveDecoder(
            config.slot_dim,
            width,
            config.encoder.grid,
            num_blocks=config.decoder_blocks,
            num_heads=config.decoder_heads,
            num_orders=1 if config.train_orders == "standard" else NUM_ORDERS,
            hidden_inputs=config.hidden_inputs,
        )
        self._add_departures(config, width)

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1] to slots, with the features that `decode` needs.

        `num_slots` may differ from training where the initialiser is shared; `num_iterations` may always.
        """
        with torch.no_grad():
            points = self.points(self.encoder(image))
        return self.group(points, points, num_slots, num_iterations)

    def group(
        self,
        points: Float[Tensor, "b p c"],
        target: Float[Tensor, "b p c"],
        num_slots: int | None = None,
        num_iterations: int | None = None,
        clusters: Int64[Tensor, "b p"] | None = None,
    ) -> SlotOutput:
        """Features, as `points` gives them, to slots; `target` is what the decoder will be asked to predict."""
        return replace(self.assign(points, num_slots, num_iterations, clusters), features=target)

    def decode(
        self,
        slots: Float[Tensor, "b n d"],
        features: Float[Tensor, "b p c"] | None = None,
        *,
        orders: Orders | None = None,
    ) -> DecoderOutput:
        """Slots and the `features` that `encode` returned to features `b c h w` and masks `b n h w` on the patch grid.

        `orders` is `config.eval_orders` if it is not given.
        """
        if features is None:
            raise ValueError("SPOT's decoder predicts from true features; call decode(slots, out.features).")
        orders = orders or self.config.eval_orders
        if orders == "all":
            return self.decoder.ensemble(slots, features)
        return self.decoder(slots, features, order=shared_choice(len(self.decoder.orders)) if orders == "random" else 0)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean squared error over patches and channels. Cached `features` take the place of images."""
        points = self.points(self.encoder.features_of(batch))
        return {"recon": self._reconstruction(self.group(points, points))[0]}

    def _reconstruction(self, out: SlotOutput) -> tuple[Tensor, DecoderOutput]:
        assert out.features is not None
        decoded = self.decode(out.slots, out.features, orders=self.config.train_orders)
        return F.mse_loss(decoded.recon.flatten(2).transpose(1, 2), out.features), decoded


class SpotStudent(Spot):
    """The second stage: a trained encoder, and slots that share patches as the teacher's decoder does."""

    config: SpotStudentConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: SpotStudentConfig):
        super().__init__(config)
        self.target_encoder = ViTEncoder(replace(config.encoder, trained_blocks=0))
        self.teacher: tuple[FeatureSlots, ...] = ()  # in a tuple: neither in the state dict nor in the optimiser

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Load the teacher from the run folder of the first stage.

        Raises:
            UserError: if that run is no first stage of SPOT, or on another encoder, or with more slots.
        """
        folder, by_attention = self.config.teacher, self.config.teacher_masks == "attention"
        teacher = load(folder)
        if not isinstance(teacher, FeatureSlots) or not (by_attention or type(teacher) is Spot):
            wanted = "a run of SPOT or DINOSAUR" if by_attention else "a first stage of SPOT"
            raise UserError(f"method.teacher is {folder}, a run of {type(teacher).__name__}; give {wanted}.")
        check_same_features(self, teacher, folder)
        if self.config.start_from_teacher:
            take_weights(self, teacher)
        elif self.components is not None and teacher.components is not None:
            self.components.load_state_dict(teacher.components.state_dict())
        self.teacher = (teacher.eval().requires_grad_(False),)

    def fit(self, batches: Iterable[Batch]) -> None:
        """Nothing: the principal components are the teacher's."""

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1] to slots, with the features of the frozen encoder, which `decode` needs."""
        with torch.no_grad():
            target = self.points(self.target_encoder(image))
        return self.group(self.points(self.encoder(image)), target, num_slots, num_iterations)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The first stage's error on frozen features, and the cross-entropy of slot attention with the teacher's masks.

        A trained encoder always needs images; cached `features` save the frozen one, and are all if none is trained.
        """
        if not self.teacher:
            raise ValueError("The teacher is not loaded; call method.prepare(load_method) before training.")
        trains = self.config.encoder.trained_blocks > 0
        if trains and "image" not in batch:
            raise UserError("SPOT's second stage trains its encoder and needs images; cached features are not enough.")
        target = self.points(self.target_encoder.features_of(batch))
        points = self.points(self.encoder(batch["image"])) if trains else target
        clusters = self.clusters(target)
        out = self.group(points, target, None, None, clusters)
        error, decoded = self._reconstruction(out)
        if self.config.teacher_masks == "decoder":
            return {"recon": error, "distill": distillation_loss(out.attn, self._teacher_masks(target))}
        masks = self._teacher_attention(target, clusters)
        matched = match_masks(out.attn, masks)
        terms = {"recon": error, "distill": soft_distillation_loss(out.attn, masks, matched=matched)}
        if self.config.teach_decoder:
            terms["distill_decoder"] = soft_distillation_loss(decoded.masks.flatten(2), masks, matched=matched)
        return terms

    @torch.no_grad()
    def _teacher_masks(self, points: Float[Tensor, "b p c"]) -> Float[Tensor, "b n p"]:
        teacher: Any = self.teacher[0].to(points.device)
        slots = teacher.group(points, points).slots
        return teacher.decode(slots, points, orders=self.config.teacher_orders).masks.flatten(2)

    @torch.no_grad()
    def _teacher_attention(
        self, points: Float[Tensor, "b p c"], clusters: Int64[Tensor, "b p"] | None
    ) -> Float[Tensor, "b n p"]:
        teacher = self.teacher[0].to(points.device)
        started = clusters if isinstance(teacher.initializer, KMeansInit) else None
        attn = teacher.assign(points, clusters=started).attn
        return blend_with_start(attn, clusters, self.config.teacher_start)
