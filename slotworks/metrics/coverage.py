"""SO, PO, GO: does a slot hold a single object, part of one, or a group of objects?

Fan et al. (2023) and GLASS (table 3) print the share of slots of each kind; slots on the background are the rest.
Neither says where the limits are and no code is public, so **both rules here are ours**, made to fit what the papers
say:

- `iou`: a slot that has an IoU of `threshold` or more with exactly one object is SO, with several GO; of the others, a
  slot that owns a pixel of an object is PO, one that owns none BG. At 0.5 a slot is GO only if it is exactly the union
  of two equal objects: this fits the 0.0 to 2 percent of GLASS. A threshold of 0.25 makes GO tell something.
- `background_majority`: a slot with more background than object pixels is BG. Of the others, SO has an IoU above
  `threshold` with its best object, GO owns more than half of the pixels of several objects, PO is the rest.

A slot without pixels is BG. Every slot counts once, so the four shares of an image sum to one.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from slotworks.metrics.checks import check_choice, check_share, check_table
from slotworks.metrics.contingency import contingency
from slotworks.metrics.overlap import iou_of_table

CoverageRule = Literal["iou", "background_majority"]

KINDS = ("so", "po", "go", "bg")
"""Single object, part of an object, group of objects, background."""


def coverage(
    pred: Integer[Tensor, "b h w"],
    true: Integer[Tensor, "b h w"],
    *,
    num_slots: int,
    valid: Bool[Tensor, "b h w"] | None = None,
    rule: CoverageRule = "iou",
    threshold: float = 0.5,
) -> dict[str, Float64[Tensor, " b"]]:
    """Share of the slots of each image that hold a single object, part of one, a group, or background.

    Args:
        pred: slot ids from 0.
        true: object ids, 0 is background.
        num_slots: slots of the method; those without pixels are background.
        valid: pixels that count; others are removed from objects and slots.
        rule: see the top of this file; neither is that of published code, since there is none.
        threshold: an IoU in (0, 1].

    Returns:
        `so`, `po`, `go` and `bg`, each in [0, 1]. An image without objects has `bg` 1.

    Raises:
        ValueError: as `contingency`, and for an unknown rule or a threshold outside (0, 1].
    """
    table = contingency(pred, true, valid=valid, num_slots=num_slots)
    return coverage_of_table(table, rule=rule, threshold=threshold)


def coverage_of_table(
    table: Int64[Tensor, "b n m"], *, rule: CoverageRule = "iou", threshold: float = 0.5
) -> dict[str, Float64[Tensor, " b"]]:
    """`coverage` from pixels by slot and true id; column 0 is the background and every row a slot."""
    check_table(table)
    check_choice(rule, "rule", CoverageRule)
    check_share(threshold, "threshold")
    objects = table[:, :, 1:]
    iou = iou_of_table(table)[:, :, 1:]
    if rule == "iou":
        count = (iou >= threshold).sum(2)
        background = objects.sum(2) == 0
        single, group = count == 1, count > 1
    else:
        background = (table[:, :, 0] > objects.sum(2)) | (table.sum(2) == 0)
        inside = (2 * objects > objects.sum(1, keepdim=True)).sum(2)
        single = ~background & (iou > threshold).any(2)
        group = ~background & ~single & (inside > 1)
    part = ~(single | group | background)
    kinds = torch.stack([single, part, group, background]).double().mean(2)
    return dict(zip(KINDS, kinds, strict=True))
