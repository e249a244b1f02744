"""Drawn Multi-dSprites: factors, painting order, exact masks, stated distributions."""

import hashlib

import numpy as np
import pytest
from scipy.stats import chi2

from slotworks.data.scenes import SpriteScenes
from slotworks.data.scenes.multi_dsprites import ORIENTATIONS, POSITIONS, SCALES, SPRITES_PER_IMAGE
from slotworks.data.scenes.outlines import bitmap, ellipse, heart, square

VARIANTS = ["binarized", "colored_on_grayscale", "colored_on_colored", "textured"]
NUM = 3_000


def draw(variant, count=NUM, **config):
    return SpriteScenes(variant=variant, **config).open("train").__getitems__(range(count))


@pytest.fixture(scope="module")
def grey():
    return draw("colored_on_grayscale")


def silhouette(batch, i, k):
    """One sprite alone on 64x64 pixels, drawn from its properties."""
    outline, radius = {1: (square, 9.25), 2: (ellipse, 13.2), 3: (heart, 10.6)}[batch["shape"][i, k]]
    angle, scale = batch["orientation"][i, k].astype(float), batch["scale"][i, k].astype(float)
    row, column = 16 + np.rint(31 * batch["y"][i, k]), 16 + np.rint(31 * batch["x"][i, k])
    alone = np.zeros((127, 127), dtype=bool)
    alone[48:79, 48:79] = bitmap(outline, size=31, radius=radius * scale, angle=angle)  # centre at pixel 63
    top, left = 63 - int(row), 63 - int(column)
    return alone[top : top + 64, left : left + 64]


def test_later_sprites_are_painted_over_earlier_ones(grey):
    """Mask and image rebuilt sprite by sprite on the whole canvas."""
    for i in range(100):
        mask, image = np.zeros((64, 64)), np.broadcast_to(grey["image"][i, 0, 0], (64, 64, 3)).copy()
        for k in range(int(grey["visibility"][i].sum())):
            alone = silhouette(grey, i, k)
            mask[alone] = k + 1
            image[alone] = np.rint(255 * grey["color"][i, k])
        np.testing.assert_array_equal(grey["mask"][i], mask)
        np.testing.assert_array_equal(grey["image"][i], image)


@pytest.mark.parametrize("variant", VARIANTS)
def test_number_of_sprites(variant):
    batch, (fewest, most) = draw(variant), SPRITES_PER_IMAGE[variant]
    count = batch["visibility"].sum(axis=1).astype(int)
    counts = np.bincount(count, minlength=most + 1)[fewest:]
    assert count.min() == fewest
    assert count.max() == most == SpriteScenes(variant=variant).max_objects
    assert ((counts - NUM / counts.size) ** 2 / (NUM / counts.size)).sum() < chi2.ppf(1 - 1e-6, counts.size - 1)
    absent = batch["visibility"] == 0
    np.testing.assert_array_equal(absent, np.arange(most) >= count[:, None])
    for name in ("boxes", "shape", "scale", "orientation", "x", "y", "color"):
        assert not batch[name][absent].any(), name
    visible = [np.setdiff1d(mask, 0).size for mask in batch["mask"]]
    np.testing.assert_array_equal(batch["num_objects"], visible)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("shape", [1, 2, 3]),
        ("scale", SCALES),
        ("orientation", ORIENTATIONS),
        ("x", POSITIONS),
        ("y", POSITIONS),
    ],
)
def test_factors_are_uniform(grey, name, values):
    drawn = grey[name][grey["visibility"] == 1]
    found, counts = np.unique(drawn, return_counts=True)
    np.testing.assert_allclose(found, values, atol=1e-6)
    expected = drawn.size / len(values)
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, len(values) - 1)


