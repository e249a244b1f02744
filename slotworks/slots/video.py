"""Slots of videos: a module of images over all frames at once, and slots that are carried from frame to frame.

    slots of frame t  --corrector-->  slots that fit frame t  --predictor-->  slots of frame t + 1

SAVi (Kipf et al. 2022, arXiv 2111.12594) and its descendants, STEVE, SlotDiffusion and VideoSAUR, differ in the parts
and not in this loop.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.types import SlotOutput


def map_over_time(function: Callable[..., Any], *inputs: Tensor) -> Any:
    """Apply a function of images to every frame: `b t ... -> (b t) ... -> function -> b t ...`.

    The results may be a tensor, a dataclass such as `DecoderOutput`, or a tuple of these; None stays None, and so does
    anything that is no tensor.

    >>> map_over_time(lambda image: image.mean(dim=(1, 2, 3)), torch.ones(2, 5, 3, 8, 8)).shape
    torch.Size([2, 5])
    """
    b, t = inputs[0].shape[:2]
    return _unflattened(function(*(value.flatten(0, 1) for value in inputs)), b, t)


def _unflattened(value: Any, b: int, t: int) -> Any:
    if isinstance(value, Tensor):
        return value.unflatten(0, (b, t))
    if isinstance(value, tuple) and all(isinstance(one, Tensor) for one in value):
        return tuple(_unflattened(one, b, t) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _unflattened(getattr(value, f.name), b, t) for f in fields(value)})
    return value


class VideoSlotAttention(nn.Module):
    """Scan the frames of a video: correct the slots with each frame, predict those of the next one.

    The slots returned are the corrected ones; the predictor also runs after the last frame, and what it says is the
    `state` to go on from. So a video may be cut in pieces of any length: memory depends on the length of a piece alone.

    Args:
        corrector: takes features `b p c` and slots `b n d` and returns a `SlotOutput`, as `SlotAttention` does.
        predictor: takes slots `b n d` and returns slots `b n d`, see `slotworks.slots.predictors`.
        carry: False starts every frame from the first slots, without the predictor: the image model frame by frame,
            the baseline that shows what carrying is worth.
        first_iterations: iterations of the corrector at the first frame of a video; None: as many as at all others.

    >>> from slotworks.slots import SlotAttention, TransformerPredictor
    >>> video = VideoSlotAttention(SlotAttention(32, 64, num_iterations=1), TransformerPredictor(64))
    >>> out = video(torch.randn(2, 6, 100, 32), torch.randn(2, 4, 64))
    >>> out.slots.shape, out.attn.shape, out.state.shape
    (torch.Size([2, 6, 4, 64]), torch.Size([2, 6, 4, 100]), torch.Size([2, 4, 64]))
    """

    def __init__(
        self,
        corrector: nn.Module,
        predictor: nn.Module,
        *,
        carry: bool = True,
        first_iterations: int | None = None,
    ):
        super().__init__()
        self.corrector, self.predictor = corrector, predictor
        self.carry, self.first_iterations = carry, first_iterations

    def forward(
        self,
        features: Float[Tensor, "b t p c"],
        slots: Float[Tensor, "b n d"],
        *,
        first: bool = True,
        num_iterations: int | None = None,
        ends: bool = False,
    ) -> SlotOutput:
        """Slots of every frame.

        Args:
            features: of all frames.
            slots: of an initialiser, or the `state` that an earlier call returned.
            first: whether this piece begins the video; only `first_iterations` asks.
            num_iterations: of the corrector at every frame, for this call; the module's own by default.
            ends: no frame comes after these: the predictor does not run after the last one, and there is no `state`.

        Returns:
            `slots` `b t n d`, `attn` `b t n p`, `attn_steps` (of the iterations that all frames have), `state`.
        """
        if features.shape[1] == 0:
            raise ValueError("This video has no frames; give at least one.")
        found: list[SlotOutput] = []
        for t in range(features.shape[1]):
            count = num_iterations
            if count is None and first and t == 0:
                count = self.first_iterations
            out = self.corrector(features[:, t], slots, **({} if count is None else {"num_iterations": count}))
            found.append(out)
            if self.carry and not (ends and t == features.shape[1] - 1):
                slots = self.predictor(out.slots)
        common = min(len(out.attn_steps) for out in found)
        steps = [out.attn_steps[len(out.attn_steps) - common :] for out in found]
        return SlotOutput(
            slots=torch.stack([out.slots for out in found], dim=1),
            attn=torch.stack([out.attn for out in found], dim=1),
            attn_steps=tuple(torch.stack(step, dim=1) for step in zip(*steps, strict=True)),
            state=None if ends else slots,
        )
