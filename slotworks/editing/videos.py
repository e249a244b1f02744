"""A video file in; the video without some of its objects out. A few frames are in memory at any time."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from slotworks.editing.pictures import CELL, edit_picture, numbered
from slotworks.editing.render import Scene, slot_at
from slotworks.editing.slots import Removal, remove
from slotworks.evaluation.masks import PIECE, decode, inspecting, soft_masks
from slotworks.evaluation.rendering import EDITING, Renderer, render, renderer_of, sampling_of
from slotworks.evaluation.samples import contact_sheet, to_pixels
from slotworks.evaluation.segment_video import boxes_tensor, encode_frames, in_pieces, resized
from slotworks.outputs import Outputs, writing
from slotworks.types import Method, UserError, VideoMethod, to_batch
from slotworks.videos import VIDEO_SUFFIXES, VideoWriter, open_video

KINDS = ("_original.mp4", "_recon.mp4", "_edited.mp4", "_sheet.png")
"""Endings of what is written for a video."""


def edit_file(
    method: Method,
    file: str | Path,
    out: str | Path,
    *,
    noise_seeds: Sequence[int] = (0,),
    **options: Any,
) -> list[dict[str, Any]]:
    """`edit_picture`, or `edit_video` of a video file, out of which slots can only be taken.

    Raises:
        UserError: also for a change, or several noise seeds, that only pictures have.
    """
    if Path(file).suffix.lower() not in VIDEO_SUFFIXES:
        return edit_picture(method, file, out, noise_seeds=noise_seeds, **options)
    others = [options.pop(name, None) for name in ("add_slots", "replace_slots", "swap_slots", "move_slot")]
    if any(others):
        raise UserError("Slots can only be taken out of a video; for pictures there are also add, swap and move.")
    if len(noise_seeds) != 1:
        raise UserError(f"{len(noise_seeds)} noise seeds were given; a video is rendered once, give one.")
    return [edit_video(method, file, out, noise_seed=noise_seeds[0], **options)]


def edit_video(
    method: Method,
    file: str | Path,
    out: str | Path = "edits",
    *,
    image_size: tuple[int, int],
    remove_slots: Sequence[int] = (),
    remove_at: Sequence[tuple[int, int]] = (),
    how: Removal = "drop",
    num_slots: int | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
    seed: int = 0,
    renderer: Renderer | None = None,
    steps: int | None = None,
    cfg_scale: float | None = None,
    noise_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    frames: int = PIECE,
) -> dict[str, Any]:
    """Take slots out of every frame of a video and render it with and without them.

    For `clip.mp4` it writes `clip_original.mp4`, `clip_recon.mp4` and `clip_edited.mp4`, at the model's size, and
    `clip_sheet.png`, the first few frames of all three. What an earlier edit of this video left there is replaced,
    other files of these names are not, see `slotworks.outputs`.

    Slots are taken out after the video was taken apart: which slot holds which object does not change. They are
    numbered as in `clip_masks` of `slotworks segment` with the same `seed` and device.

    Args:
        method: a trained method of videos that renders pictures.
        file: a video of any size and length.
        out: folder for the results; made if it is missing.
        image_size: height and width that the method was trained on; frames are resized to it.
        remove_slots: slots to take out.
        remove_at: pixels `x, y` of the first frame as it is in the file; the slots that own them are taken out.
        how: "drop", "zero" or "mean", see `slotworks.editing.remove`.
        num_slots: another number of slots than in training, where the method allows it.
        boxes: of the objects in the first frame, `x0 y0 x1 y1` in [0, 1], for a method whose slots start from them.
        seed: of the initial slots.
        renderer: "sample" or "decode" for a method that can do both; by default it samples.
        steps: of the sampler; a direct decoder takes none. By default the method's own (`sampling`), else 75.
        cfg_scale: of classifier-free guidance; 1 is without. By default the method's own, else 3.
        dtype: that frames are rendered in, by autocast. Slots are found in float32.
        noise_seed: of the sampler's starting noise, the same for both renderings and every piece of the video.
        frames: encoded and rendered at once.

    Returns:
        The `file`, the `edit` in words, the files `written`, the number of `frames`, how many `slots` there were and
        are now (`edited_slots`), and how it was rendered.

    Raises:
        UserError: if nothing is to be removed, a slot or pixel does not exist, the video cannot be read, or the method
            is not one of videos or renders no pictures.
    """
    if not isinstance(method, VideoMethod):
        raise UserError(
            f"{type(method).__name__} takes pictures, and a slot of one frame may be another object in the next; edit "
            "videos with a run that was trained on videos."
        )
    if not remove_slots and not remove_at:
        raise UserError("Say which slots to take out of the video: slots, or pixels of its first frame.")
    renderer = renderer_of(method, renderer)
    rendering: dict[str, Any] = {"renderer": renderer, "seed": noise_seed, "dtype": dtype}
    answer: dict[str, Any] = {"renderer": renderer, "seed": seed}
    if renderer == "sample":
        settings = dict(zip(("steps", "cfg_scale"), sampling_of(method, steps, cfg_scale, EDITING), strict=True))
        settings = {name: value for name, value in settings.items() if value is not None}
        rendering |= settings
        answer |= {**settings, "noise_seeds": [noise_seed]}
    options: dict[str, Any] = {} if num_slots is None else {"num_slots": num_slots}
    if boxes is not None:
        options["boxes"] = boxes_tensor(boxes)
    with writing(out, doing="writing results") as outputs:
        edited = _edit_video(
            method, Path(file), outputs, image_size, remove_slots, remove_at, how, options, seed, rendering, frames
        )
    return edited | answer


def _edit_video(
    method: VideoMethod,
    file: Path,
    outputs: Outputs,
    image_size: tuple[int, int],
    remove_slots: Sequence[int],
    remove_at: Sequence[tuple[int, int]],
    how: Removal,
    options: dict[str, Any],
    seed: int,
    rendering: dict[str, Any],
    frames: int,
) -> dict[str, Any]:
    video = open_video(file)
    pictures = video.frames(kept=frames)
    first = next(pictures)
    name = outputs.name_for(file, KINDS)
    names = [f"{name}{kind}" for kind in KINDS]
    count, before, state, gone, sheet, writers = 0, 0, None, [], [], []
    with ExitStack() as stack:
        device = stack.enter_context(inspecting(method, seed=seed))
        if "boxes" in options:
            options["boxes"] = options["boxes"].to(device)
        for piece in in_pieces(first, pictures, frames):
            small = np.stack([resized(picture, image_size) for picture in piece])
            images = to_batch({"video": small[None]}, device)["video"]
            output = encode_frames(method, images, state, options)
            state, slots = output.state, output.slots[0]  # t n d
            if not count:
                before = slots.shape[1]
                if remove_at:
                    masks = soft_masks(output, decode(method, output))[0, 0].float()
                    scene, size = Scene(images[0, 0], slots[0], masks), (first.shape[0], first.shape[1])
                    gone = [slot_at(scene, x, y, size) for x, y in remove_at]
                gone = list(dict.fromkeys([*remove_slots, *gone]))
            kept = remove(slots, gone, how)
            recon, edited = (to_pixels(render(method, some[None], **rendering).image[0]) for some in (slots, kept))
            shown = (small, recon, edited)
            if not count:  # whatever is wrong was said before anything is written
                for name, stack_of in zip(names[:-1], shown, strict=True):
                    path, size = stack.enter_context(outputs.replacing(name)), (stack_of.shape[1], stack_of.shape[2])
                    writers.append(stack.enter_context(VideoWriter(path, video.fps, size)))
                sheet = [[Image.fromarray(picture) for picture in row] for row in shown]
            for writer, row in zip(writers, shown, strict=True):
                for picture in row:
                    writer.write(picture)
            count += len(piece)
    with outputs.replacing(names[-1]) as path:
        contact_sheet(sheet, cell=CELL).save(path, format="PNG", optimize=True)
    after = before - (len(gone) if how == "drop" else 0)
    return {
        "file": str(file),
        "edit": f"removed {numbered(gone)} ({how})",
        "written": [str(outputs.folder / name) for name in names],
        "frames": count,
        "slots": before,
        "edited_slots": after,
    }
