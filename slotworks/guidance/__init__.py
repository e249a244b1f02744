"""Extra signals for slots, besides the reconstruction."""

from slotworks.guidance.assignment import best_partners
from slotworks.guidance.semantic import match_segments, segment_overlap, semantic_loss
from slotworks.guidance.sets import matched_huber
from slotworks.guidance.teacher import distillation_loss, match_labels, match_masks, soft_distillation_loss

__all__ = [
    "best_partners",
    "distillation_loss",
    "match_labels",
    "match_masks",
    "match_segments",
    "matched_huber",
    "segment_overlap",
    "semantic_loss",
    "soft_distillation_loss",
]
