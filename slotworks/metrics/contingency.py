"""From soft masks to pixel counts: the one table behind ARI, mBO and mIoU.

    soft masks  --segmentation-->  slot ids  --contingency-->  how many pixels of object m are owned by slot n

Every score of `metrics.ari` and `metrics.overlap` is a function of this table, so the pixels are visited once however
many scores are wanted. A video is one image with more pixels: `contingency(pred.flatten(1, 2), true.flatten(1, 2))` for
`b t h w` gives the video scores of SAVi, in which a slot has to keep its object over time.
"""

from itertools import repeat

import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor
from torch.nn.functional import interpolate

MAX_IDS = 4096
"""Object and slot ids are column and row numbers of a table; larger ones are a mistake, such as colours read as ids."""

CHUNK = 2**20
"""Pixels counted at once. On a CPU larger intermediates need fresh memory each time, which costs more than counting."""


def segmentation(masks: Float[Tensor, "*b n h w"], size: tuple[int, int]) -> Int64[Tensor, "*b height width"]:
    """Which slot owns each pixel: masks are resized bilinearly (`align_corners=False`), then the largest wins.

    In this order, as DINOSAUR, SPOT, SlotDiffusion, StableLSD and GLASS do: the largest first and nearest-neighbour
    resizing second would give blocky borders and lower overlaps. Ties go to the lowest slot.

    Args:
        masks: soft masks or attention maps; scores of any scale and sign will do.
        size: height and width of the result in pixels, usually of the true masks.
    """
    if masks.shape[-2:] != size:
        flat = masks.reshape(-1, 1, *masks.shape[-2:])
        if flat.dtype in (torch.float16, torch.bfloat16):
            flat = flat.float()  # half precision would create ties between neighbouring weights
        flat = interpolate(flat, size=size, mode="bilinear", align_corners=False)
        masks = flat.reshape(*masks.shape[:-2], *size)
    return masks.max(dim=-3).indices  # as argmax, first of equal ones, and several times quicker on a CPU


def contingency(
    pred: Integer[Tensor, "b *p"],
    true: Integer[Tensor, "b *p"],
    *,
    valid: Bool[Tensor, "b *p"] | None = None,
    num_slots: int | None = None,
) -> Int64[Tensor, "b n m"]:
    """How many pixels of true id `m` slot `n` owns, for each image.

    Args:
        pred: slot ids from 0.
        true: object ids, 0 is background. Ids need not be contiguous: an id without pixels is an empty column.
        valid: pixels that count; the others are removed from both sides. Without it all pixels count.
        num_slots: rows of the table; by default one more than the largest slot id of the batch.

    Raises:
        ValueError: for ids below 0 or from 4096 up, and for slot ids not below `num_slots`.
    """
    rows, columns = _num_ids(pred, "slot"), _num_ids(true, "object")
    if num_slots is not None and rows > num_slots:
        raise ValueError(f"pred holds slot id {rows - 1}; with num_slots={num_slots} ids must be below {num_slots}.")
    rows = max(num_slots or rows, 1)
    step = max(1, CHUNK // max(1, pred[:1].numel()))
    parts = zip(pred.split(step), true.split(step), repeat(None) if valid is None else valid.split(step), strict=False)
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


def _num_ids(ids: Integer[Tensor, "*p"], what: str) -> int:
    if ids.numel() == 0:
        return 1
    low, high = (int(value) for value in ids.aminmax())
    if low < 0 or high >= MAX_IDS:
        raise ValueError(
            f"{what} ids run from {low} to {high}; expected numbers from 0 to {MAX_IDS - 1}. "
            "Mark pixels that should not count in `valid` and renumber large ids from 1."
        )
    return high + 1
