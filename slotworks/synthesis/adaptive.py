"""Masks of generated images with a threshold of their own: the one whose mask agrees most with a spread-out map.

DiffuMask (Wu, Zhao, Shou, Zhou & Shen 2023, "DiffuMask: Synthesizing Images with Pixel-level Annotations for Semantic
Segmentation Using Diffusion Models", arXiv 2303.11681; code weijiawu/DiffuMask, `curve_threshold.py`, `infer_aff.py`):

    maps of several sizes  --each by its maximum, mean-->  map  --threshold t, CRF-->  mask of t
    map, a constant for the background  --random walk along an affinity-->  reference  --agreement-->  the best t

There the affinity is that of a network trained on confident pixels of each class (AffinityNet, Ahn & Kwak 2018). Here
it is the self-attention of the U-Net that draws the image, which needs no training, as in Dataset Diffusion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from slotworks.nn.crf import crf_labels
from slotworks.synthesis.capture import resize
from slotworks.synthesis.refine import refine


@dataclass(frozen=True)
class Adaptive:
    """Settings of the search; defaults are the released code's."""

    first: float = 0.35  # smallest threshold that is tried, in [0, 1]
    last: float = 0.54  # largest
    step: float = 0.01  # between two of them
    level: float = 0.45  # of the background in the random walk: what is left above it is the reference
    crf_iterations: int = 10  # of the fully connected CRF on the mask of each threshold; 0: none
    min_box: float = 1500 / 512**2  # parts whose box is a smaller share of the image are dropped

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last <= 1:
            raise ValueError(
                f"adaptive.first is {self.first} and adaptive.last {self.last}; give 0 <= first <= last <= 1."
            )
        if self.step <= 0:
            raise ValueError(f"adaptive.step is {self.step}; it must be above 0.")
        if self.crf_iterations < 0:
            raise ValueError(f"adaptive.crf_iterations is {self.crf_iterations}; it cannot be negative.")
        if not 0 <= self.min_box <= 1:
            raise ValueError(f"adaptive.min_box is {self.min_box}; it is a share of the image, in [0, 1].")

    @property
    def thresholds(self) -> tuple[float, ...]:
        """What is tried, rising."""
        return tuple(self.first + k * self.step for k in range(round((self.last - self.first) / self.step) + 1))


def adaptive_labels(
    maps: Sequence[Float[Tensor, "b c _y _x"]],
    self_attention: Float[Tensor, "b p p"],
    images: UInt8[Tensor, "b h w 3"],
    class_ids: Int[Tensor, "b c"],
    config: Adaptive,
    power: int = 4,
) -> UInt8[Tensor, "b h w"]:
    """Masks: 0 background, or the id of a class; where two meet, that with the larger map. Nothing is uncertain.

    Args:
        maps: one for each class, of each size.
        self_attention: rows sum to one.
        images: what was drawn.
        class_ids: 1 to 254; 0 marks a map that is no class.
        config: the search.
        power: steps of the random walk.
    """
    size = (images.shape[1], images.shape[2])
    joined = joined_maps(maps, size)
    references = reference_masks(joined, self_attention, power, config.level)
    labels = torch.zeros(len(images), *size, dtype=torch.uint8, device=joined.device)
    highest = torch.zeros(len(images), *size, device=joined.device)
    for b, c in class_ids.nonzero().tolist():
        picture = images[b].to(joined.device).movedim(2, 0).float() / 255
        mask, _ = best_mask(joined[b, c], references[b, c], picture, config)
        mask = torch.from_numpy(without_small(mask.cpu().numpy(), config.min_box)).to(joined.device)
        won = mask & (joined[b, c] > highest[b])
        labels[b][won] = int(class_ids[b, c])
        highest[b] = joined[b, c].where(won, highest[b])
    return labels


def joined_maps(maps: Sequence[Float[Tensor, "b c _y _x"]], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """The mean over sizes of maps enlarged, bicubic, and divided by their maximum; a map without any stays 0."""
    found = []
    for one in maps:
        large = resize(one, size)
        found.append(large / large.amax((2, 3), keepdim=True).clamp(min=1e-12))
    return torch.stack(found).mean(0)


def reference_masks(
    joined: Float[Tensor, "b c h w"], self_attention: Float[Tensor, "b p p"], power: int, level: float
) -> Bool[Tensor, "b c h w"]:
    """Where a map is above the background after a random walk; the constant background stays what it is in one."""
    side = round(self_attention.shape[-1] ** 0.5)
    small = torch.nn.functional.interpolate(joined, (side, side), mode="bilinear", antialias=True)
    return resize(refine(small, self_attention, power), (joined.shape[2], joined.shape[3])) > level


def best_mask(
    map_: Float[Tensor, "h w"], reference: Bool[Tensor, "h w"], image: Float[Tensor, "3 h w"], config: Adaptive
) -> tuple[Bool[Tensor, "h w"], float]:
    """The mask that agrees most with the reference, and its threshold; with no agreement an empty mask and 0.

    Agreement is what both share divided by the sum of both, half the Dice coefficient. Of equal ones the first is kept.
    """
    best, threshold, most = torch.zeros_like(reference), 0.0, 0.0
    candidates = torch.stack([map_ > t for t in config.thresholds])
    if config.crf_iterations:
        # Twenty-one labels, of which two are there: a pixel keeps its own with 0.5, each of the others has 0.025.
        how = {"iterations": config.crf_iterations, "certain": 0.5, "other": 0.025}
        pictures = image.expand(len(candidates), -1, -1, -1)
        candidates = crf_labels(candidates.long(), pictures, 21, **how) == 1
    for mask, t in zip(candidates, config.thresholds, strict=True):
        agreement = float((mask & reference).sum() / (mask.sum() + reference.sum()).clamp(min=1))
        if agreement > most:
            best, threshold, most = mask, t, agreement
    return best, threshold


def without_small(mask: Bool[np.ndarray, "h w"], min_box: float) -> Bool[np.ndarray, "h w"]:
    """Connected parts, corners included, with a box of at least this share of the image; holes in them are filled."""
    from scipy import ndimage  # imported here: takes half a second

    parts, _ = ndimage.label(mask, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    kept = np.zeros_like(mask)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        height, width = (where.stop - where.start for where in box)
        if height * width >= min_box * mask.size:
            kept |= ndimage.binary_fill_holes(parts == number)
    return kept
