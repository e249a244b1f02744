"""Where prompts come from: captions of images, true labels, statistics of labels, or drawn scenes' own captions.

Each source is a frozen config; `open` gives a `PromptSource`. All are functions of their settings and of a number: what
prompt 7 says does not depend on which process asks, or on what was asked before.
"""

import json
import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from slotworks.data.readers.coco import AnnotatedPhotos
from slotworks.data.readers.photos import MaskedPhotos, Photos
from slotworks.data.scenes.painted import PaintedDataset
from slotworks.data.scenes.shapes import ShapeScenes
from slotworks.data.stores.prepared import WORKERS, in_order
from slotworks.errors import quote
from slotworks.files import write_text
from slotworks.json_text import read_json
from slotworks.synthesis.captions import Captioner, CaptionerConfig
from slotworks.synthesis.nouns import SYNONYMS, NounMatcher, Tagger, readable
from slotworks.synthesis.prompts import Prompt
from slotworks.types import DataConfig, UserError
from slotworks.vocabulary import COCO_CLASSES, VOC_CLASSES

if TYPE_CHECKING:
    from PIL import Image

MAX_CLASS_ID = 254  # masks are 8 bits, and 255 says uncertain


@runtime_checkable
class PromptSource(Protocol):
    """Numbered prompts. Class id `k` is `class_names[k - 1]`; an empty name is an id that no class has."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def prompts(self, indices: Sequence[int]) -> Iterator[Prompt | str]:
        """For each number its prompt, or in words why there is none: nothing is named, or the image is damaged.

        Several numbers are asked for at once so that a captioner sees whole batches. To give equal words whoever asks,
        it has to be asked for the same groups of numbers.
        """
        ...


@dataclass(frozen=True)
class PromptConfig:
    """Settings of a source of prompts. Nothing is opened until `open`."""

    def open(self, folder: Path, device: torch.device) -> PromptSource:
        """Open it.

        Args:
            folder: where captions that took long to make are kept.
            device: where a captioner computes.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to open it")


@dataclass(frozen=True)
class CaptionedImages(PromptConfig):
    """Captions of the training images of a data set; classes are the nouns in them (GLASS, Section 4).

    Photographs are read from their files, at full size and as they are; nothing is prepared. Images in whose caption no
    class is named are left out: the paper makes 100K images of COCO's 118,287.
    """

    data: DataConfig
    captioner: CaptionerConfig = field(default_factory=CaptionerConfig)
    class_names: tuple[str, ...] = COCO_CLASSES  # GLASS looks for COCO's classes whatever the images
    tagger: Tagger = "dictionary"  # or nltk, as in the paper; needs NLTK's data
    synonyms: bool = True  # also take man for person, and so on; False: COCO's class names alone
    split: str = "train"

    def open(self, folder: Path, device: torch.device) -> PromptSource:
        """Finds the images; the captioner is loaded when a caption is missing."""
        return _Captioned(self, folder, device)


@dataclass(frozen=True)
class LabelPrompts(PromptConfig):
    """The true classes of each training image: GLASS with a dagger. The caption is "a photo of cat dog".

    The paper does not print these prompts; this is the form of Dataset Diffusion's lists.
    """

    data: DataConfig  # photographs with `train_masks`, or any data that tell classes
    caption: str = "a photo of {classes}"  # {classes} become the names
    split: str = "train"

    def open(self, folder: Path, device: torch.device) -> PromptSource:
        """Reads the labels."""
        return _Labels(_class_names(self.data), _labels(self.data, self.split), self.caption)


@dataclass(frozen=True)
class TemplatePrompts(PromptConfig):
    """Captions drawn from the statistics of labels: "A high-quality image of cat, dog" (GLASS, supplement, Table 13).

    A number of classes is drawn as often as images have that many, and then that many different classes, each as
    often as images have it. No image is looked at. Whether the paper counts classes or objects is not said; a class
    makes one map, so classes are counted.
    """

    data: DataConfig  # whose labels are counted; as for `LabelPrompts`
    num_prompts: int = 100_000
    seed: int = 0
    caption: str = "A high-quality image of {classes}"
    split: str = "train"

    def __post_init__(self) -> None:
        if self.num_prompts < 1:
            raise ValueError(f"source.num_prompts is {self.num_prompts}; it must be 1 or more.")

    def open(self, folder: Path, device: torch.device) -> PromptSource:
        """Counts the labels."""
        return _Templates(self, _class_names(self.data), _labels(self.data, self.split))


