"""What is looked at while a method is trained and when it is done: scores, the detector's word, pictures.

method, images  -->  discovery and sets  -->  metrics by name
                -->  doctor              -->  eval/doctor.json, a verdict
                -->  samples             -->  samples/
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotworks import protocols
from slotworks.errors import check_extra
from slotworks.evaluation import doctor
from slotworks.evaluation.discovery import DiscoveryResult, evaluate_under
from slotworks.evaluation.masks import NotFinite, inspecting
from slotworks.evaluation.records import looks_at_something_else
from slotworks.evaluation.samples import write_samples
from slotworks.evaluation.sets import evaluate_sets
from slotworks.evaluation.task import Result, Summary, finds_slots
from slotworks.types import Dataset, Decodes, Method, MethodConfig, PredictsSets, to_batch

SAMPLES = 8
"""Images shown in the report: the worst four and the first four of the evaluated ones."""

NO_SLOTS = "no slots to look at"
"""The verdict about a network that is no method."""

EXAMINED = 64
"""Images that the detector looks at during a training."""


@dataclass(frozen=True)
class Validation:
    """Scores of sets first, then of masks under each protocol."""

    sets: Sequence[Result]
    masks: Sequence[DiscoveryResult]
    verdict: str
    unscored: str = ""  # why there are no scores of masks
    num_images: int = 0  # that were looked at, from the first on
    total: int = 0  # that the split has

    @property
    def images(self) -> str:
        """Which images these are: the end of "scored on ..."."""
        if self.num_images == self.total:
            return f"all {self.total:,} images"
        return f"the first {self.num_images:,} of {self.total:,} images"

    @property
    def results(self) -> list[Any]:
        """All of them, for records."""
        return [*self.sets, *self.masks]

    @property
    def metrics(self) -> dict[str, Summary]:
        """By name, of masks those under the first protocol."""
        return {name: value for one in (*self.sets, *self.masks[:1]) for name, value in one.metrics.items()}

    @property
    def values(self) -> dict[str, float]:
        """Means by name; with them the number of `images`, if these are not all of the split."""
        some = {"images": float(self.num_images)} if self.num_images < self.total else {}
        found = {name: value.mean for name, value in self.metrics.items()}
        return found | some if found else {}

    @property
    def rules(self) -> str:
        """What the metrics count, or why there are none."""
        return "; ".join(one.rules for one in (*self.sets, *self.masks[:1])) or self.unscored


def validate(
    method: Method,
    dataset: Dataset,
    folder: Path,
    *,
    data: str,
    split: str,
    settings: Mapping[str, Any],
    config: MethodConfig,
    curves: Sequence[Mapping[str, Any]],
    step: int,
    last: bool = False,
) -> Validation:
    """Score, examine and show a method that is being trained.

    Args:
        method: on any device; left in the modes it had.
        dataset: without `mask` its masks are shown and examined, but not scored.
        folder: of the run.
        data: name of the data set.
        split: which of its splits this is.
        settings: of the run by name: its `protocol`, and how many images are scored, `eval_images`, `last_eval_all`.
        config: of the method, which says what its loss means.
        curves: rows of `metrics.jsonl`.
        step: of the training.
        last: after the last step masks are scored under the default protocol, too, on all images of the split with
            `last_eval_all`, and the detector looks at `eval_images` of them.
    """
    if not finds_slots(method):
        return Validation([], [], NO_SLOTS)
    count = counted(dataset, settings, last=last)
    sets: list[Result] = []
    masks: list[DiscoveryResult] = []
    reason = "" if has_masks(dataset) else unscored(data, split)
    of: dict[str, Any] = {"num_images": count, "total": len(dataset)}
    if isinstance(method, PredictsSets):
        with suppress(NotFinite):  # a training goes on, and the detector says what is wrong
            sets = evaluate_sets(method, dataset, num_images=count)
        if not attends(method, dataset):  # nothing to see, nothing for the detector
            return Validation(sets, [], "no attention to look at", **of)
    if not reason:
        names: dict[str, None] = dict.fromkeys([settings["protocol"], *([protocols.DEFAULT] if last else [])])
        rules = [protocols.get(name, importing=False) for name in names]
        try:
            masks = evaluate_under(rules, method, dataset, num_images=count)
        except NotFinite as error:
            reason = str(error)
    examined = min(count, settings["eval_images"] if last else EXAMINED)  # it keeps all masks in memory
    looked = {"method": method, "dataset": dataset, "num_images": examined}
    looked |= {"split": split, "step": step}
    _, verdict = doctor.examine(folder, **looked, curves=curves, settings=settings, config=config)
    show(method, masks[0] if masks else None, dataset, folder, step=step)
    return Validation(sets, masks, verdict, reason, **of)


def counted(dataset: Dataset, settings: Mapping[str, Any], *, last: bool) -> int:
    """How many images an evaluation of a training takes."""
    return len(dataset) if last and settings.get("last_eval_all") else min(settings["eval_images"], len(dataset))


def announced(data: str, dataset: Dataset, settings: Mapping[str, Any], *, sets: bool, slots: bool = True) -> str:
    """What is said at the start of a training: that nothing can be scored, or only a part is on the way; or nothing.

    Args:
        data: name of the data set.
        dataset: its validation split.
        settings: of the run by name.
        sets: whether the method predicts sets, which are scored without masks.
        slots: whether it finds slots; of another, such as an autoencoder, nothing is scored and nothing said.
    """
    if not slots:
        return ""
    if not has_masks(dataset) and not sets:
        return unscored(data, "val")
    some, total = counted(dataset, settings, last=False), len(dataset)
    if some == total:
        return ""
    end = f"all images of {settings['eval_split']}" if settings.get("last_eval_all") else "as many"
    return f"While training, the first {some:,} of {total:,} images of the split val are scored; at the end {end}."


def check(protocol: str, *, wandb: bool) -> None:
    """Refuse a training that would end at its first or last measurement: a protocol or a library that is not here.

    Raises:
        UserError: naming it.
    """
    protocols.get(protocol, importing=False)
    if wandb:
        check_extra("wandb", "wandb")


def show(
    method: Method,
    result: DiscoveryResult | None,
    dataset: Dataset,
    folder: Path,
    *,
    step: int,
    looked_at: Mapping[str, Any] | None = None,
) -> None:
    """Pictures of the worst images and of the first ones, which no score chose; those of something else stay."""
    if looked_at is not None and looks_at_something_else(folder / "samples" / "index.json", looked_at):
        return
    per_image = result.per_image if result else {}
    values = per_image.get("fg_ari")
    worst = values.nan_to_num(2).argsort()[: SAMPLES // 2].tolist() if values is not None else []
    count = result.num_images if result else len(dataset)
    first = [i for i in range(min(count, SAMPLES)) if i not in worst][: SAMPLES - len(worst)]
    indices = [*worst, *first]
    scores = {i: {name: values[i].item() for name, values in per_image.items()} for i in indices}
    write_samples(method, dataset, folder, indices=indices, step=step, scores=scores, looked_at=looked_at)


def unscored(name: str, split: str) -> str:
    """What is said of a split without true masks."""
    return f"{name} has no true masks in its split {split}: nothing is scored, see the pictures and the detector."


def has_masks(dataset: Dataset) -> bool:
    """Whether anybody marked the objects."""
    return len(dataset) > 0 and "mask" in dataset.__getitems__([0])


def attends(method: Method, dataset: Dataset) -> bool:
    """Whether there are maps to look at: of a decoder, or of attention, which leaves its iterations in the output."""
    if isinstance(method, Decodes):
        return True
    with inspecting(method, seed=0) as device:
        return bool(method.encode_batch(to_batch(dataset.__getitems__([0]), device)).attn_steps)
