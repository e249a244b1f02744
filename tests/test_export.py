"""Runs as programs without slotworks: the same numbers for any batch, and no trace left in the process.

Tracing sees symbols in the place of sizes, which the checks of shapes in the other tests would fix to numbers. So the
programs are made in a process of their own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import slotworks
from slotworks.cli import main
from slotworks.configs import find
from slotworks.data.scenes import TetrominoScenes
from slotworks.errors import UserError
from slotworks.export import export
from slotworks.methods import SlotAttentionConfig
from slotworks.nn.noise import batch_noise, batch_uniform, noise_from
from slotworks.training import Run
from slotworks.training.checkpoint import LAST, Checkpoint, save_checkpoint
from slotworks.training.serialize import save_run

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not ONNX, reason="the extra `export` (onnx, onnxscript, onnxruntime) is not installed")

SMALL = {  # runs of a few numbers: the method, the programs, their inputs
    "drawn": (
        SlotAttentionConfig(channels=4, slot_dim=8, mlp_dim=16, num_iterations=2, encoder_strides=(2, 1, 1, 1)),
        {"encoder": {"image": ["batch", 3, 35, 35], "noise": ["batch", 4, 8]}, "decoder": {"slots": ["batch", 4, 8]}},
    ),
    "asking": (
        SlotAttentionConfig(
            channels=4, slot_dim=8, mlp_dim=16, num_iterations=1, initializer="learned", mask_posterior=0.2
        ),
        {
            "encoder": {"image": ["batch", 3, 35, 35]},
            "decoder": {"slots": ["batch", 4, 8], "image": ["batch", 3, 35, 35]},
        },
    ),
}
FAMILIES = {  # recipe: the programs, and what is left out
    "slot_attention.tetrominoes_mini": (["encoder", "decoder"], []),
    "set_prediction.scenes_mini": (["encoder", "sets"], []),
    "dinosaur.scenes_mini": (["encoder", "decoder"], []),
    "dinosaur.scenes_transformer_mini": (["encoder", "decoder"], []),
    "slate.scenes_mini": (["encoder"], ["decoder"]),
    "steve.scenes_mini": (["encoder", "encoder_next"], ["decoder"]),
}


def fresh(run: Run, folder: Path) -> Path:
    """A run folder with first weights, as if it had been trained for a step."""
    torch.manual_seed(0)
    method = run.method.build()
    folder.mkdir(parents=True)
    save_run(replace(run, steps=1), folder / "run.yaml")
    checkpoint = Checkpoint(run=replace(run, steps=1), step=1, seconds=0.0, model=method.state_dict())
    save_checkpoint(checkpoint, folder / LAST)
    return folder


def alone(code: str, *words: object) -> str:
    """What a process of its own prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(slotworks.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


EXPORT = """
import sys, json, torch
from pathlib import Path
from slotworks.export import export
from slotworks.training.reopen import load
from slotworks.types import VideoMethod

to, *folders = sys.argv[1:]
found = {}
for folder in folders:
    run, method = load(folder, device="cpu")
    image = torch.rand(2, 3, *run.data.size, generator=torch.Generator().manual_seed(1))
    image = image[:, None] if isinstance(method, VideoMethod) else image

    def slots():
        torch.manual_seed(5)
        with torch.no_grad():
            out = method.encode(image)
            return [out.slots, *([method.decode(*out.decoder_inputs).masks] if hasattr(method, "decode") else [])]

    before = slots()
    facts = export(folder, Path(folder) / to, to=to)
    same = all(torch.equal(a, b) for a, b in zip(before, slots()))
    again = load(folder, device="cpu")[1]
    method = again
    found[Path(folder).name] = facts | {"same": same and all(torch.equal(a, b) for a, b in zip(before, slots()))}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    base = tmp_path_factory.mktemp("export")
    data = TetrominoScenes(num_train=4, num_val=2, num_test=2)
    return {
        name: fresh(Run(method=method, data=data, steps=1, batch_size=2), base / name)
        for name, (method, _) in SMALL.items()
    }


@pytest.fixture(scope="module")
def exported(small):
    return json.loads(alone(EXPORT, "torch", *small.values()))


@pytest.mark.parametrize("name", SMALL)
def test_torch_programs_compute_what_the_method_does(name, exported, small):
    """On a batch of another size than was traced; afterwards the process computes what it did before."""
    facts = exported[name]
    assert {one["name"]: one["inputs"] for one in facts["programs"]} == SMALL[name][1], facts["left_out"]
    assert not facts["left_out"]
    for one in facts["programs"]:
        assert one["checked"] == "torch"
        assert one["difference"] <= 1e-5, one
        assert one["bytes"] == (small[name] / "torch" / one["file"]).stat().st_size
        assert all(shape[0] == "batch" for shape in one["outputs"].values())
    assert facts["same"]


def test_a_program_runs_without_slotworks(exported, small):
    """In a process that imports torch alone, with one image; the noise is what the method draws from a seed."""
    code = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
torch.manual_seed(5)
slots, attention, masks = program(torch.linspace(0, 1, 3 * 35 * 35).view(1, 3, 35, 35), torch.randn(1, 4, 8))
assert "slotworks" not in sys.modules
print(tuple(slots.shape), tuple(attention.shape), tuple(masks.shape), float(slots.sum()))
"""
    printed = alone(code, small["drawn"] / "torch" / "encoder.pt2")
    shapes, _, total = printed.strip().rpartition(" ")
    assert shapes == "(1, 4, 8) (1, 4, 18, 18) (1, 4, 35, 35)"
    method = slotworks.load(small["drawn"], device="cpu")[1]
    torch.manual_seed(5)
    with torch.no_grad():
        own = method.encode(torch.linspace(0, 1, 3 * 35 * 35).view(1, 3, 35, 35)).slots
    assert float(total) == pytest.approx(float(own.sum()), abs=1e-4)


@needs_onnx
def test_onnx_programs_compute_what_the_method_does(small):
    facts = json.loads(alone(EXPORT, "onnx", *small.values()))
    for name, (_, programs) in SMALL.items():
        assert {one["name"]: one["inputs"] for one in facts[name]["programs"]} == programs, facts[name]["left_out"]
        for one in facts[name]["programs"]:
            assert one["checked"] == "onnxruntime"
            assert one["difference"] <= 1e-4
            assert one["opset"] == 18


def test_slots_that_start_from_boxes_are_refused(tmp_path):
    folder = fresh(find("savi.scenes_mini")(), tmp_path / "run")
    with pytest.raises(UserError, match="run cannot be exported: This SAVi starts its slots from the boxes"):
        export(folder, tmp_path / "out", to="torch")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FAMILIES)
