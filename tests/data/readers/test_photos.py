"""Pictures of every kind and condition become the right rows or one sentence; crops and flips keep masks in place."""

import io
import multiprocessing
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import attempts, mutate
from PIL import Image
from wire import FIXTURES

from slotworks.data import COCO, VOC, Pictures
from slotworks.data.readers import photos as photos_module
from slotworks.data.readers.photos import read_labels
from slotworks.data.readers.voc import color_map
from slotworks.data.stores import prepared
from slotworks.data.stores.prepared import in_order
from slotworks.data.stores.shrink import nearest, shrink, square, stored_shape, window
from slotworks.data.stores.store import Store
from slotworks.images import find_images, read_image
from slotworks.nn.noise import shared_noise
from slotworks.types import UserError, to_batch

JPEG = FIXTURES / "VOCdevkit/VOC2012/JPEGImages/2099_000001.jpg"


@pytest.fixture
def voc(tmp_path):
    shutil.copytree(FIXTURES / "VOCdevkit", tmp_path / "VOCdevkit")
    return tmp_path / "VOCdevkit"


def pixel(path, **options):
    return read_image(path, **options).getpixel((0, 0))


# ---- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("RGB", (200, 30, 10), "png", (200, 30, 10)),
        ("L", 90, "png", (90, 90, 90)),
        ("L", 90, "jpg", (90, 90, 90)),
        ("1", 1, "png", (255, 255, 255)),
        ("RGBA", (200, 30, 10, 0), "png", (255, 255, 255)),
        ("RGBA", (200, 30, 10, 255), "webp", None),
        ("LA", (0, 0), "png", (255, 255, 255)),
        ("CMYK", (0, 0, 0, 255), "jpg", (0, 0, 0)),
        ("CMYK", (0, 0, 0, 0), "tif", (255, 255, 255)),
        ("I;16", 0xFFFF, "png", (255, 255, 255)),
        ("I;16", 0x8080, "png", (128, 128, 128)),
        ("F", 3.5, "tif", (255, 255, 255)),
        ("YCbCr", (255, 128, 128), "jpg", (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, color, suffix, expected):
    Image.new(mode, (5, 4), color).save(tmp_path / f"a.{suffix}")
    picture = read_image(tmp_path / f"a.{suffix}")
    assert (picture.mode, picture.size) == ("RGB", (5, 4))
    if expected:
        assert pixel(tmp_path / f"a.{suffix}") == expected


def test_transparent_colour_of_a_palette(tmp_path):
    image = Image.new("P", (3, 3), 1)
    image.putpalette([0, 0, 0, 9, 99, 9])
    image.save(tmp_path / "a.png", transparency=1)
    assert pixel(tmp_path / "a.png") == (255, 255, 255)
    image.save(tmp_path / "b.gif")
    assert pixel(tmp_path / "b.gif") == (9, 99, 9)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    upright = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
    # what a camera stores that was held so (EXIF: where row 0 and column 0 of the file belong)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),  # to be shown turned clockwise
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), upright)
    kept = read_image(tmp_path / "a.png", stated_size=image.size)  # an annotation of the file as it is stored
    np.testing.assert_array_equal(np.asarray(kept), stored)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png", upright=False)), stored)
    if orientation >= 5:  # and one that was made of the upright picture
        made_upright = read_image(tmp_path / "a.png", stated_size=image.size[::-1])
        np.testing.assert_array_equal(np.asarray(made_upright), upright)
    with pytest.raises(UserError, match="has 6 x 4 pixels, its annotation states 9 x 9; they do not belong together"):
        read_image(tmp_path / "a.png", stated_size=(9, 9))


