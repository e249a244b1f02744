"""Captions of drawn shapes with the word at which each object is named: what a text encoder learns tokens from.

    "a large red circle at 25 40, at the top a star and a blue square on grey; circle star square"

The text encoder is causal, so an object's token stands at the last word that tells of it: at its shape without a place,
and with all that is known by then; again at the end of a place that follows. Classes behind a semicolon, and whatever
it does not know, say nothing. Classes alone, "circle star", are tokens of which only the shape is known.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from slotworks.encoders.object_tokens import Objects
from slotworks.encoders.word_tokenizer import word_tokenizer

ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
_CELLS = (0.22, 0.5, 0.78)  # where the middle of an object is that stands there, as a share of the side
_ALL_SAID = 0.5  # of every choice in `ObjectWords._caption`: that it is said, and the place behind the shape
_OTHER = ("a", "an", "and", "on", "at", "in", "the", "of", "photo", "picture", "nothing", "with", "one", "two", "three")


_Known = dict[str, int | float]


@dataclass(frozen=True)
class Vocabulary:
    """Names by id, from 1 on, and the sizes that words stand for."""

    shapes: tuple[str, ...] = ("circle", "square", "triangle", "star")
    colors: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
    backgrounds: tuple[str, ...] = ("black", "grey", "white", "navy", "beige")
    sizes: tuple[tuple[str, float], ...] = (("small", 0.26), ("medium", 0.33), ("large", 0.4))


@dataclass(frozen=True)
class Captions:
    """Texts as tokens, and what their words name."""

    texts: list[str]
    ids: Int64[Tensor, "b l"]
    objects: Objects  # `b m`: those named, twice where a place follows
    object_at: Int64[Tensor, "b m"]  # position of their token; -1: none
    background: Int64[Tensor, "b 1"]
    background_at: Int64[Tensor, "b 1"]


@dataclass
class _Said:
    """A caption while it is written: words, and what is named at which of them."""

    words: list[str]
    objects: list[tuple[int, _Known]]  # number of the word, what is known there
    background: tuple[int, int] = (-1, 0)  # number of the word, id

    def add(self, *words: str) -> int:
        """Number of the last word."""
        self.words += words
        return len(self.words) - 1


class ObjectWords:
    """Writes captions and reads them as tokens.

    Args:
        vocabulary: the names.
        max_tokens: of a caption, with those of its beginning and end.
    """

    choices = 40
    """Random numbers that a caption takes."""

    def __init__(self, vocabulary: Vocabulary, max_tokens: int):
        self.vocabulary, self.max_tokens = vocabulary, max_tokens
        sizes = [name for name, _ in vocabulary.sizes]
        names = (*vocabulary.shapes, *vocabulary.colors, *vocabulary.backgrounds, *sizes, *ROWS, *COLUMNS, *_OTHER)
        self.tokenizer = word_tokenizer(names, max_tokens)
        self._known: dict[str, list[int]] = {}  # tokens of each word

    def write(self, batch: dict[str, Tensor], chances: Float[Tensor, "b c"]) -> Captions:
        """A caption of each picture.

        Args:
            batch: of drawn shapes.
            chances: `choices` numbers in [0, 1) for each picture; the same give the same caption.
        """
        names = ("num_objects", "background", "shape", "color", "size", "x", "y")
        columns = {name: batch[name].cpu().numpy() for name in names}
        said = [
            self._caption({name: values[i] for name, values in columns.items()}, iter(row))
            for i, row in enumerate(chances.double().cpu().tolist())
        ]
        return self._read(said)

    def describe(self, batch: dict[str, Tensor]) -> Captions:
        """The caption of each picture that says all: size, colour, shape, place in hundredths, background."""
        return self.write(batch, torch.full((len(batch["shape"]), self.choices), _ALL_SAID))

    def read(self, texts: Sequence[str]) -> Int64[Tensor, "b l"]:
        """Texts as tokens; what is too long is cut."""
        options = {"padding": "max_length", "max_length": self.max_tokens, "truncation": True}
        return self.tokenizer(list(texts), **options, return_tensors="pt").input_ids

    def _caption(self, scene: dict[str, Any], chance: Iterator[float]) -> _Said:
        names, count = self.vocabulary, int(scene["num_objects"])
        form = next(chance)
        kinds = list(dict.fromkeys(int(k) for k in scene["shape"][:count]))
        if form < 0.04 or count == 0:
            return _Said([], [])
        if form < 0.16:  # classes alone
            words = [names.shapes[k - 1] for k in kinds]
            return _Said(words, [(i, {"shape": k}) for i, k in enumerate(kinds)])
        said = _Said(["a", "photo", "of"] if next(chance) < 0.1 else [], [])
        placed = next(chance) < 0.75
        for k in range(count):
            known: _Known = {"shape": int(scene["shape"][k]), "order": k + 1}
            where, at = self._place(float(scene["x"][k]), float(scene["y"][k]), next(chance))
            before = placed and next(chance) < 0.4
            if k:
                said.add("and" if next(chance) < 0.5 else ",")
            if before:
                said.add(*where)
                known |= at
            words = []
            if next(chance) < 0.75:
                nearest = int(np.argmin([abs(size - scene["size"][k]) for _, size in names.sizes]))
                words.append(names.sizes[nearest][0])
                known["size"] = names.sizes[nearest][1]
            if next(chance) < 0.93:
                words.append(names.colors[int(scene["color"][k]) - 1])
                known["color"] = int(scene["color"][k])
            words.append(names.shapes[int(scene["shape"][k]) - 1])
            named = said.add("an" if words[0][0] in "aeiou" else "a", *words)
            said.objects.append((named, dict(known)))
            if placed and not before:
                said.objects.append((said.add(*where), known | at))
        if next(chance) < 0.8:
            ground = int(scene["background"])
            said.background = said.add("on", names.backgrounds[ground - 1]), ground
        if next(chance) < 0.25:
            said.add(";", *(names.shapes[k - 1] for k in kinds))
        return said

    def _place(self, x: float, y: float, chance: float) -> tuple[list[str], _Known]:
        """Words of a place, and what they say."""
        if chance < 0.6:
            digits = [hundredths(v) for v in (x, y)]
            return ["at", *digits], {"x": int(digits[0]) / 100, "y": int(digits[1]) / 100}
        row, column = (int(np.clip(3 * v, 0, 2)) for v in (y, x))
        return self.cell(ROWS[row], COLUMNS[column])

    @staticmethod
    def cell(row: str, column: str) -> tuple[list[str], _Known]:
        """Words of one of nine places: "at the top left", "at the left", "in the center".

        >>> ObjectWords.cell("top", "center")[0]
        ['at', 'the', 'top']
        """
        at = {"x": _CELLS[COLUMNS.index(column)], "y": _CELLS[ROWS.index(row)]}
        if row == "middle":
            return (["in", "the", "center"] if column == "center" else ["at", "the", column]), at
        return ["at", "the", row, *([] if column == "center" else [column])], at

    def _read(self, said: Sequence[_Said]) -> Captions:
        tokens = [[self._ids(word) for word in one.words] for one in said]
        ids = torch.full((len(said), self.max_tokens), self.tokenizer.pad_token_id)
        ends: list[list[int]] = []  # of each word: its last token's position; -1 where the text is cut
        for i, words in enumerate(tokens):
            flat = [token for word in words for token in word][: self.max_tokens - 2]
            line = [self.tokenizer.bos_token_id, *flat, self.tokenizer.eos_token_id]
            ids[i, : len(line)] = torch.tensor(line)
            last = np.cumsum([len(word) for word in words])
            ends.append([int(end) if end <= len(flat) else -1 for end in last])
        most = max([1, *(len(one.objects) for one in said)])
        table = {name: torch.full((len(said), most), torch.nan) for name in ("size", "x", "y")}
        table |= {name: torch.zeros(len(said), most) for name in ("shape", "color", "order")}
        object_at = torch.full((len(said), most), -1)
        background, background_at = (torch.full((len(said), 1), value) for value in (0, -1))
        for i, one in enumerate(said):
            for k, (word, known) in enumerate(one.objects):
                object_at[i, k] = ends[i][word]
                for name, value in known.items():
                    table[name][i, k] = value
            if one.background[0] >= 0:
                background[i], background_at[i] = one.background[1], ends[i][one.background[0]]
        whole = {name: table[name].long() for name in ("shape", "color", "order")}
        objects = Objects(object_at >= 0, size=table["size"], x=table["x"], y=table["y"], **whole)
        return Captions([" ".join(one.words) for one in said], ids, objects, object_at, background, background_at)

    def _ids(self, word: str) -> list[int]:
        if word not in self._known:
            self._known[word] = list(self.tokenizer(word, add_special_tokens=False).input_ids)
        return self._known[word]


def hundredths(share: float) -> str:
    """A place in [0, 1] as two digits.

    >>> hundredths(0.254), hundredths(0.06), hundredths(1.0)
    ('25', '06', '99')
    """
    return f"{min(round(100 * share), 99):02d}"
