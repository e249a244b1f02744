"""Whole commands that are killed, interrupted or refused the disk at random moments, and then given once more.

    python tests/kills.py --trials 20 --seed 0              every command, every way to end it
    python tests/kills.py train edit --how kill --trials 5
    python tests/kills.py --real --how kill                 processes of their own from `python -m slotworks` on
    sudo python tests/kills.py --how disk                   a small file system in memory that really is full

A trial: a fresh folder with a person's own files, the command, something that ends it (one to three times), then the
same command until it ends by itself. What there is then must be what the undisturbed command leaves, bit by bit; no
file of the person's is changed at any time; what has its final name is whole at any time; nothing half written stays.

Commands run in children of this process, which has imported everything, or with `--real` in new interpreters. Equal
seeds give equal trials, but for moments that are counted in seconds.
"""

import argparse
import csv
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from slotworks.outputs import LIST

TESTS = Path(__file__).parent
SMALL = "--eval-every 3 --save-every 2 --eval-images 2 --batch-size 2 --precision 32 --num-workers 0".split()
WAYS = ("kill", "kill_before_a_change", "interrupt", "terminate", "full")  # and `disk`, where one may mount
REPLACED = ("table.csv", "table.md", "plot.png", "summary.json")  # hold times, or also what failed in between
DISK = 64 << 20  # bytes of the file system that is filled
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod")
NEED_ROOM = ("os.mkdir", "os.link", "os.symlink", "open")


@dataclass(frozen=True)
class Job:
    """A command in a folder that `prepare` fills."""

    words: Sequence[str]
    prepare: Callable[[Path], None]
    loses_nothing: bool = False  # goes on, prints what it found and says what could not be saved
    saves_on_sigterm: bool = False
    code: int = 0  # of the undisturbed command
    twice: str = "\0"  # what it says, with 2, where its work is done already and that is a mistake
    whole: bool = True  # what has its final name is as it was before or as it is at the end


@dataclass
class Ended:
    """How a command ended."""

    code: int  # negative: the number of the signal
    out: str
    err: str
    seconds: float
    changes: int = 0  # of the disk, as far as Python was asked for them


# ---- running a command ---------------------------------------------------------------------------------------------


def run(words: Sequence[str], folder: Path, *, how: str = "", at: float = 0, real: bool = False) -> Ended:
    """A command in a folder, undisturbed or ended in this way at this moment.

    Args:
        words: of the command line.
        folder: where it is given.
        how: one of `WAYS`; `full`: from the moment on nothing new can be written.
        at: seconds, or for `full` and `kill_before_a_change` the number of the change.
        real: start a new interpreter.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as logs:
        out, err, count = (Path(logs) / name for name in ("out", "err", "count"))
        if real:
            environment = os.environ | {"PYTHONPATH": str(TESTS.parent)}
            command = [sys.executable, "-m", "slotworks", *words]
            with out.open("wb") as file, err.open("wb") as other:
                child = subprocess.Popen(command, cwd=folder, stdout=file, stderr=other, env=environment)
            pid, wait = child.pid, child.wait
        else:
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if not pid:
                _child(words, folder, out, err, count, how, int(at))
            wait = lambda: _code(os.waitpid(pid, 0)[1])  # noqa: E731
        if how in ("kill", "interrupt", "terminate"):
            time.sleep(at)
            number = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}[how]
            os.kill(pid, number)  # not waited for yet, so the number is still its own
        code = wait()
        said = (file.read_text(errors="replace") if file.exists() else "" for file in (out, err))
        changes = int(count.read_text()) if count.exists() else 0
        return Ended(code, *said, time.monotonic() - start, changes)


def _code(status: int) -> int:
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _child(words: Sequence[str], folder: Path, out: Path, err: Path, count: Path, how: str, at: int) -> None:
    """The command in a forked child, which never returns."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
        for stream, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
        os.chdir(folder)
        watch = Watch(folder, how, at)
        from slotworks.cli import main

        code = main(list(words))
        count.write_text(str(watch.done))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Watch:
    """Counts what changes the disk below a folder; before change `at` the process is killed, or the disk is full.

    Args:
        folder: where changes count.
        how: `kill_before_a_change`, `full`, or anything else to count alone.
        at: number of the change, from 1.
    """

    def __init__(self, folder: Path | str, how: str = "", at: int = 0):
        self.folder, self.how, self.at, self.done = str(folder), how, at, 0
        sys.addaudithook(self._hook)  # it stays until the process ends

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.folder or (event != "open" and event not in CHANGES):
            return
        path = arguments[1] if event == "os.rename" else arguments[0]
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                return
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(self.folder):
            return
        self.done += 1
        if self.how == "kill_before_a_change" and self.done == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "full" and self.done >= self.at and event in NEED_ROOM:
            raise OSError(28, "No space left on device", os.fsdecode(path))


