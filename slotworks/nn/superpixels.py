"""Superpixels by growing regions along weak edges: which pixels are surely of one thing."""

import numpy as np
from jaxtyping import Float, Int, UInt8


def felzenszwalb(
    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"],
    *,
    scale: int = 224,
    sigma: float = 0.9,
    min_size: int = 224,
) -> Int[np.ndarray, "h w"]:
    """Graph-based segmentation (Felzenszwalb & Huttenlocher 2004, section 3), labels from 0 in the order of pixels.

    Edges join the eight neighbours of a pixel, as long as the distance of their smoothed colours. They are looked at
    from the shortest on; the parts at both ends become one if the edge is no longer than the longest one inside either
    of them plus `scale / size` of that part. Then parts below `min_size` pixels join a neighbour.

    Args:
        image: 0 to 255 where it is of integers, else in [0, 1].
        scale: larger means larger parts; of colours from 0 to 255.
        sigma: standard deviation of the smoothing, in pixels.
        min_size: pixels.
    """
    from scipy.ndimage import gaussian_filter  # imported here: takes half a second

    values = image.astype(np.float64) * (1 if image.dtype.kind in "iu" else 255)
    smooth = np.asarray(gaussian_filter(values, (sigma, sigma, 0)))
    height, width = image.shape[:2]
    number = np.arange(height * width).reshape(height, width)
    ends, lengths = [], []
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        first = (slice(0, height - down), slice(max(0, -across), width - max(0, across)))
        second = (slice(down, height), slice(max(0, across), width + min(0, across)))
        ends.append(np.stack([number[first].ravel(), number[second].ravel()], 1))
        lengths.append(np.sqrt(np.square(smooth[first] - smooth[second]).sum(-1)).ravel())
    edges, length = np.concatenate(ends), np.concatenate(lengths)
    order = np.argsort(length, kind="stable")
    parent, size = number.ravel().tolist(), [1] * number.size
    limit = [float(scale)] * number.size  # the longest edge that may still join: longest inside, and scale / size

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    pairs = edges[order].tolist()
    for (i, j), d in zip(pairs, length[order].tolist(), strict=True):
        a, b = root(i), root(j)
        if a != b and d <= limit[a] and d <= limit[b]:
            parent[b] = a
            size[a] += size[b]
            limit[a] = d + scale / size[a]
    for i, j in pairs:
        a, b = root(i), root(j)
        if a != b and (size[a] < min_size or size[b] < min_size):
            parent[b] = a
            size[a] += size[b]
    roots = np.array([root(i) for i in range(number.size)])
    _, first, labels = np.unique(roots, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[labels].reshape(height, width)


def most_frequent(labels: Int[np.ndarray, "h w"], patch: int) -> Int[np.ndarray, "y x"]:
    """The most frequent label of each square patch, of equally frequent ones the smallest."""
    height, width = (side // patch for side in labels.shape)
    blocks = labels.reshape(height, patch, width, patch).swapaxes(1, 2).reshape(height * width, -1)
    return np.array([np.bincount(block).argmax() for block in blocks]).reshape(height, width)
