"""Matching slots with segments, and the cross-entropy on the matched ones, by hand."""

import math
from itertools import permutations

import pytest
import torch
from torch.nn.functional import one_hot

from slotworks.guidance import best_partners, match_segments, segment_overlap, semantic_loss


def hard(labels, num_slots):
    return one_hot(torch.tensor(labels), num_slots).float().transpose(1, 2)


def random_case(seed=0, *, images=3, slots=5, pixels=40, labels=4):
    generator = torch.Generator().manual_seed(seed)
    attn = torch.randn(images, slots, pixels, generator=generator).double().softmax(dim=1)
    return attn, torch.randint(labels, (images, pixels), generator=generator)


def test_identity_masks_overlap_fully_and_find_their_permutation():
    labels = torch.tensor([[0, 0, 7, 7, 3]])
    attn = hard([[2, 2, 0, 0, 1]], 4)
    overlap = segment_overlap(attn, labels)
    assert match_segments(overlap).tolist() == [[7, 3, 0, -1]]
    assert [overlap[0, n, m].item() for n, m in ((0, 7), (1, 3), (2, 0))] == [1, 1, 1]
    assert overlap[0, 3, 0].item() == 0
    assert overlap[0, 0, 5].item() == -1  # no pixel has label 5


def test_overlap_by_hand_hard_and_soft():
    """Label 1 has pixels 0, 1, 2. Slot 0 wins pixels 0, 1, 3: 2 / 4. Soft: both 1.7, either 3 + 2.5 - 1.7 = 3.8."""
    attn = torch.tensor([[[0.9, 0.6, 0.2, 0.8], [0.1, 0.4, 0.8, 0.2]]])
    labels = torch.tensor([[1, 1, 1, 0]])
    assert segment_overlap(attn, labels)[0, 0, 1].item() == pytest.approx(2 / 4)
    assert segment_overlap(attn, labels, soft=True)[0, 0, 1].item() == pytest.approx(1.7 / 3.8)


def test_the_largest_sum_of_overlaps_is_found():
    attn, labels = random_case(1, labels=4)
    overlap = segment_overlap(attn, labels)
    matched = match_segments(overlap)
    for image in range(3):
        best = max(
            sum(overlap[image, slot, label].item() for label, slot in enumerate(order))
            for order in permutations(range(5), 4)
        )
        pairs = [(slot, label) for slot, label in enumerate(matched[image].tolist()) if label >= 0]
        assert sorted(label for _, label in pairs) == [0, 1, 2, 3]
        assert sum(overlap[image, slot, label].item() for slot, label in pairs) == pytest.approx(best, rel=1e-12)


def test_each_segment_gets_a_slot_also_one_that_no_slot_overlaps():
    """One slot wins everything: the small segments get slots 1 and 2, so that their attention can grow there."""
    attn = hard([[0, 0, 0, 0]], 3)
    matched = match_segments(segment_overlap(attn, torch.tensor([[0, 0, 4, 9]])))
    assert matched[0, 0] == 0
    assert set(matched[0, 1:].tolist()) == {4, 9}


def test_more_segments_than_slots():
    attn = hard([[0, 0, 1, 1, 1, 1]], 2)
    matched = match_segments(segment_overlap(attn, torch.tensor([[3, 3, 5, 5, 6, 0]])))
    assert matched.tolist() == [[3, 5]]
    assert best_partners(torch.tensor([[[1.0], [3.0], [2.0]]])).tolist() == [[-1, 0, -1]]


def test_without_the_background_it_takes_no_slot():
    attn, labels = hard([[0, 0, 0, 1]], 2), torch.tensor([[0, 0, 0, 2]])
    assert match_segments(segment_overlap(attn, labels)).tolist() == [[0, 2]]
    assert match_segments(segment_overlap(attn, labels, background=False)).tolist() == [[-1, 2]]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mean", ["images", "pairs", "pixels"])
