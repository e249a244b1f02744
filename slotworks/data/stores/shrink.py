"""Pictures and maps at the size at which they are stored: short side to that size, then cropped."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from PIL import Image
from torch import Tensor

from slotworks.data.stores.store import Row

Crop = Literal["center", "random", "whole"]
Interpolation = Literal["bicubic", "bilinear"]

ASPECT = 4, 3  # of what is stored for random crops: as wide as most photographs
LONGEST = 8  # times the short side: longer pictures are not resized whole


def window(length: int, short: int, size: int, most: int) -> tuple[int, int, int]:
    """One side of a picture whose short side becomes `size`: the new length, and start and length of what is kept.

    At most `most` pixels are kept, the middle ones. Fractions are cut off, and the middle is rounded, as in
    torchvision's `Resize` and `CenterCrop`, which DINOSAUR's and SPOT's code uses.
    """
    resized = size if length == short else int(size * length / short)
    kept = min(resized, most)
    return resized, round((resized - kept) / 2), kept


def stored_shape(size: int, crop: Crop) -> tuple[int, int]:
    """Height and width of stored pixels: a square, or for random crops a landscape."""
    return (size, size * ASPECT[0] // ASPECT[1]) if crop == "random" else (size, size)


def shrink(picture: Image.Image, size: int, crop: Crop, interpolation: Interpolation) -> Row:
    """A picture as stored: `image`, and for random crops `width` and `turned`. 1 x 1 and 10,000 x 1 pixels are fine.

    Resized whole and then cropped, as published pipelines do. Of very long pictures only the part that is kept is
    computed; Pillow then rounds a little differently.
    """
    turned = crop == "random" and picture.height > picture.width
    if turned:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    kind = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    if crop == "whole":
        return {"image": np.asarray(picture.resize((size, size), kind))}
    height, width = stored_shape(size, crop)
    sides = [window(n, min(picture.size), size, most) for n, most in zip(picture.size, (width, height), strict=True)]
    (new_width, left, kept_width), (new_height, top, kept_height) = sides
    if max(new_width, new_height) <= LONGEST * size:
        small = picture.resize((new_width, new_height), kind).crop((left, top, left + kept_width, top + kept_height))
    else:
        across, down = picture.width / new_width, picture.height / new_height
        right, bottom = (
            min((left + kept_width) * across, picture.width),
            min((top + kept_height) * down, picture.height),
        )
        small = picture.resize((kept_width, kept_height), kind, box=(left * across, top * down, right, bottom))
    image = np.asarray(small)
    if crop == "center":
        return {"image": image}
    stored = np.zeros((height, width, 3), np.uint8)
    stored[:, :kept_width] = image
    return {"image": stored, "width": np.asarray(kept_width, np.int32), "turned": np.asarray(turned)}


def nearest(size: tuple[int, int], short_side: int, crop: Crop) -> Callable[[np.ndarray], np.ndarray]:
    """What makes a map of a picture of this width and height small: the pixel at each new pixel's centre.

    The same pixel as Pillow's `NEAREST` takes, and but for ties torch's `nearest-exact`; the same crop as of the image.
    """
    width, height = size
    turned = crop == "random" and height > width
    if turned:
        width, height = height, width
    shape = stored_shape(short_side, crop)
    picks = []
    for n, most in ((height, shape[0]), (width, shape[1])):
        resized, start, kept = window(n, min(width, height), short_side, most)
        if crop == "whole":
            resized, start, kept = most, 0, most
        steps = np.full(resized, n / resized)
        steps[0] /= 2
        picks.append(
            np.cumsum(steps).astype(np.int64)[start : start + kept]
        )  # summed as Pillow does: equal also in ties
    rows, columns = picks[0][:, None], picks[1]

    def pick(labels: Integer[np.ndarray, "h w"] | np.ndarray) -> np.ndarray:
        small = (labels.T if turned else labels)[rows, columns]
        return np.pad(small, ((0, 0), (0, shape[1] - small.shape[1]))) if small.shape[1] < shape[1] else small

    return pick


def square(images: Integer[Tensor, "b *c h w"] | Float[Tensor, "b *c h w"] | Tensor, left: Int[Tensor, " b"]) -> Tensor:
    """From each landscape the square that begins `left` pixels from its left side."""
    size = images.shape[-2]
    columns = left.view(-1, *[1] * (images.ndim - 1)) + torch.arange(size, device=images.device)
    return images.gather(-1, columns.expand(*images.shape[:-1], size))
