"""Pseudo-masks of classes for real images: the clusters of a method's segments, named once, as shards to train on.

    images of two splits  --method-->  segments  --k-means over both-->  clusters
    clusters in the images of the one with true classes  --one assignment by IoU-->  a class for each cluster
    clusters in the images of the other, refined where the method does so  -->  shard-00000.parquet, ...

So DeepSpectral's code makes what its segmenter is trained on (`extract_bbox_clusters`, `extract_semantic_segmentations`
and, with a CRF, `extract_crf_segmentations`; `matching` of `train.py` is found by `eval.py` on the validation split).
The shards are those of `slotworks synthesize`, and `Generated` opens them.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from slotworks.data.stores.generated import UNCERTAIN, find_shards, shard_path
from slotworks.errors import check_extra
from slotworks.evaluation.masks import inspecting
from slotworks.evaluation.semantic import NEEDS, cluster_slots, clusters_of_images, count_clusters, find_segments
from slotworks.evaluation.task import Needs, count_images
from slotworks.files import replacing_tree
from slotworks.metrics.semantic import hungarian_classes
from slotworks.progress import progress
from slotworks.synthesis.shards import contact_sheet, png, writing_shard
from slotworks.types import Batch, Dataset, Method, UserError

SHARD = 1000
"""Images of a shard."""


def label(
    method: Method,
    images: Dataset,
    known: Dataset,
    folder: Path | str,
    *,
    class_names: Sequence[str],
    num_images: int | None = None,
    num_clusters: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    shard_size: int = SHARD,
) -> dict[str, Any]:
    """Write masks of classes for images whose classes nobody marked.

    Args:
        method: on any device; left as it was.
        images: those that get masks, of their own size; only `image` is read.
        known: images with `class_mask`, from which each cluster gets its class.
        folder: for the shards; made if it is missing.
        class_names: without the background, as `evaluate_semantic` takes them.
        num_images: how many of `images`, from the first on; all by default.
        num_clusters: by default as many as named classes and the background.
        batch_size: images per forward pass.
        seed: of k-means and random slots.
        shard_size: images of a shard.

    Returns:
        `folder`, `images`, `shards`, `clusters`, `named` (clusters that got a class), `seconds` and `sheet`.

    Raises:
        UserError: the folder holds shards already, there is no image, or `known` has no classes.
    """
    folder = Path(folder)
    check_extra("synthesis", "pyarrow.parquet")
    if find_shards(folder):
        raise UserError(f"{folder} holds shards already; take it away, or choose another --out.")
    count, started = count_images(images, num_images, to="label"), time.monotonic()
    NEEDS.check_batch(known.__getitems__([0]))
    with inspecting(method, seed=seed) as device:
        how: dict[str, Any] = {"batch_size": batch_size, "device": device}
        with progress("segments", count + len(known)) as advance:
            ours = find_segments(method, images, count, advance=advance, **how)
            theirs = find_segments(method, known, len(known), advance=advance, **how)
        vectors, used = (torch.cat([getattr(one, name) for one in (ours, theirs)]) for name in ("vectors", "used"))
        named = sum(bool(name) for name in class_names) + 1
        clusters = cluster_slots(vectors, used, named, num_clusters, seed=seed, method=method)
        left_open = int(clusters.max()) + 1  # one more cluster, which gets no class
        clusters = clusters.where(clusters >= 0, left_open)
        with progress("masks", len(known) + count) as advance:
            seen = clusters[count:], len(class_names) + 1
            table = count_clusters(method, known, theirs.maps, *seen, advance=advance, **how)[0]
            table[left_open:] = 0
            classes = hungarian_classes(table)
            # A cluster that is in none of the known images has no row, and one that shares nothing has no class either.
            sharing = table.gather(1, classes.clamp(max=table.shape[1] - 1)[:, None])[:, 0] > 0
            ids = torch.full((int(clusters.max()) + 1,), UNCERTAIN)
            ids[: len(classes)] = torch.where((classes < table.shape[1]) & sharing, classes, UNCERTAIN)
            settings = f"{google_crc32c.value(json.dumps(asdict(method.config), default=str).encode()):08x}"
            facts = {"masks": "classes", "class_names": list(class_names), "settings": settings, "left_out": []}
            how["needs"] = Needs(fields=("image",))
            found = clusters_of_images(method, images, ours.maps, clusters[:count], **how)
            rows = _rows(found, ids.to(device), class_names, {"seed": seed, "settings": settings})
            starts = range(0, count, shard_size)
            with replacing_tree(folder) as beside:
                for number, start in enumerate(starts):
                    stop = min(start + shard_size, count)
                    with writing_shard(shard_path(beside, number), facts | {"start": start, "stop": stop}) as write:
                        for first in range(start, stop, batch_size):
                            piece = list(islice(rows, min(batch_size, stop - first)))
                            write(piece)
                            advance(len(piece))
                contact_sheet(beside)
    return {
        "folder": str(folder),
        "images": count,
        "shards": len(starts),
        "clusters": left_open,
        "named": int((ids != UNCERTAIN).sum()),
        "seconds": time.monotonic() - started,
        "sheet": str(folder / "sheet.png"),
    }


def _rows(
    found: Iterable[tuple[Batch, Int64[Tensor, "b h w"]]],
    ids: Int64[Tensor, " k"],
    class_names: Sequence[str],
    known: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Batches with clusters to the rows of a shard, image by image; `ids` has the class of each cluster."""
    index = 0
    for batch, clusters in found:
        pixels = batch["image"].mul(255).round().byte().movedim(1, 3).cpu().numpy()
        for picture, mask in zip(pixels, ids[clusters].byte().cpu().numpy(), strict=True):
            there = [int(k) for k in np.unique(mask) if 0 < k < UNCERTAIN]
            names = [class_names[k - 1] for k in there]
            of = {"caption": "", "prompt": ", ".join(names), "classes": names, "class_ids": there, "index": index}
            yield {"image": png(picture), "mask": png(mask), **of, **known}
            index += 1
