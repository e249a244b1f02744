"""Group tokens that gather patches: the grouping block of GroupViT as OVSegmentor has it.

Xu et al. 2022, arXiv 2202.11094, section 3.1.2; released `models/group_vit.py` of Jazzcharles/OVSegmentor. Tokens that
went through blocks beside the patches are mixed into fewer groups; the groups look at the patches; and each patch goes
to one group, in training with Gumbel noise on the scores (straight through).
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from slotworks.nn.transformer import MultiHeadAttention
from slotworks.slots.centers import one_hot_of


def mlp(dim: int, hidden: int, out: int | None = None) -> nn.Sequential:
    """Two layers and a GELU."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out or dim))


class LookingBlock(nn.Module):
    """Attention to other tokens, a network of two layers, and a LayerNorm at the end."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.attention = MultiHeadAttention(dim, num_heads, bias=True, init="torch")
        self.norm_mlp, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mlp = mlp(dim, 4 * dim)

    def forward(self, x: Float[Tensor, "b n c"], memory: Float[Tensor, "b s c"]) -> Float[Tensor, "b n c"]:
        """What `x` becomes."""
        x = x + self.attention(x, memory)
        return self.norm_out(x + self.mlp(self.norm_mlp(x)))


class Grouped(NamedTuple):
    """Groups, and how patches were shared among them."""

    groups: Float[Tensor, "b g c"]
    soft: Float[Tensor, "b g p"]  # softmax over groups
    queries: Float[Tensor, "b g c"]  # whose products with the keys are the scores
    keys: Float[Tensor, "b p c"]


class GroupingBlock(nn.Module):
    """Patches and group tokens to groups: `b p c`, `b t c` to `b g c`.

    Args:
        dim: width of all.
        num_tokens: group tokens that come in.
        num_groups: groups that go out.
        num_heads: of the attention in which groups look at patches.
    """

    def __init__(self, dim: int, num_tokens: int, num_groups: int, num_heads: int):
        super().__init__()
        self.norm_tokens, self.norm_mixed, self.norm_patches = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mix = mlp(num_tokens, dim // 2, num_groups)
        self.look = LookingBlock(dim, num_heads)
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, dim)
        self.norm_out = nn.LayerNorm(dim)
        self.mlp = mlp(dim, 4 * dim)

    def forward(self, patches: Float[Tensor, "b p c"], tokens: Float[Tensor, "b t c"]) -> Grouped:
        """Groups; each is the sum of its patches' values over one more than their number, on top of what it was."""
        patches = self.norm_patches(patches)
        groups = self.norm_mixed(self.mix(self.norm_tokens(tokens).mT).mT)
        groups = self.look(groups, patches)
        queries, keys = self.to_q(groups), self.to_k(patches)
        logits = queries @ keys.mT * queries.shape[2] ** -0.5
        hard = one_hot_of(logits, 1.0 if self.training else None)
        means = hard @ self.to_v(patches) / (hard.sum(2, keepdim=True) + 1)
        groups = groups + self.to_out(means)
        return Grouped(groups + self.mlp(self.norm_out(groups)), logits.softmax(1), queries, keys)


class Completion(nn.Module):
    """Words of a text, some of them masked, that look at groups to say what is missing: `b l c` to `b c`.

    Args:
        dim: width of words and groups.
        num_heads: of the attentions.
    """

    def __init__(self, dim: int, num_heads: int = 8):
        super().__init__()
        self.norm_words, self.norm_groups = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.look = LookingBlock(dim, num_heads)
        self.norm_self, self.norm_mlp, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, num_heads, bias=True, init="torch")
        self.mlp = mlp(dim, 4 * dim)

    def forward(self, groups: Float[Tensor, "b g c"], words: Float[Tensor, "b l c"]) -> Float[Tensor, "b c"]:
        """The first word after all looked at the groups and at each other; padding, too, as in the released code."""
        seen = self.look(self.norm_words(words), self.norm_groups(groups))
        inputs = self.norm_self(seen)
        x = seen + self.attention(inputs, inputs)
        x = x + self.mlp(self.norm_mlp(x))
        return self.norm_out(x + seen)[:, 0]
