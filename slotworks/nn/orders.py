"""Orders in which a patch grid can be read, for autoregressive decoders."""

from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

NUM_ORDERS = 9
"""How many orders `patch_orders` gives."""


@cache
def patch_orders(height: int, width: int) -> Int[Tensor, "9 p"]:
    """The nine orders of SPOT (Kakogeorgiou et al. 2024, section 3.2) on a grid of patches; order 0 is row by row.

    Row `i`, place `j` is the row-major index of the patch that order `i` reads as number `j`; `argsort` of a row leads
    back. Orders 0, 3, 5, 7 read rows, 1, 2, 4, 6 columns, from each of the four corners, numbered as in SPOT's code:
    5 is the reverse of 0. Order 8 is a spiral that ends in the top right corner.

    >>> patch_orders(3, 3)[8].tolist()
    [4, 1, 0, 3, 6, 7, 8, 5, 2]
    """
    rows = torch.arange(height * width, device="cpu").view(height, width)  # kept, whatever the default device is now
    columns = rows.T
    corners = [
        rows,  # 0: from the top left
        columns,
        columns.flip(0),  # 2: from the top right
        rows.flip(1),
        columns.flip(0, 1),  # 4: from the bottom right
        rows.flip(0, 1),
        columns.flip(1),  # 6: from the bottom left
        rows.flip(0),
    ]
    left, outwards = (
        rows.rot90(),
        [],
    )  # from outside to inside: right column downwards, bottom row, left column, top row
    while left.numel():
        outwards.append(left[0])
        left = left[1:].rot90()
    return torch.stack([*(order.flatten() for order in corners), torch.cat(outwards).flip(0)])
