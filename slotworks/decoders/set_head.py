"""Slots to objects: each slot alone through a shared MLP (Locatello et al. 2020, supplement, table 7)."""

from jaxtyping import Float
from torch import Tensor, nn

from slotworks.nn.init import glorot_


class SetHead(nn.Module):
    """One hidden layer with ReLU, then a sigmoid on every number: coordinates, classes and presence alike.

    >>> import torch
    >>> SetHead(slot_dim=64, output_dim=19)(torch.randn(2, 10, 64)).shape
    torch.Size([2, 10, 19])
    """

    def __init__(self, slot_dim: int, output_dim: int, hidden_dim: int = 64):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(slot_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, output_dim))
        glorot_(self)

    def forward(self, slots: Float[Tensor, "b n d"]) -> Float[Tensor, "b n c"]:
        """Vectors with numbers in (0, 1)."""
        return self.mlp(slots).sigmoid()
