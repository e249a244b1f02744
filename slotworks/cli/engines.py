"""Options of verbs whose work falls into independent parts: which engine runs them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

from slotworks.cli.console import take_option
from slotworks.engines import Engine, OneByOne, Part, find_engine
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


def run_parts(engine: Engine, unit: str, parts: Sequence[Part]) -> Iterator[tuple[int, Any]]:
    """`Engine.run`, under a bar that counts `unit` where the parts show none of their own."""
    bar = nullcontext(lambda count: None) if isinstance(engine, OneByOne) else progress(unit, len(parts), unit=unit)
    with bar as advance:
        for number, answer in engine.run(parts):
            advance(1)
            yield number, answer


def _amount(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"{option} is {text}; expected how many a part needs, 0 or more.")
    return value
