"""Which samples each step sees: a pure function of the seed and the step, so a resumed run needs no saved position.

Every epoch is a fresh permutation of the samples; batches run across the border of two epochs, so none is left out.
The global batch is cut into `accumulate * world_size` equal parts in order: micro-batch by micro-batch, in each one
rank by rank.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from slotworks.training.run import Run
from slotworks.training.seeds import seed_for
from slotworks.types import Dataset, RawBatch, UserError


class BatchOrder(Sampler[list[int]]):
    """Sample indices of one part (`rank` of `world_size`) of every micro-batch, from step `start` to the last.

    Of a data set that draws each sample anew in each epoch (`renewed`) the indices of the second epoch follow those of
    the first, and so on: `index % length` is the sample.
    """

    def __init__(
        self, length: int, run: Run, *, start: int = 0, rank: int = 0, world_size: int = 1, renewed: bool = False
    ):
        self.length, self.run, self.start, self.renewed = length, run, start, renewed
        self.rank, self.world_size = rank, world_size
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> list[int]:
        """All indices of the global batch of a step, counted from 0."""
        positions = np.arange(step * self.run.batch_size, (step + 1) * self.run.batch_size)
        return [self._sample(int(position)) for position in positions]

    def __iter__(self) -> Iterator[list[int]]:
        parts = self.run.accumulate * self.world_size
        size = self.run.batch_size // parts
        for step in range(self.start, self.run.steps):
            batch = self.batch(step)
            for part in range(self.rank, parts, self.world_size):
                yield batch[part * size :][:size]

    def __len__(self) -> int:
        return (self.run.steps - self.start) * self.run.accumulate

    def _sample(self, position: int) -> int:
        epoch, offset = divmod(position, self.length)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_for("order", self.run.seed, epoch))
            self._epoch, self._permutation = epoch, torch.randperm(self.length, generator=generator).numpy()
        return int(self._permutation[offset]) + (epoch * self.length if self.renewed else 0)


@contextmanager
def read_batches(
    dataset: Dataset, order: BatchOrder, *, num_workers: int, pin_memory: bool
) -> Iterator[Iterator[dict[str, Tensor]]]:
    """Gives the batches of `order`, read in other processes if asked to, as CPU tensors of the stored integers.

    The next batch raises `UserError` where reading it did, in the words that were said there. At the end, or after an
    error, the other processes are ended.
    """
    batches = iter(
        DataLoader(
            _Telling(dataset),  # type: ignore[arg-type]  # reads whole batches through __getitems__
            batch_sampler=order,
            collate_fn=_tensors,  # type: ignore[arg-type]
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=_ignore_signals,
        )
    )
    try:
        yield map(_told, batches)
    finally:
        if num_workers:  # a traceback keeps them, and Python would wait for processes that ignore its SIGTERM
            batches._shutdown_workers()  # type: ignore[attr-defined]


def _told(batch: dict[str, Tensor] | UserError) -> dict[str, Tensor]:
    if isinstance(batch, UserError):
        raise batch
    return batch


class _Telling:
    """Gives a `UserError` as if it were a batch: what a reading process raises, torch packs into a traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> RawBatch | UserError:
        try:
            return self.dataset.__getitems__(indices)
        except UserError as error:
            return error


def _tensors(raw: RawBatch | UserError) -> dict[str, Tensor] | UserError:
    if isinstance(raw, UserError):
        return raw
    return {key: torch.from_numpy(np.require(value, requirements=["C", "W"])) for key, value in raw.items()}


def _ignore_signals(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole group: the training process decides, or its readers die before it saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
