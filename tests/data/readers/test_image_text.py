"""Pairs of images and texts: tar files of WebDataset, Parquet, what is damaged, superpixels beside them."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from slotworks.configs import find, recipes
from slotworks.data.readers.image_text import ImageText
from slotworks.data.readers.pair_shards import TarShard
from slotworks.data.scenes import PaintedScenes, ShapeScenes
from slotworks.methods import TinyCLIPConfig
from slotworks.nn.superpixels import felzenszwalb, most_frequent
from slotworks.training import Run, train
from slotworks.training.checkpoint import load_checkpoint
from slotworks.types import UserError, to_batch


def picture(level, size=(40, 24)):
    out = io.BytesIO()
    Image.new("RGB", size, (level, 0, 255 - level)).save(out, "PNG")
    return out.getvalue()


def save_tar(file, pairs):
    with tarfile.open(file, "w") as opened:
        for name, content in pairs:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Two tar files: five pairs, a picture without a text, and addresses in a Parquet file beside, as img2dataset."""
    (tmp_path / "more").mkdir()
    first = [(f"00000{k}.png", picture(10 * k)) for k in range(3)] + [("000009.jpg", picture(9))]
    first += [(f"00000{k}.txt", f"text {k}\n".encode()) for k in range(3)]
    save_tar(tmp_path / "00000.tar", first)
    second = [(f"{k}.png", picture(10 * k)) for k in (3, 4)]
    second += [("3.json", json.dumps({"caption": "größe 3", "url": "x"}).encode()), ("4.txt", b"text 4")]
    save_tar(tmp_path / "more/00001.tar", second)
    parquet.write_table(pa.table({"url": ["x"]}), tmp_path / "00000.parquet")
    return tmp_path


def texts(batch):
    return [bytes(row).rstrip(b"\0").decode() for row in batch["caption"]]


def test_tar_files(shards):
    data = ImageText(root=str(shards), image_size=16, held_out=1)
    train, test = data.open("train"), data.open("test")
    assert (len(train), len(test)) == (4, 1)
    batch = train.__getitems__([3, 0, 2])
    assert texts(batch) == ["größe 3", "text 0", "text 2"]
    assert batch["image"].shape == (3, 16, 16, 3)
    assert batch["image"][:, 8, 8].tolist() == [[30, 0, 225], [0, 0, 255], [20, 0, 235]]
    assert texts(test.__getitems__([0])) == ["text 4"]
    assert data.name == shards.name


