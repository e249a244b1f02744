"""`slotworks edit` from outside."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slotworks.cli import main
from slotworks.configs.slot_attention import tetrominoes_long_mini
from slotworks.training import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of two steps, and two pictures."""
    folder = tmp_path_factory.mktemp("edit")
    recipe = tetrominoes_long_mini()
    method = replace(recipe.method, initializer="gaussian", channels=8, slot_dim=16, test_iterations=1)
    train(replace(recipe, method=method, steps=2, batch_size=2), folder / "run")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        pixels = rng.integers(0, 255, (5, 6, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        Image.fromarray(pixels).save(folder / name)
    return folder


def run(folder: Path, monkeypatch, capsys, words: str) -> list[dict]:
    monkeypatch.chdir(folder)
    assert main(["edit", "run", *words.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_removes_the_slot_that_segment_shows(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["segment", "run", "a.png", "--out", "segments", "--json"]) == 0
    capsys.readouterr()
    labels = np.asarray(Image.open("segments/a_mask.png"))
    [by_pixel] = run(folder, monkeypatch, capsys, "a.png --remove-at 59,49 --out pixel")
    assert by_pixel["edit"] == f"removed slot {labels[49, 59]} (drop)"
    [by_number] = run(folder, monkeypatch, capsys, f"a.png --remove {labels[49, 59]} --out number")
    for kind in ("original", "recon", "edited", "mask", "sheet"):
        assert Path(f"pixel/a_{kind}.png").read_bytes() == Path(f"number/a_{kind}.png").read_bytes(), kind
    np.testing.assert_array_equal(np.asarray(Image.open("pixel/a_mask.png")), labels)
    assert by_number["written"][-1] == "number/a_sheet.png"
    assert Path("pixel/a_recon.png").read_bytes() != Path("pixel/a_edited.png").read_bytes()
    assert (by_number["slots"], by_number["edited_slots"]) == (4, 3)


def test_slots_of_another_picture(folder, monkeypatch, capsys):
    [added] = run(folder, monkeypatch, capsys, "a.png --add b.png:0 b.png:3 --out add")
    assert added["edited_slots"] == 6
    [replaced] = run(folder, monkeypatch, capsys, "a.png --add b.png:0 --replace 2 --out replace")
    assert replaced["edit"] == "added slot 0 of b.png in the place of slot 2"
    swapped = run(folder, monkeypatch, capsys, "a.png --swap 2:b.png:0 --out swap")
    assert [answer["file"] for answer in swapped] == ["a.png", "b.png"]
    assert Path("swap/a_edited.png").read_bytes() == Path("replace/a_edited.png").read_bytes()
    moved = run(folder, monkeypatch, capsys, "a.png --move 2:b.png --how mean --out move")
    assert [answer["edited_slots"] for answer in moved] == [4, 5]


def test_it_says_what_it_did(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main("edit run a.png --remove 0 3 --how zero --num-slots 5".split()) == 0
    text = capsys.readouterr().out.strip()
    assert text == "a.png: removed slots 0, 3 (zero); 5 slots before, 5 now; edits/a_sheet.png"


def test_the_seed_decides_which_slot_is_which(folder, monkeypatch, capsys):
    [first] = run(folder, monkeypatch, capsys, "a.png --remove 1 --out seed0")
    [other] = run(folder, monkeypatch, capsys, "a.png --remove 1 --seed 1 --out seed1")
    assert (first["seed"], other["seed"]) == (0, 1)
    assert Path("seed0/a_mask.png").read_bytes() != Path("seed1/a_mask.png").read_bytes()


def test_precision_is_that_of_the_pictures(folder, monkeypatch, capsys):
    """Slots are found in float32 whatever it is: the masks are equal, the pictures are near."""
    run(folder, monkeypatch, capsys, "a.png --remove 1 --out float32")
    run(folder, monkeypatch, capsys, "a.png --remove 1 --precision bf16 --out bf16")
    assert Path("float32/a_mask.png").read_bytes() == Path("bf16/a_mask.png").read_bytes()
    one, other = (np.asarray(Image.open(f"{name}/a_edited.png")).astype(int) for name in ("float32", "bf16"))
    assert 0 < abs(one - other).max() <= 8


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["edit", "--help"])
    assert "Examples:\n  slotworks edit" in capsys.readouterr().out


MISTAKES = {
    "run a.png": "Ask for exactly one change, remove, add, swap or move; given: none",
    "run a.png --remove 4": "There is no slot 4: the picture has 4 slots, numbered 0 to 3",
    "run a.png --remove-at 60,0": "The pixel 60,0 lies outside the picture of 60 x 50 pixels",
    "run a.png --remove-at 60": "--remove-at 60 is no pixel; write X,Y",
    "run a.png --add b.png": "--add b.png names no slot of another picture; write OTHER:K",
    "run a.png --add b.png:x": "--add b.png:x has 'x' for a slot",
    "run a.png --add c.png:0": "c.png cannot be read as a picture",
    "run a.png --swap 1:2": "--swap 1:2 names no slot of another picture; write K:OTHER:L",
    "run a.png --move 1": "--move 1 names no other picture; write K:OTHER",
    "run c.png --remove 0": "c.png cannot be read as a picture",
    "nowhere a.png --remove 0": "nowhere.run.yaml does not exist",
    "run a.png --remove 0 --renderer sample": "SlotAttentionAutoencoder cannot generate pictures",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_gets_one_sentence_and_exit_code_2(words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["edit", *words.split(), "--out", "mistake"]) == 2
    message = capsys.readouterr().err.strip()
    assert re.search(MISTAKES[words], message), message
    assert len(message.splitlines()) == 1
    assert not Path("mistake").exists()
