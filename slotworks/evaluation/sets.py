"""Set prediction: run a method over a data set and score the objects that it reads off its slots.

images  --method-->  slots  --method.predict_set-->  objects  --ranked over all images-->  average precision
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, smooth_l1_loss

from slotworks.evaluation.masks import check_finite, inspecting
from slotworks.evaluation.task import Job, Needs, Result, Summary, Task, batches, count_images, option
from slotworks.matching import best_pairs
from slotworks.metrics.metric import Metric
from slotworks.metrics.sets import EXTENT, THRESHOLDS, average_precisions, recall
from slotworks.types import Batch, DataConfig, Dataset, Method, PredictsSets, SlotOutput, UserError

NEEDS = Needs(
    method=PredictsSets,
    lacking="predicts no sets of objects; give a run of set_prediction, slot_mlp or dspn",
    slots=False,
    fields=("objects",),
    hint="give clevr_v1 or set_scenes",
)


@dataclass(frozen=True)
class SetOptions:
    """Options of the task, see `evaluate_sets`."""

    by_objects: bool = option(False, "also for each number of objects apart")
    by_iterations: bool = option(False, "also as the slots are after each iteration of Slot Attention")
    thresholds: tuple[float, ...] = option(THRESHOLDS, "distances of which the image, or CLEVR's floor, is 6 wide")


def evaluate_sets(
    method: Method,
    dataset: Dataset,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    by_objects: bool = False,
    by_iterations: bool = False,
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Result]:
    """Score predicted sets of objects by average precision (`slotworks.metrics.sets`).

    Args:
        method: with `predict_set`, on any device; left in the modes it had.
        dataset: with `objects`, such as CLEVR v1.0 or `SetScenes`.
        thresholds: distances in units of which the image, or CLEVR's floor, is 6 wide.
        by_objects: score the images of each number of objects apart, too (figures 15 and 16 of the supplement).
        by_iterations: also score what the slots say after each iteration of Slot Attention, in the same pass (the
            supplement's table 1 shows such predictions).
        num_images: how many images, from the first on; all by default.
        batch_size: images per forward pass; changes speed, memory and the random slots.
        seed: of the initial slots.

    Returns:
        The result over all images and, if asked for, one for each number of objects, fewest first, and one for each
        iteration. Metrics are `ap_inf`, `ap_1`, `ap_0.5`, ..., numbers of all images together and so without a standard
        error. `per_image` has the share of each image's objects that were found within a distance, whatever their
        confidence.

    Raises:
        UserError: if the data set is empty or has no objects, or the method predicts no sets or other properties, or
            keeps no slots of its iterations.
    """
    NEEDS.check_method(method, "sets")
    count = count_images(dataset, num_images)
    categories = tuple(method.config.categories)
    steps, true = _predictions(method, dataset, categories, count, batch_size, seed, by_iterations)
    numbers = (true[..., -1] > 0.5).sum(1)
    everywhere = torch.ones_like(numbers, dtype=torch.bool)
    parts = [("", "", steps[-1], everywhere)]
    for wanted in sorted(set(numbers.tolist()) - {0}) if by_objects else ():
        name = f", {wanted} object{'s' if wanted > 1 else ''}"
        parts.append((name, f"; only images of {wanted} objects", steps[-1], numbers == wanted))
    for number, pred in enumerate(steps, 1) if by_iterations else ():
        parts.append((f", iteration {number}", f"; slots after iteration {number} of {len(steps)}", pred, everywhere))
    results = []
    for name, rule, pred, rows in parts:
        scores = average_precisions(pred[rows], true[rows], categories=categories, thresholds=thresholds)
        found = {
            f"recall_{t:g}": recall(pred[rows], true[rows], categories=categories, threshold=t) for t in thresholds[:2]
        }
        images = int(rows.sum())
        rules = (
            f"average precision over the ranking of all predictions of all images; right: all {len(categories)} "
            f"properties, and nearer than the distance ({', '.join(f'{t:g}' for t in thresholds)} of {EXTENT:g} for "
            "the whole width) to the nearest such object, unless it is taken"
        )
        results.append(
            Result(
                num_images=images,
                seed=seed,
                per_image=found,
                metrics={f"ap_{t:g}": Summary(value, math.nan, images) for t, value in scores.items()},
                protocol=f"sets{name}",
                rules=f"{rules}{rule}",
            )
        )
    return results


def _predictions(
    method: Method,
    dataset: Dataset,
    categories: Sequence[int],
    count: int,
    batch_size: int,
    seed: int,
    by_iterations: bool,
) -> tuple[list[Float[Tensor, "i n c"]], Float[Tensor, "i m c"]]:
    """Predicted sets, if asked for after each iteration, and the true ones."""
    pred, true = [], []
    width = 3 + sum(categories) + 1
    with inspecting(method, seed=seed) as device:
        for _, batch in batches(dataset, count, batch_size, device, NEEDS):
            if batch["objects"].shape[-1] != width:
                raise UserError(
                    f"Objects of this data set have {batch['objects'].shape[-1]} numbers, but the method predicts "
                    f"{width} (properties of {', '.join(map(str, categories))} classes); the properties differ."
                )
            assert isinstance(method, PredictsSets)
            output = method.encode_batch(batch)
            check_finite(output.slots, "slots")
            steps = _steps(method, output) if by_iterations else (output.slots,)
            pred.append([method.predict_set(slots).float().cpu() for slots in steps])
            check_finite(torch.stack(pred[-1]), "predicted sets")
            true.append(batch["objects"].float().cpu())
    return [torch.cat(step) for step in zip(*pred, strict=True)], torch.cat(true)


def _steps(method: Method, output: SlotOutput) -> tuple[Tensor, ...]:
    if not output.slot_steps:
        raise UserError(
            f"{type(method).__name__} keeps no slots of its iterations; leave --by-iterations out, or give a run of "
            "set_prediction."
        )
    return output.slot_steps


@dataclass(frozen=True)
class Seen:
    """An object as it is, or as it was predicted for a true one."""

    place: tuple[float, ...]  # x, y and z, each in -3 to 3 as the published table has them
    classes: tuple[str, ...]  # of each property
    distance: float = 0.0  # from the true one
    wrong: tuple[str, ...] = ()  # those of `classes` that the true one does not have

    def __str__(self) -> str:
        """In Markdown, wrong classes in bold."""
        words = " ".join(f"**{name}**" if name in self.wrong else name for name in self.classes)
        return f"({', '.join(f'{value:.2f}' for value in self.place)}) {words}"


def follow(
    method: Method, batch: Batch, categories: Mapping[str, Sequence[str]]
) -> tuple[SlotOutput, list[list[tuple[Seen, list[Seen]]]]]:
    """What slots say of each true object after each iteration of Slot Attention (the supplement's table 1).

    After each iteration predictions are matched anew, as the loss matches them: for the smallest sum of Huber losses,
    padding included.

    Args:
        method: as for `evaluate_sets`, inside of `inspecting`.
        batch: with `objects`, on the method's device.
        categories: names of the classes of each property, in the order of the vectors.

    Returns:
        The slots and their attention, and for each image its true objects, each with its prediction after iteration 1,
        2, ...

    Raises:
        UserError: if the method predicts no sets, or keeps no slots of its iterations.
    """
    NEEDS.check_method(method, "sets")
    assert isinstance(method, PredictsSets)
    output = method.encode_batch(batch)
    sets = [method.predict_set(slots).float().cpu() for slots in _steps(method, output)]
    found = []
    for i, true in enumerate(batch["objects"].float().cpu()):
        true = pad(true, (0, 0, 0, max(sets[0].shape[1] - len(true), 0)))
        rows = []
        for step in sets:
            pred = step[i]
            both = torch.broadcast_tensors(pred[:, None], true[None])
            partners, owners = best_pairs(-smooth_l1_loss(*both, reduction="none").mean(-1).numpy())
            rows.append(dict(zip(owners.tolist(), pred[partners.tolist()], strict=True)))
        found.append(
            [
                (_seen(one, one, categories), [_seen(row[k], one, categories) for row in rows])
                for k, one in enumerate(true)
                if one[-1] > 0.5
            ]
        )
    return output, found


def _seen(one: Float[Tensor, " c"], true: Float[Tensor, " c"], categories: Mapping[str, Sequence[str]]) -> Seen:
    classes, wrong, start = [], [], 3
    for names in categories.values():
        own, wanted = (int(x[start : start + len(names)].argmax()) for x in (one, true))
        classes.append(names[own])
        wrong += [names[own]] if own != wanted else []
        start += len(names)
    place = (EXTENT * (one[:3] - 0.5)).tolist()
    distance = float(EXTENT * (one[:3] - true[:3]).square().sum().sqrt())
    return Seen(tuple(place), tuple(classes), distance, tuple(wrong))


def _score(job: Job, source: DataConfig, dataset: Dataset) -> Sequence[Result]:
    return evaluate_sets(job.method, dataset, **job.how)


TASK = Task(
    name="sets",
    about="sets of objects that the method itself predicts",
    score=_score,
    metrics=(
        Metric(
            name="ap_*", label="AP *", about="Average precision of the predicted objects, found within this distance."
        ),
        Metric(
            name="recall_*", label="recall *", about="Share of true objects that were predicted within this distance."
        ),
    ),
    needs=NEEDS,
    options=SetOptions,
)
