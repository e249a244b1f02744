"""Optical flow as pictures."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def flow_to_rgb(flow: Float[Tensor, "*b 2 h w"], *, factor: float = 50.0) -> Float[Tensor, "*b 3 h w"]:
    """Flow in pixels as colours in [0, 1], the target that SAVi's code trains on: what rests is white.

    The direction is the hue, the length times `factor` over the picture's diagonal the saturation, which ends at 1.
    Colours are rounded to 256 steps, as there. The first component takes the place of x; in MOVi's files it is down.
    """
    first, second = flow.unbind(-3)
    hue = (torch.atan2(second, first) / math.pi + 1) / 2
    saturation = (torch.hypot(first, second) * factor / math.hypot(*flow.shape[-2:])).clamp(0, 1)
    channels = []
    for offset in (5, 3, 1):  # red, green, blue of HSV at full value
        k = (offset + 6 * hue) % 6
        channels.append(1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return (torch.stack(channels, dim=-3) * 255.5).floor().clamp(max=255) / 255
