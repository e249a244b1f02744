import pytest
import torch

from slotworks.nn.orders import NUM_ORDERS, patch_orders


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 3), (4, 7), (7, 4), (14, 14)], ids=str)
def test_each_order_reads_every_patch_once(grid):
    orders = patch_orders(*grid)
    assert orders.shape == (NUM_ORDERS, grid[0] * grid[1])
    assert (orders.sort(dim=1).values == torch.arange(grid[0] * grid[1])).all()


def test_the_nine_orders_by_hand():
    """0 1 2 / 3 4 5: the eight that read lines, from each corner along rows and along columns."""
    assert patch_orders(2, 3)[:8].tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [2, 5, 1, 4, 0, 3],
        [2, 1, 0, 5, 4, 3],
        [5, 2, 4, 1, 3, 0],
        [5, 4, 3, 2, 1, 0],
        [3, 0, 4, 1, 5, 2],
        [3, 4, 5, 0, 1, 2],
    ]


def test_order_5_is_the_reverse_of_order_0():
    assert torch.equal(patch_orders(14, 14)[5], patch_orders(14, 14)[0].flip(0))


def test_the_spiral_winds_outwards():
    assert patch_orders(3, 3)[8].tolist() == [4, 1, 0, 3, 6, 7, 8, 5, 2]
    steps = torch.stack([patch_orders(5, 5)[8] // 5, patch_orders(5, 5)[8] % 5], dim=1).diff(dim=0)
    assert (steps.abs().sum(dim=1) == 1).all()  # always to a neighbour
    assert patch_orders(5, 5)[8][[0, -1]].tolist() == [12, 4]  # from the middle to the top right corner


def test_what_is_kept_has_its_numbers():
    """Networks are planned on the meta device; whoever comes after in the same process asks for the same orders."""
    grid = (2, 7)  # which nobody has asked for yet
    with torch.device("meta"):
        assert patch_orders(*grid).device.type == "cpu"
    assert patch_orders(*grid)[0].tolist() == [*range(14)]
