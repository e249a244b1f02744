"""CelebA in miniature: 20 portraits of 178 x 218 pixels, three splits, attributes."""

import numpy as np
import pytest
from PIL import Image

from slotworks.data import CelebA
from slotworks.types import UserError, to_batch

SPLITS = {"train": range(12), "val": range(12, 16), "test": range(16, 20)}


@pytest.fixture
def celeba(tmp_path):
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    generator = np.random.default_rng(0)
    partition, attributes = [], []
    for i in range(20):
        name = f"{i + 1:06d}.jpg"
        Image.fromarray(generator.integers(0, 256, (218, 178, 3), np.uint8)).save(root / "img_align_celeba" / name)
        partition.append(f"{name} {next(k for k, s in enumerate(SPLITS.values()) if i in s)}")
        attributes.append(f"{name}  " + " ".join(" 1" if (i >> k) & 1 else "-1" for k in range(40)))
    (root / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    names = " ".join(f"Attribute_{k}" for k in range(40))
    (root / "list_attr_celeba.txt").write_text("\n".join(["20", names, *attributes]) + "\n")
    return root


@pytest.mark.parametrize("above", [False, True])
def test_splits_and_attributes(celeba, above, capsys):
    data = CelebA(root=str(celeba.parent if above else celeba))
    assert (data.name, data.size) == ("celeba", (128, 128))
    for split, numbers in SPLITS.items():
        batch = data.open(split).__getitems__(range(len(numbers)))
        assert batch["image"].shape == (len(numbers), 128, 128, 3)
        assert batch["attributes"].shape == (len(numbers), 40)
        assert [int(row @ (1 << np.arange(40))) for row in batch["attributes"].astype(int)] == list(numbers)
    assert "lists 12 images of train instead of 162,770" in " ".join(capsys.readouterr().err.split())


def test_the_whole_picture_is_squeezed(celeba):
    image = CelebA(root=str(celeba)).open("test")[0]["image"]
    with Image.open(celeba / "img_align_celeba/000017.jpg") as original:
        expected = np.asarray(original.resize((128, 128), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(image, expected)


def test_without_attributes(celeba):
    (celeba / "list_attr_celeba.txt").unlink()
    data = CelebA(root=str(celeba))
    row = data.open("val")[0]
    assert sorted(row) == ["damaged", "image"]
    batch = to_batch({"image": row["image"][None]})
    assert data.augment(batch)["image"] is batch["image"]  # no flips by default


@pytest.mark.parametrize(
    ("file", "line", "text"),
    [
        (
            "list_eval_partition.txt",
            "000001.jpg 7",
            r"list_eval_partition.txt has the line '000001.jpg 7', expected a name",
        ),
        ("list_eval_partition.txt", "../x.jpg 0", "expected a name and 0, 1 or 2"),
        (
            "list_eval_partition.txt",
            "000099.jpg 0",
            r"list_attr_celeba.txt says nothing about 000099.jpg; get list_attr",
        ),
        ("list_attr_celeba.txt", "000001.jpg 1 2", "expected a name and 40 times 1 or -1"),
    ],
)
def test_damaged_lists(celeba, file, line, text):
    with (celeba / file).open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(UserError, match=text):
        CelebA(root=str(celeba)).open("train")


def test_missing_files(celeba):
    (celeba / "img_align_celeba/000001.jpg").unlink()
    with pytest.raises(
        UserError, match=r"000001.jpg is missing; get img_align_celeba.zip \(1.4 GB\) from https://mmlab"
    ):
        CelebA(root=str(celeba)).open("train")
    assert len(CelebA(root=str(celeba), skip_damaged=True).open("train")) == 11
    (celeba / "list_eval_partition.txt").unlink()
    with pytest.raises(UserError, match=r"list_eval_partition.txt is missing; get list_eval_partition.txt from"):
        CelebA(root=str(celeba)).open("test")
