"""Images to features."""

from slotworks.encoders.cnn import CNNEncoder

__all__ = ["CNNEncoder"]
