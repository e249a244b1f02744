"""Edits scored by place, on pictures whose objects are counted by hand."""

import math

import numpy as np
import pytest
import torch
from test_removal import SCENES, Perfect, distinct  # noqa: F401

from slotworks.data.scenes import PaintedScenes
from slotworks.data.stores.features import CachedFeatures
from slotworks.decoders import DenoiserConfig
from slotworks.encoders import ViTConfig
from slotworks.evaluation import edits
from slotworks.evaluation.edits import draw_edits, edit_scores, evaluate_edits
from slotworks.evaluation.removal import chosen
from slotworks.evaluation.show import show_edits
from slotworks.evaluation.task import Job
from slotworks.methods import SlateConfig, SlotAttentionConfig, SlotDiffusionConfig
from slotworks.types import DecoderOutput, UserError, to_batch

RED, GREEN, BLUE, GREY = (0.9, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.2, 0.9), (0.5, 0.5, 0.5)


def paint(*objects):
    """A scene of 16 x 16 pixels on grey: (colour, top, left) of squares of four; image and mask, without a batch."""
    image = torch.tensor(GREY)[:, None, None].expand(3, 16, 16).clone()
    mask = torch.zeros(16, 16, dtype=torch.long)
    for number, (colour, top, left) in enumerate(objects, 1):
        image[:, top : top + 4, left : left + 4] = torch.tensor(colour)[:, None, None]
        mask[top : top + 4, left : left + 4] = number
    return image, mask


# Two scenes; of the first the red square at the top left goes, of the second the blue one.
A = ((RED, 1, 1), (RED, 10, 10), (GREEN, 1, 10))
B = ((BLUE, 10, 2), (GREEN, 2, 9))
GONE = torch.tensor([1, 1])


def scores(before=A, removed=A[1:], added=(*A, B[0]), swapped=(*A[1:], B[0])):
    """Those of the first scene, whose pictures are given; the second is edited as it should be."""
    image, mask = (torch.stack(both) for both in zip(paint(*A), paint(*B), strict=True))
    second = {"before": B, "removed": B[1:], "added": (*B, A[0]), "swapped": (*B[1:], A[0])}
    first = {"before": before, "removed": removed, "added": added, "swapped": swapped}
    pictures = {name: torch.stack([paint(*first[name])[0], paint(*second[name])[0]]) for name in first}
    found = edit_scores(image, mask, GONE, **pictures)
    assert all(len(values) == 2 for values in found.values())
    return {name: values[0].item() for name, values in found.items()}


PERFECT = {"placed": 1, "gone": 1, "kept": 1, "removal": 1, "added": 1, "swapped": 1, "moved": 1}


def test_edits_as_they_should_be():
    """The other red square counts: it is told from the first by its place."""
    assert scores() == PERFECT


def test_an_object_that_is_still_there():
    assert scores(removed=A) == PERFECT | {"gone": 0, "removal": 0, "moved": 0}


def test_the_wrong_one_of_two_alike_is_taken():
    assert scores(removed=(A[0], A[2])) == PERFECT | {"gone": 0, "kept": 0.5, "removal": 0, "moved": 0}


def test_another_object_moves():
    """By one of four columns its IoU is 12 / 20; by two it is 8 / 24, and the edit has failed."""
    assert scores(removed=(A[1], (GREEN, 1, 11))) == PERFECT
    assert scores(removed=(A[1], (GREEN, 1, 12))) == PERFECT | {"kept": 0.5, "removal": 0, "moved": 0}


def test_what_comes_stands_elsewhere():
    """Half of the place is enough."""
    assert scores(added=(*A, (BLUE, 10, 4)), swapped=(*A[1:], (BLUE, 12, 2))) == PERFECT
    assert scores(added=(*A, (BLUE, 10, 5))) == PERFECT | {"added": 0}
    assert scores(swapped=(*A[1:], (BLUE, 13, 2))) == PERFECT | {"swapped": 0}
    assert scores(swapped=(*A, B[0])) == PERFECT | {"swapped": 0}  # it is there, but so is what it was swapped for


def test_what_never_stood_in_its_place_is_not_asked_for():
    found = scores(before=((RED, 5, 5), *A[1:]))
    assert found["placed"] == pytest.approx(2 / 3)
    assert all(math.isnan(found[name]) for name in ("gone", "kept", "removal", "swapped", "moved"))
    assert found["added"] == 1  # that of the other scene


def test_an_object_moved_is_gone_here_and_stands_in_the_scene_before():
    """Each of the two scenes is the one before the other; what fails in either fails for the object that moves."""
    image, mask = (torch.stack(both) for both in zip(paint(*A), paint(*B), strict=True))

    def moved(added, removed):
        here = [A, B], [removed, B[1:]], [(*A, B[0]), added], [(*A[1:], B[0]), (*B[1:], A[0])]
        names = zip(("before", "removed", "added", "swapped"), here, strict=True)
        drawn = {name: torch.stack([paint(*one)[0] for one in both]) for name, both in names}
        return edit_scores(image, mask, GONE, **drawn)["moved"].tolist()

    assert moved(added=(*B, A[0]), removed=A[1:]) == [1, 1]
    assert moved(added=B, removed=A[1:]) == [0, 1]
    assert moved(added=(*B, A[0]), removed=A) == [0, 1]


def test_a_place_that_is_taken_is_not_asked_for():
    """The blue square would come where the green one of the first scene is: which is in front nobody knows."""
    image, mask = (torch.stack(both) for both in zip(paint(*A), paint((BLUE, 1, 11)), strict=True))
    same = {"before": image, "removed": image, "added": image, "swapped": image}
    found = edit_scores(image, mask, GONE, **same)
    assert found["added"][0].isnan()
    assert found["swapped"][0].isnan()
    assert found["removal"].tolist() == [0, 0]


