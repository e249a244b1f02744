"""SegCLIP's grouping: learnable centres look at patches, and every patch goes to one of them, all or nothing.

Luo, Bao, Wu, He, Li 2023, arXiv 2211.14813, section 3.2; released `modules/module_seg_vit.py` of ArrowLuo/SegCLIP.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from slotworks.nn.noise import batch_uniform
from slotworks.nn.transformer import MultiHeadAttention


class QuickGELU(nn.Module):
    """`x sigmoid(1.702 x)`, as in CLIP's code."""

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Element by element."""
        return x * torch.sigmoid(1.702 * x)


class CrossBlock(nn.Module):
    """Pre-norm attention to other tokens, and a network of two layers."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm_x, self.norm_memory, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, num_heads, bias=True, init="torch")
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), QuickGELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Float[Tensor, "b n c"], memory: Float[Tensor, "b s c"]) -> Float[Tensor, "b n c"]:
        """What `x` becomes."""
        x = x + self.attention(self.norm_x(x), self.norm_memory(memory))
        return x + self.mlp(self.norm_mlp(x))


class CenterGrouping(nn.Module):
    """Patches to groups: `b p c` to `b g c`.

    Centres attend to themselves and the patches, `num_layers` times; then each patch goes to the centre with the
    largest product of the two, in training with Gumbel noise on it (straight through); a group is the mean of its
    patches' values on top of its centre, through an MLP.

    Args:
        dim: width of patches and centres.
        num_groups: how many centres.
        num_heads: of the attentions, and the groups of the convolutions that make keys and values.
        num_layers: blocks of attention.
        temperature: of the Gumbel softmax.
    """

    def __init__(self, dim: int, num_groups: int, num_heads: int, *, num_layers: int = 2, temperature: float = 0.9):
        super().__init__()
        self.temperature = temperature
        self.centers = nn.Parameter(torch.empty(num_groups, dim))
        nn.init.trunc_normal_(self.centers, std=0.02)
        self.blocks = nn.ModuleList(CrossBlock(dim, num_heads) for _ in range(num_layers))
        self.norm, self.norm_centers, self.norm_keys = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_k = nn.Conv1d(dim, dim, 1, groups=num_heads, bias=False)
        self.to_v = nn.Conv1d(dim, dim, 1, groups=num_heads, bias=False)
        self.out: Any = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), QuickGELU()
        )

    def forward(
        self, patches: Float[Tensor, "b p c"]
    ) -> tuple[Float[Tensor, "b g c"], Float[Tensor, "b g p"], Float[Tensor, "b g p"]]:
        """Groups; which group each patch is of, all or nothing; and the same as a softmax over groups."""
        inputs = self.norm(patches).mT
        centers = self.centers.expand(len(patches), -1, -1)
        for block in self.blocks:
            centers = block(centers, torch.cat([centers, patches], 1))
        centers = self.norm_centers(centers)
        keys, values = self.norm_keys(self.to_k(inputs).mT), self.to_v(inputs).mT
        logits = centers @ keys.mT
        hard = one_hot_of(logits, self.temperature if self.training else None)
        means = hard @ values / hard.sum(2, keepdim=True).clamp(min=1)
        return self.out(centers + means), hard, logits.softmax(1)


def one_hot_of(logits: Float[Tensor, "b g p"], temperature: float | None) -> Float[Tensor, "b g p"]:
    """One for the largest group of each position, with the gradient of the softmax over groups (straight through).

    Args:
        logits: scores.
        temperature: with Gumbel noise on the scores, which are divided by this; None: no noise and no division.
    """
    if temperature is not None:
        uniform = batch_uniform(logits.shape, logits.device).clamp(min=torch.finfo(torch.float32).tiny)
        logits = (logits - (-uniform.log()).log().to(logits)) / temperature
    soft = logits.softmax(1)
    hard = torch.zeros_like(soft).scatter(1, soft.argmax(1, keepdim=True), 1.0)
    return hard + soft - soft.detach()
