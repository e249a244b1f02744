"""The masks of a method, looked at without disturbing a training run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from slotworks.types import DecoderOutput, Decodes, Method, SlotOutput


@contextmanager
def inspecting(method: Method, *, seed: int) -> Iterator[torch.device]:
    """Evaluation mode, no gradients and random slots from `seed`; afterwards all is as it was. Gives the device."""
    device = next((value.device for value in (*method.parameters(), *method.buffers())), torch.device("cpu"))
    modes = {module: module.training for module in method.modules()}  # frozen parts stay in evaluation mode
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            method.eval()
            yield device
    finally:
        for module, mode in modes.items():
            module.training = mode


def soft_masks(output: SlotOutput, decoded: DecoderOutput | None) -> Float[Tensor, "*b n h w"]:
    """The decoder's masks, or the attention maps where nothing was decoded, at their own size."""
    return output.attn_maps if decoded is None else decoded.masks


def predicted_masks(
    output: SlotOutput, decoded: DecoderOutput | None, *, size: tuple[int, int]
) -> Float[Tensor, "b n h w"]:
    """`soft_masks`, bilinear to `size` and still summing to one."""
    masks = soft_masks(output, decoded).float()
    return masks if masks.shape[-2:] == size else interpolate(masks, size, mode="bilinear", align_corners=False)


def decode(method: Method, output: SlotOutput) -> DecoderOutput | None:
    """What a direct decoder makes of the slots; None for a method without one."""
    if not isinstance(method, Decodes):
        return None
    return method.decode(*output.decoder_inputs)
