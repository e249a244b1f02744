"""Object discovery: run a method over a data set and score its masks under named protocols.

images  --method-->  soft masks  --largest-->  slot ids  --protocol-->  pixel counts  --metrics-->  values of each image

What a protocol says, `slotworks.protocols`, is done here: which pixels count, what the background is, who owns shared
pixels. The arithmetic is that of `slotworks.metrics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64, Integer
from torch import Tensor

from slotworks import protocols
from slotworks.evaluation.masks import PIECE, decode, inspecting, pieces, soft_masks
from slotworks.evaluation.records import make_record
from slotworks.evaluation.task import Job, Needs, Summary, Task, batches, count_images, option, summarize
from slotworks.metrics import segmentation
from slotworks.metrics.ari import ari_of_table
from slotworks.metrics.checks import check_ids, check_like
from slotworks.metrics.contingency import check_numbers, contingency, objects_of
from slotworks.metrics.coverage import KINDS, coverage_of_table
from slotworks.metrics.metric import Counts, MaskMetric, Metric
from slotworks.metrics.overlap import FOUND, iou_of_table, match, mean_best, mean_matched
from slotworks.protocols import MaskSource, Protocol
from slotworks.types import Batch, DataConfig, Dataset, Decodes, Method, UserError, VideoMethod

TRUTH = ("mask", "void", "overlap", "class_mask", "class_mask_highest", "crowd", "category")
"""What protocols read of a batch, see `score_masks`: maps, and the class of each id."""

FEWEST, PERSON = "_fewest", "_person"
"""Behind the name of a metric where several people marked the images: by whom."""

SEVERAL_PEOPLE = "several people's masks: mean over people, then images; *_fewest: by the one with the fewest segments"

NEEDS = Needs(fields=("mask", "image"), hint="object discovery needs true masks", videos=True)


@dataclass(frozen=True)
class DiscoveryOptions:
    """Options of the task."""

    protocols: tuple[str, ...] = option(
        (), "names, or all; by default the run's own, oclf for several", flag="protocol"
    )
    merge: float | None = option(
        None, "join slots of an image whose cosine is above this before scoring, for too many slots; such as 0.9"
    )
    lengths: tuple[int, ...] = option(
        (),
        "in videos: score the first so many frames of each video, one number after the other; also draws "
        "RUN/eval/lengths-DATA-SPLIT.png, which the report shows",
    )

    def __post_init__(self) -> None:
        for name in self.protocols:  # before the weights are read
            if list(self.protocols) != ["all"]:
                protocols.get(name)


@dataclass(frozen=True)
class DiscoveryResult:
    """Scores of one method on one data set under one protocol. Values are in data set order; NaN: not counted."""

    protocol: Protocol
    num_images: int
    seed: int
    per_image: dict[str, Float64[Tensor, " i"]]
    metrics: dict[str, Summary]  # where several people marked the images also those of `FEWEST`

    @property
    def about(self) -> tuple[MaskMetric, ...]:
        """Metrics that the package does not have."""
        return self.protocol.own

    @property
    def rules(self) -> str:
        """The protocol in one line."""
        several = any(name.endswith(FEWEST) for name in self.metrics)
        return self.protocol.describe() + (f"; {SEVERAL_PEOPLE}" if several else "")

    def record(self, *, data: str, split: str, checkpoint: str) -> dict:
        """What `write_eval` stores: these numbers and where they come from."""
        names = {"protocol": self.protocol.name, "rules": self.rules}
        return make_record(self, data=data, split=split, checkpoint=checkpoint, **names)


@dataclass(frozen=True)
class Score:
    """One metric for every image. The mean over a data set is `sum(weights * values) / sum(weights)`, without NaN."""

    values: Float64[Tensor, " b"]  # NaN: the image does not count
    weights: Float64[Tensor, " b"]  # 1, or 0 where the image does not count; or the number of objects behind the value


def rules_of(job: Job) -> list[Protocol]:
    """The protocols that a job asks for, by default the run's own."""
    names = job.options.protocols or (job.protocol,)
    if list(names) == ["all"]:  # what counts frames of videos says nothing new of images
        videos = isinstance(job.method, VideoMethod)
        names = [
            rule.name
            for rule in protocols.PROTOCOLS.values()
            if videos or (rule.first_frame and rule.frames == "together")
        ]
    named_here = bool(job.options.protocols)  # a run folder never says what to import
    chosen = [protocols.get(name, importing=named_here) for name in names]
    if job.options.merge is not None:
        chosen = [rule.with_merging(job.options.merge) for rule in chosen]
    lengths = sorted(set(job.options.lengths))
    return [rule.with_length(length) for rule in chosen for length in lengths] if lengths else chosen


