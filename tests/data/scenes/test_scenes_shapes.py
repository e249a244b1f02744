"""Captioned shapes: placement, classes, captions that tell the truth."""

import hashlib
import re

import numpy as np
import pytest
from scipy.stats import chi2

from slotworks.data.scenes import ShapeScenes, shapes
from slotworks.data.scenes.outlines import bitmap, circle, cross, diamond, ring, star, triangle
from slotworks.data.scenes.shapes import BACKGROUNDS, CLASSES, COLORS, MIN_VISIBLE
from slotworks.data.scenes.textures import texture_at, texture_bank

ALL = tuple(CLASSES)
NUM = 2_000


def draw(count=NUM, **config):
    return ShapeScenes(**config).open("train").__getitems__(range(count))


@pytest.fixture(scope="module")
def busy():
    """Eight classes, up to six objects, occlusion."""
    return draw(shapes=ALL, max_objects=6)


def areas(mask, count):
    ids = mask.reshape(len(mask), -1) + (count + 1) * np.arange(len(mask))[:, None]
    return np.bincount(ids.ravel(), minlength=len(mask) * (count + 1)).reshape(-1, count + 1)[:, 1:]


def whole_areas(batch):
    """Pixels of every object if nothing covered it, by drawing it again; 0 for absent ones."""
    result = np.zeros(batch["shape"].shape, dtype=int)
    for i, k in zip(*np.nonzero(batch["visibility"]), strict=True):
        pixels = round(float(batch["size"][i, k]) * 64)
        result[i, k] = bitmap(CLASSES[ALL[batch["shape"][i, k] - 1]], size=pixels, radius=pixels / 2).sum()
    return result


def test_without_occlusion_every_pixel_is_visible():
    batch = draw(500, shapes=ALL, occlusion=False)
    np.testing.assert_array_equal(areas(batch["mask"], 4), whole_areas(batch))


def test_with_occlusion_objects_keep_their_share(busy):
    visible, whole = areas(busy["mask"], 6), whole_areas(busy)
    share = visible[whole > 0] / whole[whole > 0]
    assert share.min() >= MIN_VISIBLE
    assert 0.05 < (share < 1).mean() < 0.5  # and occlusion does happen
    last = busy["num_objects"] - 1
    nearest = np.arange(NUM), last
    np.testing.assert_array_equal(visible[nearest], whole[nearest])  # nothing covers the nearest object


def test_colors_classes_and_depth(busy):
    color, classes = np.array(list(COLORS.values())), busy["classes"]
    for i in range(300):
        ids = busy["mask"][i]
        inside = ids > 0
        np.testing.assert_array_equal(busy["class_mask"][i], np.append(0, classes[i])[ids])
        np.testing.assert_array_equal(busy["image"][i][inside], color[busy["color"][i] - 1][ids[inside] - 1])
        background = list(BACKGROUNDS.values())[busy["background"][i] - 1]
        assert (busy["image"][i][~inside] == background).all()
        n = busy["num_objects"][i]
        assert busy["depth"][i].tolist() == [*range(n, 0, -1)] + [0] * (6 - n)
    np.testing.assert_array_equal(classes, busy["shape"])
    for name in ("boxes", "shape", "classes", "color", "size", "x", "y", "depth"):
        assert not busy[name][busy["visibility"] == 0].any(), name


def test_colors_as_classes():
    """The same pictures and properties; the class is the colour."""
    plain, colored = draw(64), draw(64, classes="color")
    for name, value in plain.items():
        if name not in ("classes", "class_mask"):
            np.testing.assert_array_equal(colored[name], value)
    np.testing.assert_array_equal(colored["classes"], plain["color"])
    for i in range(64):
        owner = np.append(0, plain["color"][i])[plain["mask"][i]]
        np.testing.assert_array_equal(colored["class_mask"][i], owner)
    assert ShapeScenes(classes="color").class_names == tuple(COLORS)


def test_boxes_and_positions():
    batch = draw(200, shapes=ALL, occlusion=False)
    for i in range(200):
        for k in range(4):
            rows, columns = np.nonzero(batch["mask"][i] == k + 1)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if rows.size else [0] * 4
            np.testing.assert_array_equal(batch["boxes"][i, k] * 64, extent)
            assert batch["x"][i, k] * 128 == extent[0] + extent[2]
            assert batch["y"][i, k] * 128 == extent[1] + extent[3]


