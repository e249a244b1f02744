"""Attention maps of a U-Net while it generates: to the words of classes, and among positions.

    hidden states of a layer --to_q--> queries --softmax with keys of a class prompt--> cross maps, summed up
                             --to_k--> keys    --softmax------------------------------> self maps, summed up

Maps are read in a hook beside each attention layer. What the layer computes stays as it is to the last bit, whatever
implementation it uses, and classes never reach the image: only their keys meet the image's queries (Dataset Diffusion,
Nguyen et al. 2023, `attn_processor.py`). All classes of an image take one pass, because only their keys differ.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from slotworks.types import UserError


class AttentionCapture:
    """Sums up attention maps of a `UNet2DConditionModel` between entering and leaving.

    with AttentionCapture(unet, class_context, cross_sizes=(16,), self_size=32) as maps:
        ...  # denoise, with any scheduler and with or without classifier-free guidance
    maps.cross, maps.self_

    Every head of every layer of a size weighs the same, and so does every call of the U-Net, of which a scheduler may
    make more than it has steps. Of a batch that is longer than `class_context` the last rows count: with
    classifier-free guidance the conditional half. Sums are float32 whatever the U-Net computes in; heads are summed
    at once.

    Args:
        unet: a `UNet2DConditionModel`.
        class_context: embedded class prompts: `b s c`, one for each image; or `b g s c`, several for each.
        cross_sizes: sides of the square maps from which attention to the prompts is taken.
        self_size: side of the square map from which attention among positions is taken; None: none.

    Raises:
        UserError: after the first call of the U-Net, if it has no attention at one of the sizes; names those it has.
    """

    def __init__(
        self,
        unet: nn.Module,
        class_context: Float[Tensor, "b s c"] | Float[Tensor, "b g s c"],
        *,
        cross_sizes: Sequence[int] = (16,),
        self_size: int | None = 32,
    ):
        self.unet = unet
        self.context = class_context
        self.cross_sizes = tuple(dict.fromkeys(cross_sizes))
        self.self_size = self_size
        self.calls = 0
        self._keys: dict[str, Tensor] = {}  # of the class prompts, by layer: they never change
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._heads: dict[tuple[str, int], int] = {}  # heads times calls that a sum holds
        self._seen: dict[str, set[int]] = {"cross": set(), "self": set()}
        self._handles: list[Any] = []

    def __enter__(self) -> "AttentionCapture":
        for name, layer in self.unet.named_modules():
            if name.endswith((".attn1", ".attn2")):
                self._handles.append(layer.register_forward_pre_hook(self._hook(name), with_kwargs=True))
        self._handles.append(self.unet.register_forward_hook(self._count))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._keys = {}

    @property
    def cross(self) -> Float[Tensor, "b s h w"] | Float[Tensor, "b g s h w"]:
        """Attention to each token of the prompts; sums to one over `s`. Several sizes are brought to the largest."""
        side = max(self.cross_sizes)
        return torch.stack([resize(self.cross_of(size), (side, side)) for size in self.cross_sizes]).mean(0)

    def cross_of(self, size: int) -> Float[Tensor, "b s h w"] | Float[Tensor, "b g s h w"]:
        """Attention to each token of the prompts on maps of one size; sums to one over `s`."""
        mean = self._mean("cross", size)  # b g p s
        grid = mean.movedim(-1, -2).unflatten(-1, (size, size))
        return grid if self.context.ndim == 4 else grid[:, 0]

    @property
    def self_(self) -> Float[Tensor, "b p p"]:
        """Attention of each position (row) to each other; rows sum to one."""
        if self.self_size is None:
            raise ValueError("self_size is None: attention among positions was not asked for.")
        return self._mean("self", self.self_size)

    def _mean(self, kind: str, size: int) -> Tensor:
        if (kind, size) not in self._sums:
            raise ValueError("The U-Net was not called inside `with AttentionCapture(...)`, so there are no maps.")
        return self._sums[kind, size] / self._heads[kind, size]

    def _hook(self, name: str) -> Any:
        def add(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            context = args[1] if len(args) > 1 else kwargs.get("encoder_hidden_states")
            kind, size = "self" if context is None else "cross", math.isqrt(hidden.shape[1])
            self._seen[kind].add(size)
            if size * size != hidden.shape[1] or size not in (self.cross_sizes if context is not None else self._own):
                return
            with torch.no_grad():
                self._add(name, layer, hidden[-len(self.context) :], kind, size)

        return add

    @property
    def _own(self) -> tuple[int, ...]:
        return () if self.self_size is None else (self.self_size,)

    def _add(self, name: str, layer: Any, hidden: Float[Tensor, "b p c"], kind: str, size: int) -> None:
        heads = layer.heads
        query = layer.to_q(hidden).unflatten(-1, (heads, -1)).transpose(1, 2).float()  # b k p d
        if kind == "self":
            key = layer.to_k(hidden).unflatten(-1, (heads, -1)).transpose(1, 2).float()
            total = (layer.scale * query @ key.mT).softmax(-1).sum(1)
        else:
            if name not in self._keys:
                context = self.context if self.context.ndim == 4 else self.context[:, None]
                key = layer.to_k(context.to(hidden.dtype)).unflatten(-1, (heads, -1)).float()
                self._keys[name] = key.movedim(-2, 1)  # b k g s d
            total = (layer.scale * query[:, :, None] @ self._keys[name].mT).softmax(-1).sum(1)  # b g p s
        if (kind, size) in self._sums:
            self._sums[kind, size] += total
        else:
            self._sums[kind, size], self._heads[kind, size] = total, 0
        self._heads[kind, size] += heads

    def _count(self, *call: object) -> None:
        self.calls += 1
        for kind, sizes in (("cross", self.cross_sizes), ("self", self._own)):
            if missing := [size for size in sizes if (kind, size) not in self._sums]:
                known = ", ".join(map(str, sorted(self._seen[kind]))) or "none"
                where = "to the text" if kind == "cross" else "among positions"
                option = "cross_sizes" if kind == "cross" else "self_size"
                raise UserError(
                    f"This U-Net has no attention {where} on maps of {missing[0]} x {missing[0]}; at this image size "
                    f"it has maps of side {known}. Change {option}, or image_size."
                )


def resize(maps: Float[Tensor, "*b h w"], size: tuple[int, int]) -> Float[Tensor, "*b y x"]:
    """Maps made larger or smaller, bicubic; of the same size they stay as they are. Sums over channels are kept."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    return F.interpolate(flat, size=size, mode="bicubic", align_corners=False).view(*maps.shape[:-2], *size)
