"""Features to slots."""

from slotworks.slots.attention import SlotAttention
from slotworks.slots.initializers import (
    INITIALIZERS,
    BoxInit,
    GaussianInit,
    KMeansInit,
    LearnedInit,
    PerSlotGaussianInit,
)
from slotworks.slots.latent import LatentSlotAttention, LatentSlotOptions
from slotworks.slots.options import SlotAttentionOptions
from slotworks.slots.predictors import PREDICTORS, IdentityPredictor, MLPPredictor, TransformerPredictor
from slotworks.slots.slot_mlp import SlotMLP
from slotworks.slots.video import VideoSlotAttention, map_over_time

__all__ = [
    "INITIALIZERS",
    "PREDICTORS",
    "BoxInit",
    "GaussianInit",
    "IdentityPredictor",
    "KMeansInit",
    "LatentSlotAttention",
    "LatentSlotOptions",
    "LearnedInit",
    "MLPPredictor",
    "PerSlotGaussianInit",
    "SlotAttention",
    "SlotAttentionOptions",
    "SlotMLP",
    "TransformerPredictor",
    "VideoSlotAttention",
    "map_over_time",
]
