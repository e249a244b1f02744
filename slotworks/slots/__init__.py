"""Features to slots."""

from slotworks.slots.attention import SlotAttention
from slotworks.slots.initializers import INITIALIZERS, BoxInit, GaussianInit, LearnedInit, PerSlotGaussianInit
from slotworks.slots.latent import LatentSlotAttention

__all__ = [
    "INITIALIZERS",
    "BoxInit",
    "GaussianInit",
    "LatentSlotAttention",
    "LearnedInit",
    "PerSlotGaussianInit",
    "SlotAttention",
]
