"""The convolutional encoder of STEVE, which LSD also took for its images."""

from jaxtyping import Float
from torch import Tensor, nn

from slotworks.nn.init import glorot_, he_glorot_
from slotworks.nn.position import PositionEmbedding


class SteveEncoder(nn.Module):
    """Four 5x5 convolutions, the last without ReLU; a position embedding, a LayerNorm and an MLP.

    Singh et al. 2022, arXiv 2205.14065, from the released code. Unlike `CNNEncoder`: two pixels of padding on every
    side, positions are the middles of pixels, He's initial weights before a ReLU. Images are in [0, 1].

    Args:
        dim: width of the features.
        channels: of the first three convolutions.
        stride: of the first convolution: 2 for images of 128 pixels, 1 for those of 64.

    >>> import torch
    >>> SteveEncoder(dim=32, channels=16, stride=2)(torch.zeros(2, 3, 24, 16)).shape
    torch.Size([2, 96, 32])
    """

    def __init__(self, dim: int = 192, channels: int = 64, *, stride: int = 2):
        super().__init__()
        self.stride = stride
        self.convs = nn.Sequential(
            *(nn.Conv2d(3, channels, 5, stride, 2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(channels, channels, 5, 1, 2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(channels, channels, 5, 1, 2), nn.ReLU(inplace=True)),
            nn.Conv2d(channels, dim, 5, 1, 2),
        )
        self.position = PositionEmbedding(dim, centers=True)
        glorot_(self)
        for layer in list(self.convs)[:-1]:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        self.norm = nn.LayerNorm(dim)
        self.mlp = he_glorot_(nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map for an image of this size in pixels."""
        return -(-height // self.stride), -(-width // self.stride)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """One feature for every position of the map, row by row."""
        x = self.convs(image)
        x = x + self.position(x.shape[-2], x.shape[-1])
        return self.mlp(self.norm(x.flatten(2).transpose(1, 2)))
