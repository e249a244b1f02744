"""The data sets give what the official containers hold: numbers from `truth.json`, counted by other readers."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from wire import FIXTURES, example, floats, strings

from slotworks.data import CLEVR, CLEVRTex, MultiDSprites, Tetrominoes
from slotworks.data.readers.clevrtex import COLORS, SHAPES, SIZES
from slotworks.data.readers.tfrecord import read_examples, read_payloads, write_records
from slotworks.data.stores.store import write_store
from slotworks.types import UserError

CLEVR_FILE = FIXTURES / "multi_object_datasets/clevr_with_masks/clevr_with_masks_train.tfrecords"


def everything(dataset):
    return dataset.__getitems__(list(range(len(dataset))))


def pixels(mask, count):
    return np.bincount(mask.reshape(-1), minlength=count).tolist()


def test_tetrominoes(official, truth):
    data = Tetrominoes(root=str(official / "tetrominoes"), train_size=4, test_size=0, val_size=0)
    assert (data.name, data.size, data.max_objects) == ("tetrominoes", (35, 35), 3)
    batch = everything(data.open("train"))
    records = truth["multi_object_datasets"]["tetrominoes"]["records"]
    assert len(records) == len(batch["image"]) == 4
    for i, record in enumerate(records):
        assert pixels(batch["mask"][i], 4) == record["mask_pixels"] == [925, 100, 100, 100]
        assert batch["image"][i].sum() == record["image_sum"]
        assert batch["num_objects"][i] == 3
        for key in ("x", "y", "shape", "color", "visibility"):
            np.testing.assert_array_equal(batch[key][i], record[key])
        for k in (1, 2, 3):  # x is the row, y the column of the bounding box
            where = np.argwhere(batch["mask"][i] == k)
            assert where.min(axis=0).tolist() == [record["x"][k], record["y"][k]]
            lit = batch["image"][i][batch["mask"][i] == k] > 0
            assert (lit == np.array(record["color"][k], bool)).all()
    assert batch["image"].dtype == batch["mask"].dtype == np.uint8


def test_splits_are_consecutive_records(official):
    data = Tetrominoes(root=str(official / "tetrominoes"), train_size=2, test_size=1, val_size=1)
    shapes = {split: data.open(split).__getitems__([0])["shape"][0].tolist() for split in ("train", "test", "val")}
    assert shapes == {"train": [0, 6, 9, 3], "test": [0, 6, 17, 14], "val": [0, 14, 18, 13]}
    assert [len(data.open(split)) for split in ("train", "test", "val")] == [2, 1, 1]
    with pytest.raises(ValueError, match="split is 'valid'; expected one of train, val, test"):
        data.open("valid")


def test_multi_dsprites(official, truth):
    data = MultiDSprites(
        root=str(official / "multi_dsprites"), variant="colored_on_colored", train_size=4, test_size=0, val_size=0
    )
    assert (data.name, data.size, data.max_objects) == ("multi_dsprites_colored_on_colored", (64, 64), 4)
    batch = everything(data.open())
    records = truth["multi_object_datasets"]["multi_dsprites_colored_on_colored"]["records"]
    for i, record in enumerate(records):
        assert pixels(batch["mask"][i], 5) == record["mask_pixels"]
        assert batch["image"][i].sum() == record["image_sum"]
        assert batch["num_objects"][i] == record["num_objects"] == i + 1
        for key in ("x", "y", "shape", "scale", "orientation", "visibility"):
            np.testing.assert_array_equal(batch[key][i], np.float32(record[key]))
        for k in range(record["num_objects"] + 1):
            assert (batch["image"][i][batch["mask"][i] == k] == record["color_u8"][k]).all()


def test_binarized_sprites_become_three_channels(official):
    """No official file of this variant is in the fixtures: one is made with its schema."""
    image = np.zeros((64, 64), np.uint8)
    image[10:20, 5:9] = 255
    masks = np.stack([255 - image, image, 0 * image, 0 * image], axis=-1)

    def one_byte_each(array):
        return strings([bytes([value]) for value in array.reshape(-1).tolist()])

    properties = {
        key: floats([0, 1, 0, 0]) for key in ("x", "y", "shape", "scale", "orientation", "visibility", "color")
    }
    record = example(image=one_byte_each(image), mask=one_byte_each(masks), **properties)
    write_records(official / "multi_dsprites/multi_dsprites_binarized.tfrecords", [record])
    data = MultiDSprites(
        root=str(official / "multi_dsprites"), variant="binarized", train_size=1, test_size=0, val_size=0
    )
    batch = everything(data.open())
    np.testing.assert_array_equal(batch["image"], np.repeat(image[None, :, :, None], 3, axis=-1))
    np.testing.assert_array_equal(batch["mask"][0], image // 255)
    assert batch["color"].shape == (1, 4, 1)


def test_the_wrong_variant_is_named(official):
    folder = official / "multi_dsprites"
    shutil.move(
        folder / "multi_dsprites_colored_on_colored.tfrecords", folder / "multi_dsprites_colored_on_grayscale.tfrecords"
    )
    text = "record 0 has 5 entities, but colored_on_grayscale has 6; the file is of the variant colored_on_colored"
    with pytest.raises(UserError, match=text):
        MultiDSprites(root=str(folder)).open()


def test_clevr_without_resizing(official, truth):
    """With 192 pixels the stored image is the crop itself, rows 29 to 220, columns 64 to 255."""
    data = CLEVR(root=str(official / "clevr_with_masks"), max_objects=10, image_size=192, train_size=4)
    assert (data.name, data.size, data.max_objects) == ("clevr10", (192, 192), 10)
    batch = everything(data.open())
    records = truth["multi_object_datasets"]["clevr_with_masks"]["records"]
    examples = list(read_examples(CLEVR_FILE))
    for i, (record, stored) in enumerate(zip(records, examples, strict=True)):
        image = stored.uint8("image", (240, 320, 3))
        assert image.sum() == record["image_sum"]
        np.testing.assert_array_equal(batch["image"][i], image[29:221, 64:256])
        assert pixels(batch["mask"][i], 11) == record["crop_mask_pixels"]
        assert batch["num_objects"][i] == np.count_nonzero(record["crop_mask_pixels"][1:])
        assert batch["scene_objects"][i] == record["num_objects"]
        assert batch["visibility"][i].sum() == record["sum_visibility"]
        for key in ("size", "material", "shape", "color", "z"):
            np.testing.assert_array_equal(batch[key][i], np.float32(record[key]))
    assert batch["num_objects"].tolist() == [3, 4, 6, 9]  # one object left the crop in scenes 1 and 3


def test_clevr_at_128_pixels(official):
    """Three source pixels become two: weights 3/4 and 1/4, and for masks the pixels 0, 2, 3, 5, 6, 8, ..."""
    root = str(official / "clevr_with_masks")
    cropped = everything(CLEVR(root=root, max_objects=10, image_size=192, train_size=4).open())
    batch = everything(CLEVR(root=root, max_objects=10, train_size=4).open())

    weights = np.zeros((128, 192))
    for m in range(64):
        weights[2 * m, [3 * m, 3 * m + 1]] = 0.75, 0.25
        weights[2 * m + 1, [3 * m + 1, 3 * m + 2]] = 0.25, 0.75
    exact = np.einsum("ij,bjkc,lk->bilc", weights, cropped["image"].astype(float), weights, optimize=True)
    assert np.abs(batch["image"] - exact).max() <= 0.5  # rounded, nothing else

    numbers = [3 * (i // 2) + 2 * (i % 2) for i in range(128)]
    np.testing.assert_array_equal(batch["mask"], cropped["mask"][:, numbers][:, :, numbers])
    exactly = F.interpolate(torch.from_numpy(cropped["mask"])[None], size=(128, 128), mode="nearest-exact")[0].numpy()
    np.testing.assert_array_equal(batch["mask"], exactly)


def test_clevr6_keeps_scenes_of_at_most_six_objects(official):
    """Scenes have 3, 5, 6 and 10 objects. The filter `sum(visibility) <= 6` would lose the third."""
    root = str(official / "clevr_with_masks")
    assert CLEVR(root=root).name == "clevr6"
    assert CLEVR(root=root).max_objects == 6
    assert everything(CLEVR(root=root, train_size=4).open())["scene_objects"].tolist() == [3, 5, 6]
    assert everything(CLEVR(root=root, train_size=4, max_objects=5).open())["scene_objects"].tolist() == [3, 5]
    six = CLEVR(root=root, train_size=1, test_size=1, val_size=1)
    assert [everything(six.open(split))["scene_objects"].tolist() for split in ("train", "test", "val")] == [
        [3],
        [5],
        [6],
    ]
    ten = CLEVR(root=root, train_size=1, test_size=2, val_size=1, max_objects=10)
    assert [everything(ten.open(split))["scene_objects"].tolist() for split in ("test", "val")] == [[5, 6], [10]]
    assert [path.name for path in (official / "clevr_with_masks/prepared").glob("[!.]*")] == ["clevr_with_masks-128"]
    with pytest.raises(UserError, match=r"The split 'val' needs 3 images of .*clevr_with_masks-128, but 2 fit"):
        CLEVR(root=root, train_size=1, test_size=2, val_size=1).open("val")
    with pytest.raises(UserError, match=r"The split 'train' needs 70,000 images of .*clevr_with_masks-128, but 4 fit"):
        CLEVR(root=root).open()
    with pytest.raises(UserError, match=r"The split 'val' of .*clevr_with_masks-128 is empty"):
        CLEVR(root=root, train_size=1, val_size=0).open("val")


@pytest.mark.parametrize("variant", ["full", "outd"])
def test_clevrtex_without_resizing(official, truth, variant):
    data = CLEVRTex(root=str(official / "clevrtex"), variant=variant, image_size=192)
    records = truth["clevrtex"]["variants"][variant]
    test = data.open("test")
    data.open("test").verify()
    assert len(test) == {"full": 1, "outd": 2}[variant]
    rows = range(len(test)) if variant == "outd" else range(10)
    splits = [test] if variant == "outd" else [test, data.open("val"), data.open("train")]
    batches = [everything(split) for split in splits]
    batch = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    for i, record in zip(rows, records, strict=True):
        assert record["index"] == i
        assert pixels(batch["mask"][i], record["num_objects"] + 1) == record["center_crop_192_mask_pixels"]
        assert batch["num_objects"][i] == np.count_nonzero(record["center_crop_192_mask_pixels"][1:])
        assert batch["scene_objects"][i] == record["num_objects"]
        count = record["num_objects"]
        assert [SHAPES[k - 1] for k in batch["shape"][i][1 : count + 1]] == record["shapes"]
        assert [SIZES[k - 1] for k in batch["size"][i][1 : count + 1]] == record["sizes"]
        assert not batch["shape"][i][count + 1 :].any()
        image = np.asarray(Image.open(data.files(i)[0]))[24:216, 64:256, :3]
        np.testing.assert_array_equal(batch["image"][i], image)
    assert "color" not in batch


def test_clevrtex_at_128_pixels(official):
    root = str(official / "clevrtex")
    large = everything(CLEVRTex(root=root, image_size=192).open())
    batch = everything(CLEVRTex(root=root).open())
    numbers = [3 * (i // 2) + 2 * (i % 2) for i in range(128)]
    np.testing.assert_array_equal(batch["mask"], large["mask"][:, numbers][:, :, numbers])
    # Pillow's triangle spans three source pixels: weights 1/9, ... of |distance| < 1.5, unlike CLEVR's two-pixel rule
    weights = np.zeros((128, 192))
    for i in range(128):
        triangle = np.maximum(0, 1.5 - np.abs(np.arange(192) + 0.5 - 1.5 * (i + 0.5)))
        weights[i] = triangle / triangle.sum()
    exact = np.einsum("ij,bjkc,lk->bilc", weights, large["image"].astype(float), weights, optimize=True)
    assert np.abs(batch["image"] - exact).max() <= 1.01  # Pillow rounds after each direction


def test_clevrtex_enlarged_with_masks_of_another_size(official):
    data = CLEVRTex(root=str(official / "clevrtex"), image_size=224, mask_size=192)
    assert data.store_name == "clevrtex_full-224-192"
    assert CLEVRTex(image_size=128, mask_size=128).store_name == "clevrtex_full-128"
    row, plain = data.decode(0), CLEVRTex(root=str(official / "clevrtex"), image_size=192).decode(0)
    np.testing.assert_array_equal(row["mask"], plain["mask"])
    enlarged = Image.fromarray(plain["image"]).resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(row["image"], np.asarray(enlarged))


def test_clevrtex_first_scene(official):
    """The description of image 0, copied from its file."""
    row = CLEVRTex(root=str(official / "clevrtex")).open("test")[0]
    np.testing.assert_allclose(row["x"][:4], [0, 2.15, -0.6, -0.45])
    np.testing.assert_allclose(row["y"][:4], [0, 0.2, 1.175, -1.225])
    np.testing.assert_allclose(row["z"][:4], [0, 0.4, 0.9, 0.6])
    np.testing.assert_allclose(row["rotation"][:4], [0, 80.4305, 327.9718, 4.1471])


def test_colours_are_stored_where_they_mean_something(official):
    """`vbg` is not in the fixtures: the files of `outd` under its name."""
    folder = official / "clevrtex/clevrtex_vbg/0"
    folder.mkdir(parents=True)
    for file in (official / "clevrtex/clevrtex_outd/0").iterdir():
        shutil.copy(file, folder / file.name.replace("outd", "vbg"))
    data = CLEVRTex(root=str(official / "clevrtex"), variant="vbg")
    row = data.decode(0)
    names = [item["color"] for item in json.loads(data.files(0)[2].read_text())["objects"]]
    assert [COLORS[k - 1] for k in row["color"][1 : len(names) + 1]] == names


def test_outd_is_for_testing(official):
    data = CLEVRTex(root=str(official / "clevrtex"), variant="outd")
    assert data.name == "clevrtex_outd"
    with pytest.raises(UserError, match="clevrtex_outd is for testing and has no split 'train'; open 'test'"):
        data.open("train")


@pytest.mark.parametrize(
    ("data", "file", "origin", "size"),
    [
        (Tetrominoes, "tetrominoes_train.tfrecords", "/tetrominoes/tetrominoes_train.tfrecords", "300 MB"),
        (
            MultiDSprites,
            "multi_dsprites_colored_on_grayscale.tfrecords",
            "/multi_dsprites/multi_dsprites_colored_on_grayscale.tfrecords",
            "between 500 MB and 1 GB",
        ),
        (CLEVR, "clevr_with_masks_train.tfrecords", "/clevr_with_masks/clevr_with_masks_train.tfrecords", "10.5 GB"),
    ],
)
def test_a_missing_file_is_named_with_origin_and_size(tmp_path, data, file, origin, size):
    with pytest.raises(UserError) as raised:
        data(root=str(tmp_path)).open()
    assert str(raised.value) == (
        f"{tmp_path / file} is missing ({size}). Get it from https://storage.googleapis.com/multi-object-datasets"
        f"{origin} and put it there."
    )


def test_missing_clevrtex_files(official):
    with pytest.raises(
        UserError, match=r"clevrtex_camo is missing .* Get it from https://www.robots.ox.ac.uk/~vgg/data/"
    ):
        CLEVRTex(root=str(official / "clevrtex"), variant="camo").open()
    folder = official / "clevrtex/clevrtex_full/0"
    (folder / "CLEVRTEX_full_000009_flat.png").unlink()
    with pytest.raises(UserError, match=r"CLEVRTEX_full_000009_flat.png cannot be read .No such file"):
        CLEVRTex(root=str(official / "clevrtex")).open()
    (folder / "CLEVRTEX_full_000004.png").unlink()
    with pytest.raises(UserError, match=r"CLEVRTEX_full_000004.png is missing; unpack the archives"):
        CLEVRTex(root=str(official / "clevrtex")).open()


def test_a_mask_that_lost_its_palette(official):
    data = CLEVRTex(root=str(official / "clevrtex"))
    Image.open(data.files(0)[1]).convert("RGB").save(data.files(0)[1])
    with pytest.raises(UserError, match=r"_flat.png is a RGB image of 320 x 240 pixels, expected P or L of 320 x 240"):
        data.decode(0)


def test_a_file_that_ends_early(official):
    data = Tetrominoes(root=str(official / "tetrominoes"), train_size=3, test_size=1, val_size=1)
    text = r"tetrominoes_train.tfrecords holds 4 records, but train_size \+ test_size \+ val_size = 5; choose smaller"
    for _ in range(2):  # the second time from what the first one kept
        with pytest.raises(UserError, match=text):
            data.open()


def test_the_official_file_may_go_once_the_store_is_there(official):
    data = Tetrominoes(root=str(official / "tetrominoes"), train_size=2, test_size=1, val_size=1)
    data.prepare()
    data.official_file.unlink()
    assert len(data.open("train")) == 2


def test_resuming_a_real_file_gives_the_same_bytes(official, monkeypatch):
    """A preparation of 240 records stops in the middle and goes on: same bytes as without a stop."""
    file = official / "tetrominoes/tetrominoes_train.tfrecords"
    write_records(file, list(read_payloads(file)) * 60)
    monkeypatch.setattr("slotworks.data.stores.prepared.write_store", partial(write_store, chunk_bytes=200_000))
    data = Tetrominoes(root=str(official / "tetrominoes"), train_size=238, test_size=1, val_size=1)
    reference = {path.name: path.read_bytes() for path in data.prepare().iterdir()}
    shutil.rmtree(data.store_path)

    decode, decoded = Tetrominoes.decode, []

    def stops(self, example):
        decoded.append(example.where)
        if len(decoded) == 100:
            raise KeyboardInterrupt
        return decode(self, example)

    monkeypatch.setattr(Tetrominoes, "decode", stops)
    with pytest.raises(KeyboardInterrupt):
        data.prepare()
    data.prepare()
    assert {path.name: path.read_bytes() for path in data.store_path.iterdir()} == reference
    assert 240 < len(decoded) < 240 + 60  # only the chunk that was open is read again


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Tetrominoes(train_size=-1), "train_size is -1; it must be 0 or more"),
        (lambda: CLEVR(image_size=200), "image_size is 200; expected 1 to 192 pixels"),
        (lambda: CLEVR(max_objects=2), "max_objects is 2; every scene has at least 3"),
        (lambda: CLEVRTex(image_size=0), "image_size is 0; it must be from 1 to"),
        (lambda: CLEVRTex(mask_size=513), "mask_size is 513; expected 1 to 512 pixels"),
    ],
)
def test_wrong_arguments(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (MultiDSprites, "variant is 'other'; expected one of binarized, colored_on_grayscale, colored_on_colored"),
        (CLEVRTex, "variant is 'other'; expected one of full, pbg, vbg, grassbg, camo, outd"),
    ],
)
def test_unknown_variants(config, text):
    """Set behind the back of the type checker that guards the tests."""
    data = object.__new__(config)
    for key, value in (vars(config()) | {"variant": "other"}).items():
        object.__setattr__(data, key, value)
    with pytest.raises(ValueError, match=text):
        data.__post_init__()
