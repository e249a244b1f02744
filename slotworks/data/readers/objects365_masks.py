"""Masks for Objects365 (Shao et al. 2019), which comes with boxes only: SAM 2 is asked for the mask of every box.

GLASS (Singh et al. 2025, Table 4) measures on such masks, but names neither weights nor images nor settings. So this is
a protocol of our own:

1. The images of a split by rising id, all of them or the first `num_images`.
2. Annotations marked `iscrowd` (a group in one box) or `isfake` (not a real object) are left out.
3. Boxes are clipped to their image. One without area is left out.
4. SAM 2 gives one mask for each box (`multimask_output=False`), at the image's size. An empty mask is left out.
5. Each annotation keeps its whole mask, also where masks overlap. The annotations of an image stand in the order in
   which they are painted: falling area, then rising id, so that small objects end on top.

The result is a COCO file, `annotations/zhiyuan_objv2_<split>_sam2.json`. It takes hours on a GPU, so the work is done
in shards that several processes can share; a shard that is on the disk is never computed again.
"""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import numpy as np
import torch
from jaxtyping import Bool, Float
from pycocotools import mask as coco_mask
from torch import Tensor

from slotworks.data.stores.prepared import WORKERS, fingerprint, in_order
from slotworks.encoders.sam2 import Sam2, Sam2Config
from slotworks.errors import quote
from slotworks.files import Claims, only_one, replacing, write_text
from slotworks.images import read_image
from slotworks.json_text import read_json
from slotworks.progress import cpu_advice, progress
from slotworks.types import UserError

PAGE = "https://www.objects365.org/download.html"
SPLITS = ("train", "val")
FORMAT = "slotworks-sam2-masks"
VERSION = 1

Entry = dict[str, Any]
"""An image or an annotation as a COCO file holds it."""


def boxes_file(root: Path | str, split: str) -> Path:
    """The official annotations."""
    return Path(root) / "annotations" / f"zhiyuan_objv2_{split}.json"


def masks_file(root: Path | str, split: str) -> Path:
    """The same with masks, which `make_masks` writes."""
    return Path(root) / "annotations" / f"zhiyuan_objv2_{split}_sam2.json"


def image_file(root: Path | str, split: str, name: str) -> Path:
    """Where an image lies, or should lie.

    The annotations call it `images/v1/patch8/objects365_v1_00420917.jpg`; unpacked archives hold it as
    `val/patch8/objects365_v1_00420917.jpg`. `images/val` or `images` in place of `val`, and `v1/patch8` or nothing in
    place of `patch8`, are found, too.
    """
    folders = [Path(root) / place for place in (split, f"images/{split}", "images")]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    words = PurePosixPath(name).parts[-3:]
    files = [folder.joinpath(*words[k:]) for k in range(len(words))]
    return next((file for file in files if file.is_file()), files[max(0, len(files) - 2)])