def test_uncertain_pixels_change_neither_cost_nor_loss(soft, mean):
    attn, labels = random_case(2)
    valid = torch.rand(3, 40, generator=torch.Generator().manual_seed(3)) > 0.3
    other_attn = torch.where(valid[:, None], attn, attn.roll(1, dims=1))
    other_labels = torch.where(valid, labels, 255)
    overlap = segment_overlap(attn, labels, valid, soft=soft)
    assert torch.equal(segment_overlap(other_attn, other_labels, valid, soft=soft), overlap)
    matched = match_segments(overlap)
    assert 255 not in matched
    loss = semantic_loss(attn, labels, matched, valid, mean=mean)
    assert torch.equal(semantic_loss(other_attn, other_labels, matched, valid, mean=mean), loss)
    few = [
        semantic_loss(attn[i : i + 1][:, :, valid[i]], labels[i : i + 1, valid[i]], matched[i : i + 1])
        for i in (0, 1, 2)
    ]
    if mean == "images":  # as if they were not there
        torch.testing.assert_close(torch.stack(few).mean(), loss)


def test_loss_in_closed_form_under_each_mean():
    """Image 0: slot 0 on label 1 (2 of 3 pixels valid), slot 1 on label 0; image 1: slot 1 on label 2, slot 0 free."""
    attn = torch.tensor([[[0.8, 0.3, 0.5], [0.2, 0.7, 0.5]], [[0.6, 0.9, 0.4], [0.4, 0.1, 0.6]]])
    labels, matched = torch.tensor([[1, 0, 1], [2, 0, 2]]), torch.tensor([[1, 0], [-1, 2]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    first = -(math.log(0.8) + math.log(0.7)) / 2
    second = -(math.log(0.8) + math.log(0.7)) / 2
    third = -(math.log(0.4) + math.log(0.9) + math.log(0.6)) / 3
    expected = {
        "images": ((first + second) / 2 + third) / 2,
        "pairs": (first + second + third) / 3,
        "pixels": (2 * first + 2 * second + 3 * third) / 7,
    }
    for mean, value in expected.items():
        assert semantic_loss(attn, labels, matched, valid, mean=mean).item() == pytest.approx(value, rel=1e-6)


def test_loss_is_torchs_binary_cross_entropy():
    attn, labels = random_case(4, images=1, slots=4)
    attn.requires_grad_()
    matched = match_segments(segment_overlap(attn, labels))
    target = (labels[:, None] == matched[:, :, None]).double()
    expected = torch.nn.functional.binary_cross_entropy(attn, target)
    loss = semantic_loss(attn, labels, matched)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(value, attn)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_free_slots_get_no_gradient():
    attn, labels = random_case(5, images=2, slots=6, labels=3)
    attn.requires_grad_()
    matched = match_segments(segment_overlap(attn, labels))
    assert (matched < 0).sum(dim=1).tolist() == [3, 3]
    semantic_loss(attn, labels, matched).backward()
    used = attn.grad.abs().sum(dim=2) > 0
    assert torch.equal(used, matched >= 0)


def test_nothing_matched_and_nothing_valid_give_zero():
    attn, labels = random_case(6)
    free = torch.full((3, 5), -1)
    nowhere = torch.zeros(3, 40, dtype=torch.bool)
    for mean in ("images", "pairs", "pixels"):
        assert semantic_loss(attn, labels, free, mean=mean).item() == 0
        overlap = segment_overlap(attn, labels, nowhere)
        assert (match_segments(overlap) == -1).all()
        assert semantic_loss(attn, labels, torch.zeros_like(free), nowhere, mean=mean).item() == 0


def test_certain_attention_gives_a_finite_loss():
    attn = hard([[0, 1]], 2).requires_grad_()
    loss = semantic_loss(attn, torch.tensor([[1, 0]]), torch.tensor([[0, 1]]))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=1e-3)
    assert attn.grad.isfinite().all()


def test_mixed_precision_does_not_touch_it():
    attn, labels = random_case(7)
    matched = match_segments(segment_overlap(attn, labels))
    wanted = semantic_loss(attn.float(), labels, matched)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(semantic_loss(attn.float(), labels, matched), wanted)


def test_permuting_slots_permutes_the_labels_and_keeps_the_loss():
    attn, labels = random_case(8)
    order = torch.tensor([3, 1, 4, 0, 2])
    matched = match_segments(segment_overlap(attn, labels))
    again = match_segments(segment_overlap(attn[:, order], labels))
    assert torch.equal(again, matched[:, order])
    torch.testing.assert_close(semantic_loss(attn[:, order], labels, again), semantic_loss(attn, labels, matched))
