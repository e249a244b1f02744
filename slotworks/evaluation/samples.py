"""Pictures of what a method does with a few images, as PNG files that the report page and people look at.

    write_samples(method, dataset, "runs/mine", indices=range(8), step=1000)

writes below `samples/` of the run folder: `index.json`, the pictures it names in `step_0001000/`, and
`step_0001000.png`, one sheet with a row per image: input | true masks | predicted masks | reconstruction | each slot
alone. An `overlay` is the image under the colours of its slots, with their numbers. Features are shown by their first
three principal components. Sheets of earlier steps stay, so they tell the
story of a run; the single pictures of earlier steps are removed.

Of a method that generates pictures from slots some rows also have the picture that it makes of theirs, `sample`: few
rows and few steps, since this is done at every evaluation.

Of a video every picture is a filmstrip: a few frames, evenly chosen from the first to the last, side by side. A slot
keeps its colour through time.
"""

import colorsys
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, UInt8
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from slotworks.evaluation.masks import decode, inspecting, pieces, predicted_masks
from slotworks.evaluation.rendering import EDITING, render, sampling_of
from slotworks.files import replacing, write_text
from slotworks.matching import best_pairs
from slotworks.types import (
    Batch,
    Dataset,
    DecoderOutput,
    Method,
    Samples,
    SlotOutput,
    UserError,
    VideoMethod,
    to_batch,
)

BACKGROUND = (70, 70, 70)  # the true background, and the slot that fits it best
VOID = (235, 235, 235)  # pixels nobody labelled
MAX_SIDE = 160
"""Pictures are stored at most this many pixels wide and high, so a page with 8 images of 7 slots stays below 5 MB."""


SPECK = 0.003  # share of a picture below which a segment gets no number
PLACING = 160  # pixels of the longer side, at most, in which a place for a number is looked for

FILM_FRAMES = 6
"""Frames of a filmstrip."""

GENERATED, GENERATED_FILMS, GENERATED_STEPS = 4, 2, 10
"""Images, or filmstrips, that are generated from their slots as well, and the most steps of a sampler for them."""

COLORS = [
    *[(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)],
    *[(153, 153, 51), (51, 34, 136), (136, 34, 85), (17, 119, 51), (221, 204, 119), (68, 170, 153)],
]
"""The first seven are Okabe and Ito's (2008), the next six from Tol's muted scheme (2021): both were made to be told
apart with every kind of colour vision. The rest step around the hue circle by the golden angle."""
for _i in range(len(COLORS), 64):
    _red, _green, _blue = colorsys.hsv_to_rgb(_i * 0.618034 % 1, 0.6, 0.9)
    COLORS.append((round(255 * _red), round(255 * _green), round(255 * _blue)))
PALETTE = np.array(COLORS, dtype=np.uint8)
"""Colours of segments, `64 3`."""


