"""Image to features."""

from slotworks.encoders.cnn import CNNEncoder
from slotworks.encoders.vit import ViTConfig, ViTEncoder

__all__ = ["CNNEncoder", "ViTConfig", "ViTEncoder"]
