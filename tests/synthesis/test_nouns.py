from types import SimpleNamespace

import pytest

from slotworks.synthesis.nouns import SYNONYMS, NounMatcher, plural, readable
from slotworks.types import UserError
from slotworks.vocabulary import COCO_CLASSES, VOC_CLASSES

coco = NounMatcher(COCO_CLASSES)


@pytest.mark.parametrize(
    ("caption", "classes"),
    [
        ("a cat and a dog", ("cat", "dog")),
        ("A dog chases CATS, the dog barks", ("dog", "cat")),
        ("two hot dogs beside a dog", ("hot dog", "dog")),
        ("hot-dogs, hotdogs and a hot  dog", ("hot dog",)),
        ("a teddy bear on a bear", ("teddy bear", "bear")),
        ("wine glasses, knives and sheep", ("wine glass", "knife", "sheep")),
        ("children on buses", ("bus",)),
        ("mice, benches, couches and toothbrushes", ("mouse", "bench", "couch", "toothbrush")),
        ("a sports ball, a ball, a catalog, carpets", ("sports ball",)),
        ("the dog's bowl", ("bowl",)),
        ("nothing to see", ()),
        ("", ()),
    ],
)
def test_captions_name_classes(caption, classes):
    assert coco(caption) == classes


def test_every_class_of_coco_is_found_in_both_numbers():
    assert sum(map(bool, COCO_CLASSES)) == 80
    assert len(set(filter(None, COCO_CLASSES))) == 80
    assert {COCO_CLASSES.index(name) + 1 for name in ("person", "dog", "tv", "toothbrush")} == {1, 18, 72, 90}
    for name in filter(None, COCO_CLASSES):
        *first, last = name.split()
        for form in (name, " ".join([*first, plural(last)]), "".join(name.split())):
            assert coco(f"the {form} here") == (name,)


def test_classes_of_voc_are_found_under_both_spellings_and_keep_their_own():
    voc = NounMatcher(VOC_CLASSES)
    assert len(VOC_CLASSES) == 20
    for name in VOC_CLASSES:
        assert voc(f"a {name}") == voc(f"a {readable(name)}") == (name,)
    assert voc("an airplane above a couch, a motorcycle and potted plants") == (
        *("aeroplane", "sofa", "motorbike", "pottedplant"),
    )
    assert coco("an aeroplane and a sofa") == ()  # COCO has other words for them


def test_synonyms_are_asked_for():
    assert coco("a man with his puppy") == ()
    many = NounMatcher(COCO_CLASSES, synonyms=SYNONYMS)
    assert many("people and a puppy on a sofa, a man") == ("person", "dog", "couch")
    assert NounMatcher(("cat",), synonyms=SYNONYMS)("a man with a kitten") == ("cat",)  # others are left out
    assert NounMatcher(VOC_CLASSES, synonyms=SYNONYMS)("a bike and a jet") == ("bicycle", "aeroplane")


def test_the_tagger_decides_what_is_a_noun(monkeypatch):
    tags = {"orange": "JJ", "hot": "JJ", "cat": "NN", "dogs": "NNS"}
    fake = SimpleNamespace(pos_tag=lambda words: [(word, tags.get(word, "IN")) for word in words])
    monkeypatch.setitem(__import__("sys").modules, "nltk", fake)
    tagged = NounMatcher(COCO_CLASSES, tagger="nltk")
    assert tagged("an orange cat eats hot dogs") == ("cat", "hot dog")
    assert coco("an orange cat eats hot dogs") == ("orange", "cat", "hot dog")


def test_a_missing_tagger_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nltk", None)
    with pytest.raises(UserError, match="pip install 'slotworks\\[synthesis\\]'"):
        NounMatcher(COCO_CLASSES, tagger="nltk")

    def missing(words):
        raise LookupError

    monkeypatch.setitem(__import__("sys").modules, "nltk", SimpleNamespace(pos_tag=missing))
    with pytest.raises(UserError, match=r"nltk\.downloader averaged_perceptron_tagger_eng"):
        NounMatcher(COCO_CLASSES, tagger="nltk")
