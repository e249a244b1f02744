"""Average precision of predicted sets: golden values of two published implementations, and cases by hand."""

import math

import pytest
import torch
from golden_cases import cases

from slotworks.metrics.sets import THRESHOLDS, average_precision, average_precisions, recall

CLEVR = (2, 2, 3, 8)
NAMES = dict(zip(THRESHOLDS, ("inf", "1", "0.5", "0.25", "0.125"), strict=True))


def tensors(case):
    return (torch.from_numpy(case.arrays[name]) for name in ("pred", "target"))


@pytest.mark.parametrize("case", cases("clevr_ap"), ids=lambda case: case.id)
def test_golden_values_of_slot_attention_and_of_dspn(case):
    pred, true = tensors(case)
    ours = average_precisions(pred, true, categories=CLEVR)
    theirs = average_precisions(pred, true, categories=CLEVR, inclusive=True)
    for threshold, name in NAMES.items():
        assert ours[threshold] == pytest.approx(case.expected[f"AP@{name}"], abs=1e-7)
        assert theirs[threshold] == pytest.approx(case.values[f"AP@{name}/dspn"], abs=1e-12)
        assert average_precision(pred, true, categories=CLEVR, threshold=threshold) == ours[threshold]


def test_there_are_golden_cases():
    assert len(cases("clevr_ap")) == 4


def one_set(*objects, rows=0):
    """Rows of x, class of two, confidence or presence."""
    found = torch.zeros(1, max(rows, len(objects)), 6)
    for row, (x, label, last) in enumerate(objects):
        found[0, row] = torch.tensor([x, 0, 0, *(float(label == k) for k in range(2)), last])
    return found


TRUE = one_set((0.0, 0, 1), (0.5, 1, 1), rows=3)


def ap(*objects, threshold=math.inf, true=TRUE, rows=0, **options):
    return average_precision(one_set(*objects, rows=rows), true, categories=(2,), threshold=threshold, **options)


def test_closed_forms():
    assert ap((0.0, 0, 0.9), (0.5, 1, 0.8), (0.2, 0, 0.1)) == 1  # what ranks below the last hit costs nothing
    assert ap((0.2, 0, 0.99), (0.0, 0, 0.9), (0.5, 1, 0.8)) == pytest.approx((1 + 2 / 3) / 2)  # claimed by the first
    assert ap((0.0, 1, 0.9), (0.5, 1, 0.8), (0.0, 0, 0.7)) == pytest.approx((1 + 2 / 3) / 2)  # a second claim is wrong
    assert ap((0.0, 0, 0.9)) == ap((0.0, 0, 0.9), rows=3) == 0.5  # rows of confidence 0 claim the same object
    assert math.isnan(ap((0.0, 0, 0.9), true=torch.zeros(1, 3, 6)))


def test_distances_are_those_of_a_floor_that_is_6_wide():
    assert ap((0.1, 0, 0.9), (0.5, 1, 0.8), threshold=1.0) == 1
    assert ap((0.1, 0, 0.9), (0.5, 1, 0.8), threshold=0.5) == pytest.approx(0.25)  # 0.6: a miss, then one of two
    assert ap((0.1, 0, 0.9), (0.5, 1, 0.8), threshold=0.5, extent=2.0) == 1


def test_a_distance_equal_to_the_threshold():
    pred = (0.25, 0, 0.9), (0.5, 1, 0.8)  # 1.5
    assert ap(*pred, threshold=1.5) == pytest.approx(0.25)
    assert ap(*pred, threshold=1.5, inclusive=True) == 1


def test_no_second_best_is_searched_for():
    """Both predictions are nearest to the first object; the second object, in reach of the other, stays unfound."""
    true = one_set((0.0, 0, 1), (0.5, 0, 1))
    assert ap((0.0, 0, 0.9), (0.2, 0, 0.8), true=true, threshold=4.0) == 0.5


def test_order_does_not_matter_without_ties():
    generator = torch.Generator().manual_seed(0)
    pred, true = (torch.rand(6, rows, 19, generator=generator) for rows in (10, 7))
    true[..., -1] = (true[..., -1] < 0.6).float()
    before = average_precisions(pred, true, categories=(1, 1, 1, 1, 11), extent=1.0)
    images, rows, objects = (torch.randperm(n, generator=generator) for n in (6, 10, 7))
    after = average_precisions(pred[images][:, rows], true[images][:, objects], categories=(1, 1, 1, 1, 11), extent=1.0)
    assert after == before
    assert 0 < before[0.5] < before[math.inf] <= 1


def test_recall():
    pred = one_set((0.1, 0, 0.9), (0.5, 1, 0.0))
    assert recall(pred, TRUE, categories=(2,)).tolist() == [1.0]
    assert recall(pred, TRUE, categories=(2,), threshold=0.5).tolist() == [0.5]


def test_other_properties_are_refused():
    with pytest.raises(ValueError, match=r"have 6 and 6 numbers for each object; .* 3 classes it must be 7"):
        average_precision(TRUE, TRUE, categories=(3,))
