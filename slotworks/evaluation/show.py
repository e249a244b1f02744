"""A batch of pictures with masks, for a notebook: `show(batch, masks=out.masks)` as the last line of a cell."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from slotworks.evaluation.samples import BACKGROUND, PALETTE, contact_sheet, to_pixels
from slotworks.files import replacing
from slotworks.html_text import picture, table
from slotworks.types import Batch, UserError

HEIGHT = 96  # pixels of a picture in a notebook


@dataclass(frozen=True)
class Pictures:
    """Rows of pictures by name; a column is an image of the batch."""

    rows: dict[str, list[Image.Image]]

    def _repr_html_(self) -> str:
        shown = {name: [picture(one, about=name, height=HEIGHT) for one in row] for name, row in self.rows.items()}
        return table([[name, *row] for name, row in shown.items()])

    def sheet(self, *, cell: int = HEIGHT) -> Image.Image:
        """All of them as one picture, `cell` pixels for each."""
        return contact_sheet(list(self.rows.values()), cell=cell)

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write `sheet` to a file of any format that Pillow knows by its ending."""
        with replacing(Path(file)) as path:
            self.sheet().save(path)
        return Path(file)


def show(
    batch: Batch | Tensor,
    *,
    masks: Tensor | None = None,
    recon: Tensor | None = None,
    limit: int = 8,
) -> Pictures:
    """Pictures, their true masks if the batch has some, and what a method made of them, for people to look at.

    Args:
        batch: of a data set, or images `b 3 h w` in [0, 1] alone; of videos the first frame is shown.
        masks: soft ones of the slots, `b n h w`, or integers `b h w`; of any size.
        recon: what was rendered, `b 3 h w`.
        limit: at most so many images, from the first on.

    Raises:
        UserError: if there are no images, or masks or renderings are not of them.
    """
    fields = {"image": batch} if isinstance(batch, Tensor) else dict(batch)
    if "video" in fields:
        fields |= {"image": fields["video"][:, 0]} | ({"mask": fields["mask"][:, 0]} if "mask" in fields else {})
    images = fields.get("image")
    if images is None:
        raise UserError(f"This batch has no pictures to show, only {', '.join(fields)}; give one with `image`.")
    for name, given in (("masks", masks), ("recon", recon)):
        if given is not None and len(given) != len(images):
            raise UserError(f"There are {len(images)} images, but {name} of {len(given)}; give those of this batch.")
    rows = {"image": _colours(images[:limit])}
    if "mask" in fields:
        ground = np.concatenate([np.array([BACKGROUND], dtype=np.uint8), PALETTE])
        rows["true masks"] = _painted(fields["mask"][:limit], ground)
    if masks is not None:
        ids = masks.argmax(dim=1) if masks.ndim == 4 else masks
        rows["slots"] = _painted(ids[:limit], PALETTE)
    if recon is not None:
        rows["rendered"] = _colours(recon[:limit])
    return Pictures(rows)


def _colours(images: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    return [Image.fromarray(one) for one in to_pixels(images)]


def _painted(ids: Shaped[Tensor, "b h w"], palette: np.ndarray) -> list[Image.Image]:
    if torch.is_floating_point(ids) or ids.ndim != 3:
        raise UserError(
            f"Masks of shape {tuple(ids.shape)} and type {ids.dtype} are no ids of segments; give soft masks "
            "`b n h w`, or integers `b h w`."
        )
    return [Image.fromarray(palette[one % len(palette)]) for one in ids.cpu().numpy()]
