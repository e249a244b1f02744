"""VOC 2012: pixel counts from photos_truth.json, the computed trainaug, SBD's own files, and what may be wrong."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from wire import FIXTURES

from slotworks.data import VOC
from slotworks.evaluation.discovery import score_masks
from slotworks.types import UserError, to_batch

TRUTH = json.loads((FIXTURES / "photos_truth.json").read_text())["voc"]


@pytest.fixture
def voc(tmp_path):
    shutil.copytree(FIXTURES / "VOCdevkit", tmp_path / "VOCdevkit")
    return tmp_path / "VOCdevkit"


def counts(labels):
    return {str(k): int(n) for k, n in enumerate(np.bincount(np.asarray(labels).reshape(-1))) if n}


@pytest.mark.parametrize("name", ["2099_000001", "2099_000003"])
def test_pixels_of_files(voc, name):
    """4:3 and 1:1 pictures lose nothing when laid out for random crops."""
    data = VOC(root=str(voc), train_masks=True)
    split = "trainaug" if name in TRUTH["splits"]["train"] else "val"
    truth = TRUTH["images"][name]
    with Image.open(data.file(name)) as image:
        width, height = image.size
    if split == "trainaug":
        sized = VOC(root=str(voc), train_masks=True, mask_size=height, crop="random")
    else:
        sized = VOC(root=str(voc), mask_size=height)
    row = sized.labels(split, name, (width, height))
    assert row["void"].shape == (height, width)
    assert int(row["void"].sum()) == truth["void_pixels"]
    for field, known in (("mask", "object_pixels"), ("class_mask", "class_pixels")):
        expected = dict(truth[known])
        void = expected.pop("255")
        expected["0"] += void
        assert counts(row[field]) == expected


@pytest.mark.parametrize("name", ["2099_000002", "2099_000004", "2099_000005"])
def test_pixels_inside_the_central_square(voc, name):
    """Against Pillow's crop of the official files."""
    data = VOC(root=str(voc), train_masks=True)
    split = "trainaug" if name != "2099_000004" else "val"
    with Image.open(data.file(name)) as image:
        width, height = image.size
    side = min(width, height)
    row = VOC(root=str(voc), train_masks=True, mask_size=side).labels(split, name, (width, height))
    left, top = round((width - side) / 2), round((height - side) / 2)
    folder = "SegmentationClassAug" if name == "2099_000005" else "SegmentationClass"
    with Image.open(voc / f"VOC2012/{folder}/{name}.png") as image:
        classes = np.asarray(image.crop((left, top, left + side, top + side)))
    np.testing.assert_array_equal(row["class_mask"], np.where(classes == 255, 0, classes))
    np.testing.assert_array_equal(row["void"], classes == 255)


def test_splits(voc, capsys):
    data = VOC(root=str(voc), image_size=32, mask_size=40)
    assert (data.name, data.size, data.max_objects) == ("voc2012", (32, 32), None)
    assert data.entries("trainaug")[0] == TRUTH["splits"]["trainaug"]
    assert data.entries("val")[0] == TRUTH["splits"]["val"]
    assert [len(data.open(split)) for split in ("train", "val", "test")] == [3, 2, 2]
    said = " ".join(capsys.readouterr().err.split())
    assert "trainaug has 3 images here instead of 10,582: 2 of train.txt and 1 more" in said
    assert "val.txt lists 2 images instead of 1,449" in said
    val = data.open("val").__getitems__([0, 1])
    assert {k: (v.shape, v.dtype) for k, v in val.items()} == {
        "image": ((2, 32, 32, 3), np.uint8),
        "mask": ((2, 40, 40), np.uint8),
        "class_mask": ((2, 40, 40), np.uint8),
        "void": ((2, 40, 40), np.bool_),
        "damaged": ((2,), np.bool_),
    }
    assert sorted(data.open("train")[0]) == ["damaged", "image"]
    assert set(np.unique(val["mask"][1])) == {0, 1, 2, 3}
    for k, category in TRUTH["images"]["2099_000004"]["instance_class"].items():  # the class of every object
        assert set(val["class_mask"][1][val["mask"][1] == int(k)]) == {category}
    assert not val["mask"][val["void"]].any()
    assert VOC().class_names[2] == "bird"
    assert len(VOC().class_names) == 20


