"""What a task of an evaluation is: one shape, one file for each, here or outside of the package.

    options, needs  --checked before the work-->  images  --method, score-->  Result  -->  RUN/eval/*.json

`slotworks evaluate RUN --task NAME` finds a task by its name (`slotworks.parts`), reads its options from the command
line, asks what it needs of the method and of each data set, and writes down what its `score` returns.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from slotworks import parts
from slotworks.errors import nearest
from slotworks.evaluation.records import make_record
from slotworks.metrics.metric import Metric
from slotworks.progress import progress
from slotworks.types import Batch, DataConfig, Dataset, Method, RawBatch, UserError, VideoMethod, to_batch

TASKS: dict[str, "Task | str"] = {
    name: f"slotworks.evaluation.{name}:TASK"
    for name in ("discovery", "semantic", "properties", "reconstruction", "removal", "edits", "sets", "generation")
}
"""The tasks of the package: where each is."""


@dataclass(frozen=True)
class Summary:
    """A mean over `n` images (or objects, if the rules say so) and its standard error. NaN where undefined."""

    mean: float
    sem: float
    n: int


@dataclass(frozen=True)
class Result:
    """Scores of one method on one data set by one set of rules."""

    protocol: str  # the name of the rules, under which the record is stored
    rules: str  # what exactly these numbers count, in one line to print beside them
    num_images: int
    seed: int
    metrics: dict[str, Summary]
    per_image: dict[str, Float64[Tensor, " i"]] = field(default_factory=dict)  # in data set order; NaN: not counted

    def record(self, *, data: str, split: str, checkpoint: str) -> dict[str, Any]:
        """What `write_eval` stores: these numbers and where they come from."""
        names = {"protocol": self.protocol, "rules": self.rules}
        return make_record(self, data=data, split=split, checkpoint=checkpoint, **names)


@dataclass(frozen=True)
class Needs:
    """What a task can measure, so that what it cannot is said before the work."""

    method: type | None = None  # a protocol of `slotworks.types`, or of one's own, that the method has to fulfil
    lacking: str = ""  # what is said of a method that does not: "predicts no sets of objects; ..."
    slots: bool = True  # False: a network that methods build on, such as an encoder, can be measured, too
    videos: bool = False  # whether a method of videos can be measured
    fields: tuple[str, ...] = ()  # of a batch; `image` stands for `video`, too
    hint: str = ""  # what is said where a data set lacks one: "semantic scores need class_mask"
    class_names: bool = False  # of the data set or the method

    def check_method(self, method: Method, task: str) -> None:
        """Raises UserError for a method that the task cannot measure."""
        name = type(method).__name__
        if self.method is not None and not isinstance(method, self.method):
            lacking = self.lacking or f"is no {self.method.__name__}, as the task {task} needs"
            raise UserError(f"{name} {lacking}.")
        if self.slots and not finds_slots(method):
            raise UserError(f"{name} finds no slots, so there is nothing to measure in {task}.")
        if isinstance(method, VideoMethod) and not self.videos:
            raise UserError(
                f"{name} takes videos, the task {task} is one for images; measure discovery or reconstruction."
            )

    def check_batch(self, batch: Batch | RawBatch) -> None:
        """Raises UserError for a batch that lacks a field."""
        for name in self.fields:
            if name in batch or (name == "image" and "video" in batch):
                continue
            if name == "image" and "features" in batch:
                raise UserError("This data set holds cached features, no images; give one with images to evaluate on.")
            word = {"mask": "masks", "image": "images", "class_mask": "classes"}.get(name, name)
            hint = f"; {self.hint}" if self.hint else ""
            raise UserError(f"This data set has no {word}, only {', '.join(batch)}{hint}.")


_measured: ContextVar[str] = ContextVar("measured", default="")
"""Of which data set a bar shows how many images are done; none by default, as during a training, which has its own."""

Opener = Callable[[DataConfig, str], tuple[Dataset, str]]
"""Opens a split of a data set; gives what was done to its images, too, for the rules of a record."""


def plainly(source: DataConfig, split: str) -> tuple[Dataset, str]:
    """Opens a split as it is."""
    return source.open(split), ""


@dataclass(frozen=True)
class Job:
    """What is asked for: of which method, with which options, on how many images."""

    method: Method
    options: Any = None  # of the class that the task names
    protocol: str = ""  # of the run: the rules that discovery follows where no others are named
    num_images: int | None = None
    batch_size: int = 64
    seed: int = 0
    open: Opener = plainly  # a split of a data set at the size that the method takes

    @property
    def how(self) -> dict[str, Any]:
        """Every option by name, for the function that scores."""
        given = {one.name: getattr(self.options, one.name) for one in fields(self.options)} if self.options else {}
        return {"num_images": self.num_images, "batch_size": self.batch_size, "seed": self.seed, **given}


@dataclass(frozen=True)
class Task:
    """A task: what it is called, what it needs, its options, its metrics, and the function that scores."""

    name: str
    about: str  # in a few words, for the help
    score: Callable[[Job, DataConfig, Dataset], Sequence[Any]]  # a `Result` for each record
    metrics: tuple[Metric, ...]  # with unit and direction; they may be more than one call returns
    needs: Needs = Needs()
    options: type | None = None  # a dataclass of fields made by `option`; the command line follows from it
    check: Callable[[Job], Any] | None = None  # raises UserError for what `needs` cannot say, before data are opened
    pictures: bool = False  # whether its scores per image choose the pictures of a run that needs no training

    def read(self, given: Mapping[str, Any]) -> Any:
        """The options as the task takes them.

        Raises:
            UserError: for one that the task does not have, or a value that it refuses.
        """
        known = [one.name for one in fields(self.options)] if self.options else []
        for name in given:
            if name not in known:
                near = f"nearest: {nearest(name, known)}" if known else "it has none"
                raise UserError(f"{name} is no option of the task {self.name}; {near}.")
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        try:
            return self.options(**given) if self.options else None
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from None

    @property
    def own(self) -> tuple[Metric, ...]:
        """Metrics that the package does not have: those of a task of one's own."""
        return () if self.name in TASKS else self.metrics

    def prepare(self, job: Job, sources: Sequence[DataConfig], split: str) -> Iterator[tuple[DataConfig, Dataset, str]]:
        """Check all that the task needs, and open a split of each data set; the string is what was done to its images.

        While one of them is had, `batches` shows a bar.

        Raises:
            UserError: for a method or data that cannot be measured, before anything is.
        """
        self.needs.check_method(job.method, self.name)
        if self.check is not None:
            self.check(job)
        for source in sources:
            if self.needs.class_names:
                class_names(job.method, source)
        opened = [(source, *job.open(source, split)) for source in sources]
        for _, dataset, _ in opened:
            if len(dataset):
                self.needs.check_batch(dataset.__getitems__([0]))
        return _measuring(opened)