# ---- what there is afterwards --------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks, without what no two runs share: times, and what names the machine."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"events\.out\..*", "events", path.relative_to(folder).as_posix())  # one for each session
        if path.is_file() and not path.name.endswith(".lock"):
            found[name] = _lasting(path)
    return found


def _lasting(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name in ("env.json", "report.html") or path.name.startswith("events.out."):
        return b"there"
    if path.name == "table.csv":
        rows = list(csv.DictReader(data.decode().splitlines()))
        return json.dumps([_untimed(row) for row in rows]).encode()
    if path.name == LIST:
        return json.dumps(sorted({_listed(path.parent, line) for line in data.splitlines()} - {""})).encode()
    if path.name == "metrics.jsonl":
        rows = [json.loads(line) for line in data.splitlines()]
        return json.dumps([_untimed(row) for row in rows]).encode()
    if path.suffix == ".safetensors" and "checkpoints" in path.parts:  # the header has the seconds of training
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header["__metadata__"] = _untimed(header.get("__metadata__", {}))
        return json.dumps(header, sort_keys=True).encode() + data[8 + size :]
    if path.suffix == ".json":
        return json.dumps(_untimed(json.loads(data))).encode()
    return data


def _listed(folder: Path, line: bytes) -> str:
    """A line of the list of results; of files that are replaced on the way only whether it knows what is there."""
    try:
        entry = json.loads(line)
    except ValueError:  # cut off
        return line.decode(errors="replace")
    if entry.get("name") not in REPLACED:
        return line.decode()
    file = folder / entry["name"]
    known = file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"]
    return f"{file.name} as it is" if known else ""


def _untimed(value: object) -> object:
    if isinstance(value, dict):
        gone = ("seconds", "images_per_second", "time", "env", "created")
        return {name: _untimed(item) for name, item in value.items() if name not in gone}
    return [_untimed(item) for item in value] if isinstance(value, list) else value


def hidden(name: str) -> bool:
    """Whether a file, or a folder around it, has a name with a dot in front, as what is half written has."""
    return any(part.startswith(".") for part in Path(name).parts)


# ---- the trials ----------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What the trials of one command found."""

    trials: int = 0
    ended: dict[str, int] = field(default_factory=dict)  # by way, those that were ended and not merely finished
    codes: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class Trials:
    """The trials of one command.

    Args:
        name: of the job.
        job: what is done.
        folder: an empty one to work in.
        real: in new interpreters.
        disk: where a file system of its own is mounted; the work is then done there.
    """

    def __init__(self, name: str, job: Job, folder: Path, *, real: bool = False, disk: Path | None = None):
        self.name, self.job, self.folder, self.real, self.report = name, job, folder, real, Report()
        self.place = (disk or folder) / "work"
        self.start = folder / "start"
        self.start.mkdir(parents=True)
        job.prepare(self.start)
        self.before = contents(self.start)
        place = self._fresh()
        before = shutil.disk_usage(place).used
        self.whole = run(job.words, place, real=real)
        assert self.whole.code == job.code, f"{name}: {self.whole.code} {self.whole.err[-900:]}"
        self.after = contents(place)
        self.needed = shutil.disk_usage(place).used - before
        twice = self._fresh()
        assert run(job.words, twice, real=real).code == job.code
        self.differs = sorted(key for key, value in contents(twice).items() if value != self.after.get(key))
        assert not self.differs, f"{name} does not repeat: {self.differs}"
        assert not (lost := self._lost(place)), lost

    def _fresh(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.start, self.place, symlinks=True)
        return self.place

    def _lost(self, place: Path) -> list[str]:
        """The person's own files that are not as they were."""
        found = contents(place)
        return [name for name, data in self.before.items() if name in self.own and found.get(name) != data]

    @property
    def own(self) -> set[str]:
        """Files that were there before and that the undisturbed command left as they were."""
        return {name for name, data in self.before.items() if self.after.get(name) == data}

    def try_once(self, how: str, number: random.Random) -> None:
        """One trial; faults are noted."""
        place, said = self._fresh(), []
        self.report.trials += 1
        for _ in range(number.choice((1, 1, 2, 3))):
            counts = {"kill_before_a_change": self.whole.changes, "full": self.whole.changes, "disk": self.needed}
            last = counts.get(how, self.whole.seconds)
            at = number.randint(1, max(1, counts[how])) if how in counts else number.uniform(0, last)
            filler = self._fill(int(at)) if how == "disk" else None
            ended = run(self.job.words, place, how=how, at=at, real=self.real)
            if filler:
                filler.unlink()
            said.append(f"{how} at {at:.4g} of {last:.4g}: {ended.code}")
            key = f"{how} {ended.code}"
            self.report.codes[key] = self.report.codes.get(key, 0) + 1
            self._check_end(how, ended, said)
            for name in self._lost(place):
                self._fault(said, f"the person's {name} is not as it was")
            if self.job.whole:
                self._check_whole(place, said)
            if how in ("full", "disk"):
                self._check_partial(place, said, "after a refusal")
        again = run(self.job.words, place, real=self.real)
        if again.code != self.job.code and self.job.twice not in again.err:
            self._fault(said, f"given once more it ended with {again.code}: {again.err[-600:]}")
            return
        found = contents(place)
        for name in sorted(found.keys() | self.after.keys()):
            if found.get(name) != self.after.get(name):
                what = "is missing" if name not in found else "is too much" if name not in self.after else "differs"
                self._fault(said, f"at the end {name} {what}")

    def _fill(self, room: int) -> Path:
        """Leave so many bytes free where the work is done."""
        filler = self.place.with_name("filler")
        filler.touch()
        with filler.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(self.place).free - room))
        return filler

    def _check_end(self, how: str, ended: Ended, said: list[str]) -> None:
        finished = ended.code == self.job.code or self.job.twice in ended.err
        self.report.ended[how] = self.report.ended.get(how, 0) + (not finished)
        wanted = {"kill": -9, "kill_before_a_change": -9, "interrupt": 130, "full": 2, "disk": 2}.get(how)
        if how == "terminate":
            wanted = 143 if self.job.saves_on_sigterm and ended.code != -15 else -15
        if not finished and ended.code != wanted:
            self._fault(said, f"exit code {ended.code}, expected {wanted}: {ended.err[-600:]}")
        if "Traceback" in ended.err:
            self._fault(said, f"a traceback: {ended.err[-900:]}")
        if how in ("full", "disk") and not finished:
            lines = [line for line in ended.err.splitlines() if re.match(r"slotworks \w+: |Not saved: ", line)]
            if not lines or not any(re.search("o space left|disk is full|are free", line) for line in lines):
                self._fault(said, f"no sentence about the disk: {ended.err[-600:]}")

    def _check_whole(self, place: Path, said: list[str]) -> None:
        for name, data in contents(place).items():
            if not hidden(name) and data not in (self.before.get(name), self.after.get(name)):
                self._fault(said, f"{name} is neither old nor new")

    def _check_partial(self, place: Path, said: list[str], when: str) -> None:
        for path in place.rglob(".partial.*"):
            self._fault(said, f"{path.relative_to(place)} stayed {when}")

    def _fault(self, said: Sequence[str], text: str) -> None:
        self.report.faults.append(f"{self.name}, trial {self.report.trials} ({'; '.join(said)}): {text}")


