"""Run folders and stores that an earlier commit wrote open unchanged: every family, what is measured, one step more.

`fixtures/runs_1/README.md` says which commit and how. Everything is done on a copy.
"""

import contextlib
import gzip
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import slotworks
from slotworks import hub
from slotworks.cli import main
from slotworks.errors import UserError
from slotworks.training import Run, train
from slotworks.training.serialize import FORMAT, from_plain, load_run, save_run, to_plain
from slotworks.types import Method, to_batch

RUNS = Path(__file__).parent / "fixtures" / "runs_1"
NUMBERS = (
    json.loads(path.read_text())
    if (path := RUNS / "numbers.json").is_file()
    else {"runs": {}, "stores": {}, "tasks": {}}
)
SEEDS = ("train", "mine.py:mine", "--seeds", "2", "--out", "runs/seeds", "--device", "cpu")
SWEEP = ("sweep", "mine.py:mine", "--set", "method.num-iterations=1,2", "--out", "runs/sweep", "--device", "cpu")

SYNTHESIS = (
    *("synthesize", "glass.scenes", "--num-images", "4", "--shard-size", "2", "--batch-size", "2", "--steps", "2"),
    *("--precision", "32", "--out", "data/generated/scenes"),
)
TASKS = {
    "sets": ("runs/dspn", "--task", "sets"),
    "sets-by-objects": ("runs/set_prediction", "--task", "sets", "--by-objects"),
    "sets-with-settings": ("runs/set_prediction", "--task", "sets", "--set", "method.num-iterations=5"),
    "reconstruction": ("runs/slot_attention", "--task", "reconstruction", "--images", "2"),
    "reconstruction-of-tokens": ("runs/slate", "--task", "reconstruction", "--images", "2"),
    "reconstruction-sampled": ("runs/glass_phase2", "--task", "reconstruction", "--images", "2", "--steps", "2"),
    "reconstruction-of-videos": (
        "runs/slot_diffusion_video",
        "--task",
        "reconstruction",
        "--images",
        "2",
        "--steps",
        "2",
    ),
    "removal": ("runs/glass_phase2", "--task", "removal", "--images", "2", "--steps", "2"),
    "semantic": ("runs/deep_spectral", "--task", "semantic", "--images", "2"),
    "lengths": ("runs/savi", "--protocol", "savi", "savi-frames", "--lengths", "1", "2"),
    "protocols": ("runs/dinosaur_mlp", "--protocol", "all", "--images", "2"),
}


def weighted(values) -> float:
    """A sum that knows the places of its numbers: each weighs from 0 to 1 by where it stands."""
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    return float(flat @ np.linspace(0, 1, len(flat))) / max(len(flat), 1)


def measure(folder: Path) -> dict[str, float]:
    """What a run says of two validation samples, its metrics on two test samples, and the loss of one more step.

    The folder is left as it is: everything that writes is done in a copy beside it.
    """
    further = folder.with_name(f"{folder.name}_further")
    shutil.copytree(folder, further)
    run, method = slotworks.load(further, device="cpu")
    found = {}
    if type(method).encode is not Method.encode:
        dataset = run.data.open("val")
        batch = to_batch(dataset.__getitems__([*range(min(2, len(dataset)))]), torch.device("cpu"))
        torch.manual_seed(0)
        with torch.no_grad():
            found["attn"] = weighted(method.encode_batch(batch).attn)
        if "mask" in batch:
            (record,) = slotworks.evaluate(further, num_images=2)
            found |= {name: summary["mean"] for name, summary in record["metrics"].items()}
    if run.steps:
        train(replace(run, steps=run.steps + 1), further, device="cpu")
        lines = [json.loads(line) for line in (further / "metrics.jsonl").read_text().splitlines()]
        found["loss"] = next(line["total"] for line in lines if line["step"] == run.steps + 1 and "total" in line)
    shutil.rmtree(further)
    return found


