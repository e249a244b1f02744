"""One small training of every family, in as many processes as started this script."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from slotworks.configs import find
from slotworks.training import Run, train

FAMILIES = (  # with what they build on before them
    "slot_attention.tetrominoes_mini",
    "set_prediction.scenes_mini",
    "dspn.scenes_mini",
    "slot_mlp.scenes_mini",
    "slot_mlp.tetrominoes_mini",
    "savi.frames_mini",
    "savi.scenes_mini",
    "dvae.videos_mini",
    "steve.scenes_mini",
    "slate.scenes_mini",
    "vqvae.scenes_mini",
    "slot_diffusion.scenes_mini",
    "slot_diffusion.video_scenes_mini",
    "mae.scenes_mini",
    "dinosaur.scenes_mini",
    "dinosaur.scenes_transformer_mini",
    "spot.scenes_mini",
    "spot.scenes_stage2_mini",
    "stable_lsd.scenes_mini",
    "glass.scenes_mini",
    "glass.scenes_phase2_mini",
    "dataset_diffusion.scenes_mini",
    "tiny_diffusion.scenes",
    "painted_diffusion.scenes",
    "tiny_clip.painted",
)
STEPS = 4


def small_run(name: str, steps: int = STEPS) -> Run:
    """A recipe with four samples a step."""
    run = find(name)()
    method = replace(run.method, vae_steps=2) if hasattr(run.method, "vae_steps") else run.method
    return replace(
        run,
        method=method,
        data=_fewer(run.data),
        steps=steps,
        batch_size=4,
        accumulate=1,
        precision="32",
        channels_last=False,
        num_workers=0,
        log_every=1,
        eval_every=1000,
        save_every=1000,
        tensorboard=False,
    )


def _fewer(data: Any) -> Any:
    """A dozen of drawn samples, so that nobody waits for them."""
    counts = {"num_train": 12, "num_val": 2, "num_test": 2}
    given = {field.name for field in fields(data)}
    parts = [name for name in ("images", "scenes") if name in given and is_dataclass(getattr(data, name))]
    inner = {name: _fewer(getattr(data, name)) for name in parts}
    return replace(data, **{name: count for name, count in counts.items() if name in given}, **inner)


def without_dropout() -> None:
    """What is left out is drawn anew for each part of a batch, so that it differs with the number of processes."""
    for kind in (nn.Dropout, nn.Dropout2d):
        kind.forward = lambda self, input: input  # type: ignore[method-assign]


def train_all(names: Sequence[str], place: str, stop_after: int | None = None, shard: bool = False) -> None:
    """Each into `place/NAME`; relative folders of earlier runs are found where this process stands."""
    without_dropout()
    for name in names:
        try:
            run = replace(small_run(name), shard=shard)
            train(run, Path(place, name), device="cpu", stop_after=stop_after)
        except Exception as error:  # the other families go on
            Path(place).mkdir(exist_ok=True)
            Path(place, f"{name}.txt").write_text(f"{type(error).__name__}: {error}")


def losses(folder: Path) -> dict[tuple[int, str], float]:
    """The terms of every step in the log of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(row["step"], name): value for row in rows for name, value in row.items() if name.startswith("loss/")}


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    for job in sys.argv[2:]:  # PLACE:NAME,NAME:STOP:SHARD
        to, chosen, stop, shared = job.split(":")
        train_all(chosen.split(","), to, int(stop) if stop else None, bool(shared))
