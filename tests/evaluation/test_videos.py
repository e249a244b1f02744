"""Videos are scored, shown and examined in pieces, with the state carried and nothing kept."""

import json
import weakref
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from slotworks import protocols
from slotworks.data.scenes import VideoScenes
from slotworks.evaluation import segment_video as module
from slotworks.evaluation.discovery import evaluate_under
from slotworks.evaluation.doctor import stats_of
from slotworks.evaluation.masks import PIECE, pieces
from slotworks.evaluation.samples import write_samples
from slotworks.evaluation.segment_video import segment_files, segment_video
from slotworks.evaluation.tracks import Filmstrip, Tracks
from slotworks.outputs import Outputs, writing
from slotworks.reports import write_report
from slotworks.types import Method, SlotOutput, UserError, VideoMethod, to_batch
from slotworks.videos import VideoWriter

DATA = VideoScenes(image_size=16, sizes=(0.4,), num_val=5, num_frames=14, max_objects=3, appearing=0.0)
SAVI = ["savi", "savi-without-first", "savi-frames"]


class Oracle(VideoMethod):
    """Slots that know the true masks; from frame `swap` on two of them have changed places."""

    def __init__(self, truth, swap=None):
        super().__init__()
        self.swap, self.seen = swap, []
        self.mask = torch.from_numpy(truth["mask"]).long()
        self.first = to_batch({"video": truth["video"][:, :1]})["video"][:, 0]

    def encode(self, video, *, state=None):
        b, t = video.shape[:2]
        if state is None:  # which videos are these?
            rows = torch.stack([(self.first - one).abs().sum(dim=(1, 2, 3)).argmin() for one in video[:, 0]])
            start = 0
        else:
            rows, start = state[:, 0, 1].long(), int(state[0, 0, 0])
        self.seen.append((b, t, start))
        ids = self.mask[rows, start : start + t]
        if self.swap is not None:
            late = (torch.arange(start, start + t) >= self.swap)[None, :, None, None]
            ids = torch.where(late, torch.tensor([0, 2, 1, 3])[ids], ids)
        attn = torch.nn.functional.one_hot(ids, 4).permute(0, 1, 4, 2, 3).flatten(3).float()
        state = torch.stack([torch.full((b,), float(start + t)), rows.float()], dim=-1)[:, None].expand(b, 4, 2)
        return SlotOutput(torch.zeros(b, t, 4, 2), attn, grid=(16, 16), state=state)


class Columns(Method):
    """An image method without a decoder: the left half of a picture is slot 0."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def encode(self, image):
        self.shapes.append(tuple(image.shape))
        masks = torch.zeros(len(image), 2, 16, 16)
        masks[:, 0, :, :8] = masks[:, 1, :, 8:] = 1
        return SlotOutput(torch.zeros(len(image), 2, 3), masks.flatten(2), grid=(16, 16))


@pytest.fixture(scope="module")
def dataset():
    return DATA.open("val")


@pytest.fixture(scope="module")
def truth(dataset):
    return dataset.__getitems__(range(5))


def scores(method, dataset, names, **options):
    options = {"num_images": 5, "batch_size": 5 * PIECE, **options}
    return {result.protocol.name: result for result in evaluate_under(names, method, dataset, **options)}


def test_perfect_tracks(dataset, truth):
    method = Oracle(truth)
    found = scores(method, dataset, [*SAVI, "oclf", "slot-diffusion"])
    for result in found.values():
        assert all(summary.mean == pytest.approx(1) for summary in result.metrics.values())
    assert method.seen == [(5, 6, 0), (5, 6, 6), (5, 2, 12)]  # in pieces, the state carried
    assert found["savi[attention]"].per_image["fg_ari"].shape == (5,)
    assert found["savi-frames[attention]"].per_image["fg_ari"].shape == (5 * 14,)


def test_lost_tracks(dataset, truth):
    """Two slots that change places cost a video's score from then on, and nothing frame by frame."""
    found = scores(Oracle(truth, swap=7), dataset, SAVI)
    assert found["savi-frames[attention]"].metrics["fg_ari"].mean == pytest.approx(1)
    assert found["savi[attention]"].metrics["fg_ari"].mean < 0.8
    early = scores(Oracle(truth, swap=1), dataset, SAVI)
    assert early["savi[attention]"].metrics["fg_ari"].mean < 1
    assert early["savi-without-first[attention]"].metrics["fg_ari"].mean == pytest.approx(1)


