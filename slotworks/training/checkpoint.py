"""A checkpoint is one safetensors file: `model.*` weights, `ema.*` their average, `optimizer.PARAMETER.*` Adam's state.

Its metadata hold the run as YAML, the finished steps and the training seconds, so one file is enough to rebuild the
method and to go on. Nothing in it is a pickle. No random state is stored: in the training loop it is a function of the
seed and the step.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slotworks.files import replacing
from slotworks.json_text import read_json
from slotworks.ranges import LARGE, whole_number
from slotworks.training.run import Run
from slotworks.training.serialize import from_plain, from_yaml, to_yaml
from slotworks.training.shard import copy_into
from slotworks.types import Method, MethodConfig, UserError, all_finite
from slotworks.yaml_text import read_yaml

FORMAT = "slotworks-checkpoint"
VERSION = 1
LAST = Path("checkpoints") / "last.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training run after `step` updates."""

    run: Run
    step: int
    seconds: float  # of training so far
    model: dict[str, Tensor]
    ema: dict[str, Tensor] = field(default_factory=dict)  # trainable weights only; empty without an average
    optimizer: dict[str, Tensor] = field(default_factory=dict)  # "PARAMETER.KEY", by name so that order may change
    scaler: dict[str, float] = field(default_factory=dict)  # loss scale of float16


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint, whole or not at all; an older one at `path` stays if the disk refuses.

    Raises:
        UserError: if it could not be written.
    """
    sections = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer}
    tensors = {  # copied: safetensors refuses tied weights that share memory
        f"{section}.{name}": value.detach().to("cpu", copy=True).contiguous()
        for section, values in sections.items()
        for name, value in values.items()
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "run": to_yaml(checkpoint.run),
        "step": str(checkpoint.step),
        "seconds": repr(checkpoint.seconds),
        "scaler": json.dumps(checkpoint.scaler),
    }
    with replacing(path) as beside:
        save_file(tensors, beside, metadata=metadata)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a whole checkpoint, to go on training.

    Raises:
        UserError: if the file is missing, cut short, not a checkpoint, or of an unknown method or data set; if a tensor
            in it holds NaN or infinity.
    """
    path = _file(path)
    metadata, tensors = _read(path)
    sections: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
    for name, value in tensors.items():
        section, _, rest = name.partition(".")
        sections.setdefault(section, {})[rest] = value
    try:
        step, seconds = int(metadata["step"]), float(metadata["seconds"])
        scaler = read_json(metadata["scaler"])
    except ValueError:
        raise UserError(f"{path} does not say how far it is; use another checkpoint of the run.") from None
    return Checkpoint(
        run=from_yaml(Run, metadata["run"], source=str(path)),
        step=step,
        seconds=seconds,
        scaler=scaler,
        model=sections["model"],
        ema=sections["ema"],
        optimizer=sections["optimizer"],
    )


def load_weights(path: Path | str, *, ema: bool = True) -> tuple[MethodConfig, dict[str, Tensor]]:
    """The method's settings and weights, on the CPU; the data set's class need not be known.

    Args:
        path: a checkpoint, or a run folder for its last one.
        ema: with the averaged weights where the run kept an average.

    Raises:
        UserError: if the file is missing, cut short, not a checkpoint, or of an unknown method; if a weight is NaN or
            infinite.
    """
    path = _file(path)
    metadata, tensors = _read(path, skip="optimizer." if ema else ("optimizer.", "ema."))
    config = from_plain(MethodConfig, _settings(metadata, path).get("method"), source=str(path))
    weights = {name.removeprefix("model."): v for name, v in tensors.items() if name.startswith("model.")}
    weights |= {name.removeprefix("ema."): v for name, v in tensors.items() if name.startswith("ema.")}
    return config, weights


def load_method(path: Path | str, *, ema: bool = True, config: MethodConfig | None = None) -> Method:
    """The trained method, built from its settings, on the CPU in evaluation mode.

    Args:
        path: a checkpoint, or a run folder for its last one.
        ema: with the averaged weights where the run kept an average.
        config: settings to use instead of the run's own; the weights must fit them.

    Raises:
        UserError: as `load_weights`, and if the weights do not fit the settings.
    """
    own, weights = load_weights(path, ema=ema)
    method = (config or own).build()
    fit(method, weights, source=str(_file(path)))
    return method.eval()


def checkpoint_step(path: Path | str) -> int:
    """How many steps a checkpoint, or the last one of a run folder, has seen; its tensors are not read.

    Raises:
        UserError: if the file is missing, cut short or not a checkpoint.
    """
    metadata, _ = _read(_file(path), skip="")  # every name begins with nothing
    return int(metadata["step"])


def checkpoint_seconds(path: Path | str) -> float:
    """How long a checkpoint, or the last one of a run folder, was trained for; its tensors are not read.

    Raises:
        UserError: as `checkpoint_step`, and if the file does not say it.
    """
    path = _file(path)
    metadata, _ = _read(path, skip="")
    try:
        return float(metadata["seconds"])
    except ValueError:
        raise UserError(f"{path} does not say how long it was trained; use another checkpoint of the run.") from None


