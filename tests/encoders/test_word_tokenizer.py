"""CLIP's tokenizer with whole words."""

import pytest

from slotworks.configs.tiny_diffusion import WORDS
from slotworks.encoders.word_tokenizer import word_tokenizer
from slotworks.synthesis.prompts import class_prompt

# One starts like another, one ends like another, one contains another.
TANGLED = (
    "star",
    "start",
    "stars",
    "tar",
    "art",
    "red",
    "three",
    "tree",
    "an",
    "and",
    "a",
    "orange",
    "range",
    "aa",
    "aaa",
)


@pytest.mark.parametrize("words", [WORDS, TANGLED, TANGLED[::-1]])
def test_each_word_is_one_token(words):
    tokenizer = word_tokenizer(words, 32)
    for word in words:
        tokens = tokenizer(word).input_ids
        assert tokens[0] == tokenizer.bos_token_id
        assert tokens[-1] == tokenizer.eos_token_id
        assert tokenizer.convert_ids_to_tokens(tokens[1:-1]) == [f"{word}</w>"]


def test_other_words_are_spelled():
    tokenizer = word_tokenizer(("red",), 32)
    assert tokenizer.tokenize("Red blue; red, 4.") == [
        "red</w>",
        *("b", "l", "u", "e</w>"),
        *(";</w>", "red</w>", ",</w>", "4</w>", ".</w>"),
    ]
    assert tokenizer.decode(tokenizer("red blue; red").input_ids, skip_special_tokens=True) == "red blue ; red"


def test_prompts_are_padded_and_cut():
    tokenizer = word_tokenizer(("red", "blue"), 5)
    options = {"padding": "max_length", "truncation": True, "max_length": tokenizer.model_max_length}
    short, long = tokenizer(["red", "red blue red blue red"], **options).input_ids
    start, end, red, blue = (tokenizer.convert_tokens_to_ids(t) for t in (START, END, "red</w>", "blue</w>"))
    assert short == [start, red, end, end, end]
    assert long == [start, red, blue, red, end]


def test_classes_stand_alone():
    """The data engine reads masks from the tokens of each class."""
    text, spans = class_prompt(("circle", "square", "cross"), word_tokenizer(WORDS, 32))
    assert text == "circle square cross"
    assert spans == [range(1, 2), range(2, 3), range(3, 4)]


def test_saved_and_read_again(tmp_path):
    from transformers import CLIPTokenizer

    tokenizer = word_tokenizer(WORDS, 32)
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    text = "a red star, two blue crosses and a unicorn on grey; star cross"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.model_max_length == 32


@pytest.mark.parametrize("word", ["", "Red", "two words", "naïve", "x2"])
def test_wrong_words(word):
    with pytest.raises(ValueError, match="letters a to z"):
        word_tokenizer((word,), 32)


START, END = "<|startoftext|>", "<|endoftext|>"