@dataclass(frozen=True)
class ClassPrompts(PromptConfig):
    """As many prompts for each class, class after class: "A good picture of a cat" (OVDiff's support images).

    Several captions are taken in turn. An image has one class, so its mask tells this one from everything else.
    """

    class_names: tuple[str, ...] = VOC_CLASSES  # class i + 1; "": an id that no class has
    per_class: int = 32  # prompts of each
    captions: tuple[str, ...] = ("A good picture of a {class}",)  # {class} becomes the name

    def __post_init__(self) -> None:
        if self.per_class < 1:
            raise ValueError(f"source.per_class is {self.per_class}; it must be 1 or more.")
        if not self.captions or any("{class}" not in caption for caption in self.captions):
            raise ValueError("source.captions needs a sentence, and each of them {class} where the name goes.")

    def open(self, folder: Path, device: torch.device) -> PromptSource:
        """Reads nothing."""
        return _Classes(self)


@dataclass(frozen=True)
class SceneCaptions(PromptConfig):
    """The own captions of drawn scenes; classes are the shapes named in them."""

    scenes: ShapeScenes = field(default_factory=lambda: ShapeScenes())
    split: str = "train"
    places: bool = False  # say where objects are; painted scenes can

    def open(self, folder: Path, device: torch.device) -> PromptSource:
        """Draws nothing: a caption follows from the layout alone.

        Raises:
            UserError: if places are wanted of scenes that do not say them.
        """
        dataset = self.scenes.open(self.split)
        caption: Callable[[int], str] = dataset.caption
        if self.places:
            if not isinstance(dataset, PaintedDataset):
                raise UserError(f"places is set, but {self.scenes.name} say none in their captions; painted scenes do.")
            caption = partial(dataset.caption, places=True)
        return _Texts(self.scenes.class_names, caption, len(dataset))


@dataclass(frozen=True)
class WrittenCaptions(PromptConfig):
    """Captions from a file; classes are the nouns in them.

    The file is text with a caption in each line, or JSON: a list of captions, or of records with a `caption` or, as
    the published captions of ShareGPT-4V, with `conversations`, whose first answer is the caption.
    """

    file: str
    images: str = ""  # of records with an `image`, those whose path contains this, such as coco/train2017
    class_names: tuple[str, ...] = COCO_CLASSES
    tagger: Tagger = "dictionary"
    synonyms: bool = True

    def open(self, folder: Path, device: torch.device) -> PromptSource:
        """Reads the file."""
        matcher = NounMatcher(self.class_names, synonyms=SYNONYMS if self.synonyms else None, tagger=self.tagger)
        lines = read_texts(Path(self.file), self.images)
        return _Texts(self.class_names, lines.__getitem__, len(lines), matcher)


