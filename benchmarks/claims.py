"""How many workers share how many shards by claims, some of which die: a simulation with the package's own `Claims`.

    python -m benchmarks.claims                    10 to 1,000 workers, ten shards each
    python -m benchmarks.claims --failures 0.1     of a hundred tries to make a shard ten end with their worker

A shard takes half a minute to one and a half, most about one. A worker that dies is replaced after five minutes. Only
time is simulated; counted is who takes what, how often a worker lists the folder or tries a lock, and how long the last
ones take: the tail, from when the first worker finds nothing to take until all is done.
"""

import argparse
import heapq
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from slotworks.files import Claims

SHARD, REPLACED = 60.0, 300.0  # seconds


def simulate(shards: int, workers: int, failures: float, seed: int = 0) -> dict[str, float]:
    """One run from start to end."""
    draw = np.random.default_rng(seed)
    holders: dict[int, int] = {}  # who holds which shard
    done: set[int] = set()
    looks, made, lost = [0] * workers, 0, 0

    def fresh(worker: int) -> Claims[int]:
        @contextmanager
        def claim(shard: int) -> Iterator[bool]:
            looks[worker] += 1
            mine = holders.setdefault(shard, worker) == worker
            yield mine
            if mine:
                del holders[shard]

        def is_done(shard: int) -> bool:
            looks[worker] += 1
            return shard in done

        def listed() -> set[int]:
            looks[worker] += 1
            return done

        return Claims(range(shards), claim, is_done, listed, worker * shards // workers)

    claims = [fresh(worker) for worker in range(workers)]
    pauses = [Claims.PAUSES[0]] * workers
    events: list[tuple[float, int, int | None, bool]] = [(0.0, worker, None, True) for worker in range(workers)]
    idle_from = end = 0.0
    while events:
        now, worker, shard, fine = heapq.heappop(events)
        if not fine:  # the worker dies with its shard, and another takes its place
            claims[worker].close()
            claims[worker], lost = fresh(worker), lost + 1
            heapq.heappush(events, (now + REPLACED, worker, None, True))
            continue
        if shard is not None:
            assert holders[shard] == worker
            assert shard not in done
            done.add(shard)
            claims[worker].release(shard)
            made, end = made + 1, now
        taken = claims[worker].look()
        if taken is not None:
            pauses[worker] = Claims.PAUSES[0]
            seconds = SHARD * draw.triangular(0.5, 1, 1.5)
            dies = draw.random() < failures
            heapq.heappush(events, (now + seconds * (draw.random() if dies else 1), worker, taken, not dies))
        elif claims[worker].waiting:
            idle_from = idle_from or now
            heapq.heappush(events, (now + pauses[worker], worker, None, True))
            pauses[worker] = min(Claims.PAUSES[1], 2 * pauses[worker])
    assert len(done) == made == shards
    assert not holders
    ideal = SHARD * shards / workers
    return {
        "shards": shards,
        "workers": workers,
        "lost": lost,
        "minutes": end / 60,
        "over_ideal": end / ideal,
        "tail_minutes": (end - idle_from) / 60 if idle_from else 0.0,
        "looks_of_a_worker": float(np.mean(looks)),
        "looks_a_second": sum(looks) / end,
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--failures", type=float, nargs="+", default=[0.0, 0.05])
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(words)
    rows = [simulate(10 * n, n, share) | {"failures": share} for n in options.workers for share in options.failures]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"{'shards':>7}{'workers':>9}{'lost':>6}{'minutes':>9}{'of ideal':>10}{'tail':>7}{'looks':>9}{'a second':>10}"
    )
    for row in rows:
        print(
            f"{row['shards']:>7,}{row['workers']:>9,}{row['lost']:>6}{row['minutes']:>9.1f}{row['over_ideal']:>10.2f}"
            f"{row['tail_minutes']:>7.1f}{row['looks_of_a_worker']:>9,.0f}{row['looks_a_second']:>10,.0f}"
        )


if __name__ == "__main__":
    main()
