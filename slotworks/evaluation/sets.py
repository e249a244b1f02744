"""Set prediction: run a method over a data set and score the objects that it reads off its slots.

images  --method-->  slots  --method.predict_set-->  objects  --ranked over all images-->  average precision
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from slotworks.evaluation.discovery import Summary
from slotworks.evaluation.masks import check_finite, inspecting
from slotworks.evaluation.records import make_record
from slotworks.metrics.sets import EXTENT, THRESHOLDS, average_precisions, recall
from slotworks.types import Dataset, Method, PredictsSets, UserError, to_batch


@dataclass(frozen=True)
class SetResult:
    """Average precision of one method on one data set, or on its images with one number of objects.

    It is a number of all images together, so it has no standard error. `per_image` holds the share of each image's
    objects that were found within a distance, whatever their confidence.
    """

    num_images: int
    seed: int
    per_image: dict[str, Float64[Tensor, " i"]]
    metrics: dict[str, Summary]
    protocol: str  # `sets`, or `sets, 7 objects`
    rules: str  # the protocol in one line

    def record(self, *, data: str, split: str, checkpoint: str) -> dict:
        """What `write_eval` stores: these numbers and where they come from."""
        names = {"protocol": self.protocol, "rules": self.rules}
        return make_record(self, data=data, split=split, checkpoint=checkpoint, **names)


def evaluate_sets(
    method: Method,
    dataset: Dataset,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    by_objects: bool = False,
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> list[SetResult]:
    """Score predicted sets of objects by average precision (`slotworks.metrics.sets`).

    Args:
        method: with `predict_set`, on any device; left in the modes it had.
        dataset: with `objects`, such as CLEVR v1.0 or `SetScenes`.
        thresholds: distances in units of which the image, or CLEVR's floor, is 6 wide.
        by_objects: score the images of each number of objects apart, too (figures 15 and 16 of the supplement).
        num_images: how many images, from the first on; all by default.
        batch_size: images per forward pass; changes speed, memory and the random slots.
        seed: of the initial slots.

    Returns:
        The result over all images and, if asked for, one for each number of objects, fewest first. Metrics are
        `ap_inf`, `ap_1`, `ap_0.5`, ...

    Raises:
        UserError: if the data set is empty or has no objects, or the method predicts no sets or other properties.
    """
    if not isinstance(method, PredictsSets):
        raise UserError(
            f"{type(method).__name__} predicts no sets of objects; give a run of set_prediction, slot_mlp or dspn."
        )
    count = min(len(dataset), len(dataset) if num_images is None else num_images)
    if count < 1:
        raise UserError(f"There is no image to evaluate: the split has {len(dataset)}, num_images is {num_images}.")
    categories = tuple(method.config.categories)
    pred, true = _predictions(method, dataset, categories, count, batch_size, seed)
    numbers = (true[..., -1] > 0.5).sum(1)
    results = []
    for wanted in (None, *(sorted(set(numbers.tolist()) - {0}) if by_objects else ())):
        rows = torch.ones_like(numbers, dtype=torch.bool) if wanted is None else numbers == wanted
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
            SetResult(
                num_images=images,
                seed=seed,
                per_image=found,
                metrics={f"ap_{t:g}": Summary(value, math.nan, images) for t, value in scores.items()},
                protocol="sets" if wanted is None else f"sets, {wanted} object{'s' if wanted > 1 else ''}",
                rules=rules if wanted is None else f"{rules}; only images of {wanted} objects",
            )
        )
    return results


def _predictions(
    method: Method, dataset: Dataset, categories: Sequence[int], count: int, batch_size: int, seed: int
) -> tuple[Float[Tensor, "i n c"], Float[Tensor, "i m c"]]:
    pred, true = [], []
    width = 3 + sum(categories) + 1
    with inspecting(method, seed=seed) as device:
        for start in range(0, count, batch_size):
            batch = to_batch(dataset.__getitems__(range(start, min(start + batch_size, count))), device)
            if "objects" not in batch:
                raise UserError(f"This data set has no objects, only {', '.join(batch)}; give clevr_v1 or set_scenes.")
            if batch["objects"].shape[-1] != width:
                raise UserError(
                    f"Objects of this data set have {batch['objects'].shape[-1]} numbers, but the method predicts "
                    f"{width} (properties of {', '.join(map(str, categories))} classes); the properties differ."
                )
            assert isinstance(method, PredictsSets)
            output = method.encode_batch(batch)
            check_finite(output.slots, "slots")
            pred.append(method.predict_set(output.slots).float().cpu())
            check_finite(pred[-1], "predicted sets")
            true.append(batch["objects"].float().cpu())
    return torch.cat(pred), torch.cat(true)
