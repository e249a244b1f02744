"""Image to features."""

from slotworks.encoders.cnn import CNNEncoder
from slotworks.encoders.image_code import ImageCode
from slotworks.encoders.resnet import ResNetEncoder
from slotworks.encoders.vit import ViTConfig, ViTEncoder, weights_hash

__all__ = ["CNNEncoder", "ImageCode", "ResNetEncoder", "ViTConfig", "ViTEncoder", "weights_hash"]
