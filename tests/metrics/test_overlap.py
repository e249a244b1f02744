"""mBO, mIoU, CorLoc and object recovery against golden values, brute force and closed forms."""

from itertools import permutations

import numpy as np
import pytest
import torch
from golden_cases import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slotworks.metrics import corloc, mbo, miou, object_recovery

METRICS = {"mBO": mbo, "mIoU": miou}

labels = st.integers(1, 6).flatmap(
    lambda side: st.tuples(*(arrays(np.int64, (1, side, side), elements=st.integers(0, top)) for top in (4, 3, 1)))
)


def mean(values: torch.Tensor) -> float | None:
    """The mean over images that count; None, as in the golden file, if none does."""
    return None if values.isnan().all() else values.nanmean().item()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases("image", "video", "batch"), ids=lambda case: case.id)
def test_golden_instances(case, metric):
    """`mBO_i` and `mIoU_i` of `oclf_dinosaur`, `oclf_video`, `oclf`."""
    values = METRICS[metric](case.pred, case.truth["mask"], valid=case.valid(drop_overlap=True))
    assert mean(values) == pytest.approx(case.expected[f"{metric}_i"], abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases("image"), ids=lambda case: case.id)
def test_golden_classes(case, metric):
    """`mBO_c` and `mIoU_c` of `oclf_dinosaur`: overlap pixels stay, the highest class id owns them."""
    truth = case.truth
    classes = truth.get("class_mask_highest", truth["class_mask"])
    values = METRICS[metric](case.pred, classes, valid=case.valid(drop_overlap=False))
    assert mean(values) == pytest.approx(case.expected[f"{metric}_c"], abs=1e-9)


@pytest.mark.parametrize("case", cases("image"), ids=lambda case: case.id)
def test_golden_localization(case):
    """`CorLoc` and `ObjRecovery` of `oclf_dinosaur`, whose share of found objects is float32: ours is rounded."""
    for function, key in ((corloc, "CorLoc/oclf_dinosaur"), (object_recovery, "ObjRecovery/oclf_dinosaur")):
        value = mean(function(case.pred, case.truth["mask"], valid=case.valid(drop_overlap=True)))
        counted = case.values[f"{key}#counted_images"]
        assert (None if value is None else float(np.float32(value))) == (case.values[key] if counted else None)


@pytest.mark.parametrize("case", cases("batch"), ids=lambda case: case.id)
def test_images_without_objects_do_not_count(case):
    values = mbo(case.pred, case.truth["mask"])
    empty = (case.truth["mask"] > 0).sum((1, 2)) == 0
    assert torch.equal(values.isnan(), empty)
    assert (~empty).sum().item() == case.values["mBO_i/oclf#counted_images"]
    # With the background as an object every image counts: the variants of VQ-VFM-OCL and SlotDiffusion.
    with_background = mbo(case.pred, case.truth["mask"], count_background=True)
    assert with_background.mean().item() == pytest.approx(case.values["mBO_i_with_bg/vqvfm"], abs=5e-6)
    matched = miou(case.pred, case.truth["mask"], count_background=True)
    assert matched.mean().item() == pytest.approx(case.values["mIoU_i_with_bg/slotdiffusion"], abs=5e-6)


def brute_force(pred: np.ndarray, true: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """Best and matched overlap by trying every matching of (padded) slots and objects."""
    slots = [(pred == k) & valid for k in range(5)]
    objects = [(true == i) & valid for i in range(1, 4) if ((true == i) & valid).any()]
    if not objects:
        return np.nan, np.nan
    iou = np.array([[(g & s).sum() / (g | s).sum() for s in slots] for g in objects])
    matched = max(iou[range(len(objects)), order].sum() for order in permutations(range(5), len(objects)))
    return iou.max(1).mean(), matched / len(objects)


@settings(max_examples=100, deadline=None)
@given(labels)
def test_equals_brute_force(drawn):
    pred, true, valid = drawn
    valid = valid.astype(bool)
    best, matched = brute_force(pred, true, valid)
    pred, true, valid = torch.from_numpy(pred), torch.from_numpy(true), torch.from_numpy(valid)
    assert mbo(pred, true, valid=valid).item() == pytest.approx(best, abs=1e-12, nan_ok=True)
    assert miou(pred, true, valid=valid).item() == pytest.approx(matched, abs=1e-12, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(labels, st.permutations(range(5)), st.permutations(range(1, 4)))
def test_names_do_not_matter(drawn, slots, objects):
    pred, true, _ = (torch.from_numpy(array) for array in drawn)
    renamed_pred, renamed_true = torch.tensor(slots)[pred], torch.tensor([0, *objects])[true]
    for metric in (mbo, miou, corloc, object_recovery):
        torch.testing.assert_close(
            metric(renamed_pred, renamed_true), metric(pred, true), rtol=0, atol=1e-12, equal_nan=True
        )
    assert not (miou(pred, true) > mbo(pred, true) + 1e-12).any()


def test_quadrants_and_two_halves():
    """Four equal objects, two slots: every object overlaps a slot by half, but only two get a slot of their own."""
    half = torch.arange(8) >= 4
    true = (1 + 2 * half[:, None].long() + half[None].long())[None]
    pred = half[:, None].long().expand(1, 8, 8)
    assert mbo(pred, true).item() == 0.5
    assert miou(pred, true).item() == 0.25
    assert corloc(pred, true).item() == 0  # 0.5 is not above 0.5
    assert object_recovery(pred, true).item() == 0


def test_one_object_in_a_slot_that_owns_the_image():
    true = torch.zeros(1, 10, 10, dtype=torch.long)
    true[0, :3, :4] = 1
    whole = torch.zeros_like(true)
    assert mbo(whole, true).item() == 12 / 100
    assert miou(whole, true).item() == 12 / 100


def test_perfect_in_any_slot_order():
    true = torch.arange(25).view(1, 5, 5) // 6
    pred = torch.tensor([11, 3, 7, 0, 2])[true]
    for metric in (mbo, miou, corloc, object_recovery):
        assert metric(pred, true).item() == 1


def test_removed_pixels_cost_nothing():
    """A slot may cover void pixels freely; an object that is void altogether does not count."""
    true = torch.zeros(1, 4, 4, dtype=torch.long)
    true[0, :2] = 1
    true[0, 3] = 2
    valid = torch.ones_like(true, dtype=torch.bool)
    valid[0, 2:] = False
    pred = torch.zeros_like(true)
    assert mbo(pred, true, valid=valid).item() == 1
    assert miou(pred, true, valid=valid).item() == 1
    assert mbo(pred, true).item() == (8 / 16 + 4 / 16) / 2
