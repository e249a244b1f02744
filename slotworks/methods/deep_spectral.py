"""Deep Spectral Methods: image -> keys of DINO -> graph Laplacian -> eigenvectors -> segments. Learns nothing.

Melas-Kyriazi, Rupprecht, Laina, Vedaldi 2022, "Deep Spectral Methods: A Surprisingly Strong Baseline for Unsupervised
Semantic Segmentation and Localization", arXiv 2205.07839; code lukemelas/deep-spectral-segmentation. `encode` gives the
segments of an image, `describe` the feature of each by which segments are clustered over a data set:

    slotworks.evaluation.semantic.evaluate_semantic(method, dataset, class_names=..., rule="clusters")

Differences from the released code: images are square instead of native size; all eigenvectors of the dense matrix are
computed exactly instead of a few by Lanczos iteration; the data set is clustered by plain k-means instead of the
mini-batch kind; background is a cluster of its own (there the background and cluster 0 share the number 0).

With `crf_iterations` the clusters in an image are drawn to its borders by a fully connected CRF (`refine`), as
`extract_crf_segmentations` does with the settings of `nn/crf.py`. Its self-training is a segmenter of its own, trained
on the masks that `slotworks label` writes: `configs/deep_spectral.py`, `voc_stage2`.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.encoders.vit import load_network
from slotworks.nn.clustering import kmeans, laplacian_eigenvectors, segments_as_slots
from slotworks.nn.crf import crf_labels
from slotworks.types import MethodConfig, SlotOutput, Untrained

COLOR_NEIGHBOURS = ((20, 2.0), (10, 0.1))
"""Nearest neighbours by colour and place: how many, and the weight of the coordinates in [0, 1]."""


@dataclass(frozen=True)
class DeepSpectralConfig(MethodConfig):
    """Settings of the segmentation; defaults are those of the repository's example for semantic segmentation."""

    encoder: ViTConfig = field(
        default_factory=lambda: ViTConfig("facebook/dino-vits16", image_size=480, feature_dim=384, features="keys")
    )
    """the frozen network whose features are cut into segments"""
    num_slots: int = 15  # segments, the background among them
    num_eigenvectors: int = 5  # smallest ones, the constant one included, which is then left out
    color_weight: float = 0.0  # weight of the affinity of colours; the paper's option, off in the example
    erode: int = 2  # times a segment is eroded before its box is taken; stops where nothing would be left
    dilate: int = 5  # times it is dilated after that
    restarts: int = 8  # k-means runs; the best is kept
    crf_iterations: int = 0  # of the CRF on clusters, 5 in the released code; 0: none. Segments of `encode` stay

    @property
    def image_size(self) -> int:
        """Pixels, square."""
        return self.encoder.image_size

    def build(self) -> "DeepSpectral":
        """Make the method; the network is loaded at the first image."""
        return DeepSpectral(self)


