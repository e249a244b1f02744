"""Data at the size of a method: what a zero-shot test on another data set needs."""

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate

from slotworks.types import Dataset, RawBatch


class Resized:
    """A data set whose images are resized bilinearly, with antialiasing; masks stay at their own size.

    Predictions are scored at the size of the truth, so nothing is lost by leaving the masks alone. The aspect ratio is
    not kept: nothing is cropped, and what the masks show stays where it is in the image.

    Args:
        dataset: with `image` or `video`.
        size: height and width of the images in pixels.
    """

    def __init__(self, dataset: Dataset, size: tuple[int, int]):
        self.dataset = dataset
        self.size = size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        batch = dict(self.dataset.__getitems__(indices))
        for key in ("image", "video"):
            if key not in batch or batch[key].shape[-3:-1] == self.size:
                continue
            pixels = torch.from_numpy(batch[key]).movedim(-1, -3)
            flat = pixels.reshape(-1, *pixels.shape[-3:])
            flat = interpolate(flat, self.size, mode="bilinear", align_corners=False, antialias=True)
            batch[key] = flat.reshape(*pixels.shape[:-2], *self.size).movedim(-3, -1).numpy()
        return batch
