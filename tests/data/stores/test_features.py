"""The feature cache: the right features, never stale ones, and the same bytes after a kill."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import transformers

from slotworks.data.scenes import SpriteScenes
from slotworks.data.stores import features as module
from slotworks.data.stores.features import CachedFeatures
from slotworks.data.stores.prepared import PreparedData
from slotworks.data.stores.store import Store, _Writer
from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.nn.noise import batch_uniform
from slotworks.nn.resize import resize
from slotworks.training import Run, train
from slotworks.training.serialize import from_yaml, to_yaml
from slotworks.types import DataConfig, Dataset, Method, MethodConfig, UserError, to_batch

fork = multiprocessing.get_context("fork")
COUNT = 11


@dataclass(frozen=True)
class Grains(DataConfig):
    """Random images of 32 x 32 pixels."""

    count: int = COUNT
    seed: int = 0
    side: int = 32

    def open(self, split: str = "train") -> Dataset:
        return NoiseSet(self, split)

    @property
    def name(self) -> str:
        return "noise/one"

    @property
    def size(self) -> tuple[int, int]:
        return self.side, self.side

    @property
    def max_objects(self) -> int | None:
        return 3


class NoiseSet:
    def __init__(self, config, split):
        self.config, self.split = config, split

    def __len__(self):
        return self.config.count

    def __getitems__(self, indices):
        side = self.config.side
        drawn = [
            np.random.default_rng([self.config.seed, i]).integers(0, 256, (side, side, 3), np.uint8) for i in indices
        ]
        return {"image": np.stack(drawn), "mask": np.zeros((len(drawn), side, side), np.uint8)}


@dataclass(frozen=True)
class Stored(PreparedData):
    """Prepared noise; the first `first` rows are the training split."""

    root: str = "data/stored"
    seed: int = 0
    first: int = 6

    @property
    def name(self) -> str:
        return "stored"

    @property
    def size(self) -> tuple[int, int]:
        return 32, 32

    @property
    def store_name(self) -> str:
        return "stored-32"

    def source(self):
        return {"name": "a file"}

    def rows(self, start=0):
        for i in range(start, 9):
            yield {
                name: value[0] for name, value in NoiseSet(Grains(seed=self.seed), "train").__getitems__([i]).items()
            }

    def split_rows(self, store, split):
        return np.arange(self.first)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    settings = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, image_size=32, patch_size=8
    )
    transformers.Dinov2Model(settings).save_pretrained(folder)
    return ViTConfig(str(folder), image_size=32, patch_size=8, feature_dim=32)


@pytest.fixture
def cache(network, tmp_path):
    return CachedFeatures(Grains(), network, root=str(tmp_path / "features"), batch_size=4)


def stores(cache):
    return sorted(path.name for path in module.Path(cache.root).iterdir() if not path.name.startswith("."))


def contents(cache):
    (name,) = stores(cache)
    return {file.name: file.read_bytes() for file in (module.Path(cache.root) / name).iterdir()}


def batch_of(cache, indices):
    return cache.augment(to_batch(cache.open().__getitems__(indices)))


def computed(cache, indices, *, flip=False):
    image = to_batch(cache.images.open().__getitems__(indices))["image"]
    return ViTEncoder(cache.encoder)(image.flip(-1) if flip else image)


# ---- what comes out ------------------------------------------------------------------------------------------------


def test_features_of_float16(cache):
    """Within half a unit in the eleventh binary digit of what the encoder gives for the image."""
    batch, wanted = batch_of(cache, [7, 0, 10]), computed(cache, [7, 0, 10])
    assert list(batch) == ["features"]
    assert batch["features"].shape == (3, 16, 32)
    assert batch["features"].dtype == torch.float32
    error = (batch["features"] - wanted).abs()
    assert (error <= wanted.abs() * 2**-11 + 1e-5).all()
    assert error.max() > 0
    assert len(cache.open()) == COUNT


def test_features_of_bfloat16(cache):
    """bfloat16 travels as int16 and comes back bit by bit."""
    cache = replace(cache, dtype="bfloat16")
    stored = cache.open().__getitems__([3, 8])["features"]
    assert stored.dtype == np.int16
    wanted = computed(cache, [0, 1, 2, 3])[3:].bfloat16()
    found = batch_of(cache, [3, 8])["features"]
    torch.testing.assert_close(found[:1], wanted.float(), rtol=2**-7, atol=1e-6)
    assert torch.equal(found.bfloat16().view(torch.int16), torch.from_numpy(np.array(stored)))


def test_flips_are_the_features_of_mirrored_images(cache):
    cache = replace(cache, flips=True)
    dataset = cache.open()
    assert len(dataset) == 2 * COUNT
    indices = list(range(COUNT))
    plain, mirrored = batch_of(cache, indices)["features"], batch_of(cache, [COUNT + i for i in indices])["features"]
    torch.testing.assert_close(plain, computed(cache, indices), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mirrored, computed(cache, indices, flip=True), rtol=1e-3, atol=1e-4)
    assert (mirrored - plain).abs().max() > 0.1


def test_the_last_bits_do_not_depend_on_where_the_reading_starts(cache):
    """Row 5 comes out of the batch of rows 4 to 7, also when only it and the following ones are asked for."""
    rows = module._Rows(cache, cache.images.open(), module.Path(cache.root))
    module.Path(cache.root).mkdir()
    whole = [row["features"] for row in rows(0)]
    assert len(whole) == COUNT
    for start in (5, 10, 11):
        for row, wanted in zip(rows(start), whole[start:], strict=True):
            np.testing.assert_array_equal(row["features"], wanted)


def test_other_splits_are_the_images(cache):
    assert cache.open("val").split == "val"
    assert set(cache.open("test").__getitems__([0])) == {"image", "mask"}
    assert not module.Path(cache.root).exists()
    assert (cache.name, cache.size, cache.max_objects) == ("noise/one", (32, 32), 3)


def test_settings_survive_yaml(cache):
    cache = replace(cache, flips=True, dtype="bfloat16")
    assert from_yaml(CachedFeatures, to_yaml(cache), source="text") == cache


# ---- never stale, never twice --------------------------------------------------------------------------------------


def no_encoder(config):
    raise AssertionError("the encoder ran")


def test_a_second_opening_computes_nothing(cache, monkeypatch):
    before = batch_of(cache, [1, 2])["features"]
    monkeypatch.setattr(module, "ViTEncoder", no_encoder)
    assert torch.equal(batch_of(cache, [1, 2])["features"], before)
    assert len(stores(cache)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, images=Grains(seed=1)),
        lambda c: replace(c, images=Grains(count=10)),
        lambda c: replace(c, flips=True),
        lambda c: replace(c, dtype="bfloat16"),
        lambda c: replace(c, images=Grains(side=16), encoder=replace(c.encoder, image_size=16)),
        lambda c: replace(c, encoder=replace(c.encoder, features="normed")),
        lambda c: replace(c, encoder=replace(c.encoder, features="keys")),
        lambda c: replace(c, encoder=replace(c.encoder, layer=0)),
        lambda c: replace(c, encoder=replace(c.encoder, mean=(0.5, 0.5, 0.5))),
        lambda c: replace(c, encoder=replace(c.encoder, std=(0.5, 0.5, 0.5))),
    ],
)
def test_any_change_makes_another_store(cache, change):
    cache.open()
    first = stores(cache)
    changed = change(cache)
    changed.open()
    assert len(stores(cache)) == 2
    torch.testing.assert_close(batch_of(changed, [4])["features"], computed(changed, [4]), rtol=2**-7, atol=1e-3)
    cache.open()
    assert set(first) < set(stores(cache))
    assert len(stores(cache)) == 2


def test_one_bit_of_the_weights_makes_another_store(cache, tmp_path):
    cache.open()
    folder = tmp_path / "other"
    shutil.copytree(cache.encoder.model, folder)
    moved = replace(cache, encoder=replace(cache.encoder, model=str(folder)))
    moved.open()
    assert len(stores(cache)) == 1  # where the weights lie does not matter
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    moved.open()
    assert len(stores(cache)) == 2


def test_images_that_are_drawn_differently_make_another_store(cache, monkeypatch):
    """The same settings under another version of the drawing code."""
    cache.open()
    original = NoiseSet.__getitems__
    monkeypatch.setattr(
        NoiseSet, "__getitems__", lambda self, indices: {"image": 255 - original(self, indices)["image"]}
    )
    cache.open()
    assert len(stores(cache)) == 2


def test_prepared_data(network, tmp_path):
    """Other pixels or other rows make another store; other folders, batch sizes and masks do not."""
    cache = CachedFeatures(Stored(root=str(tmp_path / "a")), network, root=str(tmp_path / "features"))
    assert len(cache.open()) == 6
    torch.testing.assert_close(batch_of(cache, [5])["features"], computed(cache, [5]), rtol=1e-3, atol=1e-3)
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = replace(cache, images=Stored(root=str(tmp_path / "b")), batch_size=5)
    moved.open()
    assert len(stores(cache)) == 1
    replace(moved, images=replace(moved.images, first=5)).open()
    assert len(stores(cache)) == 2
    shutil.rmtree(tmp_path / "b")
    replace(moved, images=replace(moved.images, seed=3)).open()
    assert len(stores(cache)) == 3


def test_one_changed_pixel_of_prepared_data(network, tmp_path):
    """The checksum in the index covers every pixel, also of images that are not looked at."""
    cache = CachedFeatures(Stored(root=str(tmp_path / "a")), network, root=str(tmp_path / "features"))
    before = cache.store_path(cache.key(cache.images.open()))
    index = cache.images.store_path / "index.json"
    content = json.loads(index.read_text())
    content["fields"]["image"]["crc32c"] ^= 1
    index.write_text(json.dumps(content))
    assert cache.store_path(cache.key(cache.images.open())) != before


# ---- kills, full disks, several processes --------------------------------------------------------------------------


def in_child(function):
    process = fork.Process(target=function)
    process.start()
    process.join(60)
    return process.exitcode


@pytest.fixture
def small_chunks(monkeypatch):
    """Three rows are made safe at a time, so that safe rows end in the middle of a batch."""
    write = module.write_store
    monkeypatch.setattr(module, "write_store", lambda *args, **kw: write(*args, **kw, chunk_bytes=3 * 16 * 32 * 2))


@pytest.mark.parametrize("batch", range(3))
def test_a_killed_computation_goes_on_with_the_same_bytes(cache, tmp_path, monkeypatch, small_chunks, batch):
    """kill -9 in the first, second and last batch; what is safe is not computed again."""
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    cache.open()
    whole = contents(cache)
    other = replace(cache, root=str(tmp_path / "killed"))
    images, calls = module._Rows._images, []

    def killing(self, indices, device):
        if len(calls) == batch:
            os.kill(os.getpid(), signal.SIGKILL)
        return noting(self, indices, device)

    def noting(self, indices, device):
        calls.append(indices[0])
        return images(self, indices, device)

    monkeypatch.setattr(module._Rows, "_images", killing)
    assert in_child(other.open) == -signal.SIGKILL
    assert stores(other) == []
    monkeypatch.setattr(module._Rows, "_images", noting)
    other.open()
    assert calls == [4 * b for b in range({0: 0, 1: 0, 2: 1}[batch], 3)]  # 0, 3 and 6 rows were safe
    assert contents(other) == whole
    Store(module.Path(other.root) / stores(other)[0]).verify()


def test_several_processes_compute_once(cache, monkeypatch, tmp_path):
    torch.set_num_threads(1)
    images = module._Rows._images

    def noting(self, indices, device):
        (tmp_path / f"computed-{indices[0]}-{os.getpid()}").touch()
        return images(self, indices, device)

    monkeypatch.setattr(module._Rows, "_images", noting)
    processes = [fork.Process(target=cache.open) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("computed-*"))) == 3  # of 11 images in batches of 4
    assert len(stores(cache)) == 1


def test_blocks_that_others_computed_are_taken(cache, tmp_path, monkeypatch):
    """The same bytes, and no row is computed twice; of a block that is missing they are computed."""
    cache.open()
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 4 * cache.row_bytes)
    spread = replace(cache, root=str(tmp_path / "spread"))
    blocks = spread.missing_blocks()
    assert [(block.start, block.stop) for block in blocks] == [(0, 8), (8, COUNT)]
    for block in blocks[::-1]:
        module.compute_block(spread, block.start, block.stop)
    assert spread.missing_blocks() == []
    blocks_folder = next(module.Path(spread.root).glob(".*.blocks"))
    assert sorted(file.name for file in blocks_folder.iterdir()) == ["0.npz", "8.npz"]
    (blocks_folder / "8.npz").unlink()
    arrays, seen = module._Rows.arrays, []

    def watched(self, indices, compute):
        seen.append(int(indices[0]))
        return arrays(self, indices, compute)

    monkeypatch.setattr(module._Rows, "arrays", watched)
    spread.open()
    assert seen == [8]
    assert contents(spread) == contents(cache)
    assert not blocks_folder.exists()
    assert spread.missing_blocks() == []


def test_a_disk_that_is_too_small_is_said_before(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(
        UserError, match=r"features of noise/one need 11.3 kB more in .*, where 10 bytes are free; free"
    ):
        cache.open()


def test_random_crops_beside_the_images(cache):
    """Rows go through all images, then their mirrored copies, then crop after crop; the windows repeat."""
    cropped = replace(cache, flips=True, crops=2, keep_images=True)
    store = cropped.open()
    assert len(store) == 6 * COUNT
    plain = to_batch(cache.images.open().__getitems__([5]))["image"]
    left, top, width, height = module.crop_window(5, 2)
    x0, y0, x1, y1 = int(left * 32), int(top * 32), round((left + width) * 32), round((top + height) * 32)
    window = resize(plain[..., y0:y1, x0:x1], 32)
    rows = [5, COUNT + 5, 4 * COUNT + 5, 5 * COUNT + 5]
    batch = batch_of(cropped, rows)
    for shown, expected in zip(batch["image"], (plain, plain.flip(-1), window, window.flip(-1)), strict=True):
        torch.testing.assert_close(shown, expected[0], rtol=0, atol=0.5 / 255 + 1e-6)
    with torch.no_grad():
        expected = ViTEncoder(cache.encoder)(window)
    torch.testing.assert_close(batch["features"][2:3], expected, rtol=1e-3, atol=2e-3)
    assert replace(cache, flips=True).open().path != store.path
    areas = np.array([module.crop_window(i, 1)[2:] for i in range(300)]).prod(1)
    assert 0.3 < areas.min() < 0.4 < 0.9 < areas.max() <= 1
    with pytest.raises(ValueError, match=r"^data\.crops is -1; it must be 0 or more\.$"):
        replace(cache, crops=-1)


class Counted(np.ndarray):
    """Pixels that are counted while they live."""

    alive = most = 0

    def __new__(cls, values):
        made = np.asarray(values).view(cls)
        Counted.alive += len(made)
        Counted.most = max(Counted.most, Counted.alive)
        weakref.finalize(made, Counted.leave, len(made))
        return made

    @staticmethod
    def leave(count):
        Counted.alive -= count


def test_many_images_need_no_more_memory_than_few(network, tmp_path, monkeypatch, small_chunks):
    """Counted are the images in memory at once, and the rows that wait to be written."""
    plain = NoiseSet.__getitems__
    monkeypatch.setattr(NoiseSet, "__getitems__", lambda self, i: {"image": Counted(plain(self, i)["image"])})
    waiting, add = [], _Writer.add
    monkeypatch.setattr(_Writer, "add", lambda self, row: (waiting.append(len(self.pending)), add(self, row)))
    monkeypatch.setattr(module, "PROBES", 4)
    most = []
    for count in (20, 200):
        Counted.alive = Counted.most = 0
        waiting.clear()
        CachedFeatures(Grains(count), network, root=str(tmp_path / str(count)), batch_size=4).open()
        most.append((Counted.most, max(waiting)))
    assert most[0] == most[1]
    assert most[0][0] <= 2 * 4  # a batch, and the one before it while it is replaced


def test_room_and_time_are_said_before(network, tmp_path, capsys, monkeypatch):
    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    CachedFeatures(Grains(61), network, root=str(tmp_path / "here"), flips=True).open()
    said = " ".join(capsys.readouterr().err.split())
    wanted = "Features of 122 images of noise/one are computed once: 1 MB in"
    assert wanted in said
    assert "about 2 minutes at 1 images a second." in said
    CachedFeatures(Grains(3), network, root=str(tmp_path / "few")).open()
    assert "computed once" not in capsys.readouterr().err


# ---- mistakes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flipping(Grains):
    """Mirrors every second image, or all of them if `always`."""

    always: bool = False

    def augment(self, batch):
        mirrored = batch_uniform((len(batch["image"]), 1, 1, 1)) < (2 if self.always else 0.5)
        return {**batch, "image": torch.where(mirrored, batch["image"].flip(-1), batch["image"])}


def test_images_that_change_at_random_are_refused(cache):
    before = torch.get_rng_state()
    with pytest.raises(UserError, match="are cropped or mirrored at random, so features cannot be cached; set crop to"):
        replace(cache, images=Flipping()).open()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_change_that_is_always_the_same_is_part_of_the_image(cache):
    always = replace(cache, images=Flipping(always=True))
    torch.testing.assert_close(batch_of(always, [2])["features"], computed(cache, [2], flip=True), rtol=1e-3, atol=1e-3)


@dataclass(frozen=True)
class Photos(Grains):
    crop: str = "center"
    flip: bool = False


@pytest.mark.parametrize("settings", [{"crop": "random"}, {"flip": True}])
def test_random_settings_are_refused_before_anything_is_opened(cache, settings):
    replace(cache, images=Photos())
    with pytest.raises(ValueError, match="training images of noise/one are cropped or mirrored at random"):
        replace(cache, images=Photos(**settings))


def test_images_of_another_size(cache):
    with pytest.raises(
        UserError, match="images of noise/one have 40x40 pixels, but the encoder is set to 32; give both"
    ):
        replace(cache, images=Grains(side=40)).open()


def test_images_resized_and_kept(cache):
    """Features of the images at the encoder's size, beside the images at their own; in another folder."""
    images = Grains(side=40)
    kept = replace(cache, images=images, resize=True, keep_images=True)
    batch = batch_of(kept, [3, 1])
    shown = to_batch(images.open("train").__getitems__([3, 1]))["image"]
    torch.testing.assert_close(batch["image"], shown, rtol=0, atol=0.5 / 255 + 1e-6)
    with torch.no_grad():
        expected = ViTEncoder(cache.encoder)(resize(shown, 32))
    torch.testing.assert_close(batch["features"], expected, rtol=1e-3, atol=1e-3)
    plain = replace(cache, images=images, resize=True)
    assert "image" not in batch_of(plain, [3])
    assert plain.row_bytes == kept.row_bytes - 3 * 40 * 40
    mirrored = batch_of(replace(kept, flips=True), [3 + len(images.open("train"))])["image"]
    assert torch.equal(mirrored, batch["image"][:1].flip(-1))


