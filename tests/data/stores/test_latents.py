"""The cache of features, latents and labels: the right numbers, and another folder when anything changes."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from tiny_models import save_diffusion
from torch.nn.functional import interpolate

from slotworks.data.stores import features
from slotworks.data.stores import latents as module
from slotworks.data.stores.latents import CachedLatents, vae_hash
from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.types import DataConfig, UserError, to_batch

diffusers = pytest.importorskip("diffusers")


@dataclass(frozen=True)
class Labelled(DataConfig):
    """Random pictures of 64 pixels with labels."""

    count: int = 5
    side: int = 64
    shift: int = 0  # added to all labels

    def open(self, split: str = "train"):
        return LabelledSet(self, split)

    @property
    def name(self) -> str:
        return "labelled"

    @property
    def size(self) -> tuple[int, int]:
        return self.side, self.side


class LabelledSet:
    def __init__(self, config, split):
        self.config, self.split = config, split

    def __len__(self):
        return self.config.count

    def __getitems__(self, indices):
        rows = {"image": [], "mask": [], "void": []}
        for index in indices:
            generator, side = np.random.default_rng(int(index)), self.config.side
            rows["image"].append(generator.integers(0, 256, (side, side, 3), np.uint8))
            rows["mask"].append(generator.integers(0, 4, (16, 16)) + self.config.shift)
            rows["void"].append(generator.random((16, 16)) < 0.2)
        return {name: np.stack(values) for name, values in rows.items()}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    vit = tmp_path_factory.mktemp("vit")
    transformers.ViTModel(
        transformers.ViTConfig(image_size=32, patch_size=8, **sizes), add_pooling_layer=False
    ).save_pretrained(vit)
    return ViTConfig(str(vit), image_size=32, patch_size=8, feature_dim=12), save_diffusion(
        tmp_path_factory.mktemp("sd")
    )


@pytest.fixture
def config(networks, tmp_path):
    vit, diffusion = networks
    return CachedLatents(Labelled(), vit, root=str(tmp_path), diffusion=str(diffusion), latent_size=64, batch_size=2)


def test_stored_are_features_moments_and_labels(config, networks):
    store = config.open("train")
    batch = config.augment(to_batch(store.__getitems__(range(5))))
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "features": (5, 16, 12),
        "latents": (5, 8, 8, 8),
        "mask": (5, 16, 16),
        "void": (5, 16, 16),
    }
    raw = Labelled().open().__getitems__(range(5))
    image = to_batch(raw)["image"]
    small = interpolate(image, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(batch["features"], ViTEncoder(networks[0])(small), rtol=1e-3, atol=2e-3)
    vae = diffusers.AutoencoderKL.from_pretrained(networks[1] / "vae")
    torch.testing.assert_close(batch["latents"], vae.encode(2 * image - 1).latent_dist.parameters.detach())
    assert np.array_equal(batch["mask"].numpy(), raw["mask"])
    assert np.array_equal(batch["void"].numpy(), raw["void"])
    assert batch["mask"].dtype == torch.int64
    assert store.arrays["mask"].dtype == np.uint8  # one byte for each pixel on the disk
    assert config.open("val").split == "val"
    assert config.source_images == Labelled()


def test_mirrored_copies_have_mirrored_labels(config):
    flipped = replace(config, flips=True)
    rows = flipped.open("train").__getitems__(range(10))
    for name in ("mask", "void"):
        assert np.array_equal(rows[name][5:], rows[name][:5, :, ::-1])
    vae = diffusers.AutoencoderKL.from_pretrained(config.diffusion + "/vae")
    image = to_batch(Labelled().open().__getitems__(range(5)))["image"].flip(-1)
    wanted = vae.encode(2 * image - 1).latent_dist.parameters.detach().numpy()
    np.testing.assert_allclose(rows["latents"][5:], wanted, rtol=1e-4, atol=1e-4)


def test_another_folder_for_other_labels_networks_and_sizes(config, networks, tmp_path):
    dataset = config.images.open()
    other = save_diffusion(tmp_path / "other", seed=1)
    assert vae_hash(str(other)) != vae_hash(config.diffusion)
    changed = [
        config,
        replace(config, latent_size=32),
        replace(config, labels=("mask",)),
        replace(config, diffusion=str(other)),
        replace(config, dtype="bfloat16"),
    ]
    paths = [one.store_path(one.key(dataset)) for one in changed]
    shifted = replace(config, images=Labelled(shift=1))
    paths.append(shifted.store_path(shifted.key(shifted.images.open())))
    assert len(set(paths)) == 6
    moved = replace(config, diffusion=str(save_diffusion(tmp_path / "moved")))  # the same weights elsewhere
    assert moved.store_path(moved.key(dataset)) == paths[0]


def test_interrupted_and_continued_it_has_the_same_bytes(config, tmp_path, monkeypatch):
    whole = replace(config, root=str(tmp_path / "whole")).open("train")
    cut = replace(config, root=str(tmp_path / "cut"))
    monkeypatch.setattr(features, "write_store", partial(features.write_store, chunk_bytes=1))
    seen = []
    stored = module._stored_map

    def dying(values, name):
        seen.append(name)
        if len(seen) > 2:
            raise KeyboardInterrupt
        return stored(values, name)

    monkeypatch.setattr(module, "_stored_map", dying)
    with pytest.raises(KeyboardInterrupt):
        cut.open("train")
    started = []

    def noting(values, name):
        started.append(name)
        return stored(values, name)

    monkeypatch.setattr(module, "_stored_map", noting)
    continued = cut.open("train")
    for name in ("features", "latents", "mask", "void"):
        assert (whole.path / f"{name}.npy").read_bytes() == (continued.path / f"{name}.npy").read_bytes()
    assert started == ["mask", "void"] * 2  # of three batches the first was safe


def test_a_finished_store_is_read_without_any_network(config, monkeypatch):
    config.open("train")

    def forbidden(*args):
        raise AssertionError

    monkeypatch.setattr(CachedLatents, "computation", forbidden)
    assert len(config.open("train")) == 5


def test_what_cannot_be_cached_is_said(config):
    with pytest.raises(UserError, match="give images of the larger of both"):
        replace(config, images=Labelled(side=32)).open("train")
    with pytest.raises(UserError, match="only 0 to 255 can be cached"):
        replace(config, images=Labelled(shift=300)).open("train")
    with pytest.raises(UserError, match="The part vae of"):
        replace(config, diffusion=config.root).open("train")
