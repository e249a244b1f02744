"""Draws painted_diffusion.png: `python docs/images/painted_diffusion.py [MODEL]`, none of the pictures chosen.

Rows, three times: true validation scenes; drawn from their properties; the same without the token of object
`1 + i % m`; that object at another place; drawn from captions with places. MODEL is package:painted_diffusion or a
folder `pipeline/`.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from slotworks.configs.painted_diffusion import PAINTED_SCENES
from slotworks.encoders.object_tokens import Objects, load_object_tokens
from slotworks.synthesis.stable_diffusion import load_stable_diffusion
from slotworks.types import to_batch

COLUMNS, ROWS, ZOOM = 8, 3, 2


def sheet(name: str = "package:painted_diffusion") -> None:
    model, tokens = load_stable_diffusion(name, "cpu"), load_object_tokens(name)
    count = COLUMNS * ROWS
    scenes = PAINTED_SCENES.open("val")
    batch = to_batch(scenes.__getitems__(range(count)))
    objects, ground = Objects.of(batch), batch["background"].long()
    seeds, options = range(count), {"image_size": 64, "steps": 25, "cfg_scale": 1.5}

    def draw(objects: Objects) -> np.ndarray:
        context = tokens.context(objects, ground)
        return model.generate(context, tokens.nulls(count, context.shape[1]), seeds=seeds, **options).numpy()

    which = torch.arange(count)
    chosen = torch.nn.functional.one_hot(which % batch["num_objects"].clamp(min=1), objects.present.shape[1]).bool()
    elsewhere = {name: torch.where(chosen, 1 - getattr(objects, name), getattr(objects, name)) for name in ("x", "y")}
    captions = [scenes.caption(i, places=True) for i in range(count)]
    written = model.generate(model.embed(captions), model.embed([""]), seeds=seeds, **options).numpy()
    kinds = [(255 * batch["image"]).byte().movedim(1, -1).numpy(), draw(objects)]
    kinds += [draw(replace(objects, present=objects.present & ~chosen)), draw(replace(objects, **elsewhere)), written]
    lines = [np.concatenate(list(kind[i : i + COLUMNS]), 1) for i in range(0, count, COLUMNS) for kind in kinds]
    pixels = np.concatenate(lines).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    Image.fromarray(pixels).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    sheet(*sys.argv[1:])
