"""Parts from outside of the package: by file, by module, and by what an installed package announces."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slotworks import api, protocols, tables
from slotworks.cli import main
from slotworks.evaluation.discovery import score_masks
from slotworks.evaluation.task import TASKS, find
from slotworks.metrics.metric import MaskMetric
from slotworks.parts import import_file
from slotworks.protocols import Protocol
from slotworks.tables import read, task_row
from slotworks.training.serialize import save_run
from slotworks.types import Method, UserError

OWN = (
    Path(__file__).with_name("stripes.py").read_text()
    + """
from slotworks.data.scenes import ShapeScenes
from slotworks.evaluation.masks import inspecting
from slotworks.evaluation.task import Needs, Result, Task, batches, count_images, option, summarize
from slotworks.metrics.metric import MaskMetric, Metric
from slotworks.protocols import Protocol
from slotworks.training import Run

SCENES = ShapeScenes(image_size=32, sizes=(0.25, 0.3), num_train=12, num_val=4, num_test=5)


def stripes():
    return Run(StripesConfig(), SCENES, steps=0, batch_size=2)


@dataclass(frozen=True)
class Options:
    scale: float = option(1.0, "what the brightness is multiplied with")
    twice: bool = option(False, "twice as much")


NEEDS = Needs(fields=("image", "mask"), hint="brightness is that of objects")


def score(job, source, dataset):
    found = []
    with inspecting(job.method, seed=job.seed) as device:
        for _, batch in batches(dataset, count_images(dataset, job.num_images), job.batch_size, device, NEEDS):
            found.append(batch["image"].double().mean((1, 2, 3)).cpu())
    values = torch.cat(found) * job.options.scale * (2 if job.options.twice else 1)
    metrics = {"brightness": summarize(values)}
    return [Result("bright", "mean of all pixels", len(values), job.seed, metrics, {"brightness": values})]


BRIGHT = Task(
    name="bright",
    about="brightness",
    score=score,
    metrics=(Metric(name="brightness", unit="index", better="neither"),),
    needs=NEEDS,
    options=Options,
)

FIRST = MaskMetric(
    name="first", label="First", better="lower", score=lambda counts: (counts.table[:, 0] > 0).double().mean(1)
)
MINE = Protocol(
    name="mine", source="ours", used_by="none", metrics=("fg_ari", "first"), own=(FIRST,), masks="attention"
)
"""
)


def test_a_file_called_like_a_library_does_not_take_its_place(tmp_path, monkeypatch):
    """One that is imported already, and one that is not."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    text = "from dataclasses import dataclass\n\n\n@dataclass\nclass Own:\n    size: 'int' = 3\n"
    for name in ("json", "colorsys"):
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        module = import_file(file)
        assert module.Own().size == 3
        assert import_file(file) is module
    assert sys.modules["json"] is json
    assert not hasattr(importlib.import_module("colorsys"), "Own")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a file of one's own, and a package that announces what is in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("own", "announced_parts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("own.py").write_text(OWN)
    site = tmp_path / "site"
    info = site / "announced_parts-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "announced_parts.py").write_text(OWN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: announced-parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[slotworks.tasks]\nbright = announced_parts:BRIGHT\nbroken = nothing_there:TASK\n"
        "[slotworks.protocols]\nmine = announced_parts:MINE\n"
        "[slotworks.metrics]\nfirst = announced_parts:FIRST\n"
        "[slotworks.recipes]\nstripes = announced_parts:stripes\n"
        "[slotworks.data_sets]\nsmall = announced_parts:SCENES\n"
    )
    monkeypatch.syspath_prepend(site)
    return tmp_path


