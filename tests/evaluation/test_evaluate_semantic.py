"""Semantic evaluation with methods whose masks are known."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from slotworks.evaluation.records import write_eval
from slotworks.evaluation.semantic import RULES, cluster_slots, evaluate_semantic
from slotworks.types import Method, SlotOutput, UserError

NAMES = ("cat", "dog")
SIZE = 8


class Scenes:
    """Images whose red channel is the slot id and whose green channel is the class; right half void in image 0."""

    def __init__(self, *, classes=True):
        rng = np.random.default_rng(0)
        self.true = rng.integers(0, 3, (5, SIZE, SIZE))
        self.slot = np.stack([np.roll(np.arange(3), i)[image] for i, image in enumerate(self.true)])
        self.void = np.zeros((5, SIZE, SIZE), bool)
        self.void[0, :, 4:] = True
        self.true[self.void] = 255
        self.classes = classes

    def __len__(self):
        return len(self.true)

    def __getitems__(self, indices):
        index = list(indices)
        image = np.zeros((len(index), SIZE, SIZE, 3), np.uint8)
        image[..., 0] = self.slot[index]
        image[..., 1] = np.array(index)[:, None, None]
        batch = {"image": image, "mask": np.zeros((len(index), SIZE, SIZE), np.int16)}
        if self.classes:
            batch |= {"class_mask": self.true[index].astype(np.uint8), "void": self.void[index]}
        return batch


class Reader(Method):
    """Slots permuted from image to image; the slot vector says the class, with some noise."""

    def encode(self, image):
        ids = (image[:, 0] * 255).round().long()
        turn = (image[:, 1, 0, 0] * 255).round().long()
        attn = one_hot(ids, 4).flatten(1, 2).mT.float()
        classes = (torch.arange(4) + turn.unsqueeze(1)) % 3  # slot s shows class (s + turn) mod 3
        slots = torch.eye(3)[classes] + 0.05 * torch.rand(len(image), 4, 3)
        return SlotOutput(slots, attn)


class Marker(Reader):
    """Marks its background, and describes the rest."""

    def describe(self, image, output):
        background = output.slots.argmax(2) == 0
        return output.slots.masked_fill(background.unsqueeze(2), torch.nan)


@pytest.mark.parametrize("method", [Reader, Marker])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_clusters_find_the_classes(method, batch_size):
    result = evaluate_semantic(method(), Scenes(), class_names=NAMES, rule="clusters", batch_size=batch_size)
    assert result.iou.tolist() == [1, 1, 1]
    assert (result.miou, result.pixel_accuracy) == (1, 1)


def test_rules_differ_as_they_should():
    scores = {rule: evaluate_semantic(Reader(), Scenes(), class_names=NAMES, rule=rule) for rule in RULES}
    assert scores["per_image"].miou == scores["clusters"].miou == 1
    data = Scenes()
    shown, true = data.slot[~data.void], data.true[~data.void]
    expected = [((shown == c) & (true == c)).sum() / ((shown == c) | (true == c)).sum() for c in range(3)]
    assert scores["labels"].iou.tolist() == pytest.approx(expected, abs=1e-12)
    assert scores["labels"].pixel_accuracy == pytest.approx((shown == true).mean(), abs=1e-12)
    assert scores["labels"].miou <= scores["hungarian"].miou < 0.7


def test_without_the_background():
    data = Scenes()
    result = evaluate_semantic(Reader(), data, class_names=NAMES, rule="labels", count_background=False)
    counts = ~data.void & (data.true > 0)
    shown, true = data.slot[counts], data.true[counts]
    expected = [((shown == c) & (true == c)).sum() / ((shown == c) | (true == c)).sum() for c in (1, 2)]
    assert result.iou[1:].tolist() == pytest.approx(expected, abs=1e-12)
    assert result.iou[0].isnan()
    assert result.miou == pytest.approx(sum(expected) / 2, abs=1e-12)
    assert result.pixel_accuracy == pytest.approx((shown == true).mean(), abs=1e-12)
    record = result.record(data="scenes", split="test", checkpoint="none")
    assert record["protocol"] == "semantic-labels-foreground"
    assert "mean over classes over foreground pixels" in record["rules"]


def test_record(tmp_path):
    result = evaluate_semantic(Reader(), Scenes(), class_names=NAMES, rule="labels", num_images=2, seed=3)
    record = result.record(data="scenes", split="test", checkpoint="none")
    assert record["protocol"] == "semantic-labels"
    assert "slot k is class k" in record["rules"]
    assert "attention masks" in record["rules"]
    assert list(record["metrics"]) == ["semantic_miou", "pixel_accuracy", "iou_background", "iou_cat", "iou_dog"]
    assert record["metrics"]["semantic_miou"]["mean"] == pytest.approx(result.iou.mean().item(), abs=1e-12)
    assert math.isnan(record["metrics"]["semantic_miou"]["sem"])
    assert (record["num_images"], record["seed"]) == (2, 3)
    assert write_eval(tmp_path, "semantic", record).is_file()


def test_cluster_slots():
    """Two directions in three images; unused slots and marked ones take no part; length does not count."""
    vectors = torch.tensor([[[1.0, 0], [0, 1]], [[0, 5], [3, 0]], [[9, 9], [0.1, 0]]])
    used = torch.tensor([[True, True], [True, True], [False, True]])
    found = cluster_slots(vectors, used, 2)
    assert found[0, 0] == found[1, 1] == found[2, 1] != found[0, 1] == found[1, 0]
    vectors[0, 0] = torch.nan
    found = cluster_slots(vectors, used, 3)
    assert found[0, 0] == 0
    assert found[1, 0] == found[0, 1] != found[1, 1] == found[2, 1]
    assert found[used].max() == 2
    nothing = cluster_slots(torch.full((2, 1, 3), torch.nan), torch.ones(2, 1, dtype=torch.bool), 3)
    assert nothing.tolist() == [[0], [0]]


def test_mistakes():
    with pytest.raises(UserError, match="no classes, only image, mask"):
        evaluate_semantic(Reader(), Scenes(classes=False), class_names=NAMES)
    with pytest.raises(UserError, match="no rule 'best'"):
        evaluate_semantic(Reader(), Scenes(), class_names=NAMES, rule="best")
    with pytest.raises(UserError, match="no image to evaluate"):
        evaluate_semantic(Reader(), Scenes(), class_names=NAMES, num_images=0)
    with pytest.raises(UserError, match="class id 2; with 2 classes"):
        evaluate_semantic(Reader(), Scenes(), class_names=("cat",), rule="labels")
