"""Exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from slotworks.training.shard import copy_into
from slotworks.types import Method, UserError


class EMA:
    """Average of the trainable weights; after update k, from 0, `average <- r average + (1 - r) weights`.

    `r = min(decay, (1 + k) / (10 + k))`: the average forgets the initial weights in a short run, too. Frozen weights
    and buffers are the method's own, so a frozen backbone is not held twice (torch's `AveragedModel` copies it).
    """

    def __init__(self, method: Method, decay: float):
        self.decay = decay
        self.live = {name: p for name, p in method.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.live.items()}

    def update(self, step: int) -> None:
        """Take in the weights after the update of step `step`, counted from 0."""
        rate = min(self.decay, (1 + step) / (10 + step))
        live = [p.detach() for p in self.live.values()]
        get_ema_multi_avg_fn(rate)(list(self.average.values()), live, None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the method has the average as its weights; exact, free and undone afterwards."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, p in self.live.items():
            p.data, self.average[name] = self.average[name], p.data

    def load(self, average: dict[str, Tensor], source: str) -> None:
        """Take an average from a checkpoint.

        Raises:
            UserError: if its names, shapes or dtypes are not those of the method.
        """
        given, own = ({n: (a.shape, a.dtype) for n, a in one.items()} for one in (average, self.average))
        if given != own:
            raise UserError(f"The moving average in {source} does not fit the method; the file belongs to another run.")
        with torch.no_grad():
            for name, value in average.items():
                copy_into(self.average[name], value)
