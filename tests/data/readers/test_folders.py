"""Data sets that are folders of pictures."""

import numpy as np
import pytest
from PIL import Image

from slotworks.data import Bitmoji, CLEVRMirror
from slotworks.types import UserError


@pytest.mark.parametrize(("config", "name"), [(Bitmoji, "bitmoji"), (CLEVRMirror, "clevr_mirror")])
def test_every_picture_belongs_to_one_split(config, name, tmp_path):
    for i in range(20):
        Image.new("RGB", (40, 30), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
    data = config(root=str(tmp_path), image_size=16)
    assert (data.name, data.size, data.max_objects) == (name, (16, 16), None)
    reds = {
        split: data.open(split).__getitems__(range(len(data.open(split))))["image"][:, 8, 8, 0]
        for split in ("train", "val", "test")
    }
    assert {split: len(found) for split, found in reds.items()} == {"train": 16, "val": 2, "test": 2}
    assert sorted(np.concatenate(list(reds.values())).tolist()) == [10 * i for i in range(20)]
    assert config().size == (128, 128)


def test_says_where_the_pictures_come_from(tmp_path):
    with pytest.raises(UserError, match=r"get the pictures from https://www.kaggle.com/\S+ and unpack them in"):
        Bitmoji(root=str(tmp_path / "nowhere")).open("train")
    with pytest.raises(UserError, match=r"get the pictures from https://sites\.google\.com"):
        CLEVRMirror(root=str(tmp_path / "nowhere")).open("train")
