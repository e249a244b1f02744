"""What metrics refuse, and in which words, where no annotation is checked; and the dtypes that they take."""

import math

import numpy as np
import pytest
import torch

from slotworks.evaluation.discovery import score_masks
from slotworks.metrics import (
    ari,
    binding,
    contingency,
    corloc,
    coverage,
    fg_ari,
    mbo,
    miou,
    object_recovery,
    segmentation,
)
from slotworks.metrics.coverage import coverage_of_table
from slotworks.metrics.image import FeatureMoments, psnr, ssim, sum_squared_error
from slotworks.metrics.overlap import match
from slotworks.metrics.semantic import by_hungarian, class_iou, class_tables
from slotworks.metrics.sets import average_precision, average_precisions, recall
from slotworks.protocols import PROTOCOLS, Protocol
from slotworks.types import all_finite

IDS = torch.randint(0, 4, (64, 8, 8), generator=torch.Generator().manual_seed(0))

OF_IDS = {
    "contingency": contingency,
    "ari": ari,
    "fg_ari": fg_ari,
    "mbo": mbo,
    "miou": miou,
    "corloc": corloc,
    "object_recovery": object_recovery,
    "coverage": lambda pred, true, **options: coverage(pred, true, num_slots=4, **options),
    "class_tables": lambda pred, true, **options: class_tables(pred, true, num_slots=4, num_classes=4, **options),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metric", OF_IDS.values(), ids=OF_IDS)
def test_ids_that_do_not_fit(metric):
    for pred, true, options, words in (
        (IDS, IDS[:60], {}, r"pred is int64 of shape \(64, 8, 8\) and true int64 of shape \(60, 8, 8\)"),
        (IDS, IDS[:1], {}, "they must have one shape"),
        (IDS, IDS[:, :, :4], {}, "they must have one shape"),
        (IDS, IDS, {"valid": IDS[:1] > 0}, r"valid is bool of shape \(1, 8, 8\) and pred int64 of shape \(64, 8, 8\)"),
        (IDS, IDS, {"valid": IDS[:20] > 0}, "they must have one shape"),
        (IDS, IDS, {"valid": (IDS > 0).byte()}, r"valid is uint8 of shape \(64, 8, 8\); it must be bool"),
        (IDS, IDS, {"valid": (IDS > 0).float()}, "it must be bool"),
        (IDS[0], IDS[0], {}, r"pred is int64 of shape \(8, 8\); .* One image is pred\[None\]"),
        (IDS, IDS[0], {}, r"One image is true\[None\]"),
        (IDS[None], IDS[None], {}, r"pred is int64 of shape \(1, 64, 8, 8\); ids are \(images, height, width\)"),
        (IDS / 4, IDS, {}, "pred is float32 .* Soft masks become ids by `slotworks.metrics.segmentation"),
        (IDS, IDS.double(), {}, "true is float64 .*; ids are a tensor of integers"),
        (IDS, IDS > 0, {}, r"true is bool .* a bool mask by `.long\(\)`"),
        (IDS.numpy(), IDS, {}, "pred is a ndarray; ids are a tensor of integers"),
        (IDS - 1, IDS, {}, "slot ids run from -1 to 2; expected numbers from 0"),
        (IDS, IDS.to(torch.int32) + 4093, {}, "object ids run from 4093 to 4096"),
    ):
        with pytest.raises(ValueError, match=words):
            metric(pred, true, **options)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64]
)
def test_ids_in_any_integers(dtype):
    """A numpy file may hold any of them; torch can neither compare nor add the unsigned ones above 8 bits."""
    expected = contingency(IDS, IDS.flip(0), valid=IDS > 0)
    narrow = [torch.from_numpy(x.numpy().astype(str(dtype).removeprefix("torch."))) for x in (IDS, IDS.flip(0))]
    assert narrow[0].dtype == dtype
    assert torch.equal(contingency(*narrow, valid=IDS > 0), expected)
    scores = score_masks(PROTOCOLS["oclf"], narrow[0], {"mask": narrow[1], "class_mask": narrow[1]}, num_slots=4)
    wanted = score_masks(PROTOCOLS["oclf"], IDS, {"mask": IDS.flip(0), "class_mask": IDS.flip(0)}, num_slots=4)
    for name, score in wanted.items():
        assert torch.equal(scores[name].values, score.values), name
    assert torch.equal(class_tables(*narrow, num_slots=4, num_classes=4), contingency(IDS, IDS.flip(0)))


@pytest.mark.usefixtures("unchecked")
def test_a_protocol_checks_every_map():
    """A void map of one image would be laid over all of them."""
    rules = PROTOCOLS["oclf"]
    for truth, words in (
        ({"mask": IDS[:1]}, r"mask is int64 of shape \(1, 8, 8\) and pred int64 of shape \(64, 8, 8\)"),
        ({"mask": IDS, "void": IDS[:1] > 0}, r"void is bool of shape \(1, 8, 8\)"),
        ({"mask": IDS, "overlap": IDS[:1] > 0}, r"overlap is bool of shape \(1, 8, 8\)"),
        ({"mask": IDS, "class_mask": IDS[:1]}, r"class_mask is int64 of shape \(1, 8, 8\)"),
        ({"mask": IDS / 2}, "mask is float32"),
    ):
        with pytest.raises(ValueError, match=words):
            score_masks(rules, IDS, truth, num_slots=4)
    with pytest.raises(ValueError, match="num_slots is 0; expected one slot or more"):
        score_masks(rules, IDS, {"mask": IDS}, num_slots=0)


