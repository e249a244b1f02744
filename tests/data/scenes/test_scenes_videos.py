"""Drawn videos: determinism, clips, motion that the flow describes exactly, masks and boxes that fit."""

import hashlib

import numpy as np
import pytest

from slotworks.data.scenes import VideoScenes
from slotworks.data.scenes.shapes import BACKGROUNDS, COLORS
from slotworks.slots import BoxInit
from slotworks.types import to_batch

FLOWS = ("forward_flow", "backward_flow")
BUSY = {"background": "textured", "camera_speed": 0.02, "extras": FLOWS, "max_objects": 5, "appearing": 0.4}


def draw(count=6, split="val", **config):
    return VideoScenes(**config).open(split).__getitems__(range(count))


@pytest.fixture(scope="module")
def busy():
    return draw(**BUSY)


def test_shapes(busy):
    b, t, m, s = 6, 24, 5, 64
    expected = {
        "video": (b, t, s, s, 3),
        "mask": (b, t, s, s),
        "boxes": (b, t, m, 4),
        "visibility": (b, t, m),
        "image_positions": (b, t, m, 2),
        "num_objects": (b, t),
        "scene_objects": (b,),
        **dict.fromkeys(("shape", "color", "size"), (b, m)),
        "background": (b,),
        **dict.fromkeys(FLOWS, (b, t, 2, s, s)),
    }
    assert {name: value.shape for name, value in busy.items()} == expected
    batch = to_batch(busy)
    assert batch["video"].shape == (b, t, 3, s, s)
    assert batch["video"].max() <= 1
    BoxInit(slot_dim=8)(batch["boxes"][:, 0])  # refuses anything but [0, 1] and -1


def test_a_video_is_a_function_of_its_number(busy):
    dataset = VideoScenes(**BUSY).open("val")
    for name, value in dataset.__getitems__([4, 1]).items():
        np.testing.assert_array_equal(value, busy[name][[4, 1]])
    other = VideoScenes(**BUSY, seed=1).open("val").__getitems__([0])
    assert (other["video"] != busy["video"][:1]).any()
    assert (VideoScenes(**BUSY).open("test").__getitems__([0])["video"] != busy["video"][:1]).any()


def test_golden():
    """The same pixels on every machine."""
    batch = draw(3, image_size=32, sizes=(0.25, 0.4), extras=FLOWS, camera_speed=0.03)
    found = {name: hashlib.sha256(np.ascontiguousarray(batch[name])).hexdigest()[:12] for name in GOLDEN}
    assert found == GOLDEN


GOLDEN = {
    "video": "d5b9e1288464",
    "mask": "26c02e8c08e1",
    "boxes": "5f2bb7b54332",
    "backward_flow": "ccb28293fe02",
}


@pytest.mark.parametrize(("length", "stride", "starts"), [(6, None, [0, 6, 12, 18]), (3, 10, [0, 10, 20])])
def test_clips_are_frames_of_the_whole_video(length, stride, starts):
    whole = draw(3, "train", **BUSY)
    dataset = VideoScenes(**BUSY, clip_length=length, clip_stride=stride, num_train=3).open("train")
    assert len(dataset) == 3 * len(starts)
    clips = dataset.__getitems__(range(len(dataset)))
    for sample in range(len(dataset)):
        video, start = sample // len(starts), starts[sample % len(starts)]
        for name in ("video", "mask", "boxes", "visibility", "image_positions", "num_objects", *FLOWS):
            np.testing.assert_array_equal(clips[name][sample], whole[name][video, start : start + length])
        np.testing.assert_array_equal(clips["color"][sample], whole["color"][video])
    assert len(VideoScenes(**BUSY, clip_length=6).open("val")) == 100


def test_single_frames(busy):
    data = VideoScenes(**BUSY, frames="single")
    dataset = data.open("val")
    assert (data.name, len(dataset)) == ("video_scenes_textured_frames", 2400)
    batch = dataset.__getitems__([0, 30, 143])
    np.testing.assert_array_equal(batch["image"], busy["video"][[0, 1, 5], [0, 6, 23]])
    np.testing.assert_array_equal(batch["mask"], busy["mask"][[0, 1, 5], [0, 6, 23]])
    np.testing.assert_array_equal(batch["shape"], busy["shape"][[0, 1, 5]])


def test_flow_says_where_every_pixel_goes(busy):
    """Followed by its flow, a pixel has the same colour and id, unless it is covered or leaves the picture."""
    rows, columns = np.mgrid[:64, :64]
    followed = 0
    for name, step in (("forward_flow", 1), ("backward_flow", -1)):
        for i in range(6):
            for t in range(1, 23):
                flow = busy[name][i, t]
                assert (flow == np.rint(flow)).all()
                y, x = (rows + flow[0]).astype(int), (columns + flow[1]).astype(int)
                inside = (y >= 0) & (y < 64) & (x >= 0) & (x < 64)
                there = busy["mask"][i, t + step][y[inside], x[inside]]
                here = busy["mask"][i, t][inside]
                assert (there >= here).all()  # nearer objects have higher ids and cover others
                same = there == here
                followed += same.mean() / (2 * 6 * 22)
                before, after = (
                    busy["video"][i, t][inside][same],
                    busy["video"][i, t + step][y[inside], x[inside]][same],
                )
                np.testing.assert_array_equal(before, after)
    assert followed > 0.97


