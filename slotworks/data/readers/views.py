"""Random views of pictures for training, as torchvision and timm make them with Pillow.

    picture --a random window, made square, mirrored--> view --two random changes of colours or of shape--> view

Which view it is follows from numbers that are given, so the same numbers make the same view anywhere.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageEnhance, ImageOps

from slotworks.encoders.vit import IMAGENET_MEAN

TRIES = 10
"""Windows that are drawn until one fits."""

ASPECTS = (3 / 4, 4 / 3)
"""Smallest and largest width of a window, as a share of its height."""

WINDOW_DRAWS = 4 * TRIES + 1
CHANGE_DRAWS = 8


def random_window(
    picture: Image.Image,
    size: int,
    draws: Float[np.ndarray, " n"],
    *,
    areas: tuple[float, float],
    kind: Image.Resampling,
    flip: bool,
) -> Image.Image:
    """A window of a random area and aspect as a square: torchvision's `RandomResizedCrop`.

    Of ten windows the first that fits is taken; if none does, the middle of the picture with the nearest aspect.

    Args:
        picture: RGB.
        size: pixels of the square's side.
        draws: `WINDOW_DRAWS` numbers in [0, 1).
        areas: smallest and largest area, as shares of the picture's.
        kind: how pixels are interpolated; from a larger window they are averaged.
        flip: whether half of the windows are mirrored.
    """
    window = _window(picture.width, picture.height, draws, areas)
    small = picture.crop(window).resize((size, size), kind)
    return ImageOps.mirror(small) if flip and draws[-1] < 0.5 else small


def _window(
    width: int, height: int, draws: Float[np.ndarray, " n"], areas: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom."""
    low, high = map(math.log, ASPECTS)
    for area, aspect, across, down in draws[: 4 * TRIES].reshape(TRIES, 4):
        pixels = width * height * (areas[0] + (areas[1] - areas[0]) * area)
        ratio = math.exp(low + (high - low) * aspect)
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, ASPECTS[0]), ASPECTS[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_changes(picture: Image.Image, draws: Float[np.ndarray, "8"]) -> Image.Image:
    """RandAugment (Cubuk et al. 2020) as timm's `rand-m9-mstd0.5-inc1`: two of fifteen changes, each half the time.

    How strong a change is comes from a normal distribution of mean 9 and deviation 0.5 on a scale from 0 to 10.

    Args:
        picture: RGB.
        draws: numbers in [0, 1), four for each change: which, whether, how strong, to which side.
    """
    for which, whether, strong, side in draws.reshape(2, 4):
        if whether < 0.5:
            level = min(max(NormalDist(9, 0.5).inv_cdf(max(strong, 1e-9)), 0.0), 10.0) / 10
            picture = CHANGES[int(which * len(CHANGES))](picture, level, 1 if side < 0.5 else -1)
    return picture


FILL = tuple(round(255 * value) for value in IMAGENET_MEAN)
"""What is beyond the picture."""


def _moved(
    picture: Image.Image, across: float = 0.0, down: float = 0.0, right: float = 0.0, below: float = 0.0
) -> Image.Image:
    """At x and y what was at x + across * y + right and y + down * x + below."""
    matrix = (1.0, across, right, down, 1.0, below)
    how = {"resample": Image.Resampling.BILINEAR, "fillcolor": FILL}
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, **how)


def _enhanced(what: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[Image.Image, float, int], Image.Image]:
    return lambda picture, level, side: what(picture).enhance(max(0.1, 1 + side * 0.9 * level))


def _lighter_below(picture: Image.Image, added: int, below: int = 128) -> Image.Image:
    return picture.point([min(255, k + added) if k < below else k for k in range(256)] * 3)


CHANGES: tuple[Callable[[Image.Image, float, int], Image.Image], ...] = (
    lambda picture, level, side: ImageOps.autocontrast(picture),
    lambda picture, level, side: ImageOps.equalize(picture),
    lambda picture, level, side: ImageOps.invert(picture),
    lambda picture, level, side: picture.rotate(30 * level * side, Image.Resampling.BILINEAR, fillcolor=FILL),
    lambda picture, level, side: ImageOps.posterize(picture, 4 - int(4 * level)),
    lambda picture, level, side: ImageOps.solarize(picture, 256 - int(256 * level)),
    lambda picture, level, side: _lighter_below(picture, int(110 * level)),
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    lambda picture, level, side: _moved(picture, across=0.3 * level * side),
    lambda picture, level, side: _moved(picture, down=0.3 * level * side),
    lambda picture, level, side: _moved(picture, right=0.45 * level * side * picture.width),
    lambda picture, level, side: _moved(picture, below=0.45 * level * side * picture.height),
)
"""By a picture, a level in [0, 1] and a side: what timm's list of "increasing" changes has, in its order."""
