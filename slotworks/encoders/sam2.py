"""SAM 2 (Ravi et al. 2024, arXiv:2408.00714) through `transformers`: masks from boxes, or of everything in an image.

    image --squeezed into a square--> embedding --each box or point--> mask of low resolution --bilinear--> image's size

What is done before and after the network is that of the authors' repository `facebookresearch/sam2` (2b90b9f): the
image is resized in floating point with antialiasing, whatever its aspect, and normalised with ImageNet's statistics;
logits are made as large as the image and cut at 0; holes are not filled. The processor of `transformers` rounds the
resized image to 8 bits and needs torchvision, which is not used here. Its `mask-generation` pipeline lays the grid of
points as for SAM 1, scaled by the longer side, so that in an image of 640x480 pixels nothing is asked about the lowest
quarter of the square; here both sides have a scale of their own, as in the repository.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from slotworks.encoders.reports import first_line, quiet
from slotworks.encoders.vit import IMAGENET_MEAN, IMAGENET_STD, find_files, loading_errors
from slotworks.errors import needs_extra
from slotworks.json_text import read_json
from slotworks.types import UserError

Picture = UInt8[np.ndarray, "_h _w 3"] | UInt8[Tensor, "_h _w 3"] | Float[Tensor, "3 _h _w"]
"""As a data set stores it, uint8 `h w 3`, or as a batch holds it, float `3 h w` in [0, 1]."""


@dataclass(frozen=True)
class Sam2Config:
    """Which weights, and how many prompts at a time. Nothing is loaded or imported by this."""

    model: str = "facebook/sam2.1-hiera-large"  # hub id, or a folder with config.json and model.safetensors
    prompts_per_pass: int = 64  # boxes or points decoded at once: more is faster and takes more memory

    def __post_init__(self) -> None:
        if self.prompts_per_pass < 1:
            raise ValueError(f"prompts_per_pass is {self.prompts_per_pass}; expected 1 or more.")


@dataclass(frozen=True)
class EmbeddedImage:
    """What SAM 2 needs of one image to answer any number of prompts.

    `maps` are feature maps `1 c h w` from fine to coarse; `size` is the image's height and width in pixels.
    """

    maps: tuple[Tensor, ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class AutomaticMasks:
    """Masks found without prompts, best first. They may overlap and need not cover the image."""

    masks: Bool[Tensor, "m h w"]
    predicted_iou: Float[Tensor, " m"]  # the network's own estimate of a mask's IoU with the truth
    stability: Float[Tensor, " m"]  # IoU of the mask cut at a higher logit with the one cut at a lower


class Sam2:
    """A frozen SAM 2 for single images. The network is loaded at the first prompt, in float32.

    Args:
        config: which weights; folders of the image and of the video model fit both.
        device: where it computes.

    Methods raise UserError if the network cannot be found, downloaded or read, or is no SAM 2.
    """

    def __init__(self, config: Sam2Config | None = None, device: torch.device | str = "cpu"):
        self.config = config or Sam2Config()
        self.device = torch.device(device)
        self._network: Any = None

    @property
    def network(self) -> Any:
        """The `Sam2Model` of `transformers`, in evaluation mode and without gradients."""
        if self._network is None:
            self._network = _load(self.config.model).to(self.device)
        return self._network

    def file_hashes(self) -> dict[str, str]:
        """SHA-256 of config.json and of the weight files by name, as `sha256sum` and the hub show it; loads nothing."""
        hashes = {}
        for file in find_files(self.config.model):
            with file.open("rb") as opened:
                hashes[file.name] = hashlib.file_digest(opened, "sha256").hexdigest()
        return hashes

    @torch.no_grad()
    def embed(self, images: Sequence[Picture]) -> list[EmbeddedImage]:
        """Run the image encoder once over a batch of images, which may have different sizes."""
        if not images:
            return []
        side = self.network.config.prompt_encoder_config.image_size
        squares = torch.stack([self._square(image, side) for image in images])
        maps = self.network.get_image_embeddings(squares)
        sizes = [_size(image) for image in images]
        return [EmbeddedImage(tuple(level[k : k + 1] for level in maps), size) for k, size in enumerate(sizes)]

    @torch.no_grad()
    def masks_from_boxes(
        self, image: Picture | EmbeddedImage, boxes: Float[Tensor, "m 4"] | Int[Tensor, "m 4"]
    ) -> Bool[Tensor, "m h w"]:
        """One mask for each box, at the image's size, on the network's device.

        A box says what is meant, so the network gives one mask (`multimask_output=False`); the answer to a box does
        not depend on the other boxes. A mask may be empty and may leave its box.

        Args:
            image: an image, or what `embed` made of it.
            boxes: `x0 y0 x1 y1` in pixels of the image: 0 is its left or upper edge, its width or height the other.

        Raises:
            ValueError: a box is not finite or ends before it begins.
        """
        boxes = boxes.float()
        if wrong := [box for box in boxes.tolist() if not (box[0] <= box[2] < np.inf and box[1] <= box[3] < np.inf)]:
            raise ValueError(f"A box is {wrong[0]}; expected x0 y0 x1 y1 with x0 <= x1 and y0 <= y1, in pixels.")
        height, width = _size(image)
        if not len(boxes):
            return torch.zeros(0, height, width, dtype=torch.bool, device=self.device)
        found = self._embedded(image)
        prompts = self._scaled(boxes.view(1, -1, 2, 2), (height, width)).flatten(2)
        parts = [
            self._enlarged(self._decode(found, input_boxes=some, multimask_output=False).pred_masks[0, :, 0], found) > 0
            for some in prompts.split(self.config.prompts_per_pass, 1)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def automatic_masks(
        self,
        image: Picture | EmbeddedImage,
        *,
        points_per_side: int = 32,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
    ) -> AutomaticMasks:
        """Masks of all that a grid of points hits: `SAM2AutomaticMaskGenerator` with its defaults and without crops.

        Every point gives three masks. Those are left out whose predicted IoU is not above `pred_iou_thresh`, whose
        stability is below `stability_score_thresh`, that are empty, and of those whose boxes overlap with an IoU above
        `box_nms_thresh` all but the one of the highest predicted IoU.

        Args:
            image: an image, or what `embed` made of it.
            points_per_side: the grid has this number squared.
            pred_iou_thresh: in [0, 1]; 0.88 in SAM 1 and in `transformers`.
            stability_score_thresh: in [0, 1].
            stability_score_offset: how far from 0 the logits are cut to measure the stability.
            box_nms_thresh: in [0, 1]; 1 keeps all.
        """
        if points_per_side < 1:
            raise ValueError(f"points_per_side is {points_per_side}; expected 1 or more.")
        found = self._embedded(image)
        offset = stability_score_offset
        masks, scores, stabilities = [], [], []
        for some in self._scaled(_grid(points_per_side, found.size), found.size).split(self.config.prompts_per_pass):
            labels = torch.ones(1, len(some), 1, dtype=torch.int64, device=self.device)  # 1: the point is in the object
            answer = self._decode(found, input_points=some[None, :, None], input_labels=labels, multimask_output=True)
            score = answer.iou_scores.flatten()
            good = score > pred_iou_thresh if pred_iou_thresh > 0 else torch.ones_like(score, dtype=torch.bool)
            logits = self._enlarged(answer.pred_masks.flatten(0, 2)[good], found)
            stability = _area(logits > offset) / _area(logits > -offset).clamp(min=1)
            keep = (stability >= stability_score_thresh) & (logits > 0).flatten(1).any(1)
            masks.append(logits[keep] > 0)
            scores.append(score[good][keep])
            stabilities.append(stability[keep])
        mask, score, stability = torch.cat(masks), torch.cat(scores), torch.cat(stabilities)
        kept = box_nms(boxes_of(mask), score, box_nms_thresh)
        return AutomaticMasks(mask[kept], score[kept], stability[kept])

    def _embedded(self, image: Picture | EmbeddedImage) -> EmbeddedImage:
        return image if isinstance(image, EmbeddedImage) else self.embed([image])[0]

    def _decode(self, image: EmbeddedImage, **prompts: Any) -> Any:
        return self.network(image_embeddings=list(image.maps), **prompts)

    def _square(self, image: Picture, side: int) -> Float[Tensor, "3 side side"]:
        """Resized to what the encoder sees, and normalised."""
        pixels = (image if isinstance(image, Tensor) else torch.tensor(image)).to(self.device)
        pixels = pixels.float() if pixels.is_floating_point() else pixels.movedim(-1, 0).float() / 255
        pixels = F.interpolate(pixels[None], (side, side), mode="bilinear", antialias=True)[0]
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (pixels - mean) / std

    def _scaled(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Points `x y` in pixels of the image to pixels of the square."""
        side = self.network.config.prompt_encoder_config.image_size
        return points.to(self.device) * torch.tensor([side / size[1], side / size[0]], device=self.device)

    def _enlarged(self, logits: Float[Tensor, "m y x"], image: EmbeddedImage) -> Float[Tensor, "m h w"]:
        return F.interpolate(logits[:, None].float(), image.size, mode="bilinear", align_corners=False)[:, 0]


