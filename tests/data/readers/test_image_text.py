"""Pairs of images and texts: tar files of WebDataset, Parquet, what is damaged, superpixels beside them."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from slotworks.data.readers.image_text import ImageText
from slotworks.data.scenes import ShapeScenes
from slotworks.nn.superpixels import felzenszwalb, most_frequent
from slotworks.types import UserError


def picture(level, size=(40, 24)):
    out = io.BytesIO()
    Image.new("RGB", size, (level, 0, 255 - level)).save(out, "PNG")
    return out.getvalue()


def save_tar(file, pairs):
    with tarfile.open(file, "w") as opened:
        for name, content in pairs:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Two tar files: five pairs, a picture without a text, and addresses in a Parquet file beside, as img2dataset."""
    (tmp_path / "more").mkdir()
    first = [(f"00000{k}.png", picture(10 * k)) for k in range(3)] + [("000009.jpg", picture(9))]
    first += [(f"00000{k}.txt", f"text {k}\n".encode()) for k in range(3)]
    save_tar(tmp_path / "00000.tar", first)
    second = [(f"{k}.png", picture(10 * k)) for k in (3, 4)]
    second += [("3.json", json.dumps({"caption": "größe 3", "url": "x"}).encode()), ("4.txt", b"text 4")]
    save_tar(tmp_path / "more/00001.tar", second)
    parquet.write_table(pa.table({"url": ["x"]}), tmp_path / "00000.parquet")
    return tmp_path


def texts(batch):
    return [bytes(row).rstrip(b"\0").decode() for row in batch["caption"]]


def test_tar_files(shards):
    data = ImageText(root=str(shards), image_size=16, held_out=1)
    train, test = data.open("train"), data.open("test")
    assert (len(train), len(test)) == (4, 1)
    batch = train.__getitems__([3, 0, 2])
    assert texts(batch) == ["größe 3", "text 0", "text 2"]
    assert batch["image"].shape == (3, 16, 16, 3)
    assert batch["image"][:, 8, 8].tolist() == [[30, 0, 225], [0, 0, 255], [20, 0, 235]]
    assert texts(test.__getitems__([0])) == ["text 4"]
    assert data.name == shards.name


def test_parquet(tmp_path):
    """Row groups of two; bytes as they are, and as `datasets` writes pictures."""
    images = [{"bytes": picture(10 * k), "path": None} for k in range(5)]
    table = pa.table({"Image": images, "text": [f"text {k}" for k in range(4)] + [None]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    parquet.write_table(pa.table({"jpg": [picture(90)], "caption": ["last"]}), tmp_path / "b.parquet")
    data = ImageText(root=str(tmp_path), image_size=8, held_out=0).open()
    batch = data.__getitems__([5, 1, 4, 0])
    assert texts(batch) == ["last", "text 1", "", "text 0"]
    assert batch["image"][:, 4, 4, 0].tolist() == [90, 10, 40, 0]


def test_a_damaged_picture_is_passed_over(tmp_path):
    pairs = [("0.png", picture(0)), ("0.txt", b"zero"), ("1.png", picture(10)[:30]), ("1.txt", b"one")]
    save_tar(tmp_path / "0.tar", [*pairs, ("2.png", picture(20)), ("2.txt", b"two")])
    data = ImageText(root=str(tmp_path), image_size=8, held_out=0).open()
    assert texts(data.__getitems__([1, 2, 0])) == ["two", "two", "zero"]
    save_tar(tmp_path / "0.tar", pairs[2:])
    with pytest.raises(UserError, match=r"pairs in a row, from number 0 on, cannot be read; get the shard again"):
        ImageText(root=str(tmp_path), image_size=8, held_out=0).open().__getitems__([0])


def test_superpixels_and_real_images(shards):
    scenes = ShapeScenes(num_test=2)
    data = ImageText(root=str(shards), image_size=16, crop="whole", real=scenes, superpixels=8)
    assert len(data.open()) == 5
    assert len(data.open("test")) == 2
    assert data.shown("val") is scenes
    batch = data.open().__getitems__([1, 2])
    expected = most_frequent(felzenszwalb(batch["image"][0], scale=16, min_size=16), 8)
    assert np.array_equal(batch["superpixels"][0], expected)
    assert batch["superpixels"].shape == (2, 2, 2)


def test_mistakes(tmp_path):
    def opening(**options):
        return ImageText(root=str(tmp_path), image_size=8, **options).open()

    with pytest.raises(UserError, match=r"holds no \*\.tar and no \*\.parquet"):
        opening()
    (tmp_path / "0.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(UserError, match=r"0\.tar cannot be read as a tar file"):
        opening()
    save_tar(tmp_path / "0.tar", [("0.png", picture(0))])
    with pytest.raises(UserError, match=r"holds no pair: expected are images such as"):
        opening()
    save_tar(tmp_path / "0.tar", [("0.png", picture(0)), ("0.json", b"{}")])
    with pytest.raises(UserError, match=r"holds a \.json without a caption or text"):
        opening(held_out=0).__getitems__([0])
    with pytest.raises(UserError, match="none is left for the split 'train'"):
        opening()
    (tmp_path / "0.tar").unlink()
    parquet.write_table(pa.table({"url": ["x"]}), tmp_path / "0.parquet")
    with pytest.raises(UserError, match="has no column of images: it has url"):
        opening()
    (tmp_path / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        opening()
    with pytest.raises(ValueError, match="expected one of center, whole"):
        ImageText(crop="random")
    with pytest.raises(ValueError, match="which do not fill an image of 224"):
        ImageText(superpixels=15)
