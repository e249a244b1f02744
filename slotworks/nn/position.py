"""Position embeddings."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def corner_grid(height: int, width: int) -> Float[Tensor, "4 h w"]:
    """Distances of every pixel to the four sides, each in [0, 1]: `y, x, 1 - y, 1 - x`.

    Locatello et al. 2020, supplement 5.2. End points included: the top left corner is `0, 0, 1, 1`.
    """
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None, :].expand(height, width)
    return torch.stack([y, x, 1 - y, 1 - x])


class PositionEmbedding(nn.Module):
    """A learned linear map of `corner_grid`, to be added to features (Locatello et al. 2020, supplement 5.2).

    >>> PositionEmbedding(channels=32)(35, 35).shape
    torch.Size([1, 32, 35, 35])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.project = nn.Linear(4, channels)
        self._grids: dict[tuple, Tensor] = {}  # no buffer: the size may change between calls

    def forward(self, height: int, width: int) -> Float[Tensor, "1 c h w"]:
        """The embedding for a map of this size in pixels."""
        weight = self.project.weight
        key = (height, width, weight.device, weight.dtype)
        if key not in self._grids:
            self._grids[key] = corner_grid(height, width).to(weight)
        grid = self._grids[key].movedim(0, -1)  # h w 4
        return self.project(grid).movedim(-1, 0)[None]