def test_images_are_those_of_pillow(voc):
    row = VOC(root=str(voc), image_size=32).open("val")[1]
    with Image.open(voc / "VOC2012/JPEGImages/2099_000004.jpg") as image:  # 96 x 48
        expected = np.asarray(image.resize((64, 32), Image.Resampling.BICUBIC).crop((16, 0, 48, 32)))
    np.testing.assert_array_equal(row["image"], expected)


def test_masks_can_be_scored(voc):
    from slotworks import protocols

    batch = to_batch(VOC(root=str(voc), image_size=32, mask_size=48).open("val").__getitems__([0, 1]))
    truth = {k: batch[k] for k in ("mask", "void", "class_mask")}
    scores = score_masks(protocols.get("oclf"), truth["mask"], truth, num_slots=4)
    assert scores["fg_ari"].values.tolist() == [1.0, 1.0]
    assert scores["mbo_i"].values.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("place", ["VOCdevkit", "above", "VOC2012"])
def test_the_root_may_be_above_or_below(voc, place):
    root = {"VOCdevkit": voc, "above": voc.parent, "VOC2012": voc / "VOC2012"}[place]
    assert VOC(root=str(root)).entries("val")[0] == TRUTH["splits"]["val"]
    assert VOC(root=str(root), image_size=8, mask_size=8).part("val").prepare().parent == root / "prepared"


def write_sbd(voc, names):
    """SBD's archive, as MATLAB wrote it: structures with the field `Segmentation`."""
    for number, kind in enumerate(("cls", "inst")):
        (voc / "benchmark_RELEASE/dataset" / kind).mkdir(parents=True)
        for name in names:
            labels = np.zeros((40, 40), np.uint8)
            labels[5:20, 5:20] = (8, 1)[number]
            labels[20:30, 20:40] = (8, 2)[number]
            content = {"Segmentation": labels, "Categories": np.array([[8], [8]], np.uint8)}
            file = voc / f"benchmark_RELEASE/dataset/{kind}/{name}.mat"
            savemat(file, {("GTcls", "GTinst")[number]: content})
    lists = voc / "benchmark_RELEASE/dataset"
    (lists / "train.txt").write_text("\n".join(names[:1]))
    (lists / "val.txt").write_text("\n".join([*names[1:], "2099_000003"]))  # SBD overlaps VOC's val, too


def test_sbd_archive(voc):
    shutil.rmtree(voc / "VOC2012/SegmentationClassAug")
    (voc / "VOC2012/ImageSets/Segmentation/trainaug.txt").unlink()
    write_sbd(voc, ["2099_000005"])
    data = VOC(root=str(voc), image_size=16, mask_size=40, train_masks=True)
    names, (note,) = data.entries("trainaug")
    assert names == TRUTH["splits"]["trainaug"]
    assert "benchmark_RELEASE/dataset" in note
    row = data.open("train")[2]
    assert counts(row["mask"]) == {"0": 1600 - 225 - 200, "1": 225, "2": 200}
    assert counts(row["class_mask"]) == {"0": 1600 - 425, "8": 425}
    assert not row["void"].any()


def test_without_all_instance_masks_there_are_only_classes(voc):
    row = VOC(root=str(voc), image_size=16, mask_size=40, train_masks=True).open("train")[2]
    assert sorted(row) == ["class_mask", "damaged", "image", "void"]
    truth = TRUTH["images"]["2099_000005"]["class_pixels"]
    assert counts(row["class_mask"]) == {"0": truth["0"] + truth["255"], "8": truth["8"]}
    assert row["void"].sum() == truth["255"]


def test_damaged_sbd_file(voc):
    (voc / "VOC2012/SegmentationClassAug/2099_000005.png").unlink()
    write_sbd(voc, ["2099_000005"])
    file = voc / "benchmark_RELEASE/dataset/cls/2099_000005.mat"
    whole = file.read_bytes()
    data = VOC(root=str(voc), image_size=16, train_masks=True)
    for wrong in (whole[:150], b"", b"MATLAB" + bytes(200)):
        file.write_bytes(wrong)
        with pytest.raises(UserError, match=r"2099_000005.mat cannot be read as a file of SBD \("):
            data.labels("trainaug", "2099_000005", (40, 40))


