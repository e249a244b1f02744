"""The Transformer decoder under every autoregressive slot decoder: DINOSAUR and SPOT on features, SLATE on tokens.

Vaswani et al. 2017 (arXiv 1706.03762) with the LayerNorms inside the branches (pre-LN). Every argument has a name
where the code bases differ:

| code base | arguments |
| --- | --- |
| DINOSAUR (OCLF; `torch.nn.TransformerDecoder`, `norm_first`) | `bias=True, init="torch", final_norm=False` |
| SPOT | `norm_stream=True` |
| SLATE, STEVE | `norm_stream=True, dropout=0.1` |
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

Init = Literal["slate", "torch"]


class MultiHeadAttention(nn.Module):
    """Dot-product attention with several heads (Vaswani et al. 2017, section 3.2).

    Args:
        dim: width of queries, memory and output.
        num_heads: divides `dim`.
        bias: biases on all four projections.
        dropout: on the attention weights and on the output, in training.
        gain: factor on the initial weights of the output projection, with `init="slate"`.
        init: "slate" is Glorot for each projection; "torch" draws as `torch.nn.MultiheadAttention` does.
        qkv_dim: width of queries, keys and values together; None is `dim`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        bias: bool = False,
        dropout: float = 0.0,
        gain: float = 1.0,
        init: Init = "slate",
        qkv_dim: int | None = None,
    ):
        super().__init__()
        qkv_dim = qkv_dim or dim
        if qkv_dim % num_heads:
            raise ValueError(f"dim is {qkv_dim} but num_heads is {num_heads}; make the width a multiple of the heads.")
        self.num_heads, self.dropout = num_heads, dropout
        self.to_q = nn.Linear(dim, qkv_dim, bias=bias)
        self.to_k = nn.Linear(dim, qkv_dim, bias=bias)
        self.to_v = nn.Linear(dim, qkv_dim, bias=bias)
        self.to_out = nn.Linear(qkv_dim, dim, bias=bias)
        for layer in (self.to_q, self.to_k, self.to_v):  # torch: Glorot for the three as one `3d x d` matrix
            nn.init.xavier_uniform_(layer.weight, gain=0.5**0.5 if init == "torch" else 1.0)
        if init == "slate":
            nn.init.xavier_uniform_(self.to_out.weight, gain=gain)
        for layer in (self.to_q, self.to_k, self.to_v, self.to_out):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def keys_values(
        self, memory: Float[Tensor, "b s c"]
    ) -> tuple[Float[Tensor, "b k s ck"], Float[Tensor, "b k s ck"]]:
        """What queries look at; apart from `attend`, so that it can be kept between calls."""
        return self._split(self.to_k(memory)), self._split(self.to_v(memory))

    def attend(
        self,
        x: Float[Tensor, "b p c"],
        keys: Float[Tensor, "b k s ck"],
        values: Float[Tensor, "b k s ck"],
        *,
        causal: bool = False,
    ) -> Float[Tensor, "b p c"]:
        """Attention of `x` over keys and values; with `causal`, position `i` sees none after `i`."""
        dropout = self.dropout if self.training else 0.0
        out = scaled_dot_product_attention(self._split(self.to_q(x)), keys, values, dropout_p=dropout, is_causal=causal)
        return self._join(out)

    def attend_and_show(
        self, x: Float[Tensor, "b p c"], keys: Float[Tensor, "b k s ck"], values: Float[Tensor, "b k s ck"]
    ) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b k p s"]]:
        """`attend`, and the weights before dropout, which sum to one over `s`."""
        q = self._split(self.to_q(x)) * keys.shape[-1] ** -0.5
        logits = q @ keys.transpose(-1, -2)
        weights = (logits if logits.dtype == torch.float64 else logits.float()).softmax(dim=-1)  # they become masks
        kept = nn.functional.dropout(weights, self.dropout, self.training)
        return self._join(kept.to(values.dtype) @ values), weights

    def folded(
        self, memory: Float[Tensor, "b s c"]
    ) -> tuple[Float[Tensor, "b c ks"], Float[Tensor, "b 1 ks"], Float[Tensor, "b ks c"]]:
        """Attention over a memory that stays: `softmax(x look + offset, each head) give` is `forward(x, memory)`."""
        keys, values = self.keys_values(memory)
        keys = keys * keys.shape[-1] ** -0.5
        to_q = self.to_q.weight.unflatten(0, (self.num_heads, -1))  # k ck c
        to_out = self.to_out.weight.unflatten(1, (self.num_heads, -1))  # c k ck
        look = torch.einsum("bksd,kdc->bcks", keys, to_q).flatten(2)
        give = torch.einsum("bksd,ckd->bksc", values, to_out).flatten(1, 2)
        offset = look.new_zeros(len(look), 1, look.shape[-1])
        if self.to_q.bias is not None:
            bias = self.to_q.bias.unflatten(0, (self.num_heads, -1))
            offset = torch.einsum("bksd,kd->bks", keys, bias).flatten(1)[:, None]
            give = give + self.to_out.bias / self.num_heads  # the weights of each head sum to one
        return look, offset, give

    def forward(
        self, x: Float[Tensor, "b p c"], memory: Float[Tensor, "b s c"], *, causal: bool = False
    ) -> Float[Tensor, "b p c"]:
        """Attention of `x` over `memory`."""
        return self.attend(x, *self.keys_values(memory), causal=causal)

    def _split(self, x: Float[Tensor, "b s c"]) -> Float[Tensor, "b k s ck"]:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _join(self, x: Float[Tensor, "b k p ck"]) -> Float[Tensor, "b p c"]:
        out = self.to_out(x.transpose(1, 2).flatten(2))
        return nn.functional.dropout(out, self.dropout, self.training)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to a memory (the slots), and a two-layer network, each on a residual branch.

    Args:
        dim: width.
        num_heads: of both attentions.
        hidden_dim: of the two-layer network; None is `4 * dim`.
        bias: biases in the attentions; the two-layer network always has them.
        dropout: on attention weights and on every branch.
        norm_stream: the first LayerNorm replaces the residual stream instead of the branch's input alone.
        gain: factor on the initial weights of the three output projections, with `init="slate"`.
        init: "slate" is Glorot, He for the first layer of the two-layer network; "torch" is that of
            `torch.nn.TransformerDecoderLayer`.
        norm_eps: epsilon of the LayerNorms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        hidden_dim: int | None = None,
        bias: bool = False,
        dropout: float = 0.0,
        norm_stream: bool = False,
        gain: float = 1.0,
        init: Init = "slate",
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.norm_stream, self.dropout = norm_stream, dropout
        self.norm_self = nn.LayerNorm(dim, eps=norm_eps)
        self.self_attention = MultiHeadAttention(dim, num_heads, bias=bias, dropout=dropout, gain=gain, init=init)
        self.norm_cross = nn.LayerNorm(dim, eps=norm_eps)
        self.cross_attention = MultiHeadAttention(dim, num_heads, bias=bias, dropout=dropout, gain=gain, init=init)
        self.norm_mlp = nn.LayerNorm(dim, eps=norm_eps)
        hidden_dim = hidden_dim or 4 * dim
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim))
        if init == "slate":
            first, _, last = self.mlp
            nn.init.kaiming_uniform_(first.weight, nonlinearity="relu")  # pyright: ignore[reportArgumentType]
            nn.init.xavier_uniform_(last.weight, gain=gain)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(first.bias)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]

    def forward(
        self, x: Float[Tensor, "b p c"], memory: Float[Tensor, "b n c"], *, causal: bool = True, show: bool = False
    ) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b k p n"] | None]:
        """One step of refinement; `show` also returns the weights of the cross-attention."""
        own = self.norm_self(x)
        x = (own if self.norm_stream else x) + self.self_attention(own, own, causal=causal)
        keys, values = self.cross_attention.keys_values(memory)
        weights = None
        if show:
            branch, weights = self.cross_attention.attend_and_show(self.norm_cross(x), keys, values)
        else:
            branch = self.cross_attention.attend(self.norm_cross(x), keys, values)
        return self._transform(x + branch), weights

    def step(self, x: Float[Tensor, "b 1 c"], cache: "BlockCache", position: int) -> Float[Tensor, "b 1 c"]:
        """`forward` at one more position, whose own keys and values are added to the cache."""
        attention, seen = self.self_attention, position + 1
        own = self.norm_self(x)
        q, *keys_values = (
            linear(own, cache.project, cache.project_bias).view(len(x), 3, attention.num_heads, 1, -1).unbind(1)
        )
        for i, new in enumerate(keys_values):
            cache.own[i, :, :, position:seen] = new
        looked = scaled_dot_product_attention(q, cache.own[0, :, :, :seen], cache.own[1, :, :, :seen])
        x = (own if self.norm_stream else x) + attention.to_out(looked.view(len(x), 1, -1))
        weights = torch.baddbmm(cache.offset, self.norm_cross(x), cache.look).view(len(x), attention.num_heads, -1)
        x = torch.baddbmm(x, weights.softmax(dim=-1).view(len(x), 1, -1), cache.give)
        return self._transform(x)

    def _transform(self, x: Float[Tensor, "b p c"]) -> Float[Tensor, "b p c"]:
        return x + nn.functional.dropout(self.mlp(self.norm_mlp(x)), self.dropout, self.training)