def test_damaged_orientation_leaves_a_sound_picture(tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").size == (6, 4)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp"])
def test_damaged_files_give_a_sentence(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(file)
    data = file.read_bytes()
    for wrong in (data[: len(data) // 2], b"", b"no picture", data[:20]):
        file.write_bytes(wrong)
        with pytest.raises(UserError, match=rf"a\.{suffix} cannot be read as a picture \(") as error:
            read_image(file)
        assert str(error.value).count(str(tmp_path)) == 1
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_image(tmp_path / "nothing.png")


def test_mutated_pictures(tmp_path):
    """Whatever is wrong with a file, the answer is a picture or one sentence."""
    file = tmp_path / "a"
    kinds = []
    for suffix in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        Image.open(JPEG).save(buffer := io.BytesIO(), format=suffix)
        kinds.append(buffer.getvalue())

    def read(generator):
        file.write_bytes(mutate(generator.choice(kinds), generator))
        assert read_image(file, needed=16).mode == "RGB"

    readable, refused = attempts(read, 150)
    assert refused > 50
    assert readable > 10


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF", b""]))
def test_any_bytes(tmp_path_factory, content, magic):
    file = tmp_path_factory.mktemp("bytes") / "a.png"
    file.write_bytes(magic + content)
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_image(file)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_very_large_picture(tmp_path, suffix, recwarn):
    """12,000 x 9,000 pixels, left half black and right half white."""
    image = Image.new("L", (12_000, 9_000))
    image.paste(255, (6_000, 0, 12_000, 9_000))
    image.save(tmp_path / f"a.{suffix}", **({"compress_level": 1} if suffix == "png" else {}))
    picture = read_image(tmp_path / f"a.{suffix}", needed=64)
    assert picture.size == ((1_500, 1_125) if suffix == "jpg" else (12_000, 9_000))
    small = shrink(picture, 64, "center", "bicubic")["image"]
    assert small.shape == (64, 64, 3)
    assert small[:, :30].max() <= 1
    assert small[:, 34:].min() >= 254
    assert not recwarn.list


def test_a_picture_too_large_to_be_one(tmp_path):
    Image.new("1", (8, 8)).save(buffer := io.BytesIO(), format="PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (40_000).to_bytes(4, "big") * 2  # the header's size; its checksum is only looked at later
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_image(tmp_path / "bomb.png")


def test_folders_are_searched_for_pictures(tmp_path):
    (tmp_path / "b.png").mkdir()
    for name in ("c/z.JPG", "a.webp", "c/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, notes = find_images([tmp_path])
    assert notes == [f"Left out below {tmp_path}: 1 .txt."]
    assert [file.name for file in found] == ["a.webp", "z.JPG"]
    with pytest.raises(UserError, match="does not exist; give picture files or folders"):
        find_images([tmp_path / "nothing"])


# ---- making small --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 375), (333, 500), (300, 300), (501, 1003), (97, 41)])
@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
def test_centre_crop_is_resize_then_crop(size, kind):
    """Against the two steps written out: short side to 224, long side cut off, middle rounded."""
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8))
    ours = shrink(picture, 224, "center", kind)["image"]
    short = min(size)
    new = tuple(224 if n == short else int(224 * n / short) for n in size)
    left, top = (round((n - 224) / 2) for n in new)
    whole = picture.resize(new, getattr(Image.Resampling, kind.upper()))
    expected = np.asarray(whole.crop((left, top, left + 224, top + 224)))
    np.testing.assert_array_equal(ours, expected)


def test_window_cuts_and_rounds_as_torchvision_does():
    assert window(640, 480, 224, 224) == (298, 37, 224)  # int(298.67), (298 - 224) / 2
    assert window(480, 480, 224, 224) == (224, 0, 224)
    assert window(500, 333, 224, 224) == (336, 56, 224)
    assert window(501, 500, 224, 224) == (224, 0, 224)
    assert window(229, 225, 225, 224) == (229, 2, 224)  # 2.5 is rounded to the even side
    assert window(640, 480, 224, 298) == (298, 0, 298)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 60))
def test_masks_are_picked_as_pillow_does(width, height, side):
    labels = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    short = min(width, height)
    new = tuple(side if n == short else int(side * n / short) for n in (width, height))
    left, top = (round((n - side) / 2) for n in new)
    whole = Image.fromarray(labels).resize(new, Image.Resampling.NEAREST)
    expected = np.asarray(whole.crop((left, top, left + side, top + side)))
    np.testing.assert_array_equal(nearest((width, height), side, "center")(labels), expected)
    np.testing.assert_array_equal(
        nearest((width, height), side, "whole")(labels),
        np.asarray(Image.fromarray(labels).resize((side, side), Image.Resampling.NEAREST)),
    )


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (500, 375), (427, 640)])
def test_masks_at_320_are_those_of_pillow_and_but_for_ties_of_torch(size):
    labels = np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8)
    new = tuple(320 if n == min(size) else int(320 * n / min(size)) for n in size)
    left, top = (round((n - 320) / 2) for n in new)
    found = nearest(size, 320, "center")(labels)
    whole = Image.fromarray(labels).resize(new, Image.Resampling.NEAREST)
    np.testing.assert_array_equal(found, np.asarray(whole.crop((left, top, left + 320, top + 320))))
    torchs = torch.nn.functional.interpolate(torch.from_numpy(labels)[None, None], new[::-1], mode="nearest-exact")
    other = found != torchs[0, 0, top : top + 320, left : left + 320].numpy()
    assert other.mean() < 0.02


