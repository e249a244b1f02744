"""Random numbers as a function of the seed and the step: no state to save, nothing that evaluation could disturb."""

import numpy as np
import torch

_PURPOSES = ("weights", "order", "noise", "dropout", "evaluation")


def seed_for(purpose: str, seed: int, *numbers: int) -> int:
    """An independent seed in [0, 2^63) for a purpose, the run's seed and numbers such as step or epoch."""
    words = np.random.SeedSequence([_PURPOSES.index(purpose), seed, *numbers]).generate_state(1, np.uint64)
    return int(words[0] >> 1)


def set_seed(seed: int, device: torch.device) -> None:
    """Seed torch's generators on the CPU and on `device`.

    `torch.manual_seed` does the same for every kind of device that torch knows, which takes longer than a small step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
