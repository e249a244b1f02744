"""The verb `table9`: sixteen rows whose recipes exist and print what GLASS prints; scores, or what makes a run."""

import json

import pytest

from slotworks.cli import main
from slotworks.configs import recipes
from slotworks.configs.synthesis import RECIPES as SYNTHESES
from slotworks.configs.table9 import BESIDE, PER_IMAGE, ROWS

KNOWN = recipes()


def test_sixteen_rows_in_the_order_of_the_table():
    assert [row.method for row in ROWS][::5] == ["MaskCLIP", "COMUS", "EmerDiff", "GLASS"]
    assert len({row.method for row in ROWS}) == len(ROWS) == 16
    assert {row.method for row in ROWS + BESIDE} >= set(PER_IMAGE)
    assert all("painted" in row.commands for row in ROWS)


@pytest.mark.parametrize("row", ROWS + BESIDE, ids=lambda row: row.method)
def test_commands_name_recipes(row):
    for where, commands in row.commands.items():
        *before, last = commands
        for command in before + [last] * (" " in last):
            verb, name = command.split()[1:3]
            if verb == "synthesize":
                assert name in SYNTHESES
            elif verb == "train":
                assert KNOWN[name]().steps > 0
        name = row.recipe(where)
        assert bool(KNOWN[name]().steps) == (" " in last)


def test_the_tables_numbers_are_those_of_the_recipes():
    """Of its first and last row; COMUS and DeepSpectral have none on COCO, DiffuMask no recipe there."""
    printed = {row.method: (row.printed("coco"), row.printed("voc"), row.printed("painted")) for row in ROWS}
    assert (printed["MaskCLIP"], printed["GLASS"]) == (("20.6", "38.8", ""), ("46.7", "68.9", ""))
    assert [name for name, (coco, _, _) in printed.items() if not coco] == ["DeepSpectral", "COMUS", "DiffuMask"]
    assert all(voc for _, voc, _ in printed.values())
    assert not any(row.printed(where) for row in BESIDE for where in ("voc", "coco", "painted"))


def test_what_is_there_is_scored_and_of_the_rest_the_commands_are_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["table9", "--images", "4", "--only", "blocks", "CLIPpy", "OVDiff"]
    assert main([*words, "--json"]) == 0
    clippy, ov_diff, blocks = json.loads(capsys.readouterr().out)
    assert (clippy["note"], clippy["commands"]) == ("not trained", ["slotworks train clippy.painted_mini"])
    assert ov_diff["commands"][0] == "slotworks synthesize ov_diff.painted"
    assert "make some with `slotworks synthesize`" in ov_diff["note"]
    assert (blocks["rule"], blocks["images"], blocks["printed"]) == ("per_image", 4, "")
    assert 0 < blocks["miou"] < blocks["pixel_accuracy"] < 1
    record = json.loads(next((tmp_path / "runs/blocks.painted_mini/eval").glob("*.json")).read_text())
    assert record["metrics"]["semantic_miou"]["mean"] == blocks["miou"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "CLIPpy: slotworks train clippy.painted_mini\n" in out
    assert f"{100 * blocks['miou']:.1f}" in out


def test_mistakes(capsys):
    assert main(["table9", "--only", "OVSeg"]) == 2
    assert "Table 9 has no row 'OVSeg'; it has MaskCLIP, SegCLIP" in capsys.readouterr().err
