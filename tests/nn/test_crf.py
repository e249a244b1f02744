"""The fully connected CRF against a closed form, a loop over all pairs of pixels, and the grid against the matrix."""

import math

import numpy as np
import pytest
import torch

from slotworks.nn import crf
from slotworks.nn.crf import color_kernel, crf_labels, place_kernel


def by_pairs(labels, image, num_labels, iterations, color, place, certain=0.99, other=0.01):
    """Mean field over all labels and all pairs of pixels, in float64."""
    height, width = labels.shape
    at = np.array([(y, x) for y in range(height) for x in range(width)], float)
    colors = image.reshape(3, -1).T * 255.0
    distance = ((at[:, None] - at) ** 2).sum(2)
    near = ((colors[:, None] - colors) ** 2).sum(2)
    kernels = [
        (color[0], np.exp(-distance / (2 * color[1] ** 2) - near / (2 * color[2] ** 2))),
        (place[0], np.exp(-distance / (2 * place[1] ** 2))),
    ]
    kernels = [(w, k / np.sqrt(k.sum(0) * k.sum(1)[:, None])) for w, k in kernels]
    unary = np.log(np.where(np.eye(num_labels)[labels.flatten()] > 0, certain, other))
    scores = unary
    for _ in range(iterations + 1):
        q = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        scores = unary + sum(w * k @ q for w, k in kernels)
    return q.argmax(1).reshape(height, width), q


def noisy(side=12, seed=0):
    """Two halves of different colours; a tenth of the labels is wrong."""
    rng = np.random.default_rng(seed)
    image = np.zeros((3, side, side))
    image[:, :, side // 2 :] = 0.6
    image += rng.normal(0, 0.02, image.shape)
    truth = np.zeros((side, side), int)
    truth[:, side // 2 :] = 3
    labels = np.where(rng.random((side, side)) < 0.1, 2, truth)
    return labels, image.clip(0, 1), truth


def test_equals_a_loop_over_all_pairs():
    """Five labels of which three are there: the others, of which one stands for both, change the sums, too."""
    labels, image, truth = noisy()
    # weights so small that labels stay contested
    for color, place in (((10.0, 80.0, 13.0), (3.0, 3.0)), ((0.7, 4.0, 13.0), (0.4, 1.0))):
        expected, _ = by_pairs(labels, image, 5, 5, color, place)
        weights = dict(zip(("color_weight", "color_place", "color_std"), color, strict=True))
        weights |= dict(zip(("place_weight", "place_std"), place, strict=True))
        found = crf_labels(torch.from_numpy(labels)[None], torch.from_numpy(image)[None].float(), 5, **weights)
        assert np.array_equal(found[0].numpy(), expected)
    assert (labels != truth).mean() > 0.05
    found = crf_labels(torch.from_numpy(labels)[None], torch.from_numpy(image)[None].float(), 5)
    assert np.array_equal(found[0].numpy(), truth)


def test_several_labels_of_one_image_and_other_probabilities(monkeypatch):
    """DiffuMask's: 0.5 and 0.025 of twenty others. The kernel of an image that is expanded is made once."""
    made = []
    kernel = crf.color_kernel
    monkeypatch.setattr(crf, "color_kernel", lambda *args: made.append(1) or kernel(*args))
    labels = [noisy(seed=seed)[0] for seed in range(3)]
    image = noisy()[1]
    color, place = (4.0, 4.0, 13.0), (2.0, 1.0)
    weights = dict(zip(("color_weight", "color_place", "color_std"), color, strict=True))
    weights |= dict(zip(("place_weight", "place_std"), place, strict=True))
    pictures = torch.from_numpy(image).float().expand(3, -1, -1, -1)
    found = crf_labels(torch.from_numpy(np.stack(labels)), pictures, 21, certain=0.5, other=0.025, **weights)
    assert len(made) == 1
    for one, seen in zip(labels, found.numpy(), strict=True):
        expected, _ = by_pairs(one, image, 21, 5, color, place, 0.5, 0.025)
        assert np.array_equal(seen, expected)
        assert (seen != by_pairs(one, image, 21, 5, color, place)[0]).any()  # 0.99 and 0.01 are another answer


def test_labels_that_are_absent_count_by_their_number(monkeypatch):
    """One colour and place for all: both normalised kernels are the mean, so `q` of a pixel has a closed form.

    Of `n` labels one is there: `q = 1 / (1 + (n - 1) r)` for it, at first with `r = 1/99`, then with
    `r = exp(-13 (q - q')) / 99`, where `q' = (1 - q) / (n - 1)` is that of the others.
    """
    seen = []
    mean = lambda values: seen.append(values) or values.mean(1, keepdim=True).expand_as(values)  # noqa: E731
    monkeypatch.setattr(crf, "place_kernel", lambda *_: mean)
    monkeypatch.setattr(crf, "color_kernel", lambda *_: mean)
    crf_labels(torch.full((1, 2, 2), 4), torch.zeros(1, 3, 2, 2), 21, iterations=2)
    first, second = seen[0], seen[2]
    assert first.shape == (2, 4)
    q = 1 / (1 + 20 / 99)
    other = (1 - q) / 20
    torch.testing.assert_close(first[:, 0], torch.tensor([q, other]), rtol=0, atol=1e-6)
    q = 1 / (1 + 20 / 99 * math.exp(-13 * (q - other)))
    torch.testing.assert_close(second[:, 0], torch.tensor([q, (1 - q) / 20]), rtol=0, atol=1e-6)


def test_kernels_are_normalised_from_both_sides():
    image = torch.from_numpy(noisy(8)[1]).float()
    at = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    for kernel, points in (
        (place_kernel(8, 8, 2.5, image), at / 2.5),
        (color_kernel(image, 3.0, 20.0), torch.cat([at / 3, image.flatten(1).T * 255 / 20], 1)),
    ):
        k = (torch.cdist(points.double(), points.double()) ** 2 / -2).exp()
        expected = k / (k.sum(0) * k.sum(1)[:, None]).sqrt()
        torch.testing.assert_close(kernel(torch.eye(64)), expected.float(), rtol=0, atol=1e-6)


def test_the_grid_is_near_the_matrix(monkeypatch):
    """Within 4 percent of its length and without a bias; with colours half as wide it is not."""
    torch.manual_seed(0)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 6), (40, 40), mode="bicubic")[0].clamp(0, 1)
    q = torch.nn.functional.interpolate(torch.rand(1, 5, 5, 5), (40, 40))[0].flatten(1).softmax(0)
    exact = color_kernel(image, 12.0, 25.0)(q)
    monkeypatch.setattr(crf, "EXACT", 0)
    grid = color_kernel(image, 12.0, 25.0)(q)
    apart = lambda a, b: float((a - b).norm() / b.norm())  # noqa: E731
    assert apart(grid, exact) < 0.04
    assert abs(float(grid.sum() / exact.sum()) - 1) < 0.002
    assert apart(color_kernel(image, 12.0, 12.5)(q), exact) > 0.05


