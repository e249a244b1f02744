"""COCO 2017 and Objects365: pixel counts from photos_truth.json, crowds and overlaps, damaged annotations."""

import json
import shutil

import numpy as np
import pytest
import torch
from mutations import attempts, mutate
from PIL import Image
from pycocotools import mask as coco_mask
from wire import FIXTURES

from slotworks import protocols
from slotworks.data import COCO, Objects365
from slotworks.data.readers.coco import _run_lengths, unpack
from slotworks.evaluation.discovery import score_masks
from slotworks.types import UserError, to_batch

TRUTH = json.loads((FIXTURES / "photos_truth.json").read_text())["coco"]["images"]
NUMBERS = sorted(number for number, image in TRUTH.items() if image["split"] == "val2017")


@pytest.fixture
def coco(tmp_path):
    shutil.copytree(FIXTURES / "coco", tmp_path / "coco")
    return tmp_path / "coco"


def counts(labels):
    return {str(k): int(n) for k, n in enumerate(np.bincount(np.asarray(labels).reshape(-1))) if n}


def by_annotation(labels, truth):
    """Pixels by the annotation's id instead of its number in the image."""
    names = ["0", *[str(annotation["id"]) for annotation in truth["annotations"]]]
    return {names[int(k)]: n for k, n in counts(labels).items()}


def whole(root, number):
    """The maps of one picture at its own size."""
    truth = TRUTH[number]
    data = COCO(root=str(root), train_masks=True)
    entry = next(e for e in data.entries(truth["split"])[0] if e.file.name == truth["file_name"])
    width, height = truth["width"], truth["height"]
    full = Whole(root=str(root), train_masks=True)
    row = full.labels(truth["split"], entry, (width, height))
    assert row["mask"].shape == (height, width)
    return row, truth


class Whole(COCO):
    """Keeps every pixel."""

    def mask_picker(self, split, size):
        return lambda labels: labels

    def mask_shape(self, split):
        return self.shape


@pytest.fixture
def row_of(coco, monkeypatch):
    def read(number):
        truth = TRUTH[number]
        monkeypatch.setattr(Whole, "shape", (truth["height"], truth["width"]), raising=False)
        return whole(coco, number)

    return read


@pytest.mark.parametrize("number", sorted(TRUTH))
def test_pixels_of_every_object(row_of, number):
    row, truth = row_of(number)
    assert by_annotation(row["mask"], truth) == truth["owner_pixels"]["last_wins_without_crowd"]
    assert row["overlap"].sum() == truth["overlap_pixels_noncrowd"]
    assert counts(row["class_mask_highest"]) == truth["class_pixels_highest_id_without_crowd"]
    assert row["category"].tolist() == [0, *[a["category_id"] for a in truth["annotations"]]]
    np.testing.assert_array_equal(row["class_mask"], row["category"][row["mask"]])


@pytest.mark.parametrize("number", sorted(TRUTH))
def test_crowds_are_kept_apart(row_of, number):
    """With the crowds painted where no object is, the first-owner counts return where nothing overlaps."""
    row, truth = row_of(number)
    crowds = [a for a in truth["annotations"] if a["iscrowd"]]
    assert by_annotation(row["crowd"], truth) == {
        "0": truth["width"] * truth["height"] - sum(a["pixels"] for a in crowds),
        **{str(a["id"]): a["pixels"] for a in crowds},
    }
    shared = row["overlap"] | (row["crowd"] > 0) & (row["mask"] > 0)
    assert shared.sum() == truth["overlap_pixels_all"]
    merged = np.where(row["mask"] > 0, row["mask"], row["crowd"])
    last = truth["owner_pixels"]["last_wins_with_crowd"]
    if not crowds or truth["annotations"][0]["iscrowd"] or not shared.any():
        assert by_annotation(merged, truth) == last


def test_numbers_of_the_two_special_images(row_of):
    """The counts in full: 250 shared pixels of person and car; a crowd of 1,050 that shares 200 with a person."""
    row, truth = row_of("139001")
    assert by_annotation(row["mask"], truth) == {"0": 2576, "101": 950, "102": 1050, "103": 224}
    assert counts(row["class_mask"]) == {"0": 2576, "1": 950, "3": 1050, "18": 224}
    row, truth = row_of("139002")
    assert by_annotation(row["mask"], truth) == {"0": 2740, "105": 760}
    assert by_annotation(row["crowd"], truth) == {"0": 2450, "104": 1050}
    assert not row["overlap"].any()


