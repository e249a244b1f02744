import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotworks.synthesis.prompts import TooManyClasses, caption_words, class_prompt, compose
from slotworks.types import UserError
from slotworks.vocabulary import COCO_CLASSES


@pytest.fixture(scope="module")
def tokenizer(diffusion):
    return diffusion.tokenizer  # every letter is a token, and 77 of them are seen


def test_a_prompt_is_the_caption_and_the_classes(tokenizer):
    assert compose("a hot dog, twice", ("hot dog", "cat"), tokenizer) == "a hot dog, twice; hot dog cat"
    assert compose("  ", ("cat",), tokenizer) == "cat"
    assert compose("a plane", ("aeroplane",), tokenizer) == "a plane; airplane"


def test_a_long_caption_loses_its_end_and_no_class(tokenizer):
    words = ["cat"] * 40
    text = compose(" ".join(words), ("hot dog", "cat"), tokenizer)
    # begin and end, ";", and 9 letters leave 65 tokens of three letters each
    assert text == " ".join(["cat"] * 21) + "; hot dog cat"
    assert len(tokenizer(text).input_ids) == 2 + 21 * 3 + 1 + 9


@given(st.lists(st.text("abc", min_size=1, max_size=9), max_size=30), st.lists(st.sampled_from("abcdef"), min_size=1))
def test_no_class_is_ever_cut_off(tokenizer, words, classes):
    classes = tuple(dict.fromkeys(classes))
    text = compose(" ".join(words), classes, tokenizer)
    ids = tokenizer(text, truncation=True, max_length=77).input_ids
    assert ids == tokenizer(text).input_ids
    assert ids[-1 - len(classes) : -1] == tokenizer(" ".join(classes), add_special_tokens=False).input_ids


def test_too_many_classes_are_refused(tokenizer):
    with pytest.raises(TooManyClasses, match=r"^80 classes make \d+ tokens; the text encoder sees 77\.$"):
        compose("a caption", tuple(filter(None, COCO_CLASSES)), tokenizer)


def test_spans_are_the_tokens_of_each_class(tokenizer):
    text, spans = class_prompt(("hot dog", "cat", "pottedplant"), tokenizer)
    assert text == "hot dog cat potted plant"
    assert spans == [range(1, 7), range(7, 10), range(10, 21)]  # word numbers would say 1, 3, 4
    ids = tokenizer(text).input_ids
    shown = [tokenizer.decode(ids[span.start : span.stop]).replace(" ", "") for span in spans]
    assert shown == ["hotdog", "cat", "pottedplant"]


def test_words_of_a_caption_are_all_that_name_a_class(tokenizer):
    text = compose("cats at 10 20 beside a man, and a cat; a tomcat", ("cat", "person"), tokenizer)
    ids = tokenizer(text).input_ids
    cat, person = caption_words(text, ("cat", "person"), tokenizer)
    assert cat == [1, 2, 3, 4, 10, 26, 27, 28]  # cats, the end of its place, cat, and not of a tomcat
    assert "".join(tokenizer.decode([ids[i]]) for i in person) == "person"  # behind the caption, which says man
    assert list(person) == list(range(len(ids) - 7, len(ids) - 1))
    assert caption_words("a cat", ("cat",), tokenizer) == [[2, 3, 4]]  # nothing is appended
    with pytest.raises(UserError, match="does not name person"):
        caption_words("a man", ("person",), tokenizer)
    alone = compose("", ("cat",), tokenizer)
    assert caption_words(alone, ("cat",), tokenizer) == [[1, 2, 3]]


def test_a_tokenizer_that_joins_words_is_refused():
    class Joins:
        model_max_length = 10

        def __call__(self, text, add_special_tokens=True, verbose=True):
            return type("Encoded", (), {"input_ids": [len(text)]})

    with pytest.raises(UserError, match="does not split 'hot dog cat' at spaces"):
        class_prompt(("hot dog", "cat"), Joins())
