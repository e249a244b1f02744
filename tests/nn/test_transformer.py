"""The Transformer decoder. That it is DINOSAUR's and SPOT's: `tests/decoders/test_transfer_dinosaur.py`."""

import pytest
import torch
from torch import nn

from slotworks.nn.transformer import DecoderBlock, MultiHeadAttention, TransformerDecoder


def test_block_is_torchs_decoder_layer():
    """With biases: torch's `TransformerDecoderLayer(norm_first=True)`, weights, output and gradients."""
    torch.manual_seed(0)
    theirs = nn.TransformerDecoderLayer(12, 3, 20, dropout=0.0, batch_first=True, norm_first=True).double()
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    ours = DecoderBlock(12, 3, hidden_dim=20, bias=True).double()
    state = {}
    for name, module in (("self_attention", theirs.self_attn), ("cross_attention", theirs.multihead_attn)):
        for kind in ("weight", "bias"):
            parts = getattr(module, f"in_proj_{kind}").chunk(3)
            state |= {f"{name}.to_{letter}.{kind}": part for letter, part in zip("qkv", parts, strict=True)}
            state[f"{name}.to_out.{kind}"] = getattr(module.out_proj, kind)
    pairs = {"norm_self": theirs.norm1, "norm_cross": theirs.norm2, "norm_mlp": theirs.norm3}
    pairs |= {"mlp.0": theirs.linear1, "mlp.2": theirs.linear2}
    state |= {f"{name}.{kind}": getattr(m, kind) for name, m in pairs.items() for kind in ("weight", "bias")}
    ours.load_state_dict({name: value.detach() for name, value in state.items()})
    x, memory = torch.randn(2, 7, 12).double().requires_grad_(), torch.randn(2, 4, 12).double().requires_grad_()
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    expected = theirs(x, memory, tgt_mask=mask)
    for show in (False, True):
        out, weights = ours(x, memory, show=show)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
        assert (weights is not None) == show
        for ours_grad, wanted in zip(
            torch.autograd.grad(out.square().sum(), (x, memory)),
            torch.autograd.grad(expected.square().sum(), (x, memory), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(ours_grad, wanted, rtol=1e-11, atol=1e-11)


def test_shown_weights_are_those_used():
    torch.manual_seed(0)
    attention = MultiHeadAttention(12, 3).double()
    x, memory = torch.randn(2, 5, 12).double(), torch.randn(2, 4, 12).double()
    keys, values = attention.keys_values(memory)
    out, weights = attention.attend_and_show(x, keys, values)
    torch.testing.assert_close(out, attention(x, memory), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 5).double())
    torch.testing.assert_close(attention.to_out((weights @ values).transpose(1, 2).flatten(2)), out)


@pytest.mark.parametrize("norm_stream", [False, True])
def test_no_position_sees_what_comes_after(norm_stream):
    torch.manual_seed(0)
    decoder = TransformerDecoder(12, 3, 2, norm_stream=norm_stream).double()
    x, memory = torch.randn(1, 6, 12).double(), torch.randn(1, 4, 12).double()
    changed = x.clone()
    changed[:, 3] += torch.randn(12).double()  # LayerNorm would undo a constant
    before, after = decoder(x, memory)[0], decoder(changed, memory)[0]
    assert torch.equal(before[:, :3], after[:, :3])
    assert ((before - after)[:, 3:].abs().amax(dim=-1) > 1e-6).all()
    free = decoder(x, memory, causal=False)[0] - decoder(changed, memory, causal=False)[0]
    assert (free.abs().amax(dim=-1) > 1e-6).all()


def test_norm_on_the_stream_is_in_the_first_block_only():
    decoder = TransformerDecoder(8, 3, 2, norm_stream=True)
    assert [block.norm_stream for block in decoder.blocks] == [True, False, False]
    for block in decoder.blocks:  # no branch adds anything: what is left is the stream
        for layer in (block.self_attention.to_out, block.cross_attention.to_out, block.mlp[2]):
            nn.init.zeros_(layer.weight)
    decoder.final_norm = nn.Identity()
    x = torch.randn(1, 5, 8)
    torch.testing.assert_close(decoder(x, x)[0], nn.functional.layer_norm(x, (8,)))


@pytest.mark.parametrize("num_blocks", [1, 4])
def test_initial_weights_of_slate(num_blocks):
    """Glorot times `(3 blocks)^-0.5` for what is added to the stream; He for the first layer of the MLP."""
    torch.manual_seed(0)
    d, gain = 96, (3 * num_blocks) ** -0.5
    for block in TransformerDecoder(d, num_blocks, 4).blocks:
        limits = {
            block.self_attention.to_q: (6 / (2 * d)) ** 0.5,
            block.cross_attention.to_v: (6 / (2 * d)) ** 0.5,
            block.self_attention.to_out: gain * (6 / (2 * d)) ** 0.5,
            block.cross_attention.to_out: gain * (6 / (2 * d)) ** 0.5,
            block.mlp[0]: (6 / d) ** 0.5,
            block.mlp[2]: gain * (6 / (5 * d)) ** 0.5,
        }
        for layer, limit in limits.items():
            assert layer.weight.abs().max().item() == pytest.approx(limit, rel=2e-3)
            assert layer.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
            assert layer.bias is None or (layer.bias == 0).all()


def test_initial_weights_of_torch():
    """The same ranges as `torch.nn.TransformerDecoderLayer`."""
    torch.manual_seed(0)
    theirs = nn.TransformerDecoderLayer(96, 4, 384)
    ours = DecoderBlock(96, 4, bias=True, init="torch")
    attention, torchs = ours.self_attention, theirs.self_attn
    pairs = [(layer.weight, torchs.in_proj_weight) for layer in (attention.to_q, attention.to_k, attention.to_v)]
    pairs += [(attention.to_out.weight, torchs.out_proj.weight)]
    pairs += [(ours.mlp[0].weight, theirs.linear1.weight), (ours.mlp[2].weight, theirs.linear2.weight)]
    pairs += [(ours.mlp[0].bias, theirs.linear1.bias)]
    for mine, wanted in pairs:
        assert mine.abs().max().item() == pytest.approx(wanted.abs().max().item(), rel=0.02)
        assert mine.std().item() == pytest.approx(wanted.std().item(), rel=0.06)
    assert (attention.to_q.bias == 0).all()
    assert (attention.to_out.bias == 0).all()


def test_dropout_only_in_training():
    torch.manual_seed(0)
    decoder = TransformerDecoder(16, 2, 2, dropout=0.5)
    x = torch.randn(2, 5, 16)
    assert not torch.equal(decoder(x, x)[0], decoder(x, x)[0])
    torch.testing.assert_close(decoder(x, x)[1].sum(dim=-1), torch.ones(2, 2, 5))  # shown before dropout
    decoder.eval()
    assert torch.equal(decoder(x, x)[0], decoder(x, x)[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dim": 8, "num_blocks": 1, "num_heads": 3}, "dim is 8 but num_heads is 3; make the width a multiple"),
        ({"dim": 8, "num_blocks": 0, "num_heads": 2}, "num_blocks is 0; a decoder needs at least one block."),
    ],
)
def test_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        TransformerDecoder(**arguments)


@pytest.mark.parametrize("options", [{}, {"norm_stream": True}, {"bias": True, "final_norm": False, "init": "torch"}])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_position_by_position_is_the_whole_sequence(options, dtype, tolerance):
    torch.manual_seed(0)
    decoder = TransformerDecoder(24, 3, 4, **options).to(dtype).eval()
    x, memory = torch.randn(2, 17, 24, dtype=dtype), torch.randn(2, 5, 24, dtype=dtype)
    expected = decoder(x, memory)[0]
    cache = decoder.start(memory, length=17)
    steps = [decoder.step(x[:, i : i + 1], cache) for i in range(17)]
    assert cache.length == 17
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=tolerance, atol=tolerance)


