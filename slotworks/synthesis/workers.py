"""Shards by several workers of an engine, which share them by claims."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slotworks.data.stores.generated import find_shards
from slotworks.engines import Engine, OneByOne, Part
from slotworks.progress import console, progress
from slotworks.remote import Place, as_place
from slotworks.synthesis.engine import Synthesis, synthesize
from slotworks.synthesis.remask import remask
from slotworks.training.numerics import find_device

PAUSE = 1.0  # seconds between looks at what is finished


def make(
    config: Synthesis,
    folder: str | Place,
    *,
    device: str | None = None,
    engine: Engine | None = None,
    pictures: str | Place | None = None,
    **options: Any,
) -> dict[str, Any]:
    """`synthesize` with its options; with an engine `synthesize_with`; with a folder of pictures `remask`."""
    if pictures is not None:
        return remask(config, pictures, folder, device=find_device(device))
    if engine is not None:
        return synthesize_with(engine, config, folder, device=device)
    return synthesize(config, folder, device=find_device(device), **options)


def synthesize_with(engine: Engine, config: Synthesis, folder: str | Place, *, device: str | None = None) -> dict:
    """As `synthesize`, by as many workers as the engine has slots.

    A worker that is lost leaves its shard to the others, and is replaced.

    Raises:
        UserError: as `synthesize`, or the engine cannot be had.
    """
    place, count = as_place(folder), engine.slots()
    place = place.resolve() if isinstance(place, Path) else place  # workers may have another idea of where they are
    if isinstance(engine, OneByOne):
        return {**synthesize(config, place, device=find_device(device)), "folder": str(folder)}
    parts = [Part(f"Worker {k}", _work, (config, place, k, count, device)) for k in range(count)]
    answers: list[dict[str, Any]] = []
    with _watching(place):
        for _, answer in engine.run(parts):
            if isinstance(answer, Exception):
                raise answer
            answers.append(answer)
    last, seconds = answers[-1], max(answer["seconds"] for answer in answers)
    sums = {name: sum(answer[name] for answer in answers) for name in ("made", "left_out")}
    rate = sums["made"] / seconds if sums["made"] else None
    return {**last, **sums, "folder": str(folder), "seconds": seconds, "images_per_second": rate}


def _work(config: Synthesis, folder: Place, rank: int, world_size: int, device: str | None) -> dict[str, Any]:
    console.quiet = True  # of this worker's process: the one who watches says how far the work is
    return synthesize(config, folder, rank=rank, world_size=world_size, device=find_device(device))


@contextmanager
def _watching(folder: Place) -> Iterator[None]:
    """Show how many shards there are, from time to time."""
    ended = threading.Event()
    with progress("shards", None, done=len(find_shards(folder)), unit="shards") as advance:

        def watch() -> None:
            seen = len(find_shards(folder))
            while not ended.wait(PAUSE):
                now = len(find_shards(folder))
                if now > seen:
                    advance(now - seen)
                seen = now

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
