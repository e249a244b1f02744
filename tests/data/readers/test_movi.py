"""MOVi from the miniature TFDS folder: every number of its `truth.json`, and what may go wrong."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from mutations import attempts, mutate, same
from PIL import Image
from wire import FIXTURES, example, field, floats, ints, strings

from slotworks.data.readers.movi import EXTRAS, MAX_OBJECTS, TRACKS, MOVi
from slotworks.data.readers.tfrecord import Example, count_records, read_examples, read_payloads, write_records
from slotworks.data.stores.store import write_store
from slotworks.slots.initializers import BoxInit
from slotworks.training.serialize import from_yaml, to_yaml
from slotworks.types import UserError, to_batch

OFFICIAL = FIXTURES / "movi"
FOLDER = "movi_a/32x32/1.0.0"
TRUTH = json.loads((OFFICIAL / "truth.json").read_text())
GOLDEN_FRAMES = [[1, 3, 4, 6, 8, 10, 11, 14, 16], [2, 4, 5, 7, 8, 9, 13, 21, 22]]
RECORDS = [(split, i) for split in ("train", "val") for i in range(2)]


def truth(split, i):
    return TRUTH["splits"]["train" if split == "train" else "validation"][i]


@pytest.fixture
def root(tmp_path):
    shutil.copytree(OFFICIAL / "movi_a", tmp_path / "movi/movi_a")
    return tmp_path / "movi"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Both splits with everything, as one batch each."""
    root = tmp_path_factory.mktemp("whole")
    shutil.copytree(OFFICIAL / "movi_a", root / "movi_a")
    data = movi(root, extras=EXTRAS)
    return {split: everything(data.open(split)) for split in ("train", "val")}


def movi(root, **options):
    return MOVi(root=str(root), **{"resolution": "32x32"} | options)


def everything(dataset):
    return dataset.__getitems__(range(len(dataset)))


def shard(root, split="train", number=0):
    return root / FOLDER / f"movi_a-{split}.tfrecord-0000{number}-of-00002"


def rewritten(record, **changes):
    """The payload of a record with some features replaced (encoded lists), or left out (None)."""
    names = [name for name in record.features if name not in changes or changes[name] is not None]
    lists = {
        name: changes.get(name) or field(record.features[name][0], bytes(record.features[name][1])) for name in names
    }
    return example(**lists | {name: value for name, value in changes.items() if value is not None})


def record_of(root):
    return next(read_examples(shard(root)))


def put(root, *payloads):
    """Make these the records of the first shard."""
    write_records(shard(root), payloads, compress=False)
    (root / FOLDER / "dataset_info.json").unlink(missing_ok=True)


# ---- the numbers -----------------------------------------------------------------------------------------------------


def test_shapes(whole):
    t, s, m = 24, 32, 10
    expected = {
        "video": ((t, s, s, 3), "uint8"),
        "mask": ((t, s, s), "uint8"),
        "num_objects": ((t,), "uint8"),
        "scene_objects": ((), "uint8"),
        "boxes": ((t, m, 4), "float32"),
        "visibility": ((t, m), "int32"),
        "image_positions": ((t, m, 2), "float32"),
        "positions": ((t, m, 3), "float32"),
        "quaternions": ((t, m, 4), "float32"),
        "velocities": ((t, m, 3), "float32"),
        "angular_velocities": ((t, m, 3), "float32"),
        "bboxes_3d": ((t, m, 8, 3), "float32"),
        **dict.fromkeys(("shape_label", "size_label", "color_label", "material_label"), ((m,), "int8")),
        "color": ((m, 3), "float32"),
        **dict.fromkeys(("mass", "friction", "restitution"), ((m,), "float32")),
        "camera_positions": ((t, 3), "float32"),
        "camera_quaternions": ((t, 4), "float32"),
        **{f"camera_{key}": ((), "float32") for key in ("focal_length", "sensor_width", "field_of_view")},
        "forward_flow": ((t, 2, s, s), "float32"),
        "backward_flow": ((t, 2, s, s), "float32"),
        "depth": ((t, s, s), "float32"),
    }
    for batch in whole.values():
        assert {key: (value.shape[1:], str(value.dtype)) for key, value in batch.items()} == expected
        assert all(len(value) == 2 for value in batch.values())


@pytest.mark.parametrize(("split", "i"), RECORDS)
def test_images_and_masks(whole, split, i):
    batch, record = whole[split], truth(split, i)
    assert batch["video"][i].sum(dtype=np.int64) == record["video_sum"]
    pixels = np.bincount(batch["mask"][i].reshape(-1)).tolist()
    assert pixels == record["total_pixels_per_id"]
    assert np.unique(batch["mask"][i][0]).tolist() == record["ids_in_first_frame"]
    assert np.unique(batch["mask"][i][-1]).tolist() == record["ids_in_last_frame"]
    assert batch["scene_objects"][i] == record["num_instances"]
    assert batch["num_objects"][i].tolist() == [len(np.unique(frame)) - 1 for frame in batch["mask"][i]]
    assert batch["num_objects"][i][0] == len(record["ids_in_first_frame"]) - 1