def records(capsys, *words):
    assert main(["evaluate", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def brightness(count=5):
    """Of the test split, by hand."""
    images = sys.modules["own"].SCENES.open("test").__getitems__(range(count))["image"]
    return (torch.from_numpy(images).float() / 255).double().mean((1, 2, 3))


@pytest.mark.parametrize("name", ["own.py:BRIGHT", "own:BRIGHT", "bright"])
def test_a_task(name, own, capsys, monkeypatch):
    monkeypatch.syspath_prepend(own)
    [record] = records(capsys, "own.py:stripes", "--task", name, "--scale", "0.5")
    assert record["metrics"]["brightness"]["mean"] == pytest.approx(0.5 * brightness().mean().item(), abs=1e-7)
    assert record["metrics"]["brightness"]["n"] == len(record["per_image"]["brightness"]) == 5
    assert (record["protocol"], record["settings"]["options"]) == ("bright", {"scale": 0.5})
    assert json.loads(Path("runs/own.stripes/eval/shape_scenes_plain-test-bright.json").read_text())
    [twice] = records(capsys, "own.py:stripes", "--task", name, "--images", "3", "--twice")
    assert twice["metrics"]["brightness"]["mean"] == pytest.approx(2 * brightness(3).mean().item(), abs=1e-7)


def test_a_task_itself_from_python(own):
    module = import_file(Path("own.py"))
    folder = api.untrained(module.stripes(), "run")
    [record] = api.evaluate(folder, task=module.BRIGHT, num_images=2)
    assert record["metrics"]["brightness"]["n"] == 2
    with pytest.raises(UserError, match="scal is no option of the task bright; nearest: scale"):
        api.evaluate(folder, task=module.BRIGHT, scal=2)


@pytest.mark.parametrize(("protocol", "metric"), [("own.py:MINE", "own.py:FIRST"), ("mine", "first")])
def test_a_protocol_and_a_metric(protocol, metric, own, capsys):
    mine, more = records(capsys, "own.py:stripes", "--protocol", protocol, f"oclf+{metric}")
    assert (mine["protocol"], more["protocol"]) == ("mine", "oclf+first[attention]")
    assert list(mine["metrics"]) == ["fg_ari", "first"]
    assert list(more["metrics"])[-1] == "first"
    assert mine["rules"].startswith("mine: FG-ARI, First; ")
    assert "FG-ARI, ARI, mBO_i, mIoU_i, mBO_c, mIoU_c, CorLoc, recovery, First;" in more["rules"]
    masks = torch.from_numpy(sys.modules["own"].SCENES.open("test").__getitems__(range(5))["mask"]).long()
    ids = range(int(masks.max()) + 1)  # an object, or the background, that has pixels in the first of four stripes
    by_hand = [sum(bool((mask[:, : mask.shape[1] // 4] == k).any()) for k in ids) / len(ids) for mask in masks]
    assert mine["per_image"]["first"] == pytest.approx(by_hand, abs=1e-12)
    assert more["per_image"]["first"] == mine["per_image"]["first"]


def test_units_of_own_metrics_are_the_same_everywhere(own, capsys, monkeypatch):
    """A share is printed in percent, also where nobody knows the metric but the record."""
    monkeypatch.setattr(tables, "_OWN", {})
    [mine] = records(capsys, "own.py:stripes", "--protocol", "own.py:MINE")
    assert mine["about"] == [{"name": "first", "label": "First", "unit": "share", "better": "lower", "about": ""}]
    [bright] = records(capsys, "own.py:stripes", "--task", "own.py:BRIGHT")
    [stored] = [json.loads(path.read_text()) for path in Path("runs/own.stripes/eval").glob("*-bright.json")]
    assert (bright["about"], bright["about"][0]["unit"]) == (stored["about"], "index")
    assert "about" not in records(capsys, "own.py:stripes", "--protocol", "oclf")[0]
    percent = f"{100 * mine['metrics']['first']['mean']:.1f}"
    monkeypatch.setattr(tables, "_OWN", {})
    assert main(["evaluate", "own.py:stripes", "--protocol", "own.py:MINE"]) == 0
    printed = capsys.readouterr().out
    assert f"{percent} ±" in printed
    assert "as they are" not in printed
    monkeypatch.setattr(tables, "_OWN", {})
    assert main(["report", "runs/own.stripes"]) == 0
    page = Path("runs/own.stripes/report.html").read_text()
    assert "First" in page
    assert percent in page
    assert f"{mine['metrics']['first']['mean']:.3f}" not in page


def test_what_a_record_says_of_metrics_is_read_with_care(monkeypatch):
    monkeypatch.setattr(tables, "_OWN", {})
    known = {"name": "dice", "label": "Dice", "unit": "share", "better": "higher", "about": ""}
    for rows in (None, "dice", {"dice": known}, ["dice"], [{**known, "unit": 1}], [{"name": "dice"}]):
        tables.learn(rows)
        assert tables.metric("dice")["unit"] == ""
    tables.learn([{**known, "more": 1}, {**known, "name": "fg_ari", "unit": "dB"}])
    assert tables.metric("dice") == known
    assert tables.metric("fg_ari")["unit"] == "share"


def test_a_recipe_and_a_data_set_that_are_announced(own, capsys):
    [record] = records(capsys, "stripes", "--data", "small", "--protocol", "mine")
    [same] = records(capsys, "own.py:stripes", "--data", "own.py:SCENES", "--protocol", "own.py:MINE")
    assert record["per_image"] == same["per_image"]
    assert Path("runs/stripes/run.yaml").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--task propertys", "There is no task 'propertys'. Nearest: properties, "),
        ("--task broken", "The task broken of an installed package cannot be imported (No module named"),
        (
            "--task own.py:MINE",
            "own.py:MINE is Protocol, no task; expected an instance of slotworks.evaluation.task.Task",
        ),
        ("--task own.py:NOTHING", "own.py has no 'NOTHING'; task own.py:NOTHING was asked for."),
        ("--task nofile.py:TASK", "nofile.py is not a file"),
        ("--task no_module:TASK", "The task no_module:TASK cannot be imported: No module named 'no_module'"),
        ("--protocol olcf", "There is no protocol 'olcf'. Nearest: oclf, "),
        ("--protocol oclf+dise", "There is no metric 'dise'. Nearest: "),
        ("--protocol oclf@x", "There is no protocol 'oclf@x'. Known: oclf, "),
        ("--data clevrtx", "There is no data set 'clevrtx'. Nearest: clevrtex, "),
        ("--task bright --epochs 3", "--epochs belongs to --task properties; the task is bright."),
        ("--scale 2", "unrecognized"),
        ("--task bright --data own.py:stripes", "own.py:stripes is no data set"),
    ],
)
def test_mistakes_in_names(words, sentence, own, capsys, monkeypatch):
    monkeypatch.setattr(api, "load", lambda *args, **options: pytest.fail("the work began"))
    try:
        code = main(["evaluate", "own.py:stripes", *words.split()])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert sentence.lower() in " ".join(capsys.readouterr().err.replace("│", " ").split()).lower()


def test_an_option_that_the_command_has_is_refused(own, capsys):
    Path("own.py").write_text(OWN.replace("    twice: bool", "    seed: bool"))
    assert main(["evaluate", "own.py:stripes", "--task", "own.py:BRIGHT"]) == 2
    assert "The task own.py:BRIGHT has an option --seed, as the command has; rename it." in capsys.readouterr().err


def test_the_three_nearest_are_named(own):
    for name, wanted in (("discovry", "discovery, "), ("brigt", "bright, ")):
        with pytest.raises(UserError) as caught:
            find(name)
        near = str(caught.value).split("Nearest: ")[1].split(". One of")[0]
        assert near.startswith(wanted)
        assert near.count(", ") == 2


def test_what_a_task_needs_is_asked_before_the_work(own, monkeypatch):
    module = import_file(Path("own.py"))
    folder = api.untrained(module.stripes(), "run")
    monkeypatch.setattr(Method, "encode_batch", lambda *args: pytest.fail("the work began"))
    monkeypatch.setattr(module.Stripes, "encode", lambda *args: pytest.fail("the work began"))

    class Draws:
        def draw(self): ...

    def refused(sentence, **needs):
        task = replace(module.BRIGHT, needs=replace(module.NEEDS, **needs), score=lambda *a: pytest.fail("scored"))
        with pytest.raises(UserError, match=sentence):
            api.evaluate(folder, task=task)

    refused(r"This data set has no sound, only image, mask.*; brightness is that of objects\.", fields=("sound",))
    refused("Stripes is no Draws, as the task bright needs", method=Draws)
    refused("Stripes draws nothing; give another run.", method=Draws, lacking="draws nothing; give another run")
    second = replace(module.SCENES, num_test=3)
    monkeypatch.setattr(type(second), "class_names", property(lambda self: None))
    with pytest.raises(UserError, match="shape_scenes_plain does not name classes"):
        api.evaluate(folder, task=replace(module.BRIGHT, needs=replace(module.NEEDS, class_names=True)), data=second)


def test_a_run_folder_does_not_say_what_to_import(own, capsys):
    """A name in a run folder means what was imported already, or what an installed package announces."""
    save_run(replace(import_file(Path("own.py")).stripes(), protocol="own.py:MINE"), Path("run/run.yaml"))
    [record] = api.evaluate("run")
    assert record["protocol"] == "mine"
    del sys.modules["own"]
    with pytest.raises(UserError, match=r"The protocol own.py:MINE is your own, and a file never says what to import"):
        api.evaluate("run")
    assert "own" not in sys.modules
    with pytest.raises(UserError, match=r"The protocol own.py:MINE is your own, and a file never says what to import"):
        protocols.get("own.py:MINE", importing=False)
    with pytest.raises(UserError, match=r"or import announced_parts first"):
        protocols.get("oclf+announced_parts:FIRST", importing=False)
    assert protocols.get("mine", importing=False).name == "mine"


def test_training_with_a_protocol_of_ones_own(own, capsys):
    small = "--steps 1 --eval-every 1 --save-every 1 --eval-images 2 --batch-size 2 --data.num-test 2 --data.num-val 2"
    words = ["train", "slot_attention.tetrominoes_mini", "--out", "run", "--protocol", "own.py:MINE", *small.split()]
    assert main([*words, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]) == {"fg_ari", "first"}
    assert "protocol: own.py:MINE" in Path("run/run.yaml").read_text()


def test_own_metrics_follow_the_rules_of_a_protocol():
    """Which pixels count, and whether the background is an object, is the protocol's to say."""
    seen = {}

    def look(counts):
        seen["table"], seen["objects"] = counts.table, counts.objects
        return counts.table[:, :, 0].sum(1).double()

    metric = MaskMetric(name="background", score=look)
    rules = Protocol(name="r", source="", used_by="", metrics=("background",), own=(metric,))
    pred, mask = torch.tensor([[[0, 1, 1, 0]]]), torch.tensor([[[0, 0, 1, 1]]])
    truth = {"mask": mask, "void": torch.tensor([[[True, False, False, False]]])}
    assert score_masks(rules, pred, truth, num_slots=2)["background"].values.tolist() == [1.0]
    assert seen["table"].tolist() == [[[0, 1], [1, 1]]]
    assert seen["objects"].tolist() == [[False, True]]
    with_void = replace(rules, ignore_void=False, background_in=("background",))
    assert score_masks(with_void, pred, truth, num_slots=2)["background"].values.tolist() == [2.0]
    assert seen["objects"].tolist() == [[True, True]]
    with pytest.raises(ValueError, match="A metric of your own is called ari, as one of the package is"):
        replace(rules, own=(metric, replace(metric, name="ari")))
    with pytest.raises(ValueError, match=r"There is no metric 'dice'; expected some of fg_ari, .*, background"):
        replace(rules, metrics=("dice",))
    assert rules.with_metrics(["ari", "ari"]).metrics == ("background", "ari")


def test_every_task_has_one_shape():
    assert [row["name"] for row in read()["tasks"]] == list(TASKS)
    for name in TASKS:
        task = find(name)
        row = task_row(task)
        assert row == next(known for known in read()["tasks"] if known["name"] == name)
        assert task.name == name
        assert task.metrics
        assert all(one.unit in ("share", "dB", "square", "distance", "index") for one in task.metrics)
        assert all(option["about"] and option["flag"] for option in row["options"])
