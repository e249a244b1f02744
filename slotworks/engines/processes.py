"""Parts in processes on this machine: nothing to install."""

import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from slotworks.engines import TRIES, Part, carry_out, lost
from slotworks.machine import threads_given, usable_cores


class Processes:
    """So many workers, each a fresh interpreter that takes part after part; one that dies is replaced.

    What workers write to their standard output and error is kept, in a temporary folder, where a part was lost.
    """

    def __init__(self, workers: int):
        self.workers, self.gpus = workers, _gpus()

    def slots(self) -> int:
        """The workers."""
        return self.workers

    def run(self, parts: Sequence[Part]) -> Iterator[tuple[int, Any]]:
        """As they are finished. When the caller stops, workers get SIGTERM, upon which a training saves."""
        context, waiting, tries = multiprocessing.get_context("spawn"), deque(range(len(parts))), Counter()
        free = deque(range(min(self.workers, len(parts))))  # numbers of workers
        workers: dict[Connection, tuple[int, Any]] = {}
        logs, kept = Path(tempfile.mkdtemp(prefix="slotworks-")), False
        busy: dict[Connection, int] = {}

        def give(pipe: Connection) -> None:
            number = waiting.popleft()
            tries[number] += 1
            busy[pipe] = number
            with suppress(BrokenPipeError):  # it died: the part comes back
                pipe.send_bytes(parts[number].packed())

        try:
            while waiting or busy:
                while waiting and free:
                    pipe, theirs = context.Pipe()
                    given = theirs, self._environment(free[0]), logs / f"{free[0]}.log"
                    process = context.Process(target=_work, args=given, daemon=True)
                    process.start()
                    theirs.close()
                    workers[pipe] = free.popleft(), process
                    give(pipe)
                for pipe in wait(list(busy)):
                    assert isinstance(pipe, Connection)
                    number = busy.pop(pipe)
                    try:
                        answer = pickle.loads(pipe.recv_bytes())  # from a child of ours
                    except (EOFError, ConnectionResetError):
                        place, process = workers.pop(pipe)
                        pipe.close()
                        process.join()
                        free.append(place)
                        if tries[number] < TRIES:
                            waiting.append(number)
                            continue
                        answer, kept = lost(parts[number], "process", str(logs / f"{place}.log")), True
                    else:
                        if waiting:
                            give(pipe)
                    yield number, answer
        finally:
            for pipe, (_, process) in workers.items():
                if pipe in busy:
                    process.terminate()
                pipe.close()
            for _, process in workers.values():
                process.join()
            if not kept:
                shutil.rmtree(logs, ignore_errors=True)

    def _environment(self, worker: int) -> dict[str, str]:
        """Of one worker: its share of the cores, and its GPU."""
        threads = {} if threads_given() else {"OMP_NUM_THREADS": str(max(1, usable_cores() // self.workers))}
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[worker % len(self.gpus)]} if self.gpus else {}
        return {**threads, **gpu}


def _gpus() -> list[str]:
    """The GPUs of NVIDIA that this process may use, as its children name them. Asks no library."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    there = Path("/proc/driver/nvidia/gpus")
    return [str(k) for k in range(len(list(there.iterdir())))] if there.is_dir() else []


def _work(pipe: Connection, environment: dict[str, str], log: Path) -> None:
    """The life of a worker. Nothing has imported torch before: it reads the environment then."""
    os.environ.update(environment)
    own = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):  # several bars and logs across each other say nothing; what matters is in answers and files
        os.dup2(own, stream)
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the parent, which says what it means here
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has what it wants
        while True:
            pipe.send_bytes(carry_out(pipe.recv_bytes()))
