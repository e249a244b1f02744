"""Slots to vectors."""

import torch

from slotworks.decoders import SetHead


def test_by_hand():
    """One slot number: hidden relu(2 s - 1), output 3 h + 0.5 through a sigmoid."""
    head = SetHead(1, 1, hidden_dim=1)
    for layer, weight, bias in ((head.mlp[0], 2.0, -1.0), (head.mlp[2], 3.0, 0.5)):
        layer.weight.data.fill_(weight)
        layer.bias.data.fill_(bias)
    out = head(torch.tensor([[[0.0], [1.0]]]))
    torch.testing.assert_close(out, torch.tensor([[[0.5], [3.5]]]).sigmoid())


def test_slots_are_read_alone():
    torch.manual_seed(0)
    head, slots = SetHead(8, 19), torch.randn(2, 5, 8)
    order = torch.randperm(5)
    torch.testing.assert_close(head(slots[:, order]), head(slots)[:, order])
    assert sum(p.numel() for p in SetHead(64, 19).parameters()) == 5_395