def make_masks(
    root: Path | str,
    split: str = "val",
    sam2: Sam2Config | None = None,
    *,
    num_images: int | None = None,
    skip_damaged: bool = False,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str | None = None,
    images_per_shard: int = 128,
    images_per_batch: int = 4,
) -> Path:
    """Prompt SAM 2 with the boxes of a split and write a COCO file with the masks, unless it is there.

    Can be killed and repeated: finished shards stay, and on the same machine the result has the same bytes. Several
    processes share the shards by claims (`slotworks.files.Claims`): what one leaves that dies is done by the others, or
    by any later call.

    Args:
        root: holds `annotations/zhiyuan_objv2_<split>.json` and `<split>/patch<n>/*.jpg` (see `image_file`).
        split: `train` or `val`.
        sam2: which weights.
        num_images: only the first so many images by id; all if None.
        skip_damaged: leave out images that are missing or cannot be read; the file names them.
        rank: number of this process, from 0: with which share of the shards it begins.
        world_size: how many processes there are.
        device: where SAM 2 runs; the GPU number `rank` if there are any (counted round), else the CPU, if None.
        images_per_shard: how much work a kill can cost.
        images_per_batch: images that go through the encoder at once.

    Returns:
        The file, once all processes are done.

    Raises:
        UserError: official files are missing or damaged, SAM 2 cannot be loaded, the disk refuses, or what is there was
            made with other settings.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}.")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of world_size {world_size}; expected 0 to {world_size - 1}.")
    for name, value in {
        "num_images": 1 if num_images is None else num_images,
        "images_per_shard": images_per_shard,
        "images_per_batch": images_per_batch,
    }.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more.")

    sam2 = sam2 or Sam2Config()
    final = masks_file(root, split)
    work, lock = final.with_name(f".{final.stem}.shards"), final.with_name(f".{final.name}.lock")
    asked = {
        "sam2": asdict(sam2) | {"model": _short(sam2.model)},
        "num_images": num_images,
        "images_per_shard": images_per_shard,
        "images_per_batch": images_per_batch,
    }
    if final.exists():
        _same(final, read_info(final).get("settings", asked), {key: asked[key] for key in ("sam2", "num_images")})
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed while it tidied up
        return final

    images, annotations, labels = _read_boxes(boxes_file(root, split), num_images)
    if device is None:
        gpus = torch.cuda.device_count()
        device = f"cuda:{rank % gpus}" if gpus else "cpu"
    network = Sam2(sam2, device)
    settings = {"source": fingerprint(boxes_file(root, split)), **asked, "weights_sha256": network.file_hashes()}
    starts = range(0, len(images), images_per_shard)
    shards = {work / f"{k:06d}.jsonl": images[start : start + images_per_shard] for k, start in enumerate(starts)}
    if not skip_damaged:
        _all_there(
            [image_file(root, split, e["file_name"]) for f, part in shards.items() if not f.exists() for e in part]
        )

    claims = Claims(
        list(shards),
        lambda file: only_one(work / f".{file.name}.lock", wait=False),
        lambda file: final.exists() or file.exists(),
        first=rank * len(shards) // world_size,
    )
    left = [file for file in shards if not file.exists()]
    try:
        with only_one(lock):
            if not final.exists():
                _begin(work, settings)
        on_cpu = torch.device(device).type == "cpu"
        advice = (lambda: cpu_advice(torch.get_num_threads())) if on_cpu else None
        with progress(final.name, sum(len(shards[file]) for file in left), advice=advice) as advance:
            while (file := claims.take()) is not None:
                lines = []
                for line in _annotate(shards[file], annotations, network, root, split, skip_damaged, images_per_batch):
                    lines.append(json.dumps(line, separators=(",", ":")) + "\n")
                    advance(1)
                write_text(file, "".join(lines))
                claims.release(file)
        with only_one(lock):
            if not final.exists():
                _merge(final, list(shards), settings, labels)
            shutil.rmtree(work, ignore_errors=True)  # a process that comes late tidies up at the same time
    except OSError as error:
        raise UserError(f"{error.filename or final} cannot be written: {error.strerror or error}.") from error
    finally:
        claims.close()
    return final


def read_info(file: Path) -> dict[str, Any]:
    """The `info` of a file that `make_masks` wrote, without reading the rest; empty for a file of another origin."""
    try:
        with file.open(encoding="utf-8") as opened:
            line = opened.readline(1 << 20)
        info = read_json(line.rstrip().removesuffix(",") + "}")["info"]
        return info if info["format"] == FORMAT else {}
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError):
        return {}


def encode_masks(masks: Bool[Tensor, "m h w"]) -> list[dict[str, Any]]:
    """COCO's compressed run-length code of each mask: `size` (height, width) and `counts`, a text."""
    columns = masks.transpose(1, 2).contiguous().to(torch.uint8).cpu().numpy()  # runs go down the columns
    codes: Any = coco_mask.encode(columns.transpose(2, 1, 0))
    return [{"size": list(masks.shape[1:]), "counts": code["counts"].decode("ascii")} for code in codes]


def clipped_boxes(
    annotations: Sequence[Entry], width: int, height: int
) -> tuple[list[Entry], Float[np.ndarray, "m 4"], Counter[str]]:
    """The annotations of an image that stand for an object, their boxes, and how many were left out, by reason.

    Boxes are `x0 y0 x1 y1` in pixels, inside the image.
    """
    kept, boxes, dropped = [], [], Counter()
    for annotation in annotations:
        marked = next((mark for mark in ("iscrowd", "isfake") if annotation.get(mark)), None)
        x, y, w, h = annotation["bbox"]
        box = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
        if marked is None and not (box[2] > box[0] and box[3] > box[1]):
            marked = "empty_box"
        if marked is None:
            kept.append(annotation)
            boxes.append(box)
        else:
            dropped[marked] += 1
    return kept, np.array(boxes, np.float32).reshape(-1, 4), dropped


def _annotate(
    images: Sequence[Entry],
    annotations: dict[int, list[Entry]],
    network: Sam2,
    root: Path | str,
    split: str,
    skip_damaged: bool,
    batch: int,
) -> Iterator[dict[str, Any]]:
    """One line for each image: with its annotations, or a note that it is damaged."""

    def read(entry: Entry) -> np.ndarray | UserError:
        try:
            file = image_file(root, split, entry["file_name"])
            return np.asarray(read_image(file, stated_size=(entry["width"], entry["height"])))
        except UserError as error:
            return error

    pictures = in_order(read, images, WORKERS)
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        read_ones = [next(pictures) for _ in some]
        if (damaged := next((p for p in read_ones if isinstance(p, UserError)), None)) and not skip_damaged:
            raise UserError(f"{damaged} To leave such images out, set skip_damaged.")
        clipped = [clipped_boxes(annotations.get(entry["id"], []), entry["width"], entry["height"]) for entry in some]
        with_boxes = [k for k, p in enumerate(read_ones) if not isinstance(p, UserError) and clipped[k][0]]
        embedded = dict(zip(with_boxes, network.embed([read_ones[k] for k in with_boxes]), strict=True))
        for k, entry in enumerate(some):
            if isinstance(read_ones[k], UserError):
                yield {"image": entry, "damaged": True}
                continue
            kept, boxes, dropped = clipped[k]
            found = []
            if kept:
                masks = network.masks_from_boxes(embedded[k], torch.from_numpy(boxes))
                areas = masks.flatten(1).sum(1).tolist()
                for annotation, area, code in zip(kept, areas, encode_masks(masks), strict=True):
                    if area:
                        found.append({**annotation, "area": area, "segmentation": code})
                    else:
                        dropped["empty_mask"] += 1
            found.sort(key=lambda one: (-one["area"], one["id"]))
            yield {"image": entry, "annotations": found, "dropped": dropped}


