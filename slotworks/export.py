"""Trained runs as programs that need no slotworks: ONNX files, or torch's exported programs.

    export("runs/mine", "exported", to="onnx")     # encoder.onnx, decoder.onnx and what they take in export.json

| program | takes | gives |
| --- | --- | --- |
| `encoder` | `image` `b 3 h w` in [0, 1]; `noise` where slots are drawn | `slots`, `attention`, a decoder's `masks` |
| `encoder_next` | of a run on videos: the next frame, and `state` | the same, for every frame but the first |
| `decoder` | `slots`, and `features` or `image` where it needs them again | `recon`, `masks` |
| `sets` | `slots` | `objects`, of methods that predict sets |

The batch has any size, pictures have that of the training. What is drawn at random is an input, so that a program is a
function: `torch.manual_seed(seed)` and `torch.randn` (or `torch.rand`, as export.json says) of that shape give what
`slotworks segment --seed` draws. Generators that sample in many steps are not exported.
"""

import contextlib
import importlib
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import slotworks.data.scenes
import slotworks.data.stores.generated
import slotworks.data.stores.latents
import slotworks.methods  # noqa: F401  (a run folder names classes of these packages; it never says what to import)
from slotworks.errors import UserError, check_extra, shorten
from slotworks.nn.noise import noise_from
from slotworks.outputs import Outputs, writing
from slotworks.training.reopen import load
from slotworks.training.run import Run
from slotworks.types import Decodes, Method, PredictsSets, Samples, SlotOutput, VideoMethod
from slotworks.version import __version__

TOLERANCE = 1e-4
"""Largest difference of any output from that of the method itself; a program that differs by more is not written."""

OPSET = 18
LIST = "export.json"
ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
TRACED, CHECKED = 2, 3  # images in the batch that is traced, and in the one that is compared

REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, NotImplementedError)
"""What tracing raises for code that is no fixed program, and the converter for an operation it does not know."""


