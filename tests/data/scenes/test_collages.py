"""Collages of tiny cut-outs: exact masks, classes, captions, and files that belong to one split each."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from slotworks.data import CachedFeatures, CollageScenes
from slotworks.data.scenes import collages
from slotworks.data.stores.features import fingerprint
from slotworks.encoders.vit import ViTConfig
from slotworks.errors import UserError

COLORS = {"apples": (250, 10, 10), "cups": (10, 10, 250)}
SPLITS = ("train", "val", "test")


def cut_out(path, color, size=(20, 16), hole=True):
    """An opaque rectangle in a transparent frame of four pixels; with a hole in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1] + 8, size[0] + 8, 4), np.uint8)
    pixels[4:-4, 4:-4] = (*color, 255)
    if hole:
        pixels[size[1] // 2 + 2 : size[1] // 2 + 6, size[0] // 2 + 2 : size[0] // 2 + 6] = 0
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    for name, color in COLORS.items():
        for i in range(20):
            cut_out(tmp_path / f"cut/{name}/{i}.png", color, hole=False)
    for i in range(20):
        (tmp_path / "behind").mkdir(exist_ok=True)
        Image.new("RGB", (90, 60), (20, 200, 5 * i)).save(tmp_path / f"behind/{i}.png")
    return tmp_path


def scenes(folder, **options):
    plain = {"light": 0.0, "shadow": 0.0, "image_size": 64, "num_train": 40, "num_val": 40, "num_test": 40}
    return CollageScenes(cutouts=str(folder / "cut"), **{**plain, **options})


def test_masks_and_classes_are_those_of_the_pixels(folder):
    """Without light and shadow a pixel has an object's colour exactly where the mask says so."""
    data = scenes(folder, backgrounds=str(folder / "behind"), drawn_share=0.0).open("train")
    batch = data.__getitems__(range(40))
    assert batch["image"].shape == (40, 64, 64, 3)
    assert {*batch["num_objects"].tolist()} == {1, 2, 3, 4, 5, 6}
    assert data.class_names == ("apples", "cups")
    for number, color in enumerate(COLORS.values(), 1):
        # a corner of an outline may be half transparent, so the colours of objects are those nearest to them
        near = np.abs(batch["image"].astype(int) - color).sum(-1) < 100
        assert (near == (batch["class_mask"] == number)).mean() > 0.995
    for i in range(40):
        ids = np.unique(batch["mask"][i])
        assert ids.tolist() == list(range(batch["num_objects"][i] + 1))  # all seen, background as well
        rows = np.concatenate([[0], batch["classes"][i]])
        np.testing.assert_array_equal(batch["class_mask"][i], rows[batch["mask"][i]])
        rows, columns = np.nonzero(batch["mask"][i] == 1)
        box = [columns.min() / 64, rows.min() / 64, (columns.max() + 1) / 64, (rows.max() + 1) / 64]
        np.testing.assert_allclose(batch["boxes"][i, 0], box, rtol=1e-6)


def test_objects_keep_their_share_and_places_are_the_middle(folder):
    data = scenes(folder, min_objects=1, max_objects=1).open("train")
    batch = data.__getitems__(range(40))
    for i in range(40):
        rows, columns = np.nonzero(batch["mask"][i])
        if rows.min() and columns.min() and rows.max() < 63 and columns.max() < 63:  # wholly inside
            assert abs((columns.min() + columns.max() + 1) / 2 / 64 - batch["x"][i, 0]) < 1e-6
            assert abs((rows.min() + rows.max() + 1) / 2 / 64 - batch["y"][i, 0]) < 1e-6
            area = (columns.max() + 1 - columns.min()) * (rows.max() + 1 - rows.min()) / 64**2
            assert area**0.5 == pytest.approx(batch["size"][i, 0], rel=1e-5)
    assert 0.25 < batch["size"][:, 0].min() < batch["size"][:, 0].max() < 0.62


def test_crowded_collages_become_smaller_until_all_are_seen(folder):
    batch = scenes(folder, min_objects=30, max_objects=30, sizes=(0.6, 0.8)).open("train").__getitems__([0, 1])
    assert [len(np.unique(mask)) for mask in batch["mask"]] == [31, 31]


def test_a_collage_is_a_function_of_its_number(folder):
    config = scenes(folder, backgrounds=str(folder / "behind"), light=0.3, shadow=0.7, captions=True)
    data, again = config.open("test"), replace(config, num_test=7).open("test")
    batch, one = data.__getitems__([5, 0, 3]), again[3]
    for name in ("image", "mask", "classes", "x"):
        np.testing.assert_array_equal(batch[name][2], one[name])
    assert bytes(one["caption"]).decode() == data.caption(3)
    assert not np.array_equal(batch["image"][0], batch["image"][1])
    assert not np.array_equal(data[0]["image"], config.open("train")[0]["image"])
    assert not np.array_equal(data[0]["image"], replace(config, seed=1).open("test")[0]["image"])
    empty = data.__getitems__([])
    assert empty["image"].shape == (0, 64, 64, 3)


def test_no_file_is_in_two_splits_and_new_files_move_no_other(folder):
    config = scenes(folder, backgrounds=str(folder / "behind"))
    before = {split: config.files(split) for split in SPLITS}
    for kind, count in ((0, 40), (1, 20)):
        files = [file for split in SPLITS for file in before[split][kind]]
        assert len(files) == len({*files}) == count
        assert min(len(before[split][kind]) for split in SPLITS) >= 1
    for i in range(20, 60):
        cut_out(folder / f"cut/apples/{i}.png", COLORS["apples"])
    after = {split: scenes(folder).files(split)[0] for split in SPLITS}
    for split in SPLITS:
        assert {*before[split][0]} <= {*after[split]}
    assert len(after["test"]) > len(before["test"][0])


def test_shares(tmp_path):
    names = [tmp_path / f"{i}.png" for i in range(2_000)]
    found = collages.share_out(names, tmp_path, {"val": 0.1, "test": 0.2})
    assert [round(len(found[split]) / 2_000, 1) for split in SPLITS] == [0.7, 0.1, 0.2]
    assert {len(files) for files in collages.share_out(names[:3], tmp_path, {"val": 0.1, "test": 0.2}).values()} == {1}
    assert collages.share_out(names, tmp_path, {"val": 0.0, "test": 0.0})["val"] == []


def test_folders_of_splits_are_respected_and_a_class_may_be_called_train(tmp_path):
    for split, name in (("train", "apples"), ("val", "cups"), ("test", "cups")):
        cut_out(tmp_path / f"cut/{split}/{name}/one.png", COLORS[name])
    config = scenes(tmp_path)
    assert config.class_names == ("apples", "cups")
    assert [[file.parent.parent.name for file in config.files(split)[0]] for split in SPLITS] == [[s] for s in SPLITS]
    assert config.open("val").__getitems__(range(5))["classes"].max() == 2
    for i in range(6):
        cut_out(tmp_path / f"toys/train/{i}.png", COLORS["cups"])
        cut_out(tmp_path / f"toys/{i}.png", COLORS["cups"])
    assert replace(config, cutouts=str(tmp_path / "toys")).class_names == ("object", "train")


def test_captions_say_what_is_there(folder):
    data = scenes(folder, max_objects=3, backgrounds=str(folder / "behind"), drawn_share=0.5).open("train")
    batch = data.__getitems__(range(40))
    texts = [data.caption(i) for i in range(40)]
    for i, text in enumerate(texts):
        apples, cups = ((batch["classes"][i] == k).sum() for k in (1, 2))
        words = ["no", "a", "two", "three"]
        assert (f"{'an' if apples == 1 else words[apples]} apple" in text) == bool(apples)
        assert (f"{words[cups]} cup" in text) == bool(cups)
        behind = batch["image"][i][batch["mask"][i] == 0]
        photographed = np.median(behind[:, 0]) == 20 and np.median(behind[:, 1]) == 200
        assert text.endswith(" on a photograph" if photographed else " on a plain background")
    assert {text.split(" on ")[1] for text in texts} == {"a photograph", "a plain background"}


def test_masks_of_another_size_are_drawn_not_enlarged(folder):
    small, large = (scenes(folder, mask_size=size).open("train").__getitems__(range(10)) for size in (None, 128))
    np.testing.assert_array_equal(small["image"], large["image"])
    assert large["mask"].shape == (10, 128, 128)
    assert (large["mask"][:, ::2, ::2] == small["mask"]).mean() > 0.97


def test_light_and_shadow_leave_masks_alone(folder):
    dark, plain = (
        scenes(folder, light=light, shadow=shadow).open("train").__getitems__(range(10))
        for light, shadow in ((0.5, 1.0), (0.0, 0.0))
    )
    np.testing.assert_array_equal(dark["mask"], plain["mask"])
    behind = plain["mask"] == 0
    assert (dark["image"].astype(int).sum(-1) <= plain["image"].astype(int).sum(-1))[behind].all()
    changed = (dark["image"] != plain["image"]).any(-1)
    assert changed[behind].mean() > 0.02
    assert changed[~behind].mean() > 0.9


def test_what_is_left_out_is_counted_and_named(folder, capsys):
    Image.new("RGB", (9, 9)).save(folder / "cut/photo.jpg")
    Image.new("RGBA", (9, 9), (1, 2, 3, 255)).save(folder / "cut/opaque.png")
    Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(folder / "cut/nothing.png")
    (folder / "cut/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    scenes(folder).open("train")
    said = " ".join(capsys.readouterr().err.split())
    assert f"4 of 44 pictures in {folder}/cut are left out: {folder}/cut/broken.png cannot be read" in said
    assert f"{folder}/cut/nothing.png is transparent everywhere, so nothing is cut out." in said
    assert f"{folder}/cut/opaque.png is opaque everywhere, so nothing is cut out. And 1 others." in said


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"none is not a folder; data.cutouts names one with pictures that have"):
        CollageScenes(cutouts=str(tmp_path / "none")).open()
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.jpg")
    with pytest.raises(UserError, match=r"No picture in .* is a cut-out: .*photo.jpg has no transparency"):
        CollageScenes(cutouts=str(tmp_path)).open()
    cut_out(tmp_path / "cut/one.png", COLORS["cups"])
    with pytest.raises(UserError, match=r"holds 1 of the pictures .* none for the split"):
        [scenes(tmp_path).open(split) for split in SPLITS]
    with pytest.raises(UserError, match=r"nowhere is not a folder; data.backgrounds names one"):
        scenes(tmp_path, backgrounds="nowhere").open()
    for options, said in (
        ({"min_objects": 7}, "min_objects is 7 and max_objects is 6"),
        ({"sizes": (0.5, 0.2)}, "sizes is"),
        ({"background_blur": (0.5, 0.2)}, "background_blur is"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave something to train on"),
        ({"shadow": 2.0}, "data.shadow is 2.0; it must be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=said):
            scenes(tmp_path, **options)


def test_features_belong_to_the_files_and_not_to_where_they_lie(folder, tmp_path):
    before = fingerprint(scenes(folder), scenes(folder).open("train"))
    (folder / "cut").rename(tmp_path / "elsewhere")
    moved = replace(scenes(folder), cutouts=str(tmp_path / "elsewhere"))
    assert fingerprint(moved, moved.open("train")) == before
    cut_out(moved.open("train").cutouts[0], COLORS["cups"], size=(30, 9))
    changed = replace(moved)
    assert fingerprint(changed, changed.open("train"))["source"] != before["source"]
    assert CachedFeatures(images=moved, encoder=ViTConfig(model="none")).name == "collages"
