"""Where slots will be at the next frame: `b n d -> b n d`, between the frames of a video.

SAVi (Kipf et al. 2022, arXiv 2111.12594) calls this the predictor: after the corrector has looked at frame `t`, it says
where the slots of frame `t + 1` start. Slots stay exchangeable under each of these.
"""

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import dropout

from slotworks.nn.init import lecun_
from slotworks.nn.transformer import MultiHeadAttention


class PredictorBlock(nn.Module):
    """Self-attention among slots and a two-layer network, each on a residual branch.

    Args:
        dim: width of a slot.
        num_heads: attention heads.
        qkv_dim: width of queries, keys and values; None is `dim`.
        mlp_dim: hidden width of the two-layer network.
        norm: "post" puts a LayerNorm after each sum (SAVi), "pre" inside each branch, and "stream" does as "pre", but
            the first LayerNorm replaces the residual stream, too (the first block of STEVE's).
        bias: biases in the attention; the two-layer network always has them.
        dropout: on attention weights and on both branches, in training.
        hidden_dropout: also on the hidden layer of the network, as `torch.nn.TransformerEncoderLayer` has it.
        gain: factor on the initial weights of both output projections, with `init="slate"`.
        init: "flax" is LeCun's normal as in SAVi's code; "slate" Glorot, He for the first layer of the network; "torch"
            is that of `torch.nn.TransformerEncoderLayer`.
        norm_eps: epsilon of the LayerNorms; flax has 1e-6, torch 1e-5.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        *,
        qkv_dim: int | None = None,
        mlp_dim: int = 256,
        norm: Literal["post", "pre", "stream"] = "post",
        bias: bool = True,
        dropout: float = 0.0,
        hidden_dropout: bool = False,
        gain: float = 1.0,
        init: Literal["flax", "slate", "torch"] = "flax",
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        if norm not in ("post", "pre", "stream"):
            raise ValueError(f"norm is {norm!r}; choose post, pre or stream.")
        if init not in ("flax", "slate", "torch"):
            raise ValueError(f"init is {init!r}; choose flax, slate or torch.")
        self.norm, self.dropout, self.hidden_dropout = norm, dropout, hidden_dropout
        scheme = "torch" if init == "torch" else "slate"
        self.attention = MultiHeadAttention(
            dim, num_heads, bias=bias, dropout=dropout, gain=gain, init=scheme, qkv_dim=qkv_dim
        )
        self.norm_attention = nn.LayerNorm(dim, eps=norm_eps)
        first, last = nn.Linear(dim, mlp_dim), nn.Linear(mlp_dim, dim)
        self.mlp = nn.Sequential(first, nn.ReLU(), last)
        self.norm_mlp = nn.LayerNorm(dim, eps=norm_eps)
        if init == "flax":
            lecun_(self)
        elif init == "slate":
            nn.init.kaiming_uniform_(first.weight, nonlinearity="relu")
            nn.init.xavier_uniform_(last.weight, gain=gain)
            nn.init.zeros_(first.bias)
            nn.init.zeros_(last.bias)

    def forward(self, slots: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """One block."""
        if self.norm == "post":
            x = self.norm_attention(slots + self.attention(slots, slots))
            return self.norm_mlp(x + self._network(x))
        own = self.norm_attention(slots)
        x = (own if self.norm == "stream" else slots) + self.attention(own, own)
        return x + self._network(self.norm_mlp(x))

    def _network(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        if not self.hidden_dropout:
            return self._drop(self.mlp(x))
        first, relu, last = self.mlp
        return self._drop(last(self._drop(relu(first(x)))))

    def _drop(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return dropout(x, self.dropout, self.training)


class TransformerPredictor(nn.Module):
    """A stack of `PredictorBlock`s. The defaults are SAVi's: one post-norm block, 4 heads, network of 256.

    | code base | arguments |
    | --- | --- |
    | SAVi | none; SAVi++: `qkv_dim=256, mlp_dim=1024` |
    | STEVE | `TransformerPredictor.steve(slot_dim)` |
    | SlotDiffusion | `TransformerPredictor.slot_diffusion(slot_dim)` |

    Args:
        slot_dim: width of a slot.
        num_heads: of every block.
        num_blocks: how many.
        final_norm: a LayerNorm at the end.
        norm: as for `PredictorBlock`, of every block, but "stream" of the first one only.
        norm_eps: epsilon of all LayerNorms.
        options: passed on to every `PredictorBlock`.

    >>> import torch
    >>> TransformerPredictor(slot_dim=128)(torch.randn(2, 11, 128)).shape
    torch.Size([2, 11, 128])
    """

    def __init__(
        self,
        slot_dim: int,
        num_heads: int = 4,
        *,
        num_blocks: int = 1,
        final_norm: bool = False,
        norm: Literal["post", "pre", "stream"] = "post",
        norm_eps: float = 1e-6,
        **options: Any,
    ):
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}; a predictor needs at least one block.")
        self.blocks = nn.ModuleList(
            PredictorBlock(
                slot_dim, num_heads, norm="pre" if norm == "stream" and i else norm, norm_eps=norm_eps, **options
            )
            for i in range(num_blocks)
        )
        self.final_norm = nn.LayerNorm(slot_dim, eps=norm_eps) if final_norm else nn.Identity()

    @classmethod
    def steve(
        cls, slot_dim: int, num_heads: int = 4, *, num_blocks: int = 1, dropout: float = 0.0
    ) -> "TransformerPredictor":
        """STEVE's predictor (Singh et al. 2022, arXiv 2205.14065; released code): pre-norm, attention without biases.

        The first LayerNorm replaces the residual stream, and one LayerNorm stands at the end.
        """
        return cls(
            slot_dim,
            num_heads,
            num_blocks=num_blocks,
            final_norm=True,
            norm="stream",
            norm_eps=1e-5,
            mlp_dim=4 * slot_dim,
            bias=False,
            dropout=dropout,
            gain=(2 * num_blocks) ** -0.5,
            init="slate",
        )

    @classmethod
    def slot_diffusion(
        cls,
        slot_dim: int,
        num_heads: int = 4,
        *,
        num_blocks: int = 2,
        mlp_dim: int | None = None,
        dropout: float = 0.1,
        hidden_dropout: bool = True,
    ) -> "TransformerPredictor":
        """That of SlotDiffusion's repository, `video_based/models/predictor.py`: a pre-norm `nn.TransformerEncoder`.

        `mlp_dim` is four times `slot_dim` where it is None.
        """
        return cls(
            slot_dim,
            num_heads,
            num_blocks=num_blocks,
            mlp_dim=mlp_dim or 4 * slot_dim,
            norm="pre",
            dropout=dropout,
            hidden_dropout=hidden_dropout,
            init="torch",
            norm_eps=1e-5,
        )

    def forward(self, slots: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Slots of this frame to where those of the next one start."""
        for block in self.blocks:
            slots = block(slots)
        return self.final_norm(slots)


class MLPPredictor(nn.Module):
    """Each slot for itself: a residual two-layer network behind a LayerNorm (SlotFormer's SAVi, Wu et al. 2023)."""

    def __init__(self, slot_dim: int, mlp_dim: int = 256, *, norm_eps: float = 1e-5):
        super().__init__()
        self.norm = nn.LayerNorm(slot_dim, eps=norm_eps)
        self.mlp = nn.Sequential(nn.Linear(slot_dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, slot_dim))

    def forward(self, slots: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Slots of this frame to where those of the next one start."""
        return slots + self.mlp(self.norm(slots))


class IdentityPredictor(nn.Identity):
    """The next frame's slots start where this frame's ended: recurrent slots without a model of motion."""

    def __init__(self, slot_dim: int = 0):
        super().__init__()


PREDICTORS: dict[str, Callable[[int], nn.Module]] = {
    "transformer": TransformerPredictor,
    "steve": TransformerPredictor.steve,
    "mlp": MLPPredictor,
    "identity": IdentityPredictor,
}
"""Those that need nothing but the width of a slot, by the names that recipes use."""
