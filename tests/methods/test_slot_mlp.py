"""The baseline Slot MLP: encoder, head, decoder and loss are those of Slot Attention."""

from dataclasses import replace

import pytest
import torch

from slotworks.guidance import matched_huber
from slotworks.methods import SetPredictionConfig, SlotAttentionConfig, SlotMLPAutoencoderConfig, SlotMLPConfig
from slotworks.types import Decodes, PredictsSets

SETS = SlotMLPConfig(
    image_size=(12, 16),
    num_slots=3,
    slot_dim=8,
    channels=4,
    encoder_strides=(2, 1),
    hidden_dims=(16, 16),
    categories=(2,),
)
IMAGES = SlotMLPAutoencoderConfig(image_size=(12, 16), num_slots=3, slot_dim=8, channels=4, hidden_dims=(16, 16, 16))


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_everything_but_the_slots_is_that_of_slot_attention():
    with torch.device("meta"):
        ours, theirs = SlotMLPConfig().build(), SetPredictionConfig().build()
        assert [count(part) for part in (ours.encoder, ours.head)] == [count(theirs.encoder), count(theirs.head)]
        assert count(ours.slot_mlp) == 8_980_096
        ours, theirs = SlotMLPAutoencoderConfig().build(), SlotAttentionConfig().build()
        assert [count(part) for part in (ours.encoder, ours.decoder)] == [count(theirs.encoder), count(theirs.decoder)]


def test_sets():
    method = SETS.build()
    given = {"image": torch.rand(2, 3, 12, 16), "objects": torch.rand(2, 2, 6)}
    out = method.encode(given["image"])
    assert (out.slots.shape, out.attn.shape, out.grid, out.attn_steps) == ((2, 3, 8), (2, 3, 48), (6, 8), ())
    torch.testing.assert_close(out.attn, torch.full((2, 3, 48), 1 / 3))
    assert isinstance(method, PredictsSets)
    assert not isinstance(method, Decodes)
    loss = method.loss(given, step=0)
    torch.testing.assert_close(loss["set"], matched_huber(method.predict_set(out.slots), given["objects"]).mean())
    loss["set"].backward()
    assert all(p.grad is not None for p in method.parameters())


def test_images():
    method, image = IMAGES.build(), torch.rand(2, 3, 12, 16)
    out = method.decode(method.encode(image).slots)
    assert (out.recon.shape, out.masks.shape) == ((2, 3, 12, 16), (2, 3, 12, 16))
    loss = method.loss({"image": image}, step=0)["recon"]
    torch.testing.assert_close(loss, (2 * out.recon - 2 * image).square().mean())
    loss.backward()
    assert all(p.grad is not None for p in method.parameters())
    assert not isinstance(method, PredictsSets)


@pytest.mark.parametrize("config", [SETS, IMAGES])
def test_slots_are_a_function_of_the_image(config):
    """No noise, and slots that are not exchangeable: each has weights of its own."""
    method, image = config.build(), torch.rand(1, 3, 12, 16)
    first, again = method.encode(image).slots, method.encode(image).slots
    assert torch.equal(first, again)
    assert (first[:, 0] - first[:, 1]).abs().max() > 1e-3


def test_it_learns_one_image():
    torch.manual_seed(0)
    method = replace(SETS, num_slots=2).build()
    given = {"image": torch.rand(1, 3, 12, 16), "objects": torch.tensor([[[0.2, 0.4, 0.6, 1.0, 0.0, 1.0]]])}
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for step in range(60):
        loss = method.loss(given, step)["set"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01
