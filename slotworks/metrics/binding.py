"""Do slots bind to objects? Statistics of masks that tell the ways in which slots fail.

They are no scores to rank methods by (`metrics.ari` and `metrics.overlap` are): each is high for one kind of failure
and low for the others, so that `evaluation.doctor` can name it.

Nothing here looks at the index of a slot. With the shared Gaussian initialiser of Slot Attention (Locatello et al.
2020) slots are exchangeable: slot 3 of one image has nothing to do with slot 3 of the next, so the variance over
images of "the mask of slot 3" says nothing. What can be compared between images is which pixels belong together.

A `table` is `metrics.contingency(pred, true)`: pixels by slot and true id, column 0 the background.
"""

import math

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor
from torch.nn.functional import one_hot

from slotworks.metrics.ari import ari_of_table
from slotworks.metrics.checks import check_floats, check_ids, check_pair, check_table, check_where, found
from slotworks.metrics.contingency import check_numbers, contingency

MAX_COMPARED = 64
"""`stripes` compares at most this many images: 2016 pairs are plenty, and the work grows with the square."""
DEAD_SHARE = 0.005
"""A slot that owns less than this share of an image is dead in it: 6 pixels of 35 x 35, 81 of 128 x 128."""
SUM_TOLERANCE = 0.05
"""How far the shares of a pixel may be from one together: rounding of bfloat16 adds up over the slots."""


def stripes(pred: Integer[Tensor, "b h w"], *, where: Bool[Tensor, "b h w"] | None = None) -> Float64[Tensor, ""]:
    """How well the segmentation of one image fits every other image: mean adjusted Rand index between different images.

    1 when all images are cut in the same way whatever they show, as in the stripe solutions of Slot Attention
    (supplement, learning rate schedules) and SlotDiffusion (appendix E.3); near 0 when the segmentation follows the
    image. The order of the slots may differ from image to image.

    Args:
        pred: slot ids from 0 of two or more different images.
        where: pixels of each image that count. The foreground is telling: a model that finds all objects and always
            cuts an empty background in the same halves is striped on all pixels, but not on the foreground.

    Returns:
        At most 1; NaN when no pair can be compared (a single image, or one slot owns everything in each).

    Raises:
        ValueError: as `contingency`.
    """
    pred = _ids(pred)
    if where is not None:
        check_where(where, "where", pred, "pred")
    pred, where = pred[:MAX_COMPARED], None if where is None else where[:MAX_COMPARED]
    own = one_hot(pred.flatten(1).long()).double()  # b p n; mixed precision leaves float64 alone: counts stay exact
    counted = own if where is None else own * where.flatten(1).unsqueeze(-1)
    tables = torch.einsum("ipn,jpm->ijnm", counted, own).long()
    between = _agreement(tables.flatten(0, 1)).view(len(pred), len(pred))
    return between.fill_diagonal_(math.nan).nanmean()


def truth_agreement(table: Int64[Tensor, "b n m"]) -> Float64[Tensor, " b"]:
    """FG-ARI of each image, to compare `stripes(where=foreground)` with: do slots fit this image better than any other?

    NaN, not 1, for an image with one object in one slot: it cannot tell objects from stripes.
    """
    check_table(table)
    return _agreement(table[:, :, 1:])