class Painter(Perfect):
    """Paints slot over slot, the ground first."""

    def decode(self, slots):
        masks = slots[:, :, 3:].unflatten(2, (32, 32))
        recon = slots[:, 0, :3, None, None].expand(-1, 3, 32, 32)
        for k in range(slots.shape[1]):
            recon = torch.where(masks[:, k, None] > 0.5, slots[:, k, :3, None, None], recon)
        return DecoderOutput(recon, masks / masks.sum(1, keepdim=True).clamp(min=1e-9))


def test_a_perfect_method_edits_each_scene(distinct):  # noqa: F811
    result = evaluate_edits(Painter(), distinct, batch_size=len(distinct) - 1)
    assert result.num_images == len(distinct)
    assert {name: one.mean for name, one in result.metrics.items()} == PERFECT
    assert min(result.metrics[name].n for name in ("removal", "added", "swapped", "moved")) > 4
    assert all(len(values) == len(distinct) for values in result.per_image.values())


class Noise(Perfect):
    """Draws its starting noise, whatever the slots."""

    def sample(self, slots, *, steps=1, cfg_scale=1.0, generator=None):
        return torch.rand((len(slots), 3, 32, 32), generator=generator)


def test_all_pictures_of_an_image_start_from_the_same_noise(distinct, monkeypatch):  # noqa: F811
    """Also where images leave out different numbers of slots, and so are drawn in different batches."""
    drop = torch.tensor([[True, False, False, False], [True, True, False, False], [False, False, True, False]])
    monkeypatch.setattr(edits, "going", lambda *_: drop)
    batch = to_batch(distinct.__getitems__(range(3)))
    _, pictures = draw_edits(Noise(), batch["image"], batch["mask"] == 1)
    assert pictures.keys() == {"before", "removed", "added", "swapped"}
    for name in ("removed", "added", "swapped"):
        assert torch.equal(pictures[name], pictures["before"]), name


def test_edits_are_shown_in_rows(distinct):  # noqa: F811
    batch = to_batch(distinct.__getitems__(range(3)))
    rows = show_edits(Painter(), batch).rows
    names = ["image", "true masks", "slots", "drawn again", "one object out", "one added", "one for another"]
    assert list(rows) == names
    scenes, again, out = (np.stack([np.asarray(one) for one in rows[name]]) for name in (names[0], names[3], names[4]))
    assert np.array_equal(scenes, again)
    gone = (batch["mask"] == chosen(batch["mask"])[:, None, None]).numpy()
    assert np.array_equal((scenes != out).any(-1), gone)
    assert show_edits(Painter(), batch).sheet(across=True, cell=32).size == (7 * 36 + 4, 3 * 36 + 4)


def test_a_single_image_has_no_next():
    with pytest.raises(UserError, match="no next"):
        evaluate_edits(Perfect(), SCENES.open("test"), num_images=1)


def drawing(kind):
    """A method of each kind that draws from slots, untrained, on pictures of 32 pixels."""
    torch.manual_seed(0)
    if kind == "slate":
        return SlateConfig(
            image_size=32, vocab_size=12, dvae_channels=6, slot_dim=8, mlp_dim=8, model_dim=8, decoder_blocks=1
        ).build()
    if kind == "slot_attention":
        return SlotAttentionConfig(image_size=(32, 32), channels=4, slot_dim=8, encoder_strides=(2, 2)).build()
    pytest.importorskip("diffusers")
    small = {"resnet_width": 8, "resnet_norm_groups": 4, "num_slots": 3, "slot_dim": 8, "mlp_dim": 8}
    unet = DenoiserConfig(dims=(8, 8), layers=1, head_dim=8, norm_groups=4)
    return SlotDiffusionConfig(image_size=32, autoencoder=None, autoencoder_run="", denoiser=unet, **small).build()


@pytest.mark.parametrize(
    ("kind", "how"),
    [("slate", "sampled;"), ("slot_attention", "rendered"), ("slot_diffusion", "20 steps, guidance 1;")],
)
def test_every_method_that_draws_is_scored(kind, how):
    """With the settings of its own; shapes by a classifier that knows the true ones."""
    shapes = kind == "slot_attention"
    data = CachedFeatures(PaintedScenes(image_size=32, num_train=400, num_test=48 if shapes else 3), ViTConfig())
    job = Job(drawing(kind), edits.TASK.read({"shapes": shapes}))
    [result] = edits.TASK.score(job, data, data.open("test"))
    assert how in result.rules
    assert set(result.metrics) == set(PERFECT) | ({"shape", "shape_true"} if shapes else set())
    assert result.metrics["placed"].n == result.num_images == (48 if shapes else 3)
    assert result.metrics["placed"].mean < 0.9
    if shapes:
        assert result.metrics["shape"].mean < 0.5 < 0.8 < result.metrics["shape_true"].mean


class Shapeless:
    """Scenes without the shapes of their objects."""

    def __init__(self, scenes):
        self.scenes = scenes

    def __len__(self):
        return len(self.scenes)

    def __getitems__(self, indices):
        batch = self.scenes.__getitems__(indices)
        return {name: batch[name] for name in ("image", "mask")}


def test_shapes_of_other_pictures_are_not_told(distinct):  # noqa: F811
    with pytest.raises(UserError, match="no shape, only image, mask"):
        evaluate_edits(Painter(), distinct, teaching=Shapeless(distinct))
    with pytest.raises(UserError, match="no shape, only image, mask; shapes are told of drawn ones"):
        evaluate_edits(Painter(), Shapeless(distinct), teaching=PaintedScenes(num_train=8).open("train"))
