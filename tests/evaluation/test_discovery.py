"""Object discovery with methods whose masks are known: numbers, masks chosen, seeds, side effects."""

import math

import numpy as np
import pytest
import torch
from golden_cases import cases
from torch import nn
from torch.nn.functional import interpolate, one_hot

from slotworks.evaluation.discovery import evaluate_discovery, evaluate_under, score_masks, summarize
from slotworks.metrics import fg_ari, segmentation
from slotworks.protocols import PROTOCOLS
from slotworks.types import DecoderOutput, Method, SlotOutput, UserError

NUM_SLOTS = 5
SIZE = 16


class Blocks:
    """Images of 4 x 4 blocks: `label` objects; the first image has none. The red channel shows the ids of the slots."""

    def __init__(self, count: int = 7, *, masks: bool = True, video: bool = False):
        rng = np.random.default_rng(0)
        shape = (count, 2, 4, 4) if video else (count, 4, 4)
        self.true = rng.integers(0, 4, shape).repeat(4, -1).repeat(4, -2)
        self.true[0] = 0
        self.shown = np.where(rng.random(shape).repeat(4, -1).repeat(4, -2) < 0.3, 4, self.true)
        self.masks = masks

    def __len__(self) -> int:
        return len(self.true)

    def __getitems__(self, indices):
        image = np.zeros((*self.shown[list(indices)].shape, 3), np.uint8)
        image[..., 0] = self.shown[list(indices)]
        batch = {"image": image}
        if self.masks:
            batch["mask"] = self.true[list(indices)].astype(np.int16)
        return batch