def write_samples(
    method: Method,
    dataset: Dataset,
    run_folder: str | os.PathLike[str],
    *,
    indices: Sequence[int],
    step: int,
    scores: Mapping[int, Mapping[str, float]] | None = None,
    seed: int = 0,
    looked_at: Mapping[str, Any] | None = None,
) -> Path:
    """Render images of a data set with their slots and return the path of `samples/index.json`.

    Args:
        method: on any device; its training mode and the caller's random state are left as they were.
        dataset: `mask` is shown if it has one.
        run_folder: `samples/` is made in it.
        indices: which samples, in the order of the sheet.
        step: training step, for names.
        scores: metrics by index, printed beside the image; the report page shows low FG-ARI first.
        seed: of the random slots, the same at each call so that pictures of two steps can be compared.
        looked_at: what the images were chosen from, for the index.
    """
    indices = [int(index) for index in indices]
    with inspecting(method, seed=seed) as device:
        batch = to_batch(dataset.__getitems__(indices), device)
        shots = _film(method, batch) if "video" in batch else [_shot(method, batch)]
        shots = _generated(method, shots, seed=seed)
    if "video" in batch:
        shown = [_strips([shot.pictures(i, shots) for shot in shots]) for i in range(len(indices))]
    else:
        shown = [shots[0].pictures(i, shots) for i in range(len(indices))]

    samples = Path(run_folder) / "samples"
    folder = samples / f"step_{step:07d}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"index": index, "scores": dict((scores or {}).get(index, {})), "colors": colors}
        | ({"frames": len(shots)} if "video" in batch else {})
        | {name: _save(picture, folder / f"{index:06d}_{name}.png") for name, picture in pictures.items()}
        for index, (pictures, colors) in zip(indices, shown, strict=True)
    ]
    names = ("input", "truth", "segmentation", "recon")
    whole = [[p[name] for name in names if name in p] for p, _ in shown]
    if "video" in batch:
        strips = [[*row, p["sample"]] if "sample" in p else row for row, (p, _) in zip(whole, shown, strict=True)]
        sheet = _joined([_joined(one, down=True, gap=0) for one in strips], down=True, gap=6)
        scale = max(96 // max(batch["video"].shape[-2:]), 1)
        sheet = sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
    else:
        last = [p.get("parts", p["masks"]) + ([p["sample"]] if "sample" in p else []) for p, _ in shown]
        sheet = contact_sheet([row + rest for row, rest in zip(whole, last, strict=True)])
    with replacing(samples / f"{folder.name}.png") as path:
        sheet.save(path, optimize=True)
    text = json.dumps({"step": step, "looked_at": looked_at, "rows": rows}, indent=1) + "\n"
    index_file = write_text(samples / "index.json", text)
    for old in samples.glob("step_*"):  # the new index no longer names them
        if old.is_dir() and old != folder:
            for file in old.glob("[0-9]*_*.png"):
                file.unlink()
            with suppress(OSError):  # somebody put something else there
                old.rmdir()
    return index_file


def contact_sheet(rows: Sequence[Sequence[Image.Image]], *, cell: int = 96, gap: int = 4) -> Image.Image:
    """One picture of many: a row per sample on white; small pictures are enlarged without smoothing to `cell` pixels.

    Args:
        rows: pictures of each row; rows may differ in length.
        cell: longer side of each picture in pixels.
        gap: white pixels between pictures.
    """
    columns = max((len(row) for row in rows), default=0)
    step = cell + gap
    sheet = Image.new("RGB", (max(columns * step + gap, 1), max(len(rows) * step + gap, 1)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            scale = cell / max(picture.size)
            size = [max(round(side * scale), 1) for side in picture.size]
            tile = picture.convert("RGBA").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
            sheet.paste(tile, (gap + x * step, gap + y * step), tile)
    return sheet


@dataclass(frozen=True)
class _Shot:
    """A batch of images, or one frame of each video of a batch, and what a method made of it."""

    batch: Batch
    output: SlotOutput
    decoded: DecoderOutput | None
    pred: Int64[Tensor, "b h w"]
    generated: Mapping[int, Float[Tensor, "3 y x"]] = field(default_factory=dict)  # by row

    def truth(self, i: int) -> Int64[np.ndarray, "h w"] | None:
        """True ids of image `i`, -1 where nobody labelled."""
        if "mask" not in self.batch:
            return None
        true = self.batch["mask"][i].cpu().numpy()
        return np.where(self.batch["void"][i].cpu().numpy(), -1, true) if "void" in self.batch else true

    def pictures(self, i: int, film: "Sequence[_Shot]") -> tuple[dict[str, Any], list[str]]:
        """All pictures of image `i` by the names of `index.json` (nested lists for slots, iterations), slot colours.

        `film` is all frames of the video, this one among them: together they decide about the colours.
        """
        output, decoded, true = self.output, self.decoded, self.truth(i)
        pictures: dict[str, Any] = {"input": _picture(self.batch["image"][i])}
        if true is not None:
            pictures["truth"] = _paint(true, [BACKGROUND, *(_color(k) for k in range(true.max())), VOID])
        truths = [shot.truth(i) for shot in film]
        known = None if any(one is None for one in truths) else np.stack([one for one in truths if one is not None])
        pred = torch.stack([shot.pred[i] for shot in film]).cpu().numpy()
        colors = _slot_colors(pred, known, num_slots=output.slots.shape[-2])
        pictures["segmentation"] = _paint(self.pred[i].cpu().numpy(), colors)
        shown = Image.fromarray(to_pixels(self.batch["image"][i]))
        pictures["overlay"] = numbered_overlay(shown, self.pred[i].cpu().numpy(), colors, side=MAX_SIDE)
        if decoded is not None and decoded.recon.shape[1] == 3:  # some decoders render features, not images
            pictures["recon"] = _picture(decoded.recon[i])
        elif decoded is not None:
            pictures["recon"] = _picture(principal_colors(decoded.recon[i]))
        if i in self.generated:
            pictures["sample"] = _picture(self.generated[i])
        if decoded is not None and decoded.parts is not None and decoded.parts.shape[2] == 3:
            opacity = interpolate(decoded.masks[i][:, None], decoded.parts.shape[-2:])
            pictures["parts"] = [_picture(part) for part in torch.cat([decoded.parts[i], opacity], dim=1)]
        maps = output.attn_maps if decoded is None else decoded.masks
        pictures["masks"] = [_picture(mask[None]) for mask in maps[i]]
        steps = [replace(output, attn=attn).attn_maps[i] for attn in output.attn_steps]
        pictures["attn_steps"] = [[_picture(mask[None]) for mask in step] for step in steps]
        return pictures, ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in colors]


def _shot(method: Method, batch: Batch) -> _Shot:
    output = method.encode_batch(batch)
    decoded = decode(method, output)
    shape = batch["mask" if "mask" in batch else "image"].shape  # masks may be larger than images
    masks = predicted_masks(output, decoded, size=(shape[-2], shape[-1]), checked=False)  # NaN is to be seen
    return _Shot(batch, output, decoded, masks.argmax(1))


def _generated(method: Method, shots: Sequence[_Shot], *, seed: int) -> list[_Shot]:
    """With what a generator makes of the slots of some rows. One whose weights are not here makes nothing."""
    if not isinstance(method, Samples):
        return list(shots)
    count, most = len(shots[0].output.slots), GENERATED if len(shots) == 1 else GENERATED_FILMS
    rows = sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))})
    slots = torch.stack([shot.output.slots[rows] for shot in shots], dim=1)  # r t n d
    try:
        steps, _ = sampling_of(method, None, None, EDITING)
        steps = None if steps is None else min(steps, GENERATED_STEPS)
        flat = slots if isinstance(method, VideoMethod) else slots.flatten(0, 1)
        image = render(method, flat, renderer="sample", steps=steps, seed=seed).image
    except UserError:
        return list(shots)
    image = image.unflatten(0, slots.shape[:2]) if image.ndim == 4 else image
    return [replace(shot, generated={row: image[k, t] for k, row in enumerate(rows)}) for t, shot in enumerate(shots)]


