"""Painted scenes in motion: what moves, what hides what, and that all of it is that of the drawn videos."""

import numpy as np
import pytest

from slotworks.data.scenes import PaintedScenes, PaintedVideos, VideoScenes

FLOWS = ("forward_flow", "backward_flow")
SAME = (
    "mask",
    "boxes",
    "visibility",
    "image_positions",
    "num_objects",
    "scene_objects",
    "shape",
    "color",
    "background",
)


@pytest.fixture(scope="module")
def videos():
    return PaintedVideos(extras=FLOWS).open("val").__getitems__(range(40))


def test_only_the_paint_differs_from_drawn_videos(videos):
    """Squares have the same pixels in both, so there everything but the pictures is equal."""
    how = {"shapes": ("square",), "sizes": (0.25, 0.375), "leaving": 0.5, "extras": FLOWS}
    painted, drawn = (kind(**how).open("val").__getitems__(range(8)) for kind in (PaintedVideos, VideoScenes))
    for name in (*SAME, *FLOWS):
        np.testing.assert_array_equal(painted[name], drawn[name], err_msg=name)
    assert painted["video"].shape == (8, 24, 64, 64, 3)
    assert (painted["video"] != drawn["video"]).mean() > 0.5
    assert {name: value.shape for name, value in videos.items()}["video"] == (40, 24, 64, 64, 3)


def test_a_clip_is_a_part_of_its_video(videos):
    """Also where a batch is painted in several pieces."""
    whole = PaintedVideos().open("train").__getitems__(range(7))
    clips = PaintedVideos(clip_length=6).open("train").__getitems__([0, 5, 27])
    for name in ("video", "mask", "visibility"):
        expected = [whole[name][0, :6], whole[name][1, 6:12], whole[name][6, 18:]]
        np.testing.assert_array_equal(clips[name], np.stack(expected), err_msg=name)
    assert not np.array_equal(whole["video"][0], videos["video"][0])


def test_a_video_that_rests_shows_a_painted_scene():
    """The same silhouettes, paint and shadows: a scene is found again in a video with its objects at its places."""
    scenes = PaintedScenes(max_objects=1, shapes=("circle",), sizes=(0.33,)).open("val")
    batch = scenes.__getitems__(range(60))
    data = PaintedVideos(max_objects=1, min_objects=1, shapes=("circle",), sizes=(0.33,), max_speed=0.0, appearing=0.0)
    still = data.open("val").__getitems__(range(60))
    assert (still["video"] == still["video"][:, :1]).all()
    crops = {"scene": {}, "video": {}}
    for kind, pictures, masks in (("scene", batch["image"], batch["mask"]), ("video", *first(still))):
        for image, mask, color in zip(pictures, masks, (batch if kind == "scene" else still)["color"], strict=True):
            y, x = np.nonzero(mask)
            crops[kind].setdefault(
                int(color[0]), image[y.min() + 3 : y.max() - 2, x.min() + 3 : x.max() - 2][4:-4, 4:-4]
            )
    assert len(crops["scene"].keys() & crops["video"].keys()) == 8
    for color, crop in crops["scene"].items():
        np.testing.assert_array_equal(crop, crops["video"][color])


def first(batch):
    return batch["video"][:, 0], batch["mask"][:, 0]


def test_objects_hide_one_another_come_and_leave(videos):
    seen = videos["visibility"] > 0  # b t m
    there = seen.any(axis=1)
    most = videos["visibility"].max(axis=1, keepdims=True)
    assert ((videos["visibility"] < most) & seen).sum() / seen.sum() > 0.2
    assert 0.1 < (~seen[:, 0] & there).sum() / there.sum() < 0.4  # a quarter comes in
    gone = seen[:, 0] & ~seen[:, -1]
    moved = np.abs(videos["image_positions"][:, -1] - 0.5) > 0.5
    assert 0.02 < (gone & moved.any(axis=-1)).sum() / there.sum() < 0.3
    kept = PaintedVideos(leaving=0.0, appearing=0.0).open("val").__getitems__(range(40))
    inside = np.abs(kept["image_positions"] - 0.5).max(axis=-1)
    assert (inside[kept["visibility"] > 0] < 0.5).all()


def test_light_stays_in_the_world_and_shadows_go_with_their_objects():
    empty = PaintedVideos(min_objects=0, max_objects=1, camera_speed=0.05, num_val=40, num_frames=8, extras=FLOWS)
    batch = empty.open("val").__getitems__(range(40))
    for i in np.flatnonzero(batch["scene_objects"] == 0):
        dy, dx = batch["forward_flow"][i, 0, :, 0, 0].astype(int)
        one, two = (np.roll(batch["video"][i, t], shift, (0, 1)) for t, shift in ((0, (dy, dx)), (1, (0, 0))))
        here = slice(abs(dy), 64 - abs(dy)), slice(abs(dx), 64 - abs(dx))
        np.testing.assert_allclose(one[here], two[here], atol=1)
    single = PaintedVideos(min_objects=1, max_objects=1, appearing=0.0, leaving=0.0, shapes=("square",), max_speed=0.06)
    batch = single.open("val").__getitems__(range(20))
    video, shaded = batch["video"].astype(float).sum(-1), []
    for i in range(20):
        y, x = (np.rint(batch["image_positions"][i, :, 0, axis] * 64).astype(int) for axis in (1, 0))
        half = round(batch["size"][i, 0] * 32)
        for t in np.flatnonzero(y + half + 2 < 64):
            below = video[i, :, y[t] + half + 1, x[t]]
            away = np.median(below[batch["mask"][i, :, y[t] + half + 1, x[t]] == 0])
            shaded.append(below[t] / away)
    assert len(shaded) > 200
    assert 1 - 0.45 < np.median(shaded) < 0.85  # a shadow takes 0.45 of the light where it is full


@pytest.mark.parametrize(("how", "said"), [({"image_size": 300}, "32 to 256"), ({"leaving": 2.0}, "leaving is 2.0")])
def test_what_cannot_be_painted(how, said):
    with pytest.raises(ValueError, match=said):
        PaintedVideos(**how)
