"""Titles of cards: every recipe's method and data as a person would say them."""

import pytest

from slotworks.configs import recipes
from slotworks.reports.labels import DATA, METHODS, data_name, method_name
from slotworks.training.serialize import to_plain


@pytest.fixture(scope="module")
def titles():
    plain = {name: to_plain(recipe()) for name, recipe in recipes().items()}
    return {name: f"{method_name(run['method'])} on {data_name(run['data'])}" for name, run in plain.items()}


def test_no_recipe_is_called_by_its_classes(titles):
    """Each name is one of the tables, and each of the tables is the name of some recipe."""
    parts = [title.split(" on ") for title in titles.values()]
    assert {" on ".join(words[:-1]) for words in parts} == set(METHODS.values())
    assert {words[-1] for words in parts} == set(DATA.values())


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("dinosaur.collages_mlp_round2", "DINOSAUR on collages of cut-outs"),
        ("dinosaur.coco_mlp", "DINOSAUR on COCO"),
        ("spot.voc_stage2", "SPOT on VOC 2012"),
        ("slot_attention.tetrominoes", "Slot Attention on Tetrominoes"),
        ("glass.scenes_mini", "GLASS on generated images"),
        ("slot_diffusion.movi_d", "SlotDiffusion on MOVi"),
        ("savi.scenes_mini", "SAVi on drawn videos"),
    ],
)
def test_titles(titles, name, title):
    assert titles[name] == title


def test_own_classes_keep_their_names():
    assert method_name({"kind": "MineConfig"}) == "Mine"
    assert data_name({"kind": "CachedFeatures", "images": {"kind": "Mine"}}) == "Mine"
    assert data_name({"kind": "Collection", "images": {"kind": "COCO"}}) == "Collection"
