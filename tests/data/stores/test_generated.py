import json

import numpy as np
import pytest
from PIL import Image

from slotworks.data.scenes import ShapeScenes
from slotworks.data.stores.generated import Generated, find_shards, read_facts, read_rows, shard_path
from slotworks.synthesis.shards import contact_sheet, is_finished, png, write_shard
from slotworks.types import UserError, to_batch

FACTS = {"masks": "classes", "class_names": ["cat", "dog"], "settings": "abc", "left_out": []}


def row(index):
    """A picture of one brightness; the left half of the mask is a class, a column beside it uncertain."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4], mask[:, 4:6] = 1 + index % 2, 255
    return {
        "image": png(np.full((8, 8, 3), 10 * index, np.uint8)),
        "mask": png(mask),
        "caption": f"caption {index}",
        "prompt": f"caption {index}; cat",
        "classes": ["cat"],
        "class_ids": [1],
        "index": index,
        "seed": index,
        "settings": "abc",
    }


def fill(folder, counts=(3, 0, 4), **facts):
    folder.mkdir(exist_ok=True)
    start = 0
    for number, count in enumerate(counts):
        rows = [row(k) for k in range(start, start + count)]
        write_shard(shard_path(folder, number), rows, {**FACTS, **facts, "start": start, "stop": start + count})
        start += count
    return folder


def test_shards_become_batches(tmp_path):
    data = Generated(str(fill(tmp_path)), image_size=4, mask_size=8, held_out=2)
    train, val = data.open("train"), data.open("val")
    assert (len(train), len(val)) == (5, 2)
    batch = to_batch(train.__getitems__([0, 1, 4]))
    assert batch["image"].shape == (3, 3, 4, 4)
    assert (255 * batch["image"][:, 0, 0, 0]).round().tolist() == [0, 10, 40]  # over the border of shards
    assert batch["mask"][:, 0].tolist() == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [2, 2, 2, 2, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
    ]
    assert batch["void"][0, 0].tolist() == [False] * 4 + [True] * 2 + [False] * 2
    assert (batch["class_mask"] == batch["mask"]).all()
    assert val.__getitems__([1])["image"][0, 0, 0, 0] == 60
    assert data.class_names == ("cat", "dog")
    assert data.size == (4, 4)
    assert [record["caption"] for record in data.records()] == [f"caption {k}" for k in range(7)]
    assert set(train[0]) == {"image", "mask", "void", "class_mask"}


def test_masks_shrink_to_the_pixel_at_the_centre(tmp_path):
    found = Generated(str(fill(tmp_path)), image_size=8, mask_size=4, held_out=0).open("train").__getitems__([1])
    wide = np.asarray(
        Image.fromarray(np.repeat([[2] * 4 + [255] * 2 + [0] * 2], 8, 0).astype(np.uint8)).resize((4, 4), 0)
    )
    assert np.array_equal(found["mask"][0], np.where(wide == 255, 0, wide))
    assert np.array_equal(found["void"][0], wide == 255)


def test_real_images_leave_all_generated_ones_for_training(tmp_path):
    real = ShapeScenes(num_val=3)
    data = Generated(str(fill(tmp_path)), image_size=64, real=real, held_out=3)
    assert len(data.open("train")) == 7
    assert len(data.open("val")) == 3
    assert np.array_equal(data.open("val").__getitems__([0])["image"], real.open("val").__getitems__([0])["image"])


def test_segments_are_no_classes(tmp_path):
    batch = Generated(str(fill(tmp_path, masks="segments")), held_out=0).open("train").__getitems__([0])
    assert "class_mask" not in batch
    assert batch["mask"].shape == (1, 256, 256)


def test_more_shards_make_a_new_store(tmp_path):
    data = Generated(str(fill(tmp_path)), image_size=4, mask_size=4, held_out=0)
    assert len(data.open("train")) == 7
    write_shard(shard_path(tmp_path, 3), [row(7)], {**FACTS, "start": 7, "stop": 8})
    assert len(data.open("train")) == 8


def test_equal_rows_are_equal_bytes(tmp_path):
    one, two = fill(tmp_path / "one"), fill(tmp_path / "two")
    assert [file.read_bytes() for file in find_shards(one)] == [file.read_bytes() for file in find_shards(two)]
    assert is_finished(shard_path(one, 0), 3)
    assert not is_finished(shard_path(one, 0), 4)
    assert not is_finished(shard_path(one, 9), 1)
    assert read_facts(shard_path(one, 2))["start"] == 3
    assert contact_sheet(fill(tmp_path / "empty", (0,))) is None


def test_the_sheet_shows_image_mask_and_prompt(tmp_path):
    sheet = np.asarray(Image.open(contact_sheet(fill(tmp_path), count=2)))
    assert sheet.shape == (196, 656, 3)
    assert sheet[50, 328 + 50].tolist() == [10, 10, 10]  # the second image
    left, band, right = (sheet[50, 4 + 160 + x].tolist() for x in (20, 100, 150))
    assert (left, band, right) == ([128, 0, 0], [255, 255, 255], [0, 0, 0])  # class 1 as in VOC, uncertain, background
    assert (sheet[164:] < 128).any()


def test_mistakes_get_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"holds no shard-\*\.parquet; make some with `slotworks synthesize`"):
        Generated(str(tmp_path / "empty")).open("train")
    data = Generated(str(fill(tmp_path / "few")), held_out=7)
    with pytest.raises(UserError, match="holds 7 images, of which 7 are held out: none is left for the split 'train'"):
        data.open("train")
    (tmp_path / "few" / "shard-00001.parquet").write_bytes(b"PAR1 but not much more")
    with pytest.raises(
        UserError, match=r"shard-00001\.parquet is damaged .* run the same `slotworks synthesize` again"
    ):
        Generated(str(tmp_path / "few"), image_size=5).open("train")
    bad = fill(tmp_path / "bad", (1,))
    write_shard(shard_path(bad, 0), [{**row(0), "image": b"no PNG"}], {**FACTS, "start": 0, "stop": 1})
    with pytest.raises(UserError, match=r"A row of .*shard-00000\.parquet cannot be read as a picture"):
        Generated(str(bad), held_out=0).open("train")
    old = fill(tmp_path / "old", (1,))
    write_shard(shard_path(old, 0), [row(0)], {**FACTS, "version": 99})
    with pytest.raises(UserError, match="has the layout of version 99"):
        read_facts(shard_path(old, 0))
    assert json.dumps(read_rows(shard_path(bad, 0), ("classes", "class_ids"))) == (
        '[{"classes": ["cat"], "class_ids": [1]}]'
    )
    with pytest.raises(ValueError, match="image_size is 0"):
        Generated(image_size=0)


@pytest.mark.parametrize(
    "wrong", [{"class_names": "cat"}, {"class_names": [1]}, {"masks": ["classes"]}, {"stop": None}, {"start": "0"}]
)
def test_facts_of_another_kind_are_refused(tmp_path, wrong):
    folder = fill(tmp_path, (1,))
    write_shard(shard_path(folder, 0), [row(0)], {**FACTS, "start": 0, "stop": 1, **wrong})
    with pytest.raises(UserError, match=r"shard-00000\.parquet is no shard of generated images"):
        read_facts(shard_path(folder, 0))
