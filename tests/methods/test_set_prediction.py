"""Set prediction with Slot Attention."""

from dataclasses import replace

import pytest
import torch

from slotworks.guidance import matched_huber
from slotworks.methods import SetPredictionConfig, SlotAttentionConfig
from slotworks.types import PredictsSets

SMALL = SetPredictionConfig(
    image_size=(12, 16),
    num_slots=4,
    slot_dim=8,
    channels=4,
    mlp_dim=16,
    encoder_strides=(2, 1),
    head_dim=8,
    categories=(2, 3),
)


def build(**changed):
    torch.manual_seed(0)
    return replace(SMALL, **changed).build()


def batch(images=2, objects=3):
    torch.manual_seed(1)
    truth = torch.zeros(images, objects, 9)
    truth[:, :2, :3] = torch.rand(images, 2, 3)
    truth[:, :2, [3, 6, 8]] = 1
    return {"image": torch.rand(images, 3, 12, 16), "objects": truth}


def test_parameters_and_shapes_of_clevr10():
    method = SetPredictionConfig().build()
    assert sum(p.numel() for p in method.parameters()) == 380_755
    out = method.encode(torch.rand(1, 3, 128, 128))
    assert (out.slots.shape, out.attn.shape, out.grid) == ((1, 10, 64), (1, 10, 1024), (32, 32))
    assert method.predict_set(out.slots).shape == (1, 10, 19)
    assert isinstance(method, PredictsSets)
    assert not isinstance(SlotAttentionConfig().build(), PredictsSets)


def test_loss_is_the_matched_huber_loss():
    method, given = build(), batch()
    torch.manual_seed(2)
    loss = method.loss(given, step=0)
    torch.manual_seed(2)
    pred = method.predict_set(method.encode(given["image"]).slots)
    assert list(loss) == ["set"]
    torch.testing.assert_close(loss["set"], matched_huber(pred, given["objects"]).mean())
    wider = build(coordinate_scale=3.0)
    torch.manual_seed(2)
    scaled = wider.loss(given, step=0)["set"]
    torch.testing.assert_close(scaled, matched_huber(pred, given["objects"], coordinate_scale=3.0).mean())


def test_a_loss_after_every_iteration_is_a_sum_of_three():
    method, given = build(stepwise_loss=True), batch()
    torch.manual_seed(2)
    loss = method.loss(given, step=0)["set"]
    each = []
    for count in (1, 2, 3):
        torch.manual_seed(2)
        slots = method.encode(given["image"], num_iterations=count).slots
        each.append(matched_huber(method.predict_set(slots), given["objects"]).mean())
    torch.testing.assert_close(loss, torch.stack(each).sum())
    calls = []
    for part in (method.slot_attention, method.slot_attention.to_k):
        part.register_forward_hook(lambda *_: calls.append(1))
    method.loss(given, step=0)
    assert len(calls) == 2  # attention runs once, and features are projected once, for all three
    with pytest.raises(ValueError, match="stepwise_loss needs gradient=\"unrolled\", but it is 'bilevel'"):
        build(stepwise_loss=True, gradient="bilevel")


def test_every_parameter_learns():
    method = build()
    method.loss(batch(), step=0)["set"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in method.parameters())


def test_permuted_slots_give_permuted_objects():
    method = build()
    slots = torch.randn(2, 4, 8)
    order = torch.tensor([2, 0, 3, 1])
    features = method.encoder(2 * torch.rand(2, 3, 12, 16) - 1)
    objects, permuted = (
        method.predict_set(method.slot_attention(features, start).slots) for start in (slots, slots[:, order])
    )
    torch.testing.assert_close(permuted, objects[:, order], rtol=1e-5, atol=1e-6)


def test_more_slots_and_iterations_after_training():
    method, image = build(test_iterations=5), torch.rand(2, 3, 12, 16)
    assert method.encode(image, num_slots=9).slots.shape == (2, 9, 8)
    assert len(method.encode(image).attn_steps) == 3
    assert len(method.eval().encode(image).attn_steps) == 5
    assert len(method.encode(image, num_iterations=2).attn_steps) == 2
    with pytest.raises(ValueError, match="PerSlotGaussianInit holds parameters for 4 slots and cannot make 9"):
        build(initializer="per_slot").encode(image, num_slots=9)


ABLATIONS = {  # changed settings: change of the number of weights
    "aggregation=sum": ({"aggregation": "sum"}, 0),
    "aggregation=sum_norm": ({"aggregation": "sum_norm"}, 2 * 8),
    "softmax_over=positions": ({"softmax_over": "positions"}, 0),
    "update=replace": ({"update": "replace"}, -(2 * 3 * 8 * 8 + 2 * 3 * 8)),
    "layer_norm": ({"layer_norm": False}, -(2 * 4 + 2 * 8 + 2 * 8)),
    "mlp": ({"mlp_dim": None}, -(2 * 8 * 16 + 16 + 8 + 2 * 8)),
    "scale": ({"attention_scale": 1.0}, 0),
    "eps": ({"eps_in": "denominator", "eps": 0.1}, 0),
    "position": ({"position_embedding": False}, -(4 * 4 + 4)),
    "per_slot": ({"initializer": "per_slot"}, 2 * 3 * 8),
}


@pytest.mark.parametrize(
    "config", [SMALL, SlotAttentionConfig(image_size=(12, 16), slot_dim=8, channels=4, mlp_dim=16)]
)
@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_reach_the_network(config, name):
    changed, difference = ABLATIONS[name]
    image = torch.rand(2, 3, 12, 16)
    slots, counts = [], []
    for settings in ({}, changed):
        torch.manual_seed(0)
        method = replace(config, **{"num_slots": 4, **settings}).build()
        torch.manual_seed(1)
        slots.append(method.encode(image).slots)
        counts.append(sum(p.numel() for p in method.parameters()))
    assert counts[1] - counts[0] == difference
    assert (slots[1] - slots[0]).abs().max() > 1e-4


def test_soft_kmeans_has_no_weights_in_its_iterations():
    config = SlotAttentionConfig(image_size=(12, 16), slot_dim=4, channels=4, soft_kmeans=True)
    method = config.build()
    assert list(method.slot_attention.parameters()) == []
    features, slots = torch.randn(1, 6, 4), torch.randn(1, 2, 4)
    shares = (features @ slots.mT * 4**-0.5).softmax(-1) + 1e-8
    means = (shares / shares.sum(1, keepdim=True)).mT @ features
    torch.testing.assert_close(method.slot_attention(features, slots, num_iterations=1).slots, means)
    with pytest.raises(ValueError, match=r"method.channels is 4 and method.slot_dim 8; make them equal"):
        replace(config, slot_dim=8).build()


def test_it_learns_eight_images():
    """A bright square on black, its place and its colour, read from one slot: far below the best constant answer."""
    torch.manual_seed(0)
    given = {"image": torch.zeros(8, 3, 12, 16), "objects": torch.zeros(8, 1, 9)}
    for i in range(8):
        row, column, color = i % 4 * 2, i // 2 * 3, i % 3
        given["image"][i, color, row : row + 4, column : column + 4] = 1
        given["objects"][i, 0, :3] = torch.tensor([column / 16, row / 12, 0.5])
        given["objects"][i, 0, [3, 5 + color, 8]] = 1
    constant = matched_huber(given["objects"].mean(0).expand(8, 1, 9), given["objects"]).mean()
    method = build(num_slots=1, channels=8, slot_dim=16, initializer="learned")  # without noise
    optimizer = torch.optim.Adam(method.parameters(), lr=5e-3)
    for step in range(200):
        loss = method.loss(given, step)["set"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < constant / 4
