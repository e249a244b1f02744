"""What watches a training: told of steps, evaluations, checkpoints and the end, and unable to change its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slotworks.parts import find
from slotworks.types import UserError


@dataclass(frozen=True)
class Result:
    """Where a session ended."""

    folder: Path
    step: int  # finished updates
    finished: bool  # all of `run.steps`; False after Ctrl-C, SIGTERM or `stop_after`
    seconds: float  # of training, all sessions, without evaluation and saving
    metrics: dict[str, float] = field(default_factory=dict)  # the last evaluation, `eval/...`
    signal: int = 0  # what asked it to stop before all steps were done: the number of Ctrl-C or SIGTERM


class Callback:
    """Override what is of interest. Only the first of several processes calls; what is given is a copy.

    An error that a callback raises ends the training; the last checkpoint stays, and the same command goes on from it.
    Random numbers may be drawn: those of the training are a function of its seed and the step.
    """

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        """After each update: `loss/TERM`, `total`, `lr` and `grad_norm`; `step` is the number of finished updates.

        To have these numbers the loop waits for the device after every step, which it does not do without callbacks.
        """

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """After each evaluation: `eval/METRIC`."""

    def on_checkpoint(self, step: int, path: Path) -> None:
        """After a checkpoint was written, which `slotworks.training.load_method(path)` opens."""

    def on_end(self, result: Result) -> None:
        """When a session ends, with all steps done or stopped; not after an error."""


def find_callback(name: str) -> Callback:
    """A callback of one's own by its name, see `slotworks.parts`; a class is called without arguments.

    Raises:
        UserError: if there is none.
    """
    found: Any = find("callback", name, {}, object)
    found = found() if isinstance(found, type) and issubclass(found, Callback) else found
    if not isinstance(found, Callback):
        raise UserError(f"{name} is no callback; expected a subclass of slotworks.training.Callback.")
    return found
