"""Runs side by side: means and spreads over seeds, differences and their intervals, in closed form."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slotworks.cli import main
from slotworks.errors import UserError
from slotworks.files import seed_folders
from slotworks.reports.compare import compare, paired_bootstrap, per_image, picture
from slotworks.reports.seeds import read_entry

SCENES = {"kind": "TetrominoScenes", "num_train": 60_000, "num_val": 320, "num_test": 320, "seed": 0}


def write(folder: Path, values, *, name="oclf", metric="fg_ari", mean=None, data=SCENES, **changed) -> Path:
    """A run folder with one record."""
    values = np.asarray(values, dtype=float)
    summary = {"mean": float(np.nanmean(values)) if mean is None else mean, "sem": 0.0, "n": len(values)}
    record = {
        "data": "tetromino_scenes",
        "split": "test",
        "protocol": name,
        "rules": "rules of oclf",
        "num_images": len(values),
        "checkpoint": "checkpoints/last.safetensors",
        "seed": 0,
        "metrics": {metric: summary},
        "per_image": {metric: [None if np.isnan(value) else value for value in values]},
        "settings": {"step": 1, "batch_size": 64, "options": {}, "data": data},
        **changed,
    }
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").touch()
    place = folder / "eval" / f"{len(list((folder / 'eval').glob('*.json')))}.json"
    place.write_text(json.dumps(record))
    return folder


def entries(*folders: Path):
    return [read_entry(folder) for folder in folders]


def test_means_spreads_and_the_difference_in_closed_form(tmp_path):
    """Seeds of 0.4 and 0.6 have the mean 0.5 and the sample deviation sqrt(0.02)."""
    for seed, values in enumerate([[0.3, 0.5], [0.5, 0.7]]):
        write(tmp_path / "a" / f"seed{seed}", values)
    write(tmp_path / "b", [0.9, 0.8])
    (found,) = compare(entries(tmp_path / "a", tmp_path / "b"))
    a, b = found["entries"]
    assert (a["num_seeds"], b["num_seeds"]) == (2, 1)
    assert a["metrics"]["fg_ari"]["mean"] == pytest.approx(0.5, abs=1e-12)
    assert a["metrics"]["fg_ari"]["std"] == pytest.approx(0.02**0.5, abs=1e-12)
    assert b["metrics"]["fg_ari"]["std"] is None
    (apart,) = found["differences"]
    value = apart["metrics"]["fg_ari"]
    assert value["difference"] == pytest.approx(0.35, abs=1e-12)
    # Over seeds the pictures have 0.4 and 0.6, so they differ by 0.5 and 0.2: a quarter of the samples is one of them.
    assert (value["low"], value["high"]) == (pytest.approx(0.2, abs=1e-12), pytest.approx(0.5, abs=1e-12))
    assert value["images"] == 2


def test_the_interval_of_a_normal_mean():
    """1,000 differences of mean 0.3 and deviation 2: the mean of a sample is normal, 1.96 errors to each side."""
    drawn = np.random.default_rng(3).normal(size=1_000)
    apart = 0.3 + 2 * (drawn - drawn.mean()) / drawn.std()
    first = np.random.default_rng(4).uniform(size=1_000) * 50  # what both have in common does not count
    low, high = paired_bootstrap(first, first + apart)
    error = 2 / 1_000**0.5
    assert low == pytest.approx(0.3 - 1.95996 * error, abs=0.05 * error)
    assert high == pytest.approx(0.3 + 1.95996 * error, abs=0.05 * error)


@pytest.mark.parametrize(("confidence", "ends"), [(0.4, (0.5, 0.5)), (0.9, (0.0, 1.0))])
def test_the_interval_of_two_pictures(confidence, ends):
    """Differences of 0 and 1: a sample's mean is 0, 0.5, 0.5 or 1, each as often."""
    assert paired_bootstrap(np.zeros(2), np.array([0.0, 1.0]), confidence=confidence) == ends


def test_a_run_does_not_differ_from_itself(tmp_path):
    values = np.random.default_rng(0).uniform(size=50)
    folder = write(tmp_path / "a", values)
    (found,) = compare(entries(folder, folder))
    value = found["differences"][0]["metrics"]["fg_ari"]
    assert (value["difference"], value["low"], value["high"]) == (0, 0, 0)
    assert len(found["entries"]) == 2


def test_pictures_that_one_run_does_not_count_are_left_out_of_both(tmp_path):
    write(tmp_path / "a", [0.1, np.nan, 0.3, 0.5])
    write(tmp_path / "b", [0.2, 0.9, 0.4, np.nan])
    (found,) = compare(entries(tmp_path / "a", tmp_path / "b"))
    value = found["differences"][0]["metrics"]["fg_ari"]
    assert value["images"] == 2
    assert (value["low"], value["high"]) == (pytest.approx(0.1), pytest.approx(0.1))