def test_the_memory_is_projected_once():
    """Keys and values of the memory do not depend on how many positions are made."""
    torch.manual_seed(0)
    decoder = TransformerDecoder(12, 2, 3).eval()
    calls = []
    for block in decoder.blocks:
        for p in block.cross_attention.parameters():
            nn.init.normal_(p)
        block.cross_attention.to_k.register_forward_hook(lambda *_: calls.append("k"))
        block.cross_attention.to_v.register_forward_hook(lambda *_: calls.append("v"))
    cache = decoder.start(torch.randn(1, 4, 12), length=6)
    for _ in range(6):
        decoder.step(torch.randn(1, 1, 12), cache)
    assert sorted(calls) == ["k", "k", "v", "v"]


@pytest.mark.parametrize("bias", [False, True])
def test_attention_over_a_memory_that_stays(bias):
    """Folded projections give what the attention gives, biases of queries and of the output included."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(12, 3, bias=bias).double()
    for p in attention.parameters():
        nn.init.normal_(p)
    x, memory = torch.randn(2, 5, 12).double(), torch.randn(2, 4, 12).double()
    look, offset, give = attention.folded(memory)
    weights = (x @ look + offset).unflatten(-1, (3, 4)).softmax(dim=-1).flatten(2)
    torch.testing.assert_close(weights @ give, attention(x, memory), rtol=1e-12, atol=1e-12)
