"""Masks for Objects365: a generated tree with the layout of the official one, and a tiny random SAM 2."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tiny_sam2 import save_tiny_sam2

from slotworks.data import Objects365
from slotworks.data.readers import objects365_masks
from slotworks.data.readers.objects365_masks import (
    clipped_boxes,
    encode_masks,
    image_file,
    make_masks,
    masks_file,
    read_info,
)
from slotworks.encoders.sam2 import EmbeddedImage, Sam2, Sam2Config
from slotworks.types import UserError

fork = multiprocessing.get_context("fork")
SIZES = [(90, 70), (64, 64), (50, 120), (33, 40), (80, 60), (70, 70), (100, 30)]  # width, height


def save_objects365(root):
    """Seven images, ids not in order, the third without a box, and boxes of every kind that needs care."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for k, (width, height) in enumerate(SIZES):
        name = f"patch{k % 2}/objects365_v1_{1000 - k:08d}.jpg"
        images.append({"id": 1000 - k, "file_name": f"images/v1/{name}", "width": width, "height": height, "url": ""})
        file = root / "val" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(file)
        for _ in range(0 if k == 2 else 4):
            x, y = generator.uniform(0, width - 12), generator.uniform(0, height - 12)
            w, h = generator.uniform(8, width - x), generator.uniform(8, height - y)
            annotations.append((1000 - k, [x, y, w, h], {}))
    annotations += [
        (1000, [-5.0, -8.5, 30.0, 40.0], {}),  # reaches out of the image
        (1000, [80.0, 60.0, 500.0, 500.0], {"isreflected": 1}),
        (1000, [1.0, 1.0, 50.0, 50.0], {"iscrowd": 1}),
        (999, [1.0, 1.0, 50.0, 50.0], {"isfake": 1}),
        (999, [10.0, 10.0, 0.0, 20.0], {}),  # without area
        (999, [64.0, 10.0, 20.0, 20.0], {}),  # outside
    ]
    official = {
        "images": images,
        "categories": [{"id": 5, "name": "Car"}],
        "licenses": [{"id": 5, "name": "some"}],
        "annotations": [
            {"id": 700 + k, "image_id": image, "category_id": 5, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
             "isfake": 0, "isreflected": 0, **marks}
            for k, (image, box, marks) in enumerate(annotations)
        ],
    }  # fmt: skip
    (root / "annotations").mkdir()
    (root / "annotations/zhiyuan_objv2_val.json").write_text(json.dumps(official))
    return root


@pytest.fixture
def root(tmp_path):
    return save_objects365(tmp_path / "objects365")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Sam2Config(str(save_tiny_sam2(tmp_path_factory.mktemp("nets") / "tiny_sam2")))


