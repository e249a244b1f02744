"""Object discovery: run a method over a data set and score its masks under a named protocol.

images  --method-->  soft masks  --protocol-->  one value per image and metric  -->  mean, standard error, record
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Integer
from torch import Tensor

from slotworks import protocols
from slotworks.evaluation.masks import PIECE, decode, inspecting, pieces, soft_masks
from slotworks.evaluation.records import make_record
from slotworks.metrics import segmentation
from slotworks.protocols import MaskSource, Protocol, Score
from slotworks.types import Batch, Dataset, Decodes, Method, UserError, to_batch

TRUTH = ("mask", "void", "overlap", "class_mask", "class_mask_highest", "crowd", "category")
"""What protocols read of a batch, see `Protocol.score`: maps, and the class of each id."""


@dataclass(frozen=True)
class Summary:
    """A mean over `n` images (or objects, if the protocol says so) and its standard error. NaN where undefined."""

    mean: float
    sem: float
    n: int


@dataclass(frozen=True)
class DiscoveryResult:
    """Scores of one method on one data set under one protocol. Values are in data set order; NaN: not counted."""

    protocol: Protocol
    num_images: int
    seed: int
    per_image: dict[str, Float64[Tensor, " i"]]
    metrics: dict[str, Summary]

    def record(self, *, data: str, split: str, checkpoint: str) -> dict:
        """What `write_eval` stores: these numbers and where they come from."""
        names = {"protocol": self.protocol.name, "rules": self.protocol.describe()}
        return make_record(self, data=data, split=split, checkpoint=checkpoint, **names)


def evaluate_discovery(
    method: Method,
    dataset: Dataset,
    *,
    protocol: Protocol | str = protocols.DEFAULT,
    num_images: int | None = None,
    batch_size: int = 64,
    masks: MaskSource | None = None,
    seed: int = 0,
) -> DiscoveryResult:
    """Score the masks of a method on the first images of a data set.

    The method is run in eval mode and without gradients. Its slots are drawn from a random state seeded with `seed`, so
    the result repeats for the same `batch_size` and device. The caller's random state and the modes of the method's
    modules are as before when this returns.

    Args:
        method: on any device.
        dataset: with `mask`, and where it has them the other keys of `TRUTH`. A video (`b t h w`) is scored as one
            image with more pixels, unless the protocol says otherwise; a method of images sees it frame by frame.
        protocol: or its name.
        num_images: how many images (or videos), from the first on; all by default.
        batch_size: images per forward pass; of videos, which are encoded in pieces, as many frames.
        masks: score `decoder` masks or `attention`; by default what the protocol says, or attention if the method has
            no decoder. `result.protocol` names what was used.
        seed: of the initial slots.

    Raises:
        UserError: if the data set is empty or has no masks, or the method has no decoder whose masks could be scored.
    """
    rules = _with_available_masks(protocols.get(protocol) if isinstance(protocol, str) else protocol, masks, method)
    return evaluate_under([rules], method, dataset, num_images=num_images, batch_size=batch_size, seed=seed)[0]


def evaluate_under(
    rules: Sequence[Protocol | str],
    method: Method,
    dataset: Dataset,
    *,
    num_images: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> list[DiscoveryResult]:
    """`evaluate_discovery` under several protocols, from one pass of the method over the images."""
    chosen = [_with_available_masks(protocols.get(r) if isinstance(r, str) else r, None, method) for r in rules]
    count = min(len(dataset), len(dataset) if num_images is None else num_images)
    if count < 1:
        raise UserError(f"There is no image to evaluate: the split has {len(dataset)}, num_images is {num_images}.")
    scores: list[list[dict[str, Score]]] = [[] for _ in chosen]  # by protocol, then batch
    wanted: list[MaskSource] = list(dict.fromkeys(protocol.masks for protocol in chosen))
    first = dataset.__getitems__([0])
    if "video" in first:  # as many images at once, but of fewer videos
        batch_size = max(batch_size // min(PIECE, first["video"].shape[1]), 1)
    with inspecting(method, seed=seed) as device:
        for start in range(0, count, batch_size):
            batch = to_batch(dataset.__getitems__(range(start, min(start + batch_size, count))), device)
            if "mask" not in batch:
                raise UserError(
                    f"This data set has no masks, only {', '.join(batch)}; object discovery needs true masks."
                )
            if "image" not in batch and "video" not in batch:
                raise UserError("This data set holds cached features, no images; give one with images to evaluate on.")
            hard = _segment(method, batch, wanted)
            truth = {key: batch[key] for key in TRUTH if key in batch}
            for found, protocol in zip(scores, chosen, strict=True):
                pred, num_slots = hard[protocol.masks]
                if "video" in batch:
                    flat = protocol.of_video({**truth, "pred": pred})
                elif protocol.length is not None:
                    raise UserError(f"{protocol.name} scores the first frames of videos, and this data set has images.")
                else:
                    flat = {**truth, "pred": pred}
                    flat = {key: value.flatten(1, -2) if value.ndim > 3 else value for key, value in flat.items()}
                found.append(protocol.score(flat.pop("pred"), flat, num_slots=num_slots))
    return [_result(protocol, found, count, seed) for protocol, found in zip(chosen, scores, strict=True)]


def _segment(
    method: Method, batch: Batch, wanted: Sequence[MaskSource]
) -> dict[MaskSource, tuple[Integer[Tensor, "b *t h w"], int]]:
    """Slot ids at the size of the truth from each kind of soft masks, and how many slots there are."""
    size = (batch["mask"].shape[-2], batch["mask"].shape[-1])
    outputs = (output for _, output in pieces(method, batch)) if "video" in batch else [method.encode_batch(batch)]
    found: dict[MaskSource, list[Tensor]] = {source: [] for source in wanted}
    counts: dict[MaskSource, int] = {}
    for output in outputs:
        for source in wanted:
            soft = soft_masks(output, decode(method, output) if source == "decoder" else None)
            hard = segmentation(soft, size)
            found[source].append(hard.short() if "video" in batch else hard)  # of a long video they are many
            counts[source] = soft.shape[-3]
    return {
        source: (torch.cat(hard, dim=1) if "video" in batch else hard[0], counts[source])
        for source, hard in found.items()
    }


def _result(protocol: Protocol, batches: Sequence[dict[str, Score]], count: int, seed: int) -> DiscoveryResult:
    per_image, summaries = {}, {}
    for name in batches[0]:
        per_image[name] = torch.cat([scores[name].values.cpu() for scores in batches])
        summaries[name] = summarize(per_image[name], torch.cat([scores[name].weights.cpu() for scores in batches]))
    return DiscoveryResult(protocol, count, seed, per_image, summaries)


def summarize(values: Float64[Tensor, " i"], weights: Float64[Tensor, " i"]) -> Summary:
    """Weighted mean and its standard error over images; images of weight 0 do not count.

    With weights of one this is the ordinary standard error, `std / sqrt(n)`; otherwise that of a ratio of sums.
    """
    values, weights = values[weights > 0], weights[weights > 0]
    images = len(values)
    if images == 0:
        return Summary(math.nan, math.nan, 0)
    mean = (weights * values).sum() / weights.sum()
    sem = math.nan
    if images > 1:
        spread = (weights * (values - mean)).square().sum() * images / (images - 1)
        sem = float(spread.sqrt() / weights.sum())
    return Summary(float(mean), sem, round(float(weights.sum())))


def available_masks(masks: MaskSource | None, method: Method) -> MaskSource:
    """The masks asked for; by default the decoder's, or the attention where there is no direct decoder.

    Raises:
        UserError: if decoder masks are asked for and there is no decoder.
    """
    decodes = isinstance(method, Decodes)
    if masks == "decoder" and not decodes:
        raise UserError(f"{type(method).__name__} has no decoder that returns masks; score masks='attention' instead.")
    return masks or ("decoder" if decodes else "attention")


def _with_available_masks(rules: Protocol, masks: MaskSource | None, method: Method) -> Protocol:
    if masks is None and rules.masks == "attention":
        return rules
    return rules.with_masks(available_masks(masks, method))
