"""Silhouettes as lists of pixels: painting a batch of objects is one indexed assignment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Stamps:
    """`s` silhouettes for a canvas of a fixed width, addressed by the top left corner of their bitmap.

    The lists have equal length `p`: shorter ones repeat their first pixel, which painting does not notice; `valid`
    tells the repeats apart where pixels are counted.
    """

    offsets: Int[np.ndarray, "s p"]  # row * canvas width + column, from the corner
    valid: Bool[np.ndarray, "s p"]
    height: Int[np.ndarray, " s"]  # of the bitmap, in pixels
    width: Int[np.ndarray, " s"]

    @staticmethod
    def cut(bitmaps: Sequence[np.ndarray], *, canvas_width: int) -> "Stamps":
        """Make stamps from boolean bitmaps, each with its own height and width."""
        lists = [np.nonzero(bitmap)[0] * canvas_width + np.nonzero(bitmap)[1] for bitmap in bitmaps]
        longest = max(map(len, lists))
        offsets = np.stack([np.pad(pixels, (0, longest - len(pixels)), constant_values=pixels[0]) for pixels in lists])
        valid = np.stack([np.arange(longest) < len(pixels) for pixels in lists])
        height, width = np.array([bitmap.shape for bitmap in bitmaps]).T
        return Stamps(offsets, valid, height, width)

    @property
    def area(self) -> Int[np.ndarray, " s"]:
        """Pixels of each silhouette."""
        return self.valid.sum(axis=1)

    def pixels(self, stamp: Int[np.ndarray, "*b"], corner: Int[np.ndarray, "*b"]) -> Int[np.ndarray, "*b p"]:
        """Flat pixel numbers these stamps cover when their corners lie at these flat pixel numbers."""
        return self.offsets[stamp] + corner[..., None]
