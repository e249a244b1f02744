"""Initialisation as in Keras."""

import math

import pytest
import torch
from torch import nn

from slotworks.nn.init import glorot_, glorot_vector


@pytest.mark.parametrize(
    ("layer", "fan_in", "fan_out"),
    [
        (nn.Linear(300, 200), 300, 200),
        (nn.Conv2d(40, 60, 5), 25 * 40, 25 * 60),
        (nn.ConvTranspose2d(60, 40, 3, stride=2), 9 * 60, 9 * 40),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_kernels_are_uniform_within_the_glorot_limit(layer, fan_in, fan_out):
    torch.manual_seed(0)
    nn.init.constant_(layer.bias, 3.0)
    assert glorot_(layer) is layer
    limit = math.sqrt(6 / (fan_in + fan_out))
    weight = layer.weight.detach()
    assert 0.999 * limit < weight.abs().max() <= limit
    assert weight.mean().abs() < 0.02 * limit
    assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.01)
    assert (layer.bias == 0).all()


def test_gru_gates_are_one_matrix():
    """Keras: input kernel `d x 3d` Glorot, recurrent kernel `d x 3d` orthogonal, biases zero."""
    torch.manual_seed(0)
    cell = glorot_(nn.GRUCell(64, 48))
    limit = math.sqrt(6 / (64 + 3 * 48))
    assert 0.999 * limit < cell.weight_ih.abs().max() <= limit
    assert cell.weight_ih.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    torch.testing.assert_close(cell.weight_hh.T @ cell.weight_hh, torch.eye(48), atol=1e-5, rtol=0)
    assert (cell.bias_ih == 0).all()
    assert (cell.bias_hh == 0).all()


def test_norms_and_nested_layers():
    module = nn.Sequential(nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 8)), nn.Linear(8, 8, bias=False))
    nn.init.constant_(module[1][0].bias, 3.0)
    nn.init.constant_(module[0].weight, 2.0)
    glorot_(module)
    assert (module[1][0].bias == 0).all()
    assert (module[0].weight == 2).all()
    assert module[1][0].weight.abs().max() <= math.sqrt(6 / 16)


@pytest.mark.parametrize(("shape", "limit"), [((1, 1, 4096), math.sqrt(6 / 4097)), ((1, 9, 4096), math.sqrt(6 / 4105))])
def test_vectors_are_wider_than_torch_would_draw_them(shape, limit):
    torch.manual_seed(0)
    vector = glorot_vector(*shape)
    assert isinstance(vector, nn.Parameter)
    assert vector.shape == shape
    assert 0.99 * limit < vector.abs().max() <= limit
    torchs = nn.init.xavier_uniform_(torch.empty(1, 1, 4096)).abs().max()
    assert torchs < 0.75 * vector.abs().max()
