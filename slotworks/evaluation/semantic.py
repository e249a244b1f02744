"""Semantic segmentation: run a method over a data set and score its masks against classes, over all images at once.

images  --method-->  soft masks  -->  slots x classes per image  --rule-->  predicted x true class  -->  mean IoU

The rules of `slotworks.metrics.semantic`, and one more: `clusters` first clusters the slot vectors of the whole data
set and then matches clusters to classes. It lets any method be compared that has no clusters of its own. A method that
refines clusters (`Refines`) sees every image twice: its segments are clustered, and the clusters of an image refined.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int16, Int64
from torch import Tensor

from slotworks.evaluation.masks import decode, inspecting, soft_masks
from slotworks.evaluation.task import Job, Needs, Result, Summary, Task, batches, class_names, count_images, option
from slotworks.metrics import segmentation
from slotworks.metrics.metric import Metric
from slotworks.metrics.semantic import by_hungarian, by_image, by_label, class_iou, class_tables, pixel_accuracy
from slotworks.types import Batch, DataConfig, Dataset, Decodes, Method, SlotOutput, UserError

RULES: dict[str, str] = {
    "labels": "slot k is class k",
    "hungarian": "slot k is one cluster in all images; clusters matched to classes once, by IoU over the data set",
    "clusters": "slot vectors clustered over the data set; clusters matched to classes once, by IoU over the data set",
    "per_image": "slots matched to classes in each image by shared pixels, slots left over are background",
}
"""What each rule does, to print beside a number."""

RESTARTS = 8
"""Runs of k-means over the slot vectors; the one with the smallest error is kept."""

NEEDS = Needs(fields=("class_mask",), hint="semantic scores need class_mask", class_names=True)


@dataclass(frozen=True)
class SemanticOptions:
    """Options of the task, see `evaluate_semantic`."""

    rule: str | None = option(None, f"{', '.join(RULES)}: which class a slot stands for")
    num_clusters: int | None = option(None, "of the rule clusters; by default one for each class")
    count_background: Literal[True, False] = option(True, "False: true background pixels and that class are left out")


@runtime_checkable
class Describes(Protocol):
    """A method with a better vector for clustering its segments over a data set than the slots themselves."""

    def describe(self, image: Float[Tensor, "b 3 h w"], output: SlotOutput) -> Float[Tensor, "b n d"]:
        """A vector for every slot; NaN for a slot that the method itself says is background."""
        ...


@runtime_checkable
class Refines(Protocol):
    """A method that can draw the clusters in an image to its borders, once segments of all images are clustered."""

    @property
    def refines(self) -> bool:
        """Whether it is set to do so."""
        ...

    def refine(
        self, labels: Int64[Tensor, "b y x"], image: Float[Tensor, "b 3 h w"], num_labels: int
    ) -> Int64[Tensor, "b h w"]:
        """Clusters on the grid of the segments to clusters of the pixels of images in [0, 1]."""
        ...


@runtime_checkable
class Clusters(Protocol):
    """A method with its own way of clustering its segments over a data set."""

    def cluster(
        self, vectors: Float[Tensor, "i n d"], used: Bool[Tensor, "i n"], num_clusters: int
    ) -> Int64[Tensor, "i n"]:
        """The cluster of every slot, from 1 on; 0 is the background, -1 a slot of which nothing is claimed."""
        ...


@dataclass(frozen=True)
class Segments:
    """What is kept of the images of a data set until their segments are clustered."""

    maps: tuple[Int16[Tensor, "y x"], ...]  # the slot of each position, at the size of the masks
    vectors: Float[Tensor, "i n d"]  # NaN: the method says that this slot is background
    used: Bool[Tensor, "i n"]  # slots that own a position


@dataclass(frozen=True)
class SemanticResult(Result):
    """A result without values per image: IoU is computed once, over all of them."""

    iou: Float64[Tensor, " m"] = field(kw_only=True)  # by class, background first; NaN: neither predicted nor there

    @property
    def miou(self) -> float:
        """Mean over the classes that are predicted or there; the background is one of them if it counts."""
        return self.metrics["semantic_miou"].mean

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that count whose class is right."""
        return self.metrics["pixel_accuracy"].mean


