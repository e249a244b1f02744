"""Statistics of masks: closed forms, scikit-learn, and that the order of slots never matters."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import one_hot

from slotworks.metrics import binding, contingency


def scenes(num_images: int = 32, size: int = 32, num_objects: int = 3, side: int = 9, seed: int = 0) -> torch.Tensor:
    """Squares at random places on an empty background."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.zeros(num_images, size, size, dtype=torch.long)
    for image in true:
        for k in range(num_objects):
            y, x = torch.randint(0, size - side + 1, (2,), generator=generator).tolist()
            image[y : y + side, x : x + side] = k + 1
    return true


def bands(num_images: int, size: int, num_slots: int) -> torch.Tensor:
    return (torch.arange(size) * num_slots // size).expand(num_images, size, size).contiguous()


def shuffled(pred: torch.Tensor, num_slots: int, seed: int = 1) -> torch.Tensor:
    """The same segmentations with the slots of each image in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(num_slots, generator=generator)[image] for image in pred])


def soft(pred: torch.Tensor, num_slots: int, rest: float = 0.0) -> torch.Tensor:
    """Masks that give `rest` of a pixel evenly to all slots."""
    return one_hot(pred, num_slots).movedim(-1, 1).float() * (1 - rest) + rest / num_slots


def test_stripes_are_one_in_whatever_order_the_slots_come():
    fixed = bands(8, 32, 4)
    assert binding.stripes(fixed).item() == 1
    assert binding.stripes(shuffled(fixed, 4)).item() == 1


def test_stripes_of_objects_at_random_places_are_near_zero():
    assert binding.stripes(shuffled(scenes(), 4)).item() == pytest.approx(0, abs=0.15)


def test_stripes_is_the_mean_adjusted_rand_index_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    pred = torch.randint(0, 3, (5, 6, 6), generator=generator)
    pairs = [adjusted_rand_score(a.flatten(), b.flatten()) for a, b in itertools.permutations(pred, 2)]
    assert binding.stripes(pred).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)

    where = torch.rand(5, 6, 6, generator=generator) < 0.4
    pairs = [adjusted_rand_score(pred[i][where[i]], pred[j][where[i]]) for i, j in itertools.permutations(range(5), 2)]
    assert binding.stripes(pred, where=where).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_stripes_on_the_foreground_ignore_how_an_empty_background_is_cut():
    true = scenes()
    halves = torch.where(true == 0, bands(32, 32, 2), true + 1)
    assert binding.stripes(halves).item() > 0.45
    own = binding.truth_agreement(contingency(halves, true))
    assert binding.stripes(halves, where=true > 0).item() < 0.45
    torch.testing.assert_close(own, torch.ones_like(own))


@pytest.mark.parametrize(
    "pred", [torch.zeros(4, 8, 8, dtype=torch.long), bands(1, 8, 2)], ids=["one slot", "one image"]
)
def test_stripes_are_undefined_without_a_pair_to_compare(pred):
    assert math.isnan(binding.stripes(pred))


def test_truth_agreement_is_the_adjusted_rand_index_of_the_foreground():
    generator = torch.Generator().manual_seed(0)
    pred, true = torch.randint(0, 4, (2, 3, 8, 8), generator=generator)
    expected = [adjusted_rand_score(t[t > 0], p[t > 0]) for p, t in zip(pred, true, strict=True)]
    assert binding.truth_agreement(contingency(pred, true)).tolist() == pytest.approx(expected, abs=1e-12)


def test_truth_agreement_does_not_praise_one_object_in_one_slot():
    true = scenes(num_images=2, num_objects=1)
    cut = true * (1 + torch.arange(32) % 2)
    agreement = binding.truth_agreement(contingency(torch.cat([true, cut]), torch.cat([true, true])))
    assert agreement.isnan().tolist() == [True, True, False, False]
    assert agreement[2:].tolist() == [0, 0]


def test_largest_share():
    pred = torch.tensor([[[0, 0], [0, 1]], [[2, 1], [0, 2]]])
    assert binding.largest_share(pred).tolist() == [0.75, 0.5]


def test_swallowed_counts_what_the_slot_of_the_largest_region_owns_besides():
    table = torch.tensor([[[50, 6, 0], [10, 2, 8], [0, 0, 4]]])  # slot 0 owns most of the background
    assert binding.swallowed(table).item() == pytest.approx(6 / 20)
    assert binding.swallowed(table[:, [2, 0, 1]]).item() == pytest.approx(6 / 20)
    assert binding.swallowed(torch.tensor([[[50, 6, 4]]])).item() == 1  # one slot takes all
    assert binding.swallowed(torch.tensor([[[50, 0], [0, 6]], [[50, 0], [2, 0]]])).tolist() == pytest.approx(
        [0, math.nan], nan_ok=True
    )


def test_swallowed_does_not_blame_a_background_in_two_slots():
    table = torch.tensor([[[25, 0, 0], [24, 0, 0], [0, 30, 0], [0, 0, 5]]])  # the largest slot is an object
    assert binding.swallowed(table).item() == 0


def test_entropy_of_known_masks():
    masks = torch.zeros(3, 4, 2, 2)
    masks[0] = 0.25
    masks[1, 2] = 1
    masks[2, :2] = 0.5
    assert binding.entropy(masks).tolist() == pytest.approx([1, 0, 0.5], abs=1e-6)
    assert binding.entropy(torch.ones(1, 1, 2, 2)).tolist() == [0]


def test_entropy_where():
    masks = torch.zeros(1, 2, 1, 4)
    masks[:, 0] = torch.tensor([0.5, 1, 1, 1])
    masks[:, 1] = 1 - masks[:, 0]
    where = torch.tensor([[[True, True, False, False]]])
    assert binding.entropy(masks).item() == pytest.approx(0.25)
    assert binding.entropy(masks, where=where).item() == pytest.approx(0.5)
    assert math.isnan(binding.entropy(masks, where=torch.zeros_like(where)))


def test_dead_slots():
    pred = torch.zeros(2, 20, 20, dtype=torch.long)
    pred[0, 0, 0] = 3  # 1 of 400 pixels is still dead
    pred[1, 0, :3] = 1  # 3 of 400 are not
    assert binding.dead_slots(pred, num_slots=4).tolist() == [0.75, 0.5]


def test_effective_numbers_of_known_tables():
    table = torch.tensor(
        [
            [[90, 0, 0], [10, 5, 5]],  # background 90 : 10, both objects in slot 1
            [[50, 8, 0], [50, 8, 16]],  # background in halves, object 1 in halves
        ]
    )
    ninety_ten = math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    assert binding.background_slots(table).tolist() == pytest.approx([ninety_ten, 2])
    assert binding.slots_per_object(table).tolist() == pytest.approx([1, 2**0.5])  # half of the pixels are cut in two
    third = math.exp(24 / 32 * (math.log(3) - 2 / 3 * math.log(2)))
    assert binding.objects_per_slot(table).tolist() == pytest.approx([2, third])


def test_effective_numbers_are_undefined_without_pixels():
    only_objects, only_background = torch.tensor([[[0, 4]]]), torch.tensor([[[4, 0]]])
    assert math.isnan(binding.background_slots(only_objects))
    assert math.isnan(binding.slots_per_object(only_background))
    assert math.isnan(binding.objects_per_slot(only_background))


def test_stats_of_perfect_masks():
    true = scenes()
    stats = binding.binding_stats(soft(true, 4), true)
    assert stats["finite"] == 1
    assert stats["num_images"] == 32
    assert stats["num_slots"] == 4
    assert stats["num_regions"] == pytest.approx(4, abs=0.1)  # a square may hide another
    assert stats["swallowed"] == stats["entropy"] == stats["entropy_foreground"] == 0
    for name in ("truth_agreement", "background_slots", "slots_per_object", "objects_per_slot"):
        assert stats[name] == pytest.approx(1, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), num_slots=st.integers(1, 6), num_objects=st.integers(0, 4))
def test_the_order_of_slots_changes_nothing(seed, num_slots, num_objects):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(3, num_slots, 6, 6, generator=generator).mul(5).softmax(1)
    true = torch.randint(0, num_objects + 1, (3, 6, 6), generator=generator)
    permuted = torch.stack([mask[torch.randperm(num_slots, generator=generator)] for mask in masks])
    assert binding.binding_stats(permuted, true) == pytest.approx(binding.binding_stats(masks, true), nan_ok=True)


def test_pixels_that_are_not_valid_count_nowhere():
    true = scenes()
    masks, valid = soft(true, 4), torch.ones_like(true, dtype=torch.bool)
    valid[:, :8] = False
    broken = true.clone()
    broken[:, :8] = 2
    expected = binding.binding_stats(masks, true, valid=valid)
    assert binding.binding_stats(masks, broken, valid=valid) == pytest.approx(expected, nan_ok=True)
    assert binding.binding_stats(masks, broken)["truth_agreement"] < 1


def test_nan_masks_are_reported():
    masks = soft(scenes(num_images=4), 4)
    masks[1, 0, 0, 0] = math.nan
    assert binding.binding_stats(masks)["finite"] == 0.75


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"\(2, 8, 8\) and \(2, 4, 4\).*resize"):
        binding.binding_stats(torch.ones(2, 3, 8, 8) / 3, torch.zeros(2, 4, 4, dtype=torch.long))
