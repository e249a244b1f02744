"""Own pictures with the masks, classes and captions that lie with them: every form is read as the same scene.

The scene: 40 x 30 pixels; object 1, a cat, is the rectangle from (4, 6) to (15, 17), object 2, a dog, that from
(22, 10) to (35, 27), both ends excluded; 0 is background.
"""

import json

import numpy as np
import pytest
from PIL import Image

from slotworks.cli import main
from slotworks.data import Pictures, catalog
from slotworks.data.readers import marks
from slotworks.errors import UserError

TRUE = np.zeros((30, 40), np.uint8)
TRUE[6:17, 4:15], TRUE[10:27, 22:35] = 1, 2
CAT, DOG = [4, 6, 15, 6, 15, 17, 4, 17], [22, 10, 35, 10, 35, 27, 22, 27]
WHOLE = {"val_fraction": 0.0, "test_fraction": 1.0}


def photo(path, value=100, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, 50)).save(path)


def png(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values))
    if palette:
        image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    image.save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def coco(names, polygons=True, categories=("cat", "dog"), first=1, **more):
    def shape(points, object_id):
        if polygons:
            return [points]
        runs, flat = [], (object_id == TRUE).T.reshape(-1)  # columns first
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
        runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        return {"counts": runs, "size": [30, 40]}

    annotations = [
        {"id": 10 * i + k, "image_id": i, "category_id": first + k, "segmentation": shape(points, k + 1), "iscrowd": 0}
        for i in range(len(names))
        for k, points in enumerate((CAT, DOG))
    ]
    return {
        "images": [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)],
        "annotations": annotations,
        "categories": [{"id": first + k, "name": name} for k, name in enumerate(categories)],
        **more,
    }


def labelme(name, **more):
    shapes = [
        {"label": "cat", "points": [[4, 6], [15, 17]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[22, 10], [35, 10], [35, 27], [22, 27]], "shape_type": "polygon", "group_id": None},
        {"label": "dog", "points": [[1, 1]], "shape_type": "point"},
    ]
    return {"version": "5.0", "imagePath": name, "imageHeight": 30, "imageWidth": 40, "shapes": shapes, **more}


