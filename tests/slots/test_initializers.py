"""Where slots start: their distribution, their number, what is learned."""

import math

import pytest
import torch

from slotworks.slots import BoxInit, GaussianInit, LearnedInit, PerSlotGaussianInit


def test_gaussian_slots_have_the_learned_mean_and_deviation():
    torch.manual_seed(0)
    initializer = GaussianInit(num_slots=4, slot_dim=3)
    with torch.no_grad():
        initializer.mu.copy_(torch.tensor([[[-1.0, 0.0, 2.0]]]))
        initializer.log_sigma.copy_(torch.tensor([[[0.5, 1.0, 2.0]]]).log())
    slots = initializer(20_000).detach()
    assert slots.shape == (20_000, 4, 3)
    for i in range(4):  # one distribution for all slots; three standard errors
        torch.testing.assert_close(slots[:, i].mean(0), torch.tensor([-1.0, 0.0, 2.0]), atol=3 * 2 / 141, rtol=0)
        torch.testing.assert_close(slots[:, i].std(0), torch.tensor([0.5, 1.0, 2.0]), atol=0, rtol=0.02)
    correlation = torch.corrcoef(torch.stack([slots[:, 0, 0], slots[:, 1, 0]]))[0, 1]
    assert abs(correlation) < 0.03  # every slot draws its own noise


def test_every_image_has_its_own_noise():
    slots = GaussianInit(4, 8)(2)
    assert (slots[0] - slots[1]).abs().min() > 0


def test_the_number_of_slots_can_change_where_slots_are_exchangeable():
    initializer = GaussianInit(num_slots=3, slot_dim=8)
    assert initializer(2).shape == (2, 3, 8)
    assert initializer(2, num_slots=11).shape == (2, 11, 8)


@pytest.mark.parametrize("kind", [PerSlotGaussianInit, LearnedInit])
def test_the_number_of_slots_cannot_change_where_each_has_parameters(kind):
    initializer = kind(num_slots=3, slot_dim=8)
    assert initializer(2).shape == initializer(2, num_slots=3).shape == (2, 3, 8)
    text = f"{kind.__name__} holds parameters for 3 slots and cannot make 11; train with GaussianInit to change"
    with pytest.raises(ValueError, match=text):
        initializer(2, num_slots=11)


@pytest.mark.parametrize(
    ("initializer", "rows"), [(GaussianInit(7, 5000), 1), (PerSlotGaussianInit(7, 5000), 7)], ids=["shared", "per slot"]
)
def test_range_of_the_gaussian_parameters_is_that_of_keras(initializer, rows):
    """sqrt(6 / (1 + D)) for `1 1 d`; torch's own rule would take the vector for a convolution: sqrt(3 / D)."""
    limit = math.sqrt(6 / (rows + 5000))
    for parameter in (initializer.mu, initializer.log_sigma):
        assert parameter.shape == (1, rows, 5000)
        assert 0.99 * limit < parameter.abs().max() <= limit
        assert parameter.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
    assert not torch.equal(initializer.mu, initializer.log_sigma)


def test_limit_of_the_paper():
    """D = 64: sqrt(6 / 65) = 0.30382, so that sigma starts between 0.74 and 1.35."""
    torch.manual_seed(0)
    values = torch.cat([GaussianInit(4, 64).log_sigma.flatten() for _ in range(50)])
    assert 0.303 < values.abs().max() < 0.30382


def test_learned_slots_are_the_same_for_every_image():
    initializer = LearnedInit(num_slots=4, slot_dim=8)
    slots = initializer(3)
    assert torch.equal(slots, initializer.slots.expand(3, -1, -1))
    assert initializer.slots.abs().max() <= math.sqrt(6 / 12)


def test_noise_on_learned_slots():
    """BO-QSA: noise times the query without its gradient, while training only."""
    torch.manual_seed(0)
    initializer = LearnedInit(num_slots=4, slot_dim=8)
    initializer.noise_scale = 0.5
    slots = initializer(5000)
    relative = ((slots - initializer.slots) / initializer.slots).detach()
    torch.testing.assert_close(relative.std(dim=0), torch.full((4, 8), 0.5), atol=0, rtol=0.05)
    slots.sum().backward()
    torch.testing.assert_close(initializer.slots.grad, torch.full((4, 8), 5000.0))
    initializer.eval()
    assert torch.equal(initializer(2), initializer.slots.expand(2, -1, -1))


def test_box_slots_begin_with_the_background():
    initializer = BoxInit(slot_dim=8)
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.6], [-1.0, -1.0, -1.0, -1.0]]])
    slots = initializer(boxes)
    assert slots.shape == (1, 3, 8)
    torch.testing.assert_close(slots[0, 0], initializer.mlp(torch.zeros(4)))
    torch.testing.assert_close(slots[0, 1], initializer.mlp(boxes[0, 0]))
    torch.testing.assert_close(slots[0, 2], initializer.mlp(-torch.ones(4)))


def test_box_slots_from_centres():
    assert BoxInit(slot_dim=8, input_dim=2)(torch.rand(2, 5, 2)).shape == (2, 6, 8)


@pytest.mark.parametrize("box", [[0.1, 0.2, 1.5, 0.6], [0, 0, 64, 64]], ids=str)
def test_boxes_outside_of_the_image_are_refused(box):
    with pytest.raises(ValueError, match=r"Boxes lie between \S+ and \S+; expected \[0, 1\], or -1 for an absent box"):
        BoxInit(slot_dim=8)(torch.tensor([[box]]).float())


def test_a_box_that_begins_outside_of_the_image_is_refused():
    with pytest.raises(ValueError, match=r"Boxes lie between -0\.5 and 0\.6"):
        BoxInit(slot_dim=8)(torch.tensor([[[-0.5, 0.2, 0.5, 0.6]]]))
