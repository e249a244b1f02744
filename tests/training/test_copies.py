"""Copies between the CPU and a GPU do not wait. There is no GPU here: what would be asked of one is counted."""

from types import SimpleNamespace
from unittest.mock import MagicMock, call

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from slotworks.training.devices import Reading
from slotworks.types import to_batch


class Copies(TorchFunctionMode):
    """Whether each `Tensor.to` was told not to wait."""

    def __init__(self):
        super().__init__()
        self.free = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.to:
            self.free.append((kwargs or {}).get("non_blocking", False))
        return func(*args, **(kwargs or {}))


def test_a_batch_goes_to_its_device_without_waiting():
    raw = {"image": np.zeros((2, 4, 4, 3), np.uint8), "mask": np.zeros((2, 4, 4), np.uint8), "boxes": np.zeros((2, 1))}
    with Copies() as copies:
        batch = to_batch(raw, "meta")
    assert copies.free == [True, True, True]
    assert {value.device.type for value in batch.values()} == {"meta"}
    assert batch["image"].shape == (2, 3, 4, 4)


@pytest.fixture
def gpu(monkeypatch):
    """A tensor on a GPU and everything that is asked of it, in turn."""
    asked = MagicMock()
    asked.values.device = SimpleNamespace(type="cuda")
    asked.values.detach.return_value = asked.values
    asked.values.to.return_value.tolist.side_effect = lambda: [1.0, 2.0]
    monkeypatch.setattr(torch.cuda, "Event", lambda: asked.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "its stream")
    return asked


def test_numbers_of_a_step_are_waited_for_when_they_are_asked_for(gpu):
    reading = Reading(gpu.values)
    assert gpu.values.to.mock_calls == [call("cpu", non_blocking=True)]
    assert gpu.event.mock_calls == [call.record("its stream")]
    assert reading.numbers() == [1.0, 2.0]
    order = [name for name, *_ in gpu.mock_calls]
    assert order.index("event.synchronize") < order.index("values.to().tolist")
