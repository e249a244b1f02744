"""StableLSD: slots as the prompt of a frozen Stable Diffusion, and its two weakly supervised variants.

Jiang et al. 2023, "Object-Centric Slot Diffusion", arXiv 2303.10834, and its code. A frozen DINOv2 gives the features,
a frozen Stable Diffusion 2.1 says how well the slots describe the image; only the slot module between them is trained.
GLASS compares with two variants (Singh et al. 2025, table 5): slots that start from the boxes of the objects
(StableLSD-BBox) and as many slots as there are objects (StableLSD-Dynamic).

The defaults are the released code's for COCO. Difference from it: parts that are not Stable Diffusion's start as
elsewhere in this package (Slot Attention and the initial slots as in Keras).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from slotworks.decoders import StableDiffusionConfig, StableDiffusionDecoder
from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.encoders.diffusion import load_diffusion
from slotworks.encoders.vit import DINOV2_B14_NORMED_448
from slotworks.nn.diffusion import unet_blocks
from slotworks.slots import LatentSlotOptions
from slotworks.types import Batch, Method, SlotOutput, UserError


@dataclass(frozen=True)
class StableLSDConfig(LatentSlotOptions):
    """Hyperparameters of StableLSD; those of the slots are `LatentSlotOptions`, where "boxes" makes StableLSD-BBox."""

    encoder: ViTConfig = DINOV2_B14_NORMED_448  # the frozen network whose features the slots see
    diffusion: StableDiffusionConfig = field(default_factory=StableDiffusionConfig)
    """the diffusion model that decodes the slots"""
    box_scale: float = 1.0  # boxes in [0, 1] times this start slots; 256 gives the pixels of the released evaluation
    dynamic: bool = False  # StableLSD-Dynamic: as many slots win positions as there are objects
    drop_masked_slots_from_context: bool = False  # the U-Net does not see the others; the released code shows them

    def __post_init__(self):
        super().__post_init__()
        if self.encoder.trained_blocks:
            raise ValueError(
                f"method.encoder.trained_blocks is {self.encoder.trained_blocks}; the encoder of StableLSD is frozen. "
                "Leave it at 0."
            )

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels: the larger of what the encoder and the VAE see."""
        return max(self.encoder.image_size, self.diffusion.image_size)

    def build(self) -> "StableLSD":
        """Make the method with fresh weights; frozen networks are loaded when the first image comes."""
        return StableLSD(self)


