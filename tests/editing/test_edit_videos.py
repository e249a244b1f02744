"""Editing with methods of videos: a picture as a video of one frame, and video files."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_recipes import SAVI

from slotworks import api
from slotworks.cli import main
from slotworks.data.scenes import VideoScenes
from slotworks.decoders import DenoiserConfig
from slotworks.editing import edit_picture, edit_video, remove, render_edit, slot_at, take_apart, videos
from slotworks.evaluation.segment import segment_images
from slotworks.evaluation.segment_video import resized
from slotworks.methods import SlotAttentionConfig, SteveConfig, VideoSlotDiffusionConfig
from slotworks.training import Adam, Run
from slotworks.types import DecoderOutput, SlotOutput, UserError, VideoMethod
from slotworks.videos import VideoWriter, open_video

pytest.importorskip("av")

CONFIGS = {
    "savi": SAVI,
    "steve": SteveConfig(
        image_size=16,
        vocab_size=12,
        dvae_channels=4,
        cnn_channels=4,
        num_slots=3,
        slot_dim=8,
        mlp_dim=8,
        model_dim=8,
        decoder_blocks=1,
        decoder_heads=2,
    ),
    "slot_diffusion": VideoSlotDiffusionConfig(
        image_size=16,
        resnet_width=32,
        resnet_strides=(2, 1),
        num_slots=3,
        slot_dim=8,
        mlp_dim=16,
        predictor_dim=8,
        denoiser=DenoiserConfig(dims=(8, 16), layers=1, head_dim=8, norm_groups=4, dropout=0.0),
        autoencoder=None,
    ),
}


def build(name, **changed):
    """Random weights, larger than fresh ones: fresh last layers are zero, and slots would show nothing."""
    torch.manual_seed(0)
    method = replace(CONFIGS[name], **changed).build()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    pixels = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
    Image.fromarray(pixels).save(path)
    Image.fromarray(pixels[::-1]).save(path.with_name("b.png"))
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_picture_is_a_video_of_one_frame(name):
    method, image = build(name), torch.rand(3, 16, 16)
    scene = take_apart(method, image, seed=4)
    torch.manual_seed(4)
    method.eval()
    with torch.no_grad():
        out = method.encode(image[None, None])
        torch.testing.assert_close(scene.slots, out.slots[0, 0])
        edit = render_edit(
            method, scene, remove(scene.slots[None], 1)[0], steps=2 if name == "slot_diffusion" else None
        )
        assert edit.recon.shape == edit.edited.shape == (1, 3, 16, 16)
        assert (edit.recon - edit.edited).abs().max() > 1e-4
        if name == "savi":
            torch.testing.assert_close(edit.recon[0], method.decode(out.slots).recon[0, 0].clamp(0, 1))
            kept = method.decode(out.slots[:, :, [0, 2]])
            torch.testing.assert_close(edit.edited[0], kept.recon[0, 0].clamp(0, 1))
            torch.testing.assert_close(edit.edited_masks, kept.masks[0, 0])
        elif name == "steve":
            torch.testing.assert_close(edit.edited[0], method.sample(out.slots[0, :, [0, 2]])[0])
        else:
            noise = torch.Generator().manual_seed(0)
            torch.testing.assert_close(edit.recon[0], method.sample(out.slots, steps=2, generator=noise)[0, 0])
    assert method.training is False


@pytest.mark.parametrize("name", CONFIGS)
def test_picture_files(name, picture, tmp_path):
    """All edits, the numbers of `segment`, and what was written."""
    method, options = build(name), {"image_size": (16, 16)}
    options |= {"steps": 2} if name == "slot_diffusion" else {}
    [segments] = segment_images(method, [picture], tmp_path / "segments", image_size=(16, 16))
    labels = np.asarray(Image.open(segments["written"][0]))
    [removed] = edit_picture(method, picture, tmp_path / "removed", remove_at=[(59, 49)], **options)
    assert removed["edit"] == f"removed slot {labels[49, 59]} (drop)"
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "removed" / "a_mask.png")), labels)
    assert Image.open(tmp_path / "removed" / "a_edited.png").size == (16, 16)
    expected = {"savi": set(), "steve": {"noise_seeds"}, "slot_diffusion": {"noise_seeds", "steps", "cfg_scale"}}
    common = {"file", "edit", "written", "slots", "edited_slots", "visible", "renderer", "seed"}
    assert removed.keys() == common | expected[name]
    other = picture.with_name("b.png")
    [added] = edit_picture(method, picture, tmp_path / "added", add_slots=[(other, 0)], **options)
    assert added["edited_slots"] == 4
    swapped = edit_picture(method, picture, tmp_path / "swapped", swap_slots=(0, other, 2), **options)
    assert [one["file"] for one in swapped] == [str(picture), str(other)]


def test_slots_that_start_from_boxes(picture, tmp_path):
    """Without boxes there is nothing to start from; with two, slot 0 is the background's."""
    method = build("savi", initializer="boxes")
    with pytest.raises(UserError, match="boxes of the objects in the first frame, and none were given"):
        edit_picture(method, picture, tmp_path, image_size=(16, 16), remove_slots=[1])
    boxes = [(0.1, 0.1, 0.4, 0.5), (0.5, 0.5, 0.9, 0.9)]
    [answer] = edit_picture(method, picture, tmp_path, image_size=(16, 16), remove_slots=[1], boxes=boxes)
    assert answer["slots"] == 3
    scene = take_apart(method, torch.rand(3, 16, 16), boxes=boxes)
    other = take_apart(method, torch.rand(3, 16, 16), boxes=boxes[::-1])
    assert scene.slots.shape == other.slots.shape == (3, 8)
    with pytest.raises(UserError, match="Steve cannot be given boxes"):
        take_apart(build("steve"), torch.rand(3, 16, 16), boxes=boxes)
    with pytest.raises(UserError, match="VideoSlotDiffusion cannot be given 4 slots"):
        take_apart(build("slot_diffusion"), torch.rand(3, 16, 16), num_slots=4)


