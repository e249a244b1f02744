"""Scores of pictures of objects: what is where it should be, and what is not."""

import pytest
import torch

from slotworks.data.scenes import PaintedScenes
from slotworks.evaluation.generation import _overlap, placement, tint
from slotworks.methods import SlotAttentionConfig
from slotworks.types import UserError, to_batch


@pytest.fixture(scope="module")
def batch():
    return to_batch(PaintedScenes().open("val").__getitems__(range(48)))


def test_true_pictures_score_one(batch):
    """In spite of dark sides and shadows."""
    scores = placement(batch["image"], batch["mask"], batch["image"])
    for name in ("shown", "placed", "centred"):
        assert float(scores[name].nanmean()) == 1, name
    assert float(scores["iou"].nanmean()) > 0.9
    assert int((~scores["placed"].isnan()).sum()) == int(batch["num_objects"].sum())  # equal colours included


def test_what_is_elsewhere_is_shown_but_not_placed():
    image = torch.full((1, 3, 20, 20), 0.5)
    mask = torch.zeros(1, 20, 20, dtype=torch.int64)
    mask[0, 2:8, 2:8] = 1
    red = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    image[0] = torch.where(mask[0] == 1, red, image[0])
    for moved, expected in ((0, (1, 1, 1)), (2, (1, 1, 1)), (3, (1, 1, 0)), (4, (1, 0, 0)), (10, (1, 0, 0))):
        scores = placement(image, mask, image.roll(moved, dims=3))
        found = tuple(int(scores[name].item()) for name in ("shown", "placed", "centred"))
        assert found == expected, moved
    both = placement(image, mask, torch.full_like(image, 0.5))
    assert [both[name].item() for name in ("shown", "placed", "centred", "iou")] == [0, 0, 0, 0]
    assert float(placement(image, mask, image.roll(3, dims=3))["iou"]) == pytest.approx(18 / 54)


def test_a_shadow_does_not_change_the_tint():
    grey = torch.tensor([0.8, 0.8, 0.8]).view(1, 3, 1, 1)
    red = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1)
    dark = (tint(0.5 * red) - tint(red)).norm(), (tint(0.5 * grey) - tint(grey)).norm()
    assert max(dark) < 0.3 < 0.5 * float((tint(red) - tint(grey)).norm())


def test_overlap_of_masks():
    mask = torch.tensor([[[1, 1, 2, 0]]])
    found = torch.tensor([[[1, 2, 2, 0]]])
    assert _overlap(found, mask, 3).tolist()[0][:2] == [0.5, 0.5]
    assert _overlap(found, mask, 3)[0, 2].isnan()


def test_methods_that_draw_nothing():
    from slotworks.evaluation.task import find

    method = SlotAttentionConfig().build()
    with pytest.raises(UserError, match="draws no objects of which it is told"):
        find("generation").needs.check_method(method, "generation")
