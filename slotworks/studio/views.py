"""Pictures for the studio: taken apart, with their segments, rendered from their slots."""

from pathlib import Path

import numpy as np
from PIL import Image

from slotworks.editing import Scene, render_edit, take_apart
from slotworks.editing.pictures import CELL, open_picture, overlay, resized, slot_tile, to_picture
from slotworks.evaluation.rendering import EDITING, renderer_of, sampling_of
from slotworks.evaluation.samples import contact_sheet
from slotworks.evaluation.segment import upsampled_argmax
from slotworks.studio.desk import Desk
from slotworks.training import Run
from slotworks.types import Dataset, Method, UserError, to_batch

SHOWN = 384
"""Longer side in pixels of a picture on the page."""


class Studio:
    """What the page asks for: pictures of a run's data, pictures taken apart, and renderings of slots.

    Args:
        method: a trained method that renders pictures.
        run: its settings.

    Raises:
        UserError: if the method renders no pictures.
    """

    def __init__(self, method: Method, run: Run):
        self.method, self.run = method, run
        self.renderer = renderer_of(method)
        sampler = self.renderer == "sample"
        self.steps, self.cfg_scale = sampling_of(method, None, None, EDITING) if sampler else (None, None)
        try:
            self.dataset: Dataset | None = run.data.open(run.eval_split)
        except (UserError, OSError):  # its files are elsewhere
            self.dataset = None

    def from_file(self, file: str | Path, seed: int = 0, merge: float | None = None) -> Scene:
        """A picture file taken apart, at the size that the method looks at; with `merge` as `take_apart` has it.

        Raises:
            UserError: if it is no picture, the method needs boxes, or `merge` is no cosine.
        """
        return open_picture(self.method, file, self.run.data.size, seed=seed, merge=merge).scene

    def from_data(self, index: int, seed: int = 0, merge: float | None = None) -> Scene:
        """A picture, or the first frame of a video, of the run's test data taken apart; indices wrap around.

        Raises:
            UserError: if the data are not there, the method needs boxes, or `merge` is no cosine.
        """
        if self.dataset is None:
            raise UserError("The data that this run was tested on are not here; open a picture file instead.")
        batch = to_batch(self.dataset.__getitems__([int(index) % len(self.dataset)]))
        image = batch["video"][0, 0] if "video" in batch else batch["image"][0]
        return take_apart(self.method, image, seed=seed, merge=merge)

    def rendered(
        self, desk: Desk, *, noise_seed: int = 0, steps: int | None = None, cfg_scale: float | None = None
    ) -> tuple[Image.Image, Image.Image]:
        """The picture from all of its slots, and the edited one, from the same noise."""
        edit = render_edit(
            self.method, desk.picture, desk.slots, steps=steps, cfg_scale=cfg_scale, seeds=(int(noise_seed),)
        )
        return resized(to_picture(edit.recon[0]), SHOWN), resized(to_picture(edit.edited[0]), SHOWN)


def shown_size(scene: Scene) -> tuple[int, int]:
    """Height and width of a picture on the page."""
    picture = resized(to_picture(scene.image), SHOWN)
    return picture.height, picture.width


def segments(scene: Scene, chosen: tuple[int, ...] = ()) -> Image.Image:
    """A picture with its segments; all but those of the chosen slots dimmed."""
    picture = np.asarray(resized(overlay(scene.image, scene.masks), SHOWN)).copy()
    if chosen:
        owner = upsampled_argmax(scene.masks.cpu(), picture.shape[:2])
        others = ~np.isin(owner, chosen)
        picture[others] = picture[others] // 3
    return Image.fromarray(picture)


def tiles(desk: Desk) -> Image.Image:
    """Every slot that the edited picture is rendered from, under its number, side by side."""
    pieces = [(desk.scene(piece.side), piece.slot) for piece in desk.pieces]
    scenes = [(scene, slot) for scene, slot in pieces if scene.joined(slot)]  # not those that are joined into another
    return contact_sheet([[slot_tile(scene.image, scene.masks, slot) for scene, slot in scenes]], cell=CELL)
