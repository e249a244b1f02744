"""Pictures of samples: what is written, that colours match, that training is not disturbed."""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from slotworks.data.scenes import VideoScenes
from slotworks.evaluation.samples import (
    BACKGROUND,
    COLORS,
    MAX_SIDE,
    PALETTE,
    VOID,
    contact_sheet,
    number_places,
    numbered_overlay,
    principal_colors,
    write_samples,
)
from slotworks.methods import SteveConfig
from slotworks.types import DecoderOutput, Method, SlotOutput, UserError

HEIGHT, WIDTH = 8, 12


class Halves:
    """Image `i` is grey of value `i`; object 1 is the left third, object 2 the top right corner."""

    def __init__(self, *, mask=True, void=False):
        self.mask, self.void = mask, void

    def __len__(self):
        return 100

    def __getitems__(self, indices):
        image = np.empty((len(indices), HEIGHT, WIDTH, 3), np.uint8)
        image[:] = np.array(indices)[:, None, None, None]
        batch = {"image": image}
        if self.mask:
            batch["mask"] = np.zeros((len(indices), HEIGHT, WIDTH), np.int64)
            batch["mask"][:, :, :4] = 1
            batch["mask"][:, :3, 8:] = 2
        if self.void:
            batch["void"] = np.zeros((len(indices), HEIGHT, WIDTH), bool)
            batch["void"][:, 0, 0] = True
        return batch


class Cuts(Method):
    """Slot 0 owns the right two thirds, slot 1 the left one, slot 2 nothing."""

    def encode(self, image):
        self.training_seen = self.training
        self.drawn = torch.rand(())
        self.masks = torch.zeros(len(image), 3, HEIGHT, WIDTH)
        self.masks[:, 0, :, 4:] = 1
        self.masks[:, 1, :, :4] = 1
        steps = tuple(torch.full((len(image), 3, HEIGHT * WIDTH), value) for value in (0.2, 0.4))
        return SlotOutput(torch.zeros(len(image), 3, 2), self.masks.flatten(2), steps, grid=(HEIGHT, WIDTH))


class CutsAndRenders(Cuts):
    channels = 3

    def decode(self, slots):
        parts = torch.full((len(slots), 3, self.channels, HEIGHT, WIDTH), 0.5)
        parts[:, 1] = 1.5  # beyond white
        return DecoderOutput((self.masks[:, :, None] * parts).sum(1), self.masks, parts)


class CutsWithGrid(Cuts):
    def encode(self, image):
        steps = tuple(torch.full((len(image), 3, 6), value) for value in (0.2, 0.4))
        return SlotOutput(torch.zeros(len(image), 3, 2), torch.ones(len(image), 3, 6) / 3, steps, grid=(2, 3))


def pixels(folder, name):
    return np.array(Image.open(folder / "samples" / name))


def test_everything_the_page_needs_is_written(tmp_path):
    path = write_samples(
        CutsAndRenders(), Halves(), tmp_path, indices=range(7, 9), step=1200, scores={8: {"fg_ari": 0.25}}
    )
    assert path == tmp_path / "samples" / "index.json"
    index = json.loads(path.read_text())
    assert index["step"] == 1200
    first, second = index["rows"]
    assert (first["index"], first["scores"], second["index"], second["scores"]) == (7, {}, 8, {"fg_ari": 0.25})
    assert first["input"] == "step_0001200/000007_input.png"
    assert [len(first[key]) for key in ("parts", "masks", "attn_steps", "colors")] == [3, 3, 2, 3]
    assert [len(step) for step in first["attn_steps"]] == [3, 3]
    names = [first[key] for key in ("input", "truth", "segmentation", "recon")]
    names += [*first["parts"], *first["masks"], *first["attn_steps"][0], *first["attn_steps"][1]]
    assert len(set(names)) == 4 + 3 + 3 + 6
    assert all((tmp_path / "samples" / name).is_file() for name in names)
    assert sorted(file.name for file in (tmp_path / "samples").iterdir()) == [
        "index.json",
        "step_0001200",
        "step_0001200.png",
    ]