def evaluate_semantic(
    method: Method,
    dataset: Dataset,
    *,
    class_names: Sequence[str],
    rule: str | None = None,
    num_images: int | None = None,
    batch_size: int = 16,
    num_clusters: int | None = None,
    count_background: bool = True,
    seed: int = 0,
) -> SemanticResult:
    """Mean IoU over classes of the first images of a data set, pixels counted over all of them.

    Masks are those of the decoder, or attention if the method has none, compared at the size of the truth. The method
    is run in evaluation mode and without gradients; the caller's random state and modes stay as they are.

    Args:
        method: on any device.
        dataset: with `class_mask` (0 is background, else the number of the class) and, if known, `void`.
        class_names: without the background: class id `i + 1` is `class_names[i]`, as the data configs have them. An
            empty name is an id that no class has, as there are among COCO's.
        rule: see `RULES`. By default what the method names as its `semantic_rule`, or else `clusters`.
        num_images: how many images, from the first on; all by default.
        batch_size: images per forward pass.
        num_clusters: of the rule `clusters`. By default as many as named classes and the background; where the method
            says which slots are background (`Describes`), those are one more cluster and the default is one less.
        count_background: False leaves out true background pixels, and the class from the mean: 20 classes on VOC.
        seed: of initial slots and of k-means.

    Raises:
        UserError: for an unknown rule, an empty data set, or one without class masks.
    """
    rule = rule or getattr(method, "semantic_rule", "clusters")
    if rule not in RULES:
        raise UserError(f"There is no rule {rule!r} for semantic scores. Known: {', '.join(RULES)}.")
    count = count_images(dataset, num_images)
    num_classes = len(class_names) + 1
    tables, vectors = [], []
    named = sum(bool(name) for name in class_names) + 1
    refined = rule == "clusters" and isinstance(method, Refines) and method.refines
    with inspecting(method, seed=seed) as device:
        if refined:
            how = {"batch_size": batch_size, "device": device}
            seen = find_segments(method, dataset, count, **how)
            clusters = cluster_slots(seen.vectors, seen.used, named, num_clusters, seed=seed, method=method)
            tables = [count_clusters(method, dataset, seen.maps, clusters, num_classes, **how)]
            if not count_background:
                tables[0][..., 0] = 0
        for _, batch in batches(dataset, 0 if refined else count, batch_size, device, NEEDS):
            output = method.encode_batch(batch)
            tables.append(_tables(soft_masks(output, decode(method, output)), batch, num_classes).cpu())
            if not count_background:
                tables[-1][..., 0] = 0
            if rule == "clusters":
                vectors.append(_described(method, batch, output))
    counted = torch.cat(tables)
    if rule == "labels":
        table = by_label(counted)
    elif rule == "hungarian":
        table = by_hungarian(counted)
    elif rule == "per_image":
        table = by_image(counted)
    else:
        if not refined:
            used = counted.sum(2) > 0
            clusters = cluster_slots(torch.cat(vectors), used, named, num_clusters, seed=seed, method=method)
            counted = _gather(counted, clusters.clamp(min=0))  # what is left open counts as background
        table = by_hungarian(counted)
    iou = class_iou(table)
    if not count_background:
        iou[0] = torch.nan
    metrics = {
        "semantic_miou": Summary(iou.nanmean().item(), math.nan, int((~iou.isnan()).sum())),
        "pixel_accuracy": Summary(pixel_accuracy(table), math.nan, count),
    }
    classes = zip(("background", *class_names), iou.tolist(), strict=True)
    metrics |= {f"iou_{name}": Summary(value, math.nan, 1) for name, value in classes if name}
    name = f"semantic-{rule}" + ("" if count_background else "-foreground")
    masks = "decoder" if isinstance(method, Decodes) else "attention"
    masks = f"clusters refined in each image; {masks}" if refined else masks
    rules = (
        f"{name}: {RULES[rule]}; pixels counted over all images; mean over classes "
        f"{'with the background' if count_background else 'over foreground pixels'}; void pixels dropped; "
        f"{masks} masks at the truth's size"
    )
    return SemanticResult(name, rules, count, seed, metrics, iou=iou)