def evaluated(words: tuple[str, ...]) -> dict[str, float]:
    """What `slotworks evaluate` prints as JSON: every metric that has a value, by its protocol."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["evaluate", *words, "--json"]) == 0
    records = json.loads(printed.getvalue()[printed.getvalue().index("[\n") :])
    means = {f"{one['protocol']} {name}": m["mean"] for one in records for name, m in one["metrics"].items()}
    return {name: value for name, value in means.items() if value is not None}


def pictures() -> dict[str, float]:
    """What `segment` says of slots, and what `edit` renders of a picture, below the current folder."""
    shades = np.linspace(0, 255, 20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    Image.fromarray(shades).save("picture.png")
    assert main(["segment", "runs/slot_attention", "picture.png", "--out", "segments"]) == 0
    with np.load("segments/picture_slots.npz") as slots:
        found = {f"slots {name}": weighted(slots[name]) for name in slots.files if slots[name].dtype.kind == "f"}
    assert main(["edit", "runs/slot_diffusion", "picture.png", "--remove", "1", "--steps", "2", "--out", "edits"]) == 0
    return found | {"edited": weighted(Image.open("edits/picture_edited.png"))}


def measure_store(folder: Path) -> dict[str, float]:
    """The arrays of a store."""
    return {path.stem: weighted(np.load(path)) for path in sorted(folder.glob("*.npy"))}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of everything; what a test writes into it is seen by the tests after it."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(RUNS / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def files(*folders: Path) -> dict[str, bytes]:
    """What lies below, but for locks."""
    paths = (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): path.read_bytes() for path in sorted(paths)}


@pytest.mark.parametrize("name", NUMBERS["runs"])
def test_a_run_says_what_it_said(name, place, monkeypatch):
    """No store is computed anew: stores are found under the keys that they were given."""
    monkeypatch.chdir(place)
    stores, run = files(place / "data"), files(place / "runs" / name)
    assert measure(Path("runs") / name) == pytest.approx(NUMBERS["runs"][name], rel=1e-5, abs=1e-7)
    assert files(place / "data") == stores
    assert files(place / "runs" / name) == run


@pytest.mark.parametrize("name", TASKS)
def test_an_evaluation_says_what_it_said(name, place, monkeypatch):
    monkeypatch.chdir(place)
    old, found = NUMBERS["tasks"][name], evaluated(TASKS[name])
    new = found.keys() - old.keys()  # protocols may be added, and metrics to them
    assert not new or name == "protocols", new
    assert {key: found[key] for key in old} == pytest.approx(old, rel=1e-5, abs=1e-7)


def test_pictures_are_taken_apart_and_edited_as_they_were(place, monkeypatch):
    monkeypatch.chdir(place)
    found, known = pictures(), dict(NUMBERS["pictures"])
    assert found.pop("edited") == pytest.approx(known.pop("edited"), rel=1e-3)  # rounded to 8 bits
    assert found == pytest.approx(known, rel=1e-5)


@pytest.mark.parametrize("name", NUMBERS["stores"])
def test_a_store_holds_what_it_held(name, place):
    assert measure_store(place / name) == pytest.approx(NUMBERS["stores"][name], rel=1e-12)


def test_a_prepared_store_needs_no_official_file(place, monkeypatch):
    from slotworks.data import VOC

    monkeypatch.chdir(place)
    data = VOC(image_size=32, mask_size=32)
    assert [len(data.open(split)) for split in ("train", "val")] == [3, 2]
    row = data.open("val").__getitems__([0, 1])
    assert weighted(row["image"]) == NUMBERS["stores"]["data/VOCdevkit/prepared/voc2012-val-32-32"]["image"]


@pytest.mark.parametrize("words", [SEEDS, SWEEP, SYNTHESIS], ids=lambda words: words[0])
def test_what_is_finished_is_not_done_again(words, place, monkeypatch, capsys):
    """Seeds, variants and shards are recognised as those that the command asks for."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    folders = [place / "runs" / "seeds", place / "runs" / "sweep", place / "data" / "generated"]
    kept = {
        path: content
        for path, content in files(*folders).items()
        if path.endswith((".safetensors", ".parquet", ".npy", "table.csv", "metrics.jsonl"))
    }
    assert main([*words]) == 0
    capsys.readouterr()
    after = files(*folders)
    assert {path: after[path] for path in kept} == kept


def test_the_settings_of_every_recipe_are_read(place):
    """What stands in a run.yaml of any recipe of that commit gives a run with these values; new settings may join."""
    known = json.loads(gzip.decompress((place / "recipes.json.gz").read_bytes()))
    assert len(known) == 176
    for name, plain in known.items():
        assert lost(plain, to_plain(from_plain(Run, plain, source=name))) == [], name


def lost(before, after, prefix=""):
    """Names of settings that are missing or of another value."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [name for key in before for name in lost(before[key], after.get(key, "missing"), f"{prefix}.{key}")]
    return [] if before == after else [prefix]


def test_a_report_and_a_diagnosis(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["report", "runs/slot_attention"]) == 0
    assert main(["doctor", "runs/savi", "--images", "2"]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def test_there_are_folders_of_every_number():
    """A new number of `slotworks.training.serialize.FORMAT` needs a new folder of fixtures, and keeps the old ones."""
    assert all((RUNS.parent / f"runs_{number}" / "runs.tar.xz").is_file() for number in range(1, FORMAT + 1))
    assert all((RUNS.parent / f"published_{number}" / "config.json").is_file() for number in range(1, hub.VERSION + 1))


def test_a_run_says_its_number_and_one_without_is_of_the_first(place, tmp_path):
    old = place / "runs" / "slot_attention"
    assert "format:" not in (old / "run.yaml").read_text()
    run = load_run(old)
    save_run(run, tmp_path / "run.yaml")
    assert (tmp_path / "run.yaml").read_text().startswith(f"format: {FORMAT}\n")
    assert load_run(tmp_path) == run


@pytest.mark.parametrize("number", [FORMAT + 1, 0, "first", True, None])
def test_a_number_that_is_not_known_is_refused_before_the_fields(number, tmp_path):
    (tmp_path / "run.yaml").write_text(f"format: {json.dumps(number)}\nkind: Run\nnew_field: 1\n")
    with pytest.raises(
        UserError, match=f"has the format .*; this slotworks reads up to {FORMAT}. Install a newer one."
    ):
        load_run(tmp_path)


@pytest.mark.parametrize("number", range(1, hub.VERSION + 1))
def test_a_published_folder_of_each_number_says_what_it_said(number):
    folder = RUNS.parent / f"published_{number}"
    assert json.loads((folder / "config.json").read_text())["version"] == number
    _, method = slotworks.from_pretrained(folder, device="cpu")
    with torch.no_grad():
        out = method.encode(torch.linspace(0, 1, 3 * 35 * 35).reshape(1, 3, 35, 35))
    assert weighted(out.slots) == pytest.approx(json.loads((folder / "numbers.json").read_text())["slots"], rel=1e-5)
