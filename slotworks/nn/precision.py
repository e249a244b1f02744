"""Leaving mixed precision for a few lines."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.amp.autocast_mode import is_autocast_available


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside, every layer computes in the type of its inputs, also where the run is in bfloat16 or float16.

    For sums and divisions that lose too much there. Nothing where the device has no mixed precision, such as meta, or
    where none is on: a context without effect would stay in an exported program, which then cannot be read again.
    """
    mixed = is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if mixed else nullcontext()