class Rectangles(Sam2):
    """In place of SAM 2: each box is its mask, narrow boxes have an empty one. Notes every image it sees in a file."""

    def file_hashes(self):
        return {"model.safetensors": "some"}

    def embed(self, images):
        if self.config.model != "quiet":
            with open(self.config.model, "a") as file:
                file.writelines(f"{image.shape[1]}x{image.shape[0]}\n" for image in images)
        return [EmbeddedImage((), (image.shape[0], image.shape[1])) for image in images]

    def masks_from_boxes(self, image, boxes):
        assert isinstance(image, EmbeddedImage)
        masks = torch.zeros(len(boxes), *image.size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = x1 - x0 > 9
        return masks


QUIET = Sam2Config("quiet")


@pytest.fixture
def rectangles(monkeypatch):
    monkeypatch.setattr(objects365_masks, "Sam2", Rectangles)


def make(root, sam2=QUIET, **options) -> Any:
    return make_masks(root, "val", sam2, **{"images_per_shard": 2, "images_per_batch": 2, "device": "cpu"} | options)


def leftovers(root):
    return sorted(p.name for p in (root / "annotations").iterdir() if ".lock" not in p.name)


def in_child(function):
    process = fork.Process(target=function)
    process.start()
    process.join()
    return process.exitcode


# The file


def test_masks_are_those_of_sam2_for_each_box(root, tiny):
    path = make(root, tiny)
    assert path == root / "annotations/zhiyuan_objv2_val_sam2.json"
    official = json.loads((root / "annotations/zhiyuan_objv2_val.json").read_text())
    content = json.loads(path.read_text())
    by_id = {annotation["id"]: annotation for annotation in content["annotations"]}
    sam2 = Sam2(tiny)
    for entry in official["images"]:
        image = np.asarray(Image.open(image_file(root, "val", entry["file_name"])))
        mine = [a for a in official["annotations"] if a["image_id"] == entry["id"]]
        kept, boxes, _ = clipped_boxes(mine, entry["width"], entry["height"])
        masks = sam2.masks_from_boxes(image, torch.from_numpy(boxes))
        assert len(kept) == {1000: 6, 998: 0}.get(entry["id"], 4)
        for annotation, mask in zip(kept, masks, strict=True):
            found = by_id.pop(annotation["id"])
            assert found["segmentation"]["size"] == [entry["height"], entry["width"]]
            assert np.array_equal(coco_mask.decode(found["segmentation"]), mask.numpy())
            assert found["area"] == mask.sum() > 0
            same = {"segmentation", "area"}
            assert {k: v for k, v in found.items() if k not in same} == {
                k: v for k, v in annotation.items() if k not in same
            }
    assert not by_id
    info = content["info"]
    assert info == read_info(path)
    assert (info["images"], info["annotations"]) == (7, 26)
    assert info["left_out"] == {"iscrowd": 1, "isfake": 1, "empty_box": 2, "empty_mask": 0}
    assert info["settings"]["sam2"] == {"model": "tiny_sam2", "prompts_per_pass": 64}  # a folder's name, not its place
    assert str(root.parent) not in path.read_text()
    folder = tiny.model
    for name in ("config.json", "model.safetensors"):
        with open(f"{folder}/{name}", "rb") as file:
            assert info["settings"]["weights_sha256"][name] == hashlib.sha256(file.read()).hexdigest()


def test_the_data_set_reads_the_file(root, rectangles):
    """The larger rectangle is painted first; the smaller one owns what they share."""
    from slotworks.data.readers.objects365 import Objects365

    content = json.loads(make(root).read_text())
    (k,) = (k for k, entry in enumerate(content["images"]) if entry["id"] == 999)  # 64 x 64: nothing is cropped
    stored = Objects365(root=str(root), image_size=64, mask_size=64).open("val")[k]
    mine = [a for a in content["annotations"] if a["image_id"] == 999]
    expected, depth = np.zeros((64, 64)), np.zeros((64, 64))
    for number, annotation in enumerate(mine, 1):
        mask = coco_mask.decode(annotation["segmentation"])
        expected[mask == 1] = number
        depth += mask
    assert np.array_equal(stored["mask"], expected)
    assert np.array_equal(stored["overlap"], depth > 1)
    assert (depth > 1).any()


def test_the_file_reads_as_coco(root, rectangles, capsys):
    coco = COCO(make(root))
    assert coco.getImgIds() == [994, 995, 996, 997, 998, 999, 1000]
    assert coco.loadCats([5])[0]["name"] == "Car"
    assert json.loads(masks_file(root, "val").read_text())["licenses"] == [{"id": 5, "name": "some"}]
    ids = [entry["id"] for entry in coco.dataset["images"]]
    assert ids == sorted(ids)
    clipped = next(a for a in coco.loadAnns(coco.getAnnIds([1000])) if a["bbox"][0] == -5)
    expected = np.zeros((70, 90), np.uint8)
    expected[0:32, 0:25] = 1  # 31.5 rounds to the even number
    assert np.array_equal(coco.annToMask(clipped), expected)


def test_annotations_stand_in_painting_order(root, rectangles):
    content = json.loads(make(root).read_text())
    places = [annotation["image_id"] for annotation in content["annotations"]]
    assert places == sorted(places)
    for entry in content["images"]:
        keys = [(-a["area"], a["id"]) for a in content["annotations"] if a["image_id"] == entry["id"]]
        assert keys == sorted(keys)
    assert content["info"]["left_out"]["empty_mask"] > 0  # of rectangles at most 9 pixels wide
    assert min(annotation["area"] for annotation in content["annotations"]) > 0


def test_clipped_boxes():
    def one(box, **marks):
        return {"bbox": box, **marks}

    nan = float("nan")
    annotations = [
        one([-5, 2, 10, 4]), one([95, 45, 100, 100]), one([3, 3, 0, 9]), one([100, 3, 5, 5]), one([3, 3, -2, 5]),
        one([nan, 0, 5, 5]), one([1, 1, 5, 5], iscrowd=1, isfake=1), one([1, 1, 5, 5], isfake=1), one([1, 1, 5, 5]),
    ]  # fmt: skip
    kept, boxes, dropped = clipped_boxes(annotations, 100, 50)
    assert boxes.tolist() == [[0, 2, 5, 6], [95, 45, 100, 50], [1, 1, 6, 6]]
    assert kept == [annotations[k] for k in (0, 1, 8)]
    assert dropped == {"empty_box": 4, "iscrowd": 1, "isfake": 1}
    assert clipped_boxes([], 100, 50)[1].shape == (0, 4)


def test_run_length_codes_there_and_back():
    masks = torch.rand(5, 13, 7, generator=torch.Generator().manual_seed(0)) < 0.4
    masks[0], masks[1] = False, True
    codes = json.loads(json.dumps(encode_masks(masks)))
    assert all(code["size"] == [13, 7] for code in codes)
    assert np.array_equal(np.stack([coco_mask.decode(code) for code in codes]), masks.numpy())
    assert coco_mask.area(codes).tolist() == masks.flatten(1).sum(1).tolist()


def test_images_are_found_in_every_known_place(tmp_path):
    name = "images/v2/patch8/objects365_v2_00420917.jpg"
    assert image_file(tmp_path, "val", name) == tmp_path / "val/patch8/objects365_v2_00420917.jpg"  # where it belongs
    for k, place in enumerate(("images/v2/patch8", "images/patch8", "images/train/patch8", "train", "train/v2/patch8")):
        file = tmp_path / str(k) / place / "objects365_v2_00420917.jpg"
        file.parent.mkdir(parents=True)
        file.touch()
        assert image_file(tmp_path / str(k), "train", name) == file


def test_the_first_images_by_id(root, rectangles):
    content = json.loads(make(root, num_images=3).read_text())
    assert [entry["id"] for entry in content["images"]] == [994, 995, 996]
    assert {annotation["image_id"] for annotation in content["annotations"]} == {994, 995, 996}


# Killed, shared, repeated


def test_a_kill_at_any_moment_repeats_no_finished_shard(root, rectangles, tmp_path):
    """Kill at the first, second, third... synchronisation, rename or removal; finish in a new process; compare."""
    expected = make(root).read_bytes()
    moments = 0
    while True:
        moments += 1
        masks_file(root, "val").unlink()
        log = tmp_path / f"log{moments}"
        config = Sam2Config(str(log / "seen"))  # the stand-in notes what it sees there
        log.mkdir()

        def killed(moment=moments, config=config):
            calls = 0
            for name in ("fsync", "replace", "unlink", "rmdir"):
                original = getattr(os, name)

                def counting(*args, original=original, **options):
                    nonlocal calls
                    calls += 1
                    if calls == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return original(*args, **options)

                setattr(os, name, counting)
            make(root, config)

        code = in_child(killed)
        seen = (log / "seen").read_text().split() if (log / "seen").exists() else []
        shards = root / "annotations/.zhiyuan_objv2_val_sam2.shards"
        finished = masks_file(root, "val").exists()
        done = (
            {name for name in os.listdir(shards) if name.endswith(".jsonl") and name[0] != "."}
            if shards.exists()
            else {}
        )
        make(root, config)
        seen_after = (log / "seen").read_text().split()[len(seen) :]
        sizes = [f"{w}x{h}" for w, h in reversed(SIZES)]
        missing = [] if finished else [k for k in range(4) if f"{k:06d}.jsonl" not in done]
        assert seen_after == [s for k in missing for s in sizes[2 * k : 2 * k + 2] if s != "50x120"]
        assert masks_file(root, "val").read_bytes() == expected.replace(b'"quiet"', json.dumps(config.model).encode())
        assert leftovers(root) == ["zhiyuan_objv2_val.json", "zhiyuan_objv2_val_sam2.json"]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert moments > 15


def test_any_rank_does_what_the_others_leave(root, tiny):
    expected = make(root, tiny).read_bytes()
    masks_file(root, "val").unlink()
    assert make(root, tiny, rank=1, world_size=2).read_bytes() == expected
    assert leftovers(root) == ["zhiyuan_objv2_val.json", "zhiyuan_objv2_val_sam2.json"]
    assert make(root, tiny, rank=1, world_size=2).read_bytes() == expected


def test_more_processes_than_shards_at_the_same_time(root, rectangles):
    expected = make(root).read_bytes()
    for _ in range(3):
        masks_file(root, "val").unlink()
        children = [fork.Process(target=make, args=(root,), kwargs={"rank": k % 5, "world_size": 5}) for k in range(6)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 6
        assert masks_file(root, "val").read_bytes() == expected
        assert leftovers(root) == ["zhiyuan_objv2_val.json", "zhiyuan_objv2_val_sam2.json"]


def test_a_late_process_may_tidy_up_first(root, rectangles, monkeypatch):
    """It finds the file whole and removes the shards while the process that merged them is about to."""
    real = shutil.rmtree

    def raced(path, **options):
        real(path)
        real(path, **options)

    monkeypatch.setattr(objects365_masks.shutil, "rmtree", raced)
    assert make(root) == masks_file(root, "val")
    assert leftovers(root) == ["zhiyuan_objv2_val.json", "zhiyuan_objv2_val_sam2.json"]


def stop_before_the_second_shard(monkeypatch):
    def stopping(path, text):
        if path.name == "000001.jsonl":
            raise KeyboardInterrupt
        return write(path, text)

    write = objects365_masks.write_text
    monkeypatch.setattr(objects365_masks, "write_text", stopping)


def test_another_call_finishes_what_a_stopped_one_left(root, rectangles, monkeypatch):
    expected = make(root).read_bytes()
    masks_file(root, "val").unlink()
    with monkeypatch.context() as patched:
        stop_before_the_second_shard(patched)
        with pytest.raises(KeyboardInterrupt):
            make(root, rank=2, world_size=3)
    assert make(root).read_bytes() == expected


def test_a_finished_file_needs_nothing_else(root, tiny):
    path = make(root, tiny)
    (root / "annotations/zhiyuan_objv2_val.json").unlink()
    assert make(root, tiny) == path
    with pytest.raises(UserError, match="was made with num_images null, asked for is 3; ask for the same, or delete"):
        make(root, tiny, num_images=3)
    with pytest.raises(UserError, match="was made with sam2"):
        make(root, Sam2Config("facebook/sam2.1-hiera-large"))
    path.write_text('{"images": []}')  # masks of the user's own making
    assert make(root, tiny) == path
    assert read_info(path) == {}


def test_shards_of_other_settings_are_not_mixed(root, rectangles, monkeypatch):
    with monkeypatch.context() as patched:
        stop_before_the_second_shard(patched)
        with pytest.raises(KeyboardInterrupt):
            make(root)
    with pytest.raises(UserError, match="shards was made with images_per_batch 2, asked for is 1"):
        make(root, images_per_batch=1)


# Damage


def test_damaged_images_are_named_or_left_out(root, rectangles):
    whole = json.loads(make(root).read_text())
    masks_file(root, "val").unlink()
    broken = image_file(root, "val", "images/v1/patch1/objects365_v1_00000999.jpg")
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(
        UserError, match=r"00000999.jpg cannot be read as a picture .*To leave such images out, set skip"
    ):
        make(root)
    content = json.loads(make(root, skip_damaged=True).read_text())  # goes on after the shards that were finished
    assert content["info"]["damaged_images"] == ["images/v1/patch1/objects365_v1_00000999.jpg"]
    assert content["images"] == [entry for entry in whole["images"] if entry["id"] != 999]
    assert content["annotations"] == [a for a in whole["annotations"] if a["image_id"] != 999]
    assert content["info"]["left_out"]["isfake"] == 0  # the only one was in the image left out


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000])
def test_damaged_notes_of_unfinished_work_are_named(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError, match=r"settings\.json is damaged; delete .* and begin anew"):
        objects365_masks._begin(tmp_path, {"a": 1})
    (tmp_path / "0.jsonl").write_text(text + "\n")
    with pytest.raises(UserError, match=r"0\.jsonl is damaged \(.*\); delete it and run the same command again"):
        objects365_masks._merge(tmp_path / "final.json", [tmp_path / "0.jsonl"], {}, {})


