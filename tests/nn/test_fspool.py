"""Featurewise sort pooling. That it is the original's: tests/methods/test_dspn.py."""

import torch

from slotworks.nn.fspool import FSPool


def test_closed_form():
    pool = FSPool(2, num_pieces=2)
    pool.weight.data = torch.tensor([[1.0, 0.0, -1.0], [0.0, 4.0, 0.0]])
    x = torch.tensor([[[3.0, 1.0], [5.0, 2.0], [4.0, 3.0]]])
    assert pool(x).tolist() == [[5 - 3, 4 * 2]]  # the range of the first feature, four times the median of the second
    assert pool(x[:, :2]).tolist() == [[5 - 3, 0]]
    assert pool.rank_weights(5).tolist() == [[1, 0], [0.5, 2], [0, 4], [-0.5, 2], [-1, 0]]


def test_order_of_the_set_does_not_matter():
    torch.manual_seed(0)
    pool, x = FSPool(4), torch.randn(2, 7, 4)
    torch.testing.assert_close(pool(x[:, torch.randperm(7)]), pool(x), rtol=0, atol=1e-6)


def test_one_element_takes_the_weight_of_the_largest():
    torch.manual_seed(0)
    pool, x = FSPool(4), torch.randn(2, 1, 4)
    torch.testing.assert_close(pool(x), x[:, 0] * pool.weight[:, 0])