@pytest.mark.usefixtures("unchecked")
def test_rules_that_do_not_exist():
    for changed, words in (
        ({"metrics": ("fg_ari", "arri")}, "There is no metric 'arri'"),
        ({"removed": "keep"}, "removed is 'keep'; expected 'drop' or 'background'"),
        ({"coverage_threshold": 0.0}, "coverage_threshold is 0.0; expected a number above 0 and at most 1"),
    ):
        with pytest.raises(ValueError, match=words):
            Protocol(**{"name": "own", "source": "", "used_by": "", "metrics": ("ari",), **changed})
    table = contingency(IDS, IDS)
    for threshold in (0.0, -0.5, 1.01, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"threshold is .*; expected a number above 0 and at most 1"):
            coverage(IDS, IDS, num_slots=4, threshold=threshold)
    assert coverage_of_table(table, threshold=1.0)["so"].tolist() == [0.75] * 64
    with pytest.raises(ValueError, match="rule is 'best'; expected 'iou' or 'background_majority'"):
        coverage_of_table(table, rule="best")
    with pytest.raises(ValueError, match="largest is 'share'; expected 'iou' or 'pixels'"):
        by_hungarian(table, largest="share")


@pytest.mark.usefixtures("unchecked")
def test_tables_that_are_none():
    for table in (torch.ones(2, 3), torch.ones(2, 3, 4), np.ones((2, 3, 4), dtype=np.int64)):
        for score in (coverage_of_table, by_hungarian, binding.swallowed, binding.slots_per_object):
            with pytest.raises(ValueError, match=r"The table is .*; expected pixel counts in int64"):
                score(table)
    with pytest.raises(ValueError, match="The table has 2 rows for 3 classes"):
        class_iou(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"objects is bool of shape \(1, 4\)"):
        match(torch.rand(2, 3, 4).double(), torch.ones(1, 4, dtype=torch.bool))


