"""DiffCut: image -> self-attention output of a diffusion U-Net -> recursive normalised cut -> regions. Learns nothing.

Couairon, Shukor, Haugeard, Cord, Thome 2024, "DiffCut: Catalyzing Zero-Shot Semantic Segmentation with Diffusion
Features and Recursive Normalized Cut", arXiv 2406.02842; code PaulCouairon/DiffCut. The default U-Net is SSD-1B, a
distilled SDXL, as there; any Stable Diffusion works.

Differences from the released code: float32 instead of float16, float64 in the cuts; at most `num_slots` regions, the
largest; the two positions of the smallest affinity, which becomes 0, stay in all cuts (there a 0 marks positions of
other regions, so that these two drop out after the first cut). With that undone there, both find the same regions.

The paper's best numbers are of borders that PAMR refined: `refinement`. The released `eval_diffcut.py` refines what is
left after regions without a class were merged, which it knows from the truth; here all regions are refined.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from slotworks.encoders.diffusion import LatentDiffusion
from slotworks.nn.clustering import laplacian_eigenvectors, segments_as_slots
from slotworks.nn.pamr import refine_masks
from slotworks.types import MethodConfig, SlotOutput, Untrained, UserError

THRESHOLDS = 100
"""Values of an eigenvector at which a cut is tried."""


@dataclass(frozen=True)
class DiffCutConfig(MethodConfig):
    """Settings of the segmentation."""

    model: str = "segmind/SSD-1B"  # hub id, or a folder in the format of diffusers
    input_size: int = 1024  # pixels, square; images of another size are resized to it
    num_slots: int = 32  # most regions of an image; smaller ones are given to their neighbours
    timestep: int = 50  # noise level of the latents, 0 to 999
    noise_seed: int = 42  # of the one noise that all images get
    alpha: float = 10.0  # power of the affinities
    tau: float = 0.5  # regions are cut while a cut has a smaller value; larger: more regions
    images_per_pass: int = 4  # images in one pass of the U-Net: memory, not results
    map_size: int = 128  # height and width of the masks, to which features are interpolated
    refinement: int = 0  # iterations of PAMR on the masks, 10 in the released code, and a median of 3 x 3; 0: none

    def build(self) -> "DiffCut":
        """Make the method; the diffusion model is loaded at the first image."""
        return DiffCut(self)


class DiffCut(Untrained):
    """Regions from a recursive normalised cut of diffusion features."""

    semantic_rule = "per_image"  # how `evaluate_semantic` reads the slots: as the released evaluation does
    config: DiffCutConfig

    def __init__(self, config: DiffCutConfig):
        super().__init__(config)
        self.diffusion = LatentDiffusion(config.model)

    def encode(self, image: Float[Tensor, "b 3 h w"]) -> SlotOutput:
        """Images in [0, 1] to regions: `attn` is one-hot at `map_size`, slots are mean features, empty ones zero."""
        config = self.config
        features = F.normalize(self.features(image), dim=2)
        side = math.isqrt(features.shape[1])
        size = (config.map_size, config.map_size)
        fine = F.interpolate(features.mT.unflatten(2, (side, side)), size, mode="bilinear").flatten(2).mT  # b p c
        labels = [
            nearest_region(f, regions_of(affinity(f, config.alpha), config.tau), x, config.num_slots)
            for f, x in zip(features, fine, strict=True)
        ]
        found = torch.stack(labels)
        if config.refinement:
            small = F.interpolate(image, size, mode="bilinear")
            found = refined(found.view(-1, *size), small, config.num_slots, config.refinement).flatten(1)
        return segments_as_slots(found, fine, config.num_slots, size)

    def features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        """Output of the last self-attention of the last down block that has any, from one pass at `timestep`."""
        return torch.cat([self._features(part) for part in image.split(self.config.images_per_pass)])

    def _features(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p c"]:
        size = (self.config.input_size, self.config.input_size)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bilinear")
        latents = self.diffusion.encode(image)
        # Drawn on the CPU: the same noise on every device, which the original's generator on the GPU is not.
        generator = torch.Generator().manual_seed(self.config.noise_seed)
        noise = torch.randn(1, *latents.shape[1:], generator=generator).to(latents).expand_as(latents)
        noisy = self.diffusion.add_noise(latents, noise, self.config.timestep)
        return self.diffusion.features(
            noisy, self.config.timestep, last_down_attention(self.diffusion.parts(image).unet)
        )


def refined(
    labels: Int64[Tensor, "b h w"], image: Float[Tensor, "b 3 h w"], num_regions: int, iterations: int
) -> Int64[Tensor, "b h w"]:
    """Regions after PAMR and a median filter of 3 x 3 over their numbers, borders mirrored, as `eval_diffcut.py`."""
    masks = refine_masks(F.one_hot(labels, num_regions).movedim(3, 1).to(image.dtype), image, iterations=iterations)
    best = masks.argmax(1)
    around = F.pad(best[:, None].double(), [1] * 4, mode="replicate")  # of 3 x 3: mirrored with the edge is repeated
    return F.unfold(around, 3).median(1).values.view_as(labels).long()


def last_down_attention(unet: Any) -> Any:
    """The self-attention of the last transformer block in the last down block with attention."""
    blocks = [block for block in unet.down_blocks if hasattr(block, "attentions")]
    if not blocks:
        raise UserError("This U-Net has no attention in its down blocks; choose a Stable Diffusion or SDXL model.")
    return blocks[-1].attentions[-1].transformer_blocks[-1].attn1


def affinity(features: Float[Tensor, "p c"], alpha: float) -> Float64[Tensor, "p p"]:
    """Cosines moved to [0, 1] over the image, to the power `alpha`."""
    f = F.normalize(features.double(), dim=1)
    w = f @ f.T
    low, high = w.aminmax()
    return ((w - low) / (high - low).clamp(min=1e-12)) ** alpha


def regions_of(w: Float64[Tensor, "p p"], tau: float) -> Int64[Tensor, " p"]:
    """Recursive normalised cut (Shi & Malik 2000): cut while the best cut is below `tau`.

    Args:
        w: affinity, symmetric, not negative.
        tau: in [0, 2], the range of normalised cuts.

    Returns:
        The region of every position, from 0 without gaps.
    """
    labels = torch.zeros(len(w), dtype=torch.int64, device=w.device)
    waiting, count = [torch.arange(len(w), device=w.device)], 0
    while waiting:
        members = waiting.pop()
        sides, value = best_cut(w[members[:, None], members])
        if value < tau:
            waiting += [members[sides], members[~sides]]
        else:
            labels[members] = count
            count += 1
    return labels


def best_cut(w: Float64[Tensor, "p p"]) -> tuple[Bool[Tensor, " p"], float]:
    """The cut of lowest value among thresholds of the second eigenvector; infinite where nothing can be cut."""
    if len(w) < 2:
        return torch.ones(len(w), dtype=torch.bool, device=w.device), math.inf
    y = laplacian_eigenvectors(w, 2)[1][:, 1]
    y = y * y[y.abs().argmax()].sign()
    thresholds = torch.linspace(
        0.99 * y.min().item(), 0.99 * y.max().item(), THRESHOLDS, dtype=y.dtype, device=y.device
    )
    sides = y > thresholds.unsqueeze(1)
    values = cut_values(w, sides)
    best = int(values.argmin())
    return sides[best], values[best].item()


def cut_values(w: Float64[Tensor, "p p"], sides: Bool[Tensor, "t p"]) -> Float64[Tensor, " t"]:
    """`cut(A, B) / assoc(A, V) + cut(A, B) / assoc(B, V)` of cuts into `A` and `B`; infinite if a side is empty.

    The same number as the Rayleigh quotient of the indicator vector in Shi & Malik 2000, equation 4.
    """
    inside = sides.double()
    degree = w.sum(1)
    cut = ((inside @ w) * (1 - inside)).sum(1)
    first = inside @ degree
    value = cut / first + cut / (degree.sum() - first)
    return value.where(sides.any(1) & ~sides.all(1), torch.inf).nan_to_num(nan=torch.inf, posinf=torch.inf)


def nearest_region(
    features: Float[Tensor, "p c"], regions: Int64[Tensor, " p"], fine: Float[Tensor, "q c"], num_regions: int
) -> Int64[Tensor, " q"]:
    """Positions of a finer map to the region whose mean feature has the largest product; the largest regions only."""
    members = F.one_hot(regions).T.to(features.dtype)
    sizes = members.sum(1)
    kept = sizes.topk(min(num_regions, len(sizes))).indices.sort().values
    means = members[kept] @ features / sizes[kept].unsqueeze(1)
    return (fine @ means.T).argmax(1)
