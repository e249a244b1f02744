"""The rules of semantic segmentation: tables by hand, a loop over pixels, all assignments tried."""

from itertools import permutations

import numpy as np
import pytest
import torch

from slotworks.metrics.semantic import by_hungarian, by_image, by_label, class_iou, class_tables, pixel_accuracy

RNG = np.random.default_rng(0)


def draw(images=4, side=6, slots=4, classes=3):
    pred, true = RNG.integers(0, slots, (images, side, side)), RNG.integers(0, classes, (images, side, side))
    return torch.from_numpy(pred), torch.from_numpy(true)


def naive_iou(pred, true, num_classes):
    """Class ids of every pixel to IoU, pixel by pixel; `num_classes` in `pred` means no class."""
    values = []
    for c in range(num_classes):
        both = either = 0
        for p, t in zip(pred.flatten().tolist(), true.flatten().tolist(), strict=True):
            both += p == c and t == c
            either += p == c or t == c
        values.append(both / either if either else float("nan"))
    return torch.tensor(values, dtype=torch.float64)


def close(a, b):
    b = torch.as_tensor(b, dtype=torch.float64)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12, equal_nan=True)


def test_labels_against_a_loop_over_pixels():
    pred, true = draw(slots=5)
    table = by_label(class_tables(pred, true, num_slots=5, num_classes=3))
    close(class_iou(table), naive_iou(pred.clamp(max=3), true, 3))
    assert pixel_accuracy(table) == pytest.approx((pred == true).double().mean().item(), abs=1e-12)


def test_by_hand():
    """Six pixels of class 0, two of class 1, one void; class 2 is nowhere."""
    true = torch.tensor([[[0, 0, 0], [0, 0, 0], [1, 1, 255]]])
    pred = torch.tensor([[[0, 0, 0], [0, 0, 1], [1, 0, 1]]])
    tables = class_tables(pred, true, num_slots=2, num_classes=3, valid=true < 255)
    assert tables.tolist() == [[[5, 1, 0], [1, 1, 0]]]
    table = by_label(tables)
    close(class_iou(table), [5 / 7, 1 / 3, float("nan")])
    assert pixel_accuracy(table) == pytest.approx(6 / 8)


def test_a_predicted_class_that_is_not_there_is_zero():
    pred, true = torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]])
    close(class_iou(by_label(class_tables(pred, true, num_slots=3, num_classes=3))), [0.5, torch.nan, 0])


@pytest.mark.parametrize("slots", [3, 4])
@pytest.mark.parametrize("largest", ["iou", "pixels"])
def test_hungarian_is_the_best_of_all_assignments(slots, largest):
    pred, true = draw(slots=slots)
    tables = class_tables(pred, true, num_slots=slots, num_classes=3)
    found = by_hungarian(tables, largest=largest)
    best = None
    for order in permutations(range(slots), 3):  # class c gets slot order[c]
        owner = torch.full((slots,), 3)
        owner[list(order)] = torch.arange(3)
        named = owner[pred]
        iou = naive_iou(named, true, 3)
        score = iou.sum().item() if largest == "iou" else (named == true).sum().item()
        if best is None or score > best[0]:
            best = (score, iou)
    assert best is not None
    close(class_iou(found), best[1])


def test_hungarian_does_not_care_for_slot_names():
    pred, true = draw(side=31, slots=5)  # large enough that no two assignments are equally good
    names = torch.tensor([3, 0, 4, 1, 2])
    tables = [class_tables(p, true, num_slots=5, num_classes=3) for p in (pred, names[pred])]
    close(class_iou(by_hungarian(tables[0])), class_iou(by_hungarian(tables[1])))
    close(class_iou(by_image(tables[0])), class_iou(by_image(tables[1])))


def test_per_image_matches_anew_and_merges_the_rest():
    """Slots swap between two images; two background slots become one."""
    true = torch.tensor([[[1, 1, 0, 0]], [[2, 2, 0, 0]]])
    pred = torch.tensor([[[0, 0, 1, 2]], [[2, 2, 0, 1]]])
    tables = class_tables(pred, true, num_slots=3, num_classes=3)
    assert class_iou(by_image(tables)).tolist() == [1, 1, 1]
    fixed = class_iou(by_hungarian(tables))
    close(fixed, [1 / 2, 2 / 3, 2 / 3])


def test_per_image_counts_by_hand():
    """Slot 1 (three pixels) matches class 1; the others, merged, are background: TP, FP, FN read off the picture."""
    true = torch.tensor([[[0, 0, 0, 1], [0, 2, 1, 1]]])
    pred = torch.tensor([[[0, 0, 2, 1], [2, 2, 1, 0]]])
    # foreground shared pixels: slot 1 with class 1: 2, slot 0 with class 1: 1, slot 2 with class 2: 1
    # slots 1 and 2 are taken; slot 0 stays for the background: 2 of its 3 pixels
    # second assignment: slot 1 -> class 1 (2); slot 2 has 2 background pixels and 1 of class 2; rest 2 background
    iou = class_iou(by_image(class_tables(pred, true, num_slots=3, num_classes=3)))
    # either slot 2 or the rest is background, both share 2 pixels; slot 2 as class 2 adds 1: total 2 + 1 + 2 = 5
    close(iou, [2 / 5, 2 / 3, 1 / 3])


def test_per_image_background_can_take_a_foreground_slot():
    """One slot covers almost only background: the second assignment gives it to the background."""
    true = torch.tensor([[[0, 0, 0, 0, 0, 1]]])
    pred = torch.zeros_like(true)
    close(class_iou(by_image(class_tables(pred, true, num_slots=2, num_classes=2))), [5 / 6, 0])


def test_wrong_ids():
    pred, true = torch.tensor([[[0, 1]]]), torch.tensor([[[0, 7]]])
    with pytest.raises(ValueError, match="class id 7; with 3 classes"):
        class_tables(pred, true, num_slots=2, num_classes=3)
    with pytest.raises(ValueError, match="slot id 1"):
        class_tables(pred, true, num_slots=1, num_classes=8)
    assert np.isnan(pixel_accuracy(torch.zeros(3, 2, dtype=torch.int64)))