# ---- the commands --------------------------------------------------------------------------------------------------


def own_files(folder: Path) -> None:
    """What a person has lying about, with names as results could have."""
    (folder / "mine").mkdir(parents=True)
    (folder / "mine/notes.txt").write_text("mine")
    Image.new("RGB", (9, 9), "green").save(folder / "cat_mask.bmp")


def pictures(folder: Path) -> None:
    """Two pictures of equal stem."""
    own_files(folder)
    for name, color in (("cat.png", "red"), ("cat.jpg", "blue")):
        Image.new("RGB", (40, 32), color).save(folder / name)


def clip(folder: Path) -> None:
    """A video of six frames."""
    from slotworks.videos import VideoWriter

    frames = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    with VideoWriter(folder / "cat.mp4", Fraction(5), (32, 40)) as writer:
        for frame in frames:
            writer.write(frame)


def trained(recipe: str, *options: str) -> Callable[[Path], None]:
    """A run of two steps in `run`, trained by the first job that needs it."""

    def make(folder: Path) -> None:
        key = re.sub(r"\W+", "_", f"{recipe} {' '.join(options)}")[-60:]
        kept = Path(os.environ["KILLS_CACHE"]) / key
        if not kept.exists():
            (made := kept.with_name("made")).mkdir(parents=True)
            ended = run(["train", recipe, "--out", "run", "--steps", "2", *SMALL, *options], made)
            assert ended.code == 0, ended.err
            made.rename(kept)
        shutil.copytree(kept / "run", folder / "run")

    return make