@pytest.mark.parametrize(("split", "i"), RECORDS)
def test_visibility_and_boxes(whole, split, i):
    """The box of an object is that of its pixels, here where masks have the resolution of the rendering."""
    batch, record = whole[split], truth(split, i)
    count = record["num_instances"]
    assert batch["visibility"][i, :, :count].T.tolist() == record["visibility"]
    assert not batch["visibility"][i, :, count:].any()
    boxes, mask = batch["boxes"][i], batch["mask"][i]
    assert (boxes[:, count:] == -1).all()
    for k in range(count):
        seen = np.flatnonzero((boxes[:, k] != -1).all(axis=-1)).tolist()
        assert seen == record["bbox_frames"][k]
        assert (boxes[[t for t in range(24) if t not in seen], k] == -1).all()
        y0, x0, y1, x1 = record["first_bbox"][k]
        np.testing.assert_allclose(boxes[seen[0], k], [x0, y0, x1, y1], rtol=0, atol=1e-7)
        for t in seen:
            assert (mask[t] == k + 1).sum() == record["visibility"][k][t]
            rows, columns = np.nonzero(mask[t] == k + 1)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(boxes[t, k] * 32, extent, rtol=0, atol=1e-5)
    BoxInit(slot_dim=8)(torch.from_numpy(boxes))  # refuses anything but [0, 1] and -1


@pytest.mark.parametrize(("split", "i"), RECORDS)
def test_labels(whole, split, i):
    batch, record = whole[split], truth(split, i)
    for key in ("shape_label", "size_label", "color_label", "material_label"):
        assert batch[key][i].tolist() == record[key] + [-1] * (10 - record["num_instances"])


@pytest.mark.parametrize(("split", "i"), RECORDS)
def test_flow_and_depth(whole, split, i):
    """Constant inside an object; 16 bits over a range of 2 pixels are steps of 3e-5."""
    batch, record = whole[split], truth(split, i)
    mask = batch["mask"][i]
    velocities, depths = [[0, 0], *record["velocity_row_col"]], [12, *record["depth_of_instance"]]
    for k in range(record["num_instances"] + 1):
        forward = batch["forward_flow"][i].transpose(0, 2, 3, 1)[mask == k]
        backward = batch["backward_flow"][i].transpose(0, 2, 3, 1)[mask == k]
        np.testing.assert_allclose(forward, np.broadcast_to(velocities[k], forward.shape), rtol=0, atol=1e-4)
        np.testing.assert_allclose(backward, -np.broadcast_to(velocities[k], forward.shape), rtol=0, atol=1e-4)
        np.testing.assert_allclose(batch["depth"][i][mask == k], depths[k], rtol=0, atol=2e-4)


def test_tracks_are_those_of_the_record(whole, root):
    """Read once more by hand: objects first in the file, time first in the store."""
    record = record_of(root)
    for key, shape in (("positions", (3,)), ("quaternions", (4,)), ("bboxes_3d", (8, 3)), ("image_positions", (2,))):
        values = record.floats(f"instances/{key}", (3, 24, *shape))
        for k in range(3):
            np.testing.assert_array_equal(whole["train"][key][0, :, k], values[k])
        assert not whole["train"][key][0, :, 3:].any()
    np.testing.assert_array_equal(whole["train"]["camera_positions"][0].reshape(-1), record.floats("camera/positions"))
    np.testing.assert_array_equal(whole["train"]["color"][0, :3].reshape(-1), record.floats("instances/color"))
    assert whole["train"]["camera_focal_length"][0] == record.floats("camera/focal_length")[0]


def test_names_of_labels_are_kept(root):
    store = movi(root).part("train").prepare()
    settings = json.loads((store / "index.json").read_text())["settings"]
    assert settings["names"] == TRUTH["label_names"]


# ---- splits, frames, clips -------------------------------------------------------------------------------------------


def test_splits(root, whole):
    data = movi(root)
    assert (data.name, data.size, data.max_objects) == ("movi_a", (32, 32), 10)
    assert same(everything(data.open("test")), everything(data.open("val")))  # there are no test files of A and B
    assert sorted(path.name for path in (root / "prepared").glob("[!.]*")) == ["movi_a-validation-32"]
    np.testing.assert_array_equal(everything(data.open("val"))["video"], whole["val"]["video"])
    with pytest.raises(ValueError, match="split is 'validation'; expected one of train, val, test"):
        data.open("validation")
    assert movi(root, variant="c").official_splits == {"train": "train", "val": "validation", "test": "test"}


