"""Pictures for the studio: taken apart, with their segments, compared, rendered from their slots."""

from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from slotworks import zoo
from slotworks.data.scenes import ShapeScenes
from slotworks.editing import Scene, render_slots, take_apart
from slotworks.editing.pictures import CELL, open_picture, resized, slot_tile, to_picture
from slotworks.evaluation.masks import decode, inspecting, pieces, soft_masks
from slotworks.evaluation.rendering import EDITING, renderer_of, sampling_of
from slotworks.evaluation.samples import PALETTE, contact_sheet, numbered_overlay
from slotworks.evaluation.segment import upsampled_argmax
from slotworks.matching import best_pairs
from slotworks.studio.desk import Desk
from slotworks.training import Run
from slotworks.types import Dataset, Method, UserError, to_batch

View = Literal["both", "picture", "slots"]

SHOWN = 384
"""Longer side in pixels of a picture on the page."""
STRENGTH = 0.35
"""Share of the colours of slots over a picture, which stands beside what is rendered and has to be known again."""
KEPT = 32
"""Rendered pictures that are remembered."""


def example_run() -> str:
    """A run of the zoo that draws, for who names none: GLASS, where what its diffusion model needs is installed."""
    able = all(map(find_spec, ("diffusers", "transformers")))
    return f"{zoo.PREFIX}{'glass-painted' if able else 'slot-attention-tetrominoes'}"


class Studio:
    """What the page asks for: pictures of a run's data, pictures taken apart, and renderings of slots.

    Args:
        method: a trained method that finds slots.
        run: its settings.
        name: of the run, for the page.

    `draws` says whether it renders pictures; slots of one that does not are shown and compared. `begin` are the numbers
    of the pictures that the page opens with.

    Raises:
        UserError: if the method cannot take a picture apart, for want of slots, of boxes or of a network.
    """

    def __init__(self, method: Method, run: Run, name: str = ""):
        self.method, self.run, self.name = method, run, name or type(method).__name__
        try:
            self.dataset: Dataset | None = run.data.open(run.eval_split)
        except (UserError, OSError):  # its files are elsewhere
            self.dataset = None
        self.begin = next((one.begin for one in zoo.MEMBERS if f"{zoo.PREFIX}{one.name}" == name), (0, 1))
        self.film = lru_cache(maxsize=4)(self._film)
        self._pictures: dict[tuple, Image.Image] = {}  # the latest last
        self.renderer, self.steps, self.cfg_scale = None, None, None
        scene = self.example(self.begin[0])
        try:
            self.renderer = renderer_of(method)
            if self.renderer == "sample":
                self.steps, self.cfg_scale = sampling_of(method, None, None, EDITING)
            else:
                render_slots(method, scene, scene.slots)
        except UserError:
            self.renderer = None

    @property
    def draws(self) -> bool:
        """Whether slots can be turned into pictures."""
        return self.renderer is not None

    @cached_property
    def num_frames(self) -> int:
        """Of a video of the run's test data; 1 if these are pictures, or not here."""
        item = {} if self.dataset is None else self.dataset.__getitems__([0])
        return item["video"].shape[1] if "video" in item else 1

    def example(self, index: int) -> Scene:
        """A picture to begin with: of the test data, or a drawn scene where these are elsewhere."""
        if self.dataset is not None:
            return self.from_data(index)
        drawn = ShapeScenes(image_size=min(self.run.data.size)).open("test")
        image = to_batch(drawn.__getitems__([index]))["image"]
        image = torch.nn.functional.interpolate(image, self.run.data.size, mode="bilinear", antialias=True)
        return take_apart(self.method, image[0].clamp(0, 1))

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

    def _film(self, index: int, seed: int = 0) -> list[Image.Image]:
        """Every frame of a video of the test data under the numbers of its slots, which keep them through time.

        Raises:
            UserError: if the data are no videos, or not here.
        """
        if self.dataset is None or self.num_frames == 1:
            raise UserError("The data that this run was tested on are no videos, or not here.")
        shown = []
        with inspecting(self.method, seed=seed) as device:
            batch = to_batch(self.dataset.__getitems__([int(index) % len(self.dataset)]), device)
            for where, output in pieces(self.method, batch):
                masks = soft_masks(output, decode(self.method, output))[0].float()
                for image, soft in zip(batch["video"][0, where], masks, strict=True):
                    shown.append(segments(Scene(image.cpu(), output.slots[0, 0], soft.cpu())))
        return shown

    def rendered(
        self, desk: Desk, *, noise_seed: int | None = 0, steps: int | None = None, cfg_scale: float | None = None
    ) -> tuple[Image.Image, Image.Image]:
        """The picture from all of its slots, and the edited one, from the same noise."""
        how = {"seed": int(noise_seed or 0), "steps": steps, "cfg_scale": cfg_scale}
        return self._picture(desk.picture, desk.picture.slots, how), self._picture(desk.picture, desk.slots, how)

    def _picture(self, scene: Scene, slots: Float[Tensor, "n d"], how: dict[str, Any]) -> Image.Image:
        """A picture of slots, which is rendered once: most edits change one of both, and undo goes back to another."""
        key = (scene.slots.cpu().numpy().tobytes(), slots.cpu().numpy().tobytes(), *how.values())
        picture = self._pictures.pop(key, None)
        if picture is None:
            picture = resized(to_picture(render_slots(self.method, scene, slots, **how).image[0]), SHOWN)
        self._pictures[key] = picture
        for oldest in [*self._pictures][:-KEPT]:
            del self._pictures[oldest]
        return picture