@pytest.mark.usefixtures("unchecked")
def test_masks_that_cannot_be_cut():
    masks = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for value in (math.nan, math.inf, -math.inf):
        broken = masks.clone()
        broken[1, 2, 3, 3] = value
        with pytest.raises(ValueError, match="The masks hold NaN or infinity"):
            segmentation(broken, (8, 8))
    with pytest.raises(ValueError, match=r"The masks are float32 of shape \(2, 0, 4, 4\)"):
        segmentation(masks[:, :0], (8, 8))
    with pytest.raises(ValueError, match=r"The masks are float32 of shape \(4, 4\)"):
        segmentation(masks[0, 0], (8, 8))
    with pytest.raises(ValueError, match=r"size is \(0, 8\)"):
        segmentation(masks, (0, 8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_masks_of_integers_are_resized_as_numbers(dtype):
    """In uint8 the values between 3 and 4 would be rounded to ties, which the first slot wins."""
    masks = torch.tensor([[3, 4], [4, 3]]).view(1, 2, 1, 2)
    masks = (masks > 3) if dtype == torch.bool else masks.to(dtype)
    assert segmentation(masks, (1, 8)).tolist() == [[[1, 1, 1, 1, 0, 0, 0, 0]]]
    assert segmentation(masks, (1, 2)).tolist() == [[[1, 0]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_all_finite(dtype):
    """Also where the sum overflows though each number is finite, and where infinities cancel."""
    numbers = torch.arange(1000.0).to(dtype)
    assert all_finite(numbers)
    assert all_finite(numbers[:0])
    assert all_finite(torch.full((1000,), 6e4 if dtype == torch.float16 else 3e38).to(dtype))
    for values in ([math.nan], [math.inf], [-math.inf], [math.inf, -math.inf], [math.nan, math.inf]):
        broken = numbers.clone()
        broken[300 : 300 + len(values)] = torch.tensor(values).to(dtype)
        assert not all_finite(broken)
    assert all_finite(torch.arange(5))


@pytest.mark.usefixtures("unchecked")
def test_statistics_of_masks():
    masks = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert binding.entropy(masks).shape == (4,)
    for wrong in (masks * 2, masks - 1, masks.log()):
        with pytest.raises(ValueError, match="must be 0 or more and sum to one over the slots"):
            binding.entropy(wrong)
    with pytest.raises(ValueError, match="masks holds NaN or infinity"):
        binding.entropy(masks.log() / 0)
    with pytest.raises(ValueError, match=r"where is bool of shape \(1, 8, 8\)"):
        binding.entropy(masks, where=IDS[:1] > 0)
    with pytest.raises(ValueError, match=r"where is bool of shape \(1, 8, 8\)"):
        binding.stripes(IDS[:4], where=IDS[:1] > 0)
    with pytest.raises(ValueError, match="slot id 3; with num_slots=2"):
        binding.dead_slots(IDS, num_slots=2)
    with pytest.raises(ValueError, match="pred is float32"):
        binding.largest_share(IDS / 4)
    with pytest.raises(ValueError, match=r"valid is bool of shape \(1, 8, 8\)"):
        binding.binding_stats(masks, IDS[:4], valid=IDS[:1] > 0)
    assert binding.binding_stats(masks / 0)["finite"] == 0  # for the doctor, whose finding it is


PICTURES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("metric", [sum_squared_error, psnr, ssim])
def test_pictures_that_are_none(metric):
    eight_bits = (PICTURES * 255).byte()
    for pred, true, words in (
        (
            eight_bits,
            eight_bits,
            r"pred is uint8 of shape \(2, 3, 16, 16\); pictures are floats in \[0, 1\]: divide by 255",
        ),
        (PICTURES, eight_bits, "true is uint8"),
        (eight_bits.float(), eight_bits.float(), r"pred has values from 0 to 25\d; pictures lie in \[0, 1\]"),
        (PICTURES - 0.5, PICTURES, "pred has values from -0"),
        (PICTURES, PICTURES[:1], r"they must have one shape"),
        (PICTURES[0], PICTURES[0], r"pred is float32 of shape \(3, 16, 16\); expected floats of shape \(b, c, h, w\)"),
        (PICTURES / 0, PICTURES, "pred holds NaN or infinity"),
        (PICTURES[:, :0], PICTURES[:, :0], "holds nothing"),
    ):
        with pytest.raises(ValueError, match=words):
            metric(pred, true)
    assert metric(PICTURES + 5e-4, PICTURES).shape == (2,)
    assert metric(PICTURES[:0], PICTURES[:0]).shape == (0,)


@pytest.mark.usefixtures("unchecked")
def test_features_that_are_none():
    moments = FeatureMoments()
    moments.update(torch.zeros(0, 4))  # nothing, which must not turn the mean into NaN
    assert moments.count == 0
    moments.update(torch.tensor([[0.0], [2.0]]))
    moments.update(torch.zeros(0, 1))
    assert (moments.count, moments.mean.item(), moments.covariance.item()) == (2, 1.0, 2.0)
    for features, words in (
        (torch.full((2, 1), math.nan), "features holds NaN or infinity"),
        (torch.zeros(3), r"features is float32 of shape \(3,\)"),
        (torch.zeros(2, 1).long(), r"features is int64 of shape \(2, 1\)"),
    ):
        with pytest.raises(ValueError, match=words):
            moments.update(features)
    assert moments.count == 2


def drawn_sets(images=4, rows=3):
    sets = torch.rand(images, rows, 6, generator=torch.Generator().manual_seed(0))
    return sets, torch.cat([sets[..., :5], torch.ones(images, rows, 1)], -1)


@pytest.mark.usefixtures("unchecked")
def test_sets_that_do_not_fit():
    pred, true = drawn_sets()
    for place in ((1, 2, 0), (1, 2, 4), (1, 2, 5)):  # a coordinate, a property, the confidence
        broken = pred.clone()
        broken[place] = math.nan
        with pytest.raises(ValueError, match="pred holds NaN or infinity"):
            average_precision(broken, true, categories=(2,))
    for one, other, options, words in (
        (pred, true[:1], {}, r"pred is float32 of shape \(4, 3, 6\) and true float32 of shape \(1, 3, 6\)"),
        (pred[:1], true, {}, "they must be of the same images"),
        (
            pred[0],
            true[0],
            {},
            r"pred is float32 of shape \(3, 6\); expected floats of shape \(images, rows, numbers\)",
        ),
        (pred.long(), true, {}, "pred is int64"),
        (pred, true / 2, {}, "must be 1 for an object or 0 for padding"),
        (pred, true, {"extent": 0.0}, "extent is 0.0; expected a number above 0"),
        (pred, true, {"threshold": math.nan}, "threshold is nan; expected a number above 0"),
        (pred, true, {"threshold": -1.0}, "threshold is -1.0; expected a number above 0"),
    ):
        for metric in (average_precision, recall):
            with pytest.raises(ValueError, match=words):
                metric(one, other, categories=(2,), **options)
    with pytest.raises(ValueError, match=r"thresholds\[1\] is nan"):
        average_precisions(pred, true, categories=(2,), thresholds=(1.0, math.nan))


def test_sets_without_rows():
    """Nothing predicted finds nothing; where there is nothing to find there is no score."""
    pred, true = drawn_sets()
    assert average_precision(pred[:, :0], true, categories=(2,)) == 0
    assert recall(pred[:, :0], true, categories=(2,)).tolist() == [0] * 4
    assert math.isnan(average_precision(pred, true[:, :0], categories=(2,)))
    assert recall(pred, true[:, :0], categories=(2,)).isnan().tolist() == [True] * 4
    assert math.isnan(average_precision(pred[:0], true[:0], categories=(2,)))
    assert recall(pred[:0], true[:0], categories=(2,)).shape == (0,)
