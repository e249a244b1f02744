"""Removing slots, on pictures whose objects are counted by hand."""

import pytest
import torch
from torch import nn

from slotworks.data.scenes import ShapeScenes
from slotworks.evaluation.removal import evaluate_removal, going, removal_scores, slot_of
from slotworks.types import DecoderOutput, Method, SlotOutput, UserError, to_batch

SCENES = ShapeScenes(num_test=24, image_size=32, min_objects=2, max_objects=3, sizes=(0.3,), occlusion=False)


class Perfect(Method):
    """Slots are the true masks and colours, background first; what is rendered are these pixels on black."""

    def __init__(self, forget: bool = False):
        super().__init__()
        self.forget, self.anchor = forget, nn.Parameter(torch.zeros(()))  # forget: takes all objects out

    def encode(self, image):
        colours = image.flatten(2).transpose(1, 2)  # b p 3
        rows = []
        for pixels in colours:
            found, owner, counts = pixels.unique(dim=0, return_inverse=True, return_counts=True)
            order = counts.argsort(descending=True)[:4]
            masks = torch.stack([owner == k for k in order] + [owner < 0] * (4 - len(order))).float()
            paint = torch.cat([found[order], torch.zeros(4 - len(order), 3)])
            rows.append(torch.cat([paint, masks], dim=1))
        slots = torch.stack(rows)
        attn = slots[:, :, 3:] + 1e-9
        return SlotOutput(slots, attn / attn.sum(1, keepdim=True))

    def decode(self, slots):
        if self.forget and slots.shape[1] == 3:
            slots = slots[:, :1]
        masks, paint = slots[:, :, 3:], slots[:, :, :3]
        recon = torch.einsum("bnp,bnc->bcp", masks, paint).unflatten(2, (32, 32))
        # Where an object was taken out, the largest area, the background, is seen.
        hole = masks.sum(1).unflatten(1, (32, 32))[:, None] < 0.5
        recon = torch.where(hole, paint[:, 0, :, None, None], recon)
        masks = masks.unflatten(2, (32, 32))
        return DecoderOutput(recon, masks / masks.sum(1, keepdim=True).clamp(min=1e-9))


@pytest.fixture
def distinct():
    """Scenes whose objects and background have colours of their own."""
    raw = SCENES.open("test").__getitems__(range(24))
    colours = [len({tuple(c) for c in image.reshape(-1, 3)}) for image in raw["image"]]
    keep = [i for i in range(24) if colours[i] == raw["num_objects"][i] + 1]
    assert len(keep) >= 8

    class Chosen:
        def __len__(self):
            return len(keep)

        def __getitems__(self, indices):
            return SCENES.open("test").__getitems__([keep[i] for i in indices])

    return Chosen()


def test_a_perfect_method_removes_each_object(distinct):
    result = evaluate_removal(Perfect(), distinct, batch_size=5)
    assert {name: summary.mean for name, summary in result.metrics.items()} == {
        "shown": 1.0,
        "placed": 1.0,
        "removed": 1.0,
        "kept": 1.0,
        "success": 1.0,
    }
    assert result.num_images == len(distinct)


def test_taking_out_too_much_is_no_success(distinct):
    result = evaluate_removal(Perfect(forget=True), distinct, batch_size=len(distinct))
    assert result.metrics["removed"].mean == 1.0
    assert result.metrics["kept"].mean == 0.0
    assert result.metrics["success"].mean == 0.0


def test_objects_that_were_never_shown_are_not_counted(distinct):
    """Where nothing was there to remove, an edit is neither a success nor a failure."""

    class Half(Perfect):
        def decode(self, slots):
            out = super().decode(slots)
            blank = slots[:, :1, :3, None].transpose(1, 2).expand_as(out.recon)  # the background alone
            odd = torch.arange(len(slots)) % 2 == 1
            return DecoderOutput(torch.where(odd[:, None, None, None], blank, out.recon), out.masks)

    result = evaluate_removal(Half(), distinct, batch_size=len(distinct))
    even = (len(distinct) + 1) // 2
    assert result.metrics["shown"].mean == pytest.approx(even / len(distinct))
    assert (result.metrics["success"].mean, result.metrics["success"].n) == (1.0, even)