def test_official_test_split(tmp_path):
    """C, D and E have one; the miniature files under their names."""
    folder = tmp_path / "movi_e/32x32/1.0.0"
    folder.mkdir(parents=True)
    for split, source in (("train", "train"), ("validation", "validation"), ("test", "train")):
        for number in range(2):
            name = f"tfrecord-0000{number}-of-00002"
            shutil.copy(OFFICIAL / FOLDER / f"movi_a-{source}.{name}", folder / f"movi_e-{split}.{name}")
    data = movi(tmp_path, variant="e")
    assert [part.store_path.name for part in data.parts()] == [
        f"movi_e-{split}-32" for split in ("train", "validation", "test")
    ]
    test = everything(data.open("test"))
    np.testing.assert_array_equal(test["video"], everything(data.open("train"))["video"])
    assert test["boxes"].shape == (2, 24, 23, 4)
    data.prepare()
    assert all(part.store_path.is_dir() for part in data.parts())


def test_single_frames_are_the_frames_of_the_videos(root, whole):
    data = movi(root, frames="single", extras=EXTRAS)
    assert data.name == "movi_a_frames"
    for split in ("train", "val"):
        batch = everything(data.open(split))
        assert len(batch["image"]) == 48
        for key, value in whole[split].items():
            static = value.shape[1:2] != (24,)
            expected = np.repeat(value, 24, axis=0) if static else value.reshape(48, *value.shape[2:])
            np.testing.assert_array_equal(batch["image" if key == "video" else key], expected)
    batch = to_batch(data.open("val").__getitems__([5, 30]))
    assert batch["image"].shape == (2, 3, 32, 32)
    assert batch["mask"].shape == (2, 32, 32)
    assert batch["boxes"].shape == (2, 10, 4)
    np.testing.assert_array_equal(batch["mask"].numpy(), whole["val"]["mask"][[0, 1], [5, 6]])


def test_nine_frames_of_each_video(root, whole):
    data = movi(root, frames="single", frames_per_video=9)
    dataset = data.open()
    assert len(dataset) == 18
    chosen = dataset.frames.reshape(2, 9)
    assert (np.diff(chosen, axis=1) > 0).all()  # nine different ones, in order
    assert chosen[0].tolist() != chosen[1].tolist()
    np.testing.assert_array_equal(everything(dataset)["image"][9:], whole["train"]["video"][1, chosen[1]])
    np.testing.assert_array_equal(data.open().frames, dataset.frames)  # chosen once: stage 2 of SPOT sees the same
    assert (
        movi(root, frames="single", frames_per_video=9, frame_seed=1).open().frames.tolist() != dataset.frames.tolist()
    )
    assert len(data.open("val")) == 48
    assert [chosen[0].tolist(), chosen[1].tolist()] == GOLDEN_FRAMES  # on every machine


def test_frames_are_chosen_evenly(root):
    """Of 4000 videos every frame is chosen 1500 times, give or take four standard deviations (30.6 each)."""
    counts = np.bincount(movi(root, frames="single", frames_per_video=9)._samples(4000, 24))
    assert counts.sum() == 36_000
    assert np.abs(counts - 1500).max() < 4 * (4000 * 9 / 24 * 15 / 24) ** 0.5


@pytest.mark.parametrize(
    ("length", "stride", "starts"),
    [
        (6, None, [0, 6, 12, 18]),  # SAVi
        (3, None, [0, 3, 6, 9, 12, 15, 18, 21]),  # STEVE
        (7, None, [0, 7, 14]),  # what is left over is not seen
        (22, 1, [0, 1, 2]),
        (6, 10, [0, 10]),
        (24, None, [0]),
        (1, 12, [0, 12]),
    ],
)
def test_clips(root, whole, length, stride, starts):
    data = movi(root, clip_length=length, clip_stride=stride, extras=("backward_flow",))
    batch = everything(data.open())
    assert len(batch["video"]) == 2 * len(starts)
    for sample, (video, start) in enumerate(product(range(2), starts)):
        for key in ("video", "mask", "boxes", "num_objects", "visibility", "bboxes_3d", "backward_flow"):
            np.testing.assert_array_equal(batch[key][sample], whole["train"][key][video, start : start + length])
        for key in ("shape_label", "scene_objects", "camera_focal_length"):
            np.testing.assert_array_equal(batch[key][sample], whole["train"][key][video])
    assert everything(data.open("val"))["video"].shape[:2] == (2, 24)


