"""What a training asks of a machine, counted before anything of it is there: no data, no download, no memory.

Everything is built on torch's meta device, which knows the shapes of tensors and holds none of their numbers; published
networks are built by their shape (`slotworks.encoders.blank`). One step is made forward and backward on a batch of the
recipe's size, and what it would compute and keep is added up.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from slotworks.encoders.blank import without_weights
from slotworks.errors import UserError
from slotworks.training.bench import batch_shapes
from slotworks.training.run import Run
from slotworks.types import Method, VideoMethod

META, CPU = torch.device("meta"), torch.device("cpu")
BYTES = 4  # of a number in float32


@dataclass(frozen=True)
class Plan:
    """One step of a run.

    Floating point operations count a multiplication and an addition as two; element-wise work is not counted.
    `activations` are what the backward pass needs of one micro-batch, in float32; mixed precision keeps about half.
    """

    parameters: int  # of the method, all of them saved with a run
    trained: int  # of these, changed by training
    frozen: int  # of pretrained networks beside the method
    flops: int  # of a step of the whole batch, forward and backward
    weights: int  # bytes of all networks
    optimizer: int  # bytes of gradients and of Adam's two moments
    activations: int  # bytes
    terms: tuple[str, ...]  # of the loss
    visits: dict[str, int]  # how often the CPU waits in a step for numbers from the device, by operation


class HostVisits(TorchFunctionMode):
    """Counts how often code asks for numbers of a meta tensor, each a place where the CPU would wait for a GPU.

    It is answered as if nothing were wrong: a single number is 1, a copy to the CPU is zeros, two tensors are equal,
    all of something is true, any of it (`any`, with which code looks for flaws) is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.visits: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every call of torch passes here."""
        kwargs = kwargs or {}
        if not (args and isinstance(args[0], Tensor) and args[0].device == META):
            return func(*args, **kwargs)
        x, name = args[0], getattr(func, "__name__", "")
        if name == "any":
            found = func(*args, **kwargs)
            found.looks_for_a_flaw = True
            return found
        if name == "__bool__" and hasattr(x, "looks_for_a_flaw"):
            self.visits["one number"] += 1
            return False
        if name in NUMBERS:
            self.visits["one number"] += 1
            return NUMBERS[name](1)
        if name == "item":
            self.visits["one number"] += 1
            return torch.ones((), dtype=x.dtype, device=CPU).item()
        if name == "equal":
            self.visits["comparison"] += 1
            return True
        if name == "tolist":
            self.visits["copy to the CPU"] += 1
            return torch.zeros(x.shape, dtype=x.dtype, device=CPU).tolist()
        if name == "cpu" or (name == "to" and CPU in (*map(_device, args[1:]), _device(kwargs.get("device")))):
            self.visits["copy to the CPU"] += 1
            return torch.zeros(x.shape, dtype=kwargs.get("dtype") or x.dtype, device=CPU)
        return func(*args, **kwargs)


NUMBERS: dict[str, type] = {"__bool__": bool, "__int__": int, "__float__": float, "__index__": int}


def _device(value: Any) -> torch.device | None:
    return torch.device(value) if isinstance(value, str | torch.device) else None


class Flops(TorchDispatchMode):
    """Adds up floating point operations, a multiplication and an addition as two."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation passes here."""
        out = func(*args, **kwargs or {})
        if count := flop_registry.get(func.overloadpacket):
            self.total += count(*args, **kwargs or {}, out_val=out)
        return out


def plan(run: Run, *, load: Callable[[str], Method] | None = None, count_flops: bool = True) -> Plan:
    """Count one training step of a run.

    Args:
        run: what would be trained.
        load: gives the method of an earlier run that this one builds on, by its folder.
        count_flops: False leaves `flops` at 0, in a tenth of the time.

    Raises:
        UserError: the recipe trains nothing, names a network whose shape is not known here, or reads of its data what
            only they know.
    """
    if run.steps == 0:
        raise UserError("This recipe trains nothing (steps is 0), so there is no step to plan.")
    with without_weights(), torch.device(META):
        method = run.method.build().to(META)
        if load is not None:
            method.prepare(load)
        method.train()
        size = run.batch_size // run.accumulate
        shapes = batch_shapes(run, size, video=isinstance(method, VideoMethod))
        batch = {name: torch.empty(shape, dtype=dtype, device=META) for name, (shape, dtype) in shapes.items()}
        kept: dict[int, int] = {}
        own = {p.untyped_storage()._cdata for p in method.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        visits, flops = HostVisits(), Flops()
        with visits, flops if count_flops else nullcontext():
            with saved_tensors_hooks(pack, lambda tensor: tensor):
                try:
                    terms = method.loss(batch, 0)
                except KeyError as missing:
                    raise UserError(
                        f"A step of {type(method).__name__} reads {missing} of its data, which are not opened here; "
                        "`slotworks train RECIPE --dry-run` makes one with them."
                    ) from None
                total = torch.stack([value.mean() for value in terms.values()]).sum()
            activations = sum(kept.values())
            total.backward()
    parameters = sum(p.numel() for p in method.parameters())
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    frozen = _frozen(method)
    return Plan(
        parameters=parameters,
        trained=trained,
        frozen=frozen,
        flops=flops.total * run.accumulate,
        weights=(parameters + frozen) * BYTES,
        optimizer=3 * trained * BYTES,
        activations=activations,
        terms=tuple(terms),
        visits=dict(visits.visits),
    )


def _frozen(method: Method) -> int:
    """Numbers in networks that a method holds beside its modules: encoders, diffusion models, teachers."""
    counted = {id(p) for p in method.parameters()}
    total = 0

    def count(value: Any) -> None:
        nonlocal total
        if isinstance(value, nn.Module):
            for p in value.parameters():
                if id(p) not in counted:
                    counted.add(id(p))
                    total += p.numel()
            for module in value.modules():
                aside(module)
        elif isinstance(value, tuple):
            for one in value:
                count(one)
        elif is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                count(getattr(value, field.name))

    def aside(module: nn.Module) -> None:
        for value in [v for name, v in vars(module).items() if name not in ("_modules", "_parameters", "_buffers")]:
            if isinstance(value, tuple):
                count(value)

    for module in method.modules():
        aside(module)
    return total
