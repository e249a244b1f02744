"""Draws scenes.png: a row per kind of scene, each image beside its mask. Run `python docs/images/scenes.py`."""

from pathlib import Path

import numpy as np
from PIL import Image

from slotworks.data.scenes import ShapeScenes, SpriteScenes, TetrominoScenes
from slotworks.data.scenes.shapes import CLASSES

MASK_COLORS = ["1e1e24", "e64b46", "46a0eb", "fac83c", "5abe6e", "b469dc", "f58cbe"]
TILE, GAP, COLUMNS = 70, 4, 6

shapes = {"shapes": tuple(CLASSES), "max_objects": 6}
kinds = [
    TetrominoScenes(),
    SpriteScenes(variant="binarized"),
    SpriteScenes(variant="colored_on_grayscale"),
    SpriteScenes(variant="colored_on_colored"),
    SpriteScenes(variant="textured"),
    ShapeScenes(occlusion=False, shapes=tuple(CLASSES)),
    ShapeScenes(background="gradient", min_objects=3, **shapes),
    ShapeScenes(background="textured", min_objects=3, **shapes),
]
palette = np.array([list(bytes.fromhex(color)) for color in MASK_COLORS], dtype=np.uint8)
columns = 2 * COLUMNS * (TILE + GAP) + COLUMNS * GAP  # a wider gap after each pair
sheet = Image.new("RGB", (columns, len(kinds) * (TILE + GAP) + GAP), "white")
for row, kind in enumerate(kinds):
    batch = kind.open("test").__getitems__(range(COLUMNS * row, COLUMNS * (row + 1)))  # other scenes in each row
    zoom = TILE // kind.size[0]
    for i in range(COLUMNS):
        for j, pixels in enumerate((batch["image"][i], palette[batch["mask"][i]])):
            tile = Image.fromarray(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1))
            centered = (TILE - tile.width) // 2
            x = GAP + i * (2 * TILE + 3 * GAP) + j * (TILE + GAP)
            sheet.paste(tile, (x + centered, GAP + row * (TILE + GAP) + centered))
sheet.save(Path(__file__).with_suffix(".png"), optimize=True)
