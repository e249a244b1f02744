"""Convolutions that pad as TensorFlow does, and the size of what strides leave."""

import math

from torch import Tensor, nn


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels of zeros before and after one axis under TensorFlow's `SAME` rule.

    The odd pixel goes after, so a stride-2 convolution samples one pixel earlier than torch's symmetric padding.

    >>> same_padding(128, kernel=5, stride=2)
    (1, 2)
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def same_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution that was built without padding under TensorFlow's `SAME` rule."""
    (kernel_h, kernel_w), (stride_h, stride_w) = conv.kernel_size, conv.stride
    top, bottom = same_padding(x.shape[-2], kernel_h, stride_h)
    left, right = same_padding(x.shape[-1], kernel_w, stride_w)
    if top == bottom and left == right:  # one pass over the memory less than padding first
        return nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, (top, left))
    return conv(nn.functional.pad(x, (left, right, top, bottom)))


class StridedMap(nn.Module):
    """A network whose layers have `strides`, each rounding the size of its map up."""

    strides: tuple[int, ...]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map for an image of this size in pixels."""
        for stride in self.strides:
            height, width = -(-height // stride), -(-width // stride)
        return height, width