class DeepSpectral(Untrained):
    """Segments of one image from the spectrum of its feature graph; slot 0 is the background."""

    config: DeepSpectralConfig

    def __init__(self, config: DeepSpectralConfig):
        super().__init__(config)
        self.encoder = ViTEncoder(config.encoder)
        self._whole: tuple[Any] | None = None  # the network with its CLS token; in a tuple, it is no submodule

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to segments: `attn` is one-hot, slot 0 is the segment that touches most of the border."""
        features = self.encoder(image)
        grid = self.encoder.grid(*image.shape[-2:])
        affinity = feature_affinity(features)
        if self.config.color_weight:
            affinity = affinity + self.config.color_weight * color_affinity(image, grid)
        _, vectors = laplacian_eigenvectors(affinity, min(self.config.num_eigenvectors, affinity.shape[1]))
        labels = kmeans(vectors[..., 1:].float(), self.config.num_slots, restarts=self.config.restarts)
        return segments_as_slots(background_first(labels, grid), features, self.config.num_slots, grid)

    def describe(self, image: Float[Tensor, "b 3 h w"], output: SlotOutput) -> Float[Tensor, "b n d"]:
        """For every segment the CLS feature of the box around it, length 1; NaN for the background and empty slots."""
        network = self._network(image)
        vit = self.config.encoder
        mean, std = (image.new_tensor(values)[:, None, None] for values in (vit.mean, vit.std))
        pixels, patch = (image - mean) / std, vit.patch_size
        found = image.new_full((*output.slots.shape[:2], network.config.hidden_size), torch.nan)
        masks = output.attn_maps.cpu().numpy() > 0.5
        for b, n in np.argwhere(masks[:, 1:].any((2, 3))):
            top, left, bottom, right = (patch * side for side in self.box(masks[b, n + 1]))
            crop = pixels[b : b + 1, :, top:bottom, left:right]
            with torch.no_grad():
                tokens = network(crop, interpolate_pos_encoding=True).last_hidden_state[0]
            has_cls = len(tokens) > (bottom - top) * (right - left) // patch**2
            found[b, n + 1] = F.normalize(tokens[0] if has_cls else tokens.mean(0), dim=0)
        return found

    @property
    def refines(self) -> bool:
        """Whether the clusters in an image are drawn to its borders."""
        return self.config.crf_iterations > 0

    def refine(
        self, labels: Int64[Tensor, "b y x"], image: Float[Tensor, "b 3 h w"], num_labels: int
    ) -> Int64[Tensor, "b h w"]:
        """Clusters of patches to clusters of pixels of images in [0, 1], by the CRF."""
        large = F.interpolate(labels[:, None].double(), image.shape[-2:], mode="nearest-exact")[:, 0].long()
        return crf_labels(large, image, num_labels, iterations=self.config.crf_iterations)

    def box(self, mask: np.ndarray) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of a mask after erosion and dilation, in patches; the last two are excluded."""
        from scipy.ndimage import binary_dilation, binary_erosion  # imported here: takes half a second

        for change, times, outside in (
            (binary_erosion, self.config.erode, 1),
            (binary_dilation, self.config.dilate, 0),
        ):
            for _ in range(times):
                changed = change(mask, border_value=outside)
                mask = changed if changed.any() else mask
        (rows,), (columns,) = np.nonzero(mask.any(1)), np.nonzero(mask.any(0))
        return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_whole": None}

    def _network(self, image: Tensor) -> Any:
        if self._whole is None:
            self._whole = (load_network(replace(self.config.encoder, layer=-1, features="normed"))[0],)
        return self._whole[0].to(image.device)


def feature_affinity(features: Float[Tensor, "b p c"]) -> Float[Tensor, "b p p"]:
    """Cosines of features, negative ones set to 0, divided by the largest of each image."""
    f = F.normalize(features, dim=2)
    w = (f @ f.mT).clamp(min=0)
    return w / w.amax((1, 2), keepdim=True)


def color_affinity(image: Float[Tensor, "b 3 h w"], grid: tuple[int, int]) -> Float[Tensor, "b p p"]:
    """How often two positions are among each other's nearest neighbours by colour and place (Chen et al. 2013)."""
    small = F.interpolate(image, grid, mode="bilinear", antialias=True).flatten(2).mT
    axes = [torch.linspace(0, 1, side, device=image.device, dtype=image.dtype) for side in grid]
    places = torch.cartesian_prod(*axes).expand(len(image), -1, -1)
    count = places.shape[1]
    w = image.new_zeros(len(image), count, count)
    for neighbours, weight in COLOR_NEIGHBOURS:
        points = torch.cat([small, weight * places], 2)
        near = torch.cdist(points, points).topk(min(neighbours, count), largest=False).indices
        chosen = torch.zeros_like(w).scatter_(2, near, 1.0)
        w = w + chosen + chosen.mT
    return w


def background_first(labels: Int64[Tensor, "b p"], grid: tuple[int, int]) -> Int64[Tensor, "b p"]:
    """Exchange segment 0 and the one with most positions on the border of the image (corners count twice)."""
    maps = labels.unflatten(1, grid)
    border = torch.cat([maps[:, 0], maps[:, -1], maps[:, :, 0], maps[:, :, -1]], 1)
    most = F.one_hot(border, int(labels.max()) + 1).sum(1).argmax(1).unsqueeze(1)
    return torch.where(labels == most, 0, torch.where(labels == 0, most, labels))
