"""Captions of objects, and at which token each is named."""

import pytest
import torch

from slotworks.data.scenes import PaintedScenes
from slotworks.encoders.object_words import ObjectWords, Vocabulary
from slotworks.types import to_batch

pytest.importorskip("transformers")


CAPTION = (
    "a small green square at 17 81 , a small cyan circle at 42 88 , a small green circle at 88 58 , "
    "a small blue star at 20 51 on navy"
)


@pytest.fixture(scope="module")
def words():
    return ObjectWords(Vocabulary(), 64)


@pytest.fixture(scope="module")
def batch():
    return to_batch(PaintedScenes().open("val").__getitems__(range(64)))


def shown(words, ids):
    return [word.removesuffix("</w>") for word in words.tokenizer.convert_ids_to_tokens(ids.tolist())]


def test_the_whole_caption(words, batch):
    said = words.describe(batch)
    assert said.texts[3] == CAPTION
    assert len(said.ids[0]) == 64


def test_objects_are_named_where_their_words_end(words, batch):
    """At the shape with what is known there, and again at the last digit or word of a place behind it."""
    said = words.write(batch, torch.rand(64, words.choices, generator=torch.Generator().manual_seed(0)))
    names = [*Vocabulary().shapes]
    places = 0
    for i, text in enumerate(said.texts):
        tokens = shown(words, said.ids[i])
        for k in (said.object_at[i] >= 0).nonzero()[:, 0].tolist():
            token, shape = tokens[said.object_at[i, k]], names[said.objects.shape[i, k] - 1]
            known = not said.objects.x[i, k].isnan()
            assert token == shape or known, text
            places += token != shape
            if said.objects.color[i, k]:
                assert Vocabulary().colors[said.objects.color[i, k] - 1] in text
        if said.background_at[i] >= 0:
            assert tokens[said.background_at[i, 0]] == Vocabulary().backgrounds[said.background[i, 0] - 1]
    assert places > 20
    assert any("; " in text.replace(" ;", ";") for text in said.texts)  # classes behind, which name nobody


def test_places_are_those_of_the_picture(words, batch):
    said = words.describe(batch)
    for i in range(len(batch["shape"])):
        count = int(batch["num_objects"][i])
        for name, within in (("x", 0.006), ("y", 0.006), ("size", 1e-6)):
            named = getattr(said.objects, name)[i, 1 : 2 * count : 2]  # behind each shape
            torch.testing.assert_close(named, batch[name][i, :count].float(), atol=within, rtol=0)


def test_too_long_a_caption_names_fewer(batch):
    said = ObjectWords(Vocabulary(), 16).describe(batch)
    assert said.ids.shape == (64, 16)
    assert int(said.object_at.max()) <= 14
    assert (said.objects.present == (said.object_at >= 0)).all()


def test_unknown_words_are_spelled(words):
    ids = words.read(["a flying zebra", ""])
    assert shown(words, ids[0])[1:4] == ["a", "f", "l"]
    assert (ids[1][1:] == words.tokenizer.pad_token_id).all()
