"""From similarities with names of classes to masks of classes, as methods that read have it."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slotworks.nn.contrastive import MAX_SCALE

TOP_CLASSES = 5
"""Classes that a group may have: those nearest to the whole image (GroupViT's evaluation code)."""


def a_or_an(template: str, name: str) -> str:
    """A sentence about one thing: "a photo of a {}" becomes "a photo of an aeroplane".

    >>> a_or_an("a photo of a {}", "owl")
    'a photo of an owl'
    """
    return template.replace(" a {}", " an {}" if name[:1] in tuple("aeiou") else " a {}").format(name)


def with_background(probs: Float[Tensor, "b p m"], named: int) -> Float[Tensor, "b p n"]:
    """The first `named` columns behind a first one, the best of the others; rows sum to one, the largest stays it.

    The best name of the background counts and not their sum: many names are no evidence.
    """
    classes, rest = probs[..., :named], probs[..., named:]
    first = rest.amax(2, keepdim=True) if rest.shape[2] else torch.zeros_like(classes[..., :1])
    both = torch.cat([first, classes], 2)
    return both / both.sum(2, keepdim=True)


def scores_of_groups(
    groups: Float[Tensor, "b g d"],
    whole: Float[Tensor, "b d"],
    classes: Float[Tensor, "m d"],
    scale: Float[Tensor, ""],
    *,
    top: int = TOP_CLASSES,
) -> Float[Tensor, "b g m"]:
    """How much each group is of each class: a softmax over the `top` classes of the image times one over all.

    As GroupViT's evaluation code, which SegCLIP and OVSegmentor took over.

    Args:
        groups: embeddings of groups, of any length.
        whole: those of whole images.
        classes: those of the names.
        scale: factor on cosines, at most `MAX_SCALE`.
        top: how many classes of an image take part.
    """
    names = F.normalize(classes, dim=1)
    logits = scale.clamp(max=MAX_SCALE) * F.normalize(groups, dim=2) @ names.T
    best = (F.normalize(whole, dim=1) @ names.T).topk(min(top, len(names)), dim=1).indices
    likely = torch.zeros(len(whole), len(names), dtype=torch.bool, device=whole.device).scatter(1, best, True)
    return logits.masked_fill(~likely[:, None], -torch.inf).softmax(2) * logits.softmax(2)


def classes_of_groups(
    assigned: Float[Tensor, "b g p"], grid: tuple[int, int], scores: Float[Tensor, "b g m"], size: int, threshold: float
) -> Float[Tensor, "b n q"]:
    """Shares of background and classes at `size` x `size` places: those of the group that each belongs to.

    Maps of groups are interpolated before the largest is taken. Where no score reaches `threshold`, or the largest
    score of the image where that is smaller, is background. Classes share what their scores say; all sum to one.

    Args:
        assigned: how much each patch is of each group.
        grid: rows and columns of patches.
        scores: of `scores_of_groups`.
        size: rows and columns of the result.
        threshold: in [0, 1].
    """
    maps = F.interpolate(assigned.unflatten(2, grid), (size, size), mode="bilinear").flatten(2)
    groups = maps.argmax(1)  # b q
    found = scores.gather(1, groups[..., None].expand(-1, -1, scores.shape[2])).mT  # b m q
    limit = scores.flatten(1).amax(1).clamp(max=threshold)[:, None]
    background = (found.amax(1) < limit)[:, None].to(found)
    shares = found / found.sum(1, keepdim=True).clamp(min=1e-12)
    return torch.cat([background, shares * (1 - background)], 1)
