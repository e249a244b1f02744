"""Images with texts from the web, in shards as img2dataset writes them, and COCO with its captions.

    00000.tar                           000000000.jpg, 000000000.txt, 000000000.json, 000000001.jpg, ...
    00000.parquet                       columns of image bytes and of text
    annotations/captions_train2017.json, train2017/*.jpg

CC3M, CC12M, RedCaps, YFCC and the like come as shards. Nothing is copied: a pair is read from its shard when it is
asked for.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int
from PIL import Image

from slotworks.data.random import scene_keys, uniform
from slotworks.data.readers.marks import MAX_CAPTION
from slotworks.data.readers.pair_shards import Pair, Shard, open_shards
from slotworks.data.readers.views import CHANGE_DRAWS, WINDOW_DRAWS, random_changes, random_window
from slotworks.data.stores.shrink import Interpolation, shrink
from slotworks.encoders.vit import IMAGENET_MEAN, IMAGENET_STD
from slotworks.images import open_picture, reading
from slotworks.nn.augment import erase
from slotworks.nn.superpixels import felzenszwalb, most_frequent
from slotworks.types import Batch, DataConfig, Dataset, RawBatch, UserError

PairCrop = Literal["center", "whole", "window"]

NEXT = 100
"""Pairs behind a damaged one that are tried in its place."""


@dataclass(frozen=True)
class ImageText(DataConfig):
    """Pairs of an image and a text to train on; other images, with masks, to look at.

    Fields of a batch: `image`; `caption`, UTF-8 bytes with zeros behind, cut at 1,000; with `superpixels` also those of
    each patch. A pair whose image is damaged is passed over: the one behind it takes its place.

    Args:
        root: folder of the shards, `*.tar` or `*.parquet`, and of COCO's `captions_train2017.json`, also in folders
            below; or one such file.
        image_size: pixels, square.
        crop: `center` keeps the middle square, `whole` squeezes the picture into the square, `window` is a random
            window, another one in each epoch; validation and test then see the middle square.
        areas: smallest and largest area of a random window, as shares of the picture's.
        interpolation: of pictures that are made smaller or larger.
        flip: whether half of the training images are mirrored.
        changes: whether training images are changed by RandAugment (`slotworks.data.readers.views.random_changes`).
        erased_share: of the training images, in which a rectangle becomes noise.
        real: where validation and test images come from; then all pairs are for training.
        held_out: how many of the last pairs are kept for validation and test otherwise.
        superpixels: pixels of a patch: the number of the superpixel that covers most of it; 0: none.
    """

    root: str = "data/cc3m"
    image_size: int = 224
    crop: PairCrop = "center"
    areas: tuple[float, float] = (0.5, 1.0)
    interpolation: Interpolation = "bicubic"
    flip: bool = False
    changes: bool = False
    erased_share: float = 0.0
    real: DataConfig | None = None
    held_out: int = 64
    superpixels: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.areas[0] <= self.areas[1] <= 1:
            raise ValueError(f"data.areas is {self.areas}; expected two shares above 0, the larger one last.")
        if self.superpixels and self.image_size % self.superpixels:
            raise ValueError(
                f"data.superpixels is {self.superpixels} pixels, which do not fill an image of {self.image_size}; "
                "choose a divisor."
            )

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.root).name

    def open(self, split: str = "train") -> Dataset:
        """Open one split.

        Raises:
            UserError: there is no shard, one is damaged, or nothing is left for the split.
        """
        if self.real is not None and split != "train":
            return self.real.open(split)
        shards = open_shards(Path(self.root))
        total, held_out = sum(map(len, shards)), 0 if self.real is not None else self.held_out
        rows = range(max(0, total - held_out)) if split == "train" else range(max(0, total - held_out), total)
        if not rows:
            raise UserError(
                f"{self.root} holds {total} pairs, of which {held_out} are held out: none is left for the split "
                f"{split!r}; add shards, or change held_out."
            )
        if split != "train":
            return Pairs(replace(self, crop="whole" if self.crop == "whole" else "center", **PLAIN), shards, rows)
        return Pairs(self, shards, rows)

    def augment(self, batch: Batch) -> Batch:
        """A training batch, in some of its images a rectangle of noise."""
        if not self.erased_share:
            return batch
        return {**batch, "image": erase(batch["image"], self.erased_share, mean=IMAGENET_MEAN, std=IMAGENET_STD)}

    def shown(self, split: str) -> DataConfig:
        """Real images, where there are any, to look at."""
        return self if self.real is None or split == "train" else self.real.shown(split)


PLAIN = {"flip": False, "changes": False, "erased_share": 0.0}


class Pairs:
    """One split: batches of images and captions, read when they are asked for.

    What is drawn at random for an image follows from its index; `index + len(self)` is the same pair with other draws,
    which training asks for in its second epoch.
    """

    renewed = True

    def __init__(self, config: ImageText, shards: Sequence[Shard], rows: range):
        self.config, self.shards, self.rows = config, shards, rows
        self._ends = list(accumulate(map(len, shards)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> RawBatch:
        found = [self._whole(int(index)) for index in indices]
        images = np.stack([image for image, _ in found])
        texts = [text.encode()[:MAX_CAPTION] for _, text in found]
        width = max(map(len, texts), default=0)
        padded = b"".join(text.ljust(width, b"\0") for text in texts)
        batch = {"image": images, "caption": np.frombuffer(bytearray(padded), np.uint8).reshape(len(texts), width)}
        if patch := self.config.superpixels:
            size = {"scale": self.config.image_size, "min_size": self.config.image_size}  # 224 for 224 pixels
            parts = [most_frequent(felzenszwalb(image, **size), patch) for image in images]
            batch["superpixels"] = np.stack(parts).astype(np.int32)
        return batch

    def pair(self, index: int) -> Pair:
        """The pair of a row, its image as it lies in the shard."""
        row = self.rows[index % len(self)]
        number = bisect_right(self._ends, row)
        return self.shards[number][row - self._ends[number] + len(self.shards[number])]

    def _whole(self, index: int) -> tuple[np.ndarray, str]:
        """Image and text of a row, or of the next row whose image is whole."""
        for step in range(min(NEXT, len(self))):
            image, text = self.pair(index + step)
            try:
                with reading(f"An image of {self.config.root}"):
                    picture = open_picture(image, name=self.config.root, verify=False).convert("RGB")
                    return self._view(picture, index), text
            except UserError:
                continue
        raise UserError(
            f"{self.config.root}: the images of {NEXT} pairs in a row, from number {index} on, cannot be read; get the "
            "shard again."
        )

    def _view(self, picture: Image.Image, index: int) -> np.ndarray:
        """The picture as a square of pixels."""
        config = self.config
        draws = uniform(scene_keys(seed=0, split=0, indices=np.array([index])), "view", WINDOW_DRAWS + CHANGE_DRAWS)[0]
        if config.crop == "window":
            kind = Image.Resampling[config.interpolation.upper()]
            how = {"areas": config.areas, "kind": kind, "flip": config.flip}
            view = random_window(picture, config.image_size, draws[:WINDOW_DRAWS], **how)
        else:
            image = shrink(picture, config.image_size, config.crop, config.interpolation)["image"]
            view = Image.fromarray(image)
        return np.asarray(random_changes(view, draws[WINDOW_DRAWS:]) if config.changes else view)