def test_samples_of_all_kinds_share_one_store(root):
    kinds = [{}, {"frames": "single"}, {"frames": "single", "frames_per_video": 9}, {"clip_length": 6}]
    assert {movi(root, **kind).part("train").store_name for kind in kinds} == {"movi_a-train-32"}


def test_batches(root):
    dataset = movi(root, clip_length=6, extras=("forward_flow", "depth")).open()
    dataset.verify()
    assert len(dataset) == 8
    batch, twice = dataset.__getitems__([6, 1, 6]), everything(dataset)
    for key, value in twice.items():
        np.testing.assert_array_equal(batch[key], value[[6, 1, 6]])
    with pytest.raises(IndexError):
        dataset.__getitems__([8])
    tensors = to_batch(batch)
    assert tensors["video"].shape == (3, 6, 3, 32, 32)
    assert tensors["mask"].dtype == torch.int64
    assert len(pickle.dumps(dataset)) < 3000  # worker processes get paths, not data
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, collate_fn=to_batch, num_workers=1)
    np.testing.assert_array_equal(torch.cat([b["video"] for b in loader]), to_batch(twice)["video"])


# ---- sizes -----------------------------------------------------------------------------------------------------------


def test_names_of_stores_hold_every_setting(root):
    def name(content=0, **options):
        return movi(root, extras=("depth",), **options)._contents("train")[content].store_name

    assert name() == "movi_a-train-32"
    assert name(1) == "movi_a-train-depth-32"
    assert name(resolution="128x128") == "movi_a-train-128"
    assert name(image_size=32, mask_size=32, interpolation="bilinear") == "movi_a-train-32"  # nothing is resized
    assert name(image_size=16) == "movi_a-train-16-from32"
    assert name(image_size=16, interpolation="bilinear") == "movi_a-train-16-from32-bilinear"
    assert name(mask_size=16) == "movi_a-train-32-mask16-from32"
    assert name(variant="c", resolution="256x256", image_size=224, mask_size=128) == "movi_c-train-224-mask128-from256"
    assert name(1, image_size=16, mask_size=8, interpolation="bilinear") == "movi_a-train-depth-16-from32"


def test_images_and_masks_of_other_sizes(root, whole):
    image, mask = whole["train"]["video"], whole["train"]["mask"]
    assert movi(root, image_size=16).size == (16, 16)
    half = everything(movi(root, image_size=16, mask_size=8, interpolation="bilinear_no_antialias").open())
    exact = image.reshape(2, 24, 16, 2, 16, 2, 3).mean(axis=(3, 5))  # halfway between two pixels in each direction
    assert np.abs(half["video"] - exact).max() <= 0.5
    np.testing.assert_array_equal(half["mask"], mask[:, :, 2::4, 2::4])  # the pixel over whose area the centre lies
    assert half["num_objects"].tolist() == [[len(np.unique(f)) - 1 for f in video] for video in half["mask"]]
    for interpolation, number in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)):
        large = everything(movi(root, image_size=56, mask_size=32, interpolation=interpolation).open())
        for i, t in ((0, 0), (1, 17)):
            expected = np.asarray(Image.fromarray(image[i, t]).resize((56, 56), number))
            np.testing.assert_array_equal(large["video"][i, t], expected)
        np.testing.assert_array_equal(large["mask"], mask)
        np.testing.assert_array_equal(large["boxes"], whole["train"]["boxes"])


def test_flow_and_depth_of_other_sizes(root, whole):
    """Flow is measured in pixels of the resized image: half of the size, half of the motion."""
    half = everything(movi(root, image_size=16, extras=EXTRAS).open())
    for key, factor in (("forward_flow", 0.5), ("backward_flow", 0.5), ("depth", 1)):
        full = whole["train"][key]
        exact = full.reshape(*full.shape[:-2], 16, 2, 16, 2).mean(axis=(-3, -1)) * factor
        np.testing.assert_allclose(half[key], exact, rtol=0, atol={"depth": 2e-4}.get(key, 2e-5))


# ---- what files may hold ---------------------------------------------------------------------------------------------


def test_properties_of_other_variants(root):
    """`category` and `is_dynamic` of D and E, the colour of B's background; what is not in the file is left out."""
    changes = {
        "instances/category": ints([16, 0, 3]),
        "instances/is_dynamic": ints([1, 0, 0]),
        "instances/scale": floats([0.75, 1, 3]),
        "background_color": floats([0.1, 0.2, 0.3]),
        "instances/size_label": None,
        "instances/mass": None,
    }
    put(root, rewritten(record_of(root), **changes))
    row = movi(root).part("train").decode(record_of(root))
    assert row["category_label"].tolist() == [16, 0, 3] + [-1] * 7
    assert row["is_dynamic"].tolist() == [1, 0, 0] + [-1] * 7
    assert row["scale"].tolist() == [0.75, 1, 3] + [0] * 7
    np.testing.assert_allclose(row["background_color"], [0.1, 0.2, 0.3])
    assert "size_label" not in row
    assert "mass" not in row
    with pytest.raises(
        UserError, match=r"movi_a-train.tfrecord-00001-of-00002, record 0 has no feature 'instances/cat"
    ):
        movi(root).open()  # the second shard has other features than the first


