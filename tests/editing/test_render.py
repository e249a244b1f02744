"""Rendering edits: closed form of a removed slot, the same noise for original and edit, the numbers of `segment`."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from slotworks.editing import add, edit_picture, object_at, remove, render_edit, slot_at, take_apart
from slotworks.editing.render import Scene
from slotworks.evaluation.rendering import render, renderer_of
from slotworks.evaluation.segment import segment_images
from slotworks.methods.slot_attention import SlotAttentionConfig
from slotworks.types import DecoderOutput, Method, SlotOutput, UserError

SIZE = (12, 10)  # height and width


class Columns(Method):
    """Slot `k` is colour and place: its first three numbers, drawn where its mask logit, the fourth, is largest."""

    def encode(self, image, *, num_slots=3):
        color = torch.rand(num_slots, 3)  # like Gaussian slots: another order for each seed
        slots = torch.cat([color, torch.arange(num_slots)[:, None]], dim=1)[None]
        attn = torch.eye(num_slots)[torch.arange(10).repeat(12) * num_slots // 10].T[None]
        return SlotOutput(slots, attn, grid=SIZE)

    def decode(self, slots):
        b, n, _ = slots.shape
        owner = torch.arange(10) * 3 // 10  # column to slot
        logits = torch.where(owner == slots[:, :, 3:], 0.0, -1000.0)[:, :, None].expand(b, n, *SIZE)
        masks = logits.softmax(1)
        parts = slots[:, :, :3, None, None].expand(b, n, 3, *SIZE)
        return DecoderOutput((masks[:, :, None] * parts).sum(1), masks, parts)


class Generator(nn.Module):
    """Noise plus the mean of the slots: what is left after subtracting the mean is the noise."""

    def encode(self, image, *, num_slots=3):
        slots = torch.randn(1, num_slots, 4)
        return SlotOutput(slots, torch.full((1, num_slots, 4), 1 / num_slots))

    def sample(self, slots, *, steps, cfg_scale, generator):
        assert not self.training
        noise = torch.randn(len(slots), 3, *SIZE, generator=generator)
        noise = 0.4 + 0.02 * noise.clamp(-5, 5) + 0.001 * torch.randn(len(slots), 3, *SIZE)  # also the global state
        return noise + 1e-3 * slots.mean((1, 2))[:, None, None, None] + steps * 1e-4 + cfg_scale * 1e-3


class Sampler(Generator, Method):
    """As a method."""


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    config = SlotAttentionConfig(
        image_size=SIZE, num_slots=4, slot_dim=8, channels=8, mlp_dim=8, encoder_strides=(1,), decoder_strides=(1,)
    )
    method = config.build()
    with torch.no_grad():  # masks that differ, colours inside [0, 1]
        method.decoder.last.weight[-1] *= 10
        method.decoder.last.weight[:-1] *= 0.3
    return method


def photo(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("index", range(4))
def test_dropping_a_slot_renormalises_the_others(method, index):
    """With the softmax over slots, the masks of those that stay are divided by what they had together."""
    scene = take_apart(method, photo())
    edit = render_edit(method, scene, remove(scene.slots[None], index)[0])
    kept = [k for k in range(4) if k != index]
    with torch.no_grad():
        full = method.decode(scene.slots[None])
    gone, left = full.masks[0, index], 1 - full.masks[0, index]
    assert gone.max() > 0.3  # it did own something
    torch.testing.assert_close(edit.edited_masks * left, full.masks[0, kept], atol=2e-6, rtol=0)
    expected = full.recon[0] - gone * full.parts[0, index]
    torch.testing.assert_close(edit.edited[0] * left, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(edit.recon, full.recon, atol=1e-6, rtol=0)


def test_where_the_slot_had_no_mask_nothing_changes():
    columns = Columns()
    scene = take_apart(columns, photo())
    edit = render_edit(columns, scene, remove(scene.slots[None], 1)[0])
    had = (scene.masks[1] > 0).expand(3, -1, -1)
    assert had.sum() == 3 * 12 * 3
    assert torch.equal(edit.edited[0][~had], edit.recon[0][~had])
    mean = scene.slots[[0, 2], :3].mean(0)[:, None].expand(-1, 36).flatten()  # both are as far away
    torch.testing.assert_close(edit.edited[0][had], mean)


def test_original_and_edit_start_from_the_same_noise():
    method = Sampler()
    scene = take_apart(method, photo())
    changed = {"fewer": remove(scene.slots[None], 0)[0], "more": add(scene.slots[None], scene.slots[None], 1)[0]}
    for slots in changed.values():
        edit = render_edit(method, scene, slots, seeds=(3, 4))
        assert edit.recon.shape == edit.edited.shape == (2, 3, *SIZE)
        shift = 1e-3 * (slots.mean() - scene.slots.mean())
        assert shift.abs() > 1e-6
        torch.testing.assert_close(edit.edited - edit.recon, shift.expand(2, 3, *SIZE), atol=1e-6, rtol=0)
        assert (edit.recon[0] - edit.recon[1]).std() > 0.01  # another seed is another picture
    again = render_edit(method, scene, slots, seeds=(4,))
    assert torch.equal(again.edited[0], edit.edited[1])
    other = render_edit(method, scene, slots, seeds=(4,), steps=85, cfg_scale=2.0)
    torch.testing.assert_close(other.recon - again.recon, torch.zeros_like(other.recon), atol=1e-6, rtol=0)


def test_rendering_leaves_the_random_state_and_the_modes_alone():
    method = Sampler().train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    scene = take_apart(method, photo(), seed=7)
    render_edit(method, scene, scene.slots)
    assert torch.equal(torch.rand(3), expected)
    assert method.training
    assert torch.equal(take_apart(method, photo(), seed=7).slots, scene.slots)
    assert not torch.equal(take_apart(method, photo(), seed=8).slots, scene.slots)


def test_a_direct_decoder_renders_once(method):
    scene = take_apart(method, photo())
    edit = render_edit(method, scene, scene.slots, seeds=(1, 2, 3))
    assert len(edit.edited) == 1
    assert torch.equal(edit.edited, edit.recon)
    assert edit.edited_masks is not None


class Both(Sampler):
    def decode(self, slots):
        return DecoderOutput(torch.zeros(len(slots), 16, 2, 2), torch.ones(len(slots), slots.shape[1], 2, 2) / 3)


def test_how_a_method_renders(method):
    assert renderer_of(method) == "decode"
    assert renderer_of(Sampler()) == "sample"
    assert renderer_of(Both()) == "sample"
    assert renderer_of(Both(), "decode") == "decode"
    with pytest.raises(UserError, match="SlotAttentionAutoencoder cannot generate pictures"):
        renderer_of(method, "sample")
    with pytest.raises(UserError, match="Method cannot turn slots into pictures"):
        renderer_of(Method())
    with pytest.raises(UserError, match="Both renders features of 16 channels, no pictures"):
        render(Both(), torch.zeros(1, 3, 4), renderer="decode")


def test_slots_are_numbered_as_segment_numbers_them(method, tmp_path):
    """Initial slots are drawn: the same seed gives the same slots under the same numbers."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    [segmented] = segment_images(method, [tmp_path / "photo.png"], tmp_path / "segments", image_size=SIZE)
    options = {"image_size": SIZE, "remove_slots": [2]}
    [edited] = edit_picture(method, tmp_path / "photo.png", tmp_path / "edits", **options)
    masks = [
        np.asarray(Image.open(next(p for p in answer["written"] if p.endswith("_mask.png"))))
        for answer in (segmented, edited)
    ]
    assert masks[0].shape == (40, 30)
    assert len(np.unique(masks[0])) > 1
    np.testing.assert_array_equal(masks[0], masks[1])
    assert edited["visible"] == np.unique(masks[0]).tolist()
    stored = np.load(tmp_path / "segments" / "photo_slots.npz")
    image = np.array(Image.open(tmp_path / "photo.png").resize(SIZE[::-1], Image.Resampling.BILINEAR))
    scene = take_apart(method, torch.from_numpy(image).movedim(-1, 0) / 255)
    np.testing.assert_array_equal(scene.slots, stored["slots"])
    for x, y in ((0, 0), (29, 39), (7, 20)):
        assert slot_at(scene, x, y, (40, 30)) == masks[0][y, x]
    with pytest.raises(UserError, match="The pixel 30,0 lies outside the picture of 30 x 40 pixels"):
        slot_at(scene, 30, 0, (40, 30))