def _measuring(opened: Iterable[tuple[DataConfig, Dataset, str]]) -> Iterator[tuple[DataConfig, Dataset, str]]:
    for one in opened:
        before = _measured.set(one[0].name)
        try:
            yield one
        finally:
            _measured.reset(before)


def option(default: Any, about: str, *, flag: str = "") -> Any:
    """A field of the options of a task: its default, what it is, and its flag where that is not `--name`."""
    return field(default=default, metadata={"about": about, "flag": flag})


def find(name: str) -> Task:
    """The task of this name, see `slotworks.parts`.

    Raises:
        UserError: if there is none.
    """
    return parts.find("task", name, TASKS, Task)


def finds_slots(method: Method) -> bool:
    """Whether it is a method, and not a network that methods build on, such as an encoder."""
    return type(method).encode is not Method.encode


def class_names(method: Method, source: DataConfig) -> Sequence[str]:
    """Names of the classes from 1 on, of the data set or else the method.

    Raises:
        UserError: if neither has any.
    """
    names = getattr(source, "class_names", None) or getattr(getattr(method, "config", None), "class_names", None)
    if names is None:
        raise UserError(f"{source.name} does not name classes; semantic scores need data that do, such as voc2012.")
    return names


def count_images(dataset: Dataset, num_images: int | None, *, to: str = "evaluate") -> int:
    """How many images are measured: all, or the first `num_images`.

    Raises:
        UserError: if there are none.
    """
    count = min(len(dataset), len(dataset) if num_images is None else num_images)
    if count < 1:
        raise UserError(f"There is no image to {to}: the split has {len(dataset)}, num_images is {num_images}.")
    return count


def batches(
    dataset: Dataset,
    count: int,
    batch_size: int,
    device: torch.device,
    needs: Needs,
    advance: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Batch]]:
    """The first `count` samples on the device, batch after batch, each with the index of its first one.

    `advance` is told how many there were when the next batch is asked for; by default a bar is, for what
    `Task.prepare` opened.

    Raises:
        UserError: if they lack a field that is needed.
    """
    if advance is None and (name := _measured.get()) and count:
        with progress(name, count) as shown:
            yield from batches(dataset, count, batch_size, device, needs, shown)
        return
    for start in range(0, count, batch_size):
        rows = range(start, min(start + batch_size, count))
        batch = to_batch(dataset.__getitems__(rows), device)
        needs.check_batch(batch)
        yield start, batch
        if advance is not None:
            advance(len(rows))


def summarize(values: Float64[Tensor, " i"], weights: Float64[Tensor, " i"] | None = None) -> Summary:
    """Weighted mean and its standard error over images; images of weight 0 do not count.

    With weights of one this is the ordinary standard error, `std / sqrt(n)`; otherwise that of a ratio of sums.
    Without weights those images count whose value is not NaN.
    """
    weights = (~values.isnan()).to(values) if weights is None else weights
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
