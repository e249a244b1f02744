"""STEVE of its authors (Singh et al. 2022): singhgautam/steve."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from benchmarks.peers import Job, carried_over, drop_nothing, their_modules, training_step
from slotworks.convert.slate import convert_steve
from slotworks.training.optimizer import build_optimizer

REPOSITORY, COMMIT = "singhgautam/steve", "b8de3e6ab336da2336a79f233eeb8b79f80d228e"
ARGUMENTS = {  # the defaults of its train.py, without dropout
    "num_slots": 15,
    "num_iterations": 2,
    "cnn_hidden_size": 64,
    "slot_size": 192,
    "mlp_hidden_size": 192,
    "num_predictor_blocks": 1,
    "num_predictor_heads": 4,
    "predictor_dropout": 0.0,
    "vocab_size": 4096,
    "num_decoder_blocks": 8,
    "num_decoder_heads": 4,
    "d_model": 192,
    "image_size": 128,
    "img_channels": 3,
    "dropout": 0.0,
}


def jobs(folder: Path) -> Iterator[Job]:
    """A training step on one clip of three frames."""
    torch.manual_seed(0)
    with their_modules(folder):
        theirs = importlib.import_module("steve").STEVE(SimpleNamespace(**ARGUMENTS))
    drop_nothing(theirs)  # positions have a dropout that no argument sets
    ours, run = carried_over(theirs, convert_steve, changes={"dropout": 0.0})
    ours.train()
    theirs.train()
    video = torch.rand(1, 3, 3, 128, 128)
    with torch.no_grad():
        torch.manual_seed(1)
        slots = theirs.encode(video)[0]
        torch.manual_seed(1)
        difference = (ours.encode(video).slots - slots).abs().max().item()
    groups = [
        {"params": [w for n, w in theirs.named_parameters() if part in n and w.requires_grad], "lr": 1e-4}
        for part in ("dvae", "steve_encoder", "steve_decoder")
    ]
    yield Job(
        "STEVE step, 3 frames, 128 px, 15 slots, batch 1",
        training_step(
            lambda: torch.stack(list(ours.loss({"video": video}, 0).values())).sum(),
            build_optimizer(ours, run),
            clip=0.05,
        ),
        training_step(lambda: torch.stack(theirs(video, 1.0, False)[1:3]).sum(), torch.optim.Adam(groups), clip=0.05),
        "slots; each side draws its own noise",
        difference,
        target=1.5,
    )
