"""Overlap of slots with objects: mBO, mIoU, CorLoc and object recovery.

For object mask `g` and slot mask `s`, both without pixels that do not count, `IoU = |g and s| / |g or s|`. Per image:

- mBO, mean best overlap: the mean over objects of the best IoU; one slot may serve several objects.
- mIoU: one slot per object, matched so that the sum of IoUs is largest; an object without a slot counts 0. mIoU <= mBO.
- CorLoc: 1 if some object has an IoU above 0.5 with some slot.
- Object recovery: the share of objects with a slot of IoU above 0.5.

With instance masks these are mBO_i and mIoU_i, with one mask per class of the image mBO_c and mIoU_c. Scores of one
image are averaged over its objects; an image without objects does not count and gets NaN.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from slotworks.matching import best_pairs
from slotworks.metrics.checks import check_like, check_table
from slotworks.metrics.contingency import contingency, objects_of

FOUND = 0.5
"""An object is found if a slot overlaps it with a larger IoU (Vo et al. 2020)."""


def mbo(
    pred: Integer[Tensor, "b h w"],
    true: Integer[Tensor, "b h w"],
    *,
    valid: Bool[Tensor, "b h w"] | None = None,
    count_background: bool = False,
) -> Float64[Tensor, " b"]:
    """Mean best overlap (Pont-Tuset et al. 2017), as in DINOSAUR.

    Args:
        pred: slot ids from 0.
        true: object or class ids, 0 is background.
        valid: pixels that count; others are removed from objects and slots, so covering them costs nothing.
        count_background: whether the background is one more object. Published tables differ: see `slotworks.protocols`.

    Returns:
        One score per image in [0, 1]; NaN for an image without objects.

    Raises:
        ValueError: as `contingency`.
    """
    table = contingency(pred, true, valid=valid)
    return mean_best(iou_of_table(table), objects_of(table, count_background=count_background))


def miou(
    pred: Integer[Tensor, "b h w"],
    true: Integer[Tensor, "b h w"],
    *,
    valid: Bool[Tensor, "b h w"] | None = None,
    count_background: bool = False,
) -> Float64[Tensor, " b"]:
    """Mean IoU under the best one-to-one matching of slots and objects. Args and Returns as in `mbo`."""
    table = contingency(pred, true, valid=valid)
    return mean_matched(iou_of_table(table), objects_of(table, count_background=count_background))


def corloc(
    pred: Integer[Tensor, "b h w"], true: Integer[Tensor, "b h w"], *, valid: Bool[Tensor, "b h w"] | None = None
) -> Float64[Tensor, " b"]:
    """1 if at least one object is found, else 0; NaN for an image without objects."""
    table = contingency(pred, true, valid=valid)
    objects = objects_of(table)
    found = (iou_of_table(table).amax(1) > FOUND) & objects
    return found.any(1).double().where(objects.any(1), torch.nan)


def object_recovery(
    pred: Integer[Tensor, "b h w"], true: Integer[Tensor, "b h w"], *, valid: Bool[Tensor, "b h w"] | None = None
) -> Float64[Tensor, " b"]:
    """Share of the objects that are found, in [0, 1]; NaN for an image without objects."""
    table = contingency(pred, true, valid=valid)
    return _mean_over((iou_of_table(table).amax(1) > FOUND).double(), objects_of(table))


def iou_of_table(table: Int64[Tensor, "b n m"]) -> Float64[Tensor, "b n m"]:
    """IoU of every slot with every true id; 0 where both are empty."""
    check_table(table)
    union = table.sum(2, keepdim=True) + table.sum(1, keepdim=True) - table
    return table.double() / union.clamp(min=1)


def mean_best(iou: Float64[Tensor, "b n m"], objects: Bool[Tensor, "b m"]) -> Float64[Tensor, " b"]:
    """Mean over objects of the best IoU (mBO)."""
    check_like(objects, "objects", iou[:, 0], "iou[:, 0]")
    return _mean_over(iou.amax(1), objects)


def mean_matched(iou: Float64[Tensor, "b n m"], objects: Bool[Tensor, "b m"]) -> Float64[Tensor, " b"]:
    """Mean over objects of the IoU with their matched slot (mIoU)."""
    return _mean_over((iou * match(iou, objects)).sum(1), objects)


def match(score: Float64[Tensor, "b n m"], objects: Bool[Tensor, "b m"]) -> Bool[Tensor, "b n m"]:
    """One-to-one matching of slots and objects with the largest total score (Kuhn 1955).

    With fewer slots than objects every slot has an object, with more every object has a slot. Where several matchings
    are equally good, which one is returned is not defined; the total is.
    """
    check_like(objects, "objects", score[:, 0], "score[:, 0]")
    chosen = np.zeros(score.shape, dtype=bool)
    for image, (scores, is_object) in enumerate(zip(score.cpu().numpy(), objects.cpu().numpy(), strict=True)):
        ids = is_object.nonzero()[0]
        slots, columns = best_pairs(scores[:, ids])
        chosen[image, slots, ids[columns]] = True
    return torch.from_numpy(chosen).to(score.device)


def _mean_over(values: Float64[Tensor, "b m"], objects: Bool[Tensor, "b m"]) -> Float64[Tensor, " b"]:
    """Mean over the objects of each image; NaN without objects."""
    return values.where(objects, 0.0).sum(1) / objects.sum(1)