def test_a_mean_that_is_not_one_over_images_has_no_interval(tmp_path):
    """Rules that weigh pictures by their objects: the records do not hold the weights."""
    write(tmp_path / "a", [0.1, 0.3], mean=0.25)
    write(tmp_path / "b", [0.2, 0.4])
    (found,) = compare(entries(tmp_path / "a", tmp_path / "b"))
    value = found["differences"][0]["metrics"]["fg_ari"]
    assert value["low"] is None
    assert value["difference"] == pytest.approx(0.05)
    assert found["notes"] == ["FG-ARI has no interval: its records hold no plain mean over images."]
    assert per_image(read_entry(tmp_path / "a").records[0]["tetromino_scenes", "test", "oclf"], "fg_ari") is None


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"data": SCENES | {"seed": 1}}, r"have other pictures \(data.seed is 0 and 1\)"),
        ({"rules": "others"}, "were scored by different rules of one name"),
        ({"num_images": 3}, "were measured on 2 and 3 images"),
        ({"name": "spot"}, "There is no evaluation that all runs have: .*a has tetromino_scenes test oclf; .*b has"),
        ({"rules": "rules of oclf; not as in training: slots=9"}, "There is no evaluation that all runs have"),
    ],
)
def test_what_was_measured_differently_is_not_compared(tmp_path, changed, sentence):
    write(tmp_path / "a", [0.1, 0.2])
    write(tmp_path / "b", [0.3, 0.4], **changed)
    with pytest.raises(UserError, match=sentence) as caught:
        compare(entries(tmp_path / "a", tmp_path / "b"))
    assert f"`slotworks evaluate {tmp_path / 'a'} {tmp_path / 'b'}`" in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"data": SCENES | {"num_train": 5}},  # how many scenes are trained on changes no picture
        {"rules": "rules of oclf; images resized from 35 x 35 to 64 x 64 pixels"},
        {"settings": None},  # as earlier versions wrote records
    ],
)
def test_what_does_not_change_the_pictures_is_compared(tmp_path, changed):
    write(tmp_path / "a", [0.1, 0.2])
    write(tmp_path / "b", [0.3, 0.4], **changed)
    (found,) = compare(entries(tmp_path / "a", tmp_path / "b"))
    assert found["differences"][0]["metrics"]["fg_ari"]["difference"] == pytest.approx(0.2)


def test_the_record_that_both_have_is_found_among_several(tmp_path):
    write(tmp_path / "a", [0.1, 0.2, 0.3])
    write(tmp_path / "a", [0.1, 0.2])
    write(tmp_path / "b", [0.5, 0.4])
    (found,) = compare(entries(tmp_path / "a", tmp_path / "b"))
    assert found["num_images"] == 2


def test_a_seed_without_a_record_is_named(tmp_path):
    write(tmp_path / "a" / "seed0", [0.1, 0.2])
    (tmp_path / "a" / "seed1").mkdir()
    (tmp_path / "a" / "seed1" / "run.yaml").touch()
    write(tmp_path / "b", [0.1, 0.2])
    with pytest.raises(UserError, match="There is no evaluation that all runs have"):
        compare(entries(tmp_path / "a", tmp_path / "b"))
    assert main(["compare", str(tmp_path / "b"), str(tmp_path / "nothing"), "--out", str(tmp_path / "c")]) == 2


def test_seeds_are_in_their_order(tmp_path):
    for seed in (10, 2, 1):
        (tmp_path / f"seed{seed}").mkdir()
        (tmp_path / f"seed{seed}" / "run.yaml").touch()
    (tmp_path / "seeds_of_plants").mkdir()
    assert [path.name for path in seed_folders(tmp_path)] == ["seed1", "seed2", "seed10"]
    (tmp_path / "run.yaml").touch()
    assert seed_folders(tmp_path) == [tmp_path]


@pytest.fixture
def written(tmp_path, monkeypatch, capsys):
    """Two entries compared by the command: what it printed, and the folder."""
    monkeypatch.chdir(tmp_path)
    for seed, values in enumerate([[0.3, 0.5], [0.5, 0.7]]):
        write(Path("a_1") / f"seed{seed}", values)
    write(Path("b"), [0.9, 0.8])
    assert main(["compare", "a_1", "b"]) == 0
    return capsys.readouterr().out, tmp_path / "comparison"


