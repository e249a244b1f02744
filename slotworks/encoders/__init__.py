"""Image to features."""

from slotworks.encoders.cnn import CNNEncoder
from slotworks.encoders.vit import ViTConfig, ViTEncoder, weights_hash

__all__ = ["CNNEncoder", "ViTConfig", "ViTEncoder", "weights_hash"]