class Reader(Method):
    """Reads the slot ids off the image: attention at 4 x 4."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Dropout().eval()
        self.trained = nn.Dropout()

    def encode(self, image):
        assert not self.training
        assert not self.trained.training
        assert not torch.is_grad_enabled()
        ids = (image[..., 0, :, :] * 255).round().long()
        attn = one_hot(ids[..., ::4, ::4], NUM_SLOTS).movedim(-1, -3).float()
        return SlotOutput(torch.zeros(*attn.shape[:-2], 2), attn.flatten(-2))


class Renderer(Reader):
    """Also decodes: masks at 32 x 32 with the slots in another order."""

    def encode(self, image):
        out = super().encode(image)
        return SlotOutput(out.attn, out.attn)

    def decode(self, slots):
        masks = interpolate(slots.unflatten(-1, (4, 4)), size=(32, 32), mode="nearest").roll(1, 1)
        return DecoderOutput(torch.zeros(len(slots), 3, 32, 32), masks, torch.zeros(*masks.shape[:2], 3, 32, 32))


class Guesser(Reader):
    """Random masks."""

    def encode(self, image):
        out = super().encode(image)
        return SlotOutput(out.slots, torch.rand_like(out.attn).softmax(1))


def nearest_reader(dataset):
    """What the exact 4 x 4 masks score when they are resized bilinearly, from the protocol itself."""
    ids = torch.from_numpy(dataset.shown[..., ::4, ::4])
    soft = interpolate(one_hot(ids, NUM_SLOTS).movedim(-1, 1).float(), (SIZE, SIZE), mode="bilinear")
    return score_masks(PROTOCOLS["oclf"], soft.argmax(1), {"mask": torch.from_numpy(dataset.true)}, num_slots=NUM_SLOTS)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_values_in_data_set_order_for_any_batch_size(batch_size):
    data = Blocks()
    result = evaluate_discovery(Reader(), data, protocol="oclf", batch_size=batch_size)
    expected = nearest_reader(data)
    assert tuple(result.per_image) == ("fg_ari", "ari", "mbo_i", "miou_i", "corloc", "recovery")
    for name, values in result.per_image.items():
        torch.testing.assert_close(values, expected[name].values, rtol=0, atol=0, equal_nan=True)
        counted = values[~values.isnan()].numpy()
        assert result.metrics[name].n == len(counted) == (7 if "ari" in name else 6)
        assert result.metrics[name].mean == pytest.approx(counted.mean(), abs=1e-12)
        assert result.metrics[name].sem == pytest.approx(counted.std(ddof=1) / math.sqrt(len(counted)), abs=1e-12)


def test_decoder_masks_or_attention():
    """Decoder masks at 32 x 32 shrink to the truth exactly here; attention at 4 x 4 loses the borders."""
    data = Blocks()
    decoder = evaluate_discovery(Renderer(), data, protocol="oclf")
    attention = evaluate_discovery(Renderer(), data, protocol="oclf", masks="attention")
    assert decoder.protocol.name == "oclf"
    assert attention.protocol.name == "oclf[attention]"
    shown = torch.from_numpy(data.shown + 1) % NUM_SLOTS
    exact = score_masks(PROTOCOLS["oclf"], shown, {"mask": torch.from_numpy(data.true)}, num_slots=NUM_SLOTS)
    torch.testing.assert_close(decoder.per_image["miou_i"], exact["miou_i"].values, rtol=0, atol=0, equal_nan=True)
    blurred = nearest_reader(data)["miou_i"].values
    torch.testing.assert_close(attention.per_image["miou_i"], blurred, rtol=0, atol=0, equal_nan=True)
    assert attention.metrics["miou_i"].mean < decoder.metrics["miou_i"].mean
    assert evaluate_discovery(Renderer(), data, protocol="glass-release").protocol.name == "glass-release"
    assert evaluate_discovery(Reader(), data, protocol="oclf").protocol.name == "oclf[attention]"
    with pytest.raises(UserError, match="Reader has no decoder that returns masks; score masks='attention' instead"):
        evaluate_discovery(Reader(), data, protocol="oclf", masks="decoder")


def test_video_is_one_image_with_more_pixels():
    """Slots that swap between frames cost the video its score, though each frame is as good as before."""
    data = Blocks(3, video=True)
    steady, swapped = data.true, data.true.copy()
    swapped[:, 1] = np.where(data.true[:, 1] > 0, 4 - data.true[:, 1], 0)
    means = []
    for shown in (steady, swapped):
        data.shown = shown
        result = evaluate_discovery(Reader(), data, protocol="slot-attention")
        soft = one_hot(torch.from_numpy(shown[..., ::4, ::4]), NUM_SLOTS).movedim(-1, 2).float()
        ids = segmentation(soft, (SIZE, SIZE))
        expected = fg_ari(ids.flatten(1, 2), torch.from_numpy(data.true).flatten(1, 2))
        torch.testing.assert_close(result.per_image["fg_ari"], expected, rtol=0, atol=0)
        assert result.num_images == 3
        means.append(result.metrics["fg_ari"].mean)
    assert means[0] > means[1] + 0.2


def test_seed_repeats_and_nothing_is_disturbed():
    data, method = Blocks(), Guesser().train()
    method.frozen.eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = evaluate_discovery(method, data, protocol="oclf", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert method.training
    assert method.trained.training
    assert not method.frozen.training
    assert torch.is_grad_enabled()
    torch.manual_seed(6)
    again, other = (evaluate_discovery(method, data, protocol="oclf", seed=seed) for seed in (1, 2))
    assert torch.equal(first.per_image["ari"], again.per_image["ari"])
    assert not torch.equal(first.per_image["ari"], other.per_image["ari"])
    assert (first.seed, other.seed) == (1, 2)


def test_modes_return_after_an_error():
    method = Reader().train()
    with pytest.raises(UserError, match=r"no masks, only image; object discovery needs true masks"):
        evaluate_discovery(method, Blocks(masks=False))
    assert method.training
    assert method.trained.training


def test_num_images():
    data = Blocks()
    whole = evaluate_discovery(Reader(), data, protocol="oclf").per_image["fg_ari"]
    part = evaluate_discovery(Reader(), data, protocol="oclf", num_images=3, batch_size=2)
    assert part.num_images == 3
    assert torch.equal(part.per_image["fg_ari"], whole[:3])
    assert evaluate_discovery(Reader(), data, num_images=100).num_images == 7
    with pytest.raises(UserError, match="no image to evaluate: the split has 7, num_images is 0"):
        evaluate_discovery(Reader(), data, num_images=0)
    with pytest.raises(UserError, match="There is no protocol 'dinosaur'"):
        evaluate_discovery(Reader(), data, protocol="dinosaur")


def test_mean_over_objects():
    """StableLSD pools objects: images weigh by their number of matched objects."""
    result = evaluate_discovery(Renderer(), Blocks(), protocol="lsd-object")
    by_image = evaluate_discovery(Renderer(), Blocks(), protocol="lsd-image")
    values, true = result.per_image["miou_i"], Blocks().true
    counts = torch.tensor([len(set(mask.flatten().tolist()) - {0}) for mask in true]).double()
    assert result.metrics["miou_i"].n == counts.sum()
    assert result.metrics["miou_i"].mean == pytest.approx(float((values * counts).nansum() / counts.sum()), abs=1e-12)
    assert by_image.metrics["miou_i"].n == 6
    assert by_image.metrics["miou_i"].mean == pytest.approx(values.nanmean().item(), abs=1e-12)


def test_summaries():
    values = torch.tensor([0.2, float("nan"), 0.6, 1.0]).double()
    plain = summarize(values, torch.tensor([1.0, 0.0, 1.0, 1.0]).double())
    assert (plain.mean, plain.n) == (pytest.approx(0.6), 3)
    assert plain.sem == pytest.approx(0.4 / math.sqrt(3))
    weighted = summarize(values, torch.tensor([3.0, 0.0, 1.0, 0.0]).double())
    assert (weighted.mean, weighted.n) == (pytest.approx(0.3), 4)
    assert weighted.sem == pytest.approx(math.sqrt((3 * 0.1) ** 2 + 0.3**2) * math.sqrt(2) / 4)
    one = summarize(values[:1], torch.ones(1).double())
    assert (one.mean, one.n) == (pytest.approx(0.2), 1)
    assert math.isnan(one.sem)
    none = summarize(values[1:2], torch.zeros(1).double())
    assert math.isnan(none.mean)
    assert none.n == 0


def test_golden_batch_through_the_whole_evaluation():
    """The golden batch as a data set: soft masks as attention, in batches of four and two."""
    (case,) = [case for case in cases("batch") if case.id == "batch0"]

    class Golden:
        def __len__(self):
            return 6

        def __getitems__(self, indices):
            index = np.array(indices)
            image = np.zeros((len(index), 14, 14, 3), np.uint8)
            image[:, 0, 0, 0] = index
            return {"image": image, "mask": case.arrays["inst"][index], "void": case.arrays["ignore"][index] > 0}

    class Replay(Method):
        def encode(self, image):
            index = (image[:, 0, 0, 0] * 255).round().long().numpy()
            attn = torch.from_numpy(case.arrays["pred"][index].astype(np.float32))
            return SlotOutput(torch.zeros(len(index), 5, 1), attn.flatten(2))

    result = evaluate_discovery(Replay(), Golden(), protocol="oclf", batch_size=4)
    for name, label in (("ari", "ARI"), ("fg_ari", "FG-ARI"), ("mbo_i", "mBO_i"), ("miou_i", "mIoU_i")):
        assert result.metrics[name].mean == pytest.approx(case.expected[label], abs=1e-9)
    assert result.metrics["mbo_i"].n == 5
    record = result.record(data="golden", split="test", checkpoint="none")
    assert record["protocol"] == "oclf[attention]"
    assert record["metrics"]["mbo_i"]["mean"] == result.metrics["mbo_i"].mean
    assert len(record["per_image"]["mbo_i"]) == 6


def test_several_protocols_share_one_pass():
    """The same numbers as one after the other, and the method sees each image once."""
    data, names = Blocks(), ["oclf", "slot-attention", "glass-release", "lsd-object"]
    calls = []

    class Counting(Renderer):
        def encode(self, image):
            calls.append(len(image))
            return super().encode(image)

    together = evaluate_under(names, Counting(), data)
    assert sum(calls) == len(data)
    for name, result in zip(names, together, strict=True):
        alone = evaluate_discovery(Renderer(), data, protocol=name)
        assert result.protocol == alone.protocol
        for metric, values in alone.per_image.items():
            torch.testing.assert_close(result.per_image[metric], values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("slots", "The slots hold NaN or infinity in 1 of 7 images of a batch"),
        ("attn", "The attention masks hold NaN or infinity in 1 of 7 images of a batch"),
    ],
)
def test_numbers_that_are_none_are_not_scored(broken, words, value):
    """One number of the last image; the first slot would win its pixel."""

    class Broken(Reader):
        def encode(self, image):
            out = super().encode(image)
            getattr(out, broken)[-1, 0, -1] = value
            return out

    with pytest.raises(UserError, match=words):
        evaluate_discovery(Broken(), Blocks(), protocol="oclf")


def test_decoder_masks_that_are_none_are_not_scored():
    class Broken(Renderer):
        def decode(self, slots):
            found = super().decode(slots)
            found.masks[2:4, 1, 0, 0] = math.nan
            return found

    with pytest.raises(UserError, match="The decoder masks hold NaN or infinity in 2 of 7 images"):
        evaluate_discovery(Broken(), Blocks(), protocol="oclf")
    assert evaluate_discovery(Broken(), Blocks(), protocol="oclf", masks="attention").metrics["ari"].n == 7


class ByPeople(Blocks):
    """Up to three people's masks of each image; `mask` is the second one's, the third marked the first four images."""

    def __getitems__(self, indices):
        batch = super().__getitems__(indices)
        true = batch["mask"] + 1
        coarse = (true > 2) + 1
        third = true * (np.asarray(list(indices)) < 4)[:, None, None]
        people = np.stack([true, coarse, np.where(third > 0, np.roll(third, 4, axis=1), 0)], axis=1)
        return {**batch, "mask": coarse.astype(np.int16), "annotators": people.astype(np.uint8)}


def test_several_peoples_masks_by_each_and_the_mean():
    data, plain = ByPeople(), Blocks()
    result = evaluate_discovery(Reader(), data, protocol="oclf", batch_size=3)
    assert tuple(result.metrics)[:2] == ("fg_ari", "ari")
    assert {"mbo_i", "mbo_i_fewest"} <= result.metrics.keys()
    assert not any("person" in name for name in result.metrics)
    whole = data.__getitems__(range(7))
    pred = torch.from_numpy(plain.shown[..., ::4, ::4])
    soft = interpolate(one_hot(pred, NUM_SLOTS).movedim(-1, 1).float(), (SIZE, SIZE), mode="bilinear")
    each = []
    for person in range(3):
        truth = {"mask": torch.from_numpy(whole["annotators"][:, person])}
        each.append(score_masks(PROTOCOLS["oclf"], soft.argmax(1), truth, num_slots=NUM_SLOTS)["mbo_i"].values)
    each[2][4:] = math.nan
    for person, values in enumerate(each):
        torch.testing.assert_close(result.per_image[f"mbo_i_person{person}"], values, equal_nan=True)
    torch.testing.assert_close(result.per_image["mbo_i"], torch.stack(each).nanmean(0))
    torch.testing.assert_close(result.per_image["mbo_i_fewest"], each[1])
    assert result.metrics["mbo_i"].mean == pytest.approx(torch.stack(each).nanmean(0).mean().item())
    assert result.rules.endswith("mean over people, then images; *_fewest: by the one with the fewest segments")
    assert "people" not in evaluate_discovery(Reader(), plain, protocol="oclf").rules
