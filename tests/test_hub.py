"""Trained runs as folders that travel, by a hub that the tests serve on this machine."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from browsers import chromium
from loopback_hub import Hub, serving

import slotworks
from slotworks import api
from slotworks.cli import main
from slotworks.errors import UserError
from slotworks.hub import from_pretrained, local_run, save_pretrained
from slotworks.training import load_run

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture
def hub(tmp_path, monkeypatch, capsys):
    """A hub that this process uses, and a way to run a command: its exit code, what it printed and what it said."""
    from huggingface_hub import constants

    served = Hub()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_me")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serving(served) as address:

        def at(place: str) -> None:
            monkeypatch.setattr(constants, "ENDPOINT", place)
            monkeypatch.setattr(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", place + "/{repo_id}/resolve/{revision}/{filename}"
            )

        def command(*words: object) -> tuple[int, str, str]:
            code = main([str(word) for word in words])
            return code, *capsys.readouterr()

        at(address)
        served.address, served.at = address, at
        yield served, command


def fg_ari(output: str) -> float:
    return json.loads(output)[0]["metrics"]["fg_ari"]["mean"]


def test_pushed_loaded_elsewhere_scored_to_the_last_digit_exported_and_read(tiny_trained, hub, tmp_path):
    """The whole way of a run to somebody else, who has a name and a fresh process."""
    served, command = hub
    code, printed, _ = command(
        "publish", tiny_trained, "hf://me/tetrominoes", "--license", "mit", "--private", "--json"
    )
    assert code == 0
    ((oid, files),) = served.repos["me/tetrominoes"]
    assert json.loads(printed)["place"].endswith(f"/me/tetrominoes/commit/{oid}")
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert served.private["me/tetrominoes"]

    words = ["evaluate", "hf://me/tetrominoes", "--images", "4", "--protocol", "slot-attention", "--device", "cpu"]
    more = {"HF_ENDPOINT": served.address, "HF_HOME": str(tmp_path / "fresh"), "HF_HUB_DISABLE_XET": "1"}
    more["PYTHONPATH"] = str(Path(slotworks.__file__).parents[1])
    more["HF_HUB_OFFLINE"] = "0"  # other tests forbid the network to what they start
    fresh = [sys.executable, "-m", "slotworks", *words, "--json"]
    scored = subprocess.run(fresh, env=os.environ | more, capture_output=True, text=True, timeout=300)
    assert scored.returncode == 0, scored.stderr
    before = json.loads((tiny_trained / "eval" / "tetromino_scenes-test-slot-attention.json").read_text())
    assert fg_ari(scored.stdout) == before["metrics"]["fg_ari"]["mean"]
    place = tmp_path / "runs" / "hub" / f"me--tetrominoes@{oid[:12]}"
    assert (place / "eval" / "tetromino_scenes-test-slot-attention.json").is_file()

    programs: dict[str, dict] = {}
    for to in ("onnx", "torch") if ONNX else ("torch",):
        words = ["export", "hf://me/tetrominoes", "--to", to, "--out", f"exported_{to}", "--json"]
        fresh = [sys.executable, "-m", "slotworks", *words]  # the checks of shapes in tests cannot be traced
        written = subprocess.run(fresh, env=os.environ | more, capture_output=True, text=True, timeout=300)
        assert written.returncode == 0, written.stderr
        programs = {one["name"]: one for one in json.loads(written.stdout)["programs"]}
        assert all(one["checked"] and one["difference"] <= 1e-4 for one in programs.values())
        assert next(iter(programs["encoder"]["outputs"])) == "slots"
    images = torch.rand(2, 3, 35, 35)
    found, *_ = torch.export.load(tmp_path / "exported_torch" / programs["encoder"]["file"]).module()(images)
    slots = from_pretrained("hf://me/tetrominoes", device="cpu")[1].encode(images).slots
    torch.testing.assert_close(found, slots, rtol=0, atol=1e-4)

    shown = in_a_browser(files["README.md"].decode(), tmp_path)
    assert shown["headings"] == ["Slot Attention on drawn Tetrominoes", *shown["headings"][1:]]
    assert f"{100 * before['metrics']['fg_ari']['mean']:.1f}" in shown["cells"]
    assert not shown["errors"]


def in_a_browser(card: str, folder: Path) -> dict:
    """Headings, text of cells and errors of a card as the hub's page shows it: its head hidden, the rest Markdown."""
    markdown = pytest.importorskip("markdown")
    playwright = pytest.importorskip("playwright.sync_api")
    path = chromium()
    body = markdown.markdown(card.split("---\n", 2)[2], extensions=["tables", "fenced_code"])
    (folder / "card.html").write_text(f"<!doctype html><meta charset=utf-8>{body}", encoding="utf-8")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 900, "height": 1200})
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto((folder / "card.html").as_uri(), timeout=120_000)
        tab.screenshot(path=folder / "card.png", full_page=True)
        headings = tab.locator("h1, h2").all_inner_texts()
        cells = " ".join(tab.locator("td").all_inner_texts())
        browser.close()
    return {"headings": headings, "cells": cells, "errors": errors}


