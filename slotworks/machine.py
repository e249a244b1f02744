"""What is decided about the machine before torch is imported. Imports nothing heavy."""

from typing import Literal

Precision = Literal["auto", "32", "bf16", "16"]
"""`auto` is what the device computes fast, decided when work starts: `slotworks.training.numerics`."""
