"""Property prediction: does a frozen slot know what its object is and where it is?

    slots of each image  --IoU of hard masks-->  one slot per true object  --linear layer-->  class, centre of the box

As in GLASS (table 8 and supplement; after Dittadi et al. 2022): one linear layer for the class, one for the centre of
the bounding box divided by the image size, each trained alone on frozen slots with AdamW at a constant 3e-4 and early
stopping; top-1 accuracy and mean squared error over the matched objects. What the paper leaves open is a named argument
of `evaluate_properties`. Slots are extracted once, not in every epoch.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64, Integer
from torch import Tensor, nn

from slotworks.evaluation.discovery import available_masks
from slotworks.evaluation.masks import decode, inspecting, soft_masks
from slotworks.evaluation.task import Job, Needs, Result, Summary, Task, batches, count_images, option, summarize
from slotworks.metrics import contingency, segmentation
from slotworks.metrics.checks import check_floats, check_like
from slotworks.metrics.contingency import objects_of
from slotworks.metrics.metric import Metric
from slotworks.metrics.overlap import iou_of_table, match
from slotworks.protocols import MaskSource
from slotworks.types import Batch, DataConfig, Dataset, Method, UserError

Target = Literal["instance", "class"]

SIZE_RULE = ", one for the root of the share of the image that is covered"

DRAWN = 5_000
"""Training images of scenes that are drawn as they are asked for, where nobody says how many: all of them are as many
as one likes, and looking at them is what takes the time."""

UNKNOWN = -1
"""The label of an object of which the data do not say what it is."""


@dataclass(frozen=True)
class MatchedSlots:
    """The slot of each true object that has one, in the order of images and ids."""

    slots: Float[Tensor, "o d"]
    labels: Int64[Tensor, " o"] | None  # UNKNOWN, or a class id; None: the data have no classes
    centres: Float[Tensor, "o 2"]  # x, y of the bounding box, in [0, 1]
    sizes: Float[Tensor, "o 1"]  # root of the share of the image that its visible pixels cover
    image: Int64[Tensor, " o"]  # whose object it is
    num_objects: Int64[Tensor, " i"]  # of each image, those without a slot included
    target: Target  # what the slots were matched to


NEEDS = Needs(fields=("image",))


@dataclass(frozen=True)
class PropertyOptions:
    """What the paper says, or leaves open; the label is an integer field of the data with one row per object.

    `class` is the most frequent id of `class_mask` below the object, or the field `classes`. The paper states neither
    `probe_batch_size` nor `val_share`; of epochs it has 50 on VOC, 10 on COCO.
    """

    label: str = option("class", "class, or a field of the data such as shape")
    epochs: int = option(50, "at most this many; 50 by default")
    num_train_images: int | None = option(
        None,
        "how many images the probes are trained on, from the first on; by default all, of drawn scenes 5,000",
        flag="train-images",
    )
    target: Target | None = option(
        None,
        "instance masks, or one mask per class of the image, are what slots are matched to; by default instances "
        "where the data know them, as VOC's trainaug does not",
    )
    train_target: Target | None = option(
        None, "the same of the images that the probes are trained on alone; by default as --target"
    )
    masks: MaskSource | None = option(None, "whose masks are matched; by default the decoder's where there is one")
    lr: float = option(3e-4, "of AdamW, constant")
    patience: int = option(5, "epochs without a better validation loss after which training stops; the best stay")
    probe_batch_size: int = option(64, "objects per update of a probe")
    size: bool = option(False, "also a probe for the size: the root of the share of the image that an object covers")
    val_share: float = option(0.1, "share of the training images that decide when to stop")


def evaluate_properties(
    method: Method,
    train: Dataset,
    test: Dataset,
    *,
    background_row: bool = False,
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    **options: Any,
) -> Result:
    """Train linear probes on the slots of one split and score them on another.

    Args:
        method: on any device; it is not changed.
        train: with `mask` or `class_mask`.
        test: likewise.
        background_row: whether row 0 of a field is the background, so that object `k` is in row `k`; otherwise it is in
            row `k - 1`.
        num_images: how many test images.
        batch_size: images per forward pass of the method.
        seed: of slots, validation images, initial weights and order.
        options: fields of `PropertyOptions`, such as `label="shape"`.

    Returns:
        `top1` accuracy and `position_mse` (mean over x and y) with `top1_per_image`, the mean over images of the
        accuracy inside each; what a constant predictor gets: `top1_constant` (the most frequent class of the training
        objects) and `position_mse_constant` (their mean centre); with `size` likewise `size_mse` and
        `size_mse_constant`; and `unmatched`, the share of the true objects for
        which there was no slot and which no probe saw. Without known classes, the `top1` scores are missing.

    Raises:
        UserError: if there are too few images, no masks, no objects, or no such label.
    """
    asks = PropertyOptions(**options)
    source = available_masks(asks.masks, method)
    how = {"background_row": background_row, "masks": source, "batch_size": batch_size, "seed": seed}
    how |= {"label": asks.label}
    first = asks.train_target or asks.target
    known = matched_slots(method, train, num_images=asks.num_train_images, target=first, **how)
    asked = matched_slots(method, test, num_images=num_images, target=asks.target, **how)
    generator = torch.Generator().manual_seed(seed)
    in_val = _validation(known, asks.val_share, generator)

    def probe(targets: Tensor, outputs: int, loss: Callable[..., Tensor], usable: Bool[Tensor, " o"]) -> nn.Linear:
        rows = [(known.slots[use].to(device), targets[use].to(device)) for use in (usable & ~in_val, usable & in_val)]
        limits = {"epochs": asks.epochs, "lr": asks.lr, "patience": asks.patience, "batch_size": asks.probe_batch_size}
        return train_linear(*rows, outputs=outputs, loss=loss, generator=generator, **limits)

    errors: dict[str, Float64[Tensor, " o"]] = {}
    with inspecting(method, seed=seed) as device:  # the seed of the probes' first weights
        everything = torch.ones_like(in_val)
        predicted = _apply(probe(known.centres, 2, F.mse_loss, everything), asked.slots)
        errors["position_mse"] = position_error(predicted, asked.centres)
        errors["position_mse_constant"] = position_error(known.centres.mean(0).expand(len(predicted), 2), asked.centres)
        if known.labels is not None and asked.labels is not None:
            labelled, scored = known.labels != UNKNOWN, asked.labels != UNKNOWN
            if not labelled.any():
                raise UserError("No training object has a known class; choose another label, or data with classes.")
            outputs = int(known.labels.max()) + 1
            logits = _apply(probe(known.labels, outputs, F.cross_entropy, labelled), asked.slots)
            majority = known.labels[labelled].bincount().argmax()
            unknown = torch.full((), torch.nan, dtype=torch.float64)
            errors["top1"] = top1(logits, asked.labels).where(scored, unknown)
            errors["top1_constant"] = (asked.labels == majority).double().where(scored, unknown)
        if asks.size:
            predicted = _apply(probe(known.sizes, 1, F.mse_loss, everything), asked.slots)
            for name, values in (("", predicted), ("_constant", known.sizes.mean(0).expand(len(predicted), 1))):
                errors[f"size_mse{name}"] = (values - asked.sizes).double().square().mean(1)
    per_image, metrics = _summaries(errors, asked)
    rules = (
        f"properties: linear probes on frozen slots, one for {asks.label}, one for the centre of the bounding box "
        f"divided by the image size{SIZE_RULE if asks.size else ''}; slots matched to {known.target} masks by IoU of "
        f"hard {source} masks (scored: {asked.target} masks); AdamW, lr {asks.lr:g}, at most {asks.epochs} epochs, "
        f"stopped after {asks.patience} without a better validation loss ({asks.val_share:.0%} of "
        f"{len(known.num_objects)} training images), "
        f"{asks.probe_batch_size} objects per update; top-1 accuracy and squared error (mean over x and y) pooled over "
        f"matched objects; constant: most frequent class, mean centre{' and size' if asks.size else ''}"
    )
    return Result("properties", rules, len(asked.num_objects), seed, metrics, per_image)


def matched_slots(
    method: Method,
    dataset: Dataset,
    *,
    target: Target | None = None,
    label: str = "class",
    background_row: bool = False,
    masks: MaskSource = "attention",
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> MatchedSlots:
    """Run a method over a data set and keep the slot of every true object.

    Slots and objects are matched one to one for the largest sum of IoUs of hard masks, without void pixels and without
    those of several instances. With at least as many slots as objects every object has a slot, however bad. The box is
    that of the visible pixels at the size of the truth.

    Args and errors are those of `evaluate_properties`.
    """
    count = count_images(dataset, num_images, to="probe")
    found: list[tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]] = []
    with inspecting(method, seed=seed) as device:
        for _, batch in batches(dataset, count, batch_size, device, NEEDS):
            target = target or ("instance" if "mask" in batch else "class")
            key = "mask" if target == "instance" else "class_mask"
            if key not in batch:
                raise UserError(f"This data set has no {key}, only {', '.join(batch)}; probes need true objects.")
            if batch[key].ndim > 3:
                raise UserError("Probes look at single images; give the frames of videos one by one.")
            output = method.encode_batch(batch)
            soft = soft_masks(output, decode(method, output) if masks == "decoder" else None)
            found.append(_match(soft, output.slots, batch, key, label, background_row))
    assert target is not None
    slots, labels, centres, sizes, image, num_objects = zip(*found, strict=True)
    if not sum(len(part) for part in slots):
        raise UserError(f"The first {count} images hold no object with a slot; there is nothing to probe.")
    offsets = range(0, count, batch_size)
    return MatchedSlots(
        torch.cat(slots),
        None if labels[0] is None else torch.cat(labels),
        torch.cat(centres),
        torch.cat(sizes),
        torch.cat([part + offset for part, offset in zip(image, offsets, strict=True)]),
        torch.cat(num_objects),
        target,
    )


def _match(
    soft: Float[Tensor, "b n y x"],
    slots: Float[Tensor, "b n d"],
    batch: Batch,
    key: str,
    label: str,
    background_row: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
    """Slots, labels, centres, sizes and image numbers of the matched objects, and how many objects each image has."""
    true = batch[key].long()
    valid = torch.ones_like(true, dtype=torch.bool)
    for dropped in ("void", "overlap") if key == "mask" else ("void",):
        if dropped in batch:
            valid &= ~batch[dropped].bool()
    pred = segmentation(soft, (true.shape[-2], true.shape[-1]))
    table = contingency(pred, true, valid=valid, num_slots=slots.shape[1])
    objects = objects_of(table)
    image, ids, slot = match(iou_of_table(table), objects).mT.nonzero(as_tuple=True)
    labels = _labels(batch, key, true, label, background_row)
    if labels is not None:
        labels = labels[image, ids].cpu()
    centres = box_centres(true, num_ids=table.shape[2])[image, ids]
    covered = contingency(true, true, num_slots=table.shape[2]).diagonal(dim1=1, dim2=2) / true[0].numel()
    sizes = covered[image, ids].sqrt()[:, None].float()
    own = slots[image, slot].float()
    return own.cpu(), labels, centres.float().cpu(), sizes.cpu(), image.cpu(), objects.sum(1).cpu()


def _labels(
    batch: Batch, key: str, true: Int64[Tensor, "b h w"], label: str, background_row: bool
) -> Int64[Tensor, "b m"] | None:
    """The label of every true id of a batch."""
    if label == "class" and key == "class_mask":
        return torch.arange(int(true.max()) + 1, device=true.device).expand(len(true), -1)
    if label == "class" and "class_mask" in batch:
        below = contingency(true, batch["class_mask"].long())[:, :, 1:]  # b id class
        if not below.shape[2]:
            return torch.full(below.shape[:2], UNKNOWN, device=true.device)
        return torch.where(below.sum(2) > 0, below.argmax(2) + 1, UNKNOWN)
    if label == "class":
        if "classes" not in batch:
            return None
        label, background_row = "classes", False
    if label not in batch or batch[label].ndim != 2 or batch[label].is_floating_point():
        fields = [name for name, value in batch.items() if value.ndim == 2 and not value.is_floating_point()]
        raise UserError(
            f"label is {label!r}; expected class or an integer field with one row per object, here "
            f"{', '.join(fields) or 'none'}."
        )
    values = batch[label].long()
    return values if background_row else F.pad(values, (1, 0), value=UNKNOWN)


def box_centres(mask: Integer[Tensor, "b h w"], *, num_ids: int) -> Float64[Tensor, "b m 2"]:
    """Centre x, y of the box around each id's pixels, divided by width and height: in [0, 1]; NaN without pixels."""
    height, width = mask.shape[-2:]
    ids = mask.flatten(1).long()
    centres = []
    for axis, side in ((1, width), (0, height)):
        positions = torch.arange(side, device=mask.device, dtype=torch.float64)
        positions = positions.expand(height, width) if axis else positions[:, None].expand(height, width)
        positions = positions.flatten().expand_as(ids)
        low, high = (
            torch.full((len(mask), num_ids), torch.nan, dtype=torch.float64, device=mask.device).scatter_reduce(
                1, ids, positions, reduce=reduce, include_self=False
            )
            for reduce in ("amin", "amax")
        )
        centres.append((low + high + 1) / (2 * side))
    return torch.stack(centres, dim=-1)