def test_the_tables_hold_the_same_numbers(written):
    printed, folder = " ".join(written[0].split()), written[1]
    markdown, latex = (folder / "table.md").read_text(), (folder / "table.tex").read_text()
    assert "| a_1 | 2 | 50.0 ± 14.1 |\n| b | 1 | 85.0 |\n| b - a_1 |  | +35.0 [20.0, 50.0] |" in markdown
    assert "rules of oclf" in markdown
    assert r"a\_1 & 2 & 50.0 $\pm$ 14.1 \\" in latex
    assert r"b & 1 & \textbf{85.0} \\" in latex
    assert r"b - a\_1 &  & $+$35.0 [20.0, 50.0] \\" in latex
    assert latex.count("{") == latex.count("}")
    for text in ("50.0 ± 14.1", "85.0", "+35.0 [20.0, 50.0]", "tetromino_scenes, test split, 2 images, oclf"):
        assert text in printed
    (found,) = json.loads((folder / "table.json").read_text())
    assert found["entries"][0]["metrics"]["fg_ari"]["seeds"] == pytest.approx([0.4, 0.6])


def test_the_picture_has_a_bar_for_each_entry(written):
    assert Image.open(written[1] / "plot.png").format == "PNG"
    (panel,) = picture(compare(entries(Path("a_1"), Path("b"))), {"a_1": "a", "b": "b"}).axes
    assert [bar.get_width() for bar in panel.patches] == [pytest.approx(0.5), pytest.approx(0.85)]
    assert [text.get_text() for text in panel.get_yticklabels()][:2] == ["a", "b"]


def test_a_mean_below_zero_is_drawn(tmp_path):
    """An adjusted Rand index may be: its bar goes to the left of zero."""
    write(tmp_path / "a", [-0.5, -0.3])
    write(tmp_path / "b", [0.2, 0.4])
    found = compare(entries(tmp_path / "a", tmp_path / "b"))
    (panel,) = picture(found, {str(tmp_path / "a"): "a", str(tmp_path / "b"): "b"}).axes
    assert [bar.get_width() for bar in panel.patches] == [pytest.approx(-0.4), pytest.approx(0.3)]
    assert panel.get_xlim() == (pytest.approx(-0.4), 1)


def test_the_seeds_of_one_recipe_alone(written, capsys):
    assert main(["compare", "a_1", "--out", "alone"]) == 0
    assert "50.0 ± 14.1" in capsys.readouterr().out
    markdown, latex = Path("alone/table.md").read_text(), Path("alone/table.tex").read_text()
    assert "| a_1 | 2 | 50.0 ± 14.1 |\n\nrules" in markdown
    assert "Differences" not in markdown
    assert (latex.count("midrule"), latex.count("textbf")) == (1, 0)


def test_a_metric_that_nobody_describes_is_printed_as_it_is_and_nothing_is_best(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, values in (("a", [3.0, 5.0]), ("b", [2.0, 3.0])):
        write(Path(name), values, metric="wobble")
    assert main(["compare", "a", "b"]) == 0
    markdown, latex = Path("comparison/table.md").read_text(), Path("comparison/table.tex").read_text()
    assert "| a | 1 | 4 |\n| b | 1 | 2.5 |" in markdown
    assert "(wobble as they are)" in markdown
    assert "textbf" not in latex


def test_mistakes_are_one_sentence(written, capsys):
    assert main(["compare", "b", "--out", "x"]) == 2
    assert "One run was given; name two or more" in capsys.readouterr().err
    assert main(["compare", "a_1", "b", "--metric", "ari", "--out", "x"]) == 2
    assert "There is no metric 'ari' that all runs have; there are fg_ari." in capsys.readouterr().err
    assert main(["compare", "a_1", "b", "--protocol", "spot", "--out", "x"]) == 2
    assert "There is no evaluation of spot that all runs have" in capsys.readouterr().err
    assert main(["compare", "a_1", "b", "--confidence", "95", "--out", "x"]) == 2
    assert "confidence is 95; it must be between 0 and 1" in capsys.readouterr().err
    assert not Path("x").exists()
    Path("other").mkdir()
    Path("other/table.md").write_text("mine")
    assert main(["compare", "a_1", "b", "--out", "other"]) == 2
    assert Path("other/table.md").read_text() == "mine"


def test_a_report_of_seeds_has_their_mean_and_leads_to_each(written, capsys):
    assert main(["report", "a_1"]) == 0
    page = Path("a_1/report.html").read_text()
    assert "50.0 ± 14.1" in page
    for seed in ("seed0", "seed1"):
        assert f'href="{seed}/report.html"' in page
        assert Path(f"a_1/{seed}/report.html").is_file()
    assert not re.search(r"<script|https?://", page)
    assert main(["report", "a_1"]) == 0  # its own page may be written anew
    Path("a_1/report.html").write_text("somebody's")
    assert main(["report", "a_1"]) == 2
    assert "was not written by this program" in capsys.readouterr().err