@pytest.mark.parametrize(("name", "values"), [("shape", 8), ("color", 8), ("size", 3), ("background", 5)])
def test_factors_are_uniform(busy, name, values):
    drawn = busy[name] if name == "background" else busy[name][busy["visibility"] == 1]
    counts = np.unique(drawn, return_counts=True)[1]
    assert counts.size == values
    assert ((counts - drawn.size / values) ** 2 / (drawn.size / values)).sum() < chi2.ppf(1 - 1e-6, values - 1)


def test_number_of_objects_and_repeated_classes():
    batch = draw(min_objects=2, max_objects=3, shapes=("heart",), colors=("pink", "cyan"))
    counts = np.bincount(batch["num_objects"], minlength=4)
    assert counts.tolist()[:2] == [0, 0]
    assert abs(counts[2] - NUM / 2) < 5 * NUM**0.5 / 2  # five standard deviations
    present = batch["visibility"] == 1
    assert np.unique(batch["shape"][present]).tolist() == [7]  # ids do not depend on the configuration
    assert np.unique(batch["color"][present]).tolist() == [7, 8]


@pytest.mark.parametrize("background", ["plain", "gradient", "textured"])
def test_captions_agree_with_properties(background):
    config = ShapeScenes(shapes=ALL, colors=("red", "orange"), max_objects=5, background=background, min_objects=0)
    dataset = config.open("test")
    batch = dataset.__getitems__(range(100))
    numbers = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5}
    pattern = rf"(\w+) ({'|'.join(COLORS)}) ({'|'.join(CLASSES)})(e?s)?"
    place = {"plain": r"(\w+)$", "gradient": r"(\w+) fading to (\w+)$", "textured": r"patterned (\w+)$"}[background]
    for i in range(100):
        objects, ground = dataset.caption(i).split(" on ")
        said = [
            (color, shape) for number, color, shape, _ in re.findall(pattern, objects) for _ in range(numbers[number])
        ]
        present = batch["visibility"][i] == 1
        truth = [
            (list(COLORS)[color - 1], ALL[shape - 1])
            for color, shape in zip(batch["color"][i][present], batch["shape"][i][present], strict=True)
        ]
        assert sorted(said) == sorted(truth)
        assert bool(truth) == (objects != "nothing")
        assert re.fullmatch(place, ground).group(1) == list(BACKGROUNDS)[batch["background"][i] - 1]


def test_captions_read_like_english():
    dataset = ShapeScenes(shapes=("cross",), colors=("orange",), min_objects=3, max_objects=3).open()
    assert dataset.caption(0).startswith("three orange crosses on ")
    captions = [ShapeScenes(seed=seed).open().caption(7) for seed in range(4)]
    assert captions == [
        "a yellow triangle on beige",
        "an orange circle, an orange triangle, a purple star and a green circle on beige",
        "a purple triangle on beige",
        "two cyan squares, a green star and a yellow circle on white",
    ]


@pytest.mark.parametrize("background", ["gradient", "textured"])
def test_backgrounds_blend_two_colors_and_leave_objects_alone(background):
    batch, plain = draw(100, background=background), draw(100)
    np.testing.assert_array_equal(batch["mask"], plain["mask"])
    inside = batch["mask"] > 0
    np.testing.assert_array_equal(batch["image"][inside], plain["image"][inside])
    palette = np.array(list(BACKGROUNDS.values()), dtype=float)
    for i in range(100):
        first = palette[batch["background"][i] - 1]
        pixels = batch["image"][i][~inside[i]].astype(float)
        # All background pixels lie between the first colour and one of the others, and they do vary.
        outside = [
            np.maximum(pixels - np.maximum(first, second), np.minimum(first, second) - pixels).max()
            for second in palette
        ]
        assert min(outside) <= 1
        assert np.ptp(pixels, axis=0).max() > 20


