"""`slotworks label`: masks of classes from clusters, named by the images whose classes are known."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import save_vit

from slotworks.api import untrained
from slotworks.cli import main
from slotworks.configs import recipes
from slotworks.data.scenes import ShapeScenes
from slotworks.data.stores.generated import Generated, read_facts, read_rows
from slotworks.label import label
from slotworks.synthesis.shards import writing_shard
from slotworks.types import MethodConfig, SlotOutput, Untrained, UserError

SIDE = 8
CLASSES = ("red", "blue", "green")


class Colors(Untrained):
    """A slot for each of dark, red and blue pixels; the vector of a slot says which, turned by the image."""

    def encode(self, image):
        red, blue = image[:, 0] > 0.5, image[:, 2] > 0.5
        attn = torch.stack([~red & ~blue, red, blue], 1).float().flatten(2)
        return SlotOutput(torch.eye(3).expand(len(image), 3, 3), attn, grid=(SIDE, SIDE))


class Squares:
    """Images with a square of one or two colours; classes 1 and 2 are red and blue, or exchanged."""

    def __init__(self, count, *, marked=True, seed=0):
        rng = np.random.default_rng(seed)
        self.mask = np.zeros((count, SIDE, SIDE), np.uint8)
        for one in self.mask:
            one[1:4, 1:4], one[5:7, 2:6] = rng.integers(1, 3, 2)
        self.marked = marked

    def __len__(self):
        return len(self.mask)

    def __getitems__(self, indices):
        mask = self.mask[list(indices)]
        colors = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
        return {"image": colors[mask], **({"class_mask": mask} if self.marked else {})}


@pytest.fixture
def method():
    return Colors(MethodConfig())


def test_masks_are_the_classes_of_the_clusters(method, tmp_path):
    """To the pixel, in shards of four; images come back as they went in, and `Generated` opens them."""
    images = Squares(9, marked=False, seed=1)
    how = {"class_names": CLASSES, "num_clusters": 3, "batch_size": 2, "shard_size": 4}
    answer = label(method, images, Squares(5), tmp_path / "out", **how)
    assert (answer["images"], answer["shards"], answer["clusters"], answer["named"]) == (9, 3, 3, 3)
    data = Generated(root=str(tmp_path / "out"), image_size=SIDE, mask_size=SIDE, held_out=0).open("train")
    rows = data.__getitems__(range(9))
    assert np.array_equal(rows["class_mask"], images.mask)
    assert np.array_equal(rows["image"], images.__getitems__(range(9))["image"])
    assert not rows["void"].any()
    shard = tmp_path / "out" / "shard-00002.parquet"
    assert (read_facts(shard)["start"], read_facts(shard)["stop"]) == (8, 9)
    assert read_facts(shard)["class_names"] == list(CLASSES)
    there = sorted(set(images.mask[8].ravel().tolist()) - {0})
    assert read_rows(shard, ("index", "class_ids", "classes")) == [
        {"index": 8, "class_ids": there, "classes": [CLASSES[k - 1] for k in there]}
    ]
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_rows_are_written_as_they_come_below_a_bar(method, tmp_path, monkeypatch):
    """Nine images in batches of two and shards of five: no more than a batch is held. Each bar counts 9 + 5 images."""
    pieces, bars = [], []

    @contextmanager
    def writing(path, facts):
        with writing_shard(path, facts) as write:
            yield lambda rows: pieces.append((path.name, len(rows))) or write(rows)

    @contextmanager
    def progress(what, total):
        counted = []
        yield counted.append
        bars.append((what, total, sum(counted)))

    monkeypatch.setattr("slotworks.label.writing_shard", writing)
    monkeypatch.setattr("slotworks.label.progress", progress)
    label(method, Squares(9), Squares(5), tmp_path / "out", class_names=CLASSES, batch_size=2, shard_size=5)
    first, second = "shard-00000.parquet", "shard-00001.parquet"
    assert pieces == [(first, 2), (first, 2), (first, 1), (second, 2), (second, 2)]
    assert bars == [("segments", 14, 14), ("masks", 14, 14)]


@pytest.mark.parametrize("seed", range(4))
def test_a_cluster_of_no_known_image_gets_no_class(method, tmp_path, seed):
    """Known images are all red: blue pixels are left open (255 in the file, void in the store), whatever number k-means
    gives their cluster."""
    known = Squares(3)
    known.mask[known.mask == 2] = 1
    images = Squares(4, seed=1)
    answer = label(method, images, known, tmp_path / "out", class_names=CLASSES, num_clusters=3, seed=seed)
    assert (answer["clusters"], answer["named"]) == (3, 2)
    rows = Generated(root=str(tmp_path / "out"), image_size=SIDE, mask_size=SIDE, held_out=0).open("train")
    rows = rows.__getitems__(range(4))
    assert np.array_equal(rows["void"], images.mask == 2)
    assert np.array_equal(rows["class_mask"], np.where(images.mask == 1, 1, 0))


def test_what_cannot_be_is_refused(method, tmp_path):
    how = {"class_names": CLASSES}
    with pytest.raises(UserError, match="This data set has no classes, only image; semantic scores need class_mask"):
        label(method, Squares(2), Squares(2, marked=False), tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()
    label(method, Squares(2), Squares(2), tmp_path / "out", **how)
    with pytest.raises(UserError, match="holds shards already; take it away, or choose another --out"):
        label(method, Squares(2), Squares(2), tmp_path / "out", **how)


def test_from_the_shell_to_the_segmenter(tmp_path, monkeypatch, capsys):
    """The miniature's two commands with fewer images: the recipe of the second opens what the first wrote."""
    monkeypatch.chdir(tmp_path)
    vit = save_vit(tmp_path / "vit")
    recipe = recipes()["deep_spectral.scenes_mini"]()
    encoder = replace(recipe.method.encoder, model=str(vit), patch_size=16, feature_dim=32)
    method = replace(recipe.method, encoder=encoder, num_slots=3, num_eigenvectors=3)
    data = replace(recipe.data, num_train=6, num_val=4)
    untrained(replace(recipe, method=method, data=data), tmp_path / "run")
    assert main(["label", "run", "--out", "data/generated/deep_spectral.scenes_mini", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["images"], answer["shards"]) == (6, 1)
    second = recipes()["deep_spectral.scenes_stage2_mini"]()
    second.data.check_method(second.method)
    assert isinstance(second.data.real, ShapeScenes)
    assert second.data.open("train").__getitems__([5])["class_mask"].shape == (1, 64, 64)
    assert main(["label", "run", "--out", "data/generated/deep_spectral.scenes_mini"]) == 2
    assert "holds shards already" in capsys.readouterr().err
