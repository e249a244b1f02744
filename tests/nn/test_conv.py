"""Convolutions that pad as TensorFlow does."""

import pytest
import torch
from torch import nn

from slotworks.nn.conv import same_conv, same_padding


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        (35, 5, 1, (2, 2)),
        (128, 5, 2, (1, 2)),  # even size, odd pixel after
        (127, 5, 2, (2, 2)),
        (128, 3, 2, (0, 1)),
        (127, 3, 2, (1, 1)),
        (224, 7, 2, (2, 3)),
        (8, 4, 1, (1, 2)),  # even kernel
        (9, 3, 3, (0, 0)),
        (10, 3, 3, (1, 1)),
        (10, 1, 2, (0, 0)),  # a kernel smaller than its stride needs nothing
        (2, 5, 1, (2, 2)),
        (1, 5, 2, (2, 2)),
    ],
)
def test_padding_of_tensorflow(size, kernel, stride, padding):
    """before = total // 2 with total = (ceil(size / stride) - 1) * stride + kernel - size."""
    assert same_padding(size, kernel, stride) == padding


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 4, 5])
@pytest.mark.parametrize("size", [(7, 7), (8, 11), (12, 6)])
def test_same_convolution(size, kernel, stride):
    """Size ceil(n / s); each output is the sum over the window that starts `before` pixels earlier."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, kernel, stride).double()
    x = torch.randn(2, 2, *size).double()
    out = same_conv(conv, x)
    assert out.shape == (2, 3, -(-size[0] // stride), -(-size[1] // stride))
    (top, _), (left, _) = same_padding(size[0], kernel, stride), same_padding(size[1], kernel, stride)
    around = torch.zeros(2, 2, size[0] + 2 * kernel, size[1] + 2 * kernel).double()
    around[:, :, kernel : kernel + size[0], kernel : kernel + size[1]] = x
    for i, j in [(0, 0), (out.shape[2] - 1, 0), (0, out.shape[3] - 1), (out.shape[2] // 2, out.shape[3] // 2)]:
        y, x0 = kernel + i * stride - top, kernel + j * stride - left
        window = around[:, :, y : y + kernel, x0 : x0 + kernel]
        expected = torch.einsum("bcij,ocij->bo", window, conv.weight) + conv.bias
        torch.testing.assert_close(out[:, :, i, j], expected)
