"""SPOT's distillation. That it is the original's: `tests/decoders/test_transfer_dinosaur.py`."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from slotworks.guidance import distillation_loss, match_labels, match_masks, soft_distillation_loss


def hard(labels, num_slots):
    return one_hot(torch.tensor(labels), num_slots).float().transpose(1, 2)


def test_matching_by_hand():
    """Student 2 holds label 0 and student 0 label 1; image 2: label 1 overlaps student 1 by 2/3, student 0 by 1/4."""
    student = torch.tensor([[2, 2, 2, 0, 0, 1], [0, 0, 0, 1, 1, 0]])
    teacher = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 0]])
    matched = match_labels(student, teacher, num_slots=3, num_labels=3)
    assert matched[0].tolist() == [2, 0, 1]
    assert matched[1].tolist() == [0, 1, 2]


def test_the_sum_of_overlaps_decides_not_the_best_pair():
    """Label 0 fits student 0 best (3/5), but then label 1 gets nothing: 3/5 + 0 < 2/6 + 2/5 = 11/15."""
    teacher = torch.tensor([[0, 0, 0, 0, 0, 1, 1]])
    student = torch.tensor([[0, 0, 0, 1, 1, 0, 0]])
    assert match_labels(student, teacher, num_slots=2, num_labels=2).tolist() == [[1, 0]]


def test_an_empty_label_takes_what_is_left():
    student = torch.tensor([[0, 0, 1, 1, 2, 2]])
    teacher = torch.tensor([[2, 2, 0, 0, 2, 2]])  # nobody has label 1
    matched = match_labels(student, teacher, num_slots=3, num_labels=3)[0].tolist()
    assert matched[0] == 1
    assert matched[2] in (0, 2)
    assert sorted(matched) == [0, 1, 2]


def test_more_slots_than_labels():
    student = torch.tensor([[4, 4, 2, 2]])
    assert match_labels(student, torch.tensor([[0, 0, 1, 1]]), num_slots=5, num_labels=2).tolist() == [[4, 2]]


def test_loss_is_zero_where_student_and_teacher_agree_and_log_n_where_the_student_knows_nothing():
    teacher = hard([[0, 1, 1, 2]], 3)
    assert distillation_loss(teacher[:, [2, 0, 1]], teacher).item() == 0
    flat = torch.full((1, 3, 4), 1 / 3)
    assert distillation_loss(flat, teacher).item() == pytest.approx(math.log(3))


def test_loss_is_the_cross_entropy_of_the_matched_logits():
    """Values and gradients, against torch's cross-entropy of logits put in the teacher's order."""
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 20).double().requires_grad_()
    teacher = torch.randn(3, 5, 20).double().softmax(dim=1)
    labels = teacher.argmax(dim=1)
    order = match_labels(logits.argmax(dim=1), labels, num_slots=5, num_labels=5)
    expected = cross_entropy(logits.gather(1, order[:, :, None].expand(-1, -1, 20)), labels)
    loss = distillation_loss(logits.softmax(dim=1), teacher)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    ours, wanted = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


def test_permuting_the_students_or_the_teachers_slots_changes_nothing():
    torch.manual_seed(0)
    attn = torch.randn(2, 4, 30).double().softmax(dim=1)
    teacher = torch.randn(2, 4, 30).double().softmax(dim=1)
    loss = distillation_loss(attn, teacher)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(distillation_loss(attn[:, order], teacher), loss)
    torch.testing.assert_close(distillation_loss(attn, teacher[:, order]), loss)


def test_attention_that_vanished_gives_a_finite_loss():
    attn = hard([[0, 0, 0, 0]], 2).requires_grad_()
    loss = distillation_loss(attn, hard([[0, 0, 0, 1]], 2))
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny) / 4)
    assert attn.grad.isfinite().all()


def test_refuses_a_teacher_with_more_slots():
    with pytest.raises(ValueError, match="The teacher has 3 slots, the student 2; give it at least as many"):
        distillation_loss(torch.rand(1, 2, 4), torch.rand(1, 3, 4))


def test_soft_cross_entropy_by_hand():
    """Student slot 1 is the teacher's 0: -(0.5 log 0.4 + 0.5 log 0.6) and -log 0.9, the mean over two patches."""
    teacher = torch.tensor([[[0.5, 1.0], [0.5, 0.0]]])
    masks = torch.tensor([[[0.6, 0.1], [0.4, 0.9]]], requires_grad=True)
    loss = soft_distillation_loss(masks, teacher, matched=torch.tensor([[1, 0]]))
    expected = -(0.5 * math.log(0.4) + 0.5 * math.log(0.6) + math.log(0.9)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert masks.grad.abs().sum() > 0


def test_largest_masks_are_matched():
    teacher = hard([[0, 0, 1, 2, 2]], 3)
    assert match_masks(teacher[:, [2, 0, 1]], teacher).tolist() == [[1, 2, 0]]