def test_more_objects_than_rows(root, monkeypatch):
    """The least visible ones have no row, but keep their number in the mask."""
    monkeypatch.setitem(MAX_OBJECTS, "a", 2)
    batch = everything(movi(root).open())
    assert batch["boxes"].shape == (2, 24, 2, 4)
    assert batch["shape_label"].tolist() == [truth("train", i)["shape_label"][:2] for i in range(2)]
    assert batch["scene_objects"].tolist() == [3, 5]
    assert batch["mask"].max() == 5


def test_a_scene_without_objects(root):
    record = record_of(root)
    flat = {name: field(kind, b"") for name, (kind, _) in record.features.items() if name.startswith("instances/")}
    put(root, rewritten(record, **flat | {"metadata/num_instances": ints([0])}))
    row = movi(root).part("train").decode(record_of(root))
    assert row["scene_objects"] == 0
    assert (row["boxes"] == -1).all()
    assert (row["shape_label"] == -1).all()


# ---- videos of another length --------------------------------------------------------------------------------------


def shortened(record, length):
    """The payload of a record with its first frames alone."""
    count, changes = int(record.ints("metadata/num_instances", (1,))[0]), {"metadata/num_frames": ints([length])}
    for name in ("video", "segmentations", "depth"):
        changes[name] = strings([bytes(frame) for frame in record.strings(name)[:length]])
    for name in ("forward_flow", "backward_flow"):
        changes[name] = ints(record.ints(name, (24, 32 * 32 * 2))[:length].reshape(-1).tolist())
    for name, shape in TRACKS.items():
        read, write = (record.ints, ints) if name == "visibility" else (record.floats, floats)
        values = read(f"instances/{name}", (count, 24, *shape))[:, :length]
        changes[f"instances/{name}"] = write(values.reshape(-1).tolist())
    for name, size in (("positions", 3), ("quaternions", 4)):
        changes[f"camera/{name}"] = floats(record.floats(f"camera/{name}", (24, size))[:length].reshape(-1).tolist())
    lengths = record.ints("instances/bbox_frames/ragged_row_lengths_0", (count,))
    frames = record.ints("instances/bbox_frames/ragged_flat_values", (int(lengths.sum()),))
    boxes = record.floats("instances/bboxes/ragged_flat_values", (int(lengths.sum()), 4))
    kept = frames < length
    fewer = ints([int(part.sum()) for part in np.split(kept, np.cumsum(lengths)[:-1])])
    changes |= {f"instances/{name}/ragged_row_lengths_0": fewer for name in ("bbox_frames", "bboxes")}
    changes["instances/bbox_frames/ragged_flat_values"] = ints(frames[kept].tolist())
    changes["instances/bboxes/ragged_flat_values"] = floats(boxes[kept].reshape(-1).tolist())
    return rewritten(record, **changes)


def shorten(root, length):
    for number in range(2):
        records = [shortened(record, length) for record in read_examples(shard(root, number=number))]
        write_records(shard(root, number=number), records, compress=False)


def test_videos_of_another_length(root, whole):
    """Every field is that of the first frames; clips, single frames and a choice of these follow the length."""
    shorten(root, 7)
    batch = everything(movi(root, extras=EXTRAS).open("train"))
    for name, value in whole["train"].items():
        assert np.array_equal(batch[name], value[:, :7] if value.shape[1:2] == (24,) else value), name
    assert everything(movi(root, clip_length=3, clip_stride=2).open("train"))["video"].shape[:2] == (2 * 3, 3)
    assert len(movi(root, frames="single").open("train")) == 14
    chosen = movi(root, frames="single", frames_per_video=6).open("train").frames.reshape(2, 6)
    assert all(len(set(row)) == 6 and max(row) < 7 for row in chosen.tolist())
    for options in ({"clip_length": 8}, {"frames": "single", "frames_per_video": 8}):
        with pytest.raises(UserError, match=r"is 8, but the videos of .* have 7 frames"):
            movi(root, **options).open("train")
    assert len(movi(root, clip_length=8).open("val")) == 2  # these have 24


