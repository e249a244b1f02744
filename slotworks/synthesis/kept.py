"""How much of what is in pictures their captions name: the share of pictures, and of classes, that a vocabulary keeps.

GLASS takes the nouns of a caption that are COCO's class names (section 4). Whether a "man" is a `person` for it decides
what is object and what is background in the training masks, and is not said. Captions of pictures with known classes
tell how much each reading loses.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotworks.errors import quote
from slotworks.json_text import read_json
from slotworks.synthesis.nouns import readable
from slotworks.types import UserError

FORMAT = 'a line {"caption": "...", "classes": ["person", ...]} for each picture, or the file captions_*.json of COCO'


@dataclass(frozen=True)
class Kept:
    """What a vocabulary keeps of captioned pictures with known classes. A share of nothing is NaN."""

    pictures: int  # with at least one class
    named: int  # of these, whose caption names any class: the others make no training image
    classes: int  # classes of all pictures, each once in a picture
    found: int  # of these, named in the caption of their picture
    extra: int  # named in a caption, but not in the picture
    by_class: dict[str, tuple[int, int]]  # found and all, of each class that occurs

    @property
    def shares(self) -> dict[str, float]:
        """`pictures`: that make a training image; `classes`: that are not trained as background; `right`: of those
        named, how many are there."""
        told = self.found + self.extra
        return {
            "pictures": self.named / self.pictures if self.pictures else float("nan"),
            "classes": self.found / self.classes if self.classes else float("nan"),
            "right": self.found / told if told else float("nan"),
        }


def kept(captions: Sequence[tuple[str, Sequence[str]]], matcher: Callable[[str], Sequence[str]]) -> Kept:
    """Compare what captions name with what is in their pictures.

    Args:
        captions: a caption, and the names of the classes in its picture; VOC's spelling and COCO's are the same class.
        matcher: such as a `NounMatcher`.
    """
    found, every, extra, named, pictures = Counter[str](), Counter[str](), 0, 0, 0
    for caption, classes in captions:
        there = {readable(name) for name in classes}
        said = {readable(name) for name in matcher(caption)}
        if not there:
            continue
        pictures += 1
        named += bool(said)
        every.update(there)
        found.update(there & said)
        extra += len(said - there)
    by_class = {name: (found[name], every[name]) for name in sorted(every, key=lambda name: (-every[name], name))}
    return Kept(pictures, named, every.total(), found.total(), extra, by_class)


def read_labelled_captions(file: str | Path) -> list[tuple[str, list[str]]]:
    """Captions with the classes of their pictures.

    Args:
        file: JSON lines of `caption` and `classes`; or COCO's `captions_val2017.json`, beside which lies
            `instances_val2017.json`, whose objects are the classes (crowds left out).

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    path = Path(file)
    try:
        if path.suffix == ".json":
            return _of_coco(path)
        lines = [read_json(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        return [(_text(line["caption"]), [_text(name) for name in line["classes"]]) for line in lines]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({quote(error)}); expected {FORMAT}.") from None


def _of_coco(path: Path) -> list[tuple[str, list[str]]]:
    objects: Any = json.loads((path.parent / path.name.replace("captions_", "instances_")).read_bytes())
    names = {category["id"]: _text(category["name"]) for category in objects["categories"]}
    classes: dict[int, dict[str, None]] = {}
    for annotation in objects["annotations"]:
        if not annotation.get("iscrowd"):
            classes.setdefault(annotation["image_id"], {})[names[annotation["category_id"]]] = None
    rows: Any = json.loads(path.read_bytes())
    return [(_text(row["caption"]), list(classes.get(row["image_id"], ()))) for row in rows["annotations"]]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
