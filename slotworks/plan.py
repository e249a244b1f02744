"""What a training asks of a machine, counted before anything of it is there: no data, no download, no memory.

Everything is built on torch's meta device, which knows the shapes of tensors and holds none of their numbers; published
networks are built by their shape (`slotworks.encoders.blank`). One step is made forward and backward on a batch of the
recipe's size, and what it would compute and keep is added up.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import conv2d, gelu
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from slotworks.encoders.blank import without_weights
from slotworks.errors import UserError
from slotworks.training.bench import batch_shapes
from slotworks.training.run import Run
from slotworks.types import Method, VideoMethod

META, CPU = torch.device("meta"), torch.device("cpu")
BYTES = 4  # of a number in float32
UPDATE = 12  # numbers that clipping, Adam and the average of the weights read or write for each weight
FUNCTIONS = ("gelu", "softmax", "norm", "exp", "log", "sqrt", "sigmoid", "tanh", "pow", "sin", "cos", "silu", "erf")
RANDOM = ("rand", "bernoulli", "exponential", "dropout", "normal_", "uniform")
COPIES = ("clone", "copy", "shuffle")  # of tensors in another order

Work = dict[tuple[str, int, int], int]


class Pace(NamedTuple):
    """How fast operations of a kind are: a time for each, and the times of its arithmetic and of its memory."""

    start: float  # seconds of each
    flops: float  # floating point operations a second
    memory: float  # bytes of arguments and results a second

    def seconds(self, flops: int, size: int) -> float:
        """Of one operation. The times add up: arithmetic waits for what is being moved or put in another order."""
        return self.start + flops / self.flops + size / self.memory


KINDS = ("product", "convolution", "simple", "function", "copy", "random")
"""Of operations: matrix products; convolutions, which put images in an order of their own and back; what reads and
writes each number once; what computes an exponential, a root or a norm; copies in another order; random numbers."""

Rates = dict[str, Pace]
"""How fast a device is, by kind."""


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
    work: Work = field(repr=False)  # every operation: its kind, operations and bytes, and how often
    visits: dict[str, int]  # how often the CPU waits in a step for numbers from the device, by operation

    def seconds(self, rates: Rates) -> float:
        """How long a step takes on one device: all operations one after the other, and the update of the weights."""
        update = UPDATE * self.trained * BYTES / rates["simple"].memory
        return update + sum(n * rates[kind].seconds(flops, size) for (kind, flops, size), n in self.work.items())


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
    """Adds up floating point operations, a multiplication and an addition as two, and keeps what each moves."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.work: Counter[tuple[str, int, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation passes here."""
        out = func(*args, **kwargs or {})
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **kwargs or {}, out_val=out) if count else 0
        self.total += flops
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            kind = _kind(func.overloadpacket.__name__, flops, tensors)
            self.work[kind, flops, sum(x.numel() * x.element_size() for x in tensors)] += 1
        return out


def _kind(name: str, flops: int, tensors: Sequence[Tensor]) -> str:
    """Of `KINDS`, by what an operation is called and the tensors that it reads and gives."""
    if "convolution" in name:
        return "convolution"
    if flops:
        return "product"
    if any(word in name for word in RANDOM):
        return "random"
    if any(word in name for word in FUNCTIONS):
        return "function"
    turned = "shuffle" in name or any(not x.is_contiguous() and 0 not in x.stride() for x in tensors)
    return "copy" if turned and any(word in name for word in COPIES) else "simple"


def rates_here() -> Rates:
    """How fast this CPU is with as many threads as torch has, tried for some seconds.

    Operations of several sizes are timed for each kind; start, arithmetic and memory are what fits these times best.
    Those sizes lie in reach of the miniatures: large and small matrices, few and many channels.
    """
    threads = torch.get_num_threads()

    def seconds(compute: Callable[[], Any]) -> float:
        compute()
        best = math.inf
        for _ in range(4):
            began, count = time.process_time(), 0
            while (spent := time.process_time() - began) < 0.03:
                compute()
                count += 1
            best = min(best, spent / count)
        return best / threads

    def pace(*jobs: Callable[[], Any]) -> Pace:
        rows = []
        for job in jobs:
            with Flops() as counted:
                job()
            ((_, flops, size),) = counted.work
            rows.append((1.0, flops, size))
        spent = np.array([seconds(job) for job in jobs])
        found, _ = nnls(np.array(rows) / spent[:, None], np.ones(len(jobs)))  # equal shares of each time
        return Pace(start + found[0], *(1 / max(float(x), 1e-15) for x in found[1:]))

    network = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU())])
    few = torch.rand(4, 16)

    def step() -> None:
        network(few).sum().backward()

    with Flops() as counted:
        step()
    # what Python, modules and gradients take of every operation; such small ones take hardly anything else
    start = threads * seconds(step) / sum(counted.work.values())
    x, y = torch.rand(2, 1 << 22)
    numbers = [(x[:n], y[:n]) for n in (1 << 14, 1 << 18, 1 << 22)]
    images = [torch.rand(16, 64, side, side) for side in (8, 32, 64)]
    matrices = [
        ((2048, 256), (256, 256)),
        ((256, 64), (64, 64)),
        ((64, 64, 32), (64, 32, 8)),
        ((64, 7, 64), (64, 64, 64)),
    ]
    shapes = [(8, 64, 64, 32, 5), (16, 64, 64, 8, 3), (16, 32, 32, 16, 1), (16, 32, 32, 8, 1), (8, 32, 32, 16, 3)]
    pairs = [(torch.rand(a), torch.rand(b)) for a, b in matrices]
    maps = [(torch.rand(n, c, side, side), torch.rand(d, c, k, k)) for n, c, d, side, k in shapes]
    with torch.no_grad():
        return {
            "product": pace(*(partial(torch.matmul if a.ndim == 2 else torch.bmm, a, b) for a, b in pairs)),
            "convolution": pace(*(partial(conv2d, a, w, padding=w.shape[-1] // 2) for a, w in maps)),
            "simple": pace(*(partial(torch.add, a, b) for a, b in numbers)),
            "function": pace(*(partial(gelu, a) for a, _ in numbers)),
            "copy": pace(
                *(partial(torch.clone, a.movedim(1, -1), memory_format=torch.contiguous_format) for a in images)
            ),
            "random": pace(*(partial(torch.rand_like, a) for a, _ in numbers)),
        }


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
        work={key: count * run.accumulate for key, count in flops.work.items()},
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
            for one in fields(value):
                count(getattr(value, one.name))

    def aside(module: nn.Module) -> None:
        for value in [v for name, v in vars(module).items() if name not in ("_modules", "_parameters", "_buffers")]:
            if isinstance(value, tuple):
                count(value)

    for module in method.modules():
        aside(module)
    return total
