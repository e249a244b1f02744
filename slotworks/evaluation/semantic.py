"""Semantic segmentation: run a method over a data set and score its masks against classes, over all images at once.

images  --method-->  soft masks  -->  slots x classes per image  --rule-->  predicted x true class  -->  mean IoU

The rules of `slotworks.metrics.semantic`, and one more: `clusters` first clusters the slot vectors of the whole data
set and then matches clusters to classes. It lets any method be compared that has no clusters of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from slotworks.evaluation.masks import decode, inspecting, soft_masks
from slotworks.metrics import segmentation
from slotworks.metrics.semantic import by_hungarian, by_image, by_label, class_iou, class_tables, pixel_accuracy
from slotworks.types import Batch, Dataset, Decodes, Method, SlotOutput, UserError, to_batch

RULES: dict[str, str] = {
    "labels": "slot k is class k",
    "hungarian": "slot k is one cluster in all images; clusters matched to classes once, by IoU over the data set",
    "clusters": "slot vectors clustered over the data set; clusters matched to classes once, by IoU over the data set",
    "per_image": "slots matched to classes in each image by shared pixels, slots left over are background",
}
"""What each rule does, to print beside a number."""

RESTARTS = 8
"""Runs of k-means over the slot vectors; the one with the smallest error is kept."""


@runtime_checkable
class Describes(Protocol):
    """A method with a better vector for clustering its segments over a data set than the slots themselves."""

    def describe(self, image: Float[Tensor, "b 3 h w"], output: SlotOutput) -> Float[Tensor, "b n d"]:
        """A vector for every slot; NaN for a slot that the method itself says is background."""
        ...


@dataclass(frozen=True)
class SemanticResult:
    """Scores of one method on one data set under one rule."""

    rule: str
    masks: str  # decoder or attention
    count_background: bool  # whether true background pixels and the class count
    num_images: int
    seed: int
    class_names: tuple[str, ...]  # background first
    iou: Float64[Tensor, " m"]  # by class, in [0, 1]; NaN for a class that is neither predicted nor there
    pixel_accuracy: float

    @property
    def protocol(self) -> str:
        """The name under which the record is stored."""
        return f"semantic-{self.rule}" + ("" if self.count_background else "-foreground")

    @property
    def miou(self) -> float:
        """Mean over the classes that are predicted or there; the background is one of them if it counts."""
        return self.iou.nanmean().item()

    def record(self, *, data: str, split: str, checkpoint: str) -> dict:
        """What `write_eval` stores. There is no value per image: IoU is computed once, over all of them."""
        counted = int((~self.iou.isnan()).sum())
        values = {"semantic_miou": (self.miou, counted), "pixel_accuracy": (self.pixel_accuracy, self.num_images)}
        classes = zip(self.class_names, self.iou.tolist(), strict=True)
        values |= {f"iou_{name}": (iou, 1) for name, iou in classes if name}
        background = "with the background" if self.count_background else "over foreground pixels"
        return {
            "data": data,
            "split": split,
            "protocol": self.protocol,
            "rules": f"{self.protocol}: {RULES[self.rule]}; pixels counted over all images; mean over classes "
            f"{background}; void pixels dropped; {self.masks} masks at the truth's size",
            "num_images": self.num_images,
            "checkpoint": checkpoint,
            "seed": self.seed,
            "metrics": {name: {"mean": mean, "sem": math.nan, "n": n} for name, (mean, n) in values.items()},
            "per_image": {},
        }


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
    count = min(len(dataset), len(dataset) if num_images is None else num_images)
    if count < 1:
        raise UserError(f"There is no image to evaluate: the split has {len(dataset)}, num_images is {num_images}.")
    num_classes = len(class_names) + 1
    tables, vectors = [], []
    with inspecting(method, seed=seed) as device:
        for start in range(0, count, batch_size):
            batch = to_batch(dataset.__getitems__(range(start, min(start + batch_size, count))), device)
            if "class_mask" not in batch:
                raise UserError(
                    f"This data set has no classes, only {', '.join(batch)}; semantic scores need class_mask."
                )
            output = method.encode_batch(batch)
            tables.append(_tables(soft_masks(output, decode(method, output)), batch, num_classes).cpu())
            if not count_background:
                tables[-1][..., 0] = 0
            if rule == "clusters":
                described = method.describe(batch["image"], output) if isinstance(method, Describes) else output.slots
                vectors.append(described.float().cpu())
    counted = torch.cat(tables)
    if rule == "labels":
        table = by_label(counted)
    elif rule == "hungarian":
        table = by_hungarian(counted)
    elif rule == "per_image":
        table = by_image(counted)
    else:
        named = sum(bool(name) for name in class_names) + 1
        clusters = cluster_slots(torch.cat(vectors), counted.sum(2) > 0, named, num_clusters, seed=seed)
        table = by_hungarian(_gather(counted, clusters))
    masks = "decoder" if isinstance(method, Decodes) else "attention"
    names, iou = ("background", *class_names), class_iou(table)
    if not count_background:
        iou[0] = torch.nan
    return SemanticResult(rule, masks, count_background, count, seed, names, iou, pixel_accuracy(table))


def cluster_slots(
    vectors: Float[Tensor, "i n d"],
    used: Bool[Tensor, "i n"],
    num_classes: int,
    num_clusters: int | None = None,
    *,
    seed: int = 0,
) -> Int64[Tensor, "i n"]:
    """k-means over the slot vectors of a whole data set, made unit length first.

    Args:
        vectors: of all images; NaN marks slots that are background.
        used: slots that own a pixel; the others take no part.
        num_classes: with the background.
        num_clusters: how many; by default `num_classes`, or one less if some slots are marked as background.
        seed: of the initial centres.

    Returns:
        The cluster of every slot. Cluster 0 holds background slots, if any are marked, and unused ones.
    """
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


def _tables(soft: Float[Tensor, "b n y x"], batch: Batch, num_classes: int) -> Int64[Tensor, "b n m"]:
    true = batch["class_mask"]
    pred = segmentation(soft, (true.shape[-2], true.shape[-1]))
    valid = ~batch["void"].bool() if "void" in batch else None
    try:
        return class_tables(pred, true, num_slots=soft.shape[1], num_classes=num_classes, valid=valid)
    except ValueError as error:
        raise UserError(f"The class masks do not fit the class names: {error}") from None


def _gather(tables: Int64[Tensor, "i n m"], clusters: Int64[Tensor, "i n"]) -> Int64[Tensor, "1 k m"]:
    """Rows of slots to rows of clusters, summed over the images."""
    rows = torch.zeros(int(clusters.max()) + 1, tables.shape[2], dtype=torch.int64)
    return rows.index_add_(0, clusters.flatten(), tables.flatten(0, 1)).unsqueeze(0)