@dataclass
class BlockCache:
    """What one block keeps while a sequence is made position by position.

    The memory does not change, so its keys are already multiplied with the projection of the queries and its values
    with that of the output: `x + softmax(x look + offset) give` is the whole cross-attention.
    """

    own: Float[Tensor, "2 b k p ck"]  # keys and values of the positions so far, with room for all
    project: Float[Tensor, "c3 c"]  # to queries, keys and values at once
    project_bias: Float[Tensor, " c3"] | None
    look: Float[Tensor, "b c kn"]
    offset: Float[Tensor, "b 1 kn"]
    give: Float[Tensor, "b kn c"]


@dataclass
class DecoderCache:
    """What a `TransformerDecoder` keeps between the positions of a sequence that is made one by one."""

    blocks: list[BlockCache]
    length: int = 0  # positions read so far


class TransformerDecoder(nn.Module):
    """A stack of `DecoderBlock`s, which also shows where its last block looked.

    Args:
        dim: width.
        num_blocks: how many.
        num_heads: of every attention.
        hidden_dim: of the two-layer networks; None is `4 * dim`.
        bias: biases in the attentions.
        dropout: on attention weights and on every branch.
        norm_stream: in the first block only, the LayerNorm replaces the residual stream (SLATE, STEVE, SPOT).
        final_norm: a LayerNorm at the end.
        gain: factor on the initial output projections; None is `(3 * num_blocks) ** -0.5`, as in SLATE. Has no effect
            with `init="torch"`.
        init: of the weights, see `DecoderBlock`. `torch.nn.TransformerDecoder` starts all its blocks as copies of one;
            here each is drawn for itself.
        norm_eps: epsilon of the LayerNorms.

    >>> decoder = TransformerDecoder(dim=32, num_blocks=2, num_heads=4)
    >>> out, attn = decoder(torch.randn(2, 9, 32), torch.randn(2, 5, 32))
    >>> out.shape, attn.shape
    (torch.Size([2, 9, 32]), torch.Size([2, 4, 9, 5]))
    """

    def __init__(
        self,
        dim: int,
        num_blocks: int,
        num_heads: int,
        *,
        hidden_dim: int | None = None,
        bias: bool = False,
        dropout: float = 0.0,
        norm_stream: bool = False,
        final_norm: bool = True,
        gain: float | None = None,
        init: Init = "slate",
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}; a decoder needs at least one block.")
        if init not in ("slate", "torch"):
            raise ValueError(f"init is {init!r}; choose slate or torch.")
        self.blocks = nn.ModuleList(
            DecoderBlock(
                dim,
                num_heads,
                hidden_dim=hidden_dim,
                bias=bias,
                dropout=dropout,
                norm_stream=norm_stream and i == 0,
                gain=(3 * num_blocks) ** -0.5 if gain is None else gain,
                init=init,
                norm_eps=norm_eps,
            )
            for i in range(num_blocks)
        )
        self.final_norm = nn.LayerNorm(dim, eps=norm_eps) if final_norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b p c"], memory: Float[Tensor, "b n c"], *, causal: bool = True
    ) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b k p n"]]:
        """Decode `x` with a look at `memory`; returns the output and the last block's cross-attention."""
        *first, last = self.blocks
        for block in first:
            x, _ = block(x, memory, causal=causal)
        x, weights = last(x, memory, causal=causal, show=True)
        return self.final_norm(x), weights

    @torch.no_grad()
    def start(self, memory: Float[Tensor, "b n c"], length: int) -> DecoderCache:
        """A cache for a sequence of up to `length` positions: keys and values of the memory are computed here, once."""
        blocks = []
        for block in self.blocks:
            assert isinstance(block, DecoderBlock)
            own = block.self_attention
            layers = (own.to_q, own.to_k, own.to_v)
            look, offset, give = block.cross_attention.folded(memory)
            blocks.append(
                BlockCache(
                    memory.new_empty(2, len(memory), own.num_heads, length, own.to_q.out_features // own.num_heads),
                    torch.cat([layer.weight for layer in layers]),
                    None if own.to_q.bias is None else torch.cat([layer.bias for layer in layers]),
                    *(look, offset, give),
                )
            )
        return DecoderCache(blocks)

    @torch.no_grad()
    def step(self, x: Float[Tensor, "b 1 c"], cache: DecoderCache) -> Float[Tensor, "b 1 c"]:
        """The output at the next position: that of `forward` on all positions so far, without computing them again.

        What made this right: the attention is causal, positions are absolute, and everything else acts on each position
        for itself. Without gradient; dropout must be off.
        """
        for block, own in zip(self.blocks, cache.blocks, strict=True):
            assert isinstance(block, DecoderBlock)
            x = block.step(x, own, cache.length)
        cache.length += 1
        return self.final_norm(x)
