"""`slotworks demo glass`, shortened: every step of it, with the diffusion model that comes along."""

import json
from dataclasses import replace

import pytest

from slotworks.cli import demo_glass, main
from slotworks.configs import glass, stable_lsd, synthesis


@pytest.fixture
def short(monkeypatch):
    """Few images everywhere, and few steps of the samplers."""

    def shortened(recipe):
        return replace(recipe, make=lambda: replace(recipe(), batch_size=4, eval_images=4))

    for module, name in ((glass, "scenes_mini"), (glass, "scenes_phase2_mini"), (stable_lsd, "scenes_mini")):
        monkeypatch.setattr(module, name, shortened(getattr(module, name)))
    recipe = synthesis.RECIPES["glass.scenes"]
    monkeypatch.setitem(synthesis.RECIPES, "glass.scenes", lambda: replace(recipe(), steps=2))
    monkeypatch.setattr(demo_glass, "REMOVALS", 4)
    monkeypatch.setattr(demo_glass, "EDIT_STEPS", 2)


@pytest.mark.slow
def test_from_captions_to_an_edited_picture(short, tmp_path, capsys):
    command = ["demo", "glass", "--images", "8", "--steps", "2", "--no-open", "--out", str(tmp_path / "demo")]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == 8
    assert answer["scores"].keys() == {"stable_lsd", "glass", "glass_phase2"}
    # Phase 2 goes on from phase 1, at a rate that leaves the slots as they were.
    assert answer["scores"]["glass_phase2"]["mbo_i"] == pytest.approx(answer["scores"]["glass"]["mbo_i"], abs=0.02)
    assert {path.rpartition("/")[2] for path in answer["edits"]} >= {"scene_edited.png", "scene_sheet.png"}
    page = (tmp_path / "demo" / "glass_phase2" / "report.html").read_text()
    assert page.count('alt="generated sheet"') == page.count('alt="scene sheet"') == 1
    assert main(command) == 0  # everything is there: it only measures
    text = capsys.readouterr()
    assert "StableLSD" in text.out
    assert "Edits that remove their object" in text.out
    for number in range(1, 6):
        assert f"{number} of 5" in text.err
