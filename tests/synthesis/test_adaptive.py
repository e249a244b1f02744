"""DiffuMask's masks: maps joined, the reference, the search for a threshold, small parts, and in the engine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import save_clip

from slotworks.data.stores.generated import find_shards, read_facts, read_rows
from slotworks.encoders.clip import CLIPEncoder
from slotworks.images import open_picture
from slotworks.nn.crf import crf_labels
from slotworks.synthesis import synthesize
from slotworks.synthesis.adaptive import (
    Adaptive,
    adaptive_labels,
    best_mask,
    joined_maps,
    reference_masks,
    without_small,
)
from slotworks.vocabulary import as_words

PLAIN = Adaptive(crf_iterations=0, min_box=0.0)


def test_maps_of_several_sizes_are_joined_by_their_maxima():
    draw = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, 3, side, side, generator=draw) for side in (4, 8)]
    maps[1][1, 2] = 0
    found = joined_maps(maps, (8, 8))
    large = F.interpolate(maps[0], (8, 8), mode="bicubic", align_corners=False)
    for b in range(2):
        for c in range(3):
            parts = [one[b, c] / one[b, c].max() if one[b, c].max() > 0 else one[b, c] for one in (large, maps[1])]
            torch.testing.assert_close(found[b, c], (parts[0] + parts[1]) / 2, rtol=0, atol=1e-6)


def test_the_reference_is_what_a_random_walk_leaves_above_the_background():
    """Two positions that attend to each other share their values; the constant background stays at its level."""
    joined = torch.tensor([[[[0.9, 0.1], [0.3, 0.7]]]])
    alone = torch.eye(4)[None]
    assert torch.equal(reference_masks(joined, alone, 4, 0.45)[0, 0], joined[0, 0] > 0.45)
    walk = torch.eye(4)
    walk[:2, :2] = 0.5
    assert reference_masks(joined, walk[None], 1, 0.45)[0, 0].tolist() == [[True, True], [False, True]]
    assert not reference_masks(torch.full((1, 1, 2, 2), 0.44), walk[None], 3, 0.45).any()


def test_the_threshold_agrees_most_with_the_reference():
    """By a loop over thresholds; of equal ones the first; without agreement there is no mask."""
    map_ = torch.linspace(0, 1, 100).view(10, 10)
    reference = map_ > 0.423
    mask, threshold = best_mask(map_, reference, torch.zeros(3, 10, 10), PLAIN)
    values = [0.35 + 0.01 * k for k in range(20)]
    assert list(PLAIN.thresholds) == pytest.approx(values)
    agreement = [float(((map_ > t) & reference).sum() / ((map_ > t).sum() + reference.sum())) for t in values]
    assert threshold == pytest.approx(values[int(np.argmax(agreement))])
    assert torch.equal(mask, map_ > threshold)
    assert torch.equal(mask, reference)
    empty, none = best_mask(map_, map_ < -1, torch.zeros(3, 10, 10), PLAIN)
    assert (empty.any().item(), none) == (False, 0.0)


def test_masks_are_drawn_to_borders_before_they_are_compared():
    """A blurred map over a dark square: the chosen mask is that of the CRF, and is the square."""
    image = torch.full((3, 24, 24), 0.8)
    image[:, 6:16, 6:16] = 0.1
    square = image[0] < 0.5
    map_ = F.avg_pool2d(square.float()[None, None], 7, stride=1, padding=3)[0, 0]
    reference = map_ > 0.45
    mask, threshold = best_mask(map_, reference, image, Adaptive())
    assert torch.equal(mask, square)
    assert not torch.equal(map_ > threshold, square)
    drawn = crf_labels((map_ > threshold).long()[None], image[None], 21, iterations=10, certain=0.5, other=0.025)
    assert torch.equal(drawn[0] == 1, mask)


def test_small_parts_are_dropped_and_holes_filled():
    mask = np.zeros((10, 10), bool)
    mask[0:5, 0:5] = True
    mask[2, 2] = False  # a hole
    mask[8, 8] = mask[9, 9] = True  # joined by a corner: a box of four
    kept = without_small(mask, 0.05)
    expected = np.zeros((10, 10), bool)
    expected[0:5, 0:5] = True
    assert np.array_equal(kept, expected)
    assert np.array_equal(without_small(mask, 0.04) ^ expected, mask & ~expected)
    assert not without_small(np.zeros((4, 4), bool), 0.5).any()


def test_where_two_classes_meet_the_larger_map_wins():
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 0, :, :3] = torch.tensor([1.0, 0.9, 0.6])
    maps[0, 1, :, 1:] = torch.tensor([0.6, 0.8, 1.0])
    maps[0, 2] = 1  # no class
    found = adaptive_labels(
        [maps], torch.eye(16)[None], torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.tensor([[7, 2, 0]]), PLAIN
    )
    assert found.dtype == torch.uint8
    assert found[0].tolist() == [[7, 7, 2, 2]] * 4


def pixels(data):
    return np.asarray(open_picture(data, name="a shard", formats=["PNG"]))


def test_the_engine_makes_them(config, tmp_path):
    """The same images as with masks of attention; no pixel is uncertain."""
    how = {"num_images": 3, "shard_size": 3}
    made = {}
    for masks in ("attention", "adaptive"):
        folder = Path(synthesize(replace(config, masks=masks, **how), tmp_path / masks)["folder"])
        made[masks] = read_rows(find_shards(folder)[0], ("image", "mask", "class_ids"))
        assert read_facts(find_shards(folder)[0])["masks"] == "classes"
    for old, new in zip(*made.values(), strict=True):
        assert old["image"] == new["image"]
        assert set(np.unique(pixels(new["mask"]))) <= {0, *new["class_ids"]}
    assert any(pixels(row["mask"]).any() for row in made["adaptive"])
    assert any((pixels(row["mask"]) == 255).any() for row in made["attention"])


def test_clip_leaves_out_images_of_another_class(config, tmp_path):
    """Those whose nearest name is none of the prompt's; their numbers stand in the shard."""
    folder = str(save_clip(tmp_path / "clip"))
    how = {"num_images": 6, "shard_size": 6}
    whole = Path(synthesize(replace(config, **how), tmp_path / "whole")["folder"])
    answer = synthesize(replace(config, clip_filter=folder, **how), tmp_path / "some")
    clip = CLIPEncoder(folder)
    names = read_facts(find_shards(whole)[0])["class_names"]
    wanted = []
    for row in read_rows(find_shards(whole)[0], ("image", "classes", "index")):
        image = torch.from_numpy(pixels(row["image"]).copy()).movedim(2, 0)[None].float() / 255
        text = clip.text([f"a photo of a {name}" for name in as_words(tuple(names))], image)
        if names[int((clip.whole(image) @ text.T).argmax())] in row["classes"]:
            wanted.append(row["index"])
    shard = find_shards(Path(answer["folder"]))[0]
    assert [row["index"] for row in read_rows(shard, ("index",))] == wanted
    assert read_facts(shard)["left_out"] == [k for k in range(6) if k not in wanted]
    assert (answer["images"], answer["left_out"]) == (len(wanted), 6 - len(wanted))
    assert len(wanted) < 6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"first": 0.6}, "adaptive.first is 0.6 and adaptive.last 0.54"),
        ({"step": 0.0}, "adaptive.step is 0.0; it must be above 0"),
        ({"crf_iterations": -1}, "adaptive.crf_iterations is -1"),
        ({"min_box": 2.0}, "adaptive.min_box is 2.0; it is a share"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Adaptive(**settings)
