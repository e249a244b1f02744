"""BASNet: image -> how salient each pixel is; the network that proposes masks for COMUS.

Qin, Zhang, Huang, Gao, Dehghan, Jagersand 2019, "BASNet: Boundary-Aware Salient Object Detection"; names and order of
layers as in xuebinqin/BASNet, compared with the copy in zadaianchuk/comus at 927a95d (`thirdparty/basnet.py`). A
ResNet-34 that starts at full size, two more stages of blocks, a decoder as deep, and a small U-Net that corrects what
the decoder says. The side outputs, which only its training needs, are left out.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.encoders.vit import IMAGENET_MEAN, IMAGENET_STD

STAGES = (3, 4, 6, 3, 3, 3)
"""Blocks of each stage; the last two come behind a pooling of their own."""

MULTIPLE = 32
"""Height and width have to be multiples of this: five halvings."""


class BASNet(nn.Module):
    """Saliency of images in [0, 1], which are normalised here.

    Args:
        width: channels of the first stage, 64 in the published network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int = 64):
        super().__init__()
        w, most = width, 8 * width
        self.stem = layer(3, w)
        widths, before = (w, 2 * w, 4 * w, most, most, most), w
        self.stages = nn.ModuleList()
        for count, wide in zip(STAGES, widths, strict=True):
            first = Block(before, wide, stride=1 if wide == before else 2)
            self.stages.append(nn.Sequential(first, *(Block(wide, wide) for _ in range(count - 1))))
            before = wide
        self.bridge = layers((most, most, most, most), dilations=(2, 2, 2))
        self.decoders = nn.ModuleList(
            [
                layers((2 * most, most, most, most), dilations=(1, 2, 2)),
                layers((2 * most, most, most, most)),
                layers((2 * most, most, most, 4 * w)),
                layers((8 * w, 4 * w, 4 * w, 2 * w)),
                layers((4 * w, 2 * w, 2 * w, w)),
                layers((2 * w, w, w, w)),
            ]
        )
        self.score = nn.Conv2d(w, 1, 3, padding=1)
        self.refinement = Refinement(w)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
        """Values in [0, 1], of the size of the image.

        Raises:
            ValueError: height or width is no multiple of 32.
        """
        height, width = image.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise ValueError(f"The image has {height}x{width} pixels; BASNet needs multiples of {MULTIPLE}.")
        x, found = self.stem((image - self.mean) / self.std), []
        for number, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if number > 3 else x)
            found.append(x)
        x = self.bridge(x)
        for number, (decoder, same) in enumerate(zip(self.decoders, reversed(found), strict=True)):
            x = decoder(torch.cat([doubled(x) if number else x, same], 1))
        return self.refinement(self.score(x)).sigmoid()[:, 0]


class Refinement(nn.Module):
    """A U-Net with four poolings whose output is added to the scores that it is given."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.ModuleList(layer(width, width) for _ in range(5))
        self.up = nn.ModuleList(layer(2 * width, width) for _ in range(4))
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, scores: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Better scores."""
        x, found = self.first(scores), []
        for number, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if number else x)
            found.append(x)
        for up, same in zip(self.up, found[-2::-1], strict=True):
            x = up(torch.cat([doubled(x), same], 1))
        return scores + self.last(x)


class Block(nn.Module):
    """Two convolutions of 3 x 3 with BatchNorm beside a shortcut, as in ResNet-34."""

    def __init__(self, before: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        """A map of the same or half the size."""
        inner = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (inner + self.shortcut(x)).relu()


def layer(before: int, width: int, dilation: int = 1) -> nn.Sequential:
    """A convolution of 3 x 3 that keeps the size, BatchNorm, ReLU."""
    conv = nn.Conv2d(before, width, 3, padding=dilation, dilation=dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


def layers(widths: Sequence[int], dilations: Sequence[int] = (1, 1, 1)) -> nn.Sequential:
    """Three such layers, one behind the other."""
    return nn.Sequential(*(layer(a, b, d) for a, b, d in zip(widths, widths[1:], dilations, strict=False)))


def doubled(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c y x"]:
    """A map of twice the size, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
