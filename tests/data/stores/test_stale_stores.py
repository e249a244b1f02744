"""Stores that were made from other files than those that lie there now, and trees of files as people have them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from test_features import Grains, network  # noqa: F401  (a fixture)
from wire import FIXTURES

from slotworks.data import COCO, VOC, Pictures, Tetrominoes
from slotworks.data.readers.coco import unpack
from slotworks.data.readers.photos import names_in
from slotworks.data.readers.tfrecord import read_examples, write_records
from slotworks.data.stores.features import CachedFeatures
from slotworks.errors import UserError
from slotworks.limits import VARIABLE
from slotworks.methods.dinosaur import DinosaurConfig
from slotworks.training import Run, train

STALE = r"was made from other files than those that lie in .* now \(.*{}.*\)\. Delete or rename this folder to prepare"


@pytest.fixture
def voc(tmp_path):
    shutil.copytree(FIXTURES / "VOCdevkit", tmp_path / "VOCdevkit")
    return tmp_path / "VOCdevkit"


@pytest.fixture
def coco(tmp_path):
    shutil.copytree(FIXTURES / "coco", tmp_path / "coco")
    return tmp_path / "coco"


def small(kind, root, **options):
    return kind(root=str(root), image_size=16, mask_size=16, **options)


# ---- what a store was made from ------------------------------------------------------------------------------------


def test_a_changed_list(voc):
    file = voc / "VOC2012/ImageSets/Segmentation/val.txt"
    before = file.read_text()
    assert len(small(VOC, voc).open("val")) == 2
    file.write_text(before.splitlines()[0] + "\n")
    with pytest.raises(UserError, match=STALE.format("images: 2 then, 1 now")):
        small(VOC, voc).open("val")
    file.write_text(before)
    assert len(small(VOC, voc).open("val")) == 2


def test_sbd_that_came_later(voc):
    """With SBD there are 10,582 training images instead of 1,464."""
    (voc / "VOC2012/SegmentationClassAug").rename(voc / "away")
    (voc / "VOC2012/ImageSets/Segmentation/trainaug.txt").unlink()
    assert len(small(VOC, voc).open("train")) == 2
    (voc / "away").rename(voc / "VOC2012/SegmentationClassAug")
    with pytest.raises(UserError, match=STALE.format("images: 2 then, 3 now")):
        small(VOC, voc).open("train")


def test_masks_of_objects_that_came_later(voc):
    """SBD's archive after the folder of many repositories: the same pictures, but now with objects."""
    data = small(VOC, voc, train_masks=True)
    assert "mask" not in data.open("train").arrays
    added = data.entries("trainaug")[0][2]
    with Image.open(data.file(added)) as picture:
        shape = picture.size[::-1]
    sbd = voc / "benchmark_RELEASE/dataset"
    for kind, name in (("inst", "GTinst"), ("cls", "GTcls")):
        (sbd / kind).mkdir(parents=True)
        savemat(sbd / kind / f"{added}.mat", {name: {"Segmentation": np.ones(shape, np.uint8)}})
    (sbd / "train.txt").write_text(added + "\n")
    (sbd / "val.txt").write_text("")
    with pytest.raises(UserError, match=STALE.format("object masks: False then, True now")):
        data.open("train")


def test_changed_annotations(coco, monkeypatch):
    file = coco / "annotations/instances_val2017.json"
    count = len(small(COCO, coco).open("val"))
    monkeypatch.setattr(COCO, "_annotated", lambda *_: pytest.fail("the file was parsed, which takes seconds"))
    assert len(small(COCO, coco).open("val")) == count
    monkeypatch.undo()
    content = json.loads(file.read_text())
    content["annotations"] = content["annotations"][1:]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=STALE.format("crc32c of lists")):
        small(COCO, coco).open("val")


def test_pictures_that_came_later(coco):
    count = len(small(COCO, coco).open("train"))
    shutil.copy(next((coco / "train2017").glob("*.jpg")), coco / "train2017/more.JPG")
    with pytest.raises(UserError, match=STALE.format(f"images: {count} then, {count + 1} now")):
        small(COCO, coco).open("train")


def test_another_official_file(tmp_path):
    source = FIXTURES / "multi_object_datasets/tetrominoes/tetrominoes_train.tfrecords"
    shutil.copy(source, tmp_path)
    data = Tetrominoes(root=str(tmp_path), train_size=2, test_size=1, val_size=1)
    assert len(data.open("train")) == 2
    file = tmp_path / source.name
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(UserError, match=STALE.format(r"bytes: \d+ then, \d+ now")):
        data.open("train")
    file.unlink()  # the store alone is enough
    assert len(data.open("train")) == 2


def test_a_store_without_some_pictures_says_so_every_time(tmp_path, capsys):
    for k in range(3):
        Image.new("RGB", (9, 9), (k, k, k)).save(tmp_path / f"{k}.png")
    (tmp_path / "3.png").write_bytes(b"damaged")
    data = Pictures(root=str(tmp_path), image_size=8, val_fraction=0.0, test_fraction=0.0)
    with pytest.raises(
        UserError, match=r"leave such pictures out, set skip_damaged \(`slotworks train \.\.\. --data.skip-"
    ):
        data.open("train")
    for _ in range(2):
        from slotworks.data.stores.prepared import say

        say.cache_clear()  # as in another process
        assert len(replace(data, skip_damaged=True).open("train")) == 3
        assert "1 damaged of 4 pictures are left out" in " ".join(capsys.readouterr().err.split())


