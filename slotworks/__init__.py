"""Object-centric learning: take images apart into slots, one per object; measure, render and edit them.

    image  -->  encoder  -->  features  -->  slots  -->  decoder(s)  -->  image | features | tokens | set
    b 3 h w                   b p c          b n d                        + masks  b n h w

| folder | what it holds |
| --- | --- |
| `types.py` | the contract: batches, slots, methods |
| `encoders/` | image to features |
| `slots/` | features to slots |
| `decoders/` | slots to images or features |
| `methods/` | the papers: one short file each |
| `nn/` | layers with no opinion about slots |
| `data/` | `readers/`, one file for each data set; `scenes/` that are drawn; `stores/` on the disk |
| `metrics/`, `protocols.py` | what is measured, and by whose rules |
| `training/` | the loop, checkpoints, run folders |
| `evaluation/` | a method and data in, numbers and pictures out |
| `guidance/` | extra signals for slots: a teacher's masks, pseudo-masks |
| `synthesis/` | GLASS's data engine: captions to images with pseudo-masks |
| `editing/` | remove, add, swap and move slots; render |
| `reports/` | a run folder to one HTML page |
| `configs/` | recipes: one function per row of a table |
| `zoo/` | trained runs that come with the package, one folder each |
| `hub.py` | trained runs as folders that travel, on the Hugging Face hub or anywhere |
| `export.py` | trained runs as ONNX files and torch programs |
| `api.py`, `cli/` | whole jobs in three lines of Python, or one command |
"""

import importlib
from typing import TYPE_CHECKING

from slotworks.machine import prepare_threads
from slotworks.version import __version__

if TYPE_CHECKING:
    from slotworks.api import edit, evaluate, load, segment, synthesize, train
    from slotworks.evaluation.show import show
    from slotworks.hub import from_pretrained, push_to_hub, save_pretrained

prepare_threads()  # before anything imports torch

_HOMES = {
    **dict.fromkeys(("edit", "evaluate", "load", "segment", "synthesize", "train"), "slotworks.api"),
    **dict.fromkeys(("from_pretrained", "push_to_hub", "save_pretrained"), "slotworks.hub"),
    "show": "slotworks.evaluation.show",
}

__all__ = [
    "__version__",
    "edit",
    "evaluate",
    "from_pretrained",
    "load",
    "push_to_hub",
    "save_pretrained",
    "segment",
    "show",
    "synthesize",
    "train",
]


def __getattr__(name: str):
    """Load the names above when they are first used, so that `import slotworks` stays light."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'slotworks' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What the package offers, used or not."""
    return sorted(__all__)