def test_the_grid_blurs_as_wide_as_it_says(monkeypatch):
    """The variance of what pixels of one colour get from ten in the middle, which lie anywhere between cells: 10^2."""
    monkeypatch.setattr(crf, "EXACT", 0)
    monkeypatch.setattr(crf, "FEW", 0)
    kernel = color_kernel(torch.zeros(3, 1, 201), 10.0, 13.0)
    at = torch.arange(201.0)
    middle = torch.zeros(10, 201)
    middle[torch.arange(10), torch.arange(95, 105)] = 1
    variances = [float((row * (at - 95 - k) ** 2).sum() / row.sum()) for k, row in enumerate(kernel(middle))]
    assert sum(variances) / 10 == pytest.approx(100, rel=0.03)


def test_an_image_of_few_colours_needs_no_matrix(monkeypatch):
    """Three colours blurred one by one are the kernel of all pairs, at any size; no distance of two pixels is taken."""
    torch.manual_seed(0)
    image = torch.tensor([[0.1, 0.2, 0.6], [0.15, 0.2, 0.6], [0.9, 0.5, 0.1]])[torch.randint(3, (10, 14))].movedim(2, 0)
    q = torch.rand(4, 140)
    at = torch.cartesian_prod(torch.arange(10.0), torch.arange(14.0))
    points = torch.cat([at / 4, image.flatten(1).T * 255 / 20], 1).double()
    k = ((points[:, None] - points).square().sum(2) / -2).exp()
    expected = q.double() @ (k / (k.sum(0) * k.sum(1)[:, None]).sqrt())
    monkeypatch.setattr(torch, "cdist", None)
    monkeypatch.setattr(crf, "EXACT", 0)
    monkeypatch.setattr(crf, "_grid", None)
    torch.testing.assert_close(color_kernel(image, 4.0, 20.0)(q), expected.float(), rtol=0, atol=1e-6)


def test_large_images_take_the_grid(monkeypatch):
    labels, image, truth = noisy(16)
    monkeypatch.setattr(crf, "EXACT", 100)
    found = crf_labels(torch.from_numpy(labels)[None], torch.from_numpy(image)[None].float(), 5)
    assert np.array_equal(found[0].numpy(), truth)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": torch.zeros(1, 8, 8, dtype=torch.int64)}, "sizes have to be equal"),
        ({"num_labels": 3}, "A label is 3"),
        ({"color_std": 0.0}, "each must be above 0"),
        ({"color_std": 0.1}, r"cells, at most 4,194,304; set larger deviations"),
    ],
)
def test_what_cannot_be_is_refused(change, said, monkeypatch):
    labels, image, _ = noisy(16)
    monkeypatch.setattr(crf, "EXACT", 100)
    given = {"labels": torch.from_numpy(labels)[None], "image": torch.from_numpy(image)[None].float(), "num_labels": 5}
    with pytest.raises(ValueError, match=said):
        crf_labels(**{**given, **change})