def _read_boxes(file: Path, num_images: int | None) -> tuple[list[Entry], dict[int, list[Entry]], dict[str, Any]]:
    """The images asked for, by rising id, their annotations by image id, and what else the file says of all of them."""
    try:
        content = json.loads(file.read_bytes())
        images = sorted(content["images"], key=lambda entry: entry["id"])[:num_images]
        for entry in images:
            if not isinstance(entry["file_name"], str) or min(entry["width"], entry["height"]) < 1:
                raise ValueError(f"image {entry['id']} of {entry['width']} x {entry['height']} pixels")
        annotations: dict[int, list[Entry]] = defaultdict(list)
        wanted = {entry["id"] for entry in images}
        for annotation in content["annotations"]:
            if annotation["image_id"] in wanted:
                if len(annotation["bbox"]) != 4 or not all(isinstance(x, int | float) for x in annotation["bbox"]):
                    raise ValueError(f"annotation {annotation['id']} with the box {annotation['bbox']}")
                annotations[annotation["image_id"]].append(annotation)
        return images, annotations, {key: content[key] for key in ("licenses", "categories") if key in content}
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing; get it from {PAGE}.") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{file} is damaged or not of Objects365 ({quote(error)}); get it again from {PAGE}."
        ) from error


def _all_there(files: Sequence[Path]) -> None:
    """Hours of work should not end at a file that was never there."""
    if missing := [file for file in files if not file.is_file()]:
        raise UserError(
            f"{len(missing):,} of {len(files):,} images are missing, the first is {missing[0]}; get them from {PAGE}, "
            "or set skip_damaged to do without them."
        )


def _begin(work: Path, settings: dict[str, Any]) -> None:
    """Note what the shards are made with, or compare with what was noted."""
    note = work / "settings.json"
    if not note.exists():
        write_text(note, json.dumps(settings))
    try:
        noted = dict(read_json(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{note} is damaged; delete {work} and begin anew.") from error
    _same(work, noted, settings)


def _same(place: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    for key, value in asked.items():
        if found.get(key) != value:
            raise UserError(
                f"{place} was made with {key} {json.dumps(found.get(key))}, asked for is {json.dumps(value)}; ask for "
                "the same, or delete it to begin anew."
            )


def _merge(final: Path, shards: Sequence[Path], settings: dict[str, Any], labels: dict[str, Any]) -> None:
    """All shards as one COCO file, written line by line; `info` stands on the first."""

    def lines() -> Iterator[dict[str, Any]]:
        for shard in shards:
            try:
                with shard.open(encoding="utf-8") as file:
                    yield from (dict(read_json(line)) for line in file)
            except (ValueError, TypeError) as error:
                raise UserError(f"{shard} is damaged ({error}); delete it and run the same command again.") from None

    images = annotations = 0
    damaged, dropped = [], Counter(iscrowd=0, isfake=0, empty_box=0, empty_mask=0)
    for line in lines():
        if line.get("damaged"):
            damaged.append(line["image"]["file_name"])
        else:
            images += 1
            annotations += len(line["annotations"])
            dropped.update(line["dropped"])
    if not images:
        raise UserError(f"None of {len(damaged):,} images could be read; get them from {PAGE}.")
    info = {
        "format": FORMAT,
        "version": VERSION,
        "description": "Objects365 boxes with masks: SAM 2 was prompted with each box, clipped to the image, for one "
        "mask. Overlaps are kept; annotations of an image stand in painting order, falling area, then rising id.",
        "settings": settings,
        "images": images,
        "annotations": annotations,
        "left_out": dict(dropped),
        "damaged_images": damaged,
    }
    sound = (line for line in lines() if not line.get("damaged"))
    masks = (annotation for line in lines() for annotation in line.get("annotations", ()))
    with replacing(final) as beside, beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write("{")
        for key, value in {"info": info, **labels}.items():
            file.write(f"{json.dumps(key)}:{json.dumps(value)},\n")
        _write_list(file, "images", (line["image"] for line in sound))
        file.write(",\n")
        _write_list(file, "annotations", masks)
        file.write("}\n")


def _write_list(file: TextIO, name: str, items: Iterable[Entry]) -> None:
    file.write(f"{json.dumps(name)}:[")
    for k, item in enumerate(items):
        file.write((",\n" if k else "\n") + json.dumps(item, separators=(",", ":")))
    file.write("\n]")


def _short(model: str) -> str:
    """A hub id as it is; of a folder the last part: where it lies says nothing about the masks."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model
