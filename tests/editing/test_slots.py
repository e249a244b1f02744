"""Editing as functions of tensors: which slots are there afterwards, and that nothing else changed."""

import pytest
import torch

from slotworks.editing.slots import add, move, remove, swap
from slotworks.types import UserError

A = torch.arange(24.0).reshape(2, 4, 3)
B = -1 - torch.arange(30.0).reshape(2, 5, 3)


@pytest.fixture(autouse=True)
def _given_slots_stay():
    before = A.clone(), B.clone()
    yield
    assert torch.equal(A, before[0])
    assert torch.equal(B, before[1])


def test_remove_drops_zeroes_or_averages():
    assert torch.equal(remove(A, 1), A[:, [0, 2, 3]])
    assert torch.equal(remove(A, [3, 1, 3]), A[:, [0, 2]])
    zeroed = remove(A, 1, "zero")
    assert torch.equal(zeroed[:, 1], torch.zeros(2, 3))
    assert torch.equal(zeroed[:, [0, 2, 3]], A[:, [0, 2, 3]])
    averaged = remove(A, [1, 3], "mean")
    assert torch.equal(averaged[:, [0, 2]], A[:, [0, 2]])
    assert torch.equal(averaged[:, 1], (A[:, 0] + A[:, 2]) / 2)
    assert torch.equal(averaged[:, 3], averaged[:, 1])
    assert torch.equal(remove(A, range(4), "zero"), torch.zeros_like(A))


def test_add_appends_or_replaces():
    assert torch.equal(add(A, B, 4), torch.cat([A, B[:, 4:]], dim=1))
    replaced = add(A, B, 0, "replace", at=2)
    assert torch.equal(replaced[:, 2], B[:, 0])
    assert torch.equal(replaced[:, [0, 1, 3]], A[:, [0, 1, 3]])


def test_swap_exchanges_and_undoes_itself():
    a, b = swap(A, B, 3, 4)
    assert torch.equal(a, torch.cat([A[:, :3], B[:, 4:]], dim=1))
    assert torch.equal(b, torch.cat([B[:, :4], A[:, 3:]], dim=1))
    back = swap(a, b, 3, 4)
    assert torch.equal(back[0], A)
    assert torch.equal(back[1], B)


def test_move_keeps_the_slots_of_both_together():
    a, b = move(A, B, 2)
    assert torch.equal(a, A[:, [0, 1, 3]])
    assert torch.equal(b, torch.cat([B, A[:, 2:3]], dim=1))
    a, _ = move(A, B, 2, "zero")
    assert a.shape == A.shape
    assert torch.equal(a[:, 2], torch.zeros(2, 3))


@pytest.mark.parametrize("edit", [lambda s: remove(s, 0), lambda s: add(s, B, 0), lambda s: swap(s, B, 0, 0)[0]])
def test_an_edit_shares_no_memory(edit):
    given = A.clone()
    edited = edit(given)
    edited.zero_()
    assert torch.equal(given, A)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda: remove(A, 4), "There is no slot 4: the picture has 4 slots, numbered 0 to 3."),
        (lambda: remove(A, -1), "There is no slot -1: the picture has 4 slots"),
        (lambda: add(A, B, 5), "There is no slot 5: the other picture has 5 slots, numbered 0 to 4."),
        (lambda: add(A, B, 0, "replace", at=4), "There is no slot 4: the picture has 4 slots"),
        (lambda: swap(A, B, 4, 0), "There is no slot 4: the picture has 4 slots"),
        (lambda: swap(A, B, 0, 5), "There is no slot 5: the other picture has 5 slots"),
        (lambda: move(A, B, 7), "There is no slot 7: the picture has 4 slots"),
        (lambda: remove(A, range(4)), "All 4 slots would be removed"),
        (lambda: remove(A, range(4), "mean"), "All 4 slots would be removed"),
        (lambda: remove(A[:, :1], 0), "All 1 slots would be removed"),
    ],
)
def test_a_slot_that_is_not_there(edit, sentence):
    with pytest.raises(UserError, match=sentence):
        edit()


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda: add(A, B, 0, "append", at=1), "give at for replace"),
        (lambda: add(A, B, 0, "replace"), "give at for replace"),
        (lambda: add(A, B[:1], 0), r"slots are \(2, 4, 3\) and those of the other images \(1, 5, 3\)"),
    ],
)
def test_arguments_that_do_not_fit(edit, sentence):
    with pytest.raises(ValueError, match=sentence):
        edit()