# ---- video files -----------------------------------------------------------------------------------------------------


def clip(path, frames=9, size=(20, 30)):
    with VideoWriter(path, Fraction(10), size) as writer:
        for t in range(frames):
            picture = np.full((*size, 3), 40, np.uint8)
            picture[5:15, 2 * t : 2 * t + 10] = (220, 60, 60)
            writer.write(picture)
    return path


class Halves(VideoMethod):
    """Slot `k` paints its half of the frame in a grey that grows with the frames seen; the state carries the count."""

    def __init__(self):
        super().__init__()
        self.longest = 0

    def encode(self, video, *, state=None, num_slots=2):
        b, t = video.shape[:2]
        self.longest = max(self.longest, t)
        start = 0.0 if state is None else float(state[0, 0, 1])
        count = (start + 1 + torch.arange(t)).reshape(1, t, 1).expand(b, t, num_slots)
        slots = torch.stack([torch.arange(num_slots).expand(b, t, -1), count], dim=-1)
        return SlotOutput(slots, self.masks(slots).flatten(3), grid=(16, 16), state=slots[:, -1])

    @staticmethod
    def masks(slots):
        owner = torch.arange(16).expand(16, 16) // 8
        own = (slots[..., 0, None, None] == owner).float() + 1e-6
        return own / own.sum(dim=2, keepdim=True)

    def decode(self, slots):
        masks, grey = self.masks(slots), slots[..., 1, None, None] / 20 + 0.5 * slots[..., 0, None, None]
        return DecoderOutput((masks * grey).sum(dim=2)[:, :, None].expand(-1, -1, 3, -1, -1), masks)


def frames_of(path):
    return np.stack(list(open_video(path).frames())).astype(float)


