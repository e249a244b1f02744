"""What long work shows while it goes on, and how long the whole will take.

On a terminal there is a bar, and in a notebook where `ipywidgets` is installed. Elsewhere, as in a log file, there are
at most a hundred lines for each piece of work, each at least ten seconds and a percent after the one before; never
control characters.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from slotworks.errors import printable
from slotworks.machine import usable_cores


class PlainConsole(Console):
    """Names come from files, and may hold what moves the cursor: control characters are written out."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text as rich shows it, without control characters."""
        return super().render_str(printable(text), **options)


console = PlainConsole(stderr=True)
"""Where progress lives: lines printed through the same console appear above a bar, not across it."""

LONG = 3600.0  # seconds, beyond which there is advice
PAUSE = 10.0  # seconds between lines
MEASURED = 20  # steps or items, and
SETTLED = 2.0  # seconds, after which the whole is estimated

Advice = Callable[[], Sequence[str]]
"""What would make the work shorter here, in words; asked only if it is long."""

following: ContextVar[tuple[int, int]] = ContextVar("following", default=(0, 0))
"""Trainings that follow the present one in a sweep or with several seeds: how many, and their steps together."""


@contextmanager
def silent() -> Iterator[None]:
    """Nothing of it is shown."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


@contextmanager
def progress(
    what: str, total: int | None, *, done: int = 0, unit: str = "images", advice: Advice | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows a piece of work; gives the function to call with the number of items that were finished.

    Args:
        what: is made.
        total: number of items, those of earlier sessions included; None if nobody knows.
        done: in earlier sessions.
        unit: of the items, in the plural.
        advice: by default that for work on the CPU without networks.
    """
    columns = (name_column(), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    shown = has_bars(console)
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not shown)
    task = bar.add_task(printable(what), total=total, completed=done, rate="")
    now, began, counted, told, last_line, last_done = done, 0.0, 0, False, 0.0, done

    def advance(count: int = 1) -> None:
        nonlocal now, began, counted, told, last_line, last_done
        now, clock = now + count, time.monotonic()
        if not began:  # what came before the first item was preparation
            began = last_line = clock
            bar.update(task, completed=now)
            return
        counted += count
        elapsed = clock - began
        rate = counted / max(elapsed, 1e-9)
        text = f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"
        bar.update(task, completed=now, rate=text)
        if total is not None and not told and counted >= MEASURED and elapsed >= SETTLED:
            told = True
            seconds = (total - done) / rate
            if seconds >= PAUSE:
                say(f"{what}: about {duration(seconds)} for {total - done:,} {unit}.{warning(seconds, advice)}")
        if not shown and clock - last_line >= PAUSE and (total is None or now - last_done >= total / 100):
            left = "" if total is None else f", about {duration((total - now) / rate)} left"
            last_line, last_done = clock + (0 if total is not None else elapsed), now  # without an end: ever rarer
            say(f"{what}: {now:,}{'' if total is None else f' of {total:,}'} {unit}, {text}{left}")

    with bar:
        yield advance


def has_bars(where: Console) -> bool:
    """Whether a bar can move there. In a notebook it is a widget, for which rich asks `ipywidgets`."""
    return where.is_terminal or (where.is_jupyter and find_spec("ipywidgets") is not None)


def name_column() -> TextColumn:
    """What is made, in front of a bar: the name of a file or folder, in which brackets are brackets."""
    return TextColumn("{task.description}", markup=False)


def say(text: str) -> None:
    """A line above the bar."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A time in words: 40 seconds, 12 minutes, 3.5 hours, 2.1 days."""
    for size, name, below in ((1, "second", 90), (60, "minute", 90 * 60), (3600, "hour", 48 * 3600)):
        if seconds < below:
            value = seconds / size
            text = f"{value:.1f}" if name == "hour" and value < 10 else f"{max(value, 1):.0f}"
            return f"{text} {name}{'' if text in ('1', '1.0') else 's'}"
    return f"{seconds / 86400:.1f} days"


def warning(seconds: float, advice: Advice | None = None) -> str:
    """What to add to an estimate that is long: what would make it shorter."""
    if seconds <= LONG:
        return ""
    found = [*(advice() if advice else ()), *_load_advice()]
    return " This is long." + (f" Shorter: {'; '.join(found)}." if found else "")


def cpu_advice(threads: int) -> list[str]:
    """For networks that compute on the CPU in so many threads."""
    found, cores = [], usable_cores()
    if threads < cores:
        found.append(f"more threads (OMP_NUM_THREADS={cores}; there are {threads})")
    return [*found, "a GPU"]


def _load_advice() -> list[str]:
    """Other work that takes cores away."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, usable_cores()
    return [f"less other work beside it (the load is {load:.0f} on {cores} cores)"] if load > 2 * cores else []


def whole_training(step_seconds: float, steps: int, evaluations: int, evaluation_steps: float) -> float:
    """Seconds of steps and evaluations; one of these takes about a third of a step for every batch it looks at."""
    return step_seconds * (steps + evaluations * math.ceil(evaluation_steps) / 3)