def test_very_long_pictures_are_cropped_like_others():
    """A smooth 40:1 strip, where the two ways of cropping agree to rounding."""
    columns = np.linspace(0, 255, 4_000).astype(np.uint8)
    picture = Image.fromarray(np.tile(columns[None, :, None], (100, 1, 3)))
    found = shrink(picture, 25, "center", "bilinear")["image"][0, :, 0].astype(int)
    whole = np.asarray(picture.resize((1_000, 25), Image.Resampling.BILINEAR))[0, 488:513, 0].astype(int)
    assert np.abs(found - whole).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 10_000), (3, 5_000)])
@pytest.mark.parametrize("crop", ["center", "random", "whole"])
def test_extreme_shapes(size, crop):
    row = shrink(Image.new("RGB", size, (10, 200, 30)), 24, crop, "bicubic")
    used = row["image"][:, : row["width"]] if crop == "random" else row["image"]
    assert row["image"].shape == (*stored_shape(24, crop), 3)
    assert (used == (10, 200, 30)).all()
    if crop == "random":
        assert row["width"] == (24 if size == (1, 1) else 32)
        assert row["turned"] == (size[1] > size[0])
    assert nearest(size, 16, crop)(np.full(size[::-1], 7, np.uint8)).shape == stored_shape(16, crop)


def test_results_come_in_order_and_only_a_little_ahead():
    started = []

    def work(i):
        started.append(i)
        return i * i

    results = in_order(work, range(1000), 3)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(started) <= 5 + 3 * 3
    results.close()
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 // (5 - i), range(10), 3))


# ---- labels --------------------------------------------------------------------------------------------------------


def test_labels_of_palette_and_grey_files(tmp_path):
    labels = np.array([[0, 1, 255], [20, 15, 0]], np.uint8)
    image = Image.fromarray(labels)
    image.save(tmp_path / "grey.png")
    image.putpalette(color_map().flatten().tolist())
    image.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(read_labels(tmp_path / name, palette=color_map()), labels)

    image.convert("RGB").save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"rgb.png is a RGB image; expected a palette or grey image"):
        read_labels(tmp_path / "rgb.png")
    image.convert("RGB").quantize(4).save(tmp_path / "other.png")
    with pytest.raises(UserError, match=r"other.png shows \d in the colour .* its palette is another one"):
        read_labels(tmp_path / "other.png", palette=color_map())
    (tmp_path / "cut.png").write_bytes((tmp_path / "grey.png").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cut\.png cannot be read as a picture"):
        read_labels(tmp_path / "cut.png")
    with pytest.raises(UserError, match=r"no\.png is missing"):
        read_labels(tmp_path / "no.png")


def test_mutated_labels(tmp_path):
    """The checksums of PNG leave no wrong label through."""
    whole = (FIXTURES / "VOCdevkit/VOC2012/SegmentationObject/2099_000001.png").read_bytes()
    expected = read_labels(FIXTURES / "VOCdevkit/VOC2012/SegmentationObject/2099_000001.png")

    def read(generator):
        (tmp_path / "a.png").write_bytes(mutate(whole, generator))
        np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), expected)

    readable, refused = attempts(read, 80)
    assert refused > 60
    assert readable + refused == 80