def one_form(kind, root):
    """Two pictures in one of the forms; says whether it names classes."""
    if kind == "masks folder, ids":
        for name in "ab":
            photo(root / f"images/{name}.jpg")
            png(root / f"masks/{name}.png", 7 * TRUE)
    elif kind == "16 bits":
        for name in "ab":
            photo(root / f"{name}.jpg")
            png(root / f"masks/{name}.png", 30_000 * TRUE.astype(np.uint16))
    elif kind == "palette, beside":
        for name in "ab":
            photo(root / f"trip/{name}.jpg")
            png(root / f"trip/{name}.png", TRUE, palette=True)
    elif kind == "colours, beside":
        for name in "ab":
            photo(root / f"{name}.png")
            png(root / f"{name}_mask.png", np.array([(0, 0, 0), (9, 80, 0), (200, 0, 7)], np.uint8)[TRUE])
    elif kind == "a file an object":
        for name in "ab":
            photo(root / f"images/{name}_1.jpg")
            png(root / f"masks/{name}_1_0.png", 255 * (TRUE == 1).astype(np.uint8))
            png(root / f"masks/{name}_1_1.png", 255 * (TRUE == 2).astype(np.uint8))
    elif kind == "a folder an object":
        for name in "ab":
            photo(root / f"images/{name}.jpg")
            png(root / f"masks/{name}/first.png", TRUE == 1)
            png(root / f"masks/{name}/second.png", TRUE == 2)
    elif kind == "COCO as CVAT writes it":
        for name in "ab":
            photo(root / f"images/default/{name}.jpg")
        write(root / "annotations/instances_default.json", coco(["a.jpg", "b.jpg"], polygons=False, licenses=[]))
        return True
    elif kind == "COCO as Roboflow writes it":
        for name in "ab":
            photo(root / f"{name}_jpg.rf.1f.jpg")
        content = coco(["a_jpg.rf.1f.jpg", "b_jpg.rf.1f.jpg"])
        content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
        write(root / "_annotations.coco.json", content)
        return True
    elif kind == "COCO as Label Studio writes it":
        for name in "ab":
            photo(root / f"images/3f-{name}.jpg")
        write(root / "result.json", coco([f"..\\..\\media\\upload\\1\\3f-{name}.jpg" for name in "ab"], first=0))
        return True
    elif kind == "LabelMe":
        for name in "ab":
            photo(root / f"{name}.jpg")
            write(root / f"{name}.json", labelme(f"{name}.jpg", imageData="none"))
        return True
    elif kind == "VOC":
        border = TRUE.copy()
        border[0, :5] = 255
        for name in "ab":
            photo(root / f"JPEGImages/{name}.jpg")
            png(root / f"SegmentationObject/{name}.png", border, palette=True)
            png(root / f"SegmentationClass/{name}.png", np.where(border == 255, 255, TRUE), palette=True)
        write(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,0,0::\ndog:0,1,0::\n")
        return True
    return False


FORMS = [
    *("masks folder, ids", "16 bits", "palette, beside", "colours, beside", "a file an object", "a folder an object"),
    *("COCO as CVAT writes it", "COCO as Roboflow writes it", "COCO as Label Studio writes it", "LabelMe", "VOC"),
]


@pytest.mark.parametrize("kind", FORMS)
def test_every_form_gives_the_same_masks(kind, tmp_path):
    classes = one_form(kind, tmp_path / "mine")
    data = Pictures(root=str(tmp_path / "mine"), image_size=30, mask_size=30, crop="center", **WHOLE)
    assert len(data.marked.pictures) == 2
    batch = data.open("test").__getitems__([0, 1])
    middle = TRUE[:, 5:35]
    for mask in batch["mask"]:
        np.testing.assert_array_equal(mask, middle)
    assert ("class_mask" in batch) == classes
    if classes:
        assert [name for name in data.class_names if name != "pets"] == ["cat", "dog"]
        names = np.array(["", *data.class_names])
        np.testing.assert_array_equal(names[batch["class_mask"][0]], np.array(["", "cat", "dog"])[middle])
    assert ("void" in batch) == (kind == "VOC")
    assert not batch["damaged"].any()


def test_several_people(tmp_path):
    """As BSDS500 comes: folders of splits, no background; the one with the fewest segments is `mask`."""
    for split, names in (("train", "ab"), ("val", "cd")):
        for name in names:
            photo(tmp_path / f"{split}/images/{name}.jpg")
            png(tmp_path / f"{split}/masks/{name}_0.png", TRUE + 1)
            png(tmp_path / f"{split}/masks/{name}_1.png", np.where(TRUE == 1, 5, 9).astype(np.uint8))
    png(tmp_path / "val/masks/c_2.png", TRUE + 1)
    data = Pictures(root=str(tmp_path), image_size=30, mask_size=30)
    assert [len(data.entries(split)[0]) for split in ("train", "val", "test")] == [2, 2, 2]
    assert (data.scored_split, Pictures(root=str(tmp_path / "val")).scored_split) == ("val", "test")
    assert data.marked.describe() == "4 pictures; masks of 4 by 2.2 people on average; splits train 2, val 2, test 0."
    assert "mask" not in data.open("train")[0]
    batch = data.open("val").__getitems__([0, 1])
    assert batch["annotators"].shape == (2, 3, 30, 30)
    assert [[int(one.max()) for one in people] for people in batch["annotators"]] == [[3, 2, 3], [3, 2, 0]]
    np.testing.assert_array_equal(batch["mask"], batch["annotators"][:, 1])
    assert batch["mask"].min() == 1


def test_captions_and_classes_of_pictures(tmp_path):
    for name in "abc":
        photo(tmp_path / f"{name}.jpg")
        png(tmp_path / f"masks/{name}.png", TRUE)
    write(tmp_path / "metadata.csv", 'file_name,text,label\na.jpg,"a cat, a dog",pet\nlost.jpg,none,pet\n')
    write(tmp_path / "more.jsonl", '{"file_name": "b.jpg", "caption": "zwei Tiere für b"}\n')
    write(tmp_path / "c.txt", "two\nanimals\n")
    data = Pictures(root=str(tmp_path), image_size=30, mask_size=30, **WHOLE)
    batch = data.open("test").__getitems__([0, 1, 2])
    texts = [bytes(row).rstrip(b"\0").decode() for row in batch["caption"]]
    assert texts == ["a cat, a dog", "zwei Tiere für b", "two animals"]
    assert data.class_names == ("pet",)
    assert [int(mask.max()) for mask in batch["class_mask"]] == [1, 0, 0]
    assert any(
        "1 pictures that metadata.csv names and that are not there: lost.jpg." in note for note in data.marked.notes
    )


def test_splits_of_lists_and_of_names(tmp_path):
    one_form("VOC", tmp_path / "voc")
    write(tmp_path / "voc/ImageSets/Segmentation/train.txt", "a\n")
    write(tmp_path / "voc/ImageSets/Segmentation/val.txt", "b\n")
    data = Pictures(root=str(tmp_path / "voc"), image_size=30, mask_size=30)
    assert [[file.stem for file in data.entries(split)[0]] for split in ("train", "val", "test")] == [
        ["a"],
        ["b"],
        ["b"],
    ]
    for split in ("train", "valid", "test"):
        photo(tmp_path / f"robo/{split}/same.jpg")
        write(tmp_path / f"robo/{split}/_annotations.coco.json", coco(["same.jpg"]))
    data = Pictures(root=str(tmp_path / "robo"), image_size=30, mask_size=30)
    assert {file.parent.name for split in ("val", "test") for file in data.entries(split)[0]} == {"valid", "test"}
    assert len(data.marked.marks) == 3


def test_masks_for_some_pictures_are_scored_and_counted(tmp_path):
    for i in range(30):
        photo(tmp_path / f"{i:02}.jpg", value=5 * i)
    for i in range(4):
        png(tmp_path / f"{i:02}_mask.png", TRUE)
    data = Pictures(root=str(tmp_path), image_size=30, mask_size=30)
    found = {split: [file.name for file in data.entries(split)[0]] for split in ("train", "val", "test")}
    assert len(found["train"]) == 26
    assert sorted(found["val"] + found["test"]) == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"]
    everything = Pictures(root=str(tmp_path), image_size=30, mask_size=30, **WHOLE)
    entries, notes = everything.entries("test")
    assert len(entries) == 4
    assert notes[0] == (
        f"Of the 30 pictures of the split test in {tmp_path} 4 have masks; only these are in it. Without: 04.jpg, "
        "05.jpg and 24 more."
    )


def broken(kind, root):
    """Two good pictures, and one whose marks cannot be used; what is said about it."""
    for name in "abc":
        photo(root / f"{name}.jpg")
    for name in "ab":
        png(root / f"masks/{name}.png", TRUE)
    if kind == "size":
        png(root / "masks/c.png", np.ones((30, 41), np.uint8))
        return "1 masks of another size than their picture: masks/c.png (41 x 30, c.jpg 40 x 30)."
    if kind == "orphan":
        (root / "c.jpg").unlink()
        png(root / "masks/lost.png", TRUE)
        return "1 masks without a picture: masks/lost.png."
    if kind == "empty json":
        write(root / "c.json", {"images": [], "annotations": []})
        return "1 JSON files that name no picture: c.json."
    if kind == "missing pictures":
        write(root / "c.json", coco(["c.jpg", "x.jpg", "y.jpg", "z.jpg"]))
        return "3 pictures that c.json names and that are not there: x.jpg, y.jpg and 1 more."
    if kind == "no json":
        write(root / "c.json", '{"images": [')
        return "1 JSON files that cannot be read: c.json ("
    if kind == "boxes":
        content = coco(["c.jpg"])
        content["annotations"] = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": []}]
        write(root / "c.json", content)
        return "1 annotations without an outline, boxes alone: c.json, annotation 1."
    write(root / "c.txt", "0 0.5 0.5 0.25 0.25\n")
    return "1 texts of numbers, such as YOLO's boxes: c.txt."


@pytest.mark.parametrize("kind", ["size", "orphan", "empty json", "missing pictures", "no json", "boxes", "yolo"])
def test_what_cannot_be_used_is_counted_and_named(kind, tmp_path):
    said = broken(kind, tmp_path)
    data = Pictures(root=str(tmp_path), image_size=30, mask_size=30, **WHOLE)
    notes = [note.replace(f"{tmp_path}/", "").replace(str(tmp_path), "") for note in data.marked.notes]
    assert any(said in note for note in notes), notes
    assert len(data.open("test")) == (3 if kind == "missing pictures" else 2)


def test_ids_and_colours_beyond_what_masks_have(tmp_path, capsys):
    for name in "abcd":
        photo(tmp_path / f"{name}.jpg")
    png(tmp_path / "masks/a.png", TRUE)
    Image.fromarray(np.full((30, 40), 70_000, np.int32)).save(tmp_path / "masks/b.tif")
    rng = np.random.default_rng(0)
    png(tmp_path / "masks/c.png", rng.integers(0, 255, (30, 40, 3), np.uint8))
    write(
        tmp_path / "d.json",
        coco(["d.jpg"]) | {"annotations": [{"id": 5, "image_id": 0, "category_id": 1, "segmentation": [[1, 2, 3]]}]},
    )
    data = Pictures(root=str(tmp_path), image_size=30, mask_size=30, **WHOLE)
    assert len(data.open("test")) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path}/masks/b.tif has the id 70000; ids go from 0, the background, to 65,535." in said
    assert "colours; a mask has one for each object, or ids in a grey or palette picture." in said
    assert f"{tmp_path}/d.json: the shape of annotation 5 is damaged (a polygon has an odd number" in said
    assert "3 damaged of 4 pictures are left out" in said


