"""The matched Huber loss against cases by hand."""

import pytest
import torch

from slotworks.guidance import matched_huber
from slotworks.types import UserError


def test_by_hand():
    """Pairs cost the mean over two numbers: 0.5 e^2 below 1, e - 0.5 above; crossed pairs are dearer."""
    true = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    pred = torch.tensor([[[1.0, 0.5], [0.0, 3.0]]])
    # pred 0 with true 1: (0 + 0.125) / 2; pred 1 with true 0: (0 + 2.5) / 2. Crossed: 0.3125 + 1.0
    assert matched_huber(pred, true).tolist() == pytest.approx([0.0625 + 1.25])
    pred = torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])
    # the other way round: pred 0 with true 0: (0.5 + 0.125) / 2, pred 1 with true 1: 0.5 / 2; straight 0.0625 + 0.25
    assert matched_huber(pred, true).tolist() == pytest.approx([0.0625 + 0.25])


def test_a_shuffled_set_is_the_same_set():
    torch.manual_seed(0)
    true, pred = torch.rand(3, 5, 7), torch.rand(3, 5, 7)
    order = torch.randperm(5)
    assert matched_huber(true[:, order], true).tolist() == [0, 0, 0]
    torch.testing.assert_close(matched_huber(pred[:, order], true), matched_huber(pred, true))


def test_an_undecided_network_starts_between_the_bounds_of_clevr():
    """All 0.5: a padded row costs 1/8, a real one at least 2/19 of one: ten cost 1.05 to 1.25."""
    torch.manual_seed(0)
    true = torch.zeros(4, 10, 19)
    for image, count in enumerate((3, 5, 8, 10)):
        true[image, :count, :3] = torch.rand(count, 3)
        true[image, :count, [3, 5, 7, 10, 18]] = 1
    loss = matched_huber(torch.full((4, 10, 19), 0.5), true)
    assert ((loss >= 10 * 2 / 19) & (loss <= 1.25)).all()
    coordinates = 0.5 * (true[..., :3] - 0.5).square().sum((1, 2)) / 19
    torch.testing.assert_close(loss, coordinates + 10 * 16 / 8 / 19, rtol=1e-5, atol=0)


def test_padding_is_matched_too():
    """One object for three rows: the other two are pulled to zero."""
    pred = torch.ones(1, 3, 4, requires_grad=True)
    loss = matched_huber(pred, torch.ones(1, 1, 4))
    assert loss.tolist() == [1.0]  # two rows with 0.5 each
    loss.sum().backward()
    assert sorted(pred.grad.sum(-1)[0].tolist()) == [0.0, 1.0, 1.0]


def test_coordinate_scale():
    """Coordinates twice as large: four times the squared error, and the pairs may change."""
    true, pred = torch.zeros(1, 1, 5), torch.full((1, 1, 5), 0.2)
    plain, scaled = matched_huber(pred, true), matched_huber(pred, true, coordinate_scale=2.0)
    assert plain.item() == pytest.approx(0.02)
    assert scaled.item() == pytest.approx((3 * 0.08 + 2 * 0.02) / 5)


def test_too_few_predictions():
    with pytest.raises(
        UserError, match=r"Images hold up to 4 objects but the method predicts 3; set method.num_slots to"
    ):
        matched_huber(torch.zeros(1, 3, 5), torch.zeros(1, 4, 5))
