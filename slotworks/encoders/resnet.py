"""ResNet-18 and ResNet-34 for small images: GroupNorm, and a first layer that keeps the resolution.

He et al. 2016 (arXiv 1512.03385), changed by SAVi (Kipf et al. 2022) and, each differently, by SlotDiffusion and OCLF:

| | SlotDiffusion (the defaults) | SAVi-L, SAVi++ | OCLF, `resnet34_savi` |
| --- | --- | --- | --- |
| network | ResNet-18, three of four stages: a quarter of the side, 256 channels | ResNet-34: an eighth, 512 | as SAVi |
| first layer | 3x3 | 3x3 | 7x7, and the maximum of 3x3 |
| after the norm of the first layer | ReLU | nothing | ReLU |
| last norm of each block | starts at 1 | starts at 0, so that a block starts as the identity | as SAVi |
| padding of stride 2 | one pixel on each side | TensorFlow's `SAME`: one pixel after | as SlotDiffusion |
| weights | He, fan out | LeCun, fan in | as SlotDiffusion |
| epsilon of norms | 1e-5 | 1e-6 | 1e-5 |
"""

import math
from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from slotworks.nn.conv import StridedMap, same_conv

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Blocks of each stage, by the number of layers in the name."""


class ResNetEncoder(StridedMap):
    """Features of a small image, without position embedding.

    Args:
        depth: 18 or 34.
        strides: of the first block of each stage; as many stages as strides, at most four.
        width: channels of the first stage; each further stage has twice as many.
        norm_groups: of every GroupNorm.
        norm_eps: of every GroupNorm.
        stem_kernel: of the first layer, odd.
        stem_pool: the maximum of 3x3 positions behind it, at the same size.
        stem_relu: ReLU after the norm of the first layer.
        zero_init: the last norm of each block starts at 0.
        padding: "torch" pads strided convolutions by one pixel on each side, "same" as TensorFlow does.
        init: of the convolutions: "he" (normal, fan out) or "lecun" (truncated normal, fan in; flax's default).

    >>> import torch
    >>> ResNetEncoder(width=32)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 64, 128])
    """

    def __init__(
        self,
        depth: int = 18,
        *,
        strides: Sequence[int] = (1, 2, 2),
        width: int = 64,
        norm_groups: int = 32,
        norm_eps: float = 1e-5,
        stem_kernel: int = 3,
        stem_pool: bool = False,
        stem_relu: bool = True,
        zero_init: bool = False,
        padding: Literal["torch", "same"] = "torch",
        init: Literal["he", "lecun"] = "he",
    ):
        super().__init__()
        if depth not in BLOCKS or not 1 <= len(strides) <= 4:
            raise ValueError(
                f"depth is {depth} and strides are {tuple(strides)}; give depth 18 or 34 and one to four strides."
            )
        self.strides, self.stem_relu, self.same = tuple(strides), stem_relu, padding == "same"
        self.stem_pool = nn.MaxPool2d(3, 1, padding=1) if stem_pool else nn.Identity()
        self.feature_dim = width * 2 ** (len(self.strides) - 1)
        self.stem = nn.Conv2d(3, width, stem_kernel, padding=stem_kernel // 2, bias=False)
        self.stem_norm = nn.GroupNorm(norm_groups, width, norm_eps)
        blocks, channels = [], width
        for stage, first in enumerate(self.strides):
            for number in range(BLOCKS[depth][stage]):
                stride = 1 if number else first
                block = _Block(channels, width * 2**stage, stride, norm_groups, norm_eps, self.same)
                channels = width * 2**stage
                if zero_init:
                    nn.init.zeros_(block.norm2.weight)
                blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                if init == "he":
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                else:  # cut at two deviations, which are then 0.88 of what they were
                    std = math.sqrt(1 / layer.weight[0].numel()) / 0.87962566103423978
                    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """One feature for every position of the map, row by row."""
        x = self.stem_norm(self.stem(image))
        x = self.blocks(self.stem_pool(x.relu_() if self.stem_relu else x))
        return x.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, dim_in: int, dim: int, stride: int, groups: int, eps: float, same: bool):
        super().__init__()
        self.same = same and stride > 1
        self.conv1 = nn.Conv2d(dim_in, dim, 3, stride, padding=0 if self.same else 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, dim, eps)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, dim, eps)
        self.shortcut: nn.Module | None = None
        if stride > 1 or dim_in != dim:
            conv = nn.Conv2d(dim_in, dim, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.GroupNorm(groups, dim, eps))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        out = same_conv(self.conv1, x) if self.same else self.conv1(x)
        out = self.norm2(self.conv2(self.norm1(out).relu_()))
        return (out + (x if self.shortcut is None else self.shortcut(x))).relu_()