def test_slots_are_taken_out_of_every_frame(tmp_path):
    """What is left fills the frame; states go from piece to piece, and no piece is longer than asked for."""
    file, method = clip(tmp_path / "clip.mp4"), Halves()
    found = edit_video(method, file, tmp_path / "out", image_size=(16, 16), remove_at=[(29, 0)], frames=4)
    assert (found["edit"], found["frames"], found["slots"], found["edited_slots"]) == ("removed slot 1 (drop)", 9, 2, 1)
    names = [f"clip_{kind}" for kind in ("original.mp4", "recon.mp4", "edited.mp4", "sheet.png")]
    assert found["written"] == [str(tmp_path / "out" / name) for name in names]
    original, recon, edited = (frames_of(tmp_path / "out" / name) for name in names[:3])
    assert original.shape == recon.shape == edited.shape == (9, 16, 16, 3)
    assert open_video(tmp_path / "out" / names[2]).fps == 10
    grey = 255 * np.arange(1, 10) / 20
    np.testing.assert_allclose(recon[:, :, 1:7].mean((1, 2, 3)), grey, atol=3)
    np.testing.assert_allclose(recon[:, :, 9:15].mean((1, 2, 3)), grey + 127.5, atol=3)
    np.testing.assert_allclose(edited.mean((1, 2, 3)), grey, atol=3)
    assert method.longest == 4
    assert Image.open(tmp_path / "out" / "clip_sheet.png").size == (4 * 132 + 4, 3 * 132 + 4)  # the first four frames


def test_what_is_left_may_be_zero(tmp_path):
    file = clip(tmp_path / "clip.mp4", 2)
    found = edit_video(Halves(), file, tmp_path, image_size=(16, 16), remove_slots=[0, 1], how="zero")
    assert (found["slots"], found["edited_slots"]) == (2, 2)
    assert frames_of(tmp_path / "clip_edited.mp4").max() < 5


@pytest.mark.parametrize("name", CONFIGS)
def test_every_method_of_videos(name, tmp_path, monkeypatch):
    """The edited video is what the method renders of the slots that are left, also where pieces meet."""
    method, file, sampled = build(name), clip(tmp_path / "clip.mp4", 3), []
    options = {"steps": 2} if name == "slot_diffusion" else {}
    if name != "savi":  # words change with the last bits of slots: what was sampled is kept, not computed once more
        sample = method.sample
        method.sample = lambda slots, **given: sampled.append((slots, sample(slots, **given))) or sampled[-1][1]
    written: dict[str, list[np.ndarray]] = {}  # before the codec, which is lossy

    class Recorder(VideoWriter):
        def __init__(self, path, *rest):
            super().__init__(path, *rest)
            self.frames = written.setdefault(Path(path).name, [])

        def write(self, frame):
            self.frames.append(np.array(frame))
            super().write(frame)

    monkeypatch.setattr(videos, "VideoWriter", Recorder)
    found = edit_video(method, file, tmp_path, image_size=(16, 16), remove_slots=[1], frames=2, **options)
    assert (found["frames"], found["slots"], found["edited_slots"]) == (3, 3, 2)
    small = [resized(frame, (16, 16)) for frame in open_video(file).frames()]
    video = torch.from_numpy(np.stack(small)).movedim(-1, 1)[None].float() / 255
    torch.manual_seed(0)
    with torch.no_grad():
        whole = method.eval().encode(video).slots
        torch.manual_seed(0)
        first = method.encode(video[:, :2])
        pieces = [first.slots, method.encode(video[:, 2:], state=first.state).slots]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)
        if name == "savi":
            expected = method.decode(whole[:, :, [0, 2]]).recon
        else:
            edited = [(slots, images) for slots, images in sampled if slots.shape[2] == 2]
            left = torch.cat([slots for slots, _ in edited], dim=1)
            torch.testing.assert_close(left, whole[:, :, [0, 2]], atol=1e-5, rtol=1e-5)
            expected = torch.cat([images for _, images in edited], dim=1)
            for slots, images in edited if name == "slot_diffusion" else ():  # each piece from the same noise
                again = sample(slots, generator=torch.Generator().manual_seed(0), **options)
                torch.testing.assert_close(images, again, atol=1e-4, rtol=0)
    expected = (expected[0].clamp(0, 1) * 255).round().byte().movedim(1, -1).numpy()
    [edited_frames] = [frames for file_name, frames in written.items() if "edited" in file_name]
    np.testing.assert_allclose(np.stack(edited_frames), expected, atol=1)
    assert frames_of(tmp_path / "clip_edited.mp4").shape == expected.shape


