"""Drawn Tetrominoes: exact pixels, exact placement, stated distributions."""

import hashlib

import numpy as np
import pytest
from scipy.stats import chi2

from slotworks.data.random import scene_keys
from slotworks.data.scenes import TetrominoScenes
from slotworks.data.scenes.tetrominoes import COLORS, SHAPES, TEXTURE, place
from slotworks.types import to_batch

NUM = 6_000


@pytest.fixture(scope="module")
def batch():
    return TetrominoScenes().open("train").__getitems__(range(NUM))


def chi_square(counts, expected):
    return ((counts - expected) ** 2 / expected).sum()


def test_what_a_batch_holds(batch):
    assert {name: (value.dtype.name, value.shape[1:]) for name, value in batch.items()} == {
        "image": ("uint8", (35, 35, 3)),
        "mask": ("uint8", (35, 35)),
        "boxes": ("float32", (3, 4)),
        "shape": ("int64", (3,)),
        "color": ("float32", (3, 3)),
        "x": ("float32", (3,)),
        "y": ("float32", (3,)),
        "visibility": ("float32", (3,)),
        "num_objects": ("int64", ()),
    }
    assert to_batch({name: value[:2] for name, value in batch.items()})["image"].shape == (2, 3, 35, 35)


def test_every_tetromino_has_all_its_pixels(batch):
    """100 pixels each and 925 of background: nothing overlaps, nothing is cut off."""
    for scene in batch["mask"]:
        assert np.bincount(scene.ravel()).tolist() == [925, 100, 100, 100]


def test_pixels_equal_the_original_texture(batch):
    """Each object is its pattern of blocks; each block the original 5x5 texture times a colour of 0 and 1."""
    assert TEXTURE.tolist() == [
        [191, 255, 255, 255, 223],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [95, 63, 63, 63, 127],
    ]
    for i in range(200):
        expected, mask = np.zeros((35, 35, 3)), np.zeros((35, 35))
        for k in range(3):
            top, left = int(batch["x"][i, k]), int(batch["y"][i, k])
            for block_row, row in enumerate(SHAPES[batch["shape"][i, k]].split()):
                for block_column in (c for c, cell in enumerate(row) if cell == "#"):
                    r, c = top + 5 * block_row, left + 5 * block_column
                    expected[r : r + 5, c : c + 5] = TEXTURE[..., None] * batch["color"][i, k]
                    mask[r : r + 5, c : c + 5] = k + 1
        np.testing.assert_array_equal(batch["image"][i], expected)
        np.testing.assert_array_equal(batch["mask"][i], mask)


def test_shapes_are_the_one_sided_tetrominoes():
    """19 orientations: four connected blocks each, no two equal, and every rotation of one is another one."""

    def cells(pattern):
        return np.array([[cell == "#" for cell in row] for row in pattern.split()])

    patterns = {cells(pattern).tobytes() + bytes(cells(pattern).shape) for pattern in SHAPES.values()}
    assert len(patterns) == 19
    assert list(SHAPES) == list(range(1, 20))
    for pattern in SHAPES.values():
        grid = cells(pattern)
        turned = np.ascontiguousarray(np.rot90(grid))
        assert grid.sum() == 4
        assert turned.tobytes() + bytes(turned.shape) in patterns


def test_boxes_are_the_extent_of_the_mask(batch):
    for i in range(300):
        for k in range(3):
            rows, columns = np.nonzero(batch["mask"][i] == k + 1)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(batch["boxes"][i, k] * 35, extent, atol=1e-5)
            assert batch["x"][i, k] == rows.min()
            assert batch["y"][i, k] == columns.min()


def test_shapes_and_colors_are_uniform_and_independent(batch):
    palette = list(COLORS.values())
    color = np.array([palette.index(tuple(c)) for c in batch["color"].reshape(-1, 3).astype(int).tolist()])
    shape = batch["shape"].ravel()
    joint = np.bincount((shape - 1) * 6 + color, minlength=19 * 6)
    assert chi_square(joint, 3 * NUM / joint.size) < chi2.ppf(1 - 1e-6, joint.size - 1)
    pairs = np.bincount(19 * (batch["shape"][:, 0] - 1) + batch["shape"][:, 1] - 1, minlength=361)
    assert chi_square(pairs, NUM / 361) < chi2.ppf(1 - 1e-6, 360)


def test_positions_are_uniform_over_placements_without_overlap():
    """Exact for three squares of 10x10: 26x26 corners each, weighed by the placements of the other two."""
    corners = np.arange(26)
    near = np.abs(corners[:, None] - corners) < 10
    apart = ~(near[:, None, :, None] & near[None, :, None, :]).reshape(676, 676)
    weights = ((apart.astype(float) @ apart) * apart).sum(axis=1)
    keys = scene_keys(seed=3, split=0, indices=np.arange(10_000))
    top, left = place(keys, np.full((10_000, 3), 18))
    cell = 13 * (top // 2) + left // 2  # pairs of rows and columns, so that every cell expects enough
    expected = weights.reshape(13, 2, 13, 2).sum(axis=(1, 3)).ravel() / weights.sum() * 10_000
    assert expected.min() > 20
    for k in range(3):
        counts = np.bincount(cell[:, k], minlength=169)
        assert chi_square(counts, expected) < chi2.ppf(1 - 1e-6, 168)
    assert (top.min(), top.max(), left.min(), left.max()) == (0, 25, 0, 25)


def test_an_image_alone_equals_the_image_in_a_batch(batch):
    dataset = TetrominoScenes().open("train")
    for index in (0, 127, 128, 3000):
        for name, value in dataset[index].items():
            np.testing.assert_array_equal(value, batch[name][index])
    shuffled = dataset.__getitems__([5, 4000, 5])
    np.testing.assert_array_equal(shuffled["image"], batch["image"][[5, 4000, 5]])
    assert TetrominoScenes().open("train").__getitems__([])["image"].shape == (0, 35, 35, 3)


def test_splits_and_seeds_differ_and_sizes_do_not_matter():
    def image(split="train", **config):
        return TetrominoScenes(**config).open(split).__getitems__(range(100))["image"]

    pictures = [image("train"), image("val"), image("test"), image("train", seed=1)]
    flat = np.concatenate(pictures).reshape(400, -1)
    assert len(np.unique(flat, axis=0)) == 400
    np.testing.assert_array_equal(image("train", num_train=100), pictures[0])


def test_same_pictures_as_ever():
    """A change of any pixel changes what `seed=0` means in every published number."""
    batch = TetrominoScenes().open("train").__getitems__(range(64))
    digest = hashlib.sha256(batch["image"].tobytes() + batch["mask"].tobytes()).hexdigest()
    assert digest[:16] == "753c8a36e35bf0f7"


def test_facts_and_mistakes():
    config = TetrominoScenes(num_train=10)
    assert (config.name, config.size, config.max_objects) == ("tetromino_scenes", (35, 35), 3)
    assert (len(config.open("train")), len(config.open("val")), len(config.open("test"))) == (10, 320, 320)
    with pytest.raises(ValueError, match="split is 'dev'; drawn scenes have the splits train, val, test"):
        config.open("dev")
    with pytest.raises(ValueError, match="num_val is -1; it must be 0 or more"):
        TetrominoScenes(num_val=-1)
    for index in (10, -1):
        with pytest.raises(IndexError, match=f"index {index} is outside the train split, which has 10 images"):
            config.open("train")[index]
