"""GLASS's semantic guidance: masks of classes say which pixels a slot should have.

Singh et al. 2025 (arXiv 2407.17929), section 3.3. Slots are matched to the segments of a label map, one to one, by the
largest sum of IoUs; the attention of a matched slot is then pulled to its segment by binary cross-entropy. Labels are
integers, 0 is the background, which is a segment like any other unless it is left out; pixels that are not `valid`
(255 in files) never count.

The paper does not say on what kind of masks the IoU is taken, whether the background takes a slot, and over what the
cross-entropy is averaged. The defaults are what helper functions left in the released code suggest (hard masks,
background included) and a mean over pixels, pairs and images.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from slotworks.guidance.assignment import best_partners
from slotworks.nn.precision import without_autocast

NUM_LABELS = 256
"""Labels are below this: they come from 8-bit masks. A fixed number spares asking the device for the largest."""

ABSENT = -1.0
"""Overlap with a label that no pixel has: below any true one, so that segments without a slot never go before."""

CLAMP = 1e-6
"""Attention is kept this far from 0 and 1 under the logarithm."""

Mean = Literal["images", "pairs", "pixels"]


def segment_overlap(
    attn: Float[Tensor, "b n p"],
    labels: Int64[Tensor, "b p"],
    valid: Bool[Tensor, "b p"] | None = None,
    *,
    soft: bool = False,
    background: bool = True,
    num_labels: int = NUM_LABELS,
) -> Float64[Tensor, "b n m"]:
    """IoU of each slot with each label, and `ABSENT` for labels that no valid pixel has.

    Args:
        attn: sums to one over slots.
        labels: from 0 to `num_labels - 1`.
        valid: False where a pixel does not count.
        soft: take attention as shares of pixels; by default a pixel belongs to the slot with the largest.
        background: whether label 0 is a segment.
        num_labels: m.
    """
    b, n, _ = attn.shape
    inside = torch.ones_like(labels, dtype=torch.float64) if valid is None else valid.double()
    with torch.no_grad():
        if soft:
            share = attn.double() * inside[:, None]
            both = share.new_zeros(b, n, num_labels).scatter_add_(2, labels[:, None].expand(-1, n, -1), share)
        else:
            pair = attn.argmax(dim=1) * num_labels + labels
            both = inside.new_zeros(b, n * num_labels).scatter_add_(1, pair, inside).view(b, n, num_labels)
        area = inside.new_zeros(b, num_labels).scatter_add_(1, labels, inside)[:, None]
        overlap = both / (both.sum(dim=2, keepdim=True) + area - both).clamp(min=1e-8)
        overlap = overlap.masked_fill(area == 0, ABSENT)
    if not background:
        overlap[:, :, 0] = ABSENT
    return overlap


def match_segments(overlap: Float64[Tensor, "b n m"]) -> Int64[Tensor, "b n"]:
    """The label of each slot, one to one with the largest sum of overlaps; -1 for slots without one.

    As many segments get a slot as there are slots, also those that no slot overlaps yet.
    """
    labels = best_partners(overlap)
    found = overlap.gather(2, labels.clamp(min=0)[:, :, None])[:, :, 0]
    return labels.masked_fill(found < 0, -1)


def semantic_loss(
    attn: Float[Tensor, "b n p"],
    labels: Int64[Tensor, "b p"],
    matched: Int64[Tensor, "b n"],
    valid: Bool[Tensor, "b p"] | None = None,
    *,
    mean: Mean = "images",
) -> Float[Tensor, ""]:
    """Binary cross-entropy between the attention of each matched slot and its segment; 0 if nothing is matched.

    Slots without a label give no loss and get no gradient from here. Computed in float32 or more.

    Args:
        attn: probabilities.
        labels: segment of each pixel.
        matched: the label of each slot, or -1.
        valid: False where a pixel does not count.
        mean: over the valid pixels of each pair, then the pairs of an image, then the images ("images"; one without
            pairs counts as 0); over pixels, then all pairs of the batch ("pairs"); or over all at once ("pixels").
    """
    with without_autocast(attn.device):
        share = attn if attn.dtype == torch.float64 else attn.float()
        share = share.clamp(CLAMP, 1 - CLAMP)
        errors = -torch.where(labels[:, None] == matched[:, :, None], share, 1 - share).log()  # b n p
        counted = (matched >= 0)[:, :, None].expand_as(errors)
        if valid is not None:
            counted = counted & valid[:, None]
        total, pixels = torch.where(counted, errors, 0).sum(dim=2), counted.sum(dim=2)  # b n
        if mean == "pixels":
            return total.sum() / pixels.sum().clamp(min=1)
        pairs, there = total / pixels.clamp(min=1), pixels > 0
        if mean == "pairs":
            return pairs.sum() / there.sum().clamp(min=1)
        return (pairs.sum(dim=1) / there.sum(dim=1).clamp(min=1)).mean()
