"""A small bank of periodic patterns: stripes, checks, bumps and clouds, looked up per pixel."""

from functools import cache

import numpy as np
from jaxtyping import Float, Int, UInt64

from slotworks.data.random import integers, scene_keys, uniform

_CLOUDS = 3  # patterns made of random waves
_CLOUD_WAVES = 24


@cache
def texture_bank(size: int) -> Float[np.ndarray, "textures tall wide"]:
    """Patterns in [0, 1] of period `size` pixels, tiled twice both ways so that any window of `size` lies inside."""
    offsets = np.array([0.25, 0.5]).reshape(2, 1, 1)  # no wave is zero at a pixel, where rounding would pick its sign
    y, x = (np.mgrid[:size, :size] + offsets) * (2 * np.pi / size)
    patterns = []
    for waves in (max(size // 8, 1), max(size // 12, 1)):  # periods of about 8 and 12 pixels
        diagonal = max(round(waves / 2**0.5), 1)
        across, down = np.sin(waves * x), np.sin(waves * y)
        rising, falling = np.sin(diagonal * (x + y)), np.sin(diagonal * (x - y))
        patterns += [across, down, rising, falling]  # soft stripes
        patterns += [np.sign(rising), np.sign(falling)]  # hard stripes
        patterns += [np.sign(across * down), np.sign(rising * falling)]  # checks
        patterns += [across * down]  # bumps
    for key in scene_keys(seed=0, split=0, indices=np.arange(_CLOUDS))[:, None]:
        reach = max(size // 10, 1)
        p, q = integers(key, "waves", 2 * _CLOUD_WAVES, 2 * reach + 1).reshape(2, -1, 1, 1) - reach
        phase = 2 * np.pi * uniform(key, "phase", _CLOUD_WAVES).reshape(-1, 1, 1)
        patterns.append(np.sin(p * x + q * y + phase).sum(axis=0))
    stack = np.stack(patterns)
    low, high = stack.min(axis=(1, 2), keepdims=True), stack.max(axis=(1, 2), keepdims=True)
    return np.tile((stack - low) / (high - low), (1, 2, 2)).astype(np.float32)


def pick_texture(key: UInt64[np.ndarray, " b"], name: str, count: int, *, size: int) -> Int[np.ndarray, "b {count}"]:
    """Draw `count` textures with random displacements per key: flat positions in the bank."""
    textures = len(texture_bank(size))
    texture = integers(key, f"{name} texture", count, textures)
    row, column = integers(key, f"{name} row", count, size), integers(key, f"{name} column", count, size)
    return (texture * 2 * size + row) * 2 * size + column


def texture_at(
    texture: Int[np.ndarray, " b"], pixels: Int[np.ndarray, "b p"] | Int[np.ndarray, "1 p"], *, size: int
) -> Float[np.ndarray, "b p"]:
    """Values in [0, 1] of these textures at these flat pixel numbers of a `size` x `size` canvas."""
    rows_skipped = pixels // size * size  # the bank's rows are twice as long as the canvas's
    return texture_bank(size).reshape(-1)[texture[:, None] + pixels + rows_skipped]
