"""`slotworks demo glass`, shortened: every step of it, with the diffusion model that comes along."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from slotworks.cli import demo_glass, main
from slotworks.configs import glass, synthesis


@pytest.fixture
def short(monkeypatch):
    """Few images everywhere, and few steps of the samplers."""

    def shortened(recipe):
        return replace(recipe, make=lambda: replace(recipe(), batch_size=4, eval_images=4))

    for name in ("painted_mini", "painted_phase2_mini"):
        monkeypatch.setattr(glass, name, shortened(getattr(glass, name)))
    recipe = synthesis.RECIPES["glass.painted"]
    monkeypatch.setitem(synthesis.RECIPES, "glass.painted", lambda: replace(recipe(), steps=2))
    monkeypatch.setattr(demo_glass, "EDITS", 4)
    monkeypatch.setattr(demo_glass, "SHOWN", 3)
    monkeypatch.setattr(demo_glass, "EDIT_STEPS", 2)


@pytest.mark.slow
def test_from_captions_to_an_edited_picture(short, tmp_path, capsys):
    command = ["demo", "glass", "--images", "8", "--steps", "2", "--no-open", "--out", str(tmp_path / "demo")]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == 8
    assert answer["scores"].keys() == {"glass", "glass_phase2"}
    # Phase 2 goes on from phase 1, and leaves the slots as they were.
    assert answer["scores"]["glass_phase2"]["mbo_i"] == pytest.approx(answer["scores"]["glass"]["mbo_i"], abs=1e-6)
    assert answer["edits"].keys() >= {"placed", "removal", "added", "swapped"}
    with Image.open(answer["sheet"]) as sheet:
        assert sheet.size == (7 * 100 + 4, 3 * 100 + 4)  # scene, true masks, slots, drawn again and three edits
    page = (tmp_path / "demo" / "glass_phase2" / "report.html").read_text()
    assert page.count('alt="generated sheet"') == page.count('alt="edits sheet"') == 1
    assert main(command) == 0  # everything is there: it only measures
    text = capsys.readouterr()
    assert "Edits that land where they should" in text.out
    for number in range(1, 6):
        assert f"{number} of 5" in text.err
