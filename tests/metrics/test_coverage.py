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
    ("slots", "iou", "majority"),
    [
        ([0, 0, 1, 1, 2, 2], (2, 0, 0, 1), (2, 0, 0, 1)),  # perfect
        ([0, 0, 0, 0, 1, 1], (0, 0, 1, 2), (0, 0, 1, 2)),  # slot 0 has both objects with IoU 0.5: the exact tie
        ([0, 0, 0, 0, 0, 1], (0, 1, 0, 2), (0, 0, 1, 2)),  # IoU 0.4 each, but most of both objects
        ([0, 1, 2, 2, 2, 2], (3, 0, 0, 0), (0, 3, 0, 0)),  # IoU exactly 0.5 three times: enough only for `iou`
        ([0, 0, 1, 2, 2, 2], (2, 1, 0, 0), (1, 1, 0, 1)),  # slot 2 is mostly background, though it owns half an object
        ([2, 2, 2, 2, 2, 2], (0, 1, 0, 2), (0, 0, 1, 2)),  # one slot for all; empty slots are background
    ],
)
def test_both_rules_by_hand(slots, iou, majority):
    pred = torch.tensor([[slots]])
    for rule, expected in (("iou", iou), ("background_majority", majority)):
        shares = coverage(pred, TRUE, num_slots=3, rule=rule)
        assert [round(3 * shares[kind].item()) for kind in KINDS] == list(expected), rule


def test_shares_sum_to_one_and_forget_the_order_of_slots():
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(0, 40, (50, 6, 5), generator=generator) * torch.randint(0, 2, (50, 6, 5), generator=generator)
    for rule in ("iou", "background_majority"):
        shares = coverage_of_table(table, rule=rule, threshold=0.25)
        assert all(0 < value.mean() < 1 for value in shares.values()), rule
        torch.testing.assert_close(torch.stack(list(shares.values())).sum(0), torch.ones(50).double())
        shuffled = coverage_of_table(table[:, torch.randperm(6, generator=generator)], rule=rule, threshold=0.25)
        for kind in KINDS:
            torch.testing.assert_close(shuffled[kind], shares[kind])