def test_a_shared_list_that_differs_is_said(voc):
    lists = voc / "VOC2012/ImageSets/Segmentation"
    (lists / "trainaug.txt").write_text("2099_000001\n2099_000004\n")
    notes = VOC(root=str(voc)).entries("trainaug")[1]
    assert "trainaug.txt differs from train and SBD without val: it has 1 other images and lacks 2" in notes[0]

    shutil.rmtree(voc / "VOC2012/SegmentationClassAug")
    (lists / "trainaug.txt").write_text("2099_000001\n2099_000005\n")
    names, (note,) = VOC(root=str(voc)).entries("trainaug")
    assert names == TRUTH["splits"]["trainaug"]
    assert "trainaug.txt says alone" in note

    (lists / "trainaug.txt").unlink()
    names, (note,) = VOC(root=str(voc)).entries("trainaug")
    assert names == TRUTH["splits"]["train"]
    assert note.endswith("2 of train.txt and 0 more (there is no SBD).")


def test_ten_thousand_names_are_not_remarked(voc):
    lists = voc / "VOC2012/ImageSets/Segmentation"
    names = [f"2007_{i:06d}" for i in range(10_582)]
    (lists / "train.txt").write_text("\n".join(names[:1464]))
    (lists / "val.txt").write_text("\n".join(f"2008_{i:06d}" for i in range(1449)))
    (lists / "trainaug.txt").write_text("\n".join(names))
    shutil.rmtree(voc / "VOC2012/SegmentationClassAug")
    write_sbd(voc, ["2099_000005"])
    (voc / "benchmark_RELEASE/dataset/train.txt").write_text("\n".join(names[1000:9000]))
    (voc / "benchmark_RELEASE/dataset/val.txt").write_text("\n".join([*names[9000:], "2008_000001"]))
    assert VOC(root=str(voc)).entries("trainaug") == (names, [])
    assert VOC(root=str(voc)).entries("val")[1] == []


def break_size(voc):
    Image.new("L", (64, 63)).save(voc / "VOC2012/SegmentationObject/2099_000003.png")


def break_class(voc):
    Image.new("L", (64, 64), 77).save(voc / "VOC2012/SegmentationClass/2099_000003.png")


def break_mode(voc):
    Image.new("RGB", (64, 64)).save(voc / "VOC2012/SegmentationClass/2099_000003.png")


def break_palette(voc):
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 0, 128, 0])  # value 1 in the colour of class 2
    image.save(voc / "VOC2012/SegmentationClass/2099_000003.png")


def remove_mask(voc):
    (voc / "VOC2012/SegmentationObject/2099_000003.png").unlink()


def remove_picture(voc):
    (voc / "VOC2012/JPEGImages/2099_000003.jpg").unlink()


def remove_list(voc):
    (voc / "VOC2012/ImageSets/Segmentation/val.txt").unlink()


def break_list(voc):
    (voc / "VOC2012/ImageSets/Segmentation/val.txt").write_text("../../secret\n")


def remove_all(voc):
    shutil.rmtree(voc)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (break_size, r"SegmentationObject/2099_000003.png has 64 x 63 pixels, its picture 64 x 64; unpack both"),
        (break_class, r"2099_000003.png has the class 77, expected 0 to 20 or 255"),
        (break_mode, r"2099_000003.png is a RGB image; expected a palette or grey image"),
        (break_palette, r"2099_000003.png shows 1 in the colour \(0, 128, 0\), expected \(128, 0, 0\)"),
        (remove_mask, r"SegmentationObject/2099_000003.png is missing"),
        (remove_picture, r"JPEGImages/2099_000003.jpg is missing; get VOCtrainval_11-May-2012.tar"),
        (
            remove_list,
            r"val.txt is missing; get VOCtrainval_11-May-2012.tar \(1.9 GB\) from http://host.robots.ox.ac.uk",
        ),
        (break_list, r"val.txt has the line '../../secret', expected names without folders"),
        (remove_all, r"val.txt is missing; get VOCtrainval_11-May-2012.tar"),
    ],
)
def test_what_is_wrong_is_named(voc, damage, text):
    damage(voc)
    with pytest.raises(UserError, match=text):
        VOC(root=str(voc), image_size=16, mask_size=16).open("val")