def test_scores_by_length(dataset, truth):
    lengths = [protocols.get("savi").with_length(n) for n in (1, 7, 8, 14)]
    found = scores(Oracle(truth, swap=7), dataset, lengths)
    values = [found[f"savi[attention]@{n}"].metrics["fg_ari"].mean for n in (1, 7, 8, 14)]
    assert values[:2] == pytest.approx([1, 1])
    assert 1 > values[2] > values[3]
    whole = scores(Oracle(truth, swap=7), dataset, ["savi"])["savi[attention]"]
    assert found["savi[attention]@14"].metrics == whole.metrics


def test_names_with_lengths():
    protocol = protocols.get("savi[attention]@12")
    assert (protocol.name, protocol.length, protocol.masks) == ("savi[attention]@12", 12, "attention")
    assert "of videos the frames from the first one to number 12" in protocol.describe()
    assert protocol.with_masks("decoder").name == "savi[decoder]@12"
    assert "the second one" in protocols.get("savi-without-first").describe()
    assert "tracking does not count" in protocols.get("savi-frames").describe()
    for wrong in ("savi@", "savi@x", "@3", "savi@-1"):
        with pytest.raises(UserError, match="There is no protocol"):
            protocols.get(wrong)
    with pytest.raises(UserError, match="savi cannot score 0 frames"):
        protocols.get("savi@0")
    with pytest.raises(UserError, match="savi-without-first cannot score 1 frames"):
        protocols.get("savi-without-first@1")


def test_methods_of_images_see_frames(dataset):
    method = Columns()
    found = scores(method, dataset, ["savi"])
    assert found["savi[attention]"].num_images == 5
    assert method.shapes == [(30, 3, 16, 16), (30, 3, 16, 16), (10, 3, 16, 16)]


def test_lengths_are_those_of_videos():
    images = VideoScenes(image_size=16, sizes=(0.4,), num_val=2, num_frames=3, frames="single").open("val")
    assert scores(Columns(), images, ["savi"], num_images=6)["savi[attention]"].num_images == 6
    with pytest.raises(UserError, match=r"savi\[attention\]@2 scores the first frames of videos"):
        scores(Columns(), images, [protocols.get("savi@2")], num_images=6)


def test_few_images_at_once(dataset, truth):
    """A batch of 64 images is one of ten videos of six frames."""
    method = Columns()
    scores(method, dataset, ["savi"], batch_size=13)
    assert {shape[0] for shape in method.shapes} == {12, 4, 6, 2}


class Counting(VideoMethod):
    """Keeps weak references to all that it returned."""

    def __init__(self):
        super().__init__()
        self.alive, self.most, self.longest = [], 0, 0

    def encode(self, video, *, state=None):
        b, t = video.shape[:2]
        self.longest = max(self.longest, t)
        slots, attn = torch.zeros(b, t, 2, 3), torch.full((b, t, 2, 16), 0.5)
        self.alive = [ref for ref in self.alive if ref() is not None] + [weakref.ref(slots), weakref.ref(attn)]
        self.most = max(self.most, len(self.alive))
        return SlotOutput(slots, attn, grid=(4, 4), state=slots[:, -1].clone())


@pytest.mark.parametrize("length", [12, 300])
def test_long_videos_leave_nothing_behind(length):
    """Whatever the length, no more than two pieces' tensors are alive at a time, and no piece is longer than six."""
    method = Counting()
    for _, output in pieces(method, {"video": torch.zeros(1, length, 3, 8, 8)}):
        del output
    assert (method.longest, method.most) == (PIECE, 4)


