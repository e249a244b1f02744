"""Recipes and data sets as the command line lists them: the written table is that of the code, and words find rows."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from slotworks import tables
from slotworks.cli import main
from slotworks.configs import find, recipes
from slotworks.configs.quoted import QUOTED
from slotworks.types import UserError

ROWS = tables.read()["recipes"]
PAGES = tables.pages()
PLACE = re.compile(r"tables? \w|figure \d|appendix|README|reference page|configs/")  # of a paper, or a file of its code
OURS = {  # no paper has them: the choice of another code, and what comes with the package
    *("deep_spectral.coco", "diff_cut.voc_sd14", "savi.scenes_mini_frames", "savi.painted_mini_frames"),
    "tiny_clip.painted",
    "tiny_diffusion.scenes",
    *(
        "dinosaur.photos_mlp",
        "dinosaur.photos_mlp_round2",
        "dinosaur.collages_mlp",
        "dinosaur.collages_mlp_round2",
        "dinosaur.photos_transformer",
    ),
    *("spot.photos", "spot.photos_stage2"),
    *("painted_diffusion.scenes", "painted_diffusion.scenes_words"),
}


@pytest.mark.parametrize("part", tables.read())
def test_the_written_table_is_up_to_date(part):
    """After a change of a recipe or of the catalogue: `python -m slotworks.tables`."""
    assert tables.make()[part] == tables.read()[part]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_marked_tables_of_the_pages_are_up_to_date(page):
    """After a change of a recipe: `python -m slotworks.tables`."""
    text = page.read_text(encoding="utf-8")
    assert tables.fill(text, ROWS) == text
    assert sum(text.count(f"<!-- {kind} ") for kind in ("recipes", "departures", "quoted")) == text.count(
        "<!-- end -->"
    )


def test_a_marked_table_is_written_from_the_recipes():
    """Own words around it stay; patterns choose rows, `!` leaves some out, a number that is missing is a dash."""
    mark = "<!-- recipes slot_attention.t* spot.coco !*_mini: recipe, steps x batch, FG-ARI -->\n"
    assert tables.fill(f"Before.\n{mark}old\n<!-- end -->\n", ROWS) == (
        f"Before.\n{mark}"
        "| recipe | steps x batch | FG-ARI |\n| --- | --- | --- |\n"
        "| `slot_attention.tetrominoes` | 500,000 x 64 | 99.5 +- 0.2 |\n"
        "| `spot.coco` | 92,400 x 64 | - |\n<!-- end -->\n"
    )


def test_what_a_published_row_still_needs(tmp_path, monkeypatch, capsys):
    """Files, weights, earlier commands and hours that `slotworks plan` counts; what is there is not named."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert main(["recipes", "deep_spectral", "--published", "--json"]) == 0
    found = {answer["name"]: answer for answer in json.loads(capsys.readouterr().out)}
    assert set(found) == {"deep_spectral.voc", "deep_spectral.voc_crf", "deep_spectral.voc_stage2"}
    assert found["deep_spectral.voc"]["weights"] == ["facebook/dino-vits16"]
    assert found["deep_spectral.voc"]["gpu_hours"] == 0
    assert found["deep_spectral.voc"]["files"][0].startswith("voc2012 in data/VOCdevkit (1.9 GB")
    second = found["deep_spectral.voc_stage2"]
    assert second["files"] == ["voc2012 in data/VOCdevkit"]
    assert second["weights"] == ["Ramos-Ramos/dino-resnet-50"]
    assert second["first"] == ["slotworks label deep_spectral.voc_crf"]
    assert main(["plan", "deep_spectral.voc_stage2", "--json"]) == 0
    assert second["gpu_hours"] == json.loads(capsys.readouterr().out)["gpu_hours"] > 0
    snapshot = tmp_path / "cache/models--Ramos-Ramos--dino-resnet-50/snapshots/0a1b"
    for place in (tmp_path / "data/VOCdevkit", tmp_path / "data/generated/deep_spectral.voc_crf", snapshot):
        place.mkdir(parents=True)
    (snapshot / "config.json").touch()  # of a download that was cut off
    assert main(["recipes", "deep_spectral.voc_stage2", "--published"]) == 0
    assert "weights    Ramos-Ramos/dino-resnet-50" in capsys.readouterr().out
    (snapshot / "pytorch_model.bin").touch()
    assert main(["recipes", "deep_spectral.voc_stage2", "--published"]) == 0
    printed = capsys.readouterr().out
    assert "files      there" in printed
    assert "first      nothing" in printed
    assert "Ramos" not in printed
    assert main(["recipes", "deep_spectral", "mini", "--published"]) == 2
    assert "is a row of a paper; leave --published out" in capsys.readouterr().err


