"""Data at the size of a method: what a zero-shot test on another data set needs."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.functional import interpolate

from slotworks.errors import quote
from slotworks.types import DataConfig, Dataset, Method, RawBatch, UserError, VideoMethod


class Resized:
    """A data set whose images are resized bilinearly, with antialiasing; masks stay at their own size.

    Predictions are scored at the size of the truth, so nothing is lost by leaving the masks alone. The aspect ratio is
    not kept: nothing is cropped, and what the masks show stays where it is in the image.

    Args:
        dataset: with `image` or `video`.
        size: height and width of the images in pixels.
    """

    def __init__(self, dataset: Dataset, size: tuple[int, int]):
        self.dataset = dataset
        self.size = size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> RawBatch:
        batch = dict(self.dataset.__getitems__(indices))
        for key in ("image", "video"):
            if key not in batch or batch[key].shape[-3:-1] == self.size:
                continue
            pixels = torch.from_numpy(batch[key]).movedim(-1, -3)
            flat = pixels.reshape(-1, *pixels.shape[-3:])
            flat = interpolate(flat, self.size, mode="bilinear", align_corners=False, antialias=True)
            batch[key] = flat.reshape(*pixels.shape[:-2], *self.size).movedim(-3, -1).numpy()
        return batch


def images_for(own: DataConfig, source: DataConfig, split: str) -> DataConfig:
    """Whose images a split shows to a method that was trained on `own`; one of images sees the frames of videos."""
    source = source.shown(split)
    if getattr(source, "frames", "") == "video" and getattr(own, "frames", "single") == "single":
        whole = {"clip_length": None, "clip_stride": None}  # clips are of videos
        return replace(source, frames="single", **whole)  # type: ignore[call-arg]
    return source


def at_size_of(
    own: DataConfig, source: DataConfig, split: str, *, size: tuple[int, int] | None = None
) -> tuple[Dataset, str]:
    """A split with images of the size of `own`, or of `size`, and what was done for that, for the rules of a record."""
    try:
        wanted, given = size or own.size, source.size
    except NotImplementedError:  # not every source knows before it is opened
        return source.open(split), ""
    said = f"; images of {size[0]} x {size[1]} pixels" if size else ""
    if wanted == given:
        return source.open(split), said
    if wanted[0] == wanted[1] and isinstance(getattr(source, "image_size", None), int):
        try:
            return replace(source, image_size=wanted[0]).open(split), said  # type: ignore[call-arg]
        except ValueError:  # larger than the official images, or too small to draw
            pass
    note = f"; images resized from {given[0]} x {given[1]} to {wanted[0]} x {wanted[1]} pixels"
    return Resized(source.open(split), wanted), note


def size_for(own: DataConfig, method: Method, image_size: int | None) -> tuple[int, int] | None:
    """Height and width of square images that are not of the size of training; None for those of training.

    Raises:
        UserError: if the method does not take them; it is tried on a black one.
    """
    if image_size is None or own.size == (image_size, image_size):
        return None
    device = next((p.device for p in method.parameters()), torch.device("cpu"))
    image = torch.zeros(1, 3, image_size, image_size, device=device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = method.encode(image[:, None] if isinstance(method, VideoMethod) else image)
        if found.grid is not None and found.attn.shape[-1] != found.grid[0] * found.grid[1]:
            raise ValueError("its attention has another grid")
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"{type(method).__name__} does not take images of {image_size} x {image_size} pixels ({quote(error)}); "
            "leave image_size out."
        ) from None
    return image_size, image_size