def together(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    """One after the other."""

    def make(folder: Path) -> None:
        for step in steps:
            step(folder)

    return make


def fixture(name: str, target: str) -> Callable[[Path], None]:
    """Official files in miniature, below `target`."""
    return lambda folder: shutil.copytree(TESTS / "fixtures" / name, folder / target) and None


def diffusion(folder: Path) -> None:
    """A Stable Diffusion of a few kilobytes."""
    sys.path.insert(0, str(TESTS))
    from tiny_models import save_diffusion

    kept = Path(os.environ["KILLS_CACHE"]) / "diffusion"
    if not kept.exists():
        save_diffusion(kept)
    shutil.copytree(kept, folder / "model")


def released(folder: Path) -> None:
    """A published second stage of GLASS, its encoder and a Stable Diffusion, of a few kilobytes."""
    diffusion(folder)
    sys.path.insert(0, str(TESTS / "methods"))
    from test_transfer_glass import checkpoint
    from tiny_models import save_narrow_vit

    checkpoint(folder / "released")
    shutil.copytree(folder / "model/unet", folder / "released/unet2dconditionmodel")
    save_narrow_vit(folder / "encoder")


def earlier(*words: str) -> Callable[[Path], None]:
    """What this command left."""

    def make(folder: Path) -> None:
        ended = run(words, folder)
        assert ended.code == 0, ended.err

    return make


SETS = "--data.num-test 2 --data.num-val 2".split()
CACHED = "--data.images.num-train 12 --data.images.num-test 2 --data.images.num-val 2 --data.batch-size 2".split()
TETROMINOES = trained("slot_attention.tetrominoes_mini", *SETS)
VIDEOS = trained(f"{TESTS / 'tiny_recipes.py'}:videos")
SHARDS = "--num-images 5 --shard-size 2 --steps 1 --self-size 8 --cross-sizes 8 --image-size 64 --batch-size 2".split()
CONVERT = (
    *("convert", "glass", "released", "--out", "run", "--diffusion", "model", "--image-size", "32"),
    *("--encoder", "encoder", "--patch-size", "8", "--feature-dim", "12"),
)

JOBS: dict[str, Job] = {
    "train": Job(
        [
            "train",
            "slot_attention.tetrominoes_mini",
            "--out",
            "run",
            "--steps",
            "6",
            "--keep-every",
            "2",
            *SMALL,
            *SETS,
        ],
        own_files,
        saves_on_sigterm=True,
        whole=False,
    ),
    "train_features": Job(
        ["train", "dinosaur.scenes_mini", "--out", "run", "--steps", "2", *SMALL, *CACHED],
        own_files,
        saves_on_sigterm=True,
        whole=False,
    ),
    "train_latents": Job(
        ["train", "stable_lsd.scenes_mini", "--out", "run", "--steps", "2", *SMALL, *CACHED],
        own_files,
        saves_on_sigterm=True,
        whole=False,
    ),
    "prepare_records": Job(
        [
            *("data", "prepare", "tetrominoes", "--root", "data", "--train-size", "2"),
            *("--val-size", "1", "--test-size", "1"),
        ],
        together(own_files, fixture("multi_object_datasets/tetrominoes", "data")),
    ),
    "prepare_pictures": Job(
        ["data", "prepare", "coco2017", "--root", "data", "--image-size", "16", "--mask-size", "16"],
        together(own_files, fixture("coco", "data")),
    ),
    "synthesize": Job(
        ["synthesize", "glass.scenes", "--model", "model", "--out", "made", *SHARDS], together(own_files, diffusion)
    ),
    "segment": Job(["segment", "run", ".", "--out", "."], together(pictures, TETROMINOES)),
    "segment_again": Job(
        ["segment", "run", "cat.png", "cat.jpg", "--masks", "attention", "--out", "masks"],
        together(pictures, TETROMINOES, earlier("segment", "run", "cat.png", "cat.jpg", "--out", "masks")),
    ),
    "segment_video": Job(["segment", "run", "cat.mp4", "--out", "."], together(pictures, clip, VIDEOS)),
    "edit": Job(["edit", "run", "cat.png", "--remove", "1", "--out", "."], together(pictures, TETROMINOES)),
    "edit_again": Job(
        ["edit", "run", "cat.png", "--swap", "0:cat.jpg:1", "--out", "edits"],
        together(pictures, TETROMINOES, earlier("edit", "run", "cat.png", "--remove", "1", "--out", "edits")),
    ),
    "edit_video": Job(["edit", "run", "cat.mp4", "--remove", "1", "--out", "."], together(pictures, clip, VIDEOS)),
    "evaluate": Job(["evaluate", "run", "--images", "1"], together(own_files, TETROMINOES), loses_nothing=True),
    "sweep": Job(
        [
            *("sweep", "slot_attention.tetrominoes_mini", "--set", "method.num-slots=3,4", "--out", "sweep"),
            *("--steps", "2", *SMALL, *SETS),
        ],
        own_files,
        saves_on_sigterm=True,
        whole=False,
    ),
    "seeds": Job(
        [
            *("train", "slot_attention.tetrominoes_mini", "--seeds", "2", "--out", "runs"),
            *("--steps", "2", *SMALL, *SETS),
        ],
        own_files,
        saves_on_sigterm=True,
        whole=False,
    ),
    "convert_glass": Job(CONVERT, together(own_files, released), twice="holds a run already"),
    "convert_unet": Job(["convert", "unet", "run", "--out", "unets"], together(own_files, released, earlier(*CONVERT))),
    "demo": Job(
        ["demo", "--steps", "2", "--out", "run", "--precision", "32", "--no-open"],
        own_files,
        saves_on_sigterm=True,
        whole=False,
    ),
    "report": Job(["report", "run"], together(own_files, TETROMINOES)),
    "doctor": Job(["doctor", "run", "--images", "2", "--split", "val"], together(own_files, TETROMINOES), code=1),
}


def import_for(jobs: Sequence[str]) -> None:
    """What the commands import, so that a child that is forked has it."""
    import torch

    from slotworks.data.stores.store import write_store

    torch.set_num_threads(1)
    importlib.import_module("slotworks.data.catalog")
    (write_store.__kwdefaults__ or {})["chunk_bytes"] = 1 << 13  # several chunks in stores of a few kilobytes
    if all(name.startswith("prepare") for name in jobs):
        return
    for name in ("slotworks.api", "slotworks.editing", "slotworks.reports", "slotworks.configs"):
        importlib.import_module(name)
    from slotworks.cli import VERBS

    for module, _ in VERBS.values():
        importlib.import_module(f"slotworks.cli.{module}")
    for name in ("slotworks.training.loop", "lightning.fabric", "diffusers", "transformers", "pyarrow.parquet", "av"):
        importlib.import_module(name)
    for name in ("slotworks.synthesis.engine", "torch.utils.tensorboard", "scipy.optimize"):
        importlib.import_module(name)


@contextmanager
def small_disk(wanted: bool) -> Iterator[Path | None]:
    """A file system of `DISK` bytes in memory, if one is wanted and may be mounted."""
    if not wanted:
        yield None
        return
    place = Path(tempfile.mkdtemp()).resolve()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        place.rmdir()


def main() -> int:
    """Carry trials out and print what they found, as JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)}; all by default")
    parser.add_argument("--trials", type=int, default=2, help="of each job and way")
    parser.add_argument("--how", choices=(*WAYS, "disk"), nargs="+", default=list(WAYS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="in new interpreters, by time only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="to work in; default: a temporary one")
    chosen = parser.parse_args()
    import_for(chosen.jobs or list(JOBS))
    ways = [how for how in chosen.how if not chosen.real or how not in ("kill_before_a_change", "full")]
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder, small_disk("disk" in ways) as disk:
        os.environ["KILLS_CACHE"] = f"{folder}/cache"
        for name in chosen.jobs or JOBS:
            began = time.monotonic()
            trials = Trials(name, JOBS[name], Path(folder).resolve() / name, real=chosen.real, disk=disk)
            for how in ways:
                for number in range(chosen.trials):
                    trials.try_once(how, random.Random(f"{name} {how} {chosen.seed} {number}"))
            reports[name] = trials.report
            shutil.rmtree(Path(folder) / name)
            if not chosen.json:
                seconds = f"{trials.whole.seconds:.1f} s of {time.monotonic() - began:.0f} s"
                print(f"{name}: {seconds}, {trials.whole.changes} changes; {_said(trials.report)}", flush=True)
    if chosen.json:
        print(json.dumps({name: vars(report) for name, report in reports.items()}))
    return int(any(report.faults for report in reports.values()))


def _said(report: Report) -> str:
    lines = [f"{report.trials} trials, {len(report.faults)} faults, {_counts(report.codes)}", *report.faults]
    return "\n  ".join(lines)


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(values.items()))


if __name__ == "__main__":
    sys.exit(main())
