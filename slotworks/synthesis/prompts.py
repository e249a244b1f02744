"""Prompts "caption; class class": text for the image, and where each class stands among the tokens of a class prompt.

Text encoders see a fixed number of tokens, 77 for CLIP. What is too long is taken off the caption's end and never off
the classes, because masks are read from the attention to them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slotworks.synthesis.nouns import plural, readable
from slotworks.types import UserError


@dataclass(frozen=True)
class Prompt:
    """What one image should show. `classes` are class names without repetition, in order of mention."""

    index: int  # number in the source
    caption: str
    classes: tuple[str, ...]


class TooManyClasses(Exception):
    """The classes of one prompt alone have more tokens than the text encoder sees."""


def compose(caption: str, classes: Sequence[str], tokenizer: Any) -> str:
    """The prompt `caption; class class` (GLASS, Section 4; classes appended as by Dataset Diffusion).

    A caption that is too long loses words at its end until the whole prompt fits the text encoder.

    Args:
        caption: may be empty; then the classes stand alone.
        classes: VOC's names are written as captions write them.
        tokenizer: of the text encoder; `model_max_length` counts the tokens of beginning and end.

    Raises:
        TooManyClasses: the classes alone do not fit.
    """
    names = " ".join(map(readable, classes))
    words = caption.split()
    while True:
        text = f"{' '.join(words)}; {names}" if words else names
        if len(_ids(tokenizer, text)) <= tokenizer.model_max_length:
            return text
        if not words:
            raise TooManyClasses(
                f"{len(classes)} classes make {len(_ids(tokenizer, text))} tokens; the text encoder sees "
                f"{tokenizer.model_max_length}."
            )
        words.pop()


def class_prompt(classes: Sequence[str], tokenizer: Any) -> tuple[str, list[Sequence[int]]]:
    """The text "class class" and the tokens of each class in it.

    Positions are those of the tokenised text, where the token of the beginning is number 0; a class may have several
    tokens. Dataset Diffusion's code takes the word's number for the token's, which is right only for short words.

    Raises:
        UserError: the tokenizer joins words, so that a class has no tokens of its own.
    """
    names = list(map(readable, classes))
    parts = [_ids(tokenizer, name, special=False) for name in names]
    if not all(parts):
        raise _joins(" ".join(names))
    before = _begin(tokenizer, " ".join(names), [token for part in parts for token in part])
    spans: list[Sequence[int]] = []
    for part in parts:
        spans.append(range(before, before + len(part)))
        before += len(part)
    return " ".join(names), spans


def caption_words(text: str, classes: Sequence[str], tokenizer: Any) -> list[Sequence[int]]:
    """The tokens of each class in a prompt: of the words of its caption that name it, all of them.

    Where a place follows a name, "a star at 25 40", its last token counts as well: there the text encoder of
    `package:painted_diffusion` says the object with all that is known of it. A class that the caption names by other
    words, such as a man for a person, has the tokens of its name behind the caption, where `compose` puts it.

    Raises:
        UserError: a class is named neither in the caption nor behind it; the tokenizer reads a text otherwise alone.
    """
    names = list(map(readable, classes))
    behind = " ".join(names)
    caption = text.removesuffix(behind).removesuffix("; ") if text.endswith(behind) else text
    begin = _begin(tokenizer, text, _ids(tokenizer, text, special=False))
    found: list[Sequence[int]] = []
    first = len(text) - len(behind)  # where the next name behind the caption starts
    for name in names:
        forms = "|".join(map(re.escape, (plural(name), name)))
        said = list(re.finditer(rf"\b({forms})\b(?: (at \d\d \d\d)\b)?", caption))
        if not said and caption == text:
            raise UserError(
                f"The prompt {text!r} does not name {name}; append the classes, or take another class prompt."
            )
        spans = [match.span(1) for match in said] or [(first, first + len(name))]
        tokens = [i for span in spans for i in _tokens(tokenizer, text, *span)]
        tokens += [_tokens(tokenizer, text, *match.span(2))[-1] for match in said if match[2]]
        found.append([begin + i for i in sorted(tokens)])
        first += len(name) + 1
    return found


def _begin(tokenizer: Any, text: str, inner: list[int]) -> int:
    """The position at which these tokens start in those of a text, behind the one of its beginning."""
    whole = _ids(tokenizer, text)
    for i in range(len(whole)):
        if whole[i : i + len(inner)] == inner:
            return i
    raise _joins(text)


def _joins(text: str) -> UserError:
    return UserError(f"This model's tokenizer does not split {text!r} at spaces; choose another model.")


def _tokens(tokenizer: Any, text: str, start: int, stop: int) -> range:
    """Numbers of the tokens of some words in a text, without the one of its beginning."""
    before = len(_ids(tokenizer, text[:start].rstrip(), special=False))
    return range(before, len(_ids(tokenizer, text[:stop], special=False)))


def _ids(tokenizer: Any, text: str, *, special: bool = True) -> list[int]:
    """Tokens, however many; `verbose` would warn of what is then made shorter."""
    return list(tokenizer(text, add_special_tokens=special, verbose=False).input_ids)
