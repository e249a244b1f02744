"""Resizing of images on their device."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate


def resize(image: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c y x"]:
    """To `size` x `size` pixels, bilinear, smoothed where it shrinks; as it is if it has that size."""
    if tuple(image.shape[-2:]) == (size, size):
        return image
    return interpolate(image, (size, size), mode="bilinear", antialias=True)
