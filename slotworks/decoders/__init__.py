"""Slots to images, features or tokens."""

from slotworks.decoders.autoregressive import AutoregressiveDecoder
from slotworks.decoders.deeplab import DeepLabHead, DeepLabPlusHead, FCNHead
from slotworks.decoders.latent_diffusion import DenoiserConfig, LatentDiffusionDecoder, VQConfig
from slotworks.decoders.mlp import FlatPatchDecoder, PatchMLPDecoder
from slotworks.decoders.set_head import SetHead
from slotworks.decoders.spatial_broadcast import SpatialBroadcastDecoder
from slotworks.decoders.stable_diffusion import StableDiffusionConfig, StableDiffusionDecoder
from slotworks.decoders.tokens import TokenDecoder

__all__ = [
    "AutoregressiveDecoder",
    "DeepLabHead",
    "DeepLabPlusHead",
    "DenoiserConfig",
    "FCNHead",
    "FlatPatchDecoder",
    "LatentDiffusionDecoder",
    "PatchMLPDecoder",
    "SetHead",
    "SpatialBroadcastDecoder",
    "StableDiffusionConfig",
    "StableDiffusionDecoder",
    "TokenDecoder",
    "VQConfig",
]
