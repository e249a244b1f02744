"""Collages through the tasks that need labels: properties of slots, and classes from folders."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from slotworks.data import CollageScenes, Pictures
from slotworks.evaluation import properties
from slotworks.evaluation.properties import TASK as PROPERTIES
from slotworks.evaluation.semantic import TASK as SEMANTIC
from slotworks.evaluation.task import Job
from slotworks.types import Method, SlotOutput

COLORS = {"cups": (250, 10, 10), "hats": (10, 250, 10), "nuts": (10, 10, 250)}


class ByColor(Method):
    """Slots of the background and of three colours; a slot holds which one it is, its middle and its size."""

    def encode(self, image):
        known = torch.tensor([(0.0, 0.0, 0.0), *COLORS.values()]) / 255
        ids = (image[:, None] - known[None, :, :, None, None]).square().sum(2).argmin(1)
        attn = one_hot(ids, 4).movedim(-1, 1).float().flatten(2)
        side = image.shape[-1]
        down, across = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
        mass = attn.sum(2).clamp(min=1)
        place = torch.stack([(attn * axis.flatten()).sum(2) / mass for axis in (across, down)], 2)
        kind = torch.eye(4).expand(len(image), 4, 4)
        return SlotOutput(torch.cat([kind, place, attn.mean(2, keepdim=True).sqrt()], 2), attn)


@pytest.fixture
def collages(tmp_path):
    for name, color in COLORS.items():
        for i in range(8):
            pixels = np.zeros((20, 16, 4), np.uint8)
            pixels[2:-2, 2:-2] = (*color, 255)
            (tmp_path / f"cut/{name}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / f"cut/{name}/{i}.png")
    (tmp_path / "behind").mkdir()
    for i in range(6):
        Image.new("RGB", (30, 30), (4 * i, 4 * i, 4 * i)).save(tmp_path / f"behind/{i}.png")
    sizes = {"image_size": 48, "num_train": 120, "num_val": 20, "num_test": 30}
    where = {"cutouts": str(tmp_path / "cut"), "backgrounds": str(tmp_path / "behind"), "drawn_share": 0.0}
    return CollageScenes(**where, **sizes, min_objects=1, max_objects=2, light=0.0, shadow=0.0)


def test_class_place_and_size_from_slots(collages):
    options = PROPERTIES.read({"size": True, "lr": 0.05, "epochs": 60, "patience": 60})
    job = Job(ByColor(), options)
    [(source, dataset, _)] = PROPERTIES.prepare(job, [collages], "test")
    [result] = PROPERTIES.score(job, source, dataset)
    metrics = {name: value.mean for name, value in result.metrics.items()}
    assert metrics["top1"] > 0.9 > 0.5 > metrics["top1_constant"]
    assert metrics["position_mse"] < 0.5 * metrics["position_mse_constant"]
    assert metrics["size_mse"] < metrics["size_mse_constant"]


def test_of_drawn_scenes_probes_see_so_many_and_no_more(collages, monkeypatch):
    monkeypatch.setattr(properties, "DRAWN", 25)
    for given, count in (({}, 25), ({"num_train_images": 40}, 40), ({"num_train_images": 500}, 120)):
        job = Job(ByColor(), PROPERTIES.read({"epochs": 1, **given}), num_images=4)
        [(source, dataset, _)] = PROPERTIES.prepare(job, [collages], "test")
        [result] = PROPERTIES.score(job, source, dataset)
        assert f"of {count} training images" in result.rules


def test_classes_of_folders_for_semantic_scores(collages):
    job = Job(ByColor(), SEMANTIC.read({"rule": "labels"}))
    [(source, dataset, _)] = SEMANTIC.prepare(job, [collages], "test")
    [result] = SEMANTIC.score(job, source, dataset)
    assert [name for name in result.metrics if name.startswith("iou_")] == [
        "iou_background",
        "iou_cups",
        "iou_hats",
        "iou_nuts",
    ]
    assert min(result.metrics[f"iou_{name}"].mean for name in COLORS) > 0.8


def test_classes_of_own_pictures_for_semantic_scores(collages, tmp_path):
    root = tmp_path / "own"
    (root / "masks").mkdir(parents=True)
    rows = ["file_name,class"]
    for i in range(6):
        name = list(COLORS)[i % 3]
        pixels = np.zeros((48, 48, 3), np.uint8)
        pixels[8:30, 5 * i : 5 * i + 20] = COLORS[name]
        Image.fromarray(pixels).save(root / f"{i}.png")
        Image.fromarray(pixels.any(2).astype(np.uint8)).save(root / f"masks/{i}.png")
        rows.append(f"{i}.png,{name}")
    (root / "classes.csv").write_text("\n".join(rows))
    own = Pictures(root=str(root), image_size=48, mask_size=48, val_fraction=0.0, test_fraction=1.0)
    job = Job(ByColor(), SEMANTIC.read({"rule": "labels"}))
    [(source, dataset, _)] = SEMANTIC.prepare(job, [own], "test")
    [result] = SEMANTIC.score(job, source, dataset)
    assert result.miou == 1
