"""Own videos in; overlays, masks and tracks out, a few frames at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from slotworks import protocols
from slotworks.errors import check_extra
from slotworks.evaluation.masks import PIECE, decode, inspecting, soft_masks
from slotworks.evaluation.samples import PALETTE, Places, number_places, write_numbers
from slotworks.evaluation.segment import KINDS as PICTURE_KINDS
from slotworks.evaluation.segment import segment_images, upsampled_argmax
from slotworks.evaluation.segment_results import write_sheet
from slotworks.evaluation.tracks import Filmstrip, Tracks
from slotworks.files import folder_beside
from slotworks.outputs import Outputs, writing
from slotworks.types import Method, SlotOutput, UserError, VideoMethod, to_batch
from slotworks.videos import VIDEO_SUFFIXES, VideoWriter, open_video

T = TypeVar("T")

KINDS, FOLDERS = ("_overlay.mp4", "_tracks.jsonl", "_slots.npy", "_tracks.json", "_sheet.png"), ("_masks",)
"""Endings of what is written for a video."""


def segment_files(
    method: Method,
    files: Sequence[Path],
    outputs: Outputs,
    *,
    image_size: tuple[int, int],
    masks: protocols.MaskSource | None = None,
    protocol: str = "slot-attention",
    skip_damaged: bool = False,
    boxes: Sequence[Sequence[float]] | None = None,
    merge: float | None = None,
    edges: bool = False,
    cut_outs: bool = False,
    **options: Any,
) -> Iterator[dict]:
    """`segment_images` of the pictures among some files and `segment_video` of the videos; options are theirs.

    `merge`, `edges` and `cut_outs` are of pictures alone. `masks` are by default those that `protocol` scores, so that
    one sees what was measured.

    Results of earlier calls are not read as pictures. Whatever is in the way is said before the work starts.

    Raises:
        UserError: also if nothing but results is given.
    """
    if not (paths := [path for path in files if not outputs.made(path)]):
        raise UserError(
            f"All that was given are results in {outputs.folder}; give other pictures, or another folder for them."
        )
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        check_extra("video", "av")
    pictures = [path for path in paths if path not in videos]
    if videos and merge is not None:
        raise UserError(f"{videos[0]} is a video, whose slots are not merged; leave merge out, or give pictures only.")
    if videos and (edges or cut_outs):
        option = "edges" if edges else "cut-outs"
        raise UserError(
            f"{videos[0]} is a video; {option} are for pictures: leave --{option} out, or give pictures only."
        )
    if pictures and boxes is not None:
        raise UserError(
            f"{pictures[0]} is a picture; boxes are those of the first frame of a video: leave --boxes out, or give "
            "videos only."
        )
    for path in pictures:
        outputs.name_for(path, PICTURE_KINDS)
    for path in videos:
        outputs.name_for(path, KINDS, folders=FOLDERS)
    options["masks"] = masks or protocols.get(protocol).masks
    if pictures:
        how = {"image_size": image_size, "skip_damaged": skip_damaged, "merge": merge, **options}
        yield from segment_images(method, pictures, outputs, edges=edges, cut_outs=cut_outs, **how)
    for path in videos:
        try:
            yield segment_video(method, path, outputs, image_size=image_size, boxes=boxes, **options)
        except UserError as error:
            if not skip_damaged or len(paths) == 1:
                raise
            yield {"file": str(path), "error": str(error)}


def segment_video(
    method: Method,
    file: Path,
    out: Path | Outputs,
    *,
    image_size: tuple[int, int],
    num_slots: int | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
    masks: Literal["decoder", "attention"] = "decoder",
    seed: int = 0,
    frames: int = PIECE,
) -> dict:
    """Take a video apart and write what was found. Only `frames` frames are in memory at any time.

    For `clip.mp4` it writes `clip_overlay.mp4` with the numbers of the slots, the folder `clip_masks` with a palette
    picture for each frame (`000000.png`, value = slot, which is the same object in all frames), `clip_tracks.jsonl`, a
    line for each frame with box and area of every slot that owns pixels, `clip_slots.npy`, the slot vectors `t n d`,
    `clip_tracks.json`, the same tracks with their masks in COCO's format for videos, and `clip_sheet.png`, up to 24
    frames beside their segments. Results of an earlier call are replaced; other files of these names are not, see
    `slotworks.outputs`.

    Args:
        method: a trained method. One of images sees every frame for itself, so that its slots may change places.
        file: a video of any size and length.
        out: folder for the results; made if it is missing.
        image_size: height and width that the method was trained on; frames are resized to it.
        num_slots: another number of slots than in training, where the method allows it.
        boxes: of the objects in the first frame, `x0 y0 x1 y1` in [0, 1], for a method that is told them.
        masks: "decoder" for the masks the decoder mixes with, "attention" for those of Slot Attention.
        seed: of the initial slots.
        frames: encoded at once.

    Returns:
        The `file`, the files `written`, how many `frames` there were and how many `slots` own pixels in any of them.

    Raises:
        UserError: if the video cannot be read, has no frame or changes its size, the method cannot be given what was
            given, or somebody else's file has the name of a result.
    """
    options: dict[str, Any] = {} if num_slots is None else {"num_slots": num_slots}
    count, owners, state, shape = 0, set(), None, (0, 0)
    with ExitStack() as stack:
        outputs = stack.enter_context(writing(out, doing="writing results"))
        video = open_video(file)
        name = outputs.name_for(file, KINDS, folders=FOLDERS)
        names = [f"{name}{kind}" for kind in (*FOLDERS, *KINDS)]
        pictures = video.timed_frames(kept=frames)
        begin, first = next(pictures)  # whatever is wrong with the file is said before anything is written
        device = stack.enter_context(inspecting(method, seed=seed))
        if boxes is not None:
            options["boxes"] = boxes_tensor(boxes).to(device)
        numbered = stack.enter_context(folder_beside(outputs.folder / names[0]))
        overlay, tracks, vectors = (stack.enter_context(outputs.replacing(name)) for name in names[1:4])
        coco, strip = stack.enter_context(Tracks()), Filmstrip()
        places: Places = {}
        writer = stack.enter_context(VideoWriter(overlay, video.fps, (first.shape[0], first.shape[1])))
        lines = stack.enter_context(tracks.open("w", encoding="utf-8"))
        rows = stack.enter_context(vectors.open("wb+"))
        for piece in in_pieces((begin, first), pictures, frames):
            small = np.stack([resized(picture, image_size) for _, picture in piece])
            batch = to_batch({"video": small[None]}, device)
            output = encode_frames(method, batch["video"], state, options)
            state = output.state
            soft = soft_masks(output, decode(method, output) if masks == "decoder" else None)[0].float().cpu()
            slots = output.slots[0].float().cpu().numpy()
            if not count:
                shape = slots.shape[1:]
                _write_header(rows, (0, *shape))
            rows.write(np.ascontiguousarray(slots).tobytes())
            for (time, picture), maps in zip(piece, soft, strict=True):
                labels = upsampled_argmax(maps, (picture.shape[0], picture.shape[1]))
                palette = PALETTE[np.arange(len(maps)) % len(PALETTE)]
                index = Image.fromarray(labels)
                index.putpalette(palette.flatten().tolist())
                index.save(numbered / f"{count:06d}.png")
                tinted = ((picture.astype(np.uint16) + palette[labels]) // 2).astype(np.uint8)
                now = number_places(labels, places)
                places |= now  # a slot that owns nothing for a while is looked for where it was
                strip.add(picture, tinted, now)
                shown = Image.fromarray(tinted)
                write_numbers(shown, now)
                writer.write(np.asarray(shown))
                coco.add(labels)
                found = _boxes_of(labels)
                lines.write(json.dumps({"frame": count, "time": time, "slots": found}) + "\n")
                owners |= {one["slot"] for one in found}
                count += 1
        rows.seek(0)
        _write_header(rows, (count, *shape))
        coco.write(outputs, names[4], file.name)
        write_sheet(outputs, names[5], strip.pairs)
        outputs.place(numbered, names[0], only=True)
    written = [str(outputs.folder / name) for name in names]
    return {"file": str(file), "written": written, "frames": count, "slots": len(owners)}


def in_pieces(first: T, rest: Iterator[T], size: int) -> Iterator[list[T]]:
    """Frames in lists of at most `size`."""
    piece = [first, *islice(rest, size - 1)]
    while piece:
        yield piece
        piece = list(islice(rest, size))


def encode_frames(
    method: Method, video: Float[Tensor, "1 t 3 h w"], state: Tensor | None, options: Mapping[str, Any]
) -> SlotOutput:
    """Slots of the next frames, or of a picture as a video of one; a method of images sees frames for themselves.

    Args:
        method: in the mode that is wanted, see `inspecting`.
        video: in [0, 1].
        state: what the call for the frames before returned as `state`.
        options: `num_slots` or `boxes`, which matter to the first frames only.

    Raises:
        UserError: if the method cannot be given one of the options.
    """
    try:
        if isinstance(method, VideoMethod):
            return method.encode(video, **({"state": state} if state is not None else options))
        found = method.encode(video.flatten(0, 1), **options)
    except (TypeError, ValueError) as error:
        if not options:
            raise
        given = " and ".join(name.replace("num_slots", f"{options[name]} slots") for name in options)
        raise UserError(f"{type(method).__name__} cannot be given {given}: {error}") from None
    features, image = (None if value is None else value[None] for value in (found.features, found.image))
    return SlotOutput(found.slots[None], found.attn[None], grid=found.grid, features=features, image=image)


def boxes_tensor(boxes: Sequence[Sequence[float]]) -> Float[Tensor, "1 m 4"]:
    """Boxes `x0 y0 x1 y1` in [0, 1] as a method takes them.

    Raises:
        UserError: if one is none inside the image.
    """
    for box in boxes:
        if len(box) != 4 or not all(0 <= value <= 1 for value in box) or box[0] >= box[2] or box[1] >= box[3]:
            raise UserError(
                f"The box {','.join(f'{value:g}' for value in box)} is none inside the image; give x0,y0,x1,y1 from 0 "
                "to 1 with x0 < x1 and y0 < y1."
            )
    return torch.tensor([list(box) for box in boxes]).reshape(1, -1, 4)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame `h w 3` at another height and width, bilinear with antialiasing."""
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _boxes_of(labels: np.ndarray) -> list[dict[str, Any]]:
    """Area and box `x0 y0 x1 y1` in pixels of every slot that owns some."""
    found = []
    for slot in np.unique(labels):
        rows, columns = np.nonzero(labels == slot)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        found.append({"slot": int(slot), "area": len(rows), "box": box})
    return found


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """That of a `.npy` file of float32; numpy leaves room in it for the first number to grow."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