def test_videos_of_several_lengths(root):
    record = record_of(root)
    write_records(shard(root, number=1), [shortened(record, 7)], compress=False)
    with pytest.raises(UserError, match=r"00001-of-00002, record 0 is a video of 7 frames, the first one has 24"):
        movi(root).open("train")


WRONG = [
    ({"metadata/width": ints([64])}, "has a width of 64, expected 32 as in "),
    ({"metadata/num_frames": ints([12])}, "has 24 frames, expected 12"),
    ({"metadata/num_frames": ints([0])}, "states 0 frames, expected 1 to 300"),
    ({"metadata/num_frames": ints([301])}, "states 301 frames, expected 1 to 300"),
    ({"metadata/num_instances": ints([300])}, "has 300 objects, expected 0 to 255"),
    ({"metadata/num_instances": ints([4])}, "holds 3 values, expected 4"),
    ({"video": strings([b"x"] * 23)}, "'video' has 23 frames, expected 24"),
    ({"video": strings([b"no picture"] * 24)}, "frame 0 of 'video' cannot be read"),
    ({"video": None}, "has no feature 'video'"),
    ({"instances/visibility": ints([-1] * 72)}, "'instances/visibility' holds -1, expected 0 to 65535"),
    ({"instances/shape_label": ints([0, 1, 128])}, "'instances/shape_label' holds 128, expected 0 to 127"),
    ({"instances/bbox_frames/ragged_flat_values": ints([24] * 62)}, "holds 24, expected 0 to 23"),
    ({"instances/bboxes/ragged_row_lengths_0": ints([24, 14, 24])}, "the bounding boxes are damaged"),
    ({"instances/bboxes/ragged_flat_values": floats([1.5] * 248)}, "the bounding boxes are damaged"),
    ({"instances/bboxes/ragged_flat_values": floats([float("nan")] * 248)}, "the bounding boxes are damaged"),
]


@pytest.mark.parametrize(("changes", "text"), WRONG)
def test_wrong_records(root, changes, text):
    put(root, rewritten(record_of(root), **changes))
    with pytest.raises(UserError, match=text) as raised:
        movi(root).open()
    assert f"{shard(root)}, record 0" in str(raised.value)


def test_wrong_pictures_and_ranges(root):
    record = record_of(root)
    put(root, rewritten(record, video=strings(record.strings("segmentations"))))
    with pytest.raises(UserError, match="frame 0 of 'video' is a L picture of 32 x 32 pixels, expected RGB of 32 x 32"):
        movi(root).open()
    put(root, rewritten(record, **{"metadata/depth_range": floats([0, float("inf")])}))
    with pytest.raises(UserError, match="feature 'metadata/depth_range' is damaged"):
        movi(root, extras=("depth",)).open()
    shutil.rmtree(root / "prepared")  # of other files
    put(root, rewritten(record, forward_flow=ints([65536] * (24 * 32 * 32 * 2))))
    with pytest.raises(UserError, match="feature 'forward_flow' holds 65536, expected 0 to 65535"):
        movi(root, extras=("forward_flow",)).open()


# ---- preparing -------------------------------------------------------------------------------------------------------


def longer(root):
    """Three records in the first shard and four in the second."""
    (root / FOLDER / "dataset_info.json").unlink()
    payloads = [next(read_payloads(shard(root, number=number))) for number in range(2)]
    write_records(shard(root), [payloads[k] for k in (0, 1, 0)], compress=False)
    write_records(shard(root, number=1), [payloads[k] for k in (1, 1, 0, 1)], compress=False)


def test_reading_may_start_at_any_record(root):
    longer(root)
    part = movi(root).part("train")
    rows = list(part.rows())
    assert [int(row["scene_objects"]) for row in rows] == [3, 5, 3, 5, 5, 3, 5]
    for start in range(9):
        again = list(part.rows(start))
        assert len(again) == max(0, 7 - start)
        assert all(same(row, other) for row, other in zip(again, rows[start:], strict=True))


@pytest.mark.parametrize("content", [0, 1])
def test_a_killed_preparation_goes_on(root, monkeypatch, content):
    """SIGKILL while a record is decoded; finished by another process; same bytes as without."""
    longer(root)
    part = movi(root, extras=("backward_flow",))._contents("train")[content]
    monkeypatch.setattr(
        "slotworks.data.stores.prepared.write_store", partial(write_store, chunk_bytes=1)
    )  # every video
    monkeypatch.setattr("slotworks.data.readers.movi.WORKERS", 1)  # so that it is known how far it gets
    reference = {path.name: path.read_bytes() for path in part.prepare().iterdir()}
    decode = type(part).decode

    for last in (1, 6):
        shutil.rmtree(root / "prepared")

        def killed(last=last):
            calls = 0

            def counting(self, *arguments):
                nonlocal calls
                calls += 1
                if calls == last + 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return decode(self, *arguments)

            type(part).decode = counting
            part.prepare()

        process = multiprocessing.get_context("fork").Process(target=killed)
        process.start()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        assert not part.store_path.exists()
        index = root / f"prepared/.{part.store_name}.partial/index.json"
        safe = json.loads(index.read_text())["rows"] if index.exists() else 0
        assert last - 4 <= safe <= last  # decoding is at most three records ahead of writing
        assert {path.name: path.read_bytes() for path in part.prepare().iterdir()} == reference


