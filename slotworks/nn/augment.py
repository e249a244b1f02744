"""Random changes of images and their labels for training segmenters, as mmsegmentation makes them, on the device.

    image, labels  --several in one-->  image, labels
    image, labels  --another size, crop, mirrored-->  image, labels  --brightness, contrast, saturation, hue-->  image
    image  --a rectangle of noise-->  image

Read from `mmseg/datasets/transforms/transforms.py` (`RandomCrop`, `PhotoMetricDistortion`) and the configs that use
them. Numbers are not rounded to 8 bits on the way, and the nearest label is that of the pixel's centre.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from slotworks.nn.noise import batch_noise, batch_uniform

ERASE_TRIES = 10
"""Rectangles that are drawn until one fits."""

CROPS = 10
"""Crops that are tried for one in which no class has more than `max_share`."""


def random_crops(
    image: Float[Tensor, "b 3 h w"],
    labels: Int64[Tensor, "b y x"],
    *,
    scales: tuple[float, float],
    max_share: float,
    ignore: int,
    fill: Float[Tensor, "3"],
) -> tuple[Float[Tensor, "b 3 h w"], Int64[Tensor, "b h w"]]:
    """Images resized by a random factor, and of each a random window of the old size; half of them are mirrored.

    Args:
        image: in any range.
        labels: of any size; they come back in the size of the image.
        scales: smallest and largest factor.
        max_share: a window is drawn anew, up to ten times, while fewer than two classes are in it or one of them has
            this share or more of its labelled pixels; 1: any window.
        ignore: the label of pixels of which nothing is known, and of those beyond a smaller image; above all others.
        fill: colour beyond a smaller image.
    """
    b, _, height, width = image.shape
    draws = batch_uniform((b, 2 + 2 * (CROPS + 1)), image.device)
    factor = scales[0] + (scales[1] - scales[0]) * draws[:, 0]
    size = factor[:, None] * factor.new_tensor([height, width]) + 0.5
    size = size.floor().clamp(min=1)  # b 2
    room = (size - size.new_tensor([height, width])).clamp(min=0)
    corners = (draws[:, 2:].unflatten(1, (CROPS + 1, 2)) * (room[:, None] + 1)).floor()  # b k 2

    corner = corners[:, 0]
    if max_share < 1:
        good = torch.zeros(b, dtype=torch.bool, device=image.device)
        for k in range(CROPS):
            corner = torch.where(good[:, None], corner, corners[:, k])
            shares = _largest_share(_labels_at(labels, *_places(corner, size, height, width), ignore), ignore)
            good = good | (shares < max_share)
        corner = torch.where(good[:, None], corner, corners[:, CROPS])  # which is not looked at

    rows, columns = _places(corner, size, height, width)
    mirrored = draws[:, 1, None] < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    grid = torch.stack([columns[:, None].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], dim=3)
    moved = F.grid_sample(image, 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False)
    inside = (rows < 1)[:, :, None] & (columns < 1)[:, None]
    moved = torch.where(inside[:, None], moved, fill.to(moved)[:, None, None])
    return moved, _labels_at(labels, rows, columns, ignore)


def _places(
    corner: Float[Tensor, "b 2"], size: Float[Tensor, "b 2"], height: int, width: int
) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b w"]]:
    """Where the rows and columns of a window lie in the whole image, in [0, 1); 1 or more beyond it."""
    found = []
    for axis, length in enumerate((height, width)):
        pixels = torch.arange(length, device=corner.device) + 0.5
        found.append((corner[:, axis, None] + pixels) / size[:, axis, None])
    return found[0], found[1]


def _labels_at(
    labels: Int64[Tensor, "b y x"], rows: Float[Tensor, "b h"], columns: Float[Tensor, "b w"], ignore: int
) -> Int64[Tensor, "b h w"]:
    """The labels of the nearest pixels."""
    y, x = labels.shape[1:]
    row, column = (rows * y).long().clamp(max=y - 1), (columns * x).long().clamp(max=x - 1)
    images = torch.arange(len(labels), device=labels.device)[:, None, None]
    found = labels[images, row[:, :, None], column[:, None]]
    return found.where((rows < 1)[:, :, None] & (columns < 1)[:, None], ignore)


def _largest_share(labels: Int64[Tensor, "b h w"], ignore: int) -> Float[Tensor, " b"]:
    """Of the labelled pixels of each image the share of the most frequent label; 1 with fewer than two labels."""
    known = labels != ignore
    counts = torch.zeros(len(labels), ignore + 1, device=labels.device)
    counts.scatter_add_(1, labels.flatten(1), known.flatten(1).to(counts))
    several = (counts > 0).sum(1) > 1
    return torch.where(several, counts.amax(1) / counts.sum(1).clamp(min=1), 1.0)


def splice(
    image: Float[Tensor, "b 3 h w"], labels: Int64[Tensor, "b y x"], sides: Sequence[int]
) -> tuple[Float[Tensor, "b 3 h w"], Int64[Tensor, "b y x"]]:
    """Images put together of smaller ones: a square of n x n images of the batch, drawn at random, n one of `sides`.

    DiffuMask (Wu et al. 2023, `Data_Augmentation.py`) makes squares of two and of three a side, because each of its
    images has one object. 1 leaves an image as it is. The smaller images are smoothed; labels are those of the nearest
    pixels.

    Args:
        image: in any range.
        labels: of any size; they keep it.
        sides: each is equally likely.
    """
    b, most = len(image), max(sides)
    draws = batch_uniform((b, 1 + most**2), image.device)
    chosen = (draws[:, 0] * len(sides)).long()
    which = (draws[:, 1:] * b).long()  # b n*n
    out, found = image, labels
    for k, n in enumerate(sides):
        if n == 1:
            continue
        here = (chosen == k)[:, None, None]
        out = torch.where(here[:, None], _tiled(image, which, n, smooth=True), out)
        tiles = _tiled(labels[:, None].to(image.dtype), which, n, smooth=False)
        found = torch.where(here, tiles[:, 0].long(), found)
    return out, found


def _tiled(
    image: Float[Tensor, "b c h w"], which: Int64[Tensor, "b k"], n: int, *, smooth: bool
) -> Float[Tensor, "b c h w"]:
    """The images numbered `which`, n x n of them in reading order, each 1 / n of the size; what does not fit is cut."""
    height, width = image.shape[-2:]
    size = (-(-height // n), -(-width // n))
    how: dict[str, Any] = {"mode": "bilinear", "antialias": True} if smooth else {"mode": "nearest-exact"}
    small = F.interpolate(image, size, **how)[which[:, : n * n]]  # b k c y x
    rows = small.unflatten(1, (n, n)).permute(0, 3, 1, 4, 2, 5)  # b c n y n x
    return rows.flatten(4, 5).flatten(2, 3)[..., :height, :width]


def distort_colors(
    image: Float[Tensor, "b 3 h w"],
    *,
    brightness: float = 32 / 255,
    contrast: float = 0.5,
    saturation: float = 0.5,
    hue: float = 0.1,
) -> Float[Tensor, "b 3 h w"]:
    """Images in [0, 1] in other colours; each of the four changes happens to half of them.

    Contrast is changed before or, in half of the images, after saturation and hue. Values stay in [0, 1].

    Args:
        image: RGB.
        brightness: most that is added or taken away.
        contrast: most by which the factor on all values differs from 1.
        saturation: the same of the saturation of HSV.
        hue: most by which the hue turns, as a share of the circle: 18 of OpenCV's 180.
    """
    draws = batch_uniform((len(image), 9), image.device)
    does, early = (draws[:, :4] < 0.5).to(image), draws[:, 4] < 0.5
    amount = (2 * draws[:, 5:] - 1).to(image) * does  # 0: no change
    light, factor, richer, turn = (value[:, None, None, None] for value in amount.unbind(1))
    image = (image + brightness * light).clamp(0, 1)
    stretch, first = 1 + contrast * factor, early[:, None, None, None]
    image = torch.where(first, (image * stretch).clamp(0, 1), image)
    h, s, v = to_hsv(image).split(1, dim=1)
    image = to_rgb(torch.cat([(h + hue * turn) % 1, (s * (1 + saturation * richer)).clamp(max=1), v], dim=1))
    return torch.where(first, image, (image * stretch).clamp(0, 1))


def to_hsv(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """RGB in [0, 1] to hue, saturation and value in [0, 1] (Smith 1978); grey has hue 0."""
    high, spread = image.amax(1), image.amax(1) - image.amin(1)
    r, g, b = image.unbind(1)
    by = spread.clamp(min=torch.finfo(image.dtype).tiny)
    hue = torch.where(high == r, ((g - b) / by) % 6, torch.where(high == g, (b - r) / by + 2, (r - g) / by + 4))
    hue = torch.where(spread > 0, hue / 6, 0.0)
    return torch.stack([hue, spread / high.clamp(min=torch.finfo(image.dtype).tiny), high], dim=1)


def to_rgb(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Hue, saturation and value in [0, 1] to RGB, the inverse of `to_hsv`."""
    h, s, v = image.unbind(1)
    turned = [(number + 6 * h) % 6 for number in (5, 3, 1)]
    return torch.stack([v - v * s * torch.minimum(k, 4 - k).clamp(0, 1) for k in turned], dim=1)


