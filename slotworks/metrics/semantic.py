"""Semantic segmentation over a whole data set: which class is predicted where, and the mean IoU over classes.

Unlike the scores of `metrics.overlap`, which are means over images, these count pixels over all images first:

    table of each image, slots x classes  --rule-->  table of the data set, predicted x true class  -->  IoU per class

Class 0 is the background and counts as a class. Three rules say which class a slot stands for:

- `by_label`: slot `k` is class `k`, for methods that name what they find (MaskCLIP);
- `by_hungarian`: one assignment of slots to classes for the whole data set, the one with the largest sum of IoUs
  (as in DeepSpectral's code) or of pixels; for methods whose slot `k` is the same cluster in every image;
- `by_image`: a new assignment in every image, as DiffCut's code does for VOC and COCO-Object.

The third gives much larger numbers than the second: it needs no idea of classes that holds from image to image.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor
from torch.nn.functional import pad

from slotworks.matching import best_pairs
from slotworks.metrics.checks import check_choice, check_pair, check_positive, check_table
from slotworks.metrics.contingency import contingency

Largest = Literal["iou", "pixels"]


def class_tables(
    pred: Integer[Tensor, "b h w"],
    true: Integer[Tensor, "b h w"],
    *,
    num_slots: int,
    num_classes: int,
    valid: Bool[Tensor, "b h w"] | None = None,
) -> Int64[Tensor, "b n m"]:
    """How many pixels of class `m` slot `n` owns, for each image.

    Args:
        pred: slot ids from 0, below `num_slots`.
        true: class ids from 0 (background), below `num_classes`.
        num_slots: rows.
        num_classes: columns, the background included.
        valid: pixels that count; void ones do not.

    Raises:
        ValueError: for ids that are too large or negative, and as `contingency`.
    """
    pred, true = check_pair(pred, true, valid)
    check_positive({"num_classes": num_classes})
    true = true if valid is None else true.masked_fill(~valid, 0)  # void is often stored as 255
    table = contingency(pred, true, valid=valid, num_slots=num_slots)
    if table.shape[2] > num_classes:
        raise ValueError(
            f"true holds class id {table.shape[2] - 1}; with {num_classes} classes, the background included, ids must "
            f"be below {num_classes}. Leave void pixels out with `valid`."
        )
    return pad(table, (0, num_classes - table.shape[2]))


def by_label(tables: Int64[Tensor, "b n m"]) -> Int64[Tensor, "_ m"]:
    """Slot `k` is class `k`; further slots are no class.

    Returns:
        Pixels of predicted class (row) and true class (column); the last row holds pixels that got no class.
    """
    check_table(tables)
    classes = tables.shape[2]
    return _assigned(tables.sum(0), torch.arange(tables.shape[1]).clamp(max=classes))


def by_hungarian(tables: Int64[Tensor, "b n m"], *, largest: Largest = "iou") -> Int64[Tensor, "_ m"]:
    """One assignment of slots to classes, one to one, for all images; slots left over are no class.

    Args:
        tables: of `class_tables`; slot `n` means the same in every image.
        largest: what the assignment maximises, the sum of IoUs or of shared pixels.

    Returns:
        As `by_label`.
    """
    check_table(tables)
    total = tables.sum(0)
    return _assigned(total, hungarian_classes(total, largest=largest))


def hungarian_classes(table: Int64[Tensor, "n m"], *, largest: Largest = "iou") -> Int64[Tensor, " n"]:
    """The class of each slot under `by_hungarian`, from the table of the whole data set; `m` for a slot left over."""
    check_choice(largest, "largest", Largest)
    score = table.double()
    if largest == "iou":
        score = score / (table.sum(0) + table.sum(1, keepdim=True) - table).clamp(min=1)
    owner = np.full(len(table), table.shape[1])
    slots, classes = best_pairs(score.cpu().numpy())
    owner[slots] = classes
    return torch.from_numpy(owner)


def by_image(tables: Int64[Tensor, "b n m"]) -> Int64[Tensor, "_ m"]:
    """An assignment of slots to classes in each image by shared pixels, counts summed over the images.

    In each image the foreground classes that are there get a slot each; all slots left over become one, which competes
    for the background in a second assignment. So does DiffCut's code; but where it gives a slot that overlaps nothing
    it can be matched with to an arbitrary class that is not in the image, here such pixels get no class.

    Returns:
        As `by_label`.
    """
    check_table(tables)
    classes = tables.shape[2]
    result = torch.zeros(classes + 1, classes, dtype=torch.int64)
    for table in tables.cpu():
        owner = torch.full((len(table),), classes)
        slots, _ = _match(table[:, 1:])
        merged = torch.ones(len(table), dtype=torch.bool)
        merged[slots] = False
        # A second assignment with the merged slot as one more row: it may move a foreground slot to the background.
        rows = torch.cat([table[slots], table[merged].sum(0, keepdim=True)])
        again, second = _match(rows)
        for row, column in zip(again.tolist(), second.tolist(), strict=True):
            owner[merged if row == len(slots) else slots[row]] = column
        result += _assigned(table, owner)
    return result


def class_iou(table: Int64[Tensor, "_ m"]) -> Float64[Tensor, " m"]:
    """IoU of every class over the data set; NaN for a class that is neither predicted nor there.

    Args:
        table: predicted (row) and true class (column), as returned by the rules; rows after the classes are no class.
    """
    check_table(table, axes=2)
    if table.shape[0] < table.shape[1]:
        raise ValueError(f"The table has {table.shape[0]} rows for {table.shape[1]} classes; every class needs a row.")
    right = table.diagonal()
    union = table[: table.shape[1]].sum(1) + table.sum(0) - right
    return (right.double() / union).where(union > 0, torch.nan)


def pixel_accuracy(table: Int64[Tensor, "_ m"]) -> float:
    """Share of the pixels whose class is right; NaN without pixels."""
    check_table(table, axes=2)
    total = int(table.sum())
    return int(table.diagonal().sum()) / total if total else float("nan")


def _match(table: Int64[Tensor, "n m"]) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " k"]]:
    """Slots and classes assigned to each other by shared pixels; only pairs that share some."""
    slots, classes = (torch.from_numpy(ids) for ids in best_pairs(table.numpy()))
    sharing = table[slots, classes] > 0
    return slots[sharing], classes[sharing]


def _assigned(table: Int64[Tensor, "n m"], owner: Int64[Tensor, " n"]) -> Int64[Tensor, "_ m"]:
    """Rows of slots to rows of classes; class `m` is none."""
    result = torch.zeros(table.shape[1] + 1, table.shape[1], dtype=torch.int64)
    return result.index_add_(0, owner, table.cpu())
