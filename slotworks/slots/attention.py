"""Slot Attention: slots compete for positions, then each is updated with what it won.

Locatello et al. 2020 (arXiv 2006.15055), Algorithm 1. Every argument defaults to the paper; the others are the
ablations of its supplement, section 2, and the departures of later code, each under a name of its own:

| code base | arguments |
| --- | --- |
| Slot Attention (TensorFlow) | `norm_eps=1e-3` |
| SAVi | `num_iterations=1, mlp_dim=None, eps_in="denominator", norm_eps=1e-6` |
| SLATE, SPOT | `num_heads=k` |
| STEVE | `mlp_in_last_iteration=False` |
| StableLSD, GLASS | `num_heads=k, scale=slot_dim ** -0.5` |
| VideoSAUR | `gru_state="normalized"` |
| lucidrains | `qkv_bias=True`; its multi-head module: `heads="separate", scale=slot_dim ** -0.5` |
| OCLF | `num_heads=k`; returns the mean over heads where we return the sum |
| SlotDiffusion, and its Slot Attention, SAVi, SLATE and STEVE | `eps=1e-6` |
| BO-QSA | `gradient="bilevel", eps=1.0, eps_in="denominator"` with `LearnedInit` |
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from slotworks.nn.init import glorot_
from slotworks.nn.precision import without_autocast
from slotworks.types import SlotOutput


class SlotAttention(nn.Module):
    """Slot Attention (Locatello et al. 2020, Algorithm 1).

    Args:
        feature_dim: width of the input features.
        slot_dim: width of a slot.
        num_iterations: T; `forward` takes another number for one call.
        mlp_dim: hidden width of the residual MLP; None leaves the MLP out.
        qkv_dim: width of queries, keys and values; None is `slot_dim`.
        num_heads: attention heads.
        heads: "joint" takes one softmax over heads and slots (SLATE); "separate" one over the slots in each head, with
            an output projection to `slot_dim` (lucidrains; SAVi has one to the width of a head, which no recipe uses).
        scale: factor on the logits; None is `(qkv_dim / num_heads) ** -0.5`. The temperature ablation is `scale=1`.
        eps: offset that keeps the mean over positions finite. 1e-8 vanishes in float16; the iterations run in float32.
        eps_in: add it to the "attention" before normalising (paper) or to the "denominator" only (SAVi).
        softmax_over: "slots" (they compete) or "positions" (ablation: ordinary attention, then a plain weighted sum).
        aggregation: weighted "mean" over positions, "sum", or "sum_norm", a sum followed by a LayerNorm.
        update: "gru", or "replace" to take the aggregated values as the new slots.
        gru_state: what the GRU holds as its state: the "slots" (paper) or the "normalized" slots.
        layer_norm: LayerNorms on features, on slots and before the MLP.
        norm_eps: epsilon of these LayerNorms; torch's 1e-5, Keras has 1e-3, flax 1e-6.
        mlp_in_last_iteration: False leaves the MLP out of the last iteration (STEVE).
        qkv_bias: biases on queries, keys and values.
        projections: False makes queries, keys and values the identity (soft k-means ablation).
        gradient: "unrolled" through all iterations; "implicit" only through the last (Chang et al. 2022, first order:
            T - 1 iterations without gradient, then one with); "bilevel" the same, with a straight-through gradient to
            the initial slots (Jia et al. 2023, BO-QSA).

    >>> attention = SlotAttention(feature_dim=32, slot_dim=64)
    >>> out = attention(torch.randn(2, 100, 32), torch.randn(2, 4, 64))
    >>> out.slots.shape, out.attn.shape
    (torch.Size([2, 4, 64]), torch.Size([2, 4, 100]))
    """

    def __init__(
        self,
        feature_dim: int,
        slot_dim: int,
        num_iterations: int = 3,
        *,
        mlp_dim: int | None = 128,
        qkv_dim: int | None = None,
        num_heads: int = 1,
        heads: Literal["joint", "separate"] = "joint",
        scale: float | None = None,
        eps: float = 1e-8,
        eps_in: Literal["attention", "denominator"] = "attention",
        softmax_over: Literal["slots", "positions"] = "slots",
        aggregation: Literal["mean", "sum", "sum_norm"] = "mean",
        update: Literal["gru", "replace"] = "gru",
        gru_state: Literal["slots", "normalized"] = "slots",
        layer_norm: bool = True,
        norm_eps: float = 1e-5,
        mlp_in_last_iteration: bool = True,
        qkv_bias: bool = False,
        projections: bool = True,
        gradient: Literal["unrolled", "implicit", "bilevel"] = "unrolled",
    ):
        super().__init__()
        qkv_dim = qkv_dim or slot_dim
        if qkv_dim % num_heads:
            raise ValueError(
                f"qkv_dim is {qkv_dim} but num_heads is {num_heads}; make the width a multiple of the heads."
            )
        if not projections and feature_dim != slot_dim:
            raise ValueError(
                f"Without projections features and slots share one space, but feature_dim is {feature_dim} and "
                f"slot_dim {slot_dim}; make them equal."
            )
        if update == "replace" and qkv_dim != slot_dim and heads == "joint":
            raise ValueError(f'update="replace" needs qkv_dim {qkv_dim} equal to slot_dim {slot_dim}.')
        for name, value, known in (
            ("heads", heads, ("joint", "separate")),
            ("eps_in", eps_in, ("attention", "denominator")),
            ("softmax_over", softmax_over, ("slots", "positions")),
            ("aggregation", aggregation, ("mean", "sum", "sum_norm")),
            ("update", update, ("gru", "replace")),
            ("gru_state", gru_state, ("slots", "normalized")),
            ("gradient", gradient, ("unrolled", "implicit", "bilevel")),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; choose {', '.join(known)}.")
        self.num_iterations = num_iterations
        self.num_heads, self.heads = num_heads, heads
        self.scale = scale if scale is not None else (qkv_dim / num_heads) ** -0.5
        self.eps, self.eps_in = eps, eps_in
        self.softmax_over, self.aggregation = softmax_over, aggregation
        self.gru_state, self.gradient = gru_state, gradient
        self.mlp_in_last_iteration = mlp_in_last_iteration

        def norm(width: int) -> nn.Module:
            return nn.LayerNorm(width, eps=norm_eps) if layer_norm else nn.Identity()

        def linear(width_in: int, width_out: int) -> nn.Module:
            return nn.Linear(width_in, width_out, bias=qkv_bias) if projections else nn.Identity()

        self.norm_features = norm(feature_dim)
        self.norm_slots = norm(slot_dim)
        self.to_q = linear(slot_dim, qkv_dim)
        self.to_k = linear(feature_dim, qkv_dim)
        self.to_v = linear(feature_dim, qkv_dim)
        update_dim = slot_dim if heads == "separate" else qkv_dim
        self.to_out = nn.Linear(qkv_dim, slot_dim, bias=qkv_bias) if heads == "separate" else nn.Identity()
        self.norm_updates = nn.LayerNorm(update_dim, eps=norm_eps) if aggregation == "sum_norm" else nn.Identity()
        self.gru = nn.GRUCell(update_dim, slot_dim) if update == "gru" else None
        self.norm_mlp = norm(slot_dim) if mlp_dim else None
        self.mlp = (
            nn.Sequential(nn.Linear(slot_dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, slot_dim)) if mlp_dim else None
        )
        glorot_(self)

    @classmethod
    def soft_kmeans(cls, dim: int, num_iterations: int = 3, **options) -> "SlotAttention":
        """The soft k-means limit of the supplement, section 2: no projections, LayerNorms, GRU or MLP."""
        return cls(
            dim, dim, num_iterations, mlp_dim=None, update="replace", layer_norm=False, projections=False, **options
        )

    def forward(
        self,
        features: Float[Tensor, "b p c"],
        slots: Float[Tensor, "b n d"],
        *,
        num_iterations: int | None = None,
        feature_mask: Bool[Tensor, "b p"] | None = None,
        slot_mask: Bool[Tensor, "b n"] | None = None,
        value_features: Float[Tensor, "b p c"] | None = None,
    ) -> SlotOutput:
        """Refine `slots` on `features`.

        `num_iterations` is the module's own by default; more of them at test time help in crowded scenes (supplement).
        `feature_mask` is False at padding, which no slot reads; `slot_mask` is False for absent slots, which win no
        position. `value_features` take the place of `features` in what a slot gathers, not in where it looks.
        """
        with without_autocast(features.device):  # float16 and bfloat16 lose the normalisation
            if features.dtype != torch.float64:
                features, slots = features.float(), slots.float()
            x = self.norm_features(features)
            gathered = x if value_features is None else self.norm_features(value_features.to(features.dtype))
            k, v = self._split(self.to_k(x)), self._split(self.to_v(gathered))  # b k p d
            initial, steps = slots, []  # of these each slots and attention
            count = self.num_iterations if num_iterations is None else num_iterations
            if count < 1:
                raise ValueError(f"num_iterations is {count}; slots look at the input at least once.")
            for i in range(count):
                last = i == count - 1
                with torch.set_grad_enabled(torch.is_grad_enabled() and (last or self.gradient == "unrolled")):
                    if last and self.gradient == "implicit":
                        slots = slots.detach()
                    elif last and self.gradient == "bilevel":
                        slots = slots.detach() + initial - initial.detach()
                    slots, attn = self._iterate(slots, k, v, feature_mask, slot_mask, last)
                steps.append((slots, attn))
            slot_steps, attn_steps = zip(*steps, strict=True)
            return SlotOutput(slots, attn_steps[-1], attn_steps, slot_steps=slot_steps)

    def _split(self, x: Float[Tensor, "b p d"]) -> Float[Tensor, "b k p dk"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _iterate(self, slots, k, v, feature_mask, slot_mask, last: bool) -> tuple[Tensor, Tensor]:
        b, n, _ = slots.shape
        normalized = self.norm_slots(slots)
        q = self._split(self.to_q(normalized)) * self.scale  # b k n d
        logits = q @ k.transpose(-1, -2)  # b k n p
        if self.softmax_over == "positions":
            if feature_mask is not None:
                logits = logits.masked_fill(~feature_mask[:, None, None], -torch.inf)
            attn = logits.softmax(dim=-1)
            weights = attn = attn if slot_mask is None else attn * slot_mask[:, None, :, None]
        else:
            if slot_mask is not None:
                logits = logits.masked_fill(~slot_mask[:, None, :, None], -torch.inf)
            if self.heads == "joint":
                attn = logits.flatten(1, 2).softmax(dim=1).view_as(logits)
            else:
                attn = logits.softmax(dim=2)
            weights = self._normalize(attn, feature_mask)
        updates = weights @ v  # b k n d
        updates = self.to_out(updates.transpose(1, 2).flatten(2))  # b n d
        updates = self.norm_updates(updates)
        if self.gru is None:
            slots = updates
        else:
            state = normalized if self.gru_state == "normalized" else slots
            slots = self.gru(updates.flatten(0, 1), state.flatten(0, 1)).view(b, n, -1)
        if self.mlp is not None and self.norm_mlp is not None and (self.mlp_in_last_iteration or not last):
            slots = slots + self.mlp(self.norm_mlp(slots))
        shared = attn.sum(dim=1) if self.heads == "joint" else attn.mean(dim=1)  # b n p
        return slots, shared

    def _normalize(self, attn: Float[Tensor, "b k n p"], feature_mask) -> Float[Tensor, "b k n p"]:
        """Algorithm 1, line 8: attention to the weights of a mean over positions."""
        weights = attn + self.eps if self.eps_in == "attention" else attn
        if feature_mask is not None:  # after the softmax: a position that no slot may read has no defined softmax
            weights = weights * feature_mask[:, None, None]
        if self.aggregation != "mean":
            return weights
        total = weights.sum(dim=-1, keepdim=True)
        return weights / (total + self.eps if self.eps_in == "denominator" else total)