def test_colours_masks_and_boxes(busy):
    colors, backgrounds = np.array(list(COLORS.values())), np.array(list(BACKGROUNDS.values()))
    plain = draw(4, camera_speed=0.02)
    for i in range(4):
        ids, video = plain["mask"][i], plain["video"][i]
        expected = np.concatenate([backgrounds[plain["background"][i, None] - 1], colors[plain["color"][i] - 1]])
        np.testing.assert_array_equal(video, expected[ids])
    for i, t, k in np.ndindex(6, 24, 5):
        own = busy["mask"][i, t] == k + 1
        assert own.sum() == busy["visibility"][i, t, k]
        box = busy["boxes"][i, t, k]
        if not own.any():
            assert (box == -1).all()
            continue
        y, x = np.nonzero(own)
        np.testing.assert_allclose(box * 64, [x.min(), y.min(), x.max() + 1, y.max() + 1])
    assert (busy["num_objects"] == (busy["visibility"] > 0).sum(axis=2)).all()
    absent = np.arange(5) >= busy["scene_objects"][:, None]
    assert not busy["visibility"].transpose(0, 2, 1)[absent].any()
    assert not busy["color"][absent].any()


def test_objects_move_bounce_appear_and_cover_each_other():
    still = draw(40, max_speed=0.0, appearing=0.0)
    assert (still["video"] == still["video"][:, :1]).all()
    here = draw(200, "train", appearing=0.0, min_objects=1, max_objects=1)
    assert (here["visibility"] > 0).all()  # the walls keep it inside
    np.testing.assert_array_equal(here["visibility"], here["visibility"][:, :1].repeat(24, axis=1))
    speed = np.abs(np.diff(here["image_positions"], axis=1)).max()
    assert 0.02 < speed <= 0.03 + 2 / 64
    coming = draw(200, "train", appearing=1.0, min_objects=1, max_objects=1)
    assert not coming["visibility"][:, 0].any()
    assert (coming["visibility"][:, -1] > 0).mean() == 1
    grows = np.diff(coming["visibility"][..., 0], axis=1)
    assert (grows >= 0).all()  # it slides in, and stays
    some = draw(200, "train")
    late = (some["visibility"][:, 0] == 0) & (some["color"] > 0)
    assert 0.2 < late.sum() / (some["color"] > 0).sum() < 0.32  # a quarter is not there yet
    most = some["visibility"].max(axis=1, keepdims=True)
    assert (((some["visibility"] < most) & (some["visibility"] > 0)).mean()) > 0.05  # covered, or on its way in


def test_the_camera_glides():
    """An empty world: its pattern moves as the flow says, in a straight line."""
    empty = draw(
        20, background="textured", camera_speed=0.05, min_objects=0, max_objects=1, num_frames=12, extras=FLOWS
    )
    nothing = empty["scene_objects"] == 0
    assert nothing.any()
    moved = empty["forward_flow"][nothing][:, :, :, 0, 0].cumsum(axis=1)  # b t 2
    line = np.arange(1, 13)[None, :, None] * (moved[:, -1:] / 12)
    assert np.abs(moved - line).max() <= 1.01  # rounding to pixels
    assert np.abs(moved).max() > 10
    resting = draw(20, background="textured", min_objects=0, max_objects=1)
    quiet = resting["video"][resting["scene_objects"] == 0]
    assert (quiet == quiet[:, :1]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapes": ("cube",)}, r"shapes is \('cube',\); give one or more of circle"),
        ({"background": "gradient"}, "background is 'gradient'; expected plain or textured"),
        ({"frames": "all"}, "frames is 'all'; expected video or single"),
        ({"extras": ("depth",)}, "extras holds 'depth'; expected some of forward_flow, backward_flow"),
        ({"min_objects": 5}, "min_objects is 5 and max_objects is 4"),
        ({"sizes": (0.01,)}, "sizes is"),
        ({"max_speed": 0.7}, "max_speed is 0.7; give a share"),
        ({"camera_speed": -0.1}, "camera_speed is -0.1"),
        ({"appearing": 2.0}, "appearing is 2.0; it must be from 0 to 1"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"clip_length": 25}, "clip_length is 25; expected 1 to num_frames, 24"),
        ({"clip_length": 6, "frames": "single"}, "means nothing with frames='single'"),
        ({"clip_stride": 2}, "clip_stride is 2, but there is no clip_length"),
    ],
)
def test_settings_that_make_no_video(changes, message):
    config = object.__new__(VideoScenes)
    for name, value in (vars(VideoScenes()) | changes).items():
        object.__setattr__(config, name, value)  # past the annotations that the tests check
    with pytest.raises(ValueError, match=message):
        config.__post_init__()


def test_outside_of_a_split():
    with pytest.raises(IndexError, match="index 100 is outside the val split, which has 100"):
        VideoScenes().open("val").__getitems__([100])
