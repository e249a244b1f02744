"""Hard masks and pixel counts."""

import pytest
import torch
from golden_cases import cases
from jaxtyping import TypeCheckError

from slotworks.metrics import contingency, segmentation


def test_annotations_are_checked():
    with pytest.raises(TypeCheckError):
        contingency(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4).long())


def test_segmentation_gives_ties_to_the_lowest_slot():
    assert (segmentation(torch.full((1, 5, 6, 6), 0.2), (6, 6)) == 0).all()
    masks = torch.zeros(1, 4, 2, 2)
    masks[:, 1:3] = 0.5
    assert (segmentation(masks, (2, 2)) == 1).all()


def test_segmentation_resizes_before_the_argmax():
    """Two pixels of two slots, 0.9/0.1 and 0.4/0.6: the border lies at 4/5 between their centres, not halfway."""
    masks = torch.tensor([[0.9, 0.4], [0.1, 0.6]]).view(1, 2, 1, 2)
    # Width 8: centres at -0.375, -0.125, 0.125, ... of the small grid; slot 0 falls below one half at x = 0.8.
    assert segmentation(masks, (1, 8)).tolist() == [[[0, 0, 0, 0, 0, 1, 1, 1]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_segmentation_of_half_precision_equals_float32(dtype):
    masks = torch.rand(2, 6, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(segmentation(masks, (32, 32)), segmentation(masks.float(), (32, 32)))


def test_segmentation_keeps_time():
    masks = torch.rand(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    frames = segmentation(masks, (9, 7))
    assert frames.shape == (2, 3, 9, 7)
    assert torch.equal(frames[1, 2], segmentation(masks[1, 2][None], (9, 7))[0])


def test_counts():
    pred = torch.tensor([[[0, 0], [2, 2]], [[1, 1], [1, 1]]])
    true = torch.tensor([[[0, 1], [1, 1]], [[0, 0], [0, 3]]])
    expected = torch.tensor([[[1, 1, 0, 0], [0, 0, 0, 0], [0, 2, 0, 0]], [[0] * 4, [3, 0, 0, 1], [0] * 4]])
    assert torch.equal(contingency(pred, true), expected)
    valid = torch.tensor([[[True, False], [True, True]], [[False, False], [False, False]]])
    expected[0, 0, 1] = 0
    expected[1] = 0
    assert torch.equal(contingency(pred, true, valid=valid), expected)
    assert contingency(pred, true, num_slots=9).shape == (2, 9, 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_small_integers_do_not_overflow(dtype):
    pred, true = torch.full((3, 20, 20), 200), torch.full((3, 20, 20), 100)
    table = contingency(pred.to(dtype), true.to(dtype))
    assert table[:, 200, 100].tolist() == [400] * 3
    assert table.sum() == 1200


def test_large_batches_are_counted_in_parts():
    generator = torch.Generator().manual_seed(0)
    pred = torch.randint(0, 7, (5, 700, 700), generator=generator)  # 2.4 million pixels
    true = torch.randint(0, 13, (5, 700, 700), generator=generator)
    valid = torch.rand(5, 700, 700, generator=generator) > 0.2
    table = contingency(pred, true, valid=valid)
    for i in range(5):
        expected = torch.zeros(7, 13, dtype=torch.long)
        expected.index_put_((pred[i][valid[i]], true[i][valid[i]]), torch.tensor(1), accumulate=True)
        assert torch.equal(table[i], expected)
    assert contingency(pred[:0], true[:0]).shape == (0, 1, 1)


def test_an_image_does_not_depend_on_its_batch():
    (case,) = [case for case in cases("batch") if case.id == "batch0"]
    pred, true = case.pred, case.truth["mask"]
    together = contingency(pred, true)
    for i in range(len(pred)):
        alone = contingency(pred[i : i + 1], true[i : i + 1])[0]
        assert torch.equal(together[i, : alone.shape[0], : alone.shape[1]], alone)
        assert together[i].sum() == alone.sum()


@pytest.mark.parametrize(("low", "high"), [(-1, 2), (0, 4096)])
def test_wrong_ids_are_refused(low, high):
    ids = torch.tensor([[[low, high]]])
    with pytest.raises(ValueError, match=f"object ids run from {low} to {high}"):
        contingency(torch.zeros_like(ids), ids)
    with pytest.raises(ValueError, match=f"slot ids run from {low} to {high}"):
        contingency(ids, torch.zeros_like(ids))


def test_more_slots_than_announced_are_refused():
    ids = torch.tensor([[[0, 7]]])
    with pytest.raises(ValueError, match="slot id 7; with num_slots=7"):
        contingency(ids, ids, num_slots=7)
