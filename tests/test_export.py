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
from slotworks.nn.noise import batch_noise, batch_uniform, noise_from
from slotworks.training.checkpoint import LAST, Checkpoint, save_checkpoint
from slotworks.training.serialize import save_run

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not ONNX, reason="the extra `export` (onnx, onnxscript, onnxruntime) is not installed")

FAMILIES = {  # recipe: the programs, and what is left out
    "slot_attention.tetrominoes_mini": (["encoder", "decoder"], []),
    "set_prediction.scenes_mini": (["encoder", "sets"], []),
    "dinosaur.scenes_mini": (["encoder", "decoder"], []),
    "dinosaur.scenes_transformer_mini": (["encoder", "decoder"], []),
    "slate.scenes_mini": (["encoder"], ["decoder"]),
    "savi.scenes_mini": (["encoder", "encoder_next", "decoder"], []),
}


def fresh(recipe: str, folder: Path) -> Path:
    """A run folder of a recipe with its first weights, as if it had been trained for a step."""
    run = find(recipe)()
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

to, *folders = sys.argv[1:]
found = {}
for folder in folders:
    run, method = load(folder, device="cpu")
    image = torch.rand(2, 3, *run.data.size, generator=torch.Generator().manual_seed(1))
    image = image[:, None] if type(method).__name__ == "SAVi" else image

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
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("export")
    return {recipe: fresh(recipe, base / recipe) for recipe in FAMILIES}


@pytest.fixture(scope="module")
def exported(folders):
    return json.loads(alone(EXPORT, "torch", *folders.values()))


@pytest.mark.parametrize("recipe", FAMILIES)
def test_torch_programs_compute_what_the_method_does(recipe, exported):
    """On a batch of another size than was traced; afterwards the process computes what it did before."""
    facts, (names, left_out) = exported[recipe], FAMILIES[recipe]
    assert [one["name"] for one in facts["programs"]] == names, facts["left_out"]
    assert list(facts["left_out"]) == left_out
    for one in facts["programs"]:
        assert one["checked"] == "torch"
        assert one["difference"] <= 1e-5, one
        assert all(shape[0] == "batch" for shape in (one["inputs"] | one["outputs"]).values())
    assert facts["same"]


def test_a_program_runs_without_slotworks(exported, folders):
    """In a process that imports torch alone, with one image."""
    code = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
torch.manual_seed(0)
out = program(torch.rand(1, 3, 35, 35, generator=torch.Generator().manual_seed(0)))
assert "slotworks" not in sys.modules
print(*(tuple(value.shape) for value in out), float(out[2].sum(1).sub(1).abs().max()) < 1e-5)
"""
    printed = alone(code, folders["slot_attention.tetrominoes_mini"] / "torch" / "encoder.pt2")
    assert printed.split(") ")[0] + ")" == "(1, 4, 64)"
    assert printed.strip().endswith("True")


@needs_onnx
@pytest.mark.parametrize("recipe", ["slot_attention.tetrominoes_mini", "dinosaur.scenes_mini"])
def test_onnx_programs_compute_what_the_method_does(recipe, folders):
    facts = json.loads(alone(EXPORT, "onnx", folders[recipe]))[recipe]
    assert [one["name"] for one in facts["programs"]] == FAMILIES[recipe][0], facts["left_out"]
    for one in facts["programs"]:
        assert one["checked"] == "onnxruntime"
        assert one["difference"] <= 1e-4
        assert one["opset"] == 18


@pytest.mark.skipif(ONNX, reason="the extra is here")
def test_a_missing_extra_is_said(folders, tmp_path, capsys):
    assert main(["export", str(folders["slot_attention.tetrominoes_mini"]), "--out", str(tmp_path / "x")]) == 2
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
