"""Slots to images, features or tokens."""

from slotworks.decoders.spatial_broadcast import SpatialBroadcastDecoder

__all__ = ["SpatialBroadcastDecoder"]