def test_parquet(tmp_path):
    """Row groups of two; bytes as they are, and as `datasets` writes pictures."""
    images = [{"bytes": picture(10 * k), "path": None} for k in range(5)]
    table = pa.table({"Image": images, "text": [f"text {k}" for k in range(4)] + [None]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    parquet.write_table(pa.table({"jpg": [picture(90)], "caption": ["last"]}), tmp_path / "b.parquet")
    data = ImageText(root=str(tmp_path), image_size=8, held_out=0).open()
    batch = data.__getitems__([5, 1, 4, 0])
    assert texts(batch) == ["last", "text 1", "", "text 0"]
    assert batch["image"][:, 4, 4, 0].tolist() == [90, 10, 40, 0]


@pytest.fixture
def coco(tmp_path):
    """Three pictures with five captions in all, not in their order, as the official archives unpack."""
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for k in (1, 2, 3):
        (tmp_path / f"train2017/{k:012d}.jpg").write_bytes(picture(80 * k))
    images = [{"id": k, "file_name": f"{k:012d}.jpg", "width": 40, "height": 24} for k in (3, 1, 2)]
    rows = [(7, 2, "two"), (5, 3, "three "), (9, 1, "one b"), (2, 1, "one a"), (8, 2, "two again")]
    rows = [{"id": number, "image_id": image, "caption": caption} for number, image, caption in rows]
    file = tmp_path / "annotations/captions_train2017.json"
    file.write_text(json.dumps({"images": images, "annotations": rows}))
    (tmp_path / "annotations/captions_val2017.json").write_text("{}")  # not looked at
    return file


def test_captions_of_coco(coco):
    root = coco.parents[1]
    for place in (root, coco):
        data = ImageText(root=str(place), image_size=8, held_out=0).open()
        batch = data.__getitems__([4, 0, 1, 2, 3])
        assert texts(batch) == ["three", "one a", "one b", "two", "two again"]
        assert batch["image"][:, 4, 4, 0].tolist() == [240, 80, 80, 160, 160]
    (root / "images").mkdir()
    (root / "train2017").rename(root / "images/train2017")
    assert len(ImageText(root=str(root), held_out=0).open()) == 5
    save_tar(root / "0.tar", [("0.png", picture(0)), ("0.txt", b"web")])
    assert len(ImageText(root=str(root), held_out=0).open()) == 6
    (root / "images/train2017/000000000002.jpg").unlink()
    with pytest.raises(
        UserError, match=r"lacks 1 of the pictures that captions_train2017\.json names, such as 0+2\.jpg"
    ):
        ImageText(root=str(root)).open()
    (root / "annotations/captions_train2014.json").write_bytes(coco.read_bytes())
    with pytest.raises(UserError, match="may caption the same pictures; give one of them as root"):
        ImageText(root=str(root)).open()
    coco.write_text('{"images": [], "annotations": [{"id": 1, "image_id": 1}]}')
    with pytest.raises(UserError, match="damaged or not in the form of COCO's captions"):
        ImageText(root=str(coco)).open()


@pytest.mark.parametrize("name", ["clippy.painted_mini", "seg_clip.painted_mini", "ov_segmentor.painted_mini"])
def test_methods_train_on_captions_of_coco(coco, tmp_path, name):
    """Two steps of each, as the published recipes read pairs, of towers that need no downloads."""
    published = recipes()[name.replace("painted_mini", "coco")]().data
    data = replace(published, root=str(coco.parents[1]), image_size=64, real=PaintedScenes(num_val=2))
    data = replace(data, superpixels=8 if data.superpixels else 0)
    run = replace(find(name)(), data=data, steps=2, batch_size=4, precision="32", channels_last=False, eval_every=1000)
    result = train(run, tmp_path / "run")
    assert result.step == 2
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["total"]) for line in lines if "total" in line)


def test_places_are_looked_up_once(shards, monkeypatch):
    """The second opening reads no tar file but the one that changed, and finds the same pairs."""
    data = ImageText(root=str(shards), image_size=16, held_out=0)
    before = texts(data.open().__getitems__(range(5)))
    listed = []
    listing = TarShard._look
    monkeypatch.setattr(TarShard, "_look", lambda shard: listed.append(shard.file.name) or listing(shard))
    assert texts(data.open().__getitems__(range(5))) == before
    assert listed == []
    save_tar(shards / "more/00001.tar", [("3.png", picture(30)), ("3.txt", b"another text")])
    assert texts(data.open().__getitems__(range(4))) == [*before[:3], "another text"]
    assert listed == ["00001.tar"]


