"""Average precision of predicted sets of objects (Zhang et al. 2019, as re-implemented by Locatello et al. 2020).

Each predicted object has a place, one score for each class of each property, and a confidence. The predictions of *all*
images are ranked by confidence. One is right if, among the true objects of its image that agree in every property, the
nearest lies within a distance and has not been claimed by a prediction that ranks higher; a nearest object that is
taken is not replaced by the second nearest. Average precision is the area under the precision of that ranking over its
recall, precision made non-increasing.

Vectors are those of `slotworks.data.sets`: three coordinates in [0, 1], the properties, presence or confidence.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from slotworks.metrics.checks import check_floats, check_positive, found

THRESHOLDS = (math.inf, 1.0, 0.5, 0.25, 0.125)
"""Distances of the published tables, in units of CLEVR's floor, which is 6 wide."""
EXTENT = 6.0
"""What the unit interval of a coordinate measures in those units."""


def average_precision(
    pred: Float[Tensor, "b n c"],
    true: Float[Tensor, "b m c"],
    *,
    categories: Sequence[int],
    threshold: float = math.inf,
    extent: float = EXTENT,
    inclusive: bool = False,
) -> float:
    """Average precision over all images at one distance; for several see `average_precisions`.

    Args:
        pred: predicted sets; the last number of a row is its confidence, of which only the order counts.
        true: true sets; the last number is 1 for an object and 0 for padding.
        categories: how many classes each property has, in the order of the vectors.
        threshold: largest distance; infinity asks for the right properties only.
        extent: factor on coordinates before distances are taken.
        inclusive: count a distance equal to the threshold (the released code of DSPN), too; Slot Attention's does not.

    Returns:
        A number in [0, 1]; NaN without any true object, 0 without any prediction. Predictions of equal confidence rank
        in the order of images and rows.

    Raises:
        ValueError: if the sets are not of the same images, rows are not as wide as the categories say, a number is NaN
            or infinite, or the last number of a true row is neither 0 nor 1.
    """
    check_positive({"threshold": threshold})
    nearest, distance, order = _matched(pred, true, categories, extent)
    return _average(nearest, distance, order, _count(true), threshold, inclusive)


def average_precisions(
    pred: Float[Tensor, "b n c"],
    true: Float[Tensor, "b m c"],
    *,
    categories: Sequence[int],
    thresholds: Sequence[float] = THRESHOLDS,
    extent: float = EXTENT,
    inclusive: bool = False,
) -> dict[float, float]:
    """`average_precision` at several distances, by distance; the pairs are compared once."""
    check_positive({f"thresholds[{i}]": value for i, value in enumerate(thresholds)})
    nearest, distance, order = _matched(pred, true, categories, extent)
    return {t: _average(nearest, distance, order, _count(true), t, inclusive) for t in thresholds}


def recall(
    pred: Float[Tensor, "b n c"],
    true: Float[Tensor, "b m c"],
    *,
    categories: Sequence[int],
    threshold: float = math.inf,
    extent: float = EXTENT,
) -> Float[Tensor, " b"]:
    """Share of each image's objects that some prediction finds, whatever its confidence; NaN without objects."""
    check_positive({"threshold": threshold})
    nearest, distance, _ = _matched(pred, true, categories, extent)
    hit = torch.zeros(true.shape[0] * true.shape[1], dtype=torch.bool, device=true.device)
    hit[nearest[_near(distance, threshold, False)]] = True
    return hit.view(true.shape[:2]).double().sum(1) / _present(true).double().sum(1)


def _present(true: Float[Tensor, "b m c"]) -> Tensor:
    return true[..., -1] > 0.5


def _count(true: Float[Tensor, "b m c"]) -> int:
    return int(_present(true).sum())


def _near(distance: Float[Tensor, "..."], threshold: float, inclusive: bool) -> Tensor:
    near = distance <= threshold if inclusive else distance < threshold
    return near & distance.isfinite()  # an infinite distance is no object at all


def _matched(
    pred: Float[Tensor, "b n c"], true: Float[Tensor, "b m c"], categories: Sequence[int], extent: float
) -> tuple[Int64[Tensor, " p"], Float[Tensor, " p"], Int64[Tensor, " p"]]:
    """For each prediction the nearest object with its properties, as a number over all images, and how far it is.

    Infinite where there is none. Also the ranking by confidence.
    """
    check_positive({"extent": extent, **{f"categories[{i}]": count for i, count in enumerate(categories)}})
    for name, value, shape in (("pred", pred, "images rows numbers"), ("true", true, "images objects numbers")):
        empty = isinstance(value, Tensor) and value.ndim == 3 and 0 in value.shape[:2]  # no row is no mistake
        check_floats(value.new_zeros(1, 1, value.shape[2]) if empty else value, name, shape)
    if len(pred) != len(true):
        raise ValueError(f"pred is {found(pred)} and true {found(true)}; they must be of the same images.")
    width = 3 + sum(categories) + 1
    if pred.shape[-1] != width or true.shape[-1] != width:
        raise ValueError(
            f"pred and true have {pred.shape[-1]} and {true.shape[-1]} numbers for each object; with properties of "
            f"{', '.join(map(str, categories))} classes it must be {width}."
        )
    if not bool(((true[..., -1] == 0) | (true[..., -1] == 1)).all()):
        raise ValueError("The last number of a row of true must be 1 for an object or 0 for padding.")
    pred, true = pred.double(), true.double()
    if not true.shape[1]:
        true = true.new_zeros(len(true), 1, width)  # one row of padding in place of none
    distance = extent * (pred[:, :, None, :3] - true[:, None, :, :3]).square().sum(-1).sqrt()  # b n m
    agree, start = _present(true)[:, None, :].expand(distance.shape), 3
    for count in categories:
        own, wanted = (x[..., start : start + count].argmax(-1) for x in (pred, true))
        agree = agree & (own[:, :, None] == wanted[:, None, :])
        start += count
    distance, nearest = distance.masked_fill(~agree, math.inf).min(-1)
    nearest = nearest + true.shape[1] * torch.arange(len(true), device=true.device)[:, None]
    order = pred[..., -1].flatten().sort(descending=True, stable=True).indices
    return nearest.flatten(), distance.flatten(), order


def _average(
    nearest: Int64[Tensor, " p"],
    distance: Float[Tensor, " p"],
    order: Int64[Tensor, " p"],
    num_true: int,
    threshold: float,
    inclusive: bool,
) -> float:
    if num_true == 0 or not len(order):
        return 0.0 if num_true else math.nan
    near, claimed = _near(distance, threshold, inclusive)[order], nearest[order]
    first = torch.full((int(nearest.max()) + 1,), len(order), device=order.device)  # rank of the first claim
    ranks = torch.arange(len(order), device=order.device)
    first.scatter_reduce_(0, claimed[near], ranks[near], "amin")
    right = near & (first[claimed] == ranks)
    precision = right.cumsum(0).double() / (ranks + 1)
    precision = precision.flip(0).cummax(0).values.flip(0)  # the best that any lower rank still reaches
    return float(precision[right].sum() / num_true)  # each right one adds 1 / num_true of recall
