"""The recipes for own photographs with the real encoder: `SLOTWORKS_DINOV2=FOLDER` names DINOv2 ViT-S/14.

`SLOTWORKS_CUTOUTS=FOLDER` names cut-outs with transparency to make collages of; without it the test draws some.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from slotworks.configs import dinosaur, feature_kmeans
from slotworks.data import CollageScenes
from slotworks.data.stores.features import CachedFeatures
from slotworks.encoders import ViTEncoder
from slotworks.evaluation.discovery import evaluate_discovery
from slotworks.training import load_method, train

TEST_IMAGES = 60
MARGIN = {"fg_ari": 8.0, "mbo_i": 5.0}  # drawn cut-outs: 20 and 14; three seeds on photographed ones: 12 and 7


@pytest.fixture(scope="module")
def dinov2():
    folder = os.environ.get("SLOTWORKS_DINOV2", "")
    if not (Path(folder) / "config.json").is_file():
        pytest.skip("the environment variable SLOTWORKS_DINOV2 names no folder with DINOv2 ViT-S/14")
    return replace(dinosaur.photos_mlp().method.encoder, model=folder)


def draw_cutouts(folder):
    """Twenty-four blobs with a texture each, six in each of four classes; soft edges."""
    rng = np.random.default_rng(0)
    for k in range(24):
        side = 160
        points = [
            (80 + r * np.cos(a), 80 + r * np.sin(a))
            for a, r in zip(np.linspace(0, 2 * np.pi, 9)[:-1], rng.uniform(35, 78, 8), strict=True)
        ]
        alpha = Image.new("L", (side, side))
        ImageDraw.Draw(alpha).polygon(points, fill=255)
        alpha = alpha.filter(ImageFilter.GaussianBlur(2))
        color, other = rng.uniform(20, 235, (2, 3))
        down, across = np.mgrid[:side, :side]
        waves = np.sin((down * rng.uniform(-1, 1) + across * rng.uniform(-1, 1)) / rng.uniform(2, 6))[..., None] > 0
        texture = np.where(waves, color, other) + rng.normal(0, 8, (side, side, 1))
        image = Image.fromarray(texture.clip(0, 255).astype(np.uint8))
        image.putalpha(alpha)
        path = folder / f"class_{k % 4}" / f"{k}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)


@pytest.fixture(scope="module")
def collages(tmp_path_factory):
    folder = os.environ.get("SLOTWORKS_CUTOUTS", "")
    if not folder:
        folder = tmp_path_factory.mktemp("cutouts")
        draw_cutouts(folder)
    return CollageScenes(cutouts=str(folder), num_train=300, num_test=TEST_IMAGES, min_objects=2, max_objects=5)


class Features:
    """Test images as features: the encoder runs over them once, for all that is scored."""

    def __init__(self, encoder, dataset):
        raw = dataset.__getitems__(range(TEST_IMAGES))
        image = torch.from_numpy(raw["image"]).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            self.known = torch.cat([encoder(piece) for piece in image.split(20)])
        self.mask = raw["mask"]

    def __len__(self):
        return TEST_IMAGES

    def __getitems__(self, indices):
        numbers = np.zeros((len(indices), 224, 224, 3), np.uint8) + np.array(indices, np.uint8)[:, None, None, None]
        return {"image": numbers, "mask": self.mask[list(indices)]}

    def encoder(self, image):
        """In the place of a method's encoder: the features of the images whose numbers the pixels are."""
        return self.known[(255 * image[:, 0, 0, 0]).round().long()]


def test_features_are_those_of_transformers(dinov2):
    """Behind the last norm, without the class token; the released code's way to interpolate positions differs."""
    transformers = pytest.importorskip("transformers")
    image = torch.rand(1, 3, 518, 518)  # the size of the stored positions: nothing is interpolated
    network = transformers.AutoModel.from_pretrained(dinov2.model).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (dinov2.mean, dinov2.std))
    with torch.no_grad():
        expected = network((image - mean) / std).last_hidden_state[:, 1:]
        found = ViTEncoder(replace(dinov2, image_size=518))(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow  # two minutes for 360 images and 500 steps on a free CPU core
def test_slots_beat_k_means_on_collages(dinov2, collages, tmp_path):
    run = dinosaur.photos_mlp()
    run = replace(
        run,
        method=replace(run.method, encoder=dinov2),
        data=CachedFeatures(images=collages, encoder=dinov2, root=str(tmp_path / "features")),
        optimizer=run.optimizer,
        steps=500,
        eval_every=500,
        save_every=500,
        log_every=250,
        tensorboard=False,
    )
    train(run, tmp_path / "run")
    test = Features(ViTEncoder(dinov2), collages.open("test"))
    slots = load_method(tmp_path / "run")
    means = replace(feature_kmeans.photos().method, encoder=dinov2).build()
    scores = {}
    for name, method in (("slots", slots), ("k-means", means)):
        method.encoder.forward = test.encoder
        result = evaluate_discovery(method, test, protocol="oclf[attention]", batch_size=30)
        scores[name] = {metric: 100 * value.mean for metric, value in result.metrics.items()}
    print({name: {one: round(found[one], 1) for one in ("fg_ari", "mbo_i", "ari")} for name, found in scores.items()})
    assert scores["slots"]["fg_ari"] > scores["k-means"]["fg_ari"] + MARGIN["fg_ari"]
    assert scores["slots"]["mbo_i"] > scores["k-means"]["mbo_i"] + MARGIN["mbo_i"]
