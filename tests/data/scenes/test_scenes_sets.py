"""Drawn scenes with objects as vectors."""

from dataclasses import replace

import numpy as np
import pytest

from slotworks.data.scenes import SetScenes, ShapeScenes
from slotworks.data.scenes.sets import FLOOR
from slotworks.data.scenes.shapes import BACKGROUNDS
from slotworks.data.sets import encode_objects

DATA = SetScenes()
BATCH = DATA.open("test").__getitems__(range(40))


def decoded(vector):
    """Classes from 0 by property, and what is left over."""
    start, found = 3, {}
    for name, classes in DATA.categories.items():
        one_hot = vector[start : start + len(classes)]
        assert sorted(one_hot) == [0] * (len(classes) - 1) + [1]
        found[name] = int(one_hot.argmax())
        start += len(classes)
    assert start == len(vector) - 1
    return found


def test_vectors_say_what_is_drawn():
    width = 3 + 2 + 3 + 8 + 1
    assert BATCH["objects"].shape == (40, 5, width)
    diameters = np.array(DATA.sizes).reshape(2, 2)
    for i in range(40):
        count = BATCH["num_objects"][i]
        assert 2 <= count <= 5
        assert not BATCH["objects"][i, count:].any()
        for k in range(count):
            vector, one = BATCH["objects"][i, k], decoded(BATCH["objects"][i, k])
            assert vector[-1] == 1
            assert (one["shape"], one["color"]) == (BATCH["shape"][i, k] - 1, BATCH["color"][i, k] - 1)
            np.testing.assert_array_equal(vector[:2], [BATCH["x"][i, k], BATCH["y"][i, k]])
            level = round(1 - vector[2])  # 0 is the farthest
            assert BATCH["size"][i, k] == pytest.approx(diameters[one["size"], level])


def test_nearer_objects_hide_farther_ones():
    depth, present = BATCH["objects"][..., 2], BATCH["objects"][..., -1] > 0
    both = present[:, 1:]
    assert (np.diff(depth, axis=1)[both] <= 0).all()  # far to near, as mask ids are
    assert (np.diff(depth, axis=1)[both] < 0).mean() > 0.2
    assert set(np.unique(depth[present])) == {0, 1}
    three = replace(DATA, num_depths=3, sizes=(0.14, 0.17, 0.2, 0.24, 0.28, 0.33)).open("test").__getitems__(range(40))
    assert set(np.unique(three["objects"][..., 2][three["objects"][..., -1] > 0])) == {0, 0.5, 1}
    covered = [
        (BATCH["mask"][i] == k + 1).sum() < (BATCH["mask"][i] == n).sum()
        for i in range(40)
        for n in [BATCH["num_objects"][i]]
        for k in range(n - 1)
    ]
    assert np.mean(covered) > 0.5


def test_a_pair_of_size_and_depth_has_a_diameter_of_its_own():
    assert len({round(size * DATA.image_size) for size in DATA.sizes}) == len(DATA.sizes)


def test_the_floor_is_grey_and_patterns_lead_elsewhere():
    empty = BATCH["mask"] == 0
    assert (BATCH["image"][empty] == BACKGROUNDS["grey"]).all()
    assert (BATCH["background"] == FLOOR + 1).all()
    pairs = DATA.layout(DATA.open("test").keys(range(200))).background
    assert (pairs[:, 0] == FLOOR).all()
    assert set(pairs[:, 1]) == set(range(len(BACKGROUNDS))) - {FLOOR}


def test_depth_changes_neither_count_nor_shapes_of_the_plain_scenes():
    names = ("image_size", "min_objects", "max_objects", "shapes", "sizes")
    plain = ShapeScenes(**{name: getattr(DATA, name) for name in names})
    keys = DATA.open("test").keys(range(10))
    ours, theirs = DATA.layout(keys), plain.layout(keys)
    for name in ("present", "shape", "color"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(
        np.sort(np.where(ours.present, ours.size, -1)), np.sort(np.where(ours.present, theirs.size, -1))
    )


def test_encode_by_hand():
    found = encode_objects(
        np.array([[[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]], np.float32),
        {"color": np.array([[3, 1]]), "size": np.array([[1, 2]])},
        {"size": ("small", "large"), "color": ("a", "b", "c")},
        np.array([[True, False]]),
    )
    np.testing.assert_allclose(found, [[[0.1, 0.2, 0.3, 1, 0, 0, 0, 1, 1], [0] * 9]], rtol=1e-6)


def test_sizes_and_depths_belong_together():
    with pytest.raises(ValueError, match="sizes has 4 entries and num_depths is 4; give 2 apparent diameters for each"):
        replace(DATA, num_depths=4)