def erase(
    image: Float[Tensor, "b 3 h w"], share: float, *, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "b 3 h w"]:
    """Images in [0, 1], in some of which a rectangle is noise: Zhong et al. 2020, as timm has it with `pixel`.

    Its area is 2 to 33 % of the image's, its height a third to three times of its width; of ten the first that fits is
    taken. The noise is normal and is not cut to [0, 1].

    Args:
        image: RGB.
        share: of the images that this happens to.
        mean: of the noise, by colour.
        std: its deviation.
    """
    b, _, height, width = image.shape
    draws = batch_uniform((b, 1 + 4 * ERASE_TRIES), image.device)
    area, aspect, down, across = draws[:, 1:].unflatten(1, (ERASE_TRIES, 4)).unbind(2)
    area = (0.02 + (1 / 3 - 0.02) * area) * height * width
    aspect = (math.log(0.3) * (1 - 2 * aspect)).exp()
    tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (tall < height) & (wide < width)
    first = fits.float().argmax(1, keepdim=True)
    tall, wide, down, across = (one.gather(1, first) for one in (tall, wide, down, across))  # b 1
    top, left = (down * (height - tall + 1)).floor(), (across * (width - wide + 1)).floor()
    rows, columns = (torch.arange(side, device=image.device) for side in (height, width))
    inside = ((rows >= top) & (rows < top + tall))[:, :, None] & ((columns >= left) & (columns < left + wide))[:, None]
    chosen = (draws[:, 0] < share) & fits.any(1)
    low, spread = (image.new_tensor(values)[:, None, None] for values in (mean, std))
    noise = low + spread * batch_noise(image.shape, image.device)
    return torch.where((inside & chosen[:, None, None])[:, None], noise.to(image), image)
