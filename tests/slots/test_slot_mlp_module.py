"""Slot MLP: table 8 and table 9 of the supplement."""

import pytest
import torch

from slotworks.slots import SlotMLP


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"num_slots": 10}, 8_980_096),  # table 8, CLEVR10
        ({"num_slots": 7, "hidden_dims": (512, 1024, 1024), "per_slot_dim": 64}, 10_431_552),  # table 9, CLEVR6
    ],
)
def test_parameters(options, total):
    with torch.device("meta"):
        assert sum(p.numel() for p in SlotMLP(64, slot_dim=64, **options).parameters()) == total


def test_closed_form():
    """Weights of one: each slot number is the ReLU of the sum of all features; maps are resized before."""
    mlp = SlotMLP(1, num_slots=2, slot_dim=3, hidden_dims=(1, 1), side=2)
    for layer in mlp.mlp[::2]:
        layer.weight.data.fill_(1)
    features = torch.arange(16.0).view(1, 16, 1)
    # 4 x 4 to 2 x 2, bilinear between centres: each value is the mean of the middle two by two of its quarter
    means = torch.tensor([0 + 1 + 4 + 5, 2 + 3 + 6 + 7, 8 + 9 + 12 + 13, 10 + 11 + 14 + 15]) / 4
    torch.testing.assert_close(mlp(features, (4, 4)), means.sum().expand(1, 2, 3))
    torch.testing.assert_close(mlp(-features, (4, 4)), torch.zeros(1, 2, 3))
    torch.testing.assert_close(mlp(features[:, :4], (2, 2)), torch.full((1, 2, 3), 6.0))


def test_the_second_mlp_sees_one_slot():
    torch.manual_seed(0)
    mlp = SlotMLP(4, num_slots=3, slot_dim=5, hidden_dims=(8,), per_slot_dim=6, side=2)
    features = torch.randn(2, 4, 4)
    with_second = mlp(features, (2, 2))
    second, mlp.per_slot = mlp.per_slot, None
    slots = mlp(features, (2, 2))
    for k in range(3):
        torch.testing.assert_close(second(slots[:, k]), with_second[:, k])
