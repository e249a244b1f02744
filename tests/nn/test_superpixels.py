"""Superpixels: against a plain form of the algorithm, on flat pictures, and the one of each patch."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from slotworks.nn.superpixels import felzenszwalb, most_frequent


def plain(image, scale, sigma, min_size):
    """Components as sets of pixels with their longest edge inside, merged one edge after the other."""
    smooth = gaussian_filter(image.astype(float), (sigma, sigma, 0))
    height, width = image.shape[:2]
    edges = []
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        for y in range(height - down):
            for x in range(max(0, -across), width - max(0, across)):
                edges.append(
                    (np.linalg.norm(smooth[y, x] - smooth[y + down, x + across]), (y, x), (y + down, x + across))
                )
    edges.sort(key=lambda edge: edge[0])
    part = {(y, x): [{(y, x)}, 0.0] for y in range(height) for x in range(width)}

    def join(a, b, inside):
        one = [part[a][0] | part[b][0], inside]
        for pixel in one[0]:
            part[pixel] = one

    for length, a, b in edges:
        if part[a] is not part[b] and all(length <= p[1] + scale / len(p[0]) for p in (part[a], part[b])):
            join(a, b, length)
    for _, a, b in edges:
        if part[a] is not part[b] and min(len(part[a][0]), len(part[b][0])) < min_size:
            join(a, b, 0.0)
    numbers = {}
    return np.array([[numbers.setdefault(id(part[y, x]), len(numbers)) for x in range(width)] for y in range(height)])


@pytest.mark.parametrize(("scale", "min_size"), [(50, 1), (200, 6)])
def test_against_a_plain_form(scale, min_size):
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    image[2:7, 3:8] //= 8
    found = felzenszwalb(image, scale=scale, sigma=0.6, min_size=min_size)
    expected = plain(image, scale, 0.6, min_size)
    assert np.array_equal(found, expected)
    assert 1 < expected.max() < 60


def test_flat_halves_are_two():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 12:] = 200
    found = felzenszwalb(image, scale=100, sigma=0.1, min_size=20)
    assert np.array_equal(found, (np.arange(20) >= 12)[None].repeat(20, 0))
    shares = image.astype(np.float32) / 255
    assert np.array_equal(felzenszwalb(shares, scale=100, sigma=0.1, min_size=20), found)
    assert most_frequent(found, 10).tolist() == [[0, 1], [0, 1]]
    assert most_frequent(np.array([[4, 5], [5, 4]]), 2).tolist() == [[4]]
