"""Precision and memory layout that fit a device: one table, from what each kind of device computes fast.

`Run.precision` and `Run.channels_last` may be `auto`. When training starts they become what `TABLE` says about the
weakest device that takes part, and the run folder holds what they became. A table and no measurement: a run that goes
on must find the same numerics again, whatever else the machine is doing.

The processor counts as it is allowed to be used: `ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2`, which torch
itself obeys, make any x86 processor one without bfloat16 instructions.
"""

import os
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from slotworks.machine import Precision
from slotworks.training.checkpoint import Checkpoint
from slotworks.training.run import Run
from slotworks.types import UserError

if TYPE_CHECKING:  # it takes seconds to import
    from lightning.fabric import Fabric

T = TypeVar("T")

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True)
class Numerics:
    """What one kind of device computes fast."""

    precision: Precision  # what `auto` becomes
    channels_last: tuple[Precision, ...]  # precisions in which convolutions are faster with memory layout b h w c
    slow: tuple[Precision, ...]  # precisions that it has no instructions for: several times slower than float32


# The weakest first: where several devices train together, the weakest decides for all.
TABLE: dict[str, Numerics] = {
    # No accelerator that is named below; float32 is what every device computes.
    "other": Numerics("32", channels_last=(), slow=()),
    # Apple's GPUs: nothing was measured.
    "mps": Numerics("32", channels_last=(), slow=()),
    # x86 up to AVX2, where channels_last makes the backward pass of a float32 convolution slower (54 against 84
    # GFLOP/s); ARM, where nothing was measured.
    "cpu": Numerics("32", channels_last=(), slow=("bf16", "16")),
    # AVX-512 without products of bfloat16.
    "cpu-avx512": Numerics("32", channels_last=("32",), slow=("bf16", "16")),
    # avx512_bf16 or AMX.
    "cpu-bf16": Numerics("bf16", channels_last=("32", "bf16"), slow=("16",)),
    # CUDA before compute capability 8.0; tensor cores want channels last, float32 does not use them.
    "cuda": Numerics("16", channels_last=("16",), slow=("bf16",)),
    "cuda-bf16": Numerics("bf16", channels_last=("bf16", "16"), slow=()),
}

# Values of ONEDNN_MAX_CPU_ISA below the first that has products of bfloat16, in oneDNN's order. It ignores others.
_ISAS_WITHOUT_AVX512 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")
_ISAS_WITHOUT_BF16 = (*_ISAS_WITHOUT_AVX512, "AVX512_CORE", "AVX512_CORE_VNNI")


def settle(settings: T, kind: str, kept: Any = None) -> T:
    """`auto` in the fields `precision` and `channels_last` of a dataclass, and of those inside, as `TABLE[kind]` says.

    Args:
        settings: a `Run`, or any other dataclass.
        kind: of the device, from `device_kind`.
        kept: the same settings as they were settled before; what they say takes the place of the table.
    """
    numerics, changes = TABLE[kind], {}
    for field in fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            changed = settle(value, kind, getattr(kept, field.name, None))
            changes |= {field.name: changed} if changed is not value else {}
        elif field.name == "precision" and value == "auto":
            changes["precision"] = getattr(kept, "precision", numerics.precision)
    if getattr(settings, "channels_last", None) == "auto":
        precision = changes.get("precision", getattr(settings, "precision", "32"))
        changes["channels_last"] = getattr(kept, "channels_last", precision in numerics.channels_last)
    return replace(settings, **changes) if changes else settings  # type: ignore[type-var]


def settle_run(run: Run, fabric: "Fabric") -> Run:
    """The run as it is trained on these devices. All processes get the same answer.

    The precision of a Fabric is decided when it is made: `auto` becomes that, also for a Fabric of one's own (FSDP).
    """
    if run.precision == "auto":
        names: tuple[Precision, ...] = ("bf16", "16")
        made = str(getattr(fabric.strategy.precision, "precision", "32"))
        run = replace(run, precision=next((name for name in names if made.startswith(name)), "32"))
    return settle(run, weakest_kind(fabric)) if run.channels_last == "auto" else run


def unsettled(settled: Run, asked: Run) -> Run:
    """The run of a folder with `auto` wherever `asked` has it: equal to `asked` if it is the same run."""
    names = ("precision", "channels_last")
    changes: dict[str, Any] = {name: "auto" for name in names if getattr(asked, name) == "auto"}
    return replace(settled, **changes)


def find_device(name: str | None = None) -> torch.device:
    """The device of this name; by default the first CUDA device, under `torchrun` that of this process, or the CPU.

    Raises:
        UserError: if there is no such device here.
    """
    name = name or (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"device is {name!r}, which cannot be used here ({reason}); give cpu, or leave it out."
        ) from None


def device_kind(device: torch.device) -> str:
    """The row of `TABLE` that a device belongs to."""
    if device.type == "cuda":
        return "cuda-bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "cuda"
    if device.type == "cpu":
        return _cpu_kind()
    return device.type if device.type in TABLE else "other"


def weakest_kind(fabric: "Fabric") -> str:
    """The weakest kind of device among all processes of a launched Fabric."""
    kinds = list(TABLE)
    place = torch.tensor(kinds.index(device_kind(fabric.device)), device=fabric.device)
    places = fabric.all_gather(place)
    assert isinstance(places, torch.Tensor)
    return kinds[int(places.min())]


def fast_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision itself, or for `auto` what this device computes fast."""
    return TABLE[device_kind(device)].precision if precision == "auto" else precision


def slow_warning(precision: str, device: torch.device) -> str:
    """One sentence if the device has no instructions for a precision, otherwise nothing."""
    kind = device_kind(device)
    if precision not in TABLE[kind].slow:
        return ""
    what, times = ("CPU", "about ten times as long as") if device.type == "cpu" else ("GPU", "longer than")
    return (
        f"precision is {precision}, for which this {what} has no instructions: it takes {times} precision "
        f"{TABLE[kind].precision}, which auto would choose."
    )


def numerics_notes(run: Run, checkpoint: Checkpoint | None, device: torch.device) -> list[str]:
    """What a person should know about the numerics of a run that begins, or goes on from a checkpoint: sentences."""
    notes = [slow_warning(run.precision, device)]
    if checkpoint:
        before, now = (f"precision {of.precision}, channels_last {of.channels_last}" for of in (checkpoint.run, run))
        if before != now:
            notes.append(f"Numerics change at step {checkpoint.step}: {before} until here, {now} from here on.")
    return [note for note in notes if note]


def cpu_flags() -> set[str]:
    """Instruction sets of the processor by the names of Linux; from torch on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return set(next(line for line in lines if line.startswith(("flags", "Features"))).split())
    except (OSError, StopIteration):
        known = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_tile": "_is_amx_tile_supported"}
        return {flag for flag, name in known.items() if getattr(torch.cpu, name, bool)()}


def _cpu_kind() -> str:
    allowed = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512") or allowed in _ISAS_WITHOUT_AVX512:
        return "cpu"
    has_bf16 = bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "amx_tile"})
    return "cpu-bf16" if has_bf16 and allowed not in _ISAS_WITHOUT_BF16 else "cpu-avx512"
