"""CLIP's tokenizer in which each of a few given words is one token, for text encoders that are trained here."""

import string
from collections.abc import Sequence
from typing import Any

from slotworks.errors import needs_extra

START, END = "<|startoftext|>", "<|endoftext|>"
_LETTERS = string.ascii_lowercase + string.digits + ",.;"


def word_tokenizer(words: Sequence[str], max_tokens: int) -> Any:
    """A `CLIPTokenizer` with a token for each word; others are spelled, one token for a letter, and none is unknown.

    Args:
        words: in lower case, of the letters a to z; a prompt is put into lower case, too.
        max_tokens: of a prompt, with those of its beginning and end.

    Raises:
        ValueError: if a word has other letters.
    """
    with needs_extra("diffusion"):
        from transformers import CLIPTokenizer
    for word in words:
        if not word or not set(word) <= set(string.ascii_lowercase):
            raise ValueError(f"{word!r} cannot be a token; give words of the letters a to z.")
    vocabulary = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    merges: list[tuple[str, str]] = []
    for word in dict.fromkeys(words):
        pieces = _merged([*word[:-1], f"{word[-1]}</w>"], merges)
        # What joins the rest of this word stands after all earlier merges, so those words stay whole.
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            vocabulary.append(pieces[0] + pieces[1])
            pieces = _merged(pieces, merges[-1:])
    vocabulary = list(dict.fromkeys([*vocabulary, START, END]))
    ids = {token: number for number, token in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=max_tokens)  # pyright: ignore[reportArgumentType]


def _merged(pieces: list[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: merges in their order, each from left to right."""
    for left, right in merges:
        joined: list[str] = []
        for piece in pieces:
            if joined and joined[-1] == left and piece == right:
                joined[-1] = left + right
            else:
                joined.append(piece)
        pieces = joined
    return pieces
