"""Edits on the studio's desk: which slots are rendered, what is refused, what comes back."""

from dataclasses import replace

import pytest
import torch

from slotworks.editing import Scene
from slotworks.studio import desk as desks
from slotworks.studio.desk import Piece, in_words, open_picture
from slotworks.studio.views import tiles
from slotworks.types import UserError

SIZE = (8, 8)


def scene(offset: float = 0.0, owners=(0, 1, 2, 2)) -> Scene:
    """Four slots; columns of pixels in pairs belong to `owners`, so slot 3 is spare. It looks where slot 1 is."""
    masks = torch.full((4, *SIZE), 0.1)
    for column in range(8):
        masks[owners[column // 2], :, column] = 0.6
    masks[3, :, 2:4] = 0.5
    masks /= masks.sum(0)
    return Scene(torch.zeros(3, *SIZE), offset + torch.arange(4.0)[:, None].expand(4, 5), masks)


@pytest.fixture
def desk() -> desks.Desk:
    return open_picture(scene(), scene(offset=10))


def first(desk: desks.Desk) -> list[float]:
    return desk.slots[:, 0].tolist()


def test_a_picture_is_rendered_from_all_of_its_slots(desk):
    assert first(desk) == [0, 1, 2, 3]
    assert in_words(desk) == "All 4 slots of the picture."


def test_an_object_goes_with_the_spare_slot_that_looks_there(desk):
    chosen = desks.choose(desk, "picture", 3, 0, SIZE)
    assert chosen.chosen["picture"] == (1, 3)
    assert first(desks.remove(chosen)) == [0, 2]
    assert first(chosen) == first(desk)  # a desk is never changed
    assert first(desks.remove(desks.choose(desk, "picture", 60, 0, (64, 64)))) == [0, 1, 3]  # any size of the click


def test_an_object_of_the_second_picture_comes_in_without_slots_that_look_at_it(desk):
    chosen = desks.choose(desk, "other", 3, 0, SIZE)
    assert chosen.chosen["other"] == (1, 3)
    brought = desks.bring(chosen)
    assert first(brought) == [0, 1, 2, 3, 11]
    assert in_words(brought) == "Slots 0, 1, 2, 3 of the picture, slot 1 of the second picture."
    assert first(desks.bring(brought)) == [0, 1, 2, 3, 11, 11]


def test_an_exchange_takes_the_place_of_the_object(desk):
    chosen = desks.choose(desks.choose(desk, "picture", 3, 0, SIZE), "other", 0, 0, SIZE)
    assert first(desks.exchange(chosen)) == [0, 10, 2]


def test_history_goes_back_to_any_state(desk):
    once = desks.remove(desks.choose(desk, "picture", 0, 0, SIZE))
    twice = desks.remove(desks.choose(once, "picture", 7, 0, SIZE))
    assert desks.history(desk) == ["0: All 4 slots of the picture."]
    assert desks.history(twice) == [f"{k}: {in_words(one)}" for k, one in enumerate((desk, once, twice))]
    assert [desks.back_to(twice, k).pieces for k in range(3)] == [one.pieces for one in (desk, once, twice)]
    assert desks.back_to(twice, 1).before == once.before
    with pytest.raises(UserError, match="There is no state 3 of the picture; there are 3"):
        desks.back_to(twice, 3)


def test_undo_takes_back_one_edit_at_a_time(desk):
    chosen = desks.choose(desks.choose(desk, "picture", 0, 0, SIZE), "other", 0, 0, SIZE)
    once = desks.remove(chosen)
    twice = desks.bring(once)
    assert desks.undo(twice).pieces == once.pieces
    assert desks.undo(desks.undo(twice)).pieces == desk.pieces
    with pytest.raises(UserError, match="nothing to undo"):
        desks.undo(desks.undo(desks.undo(twice)))


def test_another_second_picture_takes_its_pieces_along(desk):
    brought = desks.bring(desks.choose(desk, "other", 0, 0, SIZE))
    other = desks.open_other(brought, scene(offset=20))
    assert first(other) == [0, 1, 2, 3]
    assert "other" not in other.chosen
    only = desks.Desk(desk.picture, desk.other, (Piece("other", 0),))
    with pytest.raises(UserError, match="Every slot came from the second picture"):
        desks.open_other(only, scene())


def test_what_cannot_be_done_is_told(desk):
    alone = open_picture(scene())
    for work in (desks.bring, lambda d: desks.choose(d, "other", 0, 0, SIZE)):
        with pytest.raises(UserError, match="no second picture"):
            work(alone)
    for work, where in ((desks.remove, "picture"), (desks.exchange, "picture"), (desks.bring, "second picture")):
        with pytest.raises(UserError, match=f"No object is chosen in the {where};"):
            work(desk)
    chosen = desks.choose(desk, "picture", 0, 0, SIZE)
    with pytest.raises(UserError, match="taken out before"):
        desks.remove(desks.remove(chosen))
    last = desks.Desk(desk.picture, None, (Piece("picture", 0),), {"picture": (0,)})
    with pytest.raises(UserError, match="the last slots"):
        desks.remove(last)
    with pytest.raises(UserError, match="lies outside"):
        desks.choose(desk, "picture", 8, 0, SIZE)


def test_joined_slots_go_and_come_together():
    """Slot 1 is joined with 2, whose mask is empty; slot 3 is spare and looks there."""
    joined = []
    for offset in (0.0, 10.0):
        apart = scene(offset, owners=(0, 1, 1, 0))
        masks = apart.masks.clone()
        masks[1] += masks[2]
        masks[2] = 0
        joined.append(replace(apart, masks=masks, owners=torch.tensor([0, 1, 1, 3])))
    desk = desks.choose(desks.choose(open_picture(*joined), "picture", 3, 0, SIZE), "other", 3, 0, SIZE)
    assert desk.chosen["picture"] == (1, 2, 3)
    assert first(desks.remove(desk)) == [0]
    assert first(desks.bring(desk)) == [0, 1, 2, 3, 11, 12]
    assert first(desks.exchange(desk)) == [0, 11, 12]
    assert tiles(desk).width < tiles(open_picture(scene())).width  # three objects; slot 2 has no picture of its own
