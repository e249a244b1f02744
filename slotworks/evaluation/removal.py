"""Whether taking a slot out takes its object out of the picture, and nothing else.

images  --method-->  slots  --render-->  before
                       |--without the slot of one object-->  render, same noise  -->  after

Objects are found by their colour: each pixel of a picture belongs to the object, or the background, whose colour in the
true image (a median) is nearest. An object is *shown* before the edit if it has pixels enough for half of its true
area, and still there after it if it has kept half of *those* pixels. So an edit is judged against the reconstruction
that it starts from, which a generative decoder may lay out anew; `placed` says how often it did not. Made for drawn
scenes: an object whose colour another object shares does not count. GLASS shows such edits (Singh et al. 2025, figure
5) and gives no number; this measure is ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from slotworks.evaluation.masks import decode, inspecting, predicted_masks
from slotworks.evaluation.rendering import (
    EDITING,
    Renderer,
    RenderingOptions,
    check_rendering,
    render,
    renderer_of,
    sampled_with,
    sampling_of,
)
from slotworks.evaluation.task import Job, Needs, Result, Task, batches, count_images, option, summarize
from slotworks.metrics.metric import Metric
from slotworks.types import DataConfig, Dataset, Method

ALIKE = 0.15
"""Colours in [0, 1] that are nearer to each other than this cannot be told apart in a sampled picture."""

LOOKS_ABOVE = 0.25
"""Share of a slot's mask in the area of another slot from which on it may hold that slot's object as well."""

NEEDS = Needs(fields=("image", "mask"), hint="this task needs images with true masks, such as shape_scenes")


@dataclass(frozen=True)
class RemovalOptions(RenderingOptions):
    """Options of the task, see `evaluate_removal`."""

    looks_above: float = option(
        LOOKS_ABOVE,
        "a slot with more than this share of its mask in the object's area is dropped with the object; "
        f"{LOOKS_ABOVE} by default, 1: none is",
    )


def evaluate_removal(
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
) -> Result:
    """Take one object out of each image, by its slot, and look whether it is gone and the others are still there.

    The object is mask id `1 + i % m` of image `i` with `m` objects. Its slot is the one whose hard mask has the largest
    IoU with it; it is dropped, and with it the slots that look there (`going`). Both pictures start from the same
    noise.

    Args:
        method: on any device; left in the modes it had.
        dataset: with `image` and `mask`.
        num_images: how many images, from the first on; all by default.
        steps: of a sampler; a direct decoder takes none. By default the method's own (`sampling`), else 75.
        cfg_scale: of classifier-free guidance; 1 is without. By default the method's own, else 3.
        seed: of the initial slots and of the starting noise.
        batch_size: images per forward pass; changes speed, memory, the random slots and the noise.
        renderer: "sample" or "decode" for a method that can do both; by default it samples.
        looks_above: share of a slot's mask, see `going`; 1: only the slot itself is dropped.

    Returns:
        Shares of the objects of an image before the edit: `shown`, and `placed`, those with half of their true pixels
        in their colour. Of edits whose object was shown: `removed`, share after which it is not there; `kept`, share of
        the other objects shown before that still are; `success`, share after which it is gone and all others are there.

    Raises:
        UserError: if there are no images or masks, or the method renders no pictures.
    """
    how = renderer_of(method, renderer)
    if how == "sample":
        steps, cfg_scale = sampling_of(method, steps, cfg_scale, EDITING)
    count = count_images(dataset, num_images)
    found: dict[str, list[Tensor]] = {}
    with inspecting(method, seed=seed) as device:
        for start, batch in batches(dataset, count, batch_size, device, NEEDS):
            image, mask = batch["image"], batch["mask"]
            output = method.encode(image)
            size = (mask.shape[-2], mask.shape[-1])
            slot_masks = predicted_masks(output, decode(method, output), size=size)
            gone = chosen(mask, start)
            drop = going(slot_masks, slot_of(slot_masks, mask == gone[:, None, None]), looks_above)
            scores: dict[str, Tensor] = {}
            options: dict[str, Any] = {"renderer": how, "steps": steps, "cfg_scale": cfg_scale, "seed": seed}
            for some in as_many(drop):
                slots = output.slots[some]
                options["features"] = None if output.features is None else output.features[some]
                before = render(method, slots, **options).image
                after = render(method, slots[~drop[some]].unflatten(0, (len(some), -1)), **options).image
                for name, values in removal_scores(image[some], mask[some], before, after, gone[some]).items():
                    scores.setdefault(name, values.new_empty(len(image)))[some] = values
            for name, values in scores.items():
                found.setdefault(name, []).append(values.cpu())
    per_image = {name: torch.cat(values) for name, values in found.items()}
    metrics = {name: summarize(values) for name, values in per_image.items()}
    rules = (
        "removal: the slot of largest IoU with object 1 + i % m of image i is dropped"
        + (f", with slots that have more than {looks_above:g} of their mask there" if looks_above < 1 else "")
        + "; an object is shown if half of its area is nearest to its colour, and gone if half of that no longer is; "
    )
    rules += sampled_with(steps, cfg_scale) if how == "sample" else "rendered by the decoder"
    return Result("removal", f"{rules}; mean over images", count, seed, metrics, per_image)


def chosen(mask: Int64[Tensor, "b h w"], start: int = 0) -> Int64[Tensor, " b"]:
    """Id of the object of each scene that is edited: `1 + i % m` of image `i`, counted from `start`, with m objects."""
    number = torch.arange(start, start + len(mask), device=mask.device)
    return 1 + number % mask.flatten(1).amax(dim=1).clamp(min=1)


def slot_of(slot_masks: Float[Tensor, "b n h w"], mask: Bool[Tensor, "b h w"]) -> Int64[Tensor, " b"]:
    """The slot whose hard mask has the largest IoU with a mask."""
    own = one_hot(slot_masks.argmax(dim=1), slot_masks.shape[1]).movedim(-1, 1).bool()  # b n h w
    both = (own & mask[:, None]).sum((2, 3))
    return (both / (own | mask[:, None]).sum((2, 3)).clamp(min=1)).argmax(dim=1)


def going(
    slot_masks: Float[Tensor, "b n h w"], index: Int64[Tensor, " b"], looks_above: float = LOOKS_ABOVE
) -> Bool[Tensor, "b n"]:
    """A slot of each image and those that may hold its object as well; but never all slots of an image.

    A slot owns the pixels where its mask is the largest. Whether it owns many or none, it is a weighted mean over the
    picture, so that a generator may draw an object from a slot that looks at it, though another slot owns it. That
    object is gone only when both are. A slot that looks around evenly does not count: the share of its mask in an area
    is to be above that area's share of the picture, too.

    Args:
        slot_masks: soft ones, which sum to one over slots.
        index: the slot that owns the object.
        looks_above: share of a slot's mask in the area that the slot of `index` owns, above which it goes, too; at 1
            none does.
    """
    number = slot_masks.shape[1]
    area = one_hot(slot_masks.argmax(dim=1).flatten(1), number).movedim(-1, 1).to(slot_masks)  # b n p
    area = area.gather(1, index[:, None, None].expand(-1, 1, area.shape[2]))  # b 1 p
    masks = slot_masks.flatten(2)
    looks = (masks * area).sum(2) / masks.sum(2).clamp(min=1e-12)
    itself = one_hot(index, number).bool()
    drop = itself | (looks > area.mean(2).clamp(min=looks_above))
    return torch.where(drop.all(dim=1, keepdim=True), itself, drop)


def as_many(without: Bool[Tensor, "b n"]) -> Iterator[Int64[Tensor, " s"]]:
    """Images that leave out as many slots: together they are one batch, whose pictures start from the same noise."""
    counts = without.sum(dim=1)
    for number in counts.unique():
        yield (counts == number).nonzero()[:, 0]


def removal_scores(
    image: Float[Tensor, "b 3 h w"],
    mask: Int64[Tensor, "b h w"],
    before: Float[Tensor, "b 3 y x"],
    after: Float[Tensor, "b 3 y x"],
    gone: Int64[Tensor, " b"],
) -> dict[str, Float64[Tensor, " b"]]:
    """The five shares of `evaluate_removal` for each image.

    Args:
        image: the true one.
        mask: ids of objects, 0 the background.
        before: rendered from all slots.
        after: rendered without one.
        gone: id of the object that was to be taken out.
    """
    colours, countable = colours_of(image, mask)
    ids = torch.arange(1, colours.shape[1], device=mask.device)
    own = (nearest_colour(before, colours, mask.shape[-2:])[:, None] == ids[:, None, None]).flatten(2)  # b m p
    still = own & (nearest_colour(after, colours, mask.shape[-2:])[:, None] == ids[:, None, None]).flatten(2)
    true = (mask[:, None] == ids[:, None, None]).flatten(2)
    seen = countable & (2 * own.sum(2) >= true.sum(2))
    placed = countable & (2 * (own & true).sum(2) >= true.sum(2))
    there = seen & (2 * still.sum(2) >= own.sum(2))
    target = ids == gone[:, None]
    valid = (seen & target).any(dim=1)
    removed = valid & ~(there & target).any(dim=1)
    others = seen & ~target
    lost = (others & ~there).sum(dim=1)
    return {
        "shown": _share(seen, countable),
        "placed": _share(placed, countable),
        "removed": removed.double().masked_fill(~valid, torch.nan),
        "kept": _share(others & there, others).masked_fill(~valid, torch.nan),
        "success": (removed & (lost == 0)).double().masked_fill(~valid, torch.nan),
    }


def colours_of(
    image: Float[Tensor, "b c h w"], mask: Int64[Tensor, "b h w"]
) -> tuple[Float[Tensor, "b m c"], Bool[Tensor, "b m2"]]:
    """Colours of the background and of each object (NaN where there is none), and which objects' are like no other."""
    colours = torch.stack([_median(image, mask == k) for k in range(max(int(mask.max()), 1) + 1)], dim=1)
    apart = (colours[:, :, None] - colours[:, None]).norm(dim=-1)
    alike = (apart < ALIKE) & ~torch.eye(colours.shape[1], dtype=torch.bool, device=mask.device)
    return colours, (~colours.isnan().any(dim=2) & ~alike.any(dim=2))[:, 1:]


