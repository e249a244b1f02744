"""Features to slots."""

from slotworks.slots.attention import SlotAttention
from slotworks.slots.initializers import BoxInit, GaussianInit, LearnedInit, PerSlotGaussianInit

__all__ = ["BoxInit", "GaussianInit", "LearnedInit", "PerSlotGaussianInit", "SlotAttention"]
