"""What lies on the desk of the studio: one or two pictures taken apart, and which of their slots are rendered.

A desk is never changed: every edit gives a new one that remembers those before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from slotworks.editing import Scene, object_at
from slotworks.types import UserError

Side = Literal["picture", "other"]


class Piece(NamedTuple):
    """A slot, and the picture it was found in."""

    side: Side
    slot: int


@dataclass(frozen=True)
class Desk:
    """Two pictures and the slots that the edited picture is rendered from.

    `chosen` are the slots that the next edit is about, of each picture; they belong to the object that was clicked.
    """

    picture: Scene
    other: Scene | None = None
    pieces: tuple[Piece, ...] = ()
    chosen: dict[Side, tuple[int, ...]] = field(default_factory=dict)
    before: tuple[tuple[Piece, ...], ...] = ()  # earlier pieces, the latest last

    @property
    def slots(self) -> Float[Tensor, "n d"]:
        """Slots of the edited picture."""
        return torch.stack([self.scene(piece.side).slots[piece.slot] for piece in self.pieces])

    def scene(self, side: Side) -> Scene:
        """One of the two pictures.

        Raises:
            UserError: if there is no second one.
        """
        if side == "picture":
            return self.picture
        if self.other is None:
            raise UserError("There is no second picture; open one first.")
        return self.other


def open_picture(scene: Scene, other: Scene | None = None) -> Desk:
    """A desk with a picture as it is."""
    return Desk(scene, other, tuple(Piece("picture", slot) for slot in range(len(scene.slots))))


def open_other(desk: Desk, scene: Scene) -> Desk:
    """Lay another second picture on the desk; what was brought in from the one before is taken out.

    Raises:
        UserError: if nothing else would be left.
    """
    kept = tuple(piece for piece in desk.pieces if piece.side == "picture")
    if not kept:
        raise UserError("Every slot came from the second picture; undo or start over before opening another one.")
    return replace(desk, other=scene, pieces=kept, chosen={"picture": desk.chosen.get("picture", ())}, before=())


def choose(desk: Desk, side: Side, x: int, y: int, size: tuple[int, int]) -> Desk:
    """Choose the object at a pixel: its slot, and others that look there.

    Args:
        desk: what lies there now.
        side: which picture.
        x: column of the pixel.
        y: row of the pixel.
        size: height and width in which they count.

    Raises:
        UserError: if there is no such picture or pixel.
    """
    return replace(desk, chosen={**desk.chosen, side: tuple(object_at(desk.scene(side), x, y, size))})


def remove(desk: Desk) -> Desk:
    """Take the chosen object of the picture out.

    Raises:
        UserError: if none is chosen, it is not there any more, or it is all that is left.
    """
    gone = {Piece("picture", slot) for slot in _chosen(desk, "picture")}
    _check_there(desk, gone)
    kept = tuple(piece for piece in desk.pieces if piece not in gone)
    if not kept:
        raise UserError("These are the last slots of the picture; at least one has to stay.")
    return _edited(desk, kept)


def bring(desk: Desk) -> Desk:
    """Bring the chosen object of the second picture in. Spare slots stay behind.

    Raises:
        UserError: if none is chosen.
    """
    return _edited(desk, (*desk.pieces, *_whole(desk)))


def exchange(desk: Desk) -> Desk:
    """Put the chosen object of the second picture in the place of that of the picture.

    Raises:
        UserError: if one of them is not chosen, or that of the picture is not there any more.
    """
    old, new = _chosen(desk, "picture"), _whole(desk)
    gone = {Piece("picture", slot) for slot in old}
    _check_there(desk, gone)
    place = desk.pieces.index(next(piece for slot in old if (piece := Piece("picture", slot)) in desk.pieces))
    kept = [tuple(piece for piece in part if piece not in gone) for part in (desk.pieces[:place], desk.pieces[place:])]
    return _edited(desk, (*kept[0], *new, *kept[1]))


def undo(desk: Desk) -> Desk:
    """Take the last edit back.

    Raises:
        UserError: if there is none.
    """
    if not desk.before:
        raise UserError("There is nothing to undo; the picture is as it was opened.")
    return replace(desk, pieces=desk.before[-1], before=desk.before[:-1])


def back_to(desk: Desk, state: int) -> Desk:
    """Take back all edits after one of the states that `history` lists, 0 being the first.

    Raises:
        UserError: if there is no such state.
    """
    if not 0 <= state <= len(desk.before):
        raise UserError(f"There is no state {state} of the picture; there are {len(desk.before) + 1}.")
    states = (*desk.before, desk.pieces)
    return replace(desk, pieces=states[state], before=states[:state])


def history(desk: Desk) -> list[str]:
    """Every state of the picture in words, the present one last."""
    return [f"{k}: {in_words(replace(desk, pieces=pieces))}" for k, pieces in enumerate((*desk.before, desk.pieces))]


def in_words(desk: Desk) -> str:
    """What the edited picture is rendered from.

    >>> scene = Scene(torch.zeros(3, 8, 8), torch.zeros(3, 4), torch.zeros(3, 8, 8))
    >>> in_words(open_picture(scene))
    'All 3 slots of the picture.'
    >>> in_words(replace(open_picture(scene, scene), pieces=(Piece("picture", 2), Piece("other", 0))))
    'Slot 2 of the picture, slot 0 of the second picture.'
    """
    if desk.pieces == open_picture(desk.picture).pieces:
        return f"All {len(desk.pieces)} slots of the picture."
    names: dict[Side, str] = {"picture": "the picture", "other": "the second picture"}
    parts = [
        f"slot{'s' if len(slots) > 1 else ''} {', '.join(map(str, slots))} of {name}"
        for side, name in names.items()
        if (slots := [piece.slot for piece in desk.pieces if piece.side == side])
    ]
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _chosen(desk: Desk, side: Side) -> Sequence[int]:
    desk.scene(side)  # says so if there is no second picture
    if not desk.chosen.get(side):
        where = "picture" if side == "picture" else "second picture"
        raise UserError(f"No object is chosen in the {where}; click one there first.")
    return desk.chosen[side]


def _whole(desk: Desk) -> list[Piece]:
    """The chosen object of the second picture: its slot and those joined into it, without others."""
    return [Piece("other", slot) for slot in desk.scene("other").joined(_chosen(desk, "other")[0])]


def _check_there(desk: Desk, gone: set[Piece]) -> None:
    if not gone & set(desk.pieces):
        raise UserError("The chosen object was taken out before; choose another one, or undo.")


def _edited(desk: Desk, pieces: tuple[Piece, ...]) -> Desk:
    return replace(desk, pieces=pieces, before=(*desk.before, desk.pieces))
