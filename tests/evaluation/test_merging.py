"""Slots that say the same joined: by hand, its stops, and its name in protocols."""

import numpy as np
import pytest
import torch
from PIL import Image

from slotworks import protocols
from slotworks.evaluation.discovery import evaluate_discovery
from slotworks.evaluation.masks import merge_similar, soft_masks
from slotworks.evaluation.segment import segment_images
from slotworks.evaluation.segment_video import segment_files
from slotworks.outputs import writing
from slotworks.types import Method, SlotOutput, UserError


def hard(*areas):
    """One image of one row whose slots own so many pixels each."""
    ids = torch.cat([torch.full((area,), n) for n, area in enumerate(areas)])
    return torch.nn.functional.one_hot(ids, len(areas)).T.float()[None, :, None]


def test_the_most_alike_go_first_and_the_mean_is_weighted_by_area():
    """Slots 0 and 2 have cosine 0.96 and become (1, 0.07); with slot 1 that has 0.3 then, not the 0.5 it had with 2."""
    masks = hard(3, 4, 1, 2)
    slots = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.96, 0.28], [-1.0, 0.0]]])
    merged = merge_similar(masks, slots, 0.27)
    assert merged[0, :, 0].sum(1).tolist() == [4, 4, 0, 2]
    assert torch.equal(merged[:, 0], masks[:, 0] + masks[:, 2])
    torch.testing.assert_close(merged.sum(1), torch.ones(1, 1, 10))
    assert torch.equal(merge_similar(masks, slots, 0.97), masks)
    heavy = merge_similar(
        hard(1, 4, 3, 2), slots, 0.15
    )  # now the mean is (0.97, 0.21), whose cosine with slot 1 is 0.21
    assert heavy[0, :, 0].sum(1).tolist() == [8, 0, 0, 2]
    assert torch.equal(masks, hard(3, 4, 1, 2))


def test_two_slots_stay():
    slots = torch.ones(1, 4, 3)
    assert (merge_similar(hard(3, 4, 1, 2), slots, 0.5).flatten(2).sum(2) > 0).sum() == 2


def test_slots_that_own_nothing_take_no_part():
    """Slot 1 is empty: of the other three, alike, two are left; and empty slots are none of the two."""
    merged = merge_similar(hard(3, 0, 1, 2), torch.ones(1, 4, 3), 0.5)
    assert sorted(merged[0, :, 0].sum(1).tolist()) == [0, 0, 2, 4]


def test_each_image_by_itself():
    masks = torch.cat([hard(2, 2, 2), hard(2, 2, 2)])
    slots = torch.stack([torch.eye(3), torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])])
    merged = merge_similar(masks, slots, 0.9)
    assert torch.equal(merged[0], masks[0])
    assert merged[1, :, 0].sum(1).tolist() == [4, 0, 2]


def test_refuses():
    with pytest.raises(UserError, match="Slots of videos are not merged"):
        merge_similar(torch.ones(1, 2, 3, 4, 4), torch.ones(1, 2, 3, 5), 0.5)
    with pytest.raises(UserError, match="merge is 2; it is a cosine, from -1 to 1"):
        merge_similar(hard(1, 1), torch.ones(1, 2, 3), 2.0)
    with pytest.raises(UserError, match="merge is 2; it is a cosine"):
        protocols.get("oclf").with_merging(2.0)


@pytest.mark.parametrize(
    ("name", "masks", "merge", "length"),
    [
        ("oclf~0.9", "decoder", 0.9, None),
        ("oclf[attention]~0.85", "attention", 0.85, None),
        ("savi+ari_c[attention]~-0.5@12", "attention", -0.5, 12),
        ("oclf~1", "decoder", 1.0, None),
        ("savi@12", "decoder", None, 12),
    ],
)
def test_names_of_protocols(name, masks, merge, length):
    rules = protocols.get(name)
    assert (rules.name, rules.masks, rules.merge, rules.length) == (name, masks, merge, length)
    assert ("joined first" in rules.describe()) == (merge is not None)


def test_names_follow_later_changes():
    assert protocols.get("oclf~0.9").with_masks("attention").name == "oclf[attention]~0.9"
    assert protocols.get("savi[attention]~0.9@12").with_masks("decoder").name == "savi[decoder]~0.9@12"
    assert protocols.get("oclf~0.9").with_merging(0.5).name == "oclf~0.5"
    with pytest.raises(UserError, match=r"~0\.9 to join slots"):
        protocols.get("oclf[nothing]")


class Halves(Method):
    """Two objects, each cut in two by slots that say the same; the background has one."""

    def encode(self, image):
        ids = torch.tensor([[0, 0, 1, 2, 2], [0, 0, 3, 4, 4]]).T.flatten()
        attn = torch.nn.functional.one_hot(ids, 5).T.float().expand(len(image), -1, -1)
        slots = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0.1], [0, 0, 1]]).expand(len(image), -1, -1)
        return SlotOutput(slots, attn, grid=(5, 2))


class Truth:
    def __len__(self):
        return 3

    def __getitems__(self, indices):
        mask = torch.tensor([[0, 0, 1, 2, 2], [0, 0, 1, 2, 2]]).T.numpy()
        return {
            "image": torch.zeros(len(indices), 5, 2, 3, dtype=torch.uint8).numpy(),
            "mask": mask[None].repeat(len(indices), 0),
        }


def test_scores_of_halves_that_are_joined():
    method = Halves()
    apart = evaluate_discovery(method, Truth(), protocol="oclf[attention]")
    joined = evaluate_discovery(method, Truth(), protocol="oclf[attention]~0.9")
    assert joined.metrics["ari"].mean == joined.metrics["mbo_i"].mean == 1
    assert apart.metrics["mbo_i"].mean == pytest.approx(0.5)
    assert joined.protocol.name == "oclf[attention]~0.9"
    output = method.encode(torch.zeros(1, 3, 5, 2))
    assert (soft_masks(output, None, merge=0.9).flatten(2).sum(2) > 0).sum() == 3


def test_pictures_are_segmented_with_slots_joined_and_videos_are_not(tmp_path):
    Image.fromarray(np.zeros((5, 2, 3), np.uint8)).save(tmp_path / "one.png")
    for merge, owners in ((None, 5), (0.9, 3)):
        found = list(segment_images(Halves(), [tmp_path / "one.png"], tmp_path / "out", image_size=(5, 2), merge=merge))
        assert found[0]["slots"] == owners
    with (
        pytest.raises(UserError, match=r"clip.mp4 is a video, whose slots are not merged"),
        writing(tmp_path / "out", doing="writing results") as outputs,
    ):
        list(segment_files(Halves(), [tmp_path / "clip.mp4"], outputs, image_size=(5, 2), merge=0.9))
