"""CLEVR v1.0 in miniature: two training and four validation scenes in the official layout."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from wire import FIXTURES

from slotworks.data import CLEVRv1
from slotworks.data.catalog import check
from slotworks.types import UserError

TRUTH = json.loads((FIXTURES / "CLEVR_v1.0/truth.json").read_text())


@pytest.fixture
def clevr(tmp_path):
    shutil.copytree(FIXTURES / "CLEVR_v1.0", tmp_path / "CLEVR_v1.0")
    return tmp_path


def vectors(scene, rows=10):
    full = np.zeros((rows, 19), np.float32)
    full[: len(scene["objects"])] = scene["objects"]
    return full


def test_objects_are_the_vectors_of_slot_attention(clevr):
    data = CLEVRv1(root=str(clevr), val_size=1)
    assert (data.name, data.size, data.max_objects) == ("clevr_v1", (128, 128), 10)
    assert sum(map(len, data.categories.values())) + 3 + 1 == 19
    expected = {"val": TRUTH["train"][:1], "train": TRUTH["train"][1:], "test": TRUTH["val"]}
    for split, scenes in expected.items():
        batch = data.open(split).__getitems__(range(len(scenes)))
        assert batch["image"].shape == (len(scenes), 128, 128, 3)
        assert batch["objects"].dtype == np.float32
        assert batch["num_objects"].tolist() == [scene["num_objects"] for scene in scenes]
        for found, scene in zip(batch["objects"], scenes, strict=True):
            np.testing.assert_allclose(found, vectors(scene), rtol=0, atol=1e-6)


def test_at_most_six_objects(clevr):
    data = CLEVRv1(root=str(clevr), val_size=1, max_objects=6)
    assert data.name == "clevr_v1_6"
    kept = [scene for scene in TRUTH["val"] if scene["num_objects"] <= 6]
    test = data.open("test")
    assert 0 < len(test) == len(kept) < len(TRUTH["val"])
    np.testing.assert_allclose(test[0]["objects"], vectors(kept[0], 6), rtol=0, atol=1e-6)
    with pytest.raises(UserError, match=r"The split 'train' of .* is empty"):
        data.open("train")  # the second training scene has ten


def test_images_are_squeezed_bilinearly(clevr):
    """320 x 480 to 128 x 128: output pixel centres lie 2.5 rows and 3.75 columns apart."""
    image = CLEVRv1(root=str(clevr), val_size=1).open("test")[2]["image"]
    with Image.open(clevr / "CLEVR_v1.0/images/val/CLEVR_val_000002.png") as picture:
        full = np.asarray(picture.convert("RGB")).astype(float)
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, 128, (50, 2)):
        y, x = (row + 0.5) * 2.5 - 0.5, (column + 0.5) * 3.75 - 0.5
        top, left = int(y), int(x)
        down, right = y - top, x - left
        mixed = (
            (1 - down) * (1 - right) * full[top, left]
            + (1 - down) * right * full[top, left + 1]
            + down * (1 - right) * full[top + 1, left]
            + down * right * full[top + 1, left + 1]
        )
        assert np.abs(image[row, column] - mixed).max() <= 0.51


def test_properties_keep_the_order_of_the_file(clevr):
    scene = json.loads((clevr / "CLEVR_v1.0/scenes/CLEVR_val_scenes.json").read_text())["scenes"][0]
    row, data = CLEVRv1(root=str(clevr), val_size=1).open("test")[0], CLEVRv1()
    for k, item in enumerate(scene["objects"]):
        np.testing.assert_allclose(row["coords"][k], item["3d_coords"], rtol=1e-6)
        np.testing.assert_allclose(row["pixel_coords"][k], item["pixel_coords"], rtol=1e-6)
        assert {name: classes[row[name][k] - 1] for name, classes in data.categories.items()} == {
            name: item[name] for name in data.categories
        }
    assert not row["size"][len(scene["objects"]) :].any()


def test_check_and_a_second_preparation(clevr):
    found = check(clevr, "clevr_v1")
    assert [(f.status, f.path.name) for f in found] == [("ok", "CLEVR_v1.0")]
    assert "6 of 85,000 images" in found[0].message
    store = CLEVRv1(root=str(clevr)).prepare()
    assert [(f.status, f.path) for f in check(clevr, "clevr_v1")] == [("ok", store)]
    shutil.rmtree(clevr / "CLEVR_v1.0")
    assert CLEVRv1(root=str(clevr), max_objects=6).prepare() == store  # the same store, without the official files


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda root: (root / "scenes/CLEVR_val_scenes.json").unlink(), "scenes.json is missing; get CLEVR_v1.0.zip"),
        (lambda root: (root / "scenes/CLEVR_val_scenes.json").write_text("{}"), "damaged or not a scene file of CLEVR"),
        (lambda root: (root / "images/train/CLEVR_train_000001.png").unlink(), "000001.png is missing; unpack"),
        (
            lambda root: (root / "images/val/CLEVR_val_000001.png").write_bytes(b"PNG"),
            "000001.png cannot be read as a picture",
        ),
        (
            lambda root: Image.new("RGB", (320, 240)).save(root / "images/val/CLEVR_val_000001.png"),
            "has 320 x 240 pixels, expected 480 x 320",
        ),
    ],
)
def test_damaged_files(clevr, damage, text):
    damage(clevr / "CLEVR_v1.0")
    with pytest.raises(UserError, match=text):
        CLEVRv1(root=str(clevr)).prepare()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"color": "pink"}, "holds a scene that is not one of CLEVR"),
        ({"3d_coords": [1, 2]}, "holds a scene that is not one of CLEVR"),
        (None, "holds a scene that is not one of CLEVR"),
    ],
)
def test_strange_scenes(clevr, change, text):
    file = clevr / "CLEVR_v1.0/scenes/CLEVR_val_scenes.json"
    scenes = json.loads(file.read_text())
    if change:
        scenes["scenes"][1]["objects"][0] |= change
    else:
        scenes["scenes"][1]["image_filename"] = "../CLEVR_val_000001.png"
    file.write_text(json.dumps(scenes))
    with pytest.raises(UserError, match=text):
        CLEVRv1(root=str(clevr)).prepare()


def test_settings():
    for wrong, text in (
        ({"max_objects": 2}, "scenes hold 3 to 10"),
        ({"image_size": 0}, "image_size is 0; it must be from 1 to"),
    ):
        with pytest.raises(ValueError, match=text):
            CLEVRv1(**wrong)