def test_a_mask_that_goes_where_its_picture_is_turned(tmp_path):
    """A camera's note turns pictures without masks; those with masks lie as the masks do."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, size in (("stored", (40, 30)), ("upright", (30, 40))):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.jpg", exif=exif)
        png(tmp_path / f"masks/{name}.png", TRUE if size == (40, 30) else TRUE.T.copy())
    data = Pictures(root=str(tmp_path), image_size=30, mask_size=30, crop="whole", **WHOLE)
    assert len(data.open("test")) == 2


def test_two_pictures_are_enough_and_nothing_is_written_to_a_read_only_folder(tmp_path, monkeypatch):
    one_form("16 bits", tmp_path / "mine")
    (tmp_path / "mine").chmod(0o555)
    monkeypatch.chdir(tmp_path)
    data = Pictures(root="mine", image_size=30, mask_size=30, train_masks=True)
    sizes = [len(data.open(split)) for split in ("train", "val", "test")]
    (tmp_path / "mine").chmod(0o755)
    assert sizes == [1, 1, 1]
    assert not (tmp_path / "mine/prepared").exists()
    assert len([*tmp_path.glob("data/prepared/mine-*/pictures-*/index.json")]) == 3


def test_new_masks_make_a_new_store_and_photographs_alone_keep_theirs(tmp_path):
    for name in "abc":
        photo(tmp_path / f"{name}.jpg")
    before = Pictures(root=str(tmp_path), image_size=30)
    assert before.store_name("val").startswith("pictures-val-30-")
    assert "mask" not in before.open("val")[0]
    for name in "abc":
        png(tmp_path / f"masks/{name}.png", TRUE)
    after = Pictures(root=str(tmp_path), image_size=30)
    assert after.store_name("val").startswith("pictures-val-30-320-")
    assert after.open("val")[0]["mask"].max() == 2
    assert after.store_name("train") == before.store_name("train")
    png(tmp_path / "masks/a.png", 0 * TRUE)
    changed = {Pictures(root=str(tmp_path), image_size=30).store_name(split) for split in ("val", "test")}
    assert len(changed | {after.store_name(split) for split in ("val", "test")}) >= 2


def test_check_says_what_is_there(tmp_path, capsys):
    one_form("LabelMe", tmp_path / "mine")
    photo(tmp_path / "mine/extra.jpg")
    (tmp_path / "mine/extra.json").write_text("{")
    assert main(["data", "check", str(tmp_path / "mine")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 pictures; masks of 2; 2 classes (cat, dog). All can be read to the end." in said
    assert said.count("can be read") == 1
    assert "2 LabelMe's points and lines, which enclose nothing" in said
    (tmp_path / "mine/broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert main(["data", "check", str(tmp_path / "mine")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "broken.jpg cannot be read as a picture" in said
    assert "All can be read" not in said
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data set that is known here"):
        catalog.check(tmp_path / "empty")


def test_a_picture_of_boxes_is_not_scored_as_one_of_nothing(tmp_path):
    for name in "abc":
        photo(tmp_path / f"{name}.jpg")
    content = coco(["a.jpg", "b.jpg", "c.jpg"])
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] == 0]
    content["annotations"].append({"id": 99, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]})
    write(tmp_path / "all.json", content)
    data = Pictures(root=str(tmp_path), image_size=30, mask_size=30, **WHOLE)
    assert [file.name for file in data.entries("test")[0]] == ["a.jpg", "c.jpg"]
    assert [int(mask.max()) for mask in data.open("test").__getitems__([0, 1])["mask"]] == [2, 0]


def test_runs_count_backwards_from_the_end_of_names():
    assert marks._base("cat_12") == "cat"
    assert marks._base("cat12") == "cat12"
