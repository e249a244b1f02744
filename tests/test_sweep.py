"""`slotworks sweep`: combinations, ablations, resuming, the table and the plot."""

import csv
import json
import signal

import numpy as np
import pytest
from PIL import Image

from slotworks.cli import main
from slotworks.cli.sweep import Variant, _one, _runs, combinations, find_ablations, setting_words
from slotworks.cli.train import build
from slotworks.configs.ablations import ABLATIONS
from slotworks.reports.sweep import as_csv, as_markdown, write_sweep
from slotworks.training.serialize import load_run, save_run
from slotworks.types import UserError

RECIPE = "ablations.discovery_mini"
SMALL = (
    "--steps 2 --eval-every 2 --save-every 2 --eval-images 2 --batch-size 2 --data.num-test 2 --data.num-val 2 "
    "--data.num-train 4 --method.channels 4 --method.slot-dim 4 --no-tensorboard"
).split()


def row(group, label, *seeds, metric="fg_ari", diverged=0, failed=()):
    metrics = {metric: {"mean": float(np.mean(seeds)), "std": 0.05, "seeds": list(seeds)}} if seeds else {}
    counts = {"diverged": diverged, "failed": list(failed), "seconds": 1.0}
    return {"group": group, "variant": label, "settings": "", **counts, "metrics": metrics}


def test_settings_are_words_of_the_command_line():
    assert setting_words("method.num-slots=7") == ["--method.num-slots", "7"]
    assert setting_words("method.encoder-strides=2 1 1") == ["--method.encoder-strides", "2", "1", "1"]
    assert setting_words("method.layer-norm=False") == ["--method.no-layer-norm"]
    assert setting_words("channels_last=True") == ["--channels_last"]
    with pytest.raises(UserError, match="--set steps has no value; write FIELD=VALUE"):
        setting_words("steps")


def test_all_combinations():
    variants = combinations(["method.num-slots=4,7", "optimizer.lr=1e-3,2e-3"])
    assert [variant.label for variant in variants] == [
        "num-slots=4, lr=1e-3",
        "num-slots=4, lr=2e-3",
        "num-slots=7, lr=1e-3",
        "num-slots=7, lr=2e-3",
    ]
    assert variants[1] == Variant("", "num-slots=4, lr=2e-3", ("method.num-slots=4", "optimizer.lr=2e-3"))
    with pytest.raises(UserError, match=r"--set method.num-slots=4, has no values; write FIELD=A,B"):
        combinations(["method.num-slots=4,"])


FIGURES = {f"figure {number}" for number in range(1, 14)} | {"figure 17", "the limit of soft k-means"}


def test_the_list_has_every_figure_of_the_supplement():
    named = {
        text
        for text in FIGURES
        for ablation in ABLATIONS.values()
        if ablation.about.startswith((text + ":", text + ","))
    }
    assert named == FIGURES


@pytest.mark.parametrize(
    ("recipe", "impossible"),
    [
        (RECIPE, []),
        ("ablations.sets_mini", []),
        ("slot_attention.tetrominoes", ["soft_kmeans: soft k-means. soft_kmeans compares slots with features, but"]),
        (
            "set_prediction.clevr10",
            [
                "num_slots: 6. Images hold up to 10 objects but the method predicts 6; set",
                "num_slots: 10. That is the recipe itself.",
            ],
        ),
    ],
)
def test_every_ablation_changes_one_thing_of_the_recipe(recipe, impossible, capsys):
    """What cannot be is left out with a sentence, and the rest goes on."""
    plain = build(recipe, [])
    variants = find_ablations(recipe, "all")
    runs, left_out = _runs(recipe, variants, [])
    assert all(run != plain for variant, run in runs.items() if not variant.is_default)
    assert len(runs) == len(variants) - len(impossible)
    said = capsys.readouterr().err
    for sentence, expected in zip(left_out, impossible, strict=True):
        assert sentence.startswith(f"Left out: {expected}")
        assert sentence in said
    sets = hasattr(plain.method, "categories")
    unasked = set(ABLATIONS) - {variant.group for variant in variants}
    assert unasked == ({"soft_kmeans"} if sets else {"stepwise_loss", "coordinate_scale"})


