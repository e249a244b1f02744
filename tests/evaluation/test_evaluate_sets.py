"""Evaluation of predicted sets: a method whose predictions are known, and whole runs through the command line."""

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from slotworks import api
from slotworks.cli import main
from slotworks.configs import dspn, set_prediction, slot_mlp
from slotworks.data.scenes import SetScenes
from slotworks.evaluation.masks import inspecting
from slotworks.evaluation.sets import evaluate_sets, follow
from slotworks.metrics.sets import average_precisions
from slotworks.types import Method, MethodConfig, SlotOutput, UserError, to_batch

SCENES = SetScenes(num_train=8, num_val=4, num_test=6)
CATEGORIES = (2, 3, 8)


class Truth:
    """A data set whose pictures are so small that they hold the truth themselves."""

    def __init__(self, count=12):
        self.objects = SetScenes().open("test").__getitems__(range(count))["objects"]

    def __len__(self):
        return len(self.objects)

    def __getitems__(self, indices):
        rows = list(indices)
        image = np.zeros((len(rows), 4, 4, 3), np.uint8)
        image[:, 0, 0, 0] = rows
        return {"image": image, "objects": self.objects[rows]}


@dataclass(frozen=True)
class OracleConfig(MethodConfig):
    categories: tuple[int, ...] = CATEGORIES