def test_every_family_has_its_programs(recipe, tmp_path):
    """Minutes: graphs of every iteration of whole networks are traced."""
    folder = fresh(find(recipe)(), tmp_path / recipe)
    names, left_out = FAMILIES[recipe]
    for to in ("torch", *(["onnx"] if ONNX else [])):
        facts = json.loads(alone(EXPORT, to, folder))[recipe]
        assert [one["name"] for one in facts["programs"]] == names, facts["left_out"]
        assert list(facts["left_out"]) == left_out
        assert all(one["difference"] <= 1e-4 for one in facts["programs"])
        assert facts["same"]


@pytest.mark.skipif(ONNX, reason="the extra is here")
def test_a_missing_extra_is_said(small, tmp_path, capsys):
    assert main(["export", str(small["drawn"]), "--out", str(tmp_path / "x")]) == 2
    assert "pip install 'slotworks[export]'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_noise_from_somewhere_else():
    """In order, for both kinds, with the shape that is asked for; afterwards torch is asked again."""
    asked = []

    def source(draw, shape):
        asked.append((draw.__name__, shape))
        return torch.full(shape, float(len(asked)))

    with noise_from(source):
        assert batch_noise((2, 3)).eq(1).all()
        assert batch_uniform([4], dtype=torch.float64).tolist() == [2.0] * 4
    assert asked == [("randn", (2, 3)), ("rand", (4,))]
    torch.manual_seed(0)
    first = batch_noise((2, 3))
    torch.manual_seed(0)
    assert torch.equal(first, torch.randn(2, 3))
