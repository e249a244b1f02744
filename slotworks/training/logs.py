"""What a run writes and shows while it trains: metrics.jsonl, TensorBoard, Weights & Biases, a progress bar."""

import hashlib
import json
import math
import platform
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slotworks.errors import printable
from slotworks.files import write_text
from slotworks.json_text import read_json
from slotworks.progress import (
    MEASURED,
    PlainConsole,
    console,
    cpu_advice,
    duration,
    following,
    has_bars,
    name_column,
    warning,
    whole_training,
)
from slotworks.training import allocator
from slotworks.training.numerics import TABLE, device_kind
from slotworks.training.run import Run
from slotworks.training.serialize import to_plain
from slotworks.types import UserError

METRICS = "metrics.jsonl"
WARM = 5  # steps that are not timed


def cut_back(folder: Path, step: int) -> dict[str, Any]:
    """Drop the lines of metrics.jsonl after `step`, and a half-written one.

    Returns:
        `step` and the `eval/...` values of the last evaluation that is left, or nothing.

    Raises:
        UserError: if the disk refuses.
    """
    path = folder / METRICS
    if not path.exists():
        return {}
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [(line, record) for line in lines if (record := _parse(line)) and record["step"] <= step]
    if len(kept) < len(lines):
        write_text(path, b"".join(line for line, _ in kept).decode())
    for _, record in reversed(kept):
        found = {name: math.nan if v is None else v for name, v in record.items() if name.startswith("eval/")}
        values = {name: v for name, v in found.items() if isinstance(v, int | float)}
        if values:
            return {"step": record["step"], **values}
    return {}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, without damaged lines; none if the file is missing."""
    path = folder / METRICS
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [record for line in lines if (record := _parse(line))]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = read_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


class Log:
    """Appends records to metrics.jsonl and the same numbers to TensorBoard and W&B if the run asks for them."""

    def __init__(self, run: Run, folder: Path, *, step: int):
        self.path = folder / METRICS
        self.tensorboard = _tensorboard(folder, step) if run.tensorboard else None
        self.wandb = _wandb(run, folder) if run.wandb else None

    def write(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """One line: `step` finished updates, `time` seconds of training, `values`; what is not finite becomes null.

        Raises:
            UserError: if the disk refuses; earlier lines stay.
        """
        record = {"step": step, "time": round(seconds, 3)}
        record |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            if self.tensorboard is not None:
                for name, value in values.items():
                    self.tensorboard.add_scalar(name, value, step)
        except OSError as error:
            raise UserError(
                f"{self.path} could not be extended ({error.strerror}); the last checkpoint is untouched. Make room, "
                "then start the same command again to go on from it."
            ) from None
        if self.wandb is not None:
            self.wandb.log(values, step=step)

    def close(self) -> None:
        """Finish TensorBoard and W&B."""
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()


def _tensorboard(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)  # hides what a killed session wrote beyond


def _wandb(run: Run, folder: Path) -> Any:
    try:
        import wandb  # type: ignore[import-not-found]
    except ImportError:
        raise UserError(
            "wandb is set, but the package is missing; install it with `pip install 'slotworks[wandb]'`."
        ) from None
    identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]  # the same folder goes on with its run
    return wandb.init(
        project="slotworks", name=folder.name, id=identity, resume="allow", dir=str(folder), config=to_plain(run)
    )


class Display:
    """A progress bar on a terminal; elsewhere at most a hundred lines per run, and one per evaluation."""

    def __init__(self, run: Run, folder: Path, *, step: int, device: torch.device, quiet: bool):
        self.console = PlainConsole(stderr=True, quiet=True) if quiet else console
        self.run, self.device, self.steps = run, device, run.steps
        self.start, self.clock = step, 0.0
        self.shown = -math.inf
        self.metric = ""
        self.progress = Progress(
            name_column(),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metric]}"),
            console=self.console,
            disable=quiet or not has_bars(self.console),
        )
        self.task = self.progress.add_task(printable(folder.name), total=run.steps, completed=step, loss="", metric="")

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def advance(self, step: int, seconds: float) -> None:
        """Another update is done, after so many seconds of training; says once how long the whole will take."""
        self.progress.update(self.task, completed=step)
        if step == self.start + WARM:
            self.clock = seconds
        elif step == self.start + WARM + MEASURED and step < self.steps:
            self._estimate(step, (seconds - self.clock) / MEASURED)

    def _estimate(self, step: int, step_seconds: float) -> None:
        run, left = self.run, self.steps - step
        evaluations = left // run.eval_every + 2  # the last step, and the test split
        seconds = whole_training(step_seconds, left, evaluations, run.eval_images / run.batch_size)
        text = f"About {duration(seconds)} for the {left:,} steps that are left, evaluations included"
        runs, steps = following.get()
        if runs:
            seconds += seconds / left * steps
            text += f"; with the {runs} runs that follow about {duration(seconds)}"
        on_cpu = self.device.type == "cpu"
        self.say(f"{text}.{warning(seconds, self._advice) if on_cpu else ''}")

    def _advice(self) -> list[str]:
        """What would make a training on this CPU shorter."""
        numerics, found = TABLE[device_kind(self.device)], []
        if self.run.precision in numerics.slow:
            found.append(f"--precision auto, which is {numerics.precision} here")
        if not allocator.keeps and platform.libc_ver()[0] == "glibc":
            found.append("--keep-memory")
        return [*found, "fewer --steps", *cpu_advice(torch.get_num_threads())]

    def losses(self, step: int, total: float, speed: float) -> None:
        """Show the loss and the speed in updates per second."""
        text = f"loss {total:.4g}  {speed:.3g} it/s"
        self.progress.update(self.task, loss=text)
        if not has_bars(self.console) and (step == self.steps or step - self.shown >= self.steps / 100):
            self.shown = step
            left = (self.steps - step) / speed
            self.console.print(f"step {step}/{self.steps}  {text}  {left:.0f} s left", highlight=False)

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Show the first metric beside the bar, all of them on a line."""
        if values:
            name, value = next(iter(values.items()))
            self.progress.update(self.task, metric=f"{name.removeprefix('eval/')} {value:.4g}")
            text = "  ".join(f"{name.removeprefix('eval/')} {value:.4g}" for name, value in values.items())
            self.console.print(f"step {step}  {text}", highlight=False, soft_wrap=True, markup=False)

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)