def train_linear(
    train: tuple[Float[Tensor, "o d"], Tensor],
    val: tuple[Float[Tensor, "v d"], Tensor],
    *,
    outputs: int,
    loss: Callable[..., Tensor],
    epochs: int,
    lr: float,
    patience: int,
    batch_size: int,
    generator: torch.Generator,
) -> nn.Linear:
    """One linear layer, trained until the validation loss has not fallen for `patience` epochs; the best weights.

    Args:
        train: slots and their targets.
        val: the same, never trained on. Without any object the training goes on for all epochs.
        outputs: width of the layer.
        loss: of outputs and targets.
        epochs: at most.
        lr: of AdamW, constant.
        patience: epochs without improvement.
        batch_size: objects per update.
        generator: of the order of the objects, on the CPU.

    Raises:
        UserError: without a training object.
    """
    slots, targets = train
    if not len(slots):
        raise UserError("There is no object to train a probe on; give more training images.")
    probe = nn.Linear(slots.shape[1], outputs, device=slots.device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr)
    best, best_loss, waited = probe, float("inf"), 0
    for _ in range(epochs):
        with torch.enable_grad():
            for rows in torch.randperm(len(slots), generator=generator).to(slots.device).split(batch_size):
                optimizer.zero_grad()
                loss(probe(slots[rows]), targets[rows]).backward()
                optimizer.step()
        if not len(val[0]):
            continue
        with torch.no_grad():
            current = float(loss(probe(val[0]), val[1]))
        waited = 0 if current < best_loss else waited + 1
        if waited == 0:
            best, best_loss = copy.deepcopy(probe), current
        if waited == patience:
            break
    return best


