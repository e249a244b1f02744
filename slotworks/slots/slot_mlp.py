"""Slots from an MLP over the whole feature map: the baseline Slot MLP, without attention or iterations."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from slotworks.nn.init import glorot_


class SlotMLP(nn.Module):
    """Features, resized and flattened, to all slots at once (Locatello et al. 2020, supplement, tables 8 and 9).

    The tables resize to 16 x 16 before flattening; their text speaks of images, but the block replaces Slot Attention
    behind the encoder, so what is resized are feature maps (bilinear, without antialiasing). The number of slots and
    their order are fixed in the weights.

    Args:
        feature_dim: width of the features.
        num_slots: slots.
        slot_dim: width of a slot.
        hidden_dims: `(512, 512)` for set prediction (table 8), `(512, 1024, 1024)` for object discovery (table 9).
        per_slot_dim: hidden width of a second MLP that each slot passes alone (table 9: 64); None: there is none.
        side: height and width that maps are resized to.

    >>> import torch
    >>> SlotMLP(64, num_slots=10, slot_dim=64)(torch.randn(2, 1024, 64), (32, 32)).shape
    torch.Size([2, 10, 64])
    """

    def __init__(
        self,
        feature_dim: int,
        num_slots: int,
        slot_dim: int,
        *,
        hidden_dims: Sequence[int] = (512, 512),
        per_slot_dim: int | None = None,
        side: int = 16,
    ):
        super().__init__()
        self.num_slots, self.side = num_slots, side
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise((feature_dim * side**2, *hidden_dims)):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dims[-1], num_slots * slot_dim))
        self.per_slot = None
        if per_slot_dim:
            self.per_slot = nn.Sequential(
                nn.Linear(slot_dim, per_slot_dim), nn.ReLU(), nn.Linear(per_slot_dim, slot_dim)
            )
        glorot_(self)

    def forward(self, features: Float[Tensor, "b p c"], grid: tuple[int, int]) -> Float[Tensor, "b n d"]:
        """`grid` is the height and width behind `p`."""
        x = features.mT.unflatten(-1, grid)
        if grid != (self.side, self.side):
            x = interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)
        slots = self.mlp(x.flatten(1)).unflatten(1, (self.num_slots, -1))
        return slots if self.per_slot is None else self.per_slot(slots)
