"""Random numbers by address. The bounds are quantiles: a true random source would fail one test in a million."""

import numpy as np
import pytest
from scipy.stats import chi2

from slotworks.data.random import derive, integers, mix64, scene_keys, uniform

NUM = 40_000


def assert_uniform(counts):
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(1 - 1e-6, counts.size - 1)
    assert statistic > chi2.ppf(1e-6, counts.size - 1)  # nor more even than chance


@pytest.fixture(scope="module")
def keys():
    return scene_keys(seed=0, split=0, indices=np.arange(NUM))


def test_mixing_is_splitmix64():
    """The first three numbers of SplitMix64 with seed 1234567, as published with the algorithm's implementations."""
    steps = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix64(np.uint64(1234567) + steps).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_uniform_fills_the_unit_interval(keys):
    numbers = uniform(keys, "x", 5)
    assert numbers.shape == (NUM, 5)
    assert 0 <= numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    for column in numbers.T:
        assert_uniform(np.bincount((100 * column).astype(int), minlength=100))


def test_integers_fill_their_ranges(keys):
    assert_uniform(np.bincount(integers(keys, "n", 1, 19)[:, 0], minlength=19))
    high = np.array([2, 7])
    numbers = integers(keys, "m", 2, high)
    for column, n in zip(numbers.T, high, strict=True):
        assert_uniform(np.bincount(column, minlength=n))


def test_every_bit_is_a_fair_coin(keys):
    bits = (keys[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / NUM**0.5  # five standard deviations


def test_neighbours_are_independent(keys):
    """Next index, next number, next seed, next split, another name: pairs fill the square evenly."""
    base = uniform(keys, "a", 2)
    others = {
        "index": np.roll(base[:, 0], 1),
        "number": base[:, 1],
        "seed": uniform(scene_keys(seed=1, split=0, indices=np.arange(NUM)), "a", 1)[:, 0],
        "split": uniform(scene_keys(seed=0, split=1, indices=np.arange(NUM)), "a", 1)[:, 0],
        "name": uniform(keys, "b", 1)[:, 0],
        "attempt": uniform(derive(keys, 1), "a", 1)[:, 0],
    }
    for other in others.values():
        cells = 16 * (16 * base[:, 0]).astype(int) + (16 * other).astype(int)
        assert_uniform(np.bincount(cells, minlength=256))


def test_keys_do_not_collide():
    indices = np.arange(20_000)
    keys = [scene_keys(seed=seed, split=split, indices=indices) for seed in (0, 1, 2**40) for split in (0, 1, 2)]
    assert np.unique(np.concatenate(keys)).size == 9 * indices.size


def test_numbers_depend_on_their_own_address_only(keys):
    together = uniform(keys[:100], "x", 7)
    np.testing.assert_array_equal(uniform(keys[42:43], "x", 7)[0], together[42])
    np.testing.assert_array_equal(uniform(keys[:100], "x", 3), together[:, :3])
