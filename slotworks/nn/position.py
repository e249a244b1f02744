"""Position embeddings."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def corner_grid(
    height: int, width: int, *, centers: bool = False, device: torch.device | None = None
) -> Float[Tensor, "4 h w"]:
    """Distances of every pixel to the four sides, each in [0, 1]: `y, x, 1 - y, 1 - x`.

    Locatello et al. 2020, supplement 5.2. End points included: the top left corner is `0, 0, 1, 1`. With `centers`
    the middles of pixels count (LSD, GLASS): the top left one of `h w` is at `1 / (2 h), 1 / (2 w)`.
    """
    y, x = (
        (torch.arange(n, device=device) + 0.5) / n if centers else torch.linspace(0, 1, n, device=device)
        for n in (height, width)
    )
    y, x = y[:, None].expand(height, width), x[None, :].expand(height, width)
    return torch.stack([y, x, 1 - y, 1 - x])


class PositionEmbedding(nn.Module):
    """A learned linear map of `corner_grid`, to be added to features (Locatello et al. 2020, supplement 5.2).

    >>> PositionEmbedding(channels=32)(35, 35).shape
    torch.Size([1, 32, 35, 35])
    """

    def __init__(self, channels: int, *, centers: bool = False, signed: bool = False):
        super().__init__()
        self.centers, self.signed = centers, signed  # signed: row and column from -1 to 1 alone (SAVi)
        self.project = nn.Linear(2 if signed else 4, channels)

    def forward(self, height: int, width: int) -> Float[Tensor, "1 c h w"]:
        """The embedding for a map of this size in pixels."""
        weight = self.project.weight
        grid = corner_grid(height, width, centers=self.centers, device=weight.device)
        grid = (2 * grid[:2] - 1 if self.signed else grid).to(weight).movedim(0, -1)  # h w 4
        return self.project(grid).movedim(-1, 0)[None]


def sine_grid(height: int, width: int, channels: int, temperature: float = 10.0) -> Float[Tensor, "p {channels}"]:
    """Sines and cosines of column and row of every patch, row major: a quarter of the channels each, as MAE's.

    The waves are `2 pi` to `2 pi * temperature` patches long, both ends included. `channels` is a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"channels is {channels}; sines and cosines of two axes need a multiple of 4.")
    speed = temperature ** -torch.linspace(0, 1, channels // 4, device="cpu")
    row, column = torch.meshgrid(*(torch.arange(size, device="cpu") for size in (height, width)), indexing="ij")
    across, down = column.flatten()[:, None] * speed, row.flatten()[:, None] * speed
    return torch.cat([across.sin(), across.cos(), down.sin(), down.cos()], dim=1)


def wave_coordinates(height: int, width: int) -> Float[Tensor, "p 10"]:
    """Row and column of every patch, row major, and their sines and cosines, each of variance about one.

    Rows and columns run from -1 to 1, where the waves have half a period and a whole one.
    """
    axes = [torch.linspace(-1, 1, size, device="cpu") for size in (height, width)]
    place = torch.cartesian_prod(*axes)  # p 2
    waves = [wave(place * math.pi * k / 2) for k in (1, 2) for wave in (torch.sin, torch.cos)]
    return torch.cat([3**0.5 * place, *(2**0.5 * wave for wave in waves)], dim=1)