def test_trained_blocks(cache):
    with pytest.raises(ValueError, match="trained_blocks is 1: features that change during training cannot be cached"):
        replace(cache, encoder=replace(cache.encoder, trained_blocks=1))


def test_numbers_that_do_not_fit_float16(cache):
    """They fit bfloat16. A std of 1e-6 multiplies the patches by a million."""
    wide = replace(cache, encoder=replace(cache.encoder, std=(1e-7, 1e-7, 1e-7)))
    with pytest.raises(UserError, match=r"reach \d[.\d]*e\+\d+, which float16 cannot hold; choose bfloat16"):
        wide.open()
    found = batch_of(replace(wide, dtype="bfloat16"), [0])["features"]
    assert 65504 < found.abs().max() < float("inf")


@pytest.mark.parametrize(("settings", "message"), [({"batch_size": 0}, "batch_size is 0; it must be 1 or more")])
def test_settings_that_cannot_be(cache, settings, message):
    with pytest.raises(ValueError, match=message):
        replace(cache, **settings)


# ---- training ------------------------------------------------------------------------------------------------------

STEP = """
import pickle, sys
from pathlib import Path
import torch
from slotworks.slots import GaussianInit, SlotAttention
from slotworks.types import to_batch

cache = pickle.loads(Path(sys.argv[1]).read_bytes())
dataset = cache.open("train")
batch = cache.augment(to_batch(dataset.__getitems__([0, 5, 2])))
slots, decoder = SlotAttention(32, 16), torch.nn.Linear(16, 32)
out = slots(batch["features"], GaussianInit(4, 16)(3))
loss = (torch.einsum("bnp,bnc->bpc", out.attn, decoder(out.slots)) - batch["features"]).square().mean()
loss.backward()
print(float(loss), [name for name in ("transformers", "huggingface_hub", "torchvision") if name in sys.modules])
"""