def test_examined_and_shown(dataset, truth, tmp_path):
    stats = stats_of(Oracle(truth), dataset, num_images=4)
    assert stats["num_regions"] > 1
    assert stats["swallowed"] == pytest.approx(0)
    index = write_samples(Oracle(truth), dataset, tmp_path, indices=range(5), step=3)
    rows = json.loads(index.read_text())["rows"]
    assert [row["frames"] for row in rows] == [6] * 5
    for name in ("input", "truth", "segmentation"):
        strip = Image.open(index.parent / rows[0][name])
        assert strip.size == (6 * 16 + 5 * 2, 16)
    chosen = [round(t) for t in np.linspace(0, 13, 6)]
    first, strip = truth["video"][0], np.asarray(Image.open(index.parent / rows[0]["input"]))
    for k, t in enumerate(chosen):
        np.testing.assert_array_equal(strip[:, 18 * k : 18 * k + 16], first[t])
    # A perfect segmentation has the colours of the truth, in every frame.
    shown = [np.asarray(Image.open(index.parent / rows[0][name]).convert("RGB")) for name in ("truth", "segmentation")]
    np.testing.assert_array_equal(*shown)
    assert (tmp_path / "samples" / "step_0000003.png").is_file()
    page = write_report(tmp_path).read_text()
    assert "Video 0" in page
    assert 'class="card film"' in page


# ---- own videos ------------------------------------------------------------------------------------------------------


def clip(path, frames=9, size=(20, 30)):
    with VideoWriter(path, Fraction(10), size) as writer:
        for t in range(frames):
            picture = np.full((*size, 3), 40, np.uint8)
            picture[5:10, t : t + 5] = (220, 60, 60)
            writer.write(picture)
    return path


class Bright(VideoMethod):
    """Slot 1 owns what is red; slots count the frames seen, carried from piece to piece."""

    def encode(self, video, *, state=None, num_slots=None, boxes=None):
        b, t = video.shape[:2]
        start = 0.0 if state is None else float(state[0, 0, 0])
        if boxes is not None and boxes.shape[1] > 1:
            raise UserError("2 boxes were given, but of 2 slots only 1 can follow one.")
        red = (video[:, :, 0] > 0.5).float()
        counted = (start + 1 + torch.arange(t)).reshape(1, t, 1, 1).expand(b, t, num_slots or 2, 1)
        return SlotOutput(counted, torch.stack([1 - red, red], 2).flatten(3), grid=(16, 16), state=counted[:, -1])


