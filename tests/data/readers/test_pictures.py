"""A folder of own pictures of every kind."""

import os

import numpy as np
import pytest
from PIL import Image

from slotworks.data import Pictures
from slotworks.types import UserError, to_batch


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "mine"
    (root / "trip/day one").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(40):
        width, height = generator.integers(1, 90, 2)
        place = root / ("trip/day one" if i % 2 else ".")
        mode, suffix = [("RGB", "jpg"), ("L", "png"), ("RGBA", "webp"), ("CMYK", "jpg"), ("P", "gif")][i % 5]
        picture = Image.new("RGB", (int(width), int(height)), (5 * i, 255 - 5 * i, i))
        picture.convert(mode).save(place / f"photo {i}.{suffix}")
    (root / "notes.txt").write_text("no picture")
    return root


def test_splits_cover_all_pictures_once(folder):
    data = Pictures(root=str(folder), image_size=16)
    assert (data.name, data.size, data.max_objects) == ("pictures", (16, 16), None)
    names = {split: {str(e) for e in data.entries(split)[0]} for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in names.items()} == {"train": 32, "val": 4, "test": 4}
    assert len(set.union(*names.values())) == 40
    for split, found in names.items():
        batch = data.open(split).__getitems__(range(len(found)))
        assert batch["image"].shape == (len(found), 16, 16, 3)
        assert not batch["damaged"].any()
    assert to_batch({"image": batch["image"]})["image"].shape == (4, 3, 16, 16)


def test_the_split_of_a_picture_follows_from_its_name(folder, tmp_path):
    before = Pictures(root=str(folder)).entries("val")[0]
    folder.rename(tmp_path / "elsewhere")
    after = Pictures(root=str(tmp_path / "elsewhere")).entries("val")[0]
    assert [e.relative_to(folder) for e in before] == [e.relative_to(tmp_path / "elsewhere") for e in after]


@pytest.mark.parametrize(("count", "sizes"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (10, [8, 1, 1]), (25, [19, 3, 3])])
def test_small_folders_have_all_splits(tmp_path, count, sizes):
    for i in range(count):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    data = Pictures(root=str(tmp_path), image_size=8)
    assert [len(data.entries(split)[0]) for split in ("train", "val", "test")] == sizes


def test_two_pictures_are_shared_and_a_sentence_says_how(tmp_path, capsys):
    for name in "ab":
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    data = Pictures(root=str(tmp_path), image_size=8)
    train, val, test = (data.entries(split)[0] for split in ("train", "val", "test"))
    assert [len(train), len(val)] == [1, 1]
    assert val == test != train
    assert [len(data.open(split)) for split in ("train", "val", "test")] == [1, 1, 1]
    said = capsys.readouterr().err
    assert "holds 2 pictures: 1 to train on, and for validation and test the other one, the same for both." in said


@pytest.mark.parametrize("count", [5, 15])
def test_so_few_pictures_that_they_show_little(tmp_path, capsys, count):
    for k in range(count):
        Image.new("RGB", (8, 8), (k, k, k)).save(tmp_path / f"{k}.png")
    Pictures(root=str(tmp_path), image_size=8).open("train")
    assert (f"holds {count} pictures: 3 to train on" in " ".join(capsys.readouterr().err.split())) == (count < 15)


def test_a_single_picture_is_for_training(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    data = Pictures(root=str(tmp_path), image_size=8)
    assert data.open("train")[0]["image"].tolist() == np.full((8, 8, 3), (255, 0, 0)).tolist()
    with pytest.raises(UserError, match="holds one picture; training needs two or more"):
        data.open("val")
    assert len(Pictures(root=str(tmp_path), image_size=8, val_fraction=0.0, test_fraction=0.0).entries("train")[0]) == 1


def test_a_folder_that_changed_is_prepared_anew(tmp_path):
    for i in range(5):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    data = Pictures(root=str(tmp_path), image_size=8, val_fraction=0.0, test_fraction=0.0)
    assert len(data.open("train")) == 5
    Image.new("RGB", (9, 9), "white").save(tmp_path / "new.png")
    store = data.open("train")
    assert len(store) == 6
    Image.new("RGB", (9, 9), "black").save(tmp_path / "new.png")
    os.utime(tmp_path / "new.png", ns=(1, 1))
    assert data.open("train")[5]["image"].max() == 0
    assert len([p for p in (tmp_path / "prepared").iterdir() if p.is_dir()]) == 3


def test_random_crops_of_own_pictures(folder):
    data = Pictures(root=str(folder), image_size=16, crop="random")
    row = data.open("train").__getitems__(range(32))
    assert row["image"].shape == (32, 16, 21, 3)
    assert 16 <= row["width"].min() <= row["width"].max() <= 21
    for image, width in zip(row["image"], row["width"], strict=True):
        assert image[:, :width].any()  # no padding inside
        assert not image[:, width:].any()
    batch = data.augment(to_batch(row))
    assert batch["image"].shape == (32, 3, 16, 16)
    assert (batch["image"].amax((1, 2, 3)) > 0).all()
    assert data.open("val")[0]["image"].shape == (16, 16, 3)


def test_damaged_pictures(folder):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    data = Pictures(root=str(folder), image_size=8, val_fraction=0.0, test_fraction=0.0)
    with pytest.raises(UserError, match=r"broken.jpg cannot be read as a picture .* --data.skip-damaged"):
        data.open("train")
    assert (
        len(Pictures(root=str(folder), image_size=8, val_fraction=0.0, test_fraction=0.0, skip_damaged=True).open())
        == 40
    )


def test_where_there_is_nothing(tmp_path):
    with pytest.raises(UserError, match="is not a folder; give one with pictures"):
        Pictures(root=str(tmp_path / "no")).open("train")
    with pytest.raises(UserError, match="No picture found below"):
        Pictures(root=str(tmp_path)).open("train")
    with pytest.raises(ValueError, match="that leave something to train on"):
        Pictures(val_fraction=0.5, test_fraction=0.5)
