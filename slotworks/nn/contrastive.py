"""The loss of image and text pairs: each image should be nearest to its own text, and each text to its own image."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

MAX_SCALE = 100.0
"""Largest factor on cosines, as in CLIP (Radford et al. 2021, section 2.5)."""


def contrastive_loss(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    log_scale: Float[Tensor, ""],
    same: Bool[Tensor, "b b"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of both cross-entropies over a batch, of cosines times `exp(log_scale)` (CLIP, figure 3).

    Other pairs of the part of a batch that a process sees at once are the negatives.

    Args:
        image: embeddings, of any length.
        text: those of their texts.
        log_scale: logarithm of the factor, which is learned.
        same: pairs whose texts are the same, which share the probability; None: each has its own alone.
    """
    logits = log_scale.exp().clamp(max=MAX_SCALE) * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    own = torch.arange(len(logits), device=logits.device) if same is None else same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
