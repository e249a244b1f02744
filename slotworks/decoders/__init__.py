"""Slots to images, features or tokens."""

from slotworks.decoders.autoregressive import AutoregressiveDecoder
from slotworks.decoders.mlp import PatchMLPDecoder
from slotworks.decoders.spatial_broadcast import SpatialBroadcastDecoder
from slotworks.decoders.stable_diffusion import StableDiffusionConfig, StableDiffusionDecoder

__all__ = [
    "AutoregressiveDecoder",
    "PatchMLPDecoder",
    "SpatialBroadcastDecoder",
    "StableDiffusionConfig",
    "StableDiffusionDecoder",
]