def test_windows_change_from_epoch_to_epoch(tmp_path):
    """Of the same pair in the same epoch they are equal; validation sees the middle square."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    save_tar(
        tmp_path / "0.tar",
        [(f"{k}{end}", content) for k in range(3) for end, content in ((".png", out.getvalue()), (".txt", b"x"))],
    )
    plain = ImageText(root=str(tmp_path), image_size=16, held_out=1)
    changed = replace(plain, crop="window", areas=(0.2, 0.6), flip=True, changes=True, erased_share=1.0)
    train, test = changed.open(), changed.open("test")
    first, again, later, other = (train.__getitems__([index])["image"] for index in (0, 0, 2, 1))
    assert np.array_equal(first, again)
    assert all(np.abs(one.astype(int) - first).mean() > 5 for one in (later, other))
    assert np.array_equal(test.__getitems__([0])["image"], plain.open("test").__getitems__([0])["image"])
    batch = to_batch(train.__getitems__([0, 1]))
    assert (changed.augment(batch)["image"] != batch["image"]).flatten(1).any(1).all()
    assert plain.augment(batch)["image"] is batch["image"]


def test_a_killed_training_goes_on_at_the_same_pair(tmp_path):
    """kill -9 after step 5 of 8 with a reading process, in the second epoch of eight pairs; the rest is the same."""
    pairs = [
        (f"{k}{end}", content) for k in range(8) for end, content in ((".png", picture(30 * k)), (".txt", b"a %d" % k))
    ]
    save_tar(tmp_path / "0.tar", pairs[:10])
    save_tar(tmp_path / "1.tar", pairs[10:])
    command = [sys.executable, __file__, str(tmp_path), str(tmp_path / "parts"), "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for folder in ("parts", "whole"):
        training(str(tmp_path), tmp_path / folder)
    whole, parts = (
        load_checkpoint(tmp_path / folder / "checkpoints/last.safetensors") for folder in ("whole", "parts")
    )
    assert (whole.step, parts.step) == (8, 8)
    assert all(torch.equal(whole.model[name], parts.model[name]) for name in whole.model)
    assert json.loads((tmp_path / "parts/env.json").read_text())["from_step"] == 4


def training(root, folder, die_at=""):
    """A small CLIP on the shards below `root`; the process dies after that step."""
    words = ("a", "b")
    method = TinyCLIPConfig(
        words=words,
        image_size=16,
        patch_size=8,
        hidden_dim=8,
        num_layers=1,
        num_heads=1,
        text_dim=8,
        text_layers=1,
        text_heads=1,
        max_tokens=8,
        embed_dim=8,
    )
    data = ImageText(root=root, image_size=16, crop="window", areas=(0.2, 1.0), flip=True, held_out=0)
    settings = {"steps": 8, "batch_size": 3, "num_workers": 1, "save_every": 2, "eval_every": 1000, "log_every": 1}

    def die(step, values):
        if str(step) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(Run(method=method, data=data, tensorboard=False, **settings), folder, on_log=die)


def test_a_damaged_picture_is_passed_over(tmp_path):
    pairs = [("0.png", picture(0)), ("0.txt", b"zero"), ("1.png", picture(10)[:30]), ("1.txt", b"one")]
    save_tar(tmp_path / "0.tar", [*pairs, ("2.png", picture(20)), ("2.txt", b"two")])
    data = ImageText(root=str(tmp_path), image_size=8, held_out=0).open()
    assert texts(data.__getitems__([1, 2, 0])) == ["two", "two", "zero"]
    save_tar(tmp_path / "0.tar", pairs[2:])
    with pytest.raises(UserError, match=r"pairs in a row, from number 0 on, cannot be read; get the shard again"):
        ImageText(root=str(tmp_path), image_size=8, held_out=0).open().__getitems__([0])


def test_superpixels_and_real_images(shards):
    scenes = ShapeScenes(num_test=2)
    data = ImageText(root=str(shards), image_size=16, crop="whole", real=scenes, superpixels=8)
    assert len(data.open()) == 5
    assert len(data.open("test")) == 2
    assert data.shown("val") is scenes
    batch = data.open().__getitems__([1, 2])
    expected = most_frequent(felzenszwalb(batch["image"][0], scale=16, min_size=16), 8)
    assert np.array_equal(batch["superpixels"][0], expected)
    assert batch["superpixels"].shape == (2, 2, 2)


def test_mistakes(tmp_path):
    def opening(**options):
        return ImageText(root=str(tmp_path), image_size=8, **options).open()

    with pytest.raises(UserError, match=r"holds no \*\.tar, no \*\.parquet and no captions_train\*\.json"):
        opening()
    (tmp_path / "0.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(UserError, match=r"0\.tar cannot be read as a tar file"):
        opening()
    save_tar(tmp_path / "0.tar", [("0.png", picture(0))])
    with pytest.raises(UserError, match=r"holds no pair: expected are images such as"):
        opening()
    save_tar(tmp_path / "0.tar", [("0.png", picture(0)), ("0.json", b"{}")])
    with pytest.raises(UserError, match=r"holds a \.json without a caption or text"):
        opening(held_out=0).__getitems__([0])
    with pytest.raises(UserError, match="none is left for the split 'train'"):
        opening()
    (tmp_path / "0.tar").unlink()
    parquet.write_table(pa.table({"url": ["x"]}), tmp_path / "0.parquet")
    with pytest.raises(UserError, match="has no column of images: it has url"):
        opening()
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        opening()
    (tmp_path / "0.parquet").unlink()
    (tmp_path / "0.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"0\.zip is no file of pairs; expected \*\.tar, \*\.parquet or COCO's"):
        ImageText(root=str(tmp_path / "0.zip")).open()
    with pytest.raises(ValueError, match="expected two shares above 0, the larger one last"):
        ImageText(areas=(0.9, 0.5))
    with pytest.raises(ValueError, match="which do not fill an image of 224"):
        ImageText(superpixels=15)


if __name__ == "__main__":
    training(*sys.argv[1:])
