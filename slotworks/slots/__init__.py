"""Features to slots."""

from slotworks.slots.attention import SlotAttention
from slotworks.slots.initializers import BoxInit, GaussianInit, LearnedInit, PerSlotGaussianInit
from slotworks.slots.latent import LatentSlotAttention

__all__ = [
    "BoxInit",
    "GaussianInit",
    "LatentSlotAttention",
    "LearnedInit",
    "PerSlotGaussianInit",
    "SlotAttention",
]
