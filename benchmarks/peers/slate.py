"""SLATE of its authors (Singh et al. 2022): singhgautam/slate."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.peers import Job, carried_over, their_modules, training_step
from slotworks.convert.slate import convert_slate
from slotworks.training.optimizer import build_optimizer

REPOSITORY, COMMIT = "singhgautam/slate", "06f63c532996a877bf073c90876b36756747e668"
ARGUMENTS = {  # the defaults of its train.py, without dropout
    "num_slots": 3,
    "num_iterations": 3,
    "num_slot_heads": 1,
    "slot_size": 192,
    "mlp_hidden_size": 192,
    "d_model": 192,
    "num_dec_blocks": 4,
    "num_heads": 4,
    "vocab_size": 1024,
    "image_size": 64,
    "img_channels": 3,
    "pos_channels": 4,
    "dropout": 0.0,
}


def jobs(folder: Path) -> Iterator[Job]:
    """Images written from their slots, and a training step."""
    torch.manual_seed(0)
    with their_modules(folder):
        theirs = importlib.import_module("slate").SLATE(SimpleNamespace(**ARGUMENTS)).eval()
    options = {"num_slots": 3, "num_iterations": 3, "num_heads": 4, "changes": {"dropout": 0.0}}
    ours, run = carried_over(theirs, convert_slate, **options)
    ours.eval()

    @torch.no_grad()
    def write(image: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return ours.sample(ours.encode(image).slots)

    @torch.no_grad()
    def write_theirs(image: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return theirs.reconstruct_autoregressive(image)

    for batch in (1, 4):
        image = torch.rand(batch, 3, 64, 64)
        difference = (write(image) - write_theirs(image)).abs().max().item()
        name = f"SLATE generation, 256 tokens, batch {batch}"
        yield Job(
            name,
            lambda image=image: write(image),
            lambda image=image: write_theirs(image),
            "images",
            difference,
            target=15.0 if batch == 1 else 30.0,
        )
    image = torch.rand(4, 3, 64, 64)
    ours.train()
    theirs.train()
    yield Job(
        "SLATE step, 64 px, batch 4",
        training_step(
            lambda: torch.stack(list(ours.loss({"image": image}, 0).values())).sum(), build_optimizer(ours, run)
        ),
        training_step(
            lambda: torch.stack(theirs(image, 1.0, False)[1:3]).sum(), torch.optim.Adam(theirs.parameters()), clip=1.0
        ),
        "weights; each side draws its own noise",
        None,
    )
