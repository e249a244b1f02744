"""Reads tests/golden: masks and the numbers that published implementations return for them (tests/golden/README.md)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slotworks.metrics import segmentation

FOLDER = Path(__file__).parent / "golden"

FLOAT32_PEERS = ("slotdiffusion", "vqvfm", "addtt", "lsd", "savi", "deepmind_tf", "slot_attention_tf")


@dataclass(frozen=True)
class Case:
    id: str
    kind: str
    tags: tuple[str, ...]
    expected: dict[str, float | None]
    values: dict[str, float | str]
    arrays: dict[str, np.ndarray]

    def long(self, name: str) -> Tensor:
        """An integer array as a batch: images `1 h w`, videos `1 (t h) w` with time flattened, batches `b h w`."""
        array = torch.from_numpy(self.arrays[name].astype(np.int64))
        return array.flatten(0, 1)[None] if self.kind == "video" else array if self.kind == "batch" else array[None]

    @property
    def num_slots(self) -> int:
        return self.arrays["pred"].shape[-3]

    @property
    def pred(self) -> Tensor:
        """Slot ids at the size of the truth."""
        masks = torch.from_numpy(self.arrays["pred"].astype(np.float32))
        ids = segmentation(masks, tuple(self.arrays["inst"].shape[-2:]))
        return ids.flatten(0, 1)[None] if self.kind == "video" else ids if self.kind == "batch" else ids[None]

    @property
    def truth(self) -> dict[str, Tensor]:
        """The case in the keys of a `Batch`."""
        truth = {"mask": self.long("inst"), "void": self.long("ignore").bool()}
        for key, name in (("class_mask", "cls"), ("class_mask_highest", "cls_max"), ("overlap", "overlap")):
            if name in self.arrays:
                truth[key] = self.long(name).bool() if key == "overlap" else self.long(name)
        return truth

    def valid(self, *, drop_overlap: bool) -> Tensor:
        truth = self.truth
        valid = ~truth["void"]
        return valid & ~truth["overlap"] if drop_overlap and "overlap" in truth else valid


def tolerance(key: str) -> float:
    """Tolerance of a golden value `METRIC/peer` (tests/golden/README.md)."""
    return 5e-6 if key.split("/")[1].startswith(FLOAT32_PEERS) else 1e-9


@cache
def cases(*kinds: str) -> tuple[Case, ...]:
    described = json.loads((FOLDER / "metrics.json").read_text())["cases"]
    with np.load(FOLDER / "metrics.npz", allow_pickle=False) as npz:
        return tuple(
            Case(
                id=case["id"],
                kind=case["kind"],
                tags=tuple(case["tags"]),
                expected=case.get("expected", {}),
                values=case["values"],
                arrays={name: npz[f"{case['id']}/{name}"] for name in case["arrays"]},
            )
            for case in described
            if case["kind"] in kinds
        )
