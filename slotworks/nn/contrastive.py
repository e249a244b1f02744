"""The loss of image and text pairs: each image should be nearest to its own text, and each text to its own image."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from slotworks.nn.batch_norm import processes, sum_of_processes

MAX_SCALE = 100.0
"""Largest factor on cosines, as in CLIP (Radford et al. 2021, section 2.5)."""


def contrastive_loss(
    image: Float[Tensor, "b d"], text: Float[Tensor, "b d"], log_scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Mean of both cross-entropies over a batch, of cosines times `exp(log_scale)` (CLIP, figure 3).

    The other pairs of a micro-batch are the negatives, those that other processes see at the same time included. Where
    several have the same text, sharing the probability among them would give the same value.

    Args:
        image: embeddings, of any length.
        text: those of their texts.
        log_scale: logarithm of the factor, which is learned; the factor is `MAX_SCALE` at most.
    """
    scale = log_scale.exp().clamp(max=MAX_SCALE)
    image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
    own = torch.arange(len(image), device=image.device) + _first(len(image))
    images, texts = _of_all(image), _of_all(text)
    return (F.cross_entropy(scale * image @ texts.T, own) + F.cross_entropy(scale * text @ images.T, own)) / 2


def _first(count: int) -> int:
    return count * dist.get_rank() if processes() > 1 else 0


def _of_all(rows: Tensor) -> Tensor:
    """The rows of all processes, those of the first one first; gradients go back to each."""
    if processes() == 1:
        return rows
    first, count = _first(len(rows)), len(rows)
    behind = count * processes() - first - count
    padding = [rows.new_zeros(n, *rows.shape[1:]) for n in (first, behind)]
    return sum_of_processes(torch.cat([padding[0], rows, padding[1]]))
