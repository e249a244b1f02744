"""Fully connected CRF: labels drawn to the borders of colours, every pixel joined with every other. Learns nothing.

Kraehenbuehl & Koltun 2011, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", arXiv
1210.5644: mean field with two Gaussian kernels, of place and of place with colour, and the Potts model, which pays for
pixels that are alike and bear other labels. Kernels are normalised from both sides, as in the authors' code:

    Q  <--  softmax( log p + sum over kernels of weight * D^-1/2 K D^-1/2 Q ),    D = K 1

The kernel of place is a product of one of rows and one of columns, so it is exact at any size, and so is the one of
place and colour of an image with at most `FEW` colours: each of them is blurred by place for itself. With more colours
it is a matrix, exact as well, for images of up to `EXACT` pixels. Beyond, it is blurred on a grid of place and colour
with one cell for each standard deviation (Chen, Paris & Durand 2007, "Real-time Edge-Aware Image Processing with the
Bilateral Grid"), where the authors' code has a permutohedral lattice; either is an approximation of a few percent.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

EXACT = 4096
"""Most pixels of an image whose kernel is a matrix: 64 x 64, 67 MB."""

FEW = 16
"""Most colours of an image, as of one that was drawn, that are blurred one by one."""

CELLS = 2**22
"""Most cells of a grid."""

SPREAD = 1 / 3
"""Variance, in cells, that is added by sharing a value out among neighbouring cells and by reading between them: for
each `f (1 - f)`, which is a sixth in the mean over places `f`. The blur between is narrower by this much."""

Kernel = Callable[[Float[Tensor, "n p"]], Float[Tensor, "n p"]]


def crf_labels(
    labels: Int64[Tensor, "b h w"],
    image: Float[Tensor, "b 3 y x"],
    num_labels: int,
    *,
    iterations: int = 5,
    color_weight: float = 10.0,
    color_place: float = 80.0,
    color_std: float = 13.0,
    place_weight: float = 3.0,
    place_std: float = 3.0,
    certain: float = 0.99,
    other: float = 0.01,
) -> Int64[Tensor, "b h w"]:
    """The most probable label of every pixel after mean field; defaults are what DeepSpectral's code gives SimpleCRF.

    A label has the probability `certain` where it stands and `other` elsewhere; SimpleCRF cuts 1 and 0 off at 0.99 and
    0.01. Labels that an image lacks are alike, so one stands for all of them.

    Args:
        labels: from 0, below `num_labels`.
        image: in [0, 1], of the same height and width.
        num_labels: how many labels there are in all images.
        iterations: updates of all pixels at once.
        color_weight: of the kernel of place and colour.
        color_place: its standard deviation of place, in pixels.
        color_std: and of each colour, of 255.
        place_weight: of the kernel of place alone.
        place_std: its standard deviation, in pixels.
        certain: probability of the label that stands at a pixel.
        other: of each other label.

    Raises:
        ValueError: sizes differ, a label is too large, a deviation is not above 0, or those of colour are so small that
            the grid of a large image would have more than `CELLS` cells.

    >>> crf_labels(torch.tensor([[[0, 2, 0], [0, 0, 0]]]), torch.zeros(1, 3, 2, 3), num_labels=4)
    tensor([[[0, 0, 0],
             [0, 0, 0]]])
    """
    if labels.shape[-2:] != image.shape[-2:] or len(labels) != len(image):
        raise ValueError(f"Labels are {tuple(labels.shape)}, images {tuple(image.shape)}; sizes have to be equal.")
    if labels.min() < 0 or labels.max() >= num_labels:
        raise ValueError(f"A label is {int(labels.max())}, the lowest {int(labels.min())}; of {num_labels} is spoken.")
    if min(color_place, color_std, place_std) <= 0:
        raise ValueError(
            f"Standard deviations of the CRF are {color_place}, {color_std} and {place_std}; each must be above 0."
        )
    places = place_kernel(labels.shape[1], labels.shape[2], place_std, image)
    found, colors = [], None
    shared = image.stride(0) == 0  # one image, expanded: its kernel is made once
    for one, picture in zip(labels, image.float(), strict=True):
        colors = colors if shared and colors else color_kernel(picture, color_place, color_std)
        kernels = [(color_weight, colors), (place_weight, places)]
        there, index = one.flatten().unique(return_inverse=True)
        count = torch.ones(len(there) + (len(there) < num_labels), 1, device=one.device)
        count[len(there) :] = num_labels - len(there)
        unary = F.one_hot(index, len(count)).T.float().mul(certain - other).add(other).log()
        q = (unary + count.log()).softmax(0) / count
        for _ in range(iterations):
            scores = unary + sum(weight * kernel(q) for weight, kernel in kernels)
            q = (scores + count.log()).softmax(0) / count
        found.append(there[q[: len(there)].argmax(0)].view_as(one))
    return torch.stack(found)


def place_kernel(height: int, width: int, std: float, like: Tensor) -> Kernel:
    """The normalised kernel of place alone, exact; `std` in pixels, device and precision those of `like`."""
    rows, columns = (_gauss(side, 1 / std, like.float()) for side in (height, width))

    def blur(values: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        return (rows @ values.unflatten(1, (height, width)) @ columns).flatten(1)

    return _normalised(blur, like.new_ones(1, height * width, dtype=torch.float32))


def color_kernel(image: Float[Tensor, "3 h w"], place: float, color: float) -> Kernel:
    """The normalised kernel of place (standard deviation in pixels) and colour (of 255): by colours, matrix or grid."""
    _, height, width = image.shape
    axes = [torch.arange(side, device=image.device, dtype=image.dtype) for side in (height, width)]
    points = torch.cat([torch.cartesian_prod(*axes) / place, image.flatten(1).T * 255 / color], dim=1)  # p 5
    ones = points.new_ones(1, len(points))
    colors, which = points[:, 2:].unique(dim=0, return_inverse=True)
    if len(colors) <= FEW:
        return _normalised(_by_colors(colors, which.view(height, width), place), ones)
    if len(points) <= EXACT:
        distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        kernel = distance.square_().div_(-2).exp_()  # in place: the matrix is large
        return _normalised(lambda values: values @ kernel, ones)
    return _normalised(_grid(points - points.amin(0)), ones)


def _by_colors(colors: Float[Tensor, "c 3"], which: Int64[Tensor, "h w"], place: float) -> Kernel:
    """A Gaussian between pixels that have these colours (a standard deviation is 1): each is blurred by place."""
    rows, columns = (_gauss(side, 1 / place, colors) for side in which.shape)
    has = F.one_hot(which.flatten(), len(colors)).T.to(colors.dtype)  # c p
    near = (colors[:, None] - colors).square().sum(2).div(-2).exp() @ has  # c p

    def blur(values: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        parts = (values[:, None] * has).unflatten(2, which.shape)  # n c h w
        return ((rows @ parts @ columns).flatten(2) * near).sum(1)

    return blur


def _grid(points: Float[Tensor, "p 5"]) -> Kernel:
    """A Gaussian of standard deviation 1 between points from 0 on: shared out among cells, blurred, read again."""
    sizes = [int(side) + 2 for side in points.amax(0)]
    cells = 1
    for side in sizes:
        cells *= side
    if cells > CELLS:
        raise ValueError(f"The grid of the CRF would have {cells:,} cells, at most {CELLS:,}; set larger deviations.")
    low = points.floor()
    share = points - low
    strides = [1]
    for side in reversed(sizes[1:]):
        strides.insert(0, strides[0] * side)
    base = low.long() @ torch.tensor(strides, device=points.device)
    corners = []  # the cell of every point and its share of it, for each of the 32 around
    for corner in itertools.product((0, 1), repeat=points.shape[1]):
        shares = [part if here else 1 - part for here, part in zip(corner, share.unbind(1), strict=True)]
        step = sum(here * stride for here, stride in zip(corner, strides, strict=True))
        corners.append((base + step, torch.stack(shares).prod(0)[:, None]))
    blurs = [_gauss(side, (1 - SPREAD) ** -0.5, points) for side in sizes]

    def blur(values: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
        grid = values.new_zeros(cells, len(values))
        columns = values.T.contiguous()
        for cell, part in corners:
            grid.index_add_(0, cell, part * columns)
        for axis, matrix in enumerate(blurs):
            grid = matrix @ grid.reshape(-1, sizes[axis], strides[axis] * len(values))
        grid, found = grid.reshape(cells, -1), torch.zeros_like(columns)
        for cell, part in corners:
            found.addcmul_(part, grid[cell])
        return found.T

    return blur


def _gauss(side: int, scale: float, like: Tensor) -> Float[Tensor, "k k"]:
    """`exp(-x^2 / 2)` of the distances between `side` places, `scale` apart."""
    x = torch.arange(side, device=like.device, dtype=like.dtype) * scale
    return (x - x[:, None]).square().div(-2).exp()


def _normalised(blur: Kernel, ones: Float[Tensor, "1 p"]) -> Kernel:
    """`D^-1/2 K D^-1/2`, with the sums `D` of the rows of `K`."""
    root = blur(ones).rsqrt()
    return lambda values: root * blur(root * values)
