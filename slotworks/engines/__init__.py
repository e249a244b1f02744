"""Jobs that fall into independent parts, and the engines that run them.

    parts = [Part("seed 0", train, (run, "runs/mine/seed0")), Part("seed 1", ...)]
    for number, answer in find_engine("ray", address="head:6379").run(parts):
        ...

`processes` runs parts in processes on this machine (`processes.py`), with one worker in this very process; `ray` on a
Ray cluster (`ray_cluster.py`, extra `ray`). A part writes its files whole or not at all and may begin anew: it is run
again when its process or machine is lost. What it gives back is small, and what comes of it is in its files.
"""

import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from slotworks.errors import UserError, nearest
from slotworks.parts import import_file, imported_files

ENGINES = ("processes", "ray")
TRIES = 4  # of a part whose process or machine is lost, the first one included


@dataclass(frozen=True)
class Part:
    """What can be computed without the others."""

    name: str  # for a person
    function: Callable[..., Any]  # of a module, where another process finds it
    arguments: tuple[Any, ...] = ()

    def __call__(self) -> Any:
        """What the function gives, or the error that it raised: one part that fails does not end the others."""
        try:
            return self.function(*self.arguments)
        except Exception as error:
            return error

    def packed(self) -> bytes:
        """For another process, with the files of one's own that were imported here."""
        return pickle.dumps((imported_files(), pickle.dumps(self)))


def carry_out(packed: bytes) -> bytes:
    """In another process: run a part, and pack its answer."""
    try:
        files, part = pickle.loads(packed)  # of our own process
        for file in files:
            import_file(file)
        answer = pickle.loads(part)()
    except Exception as error:
        answer = error
    if isinstance(answer, Exception) and not isinstance(answer, UserError):
        answer.add_note("In the process that computed it:\n" + "".join(traceback.format_exception(answer)))
    try:
        data = pickle.dumps(answer)
        pickle.loads(data)  # some exceptions cannot be built again from what they say
        return data
    except Exception as error:
        told = RuntimeError(f"{type(answer).__name__}: {answer}" if isinstance(answer, Exception) else str(error))
        for note in getattr(answer, "__notes__", ()):
            told.add_note(note)
        return pickle.dumps(told)


@runtime_checkable
class Engine(Protocol):
    """Runs parts."""

    def slots(self) -> int:
        """How many parts run at the same time; 1 or more."""
        ...

    def run(self, parts: Sequence[Part]) -> Iterator[tuple[int, Any]]:
        """Number and answer of each part, as they come; an exception is the answer of a part that raised it.

        A part whose process or machine is lost is run again, `TRIES` times in all; then its answer is a `UserError`.

        Raises:
            UserError: the engine cannot be had.
        """
        ...


class OneByOne:
    """Parts one after the other in this process, as with one worker of `processes`."""

    def slots(self) -> int:
        """1."""
        return 1

    def run(self, parts: Sequence[Part]) -> Iterator[tuple[int, Any]]:
        """In their order."""
        for number, part in enumerate(parts):
            yield number, part()


def find_engine(
    name: str = "processes",
    *,
    workers: int | None = None,
    address: str | None = None,
    cpus: float = 1,
    gpus: float | None = None,
) -> Engine:
    """An engine by its name.

    Args:
        name: `processes` or `ray`.
        workers: parts at the same time; by default one, on Ray as many as fit.
        address: of a Ray cluster, `HOST:PORT`; by default one on this machine, for these parts only.
        cpus: cores of a part on Ray.
        gpus: of a part on Ray; by default one if the cluster has any. Processes take those of this machine in turn.

    Raises:
        UserError: there is no such engine, its library is missing, or an address is given that it does not know.
    """
    if name not in ENGINES:
        raise UserError(f"--engine is {name}; there are {' and '.join(ENGINES)}. Nearest: {nearest(name, ENGINES)}.")
    if name == "ray":
        from slotworks.engines.ray_cluster import Ray

        return Ray(address, cpus=cpus, gpus=gpus, workers=workers)
    if address is not None:
        raise UserError(f"--address is {address}, but processes run on this machine; add --engine ray.")
    if workers is None or workers == 1:
        return OneByOne()
    from slotworks.engines.processes import Processes

    return Processes(workers)


def lost(part: Part, where: str, log: str) -> UserError:
    """What is said of a part that was lost as often as it was tried; `log` is where its last words stand."""
    return UserError(
        f"{part.name} was lost with its {where} {TRIES} times, as happens when memory runs out; give it more, or fewer "
        f"--workers. What it said last is in {log}. The same command goes on."
    )
