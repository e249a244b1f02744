"""Adjusted Rand index against golden values, scikit-learn and closed forms."""

import numpy as np
import pytest
import torch
from golden_cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import adjusted_rand_score

from slotworks.metrics import ari, fg_ari

labels = st.integers(1, 9).flatmap(
    lambda side: st.tuples(*(arrays(np.int64, (1, side, side), elements=st.integers(0, top)) for top in (6, 4, 1)))
)


@pytest.mark.parametrize("case", cases("image", "video", "batch"), ids=lambda case: case.id)
def test_golden(case):
    """`ARI/oclf` and `FG-ARI/oclf_dinosaur` (flattened over time for video; the mean of a batch)."""
    pred, true = case.pred, case.truth["mask"]
    all_pixels = ari(pred, true, valid=case.valid(drop_overlap=False))
    foreground = fg_ari(pred, true, valid=case.valid(drop_overlap=True))
    assert all_pixels.mean().item() == pytest.approx(case.expected["ARI"], abs=1e-9)
    assert foreground.mean().item() == pytest.approx(case.expected["FG-ARI"], abs=1e-9)


@pytest.mark.parametrize("case", cases("batch"), ids=lambda case: case.id)
def test_golden_per_image(case):
    """SAVi's function gives one value per image."""
    pred, true = case.pred, case.truth["mask"]
    assert ari(pred, true).tolist() == pytest.approx(case.values["ARI/savi_per_image"], abs=5e-6)
    assert fg_ari(pred, true).tolist() == pytest.approx(case.values["FG-ARI/savi_per_image"], abs=5e-6)


@pytest.mark.parametrize("case", cases("video"), ids=lambda case: case.id)
def test_golden_frames_as_images(case):
    """The per-frame mean is another number than the flattened one: `FG-ARI/oclf_per_frame`."""
    frames = case.arrays["inst"].shape
    pred, true = case.pred.view(frames), case.truth["mask"].view(frames)
    assert fg_ari(pred, true).mean().item() == pytest.approx(case.values["FG-ARI/oclf_per_frame"], abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(labels)
def test_equals_scikit_learn(drawn):
    pred, true, valid = (torch.from_numpy(array) for array in drawn)
    valid = valid.bool()
    where = valid.numpy()
    expected = adjusted_rand_score(true.numpy()[where], pred.numpy()[where])
    assert ari(pred, true, valid=valid).item() == pytest.approx(expected, abs=1e-12)
    where = where & (true.numpy() > 0)
    expected = adjusted_rand_score(true.numpy()[where], pred.numpy()[where])
    assert fg_ari(pred, true, valid=valid).item() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(labels, st.permutations(range(7)), st.permutations(range(1, 5)))
def test_names_do_not_matter(drawn, slots, objects):
    """Renaming slots or objects changes nothing, nor does swapping truth and prediction (over all pixels)."""
    pred, true, _ = (torch.from_numpy(array) for array in drawn)
    renamed_pred, renamed_true = torch.tensor(slots)[pred], torch.tensor([0, *objects])[true]
    torch.testing.assert_close(fg_ari(renamed_pred, renamed_true), fg_ari(pred, true), rtol=0, atol=1e-12)
    torch.testing.assert_close(ari(renamed_pred, renamed_true), ari(pred, true), rtol=0, atol=1e-12)
    torch.testing.assert_close(ari(true, pred), ari(pred, true), rtol=0, atol=1e-12)


def quadrants(first_id: int, size: int = 8) -> torch.Tensor:
    half = torch.arange(size) >= size // 2
    return (first_id + 2 * half[:, None].long() + half[None].long())[None]


def test_one_slot_for_everything():
    nothing = torch.zeros(1, 8, 8, dtype=torch.long)
    assert ari(nothing, quadrants(0)).item() == 0
    assert fg_ari(nothing, quadrants(0)).item() == 0  # three objects
    single = (quadrants(0) == 3).long()
    assert ari(nothing, single).item() == 0
    assert fg_ari(nothing, single).item() == 1  # one object in one slot: the same partition


def test_one_object_in_two_slots():
    pred = torch.arange(8).expand(1, 8, 8) % 2
    assert fg_ari(pred, torch.ones(1, 8, 8, dtype=torch.long)).item() == 0


def test_nothing_to_compare():
    """No object, no valid pixel, an empty image: 1, as in SAVi, DINOSAUR, SPOT and StableLSD."""
    pred, empty = quadrants(0), torch.zeros(1, 8, 8, dtype=torch.long)
    assert fg_ari(pred, empty).item() == 1
    assert ari(pred, quadrants(0).flip(1), valid=torch.zeros_like(pred, dtype=torch.bool)).item() == 1
    assert ari(pred[:0], empty[:0]).shape == (0,)


def test_perfect_in_any_slot_order():
    order = torch.tensor([5, 2, 9, 0])
    assert ari(order[quadrants(0)], quadrants(0)).item() == 1
    assert fg_ari(order[quadrants(0)], quadrants(0)).item() == 1


def test_long_clips_are_exact():
    """Two clusters of 2^24 + 1 and 1 pixels: the one odd pixel is lost in float32."""
    n = 2**24
    true = torch.zeros(1, 2, n // 2 + 1, dtype=torch.uint8)
    true[0, 1, -1] = 1
    assert ari(true, true).item() == 1
    other = torch.zeros_like(true)
    other[0, 0, 0] = 1
    pairs = n + 2
    # Index, expected index and maximum of two partitions that each single out another pixel.
    total, apart, both = pairs * (pairs - 1) // 2, pairs - 1, 2 * (pairs - 1) - 1
    agree, expected = total - both, (total - apart) ** 2 / total
    assert ari(other, true).item() == pytest.approx((agree - expected) / (total - apart - expected), abs=1e-9)
