"""A store of many small rows: how long it takes to open, and to read rows at random.

python -m benchmarks.store                     a thousand to a million rows of 1 KB
python -m benchmarks.store --writers 8         and eight processes that want one cache at once
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from slotworks.data.stores.store import Row, Store, write_store


def rows(total: int, start: int = 0) -> Iterator[Row]:
    """Rows of 1 KB, of their numbers."""
    for k in range(start, total):
        yield {"image": np.full(1024, k % 251, np.uint8)}


def write(path: Path, total: int) -> float:
    began = time.perf_counter()
    write_store(path, lambda start: rows(total, start), source={"name": "bench"}, total=total)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--writers", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'rows':>10}{'written in s':>14}{'opened in ms':>14}{'batch of 64 in ms':>19}")
        for total in options.rows:
            path = Path(folder) / f"rows{total}"
            written = write(path, total)
            began = time.perf_counter()
            store = Store(path)
            opened = time.perf_counter() - began
            draw, spent = np.random.default_rng(0), []
            for _ in range(200):
                chosen = draw.integers(0, total, 64)
                began = time.perf_counter()
                batch = store.__getitems__(chosen)["image"]
                spent.append(time.perf_counter() - began)
                assert (batch[:, 0] == chosen % 251).all()
            print(f"{total:>10,}{written:>14.1f}{1000 * opened:>14.1f}{1000 * np.median(spent):>19.2f}", flush=True)
        if options.writers:
            path, total = Path(folder) / "shared", max(options.rows)
            context = multiprocessing.get_context("fork")  # a fresh interpreter each would measure imports
            began = time.perf_counter()
            processes = [context.Process(target=write, args=(path, total)) for _ in range(options.writers)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            assert [process.exitcode for process in processes] == [0] * options.writers
            Store(path).verify()
            print(f"{options.writers} processes at once: {time.perf_counter() - began:.1f} s, whole")


if __name__ == "__main__":
    main()
