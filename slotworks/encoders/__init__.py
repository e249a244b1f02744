"""Image to features."""

from slotworks.encoders.cnn import CNNEncoder
from slotworks.encoders.dilated_resnet import DilatedResNet
from slotworks.encoders.image_code import ImageCode
from slotworks.encoders.resnet import ResNetEncoder
from slotworks.encoders.vit import ViTConfig, ViTEncoder, weights_hash

__all__ = ["CNNEncoder", "DilatedResNet", "ImageCode", "ResNetEncoder", "ViTConfig", "ViTEncoder", "weights_hash"]
