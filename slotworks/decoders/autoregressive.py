"""Autoregressive decoders: each patch is predicted from the slots and from the patches before it."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from slotworks.nn.noise import batch_uniform
from slotworks.nn.orders import NUM_ORDERS, patch_orders
from slotworks.nn.position import sine_grid
from slotworks.nn.transformer import TransformerDecoder
from slotworks.types import DecoderOutput


class AutoregressiveDecoder(nn.Module):
    """Predicts the features of every patch from the slots and the true features of the patches before it.

    DINOSAUR's Transformer decoder (Seitzer et al. 2023, arXiv 2209.14860) and SPOT's (Kakogeorgiou et al. 2024, arXiv
    2312.00648), which reads the patches in nine orders and has one begin token for each. Features need no position
    embedding, a ViT's already hold their place. Slots render only together, so the masks are where the last block
    looks: its cross-attention, the mean over heads, which sums to one over slots.

    Args:
        slot_dim: width of a slot.
        feature_dim: width of the features and of the Transformer.
        grid: rows and columns of patches.
        num_blocks: of the Transformer.
        num_heads: of its attentions.
        num_orders: 1 for row by row only, 9 for the orders of `slotworks.nn.orders`.
        bias: of `TransformerDecoder`, as the next three. The defaults are SPOT's; DINOSAUR has True here,
        norm_stream: False,
        final_norm: False,
        init: and "torch".
        begin_std: standard deviation of the initial begin tokens; DINOSAUR has `feature_dim ** -0.5`.
        hidden_inputs: not in a paper: the share of the true features that are replaced by one learned token, drawn anew
            in every pass; each position then also knows which patch it predicts, by its sines. At 1 nothing of
            the input is seen, nor is there anything to be causal about: patches ask the slots by their place alone.
            A decoder that sees the patches before can do without slots.

    >>> decoder = AutoregressiveDecoder(slot_dim=64, feature_dim=96, grid=(14, 14), num_blocks=2, num_heads=6)
    >>> out = decoder(torch.randn(2, 4, 64), torch.randn(2, 196, 96), order=5)
    >>> out.recon.shape, out.masks.shape
    (torch.Size([2, 96, 14, 14]), torch.Size([2, 4, 14, 14]))
    """

    orders: Tensor
    places: Tensor

    def __init__(
        self,
        slot_dim: int,
        feature_dim: int,
        grid: tuple[int, int],
        *,
        num_blocks: int = 4,
        num_heads: int = 6,
        num_orders: int = NUM_ORDERS,
        bias: bool = False,
        norm_stream: bool = True,
        final_norm: bool = True,
        init: str = "slate",
        begin_std: float = 0.02,
        hidden_inputs: float = 0.0,
    ):
        super().__init__()
        if not 0 <= hidden_inputs <= 1:
            raise ValueError(f"hidden_inputs is {hidden_inputs}; it is a share in [0, 1].")
        self.hidden_inputs = hidden_inputs
        if num_orders not in (1, NUM_ORDERS):
            raise ValueError(f"num_orders is {num_orders}; give 1 for row by row only, or {NUM_ORDERS}.")
        self.grid = grid
        self.begin = nn.Parameter(begin_std * torch.randn(num_orders, feature_dim))
        self.embed = nn.Sequential(nn.Linear(feature_dim, feature_dim, bias=False), nn.LayerNorm(feature_dim))
        self.project_slots = nn.Sequential(nn.Linear(slot_dim, feature_dim, bias=False), nn.LayerNorm(feature_dim))
        for layer in (self.embed[0], self.project_slots[0]):
            nn.init.xavier_uniform_(layer.weight)  # pyright: ignore[reportArgumentType]
        self.transformer = TransformerDecoder(
            feature_dim,
            num_blocks,
            num_heads,
            bias=bias,
            norm_stream=norm_stream,
            final_norm=final_norm,
            init=init,  # pyright: ignore[reportArgumentType]
        )
        if hidden_inputs:
            self.hidden_token = nn.Parameter(begin_std * torch.randn(feature_dim))
            self.project_place = nn.Linear(feature_dim, feature_dim, bias=False)
            self.register_buffer("places", sine_grid(*grid, feature_dim), persistent=False)
        orders = patch_orders(*grid)[:num_orders].clone().to(torch.get_default_device())
        self.register_buffer("orders", orders, persistent=False)

    def forward(
        self, slots: Float[Tensor, "b n d"], features: Float[Tensor, "b p c"], *, order: int = 0
    ) -> DecoderOutput:
        """Predict `features`, of which no gradient is taken, reading in one order; recon and masks in row-major order.

        Raises:
            ValueError: if there is not one feature for each patch of the grid.
        """
        b, p, _ = features.shape
        if p != self.orders.shape[1]:
            raise ValueError(f"features has {p} patches; a grid of {self.grid} has {self.orders.shape[1]}.")
        read = self.orders[order]
        begin = self.begin[order].expand(b, 1, -1)
        if self.hidden_inputs:
            inputs = self._partly_hidden(features.detach(), read, begin)
        else:
            inputs = self.embed(torch.cat([begin, features.detach()[:, read[:-1]]], dim=1))
        recon, attn = self.transformer(inputs, self.project_slots(slots), causal=self.hidden_inputs < 1)
        back = read.argsort()
        recon, masks = recon[:, back], attn.mean(dim=1)[:, back]  # b p c, b p n
        if recon.dtype != torch.float64:  # both leave mixed precision
            recon, masks = recon.float(), masks.float()
        return DecoderOutput(
            recon.transpose(1, 2).unflatten(-1, self.grid), masks.transpose(1, 2).unflatten(-1, self.grid)
        )

    def _partly_hidden(
        self, features: Float[Tensor, "b p c"], read: Int64[Tensor, " p"], begin: Float[Tensor, "b 1 c"]
    ) -> Float[Tensor, "b p c"]:
        b, p, _ = features.shape
        hidden = self.hidden_token.expand(b, p, -1)
        if self.hidden_inputs < 1:
            seen = torch.cat([begin, self.embed(features[:, read[:-1]])], dim=1)
            drawn = batch_uniform((b, p, 1), features.device)
            drawn[:, 0] = 1  # the begin token says in which order patches are read
            hidden = torch.where(drawn < self.hidden_inputs, hidden, seen)
        return hidden + self.project_place(self.places[read])

    def ensemble(self, slots: Float[Tensor, "b n d"], features: Float[Tensor, "b p c"]) -> DecoderOutput:
        """The mean over all orders of what `forward` gives (SPOT's test-time ensemble)."""
        outs = [self(slots, features, order=order) for order in range(len(self.orders))]
        recon = torch.stack([out.recon for out in outs]).mean(dim=0)
        return DecoderOutput(recon, torch.stack([out.masks for out in outs]).mean(dim=0))