def test_the_factors_are_those_of_dsprites():
    np.testing.assert_allclose(SCALES, [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert (len(ORIENTATIONS), len(POSITIONS)) == (40, 32)


@pytest.mark.parametrize("outline", [square, ellipse, heart])
def test_sprites_turn_and_scale(outline):
    """A square repeats after a quarter turn, an ellipse after a half, a heart after a full one; areas are exact."""
    period = {square: np.pi / 2, ellipse: np.pi, heart: 2 * np.pi}[outline]
    here = bitmap(outline, size=31, radius=12.2, angle=0.3)
    np.testing.assert_array_equal(here, bitmap(outline, size=31, radius=12.2, angle=0.3 + period))
    assert (here != bitmap(outline, size=31, radius=12.2, angle=0.3 + period / 2)).sum() > 20
    np.testing.assert_array_equal(here[:, ::-1], bitmap(outline, size=31, radius=12.2, angle=-0.3))
    large = bitmap(outline, size=601, radius=290.5).sum()
    area = {square: 4.0, ellipse: 0.54 * np.pi, heart: np.pi / 1.1725}[outline]
    assert large / 290.5**2 == pytest.approx(area, rel=2e-3)


def test_angles_turn_counter_clockwise():
    """A quarter turn sends the heart's point from the bottom to the right."""
    upright = bitmap(heart, size=31, radius=13.1)
    np.testing.assert_array_equal(np.rot90(upright), bitmap(heart, size=31, radius=13.1, angle=np.pi / 2))
    assert np.nonzero(upright)[0].max() > 25
    assert upright[27:].sum(axis=1).max() <= 3  # the point is at the bottom


def test_boxes_are_the_extent_of_the_visible_pixels():
    batch = draw("colored_on_grayscale", 300)
    for i in range(300):
        for k in range(5):
            rows, columns = np.nonzero(batch["mask"][i] == k + 1)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if rows.size else [0] * 4
            np.testing.assert_array_equal(batch["boxes"][i, k] * 64, extent)


def test_colors_of_each_variant(grey):
    binary = draw("binarized", 50)
    np.testing.assert_array_equal(binary["image"], 255 * (binary["mask"][..., None] > 0).repeat(3, axis=-1))
    background = grey["image"][grey["mask"] == 0]
    assert (background == background[:, :1]).all()
    colors = grey["color"][grey["visibility"] == 1]
    value, saturation = colors.max(axis=1), 1 - colors.min(axis=1) / colors.max(axis=1)
    for channel in (value, saturation):
        assert 0.49 < channel.min() < 0.51
        assert 0.99 < channel.max() <= 1
        assert channel.mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_allclose(colors.mean(axis=0), colors.mean(), atol=0.015)  # hues are uniform
    colored = draw("colored_on_colored", 1000)
    np.testing.assert_allclose(colored["color"][colored["visibility"] == 1].mean(axis=0), 0.5, atol=0.03)


def test_textures_darken_but_keep_the_hue():
    batch = draw("textured", 200)
    for i in range(200):
        for k in range(batch["num_objects"][i]):
            pixels = batch["image"][i][batch["mask"][i] == k + 1]
            color = 255 * batch["color"][i, k]
            assert (pixels <= color + 1).all()
            assert (pixels >= 0.5 * color - 2).all()
    plain = draw("colored_on_grayscale", 200)
    np.testing.assert_array_equal(batch["mask"], plain["mask"])
    grain = [
        np.ptp(image[mask == 0].astype(int), axis=0).max()
        for image, mask in zip(batch["image"], batch["mask"], strict=True)
    ]
    assert min(grain) > 20  # every background has a pattern


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_alone_equals_the_image_in_a_batch(variant):
    dataset = SpriteScenes(variant=variant, num_train=400).open("train")
    batch = dataset.__getitems__(range(400))
    for index in (0, 127, 128, 399):
        for name, value in dataset[index].items():
            np.testing.assert_array_equal(value, batch[name][index])


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("binarized", "8e60e1481490b6e2"),
        ("colored_on_grayscale", "749cb41c9157b4bc"),
        ("colored_on_colored", "07b2213551e00018"),
    ],
)
def test_same_pictures_as_ever(variant, expected):
    """A change of any pixel changes what `seed=0` means in every published number."""
    batch = draw(variant, 64)
    digest = hashlib.sha256(batch["image"].tobytes() + batch["mask"].tobytes()).hexdigest()
    assert digest[:16] == expected


def test_splits_differ():
    pictures = [SpriteScenes().open(split).__getitems__(range(50))["image"] for split in ("train", "val", "test")]
    assert len(np.unique(np.concatenate(pictures).reshape(150, -1), axis=0)) == 150


def test_facts_and_mistakes():
    config = SpriteScenes(variant="colored_on_colored")
    assert (config.name, config.size, config.max_objects) == ("sprite_scenes_colored_on_colored", (64, 64), 4)
    object.__setattr__(config, "variant", "color")  # past the annotation that the tests check
    with pytest.raises(ValueError, match="variant is 'color'; choose one of binarized, colored_on_grayscale"):
        config.__post_init__()
