"""What objects show in a notebook: pictures to the pixel, numbers as papers print them, words escaped."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from slotworks import progress, show
from slotworks.configs import slot_attention
from slotworks.errors import UserError
from slotworks.evaluation.samples import BACKGROUND, PALETTE
from slotworks.html_text import picture, table
from slotworks.reports import Records

RECORD = {
    "data": "<script>alert(1)</script>",
    "split": "test",
    "protocol": "oclf",
    "num_images": 320,
    "metrics": {"fg_ari": {"mean": 0.9346, "sem": 0.0052, "n": 320}, "psnr": {"mean": 24.3123, "sem": None, "n": 320}},
}


def pictures_in(page: str) -> list[np.ndarray]:
    found = re.findall(r"data:image/png;base64,([^\"]+)\"", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in found]


def test_words_are_escaped_and_pictures_are_not():
    inside = picture(Image.new("RGB", (2, 1), "red"), about='<"name">')
    page = table([["<b>", inside]], head=["&"])
    assert "<th>&amp;</th>" in page
    assert ">&lt;b&gt;</td>" in page
    assert 'alt="&lt;&quot;name&quot;&gt;"' in page
    assert pictures_in(page)[0].tolist() == [[[255, 0, 0]] * 2]


def test_records_are_a_table_of_scores():
    page = Records([RECORD, {"data": "clevr", "metrics": {"ari": {"mean": float("nan"), "sem": 1.0}}}])._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert re.findall("<th>(.*?)</th>", page) == ["data", "split", "protocol", "images", "FG-ARI", "PSNR", "ARI"]
    assert "93.5 ± 0.5" in page
    assert ">24.312<" in page
    assert ">n/a<" in page


def test_what_evaluate_returns_shows_itself(tmp_path):
    from slotworks.api import evaluate, untrained
    from slotworks.configs import blocks

    run = blocks.scenes_mini()
    untrained(replace(run, data=replace(run.data, num_train=2, num_val=2, num_test=2)), tmp_path)
    records = evaluate(tmp_path, num_images=2)
    assert records[0]["num_images"] == 2
    assert "<td" in records._repr_html_()


def test_a_run_shows_its_settings():
    run = slot_attention.tetrominoes_mini()
    page = replace(run, expected="<i>", seed=63)._repr_html_()
    assert "<summary>SlotAttentionConfig</summary>" in page
    assert '>num_slots</td><td style="text-align: left">4</td>' in page
    assert '>seed</td><td style="text-align: left">63</td>' in page
    assert "&lt;i&gt;" in page


def test_a_batch_is_shown_with_its_masks():
    image = torch.tensor([[[[0.0, 1.0]], [[0.0, 0.5]], [[0.0, 0.0]]]])  # black and orange
    soft = torch.tensor([[[[0.9, 0.1]], [[0.1, 0.9]]]])
    shown = show({"image": image, "mask": torch.tensor([[[0, 2]]])}, masks=soft, recon=image)
    assert list(shown.rows) == ["image", "true masks", "slots", "rendered"]
    found = [one.tolist() for one in pictures_in(shown._repr_html_())]
    colours = [[[0, 0, 0], [255, 128, 0]], [list(BACKGROUND), PALETTE[1].tolist()], PALETTE[:2].tolist()]
    assert found == [[row] for row in [*colours, colours[0]]]
    assert [one.tolist() for one in pictures_in(show(image, masks=soft.argmax(1))._repr_html_())] == [
        found[0],
        found[2],
    ]
    for count, height in ((4, 160), (5, 96)):
        assert show(image.repeat(count, 1, 1, 1))._repr_html_().count(f'height="{height}"') == count


def test_a_video_is_shown_by_its_first_frame(tmp_path):
    video = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])[None]
    shown = show({"video": video, "mask": torch.zeros(1, 2, 4, 4, dtype=torch.int64)}, limit=1)
    assert np.asarray(shown.rows["image"][0]).max() == 0
    assert shown.sheet(cell=8).size == (16, 28)
    assert Image.open(shown.save(tmp_path / "sheet.png")).size == (104, 204)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (({"features": torch.zeros(1, 4, 4)}, None), "no pictures to show, only features"),
        ((torch.zeros(2, 3, 4, 4), torch.zeros(1, 2, 4, 4)), "There are 2 images, but masks of 1"),
        ((torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4)), r"\(1, 4, 4\) and type torch.float32 are no ids"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(given, said):
    with pytest.raises(UserError, match=said):
        show(given[0], masks=given[1])


@pytest.mark.parametrize(("widgets", "bars"), [(None, False), ("found", True)])
def test_a_notebook_has_bars_where_widgets_are_installed(widgets, bars, monkeypatch):
    monkeypatch.setattr(progress, "find_spec", lambda name: widgets)
    assert progress.has_bars(Console(force_jupyter=True)) is bars
    assert progress.has_bars(Console(force_terminal=False, force_jupyter=False)) is False
