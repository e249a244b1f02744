"""Linear probes: slots that hold the answer, slots that do not, who is matched with whom, when training stops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import cases
from torch import nn
from torch.nn.functional import one_hot

from slotworks.evaluation.discovery import summarize
from slotworks.evaluation.properties import (
    UNKNOWN,
    box_centres,
    evaluate_properties,
    matched_slots,
    position_error,
    top1,
    train_linear,
)
from slotworks.types import DecoderOutput, Method, SlotOutput, UserError

SIZE, CLASSES = 16, 5
FAST = {"lr": 0.05, "epochs": 60, "patience": 60, "probe_batch_size": 32}


class Boxes:
    """Images of up to three rectangles; red is the object's id, green its class from 1, blue a random class."""

    def __init__(self, count: int, *, seed: int = 0, objects: int = 3, drop: tuple[str, ...] = ()):
        rng = np.random.default_rng(seed)
        self.mask = np.zeros((count, SIZE, SIZE), np.uint8)
        self.classes = rng.integers(1, CLASSES + 1, (count, objects)).astype(np.uint8)
        self.other = rng.integers(1, CLASSES + 1, (count, objects + 1)).astype(np.uint8)
        for i in range(count):
            for k in range(objects):  # each in its own strip of rows, so that none hides another
                height = SIZE // objects
                y, x = k * height + rng.integers(0, 2), rng.integers(0, 10)
                self.mask[i, y : (k + 1) * height, x : x + rng.integers(3, 7)] = k + 1
        self.drop = drop

    def __len__(self):
        return len(self.mask)

    def __getitems__(self, indices):
        rows = np.array(indices)
        mask, classes = self.mask[rows], np.pad(self.classes[rows], ((0, 0), (1, 0)))
        class_mask = np.take_along_axis(classes, mask.reshape(len(rows), -1).astype(int), 1).reshape(mask.shape)
        image = np.stack([mask, class_mask, rows.repeat(SIZE * SIZE).reshape(mask.shape) % 256], -1).astype(np.uint8)
        batch = {"image": image, "mask": mask, "class_mask": class_mask, "classes": self.classes[rows]}
        batch["other"] = self.other[rows]
        return {key: value for key, value in batch.items() if key not in self.drop}


class Reader(Method):
    """Slot `n` is object `n + shift`; it holds its class and the centre of its box, or only what `blind` leaves."""

    def __init__(self, *, num_slots: int = 5, blind: bool = False):
        super().__init__()
        self.num_slots, self.blind = num_slots, blind
        self.noise = nn.Dropout()

    def encode(self, image):
        red, green, _ = (image * 255).round().long().unbind(1)
        shift = torch.randint(self.num_slots, (len(image), 1, 1))  # random, but constant under a seed
        ids = (red + shift) % self.num_slots
        masks = one_hot(ids, self.num_slots).movedim(-1, 1).float()
        label = (masks * green[:, None]).flatten(2).amax(2).long()
        known = torch.cat([one_hot(label, CLASSES + 1).float(), box_centres(ids, num_ids=self.num_slots).float()], 2)
        return SlotOutput(torch.randn(known.shape) if self.blind else known.nan_to_num(), masks.flatten(2))


def test_slots_that_hold_the_answer():
    result = evaluate_properties(Reader(), Boxes(100), Boxes(40, seed=1), **FAST)
    assert result.metrics["top1"].mean == 1
    assert result.metrics["top1"].n == result.metrics["position_mse"].n == 120
    assert result.metrics["top1_per_image"].n == 40
    assert result.metrics["position_mse"].mean < 1e-5
    assert result.metrics["unmatched"].mean == 0
    assert result.num_images == 40
    assert "stopped after 60" in result.rules
    assert "10% of 100 training images" in result.rules


def test_the_constant_predictor():
    train, test = Boxes(150), Boxes(40, seed=1)
    metrics = evaluate_properties(Reader(), train, test, **FAST | {"epochs": 1}).metrics
    common = np.bincount(train.classes.flatten()).argmax()
    assert metrics["top1_constant"].mean == pytest.approx((test.classes == common).mean(), abs=1e-12)
    assert metrics["top1_constant"].mean < 0.35
    centres = [box_centres(torch.from_numpy(d.mask), num_ids=4)[:, 1:].reshape(-1, 2).numpy() for d in (train, test)]
    expected = ((centres[1] - centres[0].mean(0)) ** 2).mean()
    assert metrics["position_mse_constant"].mean == pytest.approx(expected, rel=1e-5)


