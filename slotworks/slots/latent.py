"""Slot Attention on patch features as LSD, StableLSD and GLASS use it: positions, an MLP, slots, their projection.

    features b p c --+ positions, LayerNorm, MLP--> Slot Attention --> slots b n d --LayerNorm, Linear--> context b n e

Jiang et al. 2023 (arXiv 2303.10834) and its code, `src/models/slot_attn.py`.
"""

from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from slotworks.nn.position import PositionEmbedding
from slotworks.slots.attention import SlotAttention
from slotworks.slots.initializers import INITIALIZERS
from slotworks.types import MethodConfig, SlotOutput


@dataclass(frozen=True)
class LatentSlotOptions(MethodConfig):
    """What a method passes on to `LatentSlotAttention`; the defaults are the released code's of LSD."""

    num_slots: int = 7  # K
    slot_dim: int = 768  # D, the width of a slot
    num_iterations: int = 5  # T of Slot Attention
    mlp_dim: int = 768  # hidden width of the residual MLP inside Slot Attention
    num_heads: int = 1  # of Slot Attention
    initializer: Literal["gaussian", "per_slot", "learned", "boxes"] = "gaussian"  # boxes: from those that are given
    gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled"  # through all iterations, or the last only

    def latent_slots(self, feature_dim: int, context_dim: int) -> "LatentSlotAttention":
        """The module with these options."""
        return LatentSlotAttention(
            feature_dim,
            self.slot_dim,
            context_dim,
            num_slots=self.num_slots,
            num_iterations=self.num_iterations,
            mlp_dim=self.mlp_dim,
            num_heads=self.num_heads,
            initializer=self.initializer,
            gradient=self.gradient,
        )


class LatentSlotAttention(nn.Module):
    """Slots from patch features, and what a diffusion model is shown of them.

    Args:
        feature_dim: width of the features.
        slot_dim: width of a slot.
        context_dim: width of the keys and values that the diffusion model expects: 1024 for Stable Diffusion 2.
        num_slots: K.
        num_iterations: T.
        mlp_dim: hidden width of the residual MLP inside Slot Attention.
        num_heads: attention heads; logits are scaled by `slot_dim ** -0.5` whatever their number.
        initializer: where slots start. "boxes" starts one slot from each given box.
        gradient: through all iterations, or the last only; see `SlotAttention`.
    """

    def __init__(
        self,
        feature_dim: int,
        slot_dim: int,
        context_dim: int,
        *,
        num_slots: int = 7,
        num_iterations: int = 5,
        mlp_dim: int = 768,
        num_heads: int = 1,
        initializer: Literal["gaussian", "per_slot", "learned", "boxes"] = "gaussian",
        gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled",
    ):
        super().__init__()
        self.num_slots = num_slots
        self.position = PositionEmbedding(feature_dim, centers=True)
        self.feature_mlp = nn.Sequential(
            nn.LayerNorm(feature_dim),
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Linear(feature_dim, feature_dim),
        )
        self.box_mlp = self.initializer = None
        if initializer == "boxes":
            self.box_mlp = nn.Sequential(nn.Linear(4, 2 * slot_dim), nn.ReLU(), nn.Linear(2 * slot_dim, slot_dim))
        else:
            self.initializer = INITIALIZERS[initializer](num_slots, slot_dim)
        self.slot_attention = SlotAttention(
            feature_dim,
            slot_dim,
            num_iterations,
            mlp_dim=mlp_dim,
            num_heads=num_heads,
            scale=slot_dim**-0.5,
            eps=1e-6,
            gradient=gradient,
        )
        self.to_context = nn.Sequential(nn.LayerNorm(slot_dim), nn.Linear(slot_dim, context_dim))

    def forward(
        self,
        features: Float[Tensor, "b p c"],
        grid: tuple[int, int],
        *,
        boxes: Float[Tensor, "b n 4"] | None = None,
        slot_mask: Bool[Tensor, "b n"] | None = None,
        num_slots: int | None = None,
        num_iterations: int | None = None,
    ) -> SlotOutput:
        """Slots before the projection.

        Args:
            features: row major.
            grid: rows and columns behind `p`.
            boxes: with the initialiser "boxes", as they are: they are not scaled here.
            slot_mask: False for slots that win no position. They still become the mean of all values.
            num_slots: another number than in training, where all slots start alike.
            num_iterations: another number than in training.

        Raises:
            ValueError: if boxes are missing, or given to an initialiser that takes none.
        """
        if (boxes is None) != (self.box_mlp is None):
            raise ValueError("Boxes belong to the initialiser 'boxes', and to no other; give both or neither.")
        x = features + self.position(*grid).flatten(2).transpose(1, 2)
        if self.box_mlp is not None:
            slots = self.box_mlp(boxes)
        else:
            assert self.initializer is not None
            slots = self.initializer(features.shape[0], num_slots)
        out = self.slot_attention(self.feature_mlp(x), slots, num_iterations=num_iterations, slot_mask=slot_mask)
        return replace(out, grid=grid)
