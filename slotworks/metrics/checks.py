"""What every metric looks at before it counts: a wrong shape, dtype or range ends in a sentence, never in a number.

Each check raises `ValueError` and says what it got. Ids are `b h w` everywhere: one image is `ids[None]`, and a video,
which counts as one image with more pixels, is `ids.flatten(0, 1)[None]`. Nothing is broadcast.
"""

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from slotworks.types import all_finite

WIDE = (torch.uint16, torch.uint32, torch.uint64)
"""Integers that torch stores, but can neither compare nor count."""

TOLERANCE = 1e-3
"""How far pictures may lie outside [0, 1]: resizing and half precision round."""


def check_ids(ids: Tensor, name: str) -> Tensor:
    """Ids `b h w` in any integer dtype, returned in one that torch can count."""
    integral = isinstance(ids, Tensor) and not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not integral:
        raise ValueError(
            f"{name} is {found(ids)}; ids are a tensor of integers. Soft masks become ids by "
            "`slotworks.metrics.segmentation(masks, size)`, a bool mask by `.long()`."
        )
    if ids.ndim != 3:
        raise ValueError(
            f"{name} is {found(ids)}; ids are (images, height, width). One image is {name}[None], a video of (frames, "
            f"height, width) is {name}.flatten(0, 1)[None]."
        )
    return ids.long() if ids.dtype in WIDE else ids


def check_like(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """Two tensors of one shape on one device."""
    if not isinstance(value, Tensor) or value.shape != other.shape:
        raise ValueError(f"{name} is {found(value)} and {other_name} {found(other)}; they must have one shape.")
    if value.device != other.device:
        raise ValueError(f"{name} lies on {value.device} and {other_name} on {other.device}; move one of them.")


def check_where(where: Tensor, name: str, ids: Tensor, ids_name: str) -> None:
    """A bool map in the shape of the ids."""
    if not isinstance(where, Tensor) or where.dtype != torch.bool:
        raise ValueError(f"{name} is {found(where)}; it must be bool, such as `void == 0`.")
    check_like(where, name, ids, ids_name)


def check_pair(pred: Tensor, true: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Slot ids and true ids of the same pixels, and which of them count."""
    pred, true = check_ids(pred, "pred"), check_ids(true, "true")
    check_like(pred, "pred", true, "true")
    if valid is not None:
        check_where(valid, "valid", pred, "pred")
    return pred, true


def check_floats(value: Tensor, name: str, shape: str) -> None:
    """Finite floats with as many axes as `shape` has words; none of the axes behind the first may be empty."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != len(shape.split()):
        raise ValueError(f"{name} is {found(value)}; expected floats of shape ({shape.replace(' ', ', ')}).")
    if 0 in value.shape[1:]:
        raise ValueError(f"{name} is {found(value)} and holds nothing; expected ({shape.replace(' ', ', ')}).")
    if not all_finite(value):
        raise ValueError(f"{name} holds NaN or infinity, which cannot be scored.")


def check_pictures(pred: Tensor, true: Tensor) -> None:
    """Two batches of pictures `b c h w` with values in [0, 1]."""
    for name, value in (("pred", pred), ("true", true)):
        if isinstance(value, Tensor) and value.dtype == torch.uint8:
            raise ValueError(f"{name} is {found(value)}; pictures are floats in [0, 1]: divide by 255.")
        check_floats(value, name, "b c h w")
    check_like(pred, "pred", true, "true")
    for name, value in (("pred", pred), ("true", true)):
        if value.numel():
            low, high = (float(one) for one in value.aminmax())
            if low < -TOLERANCE or high > 1 + TOLERANCE:
                raise ValueError(
                    f"{name} has values from {low:g} to {high:g}; pictures lie in [0, 1]: divide by 255, or clamp."
                )


def check_table(table: Tensor, axes: int = 3) -> None:
    """Counts as `contingency` returns them, or, with two axes, those of a data set."""
    if not isinstance(table, Tensor) or table.dtype != torch.int64 or table.ndim != axes:
        shape = "(images, slots, objects)" if axes == 3 else "(predicted class, true class)"
        raise ValueError(f"The table is {found(table)}; expected pixel counts in int64 of shape {shape}.")


def check_share(value: float, name: str) -> None:
    """A number in (0, 1]; NaN is none."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}; expected a number above 0 and at most 1.")


def check_positive(values: Mapping[str, float | int]) -> None:
    """Numbers above 0 by name, infinity included; NaN is none."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; expected a number above 0.")


def check_choice(value: Any, name: str, choices: Any) -> None:
    """One of the values of a `Literal`."""
    if value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}; expected {' or '.join(map(repr, get_args(choices)))}.")


def found(value: Any) -> str:
    """What was given, for messages: `float32 of shape (4, 8, 8)`."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