def test_slots_that_know_nothing_are_no_better_than_a_constant():
    metrics = evaluate_properties(Reader(blind=True), Boxes(300), Boxes(100, seed=1), **FAST | {"patience": 5}).metrics
    assert metrics["top1"].mean < 0.3
    assert metrics["position_mse"].mean > 0.9 * metrics["position_mse_constant"].mean


def test_labels_that_have_nothing_to_do_with_the_slot():
    """A field with one row per id, the background's first."""
    result = evaluate_properties(
        Reader(), Boxes(300), Boxes(100, seed=1), label="other", background_row=True, **FAST | {"patience": 5}
    )
    assert result.metrics["top1"].mean == pytest.approx(1 / CLASSES, abs=0.08)
    assert result.metrics["position_mse"].mean < 1e-3
    assert "one for other" in result.rules


def test_where_labels_come_from():
    data = Boxes(8)
    by_mask, by_row, none = (
        matched_slots(Reader(), Boxes(8, drop=drop)) for drop in ((), ("class_mask",), ("class_mask", "classes"))
    )
    assert torch.equal(by_mask.labels, torch.from_numpy(data.classes).flatten().long())
    assert torch.equal(by_row.labels, by_mask.labels)
    assert none.labels is None
    from_background = matched_slots(Reader(), data, label="other", background_row=True)
    assert torch.equal(from_background.labels, torch.from_numpy(data.other[:, 1:]).flatten().long())
    from_first = matched_slots(Reader(), data, label="other")
    assert torch.equal(from_first.labels, torch.from_numpy(data.other[:, :-1]).flatten().long())


def test_objects_of_no_known_class_do_not_count():
    train, test = Boxes(60), Boxes(20, seed=1)
    test.classes[:, 0] = 0  # as below a region of the class map that says background
    found = matched_slots(Reader(), test)
    assert found.labels.view(20, 3)[:, 0].tolist() == [UNKNOWN] * 20
    result = evaluate_properties(Reader(), train, test, **FAST)
    assert (result.metrics["top1"].n, result.metrics["position_mse"].n) == (40, 60)
    train.classes[:] = 0
    with pytest.raises(UserError, match="No training object has a known class"):
        evaluate_properties(Reader(), train, test, **FAST)


def test_class_masks_where_there_are_no_instances():
    """VOC's trainaug: two objects of a class are one region there, but two objects in the test split."""
    train, test = Boxes(60, drop=("mask",)), Boxes(20, seed=1)
    train.classes[:, 1] = train.classes[:, 0]
    found = matched_slots(Reader(), train)
    assert found.target == "class"
    assert found.num_objects.tolist() == [len(set(row)) for row in train.classes.tolist()]
    assert found.labels.tolist() == [value for row in train.classes.tolist() for value in sorted(set(row))]
    result = evaluate_properties(Reader(), train, test, **FAST)
    assert result.metrics["top1"].n == 60
    assert "matched to class masks" in result.rules
    assert "scored: instance masks" in result.rules


def test_class_masks_where_they_are_asked_for():
    """Objects of a class are one region in both splits, though the data know their instances."""
    train, test = Boxes(60), Boxes(20, seed=1)
    test.classes[:, 1] = test.classes[:, 0]
    result = evaluate_properties(Reader(), train, test, target="class", **FAST)
    assert result.metrics["position_mse"].n == sum(len(set(row)) for row in test.classes.tolist()) < 60
    assert "matched to class masks" in result.rules
    assert "scored: class masks" in result.rules


def test_class_masks_in_training_alone():
    """As GLASS's table 8 on VOC, where SBD's archive is there: the data know instances of both splits."""
    train, test = Boxes(60), Boxes(20, seed=1)
    for data in (train, test):
        data.classes[:, 1] = data.classes[:, 0]
    result = evaluate_properties(Reader(), train, test, train_target="class", **FAST)
    assert result.metrics["position_mse"].n == 60
    assert "matched to class masks" in result.rules
    assert "scored: instance masks" in result.rules


