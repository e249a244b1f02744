"""Metrics against the length of videos: from the files of `eval/` to lines."""

import json

import numpy as np
import pytest
from PIL import Image

from slotworks.reports import write_lengths, write_report
from slotworks.reports.charts import as_svg, chart
from slotworks.reports.lengths import length_charts, length_of, lines_of, series_by_length


def record(protocol, fg_ari, **more):
    metrics = {"fg_ari": {"mean": fg_ari, "sem": 0.01, "n": 4}, "mbo_i": {"mean": 0.5, "sem": 0.01, "n": 4}}
    return {"data": "movi_e", "split": "test", "protocol": protocol, "metrics": metrics} | more


RECORDS = [
    record("savi@12", 0.5),
    record("savi@1", 1.0),
    record("savi@24", None),
    record("savi", 0.3),
    record("slot-diffusion@6[attention]", 0.7),
    record("savi-frames@6", 0.8),
    record("savi-frames@24", 0.75),
    record("savi@6", 0.9, data="movi_d"),
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "eval").mkdir()
    for i, one in enumerate(RECORDS):
        (tmp_path / "eval" / f"{i}.json").write_text(json.dumps(one))
    (tmp_path / "eval" / "broken.json").write_text("{")
    return tmp_path


def test_protocols_and_lengths():
    assert length_of({"protocol": "savi@12"}) == ("savi", 12)
    assert length_of({"protocol": "savi@6[attention]"}) == ("savi[attention]", 6)
    assert [length_of(one) for one in ({"protocol": "savi"}, {"protocol": {"fg_ari": "savi"}}, {})] == [None] * 3


def test_what_was_measured_at_several_lengths_is_a_line():
    """One length alone is none; whole videos under the plain name are not among them."""
    assert series_by_length(RECORDS) == {
        "movi_e, test split": {
            "fg_ari": {"savi": {12: 0.5, 1: 1.0, 24: None}, "savi-frames": {6: 0.8, 24: 0.75}},
            "mbo_i": {"savi": {12: 0.5, 1: 0.5, 24: 0.5}, "savi-frames": {6: 0.5, 24: 0.5}},
        }
    }


def test_lengths_that_were_measured_in_different_ways_are_lines_of_their_own():
    """Eight videos do not take the places of 64 in a line."""
    way = {"seed": 0, "checkpoint": "checkpoints/last.safetensors", "settings": {"step": 900}}
    many = [record(f"savi@{n}", 0.9 - n / 100, num_images=64, **way) for n in (1, 6)]
    few = [record(f"savi@{n}", 0.4 - n / 100, num_images=8, **way) for n in (1, 6)]
    lines = series_by_length([*many, *few])["movi_e, test split"]["fg_ari"]
    assert lines == {
        "savi (64 videos, seed 0, step 900, no. 1)": {1: 0.89, 6: pytest.approx(0.84)},
        "savi (8 videos, seed 0, step 900, no. 2)": {1: 0.39, 6: pytest.approx(0.34)},
    }
    assert lines_of([*many, record("savi", 0.1)]) == [
        ("movi_e, test split", "savi", 1),
        ("movi_e, test split", "savi", 6),
        None,
    ]


def test_lines_run_from_short_to_long():
    [charts] = length_charts(series_by_length(RECORDS)).values()
    assert [one.title for one in charts] == ["FG-ARI", "mBO_i"]
    first, second = charts[0].lines
    assert first.points == [(1.0, 100.0), (12.0, 50.0), (24.0, None)]
    assert (first.last, second.last) == ("50", "75")
    assert "savi-frames: 80 at frames 6" in as_svg(charts[0])
    assert charts[0].summary == "FG-ARI by frames. savi ends at 50; savi-frames ends at 75"


def test_the_picture_shows_the_points(run):
    [path] = write_lengths(run)
    assert path == run / "eval" / "lengths-movi_e-test.png"
    drawn = np.asarray(Image.open(path).convert("RGB")).astype(int)
    left, right = drawn[:, : drawn.shape[1] // 2], drawn[:, drawn.shape[1] // 2 :]
    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):  # savi and savi-frames, in both charts
        assert min((np.abs(half - color).sum(-1) < 9).sum() for half in (left, right)) > 100
    assert write_lengths(run.parent / "nothing") == []


def test_the_report_shows_lines_in_place_of_tables(run):
    page = write_report(run).read_text()
    assert "Scores against the length of videos" in page
    assert page.count("by frames.") == 2
    assert ">frames</text>" in page
    titles = [f"<h4>{i}</h4>" in page for i in range(len(RECORDS))]
    assert titles == [False, False, False, True, True, False, False, True]  # 3: whole videos, 4 and 7: one length


def test_a_chart_of_steps_says_so():
    drawn = chart("loss", {"a": [(0.0, 1.0), (10.0, None), (20.0, 2.0)]})
    assert drawn.summary.startswith("loss by training step. ")
