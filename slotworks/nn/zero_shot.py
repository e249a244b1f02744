"""From similarities with names of classes to masks of classes, as methods that read have it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slotworks.nn.contrastive import MAX_SCALE

TOP_CLASSES = 5
"""Classes that a group may have: those nearest to the whole image (GroupViT's evaluation code)."""


class NamesClasses:
    """A part of the settings of methods that learn from captions and whose slots are classes by name."""

    class_names: tuple[str, ...]
    template: str

    def __post_init__(self) -> None:
        super().__post_init__()  # pyright: ignore[reportAttributeAccessIssue]
        if not any(self.class_names):
            raise ValueError("method.class_names names no class; give at least one.")
        if "{}" not in self.template:
            raise ValueError(f"method.template is {self.template!r}; write {{}} where the name of a class goes.")

    @property
    def num_slots(self) -> int:
        """One for each class id and one for the background."""
        return len(self.class_names) + 1

    @property
    def reads_captions(self) -> bool:
        """Batches have a `caption`."""
        return True


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


def slots_of_names(
    embeddings: Float[Tensor, "m d"], shares: Float[Tensor, "b k q"], class_names: Sequence[str]
) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n q"]]:
    """Slots and their masks from what is known of the names: slot `k` is class `k`, empty where it has no name.

    Args:
        embeddings: of the classes with a name, then of the background's names, if there are any; slot 0 is their mean.
        shares: of the background, then of the classes with a name.
        class_names: class i + 1; "": no class.
    """
    ids = [k for k, name in enumerate(class_names, 1) if name]
    masks = shares.new_zeros(len(shares), len(class_names) + 1, shares.shape[2])
    masks[:, [0, *ids]] = shares
    slots = embeddings.new_zeros(len(class_names) + 1, embeddings.shape[1])
    slots[ids] = embeddings[: len(ids)]
    if len(ids) < len(embeddings):
        slots[0] = embeddings[len(ids) :].mean(0)
    return slots.expand(len(shares), -1, -1), masks


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
