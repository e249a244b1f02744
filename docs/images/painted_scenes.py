"""Draws painted_scenes.png: the first 24 validation scenes at 64 pixels, then eight with textured grounds at 128.

Run `python docs/images/painted_scenes.py`. None of them is chosen.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from slotworks.data.scenes import PaintedScenes

COLUMNS = 8


def rows(config: PaintedScenes, count: int, zoom: int) -> np.ndarray:
    images = config.open("val").__getitems__(range(count))["image"].repeat(zoom, axis=1).repeat(zoom, axis=2)
    return np.concatenate([np.concatenate(list(images[i : i + COLUMNS]), 1) for i in range(0, count, COLUMNS)])


sheet = np.concatenate(
    [rows(PaintedScenes(), 3 * COLUMNS, 2), rows(PaintedScenes(image_size=128, background="textured"), COLUMNS, 1)]
)
Image.fromarray(sheet).save(Path(__file__).with_suffix(".png"), optimize=True)