def _film(method: Method, batch: Batch) -> list[_Shot]:
    """Some frames of every video; the videos are encoded whole."""
    length = batch["video"].shape[1]
    chosen = {round(t) for t in np.linspace(0, length - 1, min(length, FILM_FRAMES))}
    shape = batch["mask" if "mask" in batch else "video"].shape
    shots = []
    for where, output in pieces(method, batch):
        decoded = decode(method, output)
        pred = predicted_masks(output, decoded, size=(shape[-2], shape[-1]), checked=False).argmax(-3)
        for t in sorted(chosen & set(range(where.start, where.stop))):
            k = t - where.start
            frame = {name: batch[name][:, t] for name in ("mask", "void") if name in batch}
            one = SlotOutput(output.slots[:, k], output.attn[:, k], grid=output.grid)
            shown = None
            if decoded is not None:
                parts = None if decoded.parts is None else decoded.parts[:, k]
                shown = DecoderOutput(decoded.recon[:, k], decoded.masks[:, k], parts)
            shots.append(_Shot({"image": batch["video"][:, t], **frame}, one, shown, pred[:, k]))
    return shots


def _strips(frames: Sequence[tuple[dict[str, Any], list[str]]]) -> tuple[dict[str, Any], list[str]]:
    """The pictures of the frames of one video, joined one by one."""
    joined: dict[str, Any] = {}
    for name, first in frames[0][0].items():
        if isinstance(first, list):
            joined[name] = [_joined([p[name][n] for p, _ in frames]) for n in range(len(first))]
        else:
            joined[name] = _joined([p[name] for p, _ in frames])
    return joined, frames[0][1]


