"""Outlines in closed form: which points of the plane lie inside a figure.

Each function takes coordinates with `x` to the right and `y` up and fills about the square [-1, 1] x [-1, 1].
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

Plane = Float[np.ndarray, "h w"]
Outline = Callable[[Plane, Plane], Bool[np.ndarray, "h w"]]


def bitmap(outline: Outline, *, size: int, radius: float, angle: float = 0.0) -> Bool[np.ndarray, "{size} {size}"]:
    """Draw a figure in the middle of `size` x `size` pixels: a pixel is inside when its centre is.

    `radius` is the length of 1 in pixels, `angle` turns the figure counter-clockwise, in radians.
    """
    steps = (np.arange(size) + 0.5 - size / 2) / radius
    x, y = np.meshgrid(steps, -steps)
    cos, sin = np.cos(angle), np.sin(angle)
    return outline(cos * x + sin * y, cos * y - sin * x)


def circle(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """A disc."""
    return x**2 + y**2 <= 1


def ellipse(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """An upright ellipse, about half as wide as high."""
    return (x / 0.54) ** 2 + y**2 <= 1


def square(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """The whole square."""
    return np.maximum(np.abs(x), np.abs(y)) <= 1


def diamond(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """A square on its corner."""
    return np.abs(x) + np.abs(y) <= 1


def triangle(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """Point up, as wide as high."""
    return (np.abs(y) <= 1) & (2 * np.abs(x) + y <= 1)


def cross(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """A plus sign with bars a third as thick as long."""
    return (np.minimum(np.abs(x), np.abs(y)) <= 1 / 3) & square(x, y)


def ring(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """A disc with a hole of half its diameter."""
    return (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.25)


def star(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """Five points, one up: a pentagram, filled."""
    # Its five lines pass the centre at cos 72 degrees; a point of the star is beyond at most one of them.
    points = np.pi / 2 + 2 * np.pi / 5 * np.arange(5)
    inside = [np.cos(point) * x + np.sin(point) * y <= np.cos(2 * np.pi / 5) for point in points]
    return np.sum(inside, axis=0) >= 4


def heart(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """A disc whose halves are sheared upwards, x^2 + (y - 0.9 |x|)^2 <= 1, moved and scaled into the square."""
    return x**2 + (1.1725 * y + 0.1725 - 0.9 * np.abs(x)) ** 2 <= 1
