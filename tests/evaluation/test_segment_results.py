"""Segments as files: borders that follow edges, contact sheets, one COCO file, cut-outs that make collages."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, one_hot

from slotworks.data import CollageScenes
from slotworks.errors import UserError
from slotworks.evaluation import segment_results
from slotworks.evaluation.edges import guided
from slotworks.evaluation.segment import largest, segment_images, upsampled_argmax
from slotworks.evaluation.segment_video import segment_files
from slotworks.outputs import Outputs, writing
from slotworks.types import DecoderOutput, Method, SlotOutput

COLORS = np.array([(90, 120, 60), (200, 60, 40), (40, 60, 200)], np.uint8)


def scene(size=120):
    """A disc and a lying triangle on green, and their ids."""
    down, across = np.mgrid[:size, :size] / size
    ids = np.zeros((size, size), np.int64)
    ids[(down - 0.35) ** 2 + (across - 0.3) ** 2 < 0.04] = 1
    ids[(down > 0.5) & (across > 0.4) & (down + across < 1.65)] = 2
    noise = np.random.default_rng(0).normal(0, 6, (size, size, 1))
    return Image.fromarray((COLORS[ids] + noise).clip(0, 255).astype(np.uint8)), ids


class Colors(Method):
    """Attention on a grid of 8 x 8: how near each patch is to the three colours."""

    def encode(self, image):
        patches = avg_pool2d(image, image.shape[-1] // 8).flatten(2)  # b 3 p
        known = torch.from_numpy(COLORS).float() / 255
        near = -30 * (patches[:, None] - known[None, :, :, None]).square().sum(2)
        return SlotOutput(torch.zeros(len(image), 3, 2), near.softmax(1))


def write_scene(path, size=120):
    scene(size)[0].save(path)
    return path


def test_borders_follow_edges():
    """Masks of 8 x 8 pixels: mean IoU of the three regions, enlarged smoothly and by the guided filter."""
    picture, ids = scene()
    soft = avg_pool2d(one_hot(torch.from_numpy(ids), 3).permute(2, 0, 1).float()[None], 15)[0]
    found = {"plain": upsampled_argmax(soft, (120, 120)), "edges": largest(guided(soft, picture), (120, 120))}
    scores = {}
    for name, labels in found.items():
        scores[name] = np.mean(
            [((labels == k) & (ids == k)).sum() / ((labels == k) | (ids == k)).sum() for k in range(3)]
        )
    assert scores["plain"] < 0.94
    assert scores["edges"] > 0.99


def test_a_flat_picture_leaves_masks_as_they_are():
    soft = torch.rand(3, 6, 8).softmax(0)
    flat = Image.new("RGB", (64, 48), (90, 90, 90))
    masks = torch.stack([*guided(soft, flat)])
    assert masks.shape == (3, 48, 64)
    torch.testing.assert_close(masks.sum(0), torch.ones(48, 64), rtol=0, atol=1e-4)
    labels = largest(guided(torch.eye(2).view(2, 1, 2).expand(2, 2, 2), flat), (48, 64))
    assert [labels[:, 10].tolist(), labels[:, 50].tolist()] == [[0] * 48, [1] * 48]


def test_one_file_of_all_masks_and_a_contact_sheet(tmp_path, monkeypatch):
    from pycocotools.coco import COCO

    files = [write_scene(tmp_path / f"{name}.png", size) for name, size in (("a", 120), ("b", 80), ("c", 200))]
    monkeypatch.setattr(segment_results, "SHEET", 2)
    monkeypatch.setattr("slotworks.evaluation.segment.SHEET", 2)
    results = [*segment_images(Colors(), files, tmp_path / "out", image_size=(64, 64), masks="attention")]
    coco = COCO(str(tmp_path / "out/segments.json"))
    assert [(row["file_name"], row["width"]) for row in coco.imgs.values()] == [
        ("a.png", 120),
        ("b.png", 80),
        ("c.png", 200),
    ]
    assert len(coco.anns) == sum(result["slots"] for result in results) == 9
    for result, number in zip(results, coco.imgs, strict=True):
        labels = np.asarray(Image.open(result["written"][0]))
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[number])):
            np.testing.assert_array_equal(coco.annToMask(annotation) != 0, labels == annotation["slot"])
    assert {path.name for path in (tmp_path / "out").glob("contact*")} == {
        "contact_sheet_001.png",
        "contact_sheet_002.png",
    }
    sheet = np.asarray(Image.open(tmp_path / "out/contact_sheet_001.png"))
    side, gap = segment_results.THUMB, segment_results.GAP
    assert sheet.shape == (side + 2 * gap, 4 * side + 5 * gap, 3)
    shown = Image.fromarray(sheet[gap : gap + side, gap : gap + side]).resize((120, 120))
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(Image.open(files[0]))).mean() < 12
    one = tmp_path / "one"
    [*segment_images(Colors(), files[:1], one, image_size=(64, 64), masks="attention")]
    assert sorted(path.name for path in one.iterdir() if path.name[0] != ".") == [
        *("a_mask.png", "a_overlay.png", "a_rle.json", "a_slots.npz", "segments.json")
    ]


@pytest.mark.parametrize("edges", [False, True])
def test_cut_outs_make_collages(tmp_path, edges):
    files = [write_scene(tmp_path / f"{name}.png") for name in "abcdefgh"]
    how = {"image_size": (64, 64), "masks": "attention", "cut_outs": True, "edges": edges}
    results = [*segment_images(Colors(), files, tmp_path / "out", **how)]
    cut = sorted((tmp_path / "out/cutouts").iterdir())
    assert [path.name for path in cut[:2]] == ["a_1.png", "a_2.png"]  # slot 0 owns the border
    assert len(cut) == 16
    assert str(cut[0]) in results[0]["written"]
    disc = np.asarray(Image.open(cut[0]))
    labels = np.asarray(Image.open(results[0]["written"][0]))
    assert abs(int((disc[..., 3] >= 128).sum()) - int((labels == 1).sum())) < 40
    inside = disc[disc[..., 3] == 255][:, :3]
    assert np.abs(inside.mean(0) - COLORS[1]).max() < 25
    collages = CollageScenes(cutouts=str(tmp_path / "out/cutouts"), image_size=48, num_train=4)
    assert {int(mask.max()) for mask in collages.open("train").__getitems__(range(4))["mask"]} - {0}


def test_cut_outs_of_an_earlier_call_go_and_own_files_stay(tmp_path):
    file = write_scene(tmp_path / "a.png")
    outputs = Outputs(tmp_path / "out")
    picture, ids = Image.open(file), scene()[1].astype(np.uint8)
    segment_results.write_cut_outs(outputs, "a", picture, ids)
    (tmp_path / "out/cutouts/a_7.png").write_bytes(b"mine")
    assert segment_results.write_cut_outs(outputs, "a", picture, np.where(ids == 2, 1, ids)) == ["cutouts/a_1.png"]
    assert sorted(path.name for path in (tmp_path / "out/cutouts").iterdir()) == ["a_1.png", "a_7.png"]


def test_somebody_elses_files_stay(tmp_path):
    files = [write_scene(tmp_path / f"{name}.png") for name in "ab"]
    for name in ("segments.json", "contact_sheet.png"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(UserError, match=f"{name} is there and was not written by this program"):
            [*segment_images(Colors(), files, folder, image_size=(64, 64), masks="attention")]
        assert [path.name for path in folder.iterdir()] == [name]


def test_videos_have_neither(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"clip.mp4 is a video; cut-outs are for pictures: leave --cut-outs out"):
        [
            *segment_files(
                Colors(), [tmp_path / "clip.mp4"], Outputs(tmp_path / "out"), image_size=(64, 64), cut_outs=True
            )
        ]


class Disagreeing(Colors):
    """A decoder whose masks show the first slot everywhere, whatever the attention says."""

    def decode(self, slots):
        masks = torch.zeros(len(slots), 3, 8, 8)
        masks[:, 0] = 1
        return DecoderOutput(torch.zeros(len(slots), 3, 8, 8), masks)


@pytest.mark.parametrize(
    ("options", "segments"),
    [
        ({}, 1),  # the default protocol scores decoder masks
        ({"protocol": "oclf[attention]"}, 3),
        ({"protocol": "oclf[attention]", "masks": "decoder"}, 1),
        ({"masks": "attention"}, 3),
    ],
)
def test_masks_are_those_that_are_scored(tmp_path, options, segments):
    picture = write_scene(tmp_path / "scene.png")
    with writing(tmp_path / "out", doing="writing results") as outputs:
        (found,) = segment_files(Disagreeing(), [picture], outputs, image_size=(64, 64), **options)
    assert found["slots"] == segments


def test_pictures_are_told_no_boxes(tmp_path):
    """They would be passed over in silence."""
    file = write_scene(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png is a picture; boxes are those of the first frame of a video: leave"):
        [*segment_files(Colors(), [file], Outputs(tmp_path / "out"), image_size=(64, 64), boxes=[[0.0, 0.0, 1.0, 1.0]])]
