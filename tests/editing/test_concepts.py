"""Libraries of concepts, on a method whose slots are known."""

import pytest
import torch

from slotworks.editing.concepts import ConceptLibrary
from slotworks.types import Method, SlotOutput, UserError

KINDS = torch.tensor([[10.0, 0.0], [0.0, 10.0], [-10.0, -10.0]])


class KnownSlots(Method):
    """Image `i` has a slot of kind 0, one of kind 1 or 2, and an empty one."""

    config = None

    def encode(self, image):
        number = (image[:, 0, 0, 0] * 255).round().long()
        kinds = KINDS[torch.stack([torch.zeros_like(number), 1 + (number % 4 == 0).long()], dim=1)]
        slots = kinds + 0.01 * number[:, None, None]
        slots = torch.cat([slots, torch.zeros(len(image), 1, 2)], dim=1)
        attn = torch.tensor([0.6, 0.39, 0.01])[None, :, None].expand(len(image), 3, 4)
        return SlotOutput(slots, attn)


class Numbered:
    """Image `i` has the value `i` everywhere."""

    def __len__(self):
        return 20

    def __getitems__(self, indices):
        import numpy as np

        return {"image": np.stack([np.full((2, 2, 3), i, np.uint8) for i in indices])}


def library(**options):
    return ConceptLibrary.build(KnownSlots(), Numbered(), **({"num_concepts": 3, "min_share": 0.05} | options))


def test_clusters_are_the_kinds_largest_first():
    made = library()
    assert made.num_concepts == 3
    assert len(made.slots) == 40
    assert [len(made.members(k)) for k in range(3)] == [20, 15, 5]
    for k, kind in enumerate(KINDS):
        assert (made.slots[made.members(k)] - kind).abs().max() < 0.3
    assert set(made.numbers[made.members(0)].tolist()) == {0}
    assert made.images[made.members(2)].tolist() == [0, 4, 8, 12, 16]
    torch.testing.assert_close(made.shares.unique(), torch.tensor([0.39, 0.6]))


def test_empty_slots_are_left_out_only_when_asked():
    assert len(library(min_share=0.0, num_concepts=4).slots) == 60
    assert len(library(num_images=7, batch_size=3).slots) == 14


def test_compose_picks_from_the_concepts():
    made = library()
    scenes = [[0, 1], [2, 2], [1, 0]]
    slots = made.compose(scenes, seed=3)
    assert slots.shape == (3, 2, 2)
    for scene, own in zip(scenes, slots, strict=True):
        for concept, slot in zip(scene, own, strict=True):
            assert (made.slots[made.members(concept)] == slot).all(dim=-1).any()
    assert torch.equal(slots, made.compose(scenes, seed=3))
    assert not torch.equal(slots, made.compose(scenes, seed=4))
    many = made.compose([[2]] * 200)
    assert len(many.unique(dim=0)) == 5  # every member is picked


def test_scene_like_an_image_and_examples():
    made = library()
    assert made.like(3) == [0, 1]
    assert made.like(4) == [0, 2]
    assert made.examples(2, 3)[0] == (8, 1)  # the middle of 0, 4, 8, 12, 16
    assert len(made.examples(2, 9)) == 5


def test_saved_and_loaded(tmp_path):
    made = library()
    again = ConceptLibrary.load(made.save(tmp_path / "concepts.safetensors"))
    for name, value in vars(made).items():
        assert torch.equal(getattr(again, name), value)


def test_directions_instead_of_slots():
    made = library(normalized=True, num_concepts=2)
    assert made.num_concepts == 2


def test_refuses(tmp_path):
    made = library()
    with pytest.raises(UserError, match="There is no concept 3; there are 3, numbered from 0"):
        made.compose([[0, 3]])
    with pytest.raises(UserError, match="The scenes have 2, 1 concepts; give at least one scene"):
        made.compose([[0, 1], [0]])
    with pytest.raises(UserError, match="has no slot of image 99"):
        made.like(99)
    with pytest.raises(UserError, match=r"0 slots of 20 images hold 0.9 of their image or more; 3 concepts need"):
        library(min_share=0.9)
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as a library of concepts"):
        ConceptLibrary.load(tmp_path / "x.safetensors")
