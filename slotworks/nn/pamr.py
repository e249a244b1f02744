"""Pixel-adaptive mask refinement: soft masks spread to pixels of a like colour, again and again. Learns nothing.

Araslanov & Roth 2020, "Single-Stage Semantic Segmentation from Image Labels", arXiv 2005.08104, section 4.2.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, stack

AROUND = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))
"""The 3 x 3 positions; number 4 is the pixel itself."""


def refine_masks(
    masks: Float[Tensor, "b n h w"],
    image: Float[Tensor, "b c h w"],
    *,
    iterations: int = 10,
    dilations: Sequence[int] = (1, 2, 4, 8),
) -> Float[Tensor, "b n h w"]:
    """Each pixel takes the mean of its neighbours, weighted by how alike they are in the image.

    A neighbour's logit is minus its absolute difference, divided by a tenth of the deviation of all pixels around, mean
    over channels; weights are a softmax over the eight neighbours at every dilation. Borders are repeated.

    Args:
        masks: soft or one-hot; their sum over `n` is kept.
        image: of the same height and width, any scale.
        iterations: how often; 0 leaves masks as they are.
        dilations: distances of the neighbours in pixels.
    """
    around = _neighbours(image, dilations)  # b c k h w
    others = [number for number in range(around.shape[2]) if number % len(AROUND) != len(AROUND) // 2]
    spread = around.std(2, keepdim=True)
    logits = -(around[:, :, others] - image.unsqueeze(2)).abs() / (0.1 * spread + 1e-8)
    weights = logits.mean(1, keepdim=True).softmax(2)  # b 1 k h w
    for _ in range(iterations):
        masks = (_neighbours(masks, dilations)[:, :, others] * weights).sum(2)
    return masks


def _neighbours(maps: Float[Tensor, "b c h w"], dilations: Sequence[int]) -> Float[Tensor, "b c k h w"]:
    """The 3 x 3 pixels around each, at every dilation."""
    height, width = maps.shape[-2:]
    found = []
    for d in dilations:
        padded = F.pad(maps, [d] * 4, mode="replicate")
        found += [padded[..., d + d * y : d + d * y + height, d + d * x : d + d * x + width] for y, x in AROUND]
    return stack(found, 2)
