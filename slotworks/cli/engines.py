"""Options of verbs whose work falls into independent parts: which engine runs them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from slotworks.cli.console import take_option
from slotworks.engines import Engine, OneByOne, find_engine
from slotworks.errors import UserError
from slotworks.progress import progress
from slotworks.ranges import whole_number

HELP = """\
  --workers N      processes at the same time, each with a GPU if there are; default 1
  --engine ray     on a Ray cluster, as many at a time as fit (docs/guides/cluster.md); with --address HOST:PORT of one
                   that is there, --cpus C and --gpus G of each part; default 1, and 1 if the cluster has any"""


def take_engine(words: Sequence[str]) -> tuple[list[str], Engine]:
    """Take the options of the engine out of a command's words.

    Raises:
        UserError: one of them is no number, or belongs to another engine.
    """
    rest, name = take_option(words, "--engine")
    rest, workers = take_option(rest, "--workers")
    rest, address = take_option(rest, "--address")
    rest, cpus = take_option(rest, "--cpus")
    rest, gpus = take_option(rest, "--gpus")
    return rest, engine_of(name, workers, address, cpus, gpus)


def engine_of(
    name: str | None, workers: str | None, address: str | None, cpus: str | None = None, gpus: str | None = None
) -> Engine:
    """The engine of options as they were written.

    Raises:
        UserError: one of them is no number, or belongs to another engine.
    """
    if workers is not None and not whole_number(workers):
        raise UserError(f"--workers is {workers}; expected a number of processes, 1 or more.")
    for option, value in (("--cpus", cpus), ("--gpus", gpus)):
        if value is not None and name != "ray":
            raise UserError(f"{option} is {value}, which Ray places parts by; add --engine ray.")
    needs = {"cpus": 1.0 if cpus is None else _amount("--cpus", cpus)}
    return find_engine(
        name or "processes",
        workers=int(workers) if workers else None,
        address=address,
        gpus=None if gpus is None else _amount("--gpus", gpus),
        **needs,
    )


@contextmanager
def seen(engine: Engine, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over the parts of an engine whose parts show none of their own; gives the function that moves it."""
    if isinstance(engine, OneByOne):
        yield lambda count: None
        return
    with progress(what, total, unit=what) as advance:
        yield advance


def _amount(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"{option} is {text}; expected how many a part needs, 0 or more.")
    return value