def cluster_slots(
    vectors: Float[Tensor, "i n d"],
    used: Bool[Tensor, "i n"],
    num_classes: int,
    num_clusters: int | None = None,
    *,
    seed: int = 0,
    method: Method | None = None,
) -> Int64[Tensor, "i n"]:
    """k-means over the slot vectors of a whole data set, made unit length first; or the method's own clusters.

    Args:
        vectors: of all images; NaN marks slots that are background.
        used: slots that own a pixel; the others take no part.
        num_classes: with the background.
        num_clusters: how many; by default `num_classes`, or one less if some slots are marked as background.
        seed: of the initial centres.
        method: one that clusters itself (`Clusters`) does so, in the current random state.

    Returns:
        The cluster of every slot. Cluster 0 holds background slots, if any are marked, and unused ones; -1, of a method
        that clusters itself only, slots of which nothing is claimed.
    """
    if isinstance(method, Clusters):
        return method.cluster(vectors, used, num_clusters or num_classes - 1)
    from scipy.cluster.vq import kmeans2, vq  # imported here: takes half a second

    marked = vectors.isnan().any(2)
    chosen = used & ~marked
    first = int(marked.any())
    clusters = torch.zeros(vectors.shape[:2], dtype=torch.int64)
    points = F.normalize(vectors[chosen].double(), dim=1).numpy()
    wanted = min(num_clusters or num_classes - first, len(np.unique(points, axis=0)))
    if wanted > 0:
        best = math.inf
        for run in range(RESTARTS):
            number = seed * RESTARTS + run
            centres, _ = kmeans2(points, wanted, iter=100, minit="++", seed=number)  # pyright: ignore[reportCallIssue]
            labels, distance = vq(points, centres)
            if (error := float(np.square(distance).sum())) < best:
                best = error
                clusters[chosen] = torch.from_numpy(labels.astype(np.int64)) + first
    return clusters


def find_segments(
    method: Method,
    dataset: Dataset,
    count: int,
    *,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] | None = None,
) -> Segments:
    """The segments of the first `count` images, and a vector of each; call it inside of `inspecting`."""
    maps: list[Tensor] = []
    vectors: list[Tensor] = []
    used: list[Tensor] = []
    for _, batch in batches(dataset, count, batch_size, device, Needs(fields=("image",)), advance):
        output = method.encode_batch(batch)
        owner = soft_masks(output, decode(method, output)).argmax(1)
        used.append(torch.zeros(output.slots.shape[:2], dtype=torch.bool).scatter(1, owner.flatten(1).cpu(), True))
        maps += owner.to(torch.int16).cpu()
        vectors.append(_described(method, batch, output))
    return Segments(tuple(maps), torch.cat(vectors), torch.cat(used))