def nearest_colour(
    picture: Float[Tensor, "b c y x"], colours: Float[Tensor, "b m c"], size: tuple[int, ...]
) -> Int64[Tensor, "b h w"]:
    """Which colour each pixel of a picture is nearest to, at another size; NaN is near to nothing."""
    if tuple(picture.shape[-2:]) != tuple(size):
        picture = interpolate(picture, size, mode="bilinear", antialias=True)
    distance = (picture[:, None] - colours[:, :, :, None, None]).square().sum(dim=2)
    return distance.nan_to_num(nan=torch.inf).argmin(dim=1)


def _share(part: Bool[Tensor, "b m"], whole: Bool[Tensor, "b m"]) -> Float64[Tensor, " b"]:
    """Of the marked ones; NaN where none is."""
    return part.sum(dim=1).double() / whole.sum(dim=1)


def _median(image: Float[Tensor, "b c h w"], where: Bool[Tensor, "b h w"]) -> Float[Tensor, "b c"]:
    """Of each channel over some pixels; NaN where there are none."""
    return image.masked_fill(~where[:, None], torch.nan).flatten(2).nanmedian(dim=2).values


def _score(job: Job, source: DataConfig, dataset: Dataset) -> Sequence[Result]:
    return [evaluate_removal(job.method, dataset, **job.how)]


TASK = Task(
    name="removal",
    about="removal of an object from each image by its slot",
    score=_score,
    metrics=tuple(
        Metric(name=name, label=name, about=about)
        for name, about in {
            "shown": "Share of objects that the picture shows before the edit.",
            "placed": "Share of objects that it shows where they truly are.",
            "removed": "Share of the objects taken out that are gone.",
            "kept": "Share of the other objects that are still there.",
            "success": "Share of edits that remove the object and keep all others.",
        }.items()
    ),
    needs=NEEDS,
    options=RemovalOptions,
    check=check_rendering,
)
