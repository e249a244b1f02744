"""From attention maps to pseudo-masks: refined by self-attention, made comparable, cut into certain and uncertain.

Dataset Diffusion (Nguyen et al. 2023, arXiv:2309.14303) with the thresholds of GLASS (supplement, B): `M_ref` is the
self-attention map to the fourth power times the class maps. It is computed as four products of a matrix with as many
columns as there are classes; a power of a 1024 x 1024 matrix takes hundreds of times as many operations.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from slotworks.nn.resize import stretched
from slotworks.synthesis.capture import resize

UNCERTAIN = 255
"""The label of a pixel of which nothing is claimed."""


def refine(
    cross: Float[Tensor, "b c y x"], self_attention: Float[Tensor, "b p p"], power: int = 4
) -> Float[Tensor, "b c h w"]:
    """Class maps spread along self-attention: `A^power @ maps`, at the size of the self-attention.

    Args:
        cross: one map for each class; enlarged to `h w` first, bicubic.
        self_attention: rows sum to one; `p = h * w`, a square.
        power: 0 leaves the enlarged maps as they are.
    """
    return refined_powers(cross, self_attention, power)[:, -1]


def refined_powers(
    cross: Float[Tensor, "b c y x"], self_attention: Float[Tensor, "b p p"], power: int = 4
) -> Float[Tensor, "b n c h w"]:
    """What `refine` gives with each power from 0 to this one: `n = power + 1`."""
    side = round(self_attention.shape[-1] ** 0.5)
    maps = [resize(cross, (side, side)).flatten(2)]
    for _ in range(power):
        maps.append(maps[-1] @ self_attention.mT)  # rows of classes: on a CPU four times as fast as columns
    return torch.stack(maps, 1).unflatten(3, (side, side))


def class_maps(
    cross: Float[Tensor, "b s h w"] | Float[Tensor, "b g s h w"], tokens: Sequence[Sequence[Sequence[int]]]
) -> Float[Tensor, "b c h w"]:
    """The mean map over the tokens of each class.

    Args:
        cross: attention to the tokens of one prompt for each image, or of several: then class k stands in prompt k.
        tokens: for each image those of its classes, as `slotworks.synthesis.prompts` gives them.

    Returns:
        As many maps as the image with the most classes has; the others have zeros behind.
    """
    most = max(len(image) for image in tokens)
    maps = cross.new_zeros(len(tokens), most, *cross.shape[-2:])
    for b, image in enumerate(tokens):
        for c, own in enumerate(image):
            prompt = cross[b, c] if cross.ndim == 5 else cross[b]
            maps[b, c] = prompt[list(own)].mean(0)
    return maps


def to_labels(
    maps: Float[Tensor, "b c y x"],
    class_ids: Int[Tensor, "b c"],
    size: tuple[int, int],
    low: float = 0.4,
    high: float = 0.6,
) -> UInt8[Tensor, "b h w"]:
    """Pseudo-masks: 0 background, the id of the best class, or 255 where it is uncertain.

    Each map is stretched to [0, 1] over its image, then enlarged (bicubic), as in Dataset Diffusion's code. The largest
    value over the classes is the score of a pixel: below `low` it is background, above `high` the class, between them
    (both ends included) 255. A map without contrast counts as 0 everywhere.

    Args:
        maps: refined maps, one for each class.
        class_ids: 1 to 254; 0 marks a map that is no class.
        size: height and width of the result.
        low: 0.4 in GLASS, 0.5 in Dataset Diffusion's code.
        high: 0.6 in both.
    """
    scores = resize(stretched(maps), size).masked_fill((class_ids == 0)[..., None, None], -torch.inf)
    score, best = scores.max(1)
    label = class_ids.gather(1, best.flatten(1)).view_as(best)
    label = torch.where(score > high, label, torch.where(score < low, 0, UNCERTAIN))
    return label.to(torch.uint8)