def test_scores_by_hand():
    """Two objects of four pixels each; the first is to go."""
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    mask[0, :2, :2], mask[0, 2:, 2:] = 1, 2
    image = torch.zeros(1, 3, 4, 4)
    image[:, 0].masked_fill_(mask == 1, 1.0)
    image[:, 1].masked_fill_(mask == 2, 1.0)
    gone = torch.tensor([1])

    def scores(after, before=image):
        return {name: value.item() for name, value in removal_scores(image, mask, before, after, gone).items()}

    there = {"shown": 1, "placed": 1}
    only_second = image.clone()
    only_second[:, 0] = 0
    assert scores(only_second) == there | {"removed": 1, "kept": 1, "success": 1}
    assert scores(torch.zeros_like(image)) == there | {"removed": 1, "kept": 0, "success": 0}
    assert scores(image) == there | {"removed": 0, "kept": 1, "success": 0}
    nothing = scores(only_second, before=only_second)  # the object was never there to remove
    assert (nothing["shown"], nothing["placed"]) == (0.5, 0.5)
    assert all(nothing[name] != nothing[name] for name in ("removed", "kept", "success"))  # NaN
    half = image.clone()
    half[0, 0, 0, :2] = 0  # two of four pixels still show it
    assert scores(half)["removed"] == 0
    half[0, 0, 1, 0] = 0
    assert scores(half)["removed"] == 1
    assert scores(image, before=half)["shown"] == 0.5


def test_a_reconstruction_may_lay_a_scene_out_anew():
    """Both objects elsewhere: shown, not placed, and the edit is judged at the places where they are."""
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    mask[0, :2, :2], mask[0, 2:, 2:] = 1, 2
    image = torch.stack([mask == 1, mask == 2, mask < 0], dim=1).float()
    before = image.flip(-1)
    after = before.clone()
    after[:, 0] = 0
    found = removal_scores(image, mask, before, after, torch.tensor([1]))
    assert {name: value.item() for name, value in found.items()} == {
        "shown": 1, "placed": 0, "removed": 1, "kept": 1, "success": 1,
    }  # fmt: skip
    moved = removal_scores(image, mask, before, image, torch.tensor([1]))  # both leave the place they had
    assert (moved["removed"].item(), moved["kept"].item()) == (1, 0)


def test_objects_of_one_colour_do_not_count():
    mask = torch.zeros(1, 2, 4, dtype=torch.long)
    mask[0, 0, :2], mask[0, 1, :2], mask[0, 0, 2:] = 1, 2, 3
    image = torch.stack([(mask == 1) | (mask == 2), mask == 3, mask < 0], dim=1).float()
    found = removal_scores(image, mask, image, image * 0, torch.tensor([1]))
    assert found["shown"].item() == 1  # of the third alone
    assert found["removed"].isnan().item()


def test_slots_and_their_order():
    masks = torch.zeros(2, 3, 2, 2)
    masks[0, 2, 0], masks[0, 1, 1] = 1, 1
    masks[1, 0, 0], masks[1, 2, 1] = 1, 1
    where = torch.tensor([[[True, True], [False, False]], [[False, False], [True, False]]])
    assert slot_of(masks, where).tolist() == [2, 2]


