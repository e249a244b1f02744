"""Our methods against the code of those who published them, in one process, in turns.

    python -m benchmarks peers --peers DIR                    every adapter whose repository lies in DIR
    python -m benchmarks peers --peers DIR slate --rounds 3   one of them
    python -m benchmarks peers --show peers.json              the table of what was measured before

DIR holds clones by the name of their repository; each adapter names the commit it was written for. Their code stays
outside of this project. Where weights can be carried over, both sides hold the same ones and their outputs are compared
before anything is timed; otherwise the row says what differs. CPU time stands beside the time of the clock: it is what
other programs disturb least. One JSON file takes every row as it comes, with machine, commits, threads and load; a run
of some adapters keeps the rows of the others. Behind each ratio stands the one to reach.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from slotworks.convert.family import Made, Options
from slotworks.convert.source import Source
from slotworks.files import write_text
from slotworks.training import Run

ADAPTERS = (
    "object_centric_library",
    "slot_diffusion",
    "steve",
    "spot",
    "latent_slot_diffusion",
    "slate",
    "dataset_diffusion",
)


@dataclass(frozen=True)
class Job:
    """The same work twice."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    equal: str  # what was compared before, or what differs
    difference: float | None  # the largest of the compared numbers; None: nothing could be
    target: float | None = None  # the ratio to reach


class _StandIns(MetaPathFinder, Loader):
    """Finds empty modules by these names and for whatever is in them."""

    names: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        return any(name == own or name.startswith(f"{own}.") for own in self.names)

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if self.has(fullname) else None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__getattr__ = _stand_in  # pyright: ignore[reportAttributeAccessIssue]


def _stand_in(name: str) -> Any:
    if name.startswith("__"):  # what Python asks modules for, such as __all__
        raise AttributeError(name)
    return MagicMock()


@contextmanager
def their_modules(*folders: Path, stand_ins: Sequence[str] = ()) -> Iterator[None]:
    """Inside, `import` finds the modules of repositories; afterwards their names are free for other repositories'.

    `stand_ins` are modules that they import and that what is measured does not call: empty ones take the place of
    those that cannot be imported, and of all that are in them. All their attributes can be called and ask nothing.
    """
    before, places, finder = set(sys.modules), [str(folder) for folder in folders], _StandIns()

    def forget() -> None:
        new = {name: sys.modules[name] for name in sys.modules.keys() - before}
        for name, module in new.items():
            if finder.has(name) or _is_of(module, tuple(places)):
                del sys.modules[name]

    sys.path[:0] = places
    sys.meta_path.insert(0, finder)
    for name in stand_ins:
        try:
            importlib.import_module(name)
        except ImportError:
            finder.names += (name,)
            forget()  # what was imported before it failed
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for place in places:
            sys.path.remove(place)
        forget()


def _is_of(module: types.ModuleType, places: tuple[str, ...]) -> bool:
    """Whether a module lies in one of the folders; a folder without `__init__.py` has no file, but a path."""
    try:
        files = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
    except KeyError:  # the package that it is in is gone
        return True
    return any(file.startswith(places) for file in files)


def carried_over(theirs: nn.Module, convert: Callable[[Source, Options], Made], **options: Any) -> tuple[Any, Run]:
    """Our method with their weights, and the run that was made for it; `options` are those of the conversion."""
    state = {name: value.detach() for name, value in theirs.state_dict().items()}
    made = convert(Source(Path("theirs"), "torch", state), Options(Path("unused"), **options))
    ours = made.run.method.build()
    ours.load_state_dict(made.weights)
    return ours, made.run


def drop_nothing(module: nn.Module) -> None:
    """No dropout anywhere in it, for networks with more than their arguments set."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0


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
    row: dict[str, Any] = {"job": job.name, "equal": job.equal, "difference": job.difference, "target": job.target}
    row["rounds"] = rounds
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
    parser.add_argument("--peers", type=Path, help="folder of their clones")
    parser.add_argument("--out", type=Path, default=Path("peers.json"))
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the table of this file and measure nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(words)
    if options.show:
        print(table(json.loads(options.show.read_text())["rows"]))
        return
    if options.peers is None:
        parser.error("--peers is missing; name the folder of their clones.")
    if unknown := set(options.names) - set(ADAPTERS):
        parser.error(f"there is no adapter {min(unknown)}; known: {', '.join(ADAPTERS)}.")
    torch.set_num_threads(options.threads)
    machine = {"system": platform.platform(), "processor": _processor(), "torch": torch.__version__}
    machine |= {"threads": options.threads, "commit": commit_of(Path(__file__).parents[2])}
    names = options.names or ADAPTERS
    earlier = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    rows = [row for row in earlier if row["adapter"] not in names]
    for name in names:
        for row in rows_of(name, options.peers, options.rounds):
            rows.append(row | {"machine": machine, "load": os.getloadavg()[0]})
            rows.sort(key=lambda row: ADAPTERS.index(row["adapter"]))  # stable: those of an adapter stay in turn
            write_text(options.out, json.dumps({"rows": rows}, indent=1) + "\n")
            print(line(row), flush=True)
    print(f"\n{table(rows)}")


def rows_of(name: str, peers: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """What one adapter measures; where its repository is missing or refuses, one row with the reason."""
    adapter = importlib.import_module(f"benchmarks.peers.{name}")
    folder = peers / adapter.REPOSITORY.split("/")[1]
    about = {"adapter": name, "peer": adapter.REPOSITORY, "written_for": adapter.COMMIT}
    if not folder.is_dir():
        yield about | {"job": "all", "missing": f"is not in {peers}; clone it at {adapter.COMMIT[:12]}."}
        return
    about["their_commit"] = commit_of(folder)
    try:
        for job in adapter.jobs(folder):
            yield about | compare(job, rounds)
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:  # their code and newer libraries
        yield about | {"job": "the rest", "missing": f"stopped: {type(error).__name__}: {error}"}


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    if "missing" in row:
        return f"{row['peer']}, {row['job']}: {row['missing']}"
    ours, theirs = (1000 * row[side]["cpu_median"] for side in ("ours", "theirs"))
    aim = f"  to reach {row['target']:g}" if row["target"] else ""
    return f"{row['job']:<66} {ours:9.1f} ms  theirs {theirs:9.1f} ms  {row['ratio']:6.2f}x{aim}"


def table(rows: list[dict[str, Any]]) -> str:
    """All rows, CPU time, as a table of Markdown."""
    lines = [
        "| job | peer | theirs | ours | ratio | to reach | reached |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if "missing" in row:
            lines.append(f"| {row['job']} | {row['peer']} | {row['missing']} | | | | |")
            continue
        theirs, ours = (f"{row[side]['cpu_median']:.3g} s" for side in ("theirs", "ours"))
        aim = row["target"]
        reached = "" if aim is None else "yes" if row["ratio"] >= aim else "no"
        ends = f"{row['ratio']:.2f} | {'' if aim is None else f'{aim:g}'} | {reached}"
        lines.append(f"| {row['job']} | {row['peer']} | {theirs} | {ours} | {ends} |")
    return "\n".join(lines)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
