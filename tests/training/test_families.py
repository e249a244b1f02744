"""A run is the same in one, two and four processes, shared or not, and goes on in another number of them."""

import os
from pathlib import Path

import pytest
import torch
from families import FAMILIES, losses, small_run, train_all
from training_toy import in_processes

from slotworks.cli import main
from slotworks.training import train
from slotworks.training.checkpoint import load_checkpoint

SCRIPT = Path(__file__).with_name("families.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SHARED = ("slot_diffusion.scenes_mini", "glass.scenes_phase2_mini")
ALL, BOTH = ",".join(FAMILIES), ",".join(SHARED)


def same_losses(folder, expected):
    """To 1e-6, of the value where that is above 1."""
    said = folder.parent / f"{folder.name}.txt"
    assert not said.exists(), said.read_text()
    found, known = losses(folder), losses(expected)
    assert found.keys() == known.keys()
    assert len({step for step, _ in found}) == 4
    assert found == pytest.approx(known, rel=1e-6, abs=1e-6)


def last(folder):
    return load_checkpoint(folder / "checkpoints" / "last.safetensors")


def test_one_family(tmp_path, monkeypatch):
    """Two steps in two processes, then two in one."""
    name = "slot_attention.tetrominoes_mini"
    in_processes(2, SCRIPT, [tmp_path, f"mixed:{name}:2:"], ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    for place in ("mixed", "one"):
        train(small_run(name), Path(place, name), device="cpu")
    same_losses(tmp_path / "mixed" / name, tmp_path / "one" / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Every family in one, two and four processes, in two and then four, and two families that share their weights."""
    folder, here = tmp_path_factory.mktemp("families"), Path.cwd()
    forwards = {kind: kind.forward for kind in (torch.nn.Dropout, torch.nn.Dropout2d)}
    os.chdir(folder)
    try:
        assert main(["synthesize", "glass.scenes", "--num-images", "8", "--steps", "1"]) == 0
        for name in FAMILIES:  # what later ones build on, before any is changed by its training here
            train(small_run(name, 1), Path("runs", name), device="cpu")
        train_all(FAMILIES, "one")
    finally:
        os.chdir(here)
        for kind, forward in forwards.items():
            kind.forward = forward  # type: ignore[method-assign]
    in_processes(2, SCRIPT, [folder, f"two:{ALL}::", f"mixed:{ALL}:2:", f"shared:{BOTH}:2:shard"], ENVIRONMENT)
    in_processes(4, SCRIPT, [folder, f"four:{ALL}::", f"mixed:{ALL}::", f"shared:{BOTH}::shard"], ENVIRONMENT)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["two", "four", "mixed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(place, name, processes):
    """Minutes: four steps of each, with four samples a step."""
    same_losses(place / processes / name, place / "one" / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_shared_weights_are_those_of_one_process(place, name):
    """Two steps in two processes that share weights and moments, two in four; one process reads what they leave."""
    same_losses(place / "shared" / name, place / "one" / name)
    found, known = last(place / "shared" / name), last(place / "one" / name)
    for section in ("model", "optimizer"):
        one, other = getattr(found, section), getattr(known, section)
        assert one.keys() == other.keys()
        differences = [(one[key].double() - other[key].double()).abs() for key in one if one[key].numel()]
        assert max(difference.max().item() for difference in differences) < 1e-6
