"""Our methods against the code of those who published them, in one process, in turns.

    python -m benchmarks peers --peers DIR                    every adapter whose repository lies in DIR
    python -m benchmarks peers --peers DIR slate --rounds 3   one of them

DIR holds clones by the name of their repository; each adapter names the commit it was written for. Their code stays
outside of this project. Where weights can be carried over, both sides hold the same ones and their outputs are compared
before anything is timed; otherwise the row says what differs. CPU time stands beside the time of the clock: it is what
other programs disturb least. One JSON file takes every row as it comes, with machine, commits, threads and load.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from slotworks.files import write_text

ADAPTERS = ("object_centric_library", "slate", "spot")


@dataclass(frozen=True)
class Job:
    """The same work twice."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    equal: str  # what was compared before, or what differs
    difference: float | None  # the largest of the compared numbers; None: nothing could be


@contextmanager
def their_modules(folder: Path, *stand_ins: str) -> Iterator[None]:
    """Inside, `import` finds a repository's modules; afterwards their names are free for another repository's.

    `stand_ins` are packages that it imports and that what is measured does not call: empty modules take their place
    where they are not installed. All their attributes can be called and ask nothing.
    """
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    for name in stand_ins:
        try:
            importlib.import_module(name)
        except ImportError:
            module = types.ModuleType(name)
            module.__path__ = []  # a package, whose modules are stand-ins too
            module.__getattr__ = lambda attribute: MagicMock()  # pyright: ignore[reportAttributeAccessIssue]
            sys.modules[name] = module
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if name in stand_ins or file.startswith(str(folder)):
                del sys.modules[name]


def training_step(
    loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, clip: float | None = None
) -> Callable[[], None]:
    """A step as their training programs and ours make it."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(weights, clip)
        optimizer.step()

    return step


def compare(job: Job, rounds: int) -> dict[str, Any]:
    """CPU time and time of the clock of both sides in turns: medians, the quickest, and the ratio of each."""
    sides = {"ours": job.ours, "theirs": job.theirs}
    cpu: dict[str, list[float]] = {"ours": [], "theirs": []}
    clock: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(1 + rounds):
        for side in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            began, started = time.process_time(), time.perf_counter()
            sides[side]()
            if number:  # the first warms up
                cpu[side].append(time.process_time() - began)
                clock[side].append(time.perf_counter() - started)
    row: dict[str, Any] = {"job": job.name, "equal": job.equal, "difference": job.difference, "rounds": rounds}
    for side in sides:
        row[side] = {
            "cpu_median": median(cpu[side]),
            "cpu_min": min(cpu[side]),
            "cpu_max": max(cpu[side]),
            "clock_median": median(clock[side]),
        }
    row["ratio"] = row["theirs"]["cpu_median"] / row["ours"]["cpu_median"]
    row["ratio_of_quickest"] = row["theirs"]["cpu_min"] / row["ours"]["cpu_min"]
    return row


def commit_of(folder: Path) -> str | None:
    """The commit that a clone is at; None where that is not known."""
    if not (folder / ".git").exists():
        return None
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    return found.stdout.strip() or None


def main(words: list[str]) -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ADAPTERS)}; by default all")
    parser.add_argument("--peers", type=Path, required=True, help="folder of their clones")
    parser.add_argument("--out", type=Path, default=Path("peers.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(words)
    if unknown := set(options.names) - set(ADAPTERS):
        parser.error(f"there is no adapter {min(unknown)}; known: {', '.join(ADAPTERS)}.")
    torch.set_num_threads(options.threads)
    here = Path(__file__).parents[2]
    machine = {"system": platform.platform(), "processor": _processor(), "torch": torch.__version__}
    machine |= {"threads": options.threads, "commit": commit_of(here)}
    record: dict[str, Any] = {"machine": machine, "rows": []}
    for name in options.names or ADAPTERS:
        adapter = importlib.import_module(f"benchmarks.peers.{name}")
        folder = options.peers / adapter.REPOSITORY.split("/")[1]
        if not folder.is_dir():
            print(f"{adapter.REPOSITORY} is not in {options.peers}; clone it at {adapter.COMMIT[:12]}.")
            continue
        for job in adapter.jobs(folder):
            row = {"peer": adapter.REPOSITORY, "written_for": adapter.COMMIT, "their_commit": commit_of(folder)}
            row |= {"load": os.getloadavg()[0], **compare(job, options.rounds)}
            record["rows"].append(row)
            write_text(options.out, json.dumps(record, indent=1) + "\n")
            ours, theirs = row["ours"]["cpu_median"], row["theirs"]["cpu_median"]
            print(f"{job.name:<62} {1000 * ours:9.1f} ms  theirs {1000 * theirs:9.1f} ms  {row['ratio']:6.2f}x")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
