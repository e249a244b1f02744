"""Painted scenes: exact masks, the same pictures again, what captions say."""

import hashlib

import numpy as np
import pytest

from slotworks.data.scenes import PaintedScenes
from slotworks.data.scenes.shapes import COLORS

GOLDEN = {
    "mask": "02a292a886e2",
    "class_mask": "6d248a561063",
    "shape": "3bf423ecefca",
    "color": "34a3cb415e69",
    "background": "36160f9ddd37",
    "num_objects": "d49743437c63",
}
MEANS = [[131.4, 113.04, 108.62], [170.84, 146.13, 190.33], [189.35, 158.86, 145.11], [55.47, 41.88, 54.07]]
CAPTION = "a medium cyan star and a medium cyan star on beige"
PLACED = "a medium cyan star at 48 71 and a medium cyan star at 47 18 on beige"


@pytest.fixture(scope="module")
def scenes():
    return PaintedScenes().open("train").__getitems__(range(256))


def test_the_same_pictures_again(scenes):
    """Layout and masks are exact; a pixel's light may differ by a level between processors, so means are compared."""
    found = {name: hashlib.sha256(np.ascontiguousarray(scenes[name])).hexdigest()[:12] for name in GOLDEN}
    assert found == GOLDEN
    np.testing.assert_allclose(scenes["image"][:4].mean((1, 2)), MEANS, atol=0.5)
    alone = PaintedScenes().open("train")[7]
    for name, value in scenes.items():
        np.testing.assert_array_equal(alone[name], value[7], err_msg=name)


def test_one_to_five_objects_and_most_pictures_hold_several_of_a_class(scenes):
    assert sorted(set(scenes["num_objects"])) == [1, 2, 3, 4, 5]
    several = [max(np.bincount(ids[ids > 0])) > 1 for ids in scenes["classes"]]
    assert np.mean(several) == pytest.approx(0.55078125)


def test_objects_keep_half_of_what_they_cover(scenes):
    whole = PaintedScenes()._stamps().area.reshape(4, 3)
    sizes = np.array(PaintedScenes().sizes, np.float32)
    for i in range(64):
        for k in range(scenes["num_objects"][i]):
            area = whole[scenes["shape"][i, k] - 1, np.flatnonzero(sizes == scenes["size"][i, k])[0]]
            visible = (scenes["mask"][i] == k + 1).sum()
            assert 0.5 * area <= visible <= area
            if k == scenes["num_objects"][i] - 1:
                assert visible == area


@pytest.mark.parametrize("side", [32, 64, 128])
def test_areas_are_those_of_the_figures(side):
    """In shares of the image: a disc pi / 4, a square 1, a triangle 1 / 2 of the square around it, at every size."""
    config = PaintedScenes(image_size=side, sizes=(0.4,))
    area = config._stamps().area / (0.4 * side) ** 2
    np.testing.assert_allclose(area[:3], (np.pi / 4, 1, 0.5), atol=0.065 * 64 / side)
    image = config.open("val")[0]["image"]
    assert image.shape == (side, side, 3)


def test_masks_lie_where_the_paint_is():
    """Without its shadow and the light, a picture differs from the empty ground just where the mask is."""
    config = PaintedScenes(min_objects=1, max_objects=1)
    dataset = config.open("val")
    batch = dataset.__getitems__(range(40))
    flat = np.array(list(COLORS.values()), np.float32)[batch["color"][:, 0] - 1]
    for i in range(40):
        inside = batch["mask"][i] > 0
        away = np.abs(batch["image"][i] / flat[i].clip(1)[None, None]).std(2)  # shade scales all three alike
        edge = inside ^ np.roll(inside, 1, 0) | inside ^ np.roll(inside, 1, 1) | inside ^ np.roll(inside, -1, 0)
        edge |= inside ^ np.roll(inside, -1, 1)
        assert np.median(away[inside & ~edge]) < 0.05


def test_smooth_outlines():
    """A pixel at the edge of a square that ends within it is a mixture: neither the square's colour nor the ground."""
    config = PaintedScenes(shapes=("square",), sizes=(0.3,), max_objects=1)  # 19.2 pixels
    scene = config.open("val")[0]
    row = int(scene["y"][0] * 64)
    values = scene["image"][row].astype(int)
    changes = np.abs(np.diff(values, axis=0)).sum(1)
    assert (np.sort(changes)[-4:-2] > 20).all()  # two steps at each end, not one


def test_captions_with_and_without_places():
    dataset = PaintedScenes().open("train")
    assert dataset.caption(4) == CAPTION
    assert dataset.caption(4, places=True) == PLACED


@pytest.mark.parametrize(("side", "said"), [(16, "sizes is"), (300, "image_size is 300; .* 32 to 256 pixels")])
def test_sizes_that_cannot_be_painted(side, said):
    with pytest.raises(ValueError, match=said):
        PaintedScenes(image_size=side)