def test_slots_go_with_the_slot_whose_area_they_look_at():
    """Slots 0 and 1 own half of a row of four pixels each; 2 and 3 win nowhere."""
    masks = torch.tensor([[0.5, 0.5, 0.0, 0.1], [0.0, 0.0, 0.9, 0.6], [0.3, 0.3, 0.0, 0.1], [0.2, 0.2, 0.1, 0.2]])
    masks = masks[None, :, None]  # b n h w; of slot 3, four sevenths lie on the left
    assert going(masks, torch.tensor([0])).tolist() == [[True, False, True, True]]
    assert going(masks, torch.tensor([0]), 0.6).tolist() == [[True, False, True, False]]
    assert going(masks, torch.tensor([0]), 1.0).tolist() == [[True, False, False, False]]
    assert going(masks, torch.tensor([1])).tolist() == [[False, True, False, False]]
    assert going(masks, torch.tensor([2])).tolist() == [[False, False, True, False]]  # itself: it owns no area
    one = torch.tensor([0.6, 0.3, 0.1])[None, :, None, None].expand(1, 3, 2, 2)  # one slot owns all there is
    assert going(one, torch.tensor([0])).tolist() == [[True, False, False]]


def test_two_slots_of_one_object_go_together_and_with_the_ground_no_object_goes():
    """Slots 0 and 1 own two pixels each of an object of four; slot 2 owns the ground, 28 pixels."""
    ground = torch.zeros(32)
    first = ground.index_fill(0, torch.tensor([0, 1]), 0.6).index_fill(0, torch.tensor([2, 3]), 0.4)
    second = ground.index_fill(0, torch.tensor([0, 1]), 0.4).index_fill(0, torch.tensor([2, 3]), 0.6)
    masks = torch.stack([first, second, 1 - first - second]).view(1, 3, 4, 8)
    assert going(masks, torch.tensor([0])).tolist() == [[True, True, False]]
    assert going(masks, torch.tensor([1])).tolist() == [[True, True, False]]
    blurred = 0.5 * masks + 0.5 * torch.tensor([0.1, 0.1, 0.8])[None, :, None, None]
    assert going(blurred, torch.tensor([2])).tolist() == [[False, False, True]]  # though over a third look at it


def test_a_double_of_the_slot_goes_too(distinct):
    """A slot that owns nothing holds the first object as well; dropped alone, the object would stay."""

    class Doubled(Perfect):
        def encode(self, image):
            out = super().encode(image)
            double = out.slots[:, 1:2]
            attn = torch.cat([out.attn, out.attn[:, 1:2]], dim=1)
            return SlotOutput(torch.cat([out.slots, double], dim=1), attn / attn.sum(1, keepdim=True))

        def decode(self, slots):
            found = super().decode(slots)
            # The picture is drawn from all slots; the masks leave the double with nothing.
            first = (slots[:, :, None] == slots[:, None]).all(-1).float().argmax(1) == torch.arange(slots.shape[1])
            masks = found.masks * torch.where(first, 1.0, 0.4)[:, :, None, None]
            paint = slots[:, :, :3, None, None]
            top = masks.argmax(1, keepdim=True)
            recon = paint.expand(-1, -1, -1, 32, 32).gather(1, top[:, :, None].expand(-1, 1, 3, 32, 32))[:, 0]
            hole = slots[:, :, 3:].sum(1).unflatten(1, (32, 32))[:, None] < 0.5
            recon = torch.where(hole, paint[:, 0], recon)
            return DecoderOutput(recon, masks / masks.sum(1, keepdim=True).clamp(min=1e-9))

    alone = evaluate_removal(Doubled(), distinct, batch_size=5, looks_above=1.0)
    both = evaluate_removal(Doubled(), distinct, batch_size=5)
    assert both.metrics["success"].mean == 1.0
    assert alone.metrics["success"].mean < 0.7
    assert both.metrics["shown"] == alone.metrics["shown"]
    assert "more than 0.25 of their mask" in both.rules
    assert "of their mask" not in alone.rules


def test_needs_masks_and_pictures():
    class NoMasks:
        def __len__(self):
            return 2

        def __getitems__(self, indices):
            return {"image": SCENES.open("test").__getitems__(indices)["image"]}

    with pytest.raises(UserError, match="true masks"):
        evaluate_removal(Perfect(), NoMasks())
    with pytest.raises(UserError, match="no image"):
        evaluate_removal(Perfect(), SCENES.open("test"), num_images=0)
    assert "image" in to_batch(SCENES.open("test").__getitems__([0]))
