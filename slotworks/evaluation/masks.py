"""The masks of a method, looked at without disturbing a training run.

Videos are encoded in pieces of a few frames, the state carried from piece to piece, so that memory does not depend on
their length.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import interpolate

from slotworks.types import (
    Batch,
    DecoderOutput,
    Decodes,
    Method,
    SlotOutput,
    UserError,
    VideoMethod,
    all_finite,
    frames_of,
)

PIECE = 6
"""Frames of a video that are encoded at once; more give the same slots in more memory."""


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


class NotFinite(UserError):
    """What a method made holds NaN or infinity, so that no score of it means anything."""


def check_finite(values: Tensor, name: str) -> None:
    """Refuse to go on with numbers that are none.

    Args:
        values: with a row for each image of a batch.
        name: of the tensor, in the plural, for the message.

    Raises:
        NotFinite: if there is NaN or infinity.
    """
    if not all_finite(values):
        rows = values.flatten(1).isfinite().all(1).logical_not()
        raise NotFinite(
            f"The {name} hold NaN or infinity in {int(rows.sum())} of {len(rows)} images of a batch, so nothing is "
            "scored; `slotworks doctor` says more about the run."
        )


def soft_masks(
    output: SlotOutput, decoded: DecoderOutput | None, *, merge: float | None = None, checked: bool = True
) -> Float[Tensor, "*b n h w"]:
    """The decoder's masks, or the attention maps where nothing was decoded, at their own size.

    With `merge` those of similar slots are joined, see `merge_similar`.

    Raises:
        NotFinite: if slots or masks hold NaN or infinity; not with `checked` False.
    """
    masks = output.attn_maps if decoded is None else decoded.masks
    if checked:
        check_finite(output.slots, "slots")
        check_finite(masks, "attention masks" if decoded is None else "decoder masks")
    return masks if merge is None else merge_similar(masks, output.slots, merge)


def merge_similar(
    masks: Float[Tensor, "*b n h w"], slots: Float[Tensor, "*b n d"], threshold: float
) -> Float[Tensor, "*b n h w"]:
    """Join slots that say the same, image by image: for too many slots, at test time.

    As in SOLV (Aydemir et al. 2023, arXiv 2310.06907): while the cosine of the two most alike slots is above the
    threshold, and more than two are left, they become one, the mean of both weighted by the area of their masks.
    Masks are added into that of the lower number; the other one is zero, so that slots keep their numbers. Slots
    without even half a position take no part.

    Args:
        masks: soft ones, which sum to one over slots, of images; a video's slots would not stay the same in time.
        slots: vectors of any scale. Where all of them have much in common, as mean features of an image have, all
            cosines are high, and so is the threshold that tells them apart.
        threshold: a cosine, in [-1, 1].

    Raises:
        UserError: for a video, or a threshold outside [-1, 1].
    """
    owners = similar_slots(masks, slots, threshold).to(masks.device)
    where = owners[..., None, None].expand_as(masks)
    return torch.zeros_like(masks).scatter_add(1, where, masks)


def similar_slots(
    masks: Float[Tensor, "*b n h w"], slots: Float[Tensor, "*b n d"], threshold: float
) -> Int64[Tensor, "b n"]:
    """For each slot the one that `merge_similar` joins it into: itself, or one of a lower number.

    Arguments and errors are those of `merge_similar`.
    """
    if masks.ndim != 4:
        raise UserError("Slots of videos are not merged: the same ones would have to be joined in every frame.")
    if not -1 <= threshold <= 1:
        raise UserError(f"merge is {threshold:g}; it is a cosine, from -1 to 1, above which slots are joined.")
    owners = torch.arange(masks.shape[1]).repeat(len(masks), 1)
    areas, vectors = masks.flatten(2).sum(2).double().cpu(), slots.double().cpu()
    for owner, area, vector in zip(owners, areas, vectors, strict=True):
        left = [n for n in range(len(area)) if area[n] >= 0.5]
        while len(left) > 2:
            directions = torch.nn.functional.normalize(vector[left], dim=1)
            cosines = (directions @ directions.mT).fill_diagonal_(-torch.inf)
            best = int(cosines.argmax())
            first, second = sorted((left[best // len(left)], left[best % len(left)]))
            if not cosines.max() > threshold:
                break
            both = area[first] + area[second]
            vector[first] = (area[first] * vector[first] + area[second] * vector[second]) / both
            area[first] = both
            owner[owner == second] = first
            left.remove(second)
    return owners


def predicted_masks(
    output: SlotOutput, decoded: DecoderOutput | None, *, size: tuple[int, int], checked: bool = True
) -> Float[Tensor, "*b n h w"]:
    """`soft_masks`, bilinear to `size` and still summing to one."""
    masks = soft_masks(output, decoded, checked=checked).float()
    if masks.shape[-2:] == size:
        return masks
    flat = masks.reshape(-1, *masks.shape[-3:])
    return interpolate(flat, size, mode="bilinear", align_corners=False).reshape(*masks.shape[:-2], *size)


def pieces(method: Method, batch: Batch, *, frames: int = PIECE) -> Iterator[tuple[slice, SlotOutput]]:
    """Slots of a batch of videos, a few frames at a time: which frames, and what was found in them.

    A method of images sees the frames one by one, each from the same initial slots where these are learned.
    """
    length = batch["video"].shape[1]
    state = None
    for start in range(0, length, frames):
        stop = min(start + frames, length)
        piece = frames_of(batch, start, stop)
        if isinstance(method, VideoMethod):
            output = method.encode_batch(piece, state=state)
            state = output.state
        else:
            b, t = piece["video"].shape[:2]
            flat = method.encode(piece["video"].flatten(0, 1))
            slots, attn = flat.slots.unflatten(0, (b, t)), flat.attn.unflatten(0, (b, t))
            features, image = (
                None if value is None else value.unflatten(0, (b, t)) for value in (flat.features, flat.image)
            )
            output = SlotOutput(slots, attn, grid=flat.grid, features=features, image=image)
        yield slice(start, stop), output


def decode(method: Method, output: SlotOutput) -> DecoderOutput | None:
    """What a direct decoder makes of the slots; None for a method without one."""
    if not isinstance(method, Decodes):
        return None
    if output.slots.ndim == 4 and not isinstance(method, VideoMethod):  # a method of images, shown a video
        b, t = output.slots.shape[:2]
        found = method.decode(*(value.flatten(0, 1) for value in output.decoder_inputs))
        parts = None if found.parts is None else found.parts.unflatten(0, (b, t))
        return DecoderOutput(found.recon.unflatten(0, (b, t)), found.masks.unflatten(0, (b, t)), parts)
    return method.decode(*output.decoder_inputs)
