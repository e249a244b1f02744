"""Whether edits land where they should: an object taken out, one brought in from another scene, one swapped for it.

    scene  --method-->  slots  --render-->  before
                          |-- without the slot of object g  -->  removed
                          |-- with a slot of the next scene -->  added
                          |-- that slot in the place of g's -->  swapped

All pictures start from the same noise. As in `evaluation.generation` a pixel belongs to the object, or the ground,
whose tint in the true image is nearest; of objects with the same tint to the one whose middle is nearest, so that they
count, too. An object *stands* somewhere if half of the pixels there are its own. Unlike `removal`, which lets a decoder
lay a scene out anew, this asks for places:

- *placed*: of all objects of the scene, those that stand in their true mask before the edit. Others are not asked for;
- *gone*: where g stood in its true mask, it stands no longer;
- *kept*: the other objects keep an IoU of one half with their pixels before, where g was not;
- *removal*: g is gone and all others are kept;
- *added*: the object that came stands where it stood in the reconstruction of its own scene;
- *swapped*: it stands there, and where it does not, g is gone;
- *moved*: a removal here and the same object added to the scene before, which `slotworks.editing.move` does in one;
- *shape*, where that is asked for: a classifier, trained on true images, sees an object's shape at its true place
  before the edit; `shape_true` is what it says of the true images.

GLASS shows such edits (Singh et al. 2025, figures 5, 6 and 12) and gives no number; this measure is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from slotworks.evaluation.generation import NEEDS_FIELDS, middles, shapes_right, taught_shapes, tint
from slotworks.evaluation.masks import decode, inspecting, predicted_masks
from slotworks.evaluation.removal import (
    ALIKE,
    LOOKS_ABOVE,
    NEEDS,
    RemovalOptions,
    as_many,
    chosen,
    colours_of,
    going,
    nearest_colour,
    slot_of,
)
from slotworks.evaluation.rendering import (
    EDITING,
    Renderer,
    check_rendering,
    render,
    renderer_of,
    sampled_with,
    sampling_of,
)
from slotworks.evaluation.task import Job, Needs, Result, Task, batches, count_images, option, summarize
from slotworks.metrics.metric import Metric
from slotworks.types import DataConfig, Dataset, Method, UserError

KEPT = 0.5
"""IoU with the pixels before the edit from which on an object counts as untouched."""

MEANINGS = {
    "placed": "Share of objects that stand in their places before an edit; no others are asked for.",
    "gone": "Share of the objects taken out that are gone from where they stood.",
    "kept": "Share of the other objects that an edit leaves where they were.",
    "removal": "Share of edits that remove the object and keep all others.",
    "added": "Share of the objects brought in that stand where they stood in their own picture.",
    "swapped": "Share of exchanges after which the new object stands in its place and the old one is gone.",
    "moved": "Share of objects moved to another picture that are gone here, all others kept, and stand there.",
    "shape": "Share of objects whose shape a classifier recognises at their places before an edit.",
    "shape_true": "The same of the true pictures: what the classifier can reach.",
}

SHAPES_NEED = Needs(fields=NEEDS_FIELDS, hint="shapes are told of drawn ones, such as painted_scenes")


@dataclass(frozen=True)
class EditOptions(RemovalOptions):
    """Options of the task, see `evaluate_edits`."""

    shapes: bool = option(False, "also whether a classifier, trained on true images, sees the shapes of drawn objects")


def evaluate_edits(
    method: Method,
    dataset: Dataset,
    *,
    num_images: int | None = None,
    steps: int | None = None,
    cfg_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    renderer: Renderer | None = None,
    looks_above: float = LOOKS_ABOVE,
    teaching: Dataset | None = None,
) -> Result:
    """Three edits of each image, scored by place.

    The object g is mask id `1 + i % m` of image `i` with `m` objects; its slot, and those that go with it, are
    found as by `evaluate_removal`. The object that comes is that of the next image of the batch; for the last one that
    of the first.

    Args:
        method: on any device; left in the modes it had.
        dataset: with `image` and `mask`.
        num_images: how many images, from the first on; all by default.
        steps: of a sampler; a direct decoder takes none. By default the method's own (`sampling`), else 75.
        cfg_scale: of classifier-free guidance; 1 is without. By default the method's own, else 3.
        seed: of the initial slots and of the starting noise.
        batch_size: images per forward pass, at least two; changes speed, memory, noise and which image is the next.
        renderer: "sample" or "decode" for a method that can do both; by default it samples.
        looks_above: share of a slot's mask, see `going`; 1: only the slot itself is dropped.
        teaching: drawn shapes, true images that a classifier is trained on for `shape` and `shape_true`; None: neither.

    Returns:
        Shares, see above; of edits they count those whose objects stood in their places before.

    Raises:
        UserError: if there are no images or masks, or a single image in a batch, or the method renders no pictures; or
            shapes are asked for where none are drawn.
    """
    how = renderer_of(method, renderer)
    if how == "sample":
        steps, cfg_scale = sampling_of(method, steps, cfg_scale, EDITING)
    count = count_images(dataset, num_images)
    if min(count, batch_size) < 2:
        raise UserError(f"Edits bring an object in from the next image; {min(count, batch_size)} at once has no next.")
    batch_size -= count % batch_size == 1  # a last batch of one would have no next, either
    options = {"renderer": how, "steps": steps, "cfg_scale": cfg_scale, "seed": seed}
    found: dict[str, list[Tensor]] = {}
    needs = NEEDS if teaching is None else SHAPES_NEED
    with inspecting(method, seed=seed) as device:
        classifier = None if teaching is None else taught_shapes(teaching, device, seed)
        for start, batch in batches(dataset, count, batch_size, device, needs):
            image, mask = batch["image"], batch["mask"]
            gone = chosen(mask, start)
            where = mask == gone[:, None, None]
            _, pictures = draw_edits(method, image, where, looks_above=looks_above, **options)
            scores = edit_scores(image, mask, gone, **pictures)
            if classifier is not None:
                told = {"shape": pictures["before"], "shape_true": image}
                scores |= {name: shapes_right(classifier, one, batch).nanmean(1) for name, one in told.items()}
            for name, values in scores.items():
                found.setdefault(name, []).append(values.cpu())
    per_image = {name: torch.cat(values) for name, values in found.items()}
    rules = (
        "edits, by place: object 1 + i % m of image i taken out, that of the next image of the batch added, and both; "
        f"an object stands where half of the pixels are nearest to its tint, others are kept with an IoU of {KEPT:g}; "
    )
    rules += sampled_with(steps, cfg_scale) if how == "sample" else "rendered by the decoder"
    metrics = {name: summarize(values) for name, values in per_image.items()}
    return Result("edits", f"{rules}; mean over images", count, seed, metrics, per_image)


def draw_edits(
    method: Method,
    image: Float[Tensor, "b 3 h w"],
    where: Bool[Tensor, "b h w"],
    *,
    looks_above: float = LOOKS_ABOVE,
    **options: Any,
) -> tuple[Float[Tensor, "b n h w"], dict[str, Float[Tensor, "b 3 y x"]]]:
    """The slots' masks, and pictures: `before`, one object `removed`, that of the next image `added`, and `swapped`.

    Args:
        method: that renders slots.
        image: scenes, at least two.
        where: the pixels of each scene's object that is edited; its slot is found as by `evaluate_removal`.
        looks_above: share of a slot's mask, see `going`.
        options: of `render`.
    """
    output = method.encode(image)
    slot_masks = predicted_masks(output, decode(method, output), size=(where.shape[-2], where.shape[-1]))
    index = slot_of(slot_masks, where)
    drop = going(slot_masks, index, looks_above)
    own = output.slots[torch.arange(len(image), device=image.device), index][:, None]
    new = own.roll(-1, 0)
    pictures: dict[str, Tensor] = {}
    for some in as_many(drop):  # all pictures of an image in one place of equal batches: from the same noise
        every, also = output.slots[some], new[some]
        rest = every[~drop[some]].unflatten(0, (len(some), -1))
        features = None if output.features is None else output.features[some]
        shown = {"before": every, "removed": rest}
        shown |= {"added": torch.cat([every, also], 1), "swapped": torch.cat([rest, also], 1)}
        for name, slots in shown.items():
            drawn = render(method, slots, features=features, **options).image
            pictures.setdefault(name, drawn.new_zeros(len(image), *drawn.shape[1:]))[some] = drawn
    return slot_masks, pictures


def edit_scores(
    image: Float[Tensor, "b 3 h w"],
    mask: Int64[Tensor, "b h w"],
    gone: Int64[Tensor, " b"],
    before: Float[Tensor, "b 3 y x"],
    removed: Float[Tensor, "b 3 y x"],
    added: Float[Tensor, "b 3 y x"],
    swapped: Float[Tensor, "b 3 y x"],
) -> dict[str, Float64[Tensor, " b"]]:
    """The seven shares of each image; NaN where there is nothing to count.

    Args:
        image: true scenes.
        mask: ids of objects, 0 the ground.
        gone: id of each scene's object that is taken out here, and brought into the scene before it.
        before: rendered from all slots.
        removed: without the slot of the object.
        added: with that of the next scene's object beside all others.
        swapped: with it, and without its own.
    """
    colours, _ = colours_of(tint(image), mask)
    ids = torch.arange(1, colours.shape[1], device=mask.device)
    true = (mask[:, None] == ids[:, None, None]).flatten(2)  # b m p
    middle = middles(true, mask.shape[-1])
    countable = true.any(2) & ((colours[:, 1:] - colours[:, :1]).norm(dim=-1) >= ALIKE)  # else lost on the ground
    row, which = torch.arange(len(mask), device=mask.device), gone - 1
    target = ids == gone[:, None]  # b m
    following = (row + 1) % len(mask)

    first = _own(before, colours, middle, mask)
    placed = countable & _stands(first, true)
    others, valid = placed & ~target, placed[row, which]
    area, was = first[row, which] & true[row, which], first[row, which]  # b p

    left = _own(removed, colours, middle, mask)
    away = _lost(area, left[row, which])
    same, either = (first & left & ~was[:, None]).sum(2), ((first | left) & ~was[:, None]).sum(2)
    kept = others & (same >= KEPT * either)

    colour, place, stood = colours[row, gone][following], middle[row, which][following], was[following]
    known = valid[following] & ((colour - colours[:, 0]).norm(dim=-1) >= ALIKE)
    more = torch.cat([colours, colour[:, None]], 1), torch.cat([middle, place[:, None]], 1)
    one, other = _own(added, *more, mask), _own(swapped, *more, mask)
    there = _stands(other[:, -1:], stood[:, None])[:, 0]
    removal, shown = away & (kept == others).all(1), known & ~_hidden(first, placed, stood)
    joined = _stands(one[:, -1:], stood[:, None])[:, 0]
    scores = {
        "placed": (placed.sum(1) / countable.sum(1), countable.any(1)),
        "gone": (away, valid),
        "kept": (kept.sum(1) / others.sum(1), valid & others.any(1)),
        "removal": (removal, valid),
        "added": (joined, shown),
        "swapped": (
            there & _lost(area & ~stood, other[row, which]),
            known & valid & ~_hidden(first, others, stood),
        ),
        "moved": (removal & joined.roll(1), valid & shown.roll(1)),
    }
    return {name: value.double().masked_fill(~counts, torch.nan) for name, (value, counts) in scores.items()}


def _own(
    picture: Float[Tensor, "b 3 y x"],
    colours: Float[Tensor, "b m1 c"],
    middle: Float[Tensor, "b m 2"],
    mask: Int64[Tensor, "b h w"],
) -> Bool[Tensor, "b m p"]:
    """Pixels of each object: of its tint, and of those with the same tint nearest to its middle."""
    side = mask.shape[-1]
    nearest = nearest_colour(tint(picture), colours, mask.shape[-2:]).flatten(1)  # b p
    alike = ((colours[:, 1:, None] - colours[:, None]).norm(dim=-1) < ALIKE).float()  # b m m1; NaN is like nothing
    may = alike.gather(2, nearest[:, None].expand(-1, alike.shape[1], -1)) > 0
    pixel = torch.arange(nearest.shape[1], device=mask.device)
    position = torch.stack([pixel // side, pixel % side], -1).float()
    far = (position - middle[:, :, None]).square().sum(-1).masked_fill(~may, torch.inf)
    return may & (far.argmin(1, keepdim=True) == torch.arange(may.shape[1], device=mask.device)[:, None])


def _stands(own: Bool[Tensor, "b m p"], place: Bool[Tensor, "b m p"]) -> Bool[Tensor, "b m"]:
    return place.any(2) & (2 * (own & place).sum(2) >= place.sum(2))


def _lost(area: Bool[Tensor, "b p"], own: Bool[Tensor, "b p"]) -> Bool[Tensor, " b"]:
    """Whether less than half of an area is still an object's; true of no area."""
    return ~_stands(own[:, None], area[:, None])[:, 0]


def _hidden(own: Bool[Tensor, "b m p"], by: Bool[Tensor, "b m"], place: Bool[Tensor, "b p"]) -> Bool[Tensor, " b"]:
    """Whether objects cover half of a place: which of them is in front there nobody can say."""
    return _stands((own & by[..., None]).any(1, keepdim=True), place[:, None])[:, 0]


def _score(job: Job, source: DataConfig, dataset: Dataset) -> Sequence[Result]:
    how, pictures = job.how, source
    for inside in ("images", "real"):  # of cached features and latents, and of generated images
        pictures = getattr(pictures, inside, pictures)
    teaching = pictures.open("train") if how.pop("shapes") else None
    return [evaluate_edits(job.method, dataset, teaching=teaching, **how)]


TASK = Task(
    name="edits",
    about="objects taken out, brought in and swapped by slots, scored by place",
    score=_score,
    metrics=tuple(Metric(name=name, label=name, about=about) for name, about in MEANINGS.items()),
    needs=NEEDS,
    options=EditOptions,
    check=check_rendering,
)
