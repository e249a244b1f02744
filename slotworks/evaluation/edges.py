"""Soft masks at the resolution of a picture, with borders that follow its edges: the guided filter.

He, Sun and Tang 2013, "Guided Image Filtering", and He and Sun 2015, "Fast Guided Filter" (arXiv 1505.00996): in every
window a mask is fitted by a line in the picture's colours, so that it jumps where the colours jump. The lines are
fitted on a small copy and applied at full resolution, one slot after the other.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

SMALL = 256  # pixels of the long side at which lines are fitted
EPS = 1e-4  # variance of colours in [0, 1] below which a window is flat: He et al.'s epsilon
MASK_SIDE = 0.5  # radius of a window in pixels of the mask


def guided(soft: Float[Tensor, "n y x"], picture: Image.Image) -> Iterator[Float[Tensor, "h w"]]:
    """The mask of each slot in turn, at the picture's own size; values may leave [0, 1] a little.

    Args:
        soft: masks of a picture, at any size.
        picture: RGB.
    """
    scale = min(1.0, SMALL / max(picture.size))
    width, height = (max(2, round(scale * side)) for side in picture.size)
    small = _pixels(picture.resize((width, height), Image.Resampling.BOX))
    whole = _pixels(picture)
    radius = max(1, round(MASK_SIDE * max(height / soft.shape[1], width / soft.shape[2])))
    mean = _box(small, radius)
    products = torch.stack([small[i] * small[j] for i in range(3) for j in range(3)])
    covariance = _box(products, radius) - torch.stack([mean[i] * mean[j] for i in range(3) for j in range(3)])
    matrix = covariance.permute(1, 2, 0).unflatten(-1, (3, 3)) + EPS * torch.eye(3)
    inverse = torch.linalg.inv(matrix)
    for mask in soft.float():
        value = F.interpolate(mask[None, None], (height, width), mode="bilinear", align_corners=False)[0]
        average = _box(value, radius)[0]
        joint = _box(small * value, radius) - mean * average
        slope = torch.einsum("yxij,jyx->iyx", inverse, joint)
        offset = average - (slope * mean).sum(0)
        lines = _box(torch.cat([slope, offset[None]]), radius)
        lines = F.interpolate(lines[None], picture.size[::-1], mode="bilinear", align_corners=False)[0]
        yield (lines[:3] * whole).sum(0) + lines[3]


def _pixels(picture: Image.Image) -> Float[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def _box(values: Float[Tensor, "c h w"], radius: int) -> Float[Tensor, "c h w"]:
    """Mean over the part of a window that lies in the picture."""
    size = 2 * radius + 1
    return F.avg_pool2d(values[None], size, stride=1, padding=radius, count_include_pad=False)[0]