def test_figure_13_trains_as_many_slots_as_ten_objects_need():
    """Of CLEVR6, as its text says: sets have a slot for each object, discovery one more."""
    for recipe, own, slots in (("slot_attention.clevr6", 7, 11), ("set_prediction.clevr6", 6, 10)):
        runs, left_out = _runs(recipe, find_ablations(recipe, "num_slots"), [])
        assert [run.method.num_slots for run in runs.values()] == [own, slots]
        assert left_out == [f"Left out: num_slots: {own}. That is the recipe itself."]


def test_ablations_of_another_network_are_left_out():
    """SlotDiffusion's ResNet has no features without positions."""
    _, left_out = _runs("slot_attention.clevrtex", find_ablations("slot_attention.clevrtex", "position_embedding"), [])
    assert left_out[0].startswith("Left out: position_embedding: without. method.position_embedding is False, which")


def test_a_recipe_that_cannot_be_is_a_mistake():
    """Its variants are changes of it: there is nothing to compare with."""
    with pytest.raises(UserError, match="Images hold up to 10 objects but the method predicts 5"):
        _runs("set_prediction.clevr10", find_ablations("set_prediction.clevr10", "update"), ["--method.num-slots", "5"])


def test_what_fails_is_a_row_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    from slotworks import api

    train = api.train

    def fails_once(run, folder, **options):
        if run.method.update == "replace":
            raise RuntimeError("the accelerator is out of memory")
        return train(run, folder, **options)

    monkeypatch.setattr(api, "train", fails_once)
    words = ["sweep", RECIPE, *SMALL, "--out", str(tmp_path), "--set", "method.update=replace,gru", "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [(r["variant"], r["failed"], bool(r["metrics"])) for r in rows] == [
        ("update=replace", ["RuntimeError: the accelerator is out of memory"], False),
        ("update=gru", [], True),
    ]
    told = next(tmp_path.rglob("traceback.txt"))
    assert f"Failed: RuntimeError: the accelerator is out of memory ({told} says where)" in printed.err
    assert "in fails_once" in told.read_text()
    table = (tmp_path / "table.md").read_text()
    assert "Failed: update=replace. RuntimeError: the accelerator is out of memory" in table
    monkeypatch.setattr(api, "train", train)
    assert main(words) == 0  # it is tried again
    assert all(r["metrics"] and not r["failed"] for r in json.loads(capsys.readouterr().out))
    assert not list(tmp_path.rglob("traceback.txt"))


def test_a_recipe_that_fails_is_tried_once_for_all_its_ablations(tmp_path, monkeypatch, capsys):
    from slotworks import api

    tried = []

    def fails(run, folder, **options):
        tried.append(folder)
        raise RuntimeError("no")

    monkeypatch.setattr(api, "train", fails)
    words = ["sweep", RECIPE, *SMALL, "--out", str(tmp_path), "--ablation", "update,mlp", "--json"]
    assert main(words) == 0
    assert [r["failed"] for r in json.loads(capsys.readouterr().out)] == [["RuntimeError: no"]] * 4
    assert [folder.parent.name for folder in tried] == ["default", "update=replace", "mlp=without"]


@pytest.mark.parametrize("text", ["", "[1]", "[" * 100_000])
def test_a_damaged_result_is_named(tmp_path, text):
    save_run(build(RECIPE, SMALL), tmp_path / "run.yaml")
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"result\.json is damaged \(.*\); delete it to have the run measured anew"):
        _one(load_run(tmp_path), tmp_path, "cpu")


