"""Resizing of images on their device, and stretching of maps."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate


def resize(image: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c y x"]:
    """To `size` x `size` pixels, bilinear, smoothed where it shrinks; as it is if it has that size."""
    if tuple(image.shape[-2:]) == (size, size):
        return image
    return interpolate(image, (size, size), mode="bilinear", antialias=True)


CONTRAST = 1e-4  # of a map's maximum: what differs less is rounding, which stretching would turn into objects


def stretched(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Each map from 0 at its lowest to 1 at its highest place; a map without contrast is 0 everywhere."""
    lowest, highest = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    contrast = highest - lowest
    return (maps - lowest) / contrast.where(contrast > CONTRAST * highest.abs(), torch.inf)
