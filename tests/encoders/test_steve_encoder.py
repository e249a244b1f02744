"""STEVE's convolutional encoder. That it is the original's: `tests/methods/test_transfer_slate.py`."""

import pytest
import torch

from slotworks.encoders.steve import SteveEncoder


@pytest.mark.parametrize(("stride", "grid"), [(1, (12, 8)), (2, (6, 4))])
def test_grid(stride, grid):
    encoder = SteveEncoder(dim=8, channels=4, stride=stride)
    assert encoder.grid(12, 8) == grid
    assert encoder(torch.rand(2, 3, 12, 8)).shape == (2, grid[0] * grid[1], 8)


def test_a_pixel_reaches_as_far_as_four_convolutions():
    """Without the LayerNorm's share of nothing: 5x5 four times, stride 1, is 8 pixels to each side."""
    torch.manual_seed(0)
    encoder = SteveEncoder(dim=6, channels=4, stride=1).double()
    image = torch.rand(1, 3, 24, 24).double()
    changed = image.clone()
    changed[..., 12, 12] += 5
    moved = (encoder(image) - encoder(changed)).abs().amax(dim=-1)[0].view(24, 24) > 0
    rows, columns = moved.any(dim=1).nonzero()[:, 0], moved.any(dim=0).nonzero()[:, 0]
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 20, 4, 20)


def test_initial_weights():
    """He-uniform before a ReLU, Glorot for the last convolution and the positions, zero biases."""
    torch.manual_seed(0)
    encoder = SteveEncoder()
    he = [(6 / (25 * c)) ** 0.5 for c in (3, 64, 64)]
    limits = [*he, (6 / (25 * (64 + 192))) ** 0.5]
    for layer, limit in zip([m for m in encoder.convs if hasattr(m, "weight")], limits, strict=True):
        assert layer.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
        assert (layer.bias == 0).all()
    assert encoder.position.project.weight.abs().max().item() == pytest.approx((6 / 196) ** 0.5, rel=0.02)
    first, _, last = encoder.mlp
    assert first.weight.abs().max().item() == pytest.approx((6 / 192) ** 0.5, rel=0.01)
    assert last.weight.abs().max().item() == pytest.approx((6 / 384) ** 0.5, rel=0.01)
