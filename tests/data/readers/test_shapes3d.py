"""3D Shapes in miniature: a file with the official layout and few images."""

import h5py
import numpy as np
import pytest

from slotworks.data import Shapes3D
from slotworks.data.readers import shapes3d
from slotworks.types import UserError

COUNT = 20


@pytest.fixture
def official(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes3d, "SPLITS", {"train": (0, 12), "val": (12, 15), "test": (15, 18)})
    monkeypatch.setattr(shapes3d, "_BLOCK", 5)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, 64, 64, 3), np.uint8)
    labels = generator.random((COUNT, 6))
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file.create_dataset("images", data=images, chunks=(4, 64, 64, 3), compression="gzip")
        file.create_dataset("labels", data=labels)
    return Shapes3D(root=str(tmp_path)), images, labels


def test_splits_are_consecutive_and_complete(official):
    data, images, labels = official
    assert (data.name, data.size) == ("shapes3d", (64, 64))
    for split, (start, stop) in {"train": (0, 12), "val": (12, 15), "test": (15, 18)}.items():
        batch = data.open(split).__getitems__(range(stop - start))
        np.testing.assert_array_equal(batch["image"], images[start:stop])
        for k, name in enumerate(shapes3d.FACTORS):
            np.testing.assert_array_equal(batch[name], labels[start:stop, k].astype(np.float32))
        assert "mask" not in batch


def test_reading_may_start_anywhere(official):
    data, images, _ = official
    for start in (0, 4, 5, 11):
        rows = [row["image"] for row in data.rows(start)]
        np.testing.assert_array_equal(np.stack(rows), images[start:18])


def test_the_official_splits():
    """400,000, 30,000 and 30,000; nothing left out between them."""
    assert list(shapes3d.SPLITS.values()) == [(0, 400_000), (400_000, 430_000), (430_000, 460_000)]


def test_missing_damaged_or_another_file(official, tmp_path):
    data, _, _ = official
    with pytest.raises(UserError, match=r"nowhere/3dshapes.h5 is missing; get 3dshapes.h5 \(255 MB\)"):
        Shapes3D(root=str(tmp_path / "nowhere")).open("train")
    data.official.write_bytes(data.official.read_bytes()[:3000])
    with pytest.raises(UserError, match="cannot be read as 3D Shapes"):
        data.open("train")
    with h5py.File(data.official, "w") as file:
        file.create_dataset("images", data=np.zeros((3, 32, 32, 3), np.uint8))
        file.create_dataset("labels", data=np.zeros((3, 6)))
    with pytest.raises(UserError, match=r"holds images \(3, 32, 32, 3\) of uint8 .* is this the right file"):
        data.open("train")
    with h5py.File(data.official, "w") as file:
        file.create_dataset("pictures", data=np.zeros(3))
    with pytest.raises(UserError, match="cannot be read as 3D Shapes"):
        data.open("train")
