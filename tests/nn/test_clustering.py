"""k-means against all partitions and scikit-learn; Laplacian eigenvectors against scipy and closed forms."""

from itertools import product

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.cluster import KMeans

from slotworks.nn.clustering import kmeans, laplacian_eigenvectors, segments_as_slots


def inertia(points, labels):
    return sum(((points[labels == k] - points[labels == k].mean(0)) ** 2).sum().item() for k in labels.unique())


def test_kmeans_finds_the_best_of_all_partitions():
    torch.manual_seed(0)
    points = torch.randn(5, 7, 2)
    labels = kmeans(points, 3, restarts=16)
    for x, found in zip(points, labels, strict=True):
        best = min(inertia(x, torch.tensor(ids)) for ids in product(range(3), repeat=7))
        assert inertia(x, found) == pytest.approx(best, abs=1e-5)


def test_kmeans_against_scikit_learn_far_from_the_origin():
    torch.manual_seed(0)
    points = torch.randn(2, 300, 8) * 0.1 + torch.randn(5, 8)[torch.randint(5, (2, 300))] + 1000
    for x, found in zip(points, kmeans(points, 5, restarts=8), strict=True):
        theirs = KMeans(5, n_init=20, random_state=0).fit(x.double().numpy())
        assert inertia(x.double(), found) == pytest.approx(theirs.inertia_, rel=1e-3)


def test_kmeans_repeats_with_the_seed_and_does_not_mix_samples():
    torch.manual_seed(0)
    points = torch.randn(3, 40, 4)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(kmeans(points, 6, restarts=1))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    torch.manual_seed(1)
    changed = torch.cat([points[:2], torch.randn(1, 40, 4)])
    torch.manual_seed(1)
    assert torch.equal(kmeans(changed, 6, restarts=1)[:2], runs[0][:2])


def test_kmeans_with_fewer_points_than_clusters():
    points = torch.tensor([[[0.0], [0.0], [5.0], [5.0]]])
    labels = kmeans(points, 3)[0]
    assert labels[0] == labels[1] != labels[2] == labels[3]
    assert kmeans(torch.zeros(1, 2, 3), 5).shape == (1, 2)
    with pytest.raises(ValueError, match="0 clusters of 4 points in 8 runs"):
        kmeans(points, 0)


def test_eigenvectors_against_scipy():
    torch.manual_seed(0)
    w = torch.rand(2, 9, 9)
    w = w + w.mT
    values, vectors = laplacian_eigenvectors(w, 4)
    for x, value, y in zip(w.double().numpy(), values.numpy(), vectors.numpy(), strict=True):
        d = np.diag(x.sum(1))
        theirs, their_vectors = scipy.linalg.eigh(d - x, d)
        assert value == pytest.approx(theirs[:4], abs=1e-12)
        overlap = np.abs(y.T @ d @ their_vectors[:, :4])
        assert overlap == pytest.approx(np.eye(4), abs=1e-9)


def test_eigenvectors_of_blocks():
    """Three blocks: eigenvalue 0 three times, vectors constant on each; then the rest."""
    ids = torch.tensor([0, 1, 1, 0, 2, 2, 2])
    w = (ids.unsqueeze(0) == ids.unsqueeze(1)).float()
    values, vectors = laplacian_eigenvectors(w, 4)
    assert values.tolist() == pytest.approx([0, 0, 0, 1], abs=1e-12)
    for k in range(3):
        block = vectors[ids == k, :3]
        torch.testing.assert_close(block, block[:1].expand_as(block), rtol=0, atol=1e-12)


def test_an_isolated_position_is_no_division_by_zero():
    w = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]])
    values, vectors = laplacian_eigenvectors(w, 3)
    assert values.isfinite().all()
    assert vectors.isfinite().all()


def test_segments_as_slots():
    labels = torch.tensor([[0, 2, 2, 0, 0, 2]])
    features = torch.arange(6.0).view(1, 6, 1)
    out = segments_as_slots(labels, features, 4, (2, 3))
    assert out.slots.flatten().tolist() == pytest.approx([7 / 3, 0, 8 / 3, 0])
    assert out.attn.sum(1).tolist() == [[1] * 6]
    assert out.attn_maps[0].argmax(0).tolist() == [[0, 2, 2], [0, 0, 2]]
