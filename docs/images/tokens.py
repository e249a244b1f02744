"""Draws slate.png, steve.png and concepts.png from trained runs.

Run `python docs/images/tokens.py runs/slate.scenes_mini runs/steve.scenes_mini`. A row of slate.png: image, true
objects, slots, the image written from the slots, and written again without one slot. steve.png: the same for the frames
of a video, one kind of picture a row. concepts.png: typical slots of each concept, then scenes composed from concepts.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import interpolate

from slotworks.api import load
from slotworks.editing import remove
from slotworks.editing.concepts import ConceptLibrary
from slotworks.editing.pictures import to_picture
from slotworks.evaluation.masks import inspecting
from slotworks.evaluation.rendering import render
from slotworks.evaluation.samples import PALETTE, contact_sheet
from slotworks.types import to_batch

HERE = Path(__file__).parent


def painted(labels) -> Image.Image:
    return Image.fromarray(PALETTE[labels.numpy() % len(PALETTE)])


def segments(attn, size) -> Image.Image:
    return painted(interpolate(attn[None], size, mode="bilinear").argmax(dim=1)[0])


def slate(folder: str, count: int = 8) -> None:
    run, method = load(folder, device="cpu")
    batch = to_batch(run.data.open("test").__getitems__(range(count)))
    torch.manual_seed(0)
    with torch.no_grad():
        out = method.encode(batch["image"])
    written = render(method, out.slots).image
    objects = out.attn.mean(dim=-1).argsort(dim=1)[:, -2]  # the largest slot is the background
    without = [render(method, remove(out.slots[i : i + 1], int(objects[i]))).image[0] for i in range(count)]
    size, rows = tuple(batch["mask"].shape[-2:]), []
    for i in range(count):
        seen = [to_picture(batch["image"][i]), painted(batch["mask"][i]), segments(out.attn_maps[i], size)]
        rows.append([*seen, to_picture(written[i]), to_picture(without[i])])
    contact_sheet([left + right for left, right in zip(rows[::2], rows[1::2], strict=True)], cell=96).save(
        HERE / "slate.png", optimize=True
    )
    concepts(run, method)


def concepts(run, method, num_concepts: int = 6, count: int = 8) -> None:
    dataset = run.data.open("val")
    num_images = min(256, len(dataset))
    library = ConceptLibrary.build(method, dataset, num_concepts=num_concepts, num_images=num_images, batch_size=256)
    images = to_batch(dataset.__getitems__(range(num_images)))["image"]
    with inspecting(method, seed=0):  # the library's own slots
        maps = interpolate(method.encode(images).attn_maps, images.shape[-2:], mode="bilinear")
    rows = []
    for concept in range(library.num_concepts):
        chosen = library.examples(concept, count)
        shown = [torch.lerp(torch.ones_like(images[i]), images[i], maps[i, n][None]) for i, n in chosen]
        rows.append([to_picture(picture) for picture in shown])
    scenes = [library.like(image) for image in range(count)]
    composed = render(method, library.compose(scenes, seed=1)).image
    rows.append([to_picture(picture) for picture in composed])
    contact_sheet(rows, cell=72).save(HERE / "concepts.png", optimize=True)


def steve(folder: str, count: int = 2) -> None:
    run, method = load(folder, device="cpu")
    batch = to_batch(run.data.open("test").__getitems__(range(count)))
    torch.manual_seed(0)
    with torch.no_grad():
        out = method.encode(batch["video"])
        written = method.sample(out.slots)
    size = tuple(batch["mask"].shape[-2:])
    rows = []
    for i in range(count):
        frames = range(batch["video"].shape[1])
        rows.append([to_picture(batch["video"][i, t]) for t in frames])
        rows.append([segments(out.attn_maps[i, t], size) for t in frames])
        rows.append([to_picture(written[i, t]) for t in frames])
    contact_sheet(rows, cell=72).save(HERE / "steve.png", optimize=True)


if __name__ == "__main__":
    slate(sys.argv[1])
    steve(sys.argv[2])
