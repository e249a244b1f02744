"""A picture file in; the original, its reconstruction, the edit and the slots' masks out, as PNG files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from slotworks.editing.render import Edit, Scene, object_at, render_edit, take_apart
from slotworks.editing.slots import Removal, add, move, remove, swap
from slotworks.evaluation.rendering import EDITING, Renderer, renderer_of, sampling_of
from slotworks.evaluation.samples import PALETTE, contact_sheet, to_pixels
from slotworks.evaluation.segment import upsampled_argmax
from slotworks.images import read_image
from slotworks.outputs import Outputs, writing
from slotworks.types import Method, UserError, to_batch

CELL = 128
"""Longer side in pixels of a picture on the sheet."""


@dataclass(frozen=True)
class Opened:
    """A picture file taken apart; `size` is its own height and width."""

    file: Path
    picture: Image.Image
    scene: Scene

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.picture.height, self.picture.width


def open_picture(method: Method, file: str | Path, image_size: tuple[int, int], **options: Any) -> Opened:
    """A picture file taken apart at the height and width that the method looks at; `options` of `take_apart`.

    Raises:
        UserError: if the file is no picture, or as for `take_apart`.
    """
    height, width = image_size
    picture = read_image(Path(file))
    small = picture.resize((width, height), Image.Resampling.BILINEAR)
    image = to_batch({"image": np.array(small)[None]})["image"][0]
    return Opened(Path(file), picture, take_apart(method, image, **options))


def edit_picture(
    method: Method,
    file: str | Path,
    out: str | Path = "edits",
    *,
    image_size: tuple[int, int],
    remove_slots: Sequence[int] = (),
    remove_at: Sequence[tuple[int, int]] = (),
    how: Removal = "drop",
    add_slots: Sequence[tuple[str | Path, int]] = (),
    replace_slots: Sequence[int] = (),
    swap_slots: tuple[int, str | Path, int] | None = None,
    move_slot: tuple[int, str | Path] | None = None,
    num_slots: int | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
    seed: int = 0,
    renderer: Renderer | None = None,
    steps: int | None = None,
    cfg_scale: float | None = None,
    noise_seeds: Sequence[int] = (0,),
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """Change the slots of a picture in one way and write what comes of it.

    For `cat.jpg` it writes `cat_original.png` (at the model's size), `cat_recon.png`, `cat_edited.png` (with several
    noise seeds `cat_recon_seed3.png`, ...), `cat_mask.png` (palette image at the picture's own size, value = slot) and
    `cat_sheet.png`: all of them, with the numbered slots below. What an earlier edit left there is replaced.

    Slots are numbered as `slotworks segment` numbers them with the same `seed`, `num_slots` and device.

    Args:
        method: a trained method that renders pictures.
        file: the picture, of any size and mode.
        out: folder for the results; made if it is missing.
        image_size: height and width that the method was trained on; pictures are resized to it.
        remove_slots: slots to take out.
        remove_at: pixels `x, y` of the picture as it is in the file; the slots that own them are taken out, and with
            them the slots that look there, too (`slotworks.evaluation.removal.going`).
        how: "drop", "zero" or "mean", see `slotworks.editing.remove`; also of `move_slot`.
        add_slots: other pictures, and the slot of each to bring in.
        replace_slots: with `add_slots`, the slot that each takes the place of; by default they are appended.
        swap_slots: a slot, another picture, and the slot of that to exchange it with. Both pictures are written.
        move_slot: a slot, and the picture that it is moved to. Both pictures are written.
        num_slots: another number of slots than in training, where the method allows it.
        boxes: of the objects in `file`, `x0 y0 x1 y1` in [0, 1], for a method whose slots start from them. Such a
            method can be asked for nothing that takes a second picture.
        seed: of the initial slots, of all pictures.
        renderer: "sample" or "decode" for a method that can do both; by default it samples.
        steps: of the sampler; a direct decoder takes none. By default the method's own (`sampling`), else 75.
        cfg_scale: of classifier-free guidance; 1 is without. By default the method's own, else 3.
        noise_seeds: of the sampler's starting noise, a picture for each.
        dtype: that pictures are rendered in, by autocast. Slots are found in float32.

    Returns:
        For each picture that changed its `file`, the `edit` in words, the files `written`, how many `slots` it had and
        now has (`edited_slots`), the slots that own pixels (`visible`) and how it was rendered.

    Raises:
        UserError: if not exactly one change is asked for, a slot or pixel does not exist, a picture cannot be read, or
            the method renders no pictures.
    """
    renderer = renderer_of(method, renderer)
    kinds = {
        "remove": bool(remove_slots or remove_at),
        "add": bool(add_slots),
        "swap": swap_slots is not None,
        "move": move_slot is not None,
    }
    if sum(kinds.values()) != 1:
        given = ", ".join(name for name, asked in kinds.items() if asked) or "none"
        raise UserError(f"Ask for exactly one change, remove, add, swap or move; given: {given}.")
    if replace_slots and len(replace_slots) != len(add_slots):
        raise UserError(
            f"{len(replace_slots)} slots to replace for {len(add_slots)} to add; give one for each, or none to append."
        )

    def opened(path: str | Path, **more: Any) -> Opened:
        return open_picture(method, path, image_size, num_slots=num_slots, seed=seed, **more)

    one = opened(file, boxes=boxes)
    slots = one.scene.slots[None]
    changed: list[tuple[Opened, Tensor, str]]
    if kinds["remove"]:
        found = [k for x, y in remove_at for k in object_at(one.scene, x, y, one.size)]
        gone = list(dict.fromkeys([*remove_slots, *found]))
        changed = [(one, remove(slots, gone, how), f"removed {numbered(gone)} ({how})")]
    elif kinds["add"]:
        words = []
        for k, (path, index) in enumerate(add_slots):
            other = opened(path)
            at = replace_slots[k] if replace_slots else None
            slots = add(slots, other.scene.slots[None], index, "append" if at is None else "replace", at)
            place = "" if at is None else f" in the place of slot {at}"
            words.append(f"added slot {index} of {other.file.name}{place}")
        changed = [(one, slots, ", ".join(words))]
    else:
        index, path = (swap_slots or move_slot or (0, ""))[:2]
        other = opened(path)
        if swap_slots is not None:
            j = swap_slots[2]
            ours, theirs = swap(slots, other.scene.slots[None], index, j)
            words = [f"slot {index} replaced by slot {j} of {other.file.name}"]
            words.append(f"slot {j} replaced by slot {index} of {one.file.name}")
        else:
            ours, theirs = move(slots, other.scene.slots[None], index, how)
            words = [f"moved slot {index} to {other.file.name} ({how})", f"added slot {index} of {one.file.name}"]
        changed = [(one, ours, words[0]), (other, theirs, words[1])]

    how_rendered: dict[str, Any] = {"renderer": renderer, "seed": seed}
    if renderer == "sample":
        steps, cfg_scale = sampling_of(method, steps, cfg_scale, EDITING)
        settings = {"steps": steps, "cfg_scale": cfg_scale}
        how_rendered |= {name: value for name, value in settings.items() if value is not None}
        how_rendered["noise_seeds"] = list(noise_seeds)
    answers = []
    with writing(out, doing="writing results") as outputs:
        ends = _ends(noise_seeds if renderer == "sample" else noise_seeds[:1])
        kinds = [f"_{kind}{end}.png" for kind in ("recon", "edited") for end in ends]
        kinds += [f"_{kind}.png" for kind in ("original", "mask", "sheet")]
        twice = len(changed) == 2 and changed[0][0].file.resolve() == changed[1][0].file.resolve()
        numbers = [f"_{k}" if twice else "" for k in range(1, len(changed) + 1)]
        names = [
            outputs.name_for(item.file, [f"{number}{kind}" for kind in kinds]) + number
            for number, (item, _, _) in zip(numbers, changed, strict=True)
        ]
        for name, (item, edited, words) in zip(names, changed, strict=True):
            options: dict[str, Any] = {"renderer": renderer, "steps": steps, "cfg_scale": cfg_scale}
            options |= {"seeds": noise_seeds, "dtype": dtype}
            edit = render_edit(method, item.scene, edited[0], **options)
            files, visible = _write(outputs, name, item, edit, noise_seeds)
            answers.append(
                {"file": str(item.file), "edit": words, "written": [str(outputs.folder / file) for file in files]}
                | {"slots": len(item.scene.slots), "edited_slots": len(edit.slots), "visible": visible}
                | how_rendered
            )
    return answers


def numbered(slots: Sequence[int]) -> str:
    """Slots in words: slot 2, or slots 2, 3."""
    return f"slot{'s' if len(slots) > 1 else ''} {', '.join(map(str, slots))}"


def _ends(noise_seeds: Sequence[int]) -> list[str]:
    """What tells pictures of several noise seeds apart."""
    return [""] if len(noise_seeds) == 1 else [f"_seed{seed}" for seed in noise_seeds]


def _write(
    outputs: Outputs, name: str, item: Opened, edit: Edit, noise_seeds: Sequence[int]
) -> tuple[list[str], list[int]]:
    labels = upsampled_argmax(edit.masks.cpu(), item.size)
    mask = Image.fromarray(labels)
    mask.putpalette(PALETTE[np.arange(len(edit.masks)) % len(PALETTE)].flatten().tolist())
    ends = _ends(noise_seeds[: len(edit.edited)])
    recons, edits = ([to_picture(image) for image in images] for images in (edit.recon, edit.edited))
    pictures = {"original": to_picture(edit.original)}
    pictures |= {f"recon{end}": picture for end, picture in zip(ends, recons, strict=True)}
    pictures |= {f"edited{end}": picture for end, picture in zip(ends, edits, strict=True)}
    pictures["mask"] = mask
    pictures["sheet"] = contact_sheet(
        [
            [pictures["original"], *recons],
            [overlay(edit.original, edit.masks), *edits],
            [slot_tile(edit.original, edit.masks, k) for k in range(len(edit.masks))],
        ],
        cell=CELL,
    )
    files = []
    for kind, picture in pictures.items():
        files.append(f"{name}_{kind}.png")
        with outputs.replacing(files[-1]) as path:
            picture.save(path, format="PNG", optimize=True)
    return files, np.unique(labels).tolist()


def to_picture(image: Float[Tensor, "3 h w"]) -> Image.Image:
    """Values in [0, 1] to 8 bits."""
    return Image.fromarray(to_pixels(image))


def overlay(image: Float[Tensor, "3 h w"], masks: Float[Tensor, "n y x"]) -> Image.Image:
    """A picture with its segments in colours."""
    picture = to_picture(image)
    labels = upsampled_argmax(masks.cpu(), (picture.height, picture.width))
    return Image.blend(picture, Image.fromarray(PALETTE[labels % len(PALETTE)]), 0.5)


def slot_tile(image: Float[Tensor, "3 h w"], masks: Float[Tensor, "n y x"], index: int, name: str = "") -> Image.Image:
    """What a slot owns of a picture, on white in a grey line, with its number or another name."""
    height, width = image.shape[-2:]
    mask = interpolate(masks[None, index : index + 1], (height, width), mode="bilinear", align_corners=False)[0]
    tile = resized(to_picture(torch.lerp(torch.ones_like(image), image, mask.to(image))), CELL)
    pen = ImageDraw.Draw(tile)
    color = tuple(PALETTE[index % len(PALETTE)].tolist())
    name = name or str(index)
    box = pen.textbbox((4, 2), name, font_size=20)
    pen.rectangle((0, 0, tile.width - 1, tile.height - 1), outline="lightgrey")
    pen.rectangle((0, 0, box[2] + 4, box[3] + 4), fill=color)
    pen.text((4, 2), name, fill="black", font_size=20)
    return tile


def resized(picture: Image.Image, side: int) -> Image.Image:
    """A picture whose longer side has so many pixels; what was small keeps its hard pixels."""
    scale = side / max(picture.size)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