class Oracle(Method):
    """Says what is there, in reverse order, each x wrong by `shift`."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.config, self.shift = OracleConfig(), shift
        self.objects = nn.Parameter(torch.from_numpy(Truth().objects).flip(1))

    def encode(self, image):
        assert not torch.is_grad_enabled()
        slots = self.objects[(255 * image[:, 0, 0, 0]).round().long()]
        return SlotOutput(slots, torch.full((*slots.shape[:2], 1), 0.2))

    def predict_set(self, slots):
        shift = torch.zeros(slots.shape[-1])
        shift[0] = self.shift
        return slots + shift


def means(result):
    return {name: summary.mean for name, summary in result.metrics.items()}


def test_the_truth_scores_one_at_every_distance():
    (result,) = evaluate_sets(Oracle(), Truth(), batch_size=5)
    assert means(result) == {"ap_inf": 1, "ap_1": 1, "ap_0.5": 1, "ap_0.25": 1, "ap_0.125": 1}
    assert result.num_images == 12
    assert all(math.isnan(summary.sem) for summary in result.metrics.values())
    assert result.per_image["recall_1"].tolist() == [1] * 12


def test_a_tenth_of_the_image_is_too_far_for_half_a_unit():
    scores = means(evaluate_sets(Oracle(0.1), Truth())[0])  # 0.6 units
    assert scores["ap_1"] == 1
    assert scores["ap_0.5"] == scores["ap_0.125"] == 0


def test_by_number_of_objects():
    everything, *parts = evaluate_sets(Oracle(0.03), Truth(), by_objects=True, thresholds=(math.inf, 0.125))
    objects = torch.from_numpy(Truth().objects)
    counts = (objects[..., -1] > 0).sum(1)
    assert [part.protocol for part in parts] == [f"sets, {n} objects" for n in sorted(set(counts.tolist()))]
    assert sum(part.num_images for part in parts) == everything.num_images == 12
    pred = Oracle(0.03).predict_set(objects)
    for part, count in zip(parts, sorted(set(counts.tolist())), strict=True):
        rows = counts == count
        expected = average_precisions(pred[rows], objects[rows], categories=CATEGORIES, thresholds=(math.inf, 0.125))
        assert means(part) == {"ap_inf": expected[math.inf], "ap_0.125": expected[0.125]}
        record = part.record(data="d", split="test", checkpoint="c")
        assert record["rules"].endswith(f"only images of {count} objects")


def test_by_iterations_in_one_pass():
    """Slots come nearer with each iteration: 0.4, 0.1 and 0 of the width, and all steps are of one call of `encode`."""

    class Nearing(Oracle):
        calls = 0

        def encode(self, image):
            self.calls += 1
            out = super().encode(image)
            far = torch.zeros(out.slots.shape[-1])
            far[0] = 1.0
            steps = (out.slots + 0.4 * far, out.slots + 0.1 * far, out.slots)
            return replace(out, slot_steps=steps)

    method = Nearing()
    how = {"by_iterations": True, "thresholds": (math.inf, 1.0), "batch_size": 4}
    everything, *parts = evaluate_sets(method, Truth(), **how)
    assert method.calls == 3
    assert [part.protocol for part in parts] == [f"sets, iteration {n}" for n in (1, 2, 3)]
    assert means(parts[2]) == means(everything) == {"ap_inf": 1.0, "ap_1": 1.0}
    assert means(parts[0])["ap_1"] < 0.5 < means(parts[1])["ap_1"]
    assert parts[1].rules.endswith("slots after iteration 2 of 3")
    with pytest.raises(UserError, match="Oracle keeps no slots of its iterations; leave --by-iterations out"):
        evaluate_sets(Oracle(), Truth(), by_iterations=True)


def test_objects_are_followed_through_the_iterations():
    """Table 1 of the supplement: after the first every x is 0.1 of the width off and colours are one class further."""

    class Nearing(Oracle):
        def encode(self, image):
            out = super().encode(image)
            far = out.slots.clone()
            far[..., 0] += 0.1
            far[..., 8:16] = far[..., 8:16].roll(1, dims=-1)
            return replace(out, slot_steps=(far, out.slots))

    scenes = SetScenes()
    batch = to_batch(Truth().__getitems__([3, 4]))
    method = Nearing()
    with inspecting(method, seed=0):
        output, found = follow(method, batch, scenes.categories)
    assert len(output.slot_steps) == 2
    for objects, true in zip(found, batch["objects"], strict=True):
        assert len(objects) == int(true[:, -1].sum())
        for (seen, (first, last)), row in zip(objects, true, strict=False):
            assert seen.place == pytest.approx((6 * row[:3] - 3).tolist(), abs=1e-5)
            size, shape, color = (int(row[a:b].argmax()) for a, b in ((3, 5), (5, 8), (8, 16)))
            names = [scenes.categories[name] for name in ("size", "shape", "color")]
            assert seen.classes == (names[0][size], names[1][shape], names[2][color])
            assert (last.distance, last.wrong, last.classes) == (0, (), seen.classes)
            assert first.distance == pytest.approx(0.6, abs=1e-5)
            assert first.wrong == (names[2][(color + 1) % 8],)
            assert str(first).endswith(f") {seen.classes[0]} {seen.classes[1]} **{first.wrong[0]}**")
    with inspecting(method, seed=0), pytest.raises(UserError, match="Oracle keeps no slots of its iterations"):
        follow(Oracle(), batch, scenes.categories)


def test_wrong_methods_and_data():
    class Plain(Method):
        pass

    with pytest.raises(UserError, match="Plain predicts no sets of objects; give a run of set_prediction"):
        evaluate_sets(Plain(), Truth())
    images = Truth()
    images.__class__ = type(
        "Images", (Truth,), {"__getitems__": lambda self, i: {"image": np.zeros((1, 4, 4, 3), "u1")}}
    )
    with pytest.raises(UserError, match="This data set has no objects, only image; give clevr_v1 or set_scenes"):
        evaluate_sets(Oracle(), images)
    other = Truth()
    other.objects = other.objects[..., :-1]
    with pytest.raises(UserError, match=r"Objects of this data set have 16 numbers, but the method predicts 17"):
        evaluate_sets(Oracle(), other)
    with pytest.raises(UserError, match="There is no image to evaluate"):
        evaluate_sets(Oracle(), Truth(), num_images=0)


RECIPES = {"set_prediction": set_prediction, "slot_mlp": slot_mlp, "dspn": dspn}


def tiny(name):
    run = RECIPES[name].scenes_mini()
    encoder = {"channels": 4, "encoder_strides": (4, 4)}
    small = {
        "set_prediction": encoder,
        "slot_mlp": {**encoder, "hidden_dims": (8, 8)},
        "dspn": {
            "encoder_width": 4,
            "encoder_blocks": (1, 1, 1),
            "latent_dim": 16,
            "hidden_dim": 8,
            "num_iterations": 2,
            "test_iterations": None,
            "autoencode_steps": 1,
        },
    }
    method = replace(run.method, **small[name])
    options = {"steps": 2, "batch_size": 2, "eval_every": 2, "save_every": 2, "num_workers": 0, "tensorboard": False}
    return replace(run, method=method, data=SCENES, **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    answers = {name: api.train(tiny(name), base / name) for name in RECIPES}
    return base, answers


@pytest.mark.parametrize("name", RECIPES)
def test_training_reports_average_precision(runs, name):
    base, answers = runs
    names = set(answers[name]["metrics"])
    assert {"ap_inf", "ap_1", "ap_0.5", "ap_0.25", "ap_0.125"} <= names
    assert ("fg_ari" in names) == (name == "set_prediction")  # the others have no attention to score
    assert (answers[name]["verdict"] == "no attention to look at") == (name != "set_prediction")
    lines = (base / name / "metrics.jsonl").read_text().splitlines()
    assert any("eval/ap_inf" in json.loads(line) for line in lines)
    record = json.loads((base / name / "eval/set_scenes_plain-test-sets.json").read_text())
    assert (record["num_images"], record["protocol"]) == (6, "sets")
    assert len(record["per_image"]["recall_1"]) == 6
    assert (base / name / "report.html").is_file()


def test_stopped_and_started_again_gives_the_same_weights(runs, tmp_path):
    base, _ = runs
    for name in RECIPES:
        folder = tmp_path / name
        assert "metrics" not in api.train(tiny(name), folder, stop_after=1)
        api.train(tiny(name), folder)
        weights = [(where / "checkpoints/last.safetensors").read_bytes() for where in (folder, base / name)]
        torch.testing.assert_close(
            *[list(api.load(where)[1].parameters()) for where in (folder, base / name)], rtol=0, atol=0
        )
        assert len(weights[0]) > 0


def test_slots_and_iterations_at_test_time(runs, capsys):
    base, _ = runs
    words = ["evaluate", str(base / "set_prediction"), "--task", "sets", "--json"]
    assert main([*words, "--by-objects", "--set", "method.num-slots=9", "method.num-iterations=5"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert records[0]["rules"].endswith("not as in training: num_slots=9, num_iterations=5")
    counts = sorted(set(SCENES.open("test").__getitems__(range(6))["num_objects"].tolist()))
    assert [record["protocol"] for record in records[1:]] == [f"sets, {n} objects" for n in counts]
    assert sum(record["num_images"] for record in records[1:]) == records[0]["num_images"] == 6
    assert main(["evaluate", str(base / "dspn"), "--task", "sets", "--set", "method.test-iterations=4"]) == 0


@pytest.mark.parametrize("name", ["slot_mlp", "dspn"])
def test_slots_with_weights_of_their_own_cannot_be_more(runs, capsys, name):
    base, _ = runs
    assert main(["evaluate", str(base / name), "--task", "sets", "--set", "method.num-slots=9"]) == 2
    own = tiny(name).method.num_slots
    assert (
        f"was trained with {own} slots and has weights for each of them, so it cannot be run with 9"
        in capsys.readouterr().err
    )


def test_learned_slots_cannot_be_more(runs, tmp_path, capsys):
    run = tiny("set_prediction")
    api.train(replace(run, method=replace(run.method, initializer="per_slot")), tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run"), "--task", "sets", "--set", "method.num-slots=9"]) == 2
    assert "only slots that share one initialiser (method.initializer=gaussian)" in " ".join(
        capsys.readouterr().err.split()
    )


def test_by_objects_belongs_to_sets(runs, capsys):
    base, _ = runs
    assert main(["evaluate", str(base / "dspn"), "--by-objects"]) == 2
    assert "--by-objects belongs to --task sets; the task is discovery" in capsys.readouterr().err