def test_textures_have_full_range_and_repeat():
    bank = texture_bank(64)
    assert bank.shape[1:] == (128, 128)
    np.testing.assert_array_equal(bank.min(axis=(1, 2)), 0)
    np.testing.assert_array_equal(bank.max(axis=(1, 2)), 1)
    np.testing.assert_array_equal(bank[:, :64], bank[:, 64:])
    assert len(np.unique(bank.reshape(len(bank), -1), axis=0)) == len(bank)
    start = np.array([(3 * 128 + 5) * 128 + 17])  # texture 3, row 5, column 17
    window = texture_at(start, np.arange(64 * 64)[None], size=64)
    np.testing.assert_array_equal(window.reshape(64, 64), bank[3, 5:69, 17:81])


@pytest.mark.parametrize(
    ("outline", "area"),
    [
        (circle, np.pi),
        (diamond, 2.0),
        (triangle, 2.0),
        (cross, 4 * 5 / 9),
        (ring, 0.75 * np.pi),
        (star, 5 * np.cos(2 * np.pi / 5) * np.tan(np.pi / 5)),  # ten triangles between the outer and inner radius
    ],
)
def test_outlines_have_the_area_of_the_figure(outline, area):
    assert bitmap(outline, size=802, radius=400.0).sum() / 400.0**2 == pytest.approx(area, rel=3e-3)


def test_an_image_alone_equals_the_image_in_a_batch():
    for background in ("plain", "gradient", "textured"):
        dataset = ShapeScenes(max_objects=6, background=background).open("val")
        batch = dataset.__getitems__(range(200))
        for index in (0, 127, 128, 199):
            for name, value in dataset[index].items():
                np.testing.assert_array_equal(value, batch[name][index])


def test_same_pictures_as_ever():
    """A change of any pixel changes what `seed=0` means in every published number."""
    batch = draw(64, shapes=ALL, max_objects=6)
    digest = hashlib.sha256(batch["image"].tobytes() + batch["mask"].tobytes()).hexdigest()
    assert digest[:16] == "051d5f37859b82ab"


def test_crowded_scenes_are_placed_anew_until_they_fit(monkeypatch):
    """Two squares at the limit: the first often lies where no place is left for the second."""
    config = ShapeScenes(shapes=("square",), sizes=(0.44,), min_objects=2, max_objects=2, occlusion=False)
    mask = config.open().__getitems__(range(200))["mask"]
    assert (areas(mask, 2) == 28**2).all()
    monkeypatch.setattr(shapes, "_RESTARTS", 1)
    with pytest.raises(
        ValueError, match=r"2 objects of sizes up to 0.44 found no free place; lower max_objects or sizes"
    ):
        config.open().__getitems__(range(200))


def test_other_sizes():
    config = ShapeScenes(image_size=33, max_objects=9, sizes=(0.2,), min_objects=9, occlusion=False, num_train=8)
    batch = config.open().__getitems__(range(8))
    assert batch["image"].shape == (8, 33, 33, 3)
    assert (batch["num_objects"] == 9).all()
    assert (config.name, config.size, config.max_objects) == ("shape_scenes_plain", (33, 33), 9)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"shapes": ("cube",)}, r"shapes is \('cube',\); give one or more of circle, square"),
        ({"colors": ()}, r"colors is \(\); give one or more of red, green"),
        ({"background": "photo"}, "background is 'photo'; choose one of plain, gradient, textured"),
        ({"classes": "size"}, "classes is 'size'; choose shape or color"),
        ({"min_objects": 5}, "min_objects is 5 and max_objects is 4; give 0 <= min_objects"),
        (
            {"sizes": (0.05,)},
            r"sizes is \(0.05,\) on 64 pixels; give shares of the image up to 1 that come to 6 pixels",
        ),
        ({"sizes": (1.5,)}, r"sizes is \(1.5,\) on 64 pixels"),
        ({"max_objects": 20}, "20 objects of size 0.3 would fill 180% of the canvas"),
        ({"max_objects": 5, "occlusion": False}, "5 objects of size 0.3 would fill 45% of the canvas"),
    ],
)
def test_mistakes(mistake, message):
    config = ShapeScenes()
    for name, value in mistake.items():
        object.__setattr__(config, name, value)  # past the annotations that the tests check
    with pytest.raises(ValueError, match=message):
        config.__post_init__()