def test_missing_data_are_no_failure_of_each_variant(tmp_path, capsys):
    words = ["sweep", "slot_attention.tetrominoes", "--ablation", "update", "--data.root", str(tmp_path / "none")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_ablations():
    with pytest.raises(
        UserError, match=r"There is no ablation 'soft_kmeans' of ablations.sets_mini; the known ones are agg"
    ):
        find_ablations("ablations.sets_mini", "update,soft_kmeans")


def test_a_sweep_trains_measures_compares_and_resumes(tmp_path, capsys):
    words = [
        "sweep",
        RECIPE,
        *SMALL,
        "--out",
        str(tmp_path),
        "--seeds",
        "2",
        "--ablation",
        "update,soft_kmeans",
        "--json",
    ]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["group"], r["variant"]) for r in rows] == [
        ("update", "GRU"),
        ("update", "replace"),
        ("soft_kmeans", "Slot Attention"),
        ("soft_kmeans", "soft k-means"),
    ]
    assert rows[0]["metrics"] == rows[2]["metrics"]  # trained once
    assert rows[0]["metrics"] != rows[1]["metrics"]
    assert all(len(r["metrics"]["fg_ari"]["seeds"]) == 2 for r in rows)
    folders = sorted(path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("run.yaml"))
    assert folders == [
        f"{name}/seed{k}" for name in ("default", "soft_kmeans=soft_k-means", "update=replace") for k in (0, 1)
    ]
    table = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [float(line["fg_ari_mean"]) for line in table] == [r["metrics"]["fg_ari"]["mean"] for r in rows]
    assert (tmp_path / "table.md").read_text().count("\n| ") == 2 + 4
    assert Image.open(tmp_path / "plot.png").size[0] > 400

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoints/*")}
    assert before
    assert main(words) == 0  # nothing is trained again
    assert json.loads(capsys.readouterr().out) == rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoints/*")} == before


def test_a_killed_sweep_keeps_what_is_finished(tmp_path, monkeypatch, capsys):
    from slotworks import api

    train, calls = api.train, []

    def stops_in_the_second(run, folder, **options):
        calls.append(folder)
        if len(calls) == 2:
            return {**train(run, folder, stop_after=1, **options), "signal": signal.SIGINT}  # what Ctrl-C leaves
        return train(run, folder, **options)

    monkeypatch.setattr(api, "train", stops_in_the_second)
    words = ["sweep", RECIPE, *SMALL, "--out", str(tmp_path), "--set", "method.update=gru,replace", "--json"]
    assert main(words) == 130
    assert "Stopped; the same command goes on from there." in capsys.readouterr().err
    assert [line["variant"] for line in csv.DictReader((tmp_path / "table.csv").open())] == ["update=gru"]
    assert main(words) == 0
    assert [r["variant"] for r in json.loads(capsys.readouterr().out)] == ["update=gru", "update=replace"]
    assert calls == [tmp_path / "update=gru/seed0", *[tmp_path / "update=replace/seed0"] * 2]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--set", "method.num-slots=4", "--ablation", "all"], "Give --set with a field and its values, or --ablation"),
        ([], "Give --set with a field and its values, or --ablation"),
        (["--set"], "--set needs a value"),
        (["--ablation", "all", "--seeds", "0"], "--seeds is 0; expected a number of seeds"),
    ],
)
def test_mistakes(words, text, capsys):
    assert main(["sweep", RECIPE, *words]) == 2
    assert text in capsys.readouterr().err


ROWS = [
    row("update", "GRU", 0.8, 0.9),
    row("update", "replace", 0.5, 0.7, diverged=1),
    row("mlp", "with", failed=["Out of memory."] * 2),
]


def test_tables_by_hand():
    lines = as_markdown(ROWS, ["fg_ari"], "title", ["Left out: no_slots."]).splitlines()
    assert lines[4:] == [
        "| ablation | variant | fg_ari | seeds |",
        "| --- | --- | --- | --- |",
        "| update | GRU | 85.0 ± 5.0 | 2 |",
        "|  | replace | 60.0 ± 5.0 | 2, 1 diverged |",
        "| mlp | with | - | 0, 2 failed |",
        "",
        "Failed: mlp: with. Out of memory.",
        "",
        "Left out: no_slots.",
    ]
    assert as_csv(ROWS[:1], ["fg_ari"]).splitlines() == [
        "group,variant,settings,seeds,diverged,failed,seconds,fg_ari_mean,fg_ari_std,fg_ari_seeds",
        "update,GRU,,2,0,0,1.0," + f"{np.mean([0.8, 0.9])}," + "0.05,0.8 0.9",
    ]


def test_the_plot_names_what_it_cannot_show(tmp_path):
    with pytest.raises(UserError, match="There is no metric 'ari' to plot; there are fg_ari"):
        write_sweep(ROWS, tmp_path, title="t", plotted=["ari"])
    assert not list(tmp_path.iterdir())