def test_segment_a_video(tmp_path):
    file = clip(tmp_path / "clip.mp4")
    found = segment_video(Bright(), file, tmp_path / "out", image_size=(16, 16), masks="attention", frames=4)
    assert (found["frames"], found["slots"]) == (9, 2)
    masks = sorted((tmp_path / "out" / "clip_masks").iterdir())
    assert [path.name for path in masks] == [f"{t:06d}.png" for t in range(9)]
    assert Image.open(masks[0]).size == (30, 20)
    lines = [json.loads(line) for line in (tmp_path / "out" / "clip_tracks.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(9))
    assert lines[3]["time"] == pytest.approx(0.3)
    for t, line in enumerate(lines):
        background, red = line["slots"]
        assert (background["slot"], red["slot"]) == (0, 1)
        assert np.abs(np.array(red["box"]) - [t, 5, t + 5, 10]).max() <= 3  # the model sees 16 x 16 pixels
        assert background["area"] + red["area"] == 600
        assert (np.asarray(Image.open(masks[t])) == 1).sum() == red["area"]
    coco = json.loads((tmp_path / "out" / "clip_tracks.json").read_text())
    [video] = coco["videos"]
    assert (video["file_name"], video["length"], video["width"], video["height"]) == ("clip.mp4", 9, 30, 20)
    assert video["file_names"] == [path.name for path in masks]
    assert [track["slot"] for track in coco["annotations"]] == [0, 1]
    for track in coco["annotations"]:
        for t, code in enumerate(track["segmentations"]):
            own = coco_mask.decode(code).astype(bool)
            assert np.array_equal(own, np.asarray(Image.open(masks[t])) == track["slot"])
            x0, y0, x1, y1 = next(one["box"] for one in lines[t]["slots"] if one["slot"] == track["slot"])
            assert track["bboxes"][t] == [x0, y0, x1 - x0, y1 - y0]
            assert track["areas"][t] == own.sum()
    assert Image.open(tmp_path / "out" / "clip_sheet.png").size == (4 * 332 + 6, 3 * 166 + 6)
    slots = np.load(tmp_path / "out" / "clip_slots.npy")
    assert slots.shape == (9, 2, 1)
    assert slots[:, 0, 0].tolist() == list(range(1, 10))  # the state went through the pieces
    again = module.open_video(tmp_path / "out" / "clip_overlay.mp4")
    shown = list(again.frames())
    assert len(shown) == 9
    assert again.fps == 10
    assert all(frame.min(-1).max() > 180 for frame in shown)  # white numbers; half of a colour is darker


def test_a_track_is_null_where_its_slot_owns_nothing(tmp_path):
    empty, some = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    some[1, 2:4] = 3
    with Tracks() as tracks, writing(tmp_path, doing="testing") as outputs:
        for labels in (empty, some, empty, some, empty):
            tracks.add(labels)
        tracks.write(outputs, "t.json", "clip.mp4")
    background, seen = json.loads((tmp_path / "t.json").read_text())["annotations"]
    assert background["areas"] == [24, 22, 24, 22, 24]
    assert seen["slot"] == 3
    assert seen["areas"] == [None, 2, None, 2, None]
    assert seen["bboxes"] == [None, [2, 1, 2, 1], None, [2, 1, 2, 1], None]
    assert [code is None for code in seen["segmentations"]] == [True, False, True, False, True]


@pytest.mark.parametrize(("frames", "shown"), [(1, 1), (24, 24), (25, 13), (48, 24), (1000, 16)])
def test_a_contact_sheet_has_few_frames_of_any_video(frames, shown):
    strip = Filmstrip()
    for t in range(frames):
        picture = np.full((4, 4, 3), t % 256, np.uint8)
        strip.add(picture, picture, {})
    values = [np.asarray(picture)[0, 0, 0] for picture, _ in strip.pairs]
    assert len(values) == shown
    assert values[0] == 0
    assert len({int(b) - int(a) for a, b in pairwise(values)} - {64 - 256}) <= 1


def test_methods_of_images_segment_videos_frame_by_frame(tmp_path):
    """As a telephone names them."""
    file = clip(tmp_path / "clip.mp4", 5).rename(tmp_path / "clip.3GP")
    [found] = segment_files(Columns(), [file], Outputs(tmp_path / "out"), image_size=(16, 16))
    assert (found["frames"], found["slots"]) == (5, 2)


def test_what_a_method_cannot_be_given(tmp_path):
    file = clip(tmp_path / "clip.mp4", 3)
    options = {"image_size": (16, 16), "masks": "attention"}
    for boxes in ([(0.1, 0.1, 1.2, 0.5)], [(0.5, 0.1, 0.5, 0.5)], [(0.5, 0.1, 0.6)]):
        with pytest.raises(UserError, match=r"is none inside the image; give x0,y0,x1,y1 from 0 to 1"):
            segment_video(Bright(), file, tmp_path / "out", boxes=boxes, **options)
    with pytest.raises(UserError, match="2 boxes were given, but of 2 slots"):
        segment_video(Bright(), file, tmp_path / "out", boxes=[(0.1, 0.1, 0.2, 0.2)] * 2, **options)
    with pytest.raises(UserError, match="Columns cannot be given boxes"):
        segment_video(Columns(), file, tmp_path / "out", boxes=[(0.1, 0.1, 0.2, 0.2)], **options)
    with pytest.raises(UserError, match="Columns cannot be given 5 slots"):
        segment_video(Columns(), file, tmp_path / "out", num_slots=5, **options)