def test_missing_images_are_named_before_work_begins(root, rectangles):
    for name in ("patch0/objects365_v1_00000996.jpg", "patch1/objects365_v1_00000999.jpg"):
        (root / "val" / name).unlink()
    with pytest.raises(UserError, match=r"2 of 7 images are missing, the first is .*00000996.jpg; get them from https"):
        make(root)
    assert leftovers(root) == ["zhiyuan_objv2_val.json"]
    assert len(json.loads(make(root, skip_damaged=True).read_text())["images"]) == 5


def test_an_image_of_another_size_is_damaged(root, rectangles):
    file = image_file(root, "val", "images/v1/patch1/objects365_v1_00000999.jpg")
    Image.new("RGB", (60, 64)).save(file)
    with pytest.raises(UserError, match="has 60 x 64 pixels, its annotation states 64 x 64"):
        make(root)


def test_nothing_readable_is_an_error(root, rectangles):
    for file in root.glob("val/*/*.jpg"):
        file.unlink()
    with pytest.raises(UserError, match="None of 7 images could be read"):
        make(root, skip_damaged=True)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"images": [{"id": 1, "file_name": "a", "width": 0, "height": 5}], "annotations": []}',
     '{"images": [{"id": 1, "file_name": "a", "width": 5, "height": 5}], '
     '"annotations": [{"image_id": 1, "id": 3, "bbox": "long"}]}'],
)  # fmt: skip
def test_damaged_annotations_are_named(root, rectangles, text):
    (root / "annotations/zhiyuan_objv2_val.json").write_text(text)
    with pytest.raises(UserError, match=r"zhiyuan_objv2_val.json is damaged or not of Objects365"):
        make(root)


def test_missing_annotations_and_wrong_arguments(tmp_path, root, rectangles):
    with pytest.raises(UserError, match=r"zhiyuan_objv2_val.json is missing; get it from https://www.objects365.org"):
        make(tmp_path / "nothing")
    with pytest.raises(ValueError, match="split is 'test'; expected one of train, val"):
        make_masks(root, "test")
    with pytest.raises(ValueError, match="rank is 2 of world_size 2; expected 0 to 1"):
        make(root, rank=2, world_size=2)
    with pytest.raises(ValueError, match="images_per_shard is 0"):
        make(root, images_per_shard=0)


def test_preparing_the_data_set_makes_the_masks_first(root, rectangles, tmp_path):
    data = Objects365(root=str(root), image_size=16, mask_size=32, sam2=QUIET, num_images=3)
    with pytest.raises(UserError, match=r"sam2.json is missing: .* `slotworks data prepare objects365` makes masks"):
        data.entries("val")
    assert len(data.open("test")) == 3
    made = masks_file(root, "val").read_bytes()
    data.prepare()
    assert masks_file(root, "val").read_bytes() == made
    assert read_info(masks_file(root, "val"))["settings"]["num_images"] == 3