def test_more_objects_than_slots():
    """Two slots for the background and three objects: the two best pairs count, a third of the objects does not."""
    data = Boxes(30)
    found = matched_slots(Reader(num_slots=2), data)
    assert found.num_objects.tolist() == [3] * 30
    assert found.image.bincount().tolist() == [2] * 30
    result = evaluate_properties(Reader(num_slots=2), data, Boxes(10, seed=1), **FAST)
    assert result.metrics["unmatched"].mean == pytest.approx(1 / 3)
    assert result.metrics["unmatched"].n == 30
    assert result.metrics["position_mse"].n == 20


def test_images_without_objects_do_not_count():
    data = Boxes(9)
    data.mask[4:7] = 0
    result = evaluate_properties(Reader(), Boxes(60), data, **FAST)
    assert result.metrics["top1"].n == 18
    assert result.metrics["top1_per_image"].n == 6
    assert result.per_image["position_mse"].isnan().tolist() == [False] * 4 + [True] * 3 + [False] * 2
    record = result.record(data="boxes", split="test", checkpoint="none")
    assert record["protocol"] == "properties"
    assert len(record["per_image"]["top1"]) == 9
    data.mask[:] = 0
    with pytest.raises(UserError, match="hold no object with a slot"):
        evaluate_properties(Reader(), Boxes(60), data, **FAST)


def test_void_and_overlap_do_not_decide_the_match():
    """Object 1 is a block of 4 pixels, 3 of them void: what is left belongs to slot 1."""

    class One:
        def __len__(self):
            return 1

        def __getitems__(self, indices):
            mask, void = np.zeros((2, 1, 4, 4), np.uint8)
            mask[0, 0] = 1
            void[0, 0, :3] = 1
            return {"image": np.zeros((1, 4, 4, 3), np.uint8), "mask": mask, self.key: void.astype(bool)}

    class Two(Method):
        def encode(self, image):
            masks = torch.zeros(1, 2, 4, 4)
            masks[:, 0, 0, :3] = 1
            masks[:, 1] = 1 - masks[:, 0]
            return SlotOutput(torch.tensor([[[0.0], [1.0]]]), masks.flatten(2))

    data = One()
    for key, slot in (("void", 1.0), ("overlap", 1.0), ("nothing", 0.0)):
        data.key = key
        found = matched_slots(Two(), data)
        assert found.slots.tolist() == [[slot]], key
        assert found.centres.tolist() == [[0.5, 0.125]]


def test_centres_by_hand():
    mask = torch.zeros(2, 4, 8, dtype=torch.long)
    mask[0, 1:3, 2:7] = 1
    mask[1, 3, 7] = 1
    mask[1, 0, 0] = 2
    centres = box_centres(mask, num_ids=4)
    assert centres[0, 1].tolist() == [4.5 / 8, 0.5]
    assert centres[1, 1].tolist() == [7.5 / 8, 3.5 / 4]
    assert centres[1, 2].tolist() == [0.5 / 8, 0.5 / 4]
    assert centres[:, 0].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert centres[0, 2:].isnan().all()


def test_early_stopping_keeps_the_best_weights():
    """The validation targets are those of training turned around, so its loss rises from the first epoch on."""
    slots = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    target = slots @ torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    epochs = []

    def loss(pred, true):
        epochs.append(pred.requires_grad)
        return F.mse_loss(pred, true)

    options = {"outputs": 2, "loss": loss, "lr": 0.01, "batch_size": 64, "epochs": 100}
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    probe = train_linear((slots, target), (slots, -target), patience=3, generator=generator, **options)
    assert epochs.count(False) == 4  # the first epoch is the best, three more are waited for
    assert epochs.count(True) == 4
    torch.manual_seed(0)
    first = train_linear((slots, target), (slots, -target), patience=3, generator=generator, **options | {"epochs": 1})
    assert torch.equal(probe.weight, first.weight)
    epochs.clear()
    train_linear((slots, target), (slots, target), patience=3, generator=generator, **options)
    assert epochs.count(True) == 100
    with pytest.raises(UserError, match="no object to train a probe on"):
        train_linear((slots[:0], target[:0]), (slots, target), patience=3, generator=generator, **options)


def test_validation_takes_whole_images():
    with pytest.raises(UserError, match=r"4 training images with val_share=0\.1 leave none to validate with"):
        evaluate_properties(Reader(), Boxes(4), Boxes(4))
    with pytest.raises(UserError, match="leave none to train with"):
        evaluate_properties(Reader(), Boxes(4), Boxes(4), val_share=1.0)