def read_texts(file: Path, images: str = "") -> list[str]:
    """The captions of a file, see `WrittenCaptions`, each in one line.

    Raises:
        UserError: it cannot be read or has another form, or no image has `images` in its path.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a text file with a caption in each line ({error}).") from None
    if file.suffix.lower() != ".json":
        return text.splitlines()
    try:
        records = read_json(text)
        if not isinstance(records, list):
            raise TypeError("no list")
        where = [str(record.get("image", "")) if isinstance(record, dict) else "" for record in records]
        found = [" ".join(_caption(one).split()) for one, path in zip(records, where, strict=True) if images in path]
    except (ValueError, TypeError, KeyError, StopIteration, AttributeError) as error:
        raise UserError(
            f"{file} has another form ({quote(error) or type(error).__name__}); expected a list of captions, or of "
            "records with a caption or with conversations, as ShareGPT-4V's."
        ) from None
    if images and not found:
        raise UserError(f"None of {len(records)} images of {file} has {images} in its path; the first: {where[:1]}.")
    return found


def _caption(record: Any) -> str:
    if isinstance(record, dict) and "caption" not in record:
        record = next(turn["value"] for turn in record["conversations"] if turn["from"] == "gpt")
    caption = record["caption"] if isinstance(record, dict) else record
    if not isinstance(caption, str):
        raise TypeError(f"{caption!r} is no caption")
    return caption


class _Texts:
    """Captions that are there already."""

    def __init__(
        self,
        class_names: tuple[str, ...],
        caption: Callable[[int], str],
        length: int,
        matcher: NounMatcher | None = None,
    ):
        self.class_names = _checked(class_names)
        self._caption, self._length = caption, length
        self._matcher = matcher or NounMatcher(class_names)

    def __len__(self) -> int:
        return self._length

    def prompts(self, indices: Sequence[int]) -> Iterator[Prompt | str]:
        for index in indices:
            caption = self._caption(index)
            yield _named(index, caption, self._matcher(caption))


class _Labels:
    def __init__(self, class_names: tuple[str, ...], labels: Sequence[Sequence[int]], caption: str):
        self.class_names, self._labels, self._text = _checked(class_names), labels, caption

    def __len__(self) -> int:
        return len(self._labels)

    def prompts(self, indices: Sequence[int]) -> Iterator[Prompt | str]:
        for index in indices:
            names = tuple(self.class_names[k - 1] for k in self._labels[index])
            yield _named(index, self._text.format(classes=" ".join(map(readable, names))), names)


class _Classes:
    def __init__(self, config: ClassPrompts):
        self.config, self.class_names = config, _checked(config.class_names)
        self._named = [name for name in self.class_names if name]

    def __len__(self) -> int:
        return len(self._named) * self.config.per_class

    def prompts(self, indices: Sequence[int]) -> Iterator[Prompt | str]:
        for index in indices:
            number, turn = divmod(index, self.config.per_class)
            name, caption = self._named[number], self.config.captions[turn % len(self.config.captions)]
            yield Prompt(index, caption.replace("{class}", readable(name)), (name,))


class _Templates:
    def __init__(self, config: TemplatePrompts, class_names: tuple[str, ...], labels: Sequence[Sequence[int]]):
        self.config, self.class_names = config, _checked(class_names)
        counts = Counter(len(image) for image in labels if image)
        if not counts:
            raise UserError(f"{config.data.name} has no image with a class, so there are no statistics to draw from.")
        self._counts = np.array(sorted(counts))
        self._count_shares = np.array([counts[k] for k in self._counts]) / counts.total()
        images = np.bincount([k for image in labels for k in image], minlength=len(class_names) + 1)[1:]
        self._shares = images / images.sum()

    def __len__(self) -> int:
        return self.config.num_prompts

    def prompts(self, indices: Sequence[int]) -> Iterator[Prompt | str]:
        for index in indices:
            draw = np.random.default_rng([self.config.seed, index])
            count = draw.choice(self._counts, p=self._count_shares)
            chosen = draw.choice(len(self._shares), size=count, replace=False, p=self._shares)
            names = tuple(self.class_names[k] for k in chosen)
            yield _named(index, self.config.caption.format(classes=", ".join(map(readable, names))), names)


class _Captioned:
    """Captions by a model, kept in `captions/`, a file of each process: one line for each image, with its number.

    A line that a killed process left unfinished is not read; its image is captioned again, in the same batch as before.
    """

    def __init__(self, config: CaptionedImages, folder: Path, device: torch.device):
        self.config, self.device = config, device
        self.class_names = _checked(config.class_names)
        self._matcher = NounMatcher(
            config.class_names, synonyms=SYNONYMS if config.synonyms else None, tagger=config.tagger
        )
        self._length, self._picture = _pictures(config.data, config.split)
        self._folder, self._own = folder / "captions", folder / "captions" / captions_file()
        self._known: dict[int, dict[str, Any]] = {}
        self._captioner: Captioner | None = None

    def __len__(self) -> int:
        return self._length

    def prompts(self, indices: Sequence[int]) -> Iterator[Prompt | str]:
        if not self._known:
            self._known = read_captions(self._folder, self._own)
        size = self.config.captioner.batch_size
        for start in range(0, len(indices), size):
            batch = indices[start : start + size]
            if any(index not in self._known for index in batch):
                self._describe(batch)
            for index in batch:
                yield self._prompt(index)

    def _prompt(self, index: int) -> Prompt | str:
        known = self._known[index]
        if "error" in known:
            return known["error"]
        return _named(index, known["caption"], self._matcher(known["caption"]))

    def _describe(self, batch: Sequence[int]) -> None:
        """Caption a whole batch and keep what is new of it."""
        pictures: dict[int, Image.Image] = {}
        lines = []
        for index in batch:
            try:
                pictures[index] = self._picture(index)
            except UserError as error:
                lines.append({"index": index, "error": str(error)})
        if pictures:
            self._captioner = self._captioner or Captioner(self.config.captioner, self.device)
            captions = self._captioner(list(pictures.values()))
            lines += [{"index": i, "caption": text} for i, text in zip(pictures, captions, strict=True)]
        new = sorted((line for line in lines if line["index"] not in self._known), key=lambda line: line["index"])
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._own.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in new))
        except OSError as error:
            raise UserError(f"{self._own} cannot be written ({error.strerror or error}); free some space.") from None
        self._known |= {line["index"]: line for line in new}


def captions_file() -> str:
    """The name of the file of this process."""
    return f"{re.sub(r'[^A-Za-z0-9.-]', '_', platform.node())}-{os.getpid()}.jsonl"


def read_captions(folder: Path, own: Path | None = None) -> dict[int, dict[str, Any]]:
    """All captions below a folder by the number of their image; an unfinished last line of `own` is taken away."""
    known: dict[int, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.jsonl")):
        text = file.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if file == own and whole != text:
            write_text(file, whole)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                found = read_json(line)
                if type(found["index"]) is not int or not isinstance(found.get("error", found.get("caption")), str):
                    raise ValueError("not a caption")
                known.setdefault(found["index"], found)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UserError(f"{file} is damaged in line {number}; delete that line to caption anew.") from None
    return known


def _named(index: int, caption: str, classes: tuple[str, ...]) -> Prompt | str:
    return Prompt(index, caption, classes) if classes else f"no class is named in {caption!r}"


def _checked(class_names: tuple[str, ...]) -> tuple[str, ...]:
    if not any(class_names) or len(class_names) > MAX_CLASS_ID:
        raise UserError(f"There are {len(class_names)} class names; masks can hold 1 to {MAX_CLASS_ID}.")
    return class_names


def _class_names(data: DataConfig) -> tuple[str, ...]:
    """The names of a data set's classes; COCO's where ids are those of COCO."""
    names = getattr(data, "class_names", None)
    if names is None and isinstance(data, AnnotatedPhotos) and data.name.startswith("coco"):
        return COCO_CLASSES
    if names is None:
        raise UserError(f"{data.name} does not name classes; choose data that do, such as voc2012.")
    return tuple(names)


def _labels(data: DataConfig, split: str) -> list[list[int]]:
    """The class ids of every image, each once; of photographs those of the whole picture, not of a crop."""
    if isinstance(data, MaskedPhotos):
        official = data.official_splits.get(split, split)
        if not data.has_masks(official):
            raise UserError(f"The labels of {data.name} are wanted; set train_masks.")
        return list(in_order(lambda entry: data.classes_in(official, entry), data.entries(official)[0], WORKERS))
    dataset, found = data.open(split), []
    for start in range(0, len(dataset), 64):
        rows = dataset.__getitems__(range(start, min(start + 64, len(dataset))))
        values = next((rows[name] for name in ("classes", "class_mask") if name in rows), None)
        if values is None:
            raise UserError(f"{data.name} tells no classes of its images; set train_masks, or choose other data.")
        found += [[int(k) for k in dict.fromkeys(image.tolist()) if k] for image in _distinct(values)]
    return found


def _distinct(values: np.ndarray) -> list[np.ndarray]:
    return [image if image.ndim == 1 else np.unique(image) for image in values]


def _pictures(data: DataConfig, split: str) -> "tuple[int, Callable[[int], Image.Image]]":
    """How many images there are and how to get one: photographs from their files, others from the data set."""
    from PIL import Image

    if isinstance(data, Photos):
        official = data.official_splits.get(split, split)
        entries = data.entries(official)[0]
        return len(entries), lambda index: data.read(official, entries[index])
    dataset = data.open(split)
    return len(dataset), lambda index: Image.fromarray(dataset.__getitems__([index])["image"][0])