def _score(job: Job, source: DataConfig, dataset: Dataset) -> Sequence[DiscoveryResult]:
    how: dict[str, Any] = {"num_images": job.num_images, "batch_size": job.batch_size, "seed": job.seed}
    return evaluate_under(rules_of(job), job.method, dataset, **how)


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
    count = count_images(dataset, num_images)
    scores: list[list[dict[str, Score]]] = [[] for _ in chosen]  # by protocol, then batch
    wanted: list[Wanted] = list(dict.fromkeys((protocol.masks, protocol.merge) for protocol in chosen))
    first = dataset.__getitems__([0])
    if "video" in first:  # as many images at once, but of fewer videos
        batch_size = max(batch_size // min(PIECE, first["video"].shape[1]), 1)
    with inspecting(method, seed=seed) as device:
        for _, batch in batches(dataset, count, batch_size, device, NEEDS):
            hard = _segment(method, batch, wanted)
            truth = {key: batch[key] for key in TRUTH if key in batch}
            for found, protocol in zip(scores, chosen, strict=True):
                pred, num_slots = hard[protocol.masks, protocol.merge]
                if "video" in batch:
                    flat = protocol.of_video({**truth, "pred": pred})
                elif protocol.length is not None:
                    raise UserError(f"{protocol.name} scores the first frames of videos, and this data set has images.")
                else:
                    flat = {**truth, "pred": pred}
                    flat = {key: value.flatten(1, -2) if value.ndim > 3 else value for key, value in flat.items()}
                scored = score_masks(protocol, flat["pred"], flat, num_slots=num_slots)
                if "annotators" in batch:
                    scored = by_people(protocol, flat["pred"], batch["annotators"], scored, num_slots=num_slots)
                found.append(scored)
    return [_result(protocol, found, count, seed) for protocol, found in zip(chosen, scores, strict=True)]


Wanted = tuple[MaskSource, float | None]
"""Which soft masks, and the cosine above which slots are joined."""


def _segment(
    method: Method, batch: Batch, wanted: Sequence[Wanted]
) -> dict[Wanted, tuple[Integer[Tensor, "b *t h w"], int]]:
    """Slot ids at the size of the truth from each kind of soft masks, and how many slots there are."""
    size = (batch["mask"].shape[-2], batch["mask"].shape[-1])
    outputs = (output for _, output in pieces(method, batch)) if "video" in batch else [method.encode_batch(batch)]
    found: dict[Wanted, list[Tensor]] = {kind: [] for kind in wanted}
    counts: dict[Wanted, int] = {}
    for output in outputs:
        decoded = decode(method, output) if any(source == "decoder" for source, _ in wanted) else None
        for source, merge in wanted:
            soft = soft_masks(output, decoded if source == "decoder" else None, merge=merge)
            hard = segmentation(soft, size)
            found[source, merge].append(hard.short() if "video" in batch else hard)  # of a long video they are many
            counts[source, merge] = soft.shape[-3]
    return {
        kind: (torch.cat(hard, dim=1) if "video" in batch else hard[0], counts[kind]) for kind, hard in found.items()
    }


def _result(protocol: Protocol, batches: Sequence[dict[str, Score]], count: int, seed: int) -> DiscoveryResult:
    per_image, summaries = {}, {}
    for name in batches[0]:
        per_image[name] = torch.cat([scores[name].values.cpu() for scores in batches])
        if PERSON in name:  # who is third in one image is somebody else in the next
            continue
        summaries[name] = summarize(per_image[name], torch.cat([scores[name].weights.cpu() for scores in batches]))
    return DiscoveryResult(protocol, count, seed, per_image, summaries)


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


# What a protocol says, done to masks.


def score_masks(rules: Protocol, pred: Integer[Tensor, "b h w"], truth: Batch, *, num_slots: int) -> dict[str, Score]:
    """Score hard masks under a protocol. Class metrics are left out where the data has no classes.

    Args:
        rules: of the metrics to compute.
        pred: slot ids from 0; time of a video is merged with its height, see `Protocol.of_video`.
        truth: in the shape of `pred`: `mask` object ids (the last object owns what several cover); optionally bool
            `void` and `overlap`, `class_mask` (of the last object) and `class_mask_highest` (highest class id);
            optionally `crowd`, ids of crowd regions that are background in all of these and are no id of `mask`, with
            `category` `b m`, the class of each id.
        num_slots: slots of the method, empty ones included: they can be matched.

    Raises:
        ValueError: if `pred` holds ids that are not below `num_slots`; if a map is none of ids or differs from `pred`
            in shape; if objects overlap and `class_mask_highest`, which these rules need, is missing.
    """
    pred = check_ids(pred, "pred").long()
    check_numbers(pred, "slot", num_slots)
    truth = _checked(truth, pred)
    if rules.crowds == "objects" and "crowd" in truth:
        truth = _with_crowds(truth)
    void = truth["void"].bool() if rules.ignore_void and "void" in truth else None
    overlap = truth["overlap"].bool() if "overlap" in truth else None
    counted: dict[tuple[str, bool], Counts] = {}
    scores = {}
    for metric in rules.metrics:
        key = _truth_key(rules, metric, truth, overlap)
        if key is None:
            continue
        keep_overlap = overlap is None or metric in rules.overlap_in
        if (key, keep_overlap) not in counted:
            removed = [pixels for pixels in (void, None if keep_overlap else overlap) if pixels is not None]
            counted[key, keep_overlap] = _count(rules, pred, truth[key], removed, num_slots)
        scores[metric] = _metric(rules, metric, counted[key, keep_overlap])
    return scores


def by_people(
    rules: Protocol,
    pred: Integer[Tensor, "b h w"],
    annotators: Integer[Tensor, "b a h w"],
    fewest: dict[str, Score],
    *,
    num_slots: int,
) -> dict[str, Score]:
    """Scores by each of several people's masks: under a metric's own name the mean over people, and each one's.

    Args:
        rules: as in `score_masks`.
        pred: slot ids from 0.
        annotators: each person's ids; zeros everywhere where there are fewer people.
        fewest: scores by the person with the fewest segments, which become `NAME_fewest`.
        num_slots: of the method.
    """
    everyone: dict[str, list[Score]] = {}
    for own in annotators.unbind(1):
        there = (own > 0).flatten(1).any(1)
        for name, score in score_masks(rules, pred, {"mask": own}, num_slots=num_slots).items():
            known = Score(score.values.masked_fill(~there, torch.nan), score.weights.masked_fill(~there, 0))
            everyone.setdefault(name, []).append(known)
    found: dict[str, Score] = {}
    for name, scores in everyone.items():
        values, weights = (torch.stack([getattr(one, part) for one in scores]) for part in ("values", "weights"))
        counted = weights > 0
        mean = (weights * values.nan_to_num()).sum(0) / weights.sum(0)  # NaN where nobody counts
        found[name] = Score(mean, weights.sum(0) / counted.sum(0).clamp(min=1))
    found |= {f"{name}{FEWEST}": score for name, score in fewest.items() if name in found}
    for name, scores in everyone.items():
        found |= {f"{name}{PERSON}{number}": score for number, score in enumerate(scores)}
    return found


def _checked(truth: Batch, pred: Int64[Tensor, "b h w"]) -> Batch:
    """The maps of a batch that rules read, each known to be one of the pixels of `pred`."""
    for name in ("mask", "class_mask", "class_mask_highest", "crowd"):
        if name in truth:
            truth = {**truth, name: check_ids(truth[name], name)}
    for name in ("mask", "class_mask", "class_mask_highest", "crowd", "void", "overlap"):
        if name in truth:
            check_like(truth[name], name, pred, "pred")
    return truth


def _with_crowds(truth: Batch) -> Batch:
    """Crowd regions as further objects; pixels that they share with others are overlap."""
    mask, crowd = truth["mask"].long(), truth["crowd"].long()
    shared = (crowd > 0) & (mask > 0)
    truth = {**truth, "mask": crowd.where((crowd > 0) & ~shared, mask)}
    truth["overlap"] = truth["overlap"].bool() | shared if "overlap" in truth else shared
    if "category" in truth:
        truth["class_mask"] = truth["category"].long().gather(1, truth["mask"].flatten(1)).view_as(mask)
    return truth


def _truth_key(rules: Protocol, metric: str, truth: Batch, overlap: Bool[Tensor, "b h w"] | None) -> str | None:
    if not metric.endswith("_c"):
        return "mask"
    if "class_mask" not in truth or rules.class_owner == "last":
        return "class_mask" if "class_mask" in truth else None
    if "class_mask_highest" in truth:
        return "class_mask_highest"
    if metric in rules.overlap_in and overlap is not None and overlap.any():
        raise ValueError(
            f"{metric} under protocol {rules.name} gives overlap pixels to the highest class id, but the data has "
            "no class_mask_highest; add it or use a protocol that drops overlap pixels, such as spot."
        )
    return "class_mask"


def _count(
    rules: Protocol,
    pred: Int64[Tensor, "b h w"],
    true: Integer[Tensor, "b h w"],
    removed: Sequence[Tensor],
    num_slots: int,
) -> Counts:
    """Pixels of each true id in each slot, and which ids are objects, the background among them."""
    # Removed pixels go to a slot of their own first: rules differ in what becomes of them.
    for pixels in removed:
        pred = pred.masked_fill(pixels, num_slots)
    table = contingency(pred, true, num_slots=num_slots + 1)
    if rules.background_id == "lowest":  # ids renumbered 0, 1, 2, ... as met in the image: empty columns last
        order = (table.sum(1) == 0).byte().argsort(dim=1, stable=True)
        table = table.gather(2, order.unsqueeze(1).expand_as(table))
    if rules.removed == "drop":
        table = table[:, :num_slots]
        return Counts(table, objects_of(table, count_background=True))
    table[:, num_slots, 0] = table[:, num_slots].sum(1)
    table[:, num_slots, 1:] = 0
    # An object that lost all its pixels still counts, with IoU 0, if one with a higher id is left.
    left = objects_of(table, count_background=True)
    return Counts(table, left.flip(1).byte().cummax(1).values.flip(1).bool())


def _metric(rules: Protocol, metric: str, counts: Counts) -> Score:
    table, objects = counts.table, counts.objects.clone()
    if metric in KINDS:
        return _per_image(coverage_of_table(table, rule=rules.coverage, threshold=rules.coverage_threshold)[metric])
    if metric not in rules.background_in:
        objects[:, 0] = False
    if own := [one for one in rules.own if one.name == metric]:
        return _per_image(own[0].score(Counts(table, objects)).double())
    if metric == "fg_ari":
        return _per_image(ari_of_table(table[:, :, 1:]))
    if metric.startswith("ari"):
        return _per_image(ari_of_table(table))
    iou = iou_of_table(table)
    if metric in ("corloc", "recovery"):
        recovery = mean_best((iou > FOUND).double(), objects)
        return _per_image(recovery if metric == "recovery" else recovery.where(recovery.isnan(), recovery > 0))
    if rules.matching == "iou":
        return _per_image((mean_matched if metric.startswith("miou") else mean_best)(iou, objects))
    cosine = table / (table.sum(2, keepdim=True) * table.sum(1, keepdim=True)).clamp(min=1).double().sqrt()
    matched = match(cosine, objects)
    values = mean_best((iou * matched) if metric.startswith("miou") else iou, matched.any(1))
    num_objects = matched.sum((1, 2)).double()
    return Score(values, num_objects if rules.mean_over == "objects" else num_objects.clamp(max=1))


def _per_image(values: Float64[Tensor, " b"]) -> Score:
    return Score(values, (~values.isnan()).double())


TASK = Task(
    name="discovery",
    about="object discovery",
    score=_score,
    metrics=tuple(
        Metric(
            name=name + tail,
            label=label + said,
            better="lower" if name in KINDS[1:] else "higher",
            about=protocols.MEANINGS[name] + more,
        )
        for tail, said, more in (("", "", ""), (FEWEST, ", fewest", " After slots that look alike were joined."))
        for name, label in protocols.LABELS.items()
    ),
    needs=NEEDS,
    options=DiscoveryOptions,
    check=rules_of,
    pictures=True,
)