def test_features_are_those_of_the_methods_encoder(network, tmp_path):  # noqa: F811
    cache = CachedFeatures(Grains(), network, root=str(tmp_path))
    cache.check_method(DinosaurConfig(encoder=network))
    moved, other = (Path(shutil.copytree(network.model, tmp_path / name)) for name in ("moved", "other"))
    cache.check_method(DinosaurConfig(encoder=replace(network, model=str(moved))))  # the same weights elsewhere
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(UserError, match=r"method.encoder.model is '.*other' but data.encoder.model .* set both alike"):
        cache.check_method(DinosaurConfig(encoder=replace(network, model=str(other))))
    with pytest.raises(UserError, match=r"method.encoder.image_size is 64 but data.encoder.image_size"):
        cache.check_method(DinosaurConfig(encoder=replace(network, image_size=64)))


def test_training_asks_whether_the_features_fit(network, tmp_path):  # noqa: F811
    run = Run(
        method=DinosaurConfig(encoder=replace(network, position_offset=0.5)),
        data=CachedFeatures(Grains(), network, root=str(tmp_path)),
        steps=1,
        batch_size=1,
    )
    with pytest.raises(UserError, match=r"method.encoder.position_offset is 0.5 but data.encoder.position_offset 0.0"):
        train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- trees as people have them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("deeper", ["VOC2012_train_val", "VOCtrainval_11-May-2012/VOCdevkit"])
def test_voc_unpacked_once_more(voc, tmp_path, deeper):
    (tmp_path / "data" / deeper).mkdir(parents=True)
    (voc / "VOC2012").rename(tmp_path / "data" / deeper / "VOC2012")
    assert len(small(VOC, tmp_path / "data").open("val")) == 2


def test_voc_with_other_endings_and_lists_of_files(voc):
    for picture in (voc / "VOC2012/JPEGImages").glob("*.jpg"):
        picture.rename(picture.with_suffix(".JPG"))
    file = voc / "VOC2012/ImageSets/Segmentation/val.txt"
    names = file.read_text().split()
    pairs = [f"JPEGImages/{name}.jpg SegmentationClass/{name}.png" for name in names]
    file.write_text("\ufeff" + f"{names[0]}.jpg\n{pairs[1]}\n", encoding="utf-8")
    assert names_in(file, "", files=True) == names
    assert len(small(VOC, voc).open("val")) == 2


def test_coco_unpacked_into_folders_of_its_own(coco):
    for name in ("val2017", "annotations"):
        (coco / name).rename(coco / "inner")
        (coco / name).mkdir()
        (coco / "inner").rename(coco / name / name)
    (coco / "val2017/val2017/._0.jpg").write_bytes(b"macOS")
    assert len(small(COCO, coco).open("val")) > 0


def with_change(root, change):
    file = root / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())  # and a mark in front, as Windows writes
    return small(COCO, root)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("category_id", 999, r"annotation \d+ has the category 999, which `categories` does not list; add it there or"),
        ("category_id", 0, r"annotation \d+ has the category 0, which means background here, as files of Roboflow do"),
        ("image_id", 777, r"annotation \d+ belongs to the image 777, which `images` does not list; add it there or"),
    ],
)
def test_annotations_of_nothing_that_is_known(coco, field, value, text):
    data = with_change(coco, lambda content: content["annotations"][0].update({field: value}))
    with pytest.raises(UserError, match=text):
        data.open("val")


def test_a_polygon_of_a_million_corners(tmp_path, monkeypatch):
    corners = np.random.default_rng(0).random((1_000_000, 2)) * (640, 480)
    annotation = {"id": 5, "segmentation": [corners.reshape(-1).tolist()]}
    with pytest.raises(UserError, match=rf"annotation 5 states 1,000,000 corners with an outline of .*{VARIABLE}"):
        unpack(annotation, (640, 480), tmp_path / "a.json")
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)  # a fine outline is none
    circle = np.stack([320 + 200 * np.cos(angle), 240 + 200 * np.sin(angle)], -1)
    mask = unpack({"id": 6, "segmentation": [circle.reshape(-1).tolist()]}, (640, 480), tmp_path / "a.json")
    assert abs(int(mask.sum()) / (np.pi * 200**2) - 1) < 0.01
    with pytest.raises(UserError, match=r"annotation 7 states 90,000 x 90,000 pixels"):
        unpack({"id": 7, "segmentation": []}, (90_000, 90_000), tmp_path / "a.json")


def test_a_record_that_states_to_be_large(tmp_path, monkeypatch):
    write_records(tmp_path / "a.tfrecords", [bytes(2_000_000)])
    monkeypatch.setenv(VARIABLE, "0.001")
    with pytest.raises(UserError, match=rf"record 0 states a length of 2,000,000 bytes, .*{VARIABLE}"):
        list(read_examples(tmp_path / "a.tfrecords"))
