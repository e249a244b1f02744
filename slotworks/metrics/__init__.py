"""Scores of a segmentation. Which of them a published table prints, and how, is said by `slotworks.protocols`."""

from slotworks.metrics.ari import ari, fg_ari
from slotworks.metrics.contingency import contingency, segmentation
from slotworks.metrics.coverage import coverage
from slotworks.metrics.overlap import corloc, mbo, miou, object_recovery

__all__ = ["ari", "contingency", "corloc", "coverage", "fg_ari", "mbo", "miou", "object_recovery", "segmentation"]
