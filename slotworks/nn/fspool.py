"""Featurewise sort pooling (Zhang, Hare and Prügel-Bennett 2020, FSPool, arXiv 1906.02795)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FSPool(nn.Module):
    """A set to a vector: each feature is sorted over the set, then summed with weights that depend on the rank.

    The weights are a piecewise linear function of the rank between 0 (largest) and 1 (smallest), learned for each
    feature, so that sets of any size can be pooled.

    Args:
        dim: features.
        num_pieces: pieces of the function.

    >>> FSPool(8)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, dim: int, num_pieces: int = 20):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, num_pieces + 1))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        """Pool the axis before the last."""
        return (x.sort(dim=1, descending=True).values * self.rank_weights(x.shape[1])).sum(dim=1)

    def rank_weights(self, count: int) -> Float[Tensor, "n d"]:
        """The weight of each rank in a set of `count` elements."""
        last = self.weight.shape[1] - 1
        place = torch.arange(count, device=self.weight.device, dtype=self.weight.dtype) * last / max(count - 1, 1)
        left = place.long().clamp(max=last)
        share = place - left
        right = (left + 1).clamp(max=last)
        return ((1 - share) * self.weight[:, left] + share * self.weight[:, right]).mT