def test_the_rule_of_spot_reaches_crowds(coco):
    """Crowds as objects with their class; what they share with others is dropped."""
    data = COCO(root=str(coco), image_size=16, mask_size=50).open("val")
    batch = to_batch(data.__getitems__([1]))
    truth = {k: batch[k] for k in ("mask", "overlap", "class_mask", "class_mask_highest", "crowd", "category")}
    both = torch.where(truth["mask"] > 0, 1, torch.where(truth["crowd"] > 0, 2, 0))
    spot = score_masks(protocols.get("spot"), both, truth, num_slots=3)
    oclf = score_masks(protocols.get("oclf"), both, truth, num_slots=3)
    assert spot["mbo_i"].values.item() == 1.0
    assert spot["fg_ari"].values.item() == 1.0
    assert oclf["mbo_i"].values.item() == 1.0  # the person alone
    merged = torch.where(both > 0, 1, 0)
    assert (
        score_masks(protocols.get("spot"), merged, truth, num_slots=2)["mbo_c"].values.item() == 1.0
    )  # both are persons
    assert score_masks(protocols.get("spot"), merged, truth, num_slots=2)["mbo_i"].values.item() < 1
    assert score_masks(protocols.get("oclf"), merged, truth, num_slots=2)["mbo_c"].values.item() < 1


@pytest.mark.parametrize("folder", ["val2017", "images/val2017"])
def test_both_places_of_the_pictures(coco, folder, capsys):
    (coco / "val2017").rename(coco / "moved")
    (coco / folder).parent.mkdir(exist_ok=True)
    (coco / "moved").rename(coco / folder)
    data = COCO(root=str(coco), image_size=24, mask_size=32)
    val = data.open("val")
    assert (data.name, len(val), len(data.open("test"))) == ("coco2017", 4, 4)
    assert [entry.file.name for entry in data.entries("val2017")[0]] == [f"{int(n):012d}.jpg" for n in NUMBERS]
    batch = val.__getitems__([0, 1, 2, 3])
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "image": ((4, 24, 24, 3), np.uint8),
        **dict.fromkeys(("mask", "class_mask", "class_mask_highest", "crowd"), ((4, 32, 32), np.uint8)),
        "overlap": ((4, 32, 32), np.bool_),
        "category": ((4, 5), np.uint8),
        "damaged": ((4,), np.bool_),
    }
    assert not batch["mask"][2].any()  # no object at all
    assert "has 4 images instead of 5,000" in " ".join(capsys.readouterr().err.split())


def test_training_pictures_need_no_annotations(coco):
    shutil.rmtree(coco / "annotations")
    data = COCO(root=str(coco), image_size=24)
    assert len(data.open("train")) == 2
    assert sorted(data.open("train")[0]) == ["damaged", "image"]
    with pytest.raises(
        UserError, match=r"instances_val2017.json is missing; get annotations_trainval2017.zip \(241 MB\)"
    ):
        data.open("val")


def test_training_masks(coco):
    row = COCO(root=str(coco), image_size=24, mask_size=24, train_masks=True).open("train").__getitems__([0, 1])
    assert row["category"].tolist() == [[0, 17, 0, 0], [0, 17, 17, 1]]
    assert set(np.unique(row["mask"][1])) == {0, 1, 2}
    assert set(np.unique(row["crowd"][1])) <= {0, 3}


def test_images_without_objects_do_not_count(coco):
    batch = to_batch(COCO(root=str(coco), image_size=24, mask_size=32).open("val").__getitems__([2]))
    truth = {k: batch[k] for k in ("mask", "overlap", "class_mask", "class_mask_highest")}
    scores = score_masks(protocols.get("oclf"), torch.zeros_like(truth["mask"]), truth, num_slots=7)
    assert scores["mbo_i"].weights.item() == 0


def test_more_objects_than_slots(coco):
    batch = to_batch(COCO(root=str(coco), image_size=24, mask_size=48).open("val").__getitems__([3]))
    truth = {k: batch[k] for k in ("mask", "overlap", "class_mask", "class_mask_highest")}
    one = score_masks(protocols.get("oclf"), torch.zeros_like(truth["mask"]), truth, num_slots=1)
    areas = [int((truth["mask"] == k).sum()) for k in truth["mask"].unique() if k]
    assert one["mbo_i"].values.item() == pytest.approx(np.mean(areas) / 48**2)
    assert one["miou_i"].values.item() == pytest.approx(max(areas) / len(areas) / 48**2)