def _joined(pictures: Sequence[Image.Image], *, down: bool = False, gap: int = 2) -> Image.Image:
    """Pictures side by side, or one below the other, on white."""
    along, across = (1, 0) if down else (0, 1)
    size = [0, 0]
    size[along] = sum(p.size[along] for p in pictures) + gap * (len(pictures) - 1)
    size[across] = max(p.size[across] for p in pictures)
    sheet, place = Image.new("RGB", (size[0], size[1]), "white"), [0, 0]
    for picture in pictures:
        picture = picture.convert("RGBA")
        sheet.paste(picture, (place[0], place[1]), picture)
        place[along] += picture.size[along] + gap
    return sheet


def numbered_overlay(
    picture: Image.Image,
    labels: Integer[np.ndarray, "h w"],
    colors: Sequence[tuple[int, int, int]] = COLORS,
    *,
    side: int,
    strength: float = 0.5,
) -> Image.Image:
    """A picture under the colours of its segments, the number of each where it is widest.

    Args:
        picture: RGB, of any size.
        labels: segment of each pixel, in a grid of any size that covers the picture.
        colors: of the segments; they start again where there are more segments.
        side: pixels of the longer side of what is returned.
        strength: share of the colours in [0, 1]; the rest is the picture.

    Specks below `SPECK` of the picture keep their colour and get no number.
    """
    scale = side / max(picture.size)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    picture = picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
    rows, columns = (np.arange(new) * old // new for new, old in zip(size[::-1], labels.shape, strict=True))
    labels = labels[rows[:, None], columns]
    palette = np.array(colors, dtype=np.uint8)
    overlay = Image.blend(picture, Image.fromarray(palette[labels % len(palette)]), strength)
    write_numbers(overlay, number_places(labels))
    return overlay


Places = dict[int, tuple[float, float]]
"""Where the numbers of segments stand: column and row, as shares of the width and the height."""


def number_places(labels: Integer[np.ndarray, "h w"], before: Places | None = None) -> Places:
    """A place for the number of each segment, where it is widest; none for specks below `SPECK` of the picture.

    With `before`, the places in the frame before, a number moves no further than it has to: to the nearest place that
    is at least half as wide.
    """
    from scipy.ndimage import distance_transform_edt

    step = max(1, max(labels.shape) // PLACING)
    labels = labels[step // 2 :: step, step // 2 :: step]
    height, width = labels.shape
    places: Places = {}
    for label in np.unique(labels):
        own = np.pad(labels == label, 1)  # the edge of the picture is a border, too
        if own.mean() < SPECK:
            continue
        depth: Any = distance_transform_edt(own)
        y, x = np.unravel_index(depth.argmax(), own.shape)
        if before and int(label) in before:
            wide = np.argwhere(2 * depth >= depth.max())
            column, row = before[int(label)]
            y, x = wide[np.square(wide - (row * height + 0.5, column * width + 0.5)).sum(1).argmin()]
        places[int(label)] = (float(x - 0.5) / width, float(y - 0.5) / height)
    return places


def write_numbers(picture: Image.Image, places: Places) -> None:
    """Write the numbers of segments into a picture."""
    pen, side = ImageDraw.Draw(picture), max(picture.size)
    for label, (column, row) in places.items():
        style = {"font_size": max(side // 12, 11), "stroke_width": max(side // 100, 1), "anchor": "mm"}
        at = (int(column * picture.width), int(row * picture.height))
        pen.text(at, str(label), fill="white", stroke_fill="black", **style)


def principal_colors(features: Float[Tensor, "c h w"]) -> Float[Tensor, "3 h w"]:
    """A map of features as a picture: its first three principal components, each stretched to [0, 1], as red to blue.

    Signs are arbitrary: they are chosen so that the largest weight of a component is positive. Components that do not
    vary are grey.
    """
    points = features.flatten(1).T.double().nan_to_num()
    _, strength, directions = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    directions = directions[:3] * (strength[:3, None] > 1e-9 * strength[:1].clamp(min=1e-9))
    directions = directions * directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    shown = (points - points.mean(0)) @ directions.T
    low, high = shown.amin(0), shown.amax(0)
    shown = torch.where(high > low, (shown - low) / (high - low), 0.5)
    shown = torch.nn.functional.pad(shown, (0, 3 - shown.shape[1]), value=0.5)
    return shown.T.reshape(3, *features.shape[1:]).float()


def _slot_colors(pred: np.ndarray, true: np.ndarray | None, *, num_slots: int) -> list[tuple[int, int, int]]:
    """A colour per slot: that of the true region it fits best (one slot each, by overlap), otherwise a free one."""
    chosen: dict[int, tuple[int, int, int]] = {}
    num_objects = 0
    if true is not None:
        num_objects = max(int(true.max()), 0)
        overlap = np.zeros((num_slots, num_objects + 1))
        np.add.at(overlap, (pred[true >= 0], true[true >= 0]), 1)
        union = overlap.sum(0, keepdims=True) + overlap.sum(1, keepdims=True) - overlap
        slots, regions = best_pairs(overlap / np.maximum(union, 1))
        pairs = zip(slots.tolist(), regions.tolist(), strict=True)
        chosen = {n: _color(m - 1) if m else BACKGROUND for n, m in pairs if overlap[n, m]}
    free = iter(range(num_objects, num_objects + num_slots))
    return [chosen[n] if n in chosen else _color(next(free)) for n in range(num_slots)]


def _color(index: int) -> tuple[int, int, int]:
    return COLORS[index % len(COLORS)]


def _paint(labels: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """Integers to colours; -1 is the last colour."""
    return _small(Image.fromarray(np.array(palette, dtype=np.uint8)[labels]), Image.Resampling.NEAREST)


def to_pixels(values: Float[Tensor, "*b c h w"]) -> UInt8[np.ndarray, "*b h w c"]:
    """Values in [0, 1] to 8 bits; what is beyond is cut off, NaN is 0."""
    return (values.detach().float().nan_to_num().clamp(0, 1) * 255).round().byte().movedim(-3, -1).cpu().numpy()


def _picture(values: Float[Tensor, "c h w"]) -> Image.Image:
    """Values in [0, 1] to a picture: 1 channel grey, 3 colour, 4 colour and opacity."""
    pixels = to_pixels(values)
    return _small(Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels), Image.Resampling.BOX)


def _small(picture: Image.Image, resample: Image.Resampling) -> Image.Image:
    picture.thumbnail((MAX_SIDE, MAX_SIDE), resample)
    return picture


def _save(picture: Any, path: Path) -> Any:
    """Save a picture, or nested lists of them under numbered names; the same nesting of their relative paths."""
    if isinstance(picture, list):
        return [_save(one, path.with_stem(f"{path.stem}_{k}")) for k, one in enumerate(picture)]
    picture.save(path, optimize=True)
    return f"{path.parent.name}/{path.name}"
