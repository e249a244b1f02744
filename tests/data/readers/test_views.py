"""Random views: which window, what torchvision and timm would do with the same numbers, each of the changes by hand."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from slotworks.data.readers.views import CHANGES, WINDOW_DRAWS, random_changes, random_window


def gradient(width, height):
    """The red of a pixel is its column, the green its row."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Image.fromarray(pixels)


def view(picture, size, draws, *, areas=(0.25, 1.0), flip=False):
    numbers = np.full(WINDOW_DRAWS, 0.999)
    numbers[: len(draws)] = draws
    how = {"areas": areas, "kind": Image.Resampling.NEAREST, "flip": flip}
    return np.asarray(random_window(picture, size, numbers, **how))


def test_a_window_by_hand():
    """A quarter of 40 x 40 pixels with the aspect 1 is 20 x 20; the last of 21 columns, the 6th of 21 rows."""
    found = view(gradient(40, 40), 20, [0.0, 0.5, 0.96, 0.25])
    assert found[0, 0].tolist() == [20, 5, 0]
    assert found[-1, -1].tolist() == [39, 24, 0]


def test_the_first_window_that_fits_is_taken():
    """All of 60 x 30 pixels is no window with an aspect up to 4/3; the second draw, a quarter as 18 x 25, is one."""
    found = view(gradient(60, 30), 16, [0.999, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert (found[0, 0, 0], found[-1, -1, 0] // 2, found[-1, -1, 1]) == (0, 8, 23)


def test_without_a_window_the_middle():
    """60 x 30 pixels: 40 x 30 in the middle, the largest aspect."""
    found = view(gradient(60, 30), 40, [], areas=(1.0, 1.0))
    assert (found[0, 0, 0], found[0, -1, 0], found[0, 0, 1], found[-1, 0, 1]) == (10, 49, 0, 29)


def test_half_are_mirrored():
    draws = np.full(WINDOW_DRAWS, 0.5)
    whole = {"areas": (1.0, 1.0), "kind": Image.Resampling.NEAREST, "flip": True}
    picture = gradient(8, 8)
    assert np.asarray(random_window(picture, 8, draws, **whole))[0, 0, 0] == 0
    draws[-1] = 0.49
    assert np.asarray(random_window(picture, 8, draws, **whole))[0, 0, 0] == 7


LEVEL = 0.9
BY_HAND = [
    ImageOps.autocontrast,
    ImageOps.equalize,
    ImageOps.invert,
    lambda p: p.rotate(-27, Image.Resampling.BILINEAR, fillcolor=(124, 116, 104)),
    lambda p: p.point(lambda k: k & 0b10000000),
    lambda p: p.point(lambda k: 255 - k if k >= 26 else k),
    lambda p: p.point(lambda k: min(255, k + 99) if k < 128 else k),
    *(lambda p, kind=kind: kind(p).enhance(0.19) for kind in (ImageEnhance.Color, ImageEnhance.Contrast)),
    *(lambda p, kind=kind: kind(p).enhance(0.19) for kind in (ImageEnhance.Brightness, ImageEnhance.Sharpness)),
]


@pytest.mark.parametrize("number", range(len(BY_HAND)))
def test_changes_by_hand(number):
    """At the level 9 of 10, to the other side: half of the draws of a normal distribution lie below."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    which = (number + 0.5) / len(CHANGES)
    found = np.asarray(random_changes(picture, np.array([which, 0.0, 0.5, 0.9, 0, 0.5, 0, 0])))
    assert np.array_equal(found, np.asarray(BY_HAND[number](picture)))
    assert not np.array_equal(found, np.asarray(picture))
    assert random_changes(picture, np.array([which, 0.5, 0.5, 0.9, 0, 0.5, 0, 0])) is picture


def test_moves_by_hand():
    """0.45 x 0.9 of 100 pixels to a side; a shear of 0.27: what comes from beyond has ImageNet's mean colour."""
    picture = gradient(100, 100)
    across, down = (np.asarray(CHANGES[k](picture, LEVEL, 1)) for k in (13, 14))
    assert np.abs(across[0, :59, 0].astype(int) - np.arange(100)[40:99] - 0.5).max() <= 1
    assert across[0, 70].tolist() == down[70, 0].tolist() == [124, 116, 104]
    sheared = np.asarray(CHANGES[11](picture, LEVEL, 1))
    assert [abs(int(sheared[row, 10, 0]) - 10 - 0.27 * row) < 1.5 for row in (0, 40, 80)] == [True] * 3
    assert (
        np.abs(np.asarray(CHANGES[12](picture, LEVEL, -1))[90, ::30, 1] - (90 - 0.27 * np.arange(0, 100, 30))).max() < 2
    )