def test_pictures_show_the_right_pixels(tmp_path):
    write_samples(CutsAndRenders(), Halves(void=True), tmp_path, indices=[90], step=0)
    assert (pixels(tmp_path, "step_0000000/000090_input.png") == 90).all()
    recon = pixels(tmp_path, "step_0000000/000090_recon.png")
    assert (recon[:, :4] == 255).all()
    assert (recon[:, 4:] == 128).all()
    part = pixels(tmp_path, "step_0000000/000090_parts_1.png")  # colour and, as opacity, the mask
    assert part.shape == (HEIGHT, WIDTH, 4)
    assert (part[..., :3] == 255).all()
    assert (part[:, :4, 3] == 255).all()
    assert (part[:, 4:, 3] == 0).all()
    mask = pixels(tmp_path, "step_0000000/000090_masks_0.png")
    assert (mask[:, :4] == 0).all()
    assert (mask[:, 4:] == 255).all()
    truth = pixels(tmp_path, "step_0000000/000090_truth.png")
    assert truth[0, 0].tolist() == list(VOID)
    assert truth[1, 0].tolist() == list(COLORS[0])
    assert truth[0, 11].tolist() == list(COLORS[1])
    assert truth[7, 11].tolist() == list(BACKGROUND)


def test_slots_take_the_colour_of_what_they_fit(tmp_path):
    path = write_samples(CutsAndRenders(), Halves(), tmp_path, indices=[0], step=0)
    segmentation = pixels(tmp_path, "step_0000000/000000_segmentation.png")
    assert segmentation[0, 0].tolist() == list(COLORS[0])  # slot 1 is object 1
    assert segmentation[7, 11].tolist() == list(BACKGROUND)  # slot 0 is the background
    colors = json.loads(path.read_text())["rows"][0]["colors"]
    assert colors == ["#464646", "#e69f00", "#009e73"]  # the empty slot takes a colour no true object has


def test_without_masks_or_decoder(tmp_path):
    path = write_samples(CutsWithGrid(), Halves(mask=False), tmp_path, indices=[3], step=0)
    [row] = json.loads(path.read_text())["rows"]
    assert set(row) == {"index", "scores", "colors", "input", "overlay", "segmentation", "masks", "attn_steps"}
    assert pixels(tmp_path, row["masks"][0]).shape == (2, 3)
    assert (pixels(tmp_path, row["masks"][0]) == 85).all()
    assert (pixels(tmp_path, row["attn_steps"][1][2]) == 102).all()
    assert pixels(tmp_path, row["segmentation"]).shape == (HEIGHT, WIDTH, 3)


class CutsAndGenerates(Cuts):
    """Grey as the first number of its slots says, and redder with every step."""

    sampling: ClassVar[dict] = {"steps": 250, "cfg_scale": 2.0}
    calls: ClassVar[list] = []

    def encode(self, image):
        out = super().encode(image)
        return replace(out, slots=image.mean((1, 2, 3))[:, None, None].expand(-1, 3, 2))

    def sample(self, slots, *, steps, cfg_scale, generator):
        self.calls.append((len(slots), steps, cfg_scale))
        image = slots[:, 0, 0, None, None, None].expand(-1, 3, 4, 6).clone()
        image[:, 0] += steps / 100
        return image