def test_official_files_may_go_once_the_stores_are_there(root, whole):
    data = movi(root, extras=EXTRAS)
    data.prepare()
    shutil.rmtree(root / "movi_a")
    for split in ("train", "val"):
        assert same(everything(data.open(split)), whole[split])


def test_counting_records(root, tmp_path):
    longer(root)
    assert [count_records(shard(root, number=number)) for number in range(2)] == [3, 4]
    write_records(tmp_path / "compressed", [b"one", b"two" * 1000], compress=True)
    assert count_records(tmp_path / "compressed") == 2
    data = shard(root).read_bytes()
    for length, text in ((len(data) - 3, "record 2: the file ends inside the record"), (5, "neither a GZIP file nor")):
        shard(root).write_bytes(data[:length])
        with pytest.raises(UserError, match=text):
            count_records(shard(root))


# ---- what may be wrong with the files --------------------------------------------------------------------------------


def test_missing_folders(root, tmp_path):
    with pytest.raises(UserError) as raised:
        movi(tmp_path / "nothing").open()
    assert str(raised.value) == (
        f"{tmp_path}/nothing/{FOLDER} is missing. Get it with "
        f"`gsutil -m cp -r gs://kubric-public/tfds/movi_a/32x32 {tmp_path}/nothing/movi_a`."
    )
    with pytest.raises(UserError, match=r"movi_a/256x256/1.0.0 is missing, but there is 32x32; set resolution to one"):
        movi(root, resolution="256x256").open()


def test_missing_shards(root):
    shard(root, number=1).unlink()
    with pytest.raises(UserError, match=r"movi_a-train.tfrecord-00001-of-00002 is missing. Get it with `gsutil"):
        movi(root).open("train")
    shard(root, number=0).rename(root / FOLDER / "movi_a-train.tfrecord-00000-of-00001")
    with pytest.raises(UserError, match=r"holds 1 shards of the split 'train', but dataset_info.json speaks of 2"):
        movi(root).open("train")
    shutil.copy(shard(root, "validation"), root / FOLDER / "movi_a-train.tfrecord-00001-of-00002")
    with pytest.raises(
        UserError, match=r"holds both movi_a-train.tfrecord-00000-of-00001 and movi_a-train.tfrecord-00"
    ):
        movi(root).open("train")
    for path in (root / FOLDER).glob("movi_a-train*"):
        path.unlink()
    with pytest.raises(UserError, match="holds no files of the split 'train', only validation"):
        movi(root).open("train")
    assert len(movi(root).open("val")) == 2  # which needs no training files


def test_files_of_another_resolution(root):
    shutil.copytree(root / "movi_a/32x32", root / "movi_a/64x64")
    with pytest.raises(UserError, match=r"record 0 has a width of 32, expected 64 as in .*movi_a/64x64/1.0.0; get"):
        movi(root, resolution="64x64").open()


def test_shortened_shards(root):
    data = shard(root).read_bytes()
    shard(root).write_bytes(data[:-1])
    with pytest.raises(
        UserError, match=r"00000-of-00002, record 0: the file ends inside the record; get the file again"
    ):
        movi(root).open()
    write_records(shard(root), [next(read_payloads(shard(root, number=1)))] * 2, compress=False)
    with pytest.raises(UserError, match=r"00000-of-00002 holds 2 videos, but dataset_info.json says 1; get the file"):
        movi(root).open()


@pytest.mark.parametrize("text", ["", "[]", '{"splits": [{"name": "train"}]}', '{"splits": 1}', "\x00"])
def test_damaged_descriptions(root, text):
    (root / FOLDER / "dataset_info.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset_info.json is damaged .*; get it again, or delete it"):
        movi(root).open()


def test_without_a_description(root, whole):
    for file in (*(root / FOLDER).glob("*.json"), *(root / FOLDER).glob("*.txt")):
        file.unlink()
    np.testing.assert_array_equal(everything(movi(root).open())["video"], whole["train"]["video"])