def test_an_object_goes_with_the_slots_that_look_at_it():
    """Slot 1 owns the left half, slot 3 the right; slot 0 owns nothing and looks left, slot 2 right."""
    left = torch.tensor([0.9, 0.9, 0.0, 0.0])
    masks = torch.stack([0.2 * left, 0.8 * left, 0.3 * left.flip(0), 0.7 * left.flip(0)])
    scene = Scene(photo(), torch.zeros(4, 2), masks[:, None].expand(-1, 3, -1))
    assert object_at(scene, 0, 0) == [1, 0]
    assert object_at(scene, 9, 11) == [3, 2]
    assert object_at(scene, 99, 0, (20, 100)) == [3, 2]
    with pytest.raises(UserError, match="The pixel 10,0 lies outside"):
        object_at(scene, 10, 0)


def test_pictures_of_every_kind_of_edit(tmp_path):
    columns = Columns()
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (30, 36), color).save(tmp_path / f"{name}.png")
    a, b, options = tmp_path / "a.png", tmp_path / "b.png", {"image_size": SIZE, "out": tmp_path / "out", "seed": 3}
    [removed] = edit_picture(columns, a, remove_at=[(29, 0)], **options)
    assert removed["edit"] == "removed slot 2 (drop)"
    assert (removed["slots"], removed["edited_slots"], removed["visible"]) == (3, 2, [0, 1, 2])
    names = [path.name for path in sorted((tmp_path / "out").glob("[!.]*"))]
    assert names == [f"a_{kind}.png" for kind in ("edited", "mask", "original", "recon", "sheet")]
    assert all(Image.open(path).size == (10, 12) for path in removed["written"][:3])
    original, recon, edited = (np.asarray(Image.open(path)).astype(int) for path in removed["written"][:3])
    assert (original == [255, 0, 0]).all()
    assert (recon[:, :7] == edited[:, :7]).all()
    assert (recon[:, 7:] != edited[:, 7:]).any()

    [added] = edit_picture(columns, a, add_slots=[(b, 0), (b, 1)], replace_slots=[2, 0], **options)
    assert added["edit"] == "added slot 0 of b.png in the place of slot 2, added slot 1 of b.png in the place of slot 0"
    assert added["edited_slots"] == 3
    [added] = edit_picture(columns, a, add_slots=[(b, 0)], **options)
    assert added["edited_slots"] == 4
    swapped = edit_picture(columns, a, swap_slots=(0, b, 2), **options)
    assert [answer["edit"] for answer in swapped] == [
        "slot 0 replaced by slot 2 of b.png",
        "slot 2 replaced by slot 0 of a.png",
    ]
    moved = edit_picture(columns, a, move_slot=(1, b), **options)
    assert [(answer["slots"], answer["edited_slots"]) for answer in moved] == [(3, 2), (3, 4)]
    assert {path.name.split("_")[0] for path in (tmp_path / "out").glob("[!.]*")} == {"a", "b"}


