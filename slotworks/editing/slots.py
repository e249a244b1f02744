"""Editing as plain functions of slots, `b n d`: every one returns new slots and leaves those it was given alone.

remove   a b c d      ->  a b d   (or a b 0 d, or a b mean d)
add      a b c + x    ->  a b c x   (or a x c)
swap     a b c, x y z ->  a y c, x b z
move     a b c, x y z ->  a c, x y z b

Slots are a set: most decoders render the same picture for any order, so what matters is which slots are there. GLASS's
script (`eval_composition.py`) sets a removed slot to zero and overwrites one to add another; both are options here.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from slotworks.errors import UserError

Removal = Literal["drop", "zero", "mean"]


def remove(slots: Float[Tensor, "b n d"], index: int | Sequence[int], how: Removal = "drop") -> Float[Tensor, "b n2 d"]:
    """Take slots out.

    Args:
        slots: of one or several images.
        index: of the slot, or of several, from 0.
        how: "drop" leaves fewer slots; "zero" sets them to zeros; "mean" to the mean of the slots that stay.

    Raises:
        UserError: if there is no such slot, or none would stay.
        ValueError: for another `how`.
    """
    gone = sorted({_checked(slots, i) for i in ([index] if isinstance(index, int) else index)})
    kept = [i for i in range(slots.shape[1]) if i not in gone]
    if not kept and how != "zero":
        raise UserError(f"All {slots.shape[1]} slots would be removed; keep at least one, or set them to zero.")
    if how == "drop":
        return slots[:, kept]
    edited = slots.clone()
    if how == "zero":
        edited[:, gone] = 0
    elif how == "mean":
        edited[:, gone] = slots[:, kept].mean(dim=1, keepdim=True)
    else:
        raise ValueError(f"how is {how!r}; it is drop, zero or mean.")
    return edited


def add(
    slots: Float[Tensor, "b n d"],
    other: Float[Tensor, "_ m _"],
    index: int,
    how: Literal["append", "replace"] = "append",
    at: int | None = None,
) -> Float[Tensor, "b n2 d"]:
    """Bring in a slot of other images.

    Args:
        slots: of the images to change.
        other: of the images that the slot comes from, as many.
        index: of the slot in `other`.
        how: "append" adds it behind the others; "replace" puts it in the place of slot `at`.
        at: only for "replace".

    Raises:
        UserError: if there is no such slot.
        ValueError: for another `how`, if `at` does not fit it, or the slots differ in width or number of images.
    """
    _check_alike(slots, other)
    new = other[:, _checked(other, index, "other picture")].unsqueeze(1)
    if (at is None) != (how == "append"):
        raise ValueError(f"how is {how!r} and at is {at}; give at for replace, and only then.")
    if how == "append":
        return torch.cat([slots, new], dim=1)
    if how != "replace" or at is None:
        raise ValueError(f"how is {how!r}; it is append or replace.")
    edited = slots.clone()
    edited[:, _checked(slots, at)] = new[:, 0]
    return edited


def swap(
    slots_a: Float[Tensor, "b n d"], slots_b: Float[Tensor, "b m d"], i: int, j: int
) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"]]:
    """Exchange slot `i` of the first images with slot `j` of the second.

    Raises:
        UserError: if there is no such slot.
        ValueError: if the slots differ in width or number of images.
    """
    return add(slots_a, slots_b, j, "replace", at=_checked(slots_a, i)), add(slots_b, slots_a, i, "replace", at=j)


def move(
    slots_a: Float[Tensor, "b n d"], slots_b: Float[Tensor, "b m d"], i: int, how: Removal = "drop"
) -> tuple[Float[Tensor, "b n2 d"], Float[Tensor, "b m2 d"]]:
    """Take slot `i` out of the first images, as `remove` does, and append it to the second.

    Raises:
        UserError: if there is no such slot, or none would stay.
        ValueError: if the slots differ in width or number of images.
    """
    return remove(slots_a, i, how), add(slots_b, slots_a, i)


def _checked(slots: Tensor, index: int, whose: str = "picture") -> int:
    count = slots.shape[1]
    if not 0 <= index < count:
        raise UserError(f"There is no slot {index}: the {whose} has {count} slots, numbered 0 to {count - 1}.")
    return index


def _check_alike(slots: Tensor, other: Tensor) -> None:
    if slots.shape[0] != other.shape[0] or slots.shape[2] != other.shape[2]:
        raise ValueError(
            f"slots are {tuple(slots.shape)} and those of the other images {tuple(other.shape)}; the first and the "
            "last axis must be equal."
        )
