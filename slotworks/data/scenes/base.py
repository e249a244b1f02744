"""What all drawn scenes share: splits, keys, batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt64

from slotworks.data.random import scene_keys
from slotworks.types import DataConfig, RawBatch

SPLITS = ("train", "val", "test")

_CHUNK = 128  # images drawn at once: their pixels stay in the cache of one core


@dataclass(frozen=True)
class SceneConfig(DataConfig):
    """Scenes that are drawn when they are asked for. Nothing is downloaded and nothing is stored.

    Image `i` of a split is a function of `seed`, the split and `i` alone; how many there are changes none of them.
    """

    num_train: int = 60_000  # images
    num_val: int = 320  # validation images
    num_test: int = 320  # Slot Attention's tables use 320 test images
    seed: int = 0  # of what is drawn

    def open(self, split: str = "train") -> "SceneDataset":
        """Open one split: `train`, `val` or `test`."""
        return SceneDataset(self, split)

    def draw(self, key: UInt64[np.ndarray, " b"]) -> RawBatch:
        """Draw one scene per key."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to draw")


class SceneDataset:
    """One split of a drawn data set. `dataset[i]` is one sample, `dataset.__getitems__(indices)` a stacked batch.

    Raises:
        ValueError: for an unknown split.
        IndexError: for an index outside the split.
    """

    def __init__(self, config: SceneConfig, split: str):
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; drawn scenes have the splits {', '.join(SPLITS)}.")
        self.config = config
        self.split = split
        self._length: int = getattr(config, f"num_{split}")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> RawBatch:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> RawBatch:
        keys = self.keys(indices)
        chunks = [self.config.draw(keys[i : i + _CHUNK]) for i in range(0, max(len(keys), 1), _CHUNK)]
        if len(chunks) == 1:
            return chunks[0]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def keys(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
        """The keys of these images, from which everything in them follows."""
        array = np.asarray(indices, dtype=np.int64)
        if array.size and not 0 <= array.min() <= array.max() < len(self):
            wrong = array.min() if array.min() < 0 else array.max()
            raise IndexError(f"index {wrong} is outside the {self.split} split, which has {len(self)} images.")
        return scene_keys(seed=self.config.seed, split=SPLITS.index(self.split), indices=array)


def boxes_of_mask(mask: UInt8[np.ndarray, "b h w"], count: int) -> Float[np.ndarray, "b {count} 4"]:
    """Boxes `x0 y0 x1 y1` in [0, 1] around the pixels of ids 1 to `count`; zeros for an id without a pixel."""
    b, h, w = mask.shape
    boxes = np.zeros((b, count, 4), dtype=np.float32)
    for k in range(count):
        own = mask == k + 1
        columns, rows = own.any(axis=1), own.any(axis=2)
        x0, x1 = columns.argmax(axis=1), w - columns[:, ::-1].argmax(axis=1)
        y0, y1 = rows.argmax(axis=1), h - rows[:, ::-1].argmax(axis=1)
        box = np.stack([x0 / w, y0 / h, x1 / w, y1 / h], axis=1)
        boxes[:, k] = box * columns.any(axis=1)[:, None]
    return boxes
