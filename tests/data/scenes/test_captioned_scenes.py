"""Captions as bytes beside drawn scenes."""

from dataclasses import replace

import numpy as np
import pytest

from slotworks.data.scenes import CaptionedScenes, ShapeScenes
from slotworks.data.scenes.shapes import COLORS
from slotworks.synthesis.nouns import NounMatcher

SCENES = ShapeScenes(num_train=400, image_size=32, max_objects=3, sizes=(0.3,))


def texts(config, indices, split="train"):
    rows = config.open(split).__getitems__(indices)["caption"]
    return [bytes(row).rstrip(b"\0").decode() for row in rows]


def test_classes_may_be_colours():
    config = CaptionedScenes(replace(SCENES, classes="color"), both_share=0.0, classes_share=1.0)
    dataset = SCENES.open("train")
    for index, text in enumerate(texts(config, range(12))):
        caption = dataset.caption(index)
        assert text.split() == [word for word in dict.fromkeys(caption.split()) if word in COLORS]


@pytest.mark.parametrize(
    ("shares", "form"),
    [((0.0, 0.0), "{caption}"), ((1.0, 0.0), "{caption}; {names}"), ((0.0, 1.0), "{names}")],
)
def test_each_form(shares, form):
    config, plain = CaptionedScenes(SCENES, *shares), SCENES.open("train")
    classes = NounMatcher(SCENES.class_names)
    for index, text in enumerate(texts(config, range(12))):
        caption = plain.caption(index)
        assert text == form.format(caption=caption, names=" ".join(classes(caption)))


def test_shares_are_kept():
    found = texts(CaptionedScenes(SCENES, both_share=0.4, classes_share=0.2), range(400))
    both, classes = sum("; " in text for text in found), sum(" on " not in text for text in found)
    assert abs(both / 400 - 0.4) < 4 * (0.4 * 0.6 / 400) ** 0.5
    assert abs(classes / 400 - 0.2) < 4 * (0.2 * 0.8 / 400) ** 0.5


def test_alone_as_in_a_batch():
    config = CaptionedScenes(SCENES)
    assert texts(config, [7]) + texts(config, [3]) == texts(config, [7, 3])
    np.testing.assert_array_equal(
        config.open("val").__getitems__([5])["image"], SCENES.open("val").__getitems__([5])["image"]
    )


def test_a_scene_of_nothing():
    """No class is named, so there is no list of classes."""
    scenes = replace(SCENES, min_objects=0, max_objects=1)
    found = texts(CaptionedScenes(scenes, both_share=1.0, classes_share=0.0), range(20))
    empty = [text for text in found if text.startswith("nothing")]
    assert empty
    assert all(text.startswith("nothing on ") and ";" not in text for text in empty)


@pytest.mark.parametrize("shares", [(-0.1, 0.2), (0.2, -0.1), (0.7, 0.4)])
def test_wrong_shares(shares):
    with pytest.raises(ValueError, match=r"come to 1 at most|must be from 0 to 1"):
        CaptionedScenes(SCENES, *shares)
