"""The ablations of Slot Attention as settings that several methods share."""

from dataclasses import dataclass
from typing import Literal

from slotworks.slots.attention import SlotAttention
from slotworks.types import MethodConfig


@dataclass(frozen=True)
class SlotAttentionOptions(MethodConfig):
    """What a method passes on to `SlotAttention`; the defaults are the paper's (supplement, section 2)."""

    aggregation: Literal["mean", "sum", "sum_norm"] = "mean"  # over positions; sum_norm: a sum and a LayerNorm
    softmax_over: Literal["slots", "positions"] = "slots"  # positions: ordinary attention, slots do not compete
    update: Literal["gru", "replace"] = "gru"  # replace: what was aggregated is the new slot
    layer_norm: bool = True  # on features, on slots and before the MLP
    norm_eps: float = 1e-5  # of these LayerNorms and of the encoder's: torch's; Keras', and so the original's, is 1e-3
    attention_scale: float | None = None  # factor on the logits; None: slot_dim ** -0.5; the temperature ablation: 1
    eps: float = 1e-8  # offset of the weighted mean
    eps_in: Literal["attention", "denominator"] = "attention"  # where it is added
    soft_kmeans: bool = False  # without projections, LayerNorms, GRU and MLP; channels and slot_dim must be equal

    def slot_attention(
        self,
        feature_dim: int,
        slot_dim: int,
        num_iterations: int,
        *,
        mlp_dim: int | None,
        gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled",
    ) -> SlotAttention:
        """The module with these options."""
        if self.soft_kmeans:
            if feature_dim != slot_dim:
                raise ValueError(
                    f"soft_kmeans compares slots with features, but method.channels is {feature_dim} and "
                    f"method.slot_dim {slot_dim}; make them equal."
                )
            return SlotAttention.soft_kmeans(
                slot_dim, num_iterations, scale=self.attention_scale, eps=self.eps, gradient=gradient
            )
        return SlotAttention(
            feature_dim,
            slot_dim,
            num_iterations,
            mlp_dim=mlp_dim,
            scale=self.attention_scale,
            eps=self.eps,
            eps_in=self.eps_in,
            softmax_over=self.softmax_over,
            aggregation=self.aggregation,
            update=self.update,
            layer_norm=self.layer_norm,
            norm_eps=self.norm_eps,
            gradient=gradient,
        )