def edit(coco, change):
    file = coco / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_three_hundred_objects(coco):
    def many(content):
        first = next(a for a in content["annotations"] if a["id"] == 101)
        square = [[20, 0, 24, 0, 24, 4, 20, 4]]
        content["annotations"] += [{**first, "id": 5000 + i, "segmentation": square} for i in range(300)]
        content["annotations"][-1]["category_id"] = 365
        content["categories"].append({"id": 365, "name": "tennis racket"})

    edit(coco, many)
    row = COCO(root=str(coco), image_size=16, mask_size=60).open("val")[0]
    assert row["mask"].dtype == row["category"].dtype == np.int16
    assert (row["mask"][:4, 10:14] == 303).all()  # the crop begins at column 10
    assert row["mask"].max() == 303
    assert row["category"][303] == 365
    assert to_batch({"mask": row["mask"][None]})["mask"].dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: a.update(segmentation={"size": [60, 80], "counts": [10, 5]}), "do not add up to 80 x 60 pixels"),
        (lambda a: a.update(segmentation={"size": [6, 8], "counts": [48]}), "neither .* nor run lengths of 80 x 60"),
        (lambda a: a.update(segmentation={"size": [60, 80], "counts": "~~~~"}), "is damaged"),
        (lambda a: a.update(segmentation=[[1, 2, 3, 4, 5, 1e30]]), "far outside of the picture"),
        (lambda a: a.update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "odd number of coordinates"),
        (lambda a: a.update(segmentation=[["a", 2, 3, 4, 5, 6]]), "could not convert"),
        (lambda a: a.update(segmentation=None), "it is neither a list of polygons"),
        (lambda a: a.pop("segmentation"), "it is neither a list of polygons"),
    ],
)
def test_damaged_shapes(coco, change, text):
    edit(coco, lambda content: change(next(a for a in content["annotations"] if a["id"] == 101)))
    with pytest.raises(
        UserError, match=rf"instances_val2017.json: the shape of annotation 101 is damaged .*{text}|{text}"
    ):
        COCO(root=str(coco), image_size=16, mask_size=16).open("val")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.pop("images"), r"damaged or not in COCO's format \(KeyError\('images'\)\); get annotations"),
        (lambda c: c["annotations"][0].update(image_id=7), "belongs to the image 7, which `images` does not list"),
        (lambda c: c["annotations"][0].update(category_id="cat"), "category_id 'cat'"),
        (lambda c: c["images"][0].update(width=0), "an image of no pixels"),
        (lambda c: c["images"][0].update(width=81), "pixels, its annotation states 81 x"),
        (lambda c: c["images"][0].update(file_name="other.jpg"), r"other.jpg is missing; get val2017.zip \(1 GB\)"),
        (lambda c: c["images"][0].update(file_name="../../../etc/passwd"), "val2017/passwd is missing"),
    ],
)
def test_damaged_descriptions(coco, change, text):
    edit(coco, change)
    with pytest.raises(UserError, match=text):
        COCO(root=str(coco), image_size=16, mask_size=16).open("val")


def test_mutated_annotations(coco):
    """Nothing in the file makes pycocotools leave its memory: each is read or answered with a sentence."""
    file = coco / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"][:2]:  # some as compressed runs, as other files have them
        size = next((i["width"], i["height"]) for i in content["images"] if i["id"] == annotation["image_id"])
        runs = coco_mask.encode(np.asfortranarray(unpack(annotation, size, file)))
        annotation["segmentation"] = {"size": list(runs["size"]), "counts": runs["counts"].decode()}
    sound = json.dumps({key: content[key] for key in ("images", "annotations")}).encode()
    data = COCO(root=str(coco), image_size=8, mask_size=8)

    def read(generator):
        file.write_bytes(mutate(sound, generator))
        entries = data.entries("val2017")[0]
        for entry in entries:
            data.read("val2017", entry)
            data.labels("val2017", entry, entry.size)

    readable, refused = attempts(read, 200)
    assert refused > 60
    assert readable + refused == 200


