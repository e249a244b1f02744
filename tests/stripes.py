"""A method without training that sees vertical stripes: what tests give as a file of a person's own begins with it."""

from dataclasses import dataclass

import torch

from slotworks.types import Method, MethodConfig, SlotOutput


@dataclass(frozen=True)
class StripesConfig(MethodConfig):
    """As many stripes as slots."""

    num_slots: int = 4

    def build(self) -> "Stripes":
        """The method."""
        return Stripes(self)


class Stripes(Method):
    """The slots of an image all hold its mean colour."""

    def __init__(self, config: StripesConfig):
        super().__init__()
        self.config = config

    def encode(self, image: torch.Tensor) -> SlotOutput:
        """Slot k attends to column k of n."""
        n = self.config.num_slots
        color = image.mean((2, 3))[:, None].expand(-1, n, 3)
        return SlotOutput(color, torch.eye(n).expand(len(image), n, n), grid=(1, n))
