"""`slotworks train` beside the training itself: dry runs, repeated runs, devices, and the help of a recipe."""

import json
import re
from dataclasses import field, make_dataclass, replace
from pathlib import Path

import pytest
import torch
import tyro

from slotworks.cli import main
from slotworks.cli.train import build, folder_of
from slotworks.configs import find, recipes
from slotworks.data import CachedFeatures
from slotworks.data.stores.features import OnDemand
from slotworks.training import load_run
from slotworks.training.trial import dry_run, origins

RECIPE = "slot_attention.tetrominoes_mini"
SMALL = "--batch-size 2 --data.num-test 3 --data.num-val 3 --eval-images 2".split()


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_says_what_a_training_takes_and_writes_nothing(tmp_path, monkeypatch, capsys):
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir(), home.mkdir()
    monkeypatch.chdir(work)
    for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, str(home))
    before = files(tmp_path)
    command = ["train", RECIPE, "--dry-run", "--precision", "32", "--device", "cpu", *SMALL]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    run = build(RECIPE, ["--precision", "32", *SMALL])
    parameters = sum(p.numel() for p in run.method.build().parameters())
    assert answer["parameters"] == answer["trained"] == parameters
    assert answer["batch"]["image"] == [2, 35, 35, 3]
    assert answer["samples"] == 60_000
    assert (answer["device"], answer["precision"]) == ("cpu", "32")
    assert answer["memory_mib"] > 50
    per_step = answer["step_seconds"] + answer["read_seconds"]
    assert answer["total_seconds"] == pytest.approx(run.steps * per_step)
    assert answer["step_seconds"] > answer["read_seconds"] > 0
    settings = {row["name"]: (row["value"], row["from"]) for row in answer["settings"]}
    assert settings["batch_size"] == (2, "command line")
    assert settings["data.num_val"] == (3, "command line")
    assert settings["optimizer.lr"] == (run.optimizer.lr, "recipe")
    assert settings["optimizer.eps"] == (1e-8, "default of Adam")
    assert settings["method.num_slots"] == (4, "default of SlotAttentionConfig")
    assert main(command) == 0
    text = capsys.readouterr().out
    assert f"{parameters:,} trained" in text
    assert "Nothing was written." in text
    assert re.search(r"batch_size +2  \(command line\)", text)
    assert files(tmp_path) == before


def test_features_that_are_not_stored_are_computed_for_a_dry_run_alone(tmp_path):
    run = find("dinosaur.scenes_mini")()
    assert isinstance(run.data, CachedFeatures)
    data = replace(run.data, root=str(tmp_path / "features"), images=replace(run.data.images, num_train=40))
    run = replace(run, data=data, batch_size=2)
    assert isinstance(data.preview(), OnDemand)
    answer = dry_run(run, steps=1, device="cpu")
    assert not list(tmp_path.iterdir())
    assert answer["samples"] == 40 * (2 if data.flips else 1)
    assert answer["once_seconds"] > answer["read_seconds"] == 0
    assert answer["trained"] == answer["parameters"]  # a step never builds the encoder
    asked = data.preview().__getitems__([3, 5])
    stored = data.open("train")
    assert not isinstance(data.preview(), OnDemand)
    assert asked.keys() == stored.__getitems__([3, 5]).keys()
    both = (torch.from_numpy(rows["features"]) for rows in (asked, stored.__getitems__([3, 5])))
    torch.testing.assert_close(*both, rtol=0, atol=0.05)


def test_official_files_are_not_prepared_by_a_dry_run(tmp_path, capsys):
    root = tmp_path / "tetrominoes"
    command = ["train", "slot_attention.tetrominoes", "--dry-run", "--data.root", str(root)]
    assert main(command) == 2
    assert "tetrominoes_train.tfrecords" in capsys.readouterr().err
    root.mkdir()
    (root / "tetrominoes_train.tfrecords").write_bytes(b"something")
    assert main(command) == 2
    assert "is not there yet and a trial writes nothing" in capsys.readouterr().err
    assert [path.name for path in root.rglob("*")] == ["tetrominoes_train.tfrecords"]


