"""An image to one vector: the ResNet-34 of Deep Set Prediction Networks."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from slotworks.nn.init import glorot_


class ImageCode(nn.Module):
    """ResNet-34 (He et al. 2016, with BatchNorm) without its last pooling, then two convolutions to one position.

    Zhang et al. 2019 (arXiv 1906.06565), released code. An image of 128 x 128 pixels becomes a map of 4 x 4, 2 x 2 and
    1 x 1; nothing is pre-trained, and all weights are Glorot's.

    Args:
        dim: numbers in the vector.
        width: channels of the first stage; each later one has twice as many.
        blocks: of each stage. Four stages take images of 97 to 128 pixels a side, three of 49 to 64, and so on.

    >>> import torch
    >>> ImageCode(8, width=8).eval()(torch.zeros(2, 3, 128, 128)).shape
    torch.Size([2, 8])
    """

    def __init__(self, dim: int = 512, *, width: int = 64, blocks: Sequence[int] = (3, 4, 6, 3)):
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        ]
        channels = width
        for stage, count in enumerate(blocks):
            for number in range(count):
                stride = 2 if stage and not number else 1
                layers.append(_Block(channels, width * 2**stage, stride))
                channels = width * 2**stage
        layers += [nn.Conv2d(channels, channels, 3, 2, padding=1), nn.BatchNorm2d(channels)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, dim, 2))
        self.largest = 8 * 2 ** len(blocks)
        glorot_(self)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Images in any range."""
        code = self.layers(image)
        if code.shape[-2:] != (1, 1):
            raise ValueError(
                f"Images of {image.shape[-2]} x {image.shape[-1]} pixels end in {tuple(code.shape[-2:])} positions, "
                f"expected one; give images of {self.largest * 3 // 4 + 1} to {self.largest} pixels a side."
            )
        return code.flatten(1)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, dim_in: int, dim: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(dim_in, dim, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(dim)
        self.shortcut: nn.Module | None = None
        if stride > 1 or dim_in != dim:
            self.shortcut = nn.Sequential(nn.Conv2d(dim_in, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        out = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu_()))
        return (out + (x if self.shortcut is None else self.shortcut(x))).relu_()
