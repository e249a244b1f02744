"""Where recipes depart from their sources: every row is read against the run that it is about."""

import pytest

from slotworks import tables
from slotworks.cli import main
from slotworks.configs import recipes
from slotworks.configs.departures import DEPARTURES, departures_of, value_of
from slotworks.types import UserError

RECIPES = recipes()
PUBLISHED = [name for name, recipe in RECIPES.items() if recipe.published]


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_row_says_is_ours_is_the_value_in_the_run(name):
    run = RECIPES[name]()
    for one in departures_of(name, RECIPES[name]):
        assert value_of(run, one.setting) == one.ours, one.setting


@pytest.mark.parametrize("method", DEPARTURES)
def test_every_row_is_of_a_recipe_and_says_why(method):
    ours = {name: recipe for name, recipe in RECIPES.items() if name.startswith(f"{method}.")}
    found = [one for name, recipe in ours.items() for one in departures_of(name, recipe)]
    for one in DEPARTURES[method]:
        assert one in found, one
        assert one.source
        assert one.why
        assert "|" not in one.source + one.why + one.value


def test_every_method_of_a_paper_has_rows_and_a_page_shows_them():
    methods = {name.partition(".")[0] for name in PUBLISHED}
    assert methods == set(DEPARTURES)
    marks = " ".join(
        found[1] for page in tables.pages() for found in tables._DEPARTURES.finditer(page.read_text("utf-8"))
    )
    assert {pattern.partition(".")[0] for pattern in marks.split()} == methods


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_has_a_row(name):
    """So far none is as its source in everything: precision, pictures made smaller, seeds, what it leaves open."""
    assert departures_of(name, RECIPES[name])


def test_miniatures_have_none():
    assert not departures_of("slate.scenes_mini", RECIPES["slate.scenes_mini"])
    assert departures_of("slate.coco", RECIPES["slate.coco"])


def test_a_marked_table_names_the_recipes_that_share_a_row():
    def row(name, *departures):
        return {"name": name, "numbers": [{}], "departures": [dict(zip(KEYS, one, strict=True)) for one in departures]}

    both, own = ("steps", "9", "5", "short"), ("seed", "42", "0", "so")
    rows = [row("a.x", both, own), row("a.y", both), {"name": "a.mini", "numbers": [], "departures": []}]
    assert tables.fill("<!-- departures a.* -->\nold\n<!-- end -->\n", rows) == (
        "<!-- departures a.* -->\n| recipes | setting | source | ours | why |\n| --- | --- | --- | --- | --- |\n"
        "| all | `steps` | 9 | 5 | short |\n| `x` | `seed` | 42 | 0 | so |\n<!-- end -->\n"
    )
    with pytest.raises(UserError, match="has no departure of the recipes b"):
        tables.fill("<!-- departures b.* -->\n<!-- end -->\n", rows)


KEYS = ("setting", "source", "ours", "why")


def test_the_command_prints_those_of_one_recipe(capsys):
    assert main(["recipes", "stable_lsd.voc_bbox"]) == 0
    assert "  departs    method.box_scale 1.0; source: pixels of a 256 crop" in capsys.readouterr().out
    assert main(["recipes", "stable_lsd"]) == 0
    assert "departs" not in capsys.readouterr().out
