"""Clustering without learning: k-means, eigenvectors of a graph Laplacian, and segments as slots."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from slotworks.nn.noise import batch_uniform
from slotworks.types import SlotOutput


def kmeans(
    points: Float[Tensor, "b p c"], num_clusters: int, *, restarts: int = 8, max_iterations: int = 100
) -> Int64[Tensor, "b p"]:
    """Cluster the points of each sample by itself: the best of several k-means runs.

    Lloyd 1982, started by k-means++ (Arthur & Vassilvitskii 2007). All samples and restarts run at once and stop when
    no point of any changes its cluster. Random numbers come from `batch_uniform`: the same seed gives the same result.

    Args:
        points: any scale.
        num_clusters: fewer distinct points than this leave clusters empty.
        restarts: runs from different starts; the one with the smallest sum of squared distances is kept.
        max_iterations: at most so many updates of the centres.

    Returns:
        The cluster of every point, 0 to `num_clusters - 1`, in no particular order.

    Raises:
        ValueError: if there are no points, or `num_clusters` or `restarts` is below 1.
    """
    batch, count = points.shape[:2]
    if min(count, num_clusters, restarts) < 1:
        raise ValueError(
            f"k-means was asked for {num_clusters} clusters of {count} points in {restarts} runs; each must be above 0."
        )
    # Squared distances are computed as |x|^2 - 2 x c + |c|^2, which loses digits far from the origin.
    x = points.float() - points.float().mean(1, keepdim=True)
    centres = _plus_plus(x, num_clusters, restarts).flatten(1, 2)  # b (r n) c
    labels = torch.full((batch, count, restarts), -1, device=x.device)
    for _ in range(max_iterations):
        distance = _squared_distance(x, centres).unflatten(2, (restarts, num_clusters))  # b p r n
        new = distance.argmin(3)
        if not torch.compiler.is_exporting() and torch.equal(new, labels):
            break  # further ones would change nothing; a program of fixed steps makes them
        labels = new
        members = F.one_hot(labels, num_clusters).to(x.dtype).flatten(2)  # b p (r n)
        sizes = members.sum(1).unsqueeze(2)
        means = members.mT @ x / sizes.clamp(min=1)
        centres = means.where(sizes > 0, centres)  # an empty cluster stays where it was
    distance = _squared_distance(x, centres).unflatten(2, (restarts, num_clusters))
    nearest, labels = distance.min(3)
    best = nearest.sum(1).argmin(1)  # b
    return labels.gather(2, best.view(-1, 1, 1).expand(-1, count, 1)).squeeze(2)


def _plus_plus(x: Float[Tensor, "b p c"], num_clusters: int, restarts: int) -> Float[Tensor, "b r n c"]:
    """Points of the data as first centres, each drawn with probability proportional to its squared distance."""
    batch, count, _ = x.shape
    uniform = batch_uniform((batch, num_clusters, restarts), x.device)
    rows = torch.arange(batch, device=x.device).unsqueeze(1)
    weight = x.new_ones(batch, restarts, count, dtype=torch.float64)
    nearest = x.new_full((batch, restarts, count), torch.inf)
    centres = []
    for n in range(num_clusters):
        total = weight.cumsum(2)
        index = torch.searchsorted(total, uniform[:, n, :, None].double() * total[..., -1:], right=True)
        centre = x[rows, index.squeeze(2).clamp(max=count - 1)]  # b r c
        centres.append(centre)
        nearest = nearest.minimum(_squared_distance(x, centre).mT)
        weight = nearest.double()
    return torch.stack(centres, 2)


def _squared_distance(x: Float[Tensor, "b p c"], centres: Float[Tensor, "b n c"]) -> Float[Tensor, "b p n"]:
    squares = x.square().sum(2, keepdim=True) + centres.square().sum(2).unsqueeze(1)
    return torch.baddbmm(squares, x, centres.mT, alpha=-2).clamp(min=0)


def laplacian_eigenvectors(
    affinity: Float[Tensor, "*b p p"], count: int
) -> tuple[Float64[Tensor, "*b e"], Float64[Tensor, "*b p e"]]:
    """The smallest solutions of `(D - W) y = lambda D y`, where `D` holds the row sums of `W` (Shi & Malik 2000).

    The first is constant with eigenvalue 0. In each component of the graph that is not connected to the rest one more
    vector is constant there and zero elsewhere, or a mixture of such. Scaled so that `y D y = 1`; signs are arbitrary.

    Args:
        affinity: `W`, symmetric, not negative. A position connected to nothing, not even itself, counts with degree 1.
        count: how many vectors; at most as many as positions.

    Returns:
        Eigenvalues, ascending, in [0, 2]; vectors as columns. In float64: small gaps decide about segments.
    """
    w = affinity.double()
    degree = w.sum(-1)
    scale = degree.where(degree > 1e-12, 1.0).rsqrt().unsqueeze(-1)
    normalized = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) - scale * w * scale.mT
    values, vectors = torch.linalg.eigh((normalized + normalized.mT) / 2)
    return values[..., :count].contiguous(), (scale * vectors[..., :count]).contiguous()


def spectral_embedding(points: Float[Tensor, "n c"], num_neighbors: int, count: int) -> Float64[Tensor, "n e"]:
    """Points of a data set by the smallest eigenvectors of the graph of nearest neighbours, the constant one included.

    Two points are joined where one is among the `num_neighbors` nearest of the other, itself included, with half the
    weight if the other way round it is not. The solutions are those of `laplacian_eigenvectors`, of a sparse matrix;
    they are what scikit-learn's `spectral_embedding(drop_first=False)` gives, but for signs and one scale.

    Args:
        points: any scale.
        num_neighbors: at most as many as points.
        count: how many vectors; with `count + 1` points or fewer, the dense matrix is solved.

    Returns:
        Vectors as columns, with a mean square length of one over the points.
    """
    from scipy import sparse  # imported here: takes half a second
    from scipy.sparse.linalg import eigsh

    number = len(points)
    near = torch.cat(
        [torch.cdist(part, points).topk(num_neighbors, largest=False).indices for part in points.split(1024)]
    )
    rows = torch.arange(number).repeat_interleave(num_neighbors)
    ones = torch.ones(len(rows), dtype=torch.float64)
    near = near.flatten().cpu()
    directed = sparse.csr_matrix((ones.numpy(), (rows.numpy(), near.numpy())), shape=(number, number))
    graph = (directed + directed.T) / 2
    graph.setdiag(0)
    degree = torch.from_numpy(graph.sum(1).A1 if hasattr(graph.sum(1), "A1") else graph.sum(1))
    scale = degree.where(degree > 0, 1.0).rsqrt()
    if number <= count + 1:
        normal = scale[:, None] * torch.from_numpy(graph.toarray()) * scale
        vectors = torch.linalg.eigh(normal)[1].flip(1)[:, :count]
    else:
        diagonal = sparse.diags(scale.numpy())
        start = torch.linspace(1, 2, number, dtype=torch.float64).numpy()  # the same result every time
        _, found = eigsh(diagonal @ graph @ diagonal, k=count, which="LA", v0=start)
        vectors = torch.from_numpy(found).flip(1)
    vectors = scale[:, None] * vectors
    return vectors / vectors.square().sum(1).mean().sqrt().clamp(min=1e-300)


def segments_as_slots(
    labels: Int64[Tensor, "b p"], features: Float[Tensor, "b p c"], num_slots: int, grid: tuple[int, int]
) -> SlotOutput:
    """Hard segments as slots: `attn` is one-hot, a slot is the mean feature of its segment.

    Args:
        labels: segment of every position, from 0, below `num_slots`. Segments without a position are empty slots: zero.
        features: what is averaged, at the same positions.
        num_slots: slots of the result.
        grid: height and width behind `p`.
    """
    attn = F.one_hot(labels, num_slots).mT.to(features.dtype)
    slots = attn @ features / attn.sum(2, keepdim=True).clamp(min=1)
    return SlotOutput(slots, attn, grid=grid)