def top1(logits: Float[Tensor, "o c"], labels: Int64[Tensor, " o"]) -> Float64[Tensor, " o"]:
    """1 where the largest output is the label, else 0."""
    check_floats(logits, "logits", "objects classes")
    check_like(labels, "labels", logits[:, 0], "logits[:, 0]")
    return (logits.argmax(1) == labels).double()


def position_error(pred: Float[Tensor, "o 2"], true: Float[Tensor, "o 2"]) -> Float64[Tensor, " o"]:
    """Squared error of each object, mean over x and y."""
    check_floats(pred, "pred", "objects 2")
    check_like(true, "true", pred, "pred")
    return (pred - true).double().square().mean(1)


def _apply(probe: nn.Linear, slots: Float[Tensor, "o d"]) -> Tensor:
    with torch.no_grad():
        return torch.cat([probe(part.to(probe.weight.device)).cpu() for part in slots.split(65_536)])


def _validation(known: MatchedSlots, share: float, generator: torch.Generator) -> Bool[Tensor, " o"]:
    """Which objects belong to the validation images; whole images, so that neighbours do not give answers away."""
    images = len(known.num_objects)
    chosen = torch.randperm(images, generator=generator)[: round(share * images)]
    if not len(chosen) or len(chosen) == images:
        raise UserError(
            f"{images} training images with val_share={share:g} leave none to "
            f"{'validate' if not len(chosen) else 'train'} with; give more images or another share."
        )
    return torch.isin(known.image, chosen)


