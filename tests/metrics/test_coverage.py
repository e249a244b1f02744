"""SO, PO and GO against the golden `spec` values (a definition of this project, no peer's), and closed forms."""

import json

import pytest
import torch
from golden_cases import FOLDER, cases

from slotworks.evaluation.discovery import score_masks
from slotworks.metrics import coverage
from slotworks.metrics.coverage import KINDS, coverage_of_table
from slotworks.protocols import PROTOCOLS

SPEC = {
    case["id"]: case["spec"] for case in json.loads((FOLDER / "metrics.json").read_text())["cases"] if "spec" in case
}


@pytest.mark.parametrize("threshold", [0.5, 0.25])
def test_golden(threshold):
    images = cases("image")
    assert {case.id for case in images} == set(SPEC)
    assert len(images) == 26
    for case in images:
        valid = case.valid(drop_overlap=True)
        args = {"num_slots": case.num_slots, "valid": valid, "threshold": threshold}
        shares = coverage(case.pred, case.truth["mask"], **args)
        for kind in KINDS:
            expected = SPEC[case.id][f"tau{threshold}/{kind.upper()}"]
            assert shares[kind].item() == pytest.approx(expected, abs=1e-12), (case.id, kind)
        if threshold == 0.5:
            scores = score_masks(PROTOCOLS["so-po-go"], case.pred, case.truth, num_slots=case.num_slots)
            for kind in KINDS:
                assert scores[kind].values.item() == shares[kind].item()


# Six pixels in a row: two of object 1, two of object 2, two of the background.
TRUE = torch.tensor([[[1, 1, 2, 2, 0, 0]]])


@pytest.mark.parametrize(
    ("slots", "iou", "majority", "combined"),
    [
        ([0, 0, 1, 1, 2, 2], (2, 0, 0, 1), (2, 0, 0, 1), (2, 0, 0, 1)),  # perfect
        ([0, 0, 0, 0, 1, 1], (0, 0, 1, 2), (0, 0, 1, 2), (0, 0, 1, 2)),  # slot 0 has both, IoU 0.5: the exact tie
        ([0, 0, 0, 0, 0, 1], (0, 1, 0, 2), (0, 0, 1, 2), (0, 0, 1, 2)),  # IoU 0.4 each, but most of both objects
        ([0, 1, 2, 2, 2, 2], (3, 0, 0, 0), (0, 3, 0, 0), (0, 3, 0, 0)),  # IoU exactly 0.5: enough only for `iou`
        ([0, 0, 1, 2, 2, 2], (2, 1, 0, 0), (1, 1, 0, 1), (1, 2, 0, 0)),  # slot 2 spills: mostly background
        ([0, 1, 0, 1, 2, 2], (0, 2, 0, 1), (0, 2, 0, 1), (0, 2, 0, 1)),  # exactly half of both objects, not more
        ([2, 2, 2, 2, 2, 2], (0, 1, 0, 2), (0, 0, 1, 2), (0, 0, 1, 2)),  # one for all; empty slots are background
    ],
)
def test_all_rules_by_hand(slots, iou, majority, combined):
    pred = torch.tensor([[slots]])
    for rule, expected in (("iou", iou), ("background_majority", majority), ("combined", combined)):
        shares = coverage(pred, TRUE, num_slots=3, rule=rule)
        assert [round(3 * shares[kind].item()) for kind in KINDS] == list(expected), rule


def test_sizes_of_the_shares_on_random_scenes():
    """Slots that know nothing: seven cells of a plane with two to seven objects.

    GLASS prints 10.2, 87.3, 1.6 of StableLSD on COCO: little BG, mostly PO, and some GO, which `iou` cannot give.
    """
    generator = torch.Generator().manual_seed(0)
    place = torch.stack(torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij"))
    true, pred = torch.zeros(400, 48, 48, dtype=torch.int64), torch.zeros(400, 48, 48, dtype=torch.int64)
    for scene in range(400):
        for number in range(1, 3 + int(torch.randint(0, 6, (), generator=generator))):
            middle, half = torch.rand(2, 2, generator=generator)
            ellipse = (place - 48 * middle.view(2, 1, 1)) / (12 * half.view(2, 1, 1) + 2)
            true[scene][ellipse.square().sum(0) < 1] = number
        cells = 48 * torch.rand(7, 2, 1, 1, generator=generator)
        pred[scene] = (place - cells).square().sum(1).argmin(0)
    means = {}
    for rule in ("iou", "background_majority", "combined"):
        shares = coverage(pred, true, num_slots=7, rule=rule)
        means[rule] = {kind: 100 * shares[kind].mean().item() for kind in KINDS}
    assert means["iou"]["go"] == 0
    assert 0.1 < means["combined"]["go"] < 10
    assert means["combined"]["bg"] == means["iou"]["bg"] < 40
    assert means["combined"]["po"] > 60
    assert means["background_majority"]["bg"] > 70  # and so less than 30 percent of anything else


def test_shares_sum_to_one_and_forget_the_order_of_slots():
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(0, 40, (50, 6, 5), generator=generator) * torch.randint(0, 2, (50, 6, 5), generator=generator)
    for rule in ("iou", "background_majority", "combined"):
        shares = coverage_of_table(table, rule=rule, threshold=0.25)
        assert all(0 < value.mean() < 1 for value in shares.values()), rule
        torch.testing.assert_close(torch.stack(list(shares.values())).sum(0), torch.ones(50).double())
        shuffled = coverage_of_table(table[:, torch.randperm(6, generator=generator)], rule=rule, threshold=0.25)
        for kind in KINDS:
            torch.testing.assert_close(shuffled[kind], shares[kind])
