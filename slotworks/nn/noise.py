"""Random numbers for a batch that do not depend on how the batch is split over processes and micro-batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_generators: dict[torch.device, torch.Generator] = {}  # one per device, kept: torch.compile must not see new ones
_part: tuple[int, int] | None = None  # which part of how many; None outside training
_source: Callable[[Callable[..., Tensor], tuple[int, ...]], Tensor] | None = None  # what is asked in place of torch


@contextmanager
def shared_noise(seed: int, device: torch.device | str = "cpu", *, part: int, parts: int) -> Iterator[None]:
    """Inside, `batch_noise` and `batch_uniform` return part `part` of the `parts` equal parts of one global draw.

    All parts draw the noise of the whole batch from the same seed and keep their own rows, so one process with a batch
    of 64, two processes with 32 rows each, and two micro-batches of 32 rows see the same numbers. The global draw
    costs `parts` times the numbers, which is little beside a forward pass. All parts must draw in the same order.

    Args:
        seed: of the global draw, from 0.
        device: where noise will be asked for, besides the CPU; with its index, such as `cuda:0`.
        part: which part this is, 0 to `parts - 1`, in the order of the rows.
        parts: processes times micro-batches.

    Raises:
        ValueError: if `part` is not one of the `parts`.
    """
    global _part
    if not 0 <= part < parts:
        raise ValueError(f"part is {part} of {parts}; parts are counted from 0 to {parts - 1}.")
    outer, states = _part, {place: generator.get_state() for place, generator in _generators.items() if _part}
    for place in {torch.device("cpu"), torch.device(device)}:
        _generators.setdefault(place, torch.Generator(place)).manual_seed(seed)
    _part = (part, parts)
    try:
        yield
    finally:
        _part = outer
        for place, state in states.items():
            _generators[place].set_state(state)


@contextmanager
def noise_from(source: Callable[[Callable[..., Tensor], tuple[int, ...]], Tensor]) -> Iterator[None]:
    """Inside, `batch_noise` and `batch_uniform` return what `source(draw, shape)` gives, for programs whose noise is an
    input; `draw` is `torch.randn` or `torch.rand`.
    """
    global _source
    outer, _source = _source, source
    try:
        yield
    finally:
        _source = outer


def batch_noise(
    shape: Sequence[int], device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "..."]:
    """Standard normal noise, one row per sample: of slots, of latents.

    During training it is this process's part of the noise of the global batch (see `shared_noise`); elsewhere it is
    `torch.randn`. The first axis is the batch, or anything with the batch outermost (`b * t` frames).
    """
    return _rows(torch.randn, shape, device, dtype)


def batch_uniform(
    shape: Sequence[int], device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Float[Tensor, "..."]:
    """Uniform noise in [0, 1), split as `batch_noise` is: for Gumbel noise, diffusion times, random choices."""
    return _rows(torch.rand, shape, device, dtype)


def shared_choice(count: int) -> int:
    """A number from 0 to `count - 1`, the same for the whole batch: in training every part of it draws the same one."""
    generator = None if _part is None else _generators[torch.device("cpu")]
    return int(torch.randint(count, (), generator=generator, device="cpu"))


def shared_permutation(count: int) -> Int64[Tensor, " {count}"]:
    """The numbers from 0 to `count - 1` in random order, the same for the whole batch as with `shared_choice`."""
    generator = None if _part is None else _generators[torch.device("cpu")]
    return torch.randperm(count, generator=generator)


def _rows(
    draw: Callable[..., Tensor], shape: Sequence[int], device: torch.device | str | None, dtype: torch.dtype | None
) -> Tensor:
    if _source is not None:
        return _source(draw, tuple(shape)).to(device=device, dtype=dtype)
    if _part is None:
        return draw(*shape, device=device, dtype=dtype)
    if torch.compiler.is_compiling():
        name = "uniform" if draw is torch.rand else "normal"
        return _compiled_rows(list(shape), name, torch.device(device or "cpu"), dtype or torch.get_default_dtype())
    return _shared_rows(draw, shape, device, dtype)


def _shared_rows(
    draw: Callable[..., Tensor], shape: Sequence[int], device: torch.device | str | None, dtype: torch.dtype | None
) -> Tensor:
    assert _part is not None
    rows, (part, parts) = shape[0], _part
    generator = _generators[torch.device(device or "cpu")]
    return draw(rows * parts, *shape[1:], generator=generator, device=device, dtype=dtype)[part * rows :][:rows]


@torch.library.custom_op("slotworks::shared_rows", mutates_args=(), tags=torch.Tag.nondeterministic_seeded)
def _compiled_rows(shape: list[int], name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """One node of a compiled graph, which cannot hold a generator; without it each noise would cut the graph."""
    return _shared_rows(torch.rand if name == "uniform" else torch.randn, shape, device, dtype).clone()


@_compiled_rows.register_fake
def _(shape: list[int], name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, device=device, dtype=dtype)