def largest_share(pred: Integer[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Share of the pixels that the largest slot of each image owns, in (0, 1]."""
    return one_hot(_ids(pred).flatten(1).long()).float().mean(1).amax(1)


def swallowed(table: Int64[Tensor, "b n m"]) -> Float[Tensor, " b"]:
    """Share of everything else that the slot of the largest true region (most often the background) owns as well.

    0 when each region has a slot of its own, 1 when one slot takes all, NaN for an image of one region. Unlike
    `largest_share` it does not grow when objects are small.
    """
    check_table(table)
    image = torch.arange(len(table), device=table.device)
    region = table.sum(1).argmax(1)  # b
    inside = table[image, :, region]  # b n
    outside = table.sum(2) - inside
    slot = (inside * (outside.sum(1, keepdim=True) + 1) + outside).argmax(1)  # of two equal ones, the larger outside
    return outside[image, slot] / outside.sum(1)


def entropy(masks: Float[Tensor, "b n h w"], *, where: Bool[Tensor, "b h w"] | None = None) -> Float[Tensor, " b"]:
    """Mean entropy of the slots' shares of a pixel, relative to `log n`: 0 is one slot each, 1 is uniform attention.

    Args:
        masks: soft masks or attention maps, sum to one over `n`.
        where: pixels that count; NaN for an image without any.

    Raises:
        ValueError: if `masks` are no shares of a pixel, or `where` has another shape.
    """
    check_floats(masks, "masks", "images slots height width")
    if bool((masks < 0).any() | ((masks.float().sum(1) - 1).abs() > SUM_TOLERANCE).any()):
        raise ValueError("The masks are no shares of a pixel: they must be 0 or more and sum to one over the slots.")
    if where is not None:
        check_where(where, "where", masks[:, 0], "masks[:, 0]")
    return _entropy(masks, where)


def _entropy(masks: Float[Tensor, "b n h w"], where: Bool[Tensor, "b h w"] | None = None) -> Float[Tensor, " b"]:
    """`entropy` of what a method made, NaN included."""
    spread = torch.special.entr(masks.float()).sum(1) / max(math.log(masks.shape[1]), 1e-12)  # b h w; 0 for one slot
    return spread.mean((1, 2)) if where is None else (spread * where).sum((1, 2)) / where.sum((1, 2))


def dead_slots(pred: Integer[Tensor, "b h w"], *, num_slots: int) -> Float[Tensor, " b"]:
    """Share of the `num_slots` slots that own nearly nothing (less than `DEAD_SHARE`) of an image, in [0, 1]."""
    pred = _ids(pred, num_slots)
    return (one_hot(pred.flatten(1).long(), num_slots).float().mean(1) < DEAD_SHARE).float().mean(1)


def background_slots(table: Int64[Tensor, "b n m"]) -> Float64[Tensor, " b"]:
    """Effective number of slots that share the background: the exponential of the entropy of their shares.

    1 is one slot, 2 two equal halves, 1.4 a 90 to 10 split. FG-ARI does not see the background, mIoU and ARI do.
    NaN for an image without background.
    """
    check_table(table)
    return _effective_number(table[:, :, :1].mT)


def slots_per_object(table: Int64[Tensor, "b n m"]) -> Float64[Tensor, " b"]:
    """Effective number of slots that share an object, `exp H(slot | object)` over the foreground: above 1,
    over-segmented.

    The conditional entropies of homogeneity and completeness (Rosenberg and Hirschberg 2007), as numbers of slots.
    """
    check_table(table)
    return _effective_number(table[:, :, 1:].mT)


def objects_per_slot(table: Int64[Tensor, "b n m"]) -> Float64[Tensor, " b"]:
    """Effective number of objects that share a slot, `exp H(object | slot)` over the foreground: above 1, merged."""
    check_table(table)
    return _effective_number(table[:, :, 1:])


def binding_stats(
    masks: Float[Tensor, "b n h w"],
    true: Integer[Tensor, "b y x"] | None = None,
    *,
    valid: Bool[Tensor, "b y x"] | None = None,
) -> dict[str, float]:
    """All statistics of a set of images, averaged over the images in which they are defined (NaN if in none).

    Args:
        masks: soft masks or attention maps, sum to one over `n`. 32 images or more give steady numbers.
        true: object ids of the same size, if known, 0 is background; adds the statistics of the table, those of the
            foreground and `num_regions`, the mean number of true regions with the background.
        valid: pixels whose true id is known.

    Raises:
        ValueError: if `masks` and `true` differ in size, or are no masks and ids. Masks that hold NaN are not refused:
            `finite` says so, and the doctor with it.
    """
    if not isinstance(masks, Tensor) or masks.ndim != 4 or not masks.is_floating_point() or 0 in masks.shape[1:]:
        raise ValueError(f"masks is {found(masks)}; expected floats of shape (images, slots, height, width).")
    pred = masks.argmax(1)
    stats = {
        "num_images": len(masks),
        "num_slots": masks.shape[1],
        "finite": masks.flatten(1).isfinite().all(1).float().mean(),  # share of images without a NaN
        "stripes": stripes(pred),
        "largest_share": largest_share(pred).mean(),
        "entropy": _entropy(masks).mean(),
        "confidence": masks.float().amax(1).mean(),  # mean of the largest share of a pixel; 1 / n where masks are equal
        "dead_slots": dead_slots(pred, num_slots=masks.shape[1]).mean(),
    }
    if true is not None:
        if true.shape != pred.shape:
            sizes = f"{tuple(pred.shape)} and {tuple(true.shape)}"
            raise ValueError(f"masks and true are {sizes} (images, height, width); resize one of them.")
        pred, true = check_pair(pred, true, valid)
        foreground = true > 0 if valid is None else (true > 0) & valid
        table = contingency(pred, true, valid=valid)
        stats["num_regions"] = (table.sum(1) > 0).sum(1).float().mean()
        stats["stripes_foreground"] = stripes(pred, where=foreground)
        stats["entropy_foreground"] = _entropy(masks, foreground).nanmean()
        for statistic in (truth_agreement, swallowed, background_slots, slots_per_object, objects_per_slot):
            stats[statistic.__name__] = statistic(table).nanmean()
    return {name: float(value) for name, value in stats.items()}


def _ids(pred: Integer[Tensor, "b h w"], num_slots: int | None = None) -> Integer[Tensor, "b h w"]:
    """Slot ids, checked."""
    pred = check_ids(pred, "pred")
    check_numbers(pred, "slot", num_slots)
    return pred


def _agreement(table: Int64[Tensor, "b n m"]) -> Float64[Tensor, " b"]:
    """Adjusted Rand index; NaN, not 1, where both partitions are constant or empty."""
    constant = ((table.sum(2) > 0).sum(1) <= 1) & ((table.sum(1) > 0).sum(1) <= 1)
    return ari_of_table(table).masked_fill(constant, math.nan)


def _effective_number(table: Int64[Tensor, "b r c"]) -> Float64[Tensor, " b"]:
    """`exp H(column | row)`; NaN for an empty table."""
    table = table.double()
    uncertain = torch.xlogy(table, table.sum(2, keepdim=True)).sum((1, 2)) - torch.xlogy(table, table).sum((1, 2))
    return (uncertain / table.sum((1, 2))).exp()