def test_a_training_step_from_the_cache_imports_no_encoder(network, tmp_path):
    scenes = SpriteScenes(num_train=6)
    encoder = replace(network, image_size=64)
    cache = CachedFeatures(scenes, encoder, root=str(tmp_path / "features"))
    cache.open()
    (tmp_path / "cache").write_bytes(pickle.dumps(cache))
    command = [sys.executable, "-c", STEP, str(tmp_path / "cache")]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    loss, imported = ran.stdout.split(maxsplit=1)
    assert float(loss) > 0
    assert imported.strip() == "[]"


@dataclass(frozen=True)
class ScaleConfig(MethodConfig):
    def build(self):
        return Scale()


class Scale(Method):
    """One number; the loss is the mean square of the features, so that they can be recognised in it."""

    def __init__(self):
        super().__init__()
        self.config = ScaleConfig()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def loss(self, batch, step):
        assert batch["features"].dtype == torch.float32
        return {"square": (self.scale.detach() * batch["features"]).square().mean() + 0 * self.scale}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_training_loop_sees_the_same_features(cache, tmp_path, dtype):
    """Through the loader's collation, `to_batch` and `augment`: an epoch in one batch has the mean of all features."""
    data = replace(cache, dtype=dtype, images=Grains(count=8))
    run = Run(ScaleConfig(), data, steps=2, batch_size=8, log_every=1, tensorboard=False)
    losses = []
    train(run, tmp_path / "run", on_log=lambda step, values: losses.append(values["loss/square"]))
    wanted = computed(data, list(range(8))).square().mean().item()
    assert losses == pytest.approx([wanted] * 2, rel=1e-3)