def test_rows_that_are_only_quoted_say_so():
    """Every table of `slotworks/configs/quoted.py` stands on a page, each row with its source."""
    text = tables.fill("<!-- quoted slot_attention_table_1 -->\nold\n<!-- end -->\n", ROWS)
    assert text.startswith(
        "<!-- quoted slot_attention_table_1 -->\n| quoted | CLEVR6 | Multi-dSprites | Tetrominoes | source |\n"
    )
    source = "Locatello et al. 2020, table 1, which quotes it"
    assert f"| MONet | 96.2 +- 0.6 | 90.4 +- 0.8 | - | {source} |\n<!-- end -->\n" in text
    shown = [found[1] for page in PAGES for found in tables._QUOTED.finditer(page.read_text("utf-8"))]
    assert sorted(shown) == sorted(QUOTED)
    assert all(PLACE.search(row.source) for rows in QUOTED.values() for row in rows)
    with pytest.raises(UserError, match=r"is to quote nobody; .* has slot_attention_table_1, "):
        tables.fill("<!-- quoted nobody -->\n<!-- end -->\n", ROWS)


@pytest.mark.parametrize("mark", ["slot_atention.*: recipe", "slot_attention.*: recipe, FG-ARRI"])
def test_a_mark_without_rows_or_numbers_is_refused(mark):
    with pytest.raises(UserError, match=r"has nothing to say for its (recipe slot_at|column FG-ARRI)"):
        tables.fill(f"<!-- recipes {mark} -->\n<!-- end -->\n", ROWS)


@pytest.mark.parametrize("name", recipes())
def test_each_recipe_says_what_it_is_and_where_it_comes_from(name):
    """One line, what it takes, and a source that names the place in it; what no paper prints is known by name."""
    recipe = recipes()[name]
    assert recipe.about.endswith(".")
    assert "\n" not in recipe.about
    assert recipe.takes
    for published in recipe.published:
        assert PLACE.search(published.source), published.source
        assert published.numbers or published.note
        assert all(re.match(r"\d", value) for value in published.numbers.values())
    ours = name.endswith("_mini") or name.startswith(("blocks.", "feature_kmeans.")) or name in OURS
    assert bool(recipe.published) != ours


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_an_own_number_is_that_of_the_record_or_says_that_there_is_none(row):
    recorded, no_record = tables.own(row["name"]), recipes()[row["name"]].no_record
    assert not (recorded and no_record)  # one place
    assert row["measured"] == (recorded or (f"{no_record} (no record)" if no_record else "not measured"))


@pytest.mark.parametrize(("measured", "kept"), [("slotworks evaluate", ""), ("earlier, no record kept", "; no record")])
def test_an_own_number_is_read_from_the_first_evaluation(measured, kept, tmp_path, monkeypatch):
    (tmp_path / "records").mkdir()
    shutil.copy(tables.DOCS / "results.py", tmp_path)
    found = json.loads((tables.DOCS / "records" / "slot_attention.tetrominoes_mini.json").read_text())[0]
    metrics = {"fg_ari": {"mean": 0.91, "std": 0.004, "seeds": [0.914, 0.906]}, "mse_sum": {"seeds": [17.24, 18]}}
    evaluation = found["evaluations"][0] | {"protocol": "oclf", "metrics": metrics}
    found |= {"name": "", "measured": measured, "seeds": [3, 4], "evaluations": [evaluation]}
    (tmp_path / "records" / "a.b.json").write_text(json.dumps([found]))
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    monkeypatch.setattr(tables._results(tmp_path / "results.py"), "FOLDER", tmp_path / "records")
    assert tables.own("a.b") == f"FG-ARI 91.0 ± 0.4, squared error 17.2, 18.0 (oclf, seeds 3, 4{kept})"
    assert tables.own("a.c") == ""