def test_a_few_images_are_generated_from_their_slots(tmp_path):
    """Four of eight, evenly chosen, in ten steps; a row's picture is that of its own slots."""
    state = torch.get_rng_state()
    path = write_samples(CutsAndGenerates(), Halves(), tmp_path, indices=range(8), step=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert CutsAndGenerates.calls == [(4, 10, 2.0)]
    rows = json.loads(path.read_text())["rows"]
    assert [row["index"] for row in rows if "sample" in row] == [0, 2, 5, 7]
    assert "recon" not in rows[0]
    picture = pixels(tmp_path, rows[5]["sample"])
    assert picture.shape == (4, 6, 3)
    assert picture[0, 0].tolist() == [5 + round(25.5), 5, 5]
    sheet = Image.open(tmp_path / "samples" / "step_0000005.png")
    assert sheet.size == ((3 + 3 + 1) * 100 + 4, 8 * 100 + 4)  # three pictures, three slots, the generated one


class NotHere(CutsAndGenerates):
    def sample(self, slots, *, steps, cfg_scale, generator):
        raise UserError("The weights of the autoencoder are not here.")


def test_a_generator_without_its_weights_shows_no_pictures(tmp_path):
    path = write_samples(NotHere(), Halves(), tmp_path, indices=range(2), step=0)
    assert not any("sample" in row for row in json.loads(path.read_text())["rows"])


def test_filmstrips_are_generated_with_all_their_frames(tmp_path):
    config = SteveConfig(
        image_size=16, vocab_size=6, dvae_channels=4, cnn_channels=4, num_slots=2, slot_dim=8, mlp_dim=8, model_dim=8,
        decoder_blocks=1, decoder_heads=1, initializer="learned",
    )  # fmt: skip
    torch.manual_seed(0)
    method = config.build().eval()
    data = VideoScenes(image_size=16, num_test=3, num_frames=4, sizes=(0.4,), max_objects=2).open("test")
    path = write_samples(method, data, tmp_path, indices=range(3), step=0)
    rows = json.loads(path.read_text())["rows"]
    assert [row["index"] for row in rows if "sample" in row] == [0, 2]
    strip = Image.open(path.parent / rows[2]["sample"])
    assert strip.size == (4 * 16 + 3 * 2, 16)
    video = torch.from_numpy(data.__getitems__([2])["video"]).movedim(-1, -3).float() / 255
    with torch.no_grad():
        last = method.sample(method.encode(video).slots)[0, 3]
    torch.testing.assert_close(
        torch.from_numpy(np.array(strip)[:, -16:]).movedim(-1, 0) / 255, last, atol=0.5 / 255 + 1e-4, rtol=0
    )


def test_features_are_shown_by_their_components(tmp_path):
    """Two values everywhere: the first component tells them apart, the others do not vary."""
    method = CutsAndRenders()
    method.channels = 5
    [row] = json.loads(write_samples(method, Halves(), tmp_path, indices=[3], step=0).read_text())["rows"]
    assert "parts" not in row
    assert len(row["masks"]) == 3
    recon = pixels(tmp_path, row["recon"])
    assert (recon[:, :4, 0] == 255).all()  # 1.5 in all channels
    assert (recon[:, 4:, 0] == 0).all()  # 0.5
    assert (recon[..., 1:] == 128).all()


def test_principal_colors_are_the_components():
    """Features that vary most along one axis, less along a second, least along a third."""
    ramp = torch.linspace(-1, 1, 4)
    features = torch.zeros(6, 4, 4)
    features[4], features[1] = 3 * ramp[:, None], 2 * ramp
    features[2] = torch.tensor([[1.0, -1], [-1, 1]]).repeat(2, 2) * 0.1
    red, green, blue = principal_colors(features)
    torch.testing.assert_close(red, ((ramp + 1) / 2)[:, None].expand(4, 4), atol=0.05, rtol=0)
    torch.testing.assert_close(green, ((ramp + 1) / 2).expand(4, 4), atol=0.05, rtol=0)
    assert blue.min() == 0
    assert blue.max() == 1
    assert (principal_colors(torch.ones(7, 2, 2)) == 0.5).all()
    assert principal_colors(torch.rand(2, 3, 5)).shape == (3, 3, 5)


def test_methods_that_render_only_together(tmp_path):
    """No parts, features in place of images, masks on a grid of patches: the truth is larger than all of them."""

    class Together(Cuts):
        def decode(self, slots):
            return DecoderOutput(torch.rand(len(slots), 7, 2, 3), self.masks[:, :, ::4, ::4])

    class Fine(Halves):
        def __getitems__(self, indices):
            batch = super().__getitems__(indices)
            batch["mask"] = batch["mask"].repeat(4, 1).repeat(4, 2)
            return batch

    path = write_samples(Together(), Fine(), tmp_path, indices=[3], step=0)
    [row] = json.loads(path.read_text())["rows"]
    assert "parts" not in row
    assert pixels(tmp_path, row["recon"]).shape == (2, 3, 3)
    truth, predicted = pixels(tmp_path, row["truth"]), pixels(tmp_path, row["segmentation"])
    assert truth.shape == predicted.shape == (4 * HEIGHT, 4 * WIDTH, 3)
    assert (truth[:, :12] == COLORS[0]).all()
    assert (predicted[:, :12] == COLORS[0]).all()
    assert (predicted[:, 20:] == BACKGROUND).all()


def test_later_steps_replace_the_pictures_and_keep_the_sheets(tmp_path):
    for step in (100, 200):
        write_samples(CutsAndRenders(), Halves(), tmp_path, indices=[0, 1], step=step)
    assert sorted(file.name for file in (tmp_path / "samples").iterdir()) == [
        "index.json",
        "step_0000100.png",
        "step_0000200",
        "step_0000200.png",
    ]


def test_training_is_not_disturbed_and_slots_repeat(tmp_path):
    method = CutsAndRenders().train()
    before = torch.get_rng_state()
    drawn = []
    for step in range(2):
        write_samples(method, Halves(), tmp_path, indices=[0], step=step)
        drawn.append(method.drawn)
    assert torch.equal(torch.get_rng_state(), before)
    assert method.training
    assert not method.training_seen
    assert drawn[0] == drawn[1]


def test_nan_does_not_stop_it(tmp_path):
    method = CutsAndRenders()
    real = method.decode
    method.decode = lambda slots: DecoderOutput(*(value * torch.nan for value in vars(real(slots)).values()))
    write_samples(method, Halves(), tmp_path, indices=[0], step=0)
    assert (pixels(tmp_path, "step_0000000/000000_recon.png") == 0).all()


def test_large_images_are_stored_small(tmp_path):
    class Large(Halves):
        def __getitems__(self, indices):
            return {"image": np.zeros((len(indices), 300, 600, 3), np.uint8)}

    [row] = json.loads(write_samples(Cuts(), Large(), tmp_path, indices=[0], step=0).read_text())["rows"]
    assert pixels(tmp_path, row["input"]).shape == (MAX_SIDE // 2, MAX_SIDE, 3)
    assert pixels(tmp_path, row["segmentation"]).shape == (MAX_SIDE // 2, MAX_SIDE, 3)


def test_the_number_of_a_segment_stands_where_it_is_widest():
    """Black under the colours of two segments: half of each colour, but where white numbers stand."""
    labels = np.zeros((40, 60), np.int64)
    labels[:, 40:] = 1
    labels[0, 0] = 2  # a speck of one in 2,400
    drawn = np.asarray(numbered_overlay(Image.new("RGB", (24, 16)), labels, COLORS[:3], side=240)).astype(int)
    assert drawn.shape == (160, 240, 3)
    assert drawn[100, 5].tolist() == [value // 2 for value in COLORS[0]]
    assert drawn[100, 235].tolist() == [value // 2 for value in COLORS[1]]
    assert drawn[1, 1].tolist() == [value // 2 for value in COLORS[2]]
    white = np.argwhere((drawn > 250).all(-1))
    left, right = white[white[:, 1] < 160], white[white[:, 1] >= 160]
    assert 60 < left.mean(0)[1] < 100
    assert right.mean(0)[1] == pytest.approx(200, abs=6)


def test_the_number_of_a_moving_segment_stays_in_it_and_moves_no_further_than_it_has_to():
    """A bar of 20 x 40 pixels that glides by 3 each frame: its number stays where it is while that is wide enough."""
    places: dict[int, tuple[float, float]] = {}
    columns = []
    for t in range(10):
        labels = np.zeros((40, 80), np.uint8)
        labels[10:30, 3 * t : 3 * t + 40] = 3
        places = number_places(labels, places)
        column, row = places[3]
        columns.append(80 * column)
        assert labels[int(40 * row), int(80 * column)] == 3
        free = number_places(labels)[3][0]
        assert abs(80 * free - 3 * t - 20) <= 10.5  # where it is widest, whatever was before
    steps = np.diff(columns)
    assert (steps >= 0).all()
    assert steps.max() <= 3
    assert steps[0] == 0
    assert number_places(np.zeros((4, 4), np.uint8), {7: (0.5, 0.5)}).keys() == {0}


def test_contact_sheet():
    red, clear = Image.new("RGB", (2, 1), "red"), Image.new("RGBA", (4, 4), (0, 0, 255, 0))
    sheet = np.array(contact_sheet([[red, clear], [red]], cell=10, gap=2))
    assert sheet.shape == (2 * 12 + 2, 2 * 12 + 2, 3)
    assert (sheet[2:7, 2:12] == [255, 0, 0]).all()  # twice as wide as high
    assert (sheet[7:12, 2:12] == 255).all()
    assert (sheet[2:12, 14:24] == 255).all()  # see-through shows the paper
    assert (sheet[14:19, 2:12] == [255, 0, 0]).all()
    assert contact_sheet([]).size == (4, 4)


def test_palette_has_no_two_equal_colours():
    assert PALETTE.shape == (64, 3)
    assert PALETTE.dtype == np.uint8
    assert len({BACKGROUND, VOID, *map(tuple, PALETTE.tolist())}) == 66


@pytest.mark.parametrize("first", range(8))
def test_first_colours_can_be_told_apart(first):
    near = np.abs(PALETTE[:13].astype(int) - PALETTE[first]).sum(1)
    assert np.sort(near)[1] > 60