@pytest.mark.parametrize("option", [["--out", "x"], ["--seeds", "2"]])
def test_a_dry_run_takes_no_folder_and_no_seeds(option, capsys):
    assert main(["train", RECIPE, "--dry-run", *option]) == 2
    assert f"leave {option[0]} out" in capsys.readouterr().err


def test_a_run_is_repeated_from_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", RECIPE, "--out", "runs/mine", "--steps", "2", "--precision", "32", *SMALL]) == 0
    for name, words, out in (
        ("runs/mine/run.yaml", [], "runs/mine_again"),
        ("runs/mine", ["--seed", "1"], "other"),
    ):
        capsys.readouterr()
        assert main(["train", name, *words, *([] if out.endswith("again") else ["--out", out])]) == 0
        assert f"Training as {name} says, into {out}." in capsys.readouterr().err
        assert load_run(Path(out)) == replace(load_run(Path("runs/mine")), seed=len(words) // 2)
    first, again = (Path(folder) / "metrics.jsonl" for folder in ("runs/mine", "runs/mine_again"))
    losses = [[json.loads(line).get("total") for line in path.read_text().splitlines()] for path in (first, again)]
    assert losses[0] == losses[1]
    Path("runs/mine/run.yaml").rename("kept.yml")
    assert folder_of("kept.yml") == Path("kept_again")
    monkeypatch.chdir("runs/mine_again")
    assert folder_of("run.yaml").resolve() == tmp_path / "runs" / "mine_again_again"
    assert main(["train", "nofile.yaml"]) == 2
    assert "nofile.yaml does not exist" in capsys.readouterr().err


def test_settings_of_a_repeated_run_come_from_its_file():
    run = find(RECIPE)()
    rows = {row["name"]: row["from"] for row in origins(replace(run, seed=3), run, "run.yaml")}
    assert rows["seed"] == "command line"
    assert rows["optimizer.lr"] == "run.yaml"
    assert rows["optimizer.eps"] == "default of Adam"


@pytest.mark.parametrize(
    "command", ["train {recipe}", "train {recipe} --dry-run", "demo", "sweep {recipe} --set seed=1", "demo glass"]
)
def test_a_device_that_is_not_here_is_named(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*command.format(recipe=RECIPE).split(), "--device", "quantum"]) == 2
    assert "device is 'quantum', which cannot be used here" in capsys.readouterr().err


def test_a_device_reaches_the_training(monkeypatch):
    from slotworks.training import devices

    asked = []

    class Fabric(devices.Fabric):
        def __init__(self, **options):
            asked.append((options["accelerator"], options["devices"]))

        def launch(self):
            pass

    monkeypatch.setattr(devices, "Fabric", Fabric)
    run = replace(find(RECIPE)(), precision="32")
    for name in (None, "cpu", "cuda", "cuda:1", "mps"):
        devices.open_fabric(run, device=name)
    assert asked == [("auto", 1), ("cpu", 1), ("cuda", 1), ("cuda", [1]), ("mps", 1)]


def test_the_help_of_a_recipe_is_for_people(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    parts = {}  # methods and data sets of all recipes, one of each class
    for function in recipes().values():
        run = function()
        parts |= {type(part): part for part in (run.method, run.data, run.optimizer)}
    members = [(f"part{i}", type(part), field(default=part)) for i, part in enumerate(parts.values())]
    with pytest.raises(SystemExit):
        tyro.cli(make_dataclass("Everything", members), args=["--help"])
    text = capsys.readouterr().out
    assert text.count("--part") > 400
    assert not re.search(r"pyright|type: *ignore|noqa", text)
    assert re.findall(r"(--\S+)[^\n]*\n│ +\(default:", text) == []  # nothing but a default is said of them
    with pytest.raises(SystemExit):
        build(RECIPE, ["--help"])
    text = capsys.readouterr().out
    for words in ("--device D", "--dry-run", "--out DIR", "method options", "optimizer options", "(default: "):
        assert words in text
    assert re.search(r"^ +Command: .*\n +Takes: .*\n +Published: .*\n +Our own: .*\n\s*Options of", text, re.MULTILINE)
    assert re.findall(r"(--\S+)[^\n]*\n│ +\(default:", text) == []