def test_a_picture_for_each_noise_seed(tmp_path):
    Image.new("RGB", (30, 36)).save(tmp_path / "a.png")
    sampler = Sampler()
    options = {"image_size": SIZE, "remove_slots": [0], "noise_seeds": (3, 8)}
    [answer] = edit_picture(sampler, tmp_path / "a.png", tmp_path / "out", **options)
    kinds = [path.rsplit("/", 1)[1] for path in answer["written"]]
    assert kinds == [
        "a_original.png",
        "a_recon_seed3.png",
        "a_recon_seed8.png",
        "a_edited_seed3.png",
        "a_edited_seed8.png",
        "a_mask.png",
        "a_sheet.png",
    ]
    assert answer["noise_seeds"] == [3, 8]
    assert (answer["renderer"], answer["steps"], answer["cfg_scale"]) == ("sample", 75, 3.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "exactly one change, remove, add, swap or move; given: none"),
        ({"remove_slots": [0], "move_slot": (1, "b.png")}, "given: remove, move"),
        ({"add_slots": [("b.png", 0)], "replace_slots": [0, 1]}, "2 slots to replace for 1 to add"),
        ({"remove_slots": [3]}, "There is no slot 3: the picture has 3 slots"),
        ({"remove_at": [(30, 0)]}, "The pixel 30,0 lies outside the picture of 30 x 36 pixels"),
        ({"remove_slots": [0], "renderer": "sample"}, "Columns cannot generate pictures"),
    ],
)
def test_an_edit_that_cannot_be_made(options, sentence, tmp_path):
    Image.new("RGB", (30, 36)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=sentence):
        edit_picture(Columns(), tmp_path / "a.png", tmp_path / "out", image_size=SIZE, **options)
    assert not (tmp_path / "out").exists()