def test_a_neighbour_differs_in_what_it_says():
    """Settings that are not named stay, dictionaries change fields, and what is printed is not inherited."""
    first = recipes()["slot_attention.tetrominoes"]
    row = first.but("Another.", method={"num_slots": 7}, steps=5)
    assert row().method == replace(first().method, num_slots=7)
    told = {"expected": first().expected, "last_eval_all": True}  # what follows from a published number
    assert replace(row(), method=first().method, steps=first().steps, **told) == first()
    assert (row.about, row.published, row.takes, row().expected) == ("Another.", (), first.takes, "")
    assert first().expected == "FG-ARI 99.5 +- 0.2 (Locatello et al. 2020, table 1; 4 of 5 seeds, one outlier left out)"
    with pytest.raises(TypeError, match="num_slotz"):
        first.but("Another.", method={"num_slotz": 7})()


def test_a_command_begins_with_the_runs_that_its_settings_name():
    assert (tables.row("slot_diffusion.video_scenes_mini") or {})["command"] == (
        "slotworks train vqvae.scenes_mini && slotworks train slot_diffusion.scenes_mini && "
        "slotworks train slot_diffusion.video_scenes_mini"
    )
    assert (tables.row("glass.voc_phase2") or {})["command"] == (
        "slotworks synthesize glass.voc && slotworks train glass.voc && slotworks train glass.voc_phase2"
    )
    assert (tables.row("deep_spectral.voc_stage2") or {})["command"] == (
        "slotworks label deep_spectral.voc_crf && slotworks train deep_spectral.voc_stage2"
    )
    assert (tables.row("deep_spectral.voc_stage2") or {})["data_size"] == "made with `slotworks label`"
    assert (tables.row("mask_clip.voc") or {})["command"] == "slotworks evaluate mask_clip.voc --task semantic"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["slot_attention", "mini", "tetromino_scenes", "long"], {"slot_attention.tetrominoes_long_mini"}),
        (["SAVi", "movi_e", "depth"], {"savi.movi_e_depth"}),
        (["shape_scenes_textured"], {"slot_attention.clevrtex_mini"}),
        (["blocks", "untrained", "video"], {"blocks.videos_mini", "blocks.savi_mini"}),
    ],
)
def test_all_words_have_to_match(words, names, capsys):
    assert main(["recipes", *words, "--json"]) == 0
    found = {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert names <= found
    assert all("mini" in name for name in found) or "mini" not in words
    assert len(found) <= len(names) + 1


def test_costs_and_numbers_are_printed(capsys):
    assert main(["recipes", "slot_attention.tetrominoes"]) == 0
    paper, mini = capsys.readouterr().out.split("slot_attention.tetrominoes_long_mini\n")
    for text in (
        "7.5 hours on one V100",
        "300 MB to download, 0.3 GB prepared",
        "FG-ARI 99.5 +- 0.2 (Locatello et al. 2020, table 1",
    ):
        assert text in paper
    for text in ("two recent CPU cores", " MiB", "drawn, no download", "published  none", "seeds 10, 11, 12"):
        assert text in mini
    assert "3 of " in mini


def test_a_wrong_word_or_name_is_answered_with_the_three_nearest(capsys):
    assert main(["recipes", "slot_atention", "mini"]) == 2
    message = capsys.readouterr().err
    assert message.count("slot_attention.") + message.count("slot_") >= 3
    with pytest.raises(UserError, match="There is no recipe 'xyz'") as caught:
        find("xyz")
    assert len(str(caught.value)) < 200
    assert str(caught.value).split("Nearest: ")[1].split(". `")[0].count(", ") == 2


def test_every_metric_of_a_task_says_what_it_asks_and_an_unknown_one_nothing():
    assert [row["name"] for task in tables.read()["tasks"] for row in task["metrics"] if not row["about"]] == []
    assert tables.metric("wobble") == {"name": "wobble", "label": "", "unit": "", "better": "neither", "about": ""}
