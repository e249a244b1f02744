"""Which classes a caption names: nouns, singular or plural, compounds before the words they are made of."""

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Literal

from slotworks.types import UserError

Tagger = Literal["dictionary", "nltk"]

VOC_AS_COCO = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""VOC's names that COCO and most captions write differently; the other 14 are equal."""

SYNONYMS = {
    **dict.fromkeys(("man", "woman", "boy", "girl", "child", "kid", "baby", "lady", "guy", "people"), "person"),
    **dict.fromkeys(("player", "skier", "surfer", "skateboarder", "snowboarder", "rider", "cyclist"), "person"),
    **dict.fromkeys(("plane", "aeroplane", "jet", "airliner"), "airplane"),
    **dict.fromkeys(("bike", "cycle"), "bicycle"),
    **dict.fromkeys(("motorbike", "scooter"), "motorcycle"),
    "kitten": "cat",
    "puppy": "dog",
    **dict.fromkeys(("pony", "foal"), "horse"),
    "lamb": "sheep",
    **dict.fromkeys(("calf", "bull", "cattle"), "cow"),
    **dict.fromkeys(("taxi", "suv", "sedan"), "car"),
    **dict.fromkeys(("ship", "canoe", "kayak", "sailboat"), "boat"),
    **dict.fromkeys(("sofa", "loveseat"), "couch"),
    **dict.fromkeys(("television", "monitor", "tv monitor", "tv set"), "tv"),
    **dict.fromkeys(("phone", "cellphone", "mobile phone", "smartphone"), "cell phone"),
    "fridge": "refrigerator",
    **dict.fromkeys(("houseplant", "plant pot"), "potted plant"),
    "computer mouse": "mouse",
    **dict.fromkeys(("remote control", "remote controller"), "remote"),
    "doughnut": "donut",
    "mug": "cup",
    "stuffed bear": "teddy bear",
    **dict.fromkeys(("hair dryer", "hairdryer"), "hair drier"),
    "purse": "handbag",
    "luggage": "suitcase",
}
"""Other words for classes of COCO; used only where asked for, and only those whose class is looked for."""

_IRREGULAR = {
    "person": "persons",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "knife": "knives",
    "calf": "calves",
    "sheep": "sheep",
    "skis": "skis",
    "scissors": "scissors",
    "people": "people",
    "cattle": "cattle",
    "luggage": "luggage",
}
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


class NounMatcher:
    """Finds classes in captions: `matcher(caption)` gives their names in order of mention, each once.

    A name is found as singular or plural, as one word or with a hyphen (`hotdog`, `hot-dog`), whatever its case. At
    every word the longest name counts: a hot dog is no dog and a teddy bear no bear. GLASS takes nouns that are
    COCO's class names (section 4) and does not say how plurals and compounds are treated.

    Args:
        class_names: of class id 1, 2, ...; an empty name is an id that no class has. VOC's names are also found as
            captions write them, `sofa` as couch.
        synonyms: other words for a class by its readable name, such as `{"man": "person"}`; words of classes not in
            the list are left out.
        tagger: `dictionary` takes every word for a noun, so that an orange cat is also an orange; `nltk` asks NLTK's
            part-of-speech tagger, as the paper does, and needs its data.

    Raises:
        UserError: NLTK or its data are not installed.

    >>> matcher = NounMatcher(("dog", "hot dog", "person"))
    >>> matcher("Two hotdogs, and a dog beside persons")
    ('hot dog', 'dog', 'person')
    """

    def __init__(
        self, class_names: Sequence[str], *, synonyms: Mapping[str, str] | None = None, tagger: Tagger = "dictionary"
    ):
        if tagger not in ("dictionary", "nltk"):
            raise ValueError(f"tagger is {tagger!r}; choose dictionary or nltk.")
        given = {readable(name): name for name in class_names if name}
        words = {word: given[name] for word, name in (synonyms or {}).items() if name in given}
        words |= given | {name: name for name in given.values()}
        self._forms = {form: name for word, name in words.items() for form in _forms(word)}
        self._longest = max((len(form) for form in self._forms), default=1)
        self._nouns = _nltk_nouns() if tagger == "nltk" else None

    def __call__(self, caption: str) -> tuple[str, ...]:
        """The classes that a caption names."""
        words = _WORD.findall(caption.lower())
        noun = self._nouns(words) if self._nouns else [True] * len(words)
        found: dict[str, None] = {}
        start = 0
        while start < len(words):
            for length in range(self._longest, 0, -1):
                name = self._forms.get(tuple(words[start : start + length]))
                if name is not None and noun[min(start + length, len(words)) - 1]:  # "hot" is no noun, "dog" is
                    found[name] = None
                    start += length
                    break
            else:
                start += 1
        return tuple(found)


def readable(name: str) -> str:
    """A class name as a caption writes it: `pottedplant` is a potted plant.

    >>> readable("tvmonitor"), readable("cat")
    ('tv', 'cat')
    """
    return VOC_AS_COCO.get(name, name)


def plural(word: str) -> str:
    """The plural of an English noun, by rule but for the irregular ones among the known names.

    >>> [plural(word) for word in ("cat", "bus", "couch", "puppy", "boy", "knife", "sheep", "toothbrush")]
    ['cats', 'buses', 'couches', 'puppies', 'boys', 'knives', 'sheep', 'toothbrushes']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def _forms(name: str) -> list[tuple[str, ...]]:
    """Every way to write a name: singular, plural, a compound as one word."""
    *first, last = _WORD.findall(name.lower()) or [name.lower()]
    both = [(*first, last), (*first, plural(last))]
    return [*both, *(("".join(words),) for words in both)]


def _nltk_nouns() -> Callable[[Sequence[str]], list[bool]]:
    """Which words of a caption are nouns, by NLTK's averaged perceptron."""
    try:
        pos_tag = import_module("nltk").pos_tag
        pos_tag(["a", "word"])
    except ImportError:
        raise UserError(
            "The tagger nltk needs the library nltk; install it with `pip install 'slotworks[synthesis]'`, or use the "
            "tagger dictionary."
        ) from None
    except LookupError:
        raise UserError(
            "The tagger nltk needs NLTK's data; get them with `python -m nltk.downloader "
            "averaged_perceptron_tagger_eng`, or use the tagger dictionary."
        ) from None
    return lambda words: [tag.startswith("NN") for _, tag in pos_tag(list(words))]
