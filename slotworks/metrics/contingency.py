"""From soft masks to pixel counts: the one table behind ARI, mBO and mIoU.

    soft masks  --segmentation-->  slot ids  --contingency-->  how many pixels of object m are owned by slot n

Every score of `metrics.ari` and `metrics.overlap` is a function of this table, so the pixels are visited once however
many scores are wanted. A video is one image with more pixels: `contingency(pred.flatten(1, 2), true.flatten(1, 2))` for
`b t h w` gives the video scores of SAVi, in which a slot has to keep its object over time. What is given is checked
here for all of them, see `metrics.checks`.
"""

from itertools import repeat
from typing import Literal

import torch
from jaxtyping import Bool, Int64, Integer, Real
from torch import Tensor
from torch.nn.functional import interpolate

from slotworks.metrics.checks import check_pair, found
from slotworks.types import all_finite

MAX_IDS = 4096
"""Object and slot ids are column and row numbers of a table; larger ones are a mistake, such as colours read as ids."""

CHUNK = 2**20
"""Pixels counted at once. On a CPU larger intermediates need fresh memory each time, which costs more than counting."""


def segmentation(
    masks: Real[Tensor, "*b n h w"] | Bool[Tensor, "*b n h w"], size: tuple[int, int]
) -> Int64[Tensor, "*b height width"]:
    """Which slot owns each pixel: masks are resized bilinearly (`align_corners=False`), then the largest wins.

    In this order, as DINOSAUR, SPOT, SlotDiffusion, StableLSD and GLASS do: the largest first and nearest-neighbour
    resizing second would give blocky borders and lower overlaps. Ties go to the lowest slot.

    Args:
        masks: soft masks or attention maps; scores of any scale and sign will do, also integers (as 0 to 255) or bool.
        size: height and width of the result in pixels, usually of the true masks.

    Raises:
        ValueError: if there is no slot or no pixel, or a mask holds NaN or infinity.
    """
    if not isinstance(masks, Tensor) or masks.ndim < 3 or 0 in masks.shape[-3:]:
        raise ValueError(f"The masks are {found(masks)}; expected (..., slots, height, width) with a slot at least.")
    if min(size) < 1:
        raise ValueError(f"size is {tuple(size)}; expected a height and a width in pixels.")
    if not all_finite(masks):
        raise ValueError("The masks hold NaN or infinity: no slot owns such a pixel.")
    if not masks.is_floating_point():
        masks = masks.double()  # integers would be rounded when they are resized, which creates ties
    if masks.shape[-2:] != size:
        flat = masks.reshape(-1, 1, *masks.shape[-2:])
        if flat.dtype in (torch.float16, torch.bfloat16):
            flat = flat.float()  # half precision would create ties between neighbouring weights
        flat = interpolate(flat, size=size, mode="bilinear", align_corners=False)
        masks = flat.reshape(*masks.shape[:-2], *size)
    return masks.max(dim=-3).indices  # as argmax, first of equal ones, and several times quicker on a CPU


def contingency(
    pred: Integer[Tensor, "b h w"],
    true: Integer[Tensor, "b h w"],
    *,
    valid: Bool[Tensor, "b h w"] | None = None,
    num_slots: int | None = None,
) -> Int64[Tensor, "b n m"]:
    """How many pixels of true id `m` slot `n` owns, for each image.

    Args:
        pred: slot ids from 0.
        true: object ids, 0 is background. Ids need not be contiguous: an id without pixels is an empty column.
        valid: pixels that count; the others are removed from both sides. Without it all pixels count.
        num_slots: rows of the table; by default one more than the largest slot id of the batch.

    Raises:
        ValueError: for ids below 0 or from 4096 up, and for slot ids not below `num_slots`; for what is no map of ids,
            or maps of different shapes. No map stands for a whole batch.
    """
    pred, true = check_pair(pred, true, valid)
    rows, columns = check_numbers(pred, "slot", num_slots), check_numbers(true, "object")
    step = max(1, CHUNK // max(1, pred[:1].numel()))
    starts = range(0, max(len(pred), 1), step)
    valids = repeat(None, len(starts)) if valid is None else valid.split(step)
    parts = zip(pred.split(step), true.split(step), valids, strict=True)
    return torch.cat([_count(*part, rows, columns) for part in parts])


def objects_of(table: Int64[Tensor, "b n m"], *, count_background: bool = False) -> Bool[Tensor, "b m"]:
    """Which true ids count as objects: those with at least one pixel, without id 0 unless `count_background`.

    An object that lost all its pixels (to a crop, a void region, an overlap) does not count, as in DINOSAUR and SPOT.
    """
    objects = table.sum(1) > 0
    if not count_background:
        objects[:, 0] = False
    return objects


def _count(pred: Tensor, true: Tensor, valid: Tensor | None, rows: int, columns: int) -> Int64[Tensor, "b n m"]:
    """One bincount for all images: image, slot and object make one number."""
    bins = len(pred) * rows * columns
    index = pred.long() * columns
    index += true
    index += (torch.arange(len(pred), device=pred.device) * (rows * columns)).view(-1, *[1] * (pred.ndim - 1))
    if valid is not None:
        index.masked_fill_(~valid, bins)  # a bin of its own, dropped below
    return torch.bincount(index.flatten(), minlength=bins + 1)[:bins].view(len(pred), rows, columns)


def check_numbers(ids: Integer[Tensor, "*p"], what: Literal["slot", "object"], limit: int | None = None) -> int:
    """How many rows or columns a table of these ids needs: `limit`, or one more than the largest.

    Raises:
        ValueError: for ids below 0, from 4096 or from `limit` up, and for a limit below one.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"num_slots is {limit}; expected one slot or more.")
    if ids.numel() == 0:
        return limit or 1
    low, high = (int(value) for value in ids.aminmax())
    if low < 0 or high >= MAX_IDS:
        raise ValueError(
            f"{what} ids run from {low} to {high}; expected numbers from 0 to {MAX_IDS - 1}. "
            "Mark pixels that should not count in `valid` and renumber large ids from 1."
        )
    if limit is not None and high >= limit:
        raise ValueError(f"pred holds slot id {high}; with num_slots={limit} ids must be below {limit}.")
    return limit or high + 1