def test_what_was_had_serves_without_a_network(tiny_trained, hub, tmp_path):
    served, command = hub
    assert command("publish", tiny_trained, "hf://me/a")[0] == 0
    ((oid, _),) = served.repos["me/a"]
    assert command("report", "hf://me/a")[0] == 0
    served.at("http://127.0.0.1:9")
    asked = len(served.asked)
    for name in ("hf://me/a", f"hf://me/a@{oid}"):
        assert command("doctor", name, "--images", 4)[0] in (0, 1)
    assert len(served.asked) == asked
    assert (tmp_path / "runs" / "hub" / f"me--a@{oid[:12]}" / "report.html").is_file()


def test_a_new_commit_is_a_run_of_its_own(tiny_trained, hub, tmp_path):
    served, command = hub
    assert command("publish", tiny_trained, "hf://me/a")[0] == 0
    assert command("publish", tiny_trained, "hf://me/a")[0] == 0  # the repository may be there
    old, new = (oid for oid, _ in served.repos["me/a"])
    for name in ("hf://me/a", f"hf://me/a@{old}"):
        assert command("report", name)[0] == 0
    assert {path.name for path in (tmp_path / "runs" / "hub").iterdir()} == {f"me--a@{o[:12]}" for o in (old, new)}


def refused(command, *words) -> str:
    code, _, said = command(*words)
    assert code == 2
    return " ".join(said.split())


def test_refusals_of_the_hub_are_one_sentence(tiny_trained, hub, monkeypatch):
    served, command = hub
    assert command("publish", tiny_trained, "hf://me/a")[0] == 0
    assert "me/none could not be had on the hub: there is none of this" in refused(command, "report", "hf://me/none")
    assert "me/a@v9 could not be had on the hub: it has no such rev" in refused(command, "report", "hf://me/a@v9")
    served.gated.add("me/b")
    assert "its owner asks who wants it" in refused(command, "report", "hf://me/b")
    served.commit("me/c", {"README.md": b"something else"})
    assert "it lacks config.json or model.safetensors" in refused(command, "report", "hf://me/c")
    served.commit("me/d", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""})
    assert "is of another kind of model" in refused(command, "report", "hf://me/d")
    assert "it is no name on the hub" in refused(command, "report", "hf://only-one-word")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "me/e could not be written on the hub" in refused(command, "publish", tiny_trained, "hf://me/e")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub tries six times, for half a minute
    served.at("http://127.0.0.1:9")
    assert "is not on this machine" in refused(command, "report", "hf://me/f")


