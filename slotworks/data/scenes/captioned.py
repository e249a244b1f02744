"""Drawn shapes with a caption in each batch, for networks that read: text encoders, text-to-image diffusion."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from slotworks.data.random import uniform
from slotworks.data.scenes.shapes import ShapeDataset, ShapeScenes
from slotworks.types import DataConfig, Dataset, RawBatch


@dataclass(frozen=True)
class CaptionedScenes(DataConfig):
    """`ShapeScenes` whose batches also hold `caption`: UTF-8 bytes `b l`, zeros behind the end.

    Each image has one of three forms, a function of its number: the caption; "caption; class class", the prompt that
    GLASS's data engine writes; the classes alone, the prompt that it reads masks from.
    """

    scenes: ShapeScenes = field(default_factory=lambda: ShapeScenes())  # what the captions describe
    both_share: float = 0.4  # share of "caption; class class"
    classes_share: float = 0.2  # share of "class class"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.both_share < 0 or self.classes_share < 0 or self.both_share + self.classes_share > 1:
            raise ValueError(
                f"both_share is {self.both_share} and classes_share {self.classes_share}; they are shares of the "
                "images and come to 1 at most."
            )

    def open(self, split: str = "train") -> Dataset:
        """Open one split: `train`, `val` or `test`."""
        return _Captioned(self, self.scenes.open(split))

    @property
    def name(self) -> str:  # noqa: D102
        return f"captioned_{self.scenes.name}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class of each id from 1 on."""
        return self.scenes.class_names

    @property
    def size(self) -> tuple[int, int]:  # noqa: D102
        return self.scenes.size

    @property
    def max_objects(self) -> int | None:  # noqa: D102
        return self.scenes.max_objects


class _Captioned:
    def __init__(self, config: CaptionedScenes, images: ShapeDataset):
        self.config, self.images = config, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> RawBatch:
        batch = self.images.__getitems__(indices)
        form = uniform(self.images.keys(indices), "caption form", 1)[:, 0]
        texts = []
        captions = self.images.captions(indices, batch)
        for caption, chance, ids in zip(captions, form, batch["classes"], strict=True):
            present = dict.fromkeys(int(k) for k in ids if k)  # far to near: as the caption mentions them
            names = " ".join(self.config.scenes.class_names[k - 1] for k in present)
            if chance < self.config.classes_share:
                texts.append(names.encode())
            elif chance < self.config.classes_share + self.config.both_share and names:
                texts.append(f"{caption}; {names}".encode())
            else:
                texts.append(caption.encode())
        width = max(map(len, texts), default=0)
        padded = b"".join(text.ljust(width, b"\0") for text in texts)
        return {**batch, "caption": np.frombuffer(bytearray(padded), np.uint8).reshape(len(texts), width)}