class StableLSD(Method):
    """Slots that a diffusion model can make the image from."""

    config: StableLSDConfig

    def __init__(self, config: StableLSDConfig):
        super().__init__()
        self.config = config
        self.encoder = ViTEncoder(config.encoder)
        self.slots = config.latent_slots(config.encoder.feature_dim, config.diffusion.context_dim)
        self.decoder = StableDiffusionDecoder(config.diffusion, load_diffusion)

    def encode(
        self,
        image: Float[Tensor, "b 3 h w"],
        *,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        boxes: Float[Tensor, "b n 4"] | None = None,
        num_objects: Int64[Tensor, " b"] | None = None,
    ) -> SlotOutput:
        """Images in [0, 1] of any size to slots as the U-Net sees them (`context_dim` wide).

        Args:
            image: resized to the size of the encoder.
            num_slots: another number than in training, where all slots start alike.
            num_iterations: another number than in training.
            boxes: one for each slot, `x0 y0 x1 y1` in [0, 1], -1 where there is none; StableLSD-BBox needs them.
            num_objects: in each image; StableLSD-Dynamic needs it.

        Raises:
            UserError: if boxes or numbers that the variant needs are missing.
        """
        features = self.features({"image": image})
        slots = self.group(
            features, num_slots=num_slots, num_iterations=num_iterations, boxes=boxes, num_objects=num_objects
        )
        return replace(slots, slots=self.slots.to_context(slots.slots).float())

    def encode_batch(self, batch: Batch) -> SlotOutput:
        """`encode`, with boxes and numbers of objects from the true masks where the variant needs them."""
        return self.encode(batch["image"], **self._told(batch))

    def features(self, batch: Batch) -> Float[Tensor, "b p c"]:
        """What the slots look at: cached `features` of a batch, or those of its images."""
        return self.encoder.features_of(batch)

    def group(
        self,
        features: Float[Tensor, "b p c"],
        *,
        num_slots: int | None = None,
        num_iterations: int | None = None,
        boxes: Float[Tensor, "b n 4"] | None = None,
        num_objects: Int64[Tensor, " b"] | None = None,
    ) -> SlotOutput:
        """Features to slots before the projection (`slot_dim` wide): what LSD's property probes read."""
        config = self.config
        if (config.initializer == "boxes" and boxes is None) or (config.dynamic and num_objects is None):
            told = "the boxes of the objects" if boxes is None and config.initializer == "boxes" else "their number"
            raise UserError(
                f"This StableLSD must be told {told}: give data with true masks, or pass boxes and num_objects."
            )
        return self.slots(
            features,
            config.encoder.grid,
            boxes=None if boxes is None else self._scaled(boxes),
            slot_mask=self._slot_mask(num_objects, num_slots),
            num_slots=num_slots,
            num_iterations=num_iterations,
        )

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean squared error of the U-Net's prediction. Cached `features` and `latents` take the place of images."""
        told = self._told(batch)
        slots = self.group(self.features(batch), **told)
        drop = self.config.drop_masked_slots_from_context
        mask = self._slot_mask(told.get("num_objects"), None) if drop else None
        context = self.slots.to_context(slots.slots)
        return {"recon": self.decoder.loss(self.decoder.latents_of(batch), context, slot_mask=mask)}

    @property
    def sampling(self) -> dict[str, Any] | None:
        """Steps and guidance of a diffusion model that has some of its own; None leaves them to what asks."""
        return self.decoder.sampling

    def sample(
        self,
        slots: Float[Tensor, "b n d"],
        *,
        steps: int = 100,
        cfg_scale: float = 1.3,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] from slots as `encode` gives them; see `StableDiffusionDecoder.sample`."""
        return self.decoder.sample(slots, steps=steps, cfg_scale=cfg_scale, generator=generator)

    def large_parts(self) -> list[nn.Module]:
        """The blocks of the U-Net, if it is trained."""
        return unet_blocks(self.decoder.unet) if self.config.diffusion.trained else []

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`slots`, and `unet` if that is trained."""
        groups = {"slots": list(self.slots.parameters())}
        return groups | ({"unet": list(self.decoder.parameters())} if self.config.diffusion.trained else {})

    def _told(self, batch: Batch) -> dict[str, Any]:
        """What the weakly supervised variants know about a batch."""
        wanted = {"boxes": self.config.initializer == "boxes", "num_objects": self.config.dynamic}
        if not any(wanted.values()):
            return {}
        if "mask" not in batch:
            raise UserError("This StableLSD is told about objects and needs true masks; these data have none.")
        boxes, count = boxes_of(batch["mask"], self.config.num_slots)
        return {name: value for name, value in (("boxes", boxes), ("num_objects", count)) if wanted[name]}

    def _scaled(self, boxes: Tensor) -> Tensor:
        return torch.where((boxes == -1).all(dim=-1, keepdim=True), boxes, boxes * self.config.box_scale)

    def _slot_mask(self, num_objects: Tensor | None, num_slots: int | None) -> Bool[Tensor, "b n"] | None:
        """The first slots, one for each object, at least one. Without the last word no slot would get a position."""
        if num_objects is None or not self.config.dynamic:
            return None
        slots = torch.arange(num_slots or self.config.num_slots, device=num_objects.device)
        return slots < num_objects.clamp(min=1)[:, None]


def boxes_of(mask: Int64[Tensor, "b h w"], max_boxes: int) -> tuple[Float[Tensor, "b m 4"], Int64[Tensor, " b"]]:
    """Boxes `x0 y0 x1 y1` in [0, 1] of the first objects of each mask, by id, then -1; and the number of all objects.

    A box goes from the left edge of its first pixel to the right edge of its last one. 0 is no object.
    """
    b, h, w = mask.shape
    boxes = torch.full((b, max_boxes, 4), -1.0, device=mask.device)
    count = torch.zeros(b, dtype=torch.int64, device=mask.device)
    rows_of_batch = torch.arange(b, device=mask.device)
    for index in range(1, int(mask.max()) + 1):
        own = mask == index
        columns, rows = own.any(dim=1), own.any(dim=2)  # b w, b h
        ends = [_first(columns) / w, _first(rows) / h, 1 - _first(columns.flip(1)) / w, 1 - _first(rows.flip(1)) / h]
        there = columns.any(dim=1)
        kept = there & (count < max_boxes)
        place = rows_of_batch, count.clamp(max=max_boxes - 1)  # indices that a device need not be asked for
        boxes[place] = torch.where(kept[:, None], torch.stack(ends, dim=1), boxes[place])
        count += there
    return boxes, count


def _first(marked: Bool[Tensor, "b p"]) -> Int64[Tensor, " b"]:
    """Position of the first marked entry."""
    return marked.int().argmax(dim=1)