def test_a_download_that_breaks_is_no_model(tiny_trained, hub, tmp_path):
    served, command = hub
    assert command("publish", tiny_trained, "hf://me/a")[0] == 0
    served.cut.add("model.safetensors")
    assert "me/a could not be had on the hub" in refused(command, "report", "hf://me/a")
    assert not (tmp_path / "runs").exists()
    served.cut.clear()
    assert command("report", "hf://me/a")[0] == 0


def test_a_folder_is_enough(tiny_trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["publish", str(tiny_trained), "mine"]) == 0
    run, method = from_pretrained("mine", device="cpu")
    own_run, own = api.load(tiny_trained, device="cpu")
    assert run == own_run
    assert not method.training
    images = torch.rand(2, 3, 35, 35)
    torch.testing.assert_close(method.encode(images).slots, own.encode(images).slots, rtol=0, atol=0)
    assert from_pretrained(tiny_trained, device="cpu")[0] == own_run
    folder = local_run("mine")
    assert load_run(folder) == own_run
    assert local_run("mine") == folder
    assert main(["segment", "mine", str(tiny_trained / "samples" / "step_0000003.png"), "--out", "masks"]) == 0
    assert main(["publish", str(tiny_trained), "mine"]) == 0  # its own folder may be written anew
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    assert main(["publish", str(tiny_trained), "other"]) == 2
    assert "holds something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "it is damaged or changed"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (lambda folder: edit(folder, version=9), "has format 9; this slotworks reads 1"),
        (lambda folder: edit(folder, step="many"), "does not say how long it was trained"),
        (lambda folder: edit(folder, run={"kind": "os.system"}), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "is damaged"),
    ],
)
def test_damaged_folders_are_refused(tiny_trained, tmp_path, change, sentence):
    folder = save_pretrained(tiny_trained, tmp_path / "mine")
    change(folder)
    with pytest.raises(UserError, match=sentence):
        from_pretrained(folder)


def edit(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_card_says_what_the_records_say(tiny_trained, tmp_path):
    text = (save_pretrained(tiny_trained, tmp_path / "mine", license="mit", pictures=True) / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "slotworks",
        "license": "mit",
        "tags": ["object-centric-learning", "slots", "slotattention"],
    }
    record = json.loads((tiny_trained / "eval" / "tetromino_scenes-test-slot-attention.json").read_text())
    value = record["metrics"]["fg_ari"]
    numbers = f"FG-ARI {100 * value['mean']:.1f} ± {100 * value['sem']:.1f}"
    assert f"| tetromino_scenes | test | slot-attention | 4 | 0 | {numbers}" in body
    assert "3 steps of 2" in body
    assert "| slot_dim | `8` |" in body
    assert "![" in body
    assert (tmp_path / "mine" / "masks.png").read_bytes() == (
        tiny_trained / "samples" / "step_0000003.png"
    ).read_bytes()
    plain = (save_pretrained(tiny_trained, tmp_path / "plain") / "README.md").read_text()
    assert "license: other" in plain
    assert "did not say" in plain
    assert "![" not in plain


def test_paths_of_this_machine_stay_here(tiny_trained, tmp_path):
    run = load_run(tiny_trained)
    from slotworks.data import Tetrominoes
    from slotworks.hub import _portable

    secret = replace(run, data=Tetrominoes(root=str(tmp_path / "home" / "me" / "data")))
    portable, left = _portable(secret)
    assert portable.data == Tetrominoes()
    assert left == ["data.root"]
    assert _portable(run) == (run, [])


def test_a_network_from_a_folder_is_not_taken_for_another(tmp_path):
    from slotworks.encoders import ViTConfig
    from slotworks.hub import _portable
    from slotworks.methods import DinosaurConfig

    own = ViTConfig(str(tmp_path / "my_vit"))  # as wide as the default's, so that the default would fit
    portable, left = _portable(DinosaurConfig(encoder=own))
    assert portable.encoder == replace(own, model="my_vit")
    assert left == ["encoder.model"]