@dataclass(frozen=True)
class Program:
    """A part of a method as a function of tensors."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]  # examples, `CHECKED` in each; the first axis of all is the batch
    outputs: tuple[str, ...]


class _Encoder(nn.Module):
    def __init__(self, method: Method, names: Sequence[str], *, first: bool):
        super().__init__()
        self.method, self.names, self.first = method, tuple(names), first

    def forward(self, image: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
        def noise(draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
            assert given is not None
            return given

        with noise_from(noise) if self.first else contextlib.nullcontext():
            out = _encode(self.method, image, None if self.first else given)
        found = {"slots": out.slots, "attention": out.attn_maps, "features": out.features, "state": out.state}
        if "masks" in self.names:
            assert isinstance(self.method, Decodes)
            found["masks"] = self.method.decode(*out.decoder_inputs).masks
        values = {name: value for name, value in found.items() if value is not None}
        frames = isinstance(self.method, VideoMethod)
        return tuple(values[n][:, 0] if frames and n != "state" else values[n] for n in self.names)


class _Decoder(nn.Module):
    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, slots: Tensor, more: Tensor | None = None) -> tuple[Tensor, Tensor]:
        assert isinstance(self.method, Decodes)
        frames = isinstance(self.method, VideoMethod)
        inputs = [slots] if more is None else [slots, more]
        out = self.method.decode(*(value[:, None] if frames else value for value in inputs))
        return (out.recon[:, 0], out.masks[:, 0]) if frames else (out.recon, out.masks)


class _Sets(nn.Module):
    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, slots: Tensor) -> Tensor:
        assert isinstance(self.method, PredictsSets)
        return self.method.predict_set(slots)


def _encode(method: Method, image: Tensor, state: Tensor | None) -> SlotOutput:
    return method.encode(image[:, None], state=state) if isinstance(method, VideoMethod) else method.encode(image)


def export(run_folder: str | Path, out: str | Path, *, to: Literal["onnx", "torch"] = "onnx") -> dict[str, Any]:
    """Write the programs of a run into a folder, each compared with the method itself on another batch than was traced.

    Args:
        run_folder: with a checkpoint.
        out: made if it is missing; holds the programs and `export.json`.
        to: `onnx` needs the extra `export`; `torch` makes files for `torch.export.load`.

    Returns:
        What `export.json` holds: `programs`, each with `file`, `bytes`, `inputs`, `outputs`, `difference` (the largest
        one from the method's own outputs; `checked` says by which library), `opset` of ONNX; and `left_out`, what
        cannot be exported and why.

    Raises:
        UserError: the folder is no trained run, an extra is missing, nothing of it can be exported, a program does not
            compute what the method does, or the disk refuses.
    """
    if to not in ENDINGS:
        raise UserError(f"`to` is {to!r}; programs are made for onnx or torch.")
    if to == "onnx":
        check_extra("export", "onnx", "onnxscript")
    run, method = load(run_folder, device="cpu")
    try:
        found, left_out = programs(run, method)
    except UserError as error:
        raise UserError(f"{run_folder} cannot be exported: {error}") from None
    written = []
    with writing(out, doing="writing programs") as outputs, torch.no_grad():
        for program in found:
            try:
                with _quiet():
                    traced = _traced(program)
                    answer = _save(program, traced, outputs, to)
            except REFUSALS as error:
                left_out[program.name] = f"{type(error).__name__}: {shorten(' '.join(str(error).split()), 300)}"
            else:
                written.append(answer)
        if not written:
            raise UserError(
                f"Nothing of {run_folder} can be exported: {'; '.join(f'{k}: {v}' for k, v in left_out.items())}."
            )
        kind = type(method).__name__
        facts = {"method": kind, "slotworks": __version__, "torch": torch.__version__, "to": to}
        facts |= {"programs": written, "left_out": left_out}
        outputs.write_text(LIST, json.dumps(facts, indent=1) + "\n")
    return facts


def programs(run: Run, method: Method) -> tuple[list[Program], dict[str, str]]:
    """The parts of a method that are functions of tensors, and what is not, with the reason."""
    left_out: dict[str, str] = {}
    height, width = run.data.size
    image = torch.rand(CHECKED, 3, height, width, generator=torch.Generator().manual_seed(0))
    draws: list[tuple[str, Tensor]] = []

    def recorded(draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        draws.append((draw.__name__, draw(*shape)))
        return draws[-1][1]

    with torch.no_grad(), noise_from(recorded):  # also loads networks that are loaded when they are first used
        out = _encode(method, image, None)
    if len(draws) > 1:
        left_out["encoder"] = f"it draws random numbers {len(draws)} times; a program takes them once"
        return [], left_out
    decodes = isinstance(method, Decodes)
    frames = isinstance(method, VideoMethod)
    more = {"features": out.features} if out.features is not None else {"image": image} if out.image is not None else {}
    names = ["slots", "attention", *(["masks"] if decodes else []), *(["features"] if "features" in more else [])]
    names += ["state"] if frames else []
    noise = {"noise_uniform" if kind == "rand" else "noise": value for kind, value in draws}
    found = [Program("encoder", _Encoder(method, names, first=True), {"image": image, **noise}, tuple(names))]
    if frames:
        assert out.state is not None
        inputs = {"image": image, "state": out.state}
        found.append(Program("encoder_next", _Encoder(method, names, first=False), inputs, tuple(names)))
    slots = out.slots[:, 0] if frames else out.slots
    if decodes:
        given = {name: value[:, 0] if frames and name == "features" else value for name, value in more.items()}
        found.append(Program("decoder", _Decoder(method), {"slots": slots, **given}, ("recon", "masks")))
    elif isinstance(method, Samples):
        left_out["decoder"] = f"{type(method).__name__} samples pictures in many steps; a program has none of its own"
    if isinstance(method, PredictsSets):
        found.append(Program("sets", _Sets(method), {"slots": slots}, ("objects",)))
    return found, left_out


def _traced(program: Program) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    example = tuple(value[:TRACED].clone() for value in program.inputs.values())
    return torch.export.export(
        program.module.eval(), example, dynamic_shapes=tuple({0: batch} for _ in example), strict=False
    )


def _save(program: Program, traced: torch.export.ExportedProgram, outputs: Outputs, to: str) -> dict[str, Any]:
    """Write a program and compare it with its module.

    Raises:
        UserError: if it differs.
    """
    inputs = list(program.inputs.values())
    expected = program.module(*inputs)
    expected = [expected] if isinstance(expected, Tensor) else list(expected)
    name = f"{program.name}{ENDINGS[to]}"
    answer: dict[str, Any] = {"name": program.name, "file": name}
    with outputs.replacing(name) as beside:
        if to == "torch":
            torch.export.save(traced, beside)
            given = torch.export.load(beside).module()(*inputs)
            made, checked = [given] if isinstance(given, Tensor) else list(given), "torch"
        else:
            converted = torch.onnx.export(
                traced,
                tuple(inputs),
                input_names=list(program.inputs),
                output_names=list(program.outputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            assert converted is not None
            converted.save(str(beside), external_data=False)
            answer["opset"] = OPSET
            made, checked = _by_runtime(beside, program.inputs), "onnxruntime"
        if made is None:
            answer |= {"difference": None, "checked": None}
        else:
            far = max(float((a - b).abs().max()) for a, b in zip(expected, made, strict=True))
            if not far <= TOLERANCE:
                raise UserError(f"{name} would differ from the method by {far:.2g}, more than {TOLERANCE:g}.")
            answer |= {"difference": far, "checked": checked}
        answer["bytes"] = beside.stat().st_size
    answer["inputs"] = {key: _shape(value) for key, value in program.inputs.items()}
    answer["outputs"] = {key: _shape(value) for key, value in zip(program.outputs, expected, strict=True)}
    return answer


def _by_runtime(path: Path, inputs: dict[str, Tensor]) -> list[Tensor] | None:
    """What onnxruntime computes; None where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(one) for one in session.run(None, {k: v.numpy() for k, v in inputs.items()})]


def _shape(value: Tensor) -> list[str | int]:
    return ["batch", *value.shape[1:]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notices of tracing, which speak of code that nobody here wrote."""
    names = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