def _summaries(
    errors: dict[str, Float64[Tensor, " o"]], asked: MatchedSlots
) -> tuple[dict[str, Float64[Tensor, " i"]], dict[str, Summary]]:
    """Means inside each image, and over all objects with the standard error over images."""
    images = len(asked.num_objects)
    per_image, metrics = {}, {}
    for name in (
        "top1",
        "top1_constant",
        *(f"{of}_mse{tail}" for of in ("position", "size") for tail in ("", "_constant")),
    ):
        if name not in errors:
            continue
        values = errors[name]
        known = (~values.isnan()).double()
        counts = torch.zeros(images).double().index_add(0, asked.image, known)
        per_image[name] = torch.zeros(images).double().index_add(0, asked.image, values.nan_to_num()) / counts
        metrics[name] = summarize(per_image[name], counts)
        if name == "top1":
            metrics["top1_per_image"] = summarize(per_image[name], counts.clamp(max=1))
    objects = asked.num_objects.double()
    missing = objects - asked.image.bincount(minlength=images)
    per_image["unmatched"] = missing / objects
    metrics["unmatched"] = summarize(per_image["unmatched"], objects)
    return per_image, metrics


def _score(job: Job, source: DataConfig, dataset: Dataset) -> Sequence[Result]:
    known = {one.name for one in fields(source)}
    labelled = {"train_masks": True, "crop": "center"}  # probes need labels, and pictures that batches would show whole
    changes = {name: value for name, value in labelled.items() if name in known}
    if changes.get("crop") and getattr(source, "crop", "") != "random":
        del changes["crop"]
    label = dataset.__getitems__([0]).get(job.options.label)
    rows = 0 if label is None or label.ndim != 2 or source.max_objects is None else label.shape[1] - source.max_objects
    train, _ = job.open(replace(source, **changes), "train")
    how = job.how
    if how["num_train_images"] is None and "num_train" in known:
        how["num_train_images"] = DRAWN
    return [evaluate_properties(job.method, train, dataset, background_row=rows > 0, **how)]


TASK = Task(
    name="properties",
    about="properties of objects read from frozen slots",
    score=_score,
    metrics=(
        Metric(name="top1", label="top-1", about="Share of objects whose label a linear probe reads from their slot."),
        Metric(name="top1_per_image", label="top-1, mean over images", about="As top-1, each image counting the same."),
        Metric(name="top1_constant", label="top-1 of a constant", about="What always saying the same label reaches."),
        Metric(
            name="position_mse",
            label="position MSE",
            unit="square",
            better="lower",
            about="Squared error of the place of an object, read from its slot.",
        ),
        Metric(
            name="position_mse_constant",
            label="position MSE of a constant",
            unit="square",
            better="lower",
            about="What always saying the mean place reaches.",
        ),
        Metric(
            name="size_mse",
            label="size MSE",
            unit="square",
            better="lower",
            about="Squared error of the size of an object, read from its slot.",
        ),
        Metric(
            name="size_mse_constant",
            label="size MSE of a constant",
            unit="square",
            better="lower",
            about="What always saying the mean size reaches.",
        ),
        Metric(name="unmatched", better="lower", about="Share of objects that no slot was matched with."),
    ),
    needs=NEEDS,
    options=PropertyOptions,
)
