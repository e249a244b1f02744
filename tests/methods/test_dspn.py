"""Deep Set Prediction Networks against the original's numbers, and closed forms.

`tests/references/dspn.npz` holds what the released code gave: README there.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import smooth_l1_loss

from slotworks.guidance import matched_huber
from slotworks.methods import DSPNConfig
from slotworks.types import PredictsSets

REFERENCE = Path(__file__).parents[1] / "references" / "dspn.npz"
SMALL = DSPNConfig(
    image_size=(14, 16),
    num_slots=4,
    num_iterations=3,
    inner_lr=10.0,
    latent_dim=12,
    hidden_dim=10,
    encoder_width=4,
    encoder_blocks=(1,),
    categories=(2, 4),
)


@pytest.fixture(scope="module")
def original():
    with np.load(REFERENCE) as stored:
        return {name: torch.from_numpy(np.asarray(stored[name])).double() for name in stored.files}


def with_weights(original, images):
    """Its inner loss is a mean over the images as well, which ours is not."""
    method = replace(SMALL, inner_lr=float(original["inner_lr"]) / images).build().double()
    weights = {
        "start": original["weight/starting_set"][0].mT,
        "start_presence": original["weight/starting_mask"][0],
        "set_encoder.pair.weight": original["weight/encoder.conv.0.weight"][:, :, 0, 0],
        "set_encoder.pair.bias": original["weight/encoder.conv.0.bias"],
        "set_encoder.out.weight": original["weight/encoder.conv.2.weight"][:, :, 0, 0],
        "set_encoder.out.bias": original["weight/encoder.conv.2.bias"],
        "set_encoder.pool.weight": original["weight/encoder.pool.weight"],
    }
    for name, value in weights.items():
        method.get_parameter(name).data = value.clone()
    return method


def test_sets_after_every_step_are_the_originals(original):
    method = with_weights(original, images=3)
    sets = torch.stack(method.descend(original["code"]))
    assert sets.shape == (4, 3, 4, 10)
    torch.testing.assert_close(sets[..., :-1].mT, original["sets"], rtol=0, atol=2e-6)
    torch.testing.assert_close(sets[..., -1], original["masks"], rtol=0, atol=2e-6)
    with torch.no_grad():  # in evaluation the steps are the same
        torch.testing.assert_close(method.eval().descend(original["code"])[-1], sets[-1], rtol=0, atol=1e-12)


def test_loss_and_its_gradient_through_the_descent_are_the_originals(original):
    """Second derivatives of the set encoder reach all weights and the image's code."""
    method, code = with_weights(original, images=3), original["code"].requires_grad_()
    method.image_encoder = torch.nn.Identity()
    coordinates = (original["target"].mT[..., :3] + 1) / 2  # ours are in [0, 1] outside
    objects = torch.cat([coordinates, original["target"].mT[..., 3:], original["mask"][..., None]], dim=-1)
    terms = method.loss({"image": code, "objects": objects}, step=0)
    torch.testing.assert_close(terms["set"], original["set_loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(terms["representation"], original["repr_loss"], rtol=1e-5, atol=0)
    assert method.config.loss_weights == {"representation": 0.1}
    (terms["set"] + 0.1 * terms["representation"]).backward()
    gradients = {
        "start": original["grad/starting_set"][0].mT,
        "start_presence": original["grad/starting_mask"][0],
        "set_encoder.pair.weight": original["grad/encoder.conv.0.weight"][:, :, 0, 0],
        "set_encoder.pair.bias": original["grad/encoder.conv.0.bias"],
        "set_encoder.out.weight": original["grad/encoder.conv.2.weight"][:, :, 0, 0],
        "set_encoder.out.bias": original["grad/encoder.conv.2.bias"],
        "set_encoder.pool.weight": original["grad/encoder.pool.weight"],
    }
    for name, expected in gradients.items():
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(method.get_parameter(name).grad, expected, rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(code.grad, original["grad_code"], rtol=1e-5, atol=1e-6)


def test_one_step_with_a_linear_code():
    """A code that is the sum of all numbers, once each: every number moves by rate times clamp(sum - code) / dims."""
    method = replace(SMALL, num_iterations=1, inner_lr=0.1).build()
    method.set_encoder = Sums()
    total = method.start.sum() + method.start_presence.sum()
    code = torch.stack([total + 0.5, total - 4.0]).detach()[:, None].expand(2, 12)
    moved = method.descend(code)
    difference = moved[1] - moved[0]
    torch.testing.assert_close(difference[0, :, :-1], torch.full((4, 9), 0.05))
    torch.testing.assert_close(difference[1, :, :-1], torch.full((4, 9), -0.1))  # Huber: the slope ends at 1


class Sums(torch.nn.Module):
    def forward(self, elements):
        return elements.sum((1, 2))[:, None].expand(-1, 12)


def test_images_do_not_disturb_each_other():
    torch.manual_seed(0)
    method, image = SMALL.build().eval(), torch.rand(3, 3, 14, 16)
    together = method.encode(image).slots
    torch.testing.assert_close(method.encode(image[1:2]).slots, together[1:2])


def test_the_set_encoder_does_not_see_an_order():
    torch.manual_seed(0)
    encoder, elements = SMALL.build().set_encoder, torch.rand(2, 4, 10)
    torch.testing.assert_close(encoder(elements[:, torch.tensor([2, 0, 3, 1])]), encoder(elements), rtol=0, atol=1e-6)


def test_longer_descent_after_training_comes_nearer():
    """The inner distance falls, without and with gradients, and predictions say where they are in [0, 1]."""
    torch.manual_seed(0)
    method, image = replace(SMALL, inner_lr=0.5, test_iterations=20).build().eval(), torch.rand(2, 3, 14, 16)
    assert isinstance(method, PredictsSets)
    with torch.no_grad():
        code = method.image_encoder(image)
        distances = [smooth_l1_loss(method.set_encoder(found), code).item() for found in method.descend(code, 20)]
        out = method.encode(image)
    assert distances[20] < distances[10] < distances[0]
    torch.testing.assert_close(out.slots, method.descend(code, 20)[-1].detach())
    assert out.slots.grad_fn is None
    assert (out.attn.shape, out.attn_steps) == ((2, 4, 1), ())
    objects = method.predict_set(out.slots)
    torch.testing.assert_close(objects[..., :3], (out.slots[..., :3] + 1) / 2)
    torch.testing.assert_close(objects[..., 3:], out.slots[..., 3:])


def test_targets_are_minus_one_to_one_and_padding_stays_zero():
    torch.manual_seed(0)
    method = replace(SMALL, num_iterations=1).build()
    objects = torch.zeros(1, 2, 10)
    objects[0, 0] = torch.tensor([0.0, 0.5, 1.0, 1, 0, 0, 1, 0, 0, 1])
    image = torch.rand(1, 3, 14, 16)
    true = torch.zeros(1, 4, 10)
    true[0, 0] = torch.tensor([-1.0, 0, 1, 1, 0, 0, 1, 0, 0, 1])
    found = method.descend(method.image_encoder(image))[-1]
    terms = method.loss({"image": image, "objects": objects}, step=0)
    torch.testing.assert_close(terms["set"], matched_huber(found, true)[0] / 4)
    code = smooth_l1_loss(method.set_encoder(true), method.image_encoder(image))
    torch.testing.assert_close(terms["representation"], code)


def test_coordinates_of_another_range():
    """In [-2.5, 2.5]: x = 0.1 is -2, and back; padding stays where it was."""
    torch.manual_seed(0)
    method = replace(SMALL, num_iterations=1, coordinate_scale=5.0).build()
    objects = torch.zeros(1, 2, 10)
    objects[0, 0] = torch.tensor([0.1, 0.5, 1.0, 1, 0, 0, 1, 0, 0, 1])
    image = torch.rand(1, 3, 14, 16)
    true = torch.zeros(1, 4, 10)
    true[0, 0] = torch.tensor([-2.0, 0, 2.5, 1, 0, 0, 1, 0, 0, 1])
    found = method.descend(method.image_encoder(image))[-1]
    torch.testing.assert_close(
        method.loss({"image": image, "objects": objects}, step=0)["set"], matched_huber(found, true)[0] / 4
    )
    torch.testing.assert_close(method.predict_set(true[:, :1]), objects[:, :1])


def test_a_loss_after_every_step():
    torch.manual_seed(0)
    method = replace(SMALL, stepwise_loss=True).build()
    given = {"image": torch.rand(2, 3, 14, 16), "objects": torch.zeros(2, 4, 10)}
    sets = method.descend(method.image_encoder(given["image"]))[1:]
    expected = sum(matched_huber(found, given["objects"]).mean() / 4 for found in sets)
    torch.testing.assert_close(method.loss(given, step=0)["set"], expected)


def test_sets_from_codes_of_true_sets_at_first():
    """Then the image's code matters to `representation` alone, and the image encoder still learns."""
    torch.manual_seed(0)
    method = replace(SMALL, autoencode_steps=2).build()
    given = {"image": torch.rand(2, 3, 14, 16), "objects": torch.zeros(2, 4, 10)}
    given["objects"][:, 0, [3, 5, 9]] = 1
    true = given["objects"].clone()
    true[:, 0, :3] = -1
    code = method.set_encoder(true)
    expected = matched_huber(method.descend(code)[-1], true).mean() / 4
    terms = method.loss(given, step=1)
    torch.testing.assert_close(terms["set"], expected)
    terms["set"].backward(retain_graph=True)
    assert all(p.grad is None for p in method.image_encoder.parameters())
    terms["representation"].backward()
    assert all(p.grad is not None for p in method.image_encoder.parameters())
    from_image = matched_huber(method.descend(method.image_encoder(given["image"]))[-1], true).mean() / 4
    torch.testing.assert_close(method.loss(given, step=2)["set"], from_image)


def test_the_papers_network():
    with torch.device("meta"):
        method = DSPNConfig().build()
        assert sum(p.numel() for p in method.image_encoder.parameters()) == 24_694_592
        pairs, out, pool = 38 * 512 + 512, 512 * 512 + 512, 512 * 21
        assert sum(p.numel() for p in method.set_encoder.parameters()) == pairs + out + pool
        assert (method.start.shape, method.start_presence.shape) == ((10, 18), (10,))
    assert (DSPNConfig().inner_lr, DSPNConfig().num_iterations) == (800 / 32, 10)


def test_it_learns_two_images():
    torch.manual_seed(0)
    method = replace(SMALL, hidden_dim=24).build()
    given = {"image": torch.rand(2, 3, 14, 16), "objects": torch.zeros(2, 2, 10)}
    given["objects"][0, :, [0, 3, 5, 9]] = 1
    given["objects"][1, :1, [1, 4, 8, 9]] = 1
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    losses = []
    for step in range(80):
        terms = method.loss(given, step)
        optimizer.zero_grad()
        (terms["set"] + 0.1 * terms["representation"]).backward()
        optimizer.step()
        losses.append(terms["set"].item())
    assert losses[-1] < losses[0] / 4