def fit(method: Method, weights: dict[str, Tensor], *, source: str) -> None:
    """Put weights into a method after checking names, shapes and dtypes; `source` is the file's name for messages.

    Raises:
        UserError: naming the first weight that is missing, unknown or of another shape or dtype.
    """
    expected = method.state_dict()
    given = unwrapped(weights) if weights.keys().isdisjoint(expected) else weights
    kind = type(method).__name__
    for name in sorted(expected.keys() - given.keys()):
        raise UserError(f"{source} lacks the weight {name} of {kind}; it was written for other settings or code.")
    for name in sorted(given.keys() - expected.keys()):
        raise UserError(f"{source} has a weight {name} that {kind} lacks; it was written for other settings or code.")
    for name, value in expected.items():
        if given[name].shape != value.shape:
            raise UserError(
                f"{source} holds {name} with shape {tuple(given[name].shape)} but the settings of {kind} ask for "
                f"{tuple(value.shape)}; settings and weights belong to different runs."
            )
        if given[name].dtype != value.dtype:
            own, wanted = (str(tensor.dtype).removeprefix("torch.") for tensor in (given[name], value))
            raise UserError(
                f"{source} holds {name} as {own} but {kind} has {wanted}; the file was changed after the training. Use "
                "another checkpoint of the run."
            )
    method.load_state_dict(given, strict=False)  # a method may leave frozen networks out of its state_dict


def check_weights(weights: dict[str, Tensor], *, source: str) -> None:
    """Refuse weights that are none; `source` is the file's name for messages.

    Raises:
        UserError: naming the first tensor that holds NaN or infinity.
    """
    for name, value in weights.items():
        if not all_finite(value):
            raise UserError(
                f"{source} holds NaN or infinity in the tensor {name}: the training had diverged, or the file is "
                "damaged. Use another checkpoint of the run."
            )


def unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same by the names of the bare module: without what DataParallel (`module.`) and `torch.compile`
    (`_orig_mod.`) put before them.

    >>> list(unwrapped({"module._orig_mod.a.weight": torch.zeros(1)}))
    ['a.weight']
    """
    weights = {name.replace("_orig_mod.", ""): value for name, value in weights.items()}
    if weights and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def optimizer_state(method: Method, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's state by parameter name: `{"encoder.weight.exp_avg": tensor, ...}`."""
    names = {id(p): name for name, p in method.named_parameters()}
    return {f"{names[id(p)]}.{key}": value for p, state in optimizer.state.items() for key, value in state.items()}


@torch.no_grad()
def restore_optimizer(
    method: Method, optimizer: torch.optim.Optimizer, state: dict[str, Tensor], *, source: str
) -> None:
    """The reverse of `optimizer_state`.

    Raises:
        UserError: if the state is not that of the method's trainable parameters.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        parameter, _, key = name.rpartition(".")
        by_name.setdefault(parameter, {})[key] = value
    names = {id(p): name for name, p in method.named_parameters()}
    parameters = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}
    for name, values in by_name.items():
        wrong = [v for v in values.values() if v.ndim and not _fits(v, parameters.get(name))]
        if name not in parameters or wrong:
            raise UserError(
                f"The optimiser's state of {name} in {source} does not fit the method; the file belongs to another run."
            )
        # Fused Adam reads memory in order: its state must lie as the parameter does (channels last, for example).
        by_name[name] = {k: _lying_as(parameters[name], v) if v.ndim else v for k, v in values.items()}
    state_dict = optimizer.state_dict()
    state_dict["state"] = {index: by_name[name] for index, name in enumerate(parameters) if name in by_name}
    optimizer.load_state_dict(state_dict)


def _lying_as(parameter: Tensor, value: Tensor) -> Tensor:
    copy = torch.empty_like(parameter)
    copy_into(copy, value)
    return copy


def _fits(value: Tensor, parameter: Tensor | None) -> bool:
    return parameter is not None and value.shape == parameter.shape and value.dtype == parameter.dtype


def _settings(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        plain = read_yaml(metadata["run"])
    except ValueError as error:
        raise UserError(f"{path}: its settings are not valid YAML: {error}.") from None
    return plain if isinstance(plain, dict) else {}


def _file(path: Path | str) -> Path:
    path = Path(path)
    return path / LAST if os.path.isdir(path) else path


def _read(path: Path, skip: str | tuple[str, ...] = ()) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not os.path.isfile(path):
        raise UserError(f"{path} does not exist; give a checkpoint, or the folder of a run that has saved one.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith(skip)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is cut short or not a safetensors file ({error}); use another checkpoint of the run."
        ) from None
    if metadata.get("format") != FORMAT or not metadata.keys() >= {"version", "run", "step", "seconds", "scaler"}:
        raise UserError(f"{path} is a safetensors file, but not a checkpoint of slotworks.")
    if (whole_number(metadata["version"]) or LARGE) > VERSION:
        raise UserError(
            f"{path} has checkpoint format {metadata['version']}; this slotworks reads {VERSION}. Install a newer one."
        )
    check_weights(tensors, source=str(path))
    if whole_number(metadata["step"]) is None:
        raise UserError(f"{path} does not say how far it is; use another checkpoint of the run.")
    return metadata, tensors
