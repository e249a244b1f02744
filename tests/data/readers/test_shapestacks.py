"""ShapeStacks in miniature: four scenarios, two cameras each, with the official names."""

import numpy as np
import pytest
from PIL import Image

from slotworks.data import ShapeStacks
from slotworks.types import UserError, to_batch

SCENARIOS = {
    "train": ["env_ccs-hard-h=2-vcom=0-vpsf=0-v=1", "env_ccs-hard-h=3-vcom=1-vpsf=0-v=2"],
    "eval": ["env_blocks-easy-h=2-vcom=0-vpsf=0-v=3"],
    "test": ["env_ccs-hard-h=4-vcom=0-vpsf=0-v=4"],
}
CAMERAS = (1, 10)


@pytest.fixture
def root(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "splits/default").mkdir(parents=True)
    for split, scenarios in SCENARIOS.items():
        (tmp_path / f"splits/default/{split}.txt").write_text("\n".join(scenarios) + "\n")
        for scenario in scenarios:
            for folder in ("recordings", "iseg"):
                (tmp_path / folder / scenario).mkdir(parents=True)
            for camera in CAMERAS:
                picture = generator.integers(0, 256, (224, 224, 3), np.uint8)
                name = f"rgb-w=5-f=2-l=1-c=unique-cam_{camera}-mono-0.png"
                Image.fromarray(picture).save(tmp_path / "recordings" / scenario / name)
                mask = np.zeros((224, 224, 3), np.uint8)
                mask[50:100, 60:70] = 32
                mask[100:150, 60:80] = 32 * camera if camera < 7 else 64
                mask[:10] = 96  # above the part that is kept
                name = f"iseg-w=0-f=0-l=0-c=original-cam_{camera}-mono-0.map"
                Image.fromarray(mask).save(tmp_path / "iseg" / scenario / name, format="PNG")
            Image.fromarray(picture).save(tmp_path / "recordings" / scenario / "depth-cam_1-mono-0.png")
    return tmp_path


def test_views_of_each_split(root):
    data = ShapeStacks(root=str(root))
    assert (data.name, data.size, data.max_objects) == ("shapestacks", (96, 96), 6)
    for split, official in {"train": "train", "val": "eval", "test": "test"}.items():
        views = data.entries(official)[0]
        assert [view.file.parent.name for view in views] == [s for s in SCENARIOS[official] for _ in CAMERAS]
        batch = data.open(split).__getitems__(range(len(views)))
        assert batch["image"].shape == (len(views), 96, 96, 3)
        assert ("mask" in batch) == (split != "train")


def test_the_middle_of_the_picture_and_of_its_map(root):
    data = ShapeStacks(root=str(root), image_size=196, mask_size=196)
    row = data.open("test")[1]  # camera 10 comes after camera 1
    with Image.open(data.entries("test")[0][1].file) as original:
        np.testing.assert_array_equal(row["image"], np.asarray(original)[14:210, 14:210])
    expected = np.zeros((196, 196), int)
    expected[36:86, 46:56], expected[86:136, 46:66] = 1, 2
    assert "cam_1-" in str(data.entries("test")[0][1].objects) or "cam_10-" in str(data.entries("test")[0][1].objects)
    found = {int(r["num_objects"]): r["mask"] for r in (data.open("test")[0], data.open("test")[1])}
    np.testing.assert_array_equal(found[2], expected)
    assert found[1].max() == 1
    assert to_batch({"mask": row["mask"][None]})["mask"].dtype.is_floating_point is False


def test_without_maps(root):
    (root / "iseg").rename(root / "elsewhere")
    assert "mask" not in ShapeStacks(root=str(root)).open("test")[0]


def test_what_is_missing_or_wrong(root):
    data = ShapeStacks(root=str(root))
    view = data.entries("test")[0][0]
    Image.new("L", (224, 224), 7).save(view.objects, format="PNG")
    with pytest.raises(UserError, match=r"has other values than 0, 32, ... 192; it is no map of objects"):
        data.open("test")
    view.objects.write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        data.open("test")
    view.objects.unlink()
    with pytest.raises(UserError, match=r"cam_1-mono-0\.map is missing; get recordings, splits and iseg from https"):
        data.open("test")
    Image.new("RGB", (100, 224)).save(view.file)
    with pytest.raises(UserError, match="has 100 x 224 pixels, expected 224 x 224"):
        data.open("test")
    (root / "recordings" / SCENARIOS["eval"][0]).rename(root / "gone")
    with pytest.raises(UserError, match=r"v=3 is missing, which .*eval.txt lists"):
        data.open("val")
    (root / "splits/default/train.txt").unlink()
    with pytest.raises(UserError, match=r"train.txt is missing; get recordings"):
        data.open("train")
