"""1,000 drawn scenes: whole batches through lists of pixels, against one image at a time through full-size pixel masks.

Both draw the same kind of picture and its mask; ours also returns boxes and properties. CPU seconds of one core, the
best of five.
"""

import time
from collections.abc import Callable

import numpy as np

from slotworks.data.scenes import ShapeScenes, SpriteScenes, TetrominoScenes, shapes, tetrominoes
from slotworks.data.scenes import multi_dsprites as sprites
from slotworks.data.scenes.base import SceneConfig
from slotworks.data.scenes.textures import texture_bank

NUM_IMAGES = 1000
NUM_NAIVE = 50
REPEATS = 5


def run() -> list[dict]:
    """A row per kind of scene."""
    kinds: list[tuple[SceneConfig, Callable]] = [
        (TetrominoScenes(), naive_tetrominoes),
        *[(SpriteScenes(variant=variant), naive_sprites) for variant in sprites.SPRITES_PER_IMAGE],
        *[(ShapeScenes(background=background), naive_shapes) for background in ("plain", "gradient", "textured")],
        (ShapeScenes(occlusion=False), naive_shapes),
    ]
    rows = []
    for config, naive in kinds:
        dataset = config.open()
        ours = best(lambda dataset=dataset: dataset.__getitems__(range(NUM_IMAGES)))
        plain = best(lambda naive=naive, config=config: draw_naively(naive, config)) * NUM_IMAGES / NUM_NAIVE
        name = config.name + ("" if getattr(config, "occlusion", True) else " without occlusion")
        speed = round(NUM_IMAGES / ours)
        rows.append({"name": name, "ours_s": ours, "naive_s": plain, "ratio": plain / ours, "images_per_second": speed})
    return rows


def best(work: Callable[[], object]) -> float:
    work()  # fills the caches
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def draw_naively(naive: Callable, config: SceneConfig) -> None:
    for index in range(NUM_NAIVE):
        naive(np.random.default_rng((0, 0, index)), config)  # a generator per image: the same image in any batch


def naive_pattern(rng: np.random.Generator, side: int) -> np.ndarray:
    texture, row, column = rng.integers(len(texture_bank(side))), *rng.integers(side, size=2)
    return texture_bank(side)[texture, row : row + side, column : column + side, None]


def naive_tetrominoes(rng: np.random.Generator, config: SceneConfig) -> tuple[np.ndarray, np.ndarray]:
    patterns = [
        np.array([[cell == "#" for cell in row] for row in pattern.split()]) for pattern in tetrominoes.SHAPES.values()
    ]
    chosen = [patterns[i] for i in rng.integers(len(patterns), size=3)]
    colors = np.array(list(tetrominoes.COLORS.values()), np.uint8)[rng.integers(6, size=3)]
    while True:
        image, mask, overlap = np.zeros((35, 35, 3), np.uint8), np.zeros((35, 35), np.uint8), False
        for k, pattern in enumerate(chosen):
            inside = pattern.repeat(5, 0).repeat(5, 1)
            top, left = rng.integers(36 - inside.shape[0]), rng.integers(36 - inside.shape[1])
            full = np.zeros((35, 35), bool)
            full[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
            texture = np.tile(tetrominoes.TEXTURE, pattern.shape)[inside]
            overlap = overlap or bool(mask[full].any())
            image[full], mask[full] = texture[:, None] * colors[k], k + 1
        if not overlap:
            return image, mask


def naive_sprites(rng: np.random.Generator, config: SpriteScenes) -> tuple[np.ndarray, np.ndarray]:
    fewest, most = sprites.SPRITES_PER_IMAGE[config.variant]
    image = np.full((64, 64, 3), rng.integers(256, size=3), np.uint8)
    if config.variant == "textured":
        image = (image * (0.5 + 0.5 * naive_pattern(rng, 64))).astype(np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    columns, rows = np.meshgrid(np.arange(64), np.arange(64))
    for k in range(rng.integers(fewest, most + 1)):
        shape, angle = int(rng.integers(1, 4)), rng.choice(sprites.ORIENTATIONS)
        radius = {1: 9.25, 2: 13.2, 3: 10.6}[shape] * rng.choice(sprites.SCALES)
        x, y = (columns - 16 - rng.integers(32)) / radius, (16 + rng.integers(32) - rows) / radius
        inside = sprites.SHAPES[shape](np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x)
        color = rng.integers(256, size=3)
        if config.variant == "textured":
            color = (color * (0.5 + 0.5 * naive_pattern(rng, 64)[inside])).astype(np.uint8)
        image[inside], mask[inside] = color, k + 1
    return image, mask


def naive_shapes(rng: np.random.Generator, config: ShapeScenes) -> tuple[np.ndarray, np.ndarray]:
    side = config.image_size
    mask = np.zeros((side, side), np.uint8)
    columns, rows = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    first, second = rng.choice(list(shapes.BACKGROUNDS.values()), size=2, replace=False)
    blend = np.zeros((side, side, 1))
    if config.background == "gradient":
        angle = 2 * np.pi * rng.random()
        blend = np.cos(angle) * columns + np.sin(angle) * rows
        blend = ((blend - blend.min()) / (blend.max() - blend.min()))[..., None]
    elif config.background == "textured":
        blend = 0.4 * naive_pattern(rng, side)
    image = (first + blend * (second - first)).astype(np.uint8)
    whole: list[int] = []
    share = shapes.MIN_VISIBLE if config.occlusion else 1.0
    for k in range(rng.integers(config.min_objects, config.max_objects + 1)):
        outline = shapes.CLASSES[rng.choice(config.shapes)]
        color, pixels = shapes.COLORS[rng.choice(config.colors)], round(rng.choice(config.sizes) * side)
        for _ in range(100):
            left, top = rng.integers(side - pixels + 1, size=2)
            x = 2 * (columns - left) / pixels - 1
            y = 1 - 2 * (rows - top) / pixels
            inside = outline(x, y)
            tried = np.where(inside, k + 1, mask)
            visible = np.bincount(tried.ravel(), minlength=k + 2)[1 : k + 1]
            if (visible >= share * np.array(whole)).all():
                whole.append(int(inside.sum()))
                image[inside], mask = color, tried
                break
    return image, mask