def box_nms(boxes: Float[Tensor, "m 4"], scores: Float[Tensor, " m"], threshold: float) -> Int[Tensor, " k"]:
    """Greedy non-maximum suppression: the numbers of the boxes that stay, best first.

    A box goes if its IoU with a better one that stays is above `threshold`. The same as torchvision's `nms`; of two
    equal scores the first box counts as the better.
    """
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes[order].cpu()  # the loop below is one of small steps, which a GPU does not like
    low, high = sorted_boxes[:, :2], sorted_boxes[:, 2:]
    areas = (high - low).prod(1)
    stays = torch.ones(len(boxes), dtype=torch.bool)
    for k in range(len(boxes)):
        if stays[k]:
            shared = (torch.minimum(high, high[k]) - torch.maximum(low, low[k])).clamp(min=0).prod(1)
            covered = shared / (areas + areas[k] - shared) > threshold  # 0 / 0, two boxes without area, is not above
            stays[k + 1 :] &= ~covered[k + 1 :]
    return order[stays.to(order.device)]


def boxes_of(masks: Bool[Tensor, "m h w"]) -> Float[Tensor, "m 4"]:
    """The first and last column and row of each mask as `x0 y0 x1 y1`; zeros for an empty mask."""
    edges = []
    for line in (masks.any(1), masks.any(2)):  # columns, rows
        first = line.int().argmax(1)
        last = line.shape[1] - 1 - line.flip(1).int().argmax(1)
        edges.append((first, torch.where(line.any(1), last, 0)))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], 1).float()


