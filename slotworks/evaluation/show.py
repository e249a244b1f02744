"""A batch of pictures with masks, for a notebook: `show(batch, masks=out.masks)` as the last line of a cell."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from slotworks.evaluation.edits import draw_edits
from slotworks.evaluation.masks import inspecting
from slotworks.evaluation.removal import chosen
from slotworks.evaluation.samples import BACKGROUND, PALETTE, contact_sheet, to_pixels
from slotworks.files import replacing
from slotworks.html_text import picture, table
from slotworks.types import Batch, Method, UserError

HEIGHT, LARGE = 96, 160  # pixels of a picture in a notebook, and where at most
FEW = 4  # stand in a row


@dataclass(frozen=True)
class Pictures:
    """Rows of pictures by name; a column is an image of the batch."""

    rows: dict[str, list[Image.Image]]

    def _repr_html_(self) -> str:
        height = LARGE if max(map(len, self.rows.values()), default=0) <= FEW else HEIGHT
        shown = {name: [picture(one, about=name, height=height) for one in row] for name, row in self.rows.items()}
        return table([[name, *row] for name, row in shown.items()])

    def sheet(self, *, cell: int = HEIGHT, across: bool = False) -> Image.Image:
        """All of them as one picture, `cell` pixels for each; `across`: an image is a row in the place of a column."""
        rows = list(self.rows.values())
        return contact_sheet([list(one) for one in zip(*rows, strict=True)] if across else rows, cell=cell)

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


def show_edits(method: Method, batch: Batch, *, seed: int = 0, **options: Any) -> Pictures:
    """Scenes, their slots, drawn again from them, and what `--task edits` asks for: all of it, for people to look at.

    Args:
        method: that renders slots, on any device.
        batch: scenes with true masks, at least two; object `1 + i % m` of image `i` is edited.
        seed: of the initial slots and of the starting noise.
        options: of `slotworks.evaluation.rendering.render`, such as `steps` and `cfg_scale`.
    """
    image, mask = batch["image"], batch["mask"]
    with inspecting(method, seed=seed) as device:
        where = (mask == chosen(mask)[:, None, None]).to(device)
        masks, drawn = draw_edits(method, image.to(device), where, seed=seed, **options)
    names = {"before": "drawn again", "removed": "one object out", "added": "one added", "swapped": "one for another"}
    rows = show(batch, masks=masks, limit=len(image)).rows
    return Pictures(rows | {name: _colours(drawn[kind]) for kind, name in names.items()})


def _colours(images: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    return [Image.fromarray(one) for one in to_pixels(images)]


def _painted(ids: Shaped[Tensor, "b h w"], palette: np.ndarray) -> list[Image.Image]:
    if torch.is_floating_point(ids) or ids.ndim != 3:
        raise UserError(
            f"Masks of shape {tuple(ids.shape)} and type {ids.dtype} are no ids of segments; give soft masks "
            "`b n h w`, or integers `b h w`."
        )
    return [Image.fromarray(palette[one % len(palette)]) for one in ids.cpu().numpy()]
