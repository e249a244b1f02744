"""From a command to the arithmetic of a number: four files, so that a line of code is found (docs/idea.md)."""

import sys
from dataclasses import replace
from pathlib import Path

import slotworks
from slotworks.cli import main
from slotworks.configs import slot_attention
from slotworks.evaluation import discovery
from slotworks.methods.slot_attention import SlotAttentionAutoencoder
from slotworks.training.serialize import save_run

ROOT = Path(slotworks.__file__).parent


def files_on_the_way() -> list[str]:
    """Files of the package whose functions wait for the one that asks, the command first."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT):
            found.append(path.relative_to(ROOT).as_posix())
        frame = frame.f_back
    return list(dict.fromkeys(reversed(found)))


def test_four_files_from_a_command_to_the_arithmetic(tmp_path, monkeypatch):
    """Beside them the command line's own: which verb it is, and how its options are read."""
    ways = {}

    def look(name, function):
        def looked(*args, **options):
            ways.setdefault(name, files_on_the_way())
            return function(*args, **options)

        return looked

    monkeypatch.setattr(SlotAttentionAutoencoder, "loss", look("train", SlotAttentionAutoencoder.loss))
    monkeypatch.setattr(discovery, "ari_of_table", look("evaluate", discovery.ari_of_table))
    run = slot_attention.tetrominoes_mini()
    data = replace(run.data, num_train=4, num_val=2, num_test=2)
    method = replace(run.method, channels=4, slot_dim=4, mlp_dim=4)
    run = replace(run, data=data, method=method, steps=1, batch_size=2, eval_images=2, tensorboard=False)
    save_run(run, tmp_path / "run.yaml")
    assert main(["train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]) == 0
    ways.pop("evaluate")  # of the training
    assert main(["evaluate", str(tmp_path / "run"), "--images", "2"]) == 0
    assert ways == {
        "train": ["cli/__init__.py", "cli/train.py", "api.py", "training/loop.py"],
        "evaluate": ["cli/__init__.py", "cli/evaluate.py", "cli/console.py", "api.py", "evaluation/discovery.py"],
    }