def _area(masks: Bool[Tensor, "m h w"]) -> Tensor:
    return masks.flatten(1).sum(1)


def _size(image: Picture | EmbeddedImage) -> tuple[int, int]:
    if isinstance(image, EmbeddedImage):
        return image.size
    floats = isinstance(image, Tensor) and image.is_floating_point()
    wanted = "float 3 h w in [0, 1]" if floats else "uint8 h w 3"
    if image.ndim != 3 or image.shape[0 if floats else 2] != 3:
        raise ValueError(f"The image has the shape {tuple(image.shape)}; expected {wanted}.")
    height, width = image.shape[1:] if floats else image.shape[:2]
    return int(height), int(width)


def _grid(points_per_side: int, size: tuple[int, int]) -> Float[Tensor, "k 2"]:
    """Points `x y` in pixels at the centres of equal cells, row by row."""
    centres = torch.linspace(0.5, points_per_side - 0.5, points_per_side) / points_per_side
    y, x = torch.meshgrid(centres * size[0], centres * size[1], indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def _load(model: str) -> Any:
    """The network from its files, frozen, on the CPU, in float32."""
    files = find_files(model)
    _check_kind(model, files[0])
    with needs_extra("vision"):
        from transformers import Sam2Model
    # The hub's folders say `sam2_video`: the video model, of which the image model is a part. That is meant so.
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]), quiet():
        try:
            loaded: Any = Sam2Model.from_pretrained(
                str(files[0].parent),
                local_files_only=True,
                use_safetensors=any(file.suffix == ".safetensors" for file in files),
                dtype=torch.float32,
                output_loading_info=True,
            )
        except loading_errors() as error:
            raise UserError(
                f"The network {model} cannot be read ({first_line(error)}); it should be a SAM 2 in the format of "
                f"transformers, such as {Sam2Config.model}."
            ) from error
    network, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{model} is not a whole SAM 2: {len(missing)} tensors are missing, such as {missing[0]}; get it again."
        )
    return network.requires_grad_(False).eval()


def _check_kind(model: str, config_file: Path) -> None:
    """Sam2Model would take any config.json and build a network of its own default size."""
    try:
        kind = read_json(config_file.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{config_file} is damaged ({first_line(error)}); get {model} again.") from error
    if kind not in ("sam2", "sam2_video"):
        raise UserError(f"{model} is a network of the kind {kind!r}; choose a SAM 2 such as {Sam2Config.model}.")