def test_color_map_is_that_of_voc():
    colors = color_map()
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {k: tuple(map(int, colors[k])) for k in known} == known
    assert tuple(colors[255]) == (224, 224, 192)
    assert len({tuple(c) for c in colors}) == 256


# ---- random crops and flips ----------------------------------------------------------------------------------------


def tagged(photos, size=(80, 60), mask_side=24, rows=1):
    """A batch whose image and mask hold the column of the original landscape in every pixel."""
    height, width = stored_shape(photos.image_size, "random")
    image = np.tile(np.arange(width, dtype=np.uint8)[None, None, :, None], (rows, height, 1, 3))
    mask_height, mask_width = stored_shape(mask_side, "random")
    mask = np.tile(np.arange(mask_width, dtype=np.uint8)[None, None], (rows, mask_height, 1))
    return {"image": image, "mask": mask}


def test_random_crops_reach_every_place_and_move_masks_along():
    photos = VOC(image_size=48, crop="random", flip=False)
    raw = tagged(photos, rows=400)
    raw["width"], raw["turned"] = np.full(400, 60, np.int32), np.zeros(400, np.bool_)
    batch = to_batch(raw)
    with shared_noise(1, part=0, parts=1):
        found = photos.augment(batch)
    assert found["image"].shape == (400, 3, 48, 48)
    assert found["mask"].shape == (400, 24, 24)
    left = (found["image"][:, 0, 0, 0] * 255).round().long()
    assert left.unique().tolist() == list(range(13))  # 60 - 48 + 1 places
    assert left.bincount().min() > 400 / 13 / 3
    assert (found["mask"][:, 0, 0] == left // 2).all()  # masks are half as large
    assert ((found["image"][:, 0, 5] * 255).round().long() == left[:, None] + torch.arange(48)).all()
    assert "width" not in found
    assert "turned" not in found
    assert batch["image"].shape == (400, 3, 48, 64)  # the batch that was given is as before


def test_crops_of_portraits_stand_upright_and_stay_inside():
    photos = VOC(image_size=48, crop="random", flip=False)
    raw = tagged(photos, rows=50)
    raw["width"], raw["turned"] = np.full(50, 50, np.int32), np.ones(50, np.bool_)
    found = photos.augment(to_batch(raw))
    top = (found["image"][:, 0, 0, 0] * 255).round().long()
    assert set(top.tolist()) == {0, 1, 2}
    assert ((found["image"][:, 0, :, 7] * 255).round().long() == top[:, None] + torch.arange(48)).all()
    assert (found["mask"][:, :, 3] == (top // 2)[:, None] + torch.arange(24)).all()


def test_flips_mirror_half_of_the_batch_with_its_masks():
    photos = VOC(image_size=8, flip=True)
    image = np.tile(np.arange(8, dtype=np.uint8)[None, None, :, None], (600, 8, 1, 3))
    raw = {"image": image, "mask": image[..., 0], "class_mask": image[..., 0], "void": image[..., 0] > 4}
    found = photos.augment(to_batch(raw))
    flipped = found["image"][:, 0, 0, 0] > 0
    assert 240 < flipped.sum() < 360
    row = torch.where(flipped[:, None], 7 - torch.arange(8), torch.arange(8))
    for name in ("mask", "class_mask"):
        assert (found[name][:, 3].long() == row).all()
    assert (found["void"][:, 0] == (row > 4)).all()
    assert found["void"].dtype == torch.bool
    same = VOC(image_size=8, flip=False).augment(to_batch(raw))
    torch.testing.assert_close(same["image"], to_batch(raw)["image"], rtol=0, atol=0)


def test_augmentation_does_not_depend_on_how_the_batch_is_split():
    photos = VOC(image_size=48, crop="random")
    raw = tagged(photos, rows=8)
    raw["width"], raw["turned"] = np.full(8, 64, np.int32), np.arange(8) % 2 == 0
    with shared_noise(5, part=0, parts=1):
        whole = photos.augment(to_batch(raw))
    parts = []
    for part in range(4):
        with shared_noise(5, part=part, parts=4):
            parts.append(photos.augment(to_batch({k: v[2 * part : 2 * part + 2] for k, v in raw.items()})))
    for name in ("image", "mask"):
        torch.testing.assert_close(torch.cat([p[name] for p in parts]), whole[name], rtol=0, atol=0)


def test_features_that_were_cached_stay_as_they_are():
    batch = {"features": torch.rand(2, 3, 4)}
    assert VOC(crop="random").augment(batch) is batch


def test_square_takes_the_columns_it_is_told():
    images = torch.arange(2 * 3 * 7).view(2, 3, 7)
    found = square(images, torch.tensor([0, 4]))
    assert torch.equal(found[0], images[0, :, :3])
    assert torch.equal(found[1], images[1, :, 4:7])


def test_stored_masks_lie_where_the_stored_images_do(voc):
    """Pictures that show their own class masks: after all cuts and turns, image and mask still agree."""
    for name in ("2099_000001", "2099_000002"):
        labels = np.asarray(Image.open(voc / f"VOC2012/SegmentationClass/{name}.png"))
        grey = np.where(labels == 255, 0, labels * 12).astype(np.uint8)
        Image.fromarray(grey).save(voc / f"VOC2012/JPEGImages/{name}.jpg", quality=100)
    data = VOC(root=str(voc), image_size=40, mask_size=40, crop="random", train_masks=True, interpolation="bilinear")
    row = data.open("train").__getitems__([0, 1])
    assert row["turned"].tolist() == [False, True]  # 80 x 60 and 50 x 75
    assert row["width"].tolist() == [53, 53]  # 4:3, and 3:2 cut to 4:3
    for image, labels in zip(row["image"], row["class_mask"], strict=True):
        assert set(np.unique(labels)) > {0}
        assert (np.abs(image[..., 0].astype(int) - labels.astype(int) * 12) < 20).mean() > 0.9  # but for borders
    batch = data.augment(to_batch(row))
    shown = (batch["image"][:, 0] * 255 / 12).round().long()
    assert ((shown - batch["class_mask"].long()).abs() <= 1).float().mean() > 0.9


# ---- damage --------------------------------------------------------------------------------------------------------


def test_preparation_stops_at_a_damaged_picture_and_goes_on_when_it_is_mended(voc):
    file = voc / "VOC2012/JPEGImages/2099_000004.jpg"
    sound = file.read_bytes()
    file.write_bytes(sound[:300])
    data = VOC(root=str(voc), image_size=16, mask_size=16)
    with pytest.raises(UserError, match=r"2099_000004.jpg cannot be read as a picture .* set skip_damaged"):
        data.open("val")
    assert len(data.open("train")) == 3  # another split is not held up
    file.write_bytes(sound)
    assert len(data.open("val")) == 2


def test_damaged_pictures_are_named_counted_and_left_out(voc, capsys):
    (voc / "VOC2012/JPEGImages/2099_000003.jpg").write_bytes(b"")
    data = VOC(root=str(voc), image_size=16, mask_size=16, skip_damaged=True)
    val = data.open("val")
    assert len(val) == 1
    assert val[0]["image"].any()
    path = voc / "prepared/voc2012-val-16-16"
    store = Store(path)
    assert store.arrays["damaged"].tolist() == [True, False]
    assert not store[0]["image"].any()
    note = (voc / "prepared/voc2012-val-16-16.damaged.txt").read_text()
    assert "row 0: " in note
    assert "2099_000003.jpg cannot be read as a picture" in note
    assert "1 damaged of 2 pictures are left out" in " ".join(capsys.readouterr().err.split())
    # the same store serves whoever did not ask for it, and training reads only the store
    shutil.rmtree(voc / "VOC2012")
    assert len(VOC(root=str(voc), image_size=16, mask_size=16).open("test")) == 1


def test_only_damaged_pictures(voc):
    for file in (voc / "VOC2012/JPEGImages").iterdir():
        file.write_bytes(b"no")
    with pytest.raises(UserError, match=r"No picture of voc2012 val could be read; see .*damaged\.txt"):
        VOC(root=str(voc), image_size=16, mask_size=16, skip_damaged=True).open("val")


def test_a_killed_preparation_ends_with_the_same_bytes(voc, monkeypatch):
    """kill -9 while row after row is decoded, in threads, until nothing is left to do."""
    data = VOC(root=str(voc), image_size=16, mask_size=20, train_masks=True)
    expected = {f.name: f.read_bytes() for f in data.part("train").prepare().iterdir()}
    shutil.rmtree(voc / "prepared")
    decode = photos_module.PhotoSplit.decode
    write = prepared.write_store
    monkeypatch.setattr(prepared, "write_store", lambda *a, **k: write(*a, **k, chunk_bytes=1))

    def child(allowed):
        names = sorted(data.entries("trainaug")[0])[allowed:]

        def deadly(self, entry):
            if entry in names:
                os.kill(os.getpid(), signal.SIGKILL)
            return decode(self, entry)

        photos_module.PhotoSplit.decode = deadly
        photos_module.WORKERS = 1
        data.prepare()

    fork = multiprocessing.get_context("fork")
    for allowed in (1, 2, 0, 2):
        process = fork.Process(target=child, args=(allowed,))
        process.start()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
    path = data.part("train").prepare()
    assert {f.name: f.read_bytes() for f in path.iterdir()} == expected


def test_sizes_and_choices_are_checked():
    with pytest.raises(ValueError, match="image_size is 0; it must be from 1 to"):
        VOC(image_size=0)
    with pytest.raises(ValueError, match="mask_size is 0; it must be from 1 to"):
        COCO(mask_size=0)
    for field, wrong, text in (
        ("crop", "centre", "crop is 'centre'; expected one of center, random, whole"),
        ("interpolation", "nearest", "interpolation is 'nearest'; expected one of bicubic, bilinear"),
    ):  # set behind the back of the type checker that guards the tests
        data = Pictures()
        object.__setattr__(data, field, wrong)
        with pytest.raises(ValueError, match=text):
            data.__post_init__()
    with pytest.raises(ValueError, match="split is 'valid'"):
        VOC().open("valid")


def test_each_setting_has_its_own_store():
    configs = [
        VOC(),
        VOC(image_size=448),
        VOC(crop="random"),
        VOC(interpolation="bilinear"),
        VOC(crop="random", interpolation="bilinear"),
        VOC(train_masks=True),
        VOC(train_masks=True, mask_size=224),
        VOC(train_masks=True, mask_size=224, crop="random"),
    ]
    names = [config.store_name("trainaug") for config in configs]
    assert names == [
        "voc2012-trainaug-224",
        "voc2012-trainaug-448",
        "voc2012-trainaug-224-random",
        "voc2012-trainaug-224-bilinear",
        "voc2012-trainaug-224-random-bilinear",
        "voc2012-trainaug-224-320",
        "voc2012-trainaug-224-224",
        "voc2012-trainaug-224-224-random",
    ]
    assert VOC(crop="random").store_name("val") == VOC().store_name("val") == "voc2012-val-224-320"
