"""SO, PO, GO: does a slot hold a single object, part of one, or a group of objects?

Fan et al. (2023) and GLASS (table 3) print the share of slots of each kind; slots on the background are the rest.
Neither says where the limits are and no code is public, so **all rules here are ours**:

- `iou`: a slot that has an IoU of `threshold` or more with exactly one object is SO, with several GO; of the others, a
  slot that owns a pixel of an object is PO, one that owns none BG. Objects that share no pixel cannot both have an IoU
  above 0.5 with a slot, so that at 0.5 GO needs an exact tie. A threshold of 0.25 makes GO tell something.
- `background_majority`: a slot with more background than object pixels is BG. Of the others, SO has an IoU above
  `threshold` with its best object, GO owns more than half of the pixels of several objects, PO is the rest.
- `combined`: BG as in `iou`, a slot that owns no pixel of an object; SO and GO as in `background_majority`; PO is the
  rest. Of the three it alone gives shares of the size of GLASS's table: docs/protocols.md has the evidence.

A slot without pixels is BG. Every slot counts once, so the four shares of an image sum to one.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from slotworks.metrics.checks import check_choice, check_share, check_table
from slotworks.metrics.contingency import contingency
from slotworks.metrics.overlap import iou_of_table

CoverageRule = Literal["iou", "background_majority", "combined"]

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
        rule: see the top of this file; none is that of published code, since there is none.
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
        mostly_background = (table[:, :, 0] > objects.sum(2)) | (table.sum(2) == 0)
        inside = (2 * objects > objects.sum(1, keepdim=True)).sum(2)
        single = ~mostly_background & (iou > threshold).any(2)
        group = ~mostly_background & ~single & (inside > 1)
        background = mostly_background if rule == "background_majority" else objects.sum(2) == 0
    part = ~(single | group | background)
    kinds = torch.stack([single, part, group, background]).double().mean(2)
    return dict(zip(KINDS, kinds, strict=True))