def test_seed_repeats_and_nothing_is_disturbed():
    method = Reader().train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = (evaluate_properties(method, Boxes(40), Boxes(9, seed=1), seed=5).metrics for _ in range(2))
    assert one["position_mse"].mean == two["position_mse"].mean
    assert one["top1"].mean == two["top1"].mean
    assert torch.equal(torch.get_rng_state(), before)
    assert method.noise.training
    assert torch.is_grad_enabled()
    other = evaluate_properties(method, Boxes(40), Boxes(9, seed=1), seed=6).metrics
    assert one["position_mse"].mean != other["position_mse"].mean


def test_decoder_masks_or_attention():
    class Decoding(Reader):
        def decode(self, slots):
            masks = torch.zeros(len(slots), self.num_slots, SIZE, SIZE)
            masks[:, 0] = 1
            return DecoderOutput(torch.zeros(len(slots), 3, SIZE, SIZE), masks)

    result = evaluate_properties(Decoding(), Boxes(40), Boxes(9, seed=1), **FAST)
    assert "hard decoder masks" in result.rules
    attention = evaluate_properties(Decoding(), Boxes(40), Boxes(9, seed=1), masks="attention", **FAST)
    assert "hard attention masks" in attention.rules
    assert attention.metrics["position_mse"].mean < 0.1 * result.metrics["position_mse"].mean


def test_mistakes():
    with pytest.raises(UserError, match="has no class_mask, only image, mask"):
        matched_slots(Reader(), Boxes(4, drop=("class_mask",)), target="class")
    with pytest.raises(
        UserError, match=r"label is 'colour'; expected class or an integer field .* here classes, other"
    ):
        matched_slots(Reader(), Boxes(4), label="colour")
    with pytest.raises(UserError, match="no image to probe: the split has 4, num_images is 0"):
        matched_slots(Reader(), Boxes(4), num_images=0)


@pytest.mark.parametrize("case", cases("probe"), ids=lambda case: case.id)
def test_golden(case):
    logits, labels, true, pred = (
        torch.from_numpy(case.arrays[name]) for name in ("logits", "labels", "pos_true", "pos_pred")
    )
    assert top1(logits, labels).mean().item() == pytest.approx(case.values["top1/sklearn"], abs=1e-12)
    assert top1(logits, labels).mean().item() == pytest.approx(case.values["top1/glass_acc_metric_one_batch"], abs=1e-7)
    assert position_error(pred, true).mean().item() == pytest.approx(case.values["pos_MSE/torch_mse_loss"], abs=1e-7)


def test_pooled_and_per_image_accuracy_differ():
    """One image with one object, right; one with three, one right: 2 of 4 pooled, (1 + 1/3) / 2 over images."""
    values = torch.tensor([1.0, 1 / 3]).double()
    assert summarize(values, torch.tensor([1.0, 3.0]).double()).mean == pytest.approx(0.5)
    assert summarize(values, torch.ones(2).double()).mean == pytest.approx(2 / 3)
    assert not math.isnan(summarize(values, torch.ones(2).double()).sem)


class Measures(Reader):
    """Slots also hold the root of the share that they cover."""

    def encode(self, image):
        out = super().encode(image)
        return SlotOutput(torch.cat([out.slots, out.attn.mean(2, keepdim=True).sqrt()], 2), out.attn)


def test_size_is_one_more_probe_and_changes_no_other():
    train, test = Boxes(300), Boxes(40, seed=1)
    plain, sized = (evaluate_properties(Measures(), train, test, **FAST, size=size) for size in (False, True))
    assert {"size_mse", "size_mse_constant"} == sized.metrics.keys() - plain.metrics.keys()
    assert {name: sized.metrics[name] for name in plain.metrics} == plain.metrics
    assert sized.metrics["size_mse"].mean < 1e-5
    ids = np.arange(1, 4)
    areas = np.sqrt((train.mask[..., None] == ids).mean((1, 2)))
    others = np.sqrt((test.mask[..., None] == ids).mean((1, 2)))
    expected = np.square(others - areas.mean()).mean()
    assert sized.metrics["size_mse_constant"].mean == pytest.approx(expected, rel=1e-5)
    assert "one for the root of the share of the image that is covered; slots matched" in sized.rules
    assert "root" not in plain.rules
