"""A checkpoint of whatever make as named tensors: files of torch, safetensors, flax and TensorFlow, told by content."""

import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from slotworks.convert.msgpack import flat, read_flax
from slotworks.convert.pickles import Stored, read_saved, tensors_in
from slotworks.convert.tensorbundle import read_bundle
from slotworks.errors import UserError
from slotworks.training.checkpoint import unwrapped

DAMAGE = (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
DAMAGE += (AssertionError, SyntaxError, ImportError, MemoryError, SafetensorError, pickle.UnpicklingError)
DAMAGE += (struct.error, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What torch and safetensors raise for a damaged file; not `Exception`, of which errors of this package derive."""

Layout = Literal["torch", "safetensors", "flax", "tensorflow"]
BEST = ("state_dict", "model", "model_state_dict", "net")
"""Where training programs put the state dict of the model, beside that of the optimiser."""


@dataclass(frozen=True)
class Source:
    """What was read of a checkpoint."""

    path: Path
    layout: Layout
    tensors: dict[str, Tensor]  # by their names; floating ones as float32
    facts: dict[str, Any] = field(default_factory=dict)  # numbers and text beside them, such as `global_step`
    foreign: tuple[str, ...] = ()  # classes and functions that the file names; they were not called

    def has(self, *names: str) -> bool:
        """Whether all these tensors are there."""
        return self.tensors.keys() >= set(names)


def open_source(path: Path) -> Source:
    """Read a checkpoint's file, or the one file of a checkpoint in a folder; nothing is unpickled.

    Raises:
        UserError: it is missing, damaged, of an unknown kind, or holds no named tensors.
    """
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"There is no file {file}; give a checkpoint, or the folder that it is in.")
    try:
        source = _read(file)
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:120].rstrip(" .") or type(error).__name__
        raise UserError(f"{file} cannot be read as plain tensors ({reason}); get the checkpoint again.") from None
    if not source.tensors:
        raise UserError(f"{file} holds no named tensors; expected the weights of a model.")
    plain = {name: value.float() if value.is_floating_point() else value for name, value in source.tensors.items()}
    return Source(path, source.layout, plain, source.facts, source.foreign)


ENDINGS = (".ckpt", ".pt", ".pth", ".pt.tar", ".tar", ".bin", ".safetensors", ".flax", ".msgpack", ".index")


def _file_in(folder: Path) -> Path:
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name.endswith(ENDINGS))
    bundles = [file for file in files if file.suffix == ".index"]
    files = bundles if len(bundles) == 1 else files
    if len(files) != 1:
        said = f"holds {len(files)} of them" if files else "holds none"
        raise UserError(f"{folder} {said}; name the file of one checkpoint.")
    return files[0]


def _read(file: Path) -> Source:
    with file.open("rb") as opened:
        head = opened.read(16)
    if head.startswith(b"PK\x03\x04"):
        saved = read_saved(file)
        found = _state_dict(saved.contents)
        tensors = {name: saved.load(value) if isinstance(value, Stored) else value for name, value in found.items()}
        return Source(file, "torch", _checked(tensors), _facts(saved.contents), saved.foreign)
    if file.suffix == ".index":
        return Source(file, "tensorflow", read_bundle(file))
    if head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):  # a map of msgpack
        return Source(file, "flax", flat(read_flax(file)))
    if file.suffix == ".safetensors":
        return Source(file, "safetensors", unwrapped(load_file(file)))
    contents = torch.load(file, map_location="cpu", weights_only=True)  # torch before 1.6
    return Source(file, "torch", _checked(_state_dict(contents)), _facts(contents))


def _state_dict(contents: Any) -> dict[str, Any]:
    """The model's tensors among all that a training program saves."""
    found = dict(tensors_in(contents))
    for name in (*((best,) for best in BEST), ()):
        if name in found:
            return found[name]
    return next(iter(found.values()), {})


def _checked(state: dict[str, Any]) -> dict[str, Tensor]:
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            said = getattr(value, "path", "") or type(value).__name__
            raise TypeError(f"{name!r} is {said} and no tensor")
    return unwrapped({name: value.contiguous() for name, value in state.items()})


def _facts(contents: Any) -> dict[str, Any]:
    if not isinstance(contents, dict):
        return {}
    return {key: value for key, value in contents.items() if isinstance(key, str) and type(value) in (int, float, str)}
