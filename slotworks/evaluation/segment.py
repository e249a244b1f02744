"""Own pictures in; masks, slot vectors and overlays out."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from slotworks.evaluation.edges import guided
from slotworks.evaluation.masks import decode, inspecting, soft_masks
from slotworks.evaluation.samples import PALETTE, number_places, write_numbers
from slotworks.evaluation.segment_results import (
    JSON,
    SHEET,
    sheet_names,
    thumbnails,
    write_cut_outs,
    write_json,
    write_sheet,
)
from slotworks.images import read_image
from slotworks.metrics import segmentation
from slotworks.outputs import Outputs, writing
from slotworks.types import DecoderOutput, Method, SlotOutput, UserError, VideoMethod, to_batch

KINDS = ("_mask.png", "_overlay.png", "_slots.npz", "_rle.json")
"""Endings of what is written for a picture."""


def segment_images(
    method: Method,
    files: Sequence[Path],
    out: Path | Outputs,
    *,
    image_size: tuple[int, int],
    num_slots: int | None = None,
    masks: Literal["decoder", "attention"] = "decoder",
    merge: float | None = None,
    seed: int = 0,
    skip_damaged: bool = False,
    edges: bool = False,
    cut_outs: bool = False,
) -> Iterator[dict]:
    """Take pictures apart with a trained method and write what was found, one picture at a time.

    For `cat.jpg` it writes `cat_mask.png` (palette image at the picture's own size, value = slot), `cat_overlay.png`,
    `cat_slots.npz` (`slots` `n d` and the soft `masks` `n h w` at the model's size) and `cat_rle.json` (COCO run-length
    masks, one for each slot that owns pixels). About all pictures together it writes at the end `segments.json`, the
    masks in one COCO file, and of two pictures or more `contact_sheet.png`, each beside its segments. Two pictures of
    the same name get their suffix or a number added. Results of an earlier call are replaced; other files of these
    names are not, see `slotworks.outputs`.

    Args:
        method: a trained method.
        files: pictures of any size and mode.
        out: folder for the results; made if it is missing.
        image_size: height and width that the method was trained on; pictures are resized to it.
        num_slots: another number of slots than in training, where the method allows it.
        masks: "decoder" for the masks the decoder mixes with, "attention" for those of Slot Attention.
        merge: join slots whose cosine is above this, see `slotworks.evaluation.masks.merge_similar`; not of videos.
        seed: of the initial slots.
        skip_damaged: yield the sentence about a picture that cannot be read as `error` and go on, instead of raising
            it.
        edges: borders follow the picture's edges (`slotworks.evaluation.edges`); by default masks are enlarged
            bilinearly, as scores have it.
        cut_outs: also each segment with transparency, `cutouts/cat_3.png`, without the one on the picture's border.

    Yields:
        For each picture its `file`, the files `written` and the number of `slots` that own pixels.

    Raises:
        UserError: if the method cannot change its number of slots, a picture cannot be read, or, before the first is
            looked at, if somebody else's file has the name of a result.
    """
    height, width = image_size
    with writing(out, doing="writing results") as outputs:
        names = {file: outputs.name_for(file, KINDS) for file in files}
        outputs.check_free([JSON, *sheet_names(len(files) if len(files) > 1 else 0)])
        sheets, pairs, written = iter(sheet_names(len(files))), [], []
        for file, name in names.items():
            try:
                picture = read_image(file)
            except UserError as error:
                if not skip_damaged:
                    raise
                yield {"file": str(file), "error": str(error)}
                continue
            small = np.array(picture.resize((width, height), Image.Resampling.BILINEAR))
            with inspecting(method, seed=seed) as device:
                batch = to_batch({"image": small[None]}, device)
                try:
                    options = {} if num_slots is None else {"num_slots": num_slots}
                    encoded = _encode(method, batch["image"], options)
                except (TypeError, ValueError) as error:
                    if num_slots is None:
                        raise
                    raise UserError(f"{type(method).__name__} cannot be given {num_slots} slots: {error}") from None
                decoded = decode(method, encoded) if masks == "decoder" else None
                if isinstance(method, VideoMethod):
                    encoded, decoded = _first_frame(encoded, decoded)
                soft = soft_masks(encoded, decoded, merge=merge)[0].float().cpu()
                slots = encoded.slots[0].float().cpu()
            result, pair = _write(outputs, name, file, picture, soft, slots, edges=edges, cut_outs=cut_outs)
            written.append(f"{name}{KINDS[3]}")
            if len(files) > 1:
                pairs.append(pair)
            if len(pairs) == SHEET:
                write_sheet(outputs, next(sheets), pairs)
                pairs = []
            yield result
        if pairs:
            write_sheet(outputs, next(sheets), pairs)
        if written:
            write_json(outputs, written)


def _encode(method: Method, image: Tensor, options: dict) -> SlotOutput:
    """Slots of a picture; a method of videos sees it as a video of one frame."""
    if not isinstance(method, VideoMethod):
        return method.encode(image, **options)
    return method.encode(image[:, None], **options)


def _first_frame(encoded: SlotOutput, decoded: DecoderOutput | None) -> tuple[SlotOutput, DecoderOutput | None]:
    """Slots and masks `b n ...` of the one frame that a method of videos saw."""
    image = replace(encoded, slots=encoded.slots[:, 0], attn=encoded.attn[:, 0])
    return image, None if decoded is None else DecoderOutput(decoded.recon[:, 0], decoded.masks[:, 0])


def _write(
    outputs: Outputs,
    name: str,
    file: Path,
    picture: Image.Image,
    soft: Tensor,
    slots: Tensor,
    *,
    edges: bool,
    cut_outs: bool,
) -> tuple[dict, tuple[Image.Image, Image.Image]]:
    """The files of one picture; says which, and gives what the contact sheet shows of it."""
    from pycocotools import mask as coco_mask

    size = (picture.height, picture.width)
    labels = largest(guided(soft, picture), size) if edges else upsampled_argmax(soft, size)
    index = Image.fromarray(labels)
    palette = PALETTE[np.arange(len(soft)) % len(PALETTE)]
    index.putpalette(palette.flatten().tolist())
    overlay = Image.blend(picture, Image.fromarray(palette[labels]), 0.5)
    places = number_places(labels)
    numbered = overlay.copy()
    write_numbers(numbered, places)
    files = [f"{name}{kind}" for kind in KINDS]
    with outputs.replacing(files[0]) as path:
        index.save(path, format="PNG")
    with outputs.replacing(files[1]) as path:
        numbered.save(path, format="PNG")
    with outputs.replacing(files[2]) as path, path.open("wb") as opened:
        np.savez_compressed(opened, slots=slots.numpy(), masks=soft.numpy())
    found = []
    for slot in np.unique(labels):
        rle = coco_mask.encode(np.asfortranarray(labels == slot))
        area = int(coco_mask.area(rle))
        bbox = [float(v) for v in coco_mask.toBbox(rle)]
        counts = rle["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        found.append(
            {"slot": int(slot), "segmentation": {"size": list(size), "counts": counts}, "area": area, "bbox": bbox}
        )
    coco = {"file_name": file.name, "height": size[0], "width": size[1], "annotations": found}
    outputs.write_text(files[3], json.dumps(coco) + "\n")
    files += write_cut_outs(outputs, name, picture, labels) if cut_outs else []
    result = {"file": str(file), "written": [str(outputs.folder / f) for f in files], "slots": len(found)}
    return result, thumbnails(picture, overlay, places)


def upsampled_argmax(soft: Tensor, size: tuple[int, int]) -> np.ndarray:
    """`segmentation` at the picture's own size; of a large photo one slot after the other, to stay small in memory."""
    n, (height, width) = len(soft), size
    if height * width * n <= 64_000_000:
        return segmentation(soft, size).byte().numpy()
    one = (soft[None, slot : slot + 1] for slot in range(n))
    return largest((F.interpolate(v, size=size, mode="bilinear", align_corners=False)[0, 0] for v in one), size)


def largest(masks: Iterable[Tensor], size: tuple[int, int]) -> np.ndarray:
    """Which of the masks that come one after the other, `h w` each, is the largest at each pixel; ties to the first."""
    labels = np.empty(size, dtype=np.uint8)
    best = torch.full(size, -torch.inf)
    for slot, value in enumerate(masks):
        labels[(value > best).numpy()] = slot
        best = torch.maximum(best, value)
    return labels
