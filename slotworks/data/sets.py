"""Objects as vectors: the targets of set prediction (Locatello et al. 2020, supplement, sections 5.4 and 5.8).

    x y z in [0, 1] | one-hot of each property, one after the other | 1 for an object, 0 for padding

A row that pads an image to the constant number of rows is zero everywhere.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

NUM_COORDINATES = 3


def encode_objects(
    coordinates: Float[np.ndarray, "b m 3"],
    properties: Mapping[str, Integer[np.ndarray, "b m"]],
    categories: Mapping[str, Sequence[str]],
    present: Bool[np.ndarray, "b m"],
) -> Float[np.ndarray, "b m c"]:
    """Objects of a batch as vectors.

    Args:
        coordinates: in [0, 1].
        properties: class numbers by name of the property, counted from 1 as data sets store them.
        categories: the names of the classes, by property; its order is the order of the one-hots.
        present: False for rows that pad.

    >>> one = np.array([[True]])
    >>> encode_objects(np.full((1, 1, 3), 0.5), {"size": np.array([[2]])}, {"size": ("small", "large")}, one)
    array([[[0.5, 0.5, 0.5, 0. , 1. , 1. ]]], dtype=float32)
    """
    parts = [coordinates]
    for name, classes in categories.items():
        parts.append(properties[name][..., None] == np.arange(1, len(classes) + 1))
    parts.append(np.ones_like(present)[..., None])
    return (np.concatenate(parts, axis=-1) * present[..., None]).astype(np.float32)