def test_stores_of_different_files_are_not_joined(root):
    movi(root).prepare()
    longer(root)
    with pytest.raises(UserError, match=r"movi_a-train-32 was made from other files than those that lie in"):
        movi(root).open()
    depth = [part for part in movi(root, extras=("depth",)).parts() if part.store_name == "movi_a-train-depth-32"]
    depth[0].prepare()
    shutil.rmtree(root / "movi_a")  # now only the stores themselves can tell
    text = r"movi_a-train-depth-32 was made from other official files than .*movi_a-train-32; delete one of the two"
    with pytest.raises(UserError, match=text):
        movi(root, extras=("depth",)).open()


def test_a_damaged_store_is_found(root):
    dataset = movi(root, extras=("depth",)).open()
    file = root / "prepared/movi_a-train-depth-32/depth.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"depth.npy is damaged: its checksum is"):
        dataset.verify()


# ---- damaged bytes ---------------------------------------------------------------------------------------------------


def test_damaged_shards(root):
    """The checksums leave no wrong record through."""
    path = shard(root)
    official = path.read_bytes()
    part = movi(root).part("train")
    expected = list(part.rows())

    def read(generator):
        path.write_bytes(mutate(official, generator))
        fresh = movi(root).part("train")
        fresh.source()
        assert all(same(row, other) for row, other in zip(fresh.rows(), expected, strict=True))

    readable, refused = attempts(read, 60)
    assert refused > 40
    assert readable + refused == 60


def test_damaged_messages(root):
    """Records whose checksums are right but whose content is not: only the rules of the format can refuse them."""
    payload = next(read_payloads(shard(root)))
    parts = movi(root, extras=EXTRAS)._contents("train")
    names = frozenset(record_of(root).features)
    expected = [part.decode(record_of(root)) for part in parts]

    def read(generator):
        record = Example(mutate(payload, generator), "some file, record 0")
        for part, row in zip(parts, expected, strict=True):
            found = part.decode(record, names)
            assert {k: (v.shape, v.dtype) for k, v in found.items()} == {k: (v.shape, v.dtype) for k, v in row.items()}

    readable, refused = attempts(read, 80)
    assert refused > 30
    assert readable > 0  # another number is nothing a reader can see


def test_damaged_values(root):
    """One feature at a time: every short one is damaged in turn."""
    record = record_of(root)
    part, names = movi(root).part("train"), frozenset(record.features)
    short = [name for name, (_, content) in record.features.items() if len(content) < 4000]

    def read(generator):
        name = generator.choice(short)
        kind, content = record.features[name]
        changed = rewritten(record, **{name: field(kind, mutate(bytes(content), generator))})
        row = part.decode(Example(changed, "some file, record 0"), names)
        boxes = row["boxes"]
        assert ((boxes == -1).all(axis=-1) | ((boxes >= 0) & (boxes <= 1)).all(axis=-1)).all()

    readable, refused = attempts(read, 50)
    assert refused > 20
    assert readable > 0


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"resolution": "128"}, "resolution is '128'; expected the name of a folder, such as '128x128'"),
        ({"resolution": "128x64"}, "resolution is '128x64'"),
        ({"image_size": 0}, "image_size is 0; it must be from 1 to"),
        ({"mask_size": -3}, "mask_size is -3; it must be from 1 to"),
        ({"clip_length": 301}, "clip_length is 301; expected 1 to 300 frames"),
        ({"clip_length": 0}, "clip_length is 0; it must be 1 or more"),
        ({"clip_stride": 3}, "clip_stride is 3, but there is no clip_length"),
        ({"frames_per_video": 9}, "frames_per_video is 9, which means nothing with frames='video'"),
        ({"frames": "single", "clip_length": 6}, "clip_length is 6, which means nothing with frames='single'"),
        ({"frames": "single", "frames_per_video": 301}, "frames_per_video is 301; expected 1 to 300 frames"),
    ],
)
def test_wrong_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        MOVi(**options)


def test_a_run_folder_keeps_the_settings():
    data = MOVi(variant="e", image_size=64, clip_length=6, extras=("backward_flow", "depth"))
    assert from_yaml(MOVi, to_yaml(data), source="run.yaml") == data


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("variant", "f", "variant is 'f'; expected one of a, b, c, d, e"),
        ("interpolation", "nearest", "interpolation is 'nearest'; expected bicubic, bilinear or bilinear_no_antialias"),
        ("frames", "clip", "frames is 'clip'; expected 'video' or 'single'"),
        ("extras", ("normal",), "extras holds 'normal'; expected some of forward_flow, backward_flow, depth"),
    ],
)
def test_wrong_choices(field, value, text):
    """Set behind the back of the type checker that guards the tests."""
    data = object.__new__(MOVi)
    for key, default in (vars(MOVi()) | {field: value}).items():
        object.__setattr__(data, key, default)
    with pytest.raises(ValueError, match=text):
        data.__post_init__()
