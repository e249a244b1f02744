"""Other pseudo-masks for pictures that are there: another threshold or power, or SAM 2, without generating again.

A shard keeps the refined maps of its pictures, `(power + 1) c y x` float32 in NumPy's format: those of class `c` after
each product with the self-attention. So the shards are the same bytes as if they had been generated with the settings.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slotworks.data.stores.generated import find_shards, num_rows, read_facts, read_rows
from slotworks.encoders.sam2 import Sam2
from slotworks.files import Claims
from slotworks.images import open_picture, reading
from slotworks.progress import progress
from slotworks.remote import Place, as_place
from slotworks.synthesis.engine import (
    MAY_CHANGE,
    Synthesis,
    alone,
    claimed,
    facts_of,
    forget_claims,
    note_settings,
    segments,
)
from slotworks.synthesis.refine import to_labels
from slotworks.synthesis.shards import contact_sheet, npy, png, write_shard
from slotworks.training.numerics import device_kind, settle
from slotworks.training.serialize import changes, flat, from_plain, to_plain
from slotworks.types import UserError
from slotworks.yaml_text import read_yaml

OF_MASKS = ("masks", "power", "low", "high", "sam2", "points_per_side")
"""Settings that decide what masks are and not what pictures are."""


def remask(
    config: Synthesis, pictures: str | Place, folder: str | Place, *, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Shards with the pictures of others and masks by these settings. Goes on, and is shared, as `synthesize`.

    Args:
        config: the settings of the pictures, other ones of `OF_MASKS`.
        pictures: folder that `synthesize` wrote.
        folder: for the new shards; made if it is missing.
        device: where SAM 2 computes.

    Returns:
        As `synthesize`; `made` counts masks.

    Raises:
        UserError: the pictures were made with other settings, or with a lower power, or hold no maps.
    """
    pictures, folder, place = as_place(pictures), as_place(folder), torch.device(device)
    kept = _settings_of(pictures)
    config = settle(config, device_kind(place), kept)
    fixed = [*MAY_CHANGE, *OF_MASKS, *(name for name in _flat_names(config) if name.startswith("sam2."))]
    if changed := changes(to_plain(kept), to_plain(config), fixed):
        raise UserError(f"{pictures} was made with other settings: {'; '.join(changed)}. Masks alone can be others.")
    if config.masks == "adaptive" or (config.masks == "attention" and kept.masks != "attention"):
        raise UserError(f"masks is {config.masks}; of pictures with masks {kept.masks} they cannot be made anew.")
    if config.masks == "attention" and config.power > kept.power:
        raise UserError(f"power is {config.power}, but {pictures} holds maps up to {kept.power}; generate them anew.")
    if pictures == folder or (isinstance(pictures, Path) and pictures.resolve() == Path(str(folder)).resolve()):
        raise UserError(f"{folder} holds the pictures themselves; choose another folder for the new masks.")
    shards = {file.name: file for file in find_shards(pictures)}
    if not shards:
        raise UserError(f"{pictures} holds no shard-*.parquet; make some with `slotworks synthesize`.")
    config = note_settings(config, folder, device_kind(place))
    sam2 = Sam2(config.sam2, place) if config.masks == "sam2" else None
    claims = Claims(
        list(shards),
        lambda name: claimed(folder, name),
        lambda name: (folder / name).is_file(),
    )
    made, started = 0, time.monotonic()
    with closing(claims), progress("masks", sum(map(num_rows, shards.values()))) as advance:
        while (name := claims.take()) is not None:
            facts = read_facts(shards[name])
            columns = ("image", "caption", "prompt", "classes", "class_ids", "index", "seed", "maps")
            own = facts_of(config, facts["class_names"])
            rows = []
            for row in _rows(shards[name], columns):
                mask = _mask(config, sam2, row, shards[name])
                maps = _up_to(row["maps"], config)
                rows.append({**row, "mask": png(mask), "maps": maps, "settings": own["settings"]})
                advance(1)
            bounds = {key: facts[key] for key in ("start", "stop")}
            write_shard(folder / name, rows, {**bounds, **own, "left_out": facts["left_out"]})
            claims.release(name)
            made += len(rows)
    with alone(folder):
        sheet = contact_sheet(folder)
    found = find_shards(folder)
    forget_claims(folder)
    return {
        "folder": str(folder),
        "images": sum(map(num_rows, found)),
        "shards": len(found),
        "made": made,
        "seconds": time.monotonic() - started,
        "sheet": None if sheet is None else str(sheet),
    }


def _settings_of(pictures: Place) -> Synthesis:
    path = pictures / "synthesis.yaml"
    try:
        plain = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); name a folder of `synthesize`.") from None
    return from_plain(Synthesis, plain, source=str(path))


def _flat_names(config: Synthesis) -> list[str]:
    return list(flat(to_plain(config)))


def _rows(file: Place, columns: Sequence[str]) -> list[dict[str, Any]]:
    rows = read_rows(file, columns)
    return [{"maps": None, **row} for row in rows]  # older shards have no such column


def _mask(config: Synthesis, sam2: Sam2 | None, row: dict[str, Any], file: Place) -> np.ndarray:
    if sam2 is not None:
        with reading(f"A row of {file}", otherwise="delete the file and synthesize again"):
            image = np.asarray(open_picture(row["image"], name=file, formats=["PNG"]).convert("RGB"))
        return segments(sam2, image, config.points_per_side)
    maps = torch.from_numpy(_maps(row, file)[config.power])[None]
    size = (config.image_size, config.image_size)
    return to_labels(maps, torch.tensor([row["class_ids"]]), size, config.low, config.high)[0].numpy()


def _maps(row: dict[str, Any], file: Place) -> np.ndarray:
    if row["maps"] is None:
        raise UserError(f"{file} holds no maps, as those of older versions; generate its pictures anew.")
    with reading(f"The maps of {file}", otherwise="delete the file and synthesize again"):
        maps = np.load(BytesIO(row["maps"]), allow_pickle=False)
        if maps.dtype != np.float32 or maps.ndim != 4 or maps.shape[1] != len(row["class_ids"]):
            raise ValueError(f"maps of {maps.dtype} {maps.shape}")
    return maps


def _up_to(maps: bytes | None, config: Synthesis) -> bytes | None:
    """The maps that pictures of these settings would have."""
    if maps is None or config.masks == "sam2":
        return None
    return npy(np.load(BytesIO(maps), allow_pickle=False)[: config.power + 1])
