"""Adjusted Rand index: do two pixels share a slot if and only if they share an object?

The Rand index adjusted for chance (Hubert and Arabie 1985): 1 for the same partition, 0 on average for a random one,
negative for worse. The names of slots and objects do not matter. Two variants must never be mixed:

- `ari`: all pixels, the background is one more object.
- `fg_ari`: only pixels of true objects; printed as FG-ARI (SAVi, SLATE, DINOSAUR, SPOT, GLASS) and, under the name ARI,
  by IODINE and Slot Attention.
"""

import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from slotworks.metrics.checks import check_table
from slotworks.metrics.contingency import contingency


def ari(
    pred: Integer[Tensor, "b h w"], true: Integer[Tensor, "b h w"], *, valid: Bool[Tensor, "b h w"] | None = None
) -> Float64[Tensor, " b"]:
    """Adjusted Rand index over all pixels, the background being one more object.

    Args:
        pred: slot ids from 0.
        true: object ids, 0 is background.
        valid: pixels that count (not void, not where objects overlap).

    Returns:
        One score per image, at most 1. 1 where nothing can be compared: no valid pixel, or one slot and one object.

    Raises:
        ValueError: as `contingency`.
    """
    return ari_of_table(contingency(pred, true, valid=valid))


def fg_ari(
    pred: Integer[Tensor, "b h w"], true: Integer[Tensor, "b h w"], *, valid: Bool[Tensor, "b h w"] | None = None
) -> Float64[Tensor, " b"]:
    """Adjusted Rand index over the pixels of true objects (`true > 0`); slots are not filtered.

    An image without objects scores 1 and so does one with a single object in one slot; a single object in two slots
    scores 0. Args and Returns as in `ari`.
    """
    return ari_of_table(contingency(pred, true, valid=valid)[:, :, 1:])


def ari_of_table(table: Int64[Tensor, "b n m"]) -> Float64[Tensor, " b"]:
    """Adjusted Rand index of the partitions behind a table; drop its column 0 for FG-ARI.

    Counts are exact (int64); only their ratio is rounded. A clip of 24 frames has 1e12 pairs of pixels: too many for
    float32.
    """
    check_table(table)
    pairs = _pairs(table).sum((1, 2))  # that agree: same slot, same object
    slot_pairs = _pairs(table.sum(2)).sum(1)
    object_pairs = _pairs(table.sum(1)).sum(1)
    all_pairs = _pairs(table.sum((1, 2)))
    expected = slot_pairs.double() * object_pairs.double() / all_pairs.clamp(min=1).double()
    score = (pairs - expected) / ((slot_pairs + object_pairs).double() / 2 - expected)
    # The denominator is zero only if both partitions are one cluster, or both are single pixels: the same partition.
    same = (slot_pairs == object_pairs) & ((slot_pairs == 0) | (slot_pairs == all_pairs))
    return torch.where(same, 1.0, score)


def _pairs(count: Int64[Tensor, "*b"]) -> Int64[Tensor, "*b"]:
    return count * (count - 1) // 2