def shown_size(scene: Scene) -> tuple[int, int]:
    """Height and width of a picture on the page."""
    picture = resized(to_picture(scene.image), SHOWN)
    return picture.height, picture.width


def segments(scene: Scene, chosen: tuple[int, ...] = (), view: View = "both") -> Image.Image:
    """A picture under the colours and numbers of its slots, or one of both alone; all but the chosen slots dimmed."""
    picture = to_picture(scene.image)
    labels = upsampled_argmax(scene.masks.cpu(), shown_size(scene))
    if view == "picture":
        picture = np.asarray(resized(picture, SHOWN)).copy()
    elif view == "slots":
        picture = PALETTE[labels % len(PALETTE)]  # a copy
    else:
        picture = np.asarray(numbered_overlay(picture, labels, side=SHOWN, strength=STRENGTH)).copy()
    if chosen:
        others = ~np.isin(labels, chosen)
        picture[others] = picture[others] // 3
    return Image.fromarray(picture)


def mask_of(scene: Scene) -> Image.Image:
    """The slot of each pixel of a picture, as values of a picture with a palette."""
    height, width = scene.image.shape[-2:]
    mask = Image.fromarray(upsampled_argmax(scene.masks.cpu(), (height, width)).astype(np.uint8), "P")
    mask.putpalette(PALETTE.tobytes())
    return mask


def similarity(scene: Scene, other: Scene) -> Float[Tensor, "n m"]:
    """Cosine of each slot of a picture with each of another."""
    return normalize(scene.slots.float(), dim=-1) @ normalize(other.slots.float(), dim=-1).T


def matches(scene: Scene, other: Scene) -> dict[int, int]:
    """Slots of a picture and those of another that go with them: one to one, with the largest sum of cosines."""
    slots, others = best_pairs(similarity(scene, other).cpu().numpy())
    return dict(zip(slots.tolist(), others.tolist(), strict=True))


def tiles(desk: Desk) -> Image.Image:
    """Every slot that the edited picture is rendered from, under its number, side by side."""
    shown = []
    for piece in desk.pieces:
        scene = desk.scene(piece.side)
        if scene.joined(piece.slot):  # not those that are joined into another
            name = f"{piece.slot}, second" if piece.side == "other" else ""
            shown.append(slot_tile(scene.image, scene.masks, piece.slot, name))
    return contact_sheet([shown], cell=CELL)
