"""SPOT's self-training: a teacher's decoder masks say which patches the student's slots should share.

Kakogeorgiou et al. 2024 (arXiv 2312.00648), section 3.1, and `train_spot_2.py` of its code.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from slotworks.guidance.assignment import best_partners

EMPTY_COST = 1000.0
"""Cost of every pair with a slot of the teacher that owns no patch; the same for all, so it takes what is left."""


def distillation_loss(attn: Float[Tensor, "b n p"], teacher_masks: Float[Tensor, "b m p"]) -> Float[Tensor, ""]:
    """Cross-entropy of the student's attention with the teacher's hard masks, after matching slots.

    The teacher's label of a patch is its largest mask. Slots are matched by `match_labels`, and the loss is the mean
    over patches of minus the log of the attention of the slot matched to the label. Attention is a softmax over
    slots, so this is the cross-entropy of its logits; with several heads, of the attention summed over them.

    Args:
        attn: the student's attention, as in `SlotOutput`; sums to one over slots.
        teacher_masks: soft masks of the teacher; no gradient is taken.

    Raises:
        ValueError: if the teacher has more slots than the student.
    """
    num_slots, num_labels = attn.shape[1], teacher_masks.shape[1]
    if num_labels > num_slots:
        raise ValueError(f"The teacher has {num_labels} slots, the student {num_slots}; give it at least as many.")
    labels = teacher_masks.argmax(dim=1)  # b p
    matched = match_labels(attn.argmax(dim=1), labels, num_slots=num_slots, num_labels=num_labels)
    own = attn.gather(1, matched.gather(1, labels)[:, None])[:, 0]  # b p
    return -own.clamp(min=torch.finfo(own.dtype).tiny).log().mean()


def soft_distillation_loss(
    masks: Float[Tensor, "b n p"], teacher: Float[Tensor, "b m p"], *, matched: Int64[Tensor, "b m"]
) -> Float[Tensor, ""]:
    """Cross-entropy of masks with a teacher's soft ones, the mean over patches; not SPOT's, which are hard.

    Args:
        masks: of the student, summing to one over slots: its attention, or its decoder's masks.
        teacher: soft masks that sum to one; no gradient is taken.
        matched: the student's slot for each of the teacher, as from `match_labels`.
    """
    own = masks.gather(1, matched[:, :, None].expand(-1, -1, masks.shape[2]))  # b m p
    logs = own.clamp(min=1e-6).log()  # bounded: a teacher that is sure of another slot must not rule everything
    return -(teacher.detach() * logs).sum(1).mean()


def match_masks(masks: Float[Tensor, "b n p"], teacher: Float[Tensor, "b m p"]) -> Int64[Tensor, "b m"]:
    """`match_labels` of the largest masks of a student and a teacher."""
    counts = {"num_slots": masks.shape[1], "num_labels": teacher.shape[1]}
    return match_labels(masks.argmax(dim=1), teacher.argmax(dim=1), **counts)


def match_labels(
    student: Int64[Tensor, "b p"], teacher: Int64[Tensor, "b p"], *, num_slots: int, num_labels: int
) -> Int64[Tensor, "b m"]:
    """The student's slot for each label of the teacher: one to one, with the largest sum of IoUs (Kuhn 1955).

    Args:
        student: slot ids from 0.
        teacher: labels from 0.
        num_slots: how many slots the student has.
        num_labels: how many the teacher has, empty ones included: they are given the slots that are left.
    """
    ours, theirs = one_hot(student, num_slots).double(), one_hot(teacher, num_labels).double()  # b p n, b p m
    both = theirs.transpose(1, 2) @ ours  # b m n
    either = theirs.sum(dim=1)[:, :, None] + ours.sum(dim=1)[:, None] - both
    cost = (1 - both / either.clamp(min=1)).masked_fill((theirs.sum(dim=1) == 0)[:, :, None], EMPTY_COST)
    return best_partners(-cost)