def clusters_of_images(
    method: Method,
    dataset: Dataset,
    maps: Sequence[Int16[Tensor, "y x"]],
    clusters: Int64[Tensor, "i n"],
    *,
    batch_size: int,
    device: torch.device,
    needs: Needs,
    advance: Callable[[int], None] | None = None,
) -> Iterator[tuple[Batch, Int64[Tensor, "b h w"]]]:
    """Batches with the cluster of each pixel, refined where the method does so; call it inside of `inspecting`.

    Args:
        method: the one whose segments these are.
        dataset: the images.
        maps: of `find_segments`.
        clusters: of every slot.
        batch_size: images at once.
        device: of the method.
        needs: of a batch.
        advance: is told how many images are done.
    """
    number = int(clusters.max()) + 1
    for start, batch in batches(dataset, len(maps), batch_size, device, needs, advance):
        rows = range(start, start + len(batch["image"]))
        labels = torch.stack([clusters[row][maps[row].long()] for row in rows]).to(device)
        if isinstance(method, Refines) and method.refines:
            yield batch, method.refine(labels, batch["image"], number)
        else:
            yield batch, resized_labels(labels, batch["image"].shape[-2:])


def count_clusters(
    method: Method,
    dataset: Dataset,
    maps: Sequence[Int16[Tensor, "y x"]],
    clusters: Int64[Tensor, "i n"],
    num_classes: int,
    *,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] | None = None,
) -> Int64[Tensor, "1 k m"]:
    """How many pixels of each class each cluster owns, over all images; arguments as `clusters_of_images`."""
    total = torch.zeros(1, int(clusters.max()) + 1, num_classes, dtype=torch.int64)
    how = {"batch_size": batch_size, "device": device, "needs": NEEDS, "advance": advance}
    for batch, labels in clusters_of_images(method, dataset, maps, clusters, **how):
        found = resized_labels(labels, batch["class_mask"].shape[-2:])
        total += _class_tables(found, batch, total.shape[1], num_classes).sum(0).cpu()
    return total


def resized_labels(labels: Int64[Tensor, "b y x"], size: Sequence[int]) -> Int64[Tensor, "b h w"]:
    """The label of the nearest pixel."""
    return F.interpolate(labels[:, None].double(), tuple(size), mode="nearest-exact")[:, 0].long()


def _described(method: Method, batch: Batch, output: SlotOutput) -> Float[Tensor, "b n d"]:
    described = method.describe(batch["image"], output) if isinstance(method, Describes) else output.slots
    return described.float().cpu()


def _tables(soft: Float[Tensor, "b n y x"], batch: Batch, num_classes: int) -> Int64[Tensor, "b n m"]:
    true = batch["class_mask"]
    return _class_tables(segmentation(soft, (true.shape[-2], true.shape[-1])), batch, soft.shape[1], num_classes)


def _class_tables(
    pred: Int64[Tensor, "b h w"], batch: Batch, num_slots: int, num_classes: int
) -> Int64[Tensor, "b n m"]:
    true = batch["class_mask"]
    valid = ~batch["void"].bool() if "void" in batch else None
    try:
        return class_tables(pred, true, num_slots=num_slots, num_classes=num_classes, valid=valid)
    except ValueError as error:
        raise UserError(f"The class masks do not fit the class names: {error}") from None


def _gather(tables: Int64[Tensor, "i n m"], clusters: Int64[Tensor, "i n"]) -> Int64[Tensor, "1 k m"]:
    """Rows of slots to rows of clusters, summed over the images."""
    rows = torch.zeros(int(clusters.max()) + 1, tables.shape[2], dtype=torch.int64)
    return rows.index_add_(0, clusters.flatten(), tables.flatten(0, 1)).unsqueeze(0)


def _score(job: Job, source: DataConfig, dataset: Dataset) -> Sequence[SemanticResult]:
    return [evaluate_semantic(job.method, dataset, class_names=class_names(job.method, source), **job.how)]


TASK = Task(
    name="semantic",
    about="semantic segmentation over all images at once",
    score=_score,
    metrics=(
        Metric(
            name="semantic_miou",
            label="mIoU over classes",
            about="Mean over classes of the IoU, counted over all images at once.",
        ),
        Metric(name="pixel_accuracy", about="Share of pixels with the right class."),
        Metric(name="iou_*", label="IoU *", about="IoU of this class, over all images at once."),
    ),
    needs=NEEDS,
    options=SemanticOptions,
)
