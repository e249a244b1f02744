"""Pixel-adaptive mask refinement against loops over pixels, and what it is for."""

import numpy as np
import torch
from scipy.ndimage import median_filter

from slotworks.methods.diff_cut import refined
from slotworks.nn.pamr import refine_masks


def by_loops(masks, image, iterations, dilations):
    """Every pixel, neighbour and channel by itself, numbers outside repeated from the edge."""
    _, height, width = image.shape
    places = [(d * y, d * x) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1)]

    def at(maps, y, x):
        return maps[:, min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    weights = np.zeros((height, width, len(places)))
    for y in range(height):
        for x in range(width):
            around = np.stack([at(image, y + a, x + b) for a, b in places], 1)  # c k
            spread = around.std(1, ddof=1)
            logits = [
                -np.inf if (a, b) == (0, 0) else np.mean(-abs(around[:, k] - image[:, y, x]) / (1e-8 + 0.1 * spread))
                for k, (a, b) in enumerate(places)
            ]
            raised = np.exp(np.array(logits) - max(logits))
            weights[y, x] = raised / raised.sum()
    for _ in range(iterations):
        masks = np.stack(
            [
                [
                    sum(w * at(masks, y + a, x + b) for w, (a, b) in zip(weights[y, x], places, strict=True))
                    for x in range(width)
                ]
                for y in range(height)
            ]
        ).transpose(2, 0, 1)
    return masks


def test_it_is_what_loops_compute():
    torch.manual_seed(0)
    image, masks = torch.rand(2, 3, 6, 5, dtype=torch.float64), torch.rand(2, 4, 6, 5, dtype=torch.float64).softmax(1)
    found = refine_masks(masks, image, iterations=3, dilations=(1, 2))
    for k in range(2):
        expected = by_loops(masks[k].numpy(), image[k].numpy(), 3, (1, 2))
        torch.testing.assert_close(found[k], torch.from_numpy(expected), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(2, 6, 5).double())
    assert torch.equal(refine_masks(masks, image, iterations=0), masks)


def test_a_border_moves_to_the_edge_in_the_image():
    image = torch.zeros(1, 3, 24, 24)
    image[..., 12:] = 1
    labels = torch.zeros(1, 24, 24, dtype=torch.int64)
    labels[..., 10:] = 1  # two columns too far
    labels[0, 3, 20] = 0  # and a pixel that is wrong
    true = (image[:, 0] > 0.5).long()
    assert (labels != true).sum() == 49
    assert (refined(labels, image, 4, 10) != true).sum() == 0


def test_numbers_of_regions_go_through_a_median_filter():
    torch.manual_seed(1)
    labels = torch.randint(0, 5, (1, 9, 8))
    image = torch.rand(1, 3, 9, 8)
    masks = refine_masks(torch.nn.functional.one_hot(labels, 5).movedim(3, 1).float(), image, iterations=2)
    expected = median_filter(masks.argmax(1).numpy(), 3)
    assert np.array_equal(refined(labels, image, 5, iterations=2).numpy(), expected)
