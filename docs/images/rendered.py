"""Draws what methods render from their slots: slate.png, slot_diffusion.png, concepts.png, steve.png and the like.

Run `python docs/images/rendered.py images NAME RUN`, `videos NAME RUN` or `concepts NAME RUN`; the file is NAME.png. A
row of `images`: image, true objects, slots, the image rendered from the slots, and rendered without the object in
front. `videos`: the frames of a video, their slots, and the frames rendered from them, a row each. `concepts`: typical
slots of each concept, then scenes composed from concepts.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import interpolate

from slotworks.api import load
from slotworks.editing import object_at, remove, render_edit, take_apart
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


def images(name: str, folder: str, count: int = 8) -> None:
    run, method = load(folder, device="cpu")
    batch, rows = to_batch(run.data.open("test").__getitems__(range(count))), []
    for image, mask in zip(batch["image"], batch["mask"], strict=True):
        scene = take_apart(method, image)
        y, x = (mask == mask.max()).nonzero().float().median(dim=0).values.int().tolist()  # of the object in front
        edit = render_edit(method, scene, remove(scene.slots[None], object_at(scene, x, y))[0])
        shown = [to_picture(image), painted(mask), segments(scene.masks, tuple(mask.shape))]
        rows.append([*shown, to_picture(edit.recon[0]), to_picture(edit.edited[0])])
    contact_sheet([left + right for left, right in zip(rows[::2], rows[1::2], strict=True)], cell=96).save(
        HERE / f"{name}.png", optimize=True
    )


def concepts(name: str, folder: str, num_concepts: int = 6, count: int = 8) -> None:
    run, method = load(folder, device="cpu")
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
    contact_sheet(rows, cell=72).save(HERE / f"{name}.png", optimize=True)


def videos(name: str, folder: str, count: int = 2) -> None:
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
    contact_sheet(rows, cell=72).save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    kind, name, folder = sys.argv[1:]
    {"images": images, "videos": videos, "concepts": concepts}[kind](name, folder)