def test_mutated_run_lengths(coco):
    """Valid JSON, damaged text of runs."""
    mask = np.asfortranarray(np.random.default_rng(0).random((30, 40)) < 0.3)
    sound = coco_mask.encode(mask)["counts"]

    def read(generator):
        text = mutate(sound, generator).decode("latin-1")
        found = unpack({"id": 1, "segmentation": {"size": [30, 40], "counts": text}}, (40, 30), coco / "a.json")
        assert found.shape == (30, 40)

    readable, refused = attempts(read, 150)
    assert readable + refused == 150
    assert refused > 100


def test_compressed_run_lengths_agree_with_pycocotools(coco):
    generator = np.random.default_rng(3)
    for density in (0.0, 0.01, 0.3, 0.9, 1.0):
        mask = np.asfortranarray(generator.random((57, 91)) < density)
        text = coco_mask.encode(mask)["counts"].decode()
        assert sum(_run_lengths(text)) == mask.size
        shape = {"segmentation": {"size": [57, 91], "counts": text}}
        np.testing.assert_array_equal(unpack(shape, (91, 57), coco), mask)


def test_degenerate_polygons_cover_nothing(coco):
    assert not unpack({"segmentation": [[1, 2, 3, 4]]}, (9, 8), coco).any()  # pycocotools reads four numbers as a box
    assert not unpack({"segmentation": []}, (9, 8), coco).any()


def test_a_turned_photo_whose_annotation_was_made_as_stored(coco):
    """An orientation that would not fit the stated size is not applied."""
    file = coco / "val2017/000000139001.jpg"
    image = Image.open(file)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, exif=exif, quality=95)
    row = COCO(root=str(coco), image_size=16, mask_size=60).open("val")[0]
    assert row["mask"].any()


# ---- Objects365 ----------------------------------------------------------------------------------------------------


@pytest.fixture
def objects365(tmp_path, coco):
    """COCO's miniature with the names of Objects365."""
    root = tmp_path / "objects365"
    (root / "annotations").mkdir(parents=True)
    (root / "val/patch3").mkdir(parents=True)
    content = json.loads((coco / "annotations/instances_val2017.json").read_text())
    for image in content["images"]:
        name = f"objects365_v1_{image['id']:08d}.jpg"
        shutil.copy(coco / "val2017" / image["file_name"], root / "val/patch3" / name)
        image["file_name"] = f"images/v1/patch3/{name}"
    for annotation in content["annotations"]:
        annotation["isfake"] = int(annotation["id"] == 103)
        if annotation["id"] == 102:
            annotation["category_id"] = 300
    content["categories"].append({"id": 300, "name": "one that COCO lacks"})
    (root / "annotations/zhiyuan_objv2_val.json").write_text("{}")
    (root / "annotations/zhiyuan_objv2_val_sam2.json").write_text(json.dumps(content))
    return root


def test_objects365(objects365, capsys):
    data = Objects365(root=str(objects365), image_size=16, mask_size=60)
    test = data.open("test")
    assert (data.name, len(test)) == ("objects365", 4)
    row = test[0]
    assert row["category"].tolist() == [0, 1, 300, 0, 0]  # the drawn dog is left out
    assert row["class_mask"].dtype == np.int16
    assert row["mask"].dtype == np.uint8
    assert not row["crowd"].any()
    assert set(np.unique(row["mask"])) == {0, 1, 2}
    assert row["overlap"].any()
    assert (row["mask"][row["overlap"]] == 2).all()
    assert "has 4 of the about 80,000 validation images" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UserError, match="objects365 has no split 'train'; open one of val, test"):
        data.open("train")


@pytest.mark.parametrize("place", ["val/patch3", "images/val/patch3", "images/v1/patch3", "images/patch3", "val"])
def test_places_of_the_patches(objects365, place):
    (objects365 / "val/patch3").rename(objects365 / "moved")
    (objects365 / "val").rmdir()
    (objects365 / place).parent.mkdir(parents=True, exist_ok=True)
    (objects365 / "moved").rename(objects365 / place)
    assert len(Objects365(root=str(objects365), image_size=16, mask_size=16).open("val")) == 4


def test_boxes_without_masks(objects365):
    (objects365 / "annotations/zhiyuan_objv2_val_sam2.json").unlink()
    data = Objects365(root=str(objects365))
    with pytest.raises(UserError, match=r"sam2.json is missing: zhiyuan_objv2_val.json holds boxes only; `slotworks"):
        data.entries("val")
    (objects365 / "annotations/zhiyuan_objv2_val.json").unlink()
    with pytest.raises(
        UserError, match=r"sam2.json is missing; get the validation images .* https://www.objects365.org"
    ):
        data.open("val")
