"""GLASS: StableLSD trained on generated images, whose class masks guide the slots.

Singh, Schaub-Meyer & Roth 2025, "GLASS: Guided Latent Slot Diffusion for Object-Centric Learning", arXiv 2407.17929.
Training images come from a diffusion model, with pseudo-masks from its attention (`slotworks synthesize`). There are
three losses: the error of Stable Diffusion with slots as its prompt ("recon"), the cross-entropy of matched slot
attention with the class masks ("semantic"), and the error of features that an MLP decoder makes of the slots
("instance"). Phase 1 trains the slot module and the MLP decoder, phase 2 goes on from it and trains the U-Net, too.
Slots of real images need nothing but the image. Masks are the attention of the slots, so this method has no `decode`;
`feature_decoder` serves the training.

Only code for evaluation is released. What paper and code leave open is a field of the config, with the likeliest
reading as its default; docs/methods/glass.md lists them with the evidence.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn.functional import interpolate

from slotworks.decoders import PatchMLPDecoder, StableDiffusionConfig, StableDiffusionDecoder
from slotworks.encoders import ViTConfig, ViTEncoder
from slotworks.encoders.diffusion import load_diffusion
from slotworks.encoders.vit import DINOV2_B14_NORMED_448
from slotworks.guidance import match_segments, segment_overlap, semantic_loss
from slotworks.nn.diffusion import unet_blocks
from slotworks.nn.init import unlike
from slotworks.slots import LatentSlotOptions
from slotworks.types import Batch, Method, SlotOutput, UserError

TERMS = ("recon", "semantic", "instance")


@dataclass(frozen=True)
class GlassConfig(LatentSlotOptions):
    """Hyperparameters of both phases of GLASS; those of the slots are `LatentSlotOptions`, for COCO and VOC alike.

    A loss term of weight 0 is not computed and logged as 0.
    """

    loss_weights: dict[str, float] = field(default_factory=lambda: {"semantic": 0.7, "instance": 0.9})
    """by term; a term not named here weighs 1"""
    encoder: ViTConfig = DINOV2_B14_NORMED_448  # the frozen network whose features the slots see
    diffusion: StableDiffusionConfig = field(default_factory=StableDiffusionConfig)  # trained: phase 2
    initializer: Literal["gaussian", "per_slot", "learned"] = "gaussian"  # where slots start from
    decoder_dims: tuple[int, ...] = (1536, 1536, 1536)  # hidden widths of the MLP decoder, before its last layer
    decoder_positions: Literal["normal", "sine"] = "normal"  # how the MLP decoder's learned positions start
    decoder_input: Literal["context", "slots"] = "context"  # what it reads: slots after or before the projection
    match_masks: Literal["hard", "soft"] = "hard"  # IoU of each pixel's largest slot, or of the shares
    match_background: bool = True  # background is a segment and takes a slot
    match_at: Literal["labels", "attention"] = "labels"  # attention bilinear to the labels' size, or labels to its
    semantic_mean: Literal["images", "pairs", "pixels"] = "images"  # see slotworks.guidance.semantic_loss
    phase_1: str | None = None  # run folder whose weights training starts from; read when it starts
    freeze_slots: bool = False  # train the U-Net only, in the place of a learning rate of 1e-8 for the rest

    def __post_init__(self):
        super().__post_init__()
        if self.encoder.trained_blocks:
            raise ValueError(
                f"method.encoder.trained_blocks is {self.encoder.trained_blocks}; the encoder of GLASS is frozen. "
                "Leave it at 0."
            )
        if self.freeze_slots and not self.diffusion.trained:
            raise ValueError("method.freeze_slots leaves nothing to train; set method.diffusion.trained, too.")

    @property
    def image_size(self) -> int:
        """Height and width of the images in pixels: the larger of what the encoder and the VAE see."""
        return max(self.encoder.image_size, self.diffusion.image_size)

    def weight(self, term: str) -> float:
        """Of a loss term."""
        return self.loss_weights.get(term, 1.0)

    def build(self) -> "Glass":
        """Make the method with fresh weights; frozen networks are loaded when the first image comes."""
        return Glass(self)

    @property
    def starts_trained(self) -> bool:
        """Whether `phase_1` names a run."""
        return self.phase_1 is not None


class Glass(Method):
    """Slots that a diffusion model can make the image from, and that agree with class masks."""

    config: GlassConfig

    def __init__(self, config: GlassConfig):
        super().__init__()
        self.config = config
        self.encoder = ViTEncoder(config.encoder)
        self.slots = config.latent_slots(config.encoder.feature_dim, config.diffusion.context_dim)
        self.decoder = StableDiffusionDecoder(config.diffusion, load_diffusion)
        self.feature_decoder = None
        if config.weight("instance"):
            self.feature_decoder = PatchMLPDecoder(
                config.diffusion.context_dim if config.decoder_input == "context" else config.slot_dim,
                config.encoder.feature_dim,
                config.encoder.grid,
                hidden_dims=config.decoder_dims,
                position_init=config.decoder_positions,
            )
        if config.freeze_slots:
            self.slots.requires_grad_(False)
            if self.feature_decoder is not None:
                self.feature_decoder.requires_grad_(False)

    def prepare(self, load: Callable[[str], Method]) -> None:
        """Take over the weights of phase 1 from its run folder, if the config names one.

        Raises:
            UserError: if that run is no GLASS, or one with other sizes.
        """
        folder = self.config.phase_1
        if folder is None:
            return
        first = load(folder)
        if not isinstance(first, Glass):
            raise UserError(f"method.phase_1 is {folder}, a run of {type(first).__name__}; give a run of GLASS.")
        given, own = first.state_dict(), self.state_dict()
        if not first.config.diffusion.trained:
            own = {name: value for name, value in own.items() if not name.startswith("decoder.unet.")}
        wrong = unlike(own, given)
        if wrong or first.config.encoder != self.config.encoder:
            reason = f"differ in {wrong[0]}" if wrong else "look at different encoders"
            raise UserError(f"The run in {folder} and this one {reason}; both phases need the same sizes and encoder.")
        self.load_state_dict(given, strict=False)

    def encode(
        self, image: Float[Tensor, "b 3 h w"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Images in [0, 1] of any size to slots as the U-Net sees them (`context_dim` wide).

        `num_slots` may differ from training where the initialiser is shared; `num_iterations` may always.
        """
        out = self.group(self.features({"image": image}), num_slots=num_slots, num_iterations=num_iterations)
        return replace(out, slots=self.slots.to_context(out.slots).float())

    def features(self, batch: Batch) -> Float[Tensor, "b p c"]:
        """What the slots look at: cached `features` of a batch, or those of its images."""
        return self.encoder.features_of(batch)

    def group(
        self, features: Float[Tensor, "b p c"], *, num_slots: int | None = None, num_iterations: int | None = None
    ) -> SlotOutput:
        """Features to slots before the projection (`slot_dim` wide): what LSD's property probes read."""
        grid = self.config.encoder.grid
        return self.slots(features, grid, num_slots=num_slots, num_iterations=num_iterations)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The three terms. Cached `features` and `latents` take the place of images.

        `mask` `b h w` holds the segments: class ids, 0 the background; `void` pixels are not claimed to be anything.

        Raises:
            UserError: if masks are missing.
        """
        config, features = self.config, self.features(batch)
        out = self.group(features)
        context = self.slots.to_context(out.slots)
        terms = {name: features.new_zeros(()) for name in TERMS}
        guided = self._overlap(out, batch) if config.weight("semantic") else None
        if config.weight("recon"):  # its forward pass keeps the device busy while the CPU matches slots
            terms["recon"] = self.decoder.loss(self.decoder.latents_of(batch), context)
        if guided is not None:
            attn, labels, valid, overlap = guided
            matched = match_segments(overlap()).to(attn.device, non_blocking=True)
            terms["semantic"] = semantic_loss(attn, labels, matched, valid, mean=config.semantic_mean)
        if self.feature_decoder is not None:
            recon = self.feature_decoder(context if config.decoder_input == "context" else out.slots).recon
            terms["instance"] = F.mse_loss(recon.flatten(2).transpose(1, 2), features)
        return terms

    @property
    def sampling(self) -> dict[str, Any] | None:
        """Steps and guidance of a diffusion model that has some of its own; None leaves them to what asks."""
        return self.decoder.sampling

    def sample(
        self,
        slots: Float[Tensor, "b n d"],
        *,
        steps: int = 250,
        cfg_scale: float = 1.3,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] from slots as `encode` gives them; see `StableDiffusionDecoder.sample`."""
        return self.decoder.sample(slots, steps=steps, cfg_scale=cfg_scale, generator=generator)

    def large_parts(self) -> list[nn.Module]:
        """The blocks of the U-Net, if it is trained."""
        return unet_blocks(self.decoder.unet) if self.config.diffusion.trained else []

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """`slots`, `feature_decoder` and `unet`; a group is empty where its part is frozen or not there."""
        parts = {"slots": self.slots, "feature_decoder": self.feature_decoder, "unet": self.decoder}
        return {
            name: [p for p in part.parameters() if p.requires_grad] if part is not None else []
            for name, part in parts.items()
        }

    def _overlap(
        self, out: SlotOutput, batch: Batch
    ) -> tuple[
        Float[Tensor, "b n p"], Int64[Tensor, "b p"], Bool[Tensor, "b p"] | None, Callable[[], Float64[Tensor, "b n m"]]
    ]:
        """Attention and labels at one size, which pixels count, and a call that waits for their overlap on the CPU."""
        if "mask" not in batch:
            raise UserError(
                "GLASS is guided by masks, and these data have none; make some with `slotworks synthesize`."
            )
        attn, labels = out.attn_maps, batch["mask"].long()
        valid = ~batch["void"].bool() if "void" in batch else None
        if self.config.match_at == "labels":
            attn = interpolate(attn, labels.shape[-2:], mode="bilinear")
        else:
            labels = _nearest(labels, attn.shape[-2:])
            valid = None if valid is None else _nearest(valid, attn.shape[-2:])
        attn, labels = attn.flatten(2), labels.flatten(1)
        valid = None if valid is None else valid.flatten(1)
        soft, background = self.config.match_masks == "soft", self.config.match_background
        return attn, labels, valid, _on_cpu(segment_overlap(attn, labels, valid, soft=soft, background=background))


def _nearest(labels: Tensor, size: torch.Size) -> Tensor:
    return interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0].to(labels.dtype)


def _on_cpu(values: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the CPU; the call waits for it, and not for what the device was given to do since."""
    if values.device.type != "cuda":
        return values.cpu
    copy = values.to("cpu", non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def wait() -> Tensor:
        done.synchronize()
        return copy

    return wait