def test_mistakes_write_nothing(tmp_path):
    file, out = clip(tmp_path / "clip.mp4", 2), tmp_path / "out"
    options = {"image_size": (16, 16)}
    for changed, sentence in (
        ({}, "Say which slots to take out of the video"),
        ({"remove_slots": [2]}, "There is no slot 2: the picture has 2 slots"),
        ({"remove_slots": [0, 1]}, "All 2 slots would be removed"),
        ({"remove_at": [(30, 0)]}, "The pixel 30,0 lies outside the picture of 30 x 20 pixels"),
        ({"remove_slots": [0], "boxes": [(0.1, 0.1, 0.2, 0.2)]}, "Halves cannot be given boxes"),
    ):
        with pytest.raises(UserError, match=sentence):
            edit_video(Halves(), file, out, **options, **changed)
    images = SlotAttentionConfig(image_size=(16, 16)).build()
    with pytest.raises(UserError, match="SlotAttentionAutoencoder takes pictures, and a slot of one frame may be"):
        edit_video(images, file, out, **options, remove_slots=[0])
    with pytest.raises(UserError, match="cannot be read as a video"):
        edit_video(Halves(), __file__, out, **options, remove_slots=[0])
    assert not out.exists()


def test_from_the_command_line(tmp_path, picture, monkeypatch, capsys):
    """A run of one step on drawn videos: a picture, a video, and what a video cannot be asked for."""
    scenes = {"image_size": 16, "sizes": (0.4,), "max_objects": 2, "clip_length": 2, "num_frames": 3}
    data = VideoScenes(**scenes, num_train=2, num_val=2, num_test=2)
    run = Run(SAVI, data, steps=1, batch_size=2, eval_images=2, optimizer=Adam(lr=1e-3), tensorboard=False)
    api.train(run, tmp_path / "run", finish=False)
    clip(tmp_path / "clip.mp4", 4)
    monkeypatch.chdir(tmp_path)
    assert main(["edit", "run", str(picture), "--remove", "1", "--how", "mean"]) == 0
    assert capsys.readouterr().out.strip().endswith("removed slot 1 (mean); 3 slots before, 3 now; edits/a_sheet.png")
    assert main("edit run clip.mp4 --remove 0 2".split()) == 0
    assert capsys.readouterr().out.strip() == (
        "clip.mp4: removed slots 0, 2 (drop); 3 slots before, 1 now; edits/clip_sheet.png"
    )
    for words, sentence in {
        "--add clip.mp4:0": "Slots can only be taken out of a video",
        "--remove 0 --noise-seeds 0 1": "2 noise seeds were given; a video is rendered once, give one",
        "--remove 0 --boxes 0.1,0.1,0.5,0.5": "takes no boxes; leave them out",
        "--remove 0 --boxes 0.1,0.1,x": "is not four numbers",
        "": "Say which slots to take out",
    }.items():
        assert main(["edit", "run", "clip.mp4", *words.split()]) == 2
        assert sentence in capsys.readouterr().err


def test_pixels_and_numbers_mean_the_same(picture):
    """`slot_at` of a picture counts in its own pixels."""
    method = build("savi")
    scene = take_apart(method, torch.rand(3, 16, 16))
    assert slot_at(scene, 59, 49, (50, 60)) == int(scene.masks[:, -1, -1].argmax())
