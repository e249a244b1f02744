"""The command line from outside: what a user types, sees and gets back."""

import contextlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from slotworks.cli import VERBS, main, sweep
from slotworks.cli.console import matrix_tables
from slotworks.cli.evaluate import _comparable
from slotworks.cli.train import of_seed, train_one, train_seeds
from slotworks.configs import find, glass, spot
from slotworks.data import VOC
from slotworks.evaluation.doctor import Finding
from slotworks.types import UserError

SMALL = (
    "--steps 4 --eval-every 2 --save-every 2 --eval-images 4 --batch-size 2 --data.num-test 6 --data.num-val 4".split()
)
RECIPE = "slot_attention.tetrominoes_mini"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run of four steps, made through the command line."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", RECIPE, "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with contextlib.suppress(SystemExit):  # the parser's way of ending after --help
        assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "usage" in text
    assert f"slotworks {verb}" in text


@pytest.mark.parametrize("verb", ["evaluate", "segment", "doctor", "report", "demo", "bench"])
def test_help_has_examples(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert f"Examples:\n  slotworks {verb}" in capsys.readouterr().out


def test_train_writes_a_complete_run_folder(run_folder):
    for name in ("run.yaml", "env.json", "metrics.jsonl", "report.html", "checkpoints/last.safetensors"):
        assert (run_folder / name).stat().st_size > 0, name
    record = json.loads((run_folder / "eval" / "tetromino_scenes-test-slot-attention.json").read_text())
    assert record["num_images"] == 4
    assert record["metrics"]["fg_ari"]["n"] == 4
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval/fg_ari" in line] == [2, 4]


def test_train_again_changes_nothing_when_all_steps_are_done(run_folder):
    before = (run_folder / "checkpoints" / "last.safetensors").read_bytes()
    assert main(["train", RECIPE, "--out", str(run_folder), *SMALL]) == 0
    assert (run_folder / "checkpoints" / "last.safetensors").read_bytes() == before


def test_evaluate_prints_json_for_every_protocol(run_folder, capsys):
    assert main(["evaluate", str(run_folder), "--protocol", "all", "--images", "5", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [r["protocol"] for r in records][:2] == ["oclf", "slot-attention"]
    assert len(records) == 11
    assert all(r["num_images"] == 5 for r in records)
    assert records[0]["metrics"]["fg_ari"]["mean"] == pytest.approx(records[1]["metrics"]["fg_ari"]["mean"], abs=1e-12)


def test_one_run_that_cannot_be_scored_does_not_end_the_others(run_folder, tmp_path, capsys):
    bad = shutil.copytree(run_folder, tmp_path / "bad")
    (bad / "checkpoints" / "last.safetensors").write_bytes(b"cut short")
    words = ["evaluate", str(bad), str(run_folder), "--images", "2", "--json"]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert {record["run"] for record in json.loads(printed.out)} == {str(run_folder)}
    assert f"{bad} was not scored: {bad}/checkpoints/last.safetensors" in printed.err
    assert "Traceback" not in printed.err
    assert main(["evaluate", str(bad), str(bad), "--json"]) == 2
    assert capsys.readouterr().err.startswith(f"slotworks evaluate: {bad}/checkpoints/last.safetensors")


def test_features_are_of_recipes_that_keep_them(capsys):
    assert main(["data", "features", RECIPE]) == 2
    assert "trains on tetromino_scenes itself, and keeps no features" in capsys.readouterr().err


def test_evaluate_prints_how_far_the_numbers_move(run_folder, capsys, monkeypatch):
    monkeypatch.setattr("slotworks.cli.evaluate.out", Console(width=300, highlight=False))

    def cells_of(*names):
        command = ["evaluate", str(run_folder), "--images", "5", "--batch-size", "2", "--protocol", *names]
        assert main(command) == 0
        cells, tables = {}, 0
        for line in capsys.readouterr().out.splitlines():
            row = re.split(r"\s*[│┃]\s*", line)[1:-1]
            if "┃" in line:
                heads, tables = row, tables + 1
            elif row:
                cells[tables, row[0]] = dict(zip(heads, row, strict=True))
        return cells, tables

    cells, tables = cells_of("all")
    assert tables == 2
    ours = ["so-po-go", "so-po-go-majority", "so-po-go-combined"]
    assert [name for table, name in cells if table == 2] == [*ours, "spread"]
    records = [json.loads(path.read_text()) for path in (run_folder / "eval").glob("*-test-*.json")]
    records = [r for r in records if (r["num_images"], r["settings"]["batch_size"]) == (5, 2)]
    means = [record["metrics"]["mbo_i"]["mean"] for record in records if "mbo_i" in record["metrics"]]
    assert len(means) == 7
    assert cells[1, "spread"]["mbo_i"] == f"{100 * (max(means) - min(means)):.1f}"
    so = [record["metrics"]["so"]["mean"] for record in records if "so" in record["metrics"]]
    assert cells[2, "spread"]["so"] == f"{100 * (max(so) - min(so)):.1f}"
    cells, _ = cells_of("oclf", "spot")
    assert "corloc" not in cells[1, "oclf"]  # of these one protocol prints it
    assert cells[2, "oclf"]["metric"] == "ari"


RECIPE_FILE = (
    Path(__file__).with_name("stripes.py").read_text()
    + """
from slotworks.data.scenes import ShapeScenes
from slotworks.training import Run

def stripes():
    return Run(StripesConfig(), ShapeScenes(image_size=48, num_train=40, num_test=5), steps=0, batch_size=2)

def trained():
    return Run(StripesConfig(), ShapeScenes(num_test=5), steps=7, batch_size=2)
"""
)


@pytest.fixture
def stripes(tmp_path, monkeypatch):
    """A recipe that needs no training, in a file of the user's own."""
    monkeypatch.chdir(tmp_path)
    Path("my_stripes.py").write_text(RECIPE_FILE)
    return "my_stripes.py:stripes"


def test_a_recipe_without_training_is_evaluated_as_it_is(stripes, capsys):
    assert main(["evaluate", stripes, "--json"]) == 0
    [record] = json.loads(capsys.readouterr().out)
    assert record["run"] == "runs/my_stripes.stripes"
    assert record["num_images"] == 5
    folder = Path("runs/my_stripes.stripes")
    assert sorted(path.name for path in folder.iterdir()) == ["env.json", "eval", "run.yaml", "samples"]
    assert main(["evaluate", str(folder), "--json"]) == 0  # the folder is a run like any other
    assert json.loads(capsys.readouterr().out)[0]["metrics"] == record["metrics"]
    pictures = (folder / "samples/index.json").read_bytes()
    assert main(["evaluate", str(folder), "--images", "2"]) == 0  # those of five stay
    assert (folder / "samples/index.json").read_bytes() == pictures
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "shape_scenes_plain, test split, 5 images" in page
    assert "shape_scenes_plain, test split, 2 images" in page
    capsys.readouterr()
    changed = ["evaluate", stripes, "--set", "method.num-slots=2", "--out", "runs/two", "--json"]
    assert main(changed) == 0
    assert json.loads(capsys.readouterr().out)[0]["metrics"] != record["metrics"]
    assert "num_slots: 2" in Path("runs/two/run.yaml").read_text()


def test_zero_shot_matrix(run_folder, stripes, capsys, monkeypatch):
    monkeypatch.setattr("slotworks.cli.evaluate.out", Console(width=200, highlight=False))
    command = ["evaluate", str(run_folder), stripes, "--data", "tetromino_scenes", "scenes", "--images", "3"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in lines if "│" in line or "┃" in line]
    assert [row for row in rows if row[0] == "metric"] == [
        ["metric", "run", "tetromino_scenes", "shape_scenes_plain"]
    ] * 2
    assert main([*command, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [(record["run"], record["data"]) for record in records] == [
        (run, data)
        for run in (str(run_folder), "runs/my_stripes.stripes")
        for data in ("tetromino_scenes", "shape_scenes_plain")
    ]
    assert [record["protocol"] for record in records] == ["oclf", "oclf", "oclf[attention]", "oclf[attention]"]
    for run in (run_folder, Path("runs/my_stripes.stripes")):
        assert len(list((run / "eval").glob("shape_scenes_plain-test-oclf*.json"))) == 1


@pytest.mark.parametrize(
    ("protocols", "own"),
    [
        ({"glass-release"}, True),
        ({"slot-attention"}, False),
        ({"glass-release", "spot"}, False),
        ({"oclf+ari_c"}, True),
    ],
)
def test_a_matrix_has_the_rules_that_its_runs_share(protocols, own):
    """Of GLASS's table 4 those of its release."""
    assert _comparable(protocols) == own


def test_runs_that_share_rules_are_compared_under_them(stripes, capsys):
    """GLASS's table 4 has the rules of its release, which all of its runs name."""
    rows = """
from dataclasses import replace

def row():
    return replace(stripes(), protocol="glass-release")

def same():
    return row()

def other():
    return replace(stripes(), protocol="spot")
"""
    Path("rows.py").write_text(RECIPE_FILE + rows)
    for names, protocol in ((("row", "same"), "glass-release"), (("row", "other"), "oclf[attention]")):
        assert main(["evaluate", *(f"rows.py:{name}" for name in names), "--images", "2", "--json"]) == 0
        records = json.loads(capsys.readouterr().out)
        assert [record["protocol"] for record in records] == [protocol] * 2


def test_probes_from_the_command_line(stripes, capsys):
    command = ["evaluate", stripes, "--task", "properties", "--epochs", "2", "--train-images", "20", "--images", "4"]
    assert main(command) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "position_mse" in text
    assert "10% of 20 training images" in text
    record = json.loads(Path("runs/my_stripes.stripes/eval/shape_scenes_plain-test-properties.json").read_text())
    assert record["num_images"] == 4
    value = record["metrics"]["position_mse"]["mean"]
    assert f"{value:.4f} ±" in text
    assert "unmatched" in text


def test_true_background_is_left_out_from_the_command_line(stripes, capsys):
    """MaskCLIP's number of 20 classes: every word of the command of its recipe is there and has an effect."""
    options = find("mask_clip.voc_foreground").options.split()
    assert main(["evaluate", stripes, *options, "--rule", "per_image", "--images", "4", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["protocol"] == "semantic-per_image-foreground"
    assert record["metrics"]["iou_background"]["mean"] is None
    assert main(["evaluate", stripes, *options[:2], "--rule", "per_image", "--images", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["metrics"]["iou_background"]["mean"] > 0


def test_doctor_finds_a_run_that_has_only_begun(run_folder, capsys):
    assert main(["doctor", str(run_folder), "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)
    assert (finding["name"], finding["severity"]) == ("not_specialised", "note")
    assert "the learning rate is still being warmed up (step 4 of 350)" in finding["evidence"]
    assert finding["fix"].startswith("Train on")


def test_doctor_ends_with_1_where_something_is_wrong(run_folder, capsys, monkeypatch):
    wrong = Finding("stripes", "problem", "Images are cut alike.", "Warm up.")
    monkeypatch.setattr("slotworks.api.examine", lambda run, **options: [Finding("ok", "ok", "Fine.", ""), wrong])
    assert main(["doctor", str(run_folder)]) == 1
    assert capsys.readouterr().out.splitlines() == ["ok: Fine.", "stripes: Images are cut alike.", "    Warm up."]


def test_seeds_report_mean_and_spread(tmp_path, capsys):
    assert main(["train", RECIPE, "--out", str(tmp_path), "--seeds", "2", "--json", *SMALL]) == 0
    answer = json.loads(capsys.readouterr().out)
    values = answer["summary"]["fg_ari"]["seeds"]
    assert len(values) == 2
    assert answer["summary"]["fg_ari"]["mean"] == pytest.approx(np.mean(values))
    assert answer["summary"]["fg_ari"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert (tmp_path / "seed1" / "report.html").is_file()
    assert json.loads((tmp_path / "summary.json").read_text())["summary"] == answer["summary"]


def test_a_second_stage_builds_on_the_first_of_its_seed(tmp_path, monkeypatch):
    """SPOT's students and phase 2 of GLASS: `runs/NAME/seed1` for seed 1, a run folder for all."""
    monkeypatch.chdir(tmp_path)
    for name, field in (("spot.voc", "teacher"), ("glass.voc", "phase_1")):
        run = spot.voc_stage2() if field == "teacher" else glass.voc_phase2()
        assert getattr(of_seed(run, 1)[0].method, field) == f"runs/{name}"  # nothing there yet: training says so
        for seed in (0, 1):
            folder = Path("runs") / name / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "run.yaml").touch()
        second, notes = of_seed(run, 1)
        assert (second.seed, getattr(second.method, field)) == (1, f"runs/{name}/seed1")
        assert notes == [f"seed 1 builds on runs/{name}/seed1."]
        with pytest.raises(UserError, match=f"runs/{name} holds seed0, seed1, but not seed2, .*--method.{field[:5]}"):
            of_seed(run, 2)
        one = replace(run, method=replace(run.method, **{field: f"runs/{name}/seed0"}))
        second, notes = of_seed(one, 2)
        assert (second.seed, second.method) == (2, one.method)
        assert notes == [f"All seeds build on runs/{name}/seed0, the one run that method.{field} names."]


@pytest.fixture
def trained(monkeypatch):
    """Trainings that only say what they would have been."""
    from slotworks import api

    found = []

    def done(run, folder, **options):
        found.append(run)
        said = {"images": "all 3 images", "split": "val", "protocol": "spot", "verdict": "healthy", "report": "r"}
        return {"seconds": 1.0, "metrics": {"fg_ari": {"mean": 0.5}}} | said

    monkeypatch.setattr(api, "train", done)
    return found


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_seeds_of_a_second_stage_take_the_first_of_each(verb, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(VOC, "open", lambda self, split: None)
    monkeypatch.setattr(sweep, "_try_to_build", lambda run: None)
    for seed in (0, 1):
        folder = Path("runs/spot.voc") / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "run.yaml").touch()
    if verb == "train":
        train_seeds(spot.voc_stage2(), Path("out"), 2)
    else:
        sweep.sweep("spot.voc_stage2", [sweep.Variant("", "", ())], seeds=2, out=Path("out"))
    built = [(run.seed, run.method.teacher) for run in trained]
    assert built == [(0, "runs/spot.voc/seed0"), (1, "runs/spot.voc/seed1")]


def test_a_training_says_of_which_images_its_numbers_are(trained, tmp_path, capsys):
    train_one(spot.voc(), tmp_path)
    assert "fg_ari 50.0  on all 3 images of the val split, spot" in capsys.readouterr().err


def test_a_seed_that_diverges_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    from slotworks import api
    from slotworks.training import Diverged

    def train(run, folder, **options):
        if run.seed == 1:
            raise Diverged("Step 7 gave a loss that is not finite.")
        return {
            "metrics": {"fg_ari": {"mean": 0.5 + run.seed / 10}},
            "protocol": "",
            "split": "test",
            "images": "all 320 images",
            "verdict": "",
            "report": "",
        }

    monkeypatch.setattr(api, "train", train)
    assert main(["train", RECIPE, "--out", str(tmp_path), "--seeds", "3", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["summary"]["fg_ari"]["seeds"] == [0.5, 0.7]
    assert answer["runs"][1] == {"seed": 1, "diverged": "Step 7 gave a loss that is not finite."}


PICTURES = {
    "rgb.png": lambda: Image.new("RGB", (50, 40), "red"),
    "grey.png": lambda: Image.new("L", (35, 35), 128),
    "one_pixel.png": lambda: Image.new("RGB", (1, 1), "blue"),
    "alpha.png": lambda: Image.new("RGBA", (20, 90), (0, 255, 0, 100)),
    "palette.gif": lambda: Image.new("P", (33, 70), 3),
    "black_white.png": lambda: Image.new("1", (64, 64), 1),
    "print.jpg": lambda: Image.new("CMYK", (60, 30), (10, 200, 30, 0)),
    "deep.png": lambda: Image.fromarray(np.full((30, 40), 40_000, dtype=np.uint16)),
}


def test_scores_that_cannot_be_saved_are_printed(run_folder, tmp_path, capsys, monkeypatch):
    """The place is lost during the work, as where a disk fills up: from then on the machine refuses."""
    from slotworks.evaluation import records

    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder)
    real = records.check_writable

    def lost_afterwards(place):
        if not place.is_file():
            real(place)
            shutil.rmtree(place)
            place.touch()

    monkeypatch.setattr(records, "check_writable", lost_afterwards)
    assert main(["evaluate", str(folder), "--images", "4"]) == 2
    printed = capsys.readouterr()
    assert "fg_ari" in printed.out
    assert "Not saved: " in printed.err
    assert "could not be written" in printed.err
    assert main(["evaluate", str(folder), "--images", "4", "--json"]) == 2
    record = json.loads(capsys.readouterr().out)[0]
    assert record["num_images"] == 4
    assert "could not be written" in record["unsaved"]


def test_records_of_a_run_that_cannot_be_written_to(run_folder, tmp_path, capsys):
    """As on a medium that is read only: another place can be named, and the run stays as it is."""
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    shutil.rmtree(folder / "eval")
    (folder / "eval").write_text("in the way")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for verb in ("evaluate", "doctor"):
        assert main([verb, str(folder), "--images", "4"]) == 2
        said = capsys.readouterr().err
        assert "eval cannot be written to (Not a directory); choose another place. With `out` (`--out` on the" in said
    assert main(["evaluate", str(folder), "--images", "4", "--out", str(tmp_path / "a" / "b")]) == 0
    assert "fg_ari" in capsys.readouterr().out
    assert main(["doctor", str(folder), "--images", "4", "--out", str(tmp_path / "a" / "b")]) in (0, 1)
    names = {path.name for path in (tmp_path / "a/b/eval").iterdir()}
    assert names == {"tetromino_scenes-test-slot-attention.json", "doctor.json"}
    other = shutil.copytree(folder, tmp_path / "other")
    for runs, code in (([folder, other], 0), ([folder, tmp_path / "x" / ".." / "run"], 2)):
        assert main(["evaluate", *map(str, runs), "--images", "4", "--out", str(tmp_path / "both")]) == code
    assert "Several runs are called run; with --out evaluate them one by one." in capsys.readouterr().err
    assert len(list((tmp_path / "both").glob("*/eval/tetromino_scenes-test-oclf.json"))) == 2
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_the_doctor_found_is_said_where_it_cannot_be_saved(run_folder, capsys, monkeypatch):
    from slotworks.evaluation import doctor

    def full(*arguments, **options):
        raise UserError("eval/doctor.json could not be written (No space left on device).")

    monkeypatch.setattr(doctor, "write", full)
    assert main(["doctor", str(run_folder), "--images", "4"]) == 2
    said = capsys.readouterr().err
    assert "No space left on device). What was found is not saved: " in said
    assert len(said.split("not saved: ")[1]) > 40


def test_looking_at_fewer_images_replaces_nothing(run_folder, tmp_path):
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    before = (folder / "eval/doctor.json").read_bytes()
    assert main(["doctor", str(folder), "--images", "2"]) in (0, 1)
    assert (folder / "eval/doctor.json").read_bytes() == before
    assert (folder / "eval/doctor-test-2-images-step-4.json").is_file()
    assert main(["report", str(folder)]) == 0
    assert "doctor-test-2" not in (folder / "report.html").read_text()  # neither scores nor damaged


def test_the_doctor_counts_seeds(run_folder, tmp_path, capsys, monkeypatch):
    """Figure 14 of Slot Attention's supplement: of five seeds one gave the background a slot; on other data, T = 5."""
    split, well = Finding("background_split", "note", "Four.", "Fewer."), Finding("healthy", "ok", "Fine.", "")
    for seed in range(3):
        shutil.copytree(run_folder, tmp_path / "runs" / f"seed{seed}")
    asked = []

    def examine(folder, **options):
        asked.append(options)
        return [well if folder.name == "seed1" else split]

    with monkeypatch.context() as patched:
        patched.setattr("slotworks.api.examine", examine)
        words = ["--data", "sprite_scenes", "--set", "method.test-iterations=5"]
        assert main(["doctor", str(tmp_path / "runs"), *words]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "seed0"
        assert said[-1] == "Of 3 seeds: background split 2 (seed0, seed2), healthy 1 (seed1)."
        assert [one["data"].name.split("_")[0] for one in asked] == ["sprite"] * 3
        assert [one["config"].test_iterations for one in asked] == [5, 5, 5]
    one = tmp_path / "runs" / "seed0"
    before = (one / "eval/doctor.json").read_bytes()
    assert main(["doctor", str(one), "--images", "4", *words]) in (0, 1)
    (name,) = [path.name for path in (one / "eval").glob("doctor-*sprite*.json")]
    assert name == "doctor-test-4-images-step-4-sprite_scenes_colored_on_grayscale-test_iterations-5.json"
    assert (one / "eval/doctor.json").read_bytes() == before
    assert main(["report", str(one)]) == 0
    assert "doctor-test-4" not in (one / "report.html").read_text()
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "runs"), "--images", "2", "--json"]) in (0, 1)
    assert list(json.loads(capsys.readouterr().out)) == ["seed0", "seed1", "seed2"]


def test_segment_touches_no_file_of_somebody_else(run_folder, tmp_path, capsys):
    for name in ("cat.png", "dog.png"):
        Image.new("RGB", (10, 10), "red").save(tmp_path / name)
    (tmp_path / "dog_mask.png").write_text("mine")
    command = ["segment", str(run_folder), str(tmp_path), "--out", str(tmp_path), "--json"]
    assert main(command) == 2
    assert "dog_mask.png is there and was not written by this program" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cat.png",
        "dog.png",
        "dog_mask.png",
    ]
    assert (tmp_path / "dog_mask.png").read_text() == "mine"


def test_segment_does_not_read_its_own_results(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cat.png", "cat.jpg"):
        Image.new("RGB", (10, 10), "red").save(name)
    (tmp_path / "cat_mask.bmp").write_bytes((tmp_path / "cat.png").read_bytes())  # of the same stem as a result
    stored = [[str(run_folder.resolve()), "."], [str(run_folder.resolve()), ".", "--out", "."]]
    for words in stored:
        written = []
        for _ in range(3):
            assert main(["segment", *words, "--json"]) == 0
            written.append([(one["file"], one["written"]) for one in json.loads(capsys.readouterr().out)])
        assert written[0] == written[1] == written[2]
        assert [file for file, _ in written[0]] == ["cat.jpg", "cat.png", "cat_mask.bmp"]
        assert len({path for _, paths in written[0] for path in paths}) == 12
    pictures = [str(path) for path in tmp_path.glob("*.png")]  # as a shell writes *.png
    assert main(["segment", stored[1][0], *pictures, "--out", ".", "--json"]) == 0
    assert [Path(one["file"]).name for one in json.loads(capsys.readouterr().out)] == ["cat.png"]


def test_segment_passes_over_the_pictures_of_a_run(run_folder, tmp_path, capsys, monkeypatch):
    """A person who stands where the runs lie means their own pictures."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, "run")
    Image.new("RGB", (10, 10), "red").save("cat.png")
    Image.new("RGB", (10, 10), "red").save("run/mine.png")
    Image.new("RGB", (10, 10), "red").save("sheet.png")
    assert main(["segment", "run", ".", "--json"]) == 0
    assert [one["file"] for one in json.loads(capsys.readouterr().out)] == ["cat.png", "run/mine.png", "sheet.png"]


def test_segment_takes_any_size_and_mode(run_folder, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, make in PICTURES.items():
        make().save(folder / name)
    Image.new("RGB", (10, 10)).save(folder / "rgb.bmp")  # the same stem as rgb.png: nothing may be overwritten
    assert main(["segment", str(run_folder), str(folder), "--out", str(tmp_path / "out"), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results) == len(PICTURES) + 1
    assert len({path for result in results for path in result["written"]}) == 4 * len(results)
    for result in results:
        picture = Image.open(result["file"])
        mask, overlay, vectors, rle = (Path(path) for path in result["written"])
        labels = np.asarray(Image.open(mask))
        assert labels.shape == (picture.height, picture.width)
        assert labels.max() < 4
        assert Image.open(overlay).size == picture.size
        stored = np.load(vectors, allow_pickle=False)
        assert stored["slots"].shape == (4, 64)
        np.testing.assert_allclose(stored["masks"].sum(0), 1, atol=1e-5)
        found = json.loads(rle.read_text())["annotations"]
        assert sum(annotation["area"] for annotation in found) == picture.width * picture.height
        assert {a["slot"]: a["area"] for a in found} == dict(zip(*np.unique(labels, return_counts=True), strict=True))


def test_segment_turns_photos_upright(run_folder, tmp_path):
    from slotworks.images import read_image

    picture = Image.new("RGB", (30, 20), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # lay on its side
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (20, 30)


def test_segment_names_a_damaged_picture_and_goes_on(run_folder, tmp_path, capsys):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    assert main(["segment", str(run_folder), str(tmp_path), "--out", str(tmp_path / "out"), "--json"]) == 1
    results = json.loads(capsys.readouterr().out)
    assert "bad.png cannot be read as a picture" in results[0]["error"]
    assert results[1]["slots"] >= 1


MISTAKES = {
    "nosuchverb": r"there is no verb 'nosuchverb'",
    "trian": r"there is no verb 'trian'; nearest: train, ",
    "train slot_attention.tetromino": r"There is no recipe 'slot_attention.tetromino'. Nearest: slot_att",
    "train nofile.py:f": r"nofile.py is not a file",
    f"train {RECIPE} --seeds many": r"--seeds is many; expected a number",
    f"train {RECIPE} --out": r"--out needs a value",
    "evaluate nofolder": r"nofolder.run.yaml does not exist",
    "report nofolder": r"nofolder",
    "doctor nofolder": r"nofolder.run.yaml does not exist",
    "segment nofolder nopicture.png": r"nopicture.png does not exist; give picture files",
    "data prepare nodata": r"There is no data set 'nodata'; the known ones are tetrominoes",
    "evaluate nofolder --set method.num-slots=3": r"nofolder does not exist; give the folder of a run",
    f"evaluate {RECIPE}": rf"{RECIPE} has to be trained first: `slotworks train {RECIPE}`",
    f"evaluate {RECIPE} --set method.num-slots": r"--set method.num-slots has no value; write FIELD=VALUE",
    "evaluate nofolder --data nodata": r"There is no data set 'nodata'\. Nearest: \w+, \w+, \w+\. One of your own",
    "evaluate nofolder --data scenes --root here": r"scenes are drawn and lie in no folder; leave --root out",
    "evaluate nofolder --epochs 3": r"--epochs belongs to --task properties; the task is discovery",
    "evaluate nofolder --task semantic --train-images 3": r"--train-images belongs to --task properties",
    "evaluate": r"Name a run folder",
    "data eat": r"There is no action 'eat'",
    "bench --recipes nothing": r"There is no recipe 'nothing'",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_code_2(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    message = capsys.readouterr().err.strip()
    assert re.search(MISTAKES[command], message), message
    assert "Traceback" not in message
    assert len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir()), "a mistake left something behind"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--batch-size 0", "batch_size is 0; it must be 1 or more."),
        ("--method.image-size 64 64", "method.image_size is (64, 64) but the images of"),
        ("--optimizer.lr fast", "Error parsing --optimizer.lr"),
    ],
)
def test_a_wrong_value_is_explained(options, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", RECIPE, *options.split()])
    assert stop.value.code == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_misspelt_option_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", RECIPE, "--method.num-slot", "5"])
    assert stop.value.code == 2
    assert "--method.num-slots" in capsys.readouterr().err


def test_official_data_that_is_missing_says_where_it_comes_from(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "slot_attention.tetrominoes"]) == 2
    message = capsys.readouterr().err
    assert "tetrominoes_train.tfrecords" in message
    assert "multi-object-datasets" in message


def test_another_number_of_slots_needs_a_shared_initialiser(run_folder, tmp_path, capsys):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    arguments = ["segment", str(run_folder), str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--num-slots", "7"]) == 2
    assert "train with GaussianInit" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there(run_folder, device, capsys):
    assert main(["evaluate", str(run_folder), "--device", device]) == 2
    message = capsys.readouterr().err
    assert f"device is '{device}', which cannot be used here" in message
    assert len(message.strip().splitlines()) == 1


def test_recipes_name_their_file():
    from slotworks.configs import find, recipes

    assert {"slot_attention.tetrominoes", "slot_attention.multi_dsprites", "slot_attention.clevr6"} <= set(recipes())
    with pytest.raises(UserError, match="There is no recipe"):
        find("glass.nothing")


def test_demo_trains_measures_and_names_the_report(tmp_path, monkeypatch, capsys):
    from dataclasses import replace

    from slotworks.configs import slot_attention

    recipe = slot_attention.tetrominoes_mini()
    data = replace(recipe.data, num_train=8, num_val=4, num_test=4)
    tiny = replace(recipe, data=data, steps=2, batch_size=2, eval_images=4)
    shortened = replace(slot_attention.tetrominoes_mini, make=lambda: tiny)
    monkeypatch.setattr(slot_attention, "tetrominoes_mini", shortened)
    assert main(["demo", "--out", str(tmp_path / "demo"), "--no-open"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    score = json.loads((tmp_path / "demo" / "eval" / "tetromino_scenes-test-slot-attention.json").read_text())
    assert f"FG-ARI {100 * score['metrics']['fg_ari']['mean']:.1f} on held-out scenes" in text
    assert str(tmp_path / "demo" / "report.html") in text.replace(" ", "")
    both = json.loads((tmp_path / "demo" / "eval" / "tetromino_scenes-test-oclf.json").read_text())
    assert {"fg_ari", "ari", "mbo_i", "miou_i"} <= set(both["metrics"])


def test_a_matrix_shows_data_sets_of_one_name_apart():
    """The second would take the place of the first, as if both had its score."""
    metric = {"mean": 0.5, "sem": 0.1, "n": 4}
    records = [
        {"run": "runs/a", "data": "clevr", "protocol": "oclf", "metrics": {"ari": metric | {"mean": mean}}}
        for mean in (0.25, 0.75)
    ]
    [table] = matrix_tables(records)
    assert [column.header for column in table.columns] == ["metric", "run", "clevr", "clevr (2)"]
    assert [list(column.cells) for column in table.columns[2:]] == [["25.0 ± 10.0"], ["75.0 ± 10.0"]]


def test_whatever_is_drawn_has_a_name():
    """`--data painted_videos` and so on; captioned scenes are drawn around others."""
    from slotworks.cli.sources import find_data
    from slotworks.data import scenes

    names = "collages painted_scenes painted_videos scenes set_scenes sprite_scenes tetromino_scenes video_scenes"
    assert {type(find_data(name)).__name__ for name in names.split()} == set(scenes.__all__) - {"CaptionedScenes"}
